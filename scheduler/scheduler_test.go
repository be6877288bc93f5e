package scheduler_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/scheduler"
)

var tunnelIP = netip.MustParseAddr("192.0.2.1")

var up = scheduler.Uplink{Proven: true}

// able is a network node that can take everything that these tests place.
func able(name string) scheduler.Node {
	return scheduler.Node{
		Name: name, Alive: true, Network: true, Pool: scheduler.DefaultPool, TunnelIP: tunnelIP,
		Uplinks: map[string]scheduler.Uplink{"ext1": up, "ext2": up},
	}
}

func ables(n int) []scheduler.Node {
	nodes := make([]scheduler.Node, n)
	for i := range nodes {
		nodes[i] = able(fmt.Sprint("n", i))
	}
	return nodes
}

// seldom is true once in n times.
func seldom(t *rapid.T, n int, label string) bool { return rapid.IntRange(1, n).Draw(t, label) == n }

func drawNode(t *rapid.T, name string) scheduler.Node {
	n := scheduler.Node{
		Name: name, Alive: !seldom(t, 5, "dead"), Network: !seldom(t, 5, "compute"), Uplinks: map[string]scheduler.Uplink{},
		Pool: rapid.SampledFrom([]string{"default", "default", "gold"}).Draw(t, "pool"), Zone: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"),
		Cordoned: seldom(t, 8, "cordoned"), Draining: seldom(t, 8, "draining"), Capacity: rapid.SampledFrom([]int{0, 0, 4}).Draw(t, "capacity"),
		Load: scheduler.Load{
			Active: rapid.IntRange(0, 3).Draw(t, "active"), Standby: rapid.IntRange(0, 3).Draw(t, "standby"), DHCP: rapid.IntRange(0, 4).Draw(t, "dhcp"),
		},
	}
	for _, physnet := range []string{"ext1", "ext2"} {
		if !seldom(t, 5, "no "+physnet) {
			n.Uplinks[physnet] = scheduler.Uplink{Proven: !seldom(t, 5, "unproven"), Reason: "no link"}
		}
	}
	if !seldom(t, 5, "no tunnels") {
		n.TunnelIP = tunnelIP
	}
	if seldom(t, 4, "problems") {
		n.Problems = []string{"bridge br-ex9 of physical network ext9 does not exist"}
	}
	return n
}

func drawNodes(t *rapid.T) []scheduler.Node {
	nodes := make([]scheduler.Node, rapid.IntRange(0, 7).Draw(t, "nodes"))
	for i := range nodes {
		nodes[i] = drawNode(t, fmt.Sprint("n", i))
	}
	return nodes
}

func drawRequest(t *rapid.T) scheduler.Request {
	some := func(label string, of ...string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(of), rapid.ID).Draw(t, label)
	}
	req := scheduler.Request{
		What: "router " + rapid.StringMatching("[a-f0-9]{8}").Draw(t, "id"), Kind: rapid.SampledFrom([]scheduler.Kind{scheduler.Router, scheduler.DHCP}).Draw(t, "kind"),
		PhysicalNetworks: some("physnets", "ext1", "ext2"), Tunnels: rapid.Bool().Draw(t, "tunnels"), Count: rapid.IntRange(0, 4).Draw(t, "count"),
		Counts: map[string]int{"gold": 3}, Pool: rapid.SampledFrom([]string{"", "", "", "default", "gold"}).Draw(t, "in pool"),
		Current: some("current", "n0", "n1", "n2", "gone"), Leaving: map[string]string{},
	}
	for _, p := range req.PhysicalNetworks {
		if rapid.Bool().Draw(t, "added") {
			req.Added = append(req.Added, p)
		}
	}
	for _, n := range req.Current {
		if seldom(t, 4, "leaving") {
			req.Leaving[n] = "is drained"
		}
		if seldom(t, 4, "hold") {
			req.Hold = append(req.Hold, n)
		}
	}
	return req
}

// fresh says independently of the scheduler whether a node can newly take a request, whatever its pool.
func fresh(req scheduler.Request, n scheduler.Node) bool {
	for _, p := range req.PhysicalNetworks {
		if !n.Uplinks[p].Proven {
			return false
		}
	}
	full := req.Kind == scheduler.Router && n.Capacity > 0 && n.Load.Active+n.Load.Standby >= n.Capacity && !slices.Contains(req.Current, n.Name)
	return n.Alive && n.Network && !n.Cordoned && !n.Draining && !full && req.Leaving[n.Name] == "" &&
		(!req.Tunnels || n.TunnelIP.IsValid()) && (req.Pool == "" || n.Pool == req.Pool)
}

// stays says whether a node that holds the object may go on, whatever its pool.
func stays(req scheduler.Request, n scheduler.Node) bool {
	for _, p := range req.PhysicalNetworks {
		if u, mapped := n.Uplinks[p]; !mapped || slices.Contains(req.Added, p) && !u.Proven {
			return false
		}
	}
	return n.Network && slices.Contains(req.Current, n.Name) && (!req.Tunnels || n.TunnelIP.IsValid()) && (req.Pool == "" || n.Pool == req.Pool)
}

func count(req scheduler.Request, pool string) int {
	switch {
	case req.Count > 0:
		return req.Count
	case pool == "gold":
		return 3
	default:
		return 2
	}
}

// place fails the test unless the error is nil or says that no node can.
func place(t *rapid.T, req scheduler.Request, nodes []scheduler.Node) (scheduler.Plan, bool) {
	plan, err := scheduler.Place(req, nodes)
	var none *scheduler.NoneError
	if err != nil && !errors.As(err, &none) {
		t.Fatalf("error %v", err)
	}
	return plan, err == nil
}

func find(nodes []scheduler.Node, name string) scheduler.Node {
	i := slices.IndexFunc(nodes, func(n scheduler.Node) bool { return n.Name == name })
	return nodes[i]
}

func TestNoNodeIsChosenThatIsUnfit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		plan, ok := place(t, req, nodes)
		possible := slices.ContainsFunc(nodes, func(n scheduler.Node) bool { return fresh(req, n) || stays(req, n) })
		if ok != possible || ok != (len(plan.Nodes) > 0) {
			t.Fatalf("placed: %v on %v, possible: %v", ok, plan.Nodes, possible)
		}
		for i, name := range plan.Nodes {
			n := find(nodes, name)
			if !fresh(req, n) && !stays(req, n) || n.Pool != plan.Pool || slices.Contains(plan.Nodes[:i], name) {
				t.Fatalf("%v in pool %s: %s is unfit, of another pool or stands twice", plan.Nodes, plan.Pool, name)
			}
		}
	})
}

func TestAsManyNodesAreChosenAsWantedAndCan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		plan, ok := place(t, req, nodes)
		if !ok {
			t.Skip("nowhere")
		}
		counted, held, can := 0, 0, 0
		for _, n := range nodes {
			in, leaving := slices.Contains(plan.Nodes, n.Name), req.Leaving[n.Name] != ""
			hold := slices.Contains(req.Hold, n.Name)
			switch {
			case in && !leaving && hold:
				held++
				fallthrough
			case in && !leaving:
				counted++
			case in && !hold && len(plan.Nodes) > len(req.Current):
				t.Fatalf("%v: %s leaves and is not held", plan.Nodes, n.Name)
			}
			if n.Pool == plan.Pool && (fresh(req, n) || !leaving && stays(req, n)) {
				can++
			}
		}
		if want := max(min(count(req, plan.Pool), can), held); counted != want {
			t.Fatalf("%v: %d nodes that count, want %d (%d can, %d held)", plan.Nodes, counted, want, can, held)
		}
	})
}

func TestHeldNodesStayAndAPlanIsNeverEmptied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		plan, _ := place(t, req, nodes)
		first := true
		for _, name := range req.Current {
			i := slices.IndexFunc(nodes, func(n scheduler.Node) bool { return n.Name == name })
			if i < 0 || !stays(req, nodes[i]) {
				continue
			}
			if len(plan.Nodes) == 0 {
				t.Fatalf("%s could stay but the plan is empty", name)
			}
			if !slices.Contains(req.Hold, name) {
				continue
			}
			if first && plan.Pool != nodes[i].Pool || nodes[i].Pool == plan.Pool && !slices.Contains(plan.Nodes, name) {
				t.Fatalf("%v in pool %s: %s of pool %s is held", plan.Nodes, plan.Pool, name, nodes[i].Pool)
			}
			first = false
		}
	})
}

func TestEachRejectedNodeHasItsReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		plan, err := scheduler.Place(req, nodes)
		rejected := plan.Rejected
		var none *scheduler.NoneError
		if errors.As(err, &none) {
			rejected = none.Rejected
		}
		for i, r := range rejected {
			n := find(nodes, r.Node)
			if slices.Contains(plan.Nodes, r.Node) || fresh(req, n) && n.Pool == plan.Pool || r.Reason == "" || i > 0 && rejected[i-1].Node >= r.Node {
				t.Fatalf("rejections %v", rejected)
			}
			if err != nil && !strings.Contains(err.Error(), r.Node+": "+r.Reason) {
				t.Fatalf("%q does not tell %v", err, r)
			}
		}
		for _, n := range nodes {
			told := slices.ContainsFunc(rejected, func(r scheduler.Rejection) bool { return r.Node == n.Name })
			if !told && !slices.Contains(plan.Nodes, n.Name) && (!fresh(req, n) || n.Pool != plan.Pool) {
				t.Fatalf("%s is neither chosen nor rejected: %v", n.Name, rejected)
			}
		}
	})
}

func TestCheckAllowsWhatAPlanCouldHaveTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		req.Hold, req.Count = req.Current, 99
		plan, _ := place(t, req, nodes)
		for _, n := range nodes {
			if slices.Contains(req.Current, n.Name) {
				continue
			}
			reason := scheduler.Check(req, nodes, n.Name)
			switch taken := slices.Contains(plan.Nodes, n.Name); {
			case taken && reason != "":
				t.Fatalf("%v takes %s, of which is said: %s", plan.Nodes, n.Name, reason)
			case reason == "" && !fresh(req, n):
				t.Fatalf("nothing is said of %s", n.Name)
			}
		}
	})
	if got := scheduler.Check(scheduler.Request{}, nil, "n9"); got != "is not registered" {
		t.Errorf("an unknown node %q", got)
	}
}

func TestNodesThatCanStayAreKeptInTheirOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		req.Hold, req.Leaving = nil, nil
		plan, _ := place(t, req, nodes)
		var want []string
		for _, c := range req.Current {
			i := slices.IndexFunc(nodes, func(n scheduler.Node) bool { return n.Name == c })
			if i >= 0 && stays(req, nodes[i]) && nodes[i].Pool == plan.Pool && len(want) < count(req, plan.Pool) {
				want = append(want, c)
			}
		}
		if got := plan.Nodes[:min(len(want), len(plan.Nodes))]; !slices.Equal(got, want) {
			t.Fatalf("nodes %v, want them to begin with %v", plan.Nodes, want)
		}
	})
}

func TestAPlanPlacedAgainDoesNotMove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		plan, ok := place(t, req, nodes)
		if !ok {
			t.Skip("nowhere")
		}
		req.Current = plan.Nodes
		for i := range nodes {
			if slices.Contains(plan.Nodes, nodes[i].Name) {
				nodes[i].Load.Active = rapid.IntRange(0, 99).Draw(t, "load later")
				nodes[i].Alive = rapid.Bool().Draw(t, "alive later")
				nodes[i].Cordoned = rapid.Bool().Draw(t, "cordoned later")
			}
		}
		if again, _ := place(t, req, nodes); !slices.Equal(plan.Nodes, again.Nodes) {
			t.Fatalf("%v moved to %v", plan.Nodes, again.Nodes)
		}
	})
}

func TestTheNodesThatLeaveAloneAreReplaced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := ables(6)
		req := scheduler.Request{What: "router r1", Count: 3}
		before, _ := place(t, req, nodes)
		gone := rapid.SampledFrom(before.Nodes).Draw(t, "gone")
		req.Current, req.Leaving = before.Nodes, map[string]string{gone: "is dead"}
		after, _ := place(t, req, nodes)
		kept := slices.DeleteFunc(slices.Clone(before.Nodes), func(n string) bool { return n == gone })
		if len(after.Nodes) != 3 || !slices.Equal(after.Nodes[:2], kept) || slices.Contains(after.Nodes, gone) {
			t.Fatalf("%v became %v when %s went", before.Nodes, after.Nodes, gone)
		}
		req.Hold = []string{gone}
		if after, _ = place(t, req, nodes); len(after.Nodes) != 4 || !slices.Equal(after.Nodes[:3], before.Nodes) {
			t.Fatalf("%v became %v when %s was held while it left", before.Nodes, after.Nodes, gone)
		}
	})
}

func TestAnExcessIsTrimmedFromTheEndButForWhatIsHeld(t *testing.T) {
	req := scheduler.Request{What: "router r1", Count: 2, Current: []string{"n3", "n1", "n0", "n2"}, Hold: []string{"n2"}}
	plan, err := scheduler.Place(req, ables(5))
	if want := []string{"n3", "n2"}; err != nil || !slices.Equal(plan.Nodes, want) {
		t.Errorf("got %v, %v; want %v", plan.Nodes, err, want)
	}
}

func TestTheOrderOfNodesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		a, errA := scheduler.Place(req, nodes)
		b, errB := scheduler.Place(req, rapid.Permutation(nodes).Draw(t, "order"))
		if !cmp.Equal(a, b) || fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Fatalf("%v, %v or %v, %v", a, errA, b, errB)
		}
	})
}

func TestNodesOfAPlanAreOfDifferentZonesWherePossible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		req.Current, req.Hold, req.Leaving = nil, nil, nil
		plan, _ := place(t, req, nodes)
		zones, able := map[string]int{}, map[string]bool{}
		for _, n := range nodes {
			if slices.Contains(plan.Nodes, n.Name) {
				zones[n.Zone]++
			}
			if fresh(req, n) && n.Pool == plan.Pool {
				able[n.Zone] = true
			}
		}
		if want := min(len(plan.Nodes), len(able)); len(zones) != want {
			t.Fatalf("%v are of %d zones, could be of %d", plan.Nodes, len(zones), want)
		}
	})
}

func TestNodesWithoutProblemsThenTheLeastLoadedGoFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		req.Current, req.Hold, req.Leaving, req.Pool = nil, nil, nil, "default"
		plan, ok := place(t, req, nodes)
		if !ok {
			t.Skip("nowhere")
		}
		first := find(nodes, plan.Nodes[0])
		for _, n := range nodes {
			if fresh(req, n) && better(req.Kind, n, first) {
				t.Fatalf("%s was chosen before %s", first.Name, n.Name)
			}
		}
	})
}

func better(kind scheduler.Kind, a, b scheduler.Node) bool {
	if (len(a.Problems) > 0) != (len(b.Problems) > 0) {
		return len(b.Problems) > 0
	}
	if kind == scheduler.DHCP {
		return a.Load.DHCP < b.Load.DHCP
	}
	return a.Load.Active < b.Load.Active
}

func TestEqualNodesAreLoadedEqually(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := ables(rapid.IntRange(1, 5).Draw(t, "nodes"))
		want := rapid.IntRange(1, 3).Draw(t, "count")
		for i := range nodes { // which makes no difference
			nodes[i].Load.DHCP = rapid.IntRange(0, 9).Draw(t, "dhcp")
		}
		for i := range rapid.IntRange(1, 40).Draw(t, "routers") {
			plan, _ := place(t, scheduler.Request{What: fmt.Sprint("router ", i), Count: want}, nodes)
			for rank, name := range plan.Nodes {
				load := &nodes[slices.IndexFunc(nodes, func(n scheduler.Node) bool { return n.Name == name })].Load
				if rank == 0 {
					load.Active++
				} else {
					load.Standby++
				}
			}
			active, total := make([]int, len(nodes)), make([]int, len(nodes))
			for j, n := range nodes {
				active[j], total[j] = n.Load.Active, n.Load.Active+n.Load.Standby
			}
			if slices.Max(active)-slices.Min(active) > 1 || slices.Max(total)-slices.Min(total) > 2 {
				t.Fatalf("after %d routers: active %v, in all %v", i+1, active, total)
			}
		}
	})
}

func TestRequestsPlacedAtTheSameMomentSpread(t *testing.T) {
	nodes := ables(3)
	times := map[string]int{}
	for i := range 300 {
		plan, err := scheduler.Place(scheduler.Request{What: fmt.Sprint("router ", i)}, nodes)
		if err != nil {
			t.Fatal(err)
		}
		times[plan.Nodes[0]]++
	}
	for _, n := range nodes {
		if times[n.Name] < 60 {
			t.Errorf("300 routers placed without knowing of each other: %v", times)
		}
	}
}

func TestThePoolThatCanHoldThemAllIsChosen(t *testing.T) {
	nodes := ables(4)
	nodes[3].Pool, nodes[1].Pool, nodes[2].Pool = "gold", "gold", "gold"
	req := scheduler.Request{What: "router r1"}
	plan, err := scheduler.Place(req, nodes)
	if err != nil || plan.Pool != "gold" || len(plan.Nodes) != 2 {
		t.Errorf("got %v, %v; want two of gold", plan, err)
	}
	req.Counts = map[string]int{"gold": 5, "default": 1}
	if plan, err = scheduler.Place(req, nodes); err != nil || plan.Pool != "default" || len(plan.Nodes) != 1 || plan.Wanted != 1 {
		t.Errorf("got %v, %v; want the one of default, which lacks none", plan, err)
	}
}

func TestTheErrorListsEveryNodeWithItsReasons(t *testing.T) {
	nodes := []scheduler.Node{able("net2"), able("net1"), able("cmp1"), able("net3"), able("net4"), able("net5"), able("net6")}
	nodes[0].Uplinks = map[string]scheduler.Uplink{"ext1": {Reason: "eth1 has no link"}}
	nodes[1].Alive, nodes[1].TunnelIP = false, netip.Addr{}
	nodes[2].Network = false
	nodes[3].Cordoned = true
	nodes[4].Draining = true
	nodes[5].Capacity, nodes[5].Load = 3, scheduler.Load{Active: 1, Standby: 2}
	nodes[6].Pool = "gold"
	_, err := scheduler.Place(scheduler.Request{
		What: "router r1", PhysicalNetworks: []string{"ext1", "ext2"}, Tunnels: true, Pool: "default",
	}, nodes)
	want := "no node can take router r1: cmp1: is not a network node; net1: has no tunnel address, is not alive; " +
		"net2: has no bridge for physical network ext2, its uplink to physical network ext1 is not proven: eth1 has no link; " +
		"net3: is cordoned; net4: is draining; net5: is full: it holds 3 routers, its capacity is 3; net6: is in pool gold, not in default"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = scheduler.Place(scheduler.Request{What: "router r1"}, nil)
	if want := "no node can take router r1: there are no nodes"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
