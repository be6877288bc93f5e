package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
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
	stop    context.CancelFunc
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
			b.all[name] = &bridge{name: name, stop: stop}
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
		_ = br.conn.Close() // nothing is lost: the plan is synced anew on the next connection
	}
	br.conn, br.synced = nil, false
}

// dial connects until it succeeds, hands the connection over, waits for its end and connects again.
func (b *bridges) dial(ctx context.Context, name string) {
	opts := openflow.Options{Socket: filepath.Join(b.runDir, name+".mgmt"), Logger: b.log}
	for ctx.Err() == nil {
		conn, err := openflow.DialWait(ctx, opts)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("can't reach the bridge, trying again", "bridge", name, "error", err)
				sleep(ctx, time.Second)
			}
			continue
		}
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

// flowTimeout bounds one OpenFlow operation; when it passes the connection is made anew.
const flowTimeout = 10 * time.Second

// connect takes over a new connection and writes the whole plan.
func (b *bridges) connect(c connected, flows []flow.Flow) {
	br := b.all[c.bridge]
	if br == nil {
		_ = c.conn.Close()
		return
	}
	br.close()
	br.conn, br.refused = c.conn, map[flow.Key]uint64{}
	b.sync(br, flows)
}

// sync makes the bridge's flows of weft exactly the plan, but for flows that the bridge refuses: each takes itself out,
// not the others with it.
func (b *bridges) sync(br *bridge, flows []flow.Flow) {
	ctx, cancel := context.WithTimeout(b.ctx, flowTimeout)
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
			return
		}
		br.synced = true
		if result.Added+result.Deleted > 0 {
			b.log.Info("flows synced", "bridge", br.name, "flows", len(flows), "added", result.Added, "deleted", result.Deleted)
		}
		b.report(br, result)
		return
	}
}

// apply writes a change, or leaves it to the next sync when the bridge is not in sync.
func (b *bridges) apply(name string, change *plan.FlowChange) {
	br := b.all[name]
	if br == nil || !br.synced {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, flowTimeout)
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
	for _, c := range result.Conflicts {
		b.log.Error("a flow is left out", "bridge", br.name, "error", c)
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

// synced reports whether every bridge has the whole plan.
func (b *bridges) synced() bool {
	for _, br := range b.all {
		if !br.synced {
			return false
		}
	}
	return true
}
