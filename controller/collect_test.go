package controller_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/collect"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// contents are all keys with their revisions.
func (w *world) contents() map[string]int64 {
	w.Helper()
	out := map[string]int64{}
	for _, e := range w.entries() {
		k, err := keys.Parse(e.Key)
		if err == nil && k.Family == keys.FamilyLeader {
			continue // it beats
		}
		out[e.Key] = e.Revision
	}
	return out
}

func (w *world) entries() []store.Entry {
	w.Helper()
	snap, err := store.New(w.etcdClient).Read(w.ctx, store.Prefix(keys.Root))
	w.check(err)
	return snap.Results[0].Entries
}

// strays writes one orphan of each sort and returns their keys.
func (w *world) strays() []string {
	w.Helper()
	gone := "00000000-0000-4000-8000-00000000dead"
	all := map[string]proto.Message{
		keys.SegmentClaim("vxlan", "", 0xfffff0):                                &storev1.Claim{Kind: keys.KindNetwork, Id: gone},
		keys.AddressClaim(w.sub1.GetId(), netip.MustParseAddr("10.0.0.200")):    &storev1.Claim{Kind: keys.KindPort, Id: w.p1.GetId()},
		keys.AddressClaim(gone, netip.MustParseAddr("10.0.0.7")):                &storev1.Claim{Kind: keys.KindPort, Id: gone},
		keys.MACClaim(w.net1.GetId(), "fa:16:3e:ff:ff:ff"):                      &storev1.Claim{Kind: keys.KindPort, Id: gone},
		keys.FloatingClaim(gone, netip.MustParseAddr("10.0.0.7"), w.r1.GetId()): &storev1.Claim{Kind: keys.KindFloatingIP, Id: gone},
		keys.PlaceClaim("default", keys.KindPort, 99_000):                       &storev1.Claim{Kind: keys.KindPort, Id: gone},
		keys.PlaceClaim("default", keys.KindRouter, 200_000):                    &storev1.Claim{Kind: keys.KindRouter, Id: w.r1.GetId()},
		keys.UnnumberedPlace("red", keys.KindSecurityGroup, gone):               &storev1.Claim{Kind: keys.KindSecurityGroup, Id: gone},
		keys.UnnumberedPlace("red", keys.KindAddressGroup, gone):                &storev1.Claim{Kind: keys.KindAddressGroup, Id: gone},
		keys.Locator(keys.KindPort, gone):                                       &storev1.Locator{Scope: w.net1.GetId()},
		keys.HostObject("net1", keys.KindRouter, gone):                          &storev1.RouterBinding{Nodes: []string{"net1"}},
		keys.HostObject("cmp1", keys.KindRouter, w.r1.GetId()):                  &storev1.RouterBinding{Nodes: []string{"cmp1"}},
		keys.HostObject("net1", keys.KindDHCP, gone):                            &storev1.DhcpBinding{PortId: gone},
		keys.HostObject("net1", keys.KindPort, gone):                            &storev1.PortBinding{NetworkId: w.net1.GetId()},
		keys.Active(gone): &storev1.ActiveRouter{Node: "net1", Epoch: 7},
		keys.Move(gone):   &storev1.Move{To: "net1"},
		keys.Status("never", keys.KindPort, w.p1.GetId()): &storev1.Report{},
		keys.Plug("never", gone):                          &storev1.Plug{},
	}
	for key, m := range all {
		w.put(key, m)
	}
	return slices.Sorted(maps.Keys(all))
}

func found(orphans []audit.Orphan) []string {
	var out []string
	for _, o := range orphans {
		out = append(out, o.Key)
	}
	slices.Sort(out)
	return out
}

func (w *world) look() []audit.Orphan {
	w.Helper()
	orphans, err := collect.Look(w.ctx, store.New(w.etcdClient))
	w.check(err)
	return orphans
}

// TestNothingIsCollectedFromAStoreThatIsNotWhole has a restore begin: claims may be there before what they belong to.
func TestNothingIsCollectedFromAStoreThatIsNotWhole(t *testing.T) {
	w := calmWorld(t)
	w.strays()
	orphans, before, s := w.look(), w.contents(), store.New(w.etcdClient)
	w.del(keys.Schema)
	if _, err := collect.Look(w.ctx, s); !errors.Is(err, schema.ErrNone) {
		t.Errorf("looked: %v", err)
	}
	gone, err := collect.Delete(w.ctx, s, orphans, nil)
	w.check(err)
	if diff := cmp.Diff(before, w.contents()); diff != "" || len(gone) > 0 {
		t.Errorf("-before +after:\n%s%v", diff, gone)
	}
	w.put(keys.Schema, schema.Value(schema.Version+1))
	if _, err := collect.Look(w.ctx, s); !errors.Is(err, schema.ErrNewer) {
		t.Errorf("looked at a newer layout: %v", err)
	}
}

// lockedLog is a log that several goroutines write and read.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// calmWorld is a world whose controller has stopped: the binder and the leader would clear some of it away by themselves.
func calmWorld(t *testing.T) *world {
	w := newWorld(t)
	w.stop()
	return w
}

func TestOrphansAreFoundAndNothingElse(t *testing.T) {
	w := calmWorld(t)
	if orphans := w.look(); len(orphans) != 0 {
		t.Fatalf("in a consistent store: %v", found(orphans))
	}
	before := w.contents()
	want := w.strays()
	if diff := cmp.Diff(want, found(w.look())); diff != "" {
		t.Errorf("-written +found:\n%s", diff)
	}
	s := store.New(w.etcdClient)
	gone, err := collect.Delete(w.ctx, s, w.look(), nil)
	w.check(err)
	if diff := cmp.Diff(want, found(gone)); diff != "" {
		t.Errorf("-written +deleted:\n%s", diff)
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	findings, err := audit.Run(w.ctx, s)
	w.check(err)
	if len(findings) > 0 {
		t.Error(findings)
	}
}

// TestWhatBelongsToAnObjectThatCannotBeReadIsNoOrphan damages one object after the other.
func TestWhatBelongsToAnObjectThatCannotBeReadIsNoOrphan(t *testing.T) {
	w := calmWorld(t)
	all := w.entries()
	for i, e := range all {
		for what, value := range map[string][]byte{"unreadable": {0xff}, "of no meaning": {}} {
			damaged := slices.Clone(all)
			damaged[i].Value = value
			orphans := audit.Orphans(damaged)
			if len(orphans) > 0 {
				t.Errorf("with %s %s these are orphans: %v", e.Key, what, found(orphans))
			}
		}
	}
}

func TestAnOrphanThatChangesOrFindsItsOwnerStays(t *testing.T) {
	w := calmWorld(t)
	gone := "00000000-0000-4000-8000-00000000dead"
	s := store.New(w.etcdClient)
	touched, adopted, plain := keys.Active(gone), keys.Locator(keys.KindPort, gone), keys.MACClaim(w.net1.GetId(), "fa:16:3e:ff:ff:ff")
	binding := keys.HostObject("cmp1", keys.KindRouter, w.r1.GetId())
	w.put(touched, &storev1.ActiveRouter{Node: "net1", Epoch: 7})
	w.put(adopted, &storev1.Locator{Scope: w.net1.GetId()})
	w.put(plain, &storev1.Claim{Kind: keys.KindPort, Id: gone})
	w.put(binding, &storev1.RouterBinding{Nodes: []string{"cmp1"}})
	first := w.look()
	if len(first) != 4 {
		t.Fatalf("found %v", found(first))
	}
	w.put(touched, &storev1.ActiveRouter{Node: "net1", Epoch: 8})
	second := w.look()
	if got := found(collect.Confirmed(first, second)); slices.Contains(got, touched) || len(got) != 3 {
		t.Errorf("confirmed are %v", got)
	}
	// Between the look and the deletion the router changes: it may have got the binding.
	r := &weftv1.Router{}
	w.read(keys.Router(w.r1.GetId()), r)
	w.put(keys.Router(w.r1.GetId()), r)
	gones, err := collect.Delete(w.ctx, s, first, nil)
	w.check(err)
	if got := found(gones); slices.Contains(got, binding) || slices.Contains(got, touched) || !slices.Contains(got, plain) {
		t.Errorf("deleted are %v", got)
	}
	if !w.exists(touched) || !w.exists(binding) || w.exists(plain) {
		t.Error("what is there is not what was said")
	}
}

// TestTheCollectorLooksTwiceAndOnlyALeaderDeletes runs it under a guard that holds and under one that does not.
func TestTheCollectorLooksTwiceAndOnlyALeaderDeletes(t *testing.T) {
	w := calmWorld(t)
	w.put(keys.Leader("1"), &storev1.Leader{})
	want := w.strays()
	var log lockedLog
	run := func(guard func(*txn.Txn), until func() bool) (deleted int) {
		ctx, stop := context.WithCancel(w.ctx)
		done := make(chan struct{})
		c := collect.New(collect.Options{
			Store: store.New(w.etcdClient), Log: slog.New(slog.NewTextHandler(&log, nil)), Age: 20 * time.Millisecond, Period: 20 * time.Millisecond,
			Collected: func(n int) { deleted += n },
		})
		go func() { defer close(done); c.Run(ctx, guard) }()
		w.eventually("the collector has worked", until)
		stop()
		<-done
		return deleted
	}
	looks := func() int { return strings.Count(log.String(), keys.Active("00000000-0000-4000-8000-00000000dead")) }
	if n := run(func(x *txn.Txn) { x.CreatedAt(keys.Leader("1"), 1) }, func() bool { return looks() >= 3 }); n != 0 {
		t.Errorf("one that does not lead has deleted %d", n)
	}
	if diff := cmp.Diff(want, found(w.look())); diff != "" {
		t.Errorf("-written +left:\n%s", diff)
	}
	n := run(func(x *txn.Txn) { x.Exists(keys.Leader("1")) }, func() bool { return len(w.look()) == 0 })
	if n != len(want) {
		t.Error(fmt.Sprint(n, " deleted of ", len(want)))
	}
}

// TestWhatDoesNotCountIsCountedAgain takes the claims away by which the world counts, and gives one to another.
func TestWhatDoesNotCountIsCountedAgain(t *testing.T) {
	w := calmWorld(t)
	w.put(keys.Leader("1"), &storev1.Leader{})
	before := w.contents()
	place := ""
	for key := range before {
		if k, err := keys.Parse(key); err == nil && k.Family == keys.FamilyClaim && k.Scope() == keys.ClaimPlace {
			w.del(key)
			if strings.HasPrefix(key, keys.PlaceClaims("default", keys.KindRouter)) {
				place = key
			}
		}
	}
	w.put(place, &storev1.Claim{Kind: keys.KindRouter, Id: "00000000-0000-4000-8000-00000000dead"})
	s := store.New(w.etcdClient)
	missing, err := collect.Uncounted(w.ctx, s)
	w.check(err)
	touched := &weftv1.Network{}
	w.read(keys.Network(w.net1.GetId()), touched)
	w.put(keys.Network(w.net1.GetId()), touched) // between the look and the count
	counted, err := collect.Count(w.ctx, s, missing, func(x *txn.Txn) { x.Exists(keys.Leader("1")) })
	w.check(err)
	if len(missing) == 0 || len(counted) != len(missing)-1 {
		t.Errorf("%d did not count, %d do again", len(missing), len(counted))
	}
	if again, err := collect.Count(w.ctx, s, missing, func(x *txn.Txn) { x.CreatedAt(keys.Leader("1"), 1) }); err != nil || len(again) > 0 {
		t.Errorf("one that does not lead has counted %v, %v", again, err)
	}
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(w.ctx)
	c := collect.New(collect.Options{
		Store: s, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Age: 20 * time.Millisecond, Period: 20 * time.Millisecond,
	})
	go func() { defer close(stop); c.Run(ctx, func(x *txn.Txn) { x.Exists(keys.Leader("1")) }) }()
	w.eventually("everything counts again", func() bool {
		now := w.contents()
		for key := range before {
			if now[key] == 0 {
				return false
			}
		}
		return len(now) == len(before)
	})
	cancel()
	<-stop
	w.audit()
	claim := &storev1.Claim{}
	if w.read(place, claim); claim.GetId() != w.r1.GetId() {
		t.Errorf("the place of the router is held by %v", claim)
	}
}
