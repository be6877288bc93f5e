package plan_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Next headers of IPv6 (RFC 8200).
const (
	fragmentHeader     = 44
	destinationOptions = 60
)

// allNodes is the group of all IPv6 nodes of a link.
func allNodes() net.IP { return netip.MustParseAddr("ff02::1").AsSlice() }

// raw6 is an IPv6 packet of alice's to all nodes.
func (w *wired) raw6(src netip.Addr, next uint8, body []byte) []byte {
	w.Helper()
	return w.frame(alice, &layers.Ethernet{SrcMAC: macOf(alice), DstMAC: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6},
		&layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocol(next), SrcIP: src.AsSlice(), DstIP: allNodes()}, gopacket.Payload(body))
}

// discovery is a message of neighbour discovery from alice's own address, with its checksum.
func (w *wired) discovery(kind uint8, body ...[]byte) []byte {
	w.Helper()
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, SrcIP: ip6Of(alice).AsSlice(), DstIP: allNodes()}
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := l.SetNetworkLayerForChecksum(ip); err != nil {
		w.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l, gopacket.Payload(slices.Concat(body...)))
	if err != nil {
		w.Fatal(err)
	}
	return buf.Bytes()
}

// first is the first fragment of what begins so, with the kind of its first header (RFC 8200 section 4.5).
func first(kind uint8, body []byte) []byte {
	return append([]byte{kind, 0, 0, 1, 0, 0, 0, 9}, body...)
}

// link is an option of neighbour discovery (RFC 4861 section 4.6.1).
func link(option uint8, mac net.HardwareAddr) []byte { return append([]byte{option, 1}, mac...) }

// evasions are frames of alice's that say what she may not say in a way that a filter may overlook (RFC 6980, RFC 7113), or of
// which receivers do not look at what a filter may go by.
func (w *wired) evasions() map[string][]byte {
	w.Helper()
	const solicitation, advertisement, routers = 135, 136, 134
	own, bobs, none := macOf(alice), macOf(bob), make([]byte, 4)
	udp := func(from, to layers.UDPPort) []byte {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: ipOf(alice).AsSlice(), DstIP: net.IPv4bcast}
		l := &layers.UDP{SrcPort: from, DstPort: to}
		if err := l.SetNetworkLayerForChecksum(ip); err != nil {
			w.Fatal(err)
		}
		return w.frame(alice, &layers.Ethernet{SrcMAC: own, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}, ip, l, gopacket.Payload("offer"))
	}
	padding := make([]byte, 64)
	options := append([]byte{fragmentHeader, byte((8+len(padding))/8 - 1), 1, byte(len(padding) - 2)}, padding...) // more than a fragment has
	probe := w.arp(alice, layers.ARPRequest, own, netip.IPv4Unspecified())
	copy(probe[38:], ipOf(bob).AsSlice())
	odd := w.arp(alice, layers.ARPReply, own, ipOf(bob))
	odd[18] = 8 // the length of a link's address
	return map[string][]byte{
		"a DHCP offer, from any port":                 udp(6767, 68),
		"a DHCP offer to where a server listens":      w.udp6(6767, 546),
		"a probe for another's address":               probe,
		"ARP about a link of another kind":            odd,
		"a solicitation that says its link twice":     w.raw6(ip6Of(alice), 58, w.discovery(solicitation, none, ip6Of(bob).AsSlice(), link(1, bobs), link(1, bobs))),
		"a solicitation that goes on in a fragment":   w.raw6(ip6Of(alice), fragmentHeader, first(58, w.discovery(solicitation, none, ip6Of(bob).AsSlice(), link(1, bobs))[:24])),
		"an advertisement that goes on in a fragment": w.raw6(ip6Of(alice), fragmentHeader, first(58, w.discovery(advertisement, none, ip6Of(alice).AsSlice(), link(2, bobs))[:24])),
		"an advertisement behind options":             w.raw6(ip6Of(alice), destinationOptions, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, w.discovery(routers, make([]byte, 12))...)),
		"options that go on in a fragment":            w.raw6(ip6Of(alice), fragmentHeader, first(destinationOptions, append([]byte{58}, options[1:48]...))),
		"headers without end":                         w.raw6(ip6Of(alice), destinationOptions, options[:16]),
	}
}

// udp6 is a UDP packet of alice's to all nodes.
func (w *wired) udp6(from, to layers.UDPPort) []byte {
	w.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: ip6Of(alice).AsSlice(), DstIP: allNodes()}
	l := &layers.UDP{SrcPort: from, DstPort: to}
	if err := l.SetNetworkLayerForChecksum(ip); err != nil {
		w.Fatal(err)
	}
	return w.frame(alice, &layers.Ethernet{SrcMAC: macOf(alice), DstMAC: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6}, ip, l, gopacket.Payload("answer"))
}

// honest are frames of alice's like the evasions, with nothing wrong about them.
func (w *wired) honest() map[string][]byte {
	w.Helper()
	none, own := make([]byte, 4), macOf(alice)
	probe := w.arp(alice, layers.ARPRequest, own, netip.IPv4Unspecified())
	copy(probe[38:], ipOf(alice).AsSlice())
	return map[string][]byte{
		"a probe for the own address":     probe,
		"a solicitation":                  w.raw6(ip6Of(alice), 58, w.discovery(135, none, ip6Of(bob).AsSlice(), link(1, own))),
		"a solicitation without its link": w.raw6(ip6Of(alice), 58, w.discovery(135, none, ip6Of(bob).AsSlice())),
		"an advertisement":                w.raw6(ip6Of(alice), 58, w.discovery(136, none, ip6Of(alice).AsSlice(), link(2, own))),
		"a listener's report":             w.raw6(ip6Of(alice), 0, append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, w.discovery(143, none)...)),
	}
}

// TestHostileFramesComeToNobody has alice, whose groups allow everything, send what none may, with conntrack and without.
func TestHostileFramesComeToNobody(t *testing.T) {
	for name, stateful := range map[string]bool{"stateful": true, "stateless": false} {
		t.Run(name, func(t *testing.T) {
			w := newWired(t)
			w.group(group1, stateful, rule(1, false, ""), rule(2, false, "", ipv6), rule(3, true, ""), rule(4, true, "", ipv6))
			w.join(alice, group1)
			w.join(bob, group1)
			w.settle()
			frames := w.hostile()
			maps.Copy(frames, w.evasions())
			if !stateful {
				delete(frames, answerToNothing) // without connections there are no answers
			}
			for what, frame := range frames {
				for n, got := range w.exchange(alice, frame) {
					if len(got) > 0 {
						t.Errorf("%s came to port %d: %x", what, n, got[0])
					}
				}
			}
			w.expect(true, "honest packets", udpTo(alice, bob, 3000, 80), udpTo(alice, bob, 3000, 4789))
			for what, frame := range w.honest() {
				if got := w.exchange(alice, frame); len(got[plain]) != 1 || len(got[uplink]) != 1 {
					t.Errorf("%s came to plain %d times, out %d times", what, len(got[plain]), len(got[uplink]))
				}
			}
		})
	}
}
