package mirror_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
)

// write puts a key, however long that takes.
func write(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		once, stop := context.WithTimeout(ctx, time.Second)
		_, err := c.Put(once, key, value)
		stop()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
}

// transactions is how many Txn calls a member has served since it was started, by its own count.
func transactions(t *testing.T, endpoint string) (n int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "grpc_server_started_total") && strings.Contains(lines.Text(), `grpc_method="Txn"`) {
			fields := strings.Fields(lines.Text())
			v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			n += int(v)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	return n
}

// TestAMajorityThatReturnsIsNotListedByAllItsFollowers holds a majority for as long as it takes every watch to be ended for
// want of a leader, and counts what twenty followers of five scopes ask for when it is back.
func TestAMajorityThatReturnsIsNotListedByAllItsFollowers(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	const followers, scopes = 20, 5
	all := make([]*replica, followers)
	for i := range all {
		all[i] = follow(t, store.New(c.NewClient()), mirror.Options{Relist: time.Hour, Probe: time.Hour, Pulse: 200 * time.Millisecond})
		for s := range scopes { // two ranges: listed by a transaction, which nothing else here uses
			all[i].mirror.Follow(fmt.Sprint(s), mirror.Under(fmt.Sprintf("%d/", s)), mirror.Exactly(fmt.Sprintf("%d-one", s)))
		}
	}
	want := map[string]string{}
	step := func(n int) {
		for s := range scopes {
			write(t, c.Client(), fmt.Sprintf("%d/%d", s, n), "x")
			want[fmt.Sprintf("%d/%d", s, n)] = "x"
		}
		for _, r := range all {
			r.untilIs(want)
		}
	}
	step(0)
	count := func() (n int) {
		for i := range 3 {
			n += transactions(t, c.Endpoint(i))
		}
		return n
	}
	before := count()
	if before < followers*scopes {
		t.Fatalf("%d transactions listed %d scopes: the count is wrong", before, followers*scopes)
	}
	leader := c.Leader()
	other := (leader + 1) % 3
	c.Pause(leader)
	c.Pause(other)
	noLeader(t, c.Endpoint((leader+2)%3))
	c.Resume(leader)
	c.Resume(other)
	step(1)
	if after := count(); after > before+followers { // a follower that lists for want of anything else is no storm
		t.Errorf("%d listings when the majority came back, of %d scopes followed", after-before, followers*scopes)
	}
}

// noLeader waits until a member has been telling its watchers for a while that it has no leader.
func noLeader(t *testing.T, endpoint string) {
	t.Helper()
	client, err := store.Dial([]string{endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ended := 0; ended < 3; {
		for resp := range client.Watch(clientv3.WithRequireLeader(ctx), "leader") {
			if resp.Err() != nil {
				ended++
				break
			}
		}
		if ctx.Err() != nil {
			t.Fatal(errors.New("the member never said that it has no leader"))
		}
	}
}

// TestAClusterRestoredFromASnapshotIsFollowed takes a snapshot, goes on, restores the snapshot and writes more than was
// lost, so that nothing but the cluster's identity tells a follower that history has been rewritten.
func TestAClusterRestoredFromASnapshotIsFollowed(t *testing.T) {
	c := storetest.StartCluster(t, 3)
	write(t, c.Client(), "a/kept", "1")
	write(t, c.Client(), "a/changed", "1")
	file := c.Snapshot()
	r := follow(t, store.New(c.NewClient()), mirror.Options{Relist: time.Hour, Probe: time.Hour, Pulse: 100 * time.Millisecond})
	r.mirror.Follow("scope", mirror.Under("a/"))
	write(t, c.Client(), "a/lost", "1")
	write(t, c.Client(), "a/changed", "2")
	r.untilIs(map[string]string{"a/kept": "1", "a/changed": "2", "a/lost": "1"})
	c.RestoreSnapshot(file)
	r.seen = map[string]int64{} // revisions begin anew
	for i := range 5 {
		write(t, c.Client(), "a/new", strconv.Itoa(i))
	}
	r.untilIs(map[string]string{"a/kept": "1", "a/changed": "1", "a/new": "4"})
	write(t, c.Client(), "a/after", "1")
	r.until("the watch goes on", func() bool {
		return maps.Equal(r.values, map[string]string{"a/kept": "1", "a/changed": "1", "a/new": "4", "a/after": "1"})
	})
}
