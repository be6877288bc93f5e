package netns_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/vishvananda/netlink"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/netns"
)

// host is one test's share of the machine: a state directory, and a namespace name that nobody else has.
type host struct {
	*netns.Manager
	t     *testing.T
	state string
	name  string
	held  atomic.Pointer[string] // the device that OVS has a port for
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	h := &host{t: t, state: t.TempDir(), name: "qrouter-" + uuid.NewString()}
	h.restart()
	t.Cleanup(func() {
		if err := h.Delete(context.Background(), h.name); err != nil && !errors.Is(err, netns.ErrForeign) {
			t.Errorf("clean up: %v", err)
		}
	})
	return h
}

// restart replaces the Manager, as a restarted agent would.
func (h *host) restart() {
	h.t.Helper()
	m, err := netns.New(netns.Options{StateDir: h.state, Held: func(device string) bool {
		held := h.held.Load()
		return held != nil && *held == device
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.Manager = m
}

// link gives a name for a link that nobody else has. Its outer end may remain if the test fails.
func (h *host) link() string {
	h.t.Helper()
	name := "tap" + strings.ReplaceAll(uuid.NewString(), "-", "")[:11]
	h.t.Cleanup(func() { exec.Command("ip", "link", "del", name).Run() }) // it mostly has gone with its namespace
	return name
}

func (h *host) run(argv ...string) string {
	h.t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// in runs a command in the namespace through iproute2, which thereby proves that it finds it.
func (h *host) in(argv ...string) string {
	h.t.Helper()
	return h.run(append([]string{"ip", "netns", "exec", h.name}, argv...)...)
}

func (h *host) prepare(want desired.Namespace) netns.Report {
	h.t.Helper()
	r, err := h.Prepare(context.Background(), want)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *host) ensure(want desired.Namespace) netns.Report {
	h.t.Helper()
	r, err := h.Ensure(context.Background(), want)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// quiet asserts that a resync, by this agent and by a restarted one, writes nothing.
func (h *host) quiet(want desired.Namespace) {
	h.t.Helper()
	for _, who := range []string{"the same agent", "a restarted agent"} {
		before := h.Writes()
		if r := h.ensure(want); r.Writes != 0 || h.Writes() != before || len(r.Announce) != 0 {
			h.t.Fatalf("resync by %s wrote: report %+v, counter %d", who, r, h.Writes()-before)
		}
		for _, d := range h.diff(want) {
			if d.Desired != "net.ipv4.ip_forward=1" && (d.Kind != "link" || d.Desired != "") { // Forward's and Prune's
				h.t.Fatalf("after a resync by %s: %s", who, d)
			}
		}
		h.restart()
	}
}

func (h *host) diff(want desired.Namespace) []desired.Difference {
	h.t.Helper()
	d, err := h.Diff(context.Background(), want)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// router is a namespace with one link, two addresses and routes.
func (h *host) router(link string) desired.Namespace {
	return desired.Namespace{
		Name:    h.name,
		Sysctls: map[string]string{"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"},
		Links: []desired.Link{{
			Name: link, MAC: "fa:16:3e:00:00:01", MTU: 1450,
			Addresses: prefixes("203.0.113.5/24", "203.0.113.7/32"),
			Announce:  []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.113.7")},
		}},
		Routes: []desired.Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("203.0.113.1"), Dev: link},
			{Destination: netip.MustParsePrefix("198.51.100.0/24"), Dev: link},
		},
		Forward: true,
	}
}

func TestEnsureBuildsWhatIPRouteShows(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	r := h.ensure(want)
	if !r.Created || r.Writes == 0 {
		t.Errorf("report %+v, want a created namespace and writes", r)
	}
	announced := []netns.Announce{
		{Namespace: h.name, Link: link, MAC: mac(t, "fa:16:3e:00:00:01"), Address: netip.MustParseAddr("203.0.113.5")},
		{Namespace: h.name, Link: link, MAC: mac(t, "fa:16:3e:00:00:01"), Address: netip.MustParseAddr("203.0.113.7")},
	}
	if d := cmp.Diff(announced, r.Announce, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("announcements (-want +got):\n%s", d)
	}
	contains(t, h.in("ip", "addr", "show", link), "mtu 1450", "fa:16:3e:00:00:01",
		"inet 203.0.113.5/24 brd 203.0.113.255 scope global", "inet 203.0.113.7/32 scope global", ",UP")
	contains(t, h.in("ip", "route"), "default via 203.0.113.1 dev "+link+" proto static", "198.51.100.0/24 dev "+link+" proto static scope link")
	contains(t, h.in("ip", "addr", "show", "lo"), "LOOPBACK,UP", "127.0.0.1/8")
	contains(t, h.in("sysctl", "net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce"), "arp_ignore = 1", "arp_announce = 2")
	contains(t, h.in("ethtool", "-k", link), "tx-checksumming: off", "tx-tcp-segmentation: off")
	contains(t, h.run("ip", "link", "show", link), "mtu 1450", "state UP", "alias weft:"+h.name, "link-netns "+h.name)
	lacks(t, h.run("ip", "addr", "show", link), "inet") // the host is not on the network, not even by a link-local address
	contains(t, h.run("sysctl", "net.ipv4.conf."+link+".arp_ignore"), "arp_ignore = 8")
	contains(t, h.run("ethtool", "-k", link), "tx-checksumming: off", "tx-tcp-segmentation: off")
	h.quiet(want)
}

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}

func lacks(t *testing.T, text string, banned ...string) {
	t.Helper()
	for _, w := range banned {
		if strings.Contains(text, w) {
			t.Errorf("%q should not be in:\n%s", w, text)
		}
	}
}

func TestForwardingIsOffUntilForward(t *testing.T) {
	h := newHost(t)
	want := h.router(h.link())
	h.prepare(want)
	forwarding := func() string { return h.in("sysctl", "-n", "net.ipv4.ip_forward") }
	if got := forwarding(); got != "0" {
		t.Fatalf("after Prepare ip_forward is %s", got)
	}
	h.ensure(want)
	if got := forwarding(); got != "0" {
		t.Fatalf("after Ensure ip_forward is %s", got)
	}
	for _, writes := range []int{1, 0} {
		r, err := h.Forward(context.Background(), want)
		if err != nil || r.Writes != writes {
			t.Fatalf("Forward wrote %d (%v), want %d", r.Writes, err, writes)
		}
	}
	if got := forwarding(); got != "1" {
		t.Fatalf("after Forward ip_forward is %s", got)
	}
	h.quiet(want)
	want.Sysctls["net.ipv4.ip_forward"] = "1"
	if _, err := h.Prepare(context.Background(), want); err == nil || !strings.Contains(err.Error(), "Forward") {
		t.Errorf("a forwarding sysctl is taken: %v", err)
	}
}

// Where frames may be forwarded, a new link waits for the NAT rules; elsewhere it is up before OVS looks at it.
func TestANewLinkIsUpAtOnceWhereNothingIsForwarded(t *testing.T) {
	h := newHost(t)
	want := h.router(h.link())
	h.prepare(want)
	state := func(link string) bool {
		return strings.Contains(h.in("ip", "-o", "link", "show", "dev", link), ",UP")
	}
	if !state(want.Links[0].Name) {
		t.Error("the link of a new namespace is down")
	}
	if addresses := h.in("ip", "-o", "-4", "address", "show", "dev", want.Links[0].Name); addresses != "" {
		t.Errorf("it has addresses before the NAT rules: %s", addresses)
	}
	h.ensure(want)
	if _, err := h.Forward(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	second := want.Links[0]
	second.Name, second.MAC, second.Addresses, second.Announce = h.link(), "fa:16:3e:00:00:02", prefixes("192.0.2.1/24"), nil
	want.Links = append(want.Links, second)
	h.prepare(want)
	if state(second.Name) {
		t.Error("a link that is new where frames are forwarded is up before the NAT rules")
	}
	h.ensure(want)
	if !state(second.Name) {
		t.Error("it stays down")
	}
}

func TestAStrangersDeviceOfAWantedNameIsNotTouched(t *testing.T) {
	h := newHost(t)
	link, taken := h.link(), h.link()
	h.run("ip", "link", "add", taken, "type", "veth", "peer", "name", "p"+taken[1:])
	want := h.router(link)
	want.Links = append(want.Links, want.Links[0])
	want.Links[1].Name, want.Links[1].Announce = taken, nil
	want.Links[1].Addresses = prefixes("192.0.2.1/24")
	before := h.run("ip", "-d", "link", "show", taken)
	_, err := h.Ensure(context.Background(), want)
	if !errors.Is(err, netns.ErrLinkForeign) || !strings.Contains(err.Error(), taken) {
		t.Fatalf("error %v, want ErrLinkForeign naming the link", err)
	}
	if after := h.run("ip", "-d", "link", "show", taken); after != before {
		t.Errorf("the stranger's device was\n%s\nand is\n%s", before, after)
	}
	contains(t, h.in("ip", "addr", "show", link), "203.0.113.5/24") // the other link is not held up
	h.run("ip", "link", "del", taken)
	h.ensure(want)
	contains(t, h.in("ip", "addr", "show", taken), "192.0.2.1/24")
	h.quiet(want)
}

// An earlier agent's internal ports lie in namespaces as tap devices; whoever deletes an end deletes the pair.
func TestEnsureMakesAPairOfWhatIsNone(t *testing.T) {
	h := newHost(t)
	name := h.link()
	want := h.router(name)
	h.prepare(desired.Namespace{Name: h.name})
	h.in("ip", "tuntap", "add", name, "mode", "tap")
	for _, spoil := range []func(){
		func() {},
		func() { h.in("ip", "link", "del", name) },
		func() { h.run("ip", "link", "del", name) },
		func() { h.run("ip", "netns", "del", h.name) }, // the outer end may be there for a while
	} {
		spoil()
		if r := h.ensure(want); len(r.Announce) == 0 {
			t.Errorf("the addresses on the new link are not announced: %+v", r)
		}
		contains(t, h.in("ip", "-4", "addr", "show", "dev", name), "203.0.113.5/24")
		contains(t, h.run("ip", "link", "show", name), "link-netns "+h.name)
		h.quiet(want)
	}
}

func TestEnsureFollowsChanges(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	h.ensure(want)

	l := &want.Links[0]
	l.MAC, l.MTU = "fa:16:3e:00:00:02", 1400
	l.Addresses = prefixes("203.0.113.6/24", "203.0.113.8/32") // .5, the first of its subnet, goes
	l.Announce = []netip.Addr{netip.MustParseAddr("203.0.113.8")}
	want.Routes = []desired.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("203.0.113.2"), Dev: link}}
	r := h.ensure(want)
	if len(r.Announce) != 1 || r.Announce[0].Address.String() != "203.0.113.8" {
		t.Errorf("announcements %v, want the new floating address", r.Announce)
	}
	addr := h.in("ip", "addr", "show", link)
	contains(t, addr, "203.0.113.6/24", "203.0.113.8/32", "fa:16:3e:00:00:02", "mtu 1400")
	lacks(t, addr, "203.0.113.5/", "203.0.113.7/")
	routes := h.in("ip", "route")
	contains(t, routes, "default via 203.0.113.2 dev "+link+" proto static")
	lacks(t, routes, "203.0.113.1 ", "198.51.100.0")
	h.quiet(want)
}

func TestEnsureRepairsWhatWasTamperedWith(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	h.ensure(want)
	for _, tamper := range [][]string{
		{"ip", "link", "set", link, "down"},
		{"ip", "addr", "flush", "dev", link},
		{"ip", "addr", "add", "192.0.2.99/24", "dev", link},
		{"ip", "route", "del", "default"},
		{"ip", "route", "add", "192.0.2.0/24", "dev", link, "proto", "static"},
		{"ip", "link", "set", link, "mtu", "1300"},
		{"ethtool", "-K", link, "tx", "on"},
		{"sysctl", "net.ipv4.conf.all.arp_ignore=0"},
	} {
		h.in(tamper...)
		if r := h.ensure(want); r.Writes == 0 {
			t.Errorf("after %v nothing was repaired", tamper)
		}
		h.quiet(want)
	}
	for _, tamper := range [][]string{
		{"ip", "link", "set", link, "down"},
		{"ip", "link", "set", link, "mtu", "1300"},
		{"ip", "link", "set", link, "alias", ""},
		{"ethtool", "-K", link, "tx", "on"},
		{"sysctl", "net.ipv4.conf." + link + ".arp_ignore=0"},
		{"sysctl", "net.ipv6.conf." + link + ".disable_ipv6=0"},
	} {
		h.run(tamper...)
		if r := h.ensure(want); r.Writes == 0 {
			t.Errorf("after %v on the host nothing was repaired", tamper)
		}
		h.quiet(want)
	}
}

func TestEnsureLeavesStrangersInTheNamespaceAlone(t *testing.T) {
	h := newHost(t)
	want := h.router(h.link())
	h.ensure(want)
	h.in("ip", "link", "add", "stranger0", "type", "bridge")
	h.in("ip", "addr", "add", "192.0.2.1/24", "dev", "stranger0")
	h.in("ip", "link", "set", "stranger0", "up")
	h.in("ip", "route", "add", "192.0.3.0/24", "dev", "stranger0") // protocol boot
	h.quiet(want)
	contains(t, h.in("ip", "addr", "show", "stranger0"), "192.0.2.1/24", ",UP")
	contains(t, h.in("ip", "route"), "192.0.3.0/24 dev stranger0")

	want.Routes = append(want.Routes, desired.Route{Destination: netip.MustParsePrefix("192.0.3.0/24"), Dev: want.Links[0].Name})
	if _, err := h.Ensure(context.Background(), want); err == nil || !strings.Contains(err.Error(), "192.0.3.0/24") {
		t.Errorf("a stranger's route in the way: error %v, want one naming it", err)
	}
	contains(t, h.in("ip", "route"), "192.0.3.0/24 dev stranger0")
}

func TestLinksNoLongerWantedAreSilencedAndRemovedWhenOVSLetsGo(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	h.ensure(want)
	want.Links, want.Routes = nil, nil
	h.prepare(want)
	contains(t, h.in("ip", "link", "show", link), "state DOWN")
	if routes := h.in("ip", "route"); routes != "" {
		t.Errorf("routes remain: %s", routes)
	}
	h.quiet(want)
	h.held.Store(&link)
	if _, err := h.Prune(context.Background(), want); !errors.Is(err, netns.ErrLinkRemains) || !strings.Contains(err.Error(), link) {
		t.Errorf("Prune of a link that OVS has a port for: %v", err)
	}
	h.run("ip", "link", "show", link)
	h.held.Store(nil)
	for _, writes := range []int{1, 0} {
		if r, err := h.Prune(context.Background(), want); err != nil || r.Writes != writes {
			t.Errorf("Prune: %+v, %v, want %d writes", r, err, writes)
		}
	}
	if _, err := netlink.LinkByName(link); !errors.As(err, &netlink.LinkNotFoundError{}) {
		t.Errorf("the outer end remains: %v", err)
	}
}

func TestABadLinkOrRouteDoesNotStopTheOthers(t *testing.T) {
	h := newHost(t)
	link := h.link()
	want := h.router(link)
	h.ensure(want)
	want.Links = append(want.Links, desired.Link{Name: "qr-bad", MAC: "nonsense", MTU: 1500})
	want.Links[0].MTU = 1280
	want.Routes = append(want.Routes,
		desired.Route{Destination: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.99.99.99"), Dev: link},
		desired.Route{Destination: netip.MustParsePrefix("192.0.3.0/24"), Via: netip.MustParseAddr("203.0.113.1"), Dev: link})
	_, err := h.Ensure(context.Background(), want)
	if err == nil {
		t.Fatal("no error")
	}
	contains(t, err.Error(), "qr-", "192.0.2.0/24", h.name)
	contains(t, h.in("ip", "link", "show", link), "mtu 1280")
	contains(t, h.in("ip", "route"), "192.0.3.0/24 via 203.0.113.1")
}

func TestAForeignNamespaceOfTheSameNameIsNotTouched(t *testing.T) {
	h := newHost(t)
	h.run("ip", "netns", "add", h.name)
	t.Cleanup(func() { h.run("ip", "netns", "del", h.name) })
	check := func() {
		t.Helper()
		if owned, err := h.Owned(h.name); owned || err != nil {
			t.Errorf("Owned is %v, %v", owned, err)
		}
		if _, err := h.Ensure(context.Background(), desired.Namespace{Name: h.name}); !errors.Is(err, netns.ErrForeign) {
			t.Errorf("Ensure: %v", err)
		}
		if err := h.Delete(context.Background(), h.name); !errors.Is(err, netns.ErrForeign) {
			t.Errorf("Delete: %v", err)
		}
		if err := h.Run(h.name, func() error { t.Error("entered"); return nil }); !errors.Is(err, netns.ErrForeign) {
			t.Errorf("Run: %v", err)
		}
		if names, err := h.List(); len(names) != 0 || err != nil {
			t.Errorf("List: %v, %v", names, err)
		}
		if h.Writes() != 0 {
			t.Errorf("%d writes", h.Writes())
		}
	}
	check()
	// A mark that names another namespace, left from one of ours that somebody deleted, proves nothing either.
	if err := os.WriteFile(filepath.Join(h.state, "netns", h.name), []byte("0 0:0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestDeleteTakesThePairsWhenOVSHasLetGo(t *testing.T) {
	h := newHost(t)
	link := h.link()
	h.ensure(h.router(link))
	h.held.Store(&link)
	if err := h.Delete(context.Background(), h.name); !errors.Is(err, netns.ErrLinkRemains) || !strings.Contains(err.Error(), link) {
		t.Fatalf("Delete: %v, want ErrLinkRemains naming the link", err)
	}
	h.held.Store(nil)
	for range 2 { // the second finds nothing and succeeds
		if err := h.Delete(context.Background(), h.name); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{h.Path(h.name), filepath.Join(h.state, "netns", h.name)} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s remains: %v", path, err)
		}
	}
	if _, err := netlink.LinkByName(link); !errors.As(err, &netlink.LinkNotFoundError{}) {
		t.Errorf("the outer end remains: %v", err)
	}
}

func TestACreationCutShortIsFinished(t *testing.T) {
	h := newHost(t)
	h.prepare(desired.Namespace{Name: h.name})
	h.run("umount", h.Path(h.name)) // the mark and the file are there, the namespace is not
	h.restart()
	if r := h.prepare(desired.Namespace{Name: h.name}); !r.Created {
		t.Error("not created again")
	}
	h.in("true")
	h.quiet(desired.Namespace{Name: h.name})
}

func TestListNamesOursAndWhatIsLeftOfThem(t *testing.T) {
	h := newHost(t)
	h.prepare(desired.Namespace{Name: h.name})
	for _, state := range []string{"present", "deleted by somebody else"} {
		if names, err := h.List(); err != nil || !cmp.Equal(names, []string{h.name}) {
			t.Errorf("List while %s: %v, %v", state, names, err)
		}
		if state == "present" {
			h.run("ip", "netns", "del", h.name)
		}
	}
	if err := h.Delete(context.Background(), h.name); err != nil {
		t.Fatal(err)
	}
	if names, err := h.List(); err != nil || len(names) != 0 {
		t.Errorf("List after Delete: %v, %v", names, err)
	}
}

func TestRunLeavesTheCallerWhereItWas(t *testing.T) {
	h := newHost(t)
	h.prepare(desired.Namespace{Name: h.name})
	outside, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	inside := ""
	if err := h.Run(h.name, func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if inside == outside {
		t.Error("did not enter the namespace")
	}
	sentinel := errors.New("own error")
	if err := h.Run(h.name, func() error { return sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("error %v", err)
	}
	for range 100 {
		if now, _ := os.Readlink("/proc/thread-self/ns/net"); now != outside {
			t.Fatalf("caller is in %s, was in %s", now, outside)
		}
	}
	if err := h.Run("qrouter-"+uuid.NewString(), func() error { return nil }); !errors.Is(err, netns.ErrAbsent) {
		t.Errorf("absent namespace: %v", err)
	}
}

func TestNamesThatAreNotWeftsAreRefused(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"", "qrouter-", "../etc", "qrouter-" + strings.ToUpper(uuid.NewString()), "qlbaas-" + uuid.NewString(), h.name + "\n"} {
		if _, err := h.Prepare(context.Background(), desired.Namespace{Name: name}); err == nil {
			t.Errorf("namespace %q was made", name)
		}
	}
	for name, value := range map[string]string{"kernel.panic": "1", "net.ipv4/../../kernel.panic": "1", "net.core.somaxconn": "a\nb", "net..x": "1"} {
		want := desired.Namespace{Name: h.name, Sysctls: map[string]string{name: value}}
		if _, err := h.Prepare(context.Background(), want); err == nil {
			t.Errorf("sysctl %q=%q was taken", name, value)
		}
	}
}

func TestALinkOfTheHostThatIsNotWantedStaysThere(t *testing.T) {
	h := newHost(t)
	other := h.link()
	h.run("ip", "link", "add", other, "type", "veth", "peer", "name", "p"+other[1:])
	h.ensure(h.router(h.link()))
	if _, err := netlink.LinkByName(other); err != nil {
		t.Errorf("link %s: %v", other, err)
	}
}

func TestDifferentNamespacesMayBeHandledAtOnce(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			want := desired.Namespace{Name: "qrouter-" + uuid.NewString(), Forward: true}
			defer h.Delete(context.Background(), want.Name) //nolint:errcheck // after a failure that was told already
			for range 5 {
				_, err := h.Ensure(context.Background(), want)
				if err == nil {
					_, err = h.Forward(context.Background(), want)
				}
				if err == nil {
					err = h.Delete(context.Background(), want.Name)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if names, err := h.List(); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func BenchmarkCreateAndDelete(b *testing.B) {
	m, err := netns.New(netns.Options{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	name := "qrouter-" + uuid.NewString()
	for b.Loop() {
		if _, err := m.Prepare(context.Background(), desired.Namespace{Name: name}); err != nil {
			b.Fatal(err)
		}
		if err := m.Delete(context.Background(), name); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResync(b *testing.B) {
	m, err := netns.New(netns.Options{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	want := desired.Namespace{Name: "qrouter-" + uuid.NewString()}
	for _, prefix := range []string{"qr-", "qg-"} {
		want.Links = append(want.Links, desired.Link{Name: prefix + uuid.NewString()[:8], MAC: "fa:16:3e:00:00:01", MTU: 1450})
	}
	defer m.Delete(context.Background(), want.Name) //nolint:errcheck // after a failure that was told already
	for b.Loop() {
		if _, err := m.Ensure(context.Background(), want); err != nil {
			b.Fatal(err)
		}
	}
}
