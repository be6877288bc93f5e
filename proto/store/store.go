// Package store reads from and commits to etcd: snapshots of several ranges at one revision, and transactions built by
// package txn. It knows keys and values only as bytes; what they mean is said by packages keys and model.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/txn"
)

// The classes of error, for errors.Is.
var (
	// ErrConflict: a guard did not hold; read again and rebuild.
	ErrConflict = errors.New("the store has changed meanwhile")
	// ErrUnavailable: etcd did not answer, or has no leader. A commit that failed so may or may not have happened.
	ErrUnavailable = errors.New("the store can't be reached")
	// ErrFull: etcd takes no writes, for its database has reached its quota, or no more at this rate. Nothing is written.
	ErrFull = errors.New("the store takes no more")
	// ErrDenied: etcd's access control does not let this identity do that. Nothing is written.
	ErrDenied = errors.New("etcd does not let this identity do that (weft access)")
	// ErrCompacted: the revision asked for has been compacted away.
	ErrCompacted = errors.New("the revision has been compacted away")
)

// Store is a connection to etcd. It is safe for concurrent use.
//
// A store that does not answer is soon known to be away: calls then fail with ErrUnavailable within a fraction of a second
// instead of waiting for their deadlines, until it answers again. That view is one per Store: share it.
type Store struct {
	client   *clientv3.Client
	health   *health
	observer Observer
}

// Observer is told what a store does. Its functions may be nil, are called concurrently and must not block.
type Observer struct {
	// Call is told of each call to etcd: "read", "commit" or "lease". err is as the caller gets it.
	Call func(operation string, took time.Duration, err error)
	// Conflict is told whenever Update builds anew.
	Conflict func()
}

// Observed is the same store with an observer.
func (s *Store) Observed(o Observer) *Store {
	return &Store{client: s.client, health: s.health, observer: o}
}

// do makes a call to etcd.
func (s *Store) do(ctx context.Context, operation string, call func(context.Context) (*etcdserverpb.ResponseHeader, error)) error {
	began := time.Now()
	err := s.health.do(ctx, operation, call)
	if s.observer.Call != nil {
		s.observer.Call(operation, time.Since(began), err)
	}
	return err
}

// New wraps a client, which stays the caller's to close.
func New(client *clientv3.Client) *Store { return &Store{client: client, health: newHealth(client)} }

// Client is the wrapped client, for leases and watches.
func (s *Store) Client() *clientv3.Client { return s.client }

// Entry is one key with its value.
type Entry struct {
	Key   string
	Value []byte // never nil
	// Revision is the key's mod revision.
	Revision int64
}

// Query asks for a key, a range, or the number of keys in a range.
type Query struct {
	key, end  string
	countOnly bool
	limit     int64
}

// Key asks for one key.
func Key(key string) Query { return Query{key: key} }

// Prefix asks for all keys that begin with prefix, sorted.
func Prefix(prefix string) Query { return Query{key: prefix, end: keys.End(prefix)} }

// Range asks for the keys from start (included) to end (excluded), sorted; at most limit, 0: all.
func Range(start, end string, limit int64) Query { return Query{key: start, end: end, limit: limit} }

// Count asks how many keys lie from start (included) to end (excluded).
func Count(start, end string) Query { return Query{key: start, end: end, countOnly: true} }

func (q Query) op(revision int64) clientv3.Op {
	opts := []clientv3.OpOption{}
	if q.end != "" {
		opts = append(opts, clientv3.WithRange(q.end))
	}
	if q.countOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	if q.limit > 0 {
		opts = append(opts, clientv3.WithLimit(q.limit))
	}
	if revision > 0 {
		opts = append(opts, clientv3.WithRev(revision))
	}
	return clientv3.OpGet(q.key, opts...)
}

// Whole reports whether the query asks for all keys of a range.
func (q Query) Whole() bool { return q.end != "" && !q.countOnly && q.limit == 0 }

// Extract takes the answer to a query for one key out of the answer to q, which asks for a whole range; ok is false when it
// is not in there.
func (q Query) Extract(r Result, one Query) (_ Result, ok bool) {
	if !q.Whole() || one.end != "" || one.countOnly || one.key < q.key || one.key >= q.end {
		return Result{}, false
	}
	i, found := slices.BinarySearchFunc(r.Entries, one.key, func(e Entry, key string) int { return strings.Compare(e.Key, key) })
	if !found {
		return Result{}, true
	}
	return Result{Entries: r.Entries[i : i+1 : i+1], Count: 1}, true
}

// Result answers one Query.
type Result struct {
	Entries []Entry // in the order of the keys
	// Count is the number of keys in the range, whatever the limit.
	Count int64
}

// Snapshot is the answer to several queries, all at one revision.
type Snapshot struct {
	Revision int64
	// Cluster is the id of the etcd cluster that answered: another one has other revisions.
	Cluster uint64
	Results []Result
}

// Read answers all queries at one revision, linearizably.
func (s *Store) Read(ctx context.Context, queries ...Query) (Snapshot, error) {
	return s.ReadAt(ctx, 0, queries...)
}

// ReadAt answers all queries as the store was at a revision; 0 is now. ErrCompacted when that is gone.
func (s *Store) ReadAt(ctx context.Context, revision int64, queries ...Query) (Snapshot, error) {
	if len(queries) == 1 {
		return s.readOne(ctx, revision, queries[0])
	}
	ops := make([]clientv3.Op, len(queries))
	for i, q := range queries {
		ops[i] = q.op(revision)
	}
	var resp *clientv3.TxnResponse
	err := s.do(ctx, "read", func(ctx context.Context) (_ *etcdserverpb.ResponseHeader, err error) {
		resp, err = s.client.Txn(ctx).Then(ops...).Commit()
		return (*etcdserverpb.TxnResponse)(resp).GetHeader(), err
	})
	if err != nil {
		return Snapshot{}, err
	}
	snap := Snapshot{Revision: atOr(revision, resp.Header.Revision), Cluster: resp.Header.ClusterId, Results: make([]Result, len(queries))}
	for i, r := range resp.Responses {
		rr := r.GetResponseRange()
		snap.Results[i] = Result{Entries: entries((*clientv3.GetResponse)(rr)), Count: rr.Count}
	}
	return snap, nil
}

func (s *Store) readOne(ctx context.Context, revision int64, q Query) (Snapshot, error) {
	var resp clientv3.OpResponse
	err := s.do(ctx, "read", func(ctx context.Context) (_ *etcdserverpb.ResponseHeader, err error) {
		resp, err = s.client.Do(ctx, q.op(revision))
		return (*etcdserverpb.RangeResponse)(resp.Get()).GetHeader(), err
	})
	if err != nil {
		return Snapshot{}, err
	}
	get := resp.Get()
	return Snapshot{
		Revision: atOr(revision, get.Header.Revision), Cluster: get.Header.ClusterId,
		Results: []Result{{Entries: entries(get), Count: get.Count}},
	}, nil
}

func atOr(revision, header int64) int64 {
	if revision > 0 {
		return revision
	}
	return header
}

func entries(r *clientv3.GetResponse) []Entry {
	if len(r.Kvs) == 0 {
		return nil
	}
	out := make([]Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		out[i] = Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
		if kv.Value == nil {
			out[i].Value = []byte{}
		}
	}
	return out
}

// Commit makes the transaction's writes if all its guards hold, and returns the revision at which it did. ErrConflict
// when a guard does not hold (nothing is written); ErrUnavailable when the outcome is not known. lease is for the
// transaction's leased writes and may be 0 when it has none.
func (s *Store) Commit(ctx context.Context, t *txn.Txn, lease clientv3.LeaseID) (int64, error) {
	if err := t.Err(); err != nil {
		return 0, err
	}
	var resp *clientv3.TxnResponse
	err := s.do(ctx, "commit", func(ctx context.Context) (_ *etcdserverpb.ResponseHeader, err error) {
		resp, err = s.client.Txn(ctx).If(compares(t.Guards())...).Then(writes(t.Writes(), lease)...).Commit()
		if err == nil && !resp.Succeeded {
			err = ErrConflict
		}
		return (*etcdserverpb.TxnResponse)(resp).GetHeader(), err
	})
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// Grant takes a lease that lives for ttl, in whole seconds, unless it is kept alive through Client.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	var resp *clientv3.LeaseGrantResponse
	err := s.do(ctx, "lease", func(ctx context.Context) (_ *etcdserverpb.ResponseHeader, err error) {
		resp, err = s.client.Grant(ctx, int64(ttl/time.Second))
		if err != nil {
			return nil, err
		}
		return resp.ResponseHeader, nil
	})
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}

func compares(guards []txn.Guard) []clientv3.Cmp {
	out := make([]clientv3.Cmp, len(guards))
	for i, g := range guards {
		out[i] = compare(g)
	}
	return out
}

func compare(g txn.Guard) clientv3.Cmp {
	switch g.Kind {
	case txn.KeyExists:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), ">", 0)
	case txn.KeyUnchanged:
		return clientv3.Compare(clientv3.ModRevision(g.Key), "=", g.Revision)
	case txn.KeyCreatedAt:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", g.Revision)
	case txn.PrefixEmpty:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", 0).WithPrefix()
	case txn.PrefixUnchanged:
		return clientv3.Compare(clientv3.ModRevision(g.Key), "<", g.Revision+1).WithPrefix()
	case txn.RangeEmpty:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", 0).WithRange(g.End)
	case txn.KeyAbsent:
		fallthrough
	default:
		return clientv3.Compare(clientv3.CreateRevision(g.Key), "=", 0)
	}
}

func writes(ws []txn.Write, lease clientv3.LeaseID) []clientv3.Op {
	out := make([]clientv3.Op, len(ws))
	for i, w := range ws {
		switch {
		case w.Value == nil:
			out[i] = clientv3.OpDelete(w.Key)
		case w.Leased:
			out[i] = clientv3.OpPut(w.Key, string(w.Value), clientv3.WithLease(lease))
		default:
			out[i] = clientv3.OpPut(w.Key, string(w.Value))
		}
	}
	return out
}

// classify sorts an etcd error into one of this package's classes, keeping the original.
func classify(what string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%s: %w", what, ErrCompacted)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%s: %w: %w", what, ErrDenied, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, context.DeadlineExceeded), unavailable(err):
		return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
	case errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrTooManyRequests):
		return fmt.Errorf("%s: %w: %w", what, ErrFull, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

func unavailable(err error) bool {
	var etcdErr rpctypes.EtcdError
	if errors.As(err, &etcdErr) {
		return etcdErr.Code() == codes.Unavailable || etcdErr.Code() == codes.DeadlineExceeded
	}
	switch status.Code(err) { //nolint:exhaustive // only these two mean that the server was not reached
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// maxAttempts bounds how often Update rebuilds. With the jitter below, 64 clients that fight for one key all get through
// well before.
const maxAttempts = 40

// Update builds and commits a transaction; on a conflict it builds anew from a fresh read, a bounded number of times with
// growing jitter. That what build was reading has been compacted away meanwhile is a conflict too. build must read
// everything that it relies on, and guard it. Errors of build are returned as they are. A build that returns nil has
// nothing to change: the revision is then 0.
func (s *Store) Update(ctx context.Context, lease clientv3.LeaseID, build func(context.Context) (*txn.Txn, error)) (int64, error) {
	for attempt := 0; ; attempt++ {
		rev, err := s.attempt(ctx, lease, build)
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrCompacted) {
			return rev, err
		}
		if s.observer.Conflict != nil {
			s.observer.Conflict()
		}
		if attempt == maxAttempts {
			return 0, fmt.Errorf("gave up after %d attempts: %w", maxAttempts, ErrConflict)
		}
		if err := pause(ctx, attempt); err != nil {
			return 0, err
		}
	}
}

func (s *Store) attempt(ctx context.Context, lease clientv3.LeaseID, build func(context.Context) (*txn.Txn, error)) (int64, error) {
	t, err := build(ctx)
	if err != nil || t == nil {
		return 0, err
	}
	return s.Commit(ctx, t, lease)
}

// pause waits a random time of up to 2^attempt milliseconds, at most 50.
func pause(ctx context.Context, attempt int) error {
	limit := min(time.Millisecond<<min(attempt, 10), 50*time.Millisecond)
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-timer.C:
		return nil
	}
}
