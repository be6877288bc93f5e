// Package filtertest is what security groups mean, for tests: a model that tells whether rules let a packet pass, and random
// rules and packets to ask it about. Flows on br-int and iptables on a VM's own bridge are held to the same model by the same
// scenes. It knows of neither, and touches no host; nothing but tests may import it.
//
// A scene is about one VM and one connection's first packet at a time. What passes without a rule, and what none allows, DHCP
// and neighbour discovery, is not in it.
package filtertest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Group is the group of the VM, Friends one that rules refer to, Listed an address group.
const (
	Group   = "f0000001-0000-4000-8000-000000000001"
	Friends = "f0000003-0000-4000-8000-000000000003"
	Listed  = "f0000004-0000-4000-8000-000000000004"
)

// Members are what Friends and Listed hold. Some of it overlaps.
func Members() map[string][]netip.Prefix {
	return map[string][]netip.Prefix{
		Friends: prefixes("10.1.0.11/32", "192.0.2.0/24", "2001:db8::20/128", "fe80::f816:3eff:fe00:1/128"),
		Listed:  prefixes("10.1.0.0/28", "192.0.2.7/32", "198.51.100.0/25", "2001:db8::/64", "fe80::/10"),
	}
}

// Packet begins something: it comes to the VM from somebody remote, or goes there.
type Packet struct {
	Ingress  bool
	Protocol model.Protocol
	// To is the destination port of a protocol with ports, Type and Code are ICMP's.
	To         uint16
	Type, Code uint8
	Remote     netip.Addr
}

func (p Packet) String() string {
	way := "out to"
	if p.Ingress {
		way = "in from"
	}
	return fmt.Sprintf("%s %s, protocol %d, port %d, type %d/%d", way, p.Remote, p.Protocol, p.To, p.Type, p.Code)
}

// Header is what follows a packet's IP header, which is needed for checksums. From is its source port or, of ICMP, the
// identifier: conntrack takes packets with different ones for different connections.
func (p Packet) Header(ip gopacket.NetworkLayer, from uint16) ([]gopacket.SerializableLayer, error) {
	switch p.Protocol {
	case model.ProtocolTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(p.To), SYN: true, Window: 1000}
		return []gopacket.SerializableLayer{l}, l.SetNetworkLayerForChecksum(ip)
	case model.ProtocolUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(p.To)}
		return []gopacket.SerializableLayer{l}, l.SetNetworkLayerForChecksum(ip)
	case model.ProtocolICMP:
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(p.Type, p.Code), Id: from}}, nil
	case model.ProtocolICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(p.Type, p.Code)}
		return []gopacket.SerializableLayer{l, gopacket.Payload(be16(from, 0))}, l.SetNetworkLayerForChecksum(ip)
	default: // ports where there are such, and nothing that a stranger to the protocol would look at
		return []gopacket.SerializableLayer{gopacket.Payload(be16(from, p.To))}, nil
	}
}

func be16(values ...uint16) (out []byte) {
	for _, v := range values {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return out
}

// Begins reports whether conntrack takes the packet for the beginning of something. Of ICMP (RFC 792, RFC 4443) what is no
// request is an answer or an error, to nothing.
func (p Packet) Begins() bool {
	return !p.Protocol.HasTypes() || slices.Contains(requests(p.Remote.Is6()), p.Type)
}

// Allows is the meaning of a port's rules: whether one of them lets a packet pass. Stateful groups allow none that can begin
// nothing.
func Allows(rules []model.Rule, stateful bool, p Packet) bool {
	if stateful && !p.Begins() {
		return false
	}
	return slices.ContainsFunc(rules, func(r model.Rule) bool { return r.Ingress == p.Ingress && fits(r, p) && about(r, p.Remote) })
}

// fits reports whether a rule is about a packet's family, protocol, port, type and code.
func fits(r model.Rule, p Packet) bool {
	switch {
	case r.IPv6 != p.Remote.Is6():
		return false
	case r.Protocol != model.AnyProtocol && r.Protocol != p.Protocol:
		return false
	case r.Protocol.HasPorts() && (p.To < r.Ports.Min || p.To > r.Ports.Max):
		return false
	}
	return (r.Type < 0 || r.Type == int16(p.Type)) && (r.Code < 0 || r.Code == int16(p.Code))
}

// about reports whether a rule is about somebody remote.
func about(r model.Rule, remote netip.Addr) bool {
	if group := r.RemoteGroup + r.RemoteAddressGroup; group != "" {
		return slices.ContainsFunc(Members()[group], func(p netip.Prefix) bool { return p.Contains(remote) })
	}
	return !r.Prefix.IsValid() || r.Prefix.Contains(remote)
}

// Models are rules as agents read them.
func Models(t rapid.TB, rules []*weftv1.SecurityGroupRule) []model.Rule {
	t.Helper()
	var out []model.Rule
	for _, r := range rules {
		m, err := model.RuleFrom(r)
		if err != nil {
			t.Fatalf("rule %s: %v", r, err)
		}
		out = append(out, m)
	}
	return out
}

// fixedScenes is how many scenes are the same each time.
const fixedScenes = 20

// Check holds a property against scenes that are the same for all tests and each time, and against random ones.
func Check(t *testing.T, property func(rapid.TB, Scene)) {
	t.Helper()
	for seed := range fixedScenes {
		property(t, Scenes().Example(seed))
	}
	rapid.Check(t, func(rt *rapid.T) { property(rt, Scenes().Draw(rt, "scene")) })
}
