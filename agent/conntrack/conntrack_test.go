package conntrack_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/agent/netns"
)

const (
	floating = "203.0.113.7"
	vmA      = "10.0.0.10" // behind the floating IP, at first
	vmB      = "10.0.0.11"
	outside  = "203.0.113.1"
	port     = "7777"
)

// lab is a router between an inside with two VM addresses and an outside, on real NAT rules.
type lab struct {
	t                       *testing.T
	ns                      *netns.Manager
	nat                     *iptables.Driver
	router, inside, outside string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := iptables.New(context.Background(), iptables.Options{Enter: m.Run})
	if err != nil {
		t.Fatal(err)
	}
	name := func() string { return "qrouter-" + uuid.NewString() }
	l := &lab{t: t, ns: m, nat: d, router: name(), inside: name(), outside: name()}
	for _, n := range []string{l.router, l.inside, l.outside} {
		if _, err := m.Prepare(context.Background(), desired.Namespace{Name: n}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Delete(context.Background(), n); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
	}
	l.wire("qr-a", "10.0.0.1/24", l.inside, "tapa", vmA+"/24", vmB+"/24")
	l.wire("qg-a", "203.0.113.5/24", l.outside, "tapb", outside+"/24")
	l.ip(l.router, "addr", "add", floating+"/32", "dev", "qg-a")
	l.ip(l.inside, "route", "add", "default", "via", "10.0.0.1")
	l.associate(vmA)
	if _, err := m.Forward(context.Background(), desired.Namespace{Name: l.router, Forward: true}); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) ip(ns string, argv ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns}, argv...)...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %v: %v: %s", argv, err, out)
	}
}

func (l *lab) wire(routerLink, routerAddr, ns, link string, addrs ...string) {
	l.t.Helper()
	l.ip(l.router, "link", "add", routerLink, "up", "type", "veth", "peer", "name", link, "netns", ns)
	l.ip(l.router, "addr", "add", routerAddr, "dev", routerLink)
	l.ip(ns, "link", "set", link, "up")
	for _, a := range addrs {
		l.ip(ns, "addr", "add", a, "dev", link)
	}
}

// associate points the floating IP to a fixed address; "" to none. Everything else is SNATed to the router's address.
func (l *lab) associate(fixed string) {
	l.t.Helper()
	var dnat, snat []string
	if fixed != "" {
		dnat = []string{"-d " + floating + "/32 -j DNAT --to-destination " + fixed}
		snat = []string{"-s " + fixed + "/32 -o qg-a -j SNAT --to-source " + floating}
	}
	want := desired.IPTables{
		Jumps: []desired.Jump{
			{Table: "nat", Builtin: "PREROUTING", Target: "weft-PREROUTING"},
			{Table: "nat", Builtin: "POSTROUTING", Target: "weft-snat"},
		},
		Chains: []desired.Chain{
			{Table: "nat", Name: "weft-PREROUTING", Rules: dnat},
			{Table: "nat", Name: "weft-snat", Rules: append(snat, "-o qg-a -j SNAT --to-source 203.0.113.5")},
		},
	}
	if err := l.nat.Ensure(context.Background(), l.router, want); err != nil {
		l.t.Fatal(err)
	}
}

// serve answers every line on a TCP port of an address with "<address> sees <client>".
func (l *lab) serve(ns, addr string) {
	l.t.Helper()
	var lis net.Listener
	if err := l.ns.Run(ns, func() (err error) {
		lis, err = net.Listen("tcp4", addr+":"+port)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { lis.Close() })
	go func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					fmt.Fprintf(c, "%s sees %s\n", addr, host)
				}
			}()
		}
	}()
}

// flow is one connection.
type flow struct {
	net.Conn
	lines *bufio.Reader
}

func (l *lab) dial(ns, from, to string) *flow {
	l.t.Helper()
	var c net.Conn
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second, FallbackDelay: -1}
	if err := l.ns.Run(ns, func() (err error) {
		c, err = d.Dial("tcp4", to+":"+port)
		return err
	}); err != nil {
		l.t.Fatalf("dial %s from %s: %v", to, from, err)
	}
	l.t.Cleanup(func() { c.Close() })
	return &flow{c, bufio.NewReader(c)}
}

func (l *lab) ask(f *flow) string {
	l.t.Helper()
	f.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintln(f, "who?")
	line, err := f.lines.ReadString('\n')
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (l *lab) forget(addrs ...string) int {
	l.t.Helper()
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	n, err := conntrack.Forgetter{Enter: l.ns.Run}.Forget(context.Background(), l.router, list...)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// table is what conntrack(8) lists in the router.
func (l *lab) table() string {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", l.router, "conntrack", "-L", "-p", "tcp").Output()
	if err != nil {
		l.t.Fatal(err)
	}
	return string(out)
}

func (l *lab) expect(what, got, want string) {
	l.t.Helper()
	if got != want {
		l.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestForgetRemovesTheFlowsOfAFloatingIPAndNoOthers(t *testing.T) {
	l := newLab(t)
	l.serve(l.inside, vmA)
	l.serve(l.inside, vmB)
	l.serve(l.outside, outside)
	in := l.dial(l.outside, outside, floating)
	out := l.dial(l.inside, vmA, outside)
	other := l.dial(l.inside, vmB, outside)
	l.expect("from outside", l.ask(in), vmA+" sees "+outside)
	l.expect("from the VM", l.ask(out), outside+" sees "+floating)
	l.expect("from the other VM", l.ask(other), outside+" sees 203.0.113.5")

	if n := l.forget(floating); n != 2 {
		t.Errorf("forgot %d entries, want 2; left:\n%s", n, l.table())
	}
	if table := l.table(); strings.Contains(table, floating) || !strings.Contains(table, "src="+vmB) {
		t.Errorf("left:\n%s", table)
	}
	l.expect("from the other VM", l.ask(other), outside+" sees 203.0.113.5")
	if n := l.forget(floating); n != 0 {
		t.Errorf("forgot %d entries of none", n)
	}
}

func TestAMovedFloatingIPReachesItsNewPortAtOnce(t *testing.T) {
	l := newLab(t)
	l.serve(l.inside, vmA)
	l.serve(l.inside, vmB)
	old := l.dial(l.outside, outside, floating)
	l.expect("before", l.ask(old), vmA+" sees "+outside)
	l.associate(vmB)
	l.expect("an old flow before Forget", l.ask(old), vmA+" sees "+outside)
	l.forget(floating)
	l.expect("a new flow", l.ask(l.dial(l.outside, outside, floating)), vmB+" sees "+outside)
	fmt.Fprintln(old, "who?")
	old.SetDeadline(time.Now().Add(10 * time.Second))
	if line, err := old.lines.ReadString('\n'); err == nil {
		t.Errorf("the old flow still reaches %q", line)
	}
}

func TestForgetByTheFixedAddressRemovesWhatWasBoundUntranslated(t *testing.T) {
	l := newLab(t)
	l.serve(l.outside, outside)
	l.ask(l.dial(l.inside, vmB, outside))
	if n := l.forget(vmB); n != 1 {
		t.Errorf("forgot %d entries, want 1", n)
	}
}

// Among many entries the kernel selects; the result is the same.
func TestForgetFindsAFlowInAnyPlaceAmongMany(t *testing.T) {
	l := newLab(t)
	l.serve(l.inside, vmA)
	l.serve(l.outside, outside)
	l.fill(6000)
	for what, c := range map[string]struct {
		from, source, to string
		forget           string
		entries          int
	}{
		"original source":      {l.inside, vmB, outside, vmB, 1},
		"original destination": {l.outside, outside, floating, floating, 1},
		"reply destination":    {l.inside, vmA, outside, floating, 1},
		"reply source":         {l.outside, outside, floating, vmA, 1},
	} {
		l.ask(l.dial(c.from, c.source, c.to))
		if n := l.forget(c.forget); n != c.entries {
			t.Errorf("%s: forgot %d, want %d; left:\n%s", what, n, c.entries, l.table())
		}
	}
	if n := l.forget("127.0.0.1"); n != 6000 {
		t.Errorf("forgot %d of 6000", n)
	}
}

// fill makes entries of the router with itself.
func (l *lab) fill(n int) {
	l.t.Helper()
	if err := l.ns.Run(l.router, func() error {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range n {
			to := &net.UDPAddr{IP: net.IPv4(127, 1, byte(i/250), byte(i%250+1)), Port: 9}
			// The error that a closed port sent back to an earlier one is reported here; it is of no account.
			if _, err := c.WriteTo([]byte("x"), to); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

func TestForgetRefusesWhatIsNoIPv4Address(t *testing.T) {
	f := conntrack.Forgetter{Enter: func(string, func() error) error { t.Error("entered"); return nil }}
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("2001:db8::1")} {
		if _, err := f.Forget(context.Background(), "qrouter-x", a); err == nil {
			t.Errorf("%s was taken", a)
		}
	}
	if n, err := f.Forget(context.Background(), "qrouter-x"); n != 0 || err != nil {
		t.Errorf("nothing to forget: %d, %v", n, err)
	}
}
