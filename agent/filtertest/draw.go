package filtertest

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Scene is the group of a VM and packets to ask about.
type Scene struct {
	Stateful bool
	Rules    []*weftv1.SecurityGroupRule
	Packets  []Packet
}

// Scenes draws scenes.
func Scenes() *rapid.Generator[Scene] {
	return rapid.Custom(func(t *rapid.T) Scene {
		s := Scene{Stateful: rapid.Bool().Draw(t, "stateful"), Rules: Rules(Group).Draw(t, "rules")}
		s.Packets = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Packet { return drawPacket(t, s.Stateful) }), 1, 12).Draw(t, "packets")
		return s
	})
}

// Rules draws the rules of a group. All can be told by flows as well as by iptables.
func Rules(group string) *rapid.Generator[[]*weftv1.SecurityGroupRule] {
	return rapid.Custom(func(t *rapid.T) []*weftv1.SecurityGroupRule {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 6).Draw(t, "rules")
		for i, r := range rules {
			r.Id, r.SecurityGroupId = fmt.Sprintf("e%s%02d", group[1:len(group)-2], i), group
		}
		return rules
	})
}

func drawRule(t *rapid.T) *weftv1.SecurityGroupRule {
	ipv6 := rapid.Bool().Draw(t, "ipv6")
	r := &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_EGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV4}
	if rapid.Bool().Draw(t, "ingress") {
		r.Direction = weftv1.Direction_DIRECTION_INGRESS
	}
	if ipv6 {
		r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV6
	}
	switch p := rapid.SampledFrom(append(protocols(), model.AnyProtocol, model.ProtocolSCTP)).Draw(t, "protocol"); {
	case p.HasTypes():
		r.Protocol = icmp(ipv6).String()
		drawTypes(t, r, ipv6)
	case p.HasPorts():
		r.Protocol = p.String()
		if rapid.Bool().Draw(t, "of some ports") {
			a, b := uint32(drawPort(t)), uint32(drawPort(t))
			r.PortMin, r.PortMax = new(min(a, b)), new(max(a, b))
		}
	default:
		r.Protocol = p.String()
	}
	drawRemote(t, r, ipv6)
	return r
}

func drawTypes(t *rapid.T, r *weftv1.SecurityGroupRule, ipv6 bool) {
	if !rapid.Bool().Draw(t, "of a type") {
		return
	}
	r.IcmpType = new(uint32(rapid.SampledFrom(types(ipv6)).Draw(t, "type")))
	if rapid.Bool().Draw(t, "of a code") {
		r.IcmpCode = new(uint32(drawCode(t)))
	}
}

func drawRemote(t *rapid.T, r *weftv1.SecurityGroupRule, ipv6 bool) {
	switch rapid.IntRange(0, 4).Draw(t, "remote") {
	case 0:
		some := prefixes("10.1.0.0/24", "10.1.0.12/32", "192.0.2.0/25", "0.0.0.0/0")
		if ipv6 {
			some = prefixes("fe80::/64", "fe80::f816:3eff:fe00:2/128", "2001:db8::21/128", "::/0")
		}
		r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: rapid.SampledFrom(some).Draw(t, "prefix").String()}
	case 1, 2:
		r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: Friends}
	case 3:
		r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: Listed}
	}
}

// drawPacket leaves out what conntrack takes for an error, if it is asked: port 0, and codes of ICMP requests.
func drawPacket(t *rapid.T, stateful bool) Packet {
	p := Packet{
		Ingress: rapid.Bool().Draw(t, "ingress"), Protocol: rapid.SampledFrom(protocols()).Draw(t, "protocol"), To: drawPort(t),
		Remote: rapid.SampledFrom(remotes()).Draw(t, "remote"),
	}
	if p.Protocol == model.ProtocolICMP {
		p.Protocol = icmp(p.Remote.Is6())
	}
	p.Type, p.Code = rapid.SampledFrom(types(p.Remote.Is6())).Draw(t, "type"), drawCode(t)
	if stateful {
		p.To, p.Code = max(1, p.To), 0
	}
	return p
}

// Port draws one of the ports that rules begin and end with, and those beside them.
func Port() *rapid.Generator[uint16] {
	return rapid.SampledFrom([]uint16{0, 1, 22, 79, 80, 81, 1023, 1024, 5000, 65535})
}

func drawPort(t *rapid.T) uint16 { return Port().Draw(t, "port") }

func drawCode(t *rapid.T) uint8 { return rapid.SampledFrom([]uint8{0, 1, 255}).Draw(t, "code") }

// Request draws a type of ICMP that begins something in the eyes of conntrack.
func Request(ipv6 bool) *rapid.Generator[uint8] { return rapid.SampledFrom(requests(ipv6)) }

func requests(ipv6 bool) []uint8 {
	if ipv6 {
		return []uint8{128} // echo
	}
	return []uint8{8, 13} // echo, time stamp
}

// types are requests, an answer or an error, and the last that there is.
func types(ipv6 bool) []uint8 {
	if ipv6 {
		return append(requests(true), 1, 255)
	}
	return append(requests(false), 0, 255)
}

func icmp(ipv6 bool) model.Protocol {
	if ipv6 {
		return model.ProtocolICMPv6
	}
	return model.ProtocolICMP
}

// protocols are those of packets; ICMP stands for that of the family. Two are unknown to conntrack.
func protocols() []model.Protocol {
	return []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolUDP, model.ProtocolICMP, 112, 253}
}

// remotes are members of one group or the other, of both, and of none.
func remotes() []netip.Addr {
	var out []netip.Addr
	for _, s := range []string{
		"10.1.0.77", "10.1.0.3", "10.1.0.12", "192.0.2.7", "192.0.2.200", "198.51.100.1", "203.0.113.9",
		"2001:db8::20", "2001:db8::21", "2001:db8:1::1", "fe80::77", "fd00::1",
	} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(of ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range of {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
