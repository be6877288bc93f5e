package fleet

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Nodes is the registered nodes as the scheduler wants them, by name.
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

func (n *node) schedulable() scheduler.Node {
	physnets := make(map[string]bool, len(n.agent.GetBridgeMappings()))
	for p := range n.agent.GetBridgeMappings() {
		physnets[p] = true
	}
	tunnel, err := netip.ParseAddr(n.agent.GetTunnelIp())
	if err != nil {
		tunnel = netip.Addr{}
	}
	return scheduler.Node{
		Name: n.name, Alive: n.alive, Network: slices.Contains(n.agent.GetRoles(), weftv1.Role_ROLE_NETWORK),
		Physnets: physnets, TunnelIP: tunnel, Problems: n.agent.GetProblems(),
		Load: scheduler.Load{Routers: len(n.held[keys.KindRouter]), DHCP: len(n.held[keys.KindDHCP])},
	}
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
