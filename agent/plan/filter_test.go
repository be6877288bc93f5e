package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The groups of these tests: two that ports are in, one that rules refer to, and an address group.
var group1, group2, friends, listed = id("f", 1), id("f", 2), id("f", 3), id("f", 4)

// What the group and the address group hold that rules refer to. Some of it overlaps.
var holds = map[string][]string{
	friends: {"10.1.0.11", "192.0.2.0/24", "fe80::f816:3eff:fe00:1"},
	listed:  {"10.1.0.0/28", "192.0.2.7", "198.51.100.0/25", "fe80::/10"},
}

// rule makes a rule; with changes it.
func rule(n int, ingress bool, protocol string, with ...func(*weftv1.SecurityGroupRule)) *weftv1.SecurityGroupRule {
	r := &weftv1.SecurityGroupRule{Id: id("e", n), Protocol: protocol, Direction: weftv1.Direction_DIRECTION_EGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV4}
	if ingress {
		r.Direction = weftv1.Direction_DIRECTION_INGRESS
	}
	for _, f := range with {
		f(r)
	}
	return r
}

func ports(lowest, highest uint32) func(*weftv1.SecurityGroupRule) {
	return func(r *weftv1.SecurityGroupRule) { r.PortMin, r.PortMax = &lowest, &highest }
}

func cidr(s string) func(*weftv1.SecurityGroupRule) {
	return func(r *weftv1.SecurityGroupRule) {
		r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: s}
	}
}

func remoteGroup(id string) func(*weftv1.SecurityGroupRule) {
	return func(r *weftv1.SecurityGroupRule) {
		r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: id}
	}
}

func remoteAddresses(id string) func(*weftv1.SecurityGroupRule) {
	return func(r *weftv1.SecurityGroupRule) {
		r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: id}
	}
}

func ipv6(r *weftv1.SecurityGroupRule) { r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV6 }

// allowed is the meaning of rules: whether one of them lets a packet begin something, seen from the port.
func allowed(t testing.TB, rules []*weftv1.SecurityGroupRule, ingress bool, p packet) bool {
	t.Helper()
	from, to := p.addresses()
	far := to
	if ingress {
		far = from
	}
	return slices.ContainsFunc(rules, func(stored *weftv1.SecurityGroupRule) bool {
		r, err := model.RuleFrom(stored)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case r.Ingress != ingress, r.IPv6 != p.ipv6:
			return false
		case r.Protocol != model.AnyProtocol && uint8(r.Protocol) != p.protocol:
			return false
		case r.Ports != model.AllPorts() && (p.dport < r.Ports.Min || p.dport > r.Ports.Max):
			return false
		case r.Type >= 0 && r.Type != int16(p.kind), r.Code >= 0 && r.Code != int16(p.code):
			return false
		}
		if id := r.RemoteGroup + r.RemoteAddressGroup; id != "" {
			return slices.ContainsFunc(holds[id], func(s string) bool { return in(s, far) })
		}
		return !r.Prefix.IsValid() || r.Prefix.Contains(far)
	})
}

func in(s string, ip netip.Addr) bool {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.MustParseAddr(s) == ip
	}
	return p.Contains(ip)
}

// guest is a port of a random scene.
type guest struct {
	stateful bool
	rules    []*weftv1.SecurityGroupRule
}

func drawRule(t *rapid.T) *weftv1.SecurityGroupRule {
	six := rapid.Bool().Draw(t, "ipv6")
	icmp, families := "icmp", []string{"10.1.0.0/24", "10.1.0.12", "192.0.2.0/25", "0.0.0.0/0"}
	if six {
		icmp, families = "ipv6-icmp", []string{"fe80::/64", "::/0", "fe80::f816:3eff:fe00:2"}
	}
	r := rule(1, rapid.Bool().Draw(t, "ingress"), rapid.SampledFrom([]string{"", "tcp", "udp", "udp", icmp, "47", "sctp"}).Draw(t, "protocol"))
	if six {
		ipv6(r)
	}
	switch r.GetProtocol() {
	case "tcp", "udp":
		if rapid.Bool().Draw(t, "ports") {
			a, b := drawPort(t), drawPort(t)
			ports(uint32(min(a, b)), uint32(max(a, b)))(r)
		}
	case icmp:
		if rapid.Bool().Draw(t, "type") {
			r.IcmpType = proto.Uint32(uint32(drawEcho(t, six)))
			if rapid.Bool().Draw(t, "code") {
				r.IcmpCode = proto.Uint32(rapid.Uint32Range(0, 1).Draw(t, "code"))
			}
		}
	}
	switch rapid.IntRange(0, 4).Draw(t, "remote") {
	case 0:
		cidr(rapid.SampledFrom(families).Draw(t, "cidr"))(r)
	case 1, 2:
		remoteGroup(friends)(r)
	case 3:
		remoteAddresses(listed)(r)
	}
	return r
}

func drawPort(t *rapid.T) uint16 {
	return rapid.SampledFrom([]uint16{0, 1, 22, 79, 80, 81, 1023, 1024, 5000, 65535}).Draw(t, "port")
}

// drawEcho draws a type of a packet that can begin something in the eyes of conntrack.
func drawEcho(t *rapid.T, six bool) uint8 {
	if six {
		return 128
	}
	return rapid.SampledFrom([]uint8{8, 13}).Draw(t, "type")
}

func drawPacket(t *rapid.T) packet {
	p := packet{
		from: rapid.SampledFrom([]int{alice, bob, plain, uplink}).Draw(t, "from"), ipv6: rapid.Bool().Draw(t, "ipv6"),
		protocol: rapid.SampledFrom([]uint8{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDP, flow.ProtoICMP, 47, 112}).Draw(t, "protocol"),
		sport:    rapid.Uint16Range(1025, 65000).Draw(t, "from port"), dport: max(1, drawPort(t)), // conntrack takes port 0 for an error, and codes of echoes
	}
	p.to = rapid.SampledFrom(slices.DeleteFunc([]int{alice, bob, plain}, func(n int) bool { return n == p.from })).Draw(t, "to")
	p.kind = drawEcho(t, p.ipv6)
	if p.ipv6 && p.protocol == flow.ProtoICMP {
		p.protocol = flow.ProtoICMPv6
	}
	if p.from == uplink {
		p.sender = netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.0.77", "10.1.0.3", "192.0.2.7", "192.0.2.200", "198.51.100.1", "203.0.113.9"}).Draw(t, "sender"))
		if p.ipv6 {
			p.sender = netip.MustParseAddr(rapid.SampledFrom([]string{"fe80::77", "fd00::1"}).Draw(t, "sender"))
		}
	}
	return p
}

// TestRandomRulesJudgeRandomPacketsAsTheModelDoes sends real packets through real flows, and asks Open vSwitch about some of
// them besides.
func TestRandomRulesJudgeRandomPacketsAsTheModelDoes(t *testing.T) {
	w := newWired(t)
	w.see(w.store.put(keys.AddressGroup(listed), &weftv1.AddressGroup{Id: listed, Project: "default", Addresses: holds[listed]}))
	w.member(friends, 50, holds[friends]...)
	rapid.Check(t, func(rt *rapid.T) {
		guests := map[int]guest{}
		for _, n := range []int{alice, bob} {
			g := map[int]string{alice: group1, bob: group2}[n]
			guests[n] = guest{rapid.Bool().Draw(rt, "stateful"), rapid.SliceOfN(rapid.Custom(drawRule), 0, 6).Draw(rt, "rules")}
			for i, r := range guests[n].rules {
				r.Id = id("e", 10*n+i)
			}
			w.group(g, guests[n].stateful, guests[n].rules...)
			w.join(n, g)
		}
		w.write()
		w.forget()
		for i, p := range rapid.SliceOfN(rapid.Custom(drawPacket), 1, 12).Draw(rt, "packets") {
			p.sport += uint16(i) // each begins something of its own
			from, to := guests[p.from], guests[p.to]
			_, guardedFrom := guests[p.from]
			_, guardedTo := guests[p.to]
			want := (!guardedFrom || allowed(t, from.rules, false, p)) && (!guardedTo || allowed(t, to.rules, true, p))
			if p.protocol != flow.ProtoTCP && p.protocol != flow.ProtoUDP {
				w.forget() // what has no ports is one connection both ways
			}
			if got := w.passes(p); got != want {
				rt.Errorf("%s: passed %v, the model says %v; rules of the sender:\n%s\nof the receiver:\n%s", p, got, want, texts(from.rules), texts(to.rules))
			}
			if i%4 != 0 {
				continue
			}
			if out, text := w.trace(p); slices.Contains(out, p.to) != want {
				rt.Errorf("%s: the model says %v, Open vSwitch that it would go to %v:\n%s", p, want, out, text)
			}
		}
	})
}

func texts(rules []*weftv1.SecurityGroupRule) string {
	var out string
	for _, r := range rules {
		out += fmt.Sprintln(r)
	}
	return out
}

func keyOf(port string) view.PortKey { return view.PortKey{Network: netVXLAN, Port: port} }

// portOf reads a port of the VXLAN network back.
func portOf(t *testing.T, s *storeSim, id string) *weftv1.Port {
	t.Helper()
	p := &weftv1.Port{}
	if err := proto.Unmarshal(s.entries[keys.Port(netVXLAN, id)].Value, p); err != nil {
		t.Fatal(err)
	}
	return p
}
