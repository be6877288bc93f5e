package controller_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/store/storetest"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The model of an allocation: a resource (an address of a subnet, a MAC address on a network, a segment) is free or held by
// one object, which is known by its name. Claims and releases that are said to have worked did so at one moment between call
// and answer, and every list shows what held at one moment; porcupine looks for an order in which all of it is true.

// want is what an operation asks for.
type want struct {
	resource string
	verb     string // claim, release, read
	name     string // of the object that claims or is deleted
}

// got is what it was told.
type got struct {
	// unknown: nobody said whether it worked; it may do so at any time until the end.
	unknown bool
	worked  bool
	// holder is what a read shows; "" free.
	holder string
}

// allocation is the model of one resource; its state is the holder's name, "" when it is free.
func allocation() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byResource := map[string][]porcupine.Operation{}
			for _, op := range history {
				r := op.Input.(want).resource
				byResource[r] = append(byResource[r], op)
			}
			var out [][]porcupine.Operation
			for _, ops := range byResource {
				out = append(out, ops)
			}
			return out
		},
		Init:              func() any { return "" },
		Step:              step,
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
}

func step(state, input, output any) (bool, any) {
	holder, in, out := state.(string), input.(want), output.(got)
	switch in.verb {
	case "claim":
		possible := holder == ""
		if possible && (out.worked || out.unknown) {
			return true, in.name
		}
		return out.unknown || possible == out.worked, holder
	case "release":
		possible := holder == in.name
		if possible && (out.worked || out.unknown) {
			return true, ""
		}
		return out.unknown || possible == out.worked, holder
	default:
		return out.holder == holder, holder
	}
}

// historian records what clients do.
type historian struct {
	*chaos
	begun time.Time
	net   *weftv1.Network // with a subnet: addresses
	bare  *weftv1.Network // without: MAC addresses
	sub   *weftv1.Subnet

	mu      sync.Mutex
	history []porcupine.Operation
	unknown int
}

func (h *historian) now() int64 { return time.Since(h.begun).Nanoseconds() }

func (h *historian) note(client int, in want, out got, call int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := h.now()
	if out.unknown {
		end = math.MaxInt64
		h.unknown++
	}
	h.history = append(h.history, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: end})
}

// settled repeats a call, with its request id, until somebody says how it went. A refusal counts only when nothing before it
// was left open: what is on its way in etcd may still come.
func (h *historian) settled(ctx context.Context, refusal codes.Code, call func(context.Context, *replica) error) (out got, definite bool) {
	open := false
	for range 40 {
		err := call(ctx, h.any())
		switch status.Code(err) {
		case codes.OK:
			return got{worked: true}, true
		case refusal:
			return got{unknown: open}, true
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			open = true // the controller has ended, or its store is away
		case codes.Aborted: // too many fought for it
		default:
			h.Errorf("unexpected: %v", err)
			return got{unknown: true}, true
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return got{unknown: true}, open
}

const addresses, macs, segmentsInUse = 6, 4, 4

func address(i int) string { return fmt.Sprintf("10.0.0.%d", 100+i) }
func macOf(i int) string   { return fmt.Sprintf("fa:16:3e:00:00:%02x", i) }
func segment(i int) uint32 { return uint32(100 + i) } //nolint:gosec // small

// client makes calls: claims of few resources, releases of what it holds, lists.
func (h *historian) client(ctx context.Context, id, calls int, rng *rand.Rand) {
	mine := map[string]string{} // resource -> the object's name and id
	for i := range calls {
		name := fmt.Sprintf("c%d-%d", id, i)
		switch n := rng.IntN(10); {
		case n < 5:
			h.claim(ctx, id, name, rng.IntN(addresses+macs+segmentsInUse), mine)
		case n < 8:
			if held := slices.Sorted(maps.Keys(mine)); len(held) > 0 {
				resource := held[rng.IntN(len(held))]
				h.release(ctx, id, resource, mine[resource])
				delete(mine, resource)
			}
		default:
			h.list(ctx, id)
		}
	}
}

// claim asks for one resource for a new object.
func (h *historian) claim(ctx context.Context, client int, name string, which int, mine map[string]string) {
	request := uuid.NewString()
	var resource, made string
	var call func(context.Context, *replica) error
	port := func(p *weftv1.Port) func(context.Context, *replica) error {
		p.Name = name
		return func(ctx context.Context, r *replica) error {
			resp, err := r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: proto.CloneOf(p), RequestId: request})
			made = resp.GetId()
			return err
		}
	}
	switch {
	case which < addresses:
		resource = address(which)
		call = port(&weftv1.Port{NetworkId: h.net.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: h.sub.GetId(), IpAddress: resource}}})
	case which < addresses+macs:
		resource = macOf(which - addresses)
		call = port(&weftv1.Port{NetworkId: h.bare.GetId(), MacAddress: resource})
	default:
		s := segment(which - addresses - macs)
		resource = fmt.Sprint("segment ", s)
		call = func(ctx context.Context, r *replica) error {
			resp, err := r.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{
				Network: &weftv1.Network{Name: name, Type: vlan, PhysicalNetwork: "tenant", SegmentationId: s}, RequestId: request,
			})
			made = resp.GetId()
			return err
		}
	}
	began := h.now()
	out, definite := h.settled(ctx, codes.AlreadyExists, call)
	if !definite {
		return // it was never tried
	}
	h.note(client, want{resource, "claim", name}, out, began)
	if out.worked {
		mine[resource] = name + " " + made
	}
}

func (h *historian) release(ctx context.Context, client int, resource, object string) {
	var name, id string
	if _, err := fmt.Sscan(object, &name, &id); err != nil {
		h.Error(err)
	}
	request := uuid.NewString()
	began := h.now()
	out, definite := h.settled(ctx, codes.NotFound, func(ctx context.Context, r *replica) error {
		if resource[0] == 's' {
			_, err := r.DeleteNetwork(ctx, &weftv1.DeleteNetworkRequest{Id: id, RequestId: request})
			return err
		}
		_, err := r.DeletePort(ctx, &weftv1.DeletePortRequest{Id: id, RequestId: request})
		return err
	})
	if definite {
		h.note(client, want{resource, "release", name}, out, began)
	}
}

// list shows the holders of all resources of one kind; one that fails shows nothing.
func (h *historian) list(ctx context.Context, client int) {
	r := h.any()
	began := h.now()
	networks, err := r.ListNetworks(ctx, &weftv1.ListNetworksRequest{Filter: "type = vlan", PageSize: 100})
	if err != nil {
		return
	}
	holders := map[string]string{}
	for _, n := range networks.GetNetworks() {
		holders[fmt.Sprint("segment ", n.GetSegmentationId())] = n.GetName()
	}
	for i := range segmentsInUse {
		resource := fmt.Sprint("segment ", segment(i))
		h.note(client, want{resource: resource, verb: "read"}, got{holder: holders[resource]}, began)
	}
	began = h.now()
	ports, err := r.ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: 100})
	if err != nil {
		return
	}
	for _, p := range ports.GetPorts() {
		holders[p.GetMacAddress()] = p.GetName()
		for _, f := range p.GetFixedIps() {
			holders[f.GetIpAddress()] = p.GetName()
		}
	}
	for i := range addresses {
		h.note(client, want{resource: address(i), verb: "read"}, got{holder: holders[address(i)]}, began)
	}
	for i := range macs {
		h.note(client, want{resource: macOf(i), verb: "read"}, got{holder: holders[macOf(i)]}, began)
	}
}

// seed is the test's, or that of the environment variable WEFT_SEED, to do the same once more as far as the machine lets it.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano()) //nolint:gosec // any will do
	if v := os.Getenv("WEFT_SEED"); v != "" {
		var err error
		s, err = strconv.ParseUint(v, 10, 64)
		check(t, err)
	}
	t.Logf("WEFT_SEED=%d", s)
	return s
}

// faults are what happens to a cluster of three and to two controllers, one at a time, until the context ends.
func (h *historian) faults(ctx context.Context, cluster *storetest.Cluster, rng *rand.Rand) (made int) {
	rest := func(limit time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Int64N(int64(limit)))):
		}
	}
	for ; ctx.Err() == nil; made++ {
		i := rng.IntN(3)
		switch rng.IntN(5) {
		case 0:
			cluster.Kill(i)
			rest(time.Second)
			cluster.Start(i)
		case 1:
			cluster.Pause(i)
			rest(2 * time.Second)
			cluster.Resume(i)
		case 2:
			leader := cluster.Leader()
			cluster.Pause(leader)
			rest(2 * time.Second)
			cluster.Resume(leader)
		case 3:
			other := (i + 1) % 3
			cluster.Pause(i)
			cluster.Pause(other)
			rest(2 * time.Second)
			cluster.Resume(i)
			cluster.Resume(other)
		default:
			h.killOn(cluster, i%2)
		}
		cluster.Await()
		rest(300 * time.Millisecond)
	}
	return made
}

// killOn takes a controller's store away in the middle of its calls, ends it and starts another in its place.
func (h *historian) killOn(cluster *storetest.Cluster, i int) {
	h.chaos.mu.Lock()
	old, etcd := h.replicas[i], h.clients[i]
	h.chaos.mu.Unlock()
	_ = etcd.Close()
	old.stop()
	etcd = cluster.NewClient()
	next := h.replicaOn(etcd)
	h.chaos.mu.Lock()
	defer h.chaos.mu.Unlock()
	h.replicas[i], h.clients[i] = next, etcd
}

// TestAllocationsAreLinearizableWhileControllersAndEtcdDie has clients fight for few addresses, MAC addresses and segments
// through two controllers on an etcd of three, kills and holds all of these, and asks whether there is an order in which
// everything that anybody was told is true.
func TestAllocationsAreLinearizableWhileControllersAndEtcdDie(t *testing.T) {
	seed := seed(t)
	cluster := storetest.StartCluster(t, 3)
	c := &chaos{bench: &bench{TB: t, etcdClient: cluster.Client()}, seen: registry{ids: map[string][]string{}}}
	for range 2 {
		etcd := cluster.NewClient()
		c.replicas, c.clients = append(c.replicas, c.replicaOn(etcd)), append(c.clients, etcd)
	}
	h := &historian{chaos: c, begun: time.Now()}
	r := c.replicas[0]
	var err error
	h.net, err = r.CreateNetwork(c.context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "net"}})
	check(t, err)
	h.sub, err = r.CreateSubnet(c.context(), &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: h.net.GetId(), Cidr: "10.0.0.0/24", EnableDhcp: proto.Bool(false)}})
	check(t, err)
	h.bare, err = r.CreateNetwork(c.context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "bare"}})
	check(t, err)
	_, err = r.CreateSegmentRange(c.context(), &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "tenant", Minimum: 100, Maximum: 200}})
	check(t, err)

	ctx, stop := context.WithCancel(t.Context())
	events := h.watch(ctx, cluster)
	faulting, calm := context.WithCancel(ctx)
	var faults, clients sync.WaitGroup
	made := 0
	faults.Go(func() { made = h.faults(faulting, cluster, rand.New(rand.NewPCG(seed, 0))) }) //nolint:gosec // not for secrets
	const perClient = 200
	for id := range 5 {
		clients.Go(func() { h.client(ctx, id, perClient, rand.New(rand.NewPCG(seed, uint64(id)+1))) }) //nolint:gosec // as above
	}
	clients.Wait()
	calm()
	faults.Wait()
	h.list(c.context(), 5)
	events(stop)
	t.Logf("%d operations, %d of unknown outcome, %d faults", len(h.history), h.unknown, made)
	if verdict := porcupine.CheckOperationsTimeout(allocation(), h.history, time.Minute); verdict != porcupine.Ok {
		t.Errorf("porcupine says %s", verdict)
	}
	c.audit()
}

// watch follows all changes, beginning now and through everything that happens, and holds that each resource goes from hand
// to hand by way of nobody. The function that it returns ends it.
func (h *historian) watch(ctx context.Context, cluster *storetest.Cluster) func(stop context.CancelFunc) {
	h.Helper()
	first, err := cluster.Client().Get(ctx, "x", clientv3.WithCountOnly())
	check(h, err)
	done := make(chan int)
	go func() {
		holders, held := map[string]string{}, map[string][]string{} // resource -> id, id -> resources
		from, seen := first.Header.Revision, 0
		for ctx.Err() == nil {
			stream, err := h.any().Watch(ctx, &weftv1.WatchRequest{Revision: from, Kinds: []weftv1.Kind{weftv1.Kind_KIND_PORT, weftv1.Kind_KIND_NETWORK}})
			for err == nil {
				var ev *weftv1.WatchEvent
				if ev, err = stream.Recv(); err == nil {
					if ev.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK {
						from = max(from, ev.GetRevision())
						continue
					}
					seen++
					h.handOver(ev, holders, held)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		done <- seen
	}()
	return func(stop context.CancelFunc) {
		stop()
		if n := <-done; n == 0 {
			h.Error("the watch has shown nothing")
		} else {
			h.Logf("%d events watched", n)
		}
	}
}

// handOver applies one event. An event that comes twice, since a watch was begun anew, changes nothing.
func (h *historian) handOver(ev *weftv1.WatchEvent, holders map[string]string, held map[string][]string) {
	var resources []string
	p, n := ev.GetPort(), ev.GetNetwork()
	for _, f := range p.GetFixedIps() {
		resources = append(resources, f.GetIpAddress())
	}
	switch {
	case p != nil && p.GetNetworkId() == h.bare.GetId():
		resources = append(resources, p.GetMacAddress())
	case n.GetType() == vlan:
		resources = append(resources, fmt.Sprint("segment ", n.GetSegmentationId()))
	}
	id := p.GetId() + n.GetId()
	if ev.GetType() == weftv1.WatchEvent_TYPE_DELETE {
		for _, r := range held[id] {
			if holders[r] == id {
				delete(holders, r)
			}
		}
		return
	}
	if ev.GetType() != weftv1.WatchEvent_TYPE_PUT {
		return
	}
	for _, r := range resources {
		if holders[r] != "" && holders[r] != id && held[id] == nil {
			h.Errorf("%s goes from %s to %s at revision %d, and nobody has let it go", r, holders[r], id, ev.GetRevision())
		}
		if held[id] == nil {
			holders[r] = id
		}
	}
	held[id] = resources
}

// TestTheModelOfAllocationsRefusesWhatMustNotBe shows that the judge is not blind.
func TestTheModelOfAllocationsRefusesWhatMustNotBe(t *testing.T) {
	op := func(verb, name string, out got, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: want{"a", verb, name}, Output: out, Call: call, Return: ret}
	}
	worked, refused, open := got{worked: true}, got{}, got{unknown: true}
	for name, tc := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"one after the other":             {[]porcupine.Operation{op("claim", "x", worked, 0, 1), op("release", "x", worked, 2, 3), op("claim", "y", worked, 4, 5)}, true},
		"held twice":                      {[]porcupine.Operation{op("claim", "x", worked, 0, 1), op("claim", "y", worked, 2, 3)}, false},
		"refused though free":             {[]porcupine.Operation{op("claim", "x", refused, 0, 1)}, false},
		"refused while another may have":  {[]porcupine.Operation{op("claim", "x", open, 0, math.MaxInt64), op("claim", "y", refused, 2, 3)}, true},
		"an open claim that shows later":  {[]porcupine.Operation{op("claim", "x", open, 0, math.MaxInt64), op("read", "", got{}, 1, 2), op("read", "", got{holder: "x"}, 3, 4)}, true},
		"a read of what is gone":          {[]porcupine.Operation{op("claim", "x", worked, 0, 1), op("release", "x", worked, 2, 3), op("read", "", got{holder: "x"}, 4, 5)}, false},
		"a read that misses what is held": {[]porcupine.Operation{op("claim", "x", worked, 0, 1), op("read", "", got{}, 2, 3)}, false},
	} {
		if got := porcupine.CheckOperations(allocation(), tc.history); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
