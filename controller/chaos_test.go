package controller_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// registry is the ids that clients have seen, for others to work on.
type registry struct {
	mu  sync.Mutex
	ids map[string][]string
}

func (r *registry) add(kind, id string) {
	if id == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[kind] = append(r.ids[kind], id)
}

// pick is an id of a kind, which may be gone by now; nobody if there are none.
func (r *registry) pick(kind string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids[kind]) == 0 {
		return nobody
	}
	return r.ids[kind][rand.IntN(len(r.ids[kind]))]
}

// chaos is many clients on replicas that come and go.
type chaos struct {
	*bench
	mu       sync.Mutex
	replicas []*replica
	clients  []*clientv3.Client // of the replicas
	seen     registry
	planner  *planner
	calls    atomic.Int64
	done     atomic.Int64
}

func (c *chaos) any() *replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replicas[rand.IntN(len(c.replicas))]
}

// kill takes a replica's store away in the middle of its calls, ends it and starts another in its place.
func (c *chaos) kill(i int) {
	c.mu.Lock()
	old, etcd := c.replicas[i], c.clients[i]
	c.mu.Unlock()
	_ = etcd.Close()
	old.stop()
	etcd = c.etcd.NewClient()
	next := c.replicaOn(etcd)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replicas[i], c.clients[i] = next, etcd
}

// call makes one random call with a context that may end in its middle.
func (c *chaos) call(ctx context.Context) {
	if rand.IntN(8) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
		defer cancel()
	}
	c.calls.Add(1)
	err := c.operation(ctx, c.any())
	switch status.Code(err) {
	case codes.OK:
		c.done.Add(1)
	case codes.Internal, codes.Unknown, codes.DataLoss:
		c.Errorf("a call failed with %v", err)
	default:
	}
}

func note[M interface{ GetId() string }](c *chaos, kind string) func(M, error) error {
	return func(m M, err error) error {
		if err == nil {
			c.seen.add(kind, m.GetId())
		}
		return err
	}
}

func only[M any](_ M, err error) error { return err }

// operation is one of everything that clients, hypervisors and nodes do.
func (c *chaos) operation(ctx context.Context, r *replica) error {
	id := c.seen.pick
	request := ""
	if rand.IntN(4) == 0 {
		request = uuid.NewString()
	}
	switch rand.IntN(38) {
	case 0:
		types := []weftv1.NetworkType{vxlan, gre, vlan}
		return note[*weftv1.Network](c, "network")(r.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Type: types[rand.IntN(3)], Shared: rand.IntN(2) == 0, External: rand.IntN(2) == 0}, RequestId: request}))
	case 1:
		return note[*weftv1.Subnet](c, "subnet")(r.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: id("network"), Cidr: fmt.Sprintf("10.%d.0.%d/28", rand.IntN(3), 16*rand.IntN(3)), EnableDhcp: proto.Bool(rand.IntN(3) > 0)}}))
	case 2, 3, 4, 5, 6, 7:
		return note[*weftv1.Port](c, "port")(r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: id("network"), Host: []string{"", "", "n1", "n2"}[rand.IntN(4)]}, RequestId: request}))
	case 8:
		return note[*weftv1.Router](c, "router")(r.CreateRouter(ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{}}))
	case 9, 10:
		return only(r.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{RouterId: id("router"), ExternalGateway: &weftv1.ExternalGateway{NetworkId: id("network")}}))
	case 11, 12, 13:
		return only(r.AddRouterInterface(ctx, &weftv1.AddRouterInterfaceRequest{RouterId: id("router"), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: id("subnet")}}))
	case 14, 15:
		return note[*weftv1.FloatingIp](c, "floatingip")(r.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: id("network"), PortId: []string{"", id("port")}[rand.IntN(2)]}}))
	case 16:
		return only(r.UpdateFloatingIp(ctx, &weftv1.UpdateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Id: id("floatingip"), PortId: []string{"", id("port")}[rand.IntN(2)]}, UpdateMask: mask("port_id")}))
	case 17:
		return only(r.UpdatePort(ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: id("port"), Host: []string{"", "n1", "n2"}[rand.IntN(3)], FixedIps: []*weftv1.FixedIp{{SubnetId: id("subnet")}}}, UpdateMask: mask([]string{"host", "fixed_ips"}[rand.IntN(2)])}))
	case 18:
		return only(r.UpdateNetwork(ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: id("network"), Shared: rand.IntN(2) == 0, External: rand.IntN(2) == 0}, UpdateMask: mask([]string{"shared", "external"}[rand.IntN(2)])}))
	case 19:
		return only(r.UpdateSubnet(ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: id("subnet"), EnableDhcp: proto.Bool(rand.IntN(2) == 0)}, UpdateMask: mask("enable_dhcp")}))
	case 20, 21:
		return only(r.DeletePort(ctx, &weftv1.DeletePortRequest{Id: id("port"), RequestId: request}))
	case 22:
		return only(r.DeleteFloatingIp(ctx, &weftv1.DeleteFloatingIpRequest{Id: id("floatingip")}))
	case 23:
		return only(r.RemoveRouterInterface(ctx, &weftv1.RemoveRouterInterfaceRequest{RouterId: id("router"), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: id("subnet")}}))
	case 24:
		return only(r.DeleteSubnet(ctx, &weftv1.DeleteSubnetRequest{Id: id("subnet")}))
	case 25:
		_, err := r.DeleteRouter(ctx, &weftv1.DeleteRouterRequest{Id: id("router")})
		_, err2 := r.DeleteNetwork(ctx, &weftv1.DeleteNetworkRequest{Id: id("network")})
		if status.Code(err) == codes.Internal {
			return err
		}
		return err2
	case 26, 27, 28, 29:
		return c.hypervisor(ctx, id("port"))
	default:
		return c.more(ctx, r)
	}
}

// more is the rest of operation: what takes addresses, segments and nodes from under others.
func (c *chaos) more(ctx context.Context, r *replica) error {
	id := c.seen.pick
	address := func() string { return fmt.Sprintf("10.%d.0.%d", rand.IntN(3), rand.IntN(48)) }
	hardware := fmt.Sprintf("02:00:00:00:00:%02x", rand.IntN(8))
	switch rand.IntN(14) {
	case 0:
		return c.batch(ctx, r)
	case 1:
		return only(r.ClearRouterGateway(ctx, &weftv1.ClearRouterGatewayRequest{RouterId: id("router")}))
	case 2:
		return only(r.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{RouterId: id("router"), ExternalGateway: &weftv1.ExternalGateway{NetworkId: id("network"), FixedIps: fixed(address())}}))
	case 3:
		return only(r.AddRouterInterface(ctx, &weftv1.AddRouterInterfaceRequest{RouterId: id("router"), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: id("port")}}))
	case 4:
		return only(r.UpdatePort(ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: id("port"), MacAddress: hardware, FixedIps: fixed(address())}, UpdateMask: mask("mac_address", "fixed_ips")}))
	case 5:
		return note[*weftv1.SegmentRange](c, "range")(r.CreateSegmentRange(ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "tenant", Minimum: 111, Maximum: 111 + uint32(rand.IntN(4))}}))
	case 6:
		return only(r.UpdateSegmentRange(ctx, &weftv1.UpdateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Id: id("range"), Minimum: 111 + uint32(rand.IntN(4)), Maximum: 114}, UpdateMask: mask("minimum", "maximum")}))
	case 7:
		return only(r.DeleteSegmentRange(ctx, &weftv1.DeleteSegmentRangeRequest{Id: id("range")}))
	case 8, 9, 10:
		return c.plans(ctx, r)
	case 11, 12:
		return c.agents(ctx)
	default:
		return c.comeAndGo(ctx, r)
	}
}

// plans asks for other plans.
func (c *chaos) plans(ctx context.Context, r *replica) error {
	id, n := c.seen.pick, int32(rand.IntN(4)) //nolint:gosec // a few
	node := []string{"n1", "n2", "n3"}[rand.IntN(3)]
	switch rand.IntN(7) {
	case 0:
		return only(r.UpdateRouter(ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: id("router"), Ha: n}, UpdateMask: mask("ha")}))
	case 1:
		return only(r.UpdateNetwork(ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: id("network"), DhcpServers: n}, UpdateMask: mask("dhcp_servers")}))
	case 2:
		return only(r.UpdatePool(ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "default", Ha: n, DhcpServers: n}}))
	case 3:
		return only(r.UpdateNode(ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: node, Cordoned: n == 0}, UpdateMask: mask("cordoned")}))
	case 4:
		return only(r.Rebalance(ctx, &weftv1.RebalanceRequest{}))
	case 5:
		return only(r.MoveRouter(ctx, &weftv1.MoveRouterRequest{Id: id("router"), Node: node}))
	default:
		return only(r.UpdateRouter(ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: id("router"), Pool: []string{"", "default", "none"}[rand.IntN(3)]}, UpdateMask: mask("pool")}))
	}
}

// agents takes a router over as a standby's agent does, or edits plans as a leader does.
func (c *chaos) agents(ctx context.Context) error {
	node := []string{"n1", "n2", "n3"}[rand.IntN(3)]
	want := placing.Replan{Leaving: map[string]string{node: "is drained"}}
	var err error
	switch rand.IntN(3) {
	case 0:
		err = c.planner.tryTakeOver(ctx, c.seen.pick("router"), node)
	case 1:
		_, _, err = c.planner.router(ctx, c.seen.pick("router"), want)
	default:
		_, _, err = c.planner.dhcp(ctx, c.seen.pick("network"), want)
	}
	if fault.Code(err) == codes.Internal && ctx.Err() == nil {
		c.Errorf("editing a plan failed with %v", err)
	}
	return nil
}

// batch creates subnets and ports that contradict one another, one of them twice under one request id.
func (c *chaos) batch(ctx context.Context, r *replica) error {
	network, request := c.seen.pick("network"), uuid.NewString()
	if rand.IntN(3) == 0 {
		return only(r.BatchCreateSubnets(ctx, &weftv1.BatchCreateSubnetsRequest{Requests: []*weftv1.CreateSubnetRequest{
			{Subnet: &weftv1.Subnet{NetworkId: network, Cidr: "10.0.0.0/28"}}, {Subnet: &weftv1.Subnet{NetworkId: network, Cidr: "10.0.0.0/24"}},
		}}))
	}
	twice := &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: network, Host: "n1"}, RequestId: request}
	taken := &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: network, MacAddress: "02:00:00:00:00:01"}}
	got, err := r.BatchCreatePorts(ctx, &weftv1.BatchCreatePortsRequest{Requests: []*weftv1.CreatePortRequest{twice, taken, twice, taken}})
	if err != nil {
		return err
	}
	first, again := got.GetResults()[0].GetPort().GetId(), got.GetResults()[2].GetPort().GetId()
	if first != "" && again != "" && first != again {
		c.Errorf("one request id made two ports, %s and %s", first, again)
	}
	c.seen.add("port", first)
	return nil
}

// comeAndGo registers a node, lets it die, or forgets it.
func (c *chaos) comeAndGo(ctx context.Context, r *replica) error {
	switch rand.IntN(3) {
	case 0:
		raw, err := proto.Marshal(networkNode("tenant"))
		if err == nil {
			_, err = c.etcdClient.Txn(ctx).Then(clientv3.OpPut(keys.Agent("n3"), string(raw)), clientv3.OpPut(keys.Live("n3"), string(raw))).Commit()
		}
		return ignore(err)
	case 1:
		_, err := c.etcdClient.Delete(ctx, keys.Live("n3"))
		return ignore(err)
	default:
		return only(r.DeleteNode(ctx, &weftv1.DeleteNodeRequest{Id: "n3"}))
	}
}

// hypervisor plugs or unplugs a port on a node.
func (c *chaos) hypervisor(ctx context.Context, port string) error {
	key := keys.Plug([]string{"n1", "n2", "n3"}[rand.IntN(3)], port)
	if rand.IntN(2) == 0 {
		_, err := c.etcdClient.Delete(ctx, key)
		return ignore(err)
	}
	raw, err := proto.Marshal(&storev1.Plug{Interface: "tap"})
	if err == nil {
		_, err = c.etcdClient.Put(ctx, key, string(raw))
	}
	return ignore(err)
}

// ignore is for what is not a controller's call and may be cancelled.
func ignore(error) error { return nil }

// TestKilledClientsAndControllersLeaveNothingHalfDone runs 32 clients with random calls, cancelled at random, on two
// replicas that are killed in turn; afterwards objects, claims, locators and bindings match one to one.
func TestKilledClientsAndControllersLeaveNothingHalfDone(t *testing.T) {
	b := newBench(t)
	c := &chaos{bench: b, seen: registry{ids: map[string][]string{}}}
	for range 2 {
		etcd := b.etcd.NewClient()
		c.replicas, c.clients = append(c.replicas, b.replicaOn(etcd)), append(c.clients, etcd)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		b.node(n, networkNode("tenant"))
	}
	c.planner = b.planner()
	check(t, only(c.any().CreateSegmentRange(b.context(), &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "tenant", Minimum: 100, Maximum: 110}})))
	length := 6 * time.Second
	if testing.Short() {
		length = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				c.call(ctx)
			}
		})
	}
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-ctx.Done():
		case <-time.After(length / 8):
			c.kill(i % 2)
		}
	}
	wg.Wait()
	var findings []string
	b.eventuallyOr("the store is consistent", func() bool {
		var err error
		findings, err = audit.Run(b.context(), store.New(b.etcdClient))
		check(t, err)
		return len(findings) == 0
	}, func() {
		for _, f := range findings {
			t.Log("audit: ", f)
		}
	})
	t.Logf("%d calls, %d of them done", c.calls.Load(), c.done.Load())
	for kind, ids := range c.seen.ids {
		t.Logf("%d of kind %s created", len(ids), kind)
	}
}
