package mirror

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
)

// scope is one followed scope; its run goroutine alone touches known and listed.
type scope struct {
	mirror *Mirror
	name   string
	ranges []Range
	stop   context.CancelFunc
	known  map[string]int64 // key -> mod revision of what was last offered
	listed bool
	// rewound has a token when the store is known to have gone back.
	rewound chan struct{}
}

// listTimeout bounds one listing, so that a server that died without a word is noticed.
const listTimeout = 10 * time.Second

func (s *scope) run(ctx context.Context) {
	said := ""
	for attempt := 0; ctx.Err() == nil; {
		revision, err := s.list(ctx)
		if err != nil {
			if now := err.Error(); now != said && ctx.Err() == nil {
				said = now
				s.mirror.opts.Log.Warn("listing failed, trying again", "scope", s.name, "error", err)
			}
			pause(ctx, attempt)
			attempt++
			continue
		}
		attempt, said = 0, ""
		s.follow(ctx, revision+1)
	}
}

// follow watches until another listing is due: from time to time, or when what comes next has been compacted away or is
// another history. A watch that breaks for another reason, as when etcd loses its leader, goes on where it was: a thousand
// followers do not all list when etcd is back.
func (s *scope) follow(ctx context.Context, from int64) {
	life := s.mirror.opts.Relist
	ctx, cancel := context.WithTimeout(ctx, life-life/4+rand.N(life/4))
	defer cancel()
	next := slices.Repeat([]int64{from}, len(s.ranges))
	for attempt := 0; ctx.Err() == nil; attempt++ {
		before := slices.Max(next)
		err := s.watch(ctx, next)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case errors.Is(err, rpctypes.ErrCompacted):
			s.mirror.opts.Log.Info("the watch's revision has been compacted away, listing again", "scope", s.name)
			return
		case slices.Max(next) > before:
			attempt = 0
		}
		if attempt == 0 {
			s.mirror.opts.Log.Info("watch ended, watching again", "scope", s.name, "error", err)
		}
		pause(ctx, attempt)
	}
}

// pause waits between attempts: about 20 ms at first, at most about a second.
func pause(ctx context.Context, attempt int) {
	limit := min(20*time.Millisecond<<min(attempt, 10), time.Second)
	select {
	case <-ctx.Done():
	case <-time.After(limit/2 + rand.N(limit/2)):
	}
}

// list offers whatever differs from what was last offered and returns the revision at which it looked.
func (s *scope) list(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	queries := make([]store.Query, len(s.ranges))
	for i, r := range s.ranges {
		queries[i] = r.query()
	}
	check := s.mirror.opts.Check
	if check != nil {
		queries = append(queries, store.Key(keys.Schema))
	}
	snap, err := s.mirror.store.Read(ctx, queries...)
	if err != nil {
		return 0, err
	}
	if check != nil {
		var schema []byte
		for _, e := range snap.Results[len(s.ranges)].Entries {
			schema = e.Value
		}
		if err := check(schema); err != nil {
			return 0, err
		}
		snap.Results = snap.Results[:len(s.ranges)]
	}
	s.mirror.see(snap.Cluster, snap.Revision)
	s.mirror.offer(s, s.difference(snap), !s.listed)
	s.listed = true
	return snap.Revision, nil
}

func (s *scope) difference(snap store.Snapshot) []Change {
	var changes []Change
	found := make(map[string]bool, len(s.known))
	for _, result := range snap.Results {
		for _, e := range result.Entries {
			found[e.Key] = true
			if s.known[e.Key] == e.Revision {
				continue
			}
			s.known[e.Key] = e.Revision
			changes = append(changes, Change{Scope: s.name, Key: e.Key, Value: e.Value, Revision: e.Revision})
		}
	}
	for key := range s.known {
		if !found[key] {
			delete(s.known, key)
			changes = append(changes, Change{Scope: s.name, Key: key, Revision: snap.Revision})
		}
	}
	return changes
}

// answer is a response to the watch of one range.
type answer struct {
	index int
	clientv3.WatchResponse
}

// watch offers events from the revision of each range in next on, which it advances, until a watch breaks (an error) or
// everything has to be listed (nil).
func (s *scope) watch(ctx context.Context, next []int64) error {
	var forwarders sync.WaitGroup
	defer forwarders.Wait() // after cancel
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer)
	for i := range s.ranges {
		from := next[i]
		forwarders.Go(func() { s.forward(ctx, i, from, answers) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.rewound:
			for key := range s.known {
				s.known[key] = 0 // there may be another value at that very revision
			}
			return nil
		case a := <-answers:
			if err := a.Err(); err != nil {
				return err
			}
			s.mirror.see(a.Header.ClusterId, a.Header.Revision)
			s.mirror.offer(s, s.changes(a.WatchResponse), false)
			if n := len(a.Events); n > 0 {
				next[a.index] = a.Events[n-1].Kv.ModRevision + 1 // a revision's events come together
			}
		}
	}
}

// forward passes the answers of one watch on, until ctx ends or the watch does; its end is an answer with an error.
func (s *scope) forward(ctx context.Context, index int, from int64, to chan<- answer) {
	r := s.ranges[index]
	opts := []clientv3.OpOption{clientv3.WithRev(from)}
	if r.end != "" {
		opts = append(opts, clientv3.WithRange(r.end))
	}
	for resp := range s.mirror.store.Client().Watch(ctx, r.key, opts...) {
		select {
		case <-ctx.Done():
			return
		case to <- answer{index, resp}:
		}
	}
	select {
	case <-ctx.Done():
	case to <- answer{index, clientv3.WatchResponse{Canceled: true}}:
	}
}

func (s *scope) changes(resp clientv3.WatchResponse) []Change {
	changes := make([]Change, 0, len(resp.Events))
	for _, ev := range resp.Events {
		c := Change{Scope: s.name, Key: string(ev.Kv.Key), Revision: ev.Kv.ModRevision}
		if ev.Type == clientv3.EventTypePut {
			c.Value = ev.Kv.Value
			if c.Value == nil {
				c.Value = []byte{}
			}
			s.known[c.Key] = c.Revision
		} else {
			delete(s.known, c.Key)
		}
		changes = append(changes, c)
	}
	return changes
}
