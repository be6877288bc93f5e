package ha_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/ha"
)

// The model's times. One end of a cut session notices up to interval after the other; the agent and Open vSwitch take up to
// reaction to do what a Machine decided. Config.Guard covers both. The store answers and tells within the delays.
const (
	detect, interval = 210, 30
	reaction         = 55
	storeDelay       = 20
	leaseLife        = 10_000
)

// fleet is a pool of nodes with a Machine each, a store, and the paths between them. Time goes in steps of a millisecond.
type fleet struct {
	*rapid.T
	now     int // milliseconds
	nodes   map[string]*member
	paths   map[[2]string]bool // whether tunnel frames pass between two nodes
	store   map[string]record
	witness map[string]witness
	next    int64
	events  map[int][]func()
	routers []string
}

type record struct {
	holder          string
	epoch, revision int64
}

// witness is what a node says of its peers.
type witness struct {
	heard, lost []string
	revision    int64
}

// member is one node.
type member struct {
	name    string
	m       *ha.Machine
	managed bool // reaches the store
	powered bool
	renewed int // when its lease was renewed last
	// seen is its mirror of the store; silent what it has done about the last decision.
	seen   map[string]record
	said   map[string]witness // what others said last, as it has seen it
	now    ha.Decision
	silent bool
	hushed map[string]int64
	peers  map[string]bool // session up, as Open vSwitch has it
}

func newModel(t *rapid.T, size, routers int) *fleet {
	f := &fleet{T: t, nodes: map[string]*member{}, paths: map[[2]string]bool{}, store: map[string]record{}, witness: map[string]witness{}, next: 1, events: map[int][]func(){}}
	for i := range size {
		name := fmt.Sprint("n", i)
		f.nodes[name] = &member{
			name: name, m: ha.New(config(name)), managed: true, powered: true, seen: map[string]record{}, said: map[string]witness{},
			hushed: map[string]int64{}, peers: map[string]bool{},
		}
	}
	for i := range routers {
		id := fmt.Sprint("r", i)
		f.routers = append(f.routers, id)
		f.store[id] = record{f.plan(id)[0], 1, f.next}
		f.next++
	}
	for a := range f.nodes {
		maps.Copy(f.nodes[a].seen, f.store)
		for b := range f.nodes {
			if a != b {
				f.paths[pair(a, b)] = true
				f.nodes[a].peers[b] = true
			}
		}
	}
	for _, n := range f.sorted() {
		f.tell(n)
		for peer := range n.peers {
			n.m.Session(f.time(), peer, true)
		}
	}
	return f
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

func (f *fleet) sorted() []*member {
	var out []*member
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		out = append(out, f.nodes[name])
	}
	return out
}

// plan is a router's: all nodes, beginning with another one for each.
func (f *fleet) plan(id string) []string {
	names := slices.Sorted(maps.Keys(f.nodes))
	first := int(id[1]-'0') % len(names)
	return append(slices.Clone(names[first:]), names[:first]...)
}

// after has something happen within a delay of the model's choice.
func (f *fleet) after(most int, what string, do func()) {
	at := f.now + 1 + rapid.IntRange(0, most).Draw(f.T, what)
	f.events[at] = append(f.events[at], do)
}

// tell hands a node the world as its mirror has it.
func (f *fleet) tell(n *member) {
	w := ha.World{Routers: map[string]ha.Router{}, Peers: map[string]ha.Peer{}, Switch: true}
	for id, r := range n.seen {
		w.Routers[id] = ha.Router{Plan: f.plan(id), Holder: r.holder, Epoch: r.epoch, Revision: r.revision, Ready: true}
	}
	for name, peer := range f.nodes {
		if name == n.name {
			continue
		}
		said := n.said[name]
		w.Peers[name] = ha.Peer{Live: f.now-peer.renewed < leaseLife || !n.managed, Heard: names(said.heard...), Lost: names(said.lost...), Revision: said.revision}
	}
	n.m.SetWorld(f.time(), w)
}

func (f *fleet) time() time.Time { return time.Unix(1000, 0).Add(time.Duration(f.now) * ms) }

// forwards reports whether a node forwards for a router at this moment.
func (f *fleet) forwards(n *member, id string) bool {
	r := n.seen[id]
	return n.powered && !n.silent && r.holder == n.name && n.hushed[id] != r.revision
}

// step is a millisecond.
func (f *fleet) step() {
	f.now++
	todo := f.events[f.now]
	delete(f.events, f.now)
	for _, do := range todo {
		do()
	}
	for _, n := range f.sorted() {
		if !n.powered {
			continue
		}
		if n.managed {
			n.renewed = f.now
		}
		if f.now%500 == 0 {
			f.tell(n)
		}
		f.decide(n)
	}
	for _, id := range f.routers {
		var by []string
		for _, n := range f.sorted() {
			if f.forwards(n, id) {
				by = append(by, n.name)
			}
		}
		if len(by) > 1 {
			f.Fatalf("at %d ms %v forward for %s", f.now, by, id)
		}
	}
}

func (f *fleet) decide(n *member) {
	d := n.m.Decide(f.time())
	if d.Silent != n.now.Silent {
		f.after(reaction, "reaction", func() { n.silent = n.now.Silent })
	}
	if !slices.Equal(d.Heard, n.now.Heard) || !slices.Equal(d.Lost, n.now.Lost) {
		f.broadcast(n, d)
	}
	n.now = d
	if d.Probe {
		f.ask(n, func(ok bool) {
			if ok {
				n.m.Answered(f.time())
			}
		})
	}
	for _, c := range d.Claims {
		if c.Cause == ha.HandOver || c.Cause == ha.Resign {
			f.after(reaction, "hush", func() { n.hushed[c.Router] = c.Revision; f.claim(n, c) })
		} else {
			f.claim(n, c)
		}
	}
}

// broadcast tells every node that reaches the store what a node has written there, if it does.
func (f *fleet) broadcast(n *member, d ha.Decision) {
	f.after(storeDelay, "write", func() {
		if !n.managed {
			return
		}
		f.next++
		w := witness{d.Heard, d.Lost, f.next}
		f.witness[n.name] = w
		for _, other := range f.sorted() {
			if other.managed && other.powered {
				f.after(storeDelay, "watch", func() { f.hear(other, n.name, w) })
			}
		}
	})
}

func (f *fleet) hear(n *member, of string, w witness) {
	if n.said[of].revision < w.revision {
		n.said[of] = w
		f.tell(n)
	}
}

// ask has the store answer a node, or not.
func (f *fleet) ask(n *member, then func(ok bool)) {
	f.after(storeDelay, "request", func() {
		ok := n.managed
		f.after(storeDelay, "answer", func() { then(ok && n.managed) })
	})
}

// claim is a compare and swap.
func (f *fleet) claim(n *member, c ha.Claim) {
	f.after(storeDelay, "request", func() {
		outcome, revision := ha.Unknown, int64(0)
		if n.managed && n.powered {
			outcome, revision = f.swap(c)
		}
		f.after(storeDelay, "answer", func() {
			if !n.managed || !n.powered {
				outcome = ha.Unknown
			}
			n.m.Claimed(f.time(), c, outcome, revision)
			if outcome == ha.Made {
				f.see(n, c.Router, record{c.To, c.Epoch + 1, revision})
			}
		})
	})
}

func (f *fleet) swap(c ha.Claim) (ha.Outcome, int64) {
	if f.store[c.Router].revision != c.Revision {
		return ha.Refused, 0
	}
	f.next++
	now := record{c.To, c.Epoch + 1, f.next}
	f.store[c.Router] = now
	for _, other := range f.sorted() {
		if other.managed && other.powered {
			f.after(storeDelay, "watch", func() { f.see(other, c.Router, now) })
		}
	}
	return ha.Made, f.next
}

func (f *fleet) see(n *member, id string, now record) {
	if n.seen[id].revision < now.revision {
		n.seen[id] = now
		f.tell(n)
	}
}

// cut breaks the path between two nodes, or mends it. Each end notices by itself; and an end that has noticed says so in its
// next packet, at which the other notices too, should the path have been mended meanwhile (RFC 5880 section 6.8.6).
func (f *fleet) cut(a, b string, passes bool) {
	if f.paths[pair(a, b)] == passes {
		return
	}
	f.paths[pair(a, b)] = passes
	wait := detect
	if passes {
		wait = 1000
	}
	first := rapid.IntRange(0, interval).Draw(f.T, "last packet")
	for _, end := range [][2]string{{a, b}, {b, a}} {
		at := f.now + wait + first - rapid.IntRange(0, interval).Draw(f.T, "of the other end")
		f.events[at] = append(f.events[at], func() {
			if f.paths[pair(a, b)] == passes {
				f.session(end[0], end[1], passes)
			}
		})
	}
}

// session sets one end of a session.
func (f *fleet) session(at, with string, up bool) {
	f.nodes[at].peers[with] = up
	f.nodes[at].m.Session(f.time(), with, up)
	if !up {
		f.after(interval-1, "next packet", func() { f.tellLost(at, with) })
	}
}

// tellLost is a packet of a node that has lost another, which does not know it yet; each interval has one.
func (f *fleet) tellLost(at, with string) {
	switch {
	case f.nodes[at].peers[with] || !f.nodes[with].peers[at]:
	case f.paths[pair(at, with)]:
		f.session(with, at, false)
	default:
		f.events[f.now+interval] = append(f.events[f.now+interval], func() { f.tellLost(at, with) })
	}
}

// manage cuts a node from the store, or mends it: then it reads what is there.
func (f *fleet) manage(n *member, reaches bool) {
	n.managed = reaches
	if !reaches {
		return
	}
	f.after(storeDelay, "relist", func() {
		if !n.managed {
			return
		}
		for id, r := range f.store {
			f.see(n, id, r)
		}
		for name, w := range f.witness {
			f.hear(n, name, w)
		}
		f.broadcast(n, n.now)
	})
}

// strike is one fault, or its end.
func (f *fleet) strike() {
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(f.nodes))).Draw(f.T, "node")
	n := f.nodes[name]
	switch rapid.SampledFrom([]string{"underlay", "management", "path", "restart"}).Draw(f.T, "fault") {
	case "underlay":
		passes := rapid.Bool().Draw(f.T, "passes")
		for other := range f.nodes {
			if other != name {
				f.cut(name, other, passes)
			}
		}
	case "restart":
		f.restart(n)
	case "management":
		f.manage(n, rapid.Bool().Draw(f.T, "reaches"))
	case "path":
		other := rapid.SampledFrom(slices.Sorted(maps.Keys(f.nodes))).Draw(f.T, "other")
		if other != name {
			f.cut(name, other, rapid.Bool().Draw(f.T, "passes"))
		}
	}
}

// restart ends a node's agent and starts another, which begins with what is in the store and with what the last one wrote.
func (f *fleet) restart(n *member) {
	if !n.managed {
		return // it would wait until it reaches the store
	}
	n.m = ha.New(config(n.name))
	maps.Copy(n.seen, f.store)
	for name, w := range f.witness {
		n.said[name] = w
	}
	f.tell(n)
	said, ok := f.witness[n.name]
	if !ok {
		said.heard = slices.Collect(maps.Keys(n.peers))
	}
	for _, peer := range said.heard {
		n.m.Remember(f.time(), peer, true)
	}
	for _, peer := range said.lost {
		n.m.Remember(f.time(), peer, false)
	}
	for peer, up := range n.peers {
		n.m.Session(f.time(), peer, up)
	}
}

// Whatever path is cut and mended, whatever agent is restarted, and whenever: two nodes never forward for one router, and when all is mended one does.
func TestTwoNodesNeverForwardForOneRouter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newModel(t, rapid.IntRange(2, 4).Draw(t, "nodes"), 2)
		for range rapid.IntRange(1, 6).Draw(t, "faults") {
			f.strike()
			for range rapid.IntRange(1, 600).Draw(t, "pause") {
				f.step()
			}
		}
		for _, n := range f.sorted() {
			f.manage(n, true)
			for other := range f.nodes {
				if other != n.name {
					f.cut(n.name, other, true)
				}
			}
		}
		for range 3000 {
			f.step()
		}
		for _, id := range f.routers {
			if !slices.ContainsFunc(f.sorted(), func(n *member) bool { return f.forwards(n, id) }) {
				t.Fatalf("nobody forwards for %s: %+v", id, f.store[id])
			}
		}
	})
}

// TestThePoolTakesOverFromANodeWithoutPower measures the model's own time: from the loss of power until all routers are
// forwarded for.
func TestThePoolTakesOverFromANodeWithoutPower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newModel(t, 3, 3)
		n := f.nodes["n0"]
		n.powered, n.managed = false, false
		for other := range f.nodes {
			if other != "n0" {
				f.cut("n0", other, false)
			}
		}
		const bound = detect + interval + 90 + 6*storeDelay
		for range bound {
			f.step()
		}
		for _, id := range f.routers {
			if !slices.ContainsFunc(f.sorted(), func(n *member) bool { return f.forwards(n, id) }) {
				t.Fatalf("after %d ms nobody forwards for %s: %+v", bound, id, f.store[id])
			}
		}
	})
}
