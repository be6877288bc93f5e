package dhcp_test

import (
	"bytes"
	"context"
	"net"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// say has the client's link send messages as they are, to whoever serves.
func (s *site) say(messages ...*dhcpv4.DHCPv4) {
	s.t.Helper()
	var conn net.PacketConn
	err := s.ns.Run(s.client, func() (err error) {
		conn, err = nclient4.NewRawUDPConn("eth0", nclient4.ClientPort)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	for _, m := range messages {
		if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ServerPort}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// message is one of a client's.
func message(t *testing.T, kind dhcpv4.MessageType, mac string, with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(hw), dhcpv4.WithBroadcast(true)}, with...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// withOptions gives a message options of one content.
func withOptions(codes []uint8, content []byte) []dhcpv4.Modifier {
	var out []dhcpv4.Modifier
	for _, code := range codes {
		out = append(out, dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), content))
	}
	return out
}

// TestWhatClientsSayOfThemselvesDoesNotEndDnsmasq has clients, known and unknown, send every option that dnsmasq reads at its
// greatest length, and longer, with everything in it that text could hold (CVE-2026-4892).
func TestWhatClientsSayOfThemselvesDoesNotEndDnsmasq(t *testing.T) {
	s := newSite(t)
	pid := s.ensure(s.want(macA, macB))
	options := []uint8{12, 15, 43, 50, 54, 55, 56, 60, 61, 66, 67, 77, 81, 82, 90, 93, 94, 97, 118, 119, 124, 125, 150, 175, 220}
	texts := map[string][]byte{
		"letters": bytes.Repeat([]byte("a"), 255), "zeros": make([]byte, 255), "dots": bytes.Repeat([]byte("."), 255), "high": bytes.Repeat([]byte{0xff}, 255),
		"formats": bytes.Repeat([]byte("%n%s"), 63), "lines": bytes.Repeat([]byte("\n,#\""), 63), "lengths": bytes.Repeat([]byte{1, 254}, 127), "two options": bytes.Repeat([]byte("b"), 510),
		"empty": {}, "one": {0xff},
	}
	for what, text := range texts {
		var hostile []*dhcpv4.DHCPv4
		for _, mac := range []string{macA, "fa:16:3e:66:66:66"} {
			for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease} {
				for several := range slices.Chunk(options, 2) { // more than two do not fit into a frame
					hostile = append(hostile, message(t, kind, mac, withOptions(several, text)...))
				}
			}
		}
		s.say(hostile...)
		// Whom it knows gets as far as a lease, under such a name and identifier.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		got, err := s.dial(macB).Request(ctx, append(withOptions([]uint8{12, 61}, text), dhcpv4.WithBroadcast(true))...)
		cancel()
		if err != nil || got.ACK.YourIPAddr.String() != addrB {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	if got := s.lease(macA).ACK.YourIPAddr.String(); got != addrA || s.pid() != pid {
		t.Errorf("afterwards macA gets %s from process %d, want %s from %d", got, s.pid(), addrA, pid)
	}
	select {
	case e := <-s.Exits():
		t.Errorf("ended: %+v", e)
	default:
	}
}
