package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	labfleet "github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// patience is how long a scenario waits for what should take moments: long, for a machine that is busy.
const patience = 20 * time.Second

// fleet is a lab under test with clients of its API. Its methods fail the test.
type fleet struct {
	*lab.Lab
	t         *testing.T
	networks  weftv1.NetworkServiceClient
	subnets   weftv1.SubnetServiceClient
	ports     weftv1.PortServiceClient
	routers   weftv1.RouterServiceClient
	floating  weftv1.FloatingIpServiceClient
	nodes     weftv1.NodeServiceClient
	segments  weftv1.SegmentRangeServiceClient
	connected *grpc.ClientConn
}

// newFleet brings up a lab and waits until all of its nodes are alive. When the test ends, the lab is audited.
func newFleet(t *testing.T, name string, change func(*lab.Options)) *fleet {
	t.Helper()
	f := &fleet{Lab: up(t, name, change), t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		audit(ctx, t, f.Lab)
	})
	server, err := f.Server()
	f.must(err)
	f.dial(strings.Split(server, ",")[0])
	f.alive()
	f.segmentRange(weftv1.NetworkType_NETWORK_TYPE_VLAN, lab.Tenant, 1000, 1099)
	f.must(labfleet.Admit(t.Context(), weftv1.NewSecurityGroupServiceClient(f.connected)))
	return f
}

// dial connects the clients to one controller.
func (f *fleet) dial(target string) {
	f.t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	f.must(err)
	f.t.Cleanup(func() { conn.Close() })
	f.connected = conn
	f.networks, f.subnets = weftv1.NewNetworkServiceClient(conn), weftv1.NewSubnetServiceClient(conn)
	f.ports, f.routers = weftv1.NewPortServiceClient(conn), weftv1.NewRouterServiceClient(conn)
	f.floating, f.nodes = weftv1.NewFloatingIpServiceClient(conn), weftv1.NewNodeServiceClient(conn)
	f.segments = weftv1.NewSegmentRangeServiceClient(conn)
}

// in is the same fleet for a subtest.
func (f *fleet) in(t *testing.T) *fleet {
	g := *f
	g.t = t
	return &g
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// eventually waits until a condition holds.
func (f *fleet) eventually(what string, holds func(context.Context) error) {
	f.t.Helper()
	f.within(patience, what, holds)
}

func (f *fleet) within(limit time.Duration, what string, holds func(context.Context) error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := holds(ctx)
		if err == nil {
			return
		}
		if last == nil || (ctx.Err() == nil && status.Code(err) != codes.DeadlineExceeded) {
			last = err // the error of an attempt that the deadline cut short says nothing
		}
		select {
		case <-ctx.Done():
			f.t.Fatalf("waited in vain until %s: %v", what, last)
		case <-tick.C:
		}
	}
}

// pause waits for a while. It is for what must *not* happen meanwhile, never for what must.
func (f *fleet) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.t.Context().Done():
	}
}

// alive waits until every node's agent is.
func (f *fleet) alive() {
	f.t.Helper()
	hosts, err := f.Hosts()
	f.must(err)
	f.eventually("all nodes are alive", func(ctx context.Context) error {
		have, err := f.nodes.ListNodes(ctx, &weftv1.ListNodesRequest{})
		if err != nil {
			return err
		}
		for _, h := range hosts {
			ok := slices.ContainsFunc(have.GetNodes(), func(n *weftv1.Node) bool { return n.GetId() == h.Name && n.GetAlive() })
			if h.Node() && !ok {
				return fmt.Errorf("%s is not", h.Name)
			}
		}
		return nil
	})
}

func (f *fleet) segmentRange(kind weftv1.NetworkType, physnet string, low, high uint32) {
	f.t.Helper()
	_, err := f.segments.CreateSegmentRange(f.t.Context(), &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{
		Type: kind, PhysicalNetwork: physnet, Minimum: low, Maximum: high,
	}})
	f.must(err)
}

func (f *fleet) network(n *weftv1.Network) *weftv1.Network {
	f.t.Helper()
	out, err := f.networks.CreateNetwork(f.t.Context(), &weftv1.CreateNetworkRequest{Network: n})
	f.must(err)
	return out
}

// unfiltered has the ports made from now on in networks not be filtered: what they send is judged by nobody before it is
// proven to go nowhere else.
func (f *fleet) unfiltered(networks ...*weftv1.Network) {
	f.t.Helper()
	for _, n := range networks {
		_, err := f.networks.UpdateNetwork(f.t.Context(), &weftv1.UpdateNetworkRequest{
			Network: &weftv1.Network{Id: n.GetId(), PortSecurityEnabled: new(bool)}, UpdateMask: mask("port_security_enabled"),
		})
		f.must(err)
	}
}

func (f *fleet) subnet(s *weftv1.Subnet) *weftv1.Subnet {
	f.t.Helper()
	out, err := f.subnets.CreateSubnet(f.t.Context(), &weftv1.CreateSubnetRequest{Subnet: s})
	f.must(err)
	return out
}

// tenant makes a network of a type with one subnet.
func (f *fleet) tenant(name string, kind weftv1.NetworkType, cidr string) (*weftv1.Network, *weftv1.Subnet) {
	f.t.Helper()
	n := &weftv1.Network{Name: name, Type: kind}
	if kind == weftv1.NetworkType_NETWORK_TYPE_VLAN {
		n.PhysicalNetwork = lab.Tenant
	}
	n = f.network(n)
	return n, f.subnet(&weftv1.Subnet{Name: "sub-" + name, NetworkId: n.GetId(), Cidr: cidr})
}

func (f *fleet) vxlan(name, cidr string) (*weftv1.Network, *weftv1.Subnet) {
	f.t.Helper()
	return f.tenant(name, weftv1.NetworkType_NETWORK_TYPE_VXLAN, cidr)
}

// outside makes the flat external network of a physical network whose outside host holds the first address of cidr.
func (f *fleet) outside(physnet, cidr string) *weftv1.Network {
	f.t.Helper()
	n := f.network(&weftv1.Network{
		Name: physnet, Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: physnet, External: true,
	})
	p := netip.MustParsePrefix(cidr)
	at := func(last byte) string { a := p.Addr().As4(); a[3] = last; return netip.AddrFrom4(a).String() }
	f.subnet(&weftv1.Subnet{
		NetworkId: n.GetId(), Cidr: cidr, EnableDhcp: new(bool),
		AllocationPools: []*weftv1.AllocationPool{{Start: at(50), End: at(250)}},
	})
	return n
}

func (f *fleet) port(p *weftv1.Port) *weftv1.Port {
	f.t.Helper()
	out, err := f.ports.CreatePort(f.t.Context(), &weftv1.CreatePortRequest{Port: p})
	f.must(err)
	return out
}

func (f *fleet) deletePort(id string) {
	f.t.Helper()
	_, err := f.ports.DeletePort(f.t.Context(), &weftv1.DeletePortRequest{Id: id})
	f.must(err)
}

// getPort reads a port as it is now.
func (f *fleet) getPort(ctx context.Context, id string) (*weftv1.Port, error) {
	return f.ports.GetPort(ctx, &weftv1.GetPortRequest{Id: id})
}

// router makes a router with a gateway on an external network, if not nil, and interfaces on subnets.
func (f *fleet) router(name string, external *weftv1.Network, subnets ...*weftv1.Subnet) *weftv1.Router {
	f.t.Helper()
	r, err := f.routers.CreateRouter(f.t.Context(), &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: name}})
	f.must(err)
	for _, s := range subnets {
		r = f.attach(r, s)
	}
	if external != nil {
		r = f.setGateway(r, &weftv1.ExternalGateway{NetworkId: external.GetId()})
	}
	return r
}

func (f *fleet) attach(r *weftv1.Router, s *weftv1.Subnet) *weftv1.Router {
	f.t.Helper()
	r, err := f.routers.AddRouterInterface(f.t.Context(), &weftv1.AddRouterInterfaceRequest{
		RouterId: r.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: s.GetId()},
	})
	f.must(err)
	return r
}

func (f *fleet) detach(r *weftv1.Router, s *weftv1.Subnet) {
	f.t.Helper()
	_, err := f.routers.RemoveRouterInterface(f.t.Context(), &weftv1.RemoveRouterInterfaceRequest{
		RouterId: r.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: s.GetId()},
	})
	f.must(err)
}

func (f *fleet) setGateway(r *weftv1.Router, g *weftv1.ExternalGateway) *weftv1.Router {
	f.t.Helper()
	r, err := f.routers.SetRouterGateway(f.t.Context(), &weftv1.SetRouterGatewayRequest{RouterId: r.GetId(), ExternalGateway: g})
	f.must(err)
	return r
}

func (f *fleet) deleteRouter(r *weftv1.Router) {
	f.t.Helper()
	_, err := f.routers.DeleteRouter(f.t.Context(), &weftv1.DeleteRouterRequest{Id: r.GetId()})
	f.must(err)
}

// floatingIP makes a floating IP on an external network that leads to a guest.
func (f *fleet) floatingIP(external *weftv1.Network, to *guest) (*weftv1.FloatingIp, netip.Addr) {
	f.t.Helper()
	fip, err := f.floating.CreateFloatingIp(f.t.Context(), &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{
		NetworkId: external.GetId(), PortId: to.port.GetId(),
	}})
	f.must(err)
	return fip, netip.MustParseAddr(fip.GetIpAddress())
}

// guest is a VM with its port.
type guest struct {
	*lab.VM
	port *weftv1.Port
	ip   netip.Addr // its first fixed address
}

func portOf(p *weftv1.Port) lab.Port { return lab.Port{ID: p.GetId(), MAC: p.GetMacAddress()} }

// guest makes a port on a network and a VM on a host that has got its address by DHCP.
func (f *fleet) guest(name, host string, n *weftv1.Network) *guest {
	f.t.Helper()
	return f.guestOf(name, host, f.port(&weftv1.Port{Name: name, NetworkId: n.GetId()}))
}

func (f *fleet) guestOf(name, host string, p *weftv1.Port) *guest {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	vm, err := f.AddVM(ctx, lab.VMSpec{
		Name: name, Host: host, Port: portOf(p), Hybrid: p.GetVifType() == weftv1.VifType_VIF_TYPE_HYBRID,
	})
	f.must(err)
	g := &guest{VM: vm, port: p, ip: netip.MustParseAddr(p.GetFixedIps()[0].GetIpAddress())}
	if got := vm.Spec.Lease.Address.Addr(); got != g.ip {
		f.t.Fatalf("VM %s got %s, its port has %s", name, got, g.ip)
	}
	f.announce(g)
	return g
}

// removeGuest takes a VM away and deletes its port.
func (f *fleet) removeGuest(g *guest) {
	f.t.Helper()
	f.must(g.Remove(f.t.Context()))
	f.deletePort(g.port.GetId())
}

func (f *fleet) host(name string) *lab.Host {
	f.t.Helper()
	h, err := f.Host(name)
	f.must(err)
	return h
}

func (f *fleet) external(physnet string) *lab.External {
	f.t.Helper()
	e, err := f.External(physnet)
	f.must(err)
	return e
}

// sh runs a shell command in a place.
func (f *fleet) sh(at lab.Space, script string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	out, err := at.Exec(ctx, "sh", "-ec", script)
	f.must(err)
	return out
}

// reach waits for ten answers in a row. A series may lose an echo while a port joins a bridge (docs/failure.md).
func (f *fleet) reach(from lab.Space, to netip.Addr) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s reaches %s", from, to), func(ctx context.Context) error {
		if _, err := from.AwaitPing(ctx, to); err != nil {
			return err
		}
		stats, err := from.Ping(ctx, to, echo.Options{Count: 10})
		if err == nil && stats.Lost() > 0 {
			err = fmt.Errorf("%s to %s: %s", from, to, stats)
		}
		return err
	})
}

// cutOff wants an address not to answer: eventually, and then for good.
func (f *fleet) cutOff(from lab.Space, to netip.Addr) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s does not answer %s", to, from), func(ctx context.Context) error {
		stats, err := from.Ping(ctx, to, echo.Options{Count: 5, Identity: echo.NewFlows, Wait: 300 * time.Millisecond})
		if err == nil && stats.Received > 0 {
			err = fmt.Errorf("it does: %s", stats)
		}
		return err
	})
}

// ping is a long-lived ping under way.
func (f *fleet) ping(from lab.Space, to netip.Addr) *pinging {
	f.t.Helper()
	f.reach(from, to)
	run, err := from.StartPing(f.t.Context(), echo.Options{Destination: to})
	f.must(err)
	return &pinging{f, run, fmt.Sprintf("%s to %s", from, to)}
}

type pinging struct {
	f    *fleet
	run  *echo.Run
	what string
}

// noneLost ends the ping and wants every echo answered. It is for times when no link comes or goes on the hosts along the way:
// while one does, Open vSwitch's userspace datapath loses a packet now and then by itself, no agent running (about one for
// twenty veth pairs made and removed, OVS 3.1); see steady.
func (p *pinging) noneLost() {
	p.f.t.Helper()
	stats := p.run.Stop()
	p.f.t.Logf("%s: %s", p.what, stats)
	if stats.Lost() > 0 {
		p.f.t.Errorf("%s: %s; what the nodes' switches say they dropped, and why:\n%s", p.what, stats, p.f.drops())
	}
}

// steady ends the ping and wants no interruption but for such moments: none of more than 200 ms.
func (p *pinging) steady() {
	p.f.t.Helper()
	stats := p.run.Stop()
	p.f.t.Logf("%s: %s", p.what, stats)
	if stats.LongestLoss > 20 {
		p.f.t.Errorf("%s: %s", p.what, stats)
	}
}

// drops are the counters of what Open vSwitch dropped on each node, by reason (ovs-vswitchd's coverage/show).
func (f *fleet) drops() string {
	hosts, err := f.Hosts()
	f.must(err)
	var out strings.Builder
	for _, h := range hosts {
		if h.Node() {
			text, err := f.host(h.Name).Exec(f.t.Context(), "sh", "-c", "ovs-appctl coverage/show | grep -E 'drop|tunnel|rev_'; ovs-appctl dpif-netdev/pmd-stats-show | grep -E 'miss|lost'")
			fmt.Fprintf(&out, "%s: %v\n%s", h.Name, err, text)
		}
	}
	return out.String()
}

// capture starts to record frames.
func (f *fleet) capture(at lab.Space, device, filter string) *lab.Capture {
	f.t.Helper()
	c, err := at.StartCapture(f.t.Context(), lab.CaptureOptions{Device: device, Filter: filter})
	f.must(err)
	return c
}

// seen ends a capture once late frames have had time to come.
func (f *fleet) seen(c *lab.Capture) []string {
	f.t.Helper()
	f.pause(300 * time.Millisecond)
	packets, err := c.Stop()
	f.must(err)
	return packets
}

// none ends a capture and wants it empty.
func (f *fleet) none(c *lab.Capture, what string) {
	f.t.Helper()
	if packets := f.seen(c); len(packets) > 0 {
		f.t.Errorf("%s: %d frames, the first: %s", what, len(packets), packets[0])
	}
}

// some waits until a capture has a frame, and ends it.
func (f *fleet) some(c *lab.Capture) []string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	packets, err := c.Await(ctx, 1)
	f.must(err)
	_, err = c.Stop()
	f.must(err)
	return packets
}

// stateOf waits until an object's status is as wanted; message is a part of what it must say.
func (f *fleet) stateOf(what string, want weftv1.State, message string, get func(context.Context) (*weftv1.ObjectStatus, error)) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s is %s %q", what, want, message), func(ctx context.Context) error {
		s, err := get(ctx)
		if err != nil {
			return err
		}
		if s.GetState() != want || !strings.Contains(everything(s), message) {
			return fmt.Errorf("it is %s %q", s.GetState(), everything(s))
		}
		return nil
	})
}

// everything a status says.
func everything(s *weftv1.ObjectStatus) string {
	out := s.GetMessage()
	for _, r := range s.GetReports() {
		out += fmt.Sprintf("; %s: %s %s", r.GetNode(), r.GetState(), r.GetMessage())
	}
	return out
}

func (f *fleet) portState(p *weftv1.Port, want weftv1.State, message string) {
	f.t.Helper()
	f.stateOf("port "+p.GetName(), want, message, func(ctx context.Context) (*weftv1.ObjectStatus, error) {
		p, err := f.getPort(ctx, p.GetId())
		return p.GetStatus(), err
	})
}

func (f *fleet) routerState(r *weftv1.Router, want weftv1.State, message string) {
	f.t.Helper()
	f.stateOf("router "+r.GetName(), want, message, func(ctx context.Context) (*weftv1.ObjectStatus, error) {
		r, err := f.routers.GetRouter(ctx, &weftv1.GetRouterRequest{Id: r.GetId()})
		return r.GetStatus(), err
	})
}

func (f *fleet) floatingState(p *weftv1.FloatingIp, want weftv1.State, message string) {
	f.t.Helper()
	f.stateOf("floating IP "+p.GetIpAddress(), want, message, func(ctx context.Context) (*weftv1.ObjectStatus, error) {
		p, err := f.floating.GetFloatingIp(ctx, &weftv1.GetFloatingIpRequest{Id: p.GetId()})
		return p.GetStatus(), err
	})
}

// placed is the host of a router's node, and the router's namespace there.
func (f *fleet) placed(r *weftv1.Router) (*lab.Host, lab.Space) {
	f.t.Helper()
	r, err := f.routers.GetRouter(f.t.Context(), &weftv1.GetRouterRequest{Id: r.GetId()})
	f.must(err)
	if len(r.GetPlacement().GetNodes()) == 0 {
		f.t.Fatalf("router %s is placed nowhere: %v", r.GetName(), r.GetPlacement())
	}
	h := f.host(r.GetPlacement().GetNodes()[0])
	return h, h.Namespace("qrouter-" + r.GetId())
}

// weft runs the command line against all controllers of the lab.
func (f *fleet) weft(ctx context.Context, args ...string) (string, error) {
	bin, err := f.Bin()
	if err != nil {
		return "", err
	}
	env, err := f.Env()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "weft"), args...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER="+env["WEFT_SERVER"])
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("weft %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// etcd is a client of the lab's store, which a scenario uses to do what the API would never do.
func (f *fleet) etcd() *clientv3.Client {
	f.t.Helper()
	client, err := f.Etcd()
	f.must(err)
	f.t.Cleanup(func() { client.Close() })
	return client
}

// without is nil when a text holds none of the words.
func without(text string, words ...string) error {
	for _, w := range words {
		if i := strings.Index(text, w); i >= 0 {
			return fmt.Errorf("there is %q: %.300s", w, text[max(0, i-150):])
		}
	}
	return nil
}
