package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/backup"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func same(tb testing.TB, what string, want, got proto.Message) {
	tb.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantCode(tb testing.TB, code codes.Code, err error) {
	tb.Helper()
	if status.Code(err) != code {
		tb.Fatalf("got %v, want %s", err, code)
	}
}

func TestARetriedCallReturnsTheFirstResult(t *testing.T) {
	w := newWorld(t)
	create := &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "once"}, RequestId: uuid.NewString()}
	first, err := w.CreateNetwork(w.ctx, create)
	w.check(err)
	again, err := w.CreateNetwork(w.ctx, create)
	w.check(err)
	same(t, "retried create", first, again)

	batch, err := w.BatchCreateNetworks(w.ctx, &weftv1.BatchCreateNetworksRequest{Requests: []*weftv1.CreateNetworkRequest{create, {Network: &weftv1.Network{}}}})
	w.check(err)
	same(t, "create retried in a batch", first, batch.GetResults()[0].GetNetwork())

	update := &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: first.GetId(), Name: "two", Etag: first.GetEtag()}, UpdateMask: mask("name"), RequestId: uuid.NewString()}
	updated, err := w.UpdateNetwork(w.ctx, update)
	w.check(err)
	again, err = w.UpdateNetwork(w.ctx, update)
	w.check(err)
	same(t, "retried update with the old etag", updated, again)

	_, err = w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "other"}, RequestId: create.GetRequestId()})
	wantCode(t, codes.InvalidArgument, err)

	remove := &weftv1.DeleteNetworkRequest{Id: first.GetId(), RequestId: uuid.NewString()}
	_, err = w.DeleteNetwork(w.ctx, remove)
	w.check(err)
	_, err = w.DeleteNetwork(w.ctx, remove)
	w.check(err)
	_, err = w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: first.GetId()})
	wantCode(t, codes.NotFound, err)
	w.audit()
}

func TestPagesShowTheStoreAsItWasAtTheFirst(t *testing.T) {
	w := newWorld(t)
	for i := range 25 {
		w.network(&weftv1.Network{Name: fmt.Sprintf("n%02d", i), Project: "paged"})
	}
	req := &weftv1.ListNetworksRequest{Project: "paged", PageSize: 10, OrderBy: "name desc"}
	var names []string
	for {
		got, err := w.ListNetworks(w.ctx, req)
		w.check(err)
		for _, n := range got.GetNetworks() {
			names = append(names, n.GetName())
			_, err := w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
			w.check(err)
		}
		w.network(&weftv1.Network{Name: "late", Project: "paged"})
		if req.PageToken = got.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if len(names) != 25 || names[0] != "n24" || names[24] != "n00" {
		t.Errorf("names = %v", names)
	}
	got, err := w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{Project: "paged", PageSize: 1})
	w.check(err)
	_, err = w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{Project: "other", PageSize: 1, PageToken: got.GetNextPageToken()})
	wantCode(t, codes.InvalidArgument, err)
	w.etcd.Compact(w.ctx)
	w.network(&weftv1.Network{})
	w.etcd.Compact(w.ctx)
	_, err = w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{Project: "paged", PageSize: 1, PageToken: got.GetNextPageToken()})
	wantCode(t, codes.Aborted, err)
}

func TestListsAreFilteredAndOrdered(t *testing.T) {
	w := newWorld(t)
	p2 := w.port(&weftv1.Port{Name: `odd "name"`, NetworkId: w.net1.GetId(), FixedIps: fixed("10.0.0.5"), Host: "cmp1"})
	p3 := w.port(&weftv1.Port{Name: "p3", NetworkId: w.net1.GetId(), FixedIps: fixed("10.0.0.40"), DeviceOwner: "compute:a", AdminStateUp: proto.Bool(false)})
	for filter, want := range map[string][]string{
		`id = ` + p2.GetId():    {p2.GetId()},
		`id = ` + nobody:        nil,
		`name = "odd \"name\""`: {p2.GetId()},
		`network_id = ` + w.net1.GetId() + ` AND name != p1 AND device_id = "" AND host=cmp1`: {p2.GetId()},
		`fixed_ips.ip_address = 10.0.0.40`:                                     {p3.GetId()},
		`admin_state_up = false`:                                               {p3.GetId()},
		`device_owner = compute:a and bound_host = ""`:                         {p3.GetId()},
		`status.state = down AND bound_host = "" AND name != p1 AND name = p3`: {p3.GetId()},
	} {
		got, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: filter})
		w.check(err)
		var ids []string
		for _, p := range got.GetPorts() {
			ids = append(ids, p.GetId())
		}
		if !slices.Equal(ids, want) {
			t.Errorf("%s: got %v, want %v", filter, ids, want)
		}
	}
	got, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: "device_owner != network:dhcp AND name != p1 AND network_id = " + w.net1.GetId(), OrderBy: "fixed_ips.ip_address"})
	w.check(err)
	var ips []string
	for _, p := range got.GetPorts() {
		ips = append(ips, p.GetFixedIps()[0].GetIpAddress())
	}
	if diff := cmp.Diff([]string{"10.0.0.1", "10.0.0.5", "10.0.0.40"}, ips); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	shared := w.network(&weftv1.Network{Name: "shared", Project: "a", Shared: true})
	nets, err := w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{Project: "b"})
	w.check(err)
	if len(nets.GetNetworks()) != 1 || nets.GetNetworks()[0].GetId() != shared.GetId() {
		t.Errorf("project b sees %v, want the shared network alone", nets.GetNetworks())
	}
	floating, err := w.ListFloatingIps(w.ctx, &weftv1.ListFloatingIpsRequest{Filter: "router_id = " + w.r1.GetId()})
	w.check(err)
	if len(floating.GetFloatingIps()) != 1 {
		t.Errorf("router r1 has %v", floating.GetFloatingIps())
	}
}

func TestAPortsAddressesAndHostChangeInOneStep(t *testing.T) {
	w := newWorld(t)
	sub2 := w.subnet(&weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.1.0.0/24"})
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1", FixedIps: []*weftv1.FixedIp{{SubnetId: w.sub1.GetId()}, {SubnetId: sub2.GetId()}, {IpAddress: "10.1.0.9"}}})
	if p.GetBoundHost() != "cmp1" || len(p.GetFixedIps()) != 3 {
		t.Fatalf("port = %v", p)
	}
	kept := p.GetFixedIps()[0].GetIpAddress()
	p, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{
		Port:       &weftv1.Port{Id: p.GetId(), MacAddress: "FA:16:3E:00:00:01", Host: "net1", FixedIps: []*weftv1.FixedIp{{SubnetId: w.sub1.GetId()}, {IpAddress: "10.1.0.10"}}},
		UpdateMask: mask("mac_address", "host", "fixed_ips"),
	})
	w.check(err)
	if p.GetFixedIps()[0].GetIpAddress() != kept || p.GetFixedIps()[1].GetIpAddress() != "10.1.0.10" || p.GetMacAddress() != "fa:16:3e:00:00:01" || p.GetBoundHost() != "net1" {
		t.Errorf("port = %v, want %s kept", p, kept)
	}
	w.port(&weftv1.Port{NetworkId: w.net1.GetId(), FixedIps: fixed("10.1.0.9")})
	unchanged, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: p, UpdateMask: mask("*")})
	w.check(err)
	if unchanged.GetEtag() != p.GetEtag() {
		t.Errorf("an update that changes nothing changed the etag from %s to %s", p.GetEtag(), unchanged.GetEtag())
	}
	w.audit()
}

func TestAFloatingIPFollowsItsPort(t *testing.T) {
	w := newWorld(t)
	p2 := w.port(&weftv1.Port{Name: "p2", NetworkId: w.net1.GetId()})
	f, err := w.UpdateFloatingIp(w.ctx, &weftv1.UpdateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Id: w.fip1.GetId(), PortId: p2.GetId()}, UpdateMask: mask("port_id")})
	w.check(err)
	if f.GetFixedIpAddress() != p2.GetFixedIps()[0].GetIpAddress() || f.GetRouterId() != w.r1.GetId() {
		t.Errorf("floating IP = %v", f)
	}
	w.audit()
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: p2.GetId()})
	w.check(err)
	f, err = w.GetFloatingIp(w.ctx, &weftv1.GetFloatingIpRequest{Id: f.GetId()})
	w.check(err)
	if f.GetPortId() != "" || f.GetRouterId() != "" || f.GetFixedIpAddress() != "" {
		t.Errorf("floating IP = %v, want it disassociated", f)
	}
	w.audit()
	_, err = w.DeleteFloatingIp(w.ctx, &weftv1.DeleteFloatingIpRequest{Id: f.GetId()})
	w.check(err)
	w.audit()
}

func TestAnEmptiedFleetLeavesNothingBehind(t *testing.T) {
	w := newWorld(t)
	_, err := w.DeleteFloatingIp(w.ctx, &weftv1.DeleteFloatingIpRequest{Id: w.fip1.GetId()})
	w.check(err)
	_, err = w.addRoute(w.r1.GetId(), "172.16.0.0/16", "10.0.0.77")
	w.check(err)
	_, err = w.removeInterface(w.r1.GetId(), w.sub1.GetId())
	wantCode(t, codes.FailedPrecondition, err) // the route leaves through it
	_, err = w.RemoveRouterRoute(w.ctx, &weftv1.RemoveRouterRouteRequest{RouterId: w.r1.GetId(), Route: &weftv1.Route{Destination: "172.16.0.0/16", Nexthop: "10.0.0.77"}})
	w.check(err)
	_, err = w.removeInterface(w.r1.GetId(), w.sub1.GetId())
	w.check(err)
	_, err = w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: w.r1.GetId()})
	w.check(err)
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: w.p1.GetId()})
	w.check(err)
	for _, s := range []*weftv1.Subnet{w.sub1, w.extSub1, w.extSub2} {
		_, err = w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: s.GetId()})
		w.check(err)
	}
	for _, n := range []*weftv1.Network{w.net1, w.ext1, w.ext2} {
		_, err = w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
		w.check(err)
	}
	_, err = w.DeleteSecurityGroup(w.ctx, &weftv1.DeleteSecurityGroupRequest{Id: secgroup.DefaultID(model.DefaultProject)}) // of the port
	w.check(err)
	resp, err := w.etcdClient.Get(w.ctx, keys.Root, withPrefix())
	w.check(err)
	for _, kv := range resp.Kvs {
		k, err := keys.Parse(string(kv.Key))
		w.check(err)
		if k.Family != keys.FamilySegmentRange && k.Family != keys.FamilyAgent && k.Family != keys.FamilyLive && k.Family != keys.FamilyLeader {
			t.Errorf("left behind: %s", kv.Key)
		}
	}
}

func TestDHCPFollowsTheSubnets(t *testing.T) {
	w := newWorld(t)
	n := w.network(&weftv1.Network{})
	a := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.1.0.0/24"})
	server := func() *weftv1.Port {
		got, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: "device_owner = network:dhcp AND network_id = " + n.GetId()})
		w.check(err)
		w.audit()
		if len(got.GetPorts()) == 0 {
			return nil
		}
		return got.GetPorts()[0]
	}
	if p := server(); p.GetBoundHost() != "net1" || len(p.GetFixedIps()) != 1 {
		t.Errorf("one subnet: server port %v", p)
	}
	b := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.2.0.0/24", EnableDhcp: proto.Bool(false)})
	if p := server(); len(p.GetFixedIps()) != 1 {
		t.Errorf("a second subnet without DHCP: server port %v", p)
	}
	_, err := w.UpdateSubnet(w.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: b.GetId(), EnableDhcp: proto.Bool(true)}, UpdateMask: mask("enable_dhcp")})
	w.check(err)
	if p := server(); len(p.GetFixedIps()) != 2 {
		t.Errorf("two subnets: server port %v", p)
	}
	_, err = w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: a.GetId()})
	w.check(err)
	if p := server(); len(p.GetFixedIps()) != 1 || p.GetFixedIps()[0].GetSubnetId() != b.GetId() {
		t.Errorf("the first subnet gone: server port %v", p)
	}
	_, err = w.UpdateSubnet(w.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: b.GetId(), EnableDhcp: proto.Bool(false)}, UpdateMask: mask("enable_dhcp")})
	w.check(err)
	if p := server(); p != nil {
		t.Errorf("no DHCP: server port %v", p)
	}
	got, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: n.GetId()})
	w.check(err)
	if got.GetDhcpPlacement() != nil {
		t.Errorf("no DHCP: placement %v", got.GetDhcpPlacement())
	}
}

func TestWhatHasNoPlaceGetsOneWhenANodeComes(t *testing.T) {
	b := newBench(t)
	w := &world{bench: b, replica: b.replica(), ctx: b.context()}
	n := w.network(&weftv1.Network{})
	s := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.1.0.0/24"})
	r := w.router("r", "", s.GetId())
	if len(r.GetPlacement().GetNodes()) != 0 || r.GetStatus().GetState() != weftv1.State_STATE_DOWN {
		t.Errorf("router without a node: %v", r)
	}
	b.audit()
	b.node("net1", networkNode())
	b.eventually("router and DHCP are placed", func() bool {
		r, err := w.GetRouter(w.ctx, &weftv1.GetRouterRequest{Id: r.GetId()})
		w.check(err)
		n, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: n.GetId()})
		w.check(err)
		return slices.Equal(r.GetPlacement().GetNodes(), []string{"net1"}) && slices.Equal(n.GetDhcpPlacement().GetNodes(), []string{"net1"})
	})
	b.audit()
}

func TestARouterMovesWhenItsGatewayDemandsIt(t *testing.T) {
	w := newWorld(t)
	w.node("net2", networkNode("ext3"))
	w.seen(w.replica, "net2")
	n := w.network(&weftv1.Network{Name: "ext3", External: true, Type: flat, PhysicalNetwork: "ext3"})
	w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "192.0.2.0/24", EnableDhcp: proto.Bool(false)})
	r := w.router("mover", w.ext1.GetId())
	var active storev1.ActiveRouter
	w.read(keys.Active(r.GetId()), &active)
	if active.GetNode() != "net1" || active.GetEpoch() != 1 {
		t.Errorf("active = %v, want net1 at epoch 1", &active)
	}
	r, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: n.GetId()})
	w.check(err)
	w.read(keys.Active(r.GetId()), &active)
	if active.GetNode() != "net2" || active.GetEpoch() != 2 || !slices.Equal(r.GetPlacement().GetNodes(), []string{"net2"}) {
		t.Errorf("active = %v, router = %v, want net2 at epoch 2", &active, r)
	}
	kept, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: n.GetId(), EnableSnat: proto.Bool(false)})
	w.check(err)
	if kept.GetExternalGateway().GetPortId() != r.GetExternalGateway().GetPortId() || kept.GetExternalGateway().GetEnableSnat() {
		t.Errorf("the same gateway without SNAT: %v, want the port kept", kept.GetExternalGateway())
	}
	moved, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: n.GetId(), FixedIps: fixed("192.0.2.77")})
	w.check(err)
	if g := moved.GetExternalGateway(); g.GetPortId() != r.GetExternalGateway().GetPortId() || g.GetFixedIps()[0].GetIpAddress() != "192.0.2.77" {
		t.Errorf("another address: %v, want the port kept", g)
	}
	w.del(keys.Live("net2"))
	w.eventually("net2 is seen dead", func() bool {
		n, err := w.GetNode(w.ctx, &weftv1.GetNodeRequest{Id: "net2"})
		return err == nil && !n.GetAlive()
	})
	stays, err := w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: n.GetId(), FixedIps: fixed("192.0.2.78")})
	w.check(err)
	if !slices.Equal(stays.GetPlacement().GetNodes(), []string{"net2"}) || stays.GetStatus().GetState() != weftv1.State_STATE_UNKNOWN {
		t.Errorf("changed while its node's agent is away: %v, want it to stay, status unknown", stays)
	}
	w.audit()
}

func TestASubnetsLastAddressIsFoundAndThenItIsExhausted(t *testing.T) {
	w := newWorld(t)
	n := w.network(&weftv1.Network{})
	w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.3.0.0/28", EnableDhcp: proto.Bool(false)})
	for range 13 {
		w.port(&weftv1.Port{NetworkId: n.GetId()})
	}
	_, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId()}})
	wantCode(t, codes.ResourceExhausted, err)
	w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.4.0.0/30", EnableDhcp: proto.Bool(false)})
	if p := w.port(&weftv1.Port{NetworkId: n.GetId()}); p.GetFixedIps()[0].GetIpAddress() != "10.4.0.2" {
		t.Errorf("port = %v, want the second subnet's address", p)
	}
	for range 3 {
		w.network(&weftv1.Network{Type: vlan})
	}
	_, err = w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Type: vlan}})
	wantCode(t, codes.ResourceExhausted, err)
	used, err := w.GetSegmentRange(w.ctx, &weftv1.GetSegmentRangeRequest{Id: w.tenantRange.GetId()})
	w.check(err)
	if used.GetUsed() != 3 {
		t.Errorf("range = %v, want 3 used", used)
	}
	wider, err := w.UpdateSegmentRange(w.ctx, &weftv1.UpdateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Id: used.GetId(), Maximum: 103}, UpdateMask: mask("maximum")})
	w.check(err)
	if n := w.network(&weftv1.Network{Type: vlan}); n.GetSegmentationId() != 103 || n.GetMtu() != 1500 || n.GetPhysicalNetwork() != "tenant" {
		t.Errorf("network = %v in %v", n, wider)
	}
	w.segmentRange(&weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "second", Minimum: 1, Maximum: 9})
	_, err = w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Type: vlan}})
	wantCode(t, codes.InvalidArgument, err)
	w.audit()
}

func TestStatusSaysNoMoreThanWhatTheNodesReported(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{Name: "vm", NetworkId: w.net1.GetId(), Host: "cmp1"})
	state := func(want weftv1.State, why string) {
		t.Helper()
		w.eventually(why, func() bool {
			got, err := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: p.GetId()})
			w.check(err)
			p = got
			return got.GetStatus().GetState() == want
		})
	}
	report := func(state weftv1.State, revision int64) {
		w.put(keys.Status("cmp1", keys.KindPort, p.GetId()), &storev1.Report{Revision: revision, State: state, Message: "says the node"})
	}
	state(weftv1.State_STATE_DOWN, "not plugged")
	w.put(keys.Plug("cmp1", p.GetId()), &storev1.Plug{Interface: "tap1"})
	state(weftv1.State_STATE_BUILD, "plugged, not reported")
	revision := w.read(keys.Port(w.net1.GetId(), p.GetId()), &weftv1.Port{})
	report(weftv1.State_STATE_ACTIVE, revision)
	state(weftv1.State_STATE_ACTIVE, "reported")
	p, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: p.GetId(), Name: "renamed"}, UpdateMask: mask("name")})
	w.check(err)
	if p.GetStatus().GetState() != weftv1.State_STATE_BUILD {
		t.Errorf("right after a change: %v, want build", p.GetStatus())
	}
	report(weftv1.State_STATE_ERROR, revision+100)
	state(weftv1.State_STATE_ERROR, "reported an error")
	w.del(keys.Live("cmp1"))
	state(weftv1.State_STATE_UNKNOWN, "the node is dead")
	if len(p.GetStatus().GetReports()) != 1 || p.GetStatus().GetReports()[0].GetMessage() != "says the node" {
		t.Errorf("reports = %v", p.GetStatus().GetReports())
	}
	w.put(keys.Status("net1", keys.KindRouter, w.r1.GetId()), &storev1.Report{Revision: 1 << 40, State: weftv1.State_STATE_ACTIVE})
	w.put(keys.Status("net1", keys.KindDHCP, w.net1.GetId()), &storev1.Report{Revision: 1 << 40, State: weftv1.State_STATE_ACTIVE})
	w.put(keys.Status("net1", keys.KindFloatingIP, w.fip1.GetId()), &storev1.Report{Revision: 1 << 40, State: weftv1.State_STATE_ACTIVE})
	w.eventually("router, its ports, DHCP and floating IP are active", func() bool {
		r, err1 := w.GetRouter(w.ctx, &weftv1.GetRouterRequest{Id: w.r1.GetId()})
		n, err2 := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: w.net1.GetId()})
		f, err3 := w.GetFloatingIp(w.ctx, &weftv1.GetFloatingIpRequest{Id: w.fip1.GetId()})
		g, err4 := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: w.r1.GetExternalGateway().GetPortId()})
		for _, err := range []error{err1, err2, err3, err4} {
			w.check(err)
		}
		for _, s := range []*weftv1.ObjectStatus{r.GetStatus(), n.GetStatus(), f.GetStatus(), g.GetStatus()} {
			if s.GetState() != weftv1.State_STATE_ACTIVE {
				return false
			}
		}
		return true
	})
}

func TestAnUnreachableStoreIsSaidToBeOneInTime(t *testing.T) {
	w := newWorld(t)
	w.etcd.Stop()
	begun := time.Now()
	_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
	wantCode(t, codes.Unavailable, err)
	_, err = w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{})
	wantCode(t, codes.Unavailable, err)
	_, err = w.GetNode(w.ctx, &weftv1.GetNodeRequest{Id: "net1"}) // known, but perhaps not any more
	wantCode(t, codes.Unavailable, err)
	_, err = w.GetPool(w.ctx, &weftv1.GetPoolRequest{Id: "default"})
	wantCode(t, codes.Unavailable, err)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the calls took %s", took)
	}
	w.etcd.Restart()
	w.eventually("calls succeed again", func() bool {
		_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
		return err == nil
	})
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId()})
	w.put(keys.Plug("cmp1", p.GetId()), &storev1.Plug{})
	w.eventually("late binding works again", func() bool { return w.bound(p.GetId()) == "cmp1" })
	w.audit()
}

func TestAStoreThatIsNotForThisReleaseIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		key  string
		m    proto.Message
		says string
	}{
		"a newer version": {keys.Schema, schema.Value(schema.Version + 1), fmt.Sprint("version ", schema.Version+1)},
		"half a restore":  {keys.Restore, &storev1.Restore{Digest: "x"}, "weft backup restore"},
		"no version":      {keys.Network(nobody), &weftv1.Network{Id: nobody}, "not empty"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.put(tc.key, tc.m)
			c, err := controller.Start(b.context(), controller.Options{Client: b.etcdClient, UnderlayMTU: 1500, Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				c.Stop()
			}
			if err == nil || !contains(err.Error(), tc.says) {
				t.Errorf("Start = %v, want an error that says %q", err, tc.says)
			}
		})
	}
}

// TestAControllerMayStartBeforeItsStore is away for longer than a call to the store takes to find that out.
func TestAControllerMayStartBeforeItsStore(t *testing.T) {
	b := newBench(t)
	b.etcd.Stop()
	started := make(chan error, 1)
	go func() {
		c, err := controller.Start(b.context(), controller.Options{Client: b.etcdClient, UnderlayMTU: 1500, Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			c.Stop()
		}
		started <- err
	}()
	select {
	case err := <-started:
		t.Fatalf("without a store, Start = %v", err)
	case <-time.After(3 * time.Second):
	}
	b.etcd.Restart()
	check(t, <-started)
}

// TestAStoreOfVersion1IsMigratedAndConsistent starts a controller on what one of version 1 has written.
func TestAStoreOfVersion1IsMigratedAndConsistent(t *testing.T) {
	f, err := os.Open("migrate/testdata/version1.json")
	check(t, err)
	defer f.Close()
	recorded, err := backup.Parse(f)
	check(t, err)
	b := newBench(t)
	_, err = backup.Restore(b.context(), store.New(b.etcdClient), recorded, backup.Options{Now: time.Now()})
	check(t, err)
	r := b.replica()
	b.audit()
	routers, err := r.ListRouters(b.context(), &weftv1.ListRoutersRequest{})
	check(t, err)
	if len(routers.GetRouters()) != 1 {
		t.Errorf("there are %d routers", len(routers.GetRouters()))
	}
}

func (w *world) bound(port string) string {
	w.Helper()
	p, err := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: port})
	w.check(err)
	return p.GetBoundHost()
}

func TestAWatchMissesNothingAndSaysWhatIsNew(t *testing.T) {
	w := newWorld(t)
	at, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{PageSize: 1})
	w.check(err)
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"})
	w.put(keys.Status("cmp1", keys.KindPort, p.GetId()), &storev1.Report{Revision: 1 << 40, State: weftv1.State_STATE_ACTIVE})
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: w.p1.GetId()})
	w.check(err)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	stream, err := w.Watch(ctx, &weftv1.WatchRequest{Revision: at.GetRevision(), Kinds: []weftv1.Kind{weftv1.Kind_KIND_PORT, weftv1.Kind_KIND_FLOATING_IP}})
	w.check(err)
	var got []string
	for len(got) < 4 {
		ev, err := stream.Recv()
		w.check(err)
		switch {
		case ev.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK:
		case ev.GetFloatingIp() != nil:
			got = append(got, fmt.Sprint(ev.GetType(), " floating ip of port ", ev.GetFloatingIp().GetPortId()))
		case ev.GetPort().GetId() == p.GetId():
			got = append(got, fmt.Sprint(ev.GetType(), " new ", ev.GetPort().GetStatus().GetState()))
		case ev.GetPort().GetId() == w.p1.GetId():
			got = append(got, fmt.Sprint(ev.GetType(), " p1 ", ev.GetPort().GetName()))
		}
	}
	slices.Sort(got[2:]) // what one transaction wrote has no order
	want := []string{"TYPE_PUT new STATE_ACTIVE", "TYPE_STATUS new STATE_ACTIVE", "TYPE_DELETE p1 p1", "TYPE_PUT floating ip of port "}
	got[0] = "TYPE_PUT new STATE_ACTIVE" // or an earlier state: as it was when it was sent
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	w.etcd.Compact(w.ctx)
	late, err := w.Watch(w.ctx, &weftv1.WatchRequest{Revision: 1})
	w.check(err)
	_, err = late.Recv()
	wantCode(t, codes.OutOfRange, err)
}

func TestAWatchEndsWhenItsControllerStops(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	stream, err := r.Watch(b.context(), &weftv1.WatchRequest{})
	check(t, err)
	_, err = stream.Recv() // the bookmark of where it begins
	check(t, err)
	begun := time.Now()
	r.controller.Stop()
	r.stopped = true
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, codes.Unavailable, err)
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("stopping took %s although only a watch was open", took)
	}
	_ = r.conn.Close()
}

func TestALostLeaseIsReplaced(t *testing.T) {
	w := newWorld(t)
	create := func() error {
		_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}, RequestId: uuid.NewString()})
		return err
	}
	w.check(create())
	leases, err := w.etcdClient.Leases(w.ctx)
	w.check(err)
	for _, l := range leases.Leases {
		_, err := w.etcdClient.Revoke(w.ctx, l.ID)
		w.check(err)
	}
	w.check(create())
	batch, err := w.BatchCreateNetworks(w.ctx, &weftv1.BatchCreateNetworksRequest{Requests: []*weftv1.CreateNetworkRequest{{Network: &weftv1.Network{}, RequestId: uuid.NewString()}}})
	w.check(err)
	if batch.GetResults()[0].GetNetwork() == nil {
		t.Errorf("batch after the lease was lost: %v", batch)
	}
}

func TestElementsOfABatchStandByThemselves(t *testing.T) {
	w := newWorld(t)
	n := w.network(&weftv1.Network{})
	request := func(cidr string) *weftv1.CreateSubnetRequest {
		return &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: cidr}}
	}
	subs, err := w.BatchCreateSubnets(w.ctx, &weftv1.BatchCreateSubnetsRequest{Requests: []*weftv1.CreateSubnetRequest{
		request("10.1.0.0/24"), request("10.1.0.0/25"), request("x"), request("10.2.0.0/24"), {},
	}})
	w.check(err)
	var got []string
	for _, r := range subs.GetResults() {
		got = append(got, r.GetSubnet().GetCidr()+codes.Code(uint32(r.GetError().GetCode())).String())
	}
	want := []string{"10.1.0.0/24OK", "FailedPrecondition", "InvalidArgument", "10.2.0.0/24OK", "InvalidArgument"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subnets (-want +got):\n%s", diff)
	}
	// An address outside the pools: no port that takes any address can be first.
	_, err = w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{
		NetworkId: n.GetId(), Cidr: "10.3.0.0/24", AllocationPools: []*weftv1.AllocationPool{{Start: "10.3.0.100", End: "10.3.0.200"}},
	}})
	w.check(err)
	ports := &weftv1.BatchCreatePortsRequest{}
	for i := range 300 {
		p := &weftv1.Port{NetworkId: n.GetId(), Name: fmt.Sprint(i)}
		if i%100 == 7 {
			p.FixedIps = fixed("10.3.0.7")
		}
		ports.Requests = append(ports.Requests, &weftv1.CreatePortRequest{Port: p})
	}
	done, err := w.BatchCreatePorts(w.ctx, ports)
	w.check(err)
	failed := 0
	for i, r := range done.GetResults() {
		switch {
		case r.GetError() != nil && i%100 == 7 && r.GetError().GetCode() == int32(codes.AlreadyExists):
			failed++
		case r.GetError() != nil:
			t.Errorf("port %d: %v", i, r.GetError())
		case r.GetPort().GetName() != fmt.Sprint(i):
			t.Errorf("result %d is of port %s", i, r.GetPort().GetName())
		}
	}
	if failed != 2 {
		t.Errorf("%d of three ports with one address were refused, want 2", failed)
	}
	w.audit()
}

func TestADamagedObjectStopsNothingElse(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{keys.Network(nobody), keys.Port(w.net1.GetId(), nobody), keys.Router(nobody), keys.SegmentRange(nobody)} {
		_, err := w.etcdClient.Put(w.ctx, key, "\xff")
		w.check(err)
	}
	w.put(keys.SegmentRange("00000000-0000-4000-8000-000000000001"), &weftv1.SegmentRange{Type: vlan})
	n := w.network(&weftv1.Network{})
	w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.1.0.0/24"})
	w.port(&weftv1.Port{NetworkId: w.net1.GetId()})
	all, err := w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{})
	w.check(err)
	if len(all.GetNetworks()) != 4 {
		t.Errorf("%d networks listed, want the 4 good ones", len(all.GetNetworks()))
	}
	_, err = w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: nobody})
	wantCode(t, codes.DataLoss, err)
	w.put(keys.Plug("cmp1", w.p1.GetId()), &storev1.Plug{})
	w.eventually("late binding goes on", func() bool { return w.bound(w.p1.GetId()) == "cmp1" })
}

func TestAHostTakenBackLeavesAPluggedPortWhereItIs(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"})
	w.put(keys.Plug("cmp1", p.GetId()), &storev1.Plug{})
	p, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: p.GetId()}, UpdateMask: mask("host")})
	w.check(err)
	if p.GetBoundHost() != "cmp1" {
		t.Errorf("bound to %q, want cmp1 without a gap", p.GetBoundHost())
	}
	w.audit()
}

func TestAnInterfaceCanBeAPort(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), FixedIps: fixed("10.0.0.200")})
	r := w.router("second", "")
	r, err := w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: r.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: p.GetId()}})
	w.check(err)
	if r.GetInterfaces()[0].GetIpAddress() != "10.0.0.200" {
		t.Errorf("router = %v", r)
	}
	w.audit()
	r, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext2.GetId()})
	w.check(err)
	f := w.floatingIP(&weftv1.FloatingIp{NetworkId: w.ext2.GetId(), PortId: w.p1.GetId()}) // p1 behind two routers
	if f.GetRouterId() != r.GetId() {
		t.Errorf("floating IP = %v, want it through router %s", f, r.GetId())
	}
	w.audit()
}

func TestAStoppedControllerLeavesNothingRunning(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	_, err := r.CreateNetwork(b.context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}, RequestId: uuid.NewString()})
	check(t, err)
	r.stop()
	stacks := make([]byte, 1<<22)
	stacks = stacks[:runtime.Stack(stacks, true)] // goleak would name the test's own etcd
	for _, ours := range []string{"/proto/mirror.", "/controller/fleet.", "/controller/binder.", "/controller/keeper.", "/controller/leader.", "/controller/api."} {
		if contains(string(stacks), ours) {
			t.Errorf("something of %s still runs:\n%s", ours, stacks)
		}
	}
}

func TestAStaleEtagOfANodeIsRefused(t *testing.T) {
	w := newWorld(t)
	label := func(etag string) (*weftv1.Node, error) {
		return w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1", Etag: etag, Labels: map[string]string{"a": "b"}}, UpdateMask: mask("labels")})
	}
	n, err := label("")
	w.check(err)
	n, err = label(n.GetEtag())
	w.check(err)
	_, err = label("1")
	wantCode(t, codes.Aborted, err)
	if !contains(err.Error(), "its etag is "+n.GetEtag()+", not 1") {
		t.Errorf("%v does not tell the right etag, %s", err, n.GetEtag())
	}
}
