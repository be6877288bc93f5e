// Package leader elects one of the controllers to do the work that must not be done twice. The candidates' keys lie under
// leader/, each under a lease of its own; the one with the lowest create revision leads (the recipe of etcd's own
// concurrency.Election). Leading is a comparison, not a boolean: whatever the leader writes carries its Term's guard, so that
// etcd refuses what comes late from one that has lost its lease and does not know it yet.
//
// A leader must also see. From time to time it writes its own key and waits for the change to come back by the same mirror
// that its work is decided on; when it does not, the leader resigns, and stands again only when its mirror has caught up.
//
// The package knows nothing of what a leader does.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
)

// Options is what an Elector needs.
type Options struct {
	Store *store.Store
	// Name is the controller's, for the operator.
	Name string
	// Seen waits until the controller's mirror has taken in the changes of the leader keys up to a revision, at which there
	// was one; it returns an error when the context ends first.
	Seen func(ctx context.Context, revision int64) error
	Log  *slog.Logger
	// Observe, if not nil, is told of every change, one at a time; it must not block.
	Observe func(State)
	// TTL is how long a leader that says nothing more goes on being one: whole seconds, default 2, which is the shortest that
	// etcd grants at its default election timeout (etcd, server/lease: minimum TTL is 3/2 of it, rounded up).
	TTL time.Duration
	// Beat is how often a leader proves that it sees; default 1 s.
	Beat time.Duration
	// Blind is how long a change may take to come back by the mirror; default 5 s.
	Blind time.Duration
}

// State is what an Elector does now.
type State struct {
	Leading bool
	// Since is when that began.
	Since time.Time
}

// Term is one leadership. It is a value; it stays what it was when the leadership has ended.
type Term struct {
	// Key is the leader's key, and CreateRevision the revision at which it came to be.
	Key            string
	CreateRevision int64
}

// Guard appends the condition that the term has not ended.
func (t Term) Guard(x *txn.Txn) { x.CreatedAt(t.Key, t.CreateRevision) }

// ErrEnded says that the term has ended.
var ErrEnded = errors.New("the leadership has ended")

// Update is store.Update with the term's guard added to what build returns. The error is ErrEnded when a conflict is due to
// the term's end.
func (t Term) Update(ctx context.Context, s *store.Store, build func(context.Context) (*txn.Txn, error)) (int64, error) {
	again := false
	return s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		if err := t.going(ctx, s, again); err != nil {
			return nil, err
		}
		again = true
		x, err := build(ctx)
		if x != nil {
			t.Guard(x)
		}
		return x, err
	})
}

// going is ErrEnded if there was a conflict and the key is gone; no two leases have the same.
func (t Term) going(ctx context.Context, s *store.Store, conflict bool) error {
	if !conflict {
		return nil
	}
	snap, err := s.Read(ctx, store.Key(t.Key))
	if err == nil && len(snap.Results[0].Entries) == 0 {
		return ErrEnded
	}
	return err
}

// Elector stands for election. Make it with New; Run does the work.
type Elector struct {
	opts Options
}

// New makes an Elector.
func New(opts Options) *Elector {
	orDefault(&opts.TTL, 2*time.Second)
	orDefault(&opts.Beat, time.Second)
	orDefault(&opts.Blind, 5*time.Second)
	if opts.Observe == nil {
		opts.Observe = func(State) {}
	}
	return &Elector{opts: opts}
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// The reasons for which a candidacy ends.
var (
	errExpired = errors.New("its lease was not renewed in time")
	errRemoved = errors.New("its key or its lease is gone")
	errBlind   = errors.New("its mirror does not keep up with the store")
	errEnded   = errors.New("its work has ended")
)

// Run stands for election until the context ends, again and again with a lease of its own each time, and calls lead
// whenever it has won. lead's context ends as soon as the term is known to have ended; lead then returns soon. When ctx
// ends while it leads it resigns at once: the next one need not wait for the lease.
func (e *Elector) Run(ctx context.Context, lead func(context.Context, Term)) {
	level := slog.LevelWarn
	for {
		stood, err := e.stand(ctx, lead)
		if ctx.Err() != nil {
			return
		}
		if stood {
			level = slog.LevelWarn
		}
		e.opts.Log.Log(ctx, level, "no candidate for the leadership, standing again", "name", e.opts.Name, "reason", err)
		level = slog.LevelDebug // until something else is the matter
		pause(ctx, 50*time.Millisecond+rand.N(150*time.Millisecond))
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

// stand stands once, and reports whether it came to that and why it has ended.
func (e *Elector) stand(ctx context.Context, lead func(context.Context, Term)) (stood bool, err error) {
	if err := e.sighted(ctx); err != nil {
		return false, err
	}
	c, err := e.enter(ctx)
	if err != nil {
		return false, err
	}
	return true, c.run(ctx, lead)
}

// sighted waits until the mirror has seen the candidates as they are. No candidates prove nothing, and hide nothing: who
// wins proves itself once more.
func (e *Elector) sighted(ctx context.Context) error {
	for said := false; ; said = true {
		var latest int64
		found, err := e.candidates(ctx)
		if err != nil {
			return err
		}
		for _, kv := range found.Kvs {
			latest = max(latest, kv.ModRevision)
		}
		if latest == 0 || e.sees(ctx, latest) == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !said {
			e.opts.Log.Warn("no candidate for the leadership until the mirror has caught up", "name", e.opts.Name)
		}
	}
}

// sees waits a bounded time for the mirror to see a change.
func (e *Elector) sees(ctx context.Context, revision int64) error {
	bounded, cancel := context.WithTimeout(ctx, e.opts.Blind)
	defer cancel()
	if err := e.opts.Seen(bounded, revision); err != nil {
		return fmt.Errorf("%w: revision %d not seen in %s", errBlind, revision, e.opts.Blind)
	}
	return nil
}

// callTimeout bounds one call to the store.
const callTimeout = 2 * time.Second

// candidates reads the candidates' keys, the leader's first.
func (e *Elector) candidates(ctx context.Context) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := e.opts.Store.Client().Get(ctx, keys.Leaders(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		return nil, fmt.Errorf("read the candidates for the leadership: %w", err)
	}
	return got, nil
}
