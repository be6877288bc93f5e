package host_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weft-sdn/weft/proto/model"
)

// halves are a UDP datagram from somebody remote as two fragments, with two numbers in their payloads.
func (s *site) halves(remote netip.Addr, to uint16, numbers [2]uint32) [2][]byte {
	s.Helper()
	near := vmIP
	if remote.Is6() {
		near = vmIP6
	}
	v4 := &layers.IPv4{Version: 4, TTL: 64, Id: uint16(numbers[0]), Protocol: layers.IPProtocolUDP, SrcIP: remote.AsSlice(), DstIP: near.AsSlice()} //nolint:gosec // any
	v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6Fragment, SrcIP: remote.AsSlice(), DstIP: near.AsSlice()}
	var ip gopacket.NetworkLayer = v4
	if remote.Is6() {
		ip = v6
	}
	udp := &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(to)}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		s.Fatal(err)
	}
	piece := func(number uint32) []byte {
		return append(binary.BigEndian.AppendUint32([]byte(mark), number), 0, 0, 0)
	} // 16 octets
	whole := s.bytes(udp, gopacket.Payload(append(piece(numbers[0]), piece(numbers[1])...)))
	var out [2][]byte
	const size = 8 + 16
	for i, part := range [][]byte{whole[:size], whole[size:]} {
		eth := &layers.Ethernet{SrcMAC: hw(s.TB, farMAC), DstMAC: hw(s.TB, vmMAC), EthernetType: layers.EthernetTypeIPv4}
		if remote.Is6() {
			eth.EthernetType = layers.EthernetTypeIPv6
			header := binary.BigEndian.AppendUint16([]byte{byte(layers.IPProtocolUDP), 0}, uint16(i*size|(1-i))) //nolint:gosec // RFC 8200 section 4.5
			out[i] = s.bytes(eth, v6, gopacket.Payload(append(binary.BigEndian.AppendUint32(header, numbers[0]), part...)))
			continue
		}
		v4.FragOffset, v4.Flags = uint16(i*size/8), []layers.IPv4Flag{layers.IPv4MoreFragments, 0}[i] //nolint:gosec // small
		out[i] = s.bytes(eth, v4, gopacket.Payload(part))
	}
	return out
}

// bytes puts layers together.
func (s *site) bytes(l ...gopacket.SerializableLayer) []byte {
	s.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		s.Fatal(err)
	}
	return buf.Bytes()
}

func TestAFragmentedPacketPassesAsAWholeOneDoes(t *testing.T) {
	s := newSite(t)
	number := uint32(1)
	for _, stateful := range []bool{false, true} {
		v6 := in(model.ProtocolUDP, 53, 53)
		v6.IPv6 = true
		s.apply(filters(stateful, in(model.ProtocolUDP, 53, 53), v6))
		for _, remote := range []netip.Addr{remotes[0], remotes[4]} {
			for to, want := range map[uint16]bool{53: true, 54: false} {
				for _, f := range s.halves(remote, to, [2]uint32{number, number + 1}) {
					s.sock.send(f)
				}
				last := arp(number + 2)
				s.sock.send(last)
				if got := s.vmSock.until(last); got[number] != want || got[number+1] != want {
					t.Errorf("stateful %v, from %s to port %d: the first half passed %v, the second %v", stateful, remote, to, got[number], got[number+1])
				}
				number += 3
			}
		}
	}
}
