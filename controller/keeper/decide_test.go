package keeper

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/controller/placing"
)

func set(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

const (
	drained = "is drained"
	dead    = "has not been alive for some time"
)

func TestDecisions(t *testing.T) {
	three := set("a", "b", "c")
	for _, c := range []struct {
		name  string
		plan  plan
		nodes nodes
		grow  placing.Replan
		trim  *placing.Replan
		done  bool
	}{{
		name:  "nothing to do",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", ready: set("b")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
		trim:  &placing.Replan{},
	}, {
		name:  "a standby that is not ready keeps what is more than wanted",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", ready: set("b")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}},
	}, {
		name:  "a dead holder is replaced and stays until somebody else is active",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", ready: set("b")},
		nodes: nodes{alive: set("b"), dead: set("a")},
		grow:  placing.Replan{Leaving: map[string]string{"a": dead}, Keep: []string{"b"}},
		trim:  &placing.Replan{Leaving: map[string]string{"a": dead}},
	}, {
		name:  "a dead first choice of a pool with failback stays",
		plan:  plan{nodes: []string{"a", "b"}, active: "b", failback: true},
		nodes: nodes{alive: set("b"), dead: set("a")},
		grow:  placing.Replan{Leaving: map[string]string{"a": dead}, Keep: []string{"b", "a"}},
		trim:  &placing.Replan{Leaving: map[string]string{"a": dead}, Keep: []string{"a"}},
	}, {
		name:  "it is handed back when it has returned and is ready",
		plan:  plan{nodes: []string{"a", "b"}, active: "b", failback: true, ready: set("a"), standby: set("a")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}, HandOver: "a"},
	}, {
		name:  "but not before",
		plan:  plan{nodes: []string{"a", "b"}, active: "b", failback: true},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
	}, {
		name:  "and in no other pool",
		plan:  plan{nodes: []string{"a", "b"}, active: "b", ready: set("a"), standby: set("a")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
		trim:  &placing.Replan{},
	}, {
		name:  "a drained holder hands over to the first that is ready",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", ready: set("c"), standby: set("c")},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, HandOver: "c"},
	}, {
		name:  "which stays the one it hands over to though another is ready and the router has changed",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", handOver: "c", ready: set("b"), standby: set("b", "c")},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, HandOver: "c"},
	}, {
		name:  "unless that dies",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", handOver: "c", ready: set("b"), standby: set("b", "c")},
		nodes: nodes{alive: set("a", "b"), draining: set("a")},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, HandOver: "b"},
	}, {
		name:  "a drained holder without a standby gets one first",
		plan:  plan{nodes: []string{"a"}, active: "a"},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Leaving: map[string]string{"a": drained}, Keep: []string{"a"}},
	}, {
		name:  "a drained standby goes when those that stay are ready",
		plan:  plan{nodes: []string{"a", "b"}, active: "b"},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Leaving: map[string]string{"a": drained}, Keep: []string{"a", "b"}, First: "b"},
		trim:  &placing.Replan{Leaving: map[string]string{"a": drained}, First: "b"},
	}, {
		name:  "the target of a move is added",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", move: "c", ready: set("b")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}, Add: "c"},
	}, {
		name:  "and handed over to when it is ready",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", move: "c", ready: set("c"), standby: set("c")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, HandOver: "c"},
	}, {
		name:  "a holder whose agent is away is told nothing",
		plan:  plan{nodes: []string{"a", "c"}, active: "a", move: "c", ready: set("c"), standby: set("c")},
		nodes: nodes{alive: set("c")},
		grow:  placing.Replan{Keep: []string{"a", "c"}},
	}, {
		name:  "a move that is done makes the node the first choice",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "c", move: "c", ready: set("a", "b")},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, First: "c"},
		trim:  &placing.Replan{First: "c"},
		done:  true,
	}, {
		name:  "a move to a dead node is given up",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", move: "c", ready: set("b")},
		nodes: nodes{alive: set("a", "b"), dead: set("c")},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
		trim:  &placing.Replan{},
		done:  true,
	}, {
		name:  "a first choice without an uplink gets nothing back",
		plan:  plan{nodes: []string{"a", "b"}, active: "b", failback: true, ready: set("a"), standby: set("a"), cut: map[string]string{"a": "ext1"}},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
		trim:  &placing.Replan{},
	}, {
		name:  "a drained holder hands over to the first that has its uplinks",
		plan:  plan{nodes: []string{"a", "b", "c"}, active: "a", handOver: "b", ready: set("b", "c"), standby: set("b", "c"), cut: map[string]string{"b": "ext1"}},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Keep: []string{"a", "b", "c"}, HandOver: "c"},
	}, {
		name:  "and to any when it has lost its own",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", ready: set("b"), standby: set("b"), cut: map[string]string{"a": "ext1", "b": "ext1"}},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Keep: []string{"a", "b"}, HandOver: "b"},
	}, {
		name:  "a move to a node that has lost its uplink is given up, even when the holder has been told",
		plan:  plan{nodes: []string{"a", "b"}, active: "a", handOver: "b", move: "b", ready: set("b"), standby: set("b"), cut: map[string]string{"b": "ext1"}},
		nodes: nodes{alive: three},
		grow:  placing.Replan{Keep: []string{"a", "b"}},
		trim:  &placing.Replan{},
		done:  true,
	}, {
		name:  "DHCP: a drained server stays until the others work",
		plan:  plan{nodes: []string{"a", "b"}},
		nodes: nodes{alive: three, draining: set("a")},
		grow:  placing.Replan{Leaving: map[string]string{"a": drained}, Keep: []string{"a", "b"}},
	}} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(c.plan, c.nodes)
			if c.grow.Leaving == nil {
				c.grow.Leaving = map[string]string{}
			}
			if c.trim != nil && c.trim.Leaving == nil {
				c.trim.Leaving = map[string]string{}
			}
			if diff := cmp.Diff(c.grow, d.grow); diff != "" {
				t.Errorf("grow: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(c.trim, d.trim); diff != "" {
				t.Errorf("trim: -want +got\n%s", diff)
			}
			if d.done != c.done {
				t.Errorf("done %v", d.done)
			}
		})
	}
}

// What no decision may do, whatever it is given.
func TestEveryDecisionIsSafe(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	some := func(t *rapid.T, label string) map[string]bool {
		return set(rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, label)...)
	}
	rapid.Check(t, func(t *rapid.T) {
		maybe := rapid.SampledFrom(append([]string{""}, names...))
		p := plan{
			nodes: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID).Draw(t, "nodes"), standby: some(t, "standby"),
			move: maybe.Draw(t, "move"), failback: rapid.Bool().Draw(t, "failback"), ready: map[string]bool{},
		}
		if len(p.nodes) > 0 {
			p.active, p.handOver = rapid.SampledFrom(p.nodes).Draw(t, "active"), maybe.Draw(t, "hand over")
		}
		for n := range some(t, "ready") {
			p.ready[n] = p.standby[n]
		}
		n := nodes{alive: some(t, "alive"), draining: some(t, "draining"), dead: map[string]bool{}}
		for name := range some(t, "dead") {
			n.dead[name] = !n.alive[name]
		}
		d := decide(p, n)
		if to := d.grow.HandOver; to != "" {
			if to == p.active || !p.standby[to] || !n.alive[to] || !n.alive[p.active] || n.leaving(to) != "" || !slices.Contains(p.nodes, to) {
				t.Fatalf("hands over to %q", to)
			}
		}
		if d.grow.Add != "" && (slices.Contains(p.nodes, d.grow.Add) || n.leaving(d.grow.Add) != "") {
			t.Fatalf("adds %q", d.grow.Add)
		}
		for _, node := range p.nodes {
			if !n.dead[node] && !slices.Contains(d.grow.Keep, node) {
				t.Fatalf("%q is not kept though nothing is ready", node)
			}
		}
		if d.trim != nil && (n.draining[p.active] || d.grow.HandOver != "" || d.grow.Add != "") {
			t.Fatalf("trims too early")
		}
	})
}
