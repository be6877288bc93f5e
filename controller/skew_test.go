package controller_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// interlude is an etcd KV that runs a function once, just before the next transaction that writes is committed: what others
// do between a call's reads and its commit.
type interlude struct {
	clientv3.KV
	next atomic.Pointer[func()]
}

func (i *interlude) Txn(ctx context.Context) clientv3.Txn {
	return &interruptedTxn{Txn: i.KV.Txn(ctx), from: i}
}

type interruptedTxn struct {
	clientv3.Txn
	from   *interlude
	writes bool
}

func (t *interruptedTxn) If(cmps ...clientv3.Cmp) clientv3.Txn {
	t.Txn = t.Txn.If(cmps...)
	return t
}

func (t *interruptedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Then(ops...)
	t.writes = slices.ContainsFunc(ops, func(op clientv3.Op) bool { return !op.IsGet() })
	return t
}

func (t *interruptedTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.writes {
		if run := t.from.next.Swap(nil); run != nil {
			(*run)()
		}
	}
	return t.Txn.Commit()
}

// duel is two replicas on one store, the first of which can be interrupted between read and commit.
type duel struct {
	*bench
	slow, quick *replica
	between     *interlude
}

func newDuel(t *testing.T) *duel {
	b := newBench(t)
	etcd := b.etcd.NewClient()
	d := &duel{bench: b, between: &interlude{KV: etcd.KV}}
	etcd.KV = d.between
	d.slow, d.quick = b.replicaOn(etcd), b.replica()
	for _, n := range []string{"n1", "n2"} {
		b.node(n, networkNode("tenant", "ext1", "ext2"))
	}
	b.seen(d.slow, "n1", "n2")
	b.seen(d.quick, "n1", "n2")
	return d
}

// empty deletes every object, so that the next pair of calls begins from nothing.
func (d *duel) empty(ctx context.Context) {
	d.Helper()
	for _, f := range []keys.Family{
		keys.FamilyNetwork, keys.FamilySubnet, keys.FamilyPort, keys.FamilyRouter, keys.FamilyFloatingIP, keys.FamilySegmentRange,
		keys.FamilyLocator, keys.FamilyHost, keys.FamilyActive, keys.FamilyPlug, keys.FamilyClaim, keys.FamilyRequest, keys.FamilyMove,
		keys.FamilySecurityGroup, keys.FamilyRule, keys.FamilyMember, keys.FamilyAddressGroup, keys.FamilyInstance,
		keys.FamilyNetworkGrant,
	} {
		_, err := d.etcdClient.Delete(ctx, keys.All(f), withPrefix())
		check(d, err)
	}
}

// stage is the objects that a pair of calls fights over.
type stage struct {
	tenantRange, otherRange *weftv1.SegmentRange
	net, ext, bare          *weftv1.Network
	sub, plain, extSub      *weftv1.Subnet
	port, free              *weftv1.Port
	router, second          *weftv1.Router
	fip, loose              *weftv1.FloatingIp
	grant                   *weftv1.NetworkGrant
	ctx                     context.Context //nolint:containedctx // the test's
	etcd                    *clientv3.Client
}

func must[M any](d *duel) func(M, error) M {
	return func(m M, err error) M {
		d.Helper()
		check(d, err)
		return m
	}
}

// set builds the stage: net (vlan, shared) with sub (DHCP) and plain (none), ext with a subnet, a bare external network,
// a port in sub behind router, a floating IP that leads to it and one that leads nowhere, and a second router with a
// gateway but no interfaces.
func (d *duel) set(ctx context.Context) *stage {
	d.Helper()
	d.empty(ctx)
	s, r := &stage{ctx: ctx, etcd: d.etcdClient}, d.quick
	d.put(keys.Agent("n3"), networkNode("tenant")) // which does not live
	ranges := must[*weftv1.SegmentRange](d)
	s.tenantRange = ranges(r.CreateSegmentRange(ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "tenant", Minimum: 100, Maximum: 103}}))
	s.otherRange = ranges(r.CreateSegmentRange(ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vxlan, Minimum: 1, Maximum: 50}}))
	network := func(n *weftv1.Network) *weftv1.Network {
		return must[*weftv1.Network](d)(r.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: n}))
	}
	subnet := func(n *weftv1.Subnet) *weftv1.Subnet {
		return must[*weftv1.Subnet](d)(r.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: n}))
	}
	s.net = network(&weftv1.Network{Type: vlan, SegmentationId: 100, Shared: true})
	s.grant = must[*weftv1.NetworkGrant](d)(s.lend(r, "other"))
	s.ext = network(&weftv1.Network{Type: flat, PhysicalNetwork: "ext1", External: true})
	s.bare = network(&weftv1.Network{Type: flat, PhysicalNetwork: "ext2", External: true})
	s.sub = subnet(&weftv1.Subnet{NetworkId: s.net.GetId(), Cidr: "10.0.0.0/29"})
	s.plain = subnet(&weftv1.Subnet{NetworkId: s.net.GetId(), Cidr: "10.0.1.0/29", EnableDhcp: proto.Bool(false)})
	s.extSub = subnet(&weftv1.Subnet{NetworkId: s.ext.GetId(), Cidr: "203.0.113.0/28", EnableDhcp: proto.Bool(false)})
	s.port = must[*weftv1.Port](d)(r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: s.net.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.sub.GetId()}}}}))
	s.free = must[*weftv1.Port](d)(r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: s.net.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.plain.GetId()}}}}))
	for _, at := range []**weftv1.Router{&s.router, &s.second} {
		made := must[*weftv1.Router](d)(r.CreateRouter(ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{}}))
		*at = must[*weftv1.Router](d)(r.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{RouterId: made.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: s.ext.GetId()}}))
	}
	check(d, only(s.attach(r, s.router, s.sub)))
	s.fip = must[*weftv1.FloatingIp](d)(r.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: s.ext.GetId(), PortId: s.port.GetId()}}))
	s.loose = must[*weftv1.FloatingIp](d)(r.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: s.ext.GetId()}}))
	return s
}

func (s *stage) lend(r *replica, project string) (*weftv1.NetworkGrant, error) {
	return r.CreateNetworkGrant(s.ctx, &weftv1.CreateNetworkGrantRequest{NetworkGrant: &weftv1.NetworkGrant{NetworkId: s.net.GetId(), TargetProject: project}})
}

func (s *stage) attach(r *replica, router *weftv1.Router, sub *weftv1.Subnet) (*weftv1.Router, error) {
	return r.AddRouterInterface(s.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: sub.GetId()}})
}

func (s *stage) detach(r *replica, router *weftv1.Router, sub *weftv1.Subnet) error {
	return only(r.RemoveRouterInterface(s.ctx, &weftv1.RemoveRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: sub.GetId()}}))
}

func (s *stage) updateNetwork(r *replica, n *weftv1.Network, path string) error {
	return only(r.UpdateNetwork(s.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: n.GetId()}, UpdateMask: mask(path)}))
}

func (s *stage) addSubnet(r *replica, network *weftv1.Network, cidr string, dhcp bool) error {
	return only(r.CreateSubnet(s.ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: network.GetId(), Cidr: cidr, EnableDhcp: proto.Bool(dhcp)}}))
}

func (s *stage) addPort(r *replica, p *weftv1.Port) error {
	return only(r.CreatePort(s.ctx, &weftv1.CreatePortRequest{Port: p}))
}

func (s *stage) updatePort(r *replica, p *weftv1.Port, path string) error {
	return only(r.UpdatePort(s.ctx, &weftv1.UpdatePortRequest{Port: p, UpdateMask: mask(path)}))
}

func (s *stage) gateway(r *replica, router *weftv1.Router, g *weftv1.ExternalGateway) error {
	return only(r.SetRouterGateway(s.ctx, &weftv1.SetRouterGatewayRequest{RouterId: router.GetId(), ExternalGateway: g}))
}

func (s *stage) associate(r *replica, f *weftv1.FloatingIp, port string) error {
	return only(r.UpdateFloatingIp(s.ctx, &weftv1.UpdateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Id: f.GetId(), PortId: port}, UpdateMask: mask("port_id")}))
}

func (s *stage) float(r *replica, n *weftv1.Network, port string) error {
	return only(r.CreateFloatingIp(s.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: n.GetId(), PortId: port}}))
}

func (s *stage) span(r *replica, sr *weftv1.SegmentRange, first, last uint32) error {
	return only(r.UpdateSegmentRange(s.ctx, &weftv1.UpdateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Id: sr.GetId(), Minimum: first, Maximum: last}, UpdateMask: mask("minimum", "maximum")}))
}

// move is something that a client does on a stage; whether it succeeds depends.
type move struct {
	name string
	do   func(s *stage, r *replica) error
}

// moves are all mutations, in the forms whose assumptions others can break.
func moves() []move {
	return slices.Concat(networkMoves(), portMoves(), routerMoves(), planMoves())
}

func networkMoves() []move {
	return []move{
		{"network to internal", func(s *stage, r *replica) error { return s.updateNetwork(r, s.bare, "external") }},
		{"used network to internal", func(s *stage, r *replica) error { return s.updateNetwork(r, s.ext, "external") }},
		{"network to private", func(s *stage, r *replica) error { return s.updateNetwork(r, s.net, "shared") }},
		{"network granted to another", func(s *stage, r *replica) error { return only(s.lend(r, "third")) }},
		{"network revoked", func(s *stage, r *replica) error {
			return only(r.DeleteNetworkGrant(s.ctx, &weftv1.DeleteNetworkGrantRequest{Id: s.grant.GetId()}))
		}},
		{"bare network granted", func(s *stage, r *replica) error {
			return only(r.CreateNetworkGrant(s.ctx, &weftv1.CreateNetworkGrantRequest{NetworkGrant: &weftv1.NetworkGrant{NetworkId: s.bare.GetId(), TargetProject: "other"}}))
		}},
		{"bare network delete", func(s *stage, r *replica) error {
			return only(r.DeleteNetwork(s.ctx, &weftv1.DeleteNetworkRequest{Id: s.bare.GetId()}))
		}},
		{"bare subnet create", func(s *stage, r *replica) error { return s.addSubnet(r, s.bare, "198.51.100.0/28", false) }},
		{"bare subnet create with DHCP", func(s *stage, r *replica) error { return s.addSubnet(r, s.bare, "198.51.100.0/27", true) }},
		{"subnet create", func(s *stage, r *replica) error { return s.addSubnet(r, s.net, "10.0.2.0/28", true) }},
		{"overlapping subnet create", func(s *stage, r *replica) error { return s.addSubnet(r, s.net, "10.0.2.0/29", false) }},
		{"subnet delete", func(s *stage, r *replica) error {
			return only(r.DeleteSubnet(s.ctx, &weftv1.DeleteSubnetRequest{Id: s.sub.GetId()}))
		}},
		{"plain subnet delete", func(s *stage, r *replica) error {
			return only(r.DeleteSubnet(s.ctx, &weftv1.DeleteSubnetRequest{Id: s.plain.GetId()}))
		}},
		{"external subnet delete", func(s *stage, r *replica) error {
			return only(r.DeleteSubnet(s.ctx, &weftv1.DeleteSubnetRequest{Id: s.extSub.GetId()}))
		}},
		{"DHCP off", func(s *stage, r *replica) error {
			return only(r.UpdateSubnet(s.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: s.sub.GetId(), EnableDhcp: proto.Bool(false)}, UpdateMask: mask("enable_dhcp")}))
		}},
		{"DHCP on", func(s *stage, r *replica) error {
			return only(r.UpdateSubnet(s.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: s.plain.GetId(), EnableDhcp: proto.Bool(true)}, UpdateMask: mask("enable_dhcp")}))
		}},
		{"network on a segment", func(s *stage, r *replica) error {
			return only(r.CreateNetwork(s.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Type: vlan, PhysicalNetwork: "tenant", SegmentationId: 103}}))
		}},
		{"network on any segment", func(s *stage, r *replica) error {
			return only(r.CreateNetwork(s.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Type: vxlan}}))
		}},
		{"range narrowed", func(s *stage, r *replica) error { return s.span(r, s.tenantRange, 100, 102) }},
		{"range moved", func(s *stage, r *replica) error { return s.span(r, s.otherRange, 51, 60) }},
		{"range deleted", func(s *stage, r *replica) error {
			return only(r.DeleteSegmentRange(s.ctx, &weftv1.DeleteSegmentRangeRequest{Id: s.otherRange.GetId()}))
		}},
		{"range beside", func(s *stage, r *replica) error {
			return only(r.CreateSegmentRange(s.ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vxlan, Minimum: 51, Maximum: 55}}))
		}},
		{"node delete", func(s *stage, r *replica) error {
			return only(r.DeleteNode(s.ctx, &weftv1.DeleteNodeRequest{Id: "n3"}))
		}},
	}
}

func portMoves() []move {
	return []move{
		{"port create", func(s *stage, r *replica) error { return s.addPort(r, &weftv1.Port{NetworkId: s.net.GetId()}) }},
		{"port create elsewhere", func(s *stage, r *replica) error {
			return s.addPort(r, &weftv1.Port{NetworkId: s.net.GetId(), Project: "other", FixedIps: []*weftv1.FixedIp{{SubnetId: s.plain.GetId()}}})
		}},
		{"port create on a node", func(s *stage, r *replica) error {
			return s.addPort(r, &weftv1.Port{NetworkId: s.net.GetId(), Host: "n3"})
		}},
		{"bare port create", func(s *stage, r *replica) error { return s.addPort(r, &weftv1.Port{NetworkId: s.bare.GetId()}) }},
		{"address create", func(s *stage, r *replica) error {
			return s.addPort(r, &weftv1.Port{NetworkId: s.net.GetId(), MacAddress: "02:00:00:00:00:01", FixedIps: []*weftv1.FixedIp{{IpAddress: "10.0.1.6"}}})
		}},
		{"address update", func(s *stage, r *replica) error {
			return s.updatePort(r, &weftv1.Port{Id: s.port.GetId(), FixedIps: []*weftv1.FixedIp{{IpAddress: "10.0.1.6"}}}, "fixed_ips")
		}},
		{"second address", func(s *stage, r *replica) error {
			return s.updatePort(r, &weftv1.Port{Id: s.free.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.sub.GetId()}, {SubnetId: s.plain.GetId()}}}, "fixed_ips")
		}},
		{"MAC update", func(s *stage, r *replica) error {
			return s.updatePort(r, &weftv1.Port{Id: s.port.GetId(), MacAddress: "02:00:00:00:00:01"}, "mac_address")
		}},
		{"host update", func(s *stage, r *replica) error {
			return s.updatePort(r, &weftv1.Port{Id: s.free.GetId(), Host: "n1"}, "host")
		}},
		{"plug", func(s *stage, _ *replica) error {
			raw, err := proto.Marshal(&storev1.Plug{Interface: "tap"})
			if err == nil {
				_, err = s.etcd.Put(s.ctx, keys.Plug("n2", s.free.GetId()), string(raw))
			}
			return err
		}},
		{"port delete", func(s *stage, r *replica) error {
			return only(r.DeletePort(s.ctx, &weftv1.DeletePortRequest{Id: s.port.GetId()}))
		}},
		{"free port delete", func(s *stage, r *replica) error {
			return only(r.DeletePort(s.ctx, &weftv1.DeletePortRequest{Id: s.free.GetId()}))
		}},
	}
}

func routerMoves() []move {
	return []move{
		{"gateway set", func(s *stage, r *replica) error {
			return s.gateway(r, s.second, &weftv1.ExternalGateway{NetworkId: s.bare.GetId()})
		}},
		{"gateway readdressed", func(s *stage, r *replica) error {
			return s.gateway(r, s.router, &weftv1.ExternalGateway{NetworkId: s.ext.GetId(), FixedIps: []*weftv1.FixedIp{{IpAddress: "203.0.113.14"}}})
		}},
		{"gateway clear", func(s *stage, r *replica) error {
			return only(r.ClearRouterGateway(s.ctx, &weftv1.ClearRouterGatewayRequest{RouterId: s.router.GetId()}))
		}},
		{"second gateway clear", func(s *stage, r *replica) error {
			return only(r.ClearRouterGateway(s.ctx, &weftv1.ClearRouterGatewayRequest{RouterId: s.second.GetId()}))
		}},
		{"interface add", func(s *stage, r *replica) error { return only(s.attach(r, s.second, s.plain)) }},
		{"interface add to the other", func(s *stage, r *replica) error { return only(s.attach(r, s.router, s.plain)) }},
		{"interface add by port", func(s *stage, r *replica) error {
			return only(r.AddRouterInterface(s.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: s.second.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: s.free.GetId()}}))
		}},
		{"interface remove", func(s *stage, r *replica) error { return s.detach(r, s.router, s.sub) }},
		{"interface remove from the other", func(s *stage, r *replica) error { return s.detach(r, s.second, s.plain) }},
		{"router delete", func(s *stage, r *replica) error {
			return only(r.DeleteRouter(s.ctx, &weftv1.DeleteRouterRequest{Id: s.second.GetId()}))
		}},
		{"route add", func(s *stage, r *replica) error {
			return only(r.AddRouterRoute(s.ctx, &weftv1.AddRouterRouteRequest{RouterId: s.second.GetId(), Route: &weftv1.Route{Destination: "192.0.2.0/24", Nexthop: "203.0.113.9"}}))
		}},
		{"floating IP create", func(s *stage, r *replica) error { return s.float(r, s.ext, s.port.GetId()) }},
		{"bare floating IP create", func(s *stage, r *replica) error { return s.float(r, s.bare, "") }},
		{"floating IP to the free port", func(s *stage, r *replica) error { return s.associate(r, s.loose, s.free.GetId()) }},
		{"floating IP moved", func(s *stage, r *replica) error { return s.associate(r, s.fip, s.free.GetId()) }},
		{"floating IP off", func(s *stage, r *replica) error { return s.associate(r, s.fip, "") }},
		{"other floating IP to the port", func(s *stage, r *replica) error { return s.associate(r, s.loose, s.port.GetId()) }},
		{"floating IP delete", func(s *stage, r *replica) error {
			return only(r.DeleteFloatingIp(s.ctx, &weftv1.DeleteFloatingIpRequest{Id: s.fip.GetId()}))
		}},
	}
}

// planMoves change where things are, among them a takeover by whichever node is not active.
func planMoves() []move {
	return []move{
		{"router on one node", func(s *stage, r *replica) error {
			return only(r.UpdateRouter(s.ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: s.second.GetId(), Ha: 1}}))
		}},
		{"router takeover", func(s *stage, r *replica) error { return s.takeOver(r, s.second) }},
		{"router move", func(s *stage, r *replica) error {
			return only(r.MoveRouter(s.ctx, &weftv1.MoveRouterRequest{Id: s.second.GetId(), Node: "n1"}))
		}},
		{"rebalance", func(s *stage, r *replica) error { return only(r.Rebalance(s.ctx, &weftv1.RebalanceRequest{})) }},
		{"one DHCP server", func(s *stage, r *replica) error {
			return only(r.UpdateNetwork(s.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: s.net.GetId(), DhcpServers: 1}}))
		}},
		{"bare network with one DHCP server", func(s *stage, r *replica) error {
			return only(r.UpdateNetwork(s.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: s.bare.GetId(), DhcpServers: 1}}))
		}},
		{"cordon", func(s *stage, r *replica) error {
			_, err := r.UpdateNode(s.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "n1", Cordoned: true}})
			_, err2 := r.UpdateNode(s.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "n1"}, UpdateMask: mask("cordoned")})
			return errors.Join(err, err2)
		}},
	}
}

// takeOver makes a standby the active node, as its agent would; the controller has no part in it.
func (s *stage) takeOver(r *replica, router *weftv1.Router) error {
	got, err := r.GetRouter(s.ctx, &weftv1.GetRouterRequest{Id: router.GetId()})
	if err != nil {
		return err
	}
	for _, node := range got.GetPlacement().GetNodes() {
		if node != got.GetActiveNode() {
			// Another may be quicker.
			_ = (&planner{store: store.New(s.etcd)}).tryTakeOver(s.ctx, router.GetId(), node)
			return nil
		}
	}
	return nil
}

// fight lets one move be interrupted by others between its reads and its commit, and returns what is then wrong.
func (d *duel) fight(interrupted move, by ...move) []string {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), deadline)
	defer cancel()
	s := d.set(ctx)
	var findings []string
	note := func(m move, err error) {
		if c := status.Code(err); c == codes.Internal || c == codes.Unknown || c == codes.DataLoss {
			findings = append(findings, fmt.Sprintf("%s: %v", m.name, err))
		}
	}
	run := func() {
		for _, m := range by {
			note(m, m.do(s, d.quick))
		}
	}
	d.between.next.Store(&run)
	note(interrupted, interrupted.do(s, d.slow))
	d.between.next.Store(nil)
	return append(findings, d.settled(ctx)...)
}

// settleLimit is how long the binders may take to do what is left to do.
const settleLimit = 2 * time.Second

// settled is what the audit finds once the binders have nothing left to do.
func (d *duel) settled(ctx context.Context) []string {
	d.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for end := time.After(settleLimit); ; {
		findings, err := audit.Run(ctx, store.New(d.etcdClient))
		check(d, err)
		if len(findings) == 0 {
			return nil
		}
		select {
		case <-end:
			return findings
		case <-ticker.C:
		}
	}
}

func names(all []move) string {
	out := make([]string, len(all))
	for i, m := range all {
		out[i] = m.name
	}
	return strings.Join(out, ", then ")
}

// known are sequences that have broken a call once, or that no random choice would come upon soon.
func known() map[string][]string {
	return map[string][]string{
		"network to internal": {"bare subnet create", "bare floating IP create"},
		"floating IP create":  {"floating IP off", "interface remove", "interface add"},
		"gateway clear":       {"floating IP delete", "floating IP to the free port"},
		"subnet delete":       {"port create", "port delete"},
		"router on one node":  {"router takeover"},
		"router delete":       {"router takeover"},
		"one DHCP server":     {"subnet create"},
		// Whoever makes a port on a network rests on the network's being shared or granted, and whoever takes that away on there being none.
		"port create elsewhere": {"network to private", "network revoked"},
		"network to private":    {"port create elsewhere", "network revoked"},
		"network revoked":       {"port create elsewhere", "network to private"},
		"bare network delete":   {"bare network granted"},
		"bare network granted":  {"bare network delete"},
	}
}

// TestNoCallRestsOnWhatAnotherHasChanged interrupts mutations between their reads and their commit: by the sequences that
// are known to matter, and by a sample of all single others and of sequences of others. Afterwards the store is consistent
// each time. All of the about 2,500 pairs take three minutes and are tried when WEFT_ALL_PAIRS is set.
func TestNoCallRestsOnWhatAnotherHasChanged(t *testing.T) {
	d := newDuel(t)
	all, byName := moves(), map[string]move{}
	for _, m := range all {
		byName[m.name] = m
	}
	try := func(a move, by ...move) {
		for _, f := range d.fight(a, by...) {
			t.Errorf("%q interrupted by %q: %s", a.name, names(by), f)
		}
	}
	for name, others := range known() {
		by := make([]move, len(others))
		for i, o := range others {
			by[i] = byName[o]
		}
		try(byName[name], by...)
	}
	one, sequences := 20, 40
	if os.Getenv("WEFT_ALL_PAIRS") != "" {
		one, sequences = 1, 1000
	}
	for _, a := range all {
		for _, b := range all {
			if rand.IntN(one) == 0 {
				try(a, b)
			}
		}
	}
	for range sequences {
		by := make([]move, 2+rand.IntN(2))
		for i := range by {
			by[i] = all[rand.IntN(len(all))]
		}
		try(all[rand.IntN(len(all))], by...)
	}
}
