package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/ha"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// keeper runs a network node's ha.Machine: it hears the node's peers through Open vSwitch, silences the node, and writes
// active/<router>. It has a goroutine and OpenFlow connections of its own, because it must not wait while the agent's loop
// writes a long change.
type keeper struct {
	cfg   Config
	store *store.Store
	log   *slog.Logger
	// publish says which peers are heard.
	publish func(key string, value proto.Message)
	// flush waits until a node has the connections of a router that this one forwards for.
	flush func(ctx context.Context, router, node string) error
	// mutes are the routers that are being handed over.
	mutes *mutes
	// out tells the loop what has happened; it never blocks.
	out chan<- kept

	machine *ha.Machine
	world   keeperWorld // as the loop told it
	// ports are the liveness of br-tun's ports on the present connection, nil without one; known the peers whose session was
	// ever up.
	ports map[string]bool
	known map[string]bool
	// dead: Open vSwitch is not there.
	dead bool
	// said is what has been published last; nil before.
	said *storev1.Witness

	worlds  chan keeperWorld // has room for one, the newest
	calls   chan func()      // into the keeper's goroutine
	silent  atomic.Bool
	ctx     context.Context //nolint:containedctx // the agent's life
	running sync.WaitGroup

	gateLock sync.Mutex
	gate     *openflow.Conn // to br-int; nil without a connection
}

// keeperWorld is what the loop tells the keeper.
type keeperWorld struct {
	ha.World
	// sessions are the names of br-tun's ports that lead to the peers, and whether OVSDB says that both ends of
	// a session have it up there.
	sessions map[string]session
}

type session struct {
	port string
	up   bool
}

// kept is what the keeper tells the loop.
type kept struct {
	// wrote are active/<router> keys that have been written, with the revision.
	wrote []wrote
	// hush are claims for which the node has to fall silent first; the loop answers with keeper.hushed.
	hush []ha.Claim
	// spared are routers for which the node need no longer be silent: the claim has not been made.
	spared []string
	// silence: keeper.silent has changed.
	silence bool
}

// stay lists the routers that are a node's by what is told.
func (w *kept) stay(node string) []string {
	out := slices.Clone(w.spared)
	for _, w := range w.wrote {
		if w.claim.To == node {
			out = append(out, w.claim.Router)
		}
	}
	return out
}

type wrote struct {
	claim    ha.Claim
	active   *storev1.ActiveRouter
	revision int64
}

// lingering is how long a node may still send that has to fall silent: its agent and Open vSwitch have to take that in,
// and the datapath, which knows ways of its own, gets to know of flows that have gone a moment after them (Open vSwitch,
// ofproto/ofproto-dpif-upcall.c, revalidators).
const lingering = 60 * time.Millisecond

// haConfig is the timing that follows from that of the sessions. One end of a session may notice its loss an interval after
// the other; what comes on top is for the holder to fall silent.
func haConfig(cfg Config) ha.Config {
	interval := cfg.bfd().Interval
	guard := interval + lingering
	return ha.Config{
		Self: cfg.Node, Guard: guard, Yield: guard + 300*time.Millisecond, Rank: 150 * time.Millisecond, Unready: 2 * time.Second,
		Blink: 2 * time.Second, Calm: 10 * time.Second, Damp: 500 * time.Millisecond,
		Lease: 2 * time.Second, Patience: cfg.lease() / 2, Retry: 100 * time.Millisecond,
	}
}

func newKeeper(ctx context.Context, cfg Config, s *store.Store, publish func(string, proto.Message), out chan<- kept, log *slog.Logger) *keeper {
	return &keeper{
		cfg: cfg, store: s, log: log, publish: publish, out: out, mutes: &mutes{log: log, now: map[string]muted{}}, machine: ha.New(haConfig(cfg)), known: map[string]bool{},
		worlds: make(chan keeperWorld, 1), calls: make(chan func(), 64), ctx: ctx,
	}
}

// start begins, with what is known and what an earlier agent of the node has said of its peers: when it was silent, so is
// this one, before anything is written. wait waits for the end, which the context brings.
func (k *keeper) start(w keeperWorld, said *storev1.Witness) {
	k.see(w)
	k.remember(said.GetHeard(), true)
	k.remember(said.GetLost(), false)
	k.decide()
	tunnels := line{runDir: k.cfg.OVSRunDir, bridge: plan.BrTun, log: k.log, up: k.connected, port: k.portChanged, down: k.deaf, refused: k.gone}
	routers := line{runDir: k.cfg.OVSRunDir, bridge: plan.BrInt, log: k.log, up: k.gateUp, port: func(openflow.PortStatus) {}, down: k.gateDown, refused: func() {}}
	k.running.Go(func() { tunnels.run(k.ctx) })
	k.running.Go(func() { routers.run(k.ctx) })
	k.running.Go(k.run)
}

// remember takes in what was said of those that are peers still. What has become of their sessions shows when there is a
// connection to the bridge.
func (k *keeper) remember(peers []string, up bool) {
	for _, peer := range peers {
		if _, ok := k.world.sessions[peer]; ok {
			k.known[peer] = true
			k.machine.Remember(time.Now(), peer, up)
		}
	}
}

func (k *keeper) wait() { k.running.Wait() }

// set tells what the loop knows now.
func (k *keeper) set(w keeperWorld) {
	select {
	case <-k.worlds:
	default:
	}
	k.worlds <- w // the loop alone puts in, so there is room
}

// do runs f in the keeper's goroutine.
func (k *keeper) do(f func()) {
	select {
	case k.calls <- f:
	case <-k.ctx.Done():
	}
}

func (k *keeper) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case w := <-k.worlds:
			k.see(w)
		case f := <-k.calls:
			f()
		case <-timer.C:
		}
		wait := time.Hour
		if again := k.decide(); !again.IsZero() {
			wait = max(time.Until(again), 0)
		}
		timer.Reset(wait)
	}
}

// see takes the loop's word in.
func (k *keeper) see(w keeperWorld) {
	k.world = w
	w.Dead = k.dead && k.cfg.DatapathType == "netdev" // the kernel's datapath goes on by itself
	w.Switch = w.Switch && k.ports != nil
	k.machine.SetWorld(time.Now(), w.World)
	maps.DeleteFunc(k.known, func(peer string, _ bool) bool { _, ok := w.sessions[peer]; return !ok })
	k.sessions()
}

// sessions tells the machine which peers are heard. A session counts from when OVSDB says that both ends have it up, and until
// its port is not live any more. The port alone does not tell the beginning: it is live when this end has the session up, and the
// other, which has it up a packet later, would not notice the end of one that it never had. Without a connection to the bridge
// nothing is told: the machine knows that it has gone.
func (k *keeper) sessions() {
	if k.ports == nil {
		return
	}
	for peer, s := range k.world.sessions {
		switch live := k.ports[s.port]; {
		case live && s.up:
			k.known[peer] = true
			k.machine.Session(time.Now(), peer, true)
		case !live && k.known[peer]:
			k.machine.Session(time.Now(), peer, false)
		}
	}
}

// The following run in the goroutine of br-tun's line.

func (k *keeper) connected(_ *openflow.Conn, ports []openflow.PortStatus) {
	k.do(func() {
		k.ports, k.dead = map[string]bool{}, false
		for _, p := range ports {
			k.ports[p.Name] = p.Live
		}
		k.see(k.world)
	})
}

func (k *keeper) portChanged(s openflow.PortStatus) {
	k.do(func() {
		k.ports[s.Name] = s.Live
		if s.Deleted {
			delete(k.ports, s.Name)
		}
		k.sessions()
	})
}

func (k *keeper) deaf() {
	k.do(func() {
		k.ports = nil
		k.machine.Deaf(time.Now())
		k.see(k.world)
	})
}

func (k *keeper) gone() {
	k.do(func() {
		if !k.dead {
			k.dead = true
			k.see(k.world)
		}
	})
}

// decide has the machine decide, and does it.
func (k *keeper) decide() time.Time {
	d := k.machine.Decide(time.Now())
	if d.Silent != k.silent.Load() {
		k.setSilent(d.Silent)
	}
	if says := (&storev1.Witness{Heard: d.Heard, Lost: d.Lost}); k.said == nil || !proto.Equal(k.said, says) {
		k.publish(keys.Witness(k.cfg.Node), says)
		k.log.Info("peers", "heard", d.Heard, "lost", d.Lost)
		k.said = says
	}
	if d.Probe {
		k.running.Go(k.probe)
	}
	k.begin(d.Claims)
	return d.Again
}

// setSilent closes or opens the table of routers' frames.
func (k *keeper) setSilent(silent bool) {
	k.silent.Store(silent)
	k.writeGate()
	if silent {
		k.log.Warn("most peers are lost: silent for all routers")
	} else {
		k.log.Info("forwarding again")
	}
	k.tell(kept{silence: true})
}

func (k *keeper) gateUp(conn *openflow.Conn, _ []openflow.PortStatus) {
	k.gateLock.Lock()
	k.gate = conn
	k.gateLock.Unlock()
	k.writeGate()
}

func (k *keeper) gateDown() {
	k.gateLock.Lock()
	k.gate = nil
	k.gateLock.Unlock()
}

// writeGate makes br-int as silent as the node is. Without a connection there is nothing to silence; the next one begins with
// it.
func (k *keeper) writeGate() {
	k.gateLock.Lock()
	defer k.gateLock.Unlock()
	if k.gate == nil {
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, flowTimeout)
	defer cancel()
	gate, err := []flow.Flow{plan.Silence()}, error(nil)
	if k.silent.Load() {
		_, err = k.gate.Apply(ctx, gate, nil)
	} else {
		_, err = k.gate.Apply(ctx, nil, gate)
	}
	if err != nil && k.ctx.Err() == nil {
		k.log.Error("can't write the flow that silences routers, connecting again", "error", err)
		_ = k.gate.Close() // the next connection writes it
	}
}

// tell hands something to the loop without waiting for it.
func (k *keeper) tell(what kept) {
	k.running.Go(func() {
		select {
		case k.out <- what:
		case <-k.ctx.Done():
		}
	})
}

// claimTimeout bounds one attempt to write active/<router>.
const claimTimeout = 2 * time.Second

func (k *keeper) probe() {
	ctx, cancel := context.WithTimeout(k.ctx, claimTimeout)
	defer cancel()
	if _, err := k.store.Read(ctx, store.Key(keys.Live(k.cfg.Node))); err == nil {
		k.do(func() { k.machine.Answered(time.Now()) })
	}
}

// begin makes claims, those for which the node has to be silent first by way of the loop.
func (k *keeper) begin(claims []ha.Claim) {
	var now, handed, resigned []ha.Claim
	for _, c := range claims {
		switch c.Cause {
		case ha.HandOver:
			handed = append(handed, c)
		case ha.Resign:
			resigned = append(resigned, c)
		default:
			now = append(now, c)
		}
	}
	if len(resigned) > 0 {
		k.tell(kept{hush: resigned}) // nothing passes any more: there is nothing to wait for
	}
	if len(handed) > 0 {
		k.running.Go(func() {
			k.replicated(handed, flushForwarding)
			k.tell(kept{hush: handed})
		})
	}
	k.make(now)
}

// How long connections may take to be known on the node that routers are handed over to: while this one still forwards, and
// when it has fallen silent.
const (
	flushForwarding = 3 * time.Second
	flushSilent     = 20 * time.Millisecond
)

// replicated returns when the nodes that are to forward have the connections of their routers, or after a while.
func (k *keeper) replicated(claims []ha.Claim, patience time.Duration) {
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	var flushes sync.WaitGroup
	for _, c := range claims {
		flushes.Go(func() {
			if err := k.flush(ctx, c.Router, c.To); err != nil && k.ctx.Err() == nil {
				k.log.Warn("a router moves before all of its connections are known there", "router", c.Router, "node", c.To, "error", err)
			}
		})
	}
	flushes.Wait()
}

// spare says that the node could not fall silent for the routers of claims: they are not made.
func (k *keeper) spare(claims []ha.Claim) {
	k.running.Go(func() {
		k.do(func() {
			for _, c := range claims {
				k.machine.Claimed(time.Now(), c, ha.Unknown, 0)
			}
		})
	})
}

// hushed says that the node has no flows any more for the routers of claims. Nothing changes in their connections from here on:
// what is still on its way is waited for, briefly, and what still leaves, unless the node resigns and nothing does.
func (k *keeper) hushed(claims []ha.Claim) {
	k.running.Go(func() {
		var silent time.Duration
		if err := k.mute(claims); err != nil {
			k.log.Warn("routers are handed over later: what they say until Open vSwitch forgets them can't be held back", "error", err)
			silent = lingering
		}
		quiet := time.After(silent)
		k.replicated(claims, flushSilent)
		select {
		case <-quiet:
			k.make(claims)
		case <-k.ctx.Done():
		}
	})
}

// mute returns when nothing leaves any more of the routers that claims hand over. Open vSwitch's datapath knows their flows for a
// while yet, so their namespaces say nothing meanwhile; what they had said is on its way when Open vSwitch has answered twice:
// it has looked through its ports in between.
func (k *keeper) mute(claims []ha.Claim) error {
	handed := 0
	for _, c := range claims {
		if c.Cause != ha.HandOver {
			continue // the node resigns: nothing passes
		}
		if err := k.mutes.begin(k.ctx, &k.running, c.Router); err != nil {
			return err
		}
		handed++
	}
	if handed == 0 {
		return nil
	}
	k.gateLock.Lock()
	conn := k.gate
	k.gateLock.Unlock()
	if conn == nil {
		return errors.New("no connection to br-int")
	}
	ctx, cancel := context.WithTimeout(k.ctx, flowTimeout)
	defer cancel()
	if err := conn.Barrier(ctx); err != nil {
		return err
	}
	return conn.Barrier(ctx)
}

// claimsAtOnce is how many routers one transaction writes: two guards each.
const claimsAtOnce = txn.MaxOps / 2

// make makes claims, many at once.
func (k *keeper) make(claims []ha.Claim) {
	for len(claims) > 0 {
		n := min(len(claims), claimsAtOnce)
		some := claims[:n]
		claims = claims[n:]
		k.running.Go(func() { k.commit(some) })
	}
}

// commit writes some claims in one transaction. When one of them is refused, each is written by itself: the node may write
// those of the routers that the leader knows to be planned on it (controller/access), and a plan may be younger.
func (k *keeper) commit(claims []ha.Claim) {
	ctx, cancel := context.WithTimeout(k.ctx, claimTimeout)
	defer cancel()
	var t txn.Txn
	values := make([]wrote, len(claims))
	for i, c := range claims {
		values[i] = wrote{claim: c, active: &storev1.ActiveRouter{Node: c.To, Epoch: c.Epoch + 1, Reason: reason(c), Time: timestamppb.Now()}}
		t.Unchanged(keys.Active(c.Router), c.Revision)
		t.Exists(keys.HostObject(c.To, keys.KindRouter, c.Router))
		t.Put(keys.Active(c.Router), values[i].active)
	}
	revision, err := k.store.Commit(ctx, &t, 0)
	if (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrDenied)) && len(claims) > 1 {
		for i := range claims {
			k.commit(claims[i : i+1])
		}
		return
	}
	k.settle(values, revision, err)
}

// settle tells the machine and the loop what became of claims.
func (k *keeper) settle(values []wrote, revision int64, err error) {
	outcome, what := ha.Made, kept{wrote: values}
	switch {
	case errors.Is(err, store.ErrConflict):
		outcome, what = ha.Refused, kept{spared: k.spared(values)}
	case err != nil:
		outcome, what = ha.Unknown, kept{} // still silent, if it is: it may have been made
	}
	for _, router := range what.stay(k.cfg.Node) {
		k.mutes.end(router)
	}
	for i := range values {
		values[i].revision = revision
		k.log.Info("claim", "router", values[i].claim.Router, "node", values[i].claim.To, "epoch", values[i].active.GetEpoch(),
			"reason", values[i].active.GetReason(), "error", err)
	}
	if err == nil || len(what.spared) > 0 {
		k.tell(what)
	}
	k.do(func() {
		for _, v := range values {
			k.machine.Claimed(time.Now(), v.claim, outcome, revision)
		}
	})
}

// spared lists those of refused claims whose router is still this node's, at the revision it had.
func (k *keeper) spared(values []wrote) []string {
	var out []string
	for _, v := range values {
		ctx, cancel := context.WithTimeout(k.ctx, claimTimeout)
		snap, err := k.store.Read(ctx, store.Key(keys.Active(v.claim.Router)))
		cancel()
		if err == nil && len(snap.Results[0].Entries) == 1 && snap.Results[0].Entries[0].Revision == v.claim.Revision {
			out = append(out, v.claim.Router)
		}
	}
	return out
}

// reason is what an operator reads about a claim.
func reason(c ha.Claim) string {
	switch c.Cause {
	case ha.Lost:
		return fmt.Sprintf("%s is lost to its peers", c.From)
	case ha.Confirm:
		return fmt.Sprintf("%s was cut off, and goes on", c.From)
	case ha.HandOver:
		return fmt.Sprintf("%s was told to hand over", c.From)
	case ha.Resign:
		return fmt.Sprintf("%s has lost an uplink or Open vSwitch", c.From)
	default:
		return ""
	}
}
