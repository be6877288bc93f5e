package model_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	vlan  = weftv1.NetworkType_NETWORK_TYPE_VLAN
	vxlan = weftv1.NetworkType_NETWORK_TYPE_VXLAN
	gre   = weftv1.NetworkType_NETWORK_TYPE_GRE
	flat  = weftv1.NetworkType_NETWORK_TYPE_FLAT
)

func id(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }

var equalAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func network() *weftv1.Network {
	return &weftv1.Network{Id: id(1), Name: "net1", Project: "default", Type: vxlan, SegmentationId: 10, Mtu: 1450, DnsDomain: "weft.internal"}
}

func subnet() *weftv1.Subnet {
	return &weftv1.Subnet{
		Id: id(2), Name: "sub1", Project: "default", NetworkId: id(1), Cidr: "10.10.10.0/24", GatewayIp: proto.String("10.10.10.1"),
		AllocationPools: []*weftv1.AllocationPool{{Start: "10.10.10.100", End: "10.10.10.254"}, {Start: "10.10.10.2", End: "10.10.10.99"}},
		DnsNameservers:  []string{"192.0.2.53"}, HostRoutes: []*weftv1.Route{{Destination: "198.51.100.0/24", Nexthop: "10.10.10.9"}},
	}
}

func port() *weftv1.Port {
	return &weftv1.Port{
		Id: id(3), Name: "p1", Project: "default", NetworkId: id(1), MacAddress: "fa:16:3e:00:00:01",
		FixedIps: []*weftv1.FixedIp{{SubnetId: id(2), IpAddress: "10.10.10.2"}}, DeviceId: "vm-1", DeviceOwner: "compute:nova",
		Host: "cmp1", BoundHost: "cmp1", ExtraDhcpOpts: []*weftv1.DhcpOption{{Name: "bootfile-name", Value: "pxelinux.0"}},
	}
}

func router() *weftv1.Router {
	return &weftv1.Router{
		Id: id(4), Name: "r1", Project: "default", Placement: &weftv1.Placement{Nodes: []string{"net1", "net2"}},
		ExternalGateway: &weftv1.ExternalGateway{NetworkId: id(5), PortId: id(6), FixedIps: []*weftv1.FixedIp{{SubnetId: id(7), IpAddress: "203.0.113.5"}}},
		Interfaces:      []*weftv1.RouterInterface{{PortId: id(8), NetworkId: id(1), SubnetId: id(2), IpAddress: "10.10.10.1"}},
		Routes:          []*weftv1.Route{{Destination: "0.0.0.0/0", Nexthop: "10.10.10.9"}},
	}
}

func floatingIP() *weftv1.FloatingIp {
	return &weftv1.FloatingIp{
		Id: id(9), Name: "f1", Project: "default", NetworkId: id(5), IpAddress: "203.0.113.9",
		PortId: id(3), FixedIpAddress: "10.10.10.2", RouterId: id(4),
	}
}

func segmentRange() *weftv1.SegmentRange {
	return &weftv1.SegmentRange{Id: id(10), Name: "tenants", Type: vlan, PhysicalNetwork: "tenant", Minimum: 100, Maximum: 199}
}

// row is a change to a good message and the fields that are then wrong, in order; none: it is still good.
type row[M proto.Message] struct {
	name   string
	change func(M)
	fields []string
}

func bad(fields ...string) []string { return fields }

func check[M proto.Message, T any](t *testing.T, good func() M, from func(M) (T, error), rows []row[M]) {
	t.Helper()
	if _, err := from(good()); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for _, r := range rows {
		m := good()
		r.change(m)
		_, err := from(m)
		var got []string
		for _, f := range model.FieldErrors(err) {
			got = append(got, f.Field)
			if f.Problem == "" || strings.ContainsAny(f.Problem, "\n\x00") {
				t.Errorf("%s: problem %q", r.name, f.Problem)
			}
		}
		if diff := cmp.Diff(r.fields, got, cmpopts.EquateEmpty()); diff != "" || (err == nil) != (len(r.fields) == 0) {
			t.Errorf("%s: %v\n%s", r.name, err, diff)
		}
	}
}

// identity is the rows for the fields that every object of a project has.
func identity[M proto.Message](set func(m M, id, name, project string)) []row[M] {
	one := func(name, i, n, p string, fields ...string) row[M] {
		return row[M]{name, func(m M) { set(m, i, n, p) }, fields}
	}
	return []row[M]{
		one("a name of any letters", id(1), "Größe & \"so\" #1, 網", "team-a@corp.x_y"),
		one("no name", id(1), "", "default"),
		one("the longest name and project", id(1), strings.Repeat("x", 255), strings.Repeat("p", 64)),
		one("no id", "", "n", "default", "id"),
		one("an id in capitals", "ABCDEF00-0000-4000-8000-000000000000", "n", "default", "id"),
		one("an id with a line end", id(1)+"\n", "n", "default", "id"),
		one("an id that leaves its key", "../../x", "n", "default", "id"),
		one("a name too long", id(1), strings.Repeat("x", 256), "default", "name"),
		one("a name with a line end", id(1), "a\nb", "default", "name"),
		one("a name with DEL", id(1), "a\x7f", "default", "name"),
		one("a name that is not UTF-8", id(1), "a\xff", "default", "name"),
		one("no project", id(1), "n", "", "project"),
		one("a project with a slash", id(1), "n", "a/b", "project"),
		one("a project with a line end", id(1), "n", "a\n", "project"),
		one("a project too long", id(1), "n", strings.Repeat("p", 65), "project"),
		one("all of them wrong", "x", "\x00", " ", "id", "name", "project"),
	}
}

func TestNetworks(t *testing.T) {
	segment := func(typ model.NetworkType, physnet string, n uint32) func(*weftv1.Network) {
		return func(m *weftv1.Network) { m.Type, m.PhysicalNetwork, m.SegmentationId = typ, physnet, n }
	}
	mtu := func(n int32) func(*weftv1.Network) { return func(m *weftv1.Network) { m.Mtu = n } }
	domain := func(s string) func(*weftv1.Network) { return func(m *weftv1.Network) { m.DnsDomain = s } }
	type r = row[*weftv1.Network]
	check(t, network, model.NetworkFrom, append([]r{
		{"vlan", segment(vlan, "tenant", 1998), nil},
		{"eight DHCP servers of a pool", func(m *weftv1.Network) { m.DhcpServers, m.Pool = 8, "edge-1.a" }, nil},
		{"nine DHCP servers", func(m *weftv1.Network) { m.DhcpServers = 9 }, bad("dhcp_servers")},
		{"a bad pool", func(m *weftv1.Network) { m.Pool = "-" }, bad("pool")},
		{"the first vlan", segment(vlan, "tenant", 1), nil},
		{"the last vlan", segment(vlan, "tenant", 4094), nil},
		{"vlan 0", segment(vlan, "tenant", 0), bad("segmentation_id")},
		{"vlan 4095", segment(vlan, "tenant", 4095), bad("segmentation_id")},
		{"vlan nowhere", segment(vlan, "", 5), bad("physical_network")},
		{"vlan on a path", segment(vlan, "a/b", 5), bad("physical_network")},
		{"vlan on -", segment(vlan, "-", 5), bad("physical_network")},
		{"the last vni", segment(vxlan, "", 1<<24-1), nil},
		{"a vni too large", segment(vxlan, "", 1<<24), bad("segmentation_id")},
		{"vni 0", segment(vxlan, "", 0), bad("segmentation_id")},
		{"vxlan on a physical network", segment(vxlan, "tenant", 5), bad("physical_network")},
		{"the last gre key", segment(gre, "", 1<<32-1), nil},
		{"gre key 0", segment(gre, "", 0), bad("segmentation_id")},
		{"gre on a physical network", segment(gre, "tenant", 5), bad("physical_network")},
		{"flat", segment(flat, "ph-eth0", 0), nil},
		{"flat with a segment", segment(flat, "ph-eth0", 1), bad("segmentation_id")},
		{"flat nowhere", segment(flat, "", 0), bad("physical_network")},
		{"no type", segment(0, "", 0), bad("type")},
		{"a type of the future", segment(99, "", 0), bad("type")},
		{"mtu undecided", mtu(0), nil},
		{"the least mtu", mtu(68), nil},
		{"the greatest mtu", mtu(65535), nil},
		{"mtu too small", mtu(67), bad("mtu")},
		{"mtu below zero", mtu(-1), bad("mtu")},
		{"mtu too large", mtu(65536), bad("mtu")},
		{"a domain of one label", domain("lan"), nil},
		{"no domain", domain(""), bad("dns_domain")},
		{"a domain with an option in it", domain("a,server=192.0.2.1"), bad("dns_domain")},
		{"a domain with a line end", domain("a\nb"), bad("dns_domain")},
		{"a domain with an empty label", domain("a..b"), bad("dns_domain")},
		{"a domain that ends in a dot", domain("a."), bad("dns_domain")},
		{"a label that begins with -", domain("-a"), bad("dns_domain")},
		{"a label too long", domain(strings.Repeat("a", 64)), bad("dns_domain")},
		{"a domain too long", domain(strings.Repeat("a.", 127) + "b"), bad("dns_domain")},
	}, identity(func(m *weftv1.Network, i, n, p string) { m.Id, m.Name, m.Project = i, n, p })...))
}

func TestSubnets(t *testing.T) {
	cidr := func(s, gateway string, pool ...string) func(*weftv1.Subnet) {
		return func(m *weftv1.Subnet) {
			m.Cidr, m.GatewayIp, m.AllocationPools = s, proto.String(gateway), nil
			for i := 0; i < len(pool); i += 2 {
				m.AllocationPools = append(m.AllocationPools, &weftv1.AllocationPool{Start: pool[i], End: pool[i+1]})
			}
		}
	}
	dns := func(s ...string) func(*weftv1.Subnet) { return func(m *weftv1.Subnet) { m.DnsNameservers = s } }
	route := func(pairs ...string) func(*weftv1.Subnet) {
		return func(m *weftv1.Subnet) { m.HostRoutes = routes(pairs...) }
	}
	type r = row[*weftv1.Subnet]
	check(t, subnet, model.SubnetFrom, append([]r{
		{"no gateway", cidr("10.0.0.0/24", ""), nil},
		{"gateway unset", func(m *weftv1.Subnet) { m.GatewayIp = nil }, nil},
		{"the smallest", cidr("10.0.0.0/30", "10.0.0.1", "10.0.0.2", "10.0.0.2"), nil},
		{"the largest", cidr("10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.255.255.254"), nil},
		{"a partial pool", cidr("192.168.100.0/22", "192.168.100.1", "192.168.101.1", "192.168.103.254"), nil},
		{"no cidr", cidr("", ""), bad("cidr")},
		{"an address", cidr("10.0.0.1", ""), bad("cidr")},
		{"host bits", cidr("10.0.0.1/24", ""), bad("cidr")},
		{"IPv6", cidr("fd00::/64", ""), bad("cidr")},
		{"/31", cidr("10.0.0.0/31", ""), bad("cidr")},
		{"/32", cidr("255.255.255.255/32", "", "255.255.255.255", "255.255.255.255"), bad("cidr", "cidr", "allocation_pools[0]")},
		{"/7", cidr("10.0.0.0/7", ""), bad("cidr")},
		{"everything", cidr("0.0.0.0/0", ""), bad("cidr", "cidr")},
		{"loopback", cidr("127.1.0.0/16", ""), bad("cidr")},
		{"multicast", cidr("224.0.0.0/24", ""), bad("cidr")},
		{"this network", cidr("0.0.0.0/8", ""), bad("cidr")},
		{"a gateway elsewhere", cidr("10.0.0.0/24", "10.0.1.1"), bad("gateway_ip")},
		{"the network's address as gateway", cidr("10.0.0.0/24", "10.0.0.0"), bad("gateway_ip")},
		{"the broadcast address as gateway", cidr("10.0.0.0/24", "10.0.0.255"), bad("gateway_ip")},
		{"a gateway that is no address", cidr("10.0.0.0/24", "x"), bad("gateway_ip")},
		{"a pool with the gateway", cidr("10.0.0.0/24", "10.0.0.9", "10.0.0.2", "10.0.0.10"), bad("allocation_pools[0]")},
		{"a pool outside", cidr("10.0.0.0/24", "", "10.0.1.2", "10.0.1.10"), bad("allocation_pools[0]")},
		{"a pool that leaves", cidr("10.0.0.0/24", "", "10.0.0.2", "10.0.1.10"), bad("allocation_pools[0]")},
		{"a pool with the broadcast address", cidr("10.0.0.0/24", "", "10.0.0.2", "10.0.0.255"), bad("allocation_pools[0]")},
		{"a pool backwards", cidr("10.0.0.0/24", "", "10.0.0.9", "10.0.0.2"), bad("allocation_pools[0]")},
		{"pools that overlap", cidr("10.0.0.0/24", "", "10.0.0.2", "10.0.0.9", "10.0.0.9", "10.0.0.12"), bad("allocation_pools")},
		{"a pool of no addresses", cidr("10.0.0.0/24", "", "", "x"), bad("allocation_pools[0].start", "allocation_pools[0].end")},
		{"too many pools", cidr("10.0.0.0/24", "", make([]string, 34)...), bad("allocation_pools")},
		{"a null pool", func(m *weftv1.Subnet) { m.AllocationPools = []*weftv1.AllocationPool{nil} }, bad("allocation_pools[0].start", "allocation_pools[0].end")},
		{"no DNS", dns(), nil},
		{"DNS that is a name", dns("192.0.2.1", "dns.example"), bad("dns_nameservers[1]")},
		{"DNS with an option in it", dns("192.0.2.1,6"), bad("dns_nameservers[0]")},
		{"DNS of IPv6", dns("fd00::1"), bad("dns_nameservers[0]")},
		{"DNS with a zone", dns("fe80::1%eth0"), bad("dns_nameservers[0]")},
		{"DNS of mapped IPv4", dns("::ffff:192.0.2.1"), bad("dns_nameservers[0]")},
		{"too much DNS", dns(make([]string, 9)...), bad("dns_nameservers")},
		{"a default route", route("0.0.0.0/0", "10.10.10.9"), nil},
		{"a route without target", route("", ""), bad("host_routes[0].destination", "host_routes[0].nexthop")},
		{"a route with host bits", route("10.0.0.1/8", "10.10.10.9"), bad("host_routes[0].destination")},
		{"the same route twice", route("10.0.0.0/8", "10.10.10.9", "10.0.0.0/8", "10.10.10.8"), bad("host_routes[1].destination")},
		{"next hop unspecified", route("10.0.0.0/8", "0.0.0.0"), bad("host_routes[0].nexthop")},
		{"next hop multicast", route("10.0.0.0/8", "224.0.0.1"), bad("host_routes[0].nexthop")},
		{"next hop loopback", route("10.0.0.0/8", "127.0.0.1"), bad("host_routes[0].nexthop")},
		{"next hop broadcast", route("10.0.0.0/8", "255.255.255.255"), bad("host_routes[0].nexthop")},
		{"too many routes", route(make([]string, 130)...), bad("host_routes")},
		{"no network", func(m *weftv1.Subnet) { m.NetworkId = "" }, bad("network_id")},
	}, identity(func(m *weftv1.Subnet, i, n, p string) { m.Id, m.Name, m.Project = i, n, p })...))
}

// routes makes routes of pairs of destination and next hop.
func routes(pairs ...string) (all []*weftv1.Route) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, &weftv1.Route{Destination: pairs[i], Nexthop: pairs[i+1]})
	}
	return all
}

// fixed makes fixed IPs of pairs of subnet and address.
func fixed(pairs ...string) (all []*weftv1.FixedIp) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, &weftv1.FixedIp{SubnetId: pairs[i], IpAddress: pairs[i+1]})
	}
	return all
}

func TestPorts(t *testing.T) {
	type r = row[*weftv1.Port]
	mac := func(s string) func(*weftv1.Port) { return func(m *weftv1.Port) { m.MacAddress = s } }
	ips := func(pairs ...string) func(*weftv1.Port) {
		return func(m *weftv1.Port) { m.FixedIps = fixed(pairs...) }
	}
	opt := func(name, value string) func(*weftv1.Port) {
		return func(m *weftv1.Port) { m.ExtraDhcpOpts = []*weftv1.DhcpOption{{Name: name, Value: value}} }
	}
	host := func(s string) func(*weftv1.Port) { return func(m *weftv1.Port) { m.Host = s } }
	check(t, port, model.PortFrom, append([]r{
		{"MAC with dashes", mac("FA-16-3E-00-00-01"), nil},
		{"MAC with dots", mac("fa16.3e00.0001"), nil},
		{"no MAC", mac(""), bad("mac_address")},
		{"MAC of 8 bytes", mac("fa:16:3e:00:00:01:02:03"), bad("mac_address")},
		{"multicast MAC", mac("01:00:5e:00:00:01"), bad("mac_address")},
		{"broadcast MAC", mac("ff:ff:ff:ff:ff:ff"), bad("mac_address")},
		{"null MAC", mac("00:00:00:00:00:00"), bad("mac_address")},
		{"MAC with more behind", mac("fa:16:3e:00:00:01,set:x"), bad("mac_address")},
		{"no addresses", ips(), nil},
		{"several addresses", ips(id(2), "10.0.0.2", id(2), "10.0.0.3", id(20), "10.1.0.2"), nil},
		{"an address twice", ips(id(2), "10.0.0.2", id(2), "10.0.0.2"), bad("fixed_ips[1].ip_address")},
		{"an address without subnet", ips("", "10.0.0.2"), bad("fixed_ips[0].subnet_id")},
		{"a subnet without address", ips(id(2), ""), bad("fixed_ips[0].ip_address")},
		{"an address of IPv6", ips(id(2), "fd00::2"), bad("fixed_ips[0].ip_address")},
		{"too many addresses", ips(make([]string, 34)...), bad("fixed_ips")},
		{"a null address", func(m *weftv1.Port) { m.FixedIps = []*weftv1.FixedIp{nil} }, bad("fixed_ips[0].ip_address", "fixed_ips[0].subnet_id")},
		{"no host", host(""), nil},
		{"a host with a domain", host("cmp1.rack2.example"), nil},
		{"a host that leaves its key", host("cmp1/port"), bad("host")},
		{"a host too long", host(strings.Repeat("a.", 32)), bad("host")},
		{"a host with a line end", host("cmp1\n"), bad("host")},
		{"bound to no node name", func(m *weftv1.Port) { m.BoundHost = " " }, bad("bound_host")},
		{"an option by number", opt("67", "http://192.0.2.1/boot?x=1&y=[2]"), nil},
		{"an option with every sign that is allowed", opt("a", " !$%&'()*+-./0:;<=>?@AZ[]^_`az{|}~"), nil},
		{"an option without name", opt("", "x"), bad("extra_dhcp_opts[0].name")},
		{"an option's name with a comma", opt("a,b", "x"), bad("extra_dhcp_opts[0].name")},
		{"an option's name with a line end", opt("a\n", "x"), bad("extra_dhcp_opts[0].name")},
		{"an option's name in capitals", opt("A", "x"), bad("extra_dhcp_opts[0].name")},
		{"an option without value", opt("a", ""), bad("extra_dhcp_opts[0].value")},
		{"an option with a comma", opt("a", "x,y"), bad("extra_dhcp_opts[0].value")},
		{"an option with a quote", opt("a", `x"`), bad("extra_dhcp_opts[0].value")},
		{"an option with a comment", opt("a", "x#"), bad("extra_dhcp_opts[0].value")},
		{"an option with a backslash", opt("a", `x\n`), bad("extra_dhcp_opts[0].value")},
		{"an option with a line end", opt("a", "x\n"), bad("extra_dhcp_opts[0].value")},
		{"an option beyond ASCII", opt("a", "ä"), bad("extra_dhcp_opts[0].value")},
		{"an option too long", opt("a", strings.Repeat("x", 256)), bad("extra_dhcp_opts[0].value")},
		{"too many options", func(m *weftv1.Port) { m.ExtraDhcpOpts = make([]*weftv1.DhcpOption, 17) }, bad("extra_dhcp_opts")},
		{"a device id with a control character", func(m *weftv1.Port) { m.DeviceId = "\x1b" }, bad("device_id")},
		{"a device owner too long", func(m *weftv1.Port) { m.DeviceOwner = strings.Repeat("x", 256) }, bad("device_owner")},
		{"no network", func(m *weftv1.Port) { m.NetworkId = "" }, bad("network_id")},
	}, identity(func(m *weftv1.Port, i, n, p string) { m.Id, m.Name, m.Project = i, n, p })...))
}

func TestRouters(t *testing.T) {
	type r = row[*weftv1.Router]
	check(t, router, model.RouterFrom, append([]r{
		{"bare", func(m *weftv1.Router) { m.ExternalGateway, m.Interfaces, m.Routes, m.Placement = nil, nil, nil, nil }, nil},
		{"a gateway of nothing", func(m *weftv1.Router) { m.ExternalGateway = &weftv1.ExternalGateway{} }, bad("external_gateway.network_id", "external_gateway.port_id")},
		{"a gateway with a bad address", func(m *weftv1.Router) { m.ExternalGateway.FixedIps = fixed(id(7), "x") }, bad("external_gateway.fixed_ips[0].ip_address")},
		{"a null interface", func(m *weftv1.Router) { m.Interfaces = append(m.Interfaces, nil) }, bad("interfaces[1].port_id", "interfaces[1].network_id", "interfaces[1].subnet_id", "interfaces[1].ip_address")},
		{"a bad node", func(m *weftv1.Router) { m.Placement.Nodes[1] = "a b" }, bad("placement.nodes[1]")},
		{"eight nodes of a pool", func(m *weftv1.Router) { m.Ha, m.Pool = 8, "edge-1" }, nil},
		{"nine nodes", func(m *weftv1.Router) { m.Ha = 9 }, bad("ha")},
		{"less than no node", func(m *weftv1.Router) { m.Ha = -1 }, bad("ha")},
		{"a bad pool", func(m *weftv1.Router) { m.Pool = "a/b" }, bad("pool")},
		{"a bad route", func(m *weftv1.Router) { m.Routes = routes("x", "10.0.0.1") }, bad("routes[0].destination")},
	}, identity(func(m *weftv1.Router, i, n, p string) { m.Id, m.Name, m.Project = i, n, p })...))
}

func TestFloatingIPs(t *testing.T) {
	type r = row[*weftv1.FloatingIp]
	assoc := func(port, fixed, router string) func(*weftv1.FloatingIp) {
		return func(m *weftv1.FloatingIp) { m.PortId, m.FixedIpAddress, m.RouterId = port, fixed, router }
	}
	check(t, floatingIP, model.FloatingIPFrom, append([]r{
		{"not associated", assoc("", "", ""), nil},
		{"a port alone", assoc(id(3), "", ""), bad("port_id")},
		{"no fixed address", assoc(id(3), "", id(4)), bad("port_id")},
		{"no router", assoc(id(3), "10.0.0.2", ""), bad("port_id")},
		{"no port", assoc("", "10.0.0.2", id(4)), bad("port_id")},
		{"a bad port", assoc("x", "10.0.0.2", id(4)), bad("port_id")},
		{"a bad router", assoc(id(3), "10.0.0.2", "-"), bad("router_id")},
		{"no address", func(m *weftv1.FloatingIp) { m.IpAddress = "" }, bad("ip_address")},
		{"no network", func(m *weftv1.FloatingIp) { m.NetworkId = "" }, bad("network_id")},
	}, identity(func(m *weftv1.FloatingIp, i, n, p string) { m.Id, m.Name, m.Project = i, n, p })...))
}

func TestSegmentRanges(t *testing.T) {
	type r = row[*weftv1.SegmentRange]
	rng := func(typ model.NetworkType, physnet string, lowest, highest uint32) func(*weftv1.SegmentRange) {
		return func(m *weftv1.SegmentRange) {
			m.Type, m.PhysicalNetwork, m.Minimum, m.Maximum = typ, physnet, lowest, highest
		}
	}
	check(t, segmentRange, model.SegmentRangeFrom, []r{
		{"all vlans", rng(vlan, "tenant", 1, 4094), nil},
		{"all vnis", rng(vxlan, "", 1, 1<<24-1), nil},
		{"all gre keys", rng(gre, "", 1, 1<<32-1), nil},
		{"one segment", rng(vlan, "tenant", 7, 7), nil},
		{"vlans from 0", rng(vlan, "tenant", 0, 10), bad("minimum")},
		{"vlans to 4095", rng(vlan, "tenant", 1, 4095), bad("minimum")},
		{"backwards", rng(vlan, "tenant", 10, 9), bad("minimum")},
		{"vlans nowhere", rng(vlan, "", 1, 9), bad("physical_network")},
		{"vnis on a physical network", rng(vxlan, "tenant", 1, 9), bad("physical_network")},
		{"flat", rng(flat, "tenant", 0, 0), bad("type")},
		{"no type", rng(0, "", 1, 9), bad("type")},
		{"a type of the future", rng(42, "", 1, 9), bad("type")},
		{"no id", func(m *weftv1.SegmentRange) { m.Id = "" }, bad("id")},
		{"a bad name", func(m *weftv1.SegmentRange) { m.Name = "\r" }, bad("name")},
	})
}

func TestWhatIsConverted(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	s, err := model.SubnetFrom(subnet())
	if err != nil {
		t.Fatal(err)
	}
	want := model.Subnet{
		ID: id(2), Name: "sub1", Project: "default", Network: id(1), CIDR: prefix("10.10.10.0/24"), Gateway: addr("10.10.10.1"),
		Pools: []model.Pool{{Start: addr("10.10.10.2"), End: addr("10.10.10.99")}, {Start: addr("10.10.10.100"), End: addr("10.10.10.254")}},
		DNS:   []netip.Addr{addr("192.0.2.53")}, Routes: []model.Route{{Destination: prefix("198.51.100.0/24"), NextHop: addr("10.10.10.9")}}, DHCP: true,
	}
	if diff := cmp.Diff(want, s, equalAddrs); diff != "" {
		t.Error(diff)
	}
	m := port()
	m.MacAddress, m.AdminStateUp = "FA-16-3E-00-00-0A", proto.Bool(false)
	p, err := model.PortFrom(m)
	if err != nil || p.MAC != "fa:16:3e:00:00:0a" || p.Up {
		t.Errorf("MAC %s, up %v, %v", p.MAC, p.Up, err)
	}
	r, err := model.RouterFrom(router())
	if err != nil || !r.Up || !r.Gateway.SNAT || r.Interfaces[0].IP != addr("10.10.10.1") || r.Nodes[0] != "net1" {
		t.Errorf("router %+v, %v", r, err)
	}
	n, err := model.NetworkFrom(network())
	if err != nil || !n.Up || !n.Tunnelled() || n.MTU != 1450 {
		t.Errorf("network %+v, %v", n, err)
	}
}

func TestFieldErrorsFindsAllInAnyTree(t *testing.T) {
	a, b, c := model.Invalid("a", "1"), model.Invalid("b", "2"), model.Invalid("c", "3")
	tree := fmt.Errorf("over: %w", errors.Join(a, fmt.Errorf("and %w, %w", b, errors.New("other")), fmt.Errorf("x: %w", fmt.Errorf("y: %w", c))))
	var got []string
	for _, f := range model.FieldErrors(tree) {
		got = append(got, f.Error())
	}
	if diff := cmp.Diff([]string{"a: 1", "b: 2", "c: 3"}, got); diff != "" {
		t.Error(diff)
	}
	if model.FieldErrors(nil) != nil || model.FieldErrors(errors.New("x")) != nil {
		t.Error("there are field errors where none are")
	}
}

func TestTypeNamesThereAndBack(t *testing.T) {
	for _, typ := range []model.NetworkType{vlan, vxlan, gre, flat} {
		if got, ok := model.ParseType(model.TypeName(typ)); got != typ || !ok {
			t.Errorf("%s is read back as %s", model.TypeName(typ), got)
		}
	}
	for _, s := range []string{"", "unspecified", "vlan ", "x"} {
		if got, ok := model.ParseType(s); ok {
			t.Errorf("%q is read as %s", s, got)
		}
	}
	if model.TypeName(0) != "" {
		t.Error("no type has a name")
	}
}
