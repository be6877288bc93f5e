// Package scheduler chooses the network nodes that hold a router or serve a network's DHCP. It is a function of what is
// asked and of what the nodes are: it reads and writes nothing, and what it was told may have changed by the time its
// plan is committed, so whoever commits guards what matters.
package scheduler

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Request is what is to be placed.
type Request struct {
	// What is the object in words that identify it, e.g. "router 6f1c…" or "DHCP of network 09ab…": it stands in errors and
	// spreads objects over nodes that are otherwise equal.
	What string
	// PhysicalNetworks are those that a node must have a bridge for.
	PhysicalNetworks []string
	// Tunnels: a node must have a tunnel address.
	Tunnels bool
	// Count is how many nodes are wanted; 0 means 1.
	Count int
	// Current is where the object is now, in order of preference. A node that can stay is kept.
	Current []string
}

// Load is what a node carries already.
type Load struct {
	Routers, DHCP int
}

func (l Load) total() int { return l.Routers + l.DHCP }

// Node is what is known of a node.
type Node struct {
	Name  string
	Alive bool
	// Network: the node has the role of a network node.
	Network bool
	// Physnets are the physical networks that the node has a bridge for.
	Physnets map[string]bool
	// TunnelIP is invalid when the node has none.
	TunnelIP netip.Addr
	// Problems is what the node says is wrong with it. They do not rule it out, for they may have nothing to do with the
	// request, but a node without any goes first.
	Problems []string
	// Load counts what the node carries, the object to be placed not included.
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
	// Nodes are in order of preference: at least one, at most Request.Count, fewer if fewer can.
	Nodes []string
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

// Place chooses the nodes for a request. Nodes that hold the object and can stay do, in their order; the others are the
// least loaded of those that can, nodes without problems first, and among equals by a hash of request and node, so that
// many requests spread. The order of nodes does not matter; their names must differ. The error is a *NoneError.
func Place(req Request, nodes []Node) (Plan, error) {
	var plan Plan
	able := make(map[string]bool, len(nodes))
	var rest []Node
	for _, n := range nodes {
		if reason := reject(req, n); reason != "" {
			plan.Rejected = append(plan.Rejected, Rejection{Node: n.Name, Reason: reason})
			continue
		}
		able[n.Name] = true
		rest = append(rest, n)
	}
	slices.SortFunc(plan.Rejected, func(a, b Rejection) int { return cmp.Compare(a.Node, b.Node) })
	if len(rest) == 0 {
		return Plan{}, &NoneError{What: req.What, Rejected: plan.Rejected}
	}
	slices.SortFunc(rest, func(a, b Node) int { return compare(req.What, a, b) })
	plan.Nodes = choose(req, able, rest)
	return plan, nil
}

// choose keeps what can stay and fills up with the best of the rest.
func choose(req Request, able map[string]bool, best []Node) []string {
	count := min(max(req.Count, 1), len(best))
	chosen := make([]string, 0, count)
	add := func(name string) {
		if len(chosen) < count && able[name] {
			chosen = append(chosen, name)
			delete(able, name)
		}
	}
	for _, name := range req.Current {
		add(name)
	}
	for _, n := range best {
		add(n.Name)
	}
	return chosen
}

// compare orders the nodes that can take a request, the best first.
func compare(what string, a, b Node) int {
	return cmp.Or(
		cmp.Compare(min(len(a.Problems), 1), min(len(b.Problems), 1)),
		cmp.Compare(a.Load.total(), b.Load.total()),
		cmp.Compare(score(what, a.Name), score(what, b.Name)),
		cmp.Compare(a.Name, b.Name),
	)
}

// score is a hash of request and node: rendezvous hashing, so that a node more or less changes only the choices that it
// wins or had won.
func score(what, node string) uint64 {
	sum := sha256.Sum256([]byte(what + "\x00" + node))
	return binary.BigEndian.Uint64(sum[:])
}

// reject lists everything for which a node can't take a request; "" if it can.
func reject(req Request, n Node) string {
	var reasons []string
	if !n.Network {
		reasons = append(reasons, "is not a network node")
	}
	if !n.Alive {
		reasons = append(reasons, "is not alive")
	}
	for _, p := range req.PhysicalNetworks {
		if !n.Physnets[p] {
			reasons = append(reasons, "has no bridge for physical network "+p)
		}
	}
	if req.Tunnels && !n.TunnelIP.IsValid() {
		reasons = append(reasons, "has no tunnel address")
	}
	return strings.Join(reasons, ", ")
}
