package fleet

import (
	"net/netip"
	"slices"

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
	slices.SortFunc(out, func(a, b scheduler.Node) int { return compareStrings(a.Name, b.Name) })
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// ability is what a node can take by what its agent says.
func ability(name string, agent *storev1.Agent) scheduler.Node {
	out := scheduler.Node{
		Name: name, Network: slices.Contains(agent.GetRoles(), weftv1.Role_ROLE_NETWORK),
		Physnets: make(map[string]bool, len(agent.GetBridgeMappings())), Problems: agent.GetProblems(),
	}
	for p := range agent.GetBridgeMappings() {
		out.Physnets[p] = true
	}
	if ip, err := netip.ParseAddr(agent.GetTunnelIp()); err == nil {
		out.TunnelIP = ip
	}
	return out
}

func (n *node) schedulable() scheduler.Node {
	out := n.ability
	out.Alive = n.alive
	out.Load = scheduler.Load{Routers: len(n.held[keys.KindRouter]), DHCP: len(n.held[keys.KindDHCP])}
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
	slices.SortFunc(out, func(a, b *weftv1.Node) int { return compareStrings(a.GetId(), b.GetId()) })
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
	}
	if t := n.agent.GetStartTime(); t != nil {
		m.StartTime = timestamppb.New(t.AsTime())
	}
	for k, v := range n.labels {
		m.Labels[k] = v
	}
	for k, v := range n.agent.GetBridgeMappings() {
		m.BridgeMappings[k] = v
	}
	return m
}

func (n *node) ids(kind string) []string {
	out := make([]string, 0, len(n.held[kind]))
	for id := range n.held[kind] {
		out = append(out, id.String())
	}
	slices.Sort(out)
	return out
}
