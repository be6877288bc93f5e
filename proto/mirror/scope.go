package mirror

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

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
	for attempt := 0; ctx.Err() == nil; attempt++ {
		revision, err := s.list(ctx)
		if err != nil {
			s.mirror.opts.Log.Warn("listing failed, trying again", "scope", s.name, "error", err)
			pause(ctx, attempt)
			continue
		}
		attempt = 0
		if err := s.watch(ctx, revision+1); err != nil && ctx.Err() == nil {
			s.mirror.opts.Log.Info("watch ended, listing again", "scope", s.name, "error", err)
			pause(ctx, attempt)
		}
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
	snap, err := s.mirror.store.Read(ctx, queries...)
	if err != nil {
		return 0, err
	}
	s.mirror.see(snap.Revision)
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

// watch offers events until a watch breaks (an error) or another listing is due (nil).
func (s *scope) watch(ctx context.Context, from int64) error {
	life := s.mirror.opts.Relist
	var forwarders sync.WaitGroup
	defer forwarders.Wait() // after cancel
	ctx, cancel := context.WithTimeout(ctx, life-life/4+rand.N(life/4))
	defer cancel()
	responses := make(chan clientv3.WatchResponse)
	for _, r := range s.ranges {
		forwarders.Go(func() { s.forward(ctx, r, from, responses) })
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
		case resp := <-responses:
			if err := resp.Err(); err != nil {
				return err
			}
			s.mirror.see(resp.Header.Revision)
			s.mirror.offer(s, s.changes(resp), false)
		}
	}
}

// forward passes the answers of one watch on, until ctx ends or the watch does; its end is an answer with an error.
func (s *scope) forward(ctx context.Context, r Range, from int64, to chan<- clientv3.WatchResponse) {
	opts := []clientv3.OpOption{clientv3.WithRev(from)}
	if r.end != "" {
		opts = append(opts, clientv3.WithRange(r.end))
	}
	for resp := range s.mirror.store.Client().Watch(ctx, r.key, opts...) {
		select {
		case <-ctx.Done():
			return
		case to <- resp:
		}
	}
	select {
	case <-ctx.Done():
	case to <- clientv3.WatchResponse{Canceled: true}:
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
