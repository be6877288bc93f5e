package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// What is in the frames of an attack: forged ones may come to nobody, tunnelled ones to nobody outside the VM's network and to
// nobody out of their tunnels. Honest ones have to come, so that it is known that the others could have, and those that rules are
// about where these say so.
const (
	forgedMark    = "weft e2e: forged frame"
	tunnelledMark = "weft e2e: tunnelled frame"
	honestMark    = "weft e2e: honest frame"
	judgedMark    = "weft e2e: frame for rules to judge"
)

// ear hears all frames that come to a device and counts those with each of the marks; of tunnelled ones, where it is in the
// network of the VM that sends them, those that do not come from its Ethernet address.
type ear struct {
	name string
	of   net.HardwareAddr // nil: in another network
	mu   sync.Mutex
	got  map[string]int
	one  map[string][]byte // an example of each
}

// listen begins to hear, until the test ends; of is whose frames are no surprise, nil: nobody's.
func (f *fleet) listen(name string, at lab.Space, device string, of net.HardwareAddr) *ear {
	f.t.Helper()
	socket := f.hearing(at, device)
	e := &ear{name: name, of: of, got: map[string]int{}, one: map[string][]byte{}}
	ctx, cancel := context.WithCancel(f.t.Context())
	var reading sync.WaitGroup
	f.t.Cleanup(func() {
		cancel()
		reading.Wait()
		_ = unix.Close(socket) // it was only listened to
	})
	reading.Go(func() {
		for buf := make([]byte, 65536); ctx.Err() == nil; {
			n, from, err := unix.Recvfrom(socket, buf, 0)
			if at, ok := from.(*unix.SockaddrLinklayer); err != nil || ok && at.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			e.hear(buf[:n])
		}
	})
	return e
}

// hearing opens a socket that gets all frames of a device, and waits for one for 100 ms at most.
func (f *fleet) hearing(at lab.Space, device string) int {
	f.t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	var socket int
	f.must(at.Do(func() (err error) {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		patience := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
		return errors.Join(unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
			unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	}))
	return socket
}

func (e *ear) hear(frame []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, mark := range []string{forgedMark, tunnelledMark, honestMark, judgedMark} {
		if bytes.Contains(frame, []byte(mark)) && (mark != tunnelledMark || e.of == nil || !bytes.Equal(frame[6:12], e.of)) {
			e.got[mark]++
			e.one[mark] = bytes.Clone(frame)
		}
	}
}

func (e *ear) heard(mark string) (int, []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got[mark], e.one[mark]
}

// attack makes the frames of a VM.
type attack struct {
	*fleet
	own, bobs, gateway net.HardwareAddr
	ip, bob, router    netip.Addr
}

func (a attack) frame(parts ...gopacket.SerializableLayer) []byte {
	a.t.Helper()
	buf := gopacket.NewSerializeBuffer()
	a.must(gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...))
	return buf.Bytes()
}

func ether(from, to net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: kind}
}

func v4(protocol layers.IPProtocol, from, to netip.Addr) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 255, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

// udp4 is a UDP packet within others.
func (a attack) udp4(from, to netip.AddrPort) []gopacket.SerializableLayer {
	a.t.Helper()
	ip := v4(layers.IPProtocolUDP, from.Addr(), to.Addr())
	l := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	a.must(l.SetNetworkLayerForChecksum(ip))
	return []gopacket.SerializableLayer{ip, l}
}

// udp is a UDP packet of the VM's, under its own Ethernet address.
func (a attack) udp(to net.HardwareAddr, from, dst netip.AddrPort, mark string) []byte {
	a.t.Helper()
	parts := append([]gopacket.SerializableLayer{ether(a.own, to, layers.EthernetTypeIPv4)}, a.udp4(from, dst)...)
	return a.frame(append(parts, gopacket.Payload(mark))...)
}

// arp is about an address that nobody has: nodes answer for those that they know.
func (a attack) arp(operation uint16, from net.HardwareAddr, sender netip.Addr, mark string) []byte {
	a.t.Helper()
	return append(a.frame(ether(from, layers.EthernetBroadcast, layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: operation,
		SourceHwAddress: from, SourceProtAddress: sender.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 10, 0, 250},
	}), mark...)
}

// icmp6 is a message of ICMPv6 to all nodes.
func (a attack) icmp6(kind uint8, from netip.Addr, body ...byte) []byte {
	a.t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.AsSlice(), DstIP: net.ParseIP("ff02::1")}
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	a.must(l.SetNetworkLayerForChecksum(ip))
	return a.frame(ether(a.own, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, layers.EthernetTypeIPv6), ip, l, gopacket.Payload(append(body, forgedMark...)))
}

// forged are frames that may come to nobody, whatever the rules are.
func (a attack) forged(vlans ...uint16) [][]byte {
	a.t.Helper()
	mine, others := linkLocal(a.own), linkLocal(a.bobs)
	all, broadcast := netip.MustParseAddr("255.255.255.255"), layers.EthernetBroadcast
	at := netip.AddrPortFrom
	raw := func(from, to net.HardwareAddr, ip *layers.IPv4) []byte {
		return a.frame(ether(from, to, layers.EthernetTypeIPv4), ip, gopacket.Payload(forgedMark))
	}
	redirect := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeRedirect, 1)}
	virtual := net.HardwareAddr{0, 0, 0x5e, 0, 1, 1} // RFC 5798
	out := [][]byte{
		a.udp(broadcast, at(a.ip, 67), at(all, 68), forgedMark), a.udp(broadcast, at(a.ip, 6767), at(all, 68), forgedMark), // DHCP
		a.arp(layers.ARPReply, a.own, a.router, forgedMark), a.arp(layers.ARPRequest, a.own, a.router, forgedMark),
		a.arp(layers.ARPReply, a.gateway, a.router, forgedMark), a.arp(layers.ARPRequest, a.own, netip.IPv4Unspecified(), forgedMark),
		a.icmp6(134, mine, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0),
		a.icmp6(136, mine, append(append([]byte{0x20, 0, 0, 0}, others.AsSlice()...), append([]byte{2, 1}, a.own...)...)...),
		a.icmp6(137, mine, make([]byte, 36)...), a.icmp6(128, others, 0, 0, 0, 0),
		a.frame(ether(a.own, a.bobs, layers.EthernetTypeIPv4), v4(layers.IPProtocolICMPv4, a.ip, a.bob), redirect, gopacket.Payload(forgedMark)),
		raw(a.own, a.bobs, v4(17, a.router, a.bob)), raw(a.gateway, a.bobs, v4(17, a.ip, a.bob)), raw(a.gateway, a.bobs, v4(17, a.router, a.bob)),
		raw(virtual, broadcast, v4(112, a.ip, netip.MustParseAddr("224.0.0.18"))), raw(virtual, broadcast, v4(112, a.router, netip.MustParseAddr("224.0.0.18"))),
		append(append(append([]byte{}, 0x01, 0x80, 0xc2, 0, 0, 0), a.own...), append([]byte{0x88, 0xcc}, forgedMark...)...), // LLDP
	}
	for _, v := range vlans {
		tag := func(next layers.EthernetType) *layers.Dot1Q { return &layers.Dot1Q{VLANIdentifier: v, Type: next} }
		inner := append(a.udp4(at(a.ip, 1), at(a.bob, 2)), gopacket.Payload(forgedMark))
		for _, to := range []net.HardwareAddr{broadcast, a.bobs} {
			once := append([]gopacket.SerializableLayer{ether(a.own, to, layers.EthernetTypeDot1Q), tag(layers.EthernetTypeIPv4)}, inner...)
			twice := append([]gopacket.SerializableLayer{ether(a.own, to, layers.EthernetTypeQinQ), tag(layers.EthernetTypeDot1Q), tag(layers.EthernetTypeIPv4)}, inner...)
			out = append(out, a.frame(once...), a.frame(twice...))
		}
	}
	return out
}

// tunnelled are packets to a node's address on the underlay that hold a frame for a VM of another network, in every way in
// which nodes, or the kernel, might open them. inner is whom the frame says that it is from.
func (a attack) tunnelled(node netip.Addr, link net.HardwareAddr, victim *guest, inner net.HardwareAddr, segments ...uint32) [][]byte {
	a.t.Helper()
	to, err := net.ParseMAC(victim.Spec.Port.MAC)
	a.must(err)
	at := netip.AddrPortFrom
	packet := append(a.udp4(at(a.ip, 1), at(victim.ip, 9)), gopacket.Payload(tunnelledMark))
	frame := append([]gopacket.SerializableLayer{ether(inner, to, layers.EthernetTypeIPv4)}, packet...)
	var out [][]byte
	for _, via := range []net.HardwareAddr{a.gateway, link, layers.EthernetBroadcast} {
		outer := func(more []gopacket.SerializableLayer, inside ...gopacket.SerializableLayer) {
			parts := append([]gopacket.SerializableLayer{ether(a.own, via, layers.EthernetTypeIPv4)}, more...)
			out = append(out, a.frame(append(parts, inside...)...))
		}
		outer([]gopacket.SerializableLayer{v4(layers.IPProtocolIPv4, a.ip, node)}, packet...)
		outer([]gopacket.SerializableLayer{v4(layers.IPProtocolGRE, a.ip, node), &layers.GRE{Protocol: layers.EthernetTypeIPv4}}, packet...)
		for _, segment := range segments {
			bridged := &layers.GRE{Protocol: layers.EthernetTypeTransparentEthernetBridging, KeyPresent: true, Key: segment}
			outer([]gopacket.SerializableLayer{v4(layers.IPProtocolGRE, a.ip, node), bridged}, frame...)
			for _, port := range []uint16{4789, 6081, 8472} { // VXLAN, Geneve, Linux's own VXLAN
				outer(append(a.udp4(at(a.ip, 49152), at(node, port)), &layers.VXLAN{ValidIDFlag: true, VNI: segment}), frame...)
			}
		}
	}
	return out
}

// active is who forwards for a router, as the store has it.
func (f *fleet) active(client *clientv3.Client, router string) *storev1.ActiveRouter {
	f.t.Helper()
	got, err := client.Get(f.t.Context(), keys.Active(router))
	f.must(err)
	out := &storev1.ActiveRouter{}
	if len(got.Kvs) != 1 {
		f.t.Fatalf("%d nodes are active for router %s", len(got.Kvs), router)
	}
	f.must(proto.Unmarshal(got.Kvs[0].Value, out))
	return out
}

// linkOf is the Ethernet address of the device by which a node is on the underlay.
func (f *fleet) linkOf(h lab.HostInfo) net.HardwareAddr {
	f.t.Helper()
	script := fmt.Sprintf(`cat /sys/class/net/$(ip -o -4 address | awk '$4 ~ "^%s/" {print $2; exit}')/address`, h.Tunnel)
	mac, err := net.ParseMAC(strings.TrimSpace(f.sh(f.host(h.Name).Space, script)))
	f.must(err)
	return mac
}

// open puts a guest into a group that lets everything in and out: nothing but port security holds anything back.
func (s grouped) open(name, host string, n *weftv1.Network, all *weftv1.SecurityGroup) *guest {
	s.t.Helper()
	return s.member(name, host, n, all)
}

// TestAHostileVMReachesNobody has a VM that its groups allow everything say all that no VM may say, and try the ways into other
// networks and into nodes: nobody hears of it, no router moves, and others' traffic goes on.
func TestAHostileVMReachesNobody(t *testing.T) {
	f := newFleet(t, "e2e-hostile", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	s := grouped{f, weftv1.NewSecurityGroupServiceClient(f.connected)}
	ext1 := f.outside("ext1", "203.0.113.0/24")
	red, redSubnet := f.vxlan("red", "10.10.0.0/24")
	blue, _ := f.vxlan("blue", "10.20.0.0/24")
	grey, _ := f.tenant("grey", weftv1.NetworkType_NETWORK_TYPE_GRE, "10.30.0.0/24")
	r := f.router("r", ext1, redSubnet)
	all := s.group("all")
	s.admit(all, &weftv1.SecurityGroupRule{})
	for _, way := range []weftv1.Direction{weftv1.Direction_DIRECTION_INGRESS, weftv1.Direction_DIRECTION_EGRESS} {
		s.rule(&weftv1.SecurityGroupRule{SecurityGroupId: all.GetId(), Direction: way, EtherType: weftv1.EtherType_ETHER_TYPE_IPV6})
	}
	evil := s.open("evil", "cmp1", red, all)
	near, far := s.open("near", "cmp1", red, all), s.open("far", "cmp2", red, all)
	closed := s.open("closed", "cmp2", red, s.group("closed"))
	blues := []*guest{s.open("blue1", "cmp1", blue, all), s.open("blue2", "cmp2", blue, all), s.open("grey2", "cmp2", grey, all)}
	f.reach(evil.Space, outside1)
	f.reach(far.Space, near.ip)

	node, inside := f.placed(r)
	device := strings.Fields(f.sh(inside, `ls /sys/class/net | grep ^qr-`))[0]
	gateway, err := net.ParseMAC(strings.TrimSpace(f.sh(inside, "cat /sys/class/net/"+device+"/address")))
	f.must(err)
	own, err := net.ParseMAC(evil.Spec.Port.MAC)
	f.must(err)
	a := attack{fleet: f, own: own, gateway: gateway, ip: evil.ip, router: netip.MustParseAddr("10.10.0.1")}
	ears := []*ear{f.listen("the router", inside, device, own)}
	for _, g := range []*guest{near, far, closed} {
		ears = append(ears, f.listen(g.Spec.Name, g.Space, lab.VMDevice, own))
	}
	for _, g := range blues {
		ears = append(ears, f.listen(g.Spec.Name, g.Space, lab.VMDevice, nil))
	}
	hears := func(name string) *ear {
		for _, e := range ears {
			if e.name == name {
				return e
			}
		}
		t.Fatalf("nobody listens at %s", name)
		return nil
	}
	const inner = "fa:16:3e:66:66:66"
	taps := map[string]*lab.Capture{}
	hosts, err := f.Hosts()
	f.must(err)
	innerMAC, err := net.ParseMAC(inner)
	f.must(err)
	segments := []uint32{0, red.GetSegmentationId(), blue.GetSegmentationId(), grey.GetSegmentationId()}
	vlans := []uint16{0, 1, 2, 3, 4, 1000}
	var frames [][]byte
	for _, g := range []*guest{near, far, closed} {
		a.bob = g.ip
		a.bobs, err = net.ParseMAC(g.Spec.Port.MAC)
		f.must(err)
		frames = append(frames, a.forged(vlans...)...)
		// A tunnel's port is one like others among VMs of a network.
		frames = append(frames, a.udp(a.bobs, netip.AddrPortFrom(evil.ip, 49152), netip.AddrPortFrom(g.ip, 4789), judgedMark))
	}
	for _, h := range hosts {
		if !h.Node() {
			continue
		}
		taps[h.Name] = f.tapUnderlay(h.Name, inner)
		for _, victim := range blues {
			frames = append(frames, a.tunnelled(h.Tunnel, f.linkOf(h), victim, innerMAC, segments...)...)
		}
	}
	for _, victim := range blues {
		frames = append(frames, a.tunnelled(a.router, gateway, victim, innerMAC, segments...)...)
	}
	client := f.etcd()
	before := f.active(client, r.GetId())
	running := []*pinging{f.ping(far.Space, near.ip), f.ping(near.Space, outside1)}
	honest := a.arp(layers.ARPRequest, own, evil.ip, honestMark)
	stop := f.flood(evil.Space, lab.VMDevice, append(frames, honest))
	f.eventually("honest frames of all that is sent have come", func(context.Context) error {
		for _, name := range []string{"near", "far", "closed", "the router"} {
			if n, _ := hears(name).heard(honestMark); n < 3 {
				return fmt.Errorf("%s has heard %d", name, n)
			}
		}
		return nil
	})
	f.pause(time.Duration(2*len(frames)) * time.Millisecond) // each frame twice
	stop()
	for _, e := range ears {
		if n, one := e.heard(forgedMark); n > 0 {
			t.Errorf("%s hears %d forged frames, one of them %x", e.name, n, one)
		}
		if n, one := e.heard(tunnelledMark); n > 0 {
			t.Errorf("%s hears %d frames out of tunnels, one of them %x", e.name, n, one)
		}
	}
	for name, c := range taps {
		f.none(c, "the VM's tunnelled frames as "+name+"'s own")
	}
	for _, g := range blues {
		if n, _ := hears(g.Spec.Name).heard(honestMark); n > 0 {
			t.Errorf("%s hears %d frames of another network", g.Spec.Name, n)
		}
	}
	for name, want := range map[string]bool{"near": true, "far": true, "closed": false, blues[0].Spec.Name: false, blues[1].Spec.Name: false} {
		if n, _ := hears(name).heard(judgedMark); (n > 0) != want {
			t.Errorf("%s hears %d packets to port 4789 of its own network, want some: %v", name, n, want)
		}
	}
	for _, p := range running {
		p.noneLost()
	}
	if now := f.active(client, r.GetId()); !proto.Equal(before, now) {
		t.Errorf("the router was active by %v and is by %v, on %s", before, now, node)
	}
}
