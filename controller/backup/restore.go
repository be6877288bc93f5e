package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// Changes is what a restore did.
type Changes struct {
	Written, Deleted, Unchanged int
}

// Restore makes the store hold what the backup holds. Keys that are equal already are not written: agents notice only
// what differs. From its first write until its last the store has no schema version and a mark at keys.Restore, so that
// nobody takes it for whole: controllers do not start, agents keep what they have. A restore that was interrupted is
// taken up by another one with the same backup; with another backup it takes Replace.
//
// No controller may run meanwhile: a store in which one is registered is refused (ErrControllers).
func Restore(ctx context.Context, s *store.Store, b *Backup, o Options) (Changes, error) {
	if b.Schema > schema.Version {
		return Changes{}, fmt.Errorf("restore: %w: the backup has schema version %d, this release knows up to %d", schema.ErrNewer, b.Schema, schema.Version)
	}
	for _, e := range b.Entries {
		if !kept(e.Key) {
			return Changes{}, fmt.Errorf("restore: %w: key %s is no part of a backup", ErrDamaged, e.Key)
		}
	}
	mark, err := begin(ctx, s, b, o)
	if err != nil {
		return Changes{}, fmt.Errorf("restore: %w", err)
	}
	r := &restore{store: s, mark: mark, now: o.Now.Unix(), batch: &txn.Txn{}}
	if err := r.run(ctx, b); err != nil {
		return r.changes, fmt.Errorf("restore, not ended yet: %w; do it again with the same file", err)
	}
	return r.changes, nil
}

// begin marks the store, and returns the revision of the mark.
func begin(ctx context.Context, s *store.Store, b *Backup, o Options) (int64, error) {
	return s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		snap, err := s.Read(ctx, store.Key(keys.Restore), store.Key(keys.Schema), store.Range(keys.Leaders(), keys.End(keys.Leaders()), 1))
		if err != nil {
			return nil, err
		}
		if len(snap.Results[2].Entries) > 0 {
			return nil, ErrControllers
		}
		if err := allowed(ctx, s, snap, b, o); err != nil {
			return nil, err
		}
		t := &txn.Txn{}
		t.NoneUnder(keys.Leaders())
		for i, key := range []string{keys.Restore, keys.Schema} {
			t.Unchanged(key, revision(snap.Results[i]))
		}
		t.Delete(keys.Schema)
		t.Put(keys.Restore, &storev1.Restore{Digest: b.Digest, Time: timestamppb.New(o.Now)})
		return t, nil
	})
}

func revision(r store.Result) int64 {
	if len(r.Entries) == 0 {
		return 0
	}
	return r.Entries[0].Revision
}

// allowed says whether what is in the store may go.
func allowed(ctx context.Context, s *store.Store, snap store.Snapshot, b *Backup, o Options) error {
	if o.Replace {
		return nil
	}
	if found := snap.Results[0].Entries; len(found) > 0 {
		began := &storev1.Restore{}
		if err := proto.Unmarshal(found[0].Value, began); err == nil && began.GetDigest() == b.Digest {
			return nil
		}
		return unfinished(found[0].Value)
	}
	if len(snap.Results[1].Entries) > 0 {
		return ErrNotEmpty
	}
	_, err := each(ctx, s, snap.Revision, func(store.Entry) error { return ErrNotEmpty })
	return err
}

// restore is one under way.
type restore struct {
	store   *store.Store
	mark    int64 // revision of the mark, which guards every write
	now     int64
	batch   *txn.Txn
	changes Changes
}

// perBatch is how many keys one transaction writes.
const perBatch = 100

func (r *restore) run(ctx context.Context, b *Backup) error {
	have := map[string][]byte{}
	if _, err := each(ctx, r.store, 0, func(e store.Entry) error {
		have[e.Key] = e.Value
		return nil
	}); err != nil {
		return err
	}
	for _, e := range b.Entries {
		was, found := have[e.Key]
		delete(have, e.Key)
		if err := r.restoreKey(ctx, e, was, found); err != nil {
			return err
		}
	}
	for key := range have {
		if err := r.remove(ctx, key); err != nil {
			return err
		}
	}
	if err := r.forget(ctx); err != nil {
		return err
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	return r.end(ctx, b.Schema)
}

// restoreKey writes a key that differs. Who is active for a router goes on counting epochs: the clock is ahead of every
// epoch that a node may have seen since the backup was made, or will have been at the next restore.
func (r *restore) restoreKey(ctx context.Context, e Entry, was []byte, found bool) error {
	if found && bytes.Equal(was, e.Value) {
		r.changes.Unchanged++
		return nil
	}
	if err := r.room(ctx); err != nil {
		return err
	}
	r.changes.Written++
	if active := (&storev1.ActiveRouter{}); strings.HasPrefix(e.Key, keys.All(keys.FamilyActive)) && proto.Unmarshal(e.Value, active) == nil {
		before := &storev1.ActiveRouter{}
		if proto.Unmarshal(was, before) == nil && before.GetNode() == active.GetNode() && before.GetEpoch() >= active.GetEpoch() {
			r.changes.Written--
			r.changes.Unchanged++
			return nil
		}
		active.Epoch = max(active.GetEpoch(), before.GetEpoch(), r.now) + 1
		r.batch.Put(e.Key, active)
		return nil
	}
	r.batch.PutRaw(e.Key, e.Value)
	return nil
}

func (r *restore) remove(ctx context.Context, key string) error {
	if err := r.room(ctx); err != nil {
		return err
	}
	r.changes.Deleted++
	r.batch.Delete(key)
	return nil
}

// forget deletes the remembered results of calls: they tell of objects that may not be there.
func (r *restore) forget(ctx context.Context) error {
	for {
		snap, err := r.store.Read(ctx, store.Range(keys.All(keys.FamilyRequest), keys.End(keys.All(keys.FamilyRequest)), page))
		if err != nil {
			return err
		}
		found := snap.Results[0].Entries
		for _, e := range found {
			if err := r.room(ctx); err != nil {
				return err
			}
			r.batch.Delete(e.Key)
		}
		if len(found) < page {
			return nil
		}
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
}

// room makes room for one more write.
func (r *restore) room(ctx context.Context) error {
	if len(r.batch.Writes()) < perBatch {
		return nil
	}
	return r.flush(ctx)
}

// errOverrun says that somebody else restores too.
var errOverrun = errors.New("another restore has begun, or a controller has started")

func (r *restore) flush(ctx context.Context) error {
	if len(r.batch.Writes()) == 0 {
		return nil
	}
	r.batch.Unchanged(keys.Restore, r.mark)
	r.batch.NoneUnder(keys.Leaders())
	_, err := r.store.Commit(ctx, r.batch, 0)
	r.batch = &txn.Txn{}
	if errors.Is(err, store.ErrConflict) {
		return errOverrun
	}
	return err
}

// end takes the mark away and makes the store whole.
func (r *restore) end(ctx context.Context, version int64) error {
	r.batch.Delete(keys.Restore)
	r.batch.Put(keys.Schema, schema.Value(version))
	return r.flush(ctx)
}
