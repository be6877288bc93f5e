package plan_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/filtertest"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The ports of a wired node, all on the VXLAN network: two guarded ones, one that is not, and what stands for the tunnels.
const (
	alice  = 1
	bob    = 2
	plain  = 3
	uplink = 9
)

// wired is a node whose br-int is a real one. Its ports' far ends are raw sockets.
type wired struct {
	testing.TB
	*node
	o       *ovstest.OVS
	conn    *openflow.Conn
	sockets map[int]*socket
	marker  uint32
}

func newWired(t testing.TB) *wired {
	t.Helper()
	o := ovstest.Start(t)
	o.AddBridge(plan.BrInt)
	w := &wired{TB: t, o: o, sockets: map[int]*socket{}, node: newNode(newStore(), "cmp1", factsOf("cmp1", "10.31.0.12"))}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	var err error
	if w.conn, err = openflow.DialWait(ctx, openflow.Options{Socket: o.Mgmt(plan.BrInt), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close() })
	if err := w.conn.MatchFragments(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{alice, bob, plain, uplink} {
		w.plugIn(n)
	}
	w.facts.OFPorts[plan.PatchTun] = uplink
	w.follow()
	w.store.put(keys.Network(netVXLAN), network(netVXLAN, "vx", weftv1.NetworkType_NETWORK_TYPE_VXLAN, "", 5001, 1450))
	for _, n := range []int{alice, bob, plain} {
		w.storePort(n, func(p *weftv1.Port) {
			p.PortSecurityEnabled = proto.Bool(n != plain)
			p.SecurityGroups = &weftv1.SecurityGroupIds{}
		})
	}
	return w
}

// plugIn makes a port of br-int whose number is n, and opens its far end.
func (w *wired) plugIn(n int) {
	w.Helper()
	near, far := fmt.Sprintf("vm%d", n), fmt.Sprintf("far%d", n)
	w.o.Run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
	for _, device := range []string{near, far} {
		w.o.Run("sysctl", "-qw", "net.ipv6.conf."+device+".disable_ipv6=1")
		w.o.Run("ip", "link", "set", device, "up", "arp", "off")
	}
	w.o.Vsctl("add-port", plan.BrInt, near, "--", "set", "Interface", near, fmt.Sprintf("ofport_request=%d", n))
	if n != uplink {
		w.facts.Plugged[id("c", n)] = plan.Plugged{Name: near, OFPort: uint32(n)}
	}
	w.sockets[n] = open(w.TB, w.o, far)
}

func ipOf(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(10 + n)}) }

// ip6Of is the link-local address of a port.
func ip6Of(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: 0xf8, 9: 0x16, 10: 0x3e, 11: 0xff, 12: 0xfe, 15: byte(n)})
}

func macOf(n int) net.HardwareAddr { return net.HardwareAddr{0xfa, 0x16, 0x3e, 0, 0, byte(n)} }

// storePort stores a VM's port of this node.
func (w *wired) storePort(n int, with func(*weftv1.Port)) {
	w.Helper()
	p := port(n, netVXLAN, id("b", 1), ipOf(n).String(), "compute:nova", "vm", "cmp1")
	with(p)
	w.see(w.store.put(keys.Port(netVXLAN, p.GetId()), p),
		w.store.put(keys.HostObject("cmp1", keys.KindPort, p.GetId()), &storev1.PortBinding{NetworkId: netVXLAN}))
}

// join puts a port into groups.
func (w *wired) join(n int, groups ...string) {
	w.Helper()
	slices.Sort(groups)
	w.storePort(n, func(p *weftv1.Port) {
		p.PortSecurityEnabled, p.SecurityGroups = proto.Bool(true), &weftv1.SecurityGroupIds{Ids: groups}
	})
}

// group stores a security group with its rules, and takes those away that it had and has no more.
func (w *wired) group(id string, stateful bool, rules ...*weftv1.SecurityGroupRule) {
	w.Helper()
	w.see(w.store.put(keys.SecurityGroup(id), &weftv1.SecurityGroup{Id: id, Project: "default", Stateful: &stateful}))
	kept := map[string]bool{}
	for _, r := range rules {
		r.SecurityGroupId = id
		kept[keys.Rule(id, r.GetId())] = true
		w.see(w.store.put(keys.Rule(id, r.GetId()), r))
	}
	for key := range w.store.entries {
		if strings.HasPrefix(key, keys.Rules(id)) && !kept[key] {
			w.see(w.store.delete(key))
		}
	}
}

// member puts addresses into a group, under a port's name; none: takes it out.
func (w *wired) member(group string, n int, addresses ...string) {
	w.Helper()
	if len(addresses) == 0 {
		w.see(w.store.delete(keys.Member(group, id("c", n))))
		return
	}
	w.see(w.store.put(keys.Member(group, id("c", n)), &storev1.Member{NetworkId: netVXLAN, Addresses: addresses}))
}

// write plans and writes the difference; what was planned must then be there.
func (w *wired) write() plan.Delta {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	delta := w.plan()
	change := delta.Flows[plan.BrInt]
	if change == nil {
		return delta
	}
	if _, err := w.conn.Apply(ctx, change.Adds, change.Deletes); err != nil {
		w.Fatal(err)
	}
	if d, err := w.conn.Diff(ctx, w.planner.Flows(plan.BrInt)); err != nil || !d.Empty() {
		w.Fatalf("not as planned: %+v, %v", d, err)
	}
	return delta
}

// settle is write, and waits until what Open vSwitch remembers of the flows before has gone.
func (w *wired) settle() plan.Delta {
	w.Helper()
	delta := w.write()
	w.settled()
	return delta
}

// settled waits until Open vSwitch has looked through what it remembers of flows, as it does of itself after a change.
func (w *wired) settled() {
	w.Helper()
	w.appctl("revalidator/wait")
}

// forget empties conntrack, and what Open vSwitch remembers of flows.
func (w *wired) forget() {
	w.Helper()
	w.appctl("dpctl/flush-conntrack")
	w.appctl("dpctl/del-flows")
}

func (w *wired) appctl(args ...string) string {
	w.Helper()
	return w.o.Run("ovs-appctl", append([]string{"--target=" + w.o.Dir() + "/vswitchd.ctl"}, args...)...)
}

// socket is the far end of a port.
type socket struct {
	testing.TB
	fd, index int
}

func open(t testing.TB, o *ovstest.OVS, device string) *socket {
	t.Helper()
	s := &socket{TB: t}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close() //nolint:errcheck // it was only looked at
	there, err := netns.GetFromPath(o.Namespace())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close() //nolint:errcheck // likewise
	if err := netns.Set(there); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			t.Fatal(err)
		}
	}()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	at, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
		t.Fatal(err)
	}
	s.index = at.Index
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	patience := unix.NsecToTimeval((10 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: at.Index}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *socket) send(frame []byte) {
	s.Helper()
	if len(frame) < 60 {
		frame = append(frame, make([]byte, 60-len(frame))...)
	}
	if err := unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: s.index, Halen: 6}); err != nil {
		s.Fatal(err)
	}
}

// until reads frames until last comes, and returns those before it.
func (s *socket) until(last string) [][]byte {
	s.Helper()
	var out [][]byte
	if err := s.each(last, func(frame []byte) { out = append(out, slices.Clone(frame)) }); err != nil {
		s.Fatalf("the last frame did not come, %d others did: %v", len(out), err)
	}
	return out
}

// each calls f with frames until last comes, or none for ten seconds.
func (s *socket) each(last string, f func(frame []byte)) error {
	for buf := make([]byte, 65536); ; {
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if strings.Contains(string(buf[:n]), last) {
			return nil
		}
		f(buf[:n])
	}
}

// exchange sends frames from a port and returns what every other port gets of them. An ARP request by a port that may send it
// follows, so that there is nothing to wait for, and another when it has come: of frames that Open vSwitch takes in together, those
// that it has not seen the like of overtake others.
func (w *wired) exchange(from int, frames ...[]byte) map[int][][]byte {
	w.Helper()
	for _, f := range frames {
		w.sockets[from].send(f)
	}
	out := map[int][][]byte{}
	for range 2 {
		w.marker++
		last := fmt.Sprintf("last-%08d", w.marker)
		w.sockets[from].send(append(w.arp(from, layers.ARPRequest, macOf(from), ipOf(from)), last...))
		for n, s := range w.sockets {
			if n != from {
				out[n] = append(out[n], s.until(last)...)
			}
		}
	}
	return out
}

// arp is a broadcast ARP packet; from the uplink with the network's tag.
func (w *wired) arp(from int, operation uint16, mac net.HardwareAddr, ip netip.Addr) []byte {
	w.Helper()
	return w.frame(from, &layers.Ethernet{SrcMAC: macOf(from), DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: operation,
		SourceHwAddress: mac, SourceProtAddress: ip.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 1, 0, 99},
	})
}

// frame puts layers together; what comes from the uplink has the network's tag.
func (w *wired) frame(from int, eth *layers.Ethernet, more ...gopacket.SerializableLayer) []byte {
	w.Helper()
	all := []gopacket.SerializableLayer{eth}
	if from == uplink {
		tag := &layers.Dot1Q{VLANIdentifier: w.facts.VLANs[netVXLAN], Type: eth.EthernetType}
		eth.EthernetType = layers.EthernetTypeDot1Q
		all = append(all, tag)
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(all, more...)...); err != nil {
		w.Fatal(err)
	}
	return buf.Bytes()
}

// packet is an IP packet of a test.
type packet struct {
	from, to   int
	protocol   uint8
	ipv6       bool
	sport      uint16
	dport      uint16
	kind, code uint8
	// sender is the source address, if it is not the sending port's own.
	sender netip.Addr
	// receiver is the destination address, if it is not the receiving port's own.
	receiver netip.Addr
	size     int // of the payload beside the mark
}

func (p packet) addresses() (from, to netip.Addr) {
	from, to = ipOf(p.from), ipOf(p.to)
	if p.ipv6 {
		from, to = ip6Of(p.from), ip6Of(p.to)
	}
	if p.sender.IsValid() {
		from = p.sender
	}
	if p.receiver.IsValid() {
		to = p.receiver
	}
	return from, to
}

func (p packet) String() string {
	from, to := p.addresses()
	return fmt.Sprintf("port %d to %d, %s to %s, protocol %d, ports %d > %d, type %d/%d", p.from, p.to, from, to, p.protocol, p.sport, p.dport, p.kind, p.code)
}

// bytes is the packet in a frame, with a number in its payload.
func (w *wired) bytes(p packet, number uint32) []byte {
	w.Helper()
	src, dst := p.addresses()
	payload := append(binary.BigEndian.AppendUint32([]byte("weft-test"), number), make([]byte, p.size)...)
	eth := &layers.Ethernet{SrcMAC: macOf(p.from), DstMAC: macOf(p.to), EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	var checked gopacket.NetworkLayer
	if p.ipv6 {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, checked = l, l
	} else {
		l := &layers.IPv4{Version: 4, TTL: 64, Id: uint16(number), Protocol: layers.IPProtocol(p.protocol), SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		ip, checked = l, l
	}
	return w.frame(p.from, eth, append([]gopacket.SerializableLayer{ip}, append(p.transport(w, checked), gopacket.Payload(payload))...)...)
}

func (p packet) transport(w *wired, ip gopacket.NetworkLayer) []gopacket.SerializableLayer {
	w.Helper()
	out, err := filtertest.Packet{Protocol: model.Protocol(p.protocol), To: p.dport, Type: p.kind, Code: p.code}.Header(ip, p.sport)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// pass sends packets of one port and tells which have come to where they were to.
func (w *wired) pass(packets ...packet) []bool {
	w.Helper()
	var frames [][]byte
	first := w.marker + 1000
	for i, p := range packets {
		frames = append(frames, w.bytes(p, first+uint32(i)))
	}
	w.marker = first + uint32(len(packets))
	got := w.exchange(packets[0].from, frames...)
	out := make([]bool, len(packets))
	for i, p := range packets {
		mark := string(binary.BigEndian.AppendUint32([]byte("weft-test"), first+uint32(i)))
		for n, frames := range got {
			for _, f := range frames {
				if strings.Contains(string(f), mark) {
					if n != p.to {
						w.Errorf("%s came to port %d", p, n)
					}
					out[i] = true
				}
			}
		}
	}
	return out
}

// passes sends one packet.
func (w *wired) passes(p packet) bool {
	w.Helper()
	return w.pass(p)[0]
}

// fromAfar makes a packet of a port look like one that comes from the far end of a tunnel.
func fromAfar(p packet, sender string) packet {
	p.from, p.sender = uplink, netip.MustParseAddr(sender)
	return p
}

// word is ovs-ofctl's word for the packet's kind.
func (p packet) word() string {
	suffix, family := "", "ip"
	if p.ipv6 {
		suffix, family = "6", "ipv6"
	}
	switch p.protocol {
	case flow.ProtoTCP:
		return "tcp" + suffix
	case flow.ProtoUDP:
		return "udp" + suffix
	case flow.ProtoICMP, flow.ProtoICMPv6:
		return "icmp" + suffix
	default:
		return fmt.Sprintf("%s,nw_proto=%d", family, p.protocol)
	}
}

// trace is what Open vSwitch says would become of a packet that begins a connection: the ports that it would go to.
func (w *wired) trace(p packet) (ports []int, text string) {
	w.Helper()
	src, dst := p.addresses()
	word, family, ct := p.word(), "nw_src="+src.String()+",nw_dst="+dst.String(), "ct_nw_src="+src.String()+",ct_nw_dst="+dst.String()
	if p.ipv6 {
		family, ct = "ipv6_src="+src.String()+",ipv6_dst="+dst.String(), "ct_ipv6_src="+src.String()+",ct_ipv6_dst="+dst.String()
	}
	sport, dport, l4 := p.sport, p.dport, ""
	switch p.protocol {
	case flow.ProtoICMP, flow.ProtoICMPv6:
		sport, dport = uint16(p.kind), uint16(p.code)
		l4 = fmt.Sprintf("icmp_type=%d,icmp_code=%d,", p.kind, p.code)
		if p.ipv6 {
			l4 = fmt.Sprintf("icmpv6_type=%d,icmpv6_code=%d,", p.kind, p.code)
		}
	case flow.ProtoTCP:
		l4 = fmt.Sprintf("tcp_src=%d,tcp_dst=%d,", sport, dport)
	case flow.ProtoUDP:
		l4 = fmt.Sprintf("udp_src=%d,udp_dst=%d,", sport, dport)
	default:
		sport, dport = 0, 0
	}
	spec := fmt.Sprintf("%s,in_port=%d,dl_src=%s,dl_dst=%s,%s,nw_ttl=64,%sct_state=trk|new,%s,ct_nw_proto=%d,ct_tp_src=%d,ct_tp_dst=%d",
		word, p.from, macOf(p.from), macOf(p.to), family, l4, ct, p.protocol, sport, dport)
	if p.from == uplink {
		spec += fmt.Sprintf(",dl_vlan=%d", w.facts.VLANs[netVXLAN])
	}
	text = w.appctl("ofproto/trace", "--names", plan.BrInt, spec)
	_, actions, ok := strings.Cut(text[strings.LastIndex(text, "Datapath actions: "):], ": ")
	if !ok {
		w.Fatalf("trace: %s", text)
	}
	for _, a := range strings.Split(strings.TrimSpace(actions), ",") {
		if n, err := strconv.Atoi(strings.TrimPrefix(a, "vm")); err == nil {
			ports = append(ports, n)
		}
	}
	return ports, text
}
