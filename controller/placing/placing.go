// Package placing puts DHCP services and routers on nodes: it asks the scheduler where, and appends to a transaction what
// follows: placements, bindings and the DHCP servers' own ports. The API's handlers use it when a change asks for a
// place, the leader's loops when nodes come, go or are drained. It does not commit, and what it appends is guarded: a
// plan's edits by the object's key and, of routers, by active/, so that an agent that takes a router over meanwhile, or
// another edit, makes the commit fail.
package placing

import (
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Pools is what operators say of pools, by name.
type Pools map[string]*storev1.PoolSettings

// routers is how many nodes each pool wants for a router that does not say.
func (p Pools) routers() map[string]int {
	out := make(map[string]int, len(p))
	for name, settings := range p {
		out[name] = int(settings.GetHa())
	}
	return out
}

// servers is how many nodes each pool wants for the DHCP of a network that does not say, if no more than most can be had.
func (p Pools) servers(most int) map[string]int {
	out := make(map[string]int, len(p))
	for name, settings := range p {
		out[name] = min(int(settings.GetDhcpServers()), most)
	}
	return out
}

// Change is a transaction under construction that needs a place for something. It is not safe for concurrent use.
type Change struct {
	View  *record.View
	Alloc *alloc.Allocator
	Txn   *txn.Txn
	Now   *timestamppb.Timestamp
	// Nodes tells what the scheduler may choose from, Pools what is said of their pools. They are asked only when something
	// has to be placed.
	Nodes func() []scheduler.Node
	Pools func() Pools
}

// Replan is what has to become of a plan, besides what the object and its pool ask for. The zero value lets what can stay
// stay, in its order, fills up to the wanted count and trims what is above it.
type Replan struct {
	// Leaving are nodes that are to go, each with the reason as in scheduler.Request.
	Leaving map[string]string
	// Keep are nodes of the plan that stay for the time being even if they are leaving or more than wanted.
	Keep []string
	// Add is a node that is to be in the plan, whatever the wanted count; "" none. The nodes that there are stay then, but
	// for those that leave and are not kept.
	Add string
	// First is a node that goes to the front of the plan; "" none.
	First string
	// HandOver is the node of the plan that the active one hands the router over to; "" none. Of routers only.
	HandOver string
}

// reorder is a plan with the node to be added, and with the first in its place.
func (r *Replan) reorder(nodes []string) []string {
	out := slices.Clone(nodes)
	if r.Add != "" && !slices.Contains(out, r.Add) {
		out = append(out, r.Add)
	}
	if i := slices.Index(out, r.First); i > 0 {
		out = slices.Insert(slices.Delete(out, i, i+1), 0, r.First)
	}
	return out
}

// UnfitError says why a node can't be added to a plan.
type UnfitError struct {
	// What is the object in words, Reason goes after the node's name.
	What, Node, Reason string
}

func (e *UnfitError) Error() string {
	return "node " + e.Node + " can't take " + e.What + ": it " + e.Reason
}

func tunnelled(n *weftv1.Network) bool {
	return n.GetType() == weftv1.NetworkType_NETWORK_TYPE_VXLAN || n.GetType() == weftv1.NetworkType_NETWORK_TYPE_GRE
}

// needs adds what a node must have to carry a network.
func needs(req *scheduler.Request, n *weftv1.Network) {
	if tunnelled(n) {
		req.Tunnels = true
		return
	}
	if p := n.GetPhysicalNetwork(); !slices.Contains(req.PhysicalNetworks, p) {
		req.PhysicalNetworks = append(req.PhysicalNetworks, p)
	}
}

// maxRejected is how many rejections an object keeps.
const maxRejected = 32

// rejections is what an object keeps of why nodes were rejected: that a node is no network node is no news.
func rejections(in []scheduler.Rejection, nodes []scheduler.Node) []*weftv1.NodeRejection {
	network := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		network[n.Name] = n.Network
	}
	var out []*weftv1.NodeRejection
	for _, r := range in {
		if network[r.Node] && len(out) < maxRejected {
			out = append(out, &weftv1.NodeRejection{Node: r.Node, Reason: r.Reason})
		}
	}
	return out
}

// everPossible reports whether a registered node could take the request if it were at its best.
func everPossible(req scheduler.Request, registered []scheduler.Node) bool {
	nodes := slices.Clone(registered)
	for i := range nodes {
		n := &nodes[i]
		n.Alive, n.Cordoned, n.Draining, n.Capacity = true, false, false, 0
		uplinks := make(map[string]scheduler.Uplink, len(n.Uplinks))
		for physnet := range n.Uplinks {
			uplinks[physnet] = scheduler.Uplink{Proven: true}
		}
		n.Uplinks = uplinks
	}
	_, err := scheduler.Place(req, nodes)
	return err == nil
}
