package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// edit is one attempt at a mutation: the view that it looks at and the transaction that it builds. It belongs to one
// goroutine.
type edit struct {
	*record.View
	txn   *txn.Txn
	alloc *alloc.Allocator
	now   *timestamppb.Timestamp
	// blind: claims are made without looking; a conflict brings the next attempt, which looks and can say who is in
	// the way.
	blind  bool
	server *Server
}

func (s *Server) newEdit(v *record.View, blind bool) *edit {
	return &edit{
		View: v, txn: &txn.Txn{}, alloc: &alloc.Allocator{View: v, Blind: blind}, now: now(), blind: blind, server: s,
	}
}

// place is the edit as package placing wants it; both append to one transaction.
func (e *edit) place() *placing.Change {
	return &placing.Change{View: e.View, Alloc: e.alloc, Txn: e.txn, Now: e.now, Nodes: e.server.opts.Fleet.Nodes, Pools: e.server.pools}
}

func (s *Server) pools() placing.Pools { return s.opts.Fleet.PoolSettings() }

// guard makes the transaction fail if an object has changed since it was read.
func guard[M messageOf](e *edit, s record.Stored[M]) { e.txn.Unchanged(s.Key, s.Revision) }

// putNew writes a new object and its locator.
func putNew[M messageOf](e *edit, k *record.Kind[M], m M) {
	e.txn.Put(k.KeyOf(m), m)
	if k.Locator != "" {
		e.txn.Put(keys.Locator(k.Locator, *k.Header(m).ID), &storev1.Locator{Scope: k.Scope(m)})
	}
}

// deleteStored deletes an object and its locator, guarded.
func deleteStored[M messageOf](e *edit, k *record.Kind[M], s record.Stored[M]) {
	guard(e, s)
	e.txn.Delete(s.Key)
	if k.Locator != "" {
		e.txn.Delete(keys.Locator(k.Locator, *k.Header(s.Msg).ID))
	}
}

// claimant is who holds a claim, for a second attempt; a blind edit does not ask.
func (e *edit) claimant(ctx context.Context, key string) (*storev1.Claim, error) {
	if e.blind {
		return nil, nil //nolint:nilnil // nobody known
	}
	return e.Claimant(ctx, key)
}

// holds reports whether an object holds a claim that it is about to give back. One that was written into the store by hand
// may name what is another's, and must not free that.
func (e *edit) holds(ctx context.Context, key, id string) (bool, error) {
	claim, err := e.Claimant(ctx, key)
	return claim.GetId() == id, err
}

// few reads at most a handful of a prefix's objects, and how many there are.
func few[M messageOf](ctx context.Context, e *edit, k *record.Kind[M], prefix string) ([]record.Stored[M], int64, error) {
	results, err := e.Read(ctx, store.Range(prefix, keys.End(prefix), 64))
	if err != nil {
		return nil, 0, err
	}
	var out []record.Stored[M]
	for _, entry := range results[0].Entries {
		s, err := k.Decode(entry)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, s)
	}
	return out, results[0].Count, nil
}
