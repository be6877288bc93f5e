package record

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// View is the store at one revision: that of its first read. What has been read once is not read again. It is not safe
// for concurrent use. A view that has grown old fails with store.ErrCompacted; that is a conflict like any other for
// whoever builds a transaction.
type View struct {
	store    *store.Store
	revision int64
	memo     map[store.Query]store.Result
	whole    []store.Query // those of memo that ask for whole ranges
}

// NewView makes a view whose first read sets its revision.
func NewView(s *store.Store) *View { return &View{store: s, memo: map[store.Query]store.Result{}} }

// ViewAt makes a view of an earlier revision.
func ViewAt(s *store.Store, revision int64) *View {
	return &View{store: s, revision: revision, memo: map[store.Query]store.Result{}}
}

// freshAttempts bounds how often Fresh begins anew: once is already rare.
const freshAttempts = 10

// Fresh reads through a new view, and through another if that one has grown old in between.
func Fresh[T any](s *store.Store, read func(*View) (T, error)) (T, error) {
	for attempt := 1; ; attempt++ {
		out, err := read(NewView(s))
		if !errors.Is(err, store.ErrCompacted) || attempt == freshAttempts {
			return out, err
		}
	}
}

// Revision is the view's revision; 0 before the first read.
func (v *View) Revision() int64 { return v.revision }

// maxQueries is how many queries go into one read: etcd's limit on operations.
const maxQueries = 128

// Read answers queries; what has not been read before is fetched together.
func (v *View) Read(ctx context.Context, queries ...store.Query) ([]store.Result, error) {
	var missing []store.Query
	for _, q := range queries {
		if _, known := v.answer(q); !known {
			missing = append(missing, q)
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), maxQueries)
		if err := v.fetch(ctx, missing[:n]); err != nil {
			return nil, err
		}
		missing = missing[n:]
	}
	out := make([]store.Result, len(queries))
	for i, q := range queries {
		out[i], _ = v.answer(q)
	}
	return out, nil
}

// answer is the answer to a query that has been read, by itself or as part of a range.
func (v *View) answer(q store.Query) (r store.Result, known bool) {
	if r, known = v.memo[q]; known {
		return r, true
	}
	for _, all := range v.whole {
		if r, known = all.Extract(v.memo[all], q); known {
			return r, true
		}
	}
	return store.Result{}, false
}

func (v *View) fetch(ctx context.Context, queries []store.Query) error {
	snap, err := v.store.ReadAt(ctx, v.revision, queries...)
	if err != nil {
		return err
	}
	v.revision = snap.Revision
	for i, q := range queries {
		v.memo[q] = snap.Results[i]
		if q.Whole() {
			v.whole = append(v.whole, q)
		}
	}
	return nil
}

// One answers a query for one key; found is false when there is no such key.
func (v *View) One(ctx context.Context, key string) (e store.Entry, found bool, err error) {
	results, err := v.Read(ctx, store.Key(key))
	if err != nil || len(results[0].Entries) == 0 {
		return store.Entry{Key: key}, false, err
	}
	return results[0].Entries[0], true, nil
}

// Prefix answers a query for all keys with a prefix.
func (v *View) Prefix(ctx context.Context, prefix string) ([]store.Entry, error) {
	results, err := v.Read(ctx, store.Prefix(prefix))
	if err != nil {
		return nil, err
	}
	return results[0].Entries, nil
}

// Claimant is who holds a claim key; nil when nobody does.
func (v *View) Claimant(ctx context.Context, key string) (*storev1.Claim, error) {
	e, found, err := v.One(ctx, key)
	if err != nil || !found {
		return nil, err
	}
	claim := &storev1.Claim{}
	if err := proto.Unmarshal(e.Value, claim); err != nil {
		return nil, fault.Damaged("the claim at key "+key, err)
	}
	return claim, nil
}

// Get reads one object by its id. The error is a fault.NotFound when there is none, or when the id is no id.
func (k *Kind[M]) Get(ctx context.Context, v *View, id string) (Stored[M], error) {
	scope, err := k.Locate(ctx, v, id)
	if err != nil {
		return Stored[M]{}, err
	}
	return k.At(ctx, v, scope, id)
}

// At reads one object whose scope is known.
func (k *Kind[M]) At(ctx context.Context, v *View, scope, id string) (Stored[M], error) {
	if !model.ValidUUID(id) {
		return Stored[M]{}, fault.NotFound(k.Name, id)
	}
	e, found, err := v.One(ctx, k.Key(scope, id))
	switch {
	case err != nil:
		return Stored[M]{}, err
	case !found:
		return Stored[M]{}, fault.NotFound(k.Name, id)
	default:
		return k.Decode(e)
	}
}

// Locate is the scope of an object's key; "" for a kind whose key is its id alone. The error is a fault.NotFound when the id is
// not known.
func (k *Kind[M]) Locate(ctx context.Context, v *View, id string) (string, error) {
	if k.Locator == "" {
		return "", nil
	}
	if !model.ValidUUID(id) {
		return "", fault.NotFound(k.Name, id)
	}
	e, found, err := v.One(ctx, keys.Locator(k.Locator, id))
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", fault.NotFound(k.Name, id)
	}
	at := &storev1.Locator{}
	if err := proto.Unmarshal(e.Value, at); err != nil {
		return "", fault.Damaged("the locator at key "+e.Key, err)
	}
	return at.GetScope(), nil
}

// Under reads all objects whose keys begin with prefix, in the order of their keys. One that can't be decoded is an error.
func (k *Kind[M]) Under(ctx context.Context, v *View, prefix string) ([]Stored[M], error) {
	entries, err := v.Prefix(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]Stored[M], 0, len(entries))
	for _, e := range entries {
		s, err := k.Decode(e)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// All reads all objects of the kind. One that can't be decoded is left out, with a line in the log: it stops nothing that
// is about the others.
func (k *Kind[M]) All(ctx context.Context, v *View, log *slog.Logger) ([]Stored[M], error) {
	return k.Sound(ctx, v, keys.All(k.Family), log)
}

// Sound is Under without what can't be decoded, as All is.
func (k *Kind[M]) Sound(ctx context.Context, v *View, prefix string, log *slog.Logger) ([]Stored[M], error) {
	entries, err := v.Prefix(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]Stored[M], 0, len(entries))
	for _, e := range entries {
		s, err := k.Decode(e)
		if err != nil {
			log.Error("passing over an object", "key", e.Key, "error", err)
			continue
		}
		out = append(out, s)
	}
	return out, nil
}
