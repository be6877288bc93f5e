// Package keeper is what the leader does: it keeps every router on as many nodes as it asks for, and every network's DHCP
// served by as many, while nodes come, die, are drained and come back, and carries out the wishes to move a router. It
// looks at what is, not at what has happened: each step is one guarded transaction that follows from the store as it is, so
// that a leader that dies between any two steps is followed by one that goes on.
//
// It edits plans; it never takes a router from a node that forwards. That one is told to hand over, when another has
// reported that it is ready, and does so itself; where it is dead, the nodes of the plan find out and take over without
// being told (DESIGN D5).
package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/leader"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Options is what a Keeper needs.
type Options struct {
	Store *store.Store
	Fleet *fleet.Fleet
	Log   *slog.Logger
	// DeadAfter is how long a node may be without a living agent, beyond its lease, until others are planned in its place;
	// default 15 s.
	DeadAfter time.Duration
	// Moving is how many routers are told to hand over at the same time; default 2.
	Moving int
	// Stuck is how long a router that is being handed over counts as one of these: those that can't be stop no other; default
	// 10 s.
	Stuck time.Duration
	// Pace is how far apart changes of plans are that nobody waits for: hand-overs, and what makes room on nodes that leave.
	// Nodes that move routers as fast as they can forward the worse for it, and each router is silent for longer. Default 200 ms.
	Pace time.Duration
}

// Keeper keeps. Make it with New; Run does the work.
type Keeper struct {
	opts Options
}

// New makes a Keeper.
func New(opts Options) *Keeper {
	opts.DeadAfter = cmp.Or(opts.DeadAfter, 15*time.Second)
	opts.Moving = cmp.Or(opts.Moving, 2)
	opts.Stuck = cmp.Or(opts.Stuck, 10*time.Second)
	opts.Pace = cmp.Or(opts.Pace, 200*time.Millisecond)
	return &Keeper{opts: opts}
}

const (
	// calm is how long changes are collected: they come in crowds.
	calm = 10 * time.Millisecond
	// period is how often everything is looked at although nothing seems to have changed.
	period = 2 * time.Minute
	// stepTimeout bounds the reads and the commit for one object.
	stepTimeout = 5 * time.Second
)

// Run works until the context ends, every write under the term's guard.
func (k *Keeper) Run(ctx context.Context, term leader.Term) {
	m := mirror.New(k.opts.Store, mirror.Options{Log: k.opts.Log, Check: schema.Check})
	defer m.Close()
	for _, f := range scopes {
		m.Follow(string(f), mirror.Under(keys.All(f)))
	}
	feed := k.opts.Fleet.Feed()
	defer feed.Close()
	w := newWork(k.opts, term)
	again, round := time.NewTimer(0), time.NewTicker(period)
	defer again.Stop()
	defer round.Stop()
	for ctx.Err() == nil {
		changed := k.opts.Fleet.Changed()
		w.take(m.Take())
		w.touch(feed.Take()...)
		again.Reset(w.look(ctx))
		select {
		case <-ctx.Done():
		case <-m.Wake():
		case <-feed.Wake():
		case <-changed:
		case <-again.C:
		case <-round.C:
			w.touchAll()
		}
		pause(ctx, calm)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// scopes are what the leader follows besides the fleet.
var scopes = []keys.Family{keys.FamilyRouter, keys.FamilyNetwork, keys.FamilyMove}

// known is what is known of a router or of a network's DHCP.
type known struct {
	placed bool     // it needs nodes
	nodes  []string // its plan
	wanted int      // how many it asks for; 0: as its pool says
	// seen is set once the store has been read for it in this term: what is not in a known may need a step.
	seen bool
	// failures in a row, and when to try again.
	failures int
	until    time.Time
}

// work is the state of one term. One goroutine owns it.
type work struct {
	Options
	term    leader.Term
	listed  int
	known   map[fleet.Object]*known
	moves   map[string]bool // routers that somebody wishes to move
	dirty   map[fleet.Object]bool
	moving  map[string]time.Time  // routers that are being handed over, and since when
	moved   time.Time             // when that last changed
	paced   time.Time             // when the next change may be made that nobody waits for
	blocked map[fleet.Object]bool // routers that wait until fewer are
	nodes   nodes
	able    map[string]string // what each node can take, as text
	// pools is the pool of each node, settings what is said of pools.
	pools    map[string]string
	settings map[string]*storev1.PoolSettings
}

func newWork(opts Options, term leader.Term) *work {
	return &work{
		Options: opts, term: term, known: map[fleet.Object]*known{}, moves: map[string]bool{}, dirty: map[fleet.Object]bool{},
		moving: map[string]time.Time{}, blocked: map[fleet.Object]bool{}, able: map[string]string{},
	}
}

// touch marks objects to be looked at.
func (w *work) touch(objects ...fleet.Object) {
	for _, o := range objects {
		w.dirty[o] = true
	}
}

func (w *work) touchAll() {
	for o, known := range w.known {
		known.seen = false
		w.touch(o)
	}
}

func (w *work) take(b mirror.Batch) {
	w.listed += len(b.Listed)
	for _, c := range b.Changes {
		k, err := keys.Parse(c.Key)
		if err == nil {
			err = w.change(k, c)
		}
		if err != nil {
			w.Log.Warn("ignoring a key", "key", c.Key, "error", err)
		}
	}
}

func (w *work) change(k keys.Key, c mirror.Change) error {
	id := strings.Clone(k.ID())
	switch k.Family { //nolint:exhaustive // the scopes
	case keys.FamilyMove:
		delete(w.moves, id)
		if c.Value != nil {
			w.moves[id] = true
		}
		w.touch(fleet.Object{Kind: keys.KindRouter, ID: id})
		return nil
	case keys.FamilyNetwork:
		net := &weftv1.Network{}
		err := proto.Unmarshal(c.Value, net)
		w.changeObject(fleet.Object{Kind: keys.KindDHCP, ID: id}, c.Value == nil || err != nil, net.GetDhcpPlacement(), net.GetDhcpServers())
		return err
	default:
		router := &weftv1.Router{}
		err := proto.Unmarshal(c.Value, router)
		w.changeObject(fleet.Object{Kind: keys.KindRouter, ID: id}, c.Value == nil || err != nil, router.GetPlacement(), router.GetHa())
		return err
	}
}

func (w *work) changeObject(o fleet.Object, gone bool, placement *weftv1.Placement, wanted int32) {
	w.touch(o)
	if gone {
		delete(w.known, o)
		if o.Kind == keys.KindRouter {
			delete(w.moving, o.ID) // it is not looked at again
		}
		return
	}
	w.known[o] = &known{placed: placement != nil, nodes: slices.Clone(placement.GetNodes()), wanted: int(wanted)}
}

// look makes every step that can be made now, and returns when to look again though nothing happens.
func (w *work) look(ctx context.Context) time.Duration {
	if w.listed < len(scopes) {
		return period
	}
	next := w.lookAtNodes()
	w.unblock()
	for _, o := range w.sorted() {
		if ctx.Err() != nil {
			return period
		}
		known := w.known[o]
		if w.quiet(o, known) {
			delete(w.dirty, o)
			continue
		}
		if wait := w.wait(o, known); wait > 0 {
			next = min(next, wait)
			continue
		}
		rank := w.rank(o)
		loads, err := w.step(ctx, o)
		if loads && rank > handOvers {
			w.paced = time.Now().Add(w.Pace)
		}
		switch {
		case err == nil:
			delete(w.dirty, o)
			if known != nil {
				known.seen, known.failures = true, 0
			}
		case errors.Is(err, leader.ErrEnded):
			return period // the context is about to end
		case errors.Is(err, store.ErrUnavailable):
			w.Log.Warn("placing waits for the store", "error", err)
			return time.Second
		default:
			next = min(next, w.failed(ctx, o, err))
		}
	}
	return max(min(next, w.unblock()), time.Millisecond)
}

// unblock has as many of those that wait looked at again as need not any more, and returns when to look again.
func (w *work) unblock() time.Duration {
	busy, next := w.busy()
	pace := time.Until(w.paced)
	switch {
	case len(w.blocked) == 0:
		return period
	case busy >= w.Moving:
		return next
	case pace > 0:
		return pace
	}
	for o := range w.blocked {
		if busy++; busy > w.Moving {
			break
		}
		w.touch(o)
		delete(w.blocked, o)
	}
	return calm
}

// busy is how many routers are being handed over, those that seem to be stuck aside, and when the next one will seem so.
func (w *work) busy() (n int, next time.Duration) {
	next = period
	for _, since := range w.moving {
		if left := time.Until(since.Add(w.Stuck)); left > 0 {
			n, next = n+1, min(next, left)
		}
	}
	return n, next
}

func (w *work) isMoving(router string) bool {
	_, moving := w.moving[router]
	return moving
}

// stalled is how long what makes room on a drained node waits for a router that is being handed over.
const stalled = 2 * time.Second

// wait is how long an object has to wait: until it is tried again, or until the routers that are being handed over have been.
// What replaces them on a node that is drained is built afterwards, not while others wait for nodes that are busy.
func (w *work) wait(o fleet.Object, k *known) time.Duration {
	if k == nil {
		return 0
	}
	wait := time.Until(k.until)
	if w.rank(o) <= handOvers {
		return wait
	}
	if slices.ContainsFunc(k.nodes, func(node string) bool { return w.nodes.draining[node] }) {
		wait = max(wait, w.handing())
	}
	if slices.ContainsFunc(k.nodes, func(node string) bool { return w.nodes.leaving(node) != "" }) {
		wait = max(wait, time.Until(w.paced))
	}
	return wait
}

// handing is how long to wait for routers that are being handed over, or that wait for that.
func (w *work) handing() time.Duration {
	if len(w.moving)+len(w.blocked) == 0 {
		return 0
	}
	return time.Until(w.moved.Add(stalled))
}

// The order of objects: what works nowhere, routers to be handed over, the rest.
const (
	placeless = iota
	handOvers
	others
)

func (w *work) rank(o fleet.Object) int {
	k := w.known[o]
	if k != nil && k.placed && len(k.nodes) == 0 {
		return placeless
	}
	if o.Kind == keys.KindRouter {
		if active, _ := w.Fleet.Active(o.ID); w.isMoving(o.ID) || w.moves[o.ID] || w.nodes.draining[active] {
			return handOvers
		}
	}
	return others
}

// failed notes that an object could not be dealt with: it waits longer each time, and stops no other.
func (w *work) failed(ctx context.Context, o fleet.Object, err error) time.Duration {
	known := w.known[o]
	if known == nil || ctx.Err() != nil {
		return time.Second
	}
	known.failures++
	wait := min(250*time.Millisecond<<min(known.failures, 10), period/2)
	wait = wait/2 + rand.N(wait/2)
	known.until = time.Now().Add(wait)
	w.Log.Warn("placing failed, trying again later", "kind", o.Kind, "id", o.ID, "in", wait.Round(time.Millisecond), "error", err)
	return wait
}

// sorted are the marked objects in their order.
func (w *work) sorted() []fleet.Object {
	out, ranks := make([]fleet.Object, 0, len(w.dirty)), make(map[fleet.Object]int, len(w.dirty))
	for o := range w.dirty {
		out, ranks[o] = append(out, o), w.rank(o)
	}
	slices.SortFunc(out, func(a, b fleet.Object) int {
		return cmp.Or(cmp.Compare(ranks[a], ranks[b]), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// quiet reports whether an object can't need anything, by what is known without reading it: most reports and changes end
// here.
func (w *work) quiet(o fleet.Object, k *known) bool {
	switch {
	case o.Kind == keys.KindRouter && w.moves[o.ID]:
		return false
	case k == nil || !k.placed:
		return true
	case !k.seen || o.Kind == keys.KindRouter && w.isMoving(o.ID):
		return false
	}
	for _, node := range k.nodes {
		if w.nodes.leaving(node) != "" {
			return false
		}
	}
	if len(k.nodes) != w.wanted(o, k) {
		return false
	}
	if o.Kind == keys.KindDHCP {
		return true
	}
	active, _ := w.Fleet.Active(o.ID)
	return slices.Contains(k.nodes, active) && (active == k.nodes[0] || !w.settings[w.pools[active]].GetFailback())
}

// wanted is how many nodes an object asks for, or its pool does.
func (w *work) wanted(o fleet.Object, k *known) int {
	var settings *storev1.PoolSettings
	if len(k.nodes) > 0 {
		settings = w.settings[w.pools[k.nodes[0]]]
	}
	count := settings.GetHa()
	if o.Kind == keys.KindDHCP {
		count = settings.GetDhcpServers()
	}
	return cmp.Or(k.wanted, int(count), scheduler.DefaultCount)
}

// lookAtNodes marks what is on nodes that have changed, and what lacks a node when one can take something new. It returns
// when the next node that is away will be dead.
func (w *work) lookAtNodes() time.Duration {
	all := w.Fleet.Nodes()
	now, next := w.current(all)
	changed := map[string]bool{}
	for _, n := range all {
		if now.alive[n.Name] != w.nodes.alive[n.Name] || now.leaving(n.Name) != w.nodes.leaving(n.Name) ||
			!maps.Equal(now.proven[n.Name], w.nodes.proven[n.Name]) {
			changed[n.Name] = true
		}
	}
	w.nodes = now
	gained, told := w.gained(all), w.told()
	if !gained && !told && len(changed) == 0 {
		return next
	}
	for o, k := range w.known {
		onChanged := slices.ContainsFunc(k.nodes, func(node string) bool { return changed[node] })
		if told || onChanged || gained && k.placed && w.isShort(o, k) {
			k.seen, k.until = false, time.Time{}
			w.touch(o)
		}
	}
	return next
}

// current is the nodes as they are, and when that changes by itself.
func (w *work) current(all []scheduler.Node) (n nodes, next time.Duration) {
	n, next = nodes{alive: map[string]bool{}, dead: map[string]bool{}, draining: map[string]bool{}, proven: map[string]map[string]bool{}}, period
	away := w.Fleet.Away()
	w.pools = make(map[string]string, len(all))
	for _, node := range all {
		n.alive[node.Name], n.draining[node.Name] = node.Alive, node.Draining
		n.proven[node.Name] = proven(node)
		w.pools[node.Name] = node.Pool
		if since, ok := away[node.Name]; ok {
			left := w.DeadAfter - time.Since(since)
			if n.dead[node.Name] = left <= 0; left > 0 {
				next = min(next, left)
			}
		}
	}
	return n, next
}

// told reports whether something new is said of pools.
func (w *work) told() bool {
	was := w.settings
	w.settings = w.Fleet.PoolSettings()
	return !maps.EqualFunc(was, w.settings, func(a, b *storev1.PoolSettings) bool { return proto.Equal(a, b) })
}

// gained reports whether a node can take something that it could not before.
func (w *work) gained(all []scheduler.Node) bool {
	gained := false
	now := make(map[string]string, len(all))
	for _, n := range all {
		if text := ability(n); text != "" {
			now[n.Name] = text
			gained = gained || text != w.able[n.Name]
		}
	}
	w.able = now
	return gained
}

// ability is what a node can take, as text; "" nothing.
func ability(n scheduler.Node) string {
	if !n.Alive || !n.Network || n.Cordoned || n.Draining {
		return ""
	}
	full := n.Capacity > 0 && n.Load.Active+n.Load.Standby >= n.Capacity
	return fmt.Sprint(n.Pool, n.TunnelIP, full, slices.Sorted(maps.Keys(proven(n))))
}

// proven is the physical networks to which a node has a proven uplink.
func proven(n scheduler.Node) map[string]bool {
	out := map[string]bool{}
	for physnet, uplink := range n.Uplinks {
		if uplink.Proven {
			out[physnet] = true
		}
	}
	return out
}

// isShort reports whether an object has fewer nodes than it asks for.
func (w *work) isShort(o fleet.Object, k *known) bool {
	stay := 0
	for _, node := range k.nodes {
		if w.nodes.leaving(node) == "" {
			stay++
		}
	}
	return stay < w.wanted(o, k)
}
