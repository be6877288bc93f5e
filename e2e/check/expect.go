package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// expected is what the stored objects call for on one node.
type expected struct {
	*store
	node string
	host *host
	// here are the networks that have a port on the node; ready those that only a standby router needs there.
	here, ready map[string]bool
	ports       map[string]wantPort
	flows       map[string]map[string]rule // bridge -> place
	namespaces  map[string]wantNamespace
	// policies are the groups of the guarded ports here, by name; conjunctions what their rules that refer to a group come to.
	policies     map[string][]string
	conjunctions conjunctions
	filters      []string            // rules of the host's own iptables and ip6tables, as in host
	dhcp         map[string]wantDHCP // by network
}

// wantPort is a port of Open vSwitch that weft makes.
type wantPort struct {
	bridge, kind string
	network      string            // whose local VLAN is its tag; "" for none
	options      map[string]string // among others
	ifaceID      string
	optional     bool // may be missing
}

// rule is what flows of one place must do: the fixed actions, and then outputs to all of must and to none but may.
type rule struct {
	fixed     string
	must, may []string
	optional  bool // may be missing
}

// expect works out what a node should have. The host tells which interfaces are plugged, and nothing else.
func expect(s *store, h *host) *expected {
	e := &expected{
		store: s, node: h.name, host: h, here: map[string]bool{}, ready: map[string]bool{},
		ports: map[string]wantPort{}, flows: map[string]map[string]rule{}, namespaces: map[string]wantNamespace{}, dhcp: map[string]wantDHCP{},
		policies: map[string][]string{}, conjunctions: conjunctions{},
	}
	e.locate()
	e.patches()
	e.standing()
	e.standingFilters()
	for id, n := range s.networks {
		if e.here[id] || e.ready[id] {
			e.network(id, n.msg)
		}
	}
	e.peers()
	for id, p := range s.ports {
		e.port(id, p.msg)
	}
	e.policyRules()
	for id, r := range s.routers {
		if slices.Contains(s.planned(id), e.node) {
			e.router(id, r.msg)
		}
	}
	for id, n := range s.networks {
		if slices.Contains(n.msg.GetDhcpPlacement().GetNodes(), e.node) {
			e.server(id)
		}
	}
	return e
}

// locate finds the networks that the node has a part of.
func (e *expected) locate() {
	for _, p := range e.store.ports {
		network := p.msg.GetNetworkId()
		if _, ok := e.networks[network]; !ok {
			continue
		}
		switch {
		case e.location(p.msg) == e.node:
			e.here[network] = true
		case ofRouter(p.msg) && slices.Contains(e.planned(p.msg.GetDeviceId()), e.node):
			e.ready[network] = true
		}
	}
	for id := range e.here {
		delete(e.ready, id)
	}
}

// deviceName is the name of a port's device: the prefix and the first 11 characters of the id (REFERENCE R9).
func deviceName(p *weftv1.Port) string {
	prefix := map[string]string{ownerDHCP: "tap", ownerInterface: "qr-", ownerGateway: "qg-"}[p.GetDeviceOwner()]
	return prefix + p.GetId()[:min(11, len(p.GetId()))]
}

// bridgesOf are the node's provider bridges, by physical network.
func (e *expected) bridgesOf() map[string]string { return e.agent(e.node).GetBridgeMappings() }

func (e *expected) patches() {
	pair := func(bridgeA, a, bridgeB, b string) {
		e.ports[a] = wantPort{bridge: bridgeA, kind: "patch", options: map[string]string{"peer": b}}
		e.ports[b] = wantPort{bridge: bridgeB, kind: "patch", options: map[string]string{"peer": a}}
	}
	pair("br-int", "patch-tun", "br-tun", "patch-int")
	for _, bridge := range e.bridgesOf() {
		pair("br-int", "int-"+bridge, bridge, "phy-"+bridge)
	}
}

// flow notes what a place must do, exactly.
func (e *expected) flow(bridge, place, does string) { e.rule(bridge, place, rule{fixed: does}) }

func (e *expected) rule(bridge, place string, r rule) {
	if e.flows[bridge] == nil {
		e.flows[bridge] = map[string]rule{}
	}
	e.flows[bridge][place] = r
}

// at spells a place.
func at(table int, terms ...string) string {
	slices.Sort(terms)
	return strings.Join(append([]string{fmt.Sprintf("table=%d", table)}, terms...), ",")
}

const drop = "drop"

// standing are the flows that no object is needed for (docs/pipeline.md).
func (e *expected) standing() {
	e.flow("br-int", at(0), drop)
	e.flow("br-int", at(60), drop)
	for _, table := range []int{0, 3, 4, 22} {
		e.flow("br-tun", at(table), drop)
	}
	e.flow("br-int", at(60, "arp", "arp_op=1", "arp_tha=02:77:65:66:74:00"), drop)
	e.flow("br-int", at(10), "goto_table:60")
	e.flow("br-int", at(10, "arp", "arp_op=1", "arp_tha=00:00:00:00:00:00"), "goto_table:60")
	e.flow("br-tun", at(0, "in_port=patch-int"), "goto_table:2")
	e.flow("br-tun", at(2), "goto_table:20")
	e.flow("br-tun", at(2, "group"), "goto_table:22")
	e.flow("br-tun", at(2, "arp", "arp_op=1", "group"), "goto_table:21")
	e.flow("br-tun", at(20), "goto_table:22")
	e.flow("br-tun", at(21), "goto_table:22")
	for _, bridge := range e.bridgesOf() {
		e.flow("br-int", at(0, "in_port=int-"+bridge), drop)
		e.flow(bridge, at(0, "in_port=phy-"+bridge), drop)
		e.flow(bridge, at(0), "NORMAL")
	}
}

// network notes a network's own flows. Where only a standby needs it, they may wait for the takeover.
func (e *expected) network(id string, n *weftv1.Network) {
	if !up(n.AdminStateUp) { //nolint:protogetter // presence
		if tunnelled(n) {
			e.tunnels(id, n) // they may stay meanwhile
		}
		return
	}
	uplink := "int-" + e.bridgesOf()[n.GetPhysicalNetwork()]
	if tunnelled(n) {
		uplink = "patch-tun"
		e.tunnelledNetwork(id, n)
	} else {
		e.providerNetwork(id, n, uplink)
	}
	e.own(id, "br-int", at(60, "network="+id), rule{fixed: "output:" + uplink})
	e.own(id, "br-int", at(60, "group", "network="+id), rule{fixed: "output:" + uplink + ",pop_vlan", must: e.localDevices(id)})
	for mac, devices := range e.paired(id) {
		var must []string
		for _, device := range devices {
			must = append(must, "guarded="+device)
		}
		e.rule("br-int", at(60, "dl_dst="+mac, "network="+id), rule{fixed: "output:" + uplink + ",pop_vlan", must: must})
	}
	if e.routedHere(id) {
		e.own(id, "br-int", at(10, "arp", "group", "network="+id), rule{fixed: "output:" + uplink})
	}
}

// own is a rule of a network's.
func (e *expected) own(network, bridge, place string, r rule) {
	r.optional = r.optional || e.ready[network]
	e.rule(bridge, place, r)
}

func (e *expected) tunnelledNetwork(id string, n *weftv1.Network) {
	table := 4
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_GRE {
		table = 3
	}
	segment := fmt.Sprintf("tun_id=%d", n.GetSegmentationId())
	e.own(id, "br-int", at(0, "in_port=patch-tun", "network="+id), rule{fixed: "goto_table:60"})
	e.own(id, "br-tun", at(table, segment), rule{fixed: "push_vlan:0x8100,network=" + id + ",output:patch-int"})
	must, may := e.tunnels(id, n)
	e.own(id, "br-tun", at(22, "network="+id), rule{fixed: "pop_vlan," + segment, must: must, may: may, optional: len(must) == 0})
}

// tunnels notes the tunnels that a network needs here and may have, and is their names.
func (e *expected) tunnels(id string, n *weftv1.Network) (must, may []string) {
	for node := range e.nodesWith(id, true) {
		if name, ok := e.tunnel(n, node, !e.here[id] || !up(n.AdminStateUp)); ok { //nolint:protogetter // presence
			must = append(must, name)
		}
	}
	for node := range e.nodesWith(id, false) {
		if name, ok := e.tunnel(n, node, true); ok {
			may = append(may, name)
		}
	}
	if e.routed(id) { // its router may come to be on any of them
		for node, a := range e.agents {
			if slices.Contains(a.msg.GetRoles(), weftv1.Role_ROLE_NETWORK) {
				e.tunnel(n, node, true)
			}
		}
	}
	return must, may
}

// routed reports whether a router has a port on a network.
func (e *expected) routed(network string) bool {
	for _, p := range e.store.ports {
		if p.msg.GetNetworkId() == network && ofRouter(p.msg) {
			return true
		}
	}
	return false
}

// routedHere reports whether a router that the node forwards for has a port on a network.
func (e *expected) routedHere(network string) bool {
	for _, p := range e.store.ports {
		if p.msg.GetNetworkId() == network && ofRouter(p.msg) && e.location(p.msg) == e.node {
			return true
		}
	}
	return false
}

// nodesWith are the nodes where a port of a network is or, unless only those are asked for, may come to be.
func (e *expected) nodesWith(network string, now bool) map[string]bool {
	out := map[string]bool{}
	for _, p := range e.store.ports {
		if p.msg.GetNetworkId() != network {
			continue
		}
		if node := e.location(p.msg); node != "" {
			out[node] = true
		}
		if ofRouter(p.msg) && !now {
			for _, node := range e.planned(p.msg.GetDeviceId()) {
				out[node] = true
			}
		}
	}
	return out
}

// tunnel notes the port to another node for a network and is its name; false when there can be none.
func (e *expected) tunnel(n *weftv1.Network, node string, optional bool) (string, bool) {
	local, remote := e.agent(e.node).GetTunnelIp(), e.agent(node).GetTunnelIp()
	if node == e.node || local == "" || remote == "" || local == remote {
		return "", false
	}
	kind, table := "vxlan", 4
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_GRE {
		kind, table = "gre", 3
	}
	ip, err := netip.ParseAddr(remote)
	if err != nil {
		return "", false
	}
	name := fmt.Sprintf("%s-%x", kind, ip.AsSlice())
	if have, known := e.ports[name]; known {
		optional = optional && have.optional
	}
	e.ports[name] = wantPort{
		bridge: "br-tun", kind: kind, optional: optional,
		options: map[string]string{"local_ip": local, "remote_ip": remote, "in_key": "flow", "out_key": "flow"},
	}
	e.rule("br-tun", at(0, "in_port="+name), rule{fixed: fmt.Sprintf("goto_table:%d", table), optional: optional})
	return name, true
}

// peers are the other network nodes of the node's pool: by the tunnels between them they watch each other.
func (e *expected) peers() {
	self := e.agent(e.node)
	if !slices.Contains(self.GetRoles(), weftv1.Role_ROLE_NETWORK) {
		return
	}
	for node, a := range e.agents {
		if slices.Contains(a.msg.GetRoles(), weftv1.Role_ROLE_NETWORK) && pool(a.msg) == pool(self) {
			e.tunnel(&weftv1.Network{Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN}, node, true)
		}
	}
}

func (e *expected) providerNetwork(id string, n *weftv1.Network, uplink string) {
	bridge := e.bridgesOf()[n.GetPhysicalNetwork()]
	if bridge == "" {
		return
	}
	out := at(0, "in_port=phy-"+bridge, "network="+id)
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_FLAT {
		e.own(id, "br-int", at(0, "in_port="+uplink, "untagged"), rule{fixed: "push_vlan:0x8100,network=" + id + ",goto_table:60"})
		e.own(id, bridge, out, rule{fixed: "pop_vlan,NORMAL"})
		return
	}
	e.own(id, "br-int", at(0, fmt.Sprintf("dl_vlan=%d", n.GetSegmentationId()), "in_port="+uplink), rule{fixed: "network=" + id + ",goto_table:60"})
	e.own(id, bridge, out, rule{fixed: fmt.Sprintf("segment=%d,NORMAL", n.GetSegmentationId())})
}

// localDevices are the devices of a network's ports on this node that pass frames, those that are guarded marked as such.
func (e *expected) localDevices(network string) []string {
	var out []string
	for id, p := range e.store.ports {
		if p.msg.GetNetworkId() == network && e.location(p.msg) == e.node && up(p.msg.AdminStateUp) { //nolint:protogetter // presence
			switch device := e.device(id, p.msg); {
			case device == "" || misplugged(p.msg, device):
			case guarded(p.msg):
				out = append(out, "guarded="+device)
			default:
				out = append(out, device)
			}
		}
	}
	return out
}

// device is the name of a port's interface on this node that Open vSwitch has taken; "" when there is none.
func (e *expected) device(id string, p *weftv1.Port) string {
	if ofRouter(p) || p.GetDeviceOwner() == ownerDHCP {
		return deviceName(p)
	}
	name := e.host.plugged()[id]
	if i := e.host.ports[name]; i == nil || i.number == 0 {
		return ""
	}
	return name
}

// plugged are the interfaces on br-int that somebody other than weft gave a port's id, by that id. Of two the first by name
// counts.
func (h *host) plugged() map[string]string {
	out := map[string]string{}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(h.ports))) {
		p := h.ports[name]
		if id := p.externalIDs["iface-id"]; p.bridge == "br-int" && !p.owned() && len(id) == 36 {
			out[id] = name
		}
	}
	return out
}

// port notes the device and the flows of one port.
func (e *expected) port(id string, p *weftv1.Port) {
	network, ok := e.networks[p.GetNetworkId()]
	if !ok || !e.here[p.GetNetworkId()] && !e.ready[p.GetNetworkId()] {
		return
	}
	location := e.location(p)
	local := location == e.node
	if ofRouter(p) && slices.Contains(e.planned(p.GetDeviceId()), e.node) || p.GetDeviceOwner() == ownerDHCP && local {
		e.ports[deviceName(p)] = wantPort{bridge: "br-int", network: p.GetNetworkId(), ifaceID: id}
	}
	if !up(p.AdminStateUp) || !up(network.msg.AdminStateUp) { //nolint:protogetter // presence
		return
	}
	if p.GetDeviceOwner() == ownerDHCP && location != "" {
		e.own(p.GetNetworkId(), "br-int", at(21, "udp", "tp_src=68", "tp_dst=67", "dl_dst="+p.GetMacAddress(), "zone="+p.GetNetworkId()), rule{fixed: "goto_table:60"})
		e.own(p.GetNetworkId(), "br-int", at(71, "udp", "tp_src=67", "tp_dst=68", "dl_src="+p.GetMacAddress(), "zone="+p.GetNetworkId()), rule{fixed: "output:to"})
	}
	switch {
	case local:
		switch device := e.device(id, p); {
		case device == "" || misplugged(p, device):
		case bridged(p):
			e.bridgedPort(p, device)
		case guarded(p):
			e.guardedPort(p, device)
		default:
			e.local(p, device)
		}
	case location != "" && tunnelled(network.msg):
		e.behind(network.msg, p, location)
	}
}

func (e *expected) local(p *weftv1.Port, device string) {
	network := "network=" + p.GetNetworkId()
	next := "60"
	if strings.HasPrefix(device, "qr-") || strings.HasPrefix(device, "qg-") {
		next = "10"
	}
	e.flow("br-int", at(0, "in_port="+device, "untagged"), "push_vlan:0x8100,"+network+",goto_table:"+next)
	e.flow("br-int", at(60, "dl_dst="+p.GetMacAddress(), network), "pop_vlan,output:"+device)
}

// behind notes the flows by which a port on another node is reached.
func (e *expected) behind(n *weftv1.Network, p *weftv1.Port, node string) {
	id := n.GetId()
	name, ok := e.tunnel(n, node, !e.here[id])
	if !ok {
		return
	}
	e.own(id, "br-tun", at(20, "dl_dst="+p.GetMacAddress(), "network="+id),
		rule{fixed: fmt.Sprintf("pop_vlan,tun_id=%d,output:%s", n.GetSegmentationId(), name)})
	for _, f := range p.GetFixedIps() {
		e.own(id, "br-tun", at(21, "arp", "arp_op=1", "arp_tpa="+f.GetIpAddress(), "network="+id), rule{fixed: arpAnswer(p.GetMacAddress(), f.GetIpAddress())})
	}
}

// arpAnswer turns a request around into the owner's reply (RFC 826).
func arpAnswer(mac, ip string) string {
	return strings.Join([]string{
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", "set_field:" + mac + "->eth_src", "set_field:2->arp_op",
		"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]", "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
		"set_field:" + mac + "->arp_sha", "set_field:" + ip + "->arp_spa", "IN_PORT",
	}, ",")
}
