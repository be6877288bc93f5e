package keeper

import (
	"maps"
	"slices"

	"github.com/weft-sdn/weft/controller/placing"
)

// nodes is what a decision needs to know of nodes, by name.
type nodes struct {
	// alive nodes have an agent that answers.
	alive map[string]bool
	// dead nodes have had none for longer than the grace; draining ones are to be emptied.
	dead, draining map[string]bool
	// proven is, by node, the physical networks to which it has a proven uplink.
	proven map[string]map[string]bool
}

// cut are those of some nodes that do not reach all of some physical networks, each with the first one that it does not.
func (n *nodes) cut(names, physnets []string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		i := slices.IndexFunc(physnets, func(p string) bool { return !n.proven[name][p] })
		if i >= 0 {
			out[name] = physnets[i]
		}
	}
	return out
}

// leaving says why nothing is to stay on a node; "" when it may.
func (n *nodes) leaving(name string) string {
	switch {
	case n.draining[name]:
		return "is drained"
	case n.dead[name]:
		return "has not been alive for some time"
	default:
		return ""
	}
}

// plan is what is known of a router's plan, or of the DHCP servers of a network, when it is decided on.
type plan struct {
	nodes []string
	// ready are the nodes on which the object as it is stored has been built, and is silent if it is to be.
	ready map[string]bool

	// Of routers only:

	// active is the node that forwards, handOver the one that it has been told to hand over to, move the one that somebody
	// wishes to be active; "" none.
	active, handOver, move string
	// standby are the nodes on which the router has been built as a standby as it is or was a moment ago.
	standby map[string]bool
	// cut are the nodes that have no proven uplink to a physical network that the router needs, each with that network. An
	// agent gives a router away that it can't forward: handed over to it, the router would come back at once.
	cut map[string]string
	// failback: the pool gives its first choice back to a node that returns.
	failback bool
}

// decision is the next step.
type decision struct {
	// grow is what the plan has to become first: with what is missing, and without what is dead.
	grow placing.Replan
	// trim is what it becomes when grow changes nothing; nil when something has to become ready before anything goes.
	trim *placing.Replan
	// done: the wish to move is fulfilled or, with a reason, given up.
	done   bool
	reason string
}

// decide finds the next step for a router. It is level-triggered: whatever steps came before, and whoever made them, only
// what is counts.
func decide(p plan, n nodes) decision {
	d := decision{grow: placing.Replan{Leaving: map[string]string{}}}
	for _, node := range p.nodes {
		if reason := n.leaving(node); reason != "" {
			d.grow.Leaving[node] = reason
		}
	}
	target := d.target(p, n)
	if target != "" && !slices.Contains(p.nodes, target) {
		d.grow.Add = target
	}
	if p.mayHandOver(target, n) {
		d.grow.HandOver = target
		d.later(n)
	}
	always := p.firstChoice(n)
	d.grow.Keep = append(p.present(n), always...)
	if target == "" && !n.draining[p.active] && p.allReady(n) {
		trim := d.grow
		trim.Keep = always
		d.trim = &trim
	}
	return d
}

// later leaves what makes room on drained nodes for later. One thing after the other: building more standbys only keeps the
// nodes busy while routers are handed over.
func (d *decision) later(n nodes) {
	maps.DeleteFunc(d.grow.Leaving, func(node, _ string) bool { return !n.dead[node] })
	d.grow.First, d.trim = "", nil
}

// target is the node that is to become active; "" when that is as it is to be.
func (d *decision) target(p plan, n nodes) string {
	switch {
	case p.move != "" && p.move == p.active:
		d.done, d.grow.First = true, p.active
		return ""
	case p.move != "" && n.leaving(p.move) == "" && !p.worse(p.move):
		return p.move
	case p.move != "" && n.leaving(p.move) == "":
		d.done, d.reason = true, "node "+p.move+" has no proven uplink to physical network "+p.cut[p.move]
	case p.move != "":
		d.done, d.reason = true, "node "+p.move+" "+n.leaving(p.move)
	}
	switch {
	case n.draining[p.active]:
		return p.successor(n)
	case p.drained(n) && n.leaving(p.active) == "": // whoever has it from a drained node keeps it
		d.grow.First = p.active
	case p.failback && len(p.nodes) > 0 && p.nodes[0] != p.active && n.leaving(p.nodes[0]) == "" && p.cut[p.nodes[0]] == "":
		return p.nodes[0]
	}
	return ""
}

// worse reports whether a node does not reach what the router needs while the active one does.
func (p *plan) worse(node string) bool { return p.cut[node] != "" && p.cut[p.active] == "" }

// drained reports whether a node of the plan is drained.
func (p *plan) drained(n nodes) bool {
	return slices.ContainsFunc(p.nodes, func(node string) bool { return n.draining[node] })
}

// successor is the node that takes over from one that is drained: the one that has been chosen, as long as it can, else the
// first that is ready; "" when none is.
func (p *plan) successor(n nodes) string {
	fit := func(node string) bool {
		return node != p.active && n.alive[node] && n.leaving(node) == "" && !p.worse(node)
	}
	if p.standby[p.handOver] && fit(p.handOver) {
		return p.handOver
	}
	for _, node := range p.nodes {
		if p.ready[node] && fit(node) {
			return node
		}
	}
	return ""
}

// mayHandOver reports whether the active node may be told to hand over to a target now. What has been told is not taken
// back because the router changes meanwhile.
func (p *plan) mayHandOver(target string, n nodes) bool {
	return slices.Contains(p.nodes, target) && n.alive[target] && n.alive[p.active] && (p.ready[target] || target == p.handOver && p.standby[target])
}

// present are the nodes that stay as long as something is missing.
func (p *plan) present(n nodes) []string {
	return slices.DeleteFunc(slices.Clone(p.nodes), func(node string) bool { return n.dead[node] })
}

// firstChoice is the node that gets the router back when it returns, if it is away.
func (p *plan) firstChoice(n nodes) []string {
	if p.failback && len(p.nodes) > 0 && n.dead[p.nodes[0]] && !n.draining[p.nodes[0]] {
		return p.nodes[:1]
	}
	return nil
}

// allReady reports whether whatever is to stay is ready.
func (p *plan) allReady(n nodes) bool {
	for _, node := range p.nodes {
		if node != p.active && n.leaving(node) == "" && (!n.alive[node] || !p.ready[node]) {
			return false
		}
	}
	return true
}
