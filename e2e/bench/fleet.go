package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/lease"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// api is one client with a connection of its own. It is safe for concurrent use.
type api struct {
	weftv1.NetworkServiceClient
	weftv1.SubnetServiceClient
	weftv1.PortServiceClient
	weftv1.RouterServiceClient
	weftv1.FloatingIpServiceClient
	weftv1.NodeServiceClient
	weftv1.WatchServiceClient
	weftv1.SecurityGroupServiceClient
	conn *grpc.ClientConn
}

// maxAnswer is enough for a list of 10,000 ports, in bytes.
const maxAnswer = 64 << 20

// dial connects to the lab's first controller.
func dial(l *lab.Lab) (*api, error) {
	servers, err := l.Server()
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(servers, ",")
	conn, err := grpc.NewClient(first, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", first, err)
	}
	return &api{
		weftv1.NewNetworkServiceClient(conn), weftv1.NewSubnetServiceClient(conn), weftv1.NewPortServiceClient(conn),
		weftv1.NewRouterServiceClient(conn), weftv1.NewFloatingIpServiceClient(conn), weftv1.NewNodeServiceClient(conn),
		weftv1.NewWatchServiceClient(conn), weftv1.NewSecurityGroupServiceClient(conn), conn,
	}, nil
}

func (a *api) close() { _ = a.conn.Close() } // nothing is pending

// bench is a run under way. It is not safe for concurrent use.
type bench struct {
	*api
	lab *lab.Lab
	out io.Writer
	n   int
	// external is the network of outside1, once there is one.
	external *weftv1.Network
	vms      []*lab.VM
	names    int
	// groups are the security groups that a measurement has made.
	groups []string
	// keep: nothing need be removed any more.
	keep bool
	// pool is what the measurements of network nodes share, see preparePool.
	pool *pool
}

func newBench(ctx context.Context, l *lab.Lab, n int, out io.Writer) (*bench, error) {
	a, err := dial(l)
	if err != nil {
		return nil, err
	}
	b := &bench{api: a, lab: l, n: n, out: out}
	nodes, err := b.nodes()
	if err != nil {
		a.close()
		return nil, err
	}
	if err := b.nodesAlive(ctx, len(nodes)); err != nil {
		a.close()
		return nil, err
	}
	if err := fleet.Admit(ctx, weftv1.NewSecurityGroupServiceClient(a.conn)); err != nil {
		a.close()
		return nil, err
	}
	if err := fleet.Unlimited(ctx, weftv1.NewQuotaServiceClient(a.conn)); err != nil {
		a.close()
		return nil, err
	}
	return b, nil
}

// nodes are the lab's network and compute nodes.
func (b *bench) nodes() ([]lab.HostInfo, error) {
	hosts, err := b.lab.Hosts()
	return slices.DeleteFunc(hosts, func(h lab.HostInfo) bool { return !h.Node() }), err
}

// few is how often something long is repeated.
func (b *bench) few() int { return min(b.n, 5) }

func (a *api) nodesAlive(ctx context.Context, want int) error {
	return until(ctx, fmt.Sprintf("%d nodes are alive", want), func() (bool, error) {
		got, err := a.ListNodes(ctx, &weftv1.ListNodesRequest{})
		alive := 0
		for _, n := range got.GetNodes() {
			if n.GetAlive() {
				alive++
			}
		}
		return alive == want, err
	})
}

// patience is how long something is waited for.
const patience = 30 * time.Second

// until asks every 5 ms until a condition holds.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	return within(ctx, patience, what, holds)
}

// within is until, for what may take another time.
func within(ctx context.Context, limit time.Duration, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// segment is a network with one subnet.
type segment struct {
	network *weftv1.Network
	subnet  *weftv1.Subnet
}

func (b *bench) name(what string) string {
	b.names++
	return fmt.Sprintf("%s-%d", what, b.names)
}

// segment makes a VXLAN network with a subnet.
func (b *bench) segment(ctx context.Context, cidr string, dhcp bool) (segment, error) {
	n, err := b.network(ctx)
	if err != nil {
		return segment{}, err
	}
	s, err := b.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{
		Name: n.GetName(), NetworkId: n.GetId(), Cidr: cidr, EnableDhcp: &dhcp,
	}})
	if err != nil {
		return segment{}, fmt.Errorf("create a subnet: %w", err)
	}
	return segment{n, s}, nil
}

func (b *bench) network(ctx context.Context) (*weftv1.Network, error) {
	n, err := b.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{
		Name: b.name("net"), Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN,
	}})
	if err != nil {
		return nil, fmt.Errorf("create a network: %w", err)
	}
	return n, nil
}

// guest is a VM with its port and address. Its VM is made but not plugged.
type guest struct {
	*lab.VM
	port    *weftv1.Port
	address netip.Addr
}

// guests makes ports that are bound to a node (or to none yet, when late) and a VM for each, configured but unplugged.
func (b *bench) guests(ctx context.Context, s segment, node string, count int, late bool) ([]guest, error) {
	host := node
	if late {
		host = ""
	}
	return b.guestsLike(ctx, s, node, count, &weftv1.Port{NetworkId: s.network.GetId(), Host: host})
}

// guestsLike makes them with ports like one.
func (b *bench) guestsLike(ctx context.Context, s segment, node string, count int, like *weftv1.Port) ([]guest, error) {
	ports, err := b.createPorts(ctx, count, func(int) *weftv1.Port { return like })
	if err != nil {
		return nil, err
	}
	specs := make([]lab.VMSpec, count)
	out := make([]guest, count)
	for i, p := range ports {
		if specs[i], err = b.spec(s, p, node); err != nil {
			return nil, err
		}
		out[i] = guest{port: p, address: specs[i].Lease.Address.Addr()}
	}
	vms, err := b.prepare(ctx, specs)
	for i, vm := range vms {
		out[i].VM = vm
	}
	return out, err
}

// guest makes one.
func (b *bench) guest(ctx context.Context, s segment, node string) (guest, error) {
	all, err := b.guests(ctx, s, node, 1, false)
	if err != nil {
		return guest{}, err
	}
	return all[0], nil
}

// plugged makes one whose port is ACTIVE.
func (b *bench) plugged(ctx context.Context, s segment, node string) (guest, error) {
	g, err := b.guest(ctx, s, node)
	if err != nil {
		return guest{}, err
	}
	return g, b.reach(ctx, weftv1.State_STATE_ACTIVE, []guest{g}, func() error { return b.lab.Plug(ctx, g.VM) })
}

// spec describes the VM of a port: with a static address, as if DHCP had given it.
func (b *bench) spec(s segment, p *weftv1.Port, node string) (lab.VMSpec, error) {
	cidr, err := netip.ParsePrefix(s.subnet.GetCidr())
	if err != nil {
		return lab.VMSpec{}, err
	}
	address, err := netip.ParseAddr(p.GetFixedIps()[0].GetIpAddress())
	if err != nil {
		return lab.VMSpec{}, err
	}
	gateway, err := netip.ParseAddr(s.subnet.GetGatewayIp())
	if err != nil {
		return lab.VMSpec{}, err
	}
	return lab.VMSpec{
		Name: b.name("vm"), Host: node, Port: lab.Port{ID: p.GetId(), MAC: p.GetMacAddress()}, Addressing: lab.Static,
		Lease: lease.Lease{
			Address: netip.PrefixFrom(address, cidr.Bits()), MTU: int(s.network.GetMtu()),
			Routes: []lease.Route{{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: gateway}},
		},
	}, nil
}

// prepare makes and configures VMs; they go with the measurement.
func (b *bench) prepare(ctx context.Context, specs []lab.VMSpec) ([]*lab.VM, error) {
	vms, err := b.lab.PrepareVMs(ctx, specs...)
	b.vms = append(b.vms, vms...)
	if err != nil {
		return nil, err
	}
	for _, vm := range vms {
		if _, err := vm.Configure(ctx); err != nil {
			return nil, err
		}
	}
	return vms, nil
}

// batchSize is how many objects one bulk call creates.
const batchSize = 1000

// createPorts creates ports in bulk.
func (a *api) createPorts(ctx context.Context, count int, port func(i int) *weftv1.Port) ([]*weftv1.Port, error) {
	var out []*weftv1.Port
	for done := 0; done < count; {
		request := &weftv1.BatchCreatePortsRequest{}
		for ; done < count && len(request.GetRequests()) < batchSize; done++ {
			request.Requests = append(request.Requests, &weftv1.CreatePortRequest{Port: port(done)})
		}
		got, err := a.BatchCreatePorts(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("create ports: %w", err)
		}
		for _, r := range got.GetResults() {
			if e := r.GetError(); e != nil {
				return nil, fmt.Errorf("create ports: %s", e.GetMessage())
			}
			out = append(out, r.GetPort())
		}
	}
	return out, nil
}

// reach acts and returns when the ports of all guests have reached a state.
func (b *bench) reach(ctx context.Context, state weftv1.State, guests []guest, act func() error) error {
	_, err := b.timeToReach(ctx, state, guests, act)
	return err
}

// timeToReach follows the API's stream of changes: it acts, and returns how long after that began the last of the guests'
// ports was said to be in a state.
func (b *bench) timeToReach(ctx context.Context, state weftv1.State, guests []guest, act func() error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	missing := map[string]bool{}
	for _, g := range guests {
		missing[g.port.GetId()] = true
	}
	stream, err := b.Watch(ctx, &weftv1.WatchRequest{Kinds: []weftv1.Kind{weftv1.Kind_KIND_PORT}})
	if err != nil {
		return 0, fmt.Errorf("watch ports: %w", err)
	}
	if _, err := stream.Recv(); err != nil { // the bookmark where the watch begins
		return 0, fmt.Errorf("watch ports: %w", err)
	}
	began := time.Now()
	acted := make(chan error, 1)
	go func() { acted <- act() }()
	for len(missing) > 0 {
		event, err := stream.Recv()
		if err != nil {
			return 0, fmt.Errorf("%d of %d ports did not become %v: %w", len(missing), len(guests), state, err)
		}
		if p := event.GetPort(); p.GetStatus().GetState() == state {
			delete(missing, p.GetId())
		} else if slices.ContainsFunc(guests, func(g guest) bool { return g.port.GetId() == p.GetId() }) {
			missing[p.GetId()] = true
		}
	}
	took := time.Since(began)
	return took, <-acted
}
