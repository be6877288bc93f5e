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

// able is a network node that can take everything that these tests place.
func able(name string) scheduler.Node {
	return scheduler.Node{Name: name, Alive: true, Network: true, Physnets: map[string]bool{"ext1": true, "ext2": true}, TunnelIP: tunnelIP}
}

func drawNode(t *rapid.T, name string) scheduler.Node {
	n := scheduler.Node{
		Name: name, Alive: rapid.IntRange(0, 4).Draw(t, "alive") > 0, Network: rapid.IntRange(0, 3).Draw(t, "network") > 0,
		Physnets: map[string]bool{"ext1": rapid.Bool().Draw(t, "ext1"), "ext2": rapid.Bool().Draw(t, "ext2")},
		Load:     scheduler.Load{Routers: rapid.IntRange(0, 4).Draw(t, "routers"), DHCP: rapid.IntRange(0, 4).Draw(t, "dhcp")},
	}
	if rapid.Bool().Draw(t, "tunnels") {
		n.TunnelIP = tunnelIP
	}
	if rapid.IntRange(0, 3).Draw(t, "problems") == 0 {
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
	return scheduler.Request{
		What:             "router " + rapid.StringMatching("[a-f0-9]{8}").Draw(t, "id"),
		PhysicalNetworks: rapid.SliceOfDistinct(rapid.SampledFrom([]string{"ext1", "ext2"}), rapid.ID).Draw(t, "physnets"),
		Tunnels:          rapid.Bool().Draw(t, "tunnels"), Count: rapid.IntRange(0, 4).Draw(t, "count"),
		Current: rapid.SliceOfDistinct(rapid.SampledFrom([]string{"n0", "n1", "n2", "gone"}), rapid.ID).Draw(t, "current"),
	}
}

// valid says independently of the scheduler whether a node can take a request.
func valid(req scheduler.Request, n scheduler.Node) bool {
	missing := slices.ContainsFunc(req.PhysicalNetworks, func(p string) bool { return !n.Physnets[p] })
	return n.Alive && n.Network && !missing && (!req.Tunnels || n.TunnelIP.IsValid())
}

func validNames(req scheduler.Request, nodes []scheduler.Node) (names []string) {
	for _, n := range nodes {
		if valid(req, n) {
			names = append(names, n.Name)
		}
	}
	return names
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

func TestOnlyValidNodesAreChosenAsManyAsWantedAndCan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		can := validNames(req, nodes)
		plan, ok := place(t, req, nodes)
		if ok != (len(can) > 0) {
			t.Fatalf("placed: %v, valid nodes: %v", ok, can)
		}
		if want := min(max(req.Count, 1), len(can)); len(plan.Nodes) != want {
			t.Fatalf("%d nodes, want %d", len(plan.Nodes), want)
		}
		for i, n := range plan.Nodes {
			if !slices.Contains(can, n) || slices.Contains(plan.Nodes[:i], n) {
				t.Fatalf("%v: %s is not valid or stands twice", plan.Nodes, n)
			}
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
		can := validNames(req, nodes)
		if len(rejected) != len(nodes)-len(can) {
			t.Fatalf("%d rejections, %d nodes, %d valid", len(rejected), len(nodes), len(can))
		}
		for i, r := range rejected {
			if slices.Contains(can, r.Node) || r.Reason == "" || i > 0 && rejected[i-1].Node >= r.Node {
				t.Fatalf("rejections %v", rejected)
			}
			if err != nil && !strings.Contains(err.Error(), r.Node+": "+r.Reason) {
				t.Fatalf("%q does not tell %v", err, r)
			}
		}
	})
}

func TestNodesThatCanStayAreKeptInTheirOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		can := validNames(req, nodes)
		plan, _ := place(t, req, nodes)
		var want []string
		for _, c := range req.Current {
			if slices.Contains(can, c) && len(want) < max(req.Count, 1) {
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
			nodes[i].Load.Routers = rapid.IntRange(0, 99).Draw(t, "load later")
		}
		if again, _ := place(t, req, nodes); !slices.Equal(plan.Nodes, again.Nodes) {
			t.Fatalf("%v moved to %v", plan.Nodes, again.Nodes)
		}
	})
}

func TestTheLostNodesAloneAreReplaced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []scheduler.Node{able("n0"), able("n1"), able("n2"), able("n3"), able("n4")}
		req := scheduler.Request{What: "router r1", Count: 3}
		before, _ := place(t, req, nodes)
		dead := rapid.IntRange(0, 4).Draw(t, "dead")
		nodes[dead].Alive = false
		req.Current = before.Nodes
		after, _ := place(t, req, nodes)
		for _, n := range before.Nodes {
			if n != nodes[dead].Name && !slices.Contains(after.Nodes, n) {
				t.Fatalf("%v became %v when %s died", before.Nodes, after.Nodes, nodes[dead].Name)
			}
		}
	})
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

func TestNewChoicesAreTheLeastLoaded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, nodes := drawRequest(t), drawNodes(t)
		req.Current = nil
		plan, _ := place(t, req, nodes)
		for _, chosen := range nodes {
			if !slices.Contains(plan.Nodes, chosen.Name) {
				continue
			}
			for _, other := range nodes {
				if valid(req, other) && !slices.Contains(plan.Nodes, other.Name) && better(other, chosen) {
					t.Fatalf("%s was chosen before %s", chosen.Name, other.Name)
				}
			}
		}
	})
}

func better(a, b scheduler.Node) bool {
	if (len(a.Problems) > 0) != (len(b.Problems) > 0) {
		return len(b.Problems) > 0
	}
	return a.Load.Routers+a.Load.DHCP < b.Load.Routers+b.Load.DHCP
}

func TestEqualNodesAreLoadedEquallyGiveOrTakeOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := []scheduler.Node{able("n0"), able("n1"), able("n2"), able("n3")}[:rapid.IntRange(1, 4).Draw(t, "nodes")]
		count := rapid.IntRange(1, 3).Draw(t, "count")
		for i := range rapid.IntRange(1, 40).Draw(t, "routers") {
			plan, _ := place(t, scheduler.Request{What: fmt.Sprint("router ", i), Count: count}, nodes)
			for j := range nodes {
				if slices.Contains(plan.Nodes, nodes[j].Name) {
					nodes[j].Load.Routers++
				}
			}
			loads := make([]int, len(nodes))
			for j, n := range nodes {
				loads[j] = n.Load.Routers
			}
			if slices.Max(loads)-slices.Min(loads) > 1 {
				t.Fatalf("after %d routers the loads are %v", i+1, loads)
			}
		}
	})
}

func TestRequestsPlacedAtTheSameMomentSpread(t *testing.T) {
	nodes := []scheduler.Node{able("net1"), able("net2"), able("net3")}
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

func TestTheErrorListsEveryNodeWithItsReasons(t *testing.T) {
	cmp1, net1, net2 := able("cmp1"), able("net1"), able("net2")
	cmp1.Network = false
	net1.Alive, net1.TunnelIP = false, netip.Addr{}
	net2.Physnets = map[string]bool{"ext1": true}
	_, err := scheduler.Place(
		scheduler.Request{What: "router r1", PhysicalNetworks: []string{"ext1", "ext2"}, Tunnels: true},
		[]scheduler.Node{net2, net1, cmp1},
	)
	want := "no node can take router r1: cmp1: is not a network node; net1: is not alive, has no tunnel address; net2: has no bridge for physical network ext2"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = scheduler.Place(scheduler.Request{What: "router r1"}, nil)
	if want := "no node can take router r1: there are no nodes"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
