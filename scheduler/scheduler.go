// Package scheduler chooses the network nodes that hold a router or serve a network's DHCP, and works out the few moves
// that even out what they carry. It is a function of what is asked and of what the nodes are: it reads and writes nothing,
// and what it was told may have changed by the time its plan is committed, so whoever commits guards what matters.
//
// All nodes of one plan are of one pool: only such nodes watch each other and replicate connections to each other.
package scheduler

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Kind is what is to be placed.
type Kind int

// The kinds of request.
const (
	// Router: the first node of a new plan is to be active, the others are standbys. A node's capacity counts routers.
	Router Kind = iota
	// DHCP: every node of the plan serves.
	DHCP
)

// DefaultCount is how many nodes are wanted where neither the request nor its pool says.
const DefaultCount = 2

// DefaultPool is the pool of a node that names none.
const DefaultPool = "default"

// Request is what is to be placed.
type Request struct {
	// What is the object in words that identify it, e.g. "router 6f1c…" or "DHCP of network 09ab…": it stands in errors and
	// spreads objects over nodes that are otherwise equal.
	What string
	Kind Kind
	// PhysicalNetworks are those that a node must have a proven uplink to.
	PhysicalNetworks []string
	// Added are those of PhysicalNetworks that the object did not need so far: a node of Current must have a proven uplink
	// to them too. To the others it need not, as long as it has the bridge: an uplink that fails moves a router by its
	// agents, not by whoever changes the router meanwhile.
	Added []string
	// Tunnels: a node must have a tunnel address.
	Tunnels bool
	// Pool is the pool that the nodes must be of; "": any one.
	Pool string
	// Count is how many nodes are wanted; 0: as Counts says for the pool, else DefaultCount.
	Count int
	// Counts is by pool; a pool that is missing, or 0, has DefaultCount.
	Counts map[string]int
	// Current is where the object is now, in order of preference. A node that can stay is kept, in this order; that it is
	// not alive, cordoned, draining or full does not matter for that.
	Current []string
	// Hold are those of Current that stay even if Leaving names them or more than the wanted count would be kept: the
	// active node of a router, the node that it is handed over to, a DHCP server until its successor works. The pool of
	// the first of them is the pool of the plan.
	Hold []string
	// Leaving are nodes that are to go, each with the reason in words that follow its name ("is drained"). Held ones do not
	// count: the plan has its full count besides them. A plan that would be left without any node keeps them all.
	Leaving map[string]string
}

// count is how many nodes of a pool are wanted.
func (r *Request) count(pool string) int {
	return cmp.Or(max(r.Count, 0), max(r.Counts[pool], 0), DefaultCount)
}

// Load is what a node carries already.
type Load struct {
	// Active and Standby count routers, DHCP the networks served.
	Active, Standby, DHCP int
}

func (l Load) total() int { return l.Active + l.Standby + l.DHCP }

// Uplink is a node's way to a physical network.
type Uplink struct {
	// Proven: the bridge exists and a physical port in it has its link up.
	Proven bool
	// Reason says why it is not proven.
	Reason string
}

// Node is what is known of a node.
type Node struct {
	Name  string
	Alive bool
	// Network: the node has the role of a network node.
	Network bool
	// Pool is never empty.
	Pool, Zone string
	// Capacity is how many routers the node may hold, active and standby; 0 is no limit.
	Capacity int
	// Cordoned: nothing new is placed here. Draining: what is here moves off; nothing new is placed here either.
	Cordoned, Draining bool
	// Uplinks are by physical network, for those that the node has a bridge for.
	Uplinks map[string]Uplink
	// TunnelIP is invalid when the node has none.
	TunnelIP netip.Addr
	// Problems is what the node says is wrong with it. They do not rule it out, for they may have nothing to do with the
	// request, but a node without any goes first.
	Problems []string
	// Load counts what the node carries, with what the plan in Request.Current has there.
	Load Load
}

// Rejection says why a node can't take the object.
type Rejection struct {
	Node string
	// Reason goes after the node's name: "is not alive, has no tunnel address".
	Reason string
}

// Plan is where the object goes.
type Plan struct {
	// Pool is that of all its nodes.
	Pool string
	// Nodes are in order of preference: at least one, at most as many as wanted and held, fewer if fewer can.
	Nodes []string
	// Wanted is how many nodes were wanted.
	Wanted int
	// Rejected are the nodes that can't take the object, by name. A node that could but was not needed is not among them.
	Rejected []Rejection
}

// NoneError is the error of a request that no node can take.
type NoneError struct {
	What     string
	Rejected []Rejection // by name; none when there are no nodes at all
}

func (e *NoneError) Error() string {
	if len(e.Rejected) == 0 {
		return fmt.Sprintf("no node can take %s: there are no nodes", e.What)
	}
	reasons := make([]string, len(e.Rejected))
	for i, r := range e.Rejected {
		reasons[i] = r.Node + ": " + r.Reason
	}
	return fmt.Sprintf("no node can take %s: %s", e.What, strings.Join(reasons, "; "))
}

// Place chooses the nodes for a request. Nodes that hold the object and can stay do, in their order. Of the others, one in
// a zone that the plan does not have yet goes first, then one without problems, then the least loaded (with the same kind of
// thing, then with all), and among equals a hash of request and node decides, so that many requests spread. The order of nodes does not matter; their names must
// differ. The error is a *NoneError.
func Place(req Request, nodes []Node) (Plan, error) {
	p := newPlacement(req, nodes)
	pool, ok := p.choosePool()
	if !ok {
		return Plan{}, &NoneError{What: req.What, Rejected: p.rejections("", nil)}
	}
	plan := Plan{Pool: pool, Wanted: req.count(pool)}
	plan.Nodes = p.fill(pool, p.keep(pool, plan.Wanted), plan.Wanted)
	if len(plan.Nodes) == 0 {
		plan.Nodes = p.stuck(pool)
	}
	if len(plan.Nodes) == 0 {
		return Plan{}, &NoneError{What: req.What, Rejected: p.rejections(pool, nil)}
	}
	plan.Rejected = p.rejections(pool, plan.Nodes)
	return plan, nil
}

// Check says why a node can't be added to a request's plan, which is Request.Current, whatever the wanted count; "" when it
// can, or is in it and could be added. A node that there is not "is not registered".
func Check(req Request, nodes []Node, name string) string {
	p := newPlacement(req, nodes)
	n, ok := p.byName[name]
	switch {
	case slices.Contains(p.others, name):
		return notNetwork
	case !ok:
		return "is not registered"
	}
	pool, ok := p.choosePool()
	if !ok || req.Pool == "" && len(p.current()) == 0 {
		pool = n.Pool
	}
	return strings.Join(p.reasons(n, pool), ", ")
}

// placement is one request under consideration.
type placement struct {
	req    Request
	nodes  []Node // the network nodes, by name
	byName map[string]Node
	others []string // the names of the others
}

const notNetwork = "is not a network node"

func newPlacement(req Request, nodes []Node) *placement {
	p := &placement{req: req, byName: map[string]Node{}}
	for i := range nodes {
		if n := &nodes[i]; n.Network {
			p.nodes = append(p.nodes, *n)
			p.byName[n.Name] = *n
		} else {
			p.others = append(p.others, n.Name)
		}
	}
	slices.SortFunc(p.nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

// current is those of the nodes now holding the object that could stay as far as their nature goes.
func (p *placement) current() (able []Node) {
	for i, name := range p.req.Current {
		n, ok := p.byName[name]
		if ok && !slices.Contains(p.req.Current[:i], name) && len(p.unfit(n, p.req.Pool)) == 0 && len(p.unproven(n, p.req.Added)) == 0 {
			able = append(able, n)
		}
	}
	return able
}

func (p *placement) held(n Node) bool { return slices.Contains(p.req.Hold, n.Name) }

func (p *placement) leaving(n Node) bool { return p.req.Leaving[n.Name] != "" }

// choosePool decides the pool: the request's; else that of a node that must stay; of one that can; else the best.
func (p *placement) choosePool() (string, bool) {
	if p.req.Pool != "" {
		return p.req.Pool, true
	}
	current := p.current()
	for _, stays := range []func(Node) bool{p.held, func(n Node) bool { return !p.leaving(n) }} {
		if i := slices.IndexFunc(current, stays); i >= 0 {
			return current[i].Pool, true
		}
	}
	if pool, ok := p.bestPool(); ok {
		return pool, true
	}
	if len(current) > 0 {
		return current[0].Pool, true
	}
	return "", false
}

// bestPool is the one that lacks the fewest of the nodes wanted of it, then the one with the best node.
func (p *placement) bestPool() (best string, found bool) {
	able := map[string][]Node{}
	for _, n := range p.nodes {
		if len(p.reasons(n, n.Pool)) == 0 {
			able[n.Pool] = append(able[n.Pool], n)
		}
	}
	lacks := func(pool string) int { return max(p.req.count(pool)-len(able[pool]), 0) }
	first := func(pool string) Node {
		return slices.MinFunc(able[pool], func(a, b Node) int { return p.compare(a, b, nil) })
	}
	for pool := range able {
		if !found || cmp.Or(cmp.Compare(lacks(pool), lacks(best)), p.compare(first(pool), first(best), nil)) < 0 {
			best, found = pool, true
		}
	}
	return best, found
}

// keep is the nodes that stay: in order, no more than wanted but for those held.
func (p *placement) keep(pool string, wanted int) (kept []Node) {
	counted := 0
	for _, n := range p.current() {
		if n.Pool == pool && p.held(n) && !p.leaving(n) {
			counted++
		}
	}
	for _, n := range p.current() {
		switch {
		case n.Pool != pool:
		case p.held(n):
			kept = append(kept, n)
		case !p.leaving(n) && counted < wanted:
			counted++
			kept = append(kept, n)
		}
	}
	return kept
}

// fill adds the best of the rest.
func (p *placement) fill(pool string, plan []Node, wanted int) []string {
	var rest []Node
	for _, n := range p.nodes {
		in := slices.ContainsFunc(plan, func(o Node) bool { return o.Name == n.Name })
		if !in && len(p.reasons(n, pool)) == 0 {
			rest = append(rest, n)
		}
	}
	counted := 0
	for _, n := range plan {
		if !p.leaving(n) {
			counted++
		}
	}
	for ; counted < wanted && len(rest) > 0; counted++ {
		best := 0
		for i := range rest {
			if p.compare(rest[i], rest[best], plan) < 0 {
				best = i
			}
		}
		plan = append(plan, rest[best])
		rest = slices.Delete(rest, best, best+1)
	}
	return names(plan)
}

func names(nodes []Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = n.Name
	}
	return out
}

// stuck is the nodes that are to go but have nobody to go to.
func (p *placement) stuck(pool string) []string {
	return names(slices.DeleteFunc(p.current(), func(n Node) bool { return n.Pool != pool }))
}

// compare orders nodes that can take the request next, the best first, when plan is chosen already.
func (p *placement) compare(a, b Node, plan []Node) int {
	return cmp.Or(
		cmp.Compare(p.sameZone(a, plan), p.sameZone(b, plan)),
		cmp.Compare(min(len(a.Problems), 1), min(len(b.Problems), 1)),
		p.compareLoad(a.Load, b.Load, len(plan) == 0),
		cmp.Compare(score(p.req.What, a.Name), score(p.req.What, b.Name)),
		cmp.Compare(a.Name, b.Name),
	)
}

// sameZone counts the nodes of a plan in a node's zone, those that leave aside.
func (p *placement) sameZone(n Node, plan []Node) (count int) {
	for _, o := range plan {
		if o.Zone == n.Zone && !p.leaving(o) {
			count++
		}
	}
	return count
}

// compareLoad looks first at what nodes have of the same: networks served, routers active, if the next one is to be that, or
// held; then at all that they have.
func (p *placement) compareLoad(a, b Load, active bool) int {
	same := cmp.Compare(a.Active+a.Standby, b.Active+b.Standby)
	switch {
	case p.req.Kind == DHCP:
		same = cmp.Compare(a.DHCP, b.DHCP)
	case active:
		same = cmp.Compare(a.Active, b.Active)
	}
	return cmp.Or(same, cmp.Compare(a.total(), b.total()))
}

// rejections is why each node that is not in the plan can't be; pool is "" when there is none.
func (p *placement) rejections(pool string, plan []string) (out []Rejection) {
	for _, n := range p.nodes {
		if slices.Contains(plan, n.Name) {
			continue
		}
		if reasons := p.reasons(n, pool); len(reasons) > 0 {
			out = append(out, Rejection{Node: n.Name, Reason: strings.Join(reasons, ", ")})
		}
	}
	for _, name := range p.others {
		out = append(out, Rejection{Node: name, Reason: notNetwork})
	}
	slices.SortFunc(out, func(a, b Rejection) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
