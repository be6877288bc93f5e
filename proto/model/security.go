package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Limits of security groups.
const (
	MaxGroups         = 16   // of a port
	MaxAddressPairs   = 16   // of a port
	MaxGroupAddresses = 1000 // of an address group
	MaxPublicKeys     = 16
	MaxPublicKeyBytes = 4096
	MaxUserDataBytes  = 16384
	MaxMetadata       = 32
)

// DefaultGroup is the name of the group that a project has by itself.
const DefaultGroup = "default"

// Protocol is a number of the IANA registry of assigned Internet protocol numbers, or AnyProtocol.
type Protocol int16

// AnyProtocol stands for all of them, and for IP packets of no known one.
const AnyProtocol Protocol = -1

// The protocols that have more to match on than their number.
const (
	ProtocolICMP    Protocol = 1
	ProtocolTCP     Protocol = 6
	ProtocolUDP     Protocol = 17
	ProtocolDCCP    Protocol = 33
	ProtocolICMPv6  Protocol = 58
	ProtocolSCTP    Protocol = 132
	ProtocolUDPLite Protocol = 136
)

// protocolNames are the names that rules may use, by number (IANA, "Assigned Internet Protocol Numbers"; the names are those
// that Neutron knows).
func protocolNames() map[Protocol]string {
	return map[Protocol]string{
		0: "hopopt", ProtocolICMP: "icmp", 2: "igmp", 4: "ipip", ProtocolTCP: "tcp", 8: "egp", ProtocolUDP: "udp", ProtocolDCCP: "dccp",
		41: "ipv6-encap", 43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", ProtocolICMPv6: "ipv6-icmp",
		59: "ipv6-nonxt", 60: "ipv6-opts", 89: "ospf", 112: "vrrp", 113: "pgm", ProtocolSCTP: "sctp", ProtocolUDPLite: "udplite",
	}
}

// ParseProtocol reads a name or a number; "" is AnyProtocol.
func ParseProtocol(s string) (Protocol, bool) {
	if s == "" {
		return AnyProtocol, true
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return Protocol(n), true //nolint:gosec // 8 bits
	}
	for number, name := range protocolNames() {
		if strings.EqualFold(s, name) {
			return number, true
		}
	}
	return 0, false
}

// String is the protocol's name where it has one, else its number; "" for AnyProtocol.
func (p Protocol) String() string {
	if p == AnyProtocol {
		return ""
	}
	if name, ok := protocolNames()[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
}

// HasPorts reports whether the protocol has ports, in the first four octets of its header (RFC 9293, RFC 768, RFC 9260, RFC
// 4340, RFC 3828).
func (p Protocol) HasPorts() bool {
	return p == ProtocolTCP || p == ProtocolUDP || p == ProtocolSCTP || p == ProtocolDCCP || p == ProtocolUDPLite
}

// HasTypes reports whether the protocol has types and codes (RFC 792, RFC 4443).
func (p Protocol) HasTypes() bool { return p == ProtocolICMP || p == ProtocolICMPv6 }

// SecurityGroup is a checked weft.v1.SecurityGroup.
type SecurityGroup struct {
	ID, Name, Project string
	Stateful          bool
}

// PortRange are ports, both ends included.
type PortRange struct {
	Min, Max uint16
}

// AllPorts is the range of a rule that names none.
func AllPorts() PortRange { return PortRange{0, 65535} }

// Rule is a checked weft.v1.SecurityGroupRule. At most one of Prefix, RemoteGroup and RemoteAddressGroup is set; none: anybody.
type Rule struct {
	ID, Group string
	Ingress   bool // false: egress
	IPv6      bool // false: IPv4
	Protocol  Protocol
	// Ports is AllPorts for a protocol without ports.
	Ports PortRange
	// Type and Code are -1 for any.
	Type, Code         int16
	Prefix             netip.Prefix
	RemoteGroup        string
	RemoteAddressGroup string
}

// AddressGroup is a checked weft.v1.AddressGroup.
type AddressGroup struct {
	ID, Name, Project string
	// Addresses are sorted.
	Addresses []netip.Prefix
}

// AddressPair is a further source that a port may use.
type AddressPair struct {
	Prefix netip.Prefix
	MAC    string
}

// SecurityGroupFrom checks and converts a security group that is complete.
func SecurityGroupFrom(g *weftv1.SecurityGroup) (SecurityGroup, error) {
	var c checker
	c.text("description", g.GetDescription())
	out := SecurityGroup{
		ID: c.uuid("id", g.GetId()), Name: c.text("name", g.GetName()), Project: c.project(g.GetProject()),
		Stateful: orTrue(g.Stateful), //nolint:protogetter // presence
	}
	return out, c.err()
}

// RuleFrom checks and converts a rule. Its ether_type may be left to its remote_cidr.
func RuleFrom(r *weftv1.SecurityGroupRule) (Rule, error) {
	var c checker
	c.text("description", r.GetDescription())
	out := Rule{
		ID: c.uuid("id", r.GetId()), Group: c.uuid("security_group_id", r.GetSecurityGroupId()),
		Ports: AllPorts(), Type: -1, Code: -1,
	}
	switch r.GetDirection() {
	case weftv1.Direction_DIRECTION_INGRESS:
		out.Ingress = true
	case weftv1.Direction_DIRECTION_EGRESS:
	case weftv1.Direction_DIRECTION_UNSPECIFIED:
		fallthrough
	default:
		c.addf("direction", "must be ingress or egress")
	}
	c.remote(r, &out)
	c.etherType(r, &out)
	c.protocol(r, &out)
	return out, c.err()
}

func (c *checker) remote(r *weftv1.SecurityGroupRule, out *Rule) {
	switch remote := r.GetRemote().(type) {
	case *weftv1.SecurityGroupRule_RemoteCidr:
		out.Prefix = c.anyPrefix("remote_cidr", remote.RemoteCidr)
	case *weftv1.SecurityGroupRule_RemoteGroupId:
		out.RemoteGroup = c.uuid("remote_group_id", remote.RemoteGroupId)
	case *weftv1.SecurityGroupRule_RemoteAddressGroupId:
		out.RemoteAddressGroup = c.uuid("remote_address_group_id", remote.RemoteAddressGroupId)
	}
}

func (c *checker) etherType(r *weftv1.SecurityGroupRule, out *Rule) {
	out.IPv6 = out.Prefix.IsValid() && out.Prefix.Addr().Is6()
	switch r.GetEtherType() {
	case weftv1.EtherType_ETHER_TYPE_UNSPECIFIED:
		return
	case weftv1.EtherType_ETHER_TYPE_IPV4:
		if out.IPv6 {
			c.addf("ether_type", "is IPv4, remote_cidr %s is not", out.Prefix)
		}
	case weftv1.EtherType_ETHER_TYPE_IPV6:
		if out.Prefix.IsValid() && !out.IPv6 {
			c.addf("ether_type", "is IPv6, remote_cidr %s is not", out.Prefix)
		}
		out.IPv6 = true
	default:
		c.addf("ether_type", "must be ipv4 or ipv6")
	}
}

func (c *checker) protocol(r *weftv1.SecurityGroupRule, out *Rule) {
	var ok bool
	if out.Protocol, ok = ParseProtocol(r.GetProtocol()); !ok {
		c.addf("protocol", "%q is neither a number from 0 to 255 nor a name that weft knows", r.GetProtocol())
		return
	}
	if (out.Protocol == ProtocolICMP) == out.IPv6 && out.Protocol.HasTypes() {
		c.addf("protocol", "%s is not a protocol of this ether_type: it is icmp over ipv4, ipv6-icmp over ipv6", out.Protocol)
	}
	c.portRange(r, out)
	c.icmp(r, out)
}

func (c *checker) portRange(r *weftv1.SecurityGroupRule, out *Rule) {
	if r.PortMin == nil && r.PortMax == nil { //nolint:protogetter // presence
		return
	}
	lowest, highest := r.GetPortMin(), r.GetPortMax()
	if r.PortMax == nil { //nolint:protogetter // presence
		highest = lowest
	}
	switch {
	case !out.Protocol.HasPorts():
		c.addf("port_min", "only tcp, udp, sctp, dccp and udplite have ports")
	case r.PortMin == nil: //nolint:protogetter // presence
		c.addf("port_min", "is required with port_max")
	case highest > 65535:
		c.addf("port_max", "%d is not in 0..65535", highest)
	case lowest > highest:
		c.addf("port_min", "%d is above port_max %d", lowest, highest)
	default:
		out.Ports = PortRange{uint16(lowest), uint16(highest)} //nolint:gosec // at most 65535
	}
}

func (c *checker) icmp(r *weftv1.SecurityGroupRule, out *Rule) {
	out.Type, out.Code = c.octet("icmp_type", r.IcmpType), c.octet("icmp_code", r.IcmpCode) //nolint:protogetter // presence
	switch {
	case out.Type < 0 && out.Code < 0:
	case !out.Protocol.HasTypes():
		c.addf("icmp_type", "only icmp and ipv6-icmp have types and codes")
	case out.Type < 0:
		c.addf("icmp_type", "is required with icmp_code")
	}
}

// octet checks an optional number; -1 when it is not given.
func (c *checker) octet(field string, n *uint32) int16 {
	switch {
	case n == nil:
		return -1
	case *n > 255:
		c.addf(field, "%d is not in 0..255", *n)
		return -1
	default:
		return int16(*n) //nolint:gosec // at most 255
	}
}

// anyPrefix checks a prefix, or an address, of either family.
func (c *checker) anyPrefix(field, s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if ip, ipErr := netip.ParseAddr(s); ipErr == nil && ip.Zone() == "" {
		p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	switch {
	case err != nil:
		c.addf(field, "%q is neither an address nor a CIDR such as 10.0.0.0/24", s)
	case p.Addr().Is4In6():
		c.addf(field, "%q is an IPv4 address written as IPv6: write it as IPv4", s)
	case p != p.Masked():
		c.addf(field, "%q has host bits set; did you mean %s?", s, p.Masked())
	default:
		return p
	}
	return netip.Prefix{}
}

// AddressGroupFrom checks and converts an address group.
func AddressGroupFrom(g *weftv1.AddressGroup) (AddressGroup, error) {
	var c checker
	c.text("description", g.GetDescription())
	out := AddressGroup{ID: c.uuid("id", g.GetId()), Name: c.text("name", g.GetName()), Project: c.project(g.GetProject())}
	if !c.list("addresses", len(g.GetAddresses()), MaxGroupAddresses) {
		return out, c.err()
	}
	seen := map[netip.Prefix]bool{}
	for i, s := range g.GetAddresses() {
		field := fmt.Sprintf("addresses[%d]", i)
		p := c.anyPrefix(field, s)
		if seen[p] && p.IsValid() {
			c.addf(field, "%s stands twice", p)
		}
		seen[p] = true
		out.Addresses = append(out.Addresses, p)
	}
	slices.SortFunc(out.Addresses, ComparePrefixes)
	return out, c.err()
}

// Addresses checks and converts addresses and prefixes, as a member of a security group has them.
func Addresses(in []string) ([]netip.Prefix, error) {
	var c checker
	var out []netip.Prefix
	for i, s := range in {
		out = append(out, c.anyPrefix(fmt.Sprintf("addresses[%d]", i), s))
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// ComparePrefixes orders prefixes by address, then by length.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// security checks what of a port is about its filters.
func (c *checker) security(p *weftv1.Port, out *Port) {
	out.Secure, out.Hybrid = p.GetPortSecurityEnabled(), p.GetVifType() == weftv1.VifType_VIF_TYPE_HYBRID
	if _, known := weftv1.VifType_name[int32(p.GetVifType())]; !known {
		c.addf("vif_type", "must be ovs or hybrid")
	}
	out.Groups = c.groups(p.GetSecurityGroups().GetIds())
	out.Pairs = c.addressPairs(p.GetAllowedAddressPairs(), out.MAC)
	if !out.Secure && len(out.Groups) > 0 {
		c.addf("port_security_enabled", "is false: a port without port security has no security groups")
	}
	if !out.Secure && len(out.Pairs) > 0 {
		c.addf("port_security_enabled", "is false: a port without port security has no allowed_address_pairs")
	}
}

func (c *checker) groups(in []string) []string {
	if !c.list("security_groups.ids", len(in), MaxGroups) {
		return nil
	}
	var out []string
	for i, id := range in {
		field := fmt.Sprintf("security_groups.ids[%d]", i)
		if c.uuid(field, id); slices.Contains(out, id) {
			c.addf(field, "%s stands twice", id)
		}
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (c *checker) addressPairs(in []*weftv1.AddressPair, own string) []AddressPair {
	if !c.list("allowed_address_pairs", len(in), MaxAddressPairs) {
		return nil
	}
	var out []AddressPair
	for i, p := range in {
		at := fmt.Sprintf("allowed_address_pairs[%d]", i)
		pair := AddressPair{Prefix: c.pairPrefix(at+".ip_address", p.GetIpAddress()), MAC: own}
		if p.GetMacAddress() != "" {
			pair.MAC = c.mac(at+".mac_address", p.GetMacAddress())
		}
		if slices.Contains(out, pair) && pair.Prefix.IsValid() {
			c.addf(at, "%s with %s stands twice", pair.Prefix, pair.MAC)
		}
		out = append(out, pair)
	}
	return out
}

// pairPrefix is anyPrefix without what would take a whole family from the filter, or a group's address.
func (c *checker) pairPrefix(field, s string) netip.Prefix {
	p := c.anyPrefix(field, s)
	switch {
	case !p.IsValid():
	case p.Bits() == 0:
		c.addf(field, "%s is every address there is: switch port_security_enabled off if that is meant", p)
	case p.Addr().IsMulticast(), p.Addr() == broadcast, p.Overlaps(loopback), p.Overlaps(thisNetwork):
		c.addf(field, "%s holds addresses that no host can send from (RFC 6890)", p)
	}
	return p
}

// InstanceFrom checks what a VM is to learn of itself.
func InstanceFrom(i *weftv1.Instance) error {
	var c checker
	c.text("instance.id", i.GetId())
	c.hostname("instance.hostname", i.GetHostname())
	if n := len(i.GetUserData()); n > MaxUserDataBytes {
		c.addf("instance.user_data", "is %d bytes long, the limit is %d", n, MaxUserDataBytes)
	}
	c.list("instance.public_keys", len(i.GetPublicKeys()), MaxPublicKeys)
	for n, k := range i.GetPublicKeys() {
		if field := fmt.Sprintf("instance.public_keys[%d]", n); k == "" || len(k) > MaxPublicKeyBytes {
			c.addf(field, "is %d bytes long, the limits are 1 and %d", len(k), MaxPublicKeyBytes)
		} else if strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			c.addf(field, "has a control character; one key is one line")
		}
	}
	c.list("instance.metadata", len(i.GetMetadata()), MaxMetadata)
	for key, value := range i.GetMetadata() {
		c.text(fmt.Sprintf("instance.metadata[%q]", key), key)
		c.text(fmt.Sprintf("instance.metadata[%q]", key), value)
	}
	return c.err()
}
