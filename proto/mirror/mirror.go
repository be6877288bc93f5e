// Package mirror follows scopes of the store: it lists each at one revision, watches from the next, goes on where it was
// when the watch breaks, lists again when that revision is compacted away, and lists from time to time all the same. What it hands on is level,
// not edge: the latest value of every key that changed since the consumer last looked, with deletions that were never
// seen as events made up from the difference. It interprets nothing.
package mirror

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
)

// Range is what a scope covers: one key, or all keys with a prefix.
type Range struct {
	key, end string
}

// Exactly is the range of one key.
func Exactly(key string) Range { return Range{key: key} }

// Under is the range of all keys that begin with prefix.
func Under(prefix string) Range { return Range{key: prefix, end: keys.End(prefix)} }

// Contains reports whether the range covers a key.
func (r Range) Contains(key string) bool {
	return key == r.key || (r.end != "" && key >= r.key && key < r.end)
}

func (r Range) query() store.Query {
	if r.end == "" {
		return store.Key(r.key)
	}
	return store.Range(r.key, r.end, 0)
}

// Change is the latest state of one key.
type Change struct {
	Scope string
	Key   string
	// Value is nil when the key is gone.
	Value []byte
	// Revision is the key's mod revision, or for a key that is gone a revision at which it was. It only goes back when the
	// store has been restored from a backup.
	Revision int64
}

// Batch is everything that happened since the last one.
type Batch struct {
	// Changes holds at most one entry per key; entries of one scope are not ordered among themselves.
	Changes []Change
	// Listed names the scopes that have been listed for the first time: all of their keys are in this batch or in
	// earlier ones.
	Listed []string
	// Rewound: the store has been restored from a backup, or is another one. What the consumer wrote there may be gone.
	Rewound bool
}

// Options tunes a Mirror.
type Options struct {
	// Relist is how often each scope is listed although nothing seems wrong. Default 5 minutes.
	Relist time.Duration
	// Probe is how often the store is asked for its revision, while anything is followed: one that is earlier than what
	// has been seen means that the store has been restored from a backup, and everything is listed again. Default 10 s.
	// Another cluster id, which any answer carries, means the same: the revisions of a store that was restored under
	// another token may have overtaken what was seen.
	Probe time.Duration
	// Pulse is how often the watches' connection is made to carry an answer, so that a server that is held or cut off is
	// noticed and left for another. Default 2 s.
	Pulse time.Duration
	// Check, if given, is asked of the value of keys.Schema (nil: there is none) in every listing, at its revision. As long
	// as it gives an error nothing is handed over and the listing is tried again: a store that is being restored, or has
	// another layout, is not followed. What a watch sees meanwhile is.
	Check func(schema []byte) error
	// Log gets one line per broken watch. Required.
	Log *slog.Logger
}

// Mirror follows any number of scopes. Its methods are safe for concurrent use.
type Mirror struct {
	store *store.Store
	opts  Options
	ctx   context.Context //nolint:containedctx // the mirror's own life, ended by Close
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	seen    int64  // the latest revision of the store
	cluster uint64 // the store's cluster id; 0 before anything was read
	heard   time.Time
	scopes  map[string]*scope
	pending map[string]Change
	listed  []string
	rewound bool
	wake    chan struct{}
}

// New makes a Mirror that follows nothing yet. Close ends it.
func New(s *store.Store, opts Options) *Mirror {
	if opts.Relist == 0 {
		opts.Relist = 5 * time.Minute
	}
	if opts.Probe == 0 {
		opts.Probe = 10 * time.Second
	}
	if opts.Pulse == 0 {
		opts.Pulse = 2 * time.Second
	}
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	m := &Mirror{
		store: s, opts: opts, ctx: ctx, stop: stop,
		scopes: map[string]*scope{}, pending: map[string]Change{}, wake: make(chan struct{}, 1),
	}
	m.wg.Go(m.probe)
	m.wg.Go(m.pulse)
	return m
}

// probe looks from time to time whether the store has been rewound.
func (m *Mirror) probe() {
	tick := time.NewTicker(m.opts.Probe)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		seen := m.latest() // before the store is asked: a linearizable read is never behind it
		ctx, cancel := context.WithTimeout(m.ctx, listTimeout)
		snap, err := m.store.Read(ctx, store.Key(keys.Schema))
		cancel()
		if err != nil {
			continue
		}
		m.see(snap.Cluster, snap.Revision)
		if snap.Revision < seen { // an error shows in the scopes' own reads
			m.opts.Log.Warn("the store has been rewound, listing everything again", "seen", seen, "revision", snap.Revision)
			m.rewind(snap.Revision)
		}
	}
}

// pulse asks for the watches' progress from time to time. Nothing depends on what the answer says (etcd's may run ahead
// of events, etcd issue 15220), but that there is one.
func (m *Mirror) pulse() {
	tick := time.NewTicker(m.opts.Pulse)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		if !m.following() {
			continue // there is no watch, and asking would make its connection
		}
		ctx, cancel := context.WithTimeout(m.ctx, m.opts.Pulse)
		_ = m.store.Client().RequestProgress(ctx) // a broken stream is the scopes' to notice
		cancel()
	}
}

func (m *Mirror) following() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.scopes) > 0
}

func (m *Mirror) latest() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

// see notes what an answer says of the store: its revision, and which cluster it is.
func (m *Mirror) see(cluster uint64, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = time.Now()
	if cluster != 0 && m.cluster != 0 && cluster != m.cluster {
		m.opts.Log.Warn("the store is another cluster, listing everything again", "seen", m.seen, "revision", revision)
		m.cluster = cluster
		m.rewindLocked(revision)
		return
	}
	m.cluster = cluster
	m.seen = max(m.seen, revision)
}

// Heard is when the store last said anything, be it only that there is nothing new, which it is asked every Options.Pulse
// while anything is followed; the zero time before it ever did.
func (m *Mirror) Heard() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard
}

// rewind has every scope listed again, and nothing taken for known.
func (m *Mirror) rewind(to int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rewindLocked(to)
}

func (m *Mirror) rewindLocked(to int64) {
	m.seen, m.rewound = to, true
	m.kick()
	for _, s := range m.scopes {
		select {
		case s.rewound <- struct{}{}:
		default:
		}
	}
}

// Close stops following and waits until all goroutines have ended.
func (m *Mirror) Close() {
	m.stop()
	m.wg.Wait()
}

// Follow begins to follow a scope; a name that is followed already is left as it is. The ranges of different scopes must
// not overlap.
func (m *Mirror) Follow(name string, ranges ...Range) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.scopes[name] != nil || m.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(m.ctx)
	s := &scope{mirror: m, name: name, ranges: ranges, stop: stop, known: map[string]int64{}, rewound: make(chan struct{}, 1)}
	m.scopes[name] = s
	m.wg.Go(func() { s.run(ctx) })
}

// Unfollow ends a scope. Nothing of it is in any later batch, not even deletions of what it held.
func (m *Mirror) Unfollow(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.scopes[name]
	if s == nil {
		return
	}
	s.stop()
	delete(m.scopes, name)
	maps.DeleteFunc(m.pending, func(_ string, c Change) bool { return c.Scope == name })
	kept := m.listed[:0]
	for _, l := range m.listed {
		if l != name {
			kept = append(kept, l)
		}
	}
	m.listed = kept
}

// Wake is readable when Take has something to hand over.
func (m *Mirror) Wake() <-chan struct{} { return m.wake }

// Take hands over everything that is pending, and forgets it. It never blocks; the batch may be empty.
func (m *Mirror) Take() Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := Batch{Changes: make([]Change, 0, len(m.pending)), Listed: m.listed, Rewound: m.rewound}
	for _, c := range m.pending {
		b.Changes = append(b.Changes, c)
	}
	m.pending = map[string]Change{} // not cleared: a map stays as large as it ever was
	m.listed, m.rewound = nil, false
	return b
}

// offer makes changes of a scope pending, unless the scope has been ended.
func (m *Mirror) offer(s *scope, changes []Change, listed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.scopes[s.name] != s {
		return
	}
	for _, c := range changes {
		m.pending[c.Key] = c
	}
	if listed {
		m.listed = append(m.listed, s.name)
	}
	if len(changes) > 0 || listed {
		m.kick()
	}
}

func (m *Mirror) kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
