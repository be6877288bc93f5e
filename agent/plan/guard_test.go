package plan_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// udpTo is a UDP packet.
func udpTo(from, to int, sport, dport uint16) packet {
	return packet{from: from, to: to, protocol: flow.ProtoUDP, sport: sport, dport: dport}
}

// back is what answers a packet.
func (p packet) back() packet {
	p.from, p.to, p.sport, p.dport = p.to, p.from, p.dport, p.sport
	return p
}

// expect wants packets to pass, or not to.
func (w *wired) expect(want bool, what string, packets ...packet) {
	w.Helper()
	for _, p := range packets {
		if w.passes(p) != want {
			w.Errorf("%s: %s: want it to pass: %v", what, p, want)
		}
	}
}

// talkers are alice, who may say anything and is sent nothing, and bob with his own rules.
func talkers(t *testing.T, bobs ...*weftv1.SecurityGroupRule) *wired {
	t.Helper()
	w := newWired(t)
	w.group(group1, true, rule(1, false, ""), rule(2, false, "", ipv6))
	w.group(group2, true, bobs...)
	w.join(alice, group1)
	w.join(bob, group2)
	w.settle()
	return w
}

func TestAnAnswerPassesAsLongAsWhatItAnswersIsAllowed(t *testing.T) {
	dns, web, all := rule(11, true, "udp", ports(53, 53)), rule(12, true, "udp", ports(80, 80)), rule(13, false, "")
	w := talkers(t, dns, web)
	for _, from := range []int{alice, plain, uplink} {
		ask, other := udpTo(from, bob, 3000, 53), udpTo(from, bob, 3001, 80)
		if from == uplink {
			ask, other = fromAfar(ask, "192.0.2.1"), fromAfar(other, "192.0.2.1")
		}
		answer, otherAnswer := backTo(ask), backTo(other)
		w.expect(false, "an answer to nothing", answer)
		w.forget()
		w.expect(true, "both ways", ask, answer, other, otherAnswer)
		w.group(group2, true, web)
		w.settle()
		// Who asked is silent: nothing but the answers is there to be stopped.
		w.expect(false, "after the rule has gone", answer, answer, ask, answer)
		w.expect(true, "what another rule allows", otherAnswer, other)
		w.group(group2, true, dns, web)
		w.settle()
		w.expect(true, "when the rule is back", ask, answer)
		w.group(group2, true, web, all)
		w.settle()
		w.expect(false, "after the rule has gone again, though bob may say anything", answer, ask, answer)
		w.group(group2, true, dns, web)
		w.settle()
		w.forget()
	}
}

// backTo answers a packet, also one from afar.
func backTo(p packet) packet {
	out := p.back()
	out.sender = netip.Addr{}
	if p.from == uplink {
		out.receiver = p.sender
	}
	return out
}

func TestWhatIsRefusedDoesNotMakeAnAnswerOfWhatItsReceiverSays(t *testing.T) {
	w := newWired(t)
	w.group(group1, true, rule(1, false, ""), rule(2, true, ""))
	w.group(group2, true, rule(11, false, ""))
	w.join(alice, group1)
	w.join(bob, group2)
	w.settle()
	there := udpTo(alice, bob, 500, 500)
	w.expect(false, "bob lets nothing in", there, there)
	w.expect(true, "bob may speak, with the same ports", there.back())
	w.expect(true, "and is answered", there)
	w.group(group2, true)
	w.settle()
	w.expect(false, "when bob may not", there.back(), there, there.back())
	gre := packet{from: alice, to: bob, protocol: 47}
	w.group(group2, true, rule(11, false, ""))
	w.settle()
	w.expect(false, "without ports", gre)
	w.expect(true, "without ports", gre.back())
}

func TestErrorsOfAConnectionPassWhileItIsAllowed(t *testing.T) {
	dns := rule(11, true, "udp", ports(53, 53))
	w := talkers(t, dns)
	ask := udpTo(alice, bob, 3000, 53)
	unreachable := func(about packet) bool {
		inner := w.bytes(about, 1)[14 : 14+28]
		from, to := about.addresses()
		got := w.exchange(about.to, w.frame(about.to, &layers.Ethernet{SrcMAC: macOf(about.to), DstMAC: macOf(about.from), EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: to.AsSlice(), DstIP: from.AsSlice()},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)}, gopacket.Payload(inner)))
		return len(got[about.from]) == 1
	}
	if unreachable(ask) {
		t.Error("an error about nothing passed")
	}
	w.expect(true, "the question", ask)
	if !unreachable(ask) {
		t.Error("an error about a connection did not pass")
	}
	w.group(group2, true)
	w.settle()
	if unreachable(ask) {
		t.Error("an error passed about a connection that is no longer allowed")
	}
}

func TestAMemberThatJoinsIsLetInAndOneThatLeavesIsCutAndEachIsOneFlow(t *testing.T) {
	w := newWired(t)
	w.group(group1, true, rule(1, true, "", remoteGroup(friends)))
	w.join(alice, group1)
	for n := range 50 {
		w.member(friends, 100+n, fmt.Sprintf("10.1.9.%d", n))
	}
	w.settle()
	hello := udpTo(plain, alice, 3000, 80)
	w.expect(false, "a stranger", hello)
	w.member(friends, plain, ipOf(plain).String())
	if change := w.plan().Flows[plan.BrInt]; len(change.Adds) != 1 || len(change.Deletes) != 0 {
		t.Errorf("one member more is %d flows to add and %d to delete:\n%s", len(change.Adds), len(change.Deletes), flow.Text(change.Adds, flow.TextOptions{}))
	}
	w.sync()
	w.expect(true, "a member", hello, hello.back())
	w.member(friends, plain)
	if change := w.plan().Flows[plan.BrInt]; len(change.Adds) != 0 || len(change.Deletes) != 1 {
		t.Errorf("one member less is %d flows to add and %d to delete", len(change.Adds), len(change.Deletes))
	}
	w.sync()
	w.expect(false, "who has left", hello.back(), hello)
	w.member(friends, 101, "10.1.9.1", "10.1.0.0/24")
	w.settle()
	w.expect(true, "one whom a member's prefix holds", hello)
}

// sync writes the whole plan.
func (w *wired) sync() {
	w.Helper()
	if _, err := w.conn.Sync(w.Context(), w.planner.Flows(plan.BrInt)); err != nil {
		w.Fatal(err)
	}
	w.settled()
}

func TestFragmentsPassWhereTheirPacketDoesAndNowhereElse(t *testing.T) {
	w := talkers(t, rule(11, true, "udp", ports(53, 53)), rule(12, true, "udp", ports(53, 53), ipv6))
	for _, from := range []int{alice, uplink} {
		p := udpTo(from, bob, 3000, 53)
		p.size = 3000
		if from == uplink {
			p = fromAfar(p, "192.0.2.1")
		}
		if got := w.late(p); len(got) != 3 {
			t.Errorf("from port %d: %d of 3 fragments came", from, len(got))
		}
		w.expect(true, "the answer", backTo(udpToLike(p)))
		closed := p
		closed.dport = 54
		for _, f := range w.late(closed) {
			if strings.Contains(string(f), "weft-test") {
				t.Error("the first fragment of a packet to a closed port came")
			}
		}
		other := p
		other.protocol = 47
		if got := w.late(other); len(got) != 0 {
			t.Errorf("%d fragments of a protocol came that no rule allows", len(got))
		}
	}
}

// late sends a packet in fragments and returns what comes of it, though conntrack holds fragments and others overtake them:
// ARP requests follow until all is there that can be.
func (w *wired) late(p packet) [][]byte {
	w.Helper()
	got := w.exchange(p.from, w.fragments(p)...)[p.to]
	for n := 0; n < 20 && len(got) < 3; n++ {
		got = append(got, w.exchange(p.from)[p.to]...)
	}
	return got
}

// udpToLike is a small packet of the same connection.
func udpToLike(p packet) packet {
	p.size = 0
	return p
}

// fragments is an IPv4 packet of 3,000 octets and more in three frames.
func (w *wired) fragments(p packet) [][]byte {
	w.Helper()
	w.marker++
	whole := w.bytes(p, w.marker)
	head := 14
	if p.from == uplink {
		head = 18
	}
	payload := whole[head+20:]
	src, dst := p.addresses()
	var out [][]byte
	const size = 1400
	for at := 0; at < len(payload); at += size {
		l := &layers.IPv4{Version: 4, TTL: 64, Id: uint16(w.marker), Protocol: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), FragOffset: uint16(at / 8)}
		end := min(at+size, len(payload))
		if end < len(payload) {
			l.Flags = layers.IPv4MoreFragments
		}
		eth := &layers.Ethernet{SrcMAC: macOf(p.from), DstMAC: macOf(p.to), EthernetType: layers.EthernetTypeIPv4}
		out = append(out, w.frame(p.from, eth, l, gopacket.Payload(payload[at:end])))
	}
	return out
}

// answerToNothing is one of the hostile frames.
const answerToNothing = "an answer to nothing"

// hostile are frames of alice's that must come to nobody, though her rules allow her everything.
func (w *wired) hostile() map[string][]byte {
	w.Helper()
	ownMAC, bobs := macOf(alice), macOf(bob)
	ether := func(src, dst net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: kind}
	}
	v4 := func(proto layers.IPProtocol, src, dst netip.Addr) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	v6 := func(src, dst netip.Addr) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	}
	icmp6 := func(src netip.Addr, kind uint8, body ...byte) []byte {
		ip := v6(src, netip.MustParseAddr("ff02::1"))
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			w.Fatal(err)
		}
		return w.frame(alice, ether(ownMAC, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, layers.EthernetTypeIPv6), ip, l, gopacket.Payload(body))
	}
	udp := func(src netip.Addr, from, to layers.UDPPort) []byte {
		ip := v4(layers.IPProtocolUDP, src, netip.MustParseAddr("255.255.255.255"))
		l := &layers.UDP{SrcPort: from, DstPort: to}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			w.Fatal(err)
		}
		return w.frame(alice, ether(ownMAC, layers.EthernetBroadcast, layers.EthernetTypeIPv4), ip, l, gopacket.Payload("hostile"))
	}
	neighbour := func(target netip.Addr, option uint8, mac net.HardwareAddr) []byte {
		return slices.Concat([]byte{0x20, 0, 0, 0}, target.AsSlice(), []byte{option, 1}, mac)
	}
	good := w.bytes(udpTo(alice, bob, 1, 2), 7)
	tagged := func(tags ...uint16) []byte {
		out := slices.Clone(good[:12])
		for i, tag := range tags {
			kind := byte(0x00)
			if i == 0 && len(tags) > 1 {
				out = append(out, 0x88, 0xa8)
			} else {
				out = append(out, 0x81, kind)
			}
			out = append(out, byte(tag>>8), byte(tag))
		}
		return append(out, good[12:]...)
	}
	ping := func(src net.HardwareAddr, ip netip.Addr) []byte {
		return w.frame(alice, ether(src, bobs, layers.EthernetTypeIPv4), v4(layers.IPProtocolICMPv4, ip, ipOf(bob)), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)})
	}
	return map[string][]byte{
		"another's Ethernet address":            ping(bobs, ipOf(alice)),
		"another's address":                     ping(ownMAC, ipOf(plain)),
		"no address":                            ping(ownMAC, netip.IPv4Unspecified()),
		"another's IPv6 address":                icmp6(ip6Of(bob), 128, 0, 0, 0, 0),
		"an ARP reply for another":              w.arp(alice, layers.ARPReply, ownMAC, ipOf(bob)),
		"an ARP request as another":             w.arp(alice, layers.ARPRequest, ownMAC, ipOf(bob)),
		"ARP with another's Ethernet address":   w.arp(alice, layers.ARPRequest, bobs, ipOf(alice)),
		"an ARP reply without an address":       w.arp(alice, layers.ARPReply, ownMAC, netip.IPv4Unspecified()),
		"a DHCP server's offer":                 udp(ipOf(alice), 67, 68),
		"a router's advertisement":              icmp6(ip6Of(alice), 134, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0),
		"a redirect":                            icmp6(ip6Of(alice), 137, make([]byte, 36)...),
		"a query for listeners":                 icmp6(ip6Of(alice), 130, make([]byte, 24)...),
		"an advertisement of another's address": icmp6(ip6Of(alice), 136, neighbour(ip6Of(bob), 2, ownMAC)...),
		"an advertisement of another's link":    icmp6(ip6Of(alice), 136, neighbour(ip6Of(alice), 2, bobs)...),
		"a solicitation from another's link":    icmp6(ip6Of(alice), 135, neighbour(ip6Of(bob), 1, bobs)...),
		"a claim of another's address":          icmp6(netip.IPv6Unspecified(), 135, slices.Concat([]byte{0, 0, 0, 0}, ip6Of(bob).AsSlice())...),
		"an IPv4 redirect":                      w.frame(alice, ether(ownMAC, bobs, layers.EthernetTypeIPv4), v4(layers.IPProtocolICMPv4, ipOf(alice), ipOf(bob)), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(5, 1)}, gopacket.Payload(good[14:])),
		"a tag":                                 tagged(1),
		"the tag of another network":            tagged(2),
		"a priority tag":                        tagged(0),
		"two tags":                              tagged(1, 2),
		"neither IP nor ARP":                    w.frame(alice, ether(ownMAC, bobs, layers.EthernetTypeLinkLayerDiscovery), gopacket.Payload("hostile")),
		"a spanning tree":                       append([]byte{1, 0x80, 0xc2, 0, 0, 0}, append(slices.Clone(ownMAC), 0, 38, 0x42, 0x42, 3, 0)...),
		answerToNothing:                         w.frame(alice, ether(ownMAC, bobs, layers.EthernetTypeIPv4), v4(layers.IPProtocolICMPv4, ipOf(alice), ipOf(bob)), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(0, 0)}),
	}
}

func TestWhatNeedsNoRuleComesAndGoesWithoutOne(t *testing.T) {
	w := newWired(t)
	server := port(40, netVXLAN, id("b", 1), "10.1.0.2", "network:dhcp", netVXLAN, "net1")
	server.MacAddress = macOf(uplink).String()
	w.see(w.store.put(keys.Port(netVXLAN, server.GetId()), server))
	w.join(alice)
	w.join(bob)
	w.settle()
	dhcp := func(from int, src, dst netip.Addr, sport, dport uint16, to net.HardwareAddr) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		l := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		return w.frame(from, &layers.Ethernet{SrcMAC: macOf(from), DstMAC: to, EthernetType: layers.EthernetTypeIPv4}, ip, l, gopacket.Payload("dhcp"))
	}
	nowhere, all := netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")
	for what, c := range map[string]struct {
		from, to int
		frame    []byte
		want     bool
	}{
		"a DHCP request":                      {alice, uplink, dhcp(alice, nowhere, all, 68, 67, layers.EthernetBroadcast), true},
		"a request to the server":             {alice, uplink, dhcp(alice, ipOf(alice), netip.MustParseAddr("10.1.0.2"), 68, 67, macOf(uplink)), true},
		"a request to who is no server":       {alice, plain, dhcp(alice, ipOf(alice), ipOf(plain), 68, 67, macOf(plain)), false},
		"one from no address":                 {alice, plain, dhcp(alice, nowhere, ipOf(plain), 68, 67, macOf(plain)), false},
		"the server's answer":                 {uplink, alice, dhcp(uplink, netip.MustParseAddr("10.1.0.2"), ipOf(alice), 67, 68, macOf(alice)), true},
		"an answer from who is no server":     {plain, alice, dhcp(plain, ipOf(plain), ipOf(alice), 67, 68, macOf(alice)), false},
		"an ARP request":                      {alice, bob, w.arp(alice, layers.ARPRequest, macOf(alice), ipOf(alice)), true},
		"a UDP packet from where DHCP is not": {alice, bob, w.bytes(udpTo(alice, bob, 70, 67), 1), false},
	} {
		if got := w.exchange(c.from, c.frame)[c.to]; (len(got) == 1) != c.want {
			t.Errorf("%s: came %d times, want it to come: %v", what, len(got), c.want)
		}
	}
}

func TestAddressPairsMayBeUsedAndAreSentTo(t *testing.T) {
	w := newWired(t)
	w.group(group1, true, rule(1, false, ""), rule(2, true, ""))
	virtual := net.HardwareAddr{0, 0, 0x5e, 0, 1, 7}
	for _, n := range []int{alice, bob} {
		w.storePort(n, func(p *weftv1.Port) {
			p.PortSecurityEnabled, p.SecurityGroups = proto.Bool(true), &weftv1.SecurityGroupIds{Ids: []string{group1}}
			p.AllowedAddressPairs = []*weftv1.AddressPair{{IpAddress: "10.1.0.100", MacAddress: virtual.String()}, {IpAddress: "10.1.7.0/24"}}
		})
	}
	w.settle()
	from := func(mac net.HardwareAddr, ip string) []byte {
		return w.frame(alice, &layers.Ethernet{SrcMAC: mac, DstMAC: macOf(plain), EthernetType: layers.EthernetTypeIPv4},
			&layers.IPv4{Version: 4, TTL: 64, Protocol: 47, SrcIP: netip.MustParseAddr(ip).AsSlice(), DstIP: ipOf(plain).AsSlice()}, gopacket.Payload("pair"))
	}
	for what, c := range map[string]struct {
		frame []byte
		want  int
	}{
		"a pair":                            {from(virtual, "10.1.0.100"), 1},
		"a prefix with the own address":     {from(macOf(alice), "10.1.7.9"), 1},
		"a pair's address without its MAC":  {from(macOf(alice), "10.1.0.100"), 0},
		"the own address with a pair's MAC": {from(virtual, ipOf(alice).String()), 0},
	} {
		if got := w.exchange(alice, c.frame)[plain]; len(got) != c.want {
			t.Errorf("%s came %d times, want %d", what, len(got), c.want)
		}
	}
	got := w.exchange(plain, w.frame(plain, &layers.Ethernet{SrcMAC: macOf(plain), DstMAC: virtual, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: 47, SrcIP: ipOf(plain).AsSlice(), DstIP: []byte{10, 1, 0, 100}}, gopacket.Payload("pair")))
	if len(got[alice]) != 1 || len(got[bob]) != 1 || len(got[uplink]) != 1 {
		t.Errorf("a frame to the shared address came to %d, %d and %d", len(got[alice]), len(got[bob]), len(got[uplink]))
	}
}

// TestNothingPassesBeforeItsFilters has senders at work while a port is plugged, changes its groups and is unplugged: nothing
// that no rule ever allowed may come through, whenever it was sent.
func TestNothingPassesBeforeItsFilters(t *testing.T) {
	w := newWired(t)
	w.group(group1, true, rule(1, false, "udp", ports(53, 53)), rule(2, true, "udp", ports(53, 53)))
	w.group(group2, false, rule(11, false, "udp", ports(54, 54)), rule(12, true, "udp", ports(54, 54)))
	const forbidden, permitted, last = "weft-test\x00\x00\x00\x01", "weft-test\x00\x00\x00\x02", "this is the last frame"
	seen := map[int]map[string]int{plain: {}, bob: {}}
	var watching, senders errgroup.Group
	for n := range seen {
		watching.Go(func() error {
			return w.sockets[n].each(last, func(frame []byte) {
				for _, mark := range []string{forbidden, permitted} {
					seen[n][mark] += strings.Count(string(frame), mark)
				}
			})
		})
	}
	stop := make(chan struct{})
	for from, frames := range map[int][][]byte{
		plain: {w.bytes(udpTo(plain, bob, 3000, 9), 1), w.bytes(udpTo(plain, bob, 3000, 53), 2), w.bytes(udpTo(plain, bob, 3000, 54), 2)},
		bob:   {w.bytes(udpTo(bob, plain, 3000, 9), 1), w.bytes(packet{from: bob, to: plain, protocol: 17, dport: 53, sender: ipOf(alice)}, 1), w.bytes(udpTo(bob, plain, 3000, 53), 2)},
	} {
		senders.Go(func() error {
			for pace := time.NewTicker(200 * time.Microsecond); ; {
				select {
				case <-stop:
					return nil
				case <-pace.C:
				}
				for _, f := range frames {
					w.sockets[from].send(f)
				}
			}
		})
	}
	unplug := func(there bool) {
		old := w.facts
		w.facts.Plugged = map[string]plan.Plugged{id("c", plain): old.Plugged[id("c", plain)]}
		if there {
			w.facts.Plugged[id("c", bob)] = plan.Plugged{Name: "vm2", OFPort: bob}
		}
		w.planner.MarkFacts(w.view, &old, &w.facts, w.dirty)
		w.write()
	}
	for range 15 {
		unplug(false)
		w.join(bob, group1)
		unplug(true)
		w.join(bob, group2)
		w.write()
		w.join(bob, group1, group2)
		w.write()
		w.join(bob)
		w.write()
	}
	unplug(true)
	w.join(bob, group1)
	w.write()
	close(stop)
	if err := senders.Wait(); err != nil {
		t.Fatal(err)
	}
	for from := range seen {
		w.sockets[from].send(append(w.arp(from, layers.ARPRequest, macOf(from), ipOf(from)), last...))
	}
	if err := watching.Wait(); err != nil {
		t.Fatal(err)
	}
	for n, marks := range seen {
		if marks[forbidden] > 0 || marks[permitted] == 0 {
			t.Errorf("port %d got %d packets that no rule ever allowed, %d others", n, marks[forbidden], marks[permitted])
		}
	}
}

func TestAPortHasNoFlowsWhileItsGroupsAreNotListed(t *testing.T) {
	s := newStore()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	k := id("c", 7)
	n := newNode(s, "cmp1", factsOf("cmp1", "10.31.0.12"))
	plug(&n.facts, 1, 7)
	n.hold = "member/"
	n.follow()
	n.plan()
	n.learn()
	mine := func() int {
		found := 0
		for _, f := range n.planner.Flows(plan.BrInt) {
			if strings.Contains(f.String(), "in_port=107") || strings.Contains(f.String(), "0x6b") {
				found++
			}
		}
		return found
	}
	if n.view.Settled(keyOf(k)) || mine() != 0 {
		t.Errorf("the port has %d flows before the members of a group that its rules refer to are known", mine())
	}
	n.hold = ""
	n.follow()
	n.plan()
	if !n.view.Settled(keyOf(k)) || mine() == 0 {
		t.Error("the port has no flows when everything is known")
	}
	// Other groups take over when they are known too.
	n.hold = "securitygroup/"
	changed := guardedOtherwise(portOf(t, s, k))
	before := flow.Text(n.planner.Flows(plan.BrInt), flow.TextOptions{})
	n.see(s.put(keys.Port(netVXLAN, k), changed))
	n.plan()
	if n.view.Settled(keyOf(k)) || !strings.Contains(before, "conjunction") || mine() == 0 {
		t.Error("the port lost its filters before it has others")
	}
	n.hold = ""
	n.follow()
	n.plan()
	if !n.view.Settled(keyOf(k)) || mine() == 0 {
		t.Error("the port did not get its other filters")
	}
}

func TestARuleThatCannotBeReadAllowsNothingAndTheOthersHold(t *testing.T) {
	dns, web := rule(11, true, "udp", ports(53, 53)), rule(12, true, "udp", ports(80, 80))
	w := talkers(t, dns, web)
	w.see(mirror.Change{Key: keys.Rule(group2, dns.GetId()), Value: []byte("\xff no message"), Revision: 1000})
	w.see(mirror.Change{Key: keys.Rule(group2, id("e", 13)), Value: []byte("\xff no message"), Revision: 1001})
	w.settle()
	w.expect(false, "by the rule that can't be read", udpTo(alice, bob, 3000, 53))
	w.expect(true, "by another", udpTo(alice, bob, 3000, 80))
	if len(w.view.InvalidUnder(keys.Rules(group2))) != 2 {
		t.Error("the rules are not known to be broken")
	}
}

// flowsOf counts the flows of a node with a number of ports in one group of ten rules, one of which refers to a group of so
// many members.
func flowsOf(t *testing.T, vms, members int) (node *node, flows int) {
	t.Helper()
	s := newStore()
	n := newNode(s, "cmp1", factsOf("cmp1", "10.31.0.12"))
	s.put(keys.Network(netVXLAN), network(netVXLAN, "vx", weftv1.NetworkType_NETWORK_TYPE_VXLAN, "", 5001, 1450))
	s.put(keys.SecurityGroup(group1), &weftv1.SecurityGroup{Id: group1, Project: "default"})
	for i := range 10 {
		r := rule(i, true, "tcp", ports(uint32(1000+10*i), uint32(1000+10*i)))
		if i == 0 {
			r = rule(i, true, "tcp", remoteGroup(friends))
		}
		r.SecurityGroupId = group1
		s.put(keys.Rule(group1, r.GetId()), r)
	}
	w := &wired{TB: t, node: n}
	n.follow()
	for i := range members {
		w.member(friends, 1000+i, fmt.Sprintf("10.%d.%d.1", 2+i/256, i%256))
	}
	for i := range vms {
		w.join(10+i, group1)
		plug(&n.facts, 10+i)
	}
	n.facts.OFPorts[plan.PatchTun] = uplink
	n.view.Everything(n.dirty)
	n.plan()
	return n, len(n.planner.Flows(plan.BrInt))
}

func TestFlowsGrowWithPortsRulesAndMembersAndNotWithTheirProducts(t *testing.T) {
	_, none := flowsOf(t, 1, 0)
	_, more := flowsOf(t, 1, 2000)
	_, ports := flowsOf(t, 100, 0)
	n, all := flowsOf(t, 100, 2000)
	t.Logf("1 port: %d flows, with 2,000 members %d; 100 ports: %d, with 2,000 members %d", none, more, ports, all)
	if more-none != 2000 || all-ports != 2000 {
		t.Errorf("2,000 members are %d flows with one port, %d with a hundred; want one each", more-none, all-ports)
	}
	each := (ports - none) / 99
	r := rule(50, true, "udp")
	r.SecurityGroupId = group1
	n.see(n.store.put(keys.Rule(group1, r.GetId()), r))
	if change := n.plan().Flows[plan.BrInt]; len(change.Adds) != 1 || len(change.Deletes) != 0 || each > 25 {
		t.Errorf("a port is %d flows; one rule more for 100 ports is %d flows to add, %d to delete", each, len(change.Adds), len(change.Deletes))
	}
}

// TestOverlappingRangesOfSeveralGroupsGoByThemselves has what CVE-2019-10876 is about: rules of two groups that say the same, or
// in part, come and go without each other.
func TestOverlappingRangesOfSeveralGroupsGoByThemselves(t *testing.T) {
	w := newWired(t)
	few := []*weftv1.SecurityGroupRule{
		rule(11, true, "udp", ports(50, 60)), rule(12, true, "udp", ports(80, 80)), rule(13, true, "udp", ports(100, 200), remoteGroup(friends)),
	}
	others := []*weftv1.SecurityGroupRule{
		rule(21, true, "udp", ports(55, 70)), rule(22, true, "udp", ports(80, 80)), rule(23, true, "udp", ports(100, 200), remoteGroup(friends)),
		rule(24, true, "udp", ports(150, 300), remoteAddresses(listed)), rule(25, true, "udp", ports(190, 190), cidr("10.1.0.0/24")),
	}
	w.member(friends, plain, ipOf(plain).String())
	w.see(w.store.put(keys.AddressGroup(listed), &weftv1.AddressGroup{Id: listed, Project: "default", Addresses: []string{ipOf(plain).String()}}))
	w.group(group1, true, few...)
	w.group(group2, true, others...)
	w.join(bob, group1, group2)
	probe := func(when string, open ...uint16) {
		t.Helper()
		w.settle()
		for _, port := range []uint16{50, 55, 60, 61, 70, 71, 80, 100, 150, 190, 200, 201, 300, 301} {
			w.expect(slices.Contains(open, port), when, udpTo(plain, bob, 3000, port))
			w.forget()
		}
	}
	probe("both groups", 50, 55, 60, 61, 70, 80, 100, 150, 190, 200, 201, 300)
	w.group(group2, true)
	probe("the one", 50, 55, 60, 80, 100, 150, 190, 200)
	w.group(group2, true, others...)
	w.group(group1, true)
	probe("the other", 55, 60, 61, 70, 80, 100, 150, 190, 200, 201, 300)
	w.group(group2, true, others[3:]...)
	probe("what is left", 150, 190, 200, 201, 300)
}
