package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/filtertest"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The groups of these tests: two that ports are in, one that rules refer to, and an address group.
var group1, group2, friends, listed = id("f", 1), id("f", 2), filtertest.Friends, filtertest.Listed

// holds are the addresses of the group or the address group that rules refer to.
func holds(id string) []string {
	var out []string
	for _, p := range filtertest.Members()[id] {
		out = append(out, p.String())
	}
	return out
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

// guest is a port of a random scene.
type guest struct {
	stateful bool
	rules    []*weftv1.SecurityGroupRule
}

// allows is what the model says of a packet seen from the guest's port.
func (g guest) allows(t rapid.TB, ingress bool, p packet) bool {
	t.Helper()
	from, to := p.addresses()
	asked := filtertest.Packet{Ingress: ingress, Protocol: model.Protocol(p.protocol), To: p.dport, Type: p.kind, Code: p.code, Remote: to}
	if ingress {
		asked.Remote = from
	}
	return filtertest.Allows(filtertest.Models(t, g.rules), g.stateful, asked)
}

// knowing is a wired node that knows of the groups that rules refer to.
func knowing(t *testing.T) *wired {
	t.Helper()
	w := newWired(t)
	w.see(w.store.put(keys.AddressGroup(listed), &weftv1.AddressGroup{Id: listed, Project: "default", Addresses: holds(listed)}))
	w.member(friends, 50, holds(friends)...)
	return w
}

// judged sends a packet through the flows, and wants it to fare as the model says; with traced, Open vSwitch is asked besides.
func (w *wired) judged(t rapid.TB, p packet, want, traced bool, rules ...[]*weftv1.SecurityGroupRule) {
	t.Helper()
	if p.protocol != flow.ProtoTCP && p.protocol != flow.ProtoUDP {
		w.forget() // what has no ports is one connection both ways
	}
	if got := w.passes(p); got != want {
		t.Errorf("%s: passed %v, the model says %v; rules:\n%s", p, got, want, texts(rules))
	}
	if !traced {
		return
	}
	if out, text := w.trace(p); slices.Contains(out, p.to) != want {
		t.Errorf("%s: the model says %v, Open vSwitch that it would go to %v:\n%s", p, want, out, text)
	}
}

// TestFlowsMeetTheModelsVerdict has alice in a group. Who is remote is beyond the tunnels, or stands where plain is.
func TestFlowsMeetTheModelsVerdict(t *testing.T) {
	w := knowing(t)
	w.join(alice, group1)
	filtertest.Check(t, func(rt rapid.TB, s filtertest.Scene) {
		rt.Helper()
		w.group(group1, s.Stateful, s.Rules...)
		w.write()
		w.forget()
		for i, asked := range s.Packets {
			p := packet{
				from: alice, to: plain, ipv6: asked.Remote.Is6(), protocol: uint8(asked.Protocol), sport: uint16(2000 + i), dport: asked.To, //nolint:gosec // few, 0 to 255
				kind: asked.Type, code: asked.Code, receiver: asked.Remote,
			}
			if asked.Ingress {
				p.from, p.to, p.sender, p.receiver = uplink, alice, asked.Remote, netip.Addr{}
			}
			traced := i%4 == 0 && asked.Begins() // ofproto/trace does not ask conntrack, and is told that all does
			w.judged(rt, p, filtertest.Allows(filtertest.Models(rt, s.Rules), s.Stateful, asked), traced, s.Rules)
		}
	})
}

func drawPacket(t *rapid.T) packet {
	p := packet{
		from: rapid.SampledFrom([]int{alice, bob, plain, uplink}).Draw(t, "from"), ipv6: rapid.Bool().Draw(t, "ipv6"),
		protocol: rapid.SampledFrom([]uint8{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDP, flow.ProtoICMP, 47, 112}).Draw(t, "protocol"),
		sport:    rapid.Uint16Range(1025, 65000).Draw(t, "from port"), dport: max(1, filtertest.Port().Draw(t, "port")), // conntrack takes port 0 for an error, and codes of echoes
	}
	p.to = rapid.SampledFrom(slices.DeleteFunc([]int{alice, bob, plain}, func(n int) bool { return n == p.from })).Draw(t, "to")
	p.kind = filtertest.Request(p.ipv6).Draw(t, "type")
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

// TestPacketsBetweenGuardedPortsMeetTheVerdictsOfBoth has two ports of the node in groups, whose packets meet the rules of both.
func TestPacketsBetweenGuardedPortsMeetTheVerdictsOfBoth(t *testing.T) {
	w := knowing(t)
	rapid.Check(t, func(rt *rapid.T) {
		guests := map[int]guest{}
		for _, n := range []int{alice, bob} {
			g := map[int]string{alice: group1, bob: group2}[n]
			guests[n] = guest{rapid.Bool().Draw(rt, "stateful"), filtertest.Rules(g).Draw(rt, "rules")}
			w.group(g, guests[n].stateful, guests[n].rules...)
			w.join(n, g)
		}
		w.write()
		w.forget()
		for i, p := range rapid.SliceOfN(rapid.Custom(drawPacket), 1, 12).Draw(rt, "packets") {
			p.sport += uint16(i) // each begins something of its own
			from, guardedFrom := guests[p.from]
			to, guardedTo := guests[p.to]
			want := (!guardedFrom || from.allows(rt, false, p)) && (!guardedTo || to.allows(rt, true, p))
			w.judged(rt, p, want, i%4 == 0, from.rules, to.rules)
		}
	})
}

func texts(groups [][]*weftv1.SecurityGroupRule) string {
	var out string
	for _, r := range slices.Concat(groups...) {
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
