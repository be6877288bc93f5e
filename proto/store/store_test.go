package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	"github.com/weft-sdn/weft/proto/txn/txntest"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// put commits one key with a value that holds id.
func put(t *testing.T, s *store.Store, key, id string) int64 {
	t.Helper()
	var x txn.Txn
	x.Put(key, &storev1.Claim{Id: id})
	rev, err := s.Commit(t.Context(), &x, 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func names(r store.Result) (all []string) {
	for _, e := range r.Entries {
		all = append(all, e.Key)
	}
	return all
}

func TestQueriesAnswerAtOneRevision(t *testing.T) {
	s := storetest.Start(t).Store()
	for _, k := range []string{"a/1", "a/2", "a/3", "b/1"} {
		put(t, s, k, k)
	}
	last := put(t, s, "a/2", "again")
	snap, err := s.Read(t.Context(), store.Key("a/2"), store.Prefix("a/"), store.Range("a/2", "b/9", 2), store.Count("a/", "c"), store.Key("none"))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"a/2"}, {"a/1", "a/2", "a/3"}, {"a/2", "a/3"}, nil, nil}
	for i, w := range want {
		if got := names(snap.Results[i]); !slices.Equal(got, w) {
			t.Errorf("query %d: %v, want %v", i, got, w)
		}
	}
	if snap.Results[2].Count != 3 || snap.Results[3].Count != 4 || snap.Results[4].Count != 0 {
		t.Errorf("counts %d, %d, %d", snap.Results[2].Count, snap.Results[3].Count, snap.Results[4].Count)
	}
	if snap.Revision != last || snap.Results[0].Entries[0].Revision != last {
		t.Errorf("revision %d, of the entry %d, want %d", snap.Revision, snap.Results[0].Entries[0].Revision, last)
	}
}

func TestReadsOfThePastUntilItIsCompacted(t *testing.T) {
	server := storetest.Start(t)
	s := server.Store()
	before := put(t, s, "a", "old")
	put(t, s, "a", "new")
	for _, queries := range [][]store.Query{{store.Key("a")}, {store.Key("a"), store.Key("b")}} {
		snap, err := s.ReadAt(t.Context(), before, queries...)
		if err != nil || snap.Revision != before || snap.Results[0].Entries[0].Revision != before {
			t.Errorf("%d queries at %d: %+v, %v", len(queries), before, snap, err)
		}
	}
	server.Compact(t.Context())
	for _, queries := range [][]store.Query{{store.Key("a")}, {store.Key("a"), store.Key("b")}} {
		if _, err := s.ReadAt(t.Context(), before, queries...); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("%d queries at a compacted revision: %v", len(queries), err)
		}
	}
}

func TestAnEmptyValueIsNotNil(t *testing.T) {
	s := storetest.Start(t).Store()
	put(t, s, "a", "")
	snap, err := s.Read(t.Context(), store.Key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if v := snap.Results[0].Entries[0].Value; v == nil || len(v) != 0 {
		t.Errorf("value %v", v)
	}
}

func TestAFaultyTransactionIsNotCommitted(t *testing.T) {
	s := storetest.Start(t).Store()
	var x txn.Txn
	x.Put("a", &storev1.Claim{})
	x.Delete("a")
	if _, err := s.Commit(t.Context(), &x, 0); !errors.Is(err, x.Err()) {
		t.Errorf("error %v, want %v", err, x.Err())
	}
}

func TestLeasedWritesGoWithTheirLease(t *testing.T) {
	s := storetest.Start(t).Store()
	lease, err := s.Client().Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	var x txn.Txn
	x.PutLeased("leased", &storev1.Claim{})
	x.Put("kept", &storev1.Claim{})
	if _, err := s.Commit(t.Context(), &x, lease.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	snap, err := s.Read(t.Context(), store.Range("a", "z", 0))
	if err != nil {
		t.Fatal(err)
	}
	if got := names(snap.Results[0]); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("after the lease there is %v", got)
	}
}

func TestATransactionOfTheGreatestSizeIsCommitted(t *testing.T) {
	s := storetest.Start(t).Store()
	var x txn.Txn
	for i := range txn.MaxOps {
		x.Claim(fmt.Sprintf("k%03d", i), "port", "p")
	}
	if _, err := s.Commit(t.Context(), &x, 0); err != nil {
		t.Error(err)
	}
}

// drawTxn draws a transaction over few keys, so that its guards hold about as often as not.
func drawTxn(t *rapid.T, m *txntest.Memory) *txn.Txn {
	var x txn.Txn
	key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "b", "b/1"})
	prefix := rapid.SampledFrom([]string{"a", "a/", "b", "c"})
	revision := func() int64 {
		if rapid.Bool().Draw(t, "current") {
			return m.Revision(key.Draw(t, "of"))
		}
		return rapid.Int64Range(0, 30).Draw(t, "revision")
	}
	for range rapid.IntRange(0, 2).Draw(t, "guards") {
		switch rapid.IntRange(0, 6).Draw(t, "guard") {
		case 0:
			x.Absent(key.Draw(t, "key"))
		case 1:
			x.Exists(key.Draw(t, "key"))
		case 2:
			x.Unchanged(key.Draw(t, "key"), revision())
		case 3:
			x.NoneUnder(prefix.Draw(t, "prefix"))
		case 4:
			x.NoneChangedUnder(prefix.Draw(t, "prefix"), revision())
		case 5:
			x.NoneBetween(key.Draw(t, "start"), key.Draw(t, "end")+"\x00")
		case 6:
			k := key.Draw(t, "key")
			x.CreatedAt(k, rapid.SampledFrom([]int64{m.Created(k), revision()}).Draw(t, "created"))
		}
	}
	for range rapid.IntRange(1, 3).Draw(t, "writes") {
		if rapid.Bool().Draw(t, "put") {
			x.Put(key.Draw(t, "key"), &storev1.Claim{Id: rapid.StringMatching("[a-z]?").Draw(t, "id")})
		} else {
			x.Delete(key.Draw(t, "key"))
		}
	}
	return &x
}

// The store in memory that other packages test with decides as the real one does.
func TestMemoryAndEtcdDecideAlike(t *testing.T) {
	server := storetest.Start(t)
	s := server.Store()
	m := txntest.New()
	rapid.Check(t, func(rt *rapid.T) {
		x := drawTxn(rt, m)
		_, err := s.Commit(t.Context(), x, 0)
		if want := x.Err(); want != nil {
			if !errors.Is(err, want) || m.Commit(x) {
				rt.Fatalf("a faulty transaction: %v", err)
			}
			return
		}
		if err != nil && !errors.Is(err, store.ErrConflict) {
			rt.Fatal(err)
		}
		if committed := m.Commit(x); committed != (err == nil) {
			rt.Fatalf("%v: in memory %v, in etcd %v", x.Guards(), committed, err)
		}
		snap, err := s.Read(t.Context(), store.Range("a", "z", 0))
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range snap.Results[0].Entries {
			got[e.Key] = string(e.Value)
			if m.Revision(e.Key) != e.Revision {
				rt.Fatalf("%s: revision %d in memory, %d in etcd", e.Key, m.Revision(e.Key), e.Revision)
			}
		}
		if diff := cmp.Diff(got, m.Values()); diff != "" {
			rt.Fatalf("-etcd +memory:\n%s", diff)
		}
	})
}

func TestUpdateBuildsAnewUntilItFits(t *testing.T) {
	server := storetest.Start(t)
	const writers, each = 16, 5
	var builds atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			s := server.Store()
			for range each {
				if _, err := s.Update(t.Context(), 0, increment(s, &builds)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	snap, err := server.Store().Read(t.Context(), store.Key("counter"))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(snap.Results[0].Entries[0].Value); got != len(encoded(writers*each)) {
		t.Errorf("the counter has %d bytes", got)
	}
	if builds.Load() < writers*each {
		t.Errorf("%d builds for %d updates", builds.Load(), writers*each)
	}
}

// encoded is the counter's value in unary: the id has n letters.
func encoded(n int) []byte {
	var x txn.Txn
	x.Put("k", &storev1.Claim{Id: string(slices.Repeat([]byte("x"), n))})
	return x.Writes()[0].Value
}

// increment appends a letter to the value of the key counter.
func increment(s *store.Store, builds *atomic.Int64) func(context.Context) (*txn.Txn, error) {
	return func(ctx context.Context) (*txn.Txn, error) {
		builds.Add(1)
		snap, err := s.Read(ctx, store.Key("counter"))
		if err != nil {
			return nil, err
		}
		var revision int64
		letters := 0
		for _, e := range snap.Results[0].Entries {
			revision, letters = e.Revision, lettersIn(e.Value)
		}
		var x txn.Txn
		x.Unchanged("counter", revision)
		x.Put("counter", &storev1.Claim{Id: string(slices.Repeat([]byte("x"), letters+1))})
		return &x, nil
	}
}

func lettersIn(value []byte) (n int) {
	for _, b := range value {
		if b == 'x' {
			n++
		}
	}
	return n
}

func TestUpdateWithNothingToChangeCommitsNothing(t *testing.T) {
	s := storetest.Start(t).Store()
	before := put(t, s, "a", "1")
	rev, err := s.Update(t.Context(), 0, func(context.Context) (*txn.Txn, error) { return nil, nil })
	if rev != 0 || err != nil {
		t.Errorf("revision %d, error %v", rev, err)
	}
	if after := put(t, s, "a", "2"); after != before+1 {
		t.Errorf("revisions %d, %d", before, after)
	}
}

func TestUpdateReturnsTheErrorOfBuildAndGivesUpInTheEnd(t *testing.T) {
	s := storetest.Start(t).Store()
	broken := errors.New("broken")
	if _, err := s.Update(t.Context(), 0, func(context.Context) (*txn.Txn, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	never := func(context.Context) (*txn.Txn, error) {
		var x txn.Txn
		x.Exists("never")
		x.Delete("never")
		return &x, nil
	}
	if _, err := s.Update(t.Context(), 0, never); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a guard that never holds: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) { cancel(); return never(ctx) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that went away: %v", err)
	}
}

func TestAnUnreachableServerIsSaidToBeSoAndCallsWorkAgainAfterwards(t *testing.T) {
	server := storetest.Start(t)
	s := server.Store()
	put(t, s, "a", "1")
	server.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var x txn.Txn
	x.Delete("a")
	if _, err := s.Read(ctx, store.Key("a")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Commit(ctx, &x, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("commit: %v", err)
	}
	server.Restart()
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		snap, err := s.Read(ctx, store.Key("a"))
		if err == nil {
			if len(snap.Results[0].Entries) != 1 {
				t.Error("the key is gone")
			}
			return
		}
		if !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("after the restart: %v", err)
		}
	}
}
