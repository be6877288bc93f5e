package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/lease"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// fits wants packets of exactly so many octets, header included, to pass unfragmented.
func (f *fleet) fits(from lab.Space, to netip.Addr, octets int) {
	f.t.Helper()
	f.sh(from, fmt.Sprintf("ping -M do -c 3 -i 0.1 -W 2 -s %d %s", octets-28, to)) // IPv4 and ICMP headers: 28 octets
}

// tooBig wants such packets to be refused with the MTU that would do; it may take one packet to learn.
func (f *fleet) tooBig(from lab.Space, to netip.Addr, octets, mtu int) {
	f.t.Helper()
	out, err := from.Exec(f.t.Context(), "sh", "-c", fmt.Sprintf("ping -M do -c 2 -i 0.2 -W 1 -s %d %s 2>&1", octets-28, to))
	if err == nil || !strings.Contains(out, fmt.Sprintf("mtu=%d", mtu)) && !strings.Contains(out, fmt.Sprintf("mtu = %d", mtu)) {
		f.t.Errorf("%s to %s with %d octets: want a refusal with MTU %d: %v\n%s", from, to, octets, mtu, err, out)
	}
}

func (f *fleet) mtu(at lab.Space, device string) string {
	f.t.Helper()
	return strings.TrimSpace(f.sh(at, fmt.Sprintf(`ip -o link | sed -n 's/^[0-9]*: %s.* mtu \([0-9]*\) .*/\1/p' | sort -u`, device)))
}

func TestMTU(t *testing.T) {
	f := newFleet(t, "e2e-mtu", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	fragments := f.capture(f.Switch(), "cmp1-underlay", "ip[6:2] & 0x3fff != 0")
	var subnets []*weftv1.Subnet
	var guests []*guest
	for i, c := range []struct {
		kind weftv1.NetworkType
		mtu  int
	}{
		{weftv1.NetworkType_NETWORK_TYPE_VXLAN, 1450}, // RFC 7348: 50 octets
		{weftv1.NetworkType_NETWORK_TYPE_GRE, 1458},   // RFC 2890: 42 octets with a key and the inner Ethernet header
		{weftv1.NetworkType_NETWORK_TYPE_VLAN, 1500},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			f := f.in(t)
			n, s := f.tenant(fmt.Sprintf("n%d", i), c.kind, fmt.Sprintf("10.%d.0.0/24", 10+i))
			a, b := f.guest(fmt.Sprintf("a%d", i), "cmp1", n), f.guest(fmt.Sprintf("b%d", i), "cmp2", n)
			subnets, guests = append(subnets, s), append(guests, a)
			if got := a.Spec.Lease.MTU; got != c.mtu {
				t.Errorf("DHCP gave MTU %d, want %d", got, c.mtu)
			}
			if got := f.mtu(a.Space, lab.VMDevice); got != fmt.Sprint(c.mtu) {
				t.Errorf("the VM's MTU is %s, want %d", got, c.mtu)
			}
			if got := f.mtu(f.host("net1").Namespace("qdhcp-"+n.GetId()), "tap"); got != fmt.Sprint(c.mtu) {
				t.Errorf("the DHCP server's MTU is %s, want %d", got, c.mtu)
			}
			f.reach(a.Space, b.ip)
			f.fits(a.Space, b.ip, c.mtu)
			f.tooBig(a.Space, b.ip, c.mtu+1, c.mtu)
		})
	}
	if t.Failed() {
		return
	}
	r := f.router("r", ext1, subnets...)
	vxlan, vlan := guests[0], guests[2]
	f.reach(vlan.Space, vxlan.ip)
	f.fits(vlan.Space, vxlan.ip, 1450)
	f.tooBig(vlan.Space, vxlan.ip, 1451, 1450)
	f.fits(vxlan.Space, vlan.ip, 1450)
	f.reach(vlan.Space, outside1)
	f.fits(vlan.Space, outside1, 1500)
	_, address := f.floatingIP(ext1, vxlan)
	f.reach(out.Space, address)
	f.fits(out.Space, address, 1450)
	f.tooBig(out.Space, address, 1451, 1450)
	_, inside := f.placed(r)
	if got := strings.Fields(f.mtu(inside, "qr-")); !slices.Equal(got, []string{"1450", "1458", "1500"}) {
		t.Errorf("qr- have MTUs %v", got)
	}
	if got := f.mtu(inside, "qg-"); got != "1500" {
		t.Errorf("qg- has MTU %s", got)
	}
	f.none(fragments, "fragments of tunnelled packets on the underlay")
}

// dnsmasq is the pid of the one DHCP server on a host; an error when there is not exactly one.
func (f *fleet) dnsmasq(host string) (int, error) {
	running, err := f.host(host).Processes(lab.DnsmasqDaemon)
	if err != nil || len(running) != 1 {
		return 0, errors.Join(err, fmt.Errorf("%s runs %d dnsmasq", host, len(running)))
	}
	return running[0].PID, nil
}

func (f *fleet) sameServer(host string, pid int, when string) {
	f.t.Helper()
	if now, err := f.dnsmasq(host); err != nil || now != pid {
		f.t.Errorf("%s: dnsmasq was process %d and is %d, %v", when, pid, now, err)
	}
}

// unanswered wants a guest's DHCP requests to get no answer.
func (f *fleet) unanswered(g *guest) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
	defer cancel()
	answers := f.capture(g.Space, lab.VMDevice, "udp and src port 67")
	if got, err := lease.Acquire(ctx, g.Do, lab.VMDevice, lease.Options{}); err == nil {
		f.t.Errorf("%s got %s", g, got.Address)
	}
	f.none(answers, "DHCP answers to "+g.String())
}

func TestDHCP(t *testing.T) {
	f := newFleet(t, "e2e-dhcp", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n := f.network(&weftv1.Network{Name: "n", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN})
	s1 := f.subnet(&weftv1.Subnet{
		Name: "s1", NetworkId: n.GetId(), Cidr: "10.10.0.0/24", DnsNameservers: []string{"192.0.2.53", "192.0.2.54"},
		HostRoutes: []*weftv1.Route{{Destination: "172.16.0.0/12", Nexthop: "10.10.0.9"}},
	})
	s2 := f.subnet(&weftv1.Subnet{Name: "s2", NetworkId: n.GetId(), Cidr: "10.20.0.0/24", GatewayIp: new(string)})
	at := func(s *weftv1.Subnet) []*weftv1.FixedIp { return []*weftv1.FixedIp{{SubnetId: s.GetId()}} }
	a := f.guestOf("a", "cmp1", f.port(&weftv1.Port{Name: "a", NetworkId: n.GetId(), FixedIps: at(s1)}))
	b := f.guestOf("b", "cmp2", f.port(&weftv1.Port{Name: "b", NetworkId: n.GetId(), FixedIps: at(s2)}))
	pid, err := f.dnsmasq("net1")
	f.must(err)

	t.Run("each subnet gives its own options", func(t *testing.T) {
		got := a.Spec.Lease
		if want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.54")}; !slices.Equal(got.DNS, want) {
			t.Errorf("a has DNS servers %v, want %v", got.DNS, want)
		}
		route := func(to, via string) lease.Route {
			return lease.Route{Destination: netip.MustParsePrefix(to), Gateway: netip.MustParseAddr(via)}
		}
		for _, want := range []lease.Route{route("172.16.0.0/12", "10.10.0.9"), route("0.0.0.0/0", "10.10.0.1")} {
			if !slices.Contains(got.Routes, want) {
				t.Errorf("a has routes %v, want %v among them", got.Routes, want)
			}
		}
		got = b.Spec.Lease
		only := []lease.Route{route("169.254.169.254/32", "10.20.0.1")} // to metadata, by the server
		if got.Address.String() != b.ip.String()+"/24" || !slices.Equal(got.Routes, only) {
			t.Errorf("b has %s and routes %v, want an address of 10.20.0.0/24 and %v", got.Address, got.Routes, only)
		}
		if got.MTU != 1450 {
			t.Errorf("b has MTU %d", got.MTU)
		}
	})

	t.Run("an unknown MAC gets no answer", func(t *testing.T) {
		f := f.in(t)
		g := f.prepare("faker", "cmp1", f.port(&weftv1.Port{
			Name: "faker", NetworkId: n.GetId(), FixedIps: at(s1), PortSecurityEnabled: new(bool), // it is the server that does not answer
		}))
		f.plug(g)
		f.portState(g.port, weftv1.State_STATE_ACTIVE, "")
		f.sh(g.Space, "ip link set eth0 down; ip link set eth0 address fa:16:3e:66:66:66; ip link set eth0 up")
		f.unanswered(g)
		f.sh(g.Space, "ip link set eth0 down; ip link set eth0 address "+g.Spec.Port.MAC+"; ip link set eth0 up")
		f.configure(g) // so the silence was not for another reason
		f.removeGuest(g)
	})

	t.Run("ports and subnets come and go without a restart of the server", func(t *testing.T) {
		f := f.in(t)
		g := f.guest("later", "cmp1", n)
		f.deletePort(g.port.GetId())
		again := f.port(&weftv1.Port{Name: "heir", NetworkId: n.GetId(), FixedIps: []*weftv1.FixedIp{
			{SubnetId: g.port.GetFixedIps()[0].GetSubnetId(), IpAddress: g.ip.String()},
		}})
		heir := f.guestOf("heir", "cmp2", again) // the old holder's address, at once
		f.reach(a.Space, heir.ip)
		f.must(g.Remove(t.Context()))
		f.sameServer("net1", pid, "after ports came and went")
		f.removeGuest(heir)
		s1.DnsNameservers = []string{"192.0.2.55"}
		_, err := f.subnets.UpdateSubnet(t.Context(), &weftv1.UpdateSubnetRequest{Subnet: s1, UpdateMask: mask("dns_nameservers")})
		f.must(err)
		f.eventually("the new DNS server is given", func(ctx context.Context) error {
			got, err := lease.Acquire(ctx, a.Do, lab.VMDevice, lease.Options{})
			if err == nil && !slices.Equal(got.DNS, []netip.Addr{netip.MustParseAddr("192.0.2.55")}) {
				err = fmt.Errorf("it gives %v", got.DNS)
			}
			return err
		})
		f.sameServer("net1", pid, "after a subnet changed")
	})

	t.Run("a restarted agent adopts the server, a killed server comes back", func(t *testing.T) {
		f := f.in(t)
		f.must(f.host("net1").Kill(t.Context(), lab.AgentDaemon))
		f.configure(a) // without any agent
		f.must(f.host("net1").Start(t.Context(), lab.AgentDaemon))
		f.alive()
		f.removeGuest(f.guest("proof", "cmp1", n)) // the agent serves a change again
		f.sameServer("net1", pid, "after the agent's restart")

		f.must(f.host("net1").Kill(t.Context(), lab.DnsmasqDaemon)) // an adopted one: not the new agent's child
		f.eventually("dnsmasq runs again", func(context.Context) error {
			now, err := f.dnsmasq("net1")
			if err == nil && now == pid {
				err = errors.New("the old one still runs")
			}
			return err
		})
		f.configure(a)
		f.must(f.host("net1").Kill(t.Context(), lab.DnsmasqDaemon)) // and its own child
		f.configure(b)
		f.networkState(n, weftv1.State_STATE_ACTIVE, "")
	})

	t.Run("the last subnet's end is the server's end", func(t *testing.T) {
		f := f.in(t)
		f.removeGuest(a)
		f.removeGuest(b)
		for _, s := range []*weftv1.Subnet{s1, s2} {
			_, err := f.subnets.DeleteSubnet(t.Context(), &weftv1.DeleteSubnetRequest{Id: s.GetId()})
			f.must(err)
		}
		f.eventually("neither process, namespace nor file is left", func(ctx context.Context) error {
			out, err := f.host("net1").Exec(ctx, "sh", "-ec", "ip netns list; pgrep -a dnsmasq || true; find /var/lib/weft -name '*"+n.GetId()+"*'; find /var/lib/weft/dhcp -type f")
			if err == nil && strings.TrimSpace(out) != "" {
				err = errors.New(out)
			}
			return err
		})
	})
}
