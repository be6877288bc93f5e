package scheduler_test

import (
	"fmt"
	"testing"

	"github.com/weft-sdn/weft/scheduler"
)

// fleetOf is some network nodes in a fleet of compute nodes.
func fleetOf(network, compute int) []scheduler.Node {
	nodes := ables(network)
	for i := range compute {
		n := able(fmt.Sprint("cmp", i))
		n.Network = false
		nodes = append(nodes, n)
	}
	return nodes
}

func BenchmarkPlaceARouterOn10NodesOf1010(b *testing.B) {
	nodes := fleetOf(10, 1000)
	for i := range b.N {
		if _, err := scheduler.Place(scheduler.Request{What: fmt.Sprint("router ", i), PhysicalNetworks: []string{"ext1"}, Tunnels: true}, nodes); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRebalance5000RoutersOn50Nodes(b *testing.B) {
	nodes := fleetOf(50, 0)
	var routers []scheduler.Placed
	for i := range 5000 {
		on, standby := i%40, 1+(i+i/40)%49
		nodes[on].Load.Active++
		routers = append(routers, scheduler.Placed{
			ID: fmt.Sprintf("r%04d", i), Active: nodes[on].Name,
			Request: scheduler.Request{What: fmt.Sprint("router ", i), PhysicalNetworks: []string{"ext1"}, Current: []string{nodes[on].Name, nodes[standby].Name}},
		})
	}
	for b.Loop() {
		if moves := scheduler.Rebalance(nodes, routers, 40); len(moves) != 40 {
			b.Fatalf("%d moves", len(moves))
		}
	}
}
