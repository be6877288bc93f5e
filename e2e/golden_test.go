package e2e_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// names turns what differs from run to run into names: ids, MAC addresses and the addresses that a lab gives its hosts.
type names struct {
	pairs []string // old, new
}

func (n *names) add(text, name string) { n.pairs = append(n.pairs, text, "<"+name+">") }

// port names a port and, as it is a system's, its addresses.
func (n *names) port(p *weftv1.Port, name string) {
	n.add(p.GetId(), "port "+name)
	n.add(p.GetId()[:11], name) // behind the prefix of a device
	n.add(p.GetMacAddress(), "mac "+name)
	n.add(strings.ReplaceAll(p.GetMacAddress(), ":", ""), "mac "+name)
	if mac, err := net.ParseMAC(p.GetMacAddress()); err == nil {
		n.add(linkLocal(mac).String(), "link-local "+name)
	}
}

// linkLocal is the IPv6 address that a device gives itself (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// host names a host's place in the tunnel network, which is also in the names of tunnel ports.
func (n *names) host(h lab.HostInfo) {
	n.add(h.Tunnel.String(), "tunnel ip "+h.Name)
	n.add(hex.EncodeToString(h.Tunnel.AsSlice()), h.Name)
}

func (n *names) apply(text string) string { return strings.NewReplacer(n.pairs...).Replace(text) }

var (
	// cookies are hashes of what the flows say, port numbers included.
	cookies = regexp.MustCompile(` cookie=0x[0-9a-f]+, `)
	resets  = regexp.MustCompile(`reset_counts `)
	ovsOwn  = regexp.MustCompile(`(?m)^[0-9a-f-]{36}\n|^    ovs_version.*\n`)
)

func sortedLines(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// sortedBridges orders the output of `ovs-vsctl show`, whose order is that of random ids.
func sortedBridges(show string) string {
	bridges := strings.Split(ovsOwn.ReplaceAllString(show, ""), "    Bridge ")
	for i, b := range bridges {
		ports := strings.Split(b, "        Port ")
		slices.Sort(ports[1:])
		bridges[i] = strings.Join(ports, "        Port ")
	}
	slices.Sort(bridges[1:])
	return strings.Join(bridges, "    Bridge ")
}

func (f *fleet) golden(name, got string) {
	f.t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		f.must(os.MkdirAll("testdata", 0o755))
		f.must(os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	f.must(err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		f.t.Errorf("%s differs (go test ./e2e -run %s -update rewrites it):\n%s", path, f.t.Name(), diff)
	}
}

// TestWhatANodeLooksLike holds the whole text of what an operator sees on nodes with one VXLAN and one VLAN network, a router
// and a floating IP.
func TestWhatANodeLooksLike(t *testing.T) {
	f := newFleet(t, "e2e-golden", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	var n names
	hosts, err := f.Hosts()
	f.must(err)
	for _, h := range hosts {
		if h.Node() {
			n.host(h)
		}
	}
	// Local VLANs are given in the order in which networks come to a node, so each has to have arrived.
	vx := f.network(&weftv1.Network{Name: "vx", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN, SegmentationId: 5001})
	s1 := f.subnet(&weftv1.Subnet{NetworkId: vx.GetId(), Cidr: "10.10.10.0/24", DnsNameservers: []string{"192.0.2.53"}})
	f.networkState(vx, weftv1.State_STATE_ACTIVE, "")
	vl := f.network(&weftv1.Network{Name: "vl", Type: weftv1.NetworkType_NETWORK_TYPE_VLAN, PhysicalNetwork: lab.Tenant, SegmentationId: 1000})
	s2 := f.subnet(&weftv1.Subnet{
		NetworkId: vl.GetId(), Cidr: "10.20.20.0/24",
		HostRoutes: []*weftv1.Route{{Destination: "172.16.0.0/12", Nexthop: "10.20.20.9"}},
	})
	f.networkState(vl, weftv1.State_STATE_ACTIVE, "")
	at := func(s *weftv1.Subnet, ip string) []*weftv1.FixedIp {
		return []*weftv1.FixedIp{{SubnetId: s.GetId(), IpAddress: ip}}
	}
	a := f.guestOf("a", "cmp1", f.port(&weftv1.Port{Name: "a", NetworkId: vx.GetId(), FixedIps: at(s1, "10.10.10.11")}))
	f.guestOf("b", "cmp1", f.port(&weftv1.Port{Name: "b", NetworkId: vl.GetId(), FixedIps: at(s2, "10.20.20.11")}))
	ext1 := f.outside("ext1", "203.0.113.0/24")
	r, err := f.routers.CreateRouter(t.Context(), &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "r"}})
	f.must(err)
	r = f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId(), FixedIps: []*weftv1.FixedIp{{IpAddress: "203.0.113.50"}}})
	r = f.attach(f.attach(r, s1), s2)
	_, err = f.floating.CreateFloatingIp(t.Context(), &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{
		NetworkId: ext1.GetId(), PortId: a.port.GetId(), IpAddress: "203.0.113.200",
	}})
	f.must(err)
	f.reach(f.external("ext1").Space, netip.MustParseAddr("203.0.113.200"))
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")

	for _, x := range []*weftv1.Network{vx, vl, ext1} {
		n.add(x.GetId(), "network "+x.GetName())
	}
	n.add(r.GetId(), "router r")
	n.add(s1.GetId(), "subnet vx")
	n.add(s2.GetId(), "subnet vl")
	ports, err := f.ports.ListPorts(t.Context(), &weftv1.ListPortsRequest{})
	f.must(err)
	networks := map[string]string{vx.GetId(): "vx", vl.GetId(): "vl", ext1.GetId(): "ext1"}
	for _, p := range ports.GetPorts() {
		name := p.GetName()
		if name == "" {
			name = strings.TrimPrefix(p.GetDeviceOwner(), "network:") + " " + networks[p.GetNetworkId()]
		}
		n.port(p, name)
	}
	for node, bridges := range map[string][]string{"net1": {"br-int", "br-tun", "br-tenant", "br-ext1"}, "cmp1": {"br-int", "br-tun", "br-tenant"}} {
		at := f.host(node).Space
		f.golden(node+"-show", sortedBridges(n.apply(f.sh(at, "ovs-vsctl show"))))
		var flows strings.Builder
		for _, b := range bridges {
			text := n.apply(f.sh(at, "ovs-ofctl -O OpenFlow15 --names --no-stats dump-flows "+b))
			text = resets.ReplaceAllString(cookies.ReplaceAllString(text, " "), "")
			fmt.Fprintf(&flows, "## %s\n%s", b, sortedLines(text))
		}
		f.golden(node+"-flows", flows.String())
	}
	_, inside := f.placed(r)
	f.golden("net1-router-iptables", n.apply(counters.ReplaceAllString(f.sh(inside, "iptables-save"), "")))
	f.golden("net1-router-links", sortedLines(n.apply(f.sh(inside, "ip -4 -br addr | sed 's/@if[0-9]*//'; ip route; sysctl net.ipv4.ip_forward"))))
	f.golden("net1-dnsmasq", n.apply(f.sh(f.host("net1").Space, `cd /var/lib/weft/dhcp; for d in `+vx.GetId()+` `+vl.GetId()+`; do
		echo "## $d"; tr '\0' '\n' </proc/$(cat $d/pid)/cmdline; for f in host opts addn_hosts; do echo "# $f"; cat $d/$f; done; done`)))
}
