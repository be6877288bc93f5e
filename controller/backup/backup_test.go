package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/backup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// put writes keys with the value of a claim named id.
func put(t *testing.T, s *store.Store, id string, all ...string) {
	t.Helper()
	for len(all) > 0 {
		n := min(len(all), 100)
		var x txn.Txn
		for _, key := range all[:n] {
			x.Put(key, &storev1.Claim{Id: id})
		}
		commit(t, s, &x)
		all = all[n:]
	}
}

func commit(t *testing.T, s *store.Store, x *txn.Txn) {
	t.Helper()
	if _, err := s.Commit(t.Context(), x, 0); err != nil {
		t.Fatal(err)
	}
}

// filled makes a store with n networks and what is no part of a backup.
func filled(t *testing.T, n int) (*storetest.Server, *store.Store) {
	t.Helper()
	server := storetest.Start(t)
	s := server.Store()
	var x txn.Txn
	x.Put(keys.Schema, schema.Value(schema.Version))
	commit(t, s, &x)
	var all []string
	for i := range n {
		all = append(all, keys.Network(fmt.Sprintf("n%05d", i)))
	}
	put(t, s, "saved", all...)
	put(t, s, "said", keys.Live("cmp1"), keys.Plug("cmp1", "p"), keys.Status("cmp1", keys.KindPort, "p"), keys.Request("r"))
	return server, s
}

// content is all of a store's keys but those that are no part of a backup.
func content(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	snap, err := s.Read(t.Context(), store.Range(keys.Restore, keys.End(keys.Root), 0))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range snap.Results[0].Entries {
		excluded := false
		for _, f := range backup.Excluded() {
			excluded = excluded || strings.HasPrefix(e.Key, keys.All(f))
		}
		if !excluded {
			out[e.Key] = string(e.Value)
		}
	}
	return out
}

func save(t *testing.T, s *store.Store) (*backup.Backup, []byte) {
	t.Helper()
	var file bytes.Buffer
	saved, err := backup.Save(t.Context(), s, &file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := backup.Parse(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(saved, b); diff != "" {
		t.Fatalf("-saved +read back:\n%s", diff)
	}
	return b, file.Bytes()
}

func options(replace bool) backup.Options {
	return backup.Options{Replace: replace, Now: time.Unix(1_800_000_000, 0)}
}

func TestABackupIsRestoredIntoAnotherStore(t *testing.T) {
	_, s := filled(t, 2300) // more than a page
	want := content(t, s)
	b, _ := save(t, s)
	other := storetest.Start(t).Store()
	changes, err := backup.Restore(t.Context(), other, b, options(false))
	if err != nil || changes.Written != 2300 || changes.Deleted+changes.Unchanged != 0 {
		t.Fatalf("%+v, %v", changes, err)
	}
	if diff := cmp.Diff(want, content(t, other)); diff != "" {
		t.Errorf("-saved +restored:\n%s", diff)
	}
}

func TestReplacingWritesOnlyWhatDiffers(t *testing.T) {
	_, s := filled(t, 300)
	want := content(t, s)
	b, _ := save(t, s)
	put(t, s, "changed", keys.Network("n00007"))
	put(t, s, "new", keys.Network("x1"), keys.Router("x2"))
	var x txn.Txn
	x.Delete(keys.Network("n00008"))
	commit(t, s, &x)
	if _, err := backup.Restore(t.Context(), s, b, options(false)); !errors.Is(err, backup.ErrNotEmpty) {
		t.Fatalf("not empty, and nobody said to replace: %v", err)
	}
	changes, err := backup.Restore(t.Context(), s, b, options(true))
	if diff := cmp.Diff(backup.Changes{Written: 2, Deleted: 2, Unchanged: 298}, changes); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if diff := cmp.Diff(want, content(t, s)); diff != "" {
		t.Errorf("-saved +restored:\n%s", diff)
	}
	snap, err := s.Read(t.Context(), store.Key(keys.Status("cmp1", keys.KindPort, "p")), store.Key(keys.Request("r")))
	if err != nil || len(snap.Results[0].Entries) != 1 || len(snap.Results[1].Entries) != 0 {
		t.Errorf("a node's report and a remembered result: %+v, %v", snap.Results, err)
	}
}

// TestWhoIsActiveGetsAHigherEpochThanAnyNodeHasSeen restores who was active when the router has moved since.
func TestWhoIsActiveGetsAHigherEpochThanAnyNodeHasSeen(t *testing.T) {
	_, s := filled(t, 1)
	for _, router := range []string{"moved", "stayed", "renewed"} {
		var x txn.Txn
		x.Put(keys.Active(router), &storev1.ActiveRouter{Node: "net1", Epoch: 3})
		commit(t, s, &x)
	}
	b, _ := save(t, s)
	var x txn.Txn
	x.Put(keys.Active("moved"), &storev1.ActiveRouter{Node: "net2", Epoch: 9})
	x.Put(keys.Active("renewed"), &storev1.ActiveRouter{Node: "net1", Epoch: 9})
	commit(t, s, &x)
	if _, err := backup.Restore(t.Context(), s, b, options(true)); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, router := range []string{"moved", "stayed", "renewed"} {
		snap, err := s.Read(t.Context(), store.Key(keys.Active(router)))
		if err != nil {
			t.Fatal(err)
		}
		active := &storev1.ActiveRouter{}
		if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, active); err != nil || active.GetNode() != "net1" {
			t.Errorf("%s: %v, %v", router, active, err)
		}
		got[router] = active.GetEpoch()
	}
	if got["moved"] <= 9 || got["stayed"] != 3 || got["renewed"] != 9 {
		t.Errorf("epochs %v", got)
	}
}

// dying is etcd for a caller that dies before its nth transaction.
type dying struct {
	clientv3.KV
	left int
	die  context.CancelFunc
}

func (d *dying) Txn(ctx context.Context) clientv3.Txn {
	if d.left--; d.left < 0 {
		d.die()
	}
	return d.KV.Txn(ctx)
}

// TestARestoreThatWasCutShortIsSeenAndTakenUp ends a restore before each of its transactions.
func TestARestoreThatWasCutShortIsSeenAndTakenUp(t *testing.T) {
	_, s := filled(t, 450)
	want := content(t, s)
	b, _ := save(t, s)
	_, few := filled(t, 3)
	other, _ := save(t, few)
	partly := 0
	for steps := 0; ; steps++ {
		server := storetest.Start(t)
		ctx, die := context.WithCancel(t.Context())
		client := server.NewClient()
		client.KV = &dying{client.KV, steps, die}
		_, err := backup.Restore(ctx, store.New(client), b, options(false))
		die()
		if err == nil {
			break
		}
		target := server.Store()
		snap, rerr := target.Read(t.Context(), store.Key(keys.Schema), store.Key(keys.Restore))
		if rerr != nil {
			t.Fatal(rerr)
		}
		if len(snap.Results[0].Entries) != 0 {
			t.Error("a store that is restored in part looks whole")
		}
		if len(snap.Results[1].Entries) == 0 {
			continue // it had not begun
		}
		partly++
		if _, err := backup.Save(t.Context(), target, &bytes.Buffer{}); !errors.Is(err, backup.ErrUnfinished) {
			t.Errorf("saving half a restore: %v", err)
		}
		if _, err := backup.Restore(t.Context(), target, other, options(false)); !errors.Is(err, backup.ErrUnfinished) {
			t.Errorf("restoring another backup over it: %v", err)
		}
		if _, err := backup.Restore(t.Context(), target, b, options(false)); err != nil {
			t.Errorf("taking it up: %v", err)
		}
		if diff := cmp.Diff(want, content(t, target)); diff != "" {
			t.Errorf("after step %d: -saved +restored:\n%s", steps, diff)
		}
	}
	if partly < 5 {
		t.Errorf("only %d restores were cut short in the middle", partly)
	}
}

func TestNoRestoreWhileAControllerRuns(t *testing.T) {
	_, s := filled(t, 3)
	b, _ := save(t, s)
	put(t, s, "c1", keys.Leader("0000000000000001"))
	if _, err := backup.Restore(t.Context(), s, b, options(true)); !errors.Is(err, backup.ErrControllers) {
		t.Errorf("error %v", err)
	}
	if diff := len(content(t, s)); diff != 4 {
		t.Errorf("%d keys are left", diff)
	}
}

func TestADamagedFileIsRefused(t *testing.T) {
	_, s := filled(t, 5)
	_, file := save(t, s)
	lines := bytes.SplitAfter(file, []byte{'\n'})
	for name, damaged := range map[string][]byte{
		"empty":           nil,
		"cut in a line":   file[:len(file)-3],
		"without its end": bytes.Join(lines[:len(lines)-2], nil),
		"a line less":     bytes.Join(slices.Delete(slices.Clone(lines), 2, 3), nil),
		"a byte changed":  bytes.Replace(file, []byte("n00002"), []byte("n00009"), 1),
		"something else":  []byte("{}\n{}\n"),
	} {
		if _, err := backup.Parse(bytes.NewReader(damaged)); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABackupOfANewerReleaseIsRefused(t *testing.T) {
	_, s := filled(t, 5)
	b, _ := save(t, s)
	b.Schema = schema.Version + 1
	other := storetest.Start(t).Store()
	if _, err := backup.Restore(t.Context(), other, b, options(true)); !errors.Is(err, schema.ErrNewer) || len(content(t, other)) != 0 {
		t.Errorf("error %v, content %v", err, content(t, other))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{\"format\":\"weft-backup\",\"version\":1}\n{\"keys\":0,\"sha256\":\"x\"}\n"))
	f.Fuzz(func(_ *testing.T, file []byte) { _, _ = backup.Parse(bytes.NewReader(file)) })
}
