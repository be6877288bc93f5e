package plan

import (
	"cmp"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// tunnel is one tunnel port of this node: a kind and the far end.
type tunnel struct {
	kind   model.NetworkType
	remote netip.Addr
}

// name is the port's name as in REFERENCE R11: the kind and the far end's address in hex, at most 14 bytes.
func (t tunnel) name() string {
	return model.TypeName(t.kind) + "-" + hex.EncodeToString(t.remote.AsSlice())
}

// port is the tunnel's port. watched: the far end is a peer.
func (t tunnel) port(facts *Facts, watched bool) desired.Port {
	var bfd map[string]string
	if watched && t.kind == weftv1.NetworkType_NETWORK_TYPE_VXLAN && facts.BFD.Interval > 0 {
		bfd = facts.BFD.columns()
	}
	kind := desired.PortVXLAN
	if t.kind == weftv1.NetworkType_NETWORK_TYPE_GRE {
		kind = desired.PortGRE
	}
	return desired.Port{
		Bridge: BrTun, Name: t.name(), Type: kind,
		Options: map[string]string{
			"local_ip": facts.TunnelIP.String(), "remote_ip": t.remote.String(),
			"in_key": "flow", "out_key": "flow", "df_default": "true",
		},
		ExternalIDs: owned("tunnel", t.name()), BFD: bfd,
	}
}

// columns is Interface.bfd (ovs-vswitchd.conf.db(5)): a packet every interval each way, and the far end is lost after as
// many intervals without one as the multiplier says. What carries a network's key is a tenant's frame, whatever is in it
// (CVE-2024-2182).
func (b BFD) columns() map[string]string {
	ms := strconv.FormatInt(b.Interval.Milliseconds(), 10)
	return map[string]string{"enable": "true", "min_tx": ms, "min_rx": ms, "mult": strconv.Itoa(b.Multiplier), "check_tnl_key": "true"}
}

// SessionPort is the name of the port by which this node and a peer watch each other; "" when there is none.
func SessionPort(v *view.View, facts *Facts, peer string) string {
	t, ok := sessionTo(v, facts, peer)
	if !ok {
		return ""
	}
	return t.name()
}

// owned is the mark by which a restarted agent knows a row of OVSDB as its own.
func owned(kind, id string) map[string]string {
	return map[string]string{desired.OwnerKey: kind + ":" + id}
}

// tunnelTo is the tunnel that leads to a node for a network, if both ends are known.
func tunnelTo(v *view.View, facts *Facts, n *view.Network, node string) (tunnel, bool) {
	ip := v.Nodes[node].TunnelIP
	return tunnel{n.Object.Type, ip}, ip.IsValid() && facts.TunnelIP.IsValid() && ip != facts.TunnelIP
}

// tunnelsOf lists the tunnels to the other nodes that have a network, sorted.
func tunnelsOf(v *view.View, facts *Facts, n *view.Network) []tunnel {
	var out []tunnel
	for _, node := range n.Remote(v.Self) {
		if t, ok := tunnelTo(v, facts, n, node); ok && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// networkNodes adds the tunnels to every node to which a network's router may move: a tunnel that is made only then keeps
// the traffic waiting.
func networkNodes(v *view.View, facts *Facts, n *view.Network, set map[tunnel]bool) {
	for name, node := range v.Nodes {
		if t, ok := tunnelTo(v, facts, n, name); ok && node.Network {
			set[t] = true
		}
	}
}

// sessionTo is the tunnel by which this node and a peer watch each other, if both ends are known.
func sessionTo(v *view.View, facts *Facts, peer string) (tunnel, bool) {
	ip := v.Nodes[peer].TunnelIP
	return tunnel{weftv1.NetworkType_NETWORK_TYPE_VXLAN, ip}, ip.IsValid() && facts.TunnelIP.IsValid() && ip != facts.TunnelIP
}

// tunnels lists all tunnels that the node needs, sorted: one per kind and node that shares a network of the kind, or may
// come to by a router's move, and one to each peer.
func tunnels(v *view.View, facts *Facts) []tunnel {
	set := map[tunnel]bool{}
	for _, n := range v.Networks {
		if n.Revision == 0 || !n.Object.Tunnelled() || !n.Held() {
			continue
		}
		for _, t := range tunnelsOf(v, facts, n) {
			set[t] = true
		}
		if n.Routed() {
			networkNodes(v, facts, n, set)
		}
	}
	for _, peer := range v.Peers() {
		if t, ok := sessionTo(v, facts, peer); ok {
			set[t] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b tunnel) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), a.remote.Compare(b.remote))
	})
}

// Bridges lists the bridges that weft creates.
func Bridges(facts *Facts) []desired.Bridge {
	return []desired.Bridge{
		{Name: BrInt, DatapathType: facts.DatapathType},
		{Name: BrTun, DatapathType: facts.DatapathType},
	}
}

// basePorts are the ports that do not depend on any object: the patches between the bridges.
func basePorts(facts *Facts) []desired.Port {
	out := patch(BrInt, PatchTun, BrTun, PatchInt)
	for _, physnet := range slices.Sorted(maps.Keys(facts.Bridges)) {
		bridge := facts.Bridges[physnet]
		out = append(out, patch(BrInt, IntPatch(bridge), bridge, PhysPatch(bridge))...)
	}
	return out
}

func patch(bridgeA, a, bridgeB, b string) []desired.Port {
	return []desired.Port{
		{Bridge: bridgeA, Name: a, Type: desired.PortPatch, Options: map[string]string{"peer": b}, ExternalIDs: owned("patch", a)},
		{Bridge: bridgeB, Name: b, Type: desired.PortPatch, Options: map[string]string{"peer": a}, ExternalIDs: owned("patch", b)},
	}
}

// devicePort is the OVS port for one of the system's own ports of this node, or the tag for a VM's interface; false when
// there is nothing to do on br-int for it.
func devicePort(v *view.View, facts *Facts, k view.PortKey) (desired.Port, bool) {
	n, vlan := v.Networks[k.Network], facts.VLANs[k.Network]
	if n == nil || n.Revision == 0 || vlan == 0 || (!n.Local[k.Port] && !n.Standby[k.Port]) {
		return desired.Port{}, false
	}
	p := n.Ports[k.Port].Object
	if prefix := devicePrefix(p); prefix != "" {
		// MAC and MTU are set where the device is made (agent/netns).
		ids := owned("port", p.ID)
		ids["iface-id"], ids["attached-mac"], ids["iface-status"] = p.ID, p.MAC, "active"
		return desired.Port{
			Bridge: BrInt, Name: DeviceName(prefix, p.ID), Type: desired.PortSystem, Tag: vlan, ExternalIDs: ids,
		}, true
	}
	plugged, ok := facts.Plugged[k.Port]
	return desired.Port{Bridge: BrInt, Name: plugged.Name, Type: desired.PortForeign, Tag: vlan}, ok
}
