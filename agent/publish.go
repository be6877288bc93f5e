package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// publisher keeps the keys that the node writes at what they should be: reports, plugs, the agent's description of
// itself. It is level-triggered: what is set meanwhile is merged, and what could not be written is tried again.
type publisher struct {
	store *store.Store
	node  string
	log   *slog.Logger
	wake  chan struct{}
	// relist is how often what is in the store is read anew: somebody may have deleted some of it, or restored a backup.
	relist time.Duration
	// metrics may be nil.
	metrics *metrics
	// doubted has a token when that is to be done at once.
	doubted chan struct{}

	mu sync.Mutex
	// want is what should be there, have what is known to be; a key in neither is not there.
	want, have map[string]proto.Message
	dirty      map[string]bool
}

func newPublisher(s *store.Store, node string, log *slog.Logger) *publisher {
	return &publisher{
		store: s, node: node, log: log, wake: make(chan struct{}, 1), relist: 5 * time.Minute,
		doubted: make(chan struct{}, 1),
		want:    map[string]proto.Message{}, have: map[string]proto.Message{}, dirty: map[string]bool{},
	}
}

// prune has what an earlier agent wrote and this one has not written again removed.
func (p *publisher) prune() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.have {
		p.dirty[key] = true
	}
	p.kick()
}

func (p *publisher) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// doubt has what is in the store read anew: it has been restored, and what was written may be gone.
func (p *publisher) doubt() {
	select {
	case p.doubted <- struct{}{}:
	default:
	}
}

// known says whether this release knows the store's layout; nothing is written before it does.
func (p *publisher) known(ctx context.Context) error {
	snap, err := p.store.Read(ctx, store.Key(keys.Schema))
	if err != nil {
		return err
	}
	var value []byte
	for _, e := range snap.Results[0].Entries {
		value = e.Value
	}
	return schema.Check(value)
}

// load reads what an earlier agent wrote, so that it is not written again; prune removes what no longer holds.
func (p *publisher) load(ctx context.Context) error {
	snap, err := p.store.Read(ctx, store.Prefix(keys.Statuses(p.node)), store.Prefix(keys.Plugs(p.node)), store.Key(keys.Agent(p.node)), store.Key(keys.Witness(p.node)))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.have)
	for i, m := range []proto.Message{&storev1.Report{}, &storev1.Plug{}, &storev1.Agent{}, &storev1.Witness{}} {
		for _, e := range snap.Results[i].Entries {
			value := proto.Clone(m)
			if err := proto.Unmarshal(e.Value, value); err != nil {
				p.log.Warn("replacing a value that can't be read", "key", e.Key, "error", err)
			}
			p.have[e.Key] = value
		}
	}
	return nil
}

// set says what a key should hold; nil: nothing.
func (p *publisher) set(key string, value proto.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if value == nil {
		delete(p.want, key)
	} else {
		p.want[key] = value
	}
	p.dirty[key] = true
	p.kick()
}

// current is what a key should hold now; nil: nothing.
func (p *publisher) current(key string) proto.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.want[key]
}

// last is what a key is known to hold in the store, by this agent or an earlier one; nil: nothing.
func (p *publisher) last(key string) proto.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have[key]
}

// plugged lists the ports whose plugs are, or should be, in the store.
func (p *publisher) plugged() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range []map[string]proto.Message{p.want, p.have} {
		for key := range m {
			if id, ok := strings.CutPrefix(key, keys.Plugs(p.node)); ok {
				out = append(out, id)
			}
		}
	}
	return out
}

// maxKeys is how many keys one transaction writes: well under txn.MaxOps.
const maxKeys = 100

// change is a key to write.
type change struct {
	key   string
	value proto.Message // nil: delete
}

// take picks keys that are not as they should be, at most maxKeys. What the node hears of its peers goes first and alone:
// others wait for it to take over.
func (p *publisher) take() []change {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []change
	if key := keys.Witness(p.node); p.dirty[key] {
		delete(p.dirty, key)
		if want := p.want[key]; !same(want, p.have[key]) {
			return []change{{key, want}}
		}
	}
	for key := range p.dirty {
		if len(out) == maxKeys {
			break
		}
		delete(p.dirty, key)
		if want := p.want[key]; !same(want, p.have[key]) {
			out = append(out, change{key, want})
		}
	}
	return out
}

// same reports whether two values say the same; the time of a report does not count.
func same(a, b proto.Message) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	ra, ok := a.(*storev1.Report)
	rb, ok2 := b.(*storev1.Report)
	if ok && ok2 {
		return ra.GetRevision() == rb.GetRevision() && ra.GetState() == rb.GetState() && ra.GetMessage() == rb.GetMessage() &&
			ra.GetStandby() == rb.GetStandby()
	}
	return proto.Equal(a, b)
}

// done notes what has been written, or that it still has to be.
func (p *publisher) done(changes []change, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range changes {
		switch {
		case err != nil:
			p.dirty[c.key] = true
		case c.value == nil:
			delete(p.have, c.key)
		default:
			p.have[c.key] = c.value
		}
	}
}

// run writes until the context ends.
func (p *publisher) run(ctx context.Context) {
	relist := time.NewTicker(p.relist)
	defer relist.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-p.doubted:
			p.reload(ctx)
		case <-relist.C:
			p.reload(ctx)
		}
		p.flushAll(ctx)
	}
}

// reload reads what is in the store and marks what should be there.
func (p *publisher) reload(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := p.load(ctx); err != nil {
		return // a store that is away is nothing new; the next time will do
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.want {
		p.dirty[key] = true
	}
}

// flushAll writes until everything is as it should be.
func (p *publisher) flushAll(ctx context.Context) {
	failures := 0
	for changes := p.take(); len(changes) > 0; changes = p.take() {
		err := p.flush(ctx, changes)
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		p.log.Warn("can't report to the store, trying again", "keys", len(changes), "error", err)
		sleep(ctx, min(50*time.Millisecond<<min(failures, 10), 2*time.Second))
		failures++
	}
}

// flush writes changes, and notes which have been. What the store refuses holds up no other: then each is written by itself.
func (p *publisher) flush(ctx context.Context, changes []change) error {
	err := p.write(ctx, changes)
	if err == nil || errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil || len(changes) == 1 {
		p.done(changes, err)
		return err
	}
	var refused error
	for i, c := range changes {
		err := p.write(ctx, changes[i:i+1])
		if errors.Is(err, store.ErrUnavailable) {
			p.done(changes[i:], err)
			return err
		}
		p.done(changes[i:i+1], err)
		if err != nil {
			refused = fmt.Errorf("key %s: %w", c.key, err)
		}
	}
	return refused
}

func (p *publisher) write(ctx context.Context, changes []change) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var t txn.Txn
	for _, c := range changes {
		if c.value == nil {
			t.Delete(c.key)
		} else {
			t.Put(c.key, c.value)
		}
	}
	began := time.Now()
	_, err := p.store.Commit(ctx, &t, 0)
	if p.metrics != nil {
		p.metrics.stored(began, err)
	}
	return err
}

// live keeps the node's sign of life: a key under a lease, made anew whenever the lease is lost.
// heard is called when the store has answered.
func live(ctx context.Context, s *store.Store, cfg Config, self *storev1.Agent, log *slog.Logger, heard func()) {
	for ctx.Err() == nil {
		if err := liveOnce(ctx, s, cfg, self, heard); err != nil && ctx.Err() == nil {
			log.Warn("the node's lease is lost, taking another", "error", err)
			sleep(ctx, 500*time.Millisecond)
		}
	}
}

func liveOnce(ctx context.Context, s *store.Store, cfg Config, self *storev1.Agent, heard func()) error {
	granting, cancel := context.WithTimeout(ctx, cfg.lease())
	defer cancel()
	lease, err := s.Client().Grant(granting, int64(cfg.LeaseSeconds))
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	var t txn.Txn
	t.PutLeased(keys.Live(cfg.Node), self)
	if _, err := s.Commit(granting, &t, lease.ID); err != nil {
		return err
	}
	alive, err := s.Client().KeepAlive(ctx, lease.ID)
	if err != nil {
		return fmt.Errorf("keep the lease: %w", err)
	}
	for range alive {
		heard()
	}
	// A stop does not end the lease: an agent that comes back in time was never away.
	return nil
}
