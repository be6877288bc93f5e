package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// patient tries until it works, for tests that say nothing of how long it takes.
func patient(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func write(ctx context.Context, s *store.Store, key, id string) error {
	var x txn.Txn
	x.Put(key, &storev1.Claim{Id: id})
	_, err := s.Commit(ctx, &x, 0)
	return err
}

func read(ctx context.Context, s *store.Store, key string) error {
	_, err := s.Read(ctx, store.Key(key))
	return err
}

// TestMembersMayDieOneAfterTheOther kills and restarts each member in turn while a writer counts: nothing that was
// acknowledged is lost, and the client goes on by itself.
func TestMembersMayDieOneAfterTheOther(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	s := c.Store()
	var acknowledged []string
	count := func(n int) {
		for range n {
			key := fmt.Sprintf("k/%04d", len(acknowledged))
			patient(t, "write "+key, func(ctx context.Context) error {
				err := write(ctx, s, key, "x")
				if err != nil && strings.Contains(err.Error(), "request timed out") {
					t.Errorf("a call waited for a leader that is gone until etcd itself gave up: %v", err)
				}
				return err
			})
			acknowledged = append(acknowledged, key)
		}
	}
	for i := range 3 {
		count(20)
		c.Kill(i)
		count(20)
		c.Start(i)
		c.Await()
	}
	c.Restart(c.Leader())
	count(20)
	snap, err := s.Read(t.Context(), store.Prefix("k/"))
	if err != nil {
		t.Fatal(err)
	}
	if got := names(snap.Results[0]); !slices.Equal(got, acknowledged) {
		t.Errorf("%d keys of %d acknowledged", len(got), len(acknowledged))
	}
}

// TestAHeldMemberIsLeftForTheOthers holds each member in turn, the leader too. A call that meets it fails or goes on
// elsewhere well before gRPC's own keepalive would notice.
func TestAHeldMemberIsLeftForTheOthers(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	s := c.Store()
	for i := range 3 {
		for key := range 6 { // all connections are in use
			patient(t, "write", func(ctx context.Context) error { return write(ctx, s, fmt.Sprint(key), "x") })
		}
		c.Pause(i)
		begun := time.Now()
		for key := range 6 {
			patient(t, "write past the held member", func(ctx context.Context) error { return write(ctx, s, fmt.Sprint(key), "x") })
			patient(t, "read past the held member", func(ctx context.Context) error { return read(ctx, s, fmt.Sprint(key)) })
		}
		t.Logf("member %d held: six writes and reads took %s", i, time.Since(begun).Round(time.Millisecond))
		c.Resume(i)
	}
}

// TestAWatchThroughAHeldMemberGoesOnElsewhere follows a key while every member is held in turn, as long as it takes.
func TestAWatchThroughAHeldMemberGoesOnElsewhere(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	defer cancel()
	client := c.NewClient()
	events := client.Watch(ctx, "k", clientv3.WithCreatedNotify())
	next := (<-events).Header.GetRevision() + 1
	s := c.Store()
	for i := range 3 {
		c.Pause(i)
		want := fmt.Sprint("held", i)
		patient(t, "write", func(ctx context.Context) error { return write(ctx, s, "k", want) })
		begun := time.Now()
		ticker := time.NewTicker(500 * time.Millisecond)
		for seen := false; !seen; {
			select {
			case resp, open := <-events:
				if !open || resp.Err() != nil { // its member lost the leader for a moment
					<-time.After(10 * time.Millisecond)
					events = client.Watch(ctx, "k", clientv3.WithRev(next))
				}
				for _, e := range resp.Events {
					next = e.Kv.ModRevision + 1
					seen = seen || lettersOf(e.Kv.Value) == want
				}
			case <-ticker.C: // as the mirror does: what is sent has to be answered
				asking, stop := context.WithTimeout(ctx, time.Second)
				_ = client.RequestProgress(asking)
				stop()
			case <-time.After(30 * time.Second):
				t.Fatalf("with member %d held the watch has stopped", i)
			}
		}
		ticker.Stop()
		t.Logf("member %d held: the event came after %s", i, time.Since(begun).Round(time.Millisecond))
		c.Resume(i)
	}
}

// lettersOf is the id in a claim that has nothing else.
func lettersOf(value []byte) string {
	if len(value) < 2 {
		return ""
	}
	return string(value[2:])
}

// TestWithoutAMajorityCallsFailAtOnceAndWorkAgainAfterwards loses the majority in each way there is.
func TestWithoutAMajorityCallsFailAtOnceAndWorkAgainAfterwards(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	s := c.Store()
	for _, loss := range []struct {
		what        string
		lose, found func(int)
		members     []int
	}{
		{"two killed", c.Kill, c.Start, []int{0, 1}},
		{"two held", c.Pause, c.Resume, []int{1, 2}},
		{"all killed", c.Kill, c.Start, []int{0, 1, 2}},
		{"all held", c.Pause, c.Resume, []int{0, 1, 2}},
	} {
		t.Run(loss.what, func(t *testing.T) {
			patient(t, "write", func(ctx context.Context) error { return write(ctx, s, "before", "x") })
			for _, i := range loss.members {
				loss.lose(i)
			}
			patient(t, "the store is known to be away", func(ctx context.Context) error {
				begun := time.Now()
				err := write(ctx, s, "during", loss.what)
				if !errors.Is(err, store.ErrUnavailable) {
					return fmt.Errorf("a write gives %w", err)
				}
				t.Logf("noticed by the first call in %s: %v", time.Since(begun).Round(time.Millisecond), err)
				return nil
			})
			// From here on no call waits for its deadline, which is farther away than this whole test may take.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			for range 5 {
				for what, err := range map[string]error{"read": read(ctx, s, "before"), "write": write(ctx, s, "during", "x")} {
					if !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			if s.Away().IsZero() {
				t.Error("the store is not said to be away")
			}
			for _, i := range loss.members {
				loss.found(i)
			}
			patient(t, "write again", func(ctx context.Context) error { return write(ctx, s, "after", "x") })
			if !s.Away().IsZero() {
				t.Error("the store is said to be away, and has just answered")
			}
		})
	}
}

func TestDefragmentationLosesNothing(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	s := c.Store()
	for i := range 100 {
		patient(t, "write", func(ctx context.Context) error { return write(ctx, s, fmt.Sprint("k/", i%10), fmt.Sprint(i)) })
	}
	c.Compact()
	for i := range 3 {
		c.Defragment(i)
		patient(t, "write", func(ctx context.Context) error { return write(ctx, s, fmt.Sprint("d/", i), "x") })
	}
	snap, err := s.Read(t.Context(), store.Count("d/", "l"))
	if err != nil || snap.Results[0].Count != 13 {
		t.Errorf("%d keys, %v", snap.Results[0].Count, err)
	}
}
