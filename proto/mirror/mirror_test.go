package mirror_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is what a consumer makes of the batches.
type replica struct {
	t      *testing.T
	mirror *mirror.Mirror
	values map[string]string
	seen   map[string]int64    // the latest revision handed over per key
	gone   []string            // keys handed over as gone, in order
	listed map[string][]string // scope -> its keys when it was first listed
}

func follow(t *testing.T, s *store.Store, opts mirror.Options) *replica {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	m := mirror.New(s, opts)
	t.Cleanup(m.Close)
	return &replica{t: t, mirror: m, values: map[string]string{}, seen: map[string]int64{}, listed: map[string][]string{}}
}

// take applies what is pending.
func (r *replica) take() {
	b := r.mirror.Take()
	keys := map[string]bool{}
	for _, c := range b.Changes {
		if keys[c.Key] {
			r.t.Errorf("%s stands twice in one batch", c.Key)
		}
		keys[c.Key] = true
		if c.Revision < r.seen[c.Key] {
			r.t.Errorf("%s went back from revision %d to %d", c.Key, r.seen[c.Key], c.Revision)
		}
		r.seen[c.Key] = c.Revision
		if c.Value == nil {
			delete(r.values, c.Key)
			r.gone = append(r.gone, c.Key)
			continue
		}
		r.values[c.Key] = string(c.Value)
	}
	for _, scope := range b.Listed {
		if r.listed[scope] != nil {
			r.t.Errorf("scope %s is said to be listed twice", scope)
		}
		r.listed[scope] = append([]string{}, slices.Sorted(maps.Keys(r.values))...)
	}
}

// until takes batches until the condition holds.
func (r *replica) until(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		r.take()
		if holds() {
			return
		}
		select {
		case <-r.mirror.Wake():
		case <-deadline.C:
			r.t.Fatalf("waited in vain until %s; there is %v", what, r.values)
		}
	}
}

func (r *replica) untilIs(want map[string]string) {
	r.t.Helper()
	r.until(fmt.Sprint("the replica is ", want), func() bool { return maps.Equal(r.values, want) })
}

func put(t *testing.T, c *clientv3.Client, kv ...string) {
	t.Helper()
	for i := 0; i < len(kv); i += 2 {
		if _, err := c.Put(t.Context(), kv[i], kv[i+1]); err != nil {
			t.Fatal(err)
		}
	}
}

func del(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	if _, err := c.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func TestAScopeIsListedCompletelyAndThenWatched(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	put(t, c, "a/1", "x", "a/2", "y", "b", "z", "other", "o", "bb", "o")
	r := follow(t, s.Store(), mirror.Options{})
	r.mirror.Follow("scope", mirror.Under("a/"), mirror.Exactly("b"))
	r.until("the scope is listed", func() bool { return r.listed["scope"] != nil })
	if got := r.listed["scope"]; !slices.Equal(got, []string{"a/1", "a/2", "b"}) {
		t.Errorf("when the scope was listed there was %v", got)
	}
	put(t, c, "a/3", "new", "a/1", "changed", "b", "", "other", "o2")
	del(t, c, "a/2")
	r.untilIs(map[string]string{"a/1": "changed", "a/3": "new", "b": ""})
}

func TestAnEmptyScopeIsListed(t *testing.T) {
	r := follow(t, storetest.Start(t).Store(), mirror.Options{})
	r.mirror.Follow("scope", mirror.Under("nothing/"))
	r.until("the scope is listed", func() bool { return r.listed["scope"] != nil })
}

func TestOnlyTheLatestStateOfAKeyIsHandedOver(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	r := follow(t, s.Store(), mirror.Options{})
	r.mirror.Follow("scope", mirror.Under("a/"))
	r.until("the scope is listed", func() bool { return r.listed["scope"] != nil })
	for i := range 50 {
		put(t, c, "a/1", fmt.Sprint(i))
	}
	put(t, c, "a/2", "x")
	r.untilIs(map[string]string{"a/1": "49", "a/2": "x"}) // take itself checks that no key stands twice in a batch
}

func TestAServerThatRestartsIsFollowedOn(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	put(t, c, "a/1", "x")
	r := follow(t, s.Store(), mirror.Options{})
	r.mirror.Follow("scope", mirror.Under("a/"))
	r.untilIs(map[string]string{"a/1": "x"})
	s.Stop()
	r.mirror.Follow("later", mirror.Under("b/")) // its first listing has to wait
	s.Restart()
	put(t, s.NewClient(), "a/2", "y", "b/1", "z")
	r.untilIs(map[string]string{"a/1": "x", "a/2": "y", "b/1": "z"})
	if len(r.gone) != 0 {
		t.Errorf("the restart made %v disappear", r.gone)
	}
}

// behindGate follows a/ through a gate.
func behindGate(t *testing.T, s *storetest.Server, opts mirror.Options) (*gate, *replica) {
	t.Helper()
	g := newGate(t, strings.TrimPrefix(s.Endpoint(), "http://"))
	c, err := store.Dial([]string{"http://" + g.listener.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := follow(t, store.New(c), opts)
	r.mirror.Follow("scope", mirror.Under("a/"))
	return g, r
}

func TestWhatHappenedBeforeACompactionIsFoundByListing(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	put(t, c, "a/kept", "1", "a/changed", "1", "a/deleted", "1")
	g, r := behindGate(t, s, mirror.Options{})
	r.untilIs(map[string]string{"a/kept": "1", "a/changed": "1", "a/deleted": "1"})
	g.set(true)
	put(t, c, "a/changed", "2", "a/new", "2", "a/passing", "2")
	del(t, c, "a/deleted")
	del(t, c, "a/passing")
	s.Compact(t.Context())
	g.set(false)
	r.untilIs(map[string]string{"a/kept": "1", "a/changed": "2", "a/new": "2"})
	if !slices.Equal(r.gone, []string{"a/deleted"}) {
		t.Errorf("gone are %v, want the one that was known", r.gone)
	}
	put(t, c, "a/after", "3")
	r.until("the watch goes on", func() bool { return r.values["a/after"] == "3" })
}

func TestPeriodicListingFindsNothingToChange(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	put(t, c, "a/1", "x")
	r := follow(t, s.Store(), mirror.Options{Relist: 20 * time.Millisecond})
	r.mirror.Follow("scope", mirror.Under("a/"))
	r.untilIs(map[string]string{"a/1": "x"})
	r.seen = map[string]int64{}
	for i := range 30 { // over many listings
		put(t, c, "a/2", fmt.Sprint(i))
		r.until("the change arrives", func() bool { return r.values["a/2"] == fmt.Sprint(i) })
	}
	if r.seen["a/1"] != 0 || len(r.gone) != 0 {
		t.Error("an unchanged key was handed over again, or one disappeared")
	}
}

func TestAnUnfollowedScopeLeavesNothingBehind(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	put(t, c, "a/1", "x", "b/1", "y")
	r := follow(t, s.Store(), mirror.Options{})
	r.mirror.Follow("a", mirror.Under("a/"))
	r.mirror.Follow("b", mirror.Under("b/"))
	r.untilIs(map[string]string{"a/1": "x", "b/1": "y"})
	put(t, c, "a/2", "pending", "b/2", "z")
	<-r.mirror.Wake()
	r.mirror.Unfollow("a")
	r.mirror.Unfollow("a")
	r.seen = map[string]int64{}
	put(t, c, "a/3", "late", "b/3", "z")
	del(t, c, "a/1")
	r.until("b/3 arrives", func() bool { return r.values["b/3"] == "z" })
	for key := range r.seen {
		if strings.HasPrefix(key, "a/") {
			t.Errorf("%s came after the scope was unfollowed", key)
		}
	}
	delete(r.listed, "a")
	delete(r.values, "a/1")
	r.mirror.Follow("a", mirror.Under("a/"))
	r.untilIs(map[string]string{"a/2": "pending", "a/3": "late", "b/1": "y", "b/2": "z", "b/3": "z"})
	if r.listed["a"] == nil {
		t.Error("a scope that is followed again is not said to be listed")
	}
}

func TestFollowingTwiceAndAfterTheEndDoesNothing(t *testing.T) {
	s := storetest.Start(t)
	put(t, s.Client(), "a/1", "x", "b/1", "y")
	r := follow(t, s.Store(), mirror.Options{})
	r.mirror.Follow("scope", mirror.Under("a/"))
	r.mirror.Follow("scope", mirror.Under("b/"))
	r.untilIs(map[string]string{"a/1": "x"})
	r.mirror.Close()
	r.mirror.Follow("late", mirror.Under("b/"))
	r.mirror.Close()
	if b := r.mirror.Take(); len(b.Changes)+len(b.Listed) != 0 {
		t.Errorf("after the end there is %v", b)
	}
}

// Whatever breaks while keys change, the replica ends where the store is, and no key ever goes back.
func TestTheReplicaConvergesThroughCutsCompactionsAndListings(t *testing.T) {
	s := storetest.Start(t)
	c := s.Client()
	g, r := behindGate(t, s, mirror.Options{Relist: 200 * time.Millisecond})
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for i := range 400 {
		key := fmt.Sprint("a/", rng.IntN(20))
		switch rng.IntN(40) {
		case 0:
			g.set(true)
		case 1, 2:
			g.set(false)
		case 3:
			s.Compact(t.Context())
		case 4, 5, 6, 7, 8, 9, 10, 11:
			del(t, c, key)
		default:
			put(t, c, key, fmt.Sprint(i))
		}
		if rng.IntN(4) == 0 {
			r.take()
		}
	}
	g.set(false)
	r.untilIs(contents(t, c))
}

func contents(t *testing.T, c *clientv3.Client) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := c.Get(ctx, "a/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		all[string(kv.Key)] = string(kv.Value)
	}
	return all
}
