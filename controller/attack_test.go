package controller_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/etcd"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestABookmarkPromisesOnlyWhatWasSent writes a history longer than what etcd sends in one piece (1,000 revisions), whose
// answers all carry the store's latest revision, and follows it from its beginning.
func TestABookmarkPromisesOnlyWhatWasSent(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	const history = 2500
	first, last := int64(0), int64(0)
	raw, err := proto.Marshal(&weftv1.Network{Id: nobody, Name: "n"})
	check(t, err)
	for range history {
		resp, err := b.etcdClient.Put(b.context(), keys.Network(nobody), string(raw))
		check(t, err)
		last = resp.Header.Revision
		if first == 0 {
			first = last
		}
	}
	stream, err := r.Watch(b.context(), &weftv1.WatchRequest{Revision: first - 1})
	check(t, err)
	for sent := first - 1; sent < last; {
		ev, err := stream.Recv()
		check(t, err)
		switch {
		case ev.GetType() != weftv1.WatchEvent_TYPE_BOOKMARK:
			sent = ev.GetRevision()
		case ev.GetRevision() > sent:
			t.Fatalf("bookmark %d came when only what is up to %d had been sent, of %d", ev.GetRevision(), sent, last)
		}
	}
}

// TestADeadNodeIsForgottenWithWhatWasRefusedThere deletes a node that died with a plug of a port bound elsewhere and one of
// a port that does not exist: nothing that its owner could clear away.
func TestADeadNodeIsForgottenWithWhatWasRefusedThere(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "net1"})
	for _, id := range []string{p.GetId(), nobody} {
		w.put(keys.Plug("cmp1", id), &storev1.Plug{})
		w.eventually("refused", func() bool { return w.refused("cmp1", id) != "" })
	}
	w.put(keys.Status("cmp1", keys.KindPort, nobody), &storev1.Report{})
	w.del(keys.Live("cmp1"))
	_, err := w.DeleteNode(w.ctx, &weftv1.DeleteNodeRequest{Id: "cmp1"})
	w.check(err)
	for _, prefix := range []string{keys.Host("cmp1"), keys.Plugs("cmp1"), keys.Statuses("cmp1"), keys.Agent("cmp1")} {
		w.eventually("nothing below "+prefix, func() bool {
			resp, err := w.etcdClient.Get(w.ctx, prefix, withPrefix())
			w.check(err)
			return len(resp.Kvs) == 0
		})
	}
	w.audit()
}

// TestForgettingANodeTouchesNothingOfAnAgentThatComesBack lets the agent return while its node is being deleted.
func TestForgettingANodeTouchesNothingOfAnAgentThatComesBack(t *testing.T) {
	d := newDuel(t)
	ctx := d.context()
	s := d.set(ctx)
	d.put(keys.Status("n3", keys.KindPort, s.free.GetId()), &storev1.Report{Revision: 1})
	back := func() {
		d.put(keys.Live("n3"), networkNode("tenant"))
		d.put(keys.Plug("n3", s.free.GetId()), &storev1.Plug{Interface: "tap"})
		d.put(keys.Status("n3", keys.KindPort, s.free.GetId()), &storev1.Report{Revision: 2})
	}
	d.between.next.Store(&back)
	_, err := d.slow.DeleteNode(ctx, &weftv1.DeleteNodeRequest{Id: "n3"})
	wantCode(t, codes.FailedPrecondition, err)
	for _, key := range []string{keys.Agent("n3"), keys.Plug("n3", s.free.GetId()), keys.Status("n3", keys.KindPort, s.free.GetId())} {
		if !d.exists(key) {
			t.Errorf("%s is gone", key)
		}
	}
}

// TestAMaskOfAMillionPathsCostsNoMoreThanOne sends as many paths as fit in a request, with a large field beside them.
func TestAMaskOfAMillionPathsCostsNoMoreThanOne(t *testing.T) {
	w := newWorld(t)
	paths := make([]string, 500_000)
	for i := range paths {
		paths[i] = "name"
	}
	_, err := w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{
		Network: &weftv1.Network{Id: w.net1.GetId()}, UpdateMask: mask(paths...),
	})
	wantCode(t, codes.InvalidArgument, err)
	for i := range paths {
		paths[i] = "fixed_ips"
	}
	_, err = w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{
		Port: &weftv1.Port{Id: w.p1.GetId(), FixedIps: slices.Repeat(fixed("10.0.0.9"), 100_000)}, UpdateMask: mask(paths[:60]...),
	})
	wantCode(t, codes.InvalidArgument, err)
}

// TestAWatchThatIsNotReadIsEndedBeforeItFillsTheMemory lets more changes pile up for a caller than a controller keeps.
func TestAWatchThatIsNotReadIsEndedBeforeItFillsTheMemory(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	stream, err := r.Watch(b.context(), &weftv1.WatchRequest{})
	check(t, err)
	first, err := stream.Recv()
	check(t, err)
	big := &weftv1.Network{Id: nobody, Name: strings.Repeat("n", 500_000)}
	sent := first.GetRevision()
	for {
		for range 8 { // always more than are read
			b.put(keys.Network(nobody), big)
		}
		ev, err := stream.Recv()
		if err != nil {
			wantCode(t, codes.Unavailable, err)
			break
		}
		if ev.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK {
			sent = ev.GetRevision()
		}
	}
	again, err := r.Watch(b.context(), &weftv1.WatchRequest{Revision: sent})
	check(t, err)
	ev, err := again.Recv()
	check(t, err)
	if ev.GetRevision() != sent+1 {
		t.Errorf("watching again after %d gives %d first", sent, ev.GetRevision())
	}
}

// TestAHandWrittenPortTakesNothingFromOthers deletes a port that was written into the store by hand with the addresses of
// another.
func TestAHandWrittenPortTakesNothingFromOthers(t *testing.T) {
	w := newWorld(t)
	forged := proto.CloneOf(w.p1)
	forged.Id, forged.Etag, forged.Status = nobody, "", nil
	w.put(keys.Port(w.net1.GetId(), nobody), forged)
	w.put(keys.Locator(keys.KindPort, nobody), &storev1.Locator{Scope: w.net1.GetId()})
	_, err := w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: nobody})
	w.check(err)
	w.audit()
}

func TestANextHopIsNoneOfTheRoutersOwnAddresses(t *testing.T) {
	w := newWorld(t)
	r := w.router("r2", "")
	some := &weftv1.FixedIp{SubnetId: w.extSub1.GetId()}
	r, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext1.GetId(), FixedIps: []*weftv1.FixedIp{some, some}})
	w.check(err)
	for _, own := range r.GetExternalGateway().GetFixedIps() {
		_, err = w.addRoute(r.GetId(), "192.0.2.0/24", own.GetIpAddress())
		wantCode(t, codes.InvalidArgument, err)
	}
}

func TestAnUpdateOfANodeWithoutLabelsLeavesThemAlone(t *testing.T) {
	w := newWorld(t)
	_, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1", Labels: map[string]string{"rack": "7"}}})
	w.check(err)
	n, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1"}})
	w.check(err)
	if n.GetLabels()["rack"] != "7" {
		t.Errorf("labels = %v, want them kept: no mask names only what is set", n.GetLabels())
	}
	n, err = w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1"}, UpdateMask: mask("labels")})
	w.check(err)
	if len(n.GetLabels()) != 0 {
		t.Errorf("labels = %v, want none", n.GetLabels())
	}
}

// TestACompactionBetweenTwoReadsIsAConflictLikeAnyOther compacts the store after a call's first read.
func TestACompactionBetweenTwoReadsIsAConflictLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.put(keys.Status("cmp1", keys.KindPort, w.p1.GetId()), &storev1.Report{Revision: 1, Message: fmt.Sprint(i)})
			w.etcd.Compact(w.ctx)
		}
	})
	for i := range 300 {
		_, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: w.p1.GetId(), Name: fmt.Sprint(i)}, UpdateMask: mask("name")})
		if err != nil {
			t.Errorf("update %d: %v", i, err)
			break
		}
		_, err = w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: w.p1.GetId()})
		if err != nil {
			t.Errorf("get %d: %v", i, err)
			break
		}
	}
	cancel()
	wg.Wait()
}

// TestARouterThatWorksIsNotTakenDownForAChange gives a router a gateway that only a dead node could carry.
func TestARouterThatWorksIsNotTakenDownForAChange(t *testing.T) {
	w := newWorld(t)
	w.put(keys.Agent("net2"), networkNode("ext3"))
	w.eventually("net2 is known", func() bool {
		_, err := w.GetNode(w.ctx, &weftv1.GetNodeRequest{Id: "net2"})
		return err == nil
	})
	n := w.network(&weftv1.Network{})
	sub := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.7.0.0/24"})
	r := w.router("r2", "", sub.GetId())
	ext3 := w.network(&weftv1.Network{External: true, Type: flat, PhysicalNetwork: "ext3"})
	w.subnet(&weftv1.Subnet{NetworkId: ext3.GetId(), Cidr: "192.0.2.0/24", EnableDhcp: proto.Bool(false)})
	_, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: ext3.GetId()})
	wantCode(t, codes.FailedPrecondition, err)
	if !contains(err.Error(), "net2: is not alive") {
		t.Errorf("the refusal %q does not say why", err)
	}
	w.audit()
}

// TestADamagedSubnetStopsNothingElseInItsNetwork leaves two subnets in a network that nobody can make sense of.
func TestADamagedSubnetStopsNothingElseInItsNetwork(t *testing.T) {
	w := newWorld(t)
	_, err := w.etcdClient.Put(w.ctx, keys.Subnet(w.net1.GetId(), nobody), "\xff")
	w.check(err)
	const other = "00000000-0000-4000-8000-000000000001"
	w.put(keys.Subnet(w.net1.GetId(), other), &weftv1.Subnet{Id: other, NetworkId: w.net1.GetId(), Cidr: "nonsense"})
	w.port(&weftv1.Port{NetworkId: w.net1.GetId()})
	w.subnet(&weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.1.0.0/24"})
	w.port(&weftv1.Port{NetworkId: w.net1.GetId(), FixedIps: fixed("10.1.0.9")})
}

// TestAFullStoreIsSaidToBeOne fills an etcd with a small quota.
func TestAFullStoreIsSaidToBeOne(t *testing.T) {
	b := newBench(t)
	small, err := etcd.Start(b.context(), etcd.Options{
		Dir: t.TempDir(), Listen: []string{"http://127.0.0.1:0"}, Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond, Quota: 1 << 20,
	})
	check(t, err)
	t.Cleanup(func() { _ = small.Close() }) // a client inside the process always says that its context has ended
	r := b.replicaOn(small.Client())
	for i := 0; err == nil; i++ {
		_, err = small.Client().Put(b.context(), fmt.Sprintf("/filler/%d", i), strings.Repeat("x", 64<<10))
	}
	_, err = r.CreateNetwork(b.context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
	wantCode(t, codes.ResourceExhausted, err)
	if !contains(err.Error(), "quota") {
		t.Errorf("the refusal %q does not say what to do", err)
	}
}

// TestPagesOfAFilterOnStatusMissNothing lets an object that was shown stop matching before the next page is asked for.
func TestPagesOfAFilterOnStatusMissNothing(t *testing.T) {
	w := newWorld(t)
	w.put(keys.Live("cmp1"), networkNode())
	want, seen := map[string]bool{}, map[string]bool{}
	for range 6 {
		want[w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"}).GetId()] = true
	}
	report := func(id string, state weftv1.State) {
		w.put(keys.Status("cmp1", keys.KindPort, id), &storev1.Report{Revision: 1 << 40, State: state})
		w.eventually("the report is taken in", func() bool {
			p, err := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: id})
			w.check(err)
			return p.GetStatus().GetState() == state
		})
	}
	for id := range want {
		report(id, weftv1.State_STATE_ACTIVE)
	}
	req := &weftv1.ListPortsRequest{Filter: "status.state = active", PageSize: 2}
	for {
		got, err := w.ListPorts(w.ctx, req)
		w.check(err)
		for _, p := range got.GetPorts() {
			seen[p.GetId()] = true
			report(p.GetId(), weftv1.State_STATE_ERROR)
		}
		if req.PageToken = got.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d of %d ports were shown", len(seen), len(want))
	}
}

// TestNoLeaseHoldsTooManyResults makes more calls with request ids than one lease may hold the results of: etcd deletes
// them in one step when it ends.
func TestNoLeaseHoldsTooManyResults(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	requests := make([]*weftv1.CreateNetworkRequest, 500)
	for range 5 {
		for i := range requests {
			requests[i] = &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}, RequestId: uuid.NewString()}
		}
		_, err := r.BatchCreateNetworks(b.context(), &weftv1.BatchCreateNetworksRequest{Requests: requests})
		check(t, err)
	}
	leases, err := b.etcdClient.Leases(b.context())
	check(t, err)
	remembered := 0
	for _, l := range leases.Leases {
		ttl, err := b.etcdClient.TimeToLive(b.context(), l.ID, clientv3.WithAttachedKeys())
		check(t, err)
		results := slices.DeleteFunc(ttl.Keys, func(k []byte) bool { return !strings.HasPrefix(string(k), keys.All(keys.FamilyRequest)) })
		if remembered += len(results); len(results) > 1000 {
			t.Errorf("a lease holds %d keys", len(results))
		}
	}
	if remembered != 2500 {
		t.Errorf("%d results are remembered, want 2500", remembered)
	}
}

// TestAWatchOfAProjectShowsWhatItsListsDo shares another project's network and takes it back.
func TestAWatchOfAProjectShowsWhatItsListsDo(t *testing.T) {
	w := newWorld(t)
	n := w.network(&weftv1.Network{Project: "theirs"})
	stream, err := w.Watch(w.ctx, &weftv1.WatchRequest{Project: "ours", Kinds: []weftv1.Kind{weftv1.Kind_KIND_NETWORK}})
	w.check(err)
	_, err = stream.Recv()
	w.check(err)
	for _, shared := range []bool{true, false} {
		_, err := w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: n.GetId(), Shared: shared}, UpdateMask: mask("shared")})
		w.check(err)
	}
	_, err = w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: n.GetId(), Name: "private"}, UpdateMask: mask("name")})
	w.check(err)
	own := w.network(&weftv1.Network{Project: "ours", Name: "last"})
	var got []string
	for len(got) == 0 || got[len(got)-1] != own.GetName() {
		ev, err := stream.Recv()
		w.check(err)
		if net := ev.GetNetwork(); net.GetId() == n.GetId() {
			got = append(got, fmt.Sprint("shared ", net.GetShared(), net.GetName()))
		} else if net != nil {
			got = append(got, net.GetName())
		}
	}
	if want := []string{"shared true", "shared false", "last"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestARefusalDoesNotRepeatAllThatWasSent sends what would not fit into the headers that an error travels in.
func TestARefusalDoesNotRepeatAllThatWasSent(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("\x01", 7<<20)
	_, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: long}})
	wantCode(t, codes.InvalidArgument, err)
	if n := len(err.Error()); n > 10_000 {
		t.Errorf("the refusal is %d bytes long", n)
	}
	_, err = w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: long})
	wantCode(t, codes.NotFound, err)
}
