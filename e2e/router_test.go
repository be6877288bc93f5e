package e2e_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
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

func TestRouters(t *testing.T) {
	f := newFleet(t, "e2e-routers", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	out := f.external("ext1")
	n, ns := f.vxlan("n", "10.10.0.0/24")
	m, ms := f.tenant("m", weftv1.NetworkType_NETWORK_TYPE_VLAN, "10.20.0.0/24")
	a, b, c := f.guest("a", "cmp1", n), f.guest("b", "cmp2", m), f.guest("c", "cmp1", m)
	r := f.router("r", ext1, ns, ms)
	gateway := netip.MustParseAddr(r.GetExternalGateway().GetFixedIps()[0].GetIpAddress())
	f.reach(a.Space, outside1)
	_, inside := f.placed(r)

	t.Run("subnets behind one router reach each other, unchanged", func(t *testing.T) {
		f := f.in(t)
		seen := f.capture(b.Space, lab.VMDevice, "icmp and src host "+a.ip.String())
		f.reach(a.Space, b.ip)
		f.some(seen)
		f.reach(c.Space, a.ip)
	})

	t.Run("static routes lead behind a VM, inwards and outwards", func(t *testing.T) {
		f := f.in(t)
		behind := netip.MustParseAddr("172.16.9.1")
		f.sh(b.Space, "ip link set lo up; ip addr add 172.16.9.1/32 dev lo")
		route := &weftv1.Route{Destination: "172.16.9.0/24", Nexthop: b.ip.String()}
		_, err := f.ports.UpdatePort(t.Context(), &weftv1.UpdatePortRequest{
			Port:       &weftv1.Port{Id: b.port.GetId(), AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "172.16.9.0/24"}}}, // it speaks for them
			UpdateMask: mask("allowed_address_pairs"),
		})
		f.must(err)
		_, err = f.routers.AddRouterRoute(t.Context(), &weftv1.AddRouterRouteRequest{RouterId: r.GetId(), Route: route})
		f.must(err)
		f.reach(a.Space, behind)
		seen := f.capture(out.Space, out.Device(), "icmp and src host "+gateway.String())
		f.sh(b.Space, "ping -c 3 -i 0.1 -W 2 -I 172.16.9.1 203.0.113.1")
		f.some(seen)
		_, err = f.routers.RemoveRouterRoute(t.Context(), &weftv1.RemoveRouterRouteRequest{RouterId: r.GetId(), Route: route})
		f.must(err)
		f.cutOff(a.Space, behind)
		f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	})

	t.Run("floating IPs of one router reach each other, and VMs without one reach them", func(t *testing.T) {
		f := f.in(t)
		pa, fa := f.floatingIP(ext1, a)
		pb, fb := f.floatingIP(ext1, b)
		seen := f.capture(b.Space, lab.VMDevice, "icmp[icmptype] == icmp-echo and src host "+fa.String())
		f.reach(a.Space, fb)
		f.some(seen)
		seen = f.capture(b.Space, lab.VMDevice, "icmp[icmptype] == icmp-echo and src host "+gateway.String())
		f.reach(c.Space, fb) // b's neighbour on m: the answer has to come back through the router
		f.some(seen)
		f.reach(a.Space, fa) // even itself
		f.reach(out.Space, fb)
		for _, p := range []*weftv1.FloatingIp{pa, pb} {
			f.floatingState(p, weftv1.State_STATE_ACTIVE, "")
			f.deleteFloating(p)
		}
	})

	t.Run("a deleted floating IP takes its connections with it", func(t *testing.T) {
		f := f.in(t)
		p, address := f.floatingIP(ext1, a)
		f.echoServer(a.Space, 7007)
		inbound := f.talkTo(out.Space, netip.AddrPortFrom(address, 7007))
		inbound.alive()
		if table := f.conntrack(inside); !strings.Contains(table, address.String()) {
			t.Fatalf("no entry of %s in conntrack:\n%s", address, table)
		}
		f.deleteFloating(p)
		f.cutOff(out.Space, address)
		inbound.dead()
		// What goes on trying makes entries of its own; none may translate one address to the other any more.
		for line := range strings.Lines(f.conntrack(inside)) {
			if strings.Contains(line, address.String()) && strings.Contains(line, a.ip.String()) {
				t.Errorf("conntrack still has %s", line)
			}
		}
	})

	t.Run("TCP connections through SNAT and to a floating IP outlive the agent", func(t *testing.T) {
		f := f.in(t)
		p, address := f.floatingIP(ext1, a)
		f.echoServer(out.Space, 7008)
		f.echoServer(a.Space, 7009)
		outbound := f.talkTo(b.Space, netip.AddrPortFrom(outside1, 7008))
		inbound := f.talkTo(out.Space, netip.AddrPortFrom(address, 7009))
		for range 2 {
			outbound.alive()
			inbound.alive()
			f.must(f.host("net1").Kill(t.Context(), lab.AgentDaemon))
			outbound.alive()
			f.must(f.host("net1").Start(t.Context(), lab.AgentDaemon))
			f.alive()
		}
		other, _ := f.floatingIP(ext1, c) // proves that the agent works again
		f.floatingState(other, weftv1.State_STATE_ACTIVE, "")
		outbound.alive()
		inbound.alive()
		f.deleteFloating(p)
		f.deleteFloating(other)
	})

	t.Run("without SNAT private addresses leave as they are, floating IPs work on", func(t *testing.T) {
		f := f.in(t)
		_, address := f.floatingIP(ext1, a)
		off := false
		f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId(), EnableSnat: &off, FixedIps: r.GetExternalGateway().GetFixedIps()})
		f.routerState(r, weftv1.State_STATE_ACTIVE, "")
		seen := f.capture(out.Space, out.Device(), "icmp and src host "+b.ip.String())
		_, err := b.Ping(t.Context(), outside1, echo.Options{Count: 5, Identity: echo.NewFlows})
		f.must(err)
		f.some(seen)
		f.reach(out.Space, address)
		f.reach(a.Space, outside1)
		f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId(), FixedIps: r.GetExternalGateway().GetFixedIps()})
		f.reach(b.Space, outside1)
	})

	t.Run("a gateway cleared and set again", func(t *testing.T) {
		f := f.in(t)
		f.clearFloating()
		_, err := f.routers.ClearRouterGateway(t.Context(), &weftv1.ClearRouterGatewayRequest{RouterId: r.GetId()})
		f.must(err)
		f.cutOff(b.Space, outside1)
		f.reach(a.Space, b.ip)
		f.routerState(r, weftv1.State_STATE_ACTIVE, "")
		if links := f.sh(inside, "ip -o link"); strings.Contains(links, "qg-") {
			t.Errorf("the gateway's link is still there:\n%s", links)
		}
		if rules := f.sh(inside, "iptables-save"); strings.Contains(rules, gateway.String()) {
			t.Errorf("rules of the gateway are still there:\n%s", rules)
		}
		f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId()})
		f.reach(b.Space, outside1)
		_, address := f.floatingIP(ext1, b)
		f.reach(out.Space, address)
	})
}

// TestNothingLeavesBeforeItsNAT builds routers under a flood: a packet let through early would be bound by conntrack to its
// private source address for as long as its flow lives.
func TestNothingLeavesBeforeItsNAT(t *testing.T) {
	f := newFleet(t, "e2e-natfirst", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	n, s := f.vxlan("n", "10.10.0.0/24")
	g := f.guest("g", "cmp1", n)
	private := f.capture(out.Space, out.Device(), "net 10.0.0.0/8")
	stop := f.datagrams(g.Space, netip.AddrPortFrom(outside1, 9))
	for round := range 6 {
		r := f.router(fmt.Sprintf("r%d", round), nil)
		if round%2 == 0 {
			r = f.attach(r, s)
			r = f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId()})
		} else {
			r = f.setGateway(r, &weftv1.ExternalGateway{NetworkId: ext1.GetId()})
			r = f.attach(r, s)
		}
		gateway := r.GetExternalGateway().GetFixedIps()[0].GetIpAddress()
		seen := f.capture(out.Space, out.Device(), "udp and src host "+gateway)
		f.some(seen)
		if round == 3 { // the agent is killed in the middle of it
			f.must(f.host("net1").Kill(t.Context(), lab.AgentDaemon))
			f.must(f.host("net1").Start(t.Context(), lab.AgentDaemon))
			f.alive()
		}
		if round == 4 { // and what is taken away piece by piece lets nothing out either
			_, err := f.routers.ClearRouterGateway(t.Context(), &weftv1.ClearRouterGatewayRequest{RouterId: r.GetId()})
			f.must(err)
		}
		f.detach(r, s)
		f.deleteRouter(r)
	}
	stop()
	f.none(private, "packets with a private address outside")
}

func (f *fleet) conntrack(router lab.Space) string {
	f.t.Helper()
	return f.sh(router, "conntrack -L 2>/dev/null")
}

func (f *fleet) deleteFloating(p *weftv1.FloatingIp) {
	f.t.Helper()
	_, err := f.floating.DeleteFloatingIp(f.t.Context(), &weftv1.DeleteFloatingIpRequest{Id: p.GetId()})
	f.must(err)
}

func (f *fleet) clearFloating() {
	f.t.Helper()
	all, err := f.floating.ListFloatingIps(f.t.Context(), &weftv1.ListFloatingIpsRequest{})
	f.must(err)
	for _, p := range all.GetFloatingIps() {
		f.deleteFloating(p)
	}
}
