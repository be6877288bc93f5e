// Package ha decides when a network node takes routers over, keeps silent and hands over. It is pure: what the node knows
// of the store comes as a World, what it hears of its peers as calls, time as an argument, and what it has to do as a
// Decision. It knows neither flows nor etcd nor BFD; package agent has the effects.
//
// The rule that keeps two nodes from forwarding for one router: a node is taken over from only when more than half of its
// living peers have lost it, and a node that has lost more than half of its living peers is silent. Sessions between two
// nodes end on both sides within Config.Guard of each other, so that the one that takes over, having waited that long, comes
// after the silence. A silent node forwards again only for routers for which it has rewritten active/<router> itself, which
// fails if another was faster, and which makes the other fail if not.
package ha

import (
	"maps"
	"slices"
	"time"
)

// Config is what a Machine is told once.
type Config struct {
	// Self is the node's name.
	Self string
	// Guard is how long a standby waits after the pool has lost a holder: at least as long as one end of a session may notice
	// its loss after the other, and the holder takes to fall silent.
	Guard time.Duration
	// Yield is how long a silent node that still hears fewer than half of its peers leaves its routers to others, the longest
	// damping aside.
	Yield time.Duration
	// Blink is how soon a lost node is heard again that was only busy. For Calm after two such alarms it is taken over from
	// later, by Damp, twice that after three, and four times that at most.
	Blink, Calm, Damp time.Duration
	// Rank is how much later each further candidate of a plan acts.
	Rank time.Duration
	// Unready is how much later a standby acts that is not completely built, or whose uplinks are not proven.
	Unready time.Duration
	// Lease is how long the lease of a holder that nobody hears must have been gone, where no session has told of its loss.
	Lease time.Duration
	// Patience is how long a node that hears fewer than half of its peers, and forwards because nobody else does, goes on
	// without an answer of the store. It must be less than the life of a lease.
	Patience time.Duration
	// Retry is the pause after a claim whose outcome is not known.
	Retry time.Duration
}

// World is what the store says, and the node of itself.
type World struct {
	// Routers are those that the node is planned to hold.
	Routers map[string]Router
	// Peers are the other nodes of its pool.
	Peers map[string]Peer
	// Uplinks say which physical networks the node has proven to reach.
	Uplinks map[string]bool
	// Switch: Open vSwitch runs and has the node's flows. Without it nothing is taken over.
	Switch bool
	// Dead: Open vSwitch has ended, and nothing of the node's is forwarded.
	Dead bool
}

// Router is one that the node is planned to hold.
type Router struct {
	// Plan are all nodes planned to hold it, first choice first.
	Plan []string
	// Holder is the node that forwards; "" for none. Epoch and Revision are those of active/<router>.
	Holder          string
	Epoch, Revision int64
	// HandOver is the node that it is to be handed over to; "" for none.
	HandOver string
	// Ready: it is completely built on this node.
	Ready bool
	// Physical are the physical networks that it needs.
	Physical []string
}

// Peer is another node of the pool.
type Peer struct {
	// Live: its lease exists.
	Live bool
	// Gossip: it was heard of lately by way of gossip. That keeps a node that only the store has lost from being taken for
	// gone where no session tells; it says nothing else.
	Gossip bool
	// Heard and Lost are the nodes that it hears and those that it has lost, as it wrote at Revision of the store.
	Heard, Lost map[string]bool
	Revision    int64
	// Uplinks are as in World.
	Uplinks map[string]bool
}

// Cause is why a claim is made.
type Cause int

// The causes.
const (
	// Lost: the holder is lost.
	Lost Cause = iota
	// Confirm: the node is the holder, has been silent, for all routers or to give this one away, and wants to go on.
	Confirm
	// HandOver: the node is the holder and hands over, because it was told to.
	HandOver
	// Resign: the node is the holder and has lost an uplink, or Open vSwitch.
	Resign
)

// Claim is a wish to write active/<router>: To becomes its holder if its revision is still Revision. Before a claim of cause
// HandOver or Resign is made, the node must be silent for the router.
type Claim struct {
	Router          string
	To              string
	From            string
	Epoch, Revision int64 // of what is there now
	Cause           Cause
}

// Decision is what the node has to do.
type Decision struct {
	// Silent: the node forwards for no router.
	Silent bool
	// Claims are to be made at once. Each has to be followed by Claimed.
	Claims []Claim
	// Heard and Lost are the peers that the node hears and those that it has lost, sorted.
	Heard, Lost []string
	// Probe: the store is to be asked for anything at all, and Answered called when it has answered.
	Probe bool
	// Again is when to decide again if nothing happens before; zero: only when something happens.
	Again time.Time
}

// Outcome is what became of a claim.
type Outcome int

// The outcomes.
const (
	// Made: the store has it, at the revision told.
	Made Outcome = iota
	// Refused: the store has something else, of which the World will tell.
	Refused
	// Unknown: the store has not answered.
	Unknown
)

// Machine is one node's. It is not safe for concurrent use. Time must not go backwards.
type Machine struct {
	c     Config
	world World
	// up tells for each peer with which a session was ever up whether it still is.
	up map[string]bool

	// silent since, and the held routers that have been confirmed since.
	silent    bool
	since     time.Time
	confirmed map[string]bool
	// alone: the node forwards although it hears fewer than half of its peers. asked is when the store last answered.
	alone  bool
	asked  time.Time
	probed time.Time

	// losts is when the session with a peer ended, signs when the holder of a router was last seen to write its key anew.
	losts    map[string]time.Time
	signs    map[string]time.Time
	suspects map[string]*suspicion
	alarms   map[string]alarm
	gone     map[string]time.Time // peers without a lease -> since
	flights  map[string]*flight
	// doubts are routers that the node fell silent for to give them away, at which revision, and may still hold.
	doubts map[string]int64
	// inherited are peers whose session only an earlier run of the node has seen up: when it ended is not known.
	inherited map[string]bool
}

// maxAlarms is how many false alarms count.
const maxAlarms = 4

// alarm are the false alarms about a node, and when the last one ended.
type alarm struct {
	count int
	last  time.Time
}

// suspicion is of a holder that more than half of its peers have lost.
type suspicion struct {
	since time.Time
	// exempt are routers for which the holder has shown since that it lives.
	exempt map[string]bool
}

// flight is a claim under way, or one that has landed and that the World does not show yet.
type flight struct {
	claim Claim
	// revision is that of the claim that was made; 0 while it is under way.
	revision int64
	// until is when another may be made; zero: when the World shows another revision.
	until   time.Time
	refused bool
}

// New is a Machine that knows nothing yet.
func New(c Config) *Machine {
	return &Machine{
		c: c, up: map[string]bool{}, confirmed: map[string]bool{}, suspects: map[string]*suspicion{}, alarms: map[string]alarm{},
		losts: map[string]time.Time{}, signs: map[string]time.Time{}, gone: map[string]time.Time{}, flights: map[string]*flight{},
		doubts: map[string]int64{}, inherited: map[string]bool{},
	}
}

// SetWorld takes in what is known now. The maps are the Machine's from then on.
func (m *Machine) SetWorld(now time.Time, w World) {
	m.noteSigns(now, w.Routers)
	for id, f := range m.flights {
		r, planned := w.Routers[id]
		if !planned || (f.revision != 0 && r.Revision >= f.revision) || (f.refused && r.Revision != f.claim.Revision) {
			delete(m.flights, id)
		}
	}
	maps.DeleteFunc(m.doubts, func(id string, revision int64) bool { return w.Routers[id].Revision != revision })
	for name := range m.up {
		if _, ok := w.Peers[name]; !ok {
			delete(m.up, name)
			delete(m.losts, name)
			delete(m.inherited, name)
		}
	}
	maps.DeleteFunc(m.alarms, func(name string, _ alarm) bool { _, ok := w.Peers[name]; return !ok })
	m.world = w
	m.noteGone(now)
}

// voted is the revision at which the last of a node's other peers wrote that it has lost it; 0 when none has.
func (m *Machine) voted(node string) int64 {
	out := int64(0)
	for name, p := range m.world.Peers {
		if name != node && p.Live && p.Lost[node] {
			out = max(out, p.Revision)
		}
	}
	return out
}

// noteSigns notes which holders have shown that they live: they have become it, or have written their key anew.
func (m *Machine) noteSigns(now time.Time, routers map[string]Router) {
	for id, r := range routers {
		before, known := m.world.Routers[id]
		if before.Revision == r.Revision {
			continue
		}
		if known {
			m.signs[id] = now
		}
		if s := m.suspects[r.Holder]; s != nil {
			voted := m.voted(r.Holder)
			s.exempt[id] = known || voted == 0 || r.Revision > voted
		}
	}
	maps.DeleteFunc(m.signs, func(id string, _ time.Time) bool { _, planned := routers[id]; return !planned })
}

func (m *Machine) noteGone(now time.Time) {
	for name, p := range m.world.Peers {
		if _, noted := m.gone[name]; !p.Live && !p.Gossip && !noted {
			m.gone[name] = now
		}
	}
	maps.DeleteFunc(m.gone, func(name string, _ time.Time) bool {
		p, ok := m.world.Peers[name]
		return !ok || p.Live || p.Gossip
	})
}

// Session tells that the session with a peer has come up, or has ended. The end of one that was never up tells nothing.
func (m *Machine) Session(now time.Time, peer string, up bool) {
	was, known := m.up[peer]
	if !known && !up {
		return
	}
	if was && !up {
		m.losts[peer] = now
	}
	if up {
		delete(m.inherited, peer)
	}
	m.up[peer] = up
}

// Deaf tells that all sessions have ended because this node's own Open vSwitch has.
func (m *Machine) Deaf(now time.Time) {
	for peer := range m.up {
		m.Session(now, peer, false)
	}
}

// Claimed tells what became of a claim; revision is that of active/<router> after one that was made.
func (m *Machine) Claimed(now time.Time, c Claim, o Outcome, revision int64) {
	f := m.flights[c.Router]
	if f == nil || f.claim != c {
		return
	}
	if o != Unknown {
		m.asked = now
	}
	if o != Made && (c.Cause == HandOver || c.Cause == Resign) {
		m.doubts[c.Router] = c.Revision
	}
	switch o {
	case Made:
		f.revision = revision
		if c.To == m.c.Self {
			m.confirmed[c.Router] = true
		}
		if m.world.Routers[c.Router].Revision >= revision {
			delete(m.flights, c.Router)
		}
	case Refused:
		f.refused, f.until = true, now.Add(time.Second)
		if s := m.suspects[c.From]; s != nil {
			s.exempt[c.Router] = true
		}
	case Unknown:
		f.until = now.Add(m.c.Retry)
	}
}

// Remember tells, before the first Decide, what an earlier run of the node has said of a peer: that it hears it, or has lost
// it. Its silence goes on with that.
func (m *Machine) Remember(now time.Time, peer string, up bool) {
	m.Session(now, peer, true)
	m.Session(now, peer, up)
	m.inherited[peer] = true
}

// Answered tells that the store has answered.
func (m *Machine) Answered(now time.Time) { m.asked = now }

// Decide says what to do now. Claims that it gives are taken to be under way.
func (m *Machine) Decide(now time.Time) Decision {
	d := deciding{Machine: m, now: now}
	maps.DeleteFunc(m.flights, func(_ string, f *flight) bool { return !f.until.IsZero() && !now.Before(f.until) })
	d.suspect()
	d.hush()
	d.probe()
	for _, id := range slices.Sorted(maps.Keys(m.world.Routers)) {
		r := m.world.Routers[id]
		switch {
		case m.flights[id] != nil:
			d.at(m.flights[id].until)
		case r.Holder == m.c.Self:
			d.held(id, r)
		case r.Holder != "":
			d.standby(id, r)
		}
	}
	d.unhush()
	d.out.Silent = m.silent
	for _, peer := range slices.Sorted(maps.Keys(m.up)) {
		if m.up[peer] {
			d.out.Heard = append(d.out.Heard, peer)
		} else {
			d.out.Lost = append(d.out.Lost, peer)
		}
	}
	return d.out
}
