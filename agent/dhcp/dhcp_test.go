package dhcp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcp"
	"github.com/weft-sdn/weft/agent/dhcpconf"
	"github.com/weft-sdn/weft/agent/netns"
)

const (
	macA, addrA = "fa:16:3e:00:00:0a", "10.10.10.10"
	macB, addrB = "fa:16:3e:00:00:0b", "10.10.10.11"
	patience    = 20 * time.Second
)

// site is one network: a qdhcp namespace, and a namespace with a client at the other end of its tap.
type site struct {
	*dhcp.Manager
	t               *testing.T
	state           string
	ns              *netns.Manager
	network, client string
	tap             string
	subnet          string
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	s := &site{t: t, state: t.TempDir(), network: uuid.NewString(), client: "qrouter-" + uuid.NewString(), subnet: uuid.NewString()}
	s.tap = "tap" + s.network[:8]
	err := os.Chmod(filepath.Dir(s.state), 0o711) // dnsmasq's user passes through the test's directory
	if err != nil {
		t.Fatal(err)
	}
	if s.ns, err = netns.New(netns.Options{StateDir: s.state}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{s.space(), s.client} {
		if _, err := s.ns.Prepare(context.Background(), desired.Namespace{Name: name}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.ns.Delete(context.Background(), name); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
	}
	s.wire()
	s.restart()
	t.Cleanup(func() {
		if err := s.Delete(context.Background(), s.network); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

func (s *site) space() string { return "qdhcp-" + s.network }

// wire makes the tap and its address, as OVS and agent/netns do.
func (s *site) wire() {
	s.t.Helper()
	s.ip(s.space(), "link", "add", s.tap, "up", "type", "veth", "peer", "name", "eth0", "netns", s.client)
	s.ip(s.client, "link", "set", "eth0", "up")
	s.ip(s.space(), "addr", "add", "10.10.10.2/24", "dev", s.tap)
}

func (s *site) ip(ns string, argv ...string) {
	s.t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns}, argv...)...).CombinedOutput(); err != nil {
		s.t.Fatalf("ip %v: %v: %s", argv, err, out)
	}
}

// restart replaces the Manager, as a restarted agent would.
func (s *site) restart() {
	s.t.Helper()
	if s.Manager != nil {
		s.Close()
	}
	m, err := dhcp.New(dhcp.Options{StateDir: s.state, Enter: s.ns.Run})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Manager = m
	s.t.Cleanup(m.Close)
}

// want is the service with some of the two hosts.
func (s *site) want(hosts ...string) desired.DHCP {
	s.t.Helper()
	c := dhcpconf.Config{
		NetworkID: s.network, Namespace: s.space(), Interface: s.tap, Domain: "weft.example", MTU: 1450,
		Subnets: []dhcpconf.Subnet{{
			ID: s.subnet, CIDR: netip.MustParsePrefix("10.10.10.0/24"), Gateway: netip.MustParseAddr("10.10.10.1"),
			Routes: []dhcpconf.Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), NextHop: netip.MustParseAddr("10.10.10.254")}},
		}},
	}
	addrs := map[string]string{macA: addrA, macB: addrB}
	for _, mac := range hosts {
		h := dhcpconf.Host{
			PortID: uuid.NewSHA1(uuid.Nil, []byte(mac)).String(), MAC: mac, Address: netip.MustParseAddr(addrs[mac]), SubnetID: s.subnet,
		}
		if mac == macA {
			h.ExtraOpts = []dhcpconf.Option{{Name: "bootfile-name", Value: "boot-" + addrA}}
		}
		c.Hosts = append(c.Hosts, h)
	}
	d, rejected, err := dhcpconf.Render(c)
	if err != nil || len(rejected) != 0 {
		s.t.Fatal(rejected, err)
	}
	return d
}

func (s *site) ensure(want desired.DHCP) int {
	s.t.Helper()
	if err := s.Ensure(context.Background(), want); err != nil {
		s.t.Fatal(err)
	}
	return s.pid()
}

// quiet asserts that neither this agent nor a restarted one writes anything, and that the process stays.
func (s *site) quiet(want desired.DHCP) {
	s.t.Helper()
	before, pid := s.Writes(), s.pid()
	if s.ensure(want) != pid || s.Writes() != before {
		s.t.Fatalf("resync: %d writes, pid %d, was %d", s.Writes()-before, s.pid(), pid)
	}
	s.restart()
	if s.ensure(want) != pid || s.Writes() != 0 {
		s.t.Fatalf("resync by a restarted agent: %d writes, pid %d, was %d", s.Writes(), s.pid(), pid)
	}
}

func (s *site) pid() int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir(s.network), "pid"))
	if err != nil {
		s.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
}

// pids are the processes that have this site's pid file on their command line.
func (s *site) pids() []int {
	s.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && dhcp.Owned(b, s.Dir(s.network)) {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// dial opens a DHCP client with a MAC on the client's link.
func (s *site) dial(mac string, opts ...nclient4.ClientOpt) *nclient4.Client {
	s.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		s.t.Fatal(err)
	}
	opts = append([]nclient4.ClientOpt{nclient4.WithHWAddr(hw), nclient4.WithTimeout(200 * time.Millisecond), nclient4.WithRetry(50)}, opts...)
	var c *nclient4.Client
	if err := s.ns.Run(s.client, func() (err error) {
		c, err = nclient4.New("eth0", opts...)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// lease goes through discover, offer, request and acknowledgement.
func (s *site) lease(mac string) *nclient4.Lease {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.dial(mac)
	defer c.Close()
	l, err := c.Request(ctx, dhcpv4.WithBroadcast(true), dhcpv4.WithRequestedOptions(
		dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionDomainName, dhcpv4.OptionBootfileName, dhcpv4.OptionHostName))
	if err != nil {
		s.t.Fatalf("lease for %s: %v\n%s", mac, err, s.files())
	}
	return l
}

func (s *site) files() string {
	var b strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.Dir(s.network), "*"))
	for _, n := range names {
		content, _ := os.ReadFile(n)
		fmt.Fprintf(&b, "==== %s\n%s", filepath.Base(n), content)
	}
	return b.String()
}

func TestAKnownClientGetsItsAddressAndOptions(t *testing.T) {
	s := newSite(t)
	want := s.want(macA, macB)
	pid := s.ensure(want)
	ack := s.lease(macA).ACK
	for what, pair := range map[string][2]string{
		"address":     {ack.YourIPAddr.String(), addrA},
		"mask":        {ack.SubnetMask().String(), "ffffff00"},
		"router":      {fmt.Sprint(ack.Router()), "[10.10.10.1]"},
		"DNS":         {fmt.Sprint(ack.DNS()), "[10.10.10.2]"}, // none was given: the server itself
		"domain":      {ack.DomainName(), "weft.example"},
		"name":        {ack.HostName(), "host-10-10-10-10"},
		"bootfile":    {ack.BootFileNameOption() + ack.BootFileName, "boot-" + addrA},
		"lease":       {ack.IPAddressLeaseTime(0).String(), "24h0m0s"},
		"MTU":         {string(ack.Options.Get(dhcpv4.OptionInterfaceMTU)), string([]byte{1450 >> 8, 1450 & 0xff})},
		"routes":      {fmt.Sprint(ack.ClasslessStaticRoute()), "[route to 198.51.100.0/24 via 10.10.10.254 route to 0.0.0.0/0 via 10.10.10.1]"},
		"two clients": {s.lease(macB).ACK.YourIPAddr.String(), addrB},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || bytes.Contains(status, []byte("Uid:\t0\t")) {
		t.Errorf("dnsmasq stays root: %v\n%s", err, status)
	}
	s.quiet(want)
}

func TestAnUnknownClientGetsNoAnswer(t *testing.T) {
	s := newSite(t)
	s.ensure(s.want(macA))
	ctx, cancel := context.WithCancel(context.Background())
	answered := make(chan error, 1)
	stranger := s.dial(macB, nclient4.WithTimeout(5*time.Millisecond), nclient4.WithRetry(1<<20))
	go func() {
		_, err := stranger.DiscoverOffer(ctx, dhcpv4.WithBroadcast(true))
		answered <- err
	}()
	for range 20 {
		s.lease(macA)
	}
	cancel()
	if err := <-answered; err == nil {
		t.Error("the unknown client got an offer")
	}
}

func TestANewHostTakesEffectWithoutARestart(t *testing.T) {
	s := newSite(t)
	pid := s.ensure(s.want(macA))
	s.lease(macA)
	if now := s.ensure(s.want(macA, macB)); now != pid {
		t.Errorf("pid %d, was %d", now, pid)
	}
	if got := s.lease(macB).ACK.YourIPAddr.String(); got != addrB {
		t.Errorf("address %s", got)
	}
	s.quiet(s.want(macA, macB))
}

// A lease lives in dnsmasq's memory to its end, whatever the hosts file says.
func TestAnAddressGoesToAnotherClientOnceItsPortIsGone(t *testing.T) {
	for name, between := range map[string]func(*site){"the agent is there": func(*site) {}, "the agent restarts": (*site).restart} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			pid := s.ensure(s.want(macB))
			s.lease(macB)
			between(s)
			const other = "fa:16:3e:0a:0a:99"
			want := s.want(macB)
			want.Files["host"] = strings.ReplaceAll(want.Files["host"], macB, other)
			if now := s.ensure(want); now != pid {
				t.Errorf("pid %d, was %d", now, pid)
			}
			if got := s.lease(other).ACK.YourIPAddr.String(); got != addrB {
				t.Errorf("address %s", got)
			}
		})
	}
}

// With set: in the hosts file this kills dnsmasq 2.90 (see dhcpconf).
func TestDnsmasqSurvivesReloadsBetweenLeases(t *testing.T) {
	s := newSite(t)
	pid := s.ensure(s.want(macA))
	for i := range 20 {
		s.lease(macA)
		want := s.want(macA)
		if i%2 == 0 {
			want = s.want(macA, macB)
		}
		if s.ensure(want) != pid {
			t.Fatal("not the same process")
		}
		if i%2 == 0 {
			s.lease(macB)
		}
	}
	select {
	case e := <-s.Exits():
		t.Errorf("ended: %+v", e)
	default:
	}
}

func TestALeaseIsRenewedAfterDnsmasqRestarted(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	pid := s.ensure(want)
	l := s.lease(macA)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.awaitExit(pid)
	s.ensure(want)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.ip(s.client, "addr", "add", addrA+"/24", "dev", "eth0") // a renewal is answered to the address it comes from
	renewed, err := s.dial(macA).Renew(ctx, l, dhcpv4.WithBroadcast(true))
	if err != nil || renewed.ACK.YourIPAddr.String() != addrA {
		t.Errorf("renewal: %v, %v", renewed, err)
	}
}

func (s *site) awaitExit(pid int) {
	s.t.Helper()
	select {
	case e := <-s.Exits():
		if e != (dhcp.Exit{Network: s.network, PID: pid}) {
			s.t.Fatalf("exit %+v, want pid %d", e, pid)
		}
	case <-time.After(patience):
		s.t.Fatalf("the end of %d was not reported", pid)
	}
}

func TestADeathIsReportedAndEnsureStartsAgain(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	pid := s.ensure(want)
	for _, who := range []string{"started", "adopted"} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.awaitExit(pid)
		next := s.ensure(want)
		if next == pid {
			t.Fatalf("%s: not started again", who)
		}
		s.lease(macA)
		s.restart()
		pid = s.ensure(want)
	}
	if err := s.Delete(context.Background(), s.network); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-s.Exits():
		t.Errorf("a wanted end was reported: %+v", e)
	default:
	}
}

func TestChangedArgumentsReplaceTheProcess(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	pid := s.ensure(want)
	i := slices.Index(want.Args, "--dhcp-option-force=option:mtu,1450")
	want.Args[i] = "--dhcp-option-force=option:mtu,1400"
	if s.ensure(want) == pid {
		t.Error("the old process goes on")
	}
	if got := s.lease(macA).ACK.Options.Get(dhcpv4.OptionInterfaceMTU); !bytes.Equal(got, []byte{1400 >> 8, 1400 & 0xff}) {
		t.Errorf("MTU %v", got)
	}
	if pids := s.pids(); len(pids) != 1 {
		t.Errorf("processes %v, want one", pids)
	}
	s.quiet(want)
}

func TestAnotherLinkOfTheSameNameIsServed(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	pid := s.ensure(want)
	s.ip(s.space(), "link", "del", s.tap)
	if err := s.Ensure(context.Background(), want); !errors.Is(err, dhcp.ErrLinkMissing) {
		t.Errorf("without the link: %v", err)
	}
	s.wire()
	s.restart()
	if s.ensure(want) == pid {
		t.Error("the process that serves the old link goes on")
	}
	s.lease(macA)
	s.quiet(want)
}

func TestAReloadThatAnAgentOwedIsMadeByTheNext(t *testing.T) {
	s := newSite(t)
	pid := s.ensure(s.want(macA))
	s.lease(macA)
	// The agent is killed after it wrote the files and before it told dnsmasq.
	want := s.want(macA, macB)
	for name, content := range map[string]string{"reload": "", "host": want.Files["host"], "opts": want.Files["opts"], "addn_hosts": want.Files["addn_hosts"]} {
		if err := os.WriteFile(filepath.Join(s.Dir(s.network), name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.restart()
	if s.ensure(want) != pid {
		t.Error("restarted")
	}
	s.lease(macB)
	s.quiet(want)
}

func TestALostProcessIsReplacedNotDoubled(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	pid := s.ensure(want)
	if err := os.RemoveAll(s.Dir(s.network)); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if s.ensure(want) == pid {
		t.Error("still the process that reads removed files")
	}
	if pids := s.pids(); len(pids) != 1 {
		t.Errorf("processes %v, want one", pids)
	}
	s.lease(macA)
	if err := os.Remove(filepath.Join(s.Dir(s.network), "pid")); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if err := s.Delete(context.Background(), s.network); err != nil {
		t.Fatal(err)
	}
	if pids := s.pids(); len(pids) != 0 {
		t.Errorf("processes %v remain", pids)
	}
}

// stranger starts a process that is not weft's and ends it with the test.
func (s *site) stranger(argv ...string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// aThread is the id of a thread that is not the first of its process.
func aThread(t *testing.T) int {
	t.Helper()
	id, leave := make(chan int), make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		id <- unix.Gettid()
		<-leave
	}()
	t.Cleanup(func() { close(leave) })
	return <-id
}

func TestProcessesOfStrangersAreNotTouched(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	theirs := filepath.Join(t.TempDir(), "pid")
	for name, pid := range map[string]int{
		"a pid used again":             s.stranger("sleep", "1000").Process.Pid,
		"a pid used again by a thread": aThread(t),
		"another dnsmasq": s.stranger("ip", "netns", "exec", s.client, "dnsmasq", "--keep-in-foreground", "--port=0",
			"--conf-file=", "--pid-file="+theirs).Process.Pid,
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(s.Dir(s.network), 0o755); err != nil {
				t.Fatal(err)
			}
			pidFile := filepath.Join(s.Dir(s.network), "pid")
			point := func() {
				if err := os.WriteFile(pidFile, fmt.Appendln(nil, pid), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			point()
			s.restart()
			if s.ensure(want) == pid {
				t.Error("adopted")
			}
			s.lease(macA)
			if err := s.Delete(context.Background(), s.network); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(s.Dir(s.network), 0o755); err != nil {
				t.Fatal(err)
			}
			point()
			if err := s.Delete(context.Background(), s.network); err != nil {
				t.Fatal(err)
			}
			if err := unix.Kill(pid, 0); err != nil {
				t.Errorf("it was ended: %v", err)
			}
			if pids := s.pids(); len(pids) != 0 {
				t.Errorf("processes %v remain", pids)
			}
		})
	}
}

func TestDeleteEndsAProcessThatDoesNotListen(t *testing.T) {
	s := newSite(t)
	pid := s.ensure(s.want(macA))
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing and succeeds
		if err := s.Delete(context.Background(), s.network); err != nil {
			t.Fatal(err)
		}
	}
	if pids := s.pids(); len(pids) != 0 {
		t.Errorf("processes %v remain", pids)
	}
	if networks, err := s.List(); err != nil || len(networks) != 0 {
		t.Errorf("List: %v, %v", networks, err)
	}
}

func TestListNamesTheNetworksThatHaveADirectory(t *testing.T) {
	s := newSite(t)
	s.ensure(s.want(macA))
	if err := os.Mkdir(filepath.Join(filepath.Dir(s.Dir(s.network)), "lost+found"), 0o755); err != nil {
		t.Fatal(err)
	}
	if networks, err := s.List(); err != nil || !slices.Equal(networks, []string{s.network}) {
		t.Errorf("List: %v, %v", networks, err)
	}
}

func TestAStartThatFailsSaysWhatDnsmasqSaid(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	want.Args = append(want.Args, "--dhcp-range=nonsense")
	err := s.Ensure(context.Background(), want)
	if err == nil || !strings.Contains(err.Error(), "bad dhcp-range") || !strings.Contains(err.Error(), s.network) {
		t.Errorf("error %v", err)
	}
	s.ensure(s.want(macA))
}

func TestWhatIsNotAServiceOfWeftsIsRefused(t *testing.T) {
	s := newSite(t)
	for name, spoil := range map[string]func(*desired.DHCP){
		"network":   func(d *desired.DHCP) { d.Network = "../" + d.Network },
		"namespace": func(d *desired.DHCP) { d.Namespace = "" },
		"file":      func(d *desired.DHCP) { d.Files["../x"] = "" },
		"pid file":  func(d *desired.DHCP) { d.Files["pid"] = "1" },
		"argument":  func(d *desired.DHCP) { d.Args[0] = "--no-hosts\n" },
		"no pidfile": func(d *desired.DHCP) {
			d.Args = slices.DeleteFunc(d.Args, func(a string) bool { return strings.HasPrefix(a, "--pid-file") })
		},
		"conf-file": func(d *desired.DHCP) {
			d.Args = slices.DeleteFunc(d.Args, func(a string) bool { return a == "--conf-file=" })
		},
	} {
		want := s.want(macA)
		spoil(&want)
		if err := s.Ensure(context.Background(), want); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if s.Writes() != 0 {
		t.Errorf("%d writes", s.Writes())
	}
	if err := s.Delete(context.Background(), "../x"); err == nil {
		t.Error("Delete of a path: no error")
	}
}

func TestAStateDirectoryThatDnsmasqCannotReachIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := dhcp.New(dhcp.Options{StateDir: dir, Enter: func(string, func() error) error { return nil }}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
}
