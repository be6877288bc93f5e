package host_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/hybrid/host"
	"github.com/weft-sdn/weft/proto/model"
)

func rule(change func(*model.Rule)) model.Rule {
	r := model.Rule{ID: "r", Group: groupID, Protocol: model.AnyProtocol, Ports: model.AllPorts(), Type: -1, Code: -1}
	change(&r)
	return r
}

func in(protocol model.Protocol, lowest, highest uint16) model.Rule {
	return rule(func(r *model.Rule) {
		r.Ingress, r.Protocol, r.Ports = true, protocol, model.PortRange{Min: lowest, Max: highest}
	})
}

// Every rule there can be is one that the host takes, and prints as it was planned: a comparison finds nothing to do.
func TestEveryRuleIsPlannedAsTheHostPrintsIt(t *testing.T) {
	s := newSite(t)
	var rules []model.Rule
	for p := model.AnyProtocol; p <= 255; p++ {
		for _, ipv6 := range []bool{false, true} {
			if p.HasTypes() && (p == model.ProtocolICMPv6) != ipv6 {
				continue
			}
			r := rule(func(r *model.Rule) { r.Ingress, r.IPv6, r.Protocol, r.RemoteGroup = p%2 == 0, ipv6, p, remoteID })
			rules = append(rules, r)
			if p.HasPorts() {
				r.Ports = model.PortRange{Min: 0, Max: 9}
				rules = append(rules, r)
				r.Ports = model.PortRange{Min: 65535, Max: 65535}
				rules = append(rules, r)
			}
			for kind := int16(0); p.HasTypes() && kind <= 255; kind += 51 {
				r.Type, r.Code = kind, -1
				rules = append(rules, r)
				r.Code = 3
				rules = append(rules, r)
			}
		}
	}
	for _, s := range []string{"10.0.0.0/24", "10.0.0.20/32", "0.0.0.0/0", "2001:db8::/64", "2001:db8::21/128", "::/0"} {
		p := netip.MustParsePrefix(s)
		rules = append(rules, rule(func(r *model.Rule) { r.IPv6, r.Prefix = p.Addr().Is6(), p }))
	}
	for _, stateful := range []bool{true, false} {
		f := filters(stateful, rules...)
		s.apply(f)
		s.whole(f)
	}
}

// TestWhatPassesAndWhatDoesNotWithoutARule has a port without rules, and one with rules for everything.
func TestWhatPassesAndWhatDoesNotWithoutARule(t *testing.T) {
	s := newSite(t)
	var number uint32
	all := []model.Rule{
		rule(func(*model.Rule) {}), rule(func(r *model.Rule) { r.IPv6 = true }),
		rule(func(r *model.Rule) { r.Ingress = true }), rule(func(r *model.Rule) { r.Ingress, r.IPv6 = true, true }),
	}
	none, group := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("ff02::1")
	broadcast, router6 := netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("2001:db8::1")
	udp := func(ingress bool, from, to uint16, remote, source netip.Addr) packet {
		return packet{ingress: ingress, protocol: model.ProtocolUDP, from: from, to: to, remote: remote, source: source}
	}
	icmp6 := func(ingress bool, kind uint8, source netip.Addr) packet {
		return packet{ingress: ingress, protocol: model.ProtocolICMPv6, kind: kind, remote: group, source: source}
	}
	for _, c := range []struct {
		name         string
		p            packet
		bare, opened bool // without rules, with rules for everything
	}{
		{"a DHCP request from nowhere", udp(false, 68, 67, broadcast, none), true, true},
		{"a DHCP renewal", udp(false, 68, 67, remotes[0], vmIP), true, true},
		{"an answer of a DHCP server", udp(true, 67, 68, remotes[0], vmIP), true, true},
		{"an answer of somebody who is none", packet{ingress: true, protocol: model.ProtocolUDP, from: 67, to: 68, remote: remotes[0], sourceMAC: "fa:16:3e:00:00:66"}, false, true},
		{"a listener's report to the VM", icmp6(true, 131, vmIP6), false, true},
		{"a VM that plays DHCP server", udp(false, 67, 68, remotes[0], vmIP), false, false},
		{"a VM that plays DHCPv6 server", udp(false, 547, 546, remotes[4], vmIP6), false, false},
		{"one that does so from another port", udp(false, 6767, 68, remotes[0], vmIP), false, false},
		{"one that does so from another port, DHCPv6", udp(false, 6767, 546, remotes[4], vmIP6), false, false},
		{"a router solicitation", icmp6(false, 133, vmIP6), true, true},
		{"a router advertisement from the VM", icmp6(false, 134, vmIP6), false, false},
		{"a router advertisement to the VM", packet{ingress: true, protocol: model.ProtocolICMPv6, kind: 134, remote: router6}, true, true},
		{"duplicate address detection", icmp6(false, 135, netip.IPv6Unspecified()), true, true},
		{"a neighbour advertisement", icmp6(false, 136, vmIP6), true, true},
		{"a redirect from the VM", icmp6(false, 137, vmIP6), false, false},
		{"an IPv4 redirect from the VM", packet{protocol: model.ProtocolICMP, kind: 5, code: 1, remote: remotes[0]}, false, false},
		{"somebody else's address", packet{protocol: model.ProtocolUDP, to: 9, remote: remotes[0], source: remotes[1]}, false, false},
		{"somebody else's IPv6 address", packet{protocol: model.ProtocolUDP, to: 9, remote: remotes[4], source: remotes[5]}, false, false},
		{"somebody else's MAC address", packet{protocol: model.ProtocolUDP, to: 9, remote: remotes[0], sourceMAC: "fa:16:3e:00:00:66"}, false, false},
		{"a packet out", packet{protocol: model.ProtocolUDP, to: 9, remote: remotes[0]}, false, true},
		{"a packet in", packet{ingress: true, protocol: model.ProtocolUDP, to: 9, remote: remotes[0]}, false, true},
		{"VRRP out", packet{protocol: 112, remote: remotes[0]}, false, true},
	} {
		for rules, want := range map[*[]model.Rule]bool{{}: c.bare, &all: c.opened} {
			for _, stateful := range []bool{true, false} {
				s.apply(filters(stateful, *rules...))
				if got := s.pass(c.p.ingress, []packet{c.p}, &number)[0]; got != want {
					t.Errorf("%s, %d rules, stateful %v: passed %v, want %v", c.name, len(*rules), stateful, got, want)
				}
			}
		}
	}
}

func TestTheWayBackPassesUntilTheRuleGoes(t *testing.T) {
	s := newSite(t)
	var number uint32
	there := packet{ingress: true, protocol: model.ProtocolUDP, from: 4000, to: 53, remote: remotes[0]}
	back := packet{protocol: model.ProtocolUDP, from: 53, to: 4000, remote: remotes[0]}
	other := packet{ingress: true, protocol: model.ProtocolUDP, from: 4000, to: 54, remote: remotes[0]}
	otherBack := packet{protocol: model.ProtocolUDP, from: 54, to: 4000, remote: remotes[0]}
	send := func(p packet) bool {
		t.Helper()
		return s.passOn(p.ingress, []packet{p}, &number)[0]
	}
	for _, stateful := range []bool{false, true} {
		f := filters(stateful, in(model.ProtocolUDP, 53, 53), in(model.ProtocolUDP, 54, 54))
		s.apply(f)
		if !send(there) || !send(other) {
			t.Fatalf("stateful %v: the way there", stateful)
		}
		if got := send(back); got != stateful {
			t.Errorf("stateful %v: the way back passed %v", stateful, got)
		}
	}
	s.apply(filters(true, in(model.ProtocolUDP, 54, 54)))
	if send(there) {
		t.Error("the way there passes without its rule")
	}
	if send(back) {
		t.Error("the way back passes without its rule")
	}
	if !send(otherBack) || !send(other) {
		t.Error("another connection was touched")
	}
}

func TestAZoneIsForgottenAlone(t *testing.T) {
	s := newSite(t)
	var number uint32
	there := packet{ingress: true, protocol: model.ProtocolUDP, from: 4000, to: 53, remote: remotes[0]}
	back := packet{protocol: model.ProtocolUDP, from: 53, to: 4000, remote: remotes[0]}
	s.apply(filters(true, in(model.ProtocolUDP, 53, 53)))
	if !s.pass(true, []packet{there}, &number)[0] {
		t.Fatal("the way there")
	}
	for _, c := range []struct {
		zone   uint16
		passes bool
	}{{8, true}, {7, false}} {
		if err := s.ForgetZones([]uint16{c.zone}); err != nil {
			t.Fatal(err)
		}
		if passed := s.passOn(false, []packet{back}, &number)[0]; passed != c.passes {
			t.Errorf("zone %d forgotten: the way back passed %v", c.zone, passed)
		}
	}
}

func TestAVMDoesNotReachItsHost(t *testing.T) {
	s := newSite(t)
	s.command("ip", "-n", s.host, "addr", "add", "10.0.0.1/24", "dev", "qbr")
	s.apply(filters(true, rule(func(*model.Rule) {})))
	before := s.received()
	var number uint32
	s.pass(false, []packet{{protocol: model.ProtocolUDP, to: 9, remote: netip.MustParseAddr("10.0.0.1"), destinationMAC: s.bridgeMAC()}}, &number)
	if after := s.received(); after != before {
		t.Errorf("the host received UDP: %s, then %s", before, after)
	}
}

// received is what the host's own IP has been given of UDP, delivered or without a socket.
func (s *site) received() string {
	s.Helper()
	var out []string
	s.in(s.host, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "Udp:") {
				out = strings.Fields(line)
			}
		}
		return err
	})
	return strings.Join(out[1:3], " ") // InDatagrams, NoPorts
}

func (s *site) bridgeMAC() (mac string) {
	s.Helper()
	s.in(s.host, func() error {
		l, err := netlink.LinkByName("qbr")
		if err == nil {
			mac = l.Attrs().HardwareAddr.String()
		}
		return err
	})
	return mac
}

func TestMembersChangeOneByOneAndStrangersStay(t *testing.T) {
	s := newSite(t)
	s.in(s.host, func() error {
		return netlink.IpsetCreate("weft-of-a-stranger", "hash:ip", netlink.IpsetCreateOptions{})
	})
	f := filters(true, rule(func(r *model.Rule) { r.Ingress, r.RemoteGroup = true, remoteID }))
	for i := range 2000 {
		f.Members[remoteID] = append(f.Members[remoteID], netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)}), 32))
	}
	s.apply(f)
	s.whole(f)
	s.apply(f)
	before := s.Writes()
	f.Members[remoteID] = append(slices.Clone(f.Members[remoteID]), netip.MustParsePrefix("10.7.0.1/32"))
	s.apply(f)
	if n := s.Writes() - before; n != 1 {
		t.Errorf("one more member took %d changes", n)
	}
	s.whole(f)
	s.apply(hybrid.Filters{})
	s.whole(hybrid.Filters{})
	s.in(s.host, func() error {
		left, err := netlink.IpsetListAll()
		if len(left) != 1 || left[0].SetName != "weft-of-a-stranger" {
			t.Errorf("left: %+v", left)
		}
		return err
	})
}

func TestADamagedHostIsMended(t *testing.T) {
	s := newSite(t)
	f := filters(true, in(model.ProtocolTCP, 22, 22), rule(func(r *model.Rule) { r.Ingress, r.RemoteGroup = true, remoteID }))
	s.apply(f)
	s.command("ip", "netns", "exec", s.host, "iptables", "-F", "weft-sg-ic0000001-00")
	s.in(s.host, func() error {
		for _, set := range hybrid.New(f).Sets {
			if err := netlink.IpsetFlush(set.Name); err != nil {
				return err
			}
		}
		return nil
	})
	s.in(s.host, func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o600) })
	if n := len(s.differences(f)); n < 3 {
		t.Errorf("%d differences were found", n)
	}
	s.resync(f)
	s.whole(f)
}

// resync repairs what differs, as an audit has it done.
func (s *site) resync(f hybrid.Filters) {
	s.Helper()
	f.ProtocolNames = host.ProtocolNames()
	if err := s.Resync(s.Context(), &f); err != nil {
		s.Fatal(err)
	}
}

func TestARuleOfOthersLetsNothingThrough(t *testing.T) {
	s := newSite(t)
	var number uint32
	s.command("ip", "netns", "exec", s.host, "iptables", "-A", "FORWARD", "-j", "ACCEPT")
	f := filters(true)
	s.apply(f)
	in := []packet{{ingress: true, protocol: model.ProtocolUDP, to: 9, remote: remotes[0]}}
	if s.pass(true, in, &number)[0] {
		t.Error("passes by a rule that was there before")
	}
	s.command("ip", "netns", "exec", s.host, "iptables", "-I", "FORWARD", "1", "-j", "ACCEPT")
	if !s.pass(true, in, &number)[0] {
		t.Fatal("does not pass by a rule that was put first")
	}
	s.resync(f)
	if s.pass(true, in, &number)[0] {
		t.Error("passes by a rule that came later")
	}
	s.whole(f)
	if out := s.output("ip", "netns", "exec", s.host, "iptables", "-S", "FORWARD"); strings.Count(out, "-A FORWARD -j ACCEPT") != 2 {
		t.Errorf("the others' rules: %s", out)
	}
}

// without is a folder of iptables' extensions that lacks some, as on a host that does not have them.
func without(t *testing.T, extensions ...string) {
	t.Helper()
	const installed = "/usr/lib/x86_64-linux-gnu/xtables"
	all, err := os.ReadDir(installed)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, f := range all {
		if slices.Contains(extensions, f.Name()) {
			continue
		}
		if err := os.Symlink(filepath.Join(installed, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XTABLES_LIBDIR", dir) // iptables(8)
}

func TestARuleThatTheHostRefusesStopsNothingElse(t *testing.T) {
	s := newSite(t)
	var number uint32
	web := []packet{{ingress: true, protocol: model.ProtocolTCP, to: 80, remote: remotes[0]}}
	odd := []packet{{ingress: true, protocol: model.ProtocolICMP, kind: 255, remote: remotes[0]}}
	refused := rule(func(r *model.Rule) { r.ID, r.Ingress, r.Protocol, r.Type = "odd", true, model.ProtocolICMP, 255 })
	f := filters(false, refused, in(model.ProtocolTCP, 80, 80))
	f.Ports[0].Groups = append(f.Ports[0].Groups, remoteID)
	f.Rules[remoteID] = []model.Rule{in(model.ProtocolUDP, 53, 53)}

	t.Run("while it is refused", func(t *testing.T) {
		without(t, "libxt_u32.so")
		err := s.Apply(t.Context(), &f)
		var told *host.RefusedError
		if !errors.As(err, &told) || len(told.Rules) != 1 || told.Rules[refused] == nil || !strings.Contains(told.Error(), "u32") {
			t.Fatalf("applied: %v", err)
		}
		if !s.pass(true, web, &number)[0] {
			t.Error("another rule of the group is not in force")
		}
		f.Rules[remoteID] = nil
		if err := s.Apply(t.Context(), new(f)); !errors.As(err, &told) {
			t.Errorf("another change: %v", err)
		}
		if s.pass(true, []packet{{ingress: true, protocol: model.ProtocolUDP, to: 53, remote: remotes[0]}}, &number)[0] {
			t.Error("a rule of another group that went is still in force")
		}
		if s.pass(true, odd, &number)[0] {
			t.Error("the refused rule lets something through")
		}
		if left, err := s.Diff(t.Context(), &f); err != nil || len(left) > 0 {
			t.Errorf("differs: %v, %v", left, err)
		}
	})
	if err := s.Apply(t.Context(), &f); err == nil {
		t.Error("what was refused is tried again by another change")
	}
	if err := s.Apply(t.Context(), &f); err != nil {
		t.Errorf("the host takes it by now: %v", err)
	}
	if !s.pass(true, odd, &number)[0] {
		t.Error("the rule lets nothing through though the host takes it")
	}
	s.whole(f)
}

func TestASetThatCannotBeFilledEmptiesOnlyTheRulesThatReferToIt(t *testing.T) {
	s := newSite(t)
	var number uint32
	friends := rule(func(r *model.Rule) { r.Ingress, r.IPv6, r.RemoteGroup = true, true, remoteID })
	f := filters(false, friends, rule(func(r *model.Rule) { r.Ingress, r.RemoteGroup = true, remoteID }))
	s.in(s.host, func() error { // somebody has made it, of the other family
		return netlink.IpsetCreate(hybrid.SetOf(friends), "hash:net", netlink.IpsetCreateOptions{Family: unix.AF_INET})
	})
	var told *host.RefusedError
	if err := s.Apply(t.Context(), &f); !errors.As(err, &told) || len(told.Rules) != 1 || told.Rules[friends] == nil {
		t.Fatalf("applied: %v", err)
	}
	packets := []packet{{ingress: true, protocol: model.ProtocolUDP, to: 9, remote: remotes[0]}, {ingress: true, protocol: model.ProtocolUDP, to: 9, remote: remotes[4]}}
	if got := s.pass(true, packets, &number); !got[0] || got[1] {
		t.Errorf("passed: %v by IPv4, %v by IPv6", got[0], got[1])
	}
	s.in(s.host, func() error { return netlink.IpsetDestroy(hybrid.SetOf(friends)) })
	if err := s.Apply(t.Context(), &f); err != nil {
		t.Errorf("the set can be made by now: %v", err)
	}
	if got := s.pass(true, packets, &number); !got[0] || !got[1] {
		t.Errorf("passed by now: %v by IPv4, %v by IPv6", got[0], got[1])
	}
	s.whole(f)
}
