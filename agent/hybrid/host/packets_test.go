package host_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/filtertest"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/hybrid/host"
	"github.com/weft-sdn/weft/agent/netns"
	"github.com/weft-sdn/weft/proto/model"
)

const (
	portID   = "c0000001-0000-4000-8000-000000000001"
	groupID  = filtertest.Group
	remoteID = filtertest.Friends
	vmMAC    = "fa:16:3e:00:00:01"
	farMAC   = "fa:16:3e:00:00:99"
)

var (
	vmIP, vmIP6 = netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("2001:db8::10")
	members     = []netip.Prefix{netip.MustParsePrefix("10.0.0.20/32"), netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("2001:db8::20/128")}
	remotes     = []netip.Addr{
		netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("10.0.0.21"), netip.MustParseAddr("10.9.1.1"), netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("2001:db8::20"), netip.MustParseAddr("2001:db8::21"), netip.MustParseAddr("2001:db8:1::1"),
	}
)

// packet is what a test sends: to the VM or from it, to or from somebody remote.
type packet struct {
	ingress    bool
	protocol   model.Protocol
	from, to   uint16 // ports
	kind, code uint8  // of ICMP
	remote     netip.Addr
	// source is what the VM sends from; the zero value is its own. sourceMAC is the sender's if empty.
	source    netip.Addr
	sourceMAC string
	// destinationMAC is the far end's if empty; of what the VM sends.
	destinationMAC string
}

// site is a host with one VM, plugged the hybrid way, and a far end in br-int's place.
type site struct {
	testing.TB
	*host.Driver
	ns            *netns.Manager
	host, vm, far string
	vmSock, sock  *endpoint
}

func newSite(t testing.TB) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{TB: t, ns: m}
	for _, name := range []*string{&s.host, &s.vm, &s.far} {
		*name = "qrouter-" + uuid.NewString()
		if _, err := m.Prepare(context.Background(), desired.Namespace{Name: *name, Sysctls: map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Delete(context.Background(), *name); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
	}
	s.wire()
	s.Driver = s.driver()
	return s
}

// driver is a new one, as a restarted agent has.
func (s *site) driver() *host.Driver {
	s.Helper()
	d, err := host.New(context.Background(), host.Options{Enter: func(fn func() error) error { return s.ns.Run(s.host, fn) }})
	if err != nil {
		s.Fatal(err)
	}
	return d
}

func (s *site) wire() {
	s.Helper()
	ip := func(argv ...string) { s.command("ip", argv...) }
	ip("-n", s.host, "link", "add", "qbr", "type", "bridge", "forward_delay", "0")
	ip("-n", s.host, "link", "set", "qbr", "up")
	for _, w := range []struct{ device, peer, ns, mac string }{{"tapvm", "eth0", s.vm, vmMAC}, {"qvb", "qvo", s.far, farMAC}} {
		ip("-n", s.host, "link", "add", w.device, "type", "veth", "peer", "name", w.peer, "netns", s.namespaceOf(w.ns), "address", w.mac)
		ip("-n", s.host, "link", "set", w.device, "master", "qbr", "up")
		ip("-n", w.ns, "link", "set", w.peer, "up")
	}
	s.vmSock, s.sock = s.endpoint(s.vm, "eth0"), s.endpoint(s.far, "qvo")
}

// namespaceOf is a namespace as ip wants it named for a peer: its path.
func (s *site) namespaceOf(name string) string { return "/run/netns/" + name }

func (s *site) command(name string, argv ...string) {
	s.Helper()
	s.output(name, argv...)
}

func (s *site) output(name string, argv ...string) string {
	s.Helper()
	out, err := exec.Command(name, argv...).CombinedOutput()
	if err != nil {
		s.Fatalf("%s %v: %v: %s", name, argv, err, out)
	}
	return string(out)
}

func (s *site) in(ns string, do func() error) {
	s.Helper()
	if err := s.ns.Run(ns, do); err != nil {
		s.Fatal(err)
	}
}

func (s *site) apply(f hybrid.Filters) {
	s.Helper()
	f.ProtocolNames = host.ProtocolNames()
	if err := s.Apply(context.Background(), &f); err != nil {
		s.Fatal(err)
	}
}

// whole wants the host to be as planned, as a driver sees it that remembers nothing.
func (s *site) whole(f hybrid.Filters) {
	s.Helper()
	for _, d := range s.differences(f) {
		s.Errorf("not as planned: %v", d)
	}
}

func (s *site) differences(f hybrid.Filters) []desired.Difference {
	s.Helper()
	f.ProtocolNames = host.ProtocolNames()
	found, err := s.driver().Diff(context.Background(), &f)
	if err != nil {
		s.Fatal(err)
	}
	return found
}

func filters(stateful bool, rules ...model.Rule) hybrid.Filters {
	own := func(ip netip.Addr) model.AddressPair {
		return model.AddressPair{Prefix: netip.PrefixFrom(ip, ip.BitLen()), MAC: vmMAC}
	}
	return hybrid.Filters{
		Ports: []hybrid.Port{{
			ID: portID, Tap: "tapvm", Out: "qvb", Zone: 7, Groups: []string{groupID}, Stateful: stateful, Servers: []string{farMAC},
			Sources: []model.AddressPair{own(vmIP), own(vmIP6)},
		}},
		Rules: map[string][]model.Rule{groupID: rules}, Members: map[string][]netip.Prefix{remoteID: members},
	}
}

// endpoint is a raw socket on a link.
type endpoint struct {
	testing.TB
	fd, index int
}

func (s *site) endpoint(ns, link string) *endpoint {
	s.Helper()
	e := &endpoint{TB: s.TB}
	s.in(ns, func() error {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		at, err := net.InterfaceByName(link)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		e.fd, e.index = fd, at.Index
		patience := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: at.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	})
	s.Cleanup(func() { _ = unix.Close(e.fd) })
	return e
}

func (e *endpoint) send(frame []byte) {
	e.Helper()
	if err := unix.Sendto(e.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: e.index, Halen: 6}); err != nil {
		e.Fatal(err)
	}
}

// until reads frames until one is last, and returns the marks of those before it.
func (e *endpoint) until(last []byte) map[uint32]bool {
	e.Helper()
	got, buf := map[uint32]bool{}, make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(e.fd, buf, 0)
		if err != nil {
			e.Fatalf("the last frame did not come: %v", err)
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if slices.Equal(buf[:min(n, len(last))], last) {
			return got
		}
		if _, after, ok := strings.Cut(string(buf[:n]), mark); ok && len(after) >= 4 {
			got[binary.BigEndian.Uint32([]byte(after))] = true
		}
	}
}

// mark precedes the number of a packet in its payload.
const mark = "weft-test"

// pass sends packets of connections that nobody knows yet, all in one direction, and tells which arrived.
func (s *site) pass(ingress bool, packets []packet, number *uint32) []bool {
	s.Helper()
	s.in(s.host, func() error { // of protocols without ports the way back looks like the way there
		return netlink.ConntrackTableFlush(netlink.ConntrackTable)
	})
	return s.passOn(ingress, packets, number)
}

// passOn is pass beside the connections that are there. An ARP frame, which always passes, follows the packets.
func (s *site) passOn(ingress bool, packets []packet, number *uint32) []bool {
	s.Helper()
	from, to := s.vmSock, s.sock
	if ingress {
		from, to = to, from
	}
	first := *number
	for _, p := range packets {
		*number++
		from.send(frame(s.TB, p, *number))
	}
	*number++
	last := arp(*number)
	from.send(last)
	got := to.until(last)
	out := make([]bool, len(packets))
	for i := range packets {
		out[i] = got[first+1+uint32(i)] //nolint:gosec // few
	}
	return out
}

func hw(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// arp is a frame of 60 octets with a number in it.
func arp(number uint32) []byte {
	out := make([]byte, 60)
	copy(out, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfa, 0x16, 0x3e, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	binary.BigEndian.PutUint32(out[50:], number)
	return out
}

func frame(t testing.TB, p packet, number uint32) []byte {
	t.Helper()
	near := vmIP
	if p.remote.Is6() {
		near = vmIP6
	}
	if p.source.IsValid() {
		near = p.source
	}
	src, dst, srcMAC, dstMAC := near, p.remote, cmp.Or(p.sourceMAC, vmMAC), cmp.Or(p.destinationMAC, farMAC)
	if p.ingress {
		src, dst, srcMAC, dstMAC = p.remote, near, cmp.Or(p.sourceMAC, farMAC), vmMAC
	}
	payload := gopacket.Payload(binary.BigEndian.AppendUint32([]byte(mark), number))
	eth := &layers.Ethernet{SrcMAC: hw(t, srcMAC), DstMAC: hw(t, dstMAC), EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.NetworkLayer
	var ipLayer gopacket.SerializableLayer
	if src.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		six := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()} //nolint:gosec // 0 to 255
		ip, ipLayer = six, six
	} else {
		four := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()} //nolint:gosec // 0 to 255
		ip, ipLayer = four, four
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{eth, ipLayer}, transport(t, p, ip, number)...)
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(all, payload)...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func transport(t testing.TB, p packet, ip gopacket.NetworkLayer, number uint32) []gopacket.SerializableLayer {
	t.Helper()
	from := p.from
	if from == 0 {
		from = uint16(20000 + number%40000) //nolint:gosec // fits
	}
	out, err := filtertest.Packet{Protocol: p.protocol, To: p.to, Type: p.kind, Code: p.code}.Header(ip, from)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChainsMeetTheModelsVerdict(t *testing.T) {
	s := newSite(t)
	var number uint32
	filtertest.Check(t, func(rt rapid.TB, scene filtertest.Scene) {
		rt.Helper()
		rules := filtertest.Models(rt, scene.Rules)
		f := filters(scene.Stateful, rules...)
		f.Members = filtertest.Members()
		s.apply(f)
		for _, ingress := range []bool{true, false} {
			asked := slices.DeleteFunc(slices.Clone(scene.Packets), func(p filtertest.Packet) bool { return p.Ingress != ingress })
			var packets []packet
			for _, p := range asked {
				packets = append(packets, packet{ingress: ingress, protocol: p.Protocol, to: p.To, kind: p.Type, code: p.Code, remote: p.Remote})
			}
			for i, passed := range s.pass(ingress, packets, &number) {
				if want := filtertest.Allows(rules, scene.Stateful, asked[i]); passed != want {
					rt.Errorf("%s (stateful %v): passed %v, the model says %v; rules: %+v", asked[i], scene.Stateful, passed, want, rules)
				}
			}
		}
	})
}

// Flows can't tell these ports, and iptables only packet by packet: conntrack wants more of UDP-Lite than these packets have.
func TestPortsThatOnlyIptablesReadsAreTold(t *testing.T) {
	s := newSite(t)
	var number uint32
	s.apply(filters(false, in(model.ProtocolUDPLite, 80, 81)))
	var packets []packet
	for _, port := range []uint16{79, 80, 81, 82} {
		packets = append(packets, packet{ingress: true, protocol: model.ProtocolUDPLite, to: port, remote: remotes[0]})
	}
	if got := s.pass(true, packets, &number); !slices.Equal(got, []bool{false, true, true, false}) {
		t.Errorf("passed: %v", got)
	}
}
