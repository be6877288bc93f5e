package controller_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// refusal is a call that must be refused, with the code and the words that tell why.
type refusal struct {
	name string
	do   func(w *world) error
	code codes.Code
	says []string
}

func createNetwork(n *weftv1.Network) func(*world) error {
	return func(w *world) error {
		_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: n})
		return err
	}
}

func createSubnet(s *weftv1.Subnet) func(*world) error {
	return func(w *world) error {
		s := proto.Clone(s).(*weftv1.Subnet)
		if s.GetNetworkId() == "" {
			s.NetworkId = w.net1.GetId()
		}
		_, err := w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: s})
		return err
	}
}

func createPort(p *weftv1.Port) func(*world) error {
	return func(w *world) error {
		p := proto.Clone(p).(*weftv1.Port)
		if p.GetNetworkId() == "" {
			p.NetworkId = w.net1.GetId()
		}
		_, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: p})
		return err
	}
}

func updateNetwork(of func(*world) *weftv1.Network, n *weftv1.Network, paths ...string) func(*world) error {
	return func(w *world) error {
		n := proto.Clone(n).(*weftv1.Network)
		n.Id = of(w).GetId()
		_, err := w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{Network: n, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return err
	}
}

func fixed(ip string) []*weftv1.FixedIp { return []*weftv1.FixedIp{{IpAddress: ip}} }

var networkRefusals = []refusal{
	{"a network without a message", createNetwork(nil), codes.InvalidArgument, []string{"network", "required"}},
	{"a name with a control character", createNetwork(&weftv1.Network{Name: "a\nb"}), codes.InvalidArgument, []string{"name"}},
	{"a vlan outside its range", createNetwork(&weftv1.Network{Type: vlan, SegmentationId: 99}), codes.InvalidArgument, []string{"segmentation_id", "99", "100-102", "blue"}},
	{"a vlan on a physical network without a range", createNetwork(&weftv1.Network{Type: vlan, PhysicalNetwork: "ext1"}), codes.ResourceExhausted, []string{"ext1", "no range"}},
	{"a flat network without a physical network", createNetwork(&weftv1.Network{Type: flat}), codes.InvalidArgument, []string{"physical_network"}},
	{"a second flat network on one physical network", createNetwork(&weftv1.Network{Type: flat, PhysicalNetwork: "ext1"}), codes.AlreadyExists, []string{"ext1", `network "ext1"`}},
	{"a vxlan with a physical network", createNetwork(&weftv1.Network{PhysicalNetwork: "tenant"}), codes.InvalidArgument, []string{"physical_network"}},
	{"an mtu that does not fit into the underlay's", createNetwork(&weftv1.Network{Mtu: 1451}), codes.InvalidArgument, []string{"mtu", "1450", "1500"}},
	{"a gre mtu that does not fit", createNetwork(&weftv1.Network{Type: gre, Mtu: 1459}), codes.InvalidArgument, []string{"mtu", "1458"}},
	{"an mtu smaller than ipv4's", createNetwork(&weftv1.Network{Mtu: 67}), codes.InvalidArgument, []string{"mtu", "68"}},
	{"a bad project", createNetwork(&weftv1.Network{Project: "a b"}), codes.InvalidArgument, []string{"project"}},
	{"a bad domain", createNetwork(&weftv1.Network{DnsDomain: "a,b"}), codes.InvalidArgument, []string{"dns_domain"}},
	{"an unknown network", func(w *world) error {
		_, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: nobody})
		return err
	}, codes.NotFound, []string{nobody}},
	{"an id that is no id", func(w *world) error {
		_, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: "../port"})
		return err
	}, codes.NotFound, nil},
	{"a taken segment", func(w *world) error {
		return createNetwork(&weftv1.Network{SegmentationId: w.net1.GetSegmentationId()})(w)
	}, codes.AlreadyExists, []string{"vxlan segment", `network "net1"`}},
	{"an immutable field", updateNetwork(net1, &weftv1.Network{Project: "other"}, "project"), codes.InvalidArgument, []string{"update_mask", "project"}},
	{"a field that does not exist", updateNetwork(net1, &weftv1.Network{}, "colour"), codes.InvalidArgument, []string{"update_mask", "colour"}},
	{"an old etag", updateNetwork(net1, &weftv1.Network{Name: "x", Etag: "1"}, "name"), codes.Aborted, []string{"etag"}},
	{"an external network that is used made internal", updateNetwork(ext1, &weftv1.Network{}, "external"), codes.FailedPrecondition, []string{"gateway of router", "floating IP"}},
	{"deleting a network with ports", func(w *world) error {
		_, err := w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: w.net1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{`network "net1"`, `subnet "sub1"`, `port "p1"`}},
}

func net1(w *world) *weftv1.Network { return w.net1 }
func ext1(w *world) *weftv1.Network { return w.ext1 }

var subnetRefusals = []refusal{
	{"an overlap on one network", createSubnet(&weftv1.Subnet{Cidr: "10.0.0.128/25"}), codes.FailedPrecondition, []string{"10.0.0.128/25", `subnet "sub1"`}},
	{"a cidr with host bits", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.1/24"}), codes.InvalidArgument, []string{"cidr", "10.1.0.0/24"}},
	{"a cidr that is none", createSubnet(&weftv1.Subnet{Cidr: "x"}), codes.InvalidArgument, []string{"cidr"}},
	{"ipv6", createSubnet(&weftv1.Subnet{Cidr: "2001:db8::/64"}), codes.InvalidArgument, []string{"cidr", "IPv6"}},
	{"a cidr that is too small", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/31"}), codes.InvalidArgument, []string{"cidr"}},
	{"a pool outside the cidr", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", AllocationPools: []*weftv1.AllocationPool{{Start: "10.1.0.10", End: "10.1.1.10"}}}), codes.InvalidArgument, []string{"allocation_pools[0]", "10.1.0.0/24"}},
	{"the gateway inside a pool", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", AllocationPools: []*weftv1.AllocationPool{{Start: "10.1.0.1", End: "10.1.0.10"}}}), codes.InvalidArgument, []string{"allocation_pools[0]", "gateway"}},
	{"a gateway outside the cidr", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", GatewayIp: proto.String("10.2.0.1")}), codes.InvalidArgument, []string{"gateway_ip"}},
	{"a name server that is none", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", DnsNameservers: []string{"8.8.8.8\nx"}}), codes.InvalidArgument, []string{"dns_nameservers[0]"}},
	{"an unknown network", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", NetworkId: nobody}), codes.NotFound, []string{nobody}},
	{"another project's private network", createSubnet(&weftv1.Subnet{Cidr: "10.1.0.0/24", Project: "other"}), codes.FailedPrecondition, []string{"private", "other"}},
	{"deleting a subnet in use", func(w *world) error {
		_, err := w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: w.sub1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{`subnet "sub1"`, `port "p1"`, "interface of router"}},
	{"deleting a subnet with floating IPs", func(w *world) error {
		_, err := w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: w.extSub1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{`floating IP "fip1"`, "gateway of router"}},
	{"a pool moved onto the gateway", func(w *world) error {
		_, err := w.UpdateSubnet(w.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: w.sub1.GetId(), AllocationPools: []*weftv1.AllocationPool{{Start: "10.0.0.1", End: "10.0.0.9"}}}, UpdateMask: mask("allocation_pools")})
		return err
	}, codes.InvalidArgument, []string{"gateway"}},
}

var portRefusals = []refusal{
	{"a taken address", func(w *world) error {
		return createPort(&weftv1.Port{FixedIps: fixed(w.p1.GetFixedIps()[0].GetIpAddress())})(w)
	}, codes.AlreadyExists, []string{"address 10.0.0.", `port "p1"`}},
	{"a taken mac", func(w *world) error {
		return createPort(&weftv1.Port{MacAddress: strings.ToUpper(w.p1.GetMacAddress())})(w)
	}, codes.AlreadyExists, []string{"MAC address", `port "p1"`}},
	{"the gateway's address", createPort(&weftv1.Port{FixedIps: fixed("10.0.0.1")}), codes.InvalidArgument, []string{"fixed_ips[0].ip_address", "gateway"}},
	{"the broadcast address", createPort(&weftv1.Port{FixedIps: fixed("10.0.0.255")}), codes.InvalidArgument, []string{"broadcast"}},
	{"an address in no subnet", createPort(&weftv1.Port{FixedIps: fixed("10.9.0.1")}), codes.InvalidArgument, []string{"10.9.0.1", "no subnet"}},
	{"an address that is none", createPort(&weftv1.Port{FixedIps: fixed("x")}), codes.InvalidArgument, []string{"fixed_ips[0].ip_address"}},
	{"a subnet of another network", func(w *world) error {
		return createPort(&weftv1.Port{FixedIps: []*weftv1.FixedIp{{SubnetId: w.extSub1.GetId()}}})(w)
	}, codes.InvalidArgument, []string{"fixed_ips[0].subnet_id"}},
	{"one address twice", createPort(&weftv1.Port{FixedIps: append(fixed("10.0.0.77"), fixed("10.0.0.77")...)}), codes.InvalidArgument, []string{"twice"}},
	{"a multicast mac", createPort(&weftv1.Port{MacAddress: "01:00:5e:00:00:01"}), codes.InvalidArgument, []string{"mac_address", "multicast"}},
	{"an owner that is the system's", createPort(&weftv1.Port{DeviceOwner: "network:dhcp"}), codes.InvalidArgument, []string{"device_owner"}},
	{"a host that is no name", createPort(&weftv1.Port{Host: "a/b"}), codes.InvalidArgument, []string{"host"}},
	{"an option that would be two", createPort(&weftv1.Port{ExtraDhcpOpts: []*weftv1.DhcpOption{{Name: "67", Value: "a,b"}}}), codes.InvalidArgument, []string{"extra_dhcp_opts[0].value"}},
	{"another project's private network", createPort(&weftv1.Port{Project: "other"}), codes.FailedPrecondition, []string{"private"}},
	{"an unknown network", createPort(&weftv1.Port{NetworkId: nobody}), codes.NotFound, []string{nobody}},
	{"changing a system port", func(w *world) error {
		_, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: w.r1.GetExternalGateway().GetPortId(), Name: "x"}, UpdateMask: mask("name")})
		return err
	}, codes.FailedPrecondition, []string{"gateway of router"}},
	{"deleting a system port", func(w *world) error {
		_, err := w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: w.r1.GetInterfaces()[0].GetPortId()})
		return err
	}, codes.FailedPrecondition, []string{"interface of router"}},
	{"taking away an address with a floating IP", func(w *world) error {
		_, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: w.p1.GetId(), FixedIps: fixed("10.0.0.99")}, UpdateMask: mask("fixed_ips")})
		return err
	}, codes.FailedPrecondition, []string{`floating IP "fip1"`}},
}

var routerRefusals = []refusal{
	{"deleting a router with interfaces", func(w *world) error {
		_, err := w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: w.r1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{`router "r1"`, "interface 10.0.0.1"}},
	{"an interface with floating IPs behind it", func(w *world) error { _, err := w.removeInterface(w.r1.GetId(), w.sub1.GetId()); return err }, codes.FailedPrecondition, []string{"fip1"}},
	{"clearing a gateway with floating IPs", func(w *world) error {
		_, err := w.ClearRouterGateway(w.ctx, &weftv1.ClearRouterGatewayRequest{RouterId: w.r1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{"fip1"}},
	{"moving a gateway with floating IPs", func(w *world) error {
		_, err := w.setGateway(w.r1.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext2.GetId()})
		return err
	}, codes.FailedPrecondition, []string{"fip1"}},
	{"a gateway on a network that is not external", func(w *world) error {
		_, err := w.setGateway(w.r1.GetId(), &weftv1.ExternalGateway{NetworkId: w.net1.GetId()})
		return err
	}, codes.FailedPrecondition, []string{"not external", "net1"}},
	{"a subnet twice", func(w *world) error { _, err := w.addInterface(w.r1.GetId(), w.sub1.GetId()); return err }, codes.FailedPrecondition, []string{"already"}},
	{"an interface without an attachment", func(w *world) error {
		_, err := w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: w.r1.GetId()})
		return err
	}, codes.InvalidArgument, []string{"attachment"}},
	{"an interface that is not there", func(w *world) error { _, err := w.removeInterface(w.r1.GetId(), w.extSub2.GetId()); return err }, codes.NotFound, nil},
	{"a gateway address that is taken", func(w *world) error {
		_, err := w.addInterface(w.router("other", "").GetId(), w.sub1.GetId())
		return err
	}, codes.AlreadyExists, []string{"10.0.0.1", "interface of router"}},
	{"a port that is bound", func(w *world) error {
		p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"})
		_, err := w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: w.router("other", "").GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: p.GetId()}})
		return err
	}, codes.FailedPrecondition, []string{"cmp1"}},
	{"a port in use", func(w *world) error {
		p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), DeviceOwner: "compute:x"})
		_, err := w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: w.router("other", "").GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: p.GetId()}})
		return err
	}, codes.FailedPrecondition, []string{"compute:x"}},
	{"a next hop in no subnet", func(w *world) error { _, err := w.addRoute(w.r1.GetId(), "172.16.0.0/16", "10.9.0.1"); return err }, codes.FailedPrecondition, []string{"10.9.0.1"}},
	{"the router as its own next hop", func(w *world) error { _, err := w.addRoute(w.r1.GetId(), "172.16.0.0/16", "10.0.0.1"); return err }, codes.InvalidArgument, []string{"route.nexthop"}},
	{"a route that is none", func(w *world) error { _, err := w.addRoute(w.r1.GetId(), "172.16.0.1/16", "10.0.0.2"); return err }, codes.InvalidArgument, []string{"route.destination"}},
	{"a route that is not there", func(w *world) error {
		_, err := w.RemoveRouterRoute(w.ctx, &weftv1.RemoveRouterRouteRequest{RouterId: w.r1.GetId(), Route: &weftv1.Route{Destination: "172.16.0.0/16", Nexthop: "10.0.0.2"}})
		return err
	}, codes.NotFound, nil},
	{"an overlap behind one router", func(w *world) error {
		n := w.network(&weftv1.Network{Name: "twin"})
		s := w.subnet(&weftv1.Subnet{Name: "twin-sub", NetworkId: n.GetId(), Cidr: "10.0.0.0/16"})
		_, err := w.addInterface(w.r1.GetId(), s.GetId())
		return err
	}, codes.FailedPrecondition, []string{"twin-sub", "overlaps", "sub1"}},
	{"a subnet without a gateway address", func(w *world) error {
		n := w.network(&weftv1.Network{})
		s := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.7.0.0/24", GatewayIp: proto.String("")})
		_, err := w.addInterface(w.r1.GetId(), s.GetId())
		return err
	}, codes.FailedPrecondition, []string{"no gateway address"}},
	{"another project's private network", func(w *world) error {
		n := w.network(&weftv1.Network{Project: "other"})
		s := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.8.0.0/24"})
		_, err := w.addInterface(w.r1.GetId(), s.GetId())
		return err
	}, codes.FailedPrecondition, []string{"private"}},
	{"a gateway that no registered node could serve", func(w *world) error {
		n := w.network(&weftv1.Network{External: true, Type: flat, PhysicalNetwork: "moon"})
		w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "192.0.2.0/24", EnableDhcp: proto.Bool(false)})
		_, err := w.setGateway(w.router("stranded", "").GetId(), &weftv1.ExternalGateway{NetworkId: n.GetId()})
		return err
	}, codes.FailedPrecondition, []string{"net1: has no bridge for physical network moon", "cmp1: is not a network node"}},
}

var floatingRefusals = []refusal{
	{"a port that no router connects", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext2.GetId(), PortId: w.p1.GetId()}})
		return err
	}, codes.FailedPrecondition, []string{"no router connects", `port "p1"`}},
	{"an address with a floating IP already", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), PortId: w.p1.GetId()}})
		return err
	}, codes.AlreadyExists, []string{"fip1"}},
	{"a network that is not external", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.net1.GetId()}})
		return err
	}, codes.FailedPrecondition, []string{"not external"}},
	{"a taken address", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), IpAddress: w.fip1.GetIpAddress()}})
		return err
	}, codes.AlreadyExists, []string{"fip1"}},
	{"a router's port", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), PortId: w.r1.GetInterfaces()[0].GetPortId()}})
		return err
	}, codes.FailedPrecondition, []string{"interface of router"}},
	{"an address that the port has not", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), PortId: w.p1.GetId(), FixedIpAddress: "10.0.0.250"}})
		return err
	}, codes.InvalidArgument, []string{"fixed_ip_address"}},
	{"another project's port", func(w *world) error {
		_, err := w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Project: "other", NetworkId: w.ext1.GetId(), PortId: w.p1.GetId()}})
		return err
	}, codes.FailedPrecondition, []string{"project"}},
}

var rangeRefusals = []refusal{
	{"a range that overlaps", func(w *world) error {
		_, err := w.CreateSegmentRange(w.ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "tenant", Minimum: 102, Maximum: 110}})
		return err
	}, codes.FailedPrecondition, []string{"blue"}},
	{"a range out of bounds", func(w *world) error {
		_, err := w.CreateSegmentRange(w.ctx, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{Type: vlan, PhysicalNetwork: "x", Minimum: 4000, Maximum: 4095}})
		return err
	}, codes.InvalidArgument, []string{"4094"}},
	{"deleting a range in use", func(w *world) error {
		_, err := w.DeleteSegmentRange(w.ctx, &weftv1.DeleteSegmentRangeRequest{Id: w.vxlanRange.GetId()})
		return err
	}, codes.FailedPrecondition, []string{"net1"}},
	{"narrowing a range in use", func(w *world) error {
		_, err := w.UpdateSegmentRange(w.ctx, &weftv1.UpdateSegmentRangeRequest{
			SegmentRange: &weftv1.SegmentRange{Id: w.vxlanRange.GetId(), Minimum: w.net1.GetSegmentationId() + 1, Maximum: 1<<24 - 1}, UpdateMask: mask("minimum", "maximum"),
		})
		return err
	}, codes.FailedPrecondition, []string{"net1"}},
}

var callRefusals = []refusal{
	{"a request id that is none", func(w *world) error {
		_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}, RequestId: "x"})
		return err
	}, codes.InvalidArgument, []string{"request_id"}},
	{"a filter on a field that is none", list("colour = red", "", ""), codes.InvalidArgument, []string{"filter", "colour"}},
	{"a filter that is not one", list("name", "", ""), codes.InvalidArgument, []string{"filter"}},
	{"an open quote", list(`name = "x`, "", ""), codes.InvalidArgument, []string{"filter", "quote"}},
	{"a value of the wrong type", list("mtu = x", "", ""), codes.InvalidArgument, []string{"mtu", "number"}},
	{"an enum's value that is none", list("type = carrier-pigeon", "", ""), codes.InvalidArgument, []string{"vxlan"}},
	{"an order that is none", list("", "name sideways", ""), codes.InvalidArgument, []string{"order_by"}},
	{"a page token that is none", list("", "", "x"), codes.InvalidArgument, []string{"page_token"}},
	{"a live node deleted", func(w *world) error {
		_, err := w.DeleteNode(w.ctx, &weftv1.DeleteNodeRequest{Id: "cmp1"})
		return err
	}, codes.FailedPrecondition, []string{"alive"}},
	{"a node that is none", func(w *world) error {
		_, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "nowhere"}, UpdateMask: mask("labels")})
		return err
	}, codes.NotFound, []string{"nowhere"}},
	{"a batch that is too large", func(w *world) error {
		_, err := w.BatchCreatePorts(w.ctx, &weftv1.BatchCreatePortsRequest{Requests: make([]*weftv1.CreatePortRequest, 1001)})
		return err
	}, codes.InvalidArgument, []string{"requests", "1000"}},
}

func list(filter, order, token string) func(*world) error {
	return func(w *world) error {
		_, err := w.ListNetworks(w.ctx, &weftv1.ListNetworksRequest{Filter: filter, OrderBy: order, PageToken: token})
		return err
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for kind, rows := range map[string][]refusal{
		"network": networkRefusals, "subnet": subnetRefusals, "port": portRefusals, "router": routerRefusals,
		"floating IP": floatingRefusals, "segment range": rangeRefusals, "call": callRefusals,
	} {
		for _, row := range rows {
			t.Run(kind+"/"+row.name, func(t *testing.T) { row.run(t, w) })
		}
	}
	w.audit()
}

func (r refusal) run(t *testing.T, w *world) {
	err := r.do(w)
	if status.Code(err) != r.code {
		t.Fatalf("got %v, want %s", err, r.code)
	}
	for _, word := range r.says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if r.code == codes.InvalidArgument && len(status.Convert(err).Details()) == 0 {
		t.Errorf("%q names no field in its details", err)
	}
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); !ok || len(bad.GetFieldViolations()) == 0 {
			t.Errorf("detail %v is no BadRequest with fields", d)
		}
	}
}
