package fleet

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// PoolSettings is what operators say of pools, by name. The values must not be changed.
func (f *Fleet) PoolSettings() map[string]*storev1.PoolSettings {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make(map[string]*storev1.PoolSettings, len(f.pools))
	for name, p := range f.pools {
		out[name] = p.settings
	}
	return out
}

// Pools is the pools as the API shows them, by name: those that a network node names and those that something is said of.
func (f *Fleet) Pools() []*weftv1.Pool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := map[string]*weftv1.Pool{}
	for name, p := range f.pools {
		all[name] = &weftv1.Pool{
			Id: name, Failback: p.settings.GetFailback(), Ha: p.settings.GetHa(), DhcpServers: p.settings.GetDhcpServers(), Etag: etag(p.revision),
		}
	}
	for _, n := range f.nodes {
		if n.agent == nil || !n.ability.Network {
			continue
		}
		name := n.ability.Pool
		if all[name] == nil {
			all[name] = &weftv1.Pool{Id: name, Etag: etag(0)}
		}
		all[name].Nodes = append(all[name].Nodes, n.name)
	}
	for _, p := range all {
		p.Ha, p.DhcpServers = cmp.Or(p.GetHa(), scheduler.DefaultCount), cmp.Or(p.GetDhcpServers(), scheduler.DefaultCount)
		slices.Sort(p.Nodes)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *weftv1.Pool) int { return cmp.Compare(a.GetId(), b.GetId()) })
}

// Quota is what was set for a project, and the revision of its key; nil and 0 when nothing was, as far as this controller has
// heard. The value must not be changed.
func (f *Fleet) Quota(project string) (set *storev1.Quota, revision int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	q := f.quotas[project]
	return q.set, q.revision
}

// Plans are the nodes that each router is planned on, by the router's id.
func (f *Fleet) Plans() map[string][]string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := map[string][]string{}
	for name, n := range f.nodes {
		for id := range n.held[keys.KindRouter] {
			out[id.String()] = append(out[id.String()], name)
		}
	}
	return out
}

// Servers are the nodes that serve the DHCP of some network, by name.
func (f *Fleet) Servers() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []string
	for name, n := range f.nodes {
		if len(n.held[keys.KindDHCP]) > 0 {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Active is the node that forwards for a router, "" if none does, and the epoch.
func (f *Fleet) Active(router string) (node string, epoch int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	id, _ := parseUUID(router)
	a := f.active[id]
	return a.node, a.epoch
}

// Report is what a node says of an object.
type Report struct {
	// Revision is the object's mod revision that the report is about; 0 when there is no report.
	Revision int64
	State    weftv1.State
	Message  string
	// Standby: the router is built there and silent.
	Standby bool
}

// Report is a node's report on an object of a kind as in package keys (of KindDHCP the id is the network's).
func (f *Fleet) Report(node, kind, id string) Report {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, r := range f.find(kind, id) {
		if r.node == node {
			return Report{Revision: r.revision, State: r.state, Message: r.message, Standby: r.standby}
		}
	}
	return Report{}
}

// Instances is what each node of a router's plan makes of it, the router as stored at a mod revision.
func (f *Fleet) Instances(r *weftv1.Router, revision int64) (active string, instances []*weftv1.RouterInstance) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	active = f.activeNode(r.GetId())
	for _, node := range r.GetPlacement().GetNodes() {
		q := question{kind: keys.KindRouter, id: r.GetId(), revision: revision, node: node, down: isDown(r.AdminStateUp), standby: node != active} //nolint:protogetter // presence
		i := &weftv1.RouterInstance{Node: node, Active: node == active}
		state, why := f.state(q, f.own(q))
		i.State, i.Message = state, why.message
		instances = append(instances, i)
	}
	return active, instances
}
