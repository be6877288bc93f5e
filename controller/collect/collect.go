// Package collect deletes from the store what belongs to nothing. There should be nothing of the kind: objects and what
// belongs to them are written and deleted in one transaction. It is for what was written by hand, restored in part, or left
// by a bug or by a node that will not come back. It never touches an object, nor what it does not understand: package audit
// says what is an orphan.
//
// It looks twice. What the first look finds is only told; what a second one, later, finds unchanged is deleted, each in a
// transaction that holds only if it is still an orphan.
//
// The reverse it mends in one case: an object that does not count against its project's quota, and should, is counted again.
package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
)

// Look finds the orphans of now and changes nothing. A store that is being restored, whose claims may be there before their
// objects, or that has a layout that this release does not know, is refused: schema.ErrNone, ErrNewer, ErrOlder.
func Look(ctx context.Context, s *store.Store) ([]audit.Orphan, error) {
	all, err := everything(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	return audit.Orphans(all), nil
}

// everything is all entries of a store that is whole.
func everything(ctx context.Context, s *store.Store) ([]store.Entry, error) {
	snap, err := s.Read(ctx, store.Prefix(keys.Root), store.Key(keys.Schema))
	if err != nil {
		return nil, err
	}
	var layout []byte
	for _, e := range snap.Results[1].Entries {
		layout = e.Value
	}
	return snap.Results[0].Entries, schema.Check(layout)
}

// Uncounted finds the objects of now that do not count against their project's quota, and should; it refuses what Look refuses. One
// look is enough: what an object counts by is written with it.
func Uncounted(ctx context.Context, s *store.Store) ([]quota.Uncounted, error) {
	all, err := everything(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("look for objects that do not count: %w", err)
	}
	missing, _ := quota.Missing(all)
	return missing, nil
}

// Count has objects count that do not, each by itself, and returns those that now do. guard is as in Delete.
func Count(ctx context.Context, s *store.Store, uncounted []quota.Uncounted, guard func(*txn.Txn)) ([]quota.Uncounted, error) {
	var counted []quota.Uncounted
	for _, o := range uncounted {
		t := &txn.Txn{}
		if guard != nil {
			guard(t)
		}
		o.Count(t)
		t.Exists(keys.Schema)
		_, err := s.Commit(ctx, t, 0)
		switch {
		case err == nil:
			counted = append(counted, o)
		case !errors.Is(err, store.ErrConflict):
			return counted, fmt.Errorf("count %s %s: %w", o.Kind.Name, o.ID, err)
		}
	}
	return counted, nil
}

// Confirmed are those of the later look that the earlier one found too, unchanged.
func Confirmed(earlier, later []audit.Orphan) []audit.Orphan {
	known := make(map[string]int64, len(earlier))
	for _, o := range earlier {
		known[o.Key] = o.Revision
	}
	var out []audit.Orphan
	for _, o := range later {
		if known[o.Key] == o.Revision {
			out = append(out, o)
		}
	}
	return out
}

// Delete deletes orphans, each by itself, and returns those that were: one that has changed meanwhile is left for another
// look. guard, if not nil, appends what has to hold besides.
func Delete(ctx context.Context, s *store.Store, orphans []audit.Orphan, guard func(*txn.Txn)) ([]audit.Orphan, error) {
	var gone []audit.Orphan
	for _, o := range orphans {
		t := &txn.Txn{}
		if guard != nil {
			guard(t)
		}
		o.Delete(t)
		t.Exists(keys.Schema) // nobody has begun to restore a backup meanwhile
		_, err := s.Commit(ctx, t, 0)
		switch {
		case err == nil:
			gone = append(gone, o)
		case !errors.Is(err, store.ErrConflict):
			return gone, fmt.Errorf("delete %s: %w", o.Key, err)
		}
	}
	return gone, nil
}

// Options is what a Collector needs.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Age is how long after the first look the second one comes; default a minute.
	Age time.Duration
	// Period is how often it looks; default 10 minutes.
	Period time.Duration
	// Collected, if not nil, is told how many orphans have been deleted.
	Collected func(n int)
}

// Collector is the leader's. Make it with New; Run does the work.
type Collector struct {
	opts Options
}

// New makes a Collector.
func New(opts Options) *Collector {
	if opts.Age == 0 {
		opts.Age = time.Minute
	}
	if opts.Period == 0 {
		opts.Period = 10 * time.Minute
	}
	if opts.Collected == nil {
		opts.Collected = func(int) {}
	}
	return &Collector{opts: opts}
}

// lookTimeout bounds one look and what it leads to.
const lookTimeout = time.Minute

// Run collects until the context ends; guard is the leader's, appended to every transaction.
func (c *Collector) Run(ctx context.Context, guard func(*txn.Txn)) {
	for wait(ctx, c.opts.Period/2+rand.N(c.opts.Period/2)) {
		if err := errors.Join(c.once(ctx, guard), c.recount(ctx, guard)); err != nil && ctx.Err() == nil {
			c.opts.Log.Warn("looking for orphans failed, trying again later", "error", err)
		}
	}
}

// recount has what does not count against quotas, and should, count again.
func (c *Collector) recount(ctx context.Context, guard func(*txn.Txn)) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	missing, err := Uncounted(ctx, c.opts.Store)
	if err != nil {
		return err
	}
	counted, err := Count(ctx, c.opts.Store, missing, guard)
	for _, o := range counted[:min(len(counted), maxTold)] {
		c.opts.Log.Warn("an object counts against its project's quota again", "kind", o.Kind.Name, "id", o.ID, "project", o.Project)
	}
	return err
}

// maxTold bounds how many orphans are named in the log.
const maxTold = 20

func (c *Collector) once(ctx context.Context, guard func(*txn.Txn)) error {
	first, err := c.look(ctx)
	if err != nil || len(first) == 0 {
		return err
	}
	for _, o := range first[:min(len(first), maxTold)] {
		c.opts.Log.Warn("an orphan in the store is deleted unless that changes", "key", o.Key, "why", o.Why, "in", c.opts.Age)
	}
	if !wait(ctx, c.opts.Age) {
		return nil
	}
	second, err := c.look(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	gone, err := Delete(ctx, c.opts.Store, Confirmed(first, second), guard)
	if len(gone) > 0 {
		c.opts.Log.Warn("orphans have been deleted", "found", len(first), "deleted", len(gone))
		c.opts.Collected(len(gone))
	}
	return err
}

func (c *Collector) look(ctx context.Context) ([]audit.Orphan, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return Look(ctx, c.opts.Store)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
