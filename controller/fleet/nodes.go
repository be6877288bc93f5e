package fleet

import (
	"cmp"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Nodes is the registered nodes as the scheduler wants them, by name. What their maps and slices hold must not be changed.
func (f *Fleet) Nodes() []scheduler.Node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []scheduler.Node
	for _, n := range f.nodes {
		if n.agent != nil {
			out = append(out, n.schedulable())
		}
	}
	slices.SortFunc(out, func(a, b scheduler.Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// ability is what a node can take by what its agent says.
func ability(name string, agent *storev1.Agent) scheduler.Node {
	out := scheduler.Node{
		Name: name, Network: slices.Contains(agent.GetRoles(), weftv1.Role_ROLE_NETWORK), Problems: agent.GetProblems(),
		Pool: cmp.Or(agent.GetPool(), scheduler.DefaultPool), Zone: agent.GetZone(), Capacity: int(agent.GetCapacity()),
		Uplinks: make(map[string]scheduler.Uplink, len(agent.GetBridgeMappings())),
	}
	for physnet := range agent.GetBridgeMappings() {
		out.Uplinks[physnet] = scheduler.Uplink{Reason: "its agent does not say where it leads; is it of an older release?"}
	}
	for _, u := range agent.GetUplinks() {
		out.Uplinks[u.GetPhysicalNetwork()] = scheduler.Uplink{Proven: u.GetProven(), Reason: u.GetReason()}
	}
	if ip, err := netip.ParseAddr(agent.GetTunnelIp()); err == nil {
		out.TunnelIP = ip
	}
	return out
}

func (n *node) schedulable() scheduler.Node {
	out := n.ability
	out.Alive = n.alive
	out.Cordoned, out.Draining = n.settings.GetCordoned(), n.settings.GetDraining()
	held := len(n.held[keys.KindRouter])
	active := min(len(n.active), held) // for a moment it can be active where it is not held any more
	out.Load = scheduler.Load{Active: active, Standby: held - active, DHCP: len(n.held[keys.KindDHCP])}
	return out
}

// List is the registered nodes as the API shows them, by name, with the revision of what each says (for its etag).
func (f *Fleet) List() []*weftv1.Node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*weftv1.Node
	for _, n := range f.nodes {
		if n.agent != nil {
			out = append(out, n.message())
		}
	}
	slices.SortFunc(out, func(a, b *weftv1.Node) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return out
}

// Node is one registered node; nil when there is none of this name.
func (f *Fleet) Node(name string) *weftv1.Node {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := f.nodes[name]
	if n == nil || n.agent == nil {
		return nil
	}
	return n.message()
}

func (n *node) message() *weftv1.Node {
	m := &weftv1.Node{
		Id: n.name, Roles: slices.Clone(n.agent.GetRoles()), Labels: map[string]string{}, TunnelIp: n.agent.GetTunnelIp(),
		BridgeMappings: map[string]string{}, DatapathType: n.agent.GetDatapathType(), AgentVersion: n.agent.GetVersion(),
		Alive: n.alive, Problems: slices.Clone(n.agent.GetProblems()), Routers: n.ids(keys.KindRouter),
		DhcpNetworks: n.ids(keys.KindDHCP), PortCount: int64(len(n.held[keys.KindPort])), Etag: etag(n.revision),
		Pool: n.ability.Pool, Zone: n.ability.Zone, Capacity: n.agent.GetCapacity(), Cordoned: n.settings.GetCordoned(),
		Draining: n.settings.GetDraining(), ActiveRouters: sorted(n.active),
	}
	for _, u := range n.agent.GetUplinks() {
		m.Uplinks = append(m.Uplinks, proto.CloneOf(u))
	}
	if t := n.agent.GetStartTime(); t != nil {
		m.StartTime = timestamppb.New(t.AsTime())
	}
	for k, v := range n.settings.GetLabels() {
		m.Labels[k] = v
	}
	for k, v := range n.agent.GetBridgeMappings() {
		m.BridgeMappings[k] = v
	}
	return m
}

func (n *node) ids(kind string) []string { return sorted(n.held[kind]) }

func sorted(ids map[uuid]bool) []string {
	out := make([]string, 0, len(ids))
	for id := range ids {
		out = append(out, id.String())
	}
	slices.Sort(out)
	return out
}
