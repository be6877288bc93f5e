package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// SegmentBounds is the smallest and the largest segment of a type: vlan per IEEE 802.1Q (0 and 4095 are reserved),
// vxlan's 24 bit VNI per RFC 7348 section 5, gre's 32 bit key per RFC 2890 section 2; 0, 0 for flat.
func SegmentBounds(t NetworkType) (lowest, highest uint32) {
	switch t {
	case weftv1.NetworkType_NETWORK_TYPE_VLAN:
		return 1, 4094
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN:
		return 1, 1<<24 - 1
	case weftv1.NetworkType_NETWORK_TYPE_GRE:
		return 1, 1<<32 - 1
	case weftv1.NetworkType_NETWORK_TYPE_FLAT, weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED:
	}
	return 0, 0
}

// TypeName is the short name of a network type: "vlan", "vxlan", "gre", "flat"; "" when unspecified.
func TypeName(t NetworkType) string {
	if t == weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(t.String(), "NETWORK_TYPE_"))
}

// ParseType is the inverse of TypeName.
func ParseType(s string) (NetworkType, bool) {
	t, ok := weftv1.NetworkType_value["NETWORK_TYPE_"+strings.ToUpper(s)]
	return NetworkType(t), ok && t != 0
}

// MinMTU is the smallest MTU a network may have: IPv4's minimum (RFC 791 section 3.2), which is also the smallest value
// that DHCP can hand out (RFC 2132 section 5.1).
const MinMTU = 68

// MaxMTU is the largest MTU of an IP packet.
const MaxMTU = 65535

// NetworkFrom checks and converts a network that is complete: defaults applied, id and segment assigned.
func NetworkFrom(n *weftv1.Network) (Network, error) {
	var c checker
	out := Network{
		ID: c.uuid("id", n.GetId()), Name: c.text("name", n.GetName()), Project: c.project(n.GetProject()),
		Up: orTrue(n.AdminStateUp), Shared: n.GetShared(), External: n.GetExternal(), //nolint:protogetter // presence
		Type: n.GetType(), PhysicalNetwork: n.GetPhysicalNetwork(), Segment: n.GetSegmentationId(),
		MTU: int(n.GetMtu()), Domain: n.GetDnsDomain(),
	}
	c.segment(n)
	c.nodes("dhcp_servers", n.GetDhcpServers(), n.GetPool())
	if out.MTU != 0 && (out.MTU < MinMTU || out.MTU > MaxMTU) {
		c.addf("mtu", "%d is not in %d..%d", out.MTU, MinMTU, MaxMTU)
	}
	if !ValidDomain(out.Domain) {
		c.addf("dns_domain", "%q is not a domain name", out.Domain)
	}
	return out, c.err()
}

func (c *checker) segment(n *weftv1.Network) {
	t, name := n.GetType(), TypeName(n.GetType())
	switch t {
	case weftv1.NetworkType_NETWORK_TYPE_VLAN, weftv1.NetworkType_NETWORK_TYPE_FLAT:
		if !ValidPhysicalNetwork(n.GetPhysicalNetwork()) {
			c.addf("physical_network", "%q can't name a physical network, which a %s network needs", n.GetPhysicalNetwork(), name)
		}
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_GRE:
		if n.GetPhysicalNetwork() != "" {
			c.addf("physical_network", "a %s network has none", name)
		}
	case weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED:
		fallthrough
	default:
		c.addf("type", "%s is not a network type", t)
		return
	}
	if lo, hi := SegmentBounds(t); n.GetSegmentationId() < lo || n.GetSegmentationId() > hi {
		c.addf("segmentation_id", "%d is not in %d..%d, the %s segments", n.GetSegmentationId(), lo, hi, name)
	}
}

// SubnetFrom checks and converts a subnet that is complete: gateway and pools decided.
func SubnetFrom(s *weftv1.Subnet) (Subnet, error) {
	var c checker
	out := Subnet{
		ID: c.uuid("id", s.GetId()), Name: c.text("name", s.GetName()), Project: c.project(s.GetProject()),
		Network: c.uuid("network_id", s.GetNetworkId()), CIDR: c.prefix("cidr", s.GetCidr()),
		Gateway: c.addrOrEmpty("gateway_ip", s.GetGatewayIp()), Routes: c.routes("host_routes", s.GetHostRoutes()),
		DHCP: orTrue(s.EnableDhcp), //nolint:protogetter // presence
	}
	if !out.CIDR.IsValid() {
		return out, c.err()
	}
	if bits := out.CIDR.Bits(); bits < 8 || bits > 30 {
		c.addf("cidr", "%s: the prefix length must be /8 to /30", out.CIDR)
	}
	if out.CIDR.Overlaps(loopback) || out.CIDR.Overlaps(multicastAndAbove) || out.CIDR.Overlaps(thisNetwork) {
		c.addf("cidr", "%s holds addresses that no host can have (RFC 6890)", out.CIDR)
	}
	if out.Gateway.IsValid() && !usable(out.CIDR, out.Gateway) {
		c.addf("gateway_ip", "%s is not a host address of %s", out.Gateway, out.CIDR)
	}
	out.Pools = c.pools(s, out)
	out.DNS = c.dns(s.GetDnsNameservers())
	return out, c.err()
}

var (
	loopback          = netip.MustParsePrefix("127.0.0.0/8")
	multicastAndAbove = netip.MustParsePrefix("224.0.0.0/3")
	thisNetwork       = netip.MustParsePrefix("0.0.0.0/8")
)

func (c *checker) dns(in []string) []netip.Addr {
	if !c.list("dns_nameservers", len(in), MaxDNS) {
		return nil
	}
	var out []netip.Addr
	for i, s := range in {
		out = append(out, c.addr(fmt.Sprintf("dns_nameservers[%d]", i), s))
	}
	return out
}

func (c *checker) pools(s *weftv1.Subnet, sub Subnet) []Pool {
	in := s.GetAllocationPools()
	if !c.list("allocation_pools", len(in), MaxPools) {
		return nil
	}
	var out []Pool
	for i, p := range in {
		field := fmt.Sprintf("allocation_pools[%d]", i)
		pool := Pool{Start: c.addr(field+".start", p.GetStart()), End: c.addr(field+".end", p.GetEnd())}
		switch {
		case !pool.Start.IsValid() || !pool.End.IsValid():
			continue
		case pool.Start.Compare(pool.End) > 0:
			c.addf(field, "starts at %s, after its end %s", pool.Start, pool.End)
		case !usable(sub.CIDR, pool.Start) || !usable(sub.CIDR, pool.End):
			c.addf(field, "%s-%s is not inside the host addresses of %s", pool.Start, pool.End, sub.CIDR)
		case sub.Gateway.IsValid() && pool.Contains(sub.Gateway):
			c.addf(field, "%s-%s holds the gateway %s", pool.Start, pool.End, sub.Gateway)
		}
		out = append(out, pool)
	}
	slices.SortFunc(out, func(a, b Pool) int { return a.Start.Compare(b.Start) })
	for i := 1; i < len(out); i++ {
		if out[i-1].Contains(out[i].Start) {
			c.addf("allocation_pools", "%s-%s and %s-%s overlap", out[i-1].Start, out[i-1].End, out[i].Start, out[i].End)
		}
	}
	return out
}

// HostAddresses is the first and the last address of a prefix that a host can have: all but the network's own and the
// broadcast address (RFC 1122 section 3.2.1.3). The prefix must be /30 or shorter.
func HostAddresses(p netip.Prefix) Pool {
	first := p.Masked().Addr()
	last := first.As4()
	for i := p.Bits(); i < 32; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	return Pool{Start: first.Next(), End: netip.AddrFrom4(last).Prev()}
}

func usable(p netip.Prefix, ip netip.Addr) bool { return HostAddresses(p).Contains(ip) }

// PortFrom checks and converts a port that is complete: MAC and addresses assigned.
func PortFrom(p *weftv1.Port) (Port, error) {
	var c checker
	out := Port{
		ID: c.uuid("id", p.GetId()), Name: c.text("name", p.GetName()), Project: c.project(p.GetProject()),
		Network: c.uuid("network_id", p.GetNetworkId()), MAC: c.mac("mac_address", p.GetMacAddress()),
		FixedIPs: c.fixedIPs("fixed_ips", p.GetFixedIps()),
		DeviceID: c.text("device_id", p.GetDeviceId()), DeviceOwner: c.text("device_owner", p.GetDeviceOwner()),
		Host: c.node("host", p.GetHost()), BoundHost: c.node("bound_host", p.GetBoundHost()),
		Up:          orTrue(p.AdminStateUp), //nolint:protogetter // presence
		DHCPOptions: c.dhcpOptions(p.GetExtraDhcpOpts()), Hostname: c.hostname("hostname", p.GetHostname()),
	}
	c.security(p, &out)
	return out, c.err()
}

func (c *checker) fixedIPs(field string, in []*weftv1.FixedIp) []FixedIP {
	if !c.list(field, len(in), MaxFixedIPs) {
		return nil
	}
	var out []FixedIP
	seen := map[netip.Addr]bool{}
	for i, f := range in {
		at := fmt.Sprintf("%s[%d]", field, i)
		ip := c.addr(at+".ip_address", f.GetIpAddress())
		if seen[ip] && ip.IsValid() {
			c.addf(at+".ip_address", "%s stands twice", ip)
		}
		seen[ip] = true
		out = append(out, FixedIP{Subnet: c.uuid(at+".subnet_id", f.GetSubnetId()), IP: ip})
	}
	return out
}

func (c *checker) dhcpOptions(in []*weftv1.DhcpOption) []DHCPOption {
	if !c.list("extra_dhcp_opts", len(in), MaxDHCPOpts) {
		return nil
	}
	var out []DHCPOption
	for i, o := range in {
		field := fmt.Sprintf("extra_dhcp_opts[%d]", i)
		if !optNamePattern.MatchString(o.GetName()) {
			c.addf(field+".name", "%q is not an option's name or number", o.GetName())
		}
		if !optValuePattern.MatchString(o.GetValue()) {
			c.addf(field+".value", "%q must be 1 to 255 printable ASCII characters without \" # , \\", o.GetValue())
		}
		out = append(out, DHCPOption{Name: o.GetName(), Value: o.GetValue()})
	}
	return out
}

// RouterFrom checks and converts a stored router.
func RouterFrom(r *weftv1.Router) (Router, error) {
	var c checker
	out := Router{
		ID: c.uuid("id", r.GetId()), Name: c.text("name", r.GetName()), Project: c.project(r.GetProject()),
		Up: orTrue(r.AdminStateUp), Routes: c.routes("routes", r.GetRoutes()), //nolint:protogetter // presence
		Nodes: slices.Clone(r.GetPlacement().GetNodes()),
	}
	c.nodes("ha", r.GetHa(), r.GetPool())
	if g := r.GetExternalGateway(); g != nil {
		out.Gateway = &Gateway{
			Network: c.uuid("external_gateway.network_id", g.GetNetworkId()), Port: c.uuid("external_gateway.port_id", g.GetPortId()),
			FixedIPs: c.fixedIPs("external_gateway.fixed_ips", g.GetFixedIps()), SNAT: orTrue(g.EnableSnat), //nolint:protogetter // presence
		}
	}
	for i, in := range r.GetInterfaces() {
		at := fmt.Sprintf("interfaces[%d]", i)
		out.Interfaces = append(out.Interfaces, Interface{
			Port: c.uuid(at+".port_id", in.GetPortId()), Network: c.uuid(at+".network_id", in.GetNetworkId()),
			Subnet: c.uuid(at+".subnet_id", in.GetSubnetId()), IP: c.addr(at+".ip_address", in.GetIpAddress()),
		})
	}
	for i, n := range out.Nodes {
		c.node(fmt.Sprintf("placement.nodes[%d]", i), n)
	}
	return out, c.err()
}

// FloatingIPFrom checks and converts a floating IP that is complete: address assigned, router found.
func FloatingIPFrom(f *weftv1.FloatingIp) (FloatingIP, error) {
	var c checker
	out := FloatingIP{
		ID: c.uuid("id", f.GetId()), Name: c.text("name", f.GetName()), Project: c.project(f.GetProject()),
		Network: c.uuid("network_id", f.GetNetworkId()), IP: c.addr("ip_address", f.GetIpAddress()),
		Port: c.uuidOrEmpty("port_id", f.GetPortId()), Fixed: c.addrOrEmpty("fixed_ip_address", f.GetFixedIpAddress()),
		Router: c.uuidOrEmpty("router_id", f.GetRouterId()),
	}
	if (out.Port == "") != !out.Fixed.IsValid() || (out.Port == "") != (out.Router == "") {
		c.addf("port_id", "port, fixed address and router must be given together or not at all")
	}
	return out, c.err()
}

// SegmentRangeFrom checks and converts a segment range.
func SegmentRangeFrom(r *weftv1.SegmentRange) (SegmentRange, error) {
	var c checker
	out := SegmentRange{
		ID: c.uuid("id", r.GetId()), Name: c.text("name", r.GetName()), Type: r.GetType(),
		PhysicalNetwork: r.GetPhysicalNetwork(), Min: r.GetMinimum(), Max: r.GetMaximum(),
	}
	lowest, highest := SegmentBounds(out.Type)
	switch out.Type {
	case weftv1.NetworkType_NETWORK_TYPE_VLAN:
		if !ValidPhysicalNetwork(out.PhysicalNetwork) {
			c.addf("physical_network", "%q can't name a physical network, which a vlan range needs", out.PhysicalNetwork)
		}
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_GRE:
		if out.PhysicalNetwork != "" {
			c.addf("physical_network", "a %s range has none", TypeName(out.Type))
		}
	case weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED, weftv1.NetworkType_NETWORK_TYPE_FLAT:
		fallthrough
	default:
		c.addf("type", "must be vlan, vxlan or gre")
		return out, c.err()
	}
	switch {
	case out.Min < lowest || out.Max > highest:
		c.addf("minimum", "%d..%d is not in %d..%d, the %s segments", out.Min, out.Max, lowest, highest, TypeName(out.Type))
	case out.Min > out.Max:
		c.addf("minimum", "%d is above the maximum %d", out.Min, out.Max)
	}
	return out, c.err()
}
