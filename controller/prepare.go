package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// schemaVersion is the version of the layout of keys that this controller reads and writes.
const schemaVersion = 1

// prepare checks that the store has a layout that this controller knows. An empty one gets the schema key, a
// google.protobuf.Int64Value, and the default ranges of tunnels.
func prepare(ctx context.Context, s *store.Store) error {
	_, err := s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		snap, err := s.Read(ctx, store.Key(keys.Schema))
		if err != nil {
			return nil, err
		}
		if found := snap.Results[0].Entries; len(found) > 0 {
			return nil, checkSchema(found[0].Value)
		}
		t := &txn.Txn{}
		t.Absent(keys.Schema)
		t.Put(keys.Schema, wrapperspb.Int64(schemaVersion))
		for _, kind := range []weftv1.NetworkType{weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_GRE} {
			r := defaultRange(kind)
			t.Put(keys.SegmentRange(r.GetId()), r)
		}
		return t, nil
	})
	if err != nil {
		return fmt.Errorf("prepare the store: %w", err)
	}
	return nil
}

func checkSchema(value []byte) error {
	have := &wrapperspb.Int64Value{}
	if err := proto.Unmarshal(value, have); err != nil {
		return errors.Join(fmt.Errorf("key %s does not hold a version", keys.Schema), err)
	}
	if have.GetValue() != schemaVersion {
		return fmt.Errorf("the store has schema version %d, this controller knows only version %d; run the release that wrote it", have.GetValue(), schemaVersion)
	}
	return nil
}

// defaultRange is wide enough for any fleet: 2^24-1 segments.
func defaultRange(t weftv1.NetworkType) *weftv1.SegmentRange {
	now := timestamppb.Now()
	return &weftv1.SegmentRange{
		Id: uuid.NewString(), Name: "default-" + model.TypeName(t), Type: t, Minimum: 1, Maximum: 1<<24 - 1, CreateTime: now, UpdateTime: now,
	}
}
