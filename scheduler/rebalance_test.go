package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/scheduler"
)

// drawPlaced puts routers on nodes, active on the first of their plans, and counts them as the nodes' load.
func drawPlaced(t *rapid.T, nodes []scheduler.Node) []scheduler.Placed {
	var out []scheduler.Placed
	if len(nodes) == 0 {
		return nil
	}
	for i := range rapid.IntRange(0, 30).Draw(t, "routers") {
		plan := rapid.SliceOfNDistinct(rapid.IntRange(0, len(nodes)-1), 1, min(len(nodes), 2), rapid.ID).Draw(t, "plan")
		r := scheduler.Placed{ID: fmt.Sprintf("r%02d", i), Active: nodes[plan[0]].Name, Request: scheduler.Request{What: fmt.Sprint("router ", i)}}
		if rapid.IntRange(0, 3).Draw(t, "needs") == 0 {
			r.Request.PhysicalNetworks = []string{"ext1"}
		}
		for _, n := range plan {
			r.Request.Current = append(r.Request.Current, nodes[n].Name)
		}
		nodes[plan[0]].Load.Active++
		out = append(out, r)
	}
	return out
}

// work is how many routers are active on the nodes of a pool that take part, after some moves.
func work(nodes []scheduler.Node, pool string, moves []scheduler.Move) []int {
	var out []int
	for _, n := range nodes {
		if n.Pool != pool || !n.Alive || !n.Network || n.Cordoned || n.Draining {
			continue
		}
		busy := n.Load.Active
		for _, m := range moves {
			if m.From == n.Name {
				busy--
			}
			if m.To == n.Name {
				busy++
			}
		}
		out = append(out, busy)
	}
	return out
}

func TestRebalancingEqualNodesEvensThemOutInAsFewMovesAsCanBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := ables(rapid.IntRange(1, 6).Draw(t, "nodes"))
		routers := drawPlaced(t, nodes)
		moves := scheduler.Rebalance(nodes, routers, 1000)
		before, after := work(nodes, "default", nil), work(nodes, "default", moves)
		if slices.Max(after)-slices.Min(after) > 1 {
			t.Fatalf("%v became %v", before, after)
		}
		sum := 0
		for _, b := range before {
			sum += b
		}
		low := sum / len(before)
		high := low
		if sum%len(before) > 0 {
			high++
		}
		over, under := 0, 0
		for _, b := range before {
			over, under = over+max(b-high, 0), under+max(low-b, 0)
		}
		if len(moves) != max(over, under) {
			t.Fatalf("%v became %v in %d moves, can be done in %d", before, after, len(moves), max(over, under))
		}
	})
}

func TestRebalancingMovesOnlyWhereTheRouterCanGoAndEachRouterOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		routers := drawPlaced(t, nodes)
		limit := rapid.IntRange(0, 9).Draw(t, "limit")
		moves := scheduler.Rebalance(nodes, routers, limit)
		if len(moves) > limit {
			t.Fatalf("%d moves, limit %d", len(moves), limit)
		}
		moved := map[string]bool{}
		for i, m := range moves {
			r := routers[slices.IndexFunc(routers, func(r scheduler.Placed) bool { return r.ID == m.Router })]
			from, to := find(nodes, m.From), find(nodes, m.To)
			if moved[m.Router] || r.Active != m.From || from.Pool != to.Pool || !fresh(r.Request, to) || m.Reason == "" ||
				m.Standby != slices.Contains(r.Request.Current, m.To) {
				t.Fatalf("move %+v of %+v", m, r)
			}
			moved[m.Router] = true
			was, is := work(nodes, from.Pool, moves[:i]), work(nodes, from.Pool, moves[:i+1])
			if spread(is) > spread(was) {
				t.Fatalf("move %+v makes %v of %v", m, is, was)
			}
		}
	})
}

func spread(work []int) int { return slices.Max(work) - slices.Min(work) }

func TestRebalancingABalancedPoolMovesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		routers := drawPlaced(t, nodes)
		for _, pool := range []string{"default", "gold"} {
			if w := work(nodes, pool, nil); len(w) > 0 && spread(w) > 1 {
				t.Skip("not balanced")
			}
		}
		if moves := scheduler.Rebalance(nodes, routers, 100); len(moves) > 0 {
			t.Fatalf("moves %v", moves)
		}
	})
}

func TestRebalancingDoesNotDependOnAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t)
		routers := drawPlaced(t, nodes)
		a := scheduler.Rebalance(nodes, routers, 10)
		b := scheduler.Rebalance(rapid.Permutation(nodes).Draw(t, "nodes"), rapid.Permutation(routers).Draw(t, "routers"), 10)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestRebalancingPrefersStandbys(t *testing.T) {
	nodes := ables(3)
	var routers []scheduler.Placed
	for i, standby := range []string{"n1", "n1", "n2"} {
		routers = append(routers, scheduler.Placed{
			ID: fmt.Sprint("r", i), Active: "n0", Request: scheduler.Request{What: fmt.Sprint("router r", i), Current: []string{"n0", standby}},
		})
	}
	nodes[0].Load.Active = 3
	want := []scheduler.Move{
		{Router: "r0", From: "n0", To: "n1", Standby: true, Reason: "rebalance: n0 has 3 active routers, n1 has 0"},
		{Router: "r2", From: "n0", To: "n2", Standby: true, Reason: "rebalance: n0 has 2 active routers, n2 has 0"},
	}
	if diff := cmp.Diff(want, scheduler.Rebalance(nodes, routers, 10)); diff != "" {
		t.Error(diff)
	}
}
