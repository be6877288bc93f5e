package controller_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/collect"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	vlan  = weftv1.NetworkType_NETWORK_TYPE_VLAN
	vxlan = weftv1.NetworkType_NETWORK_TYPE_VXLAN
	gre   = weftv1.NetworkType_NETWORK_TYPE_GRE
	flat  = weftv1.NetworkType_NETWORK_TYPE_FLAT
)

// nobody is an id that no object has.
const nobody = "00000000-0000-4000-8000-000000000000"

// world is a small fleet with one of everything: net1 with sub1 (10.0.0.0/24) and p1, ext1 with its subnet
// (203.0.113.0/24), r1 between them, fip1 leading to p1, and a second external network ext2 (198.51.100.0/24).
type world struct {
	*bench
	*replica
	net1, ext1, ext2        *weftv1.Network
	sub1, extSub1, extSub2  *weftv1.Subnet
	p1                      *weftv1.Port
	r1                      *weftv1.Router
	fip1                    *weftv1.FloatingIp
	tenantRange, vxlanRange *weftv1.SegmentRange
	ctx                     context.Context //nolint:containedctx // the test's
}

func newWorld(t testing.TB) *world {
	t.Helper()
	b := newBench(t)
	w := &world{bench: b, replica: b.replica(), ctx: b.context()}
	b.node("net1", networkNode("ext1", "ext2", "tenant"))
	b.node("cmp1", &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_COMPUTE}, TunnelIp: "192.0.2.2"})
	b.seen(w.replica, "net1", "cmp1")
	w.tenantRange = w.segmentRange(&weftv1.SegmentRange{Name: "blue", Type: vlan, PhysicalNetwork: "tenant", Minimum: 100, Maximum: 102})
	w.net1 = w.network(&weftv1.Network{Name: "net1"})
	w.ext1 = w.network(&weftv1.Network{Name: "ext1", External: true, Type: flat, PhysicalNetwork: "ext1"})
	w.ext2 = w.network(&weftv1.Network{Name: "ext2", External: true, Type: flat, PhysicalNetwork: "ext2"})
	// Addresses that tests choose are not drawn for others.
	w.sub1 = w.subnet(&weftv1.Subnet{Name: "sub1", NetworkId: w.net1.GetId(), Cidr: "10.0.0.0/24", AllocationPools: []*weftv1.AllocationPool{{Start: "10.0.0.100", End: "10.0.0.199"}, {Start: "10.0.0.201", End: "10.0.0.249"}}})
	w.extSub1 = w.subnet(&weftv1.Subnet{Name: "ext-sub1", NetworkId: w.ext1.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)})
	w.extSub2 = w.subnet(&weftv1.Subnet{Name: "ext-sub2", NetworkId: w.ext2.GetId(), Cidr: "198.51.100.0/24", EnableDhcp: proto.Bool(false)})
	w.p1 = w.port(&weftv1.Port{Name: "p1", NetworkId: w.net1.GetId()})
	w.r1 = w.router("r1", w.ext1.GetId(), w.sub1.GetId())
	w.fip1 = w.floatingIP(&weftv1.FloatingIp{Name: "fip1", NetworkId: w.ext1.GetId(), PortId: w.p1.GetId()})
	ranges, err := w.ListSegmentRanges(w.ctx, &weftv1.ListSegmentRangesRequest{Filter: "type = vxlan"})
	w.check(err)
	w.vxlanRange = ranges.GetSegmentRanges()[0]
	return w
}

func (w *world) check(err error) {
	w.Helper()
	check(w, err)
}

func (w *world) network(n *weftv1.Network) *weftv1.Network {
	w.Helper()
	got, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: n})
	w.check(err)
	return got
}

func (w *world) subnet(s *weftv1.Subnet) *weftv1.Subnet {
	w.Helper()
	got, err := w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: s})
	w.check(err)
	return got
}

func (w *world) port(p *weftv1.Port) *weftv1.Port {
	w.Helper()
	got, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: p})
	w.check(err)
	return got
}

func (w *world) floatingIP(f *weftv1.FloatingIp) *weftv1.FloatingIp {
	w.Helper()
	got, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: f})
	w.check(err)
	return got
}

func (w *world) segmentRange(r *weftv1.SegmentRange) *weftv1.SegmentRange {
	w.Helper()
	got, err := w.CreateSegmentRange(w.ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: r})
	w.check(err)
	return got
}

// router makes a router with a gateway, unless it is "", and interfaces.
func (w *world) router(name, gateway string, subnets ...string) *weftv1.Router {
	w.Helper()
	r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: name}})
	w.check(err)
	if gateway != "" {
		r, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: gateway})
		w.check(err)
	}
	for _, s := range subnets {
		r, err = w.addInterface(r.GetId(), s)
		w.check(err)
	}
	return r
}

func (w *world) setGateway(router string, g *weftv1.ExternalGateway) (*weftv1.Router, error) {
	return w.SetRouterGateway(w.ctx, &weftv1.SetRouterGatewayRequest{RouterId: router, ExternalGateway: g})
}

func (w *world) addInterface(router, subnet string) (*weftv1.Router, error) {
	return w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: subnet}})
}

func (w *world) removeInterface(router, subnet string) (*weftv1.Router, error) {
	return w.RemoveRouterInterface(w.ctx, &weftv1.RemoveRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: subnet}})
}

func (w *world) addRoute(router, destination, nexthop string) (*weftv1.Router, error) {
	return w.AddRouterRoute(w.ctx, &weftv1.AddRouterRouteRequest{RouterId: router, Route: &weftv1.Route{Destination: destination, Nexthop: nexthop}})
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// audit fails the test unless the store is consistent.
func (b *bench) audit() {
	b.Helper()
	orphans, err := collect.Look(b.context(), store.New(b.etcdClient))
	check(b, err)
	for _, o := range orphans {
		b.Errorf("orphan %s: %s", o.Key, o.Why)
	}
	findings, err := audit.Run(b.context(), store.New(b.etcdClient))
	check(b, err)
	for _, f := range findings {
		b.Errorf("audit: %s", f)
	}
}
