package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/migrate"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// prepareEvery is the pause between attempts to prepare a store that does not answer.
const prepareEvery = 100 * time.Millisecond

// prepared waits until the store answers, or the context ends, and prepares it: a controller may start before its store.
func prepared(ctx context.Context, s *store.Store, log *slog.Logger) error {
	for {
		err := prepare(ctx, s, log)
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(prepareEvery):
		}
	}
}

// prepare has the store get the layout that this controller knows. An empty one gets the schema key and the default ranges
// of tunnels; an older layout is migrated, a newer one refused. So is a store into which a backup is being restored, and
// one that holds something but no version.
func prepare(ctx context.Context, s *store.Store, log *slog.Logger) error {
	_, err := s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		snap, err := s.Read(ctx, store.Key(keys.Schema), store.Key(keys.Restore), store.Count(keys.Root, keys.End(keys.Root)))
		if err != nil {
			return nil, err
		}
		switch {
		case len(snap.Results[1].Entries) > 0:
			return nil, fmt.Errorf("a backup is being restored, or was in part (key %s is there): end that with weft backup restore", keys.Restore)
		case len(snap.Results[0].Entries) > 0:
			return nil, nil //nolint:nilnil // nothing to write
		case snap.Results[2].Count > 0:
			agents, err := onlyAgents(ctx, s)
			if err != nil {
				return nil, err
			}
			if !agents {
				return nil, fmt.Errorf("%w, and yet it is not empty: restore a backup with --replace, or delete what is below %s", schema.ErrNone, keys.Root)
			}
		}
		return first(), nil
	})
	if err == nil {
		err = migrate.Run(ctx, s, log)
	}
	if err != nil {
		return fmt.Errorf("prepare the store: %w", err)
	}
	return nil
}

// onlyAgents reports whether the store holds nothing but what agents say of themselves and controllers of the leadership:
// they may have come before it was prepared.
func onlyAgents(ctx context.Context, s *store.Store) (bool, error) {
	snap, err := s.Read(ctx, store.Count(keys.Root, keys.End(keys.Root)), count(keys.FamilyAgent), count(keys.FamilyLive),
		count(keys.FamilyPlug), count(keys.FamilyStatus), count(keys.FamilyLeader), count(keys.FamilyAnswer))
	if err != nil {
		return false, err
	}
	rest := snap.Results[0].Count
	for _, r := range snap.Results[1:] {
		rest -= r.Count
	}
	return rest == 0, nil
}

func count(f keys.Family) store.Query { return store.Count(keys.All(f), keys.End(keys.All(f))) }

// first is what an empty store gets.
func first() *txn.Txn {
	t := &txn.Txn{}
	t.Absent(keys.Schema)
	t.Absent(keys.Restore)
	t.Put(keys.Schema, schema.Value(schema.Version))
	for _, kind := range []weftv1.NetworkType{weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_GRE} {
		r := defaultRange(kind)
		t.Put(keys.SegmentRange(r.GetId()), r)
	}
	return t
}

// defaultRange is wide enough for any fleet: 2^24-1 segments.
func defaultRange(t weftv1.NetworkType) *weftv1.SegmentRange {
	now := timestamppb.Now()
	return &weftv1.SegmentRange{
		Id: uuid.NewString(), Name: "default-" + model.TypeName(t), Type: t, Minimum: 1, Maximum: 1<<24 - 1, CreateTime: now, UpdateTime: now,
	}
}
