package e2e_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/e2e/lab"
)

// The outside hosts' addresses.
var (
	outside1 = netip.MustParseAddr("203.0.113.1")
	outside2 = netip.MustParseAddr("198.51.100.1")
)

// TestOneNodeServesSeveralExternals holds rows R10 and R15 of the reference: one network node, two outsides, a router to each.
func TestOneNodeServesSeveralExternals(t *testing.T) {
	f := newFleet(t, "e2e-externals", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes = 1, 1 })
	ext1, ext2 := f.outside("ext1", "203.0.113.0/24"), f.outside("ext2", "198.51.100.0/24")
	n1, s1 := f.vxlan("one", "10.1.0.0/24")
	n2, s2 := f.vxlan("two", "10.1.0.0/24") // behind another router: the same addresses
	g1, g2 := f.guest("one", "cmp1", n1), f.guest("two", "cmp1", n2)
	r1, r2 := f.router("router1", ext1, s1), f.router("router2", ext2, s2)

	for _, r := range []struct {
		from    *guest
		to      netip.Addr
		physnet string
		gateway string
	}{
		{g1, outside1, "ext1", r1.GetExternalGateway().GetFixedIps()[0].GetIpAddress()},
		{g2, outside2, "ext2", r2.GetExternalGateway().GetFixedIps()[0].GetIpAddress()},
	} {
		out := f.external(r.physnet)
		f.reach(r.from.Space, r.to)
		c := f.capture(out.Space, out.Device(), "icmp[icmptype] == icmp-echo and dst host "+r.to.String())
		p := f.ping(r.from.Space, r.to)
		f.some(c)
		p.noneLost()
		for _, line := range c.Packets() {
			if !strings.Contains(line, " "+r.gateway+" > "+r.to.String()) {
				t.Errorf("%s: want only packets from %s: %s", r.physnet, r.gateway, line)
			}
		}
	}
	both := []*pinging{f.ping(g1.Space, outside1), f.ping(g2.Space, outside2)}
	_, in1 := f.placed(r1)
	_, in2 := f.placed(r2)
	names := f.sh(f.host("net1").Space, "ip netns list")
	if strings.Count(names, "qrouter-") != 2 || in1.String() == in2.String() {
		t.Errorf("net1 has %q, want a namespace for each router", names)
	}
	// Neither outside is to be had through the other router.
	if s := f.sh(in1, "ip -4 -o addr"); strings.Contains(s, "198.51.100.") {
		t.Errorf("router1 has an address of ext2:\n%s", s)
	}
	for _, p := range both {
		p.noneLost()
	}
}
