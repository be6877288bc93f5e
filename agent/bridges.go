package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/plan"
)

// bridge is the OpenFlow side of one bridge. The loop owns it; the dialling goroutine only hands over connections.
type bridge struct {
	name string
	conn *openflow.Conn
	// synced: the bridge has the whole plan, and changes can be applied as they come.
	synced bool
	// refused are the cookies of flows that the bridge did not take on this connection, by place.
	refused map[flow.Key]uint64
	// said are the places whose being a stranger's has been logged on this connection.
	said map[flow.Key]bool
	life
	stop context.CancelFunc
}

// connected is a new connection to a bridge.
type connected struct {
	bridge string
	conn   *openflow.Conn
}

// bridges are the OpenFlow connections of a node.
type bridges struct {
	runDir string
	// refuse is told of flows that a bridge did not take.
	refuse func(bridge string, key flow.Key, reason error)
	log    *slog.Logger
	ctx    context.Context //nolint:containedctx // the agent's life
	all    map[string]*bridge
	// careful: the plan may lack what could not be read, so no flow is deleted that it does not have.
	careful bool
	// up delivers new connections, down the names of bridges whose connection was lost.
	up   chan connected
	down chan string
	// drifted is called in the loop when an audit has found that a bridge differs.
	drifted func(drift)
	post    mailbox
	// cpu is the time that ovs-vswitchd had had on a processor when it was last seen to be working without answering.
	cpu    uint64
	worked time.Time
	// writes counts the flows added and deleted.
	writes atomic.Uint64
}

func newBridges(ctx context.Context, runDir string, refuse func(string, flow.Key, error), log *slog.Logger) *bridges {
	return &bridges{
		runDir: runDir, refuse: refuse, log: log, ctx: ctx, all: map[string]*bridge{},
		up: make(chan connected), down: make(chan string),
	}
}

// want has a connection kept to each of the named bridges and to no other.
func (b *bridges) want(names map[string]bool) {
	for name := range names {
		if b.all[name] == nil {
			ctx, stop := context.WithCancel(b.ctx)
			b.all[name] = &bridge{name: name, stop: stop, life: life{lost: time.Now()}}
			go b.dial(ctx, name)
		}
	}
	for name, br := range b.all {
		if !names[name] {
			br.stop()
			br.close()
			delete(b.all, name)
		}
	}
}

func (br *bridge) close() {
	if br.conn != nil {
		br.life = life{lost: time.Now()}
		_ = br.conn.Close() // nothing is lost: the plan is synced anew on the next connection
	}
	br.conn, br.synced = nil, false
}

// dial connects until it succeeds, hands the connection over, waits for its end and connects again.
func (b *bridges) dial(ctx context.Context, name string) {
	opts := openflow.Options{Socket: filepath.Join(b.runDir, name+".mgmt"), Logger: b.log}
	for pause := time.Duration(0); ctx.Err() == nil; {
		conn, err := openflow.DialWait(ctx, opts)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("can't reach the bridge, trying again", "bridge", name, "error", err)
				// At first at once: an ovs-vswitchd that is about to die takes connections and ends them.
				pause = min(2*pause+10*time.Millisecond, time.Second)
				sleep(ctx, pause)
			}
			continue
		}
		pause = 0
		select {
		case <-ctx.Done():
			_ = conn.Close()
			return
		case b.up <- connected{name, conn}:
		}
		select {
		case <-ctx.Done():
			return
		case <-conn.Done():
		}
		select {
		case <-ctx.Done():
			return
		case b.down <- name:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// flowTimeout bounds an audit's reading of flows; when it passes the connection is made anew.
const flowTimeout = 10 * time.Second

// writeTimeout bounds one write of n flows, during which the loop waits: what Open vSwitch takes to carry it out, many times
// over. When it passes the connection is made anew and everything is synced.
func writeTimeout(n int) time.Duration { return 4*time.Second + 3*time.Duration(n)*time.Millisecond }

// connect takes over a new connection and writes the whole plan.
func (b *bridges) connect(c connected, flows []flow.Flow) (written int) {
	br := b.all[c.bridge]
	if br == nil {
		_ = c.conn.Close()
		return 0
	}
	br.close()
	br.conn, br.refused, br.said, br.life = c.conn, map[flow.Key]uint64{}, map[flow.Key]bool{}, life{}
	if c.bridge == plan.BrInt {
		ctx, cancel := context.WithTimeout(b.ctx, writeTimeout(1))
		defer cancel()
		if err := br.conn.MatchFragments(ctx); err != nil { // filters judge fragments by their packets' ports
			b.broken(br, err)
			return 0
		}
	}
	return b.sync(br, flows)
}

// sync makes the bridge's flows of weft exactly the plan, but for flows that the bridge refuses: each takes itself out,
// not the others with it. It returns how many were added and deleted.
func (b *bridges) sync(br *bridge, flows []flow.Flow) (written int) {
	ctx, cancel := context.WithTimeout(b.ctx, writeTimeout(len(flows)))
	defer cancel()
	for {
		write := br.conn.Sync
		if b.careful {
			write = br.conn.Fill
		}
		result, err := write(ctx, br.allowed(flows))
		if b.refusedSome(br, err) {
			continue
		}
		if err != nil {
			b.broken(br, err)
			return 0
		}
		br.synced = true
		if result.Added+result.Deleted > 0 {
			b.log.Info("flows synced", "bridge", br.name, "flows", len(flows), "added", result.Added, "deleted", result.Deleted)
		}
		b.report(br, result)
		return result.Added + result.Deleted
	}
}

// drift is what an audit of a bridge found.
type drift struct {
	bridge string
	found  openflow.Difference
}

// inspect compares a bridge with the plan, beside the loop. The plan may have changed when its result is delivered.
func (b *bridges) inspect(name string, flows []flow.Flow) {
	br := b.all[name]
	if br == nil || !br.synced {
		return
	}
	conn, want, careful := br.conn, br.allowed(flows), b.careful
	go func() {
		ctx, cancel := context.WithTimeout(b.ctx, flowTimeout)
		defer cancel()
		d, err := conn.Diff(ctx, want)
		if careful {
			d.Surplus = nil
		}
		if err != nil || d.Empty() {
			return // a connection that does not answer is lost, and the next one syncs everything
		}
		b.post.send(b.ctx, func() { b.drifted(drift{name, d}) })
	}()
}

// apply writes a change, or leaves it to the next sync when the bridge is not in sync.
func (b *bridges) apply(name string, change *plan.FlowChange) {
	br := b.all[name]
	if br == nil || !br.synced {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, writeTimeout(len(change.Adds)+len(change.Deletes)))
	defer cancel()
	for {
		result, err := br.conn.Apply(ctx, br.allowed(change.Adds), change.Deletes)
		if b.refusedSome(br, err) {
			continue
		}
		if err != nil {
			b.broken(br, err)
			return
		}
		b.report(br, result)
		return
	}
}

// applyAtOnce writes a change to several bridges at once. What one of them does not take as it is, it gets by apply.
func (b *bridges) applyAtOnce(changes map[string]*plan.FlowChange) {
	var writing sync.WaitGroup
	failed := make(chan string, len(changes))
	for name, change := range changes {
		br := b.all[name]
		if br == nil || !br.synced {
			continue
		}
		change := withoutGate(change)
		adds, conn := br.allowed(change.Adds), br.conn
		writing.Go(func() {
			ctx, cancel := context.WithTimeout(b.ctx, writeTimeout(len(adds)+len(change.Deletes)))
			defer cancel()
			if result, err := conn.Apply(ctx, adds, change.Deletes); err != nil || len(result.Conflicts) > 0 {
				failed <- name
			}
		})
	}
	writing.Wait()
	close(failed)
	for name := range failed {
		b.apply(name, withoutGate(changes[name]))
	}
}

// allowed are the flows that the bridge has not refused.
func (br *bridge) allowed(flows []flow.Flow) []flow.Flow {
	if len(br.refused) == 0 {
		return flows
	}
	return slices.DeleteFunc(slices.Clone(flows), func(f flow.Flow) bool { return br.refused[f.Key()] == f.Cookie })
}

// refusedSome takes note of flows that the bridge refused; true when leaving them out is worth another try.
func (b *bridges) refusedSome(br *bridge, err error) bool {
	var bundle *openflow.BundleError
	if !errors.As(err, &bundle) {
		return false
	}
	again := false
	for _, r := range bundle.Refused {
		if key := r.Flow.Key(); !r.Deletion && br.refused[key] != r.Flow.Cookie {
			br.refused[key], again = r.Flow.Cookie, true
			b.log.Error("the bridge refuses a flow, it is left out", "bridge", br.name, "error", r)
			b.refuse(br.name, key, r)
		}
	}
	return again
}

func (b *bridges) report(br *bridge, result openflow.Result) {
	b.writes.Add(uint64(result.Added + result.Deleted))
	for _, c := range result.Conflicts {
		if !br.said[c.Flow.Key()] {
			b.log.Error("a flow is left out", "bridge", br.name, "error", c)
			br.said[c.Flow.Key()] = true
		}
		b.refuse(br.name, c.Flow.Key(), c)
	}
}

// broken ends the connection, so that it is made anew and the plan synced.
func (b *bridges) broken(br *bridge, err error) {
	if !errors.Is(err, context.Canceled) {
		b.log.Error("writing flows failed, connecting again", "bridge", br.name, "error", err)
	}
	br.close()
}

// forgetZones has br-int's conntrack forget the connections of local VLANs.
func (b *bridges) forgetZones(ctx context.Context, vlans []uint16) error {
	br := b.all[plan.BrInt]
	if br == nil || !br.synced {
		return errors.New("no connection to br-int")
	}
	err := br.conn.ForgetZones(ctx, vlans...)
	if err != nil {
		b.broken(br, err)
	}
	return err
}

// has reports whether one bridge has the whole plan.
func (b *bridges) has(name string) bool { return b.all[name] != nil && b.all[name].synced }

// synced reports whether every bridge has the whole plan.
func (b *bridges) synced() bool {
	for _, br := range b.all {
		if !br.synced {
			return false
		}
	}
	return true
}
