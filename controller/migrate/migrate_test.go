package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/backup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// recorded is a store that a controller of version 1 has written: one of everything, the router on net1.
func recorded(t *testing.T) *store.Store {
	t.Helper()
	f, err := os.Open("testdata/version1.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := backup.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	s := storetest.Start(t).Store()
	if _, err := backup.Restore(t.Context(), s, b, backup.Options{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return s
}

func entries(t *testing.T, s *store.Store) []store.Entry {
	t.Helper()
	snap, err := s.Read(t.Context(), store.Range(keys.Restore, keys.End(keys.Root), 0))
	if err != nil {
		t.Fatal(err)
	}
	return snap.Results[0].Entries
}

func version(t *testing.T, s *store.Store) int64 {
	t.Helper()
	snap, err := s.Read(t.Context(), store.Key(keys.Schema))
	if err != nil {
		t.Fatal(err)
	}
	v, err := schema.Parse(snap.Results[0].Entries[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAStoreOfVersion1IsMigratedAndNothingElseChanges(t *testing.T) {
	s := recorded(t)
	before := entries(t, s)
	if v := version(t, s); v != 1 {
		t.Fatalf("the recorded store has version %d", v)
	}
	var log bytes.Buffer
	if err := Run(t.Context(), s, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	after := map[string]store.Entry{}
	for _, e := range entries(t, s) {
		after[e.Key] = e
	}
	changed := 0
	for _, e := range before {
		now := after[e.Key]
		delete(after, e.Key)
		if now.Revision == e.Revision {
			continue
		}
		changed++
		if e.Key == keys.Schema {
			continue
		}
		got := &storev1.RouterBinding{}
		if err := proto.Unmarshal(now.Value, got); err != nil || !strings.HasPrefix(e.Key, keys.HostKind("net1", keys.KindRouter)) {
			t.Fatalf("key %s has changed: %v", e.Key, err)
		}
		if diff := cmp.Diff(&storev1.RouterBinding{Nodes: []string{"net1"}}, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", e.Key, diff)
		}
	}
	if changed != 2 || len(after) == 0 || version(t, s) != schema.Version {
		t.Errorf("%d keys have changed, %d are new, version %d", changed, len(after), version(t, s))
	}
	for key := range after {
		k, err := keys.Parse(key)
		if err != nil || k.Scope() != keys.ClaimPlace {
			t.Errorf("key %s is new: %v", key, err)
		}
	}
	if findings, err := audit.Run(t.Context(), s); err != nil || len(findings) > 0 {
		t.Errorf("what is migrated does not fit together: %v, %q", err, findings)
	}
	if strings.Contains(log.String(), "WARN") {
		t.Error(log.String())
	}
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBindingsGetTheWholePlanOrAReason(t *testing.T) {
	r := func(id string, nodes ...string) store.Entry {
		return store.Entry{Key: keys.Router(id), Value: encode(t, &weftv1.Router{Id: id, Placement: &weftv1.Placement{Nodes: nodes}}), Revision: 1}
	}
	b := func(node, id string, value *storev1.RouterBinding) store.Entry {
		return store.Entry{Key: keys.HostObject(node, keys.KindRouter, id), Value: encode(t, value), Revision: 7}
	}
	broken := store.Entry{Key: keys.HostObject("n1", keys.KindRouter, "r4"), Value: []byte{0xff}, Revision: 7}
	writes, left := planNodes([]store.Entry{
		r("r1", "n1", "n2"), b("n1", "r1", &storev1.RouterBinding{}), b("n2", "r1", &storev1.RouterBinding{Rank: 1}),
		r("r2", "n1"), b("n1", "r2", &storev1.RouterBinding{Nodes: []string{"n1"}}),
		r("r3", "n2"), b("n1", "r3", &storev1.RouterBinding{}),
		r("r4", "n1"), broken,
		b("n1", "gone", &storev1.RouterBinding{}),
		{Key: keys.Router("r5"), Value: []byte{0xff}},
	})
	want := map[string]*storev1.RouterBinding{
		keys.HostObject("n1", keys.KindRouter, "r1"): {Nodes: []string{"n1", "n2"}},
		keys.HostObject("n2", keys.KindRouter, "r1"): {Rank: 1, Nodes: []string{"n1", "n2"}},
	}
	for _, w := range writes {
		got := &storev1.RouterBinding{}
		if err := proto.Unmarshal(w.Value, got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[w.Key], got, protocmp.Transform()); diff != "" || w.Revision != 7 {
			t.Errorf("%s at %d: %s", w.Key, w.Revision, diff)
		}
		delete(want, w.Key)
	}
	if len(want) != 0 || len(left) != 4 {
		t.Errorf("not written: %v; left: %q", want, left)
	}
}

// many is a step over many keys, whose values it makes one byte longer.
func many(from int64) Step {
	return Step{From: from, Doc: "longer values", Plan: func(all []store.Entry) (writes []Write, left []string) {
		for _, e := range all {
			if int64(len(e.Value)) == from {
				writes = append(writes, Write{Key: e.Key, Value: append(slices.Clone(e.Value), 'x'), Revision: e.Revision})
			}
		}
		return writes, nil
	}}
}

// prepare makes a store of version 1 with n keys of one byte each.
func prepare(t *testing.T, s *store.Store, n int) {
	t.Helper()
	var first txn.Txn
	first.Put(keys.Schema, schema.Value(1))
	if _, err := s.Commit(t.Context(), &first, 0); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		var x txn.Txn
		x.PutRaw(keys.Network(fmt.Sprint(i)), []byte("x"))
		if _, err := s.Commit(t.Context(), &x, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyControllersMigrateOnceThroughAllSteps has several migrate at once, some of which give up half way.
func TestManyControllersMigrateOnceThroughAllSteps(t *testing.T) {
	server := storetest.Start(t)
	const n = 350
	prepare(t, server.Store(), n)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i == 0 { // dies in the middle
				time.AfterFunc(5*time.Millisecond, cancel)
			}
			err := run(ctx, server.Store(), slog.New(slog.DiscardHandler), []Step{many(1), many(2)}, 3)
			if err != nil && i != 0 {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := server.Store()
	if v := version(t, s); v != 3 {
		t.Errorf("version %d", v)
	}
	for _, e := range entries(t, s) {
		if e.Key != keys.Schema && string(e.Value) != "xxx" {
			t.Errorf("%s is %q", e.Key, e.Value)
		}
	}
}

func TestWhatIsNotKnownIsRefused(t *testing.T) {
	s := storetest.Start(t).Store()
	log := slog.New(slog.DiscardHandler)
	if err := Run(t.Context(), s, log); !errors.Is(err, schema.ErrNone) {
		t.Errorf("an empty store: %v", err)
	}
	for _, tc := range []struct {
		version int64
		want    error
	}{{schema.Version + 1, schema.ErrNewer}, {schema.Version, nil}} {
		var x txn.Txn
		x.Put(keys.Schema, schema.Value(tc.version))
		if _, err := s.Commit(t.Context(), &x, 0); err != nil {
			t.Fatal(err)
		}
		if err := Run(t.Context(), s, log); !errors.Is(err, tc.want) {
			t.Errorf("version %d: %v", tc.version, err)
		}
	}
	if err := run(t.Context(), s, log, nil, schema.Version+1); !errors.Is(err, schema.ErrOlder) {
		t.Errorf("no way: %v", err)
	}
}
