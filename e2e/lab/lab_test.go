package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	"github.com/weft-sdn/weft/e2e/lab/hostinit"
	"github.com/weft-sdn/weft/e2e/lab/lease"
	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

func TestMain(m *testing.M) {
	lab.BecomeHost()
	maybeUpAndDie()
	m.Run()
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// small is a lab of one network node, two compute nodes and one outside host, without weft.
func small(name string) lab.Options {
	return lab.Options{Name: fmt.Sprintf("%s-%d", name, os.Getpid()), NetworkNodes: 1, ComputeNodes: 2, Externals: 1, Software: lab.OVSOnly}
}

// up brings a lab up for the test, shows its state when the test fails, and holds it to leaving nothing behind.
func up(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("simulated hosts need root")
	}
	before := machine(t)
	l, err := lab.Up(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if t.Failed() {
			var text bytes.Buffer
			err := l.Dump(ctx, &text)
			t.Logf("state of the lab (%v):\n%s", err, text.String())
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
		nothingLeft(t, o.Name, before)
	})
	return l
}

// machine is what a lab must leave as it was: the machine's own devices, mounts and named namespaces.
func machine(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, file := range []string{"/proc/net/dev", "/proc/self/mountinfo"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if file == "/proc/net/dev" {
				line, _, _ = strings.Cut(line, ":") // without the counters
			}
			if !strings.Contains(line, "netns") { // others on the machine may work on theirs
				text.WriteString(strings.TrimSpace(line) + "\n")
			}
		}
	}
	return text.String() + openSockets(t)
}

// openSockets counts what this process holds open: a forgotten one would keep a namespace of the lab alive.
func openSockets(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the folder that was just read
		}
		kind, _, _ := strings.Cut(target, ":")
		if kind == "socket" || kind == "net" || kind == "pipe" {
			count[kind]++
		}
	}
	return fmt.Sprintf("open: %v\n", count)
}

func nothingLeft(t *testing.T, name, before string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(lab.Root, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab's folder is left: %v", err)
	}
	all, err := procfs.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if strings.Contains(strings.Join(p.Args, " "), filepath.Join(lab.Root, name)) {
			t.Errorf("process %d is left: %q", p.PID, p.Args)
		}
	}
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(machine(t), "\n")); diff != "" {
		t.Errorf("the machine changed (-before +after):\n%s", diff)
	}
}

func host(t *testing.T, l *lab.Lab, name string) *lab.Host {
	t.Helper()
	h, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func exec(t *testing.T, s lab.Space, argv ...string) string {
	t.Helper()
	out, err := s.Exec(within(t), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func awaitPing(t *testing.T, from lab.Space, to string) {
	t.Helper()
	if _, err := from.AwaitPing(within(t), addr(to)); err != nil {
		t.Fatal(err)
	}
}

// silent asserts that nothing answers.
func silent(t *testing.T, from lab.Space, to string) {
	t.Helper()
	stats, err := from.Ping(within(t), addr(to), echo.Options{Count: 20, Wait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Received != 0 {
		t.Fatalf("%v answers %v: %v", to, from, stats)
	}
}

func TestFleetOfOpenVSwitchHosts(t *testing.T) {
	l := up(t, small("fleet"))
	for _, s := range []struct {
		name string
		test func(*testing.T, *lab.Lab)
	}{
		{"hosts see only themselves", hostsSeeOnlyThemselves},
		{"a second lab of the name is refused", secondLabIsRefused},
		{"VXLAN carries VMs across hosts", vxlanCarriesVMs},
		{"a dump shows every host", dumpShowsEveryHost},
		{"flat and tagged frames reach the outside host", flatAndTaggedReachOutside},
		{"cut loses frames until heal", cutLosesFramesUntilHeal},
		{"a paused daemon resumes", pausedDaemonResumes},
		{"a broken cable is seen by its host", brokenCableIsSeen},
		{"a restarted vswitchd has its addresses back", restartedVSwitchHasAddresses},
		{"a restart of Open vSwitch keeps flows and addresses", restartOfOVSKeepsFlows},
		{"power-off ends everything and power-on keeps the disk", powerCycleKeepsTheDisk},
		{"a host that was killed boots again", killedHostBootsAgain},
		{"a failed VM leaves nothing", failedVMLeavesNothing},
	} {
		if !t.Run(s.name, func(t *testing.T) { s.test(t, l) }) {
			return // each builds on the one before
		}
	}
}

func hostsSeeOnlyThemselves(t *testing.T, l *lab.Lab) {
	cmp1, cmp2 := host(t, l, "cmp1"), host(t, l, "cmp2")
	exec(t, cmp1.Space, "ip", "netns", "add", "mine")
	if out := exec(t, cmp2.Space, "ip", "netns", "list"); strings.Contains(out, "mine") {
		t.Errorf("cmp2 sees a namespace of cmp1: %s", out)
	}
	exec(t, cmp1.Space, "ip", "netns", "del", "mine")
	if out := strings.TrimSpace(exec(t, cmp1.Space, "hostname")); out != "cmp1" {
		t.Errorf("hostname is %q", out)
	}
	if out := exec(t, cmp1.Space, "ps", "-eo", "args"); strings.Count(out, "ovs-vswitchd") != 1 {
		t.Errorf("cmp1 sees other processes than its own:\n%s", out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := cmp1.Exec(ctx, "sleep", "600"); err == nil {
		t.Error("a command outlived its context")
	}
	for within := within(t); within.Err() == nil && strings.Contains(exec(t, cmp1.Space, "ps", "-eo", "args"), "sleep 600"); {
		t.Log("the killed command is still there")
	}
	exec(t, cmp1.Space, "touch", "/run/of-cmp1", "/var/lib/weft/of-cmp1")
	if _, err := cmp2.Exec(within(t), "ls", "/run/of-cmp1", "/var/lib/weft/of-cmp1"); err == nil {
		t.Error("cmp2 sees the files of cmp1")
	}
	if out := exec(t, cmp1.Space, "ovs-vsctl", "list-br"); out != "br-phy\nbr-tenant\n" {
		t.Errorf("bridges of a compute node: %q", out)
	}
	if out := exec(t, host(t, l, "net1").Space, "ovs-vsctl", "list-br"); out != "br-ext1\nbr-phy\nbr-tenant\n" {
		t.Errorf("bridges of a network node: %q", out)
	}
	if out := exec(t, cmp1.Space, "ls", "/sys/class/net"); !strings.Contains(out, "eth-mgmt") || strings.Contains(out, "eth0") {
		t.Errorf("/sys shows other devices than the host's: %s", out)
	}
	awaitPing(t, cmp1.Space, "10.30.0.102")
	awaitPing(t, cmp1.Space, "10.31.0.102")
}

func secondLabIsRefused(t *testing.T, l *lab.Lab) {
	if _, err := lab.Up(within(t), lab.Options{Name: l.Name(), Software: lab.OVSOnly}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
}

// wireByHand does a tiny part of the agent's work: one network over VXLAN between the two compute nodes.
func wireByHand(t *testing.T, h *lab.Host, local, remote string) {
	t.Helper()
	exec(t, h.Space, "ovs-vsctl", "--may-exist", "add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev", "fail_mode=secure",
		"--", "--may-exist", "add-port", "br-int", "vx", "--", "set", "Interface", "vx", "type=vxlan",
		"options:local_ip="+local, "options:remote_ip="+remote, "options:key=7")
	exec(t, h.Space, "ovs-ofctl", "add-flow", "br-int", "actions=NORMAL")
}

func staticVM(name, hostName, address string) lab.VMSpec {
	last := address[len(address)-1:]
	return lab.VMSpec{
		Name: name, Host: hostName, Addressing: lab.Static,
		Port:  lab.Port{ID: "0000000" + last + "-0000-4000-8000-000000000000", MAC: "fa:16:3e:00:00:0" + last},
		Lease: lease.Lease{Address: netip.MustParsePrefix(address + "/24"), MTU: 1450},
	}
}

func vxlanCarriesVMs(t *testing.T, l *lab.Lab) {
	cmp1, cmp2 := host(t, l, "cmp1"), host(t, l, "cmp2")
	wireByHand(t, cmp1, "10.31.0.101", "10.31.0.102")
	wireByHand(t, cmp2, "10.31.0.102", "10.31.0.101")
	vms, err := l.AddVMs(within(t), staticVM("a", "cmp1", "10.10.10.1"), staticVM("b", "cmp2", "10.10.10.2"))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := l.Switch().StartCapture(within(t), lab.CaptureOptions{Device: "cmp1-underlay", Filter: "udp port 4789"})
	if err != nil {
		t.Fatal(err)
	}
	awaitPing(t, vms[0].Space, "10.10.10.2")
	stats, err := vms[0].Ping(within(t), addr("10.10.10.2"), echo.Options{Count: 50, Wait: 5 * time.Second, Size: 1400})
	if err != nil || stats.Lost() != 0 {
		t.Errorf("%v, %v", stats, err)
	}
	if _, err := wire.Await(within(t), 2); err != nil {
		t.Error(err)
	}
	if lines, err := wire.Stop(); err != nil || !strings.Contains(strings.Join(lines, "\n"), "vni 7") {
		t.Errorf("no VXLAN of VNI 7 on the wire (%v):\n%s", err, strings.Join(lines, "\n"))
	}
	transfer(t, vms[0].Space, vms[1].Space, "10.10.10.2:5000")
	if out := exec(t, cmp1.Space, "ovs-vsctl", "get", "Interface", vms[0].Device, "external_ids:iface-id"); !strings.Contains(out, vms[0].Spec.Port.ID) {
		t.Errorf("iface-id: %s", out)
	}
}

// transfer moves some megabytes over TCP, which stalls at once where checksums are left to a device that has none.
func transfer(t *testing.T, from, to lab.Space, address string) {
	t.Helper()
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	content := make([]byte, 4<<20)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return // the reader fails
		}
		defer conn.Close()
		_, _ = conn.Write(content)
	}()
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1}).Dial("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || len(got) != len(content) {
		t.Errorf("TCP carried %d of %d octets: %v", len(got), len(content), err)
	}
}

func dumpShowsEveryHost(t *testing.T, l *lab.Lab) {
	var text bytes.Buffer
	if err := l.Dump(within(t), &text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"##### switch", "##### net1", "##### cmp2", "##### out1", "dump-flows br-int", "=== namespace vm-a", "203.0.113.1/24", "ovs-vswitchd.log",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the dump lacks %q", want)
		}
	}
}

func flatAndTaggedReachOutside(t *testing.T, l *lab.Lab) {
	net1 := host(t, l, "net1")
	ext, err := l.External("ext1")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int{1998, 1999} { // the second joins an Open vSwitch that runs
		if err := ext.AddVLAN(within(t), id, netip.MustParsePrefix(fmt.Sprintf("198.18.%d.1/24", id-1900))); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range [][3]string{{"flat", "0", "203.0.113.9/24"}, {"vlan1998", "1998", "198.18.98.9/24"}, {"vlan1999", "1999", "198.18.99.9/24"}} {
		exec(t, net1.Space, "ovs-vsctl", "add-port", "br-ext1", p[0], "--", "set", "Interface", p[0], "type=internal")
		if p[1] != "0" {
			exec(t, net1.Space, "ovs-vsctl", "set", "Port", p[0], "tag="+p[1])
		}
		exec(t, net1.Space, "ip", "address", "add", p[2], "dev", p[0])
		exec(t, net1.Space, "ip", "link", "set", p[0], "up")
	}
	seen, err := ext.StartCapture(within(t), lab.CaptureOptions{Device: ext.Device(), Filter: "vlan 1998 and icmp", File: "/run/seen.pcap"})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{ext.Address().Addr().String(), "198.18.98.1", "198.18.99.1"} {
		awaitPing(t, net1.Space, to)
	}
	if _, err := seen.Await(within(t), 1); err != nil {
		t.Error(err)
	}
	if _, err := seen.Stop(); err != nil {
		t.Error(err)
	}
	if out := exec(t, ext.Space, "tcpdump", "-e", "-n", "-r", "/run/seen.pcap"); !strings.Contains(out, "vlan 1998") {
		t.Errorf("the pcap file shows %q", out)
	}
}

func cutLosesFramesUntilHeal(t *testing.T, l *lab.Lab) {
	cmp1 := host(t, l, "cmp1")
	for _, c := range []struct{ network, peer string }{{lab.Underlay, "10.31.0.102"}, {lab.Management, "10.30.0.102"}} {
		awaitPing(t, cmp1.Space, c.peer)
		if err := cmp1.Cut(c.network); err != nil {
			t.Fatal(err)
		}
		silent(t, cmp1.Space, c.peer)
		if err := cmp1.Heal(c.network); err != nil {
			t.Fatal(err)
		}
		awaitPing(t, cmp1.Space, c.peer)
	}
	if err := cmp1.Cut(lab.AllExternal); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("cut of a cable that a compute node does not have: %v", err)
	}
	net1 := host(t, l, "net1")
	if err := net1.Cut(lab.AllExternal); err != nil {
		t.Fatal(err)
	}
	silent(t, net1.Space, "203.0.113.1")
	if err := net1.Heal(lab.AllExternal); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, net1.Space, "203.0.113.1")
}

func brokenCableIsSeen(t *testing.T, l *lab.Lab) {
	cmp1 := host(t, l, "cmp1")
	carrier := func(want bool) {
		t.Helper()
		if out := exec(t, cmp1.Space, "ip", "-br", "link", "show", "eth-phy"); strings.Contains(out, "LOWER_UP") != want {
			t.Errorf("carrier should be %v: %s", want, out)
		}
	}
	carrier(true)
	for range 2 { // the second changes nothing
		if err := cmp1.CutCarrier(lab.Underlay); err != nil {
			t.Fatal(err)
		}
	}
	carrier(false)
	silent(t, cmp1.Space, "10.31.0.102")
	if status, err := l.Status(); err != nil || !strings.Contains(fmt.Sprint(status), "underlay (no carrier)") {
		t.Errorf("%v %v", status, err)
	}
	if err := cmp1.Reboot(within(t)); err != nil {
		t.Fatal(err)
	}
	carrier(false)
	if err := cmp1.Heal(lab.Underlay); err != nil {
		t.Fatal(err)
	}
	carrier(true)
	awaitPing(t, cmp1.Space, "10.31.0.102")
}

func restartOfOVSKeepsFlows(t *testing.T, l *lab.Lab) {
	cmp1, ctx := host(t, l, "cmp1"), within(t)
	exec(t, cmp1.Space, "ovs-ofctl", "add-flow", "br-tenant", "table=7,cookie=0x77,actions=drop")
	before, err := cmp1.Processes(lab.VSwitchDaemon)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmp1.RestartOVS(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := cmp1.Processes(lab.VSwitchDaemon)
	if err != nil || len(after) != 1 || after[0].PID == before[0].PID {
		t.Errorf("ovs-vswitchd was %v and is %v, %v", before, after, err)
	}
	if out := exec(t, cmp1.Space, "ovs-ofctl", "dump-flows", "br-tenant", "table=7"); !strings.Contains(out, "cookie=0x77") {
		t.Errorf("the flow is gone: %s", out)
	}
	awaitPing(t, cmp1.Space, "10.31.0.102")
}

func pausedDaemonResumes(t *testing.T, l *lab.Lab) {
	cmp1, ctx := host(t, l, "cmp1"), within(t)
	if err := cmp1.Pause(ctx, lab.OVSDBDaemon); err != nil {
		t.Fatal(err)
	}
	running, err := cmp1.Processes(lab.OVSDBDaemon)
	if err != nil || len(running) != 1 {
		t.Fatalf("%v, %v", running, err)
	}
	for !running[0].Stopped() && ctx.Err() == nil {
		if running, err = cmp1.Processes(lab.OVSDBDaemon); err != nil || len(running) != 1 {
			t.Fatalf("%v, %v", running, err)
		}
	}
	if err := cmp1.Resume(ctx, lab.OVSDBDaemon); err != nil {
		t.Fatal(err)
	}
	exec(t, cmp1.Space, "ovs-vsctl", "--timeout=10", "show")
	if err := cmp1.Kill(ctx, lab.AgentDaemon); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("kill of a daemon that does not run: %v", err)
	}
	if err := cmp1.Start(ctx, lab.DnsmasqDaemon); err == nil {
		t.Error("the lab claims to start dnsmasq")
	}
}

func restartedVSwitchHasAddresses(t *testing.T, l *lab.Lab) {
	cmp1, ctx := host(t, l, "cmp1"), within(t)
	for _, end := range []func(context.Context, lab.Daemon) error{cmp1.Kill, cmp1.Stop} {
		if err := end(ctx, lab.VSwitchDaemon); err != nil {
			t.Fatal(err)
		}
		silent(t, host(t, l, "cmp2").Space, "10.31.0.101")
		if err := cmp1.Start(ctx, lab.VSwitchDaemon); err != nil {
			t.Fatal(err)
		}
		awaitPing(t, cmp1.Space, "10.31.0.102")
	}
	if err := cmp1.Start(ctx, lab.VSwitchDaemon); err == nil {
		t.Error("a running ovs-vswitchd was started again")
	}
}

func powerCycleKeepsTheDisk(t *testing.T, l *lab.Lab) {
	cmp1, cmp2, ctx := host(t, l, "cmp1"), host(t, l, "cmp2"), within(t)
	exec(t, cmp1.Space, "touch", "/run/volatile")
	if err := cmp1.Cut(lab.Underlay); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second has nothing to do
		if err := cmp1.PowerOff(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cmp1.Exec(ctx, "true"); err == nil {
		t.Error("a host that is off executes commands")
	}
	if _, err := l.VM("a"); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("the VM outlived its host: %v", err)
	}
	silent(t, cmp2.Space, "10.30.0.101")
	for range 2 {
		if err := cmp1.PowerOn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, cmp1.Space, "test", "-e", "/var/lib/weft/of-cmp1")
	if _, err := cmp1.Exec(ctx, "test", "-e", "/run/volatile"); err == nil {
		t.Error("/run survived the loss of power")
	}
	if out := exec(t, cmp1.Space, "ovs-vsctl", "list-br"); !strings.Contains(out, "br-int") {
		t.Errorf("the database was lost: %q", out)
	}
	silent(t, cmp1.Space, "10.31.0.102") // the cut holds
	if err := cmp1.Heal(lab.Underlay); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, cmp1.Space, "10.31.0.102")
	exec(t, cmp1.Space, "ovs-ofctl", "add-flow", "br-int", "actions=NORMAL")
	vm, err := l.AddVM(ctx, staticVM("a", "cmp1", "10.10.10.1")) // over the stale row of its earlier life
	if err != nil {
		t.Fatal(err)
	}
	awaitPing(t, vm.Space, "10.10.10.2")
	if err := vm.Remove(ctx); err != nil {
		t.Error(err)
	}
}

func killedHostBootsAgain(t *testing.T, l *lab.Lab) {
	process, err := os.FindProcess(host(t, l, "net1").Info.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for host(t, l, "net1").Info.Alive() && ctx.Err() == nil {
		if _, err := l.Status(); err != nil {
			t.Fatal(err)
		}
	}
	if err := host(t, l, "net1").PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, host(t, l, "net1").Space, "10.31.0.102")
	ext, err := l.External("ext1")
	if err != nil {
		t.Fatal(err)
	}
	if err := ext.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ext.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if out := exec(t, ext.Space, "ip", "address"); !strings.Contains(out, "198.18.98.1/24") || !strings.Contains(out, "203.0.113.1/24") {
		t.Errorf("addresses of the outside host after a power cycle: %s", out)
	}
}

func failedVMLeavesNothing(t *testing.T, l *lab.Lab) {
	cmp1 := host(t, l, "cmp1")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	spec := staticVM("c", "cmp1", "10.10.10.3")
	spec.Addressing = lab.ByDHCP // nobody serves it
	if _, err := l.AddVM(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if out := exec(t, cmp1.Space, "ip", "netns", "list"); out != "" {
		t.Errorf("namespaces left: %q", out)
	}
	if out := exec(t, cmp1.Space, "ovs-vsctl", "list-ports", "br-int"); out != "vx\n" {
		t.Errorf("ports left: %q", out)
	}
	if out := exec(t, cmp1.Space, "ls", "/sys/class/net"); strings.Contains(out, "tap0") {
		t.Errorf("devices left: %q", out)
	}
}

func TestVMGetsItsAddressByDHCP(t *testing.T) {
	o := small("dhcp")
	o.NetworkNodes, o.ComputeNodes, o.Externals = 0, 1, 0
	l := up(t, o)
	cmp1, ctx := host(t, l, "cmp1"), within(t)
	exec(t, cmp1.Space, "sh", "-ec", `
		ovs-vsctl add-br br-int -- set Bridge br-int datapath_type=netdev -- add-port br-int srv -- set Interface srv type=internal
		ip netns add srv; ip link set srv netns srv; ip -n srv address add 10.9.0.1/24 dev srv; ip -n srv link set srv up; ethtool -K br-int tx off >/dev/null
		ip netns exec srv dnsmasq --conf-file= --port=0 --no-resolv --interface=srv --bind-interfaces --dhcp-range=10.9.0.0,static,1h \
			--dhcp-host=fa:16:3e:00:00:01,10.9.0.77 --dhcp-option=option:mtu,1442 --dhcp-option=option:classless-static-route,10.8.0.0/16,10.9.0.3,0.0.0.0/0,10.9.0.1`)
	spec := staticVM("guest", "cmp1", "10.10.10.1")
	spec.Addressing = lab.ByDHCP
	vm, err := l.AddVM(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := vm.Spec.Lease.Address.String(); got != "10.9.0.77/24" {
		t.Errorf("leased %s", got)
	}
	awaitPing(t, vm.Space, "10.9.0.1")
	if routes := exec(t, vm.Space, "ip", "route"); !strings.Contains(routes, "10.8.0.0/16 via 10.9.0.3") || !strings.Contains(routes, "default via 10.9.0.1") {
		t.Errorf("routes: %s", routes)
	}
	if link := exec(t, vm.Space, "ip", "link", "show", "eth0"); !strings.Contains(link, "mtu 1442") || !strings.Contains(link, "fa:16:3e:00:00:01") {
		t.Errorf("device: %s", link)
	}
	again, err := l.VM("guest")
	if err != nil || again.Spec.Lease.Address != vm.Spec.Lease.Address {
		t.Errorf("as found by name: %+v, %v", again, err)
	}
	exec(t, vm.Space, "sh", "-c", "exec setsid --fork sleep 601 >/dev/null 2>&1")
	if err := vm.Remove(ctx); err != nil {
		t.Error(err)
	}
	if out := exec(t, cmp1.Space, "ps", "-eo", "args"); strings.Contains(out, "sleep 601") {
		t.Errorf("a process outlived its VM:\n%s", out)
	}
	if running, err := cmp1.Processes(lab.DnsmasqDaemon); err != nil || len(running) != 1 {
		t.Errorf("dnsmasq processes: %v, %v", running, err)
	}
}

func TestDownRemovesALabWhateverItsState(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, *lab.Lab){
		"norecord": func(t *testing.T, l *lab.Lab) {
			if err := os.Remove(filepath.Join(l.Dir(), "lab.json")); err != nil {
				t.Fatal(err)
			}
		},
		"badrecord": func(t *testing.T, l *lab.Lab) {
			if err := os.WriteFile(filepath.Join(l.Dir(), "lab.json"), []byte("{"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"noswitch": func(t *testing.T, l *lab.Lab) {
			all, err := procfs.List()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(all, func(p procfs.Process) bool { return hostinit.Is(p, l.Dir()) && p.Args[3] == "switch" })
			process, err := os.FindProcess(all[i].PID)
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Kill(); err != nil {
				t.Fatal(err)
			}
		},
		"entered": func(t *testing.T, l *lab.Lab) { // a shell left open in a host
			cmd, err := host(t, l, "cmp1").Command(context.Background(), "sleep", "600")
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Wait() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := small(name)
			o.NetworkNodes, o.ComputeNodes = 0, 1
			l := up(t, o)
			damage(t, l)
			if err := lab.Down(within(t), l.Name()); err != nil {
				t.Fatal(err)
			}
			if _, err := lab.Open(l.Name(), nil); !errors.Is(err, lab.ErrNotFound) {
				t.Errorf("after down: %v", err)
			}
		})
	}
}

func TestUpThatFailsLeavesNothing(t *testing.T) {
	before := machine(t)
	o := small("cancelled")
	for _, after := range []time.Duration{0, 30 * time.Millisecond, 120 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		if l, err := lab.Up(ctx, o); err == nil {
			if err := l.Down(within(t)); err != nil { // a fast machine
				t.Error(err)
			}
		}
		cancel()
		nothingLeft(t, o.Name, before)
	}
}

func TestTwoLabsStandSideBySide(t *testing.T) {
	o := small("left")
	o.NetworkNodes, o.Externals = 0, 0
	left := up(t, o)
	o.Name, o.UnderlayMTU = fmt.Sprintf("right-%d", os.Getpid()), 1600
	right := up(t, o)
	awaitPing(t, host(t, left, "cmp1").Space, "10.31.0.102")
	if out := exec(t, host(t, right, "cmp1").Space, "ip", "link", "show", "br-phy"); !strings.Contains(out, "mtu 1600") {
		t.Errorf("underlay MTU: %s", out)
	}
	if err := host(t, right, "cmp2").PowerOff(within(t)); err != nil {
		t.Fatal(err)
	}
	silent(t, host(t, right, "cmp1").Space, "10.31.0.102")
	awaitPing(t, host(t, left, "cmp1").Space, "10.31.0.102")
}

func TestDownOfOneLabSparesAnother(t *testing.T) {
	o := lab.Options{ComputeNodes: 2, Software: lab.OVSOnly}
	var labs sync.WaitGroup
	for side := range 2 {
		labs.Go(func() {
			o := o
			o.Name = fmt.Sprintf("side%d-%d", side, os.Getpid())
			for range 6 { // while one boots, the other one often goes down
				l, err := lab.Up(within(t), o)
				if err != nil {
					t.Error(err)
					return
				}
				if err := l.Down(within(t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	labs.Wait()
}

func TestMissingBinariesAreNamedWithTheRemedy(t *testing.T) {
	o := lab.Defaults()
	o.Name, o.Bin = "nobin", t.TempDir()
	_, err := lab.Up(within(t), o)
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(lab.Root, o.Name)); err == nil {
		t.Error("a refused lab left its folder")
	}
}
