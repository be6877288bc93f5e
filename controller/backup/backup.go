// Package backup saves what operators and users have put into the store to a file, and restores it into the same etcd or
// another one, of any version. It is a copy of keys and values, not of etcd's database: revisions and leases are not part
// of it, and neither is what agents and controllers say of themselves (Excluded), which they say again. It works on etcd
// itself, since it is for the day on which there is no controller.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// Excluded are the families of keys that are no part of a backup: they are under leases, or their writers write them
// again.
func Excluded() []keys.Family {
	return []keys.Family{
		keys.FamilyRequest, keys.FamilyLive, keys.FamilyLeader, keys.FamilyPlug, keys.FamilyAsk, keys.FamilyAnswer, keys.FamilyStatus,
		keys.FamilyWitness,
	}
}

// page is how many keys are read at a time.
const page = 1000

// kept reports whether a key is part of a backup.
func kept(key string) bool {
	rest, ok := strings.CutPrefix(key, keys.Root)
	family, _, _ := strings.Cut(rest, "/")
	return ok && !slices.Contains(Excluded(), keys.Family(family))
}

// each reads all keys that are part of a backup, at one revision (0: now), in their order, and returns the revision.
func each(ctx context.Context, s *store.Store, revision int64, do func(store.Entry) error) (int64, error) {
	start, end := keys.Root, keys.End(keys.Root)
	for {
		snap, err := s.ReadAt(ctx, revision, store.Range(start, end, page))
		if err != nil {
			return 0, err
		}
		revision = snap.Revision
		found := snap.Results[0].Entries
		for _, e := range found {
			if !kept(e.Key) {
				continue
			}
			if err := do(e); err != nil {
				return 0, err
			}
		}
		if len(found) < page {
			return revision, nil
		}
		start = found[len(found)-1].Key + "\x00"
	}
}

// Save writes a backup of the store as it is at one revision. A store without a schema version, or whose restore has not
// ended, is refused.
func Save(ctx context.Context, s *store.Store, to io.Writer) (*Backup, error) {
	snap, err := s.Read(ctx, store.Key(keys.Schema), store.Key(keys.Restore))
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if found := snap.Results[1].Entries; len(found) > 0 {
		return nil, unfinished(found[0].Value)
	}
	layout, err := schema.Parse(value(snap.Results[0]))
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	b := &Backup{Schema: layout, Revision: snap.Revision, Time: time.Now().UTC().Truncate(time.Second)}
	w, err := newWriter(to, header{Schema: b.Schema, Revision: b.Revision, Time: b.Time})
	if err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	if _, err := each(ctx, s, snap.Revision, func(e store.Entry) error {
		entry := Entry{Key: e.Key, Value: e.Value}
		b.Entries = append(b.Entries, entry)
		return w.entry(entry)
	}); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if b.Digest, err = w.end(); err != nil {
		return nil, fmt.Errorf("write the backup: %w", err)
	}
	return b, nil
}

func value(r store.Result) []byte {
	if len(r.Entries) == 0 {
		return nil
	}
	return r.Entries[0].Value
}

// Options tune Restore.
type Options struct {
	// Replace allows for a store that holds something: what the backup does not have is deleted.
	Replace bool
	// Now is the time of the restore. Required.
	Now time.Time
}

// What stands in the way of a restore, for errors.Is.
var (
	ErrNotEmpty    = errors.New("the store is not empty; its content would be replaced: say so with --replace")
	ErrUnfinished  = errors.New("a restore has not ended")
	ErrControllers = errors.New("controllers are running on this store; stop them first")
)

func unfinished(value []byte) error {
	began := &storev1.Restore{}
	if err := proto.Unmarshal(value, began); err != nil {
		return fmt.Errorf("%w: its mark at %s can't be read: %w", ErrUnfinished, keys.Restore, err)
	}
	return fmt.Errorf("%w: of the backup with checksum %.12s…, begun at %s; restore that file again, or another one with --replace",
		ErrUnfinished, began.GetDigest(), began.GetTime().AsTime().Format(time.RFC3339))
}
