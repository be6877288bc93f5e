package scheduler

import (
	"cmp"
	"fmt"
	"slices"
)

// Placed is a router that may be moved.
type Placed struct {
	ID string
	// Request is what the router needs; its Current is the router's plan, its Kind is Router.
	Request Request
	// Active is the node that forwards for it.
	Active string
}

// Move makes another node the active one of a router.
type Move struct {
	Router, From, To string
	// Standby: To is in the router's plan already.
	Standby bool
	// Reason is for the operator.
	Reason string
}

// Rebalance works out the moves of active routers that even out how many the nodes of each pool have: few of them, at
// most as many as limit says, rather to a node that is a standby already, each router at most once. From a pool whose
// busiest node has at most one router more than its idlest nothing is moved. Nodes that can't take anything new get
// nothing, and those that leave are not emptied: that is a drain. Neither the order of nodes nor that of routers matters.
func Rebalance(nodes []Node, routers []Placed, limit int) []Move {
	b := newBalance(nodes, routers)
	var moves []Move
	for len(moves) < limit {
		m, ok := b.next()
		if !ok {
			break
		}
		moves = append(moves, m)
	}
	return moves
}

// balance is the state between two moves.
type balance struct {
	nodes  []Node              // those that take part, by name
	work   map[string]int      // by node: how many routers are active there
	active map[string][]Placed // by node: those that have not been moved
}

func newBalance(nodes []Node, routers []Placed) *balance {
	b := &balance{work: map[string]int{}, active: map[string][]Placed{}}
	for _, n := range nodes {
		if n.Network && n.Alive && !n.Cordoned && !n.Draining {
			b.nodes = append(b.nodes, n)
			b.work[n.Name] = n.Load.Active
		}
	}
	slices.SortFunc(b.nodes, func(x, y Node) int { return cmp.Compare(x.Name, y.Name) })
	for _, r := range routers {
		b.active[r.Active] = append(b.active[r.Active], r)
	}
	for _, on := range b.active {
		slices.SortFunc(on, func(x, y Placed) int { return cmp.Compare(x.ID, y.ID) })
	}
	return b
}

// next makes the move between the nodes that differ most, and of such the one to a standby.
func (b *balance) next() (Move, bool) {
	var best Move
	most := 1 // a difference of one can't be made smaller
	for _, from := range b.nodes {
		for _, to := range b.nodes {
			diff := b.work[from.Name] - b.work[to.Name]
			if from.Pool != to.Pool || diff < 2 || diff < most || diff == most && best.Standby {
				continue
			}
			m, ok := b.between(from, to)
			if ok && (diff > most || best.Router == "" || m.Standby) {
				best, most = m, diff
			}
		}
	}
	if best.Router == "" {
		return Move{}, false
	}
	b.apply(&best)
	return best, true
}

// between finds the router to move between two nodes, rather one that has a standby there.
func (b *balance) between(from, to Node) (best Move, found bool) {
	for _, r := range b.active[from.Name] {
		standby := slices.Contains(r.Request.Current, to.Name)
		if found && !standby || Check(r.Request, []Node{from, to}, to.Name) != "" {
			continue
		}
		best, found = Move{Router: r.ID, From: from.Name, To: to.Name, Standby: standby}, true
		if standby {
			break
		}
	}
	return best, found
}

func (b *balance) apply(m *Move) {
	m.Reason = fmt.Sprintf("rebalance: %s has %d active routers, %s has %d", m.From, b.work[m.From], m.To, b.work[m.To])
	b.work[m.From]--
	b.work[m.To]++
	b.active[m.From] = slices.DeleteFunc(b.active[m.From], func(r Placed) bool { return r.ID == m.Router })
}
