package plan_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
)

// peerTunnel is the tunnel port by which net1 and net2 watch each other.
func peerTunnel(t *testing.T) desired.Port {
	t.Helper()
	s := newStore()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	n := newNode(s, "net1", factsOf("net1", addresses()["net1"]))
	n.follow()
	n.plan()
	all := n.planner.Ports()
	i := slices.IndexFunc(all, func(p desired.Port) bool { return len(p.BFD) > 0 })
	if i < 0 {
		t.Fatal("net1 watches nobody")
	}
	return all[i]
}

// forgery is a frame of the underlay: a tenant's frame, in the tenant's own network, that looks like BFD's (RFC 5880 section
// 4.1, RFC 5881).
func forgery(t *testing.T, to net.HardwareAddr) []byte {
	t.Helper()
	far, near := netip.MustParseAddr(addresses()["net2"]).AsSlice(), netip.MustParseAddr(addresses()["net1"]).AsSlice()
	ip := func(ttl uint8) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: ttl, Protocol: layers.IPProtocolUDP, SrcIP: far, DstIP: near}
	}
	bfd := []byte{1 << 5, 1 << 6, 8, 24} // version 1, state down
	bfd = binary.BigEndian.AppendUint32(bfd, 0x666)
	bfd = append(bfd, 0, 0, 0, 0)
	for range 3 {
		bfd = binary.BigEndian.AppendUint32(bfd, 30000)
	}
	outer, inner := ip(64), ip(255)
	outerUDP, innerUDP := &layers.UDP{SrcPort: 50000, DstPort: 4789}, &layers.UDP{SrcPort: 49152, DstPort: 3784}
	for l, over := range map[*layers.UDP]*layers.IPv4{outerUDP: outer, innerUDP: inner} {
		if err := l.SetNetworkLayerForChecksum(over); err != nil {
			t.Fatal(err)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: macOf(1), DstMAC: to, EthernetType: layers.EthernetTypeIPv4}, outer, outerUDP,
		&layers.VXLAN{ValidIDFlag: true, VNI: 5001},
		&layers.Ethernet{SrcMAC: macOf(2), DstMAC: net.HardwareAddr{0, 0x23, 0x20, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv4}, inner, innerUDP, gopacket.Payload(bfd))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestATenantsFrameIsNotTakenForAPeersSignOfLife sends what CVE-2024-2182 is about: OVS believes it unless told otherwise.
func TestATenantsFrameIsNotTakenForAPeersSignOfLife(t *testing.T) {
	port := peerTunnel(t)
	o := ovstest.Start(t)
	o.Vsctl("add-br", "phy", "--", "set", "Bridge", "phy", "datapath_type=netdev")
	o.AddBridge("tun")
	o.Run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "world")
	o.Run("ip", "address", "add", addresses()["net1"]+"/24", "dev", "phy")
	for _, device := range []string{"wire", "world", "phy"} {
		o.Run("ip", "link", "set", device, "up")
	}
	o.Vsctl("add-port", "phy", "wire")
	args := []string{"add-port", "tun", port.Name, "--", "set", "Interface", port.Name, "type=vxlan"}
	for key, value := range port.Options {
		args = append(args, fmt.Sprintf("options:%s=%q", key, value))
	}
	o.Vsctl(args...)
	mac, err := net.ParseMAC(strings.Trim(strings.TrimSpace(o.Vsctl("get", "Interface", "phy", "mac_in_use")), `"`))
	if err != nil {
		t.Fatal(err)
	}
	frame, world := forgery(t, mac), open(t, o, "world")
	// tell has the session with some settings see the forgery, and returns the state that it comes to. A packet of the session
	// itself is the sign that it runs.
	tell := func(columns map[string]string, until string) string {
		set := []string{"--", "clear", "Interface", port.Name, "bfd"}
		o.Vsctl(set[1:]...)
		set = []string{"set", "Interface", port.Name}
		for key, value := range columns {
			set = append(set, fmt.Sprintf("bfd:%s=%s", key, value))
		}
		o.Vsctl(set...)
		var state string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			world.send(frame)
			state = strings.Trim(strings.TrimSpace(o.Vsctl("--if-exists", "get", "Interface", port.Name, "bfd_status:state")), `"`)
			if state == until {
				break
			}
		}
		return state
	}
	believing := map[string]string{}
	for key, value := range port.BFD {
		believing[key] = value
	}
	delete(believing, "check_tnl_key")
	if got := tell(believing, "init"); got != "init" {
		t.Fatalf("the forgery is none: a session that believes everything is %q", got)
	}
	for range 20 {
		if got := tell(port.BFD, "down"); got != "down" {
			t.Fatalf("the session is %q by a tenant's frame", got)
		}
	}
	for range 100 {
		world.send(frame)
	}
	if got := tell(port.BFD, "down"); got != "down" {
		t.Errorf("the session is %q by tenants' frames", got)
	}
}
