// Package ovstest runs a private, real Open vSwitch for a test: its own ovsdb-server and ovs-vswitchd with their own
// folders, inside a network namespace of their own that vanishes with the test process. It uses the userspace datapath, so
// it needs root but no kernel module. It is for tests only and simulates nothing.
package ovstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// patience bounds every wait for a daemon; it is long because test machines are shared.
const patience = 30 * time.Second

// OVS is a running Open vSwitch. Its methods fail the test on trouble and must be called from the test's goroutine.
type OVS struct {
	t    testing.TB
	dir  string
	ns   netns.NsHandle
	db   *daemon
	vsw  *daemon
	path string // of the namespace, for nsenter
}

type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has been reaped
}

// Start starts both daemons and returns when they serve. The test's cleanup ends them and removes everything.
func Start(t testing.TB) *OVS {
	t.Helper()
	// t.TempDir holds the test's name; a Unix socket's path may have only 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "ovs")
	if err != nil {
		t.Fatalf("ovstest: a folder for Open vSwitch: %v", err)
	}
	o := &OVS{t: t, dir: dir}
	t.Cleanup(o.cleanup)
	if o.ns, err = newNamespace(); err != nil {
		t.Fatalf("ovstest: a network namespace (needs root): %v", err)
	}
	o.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(o.ns))
	o.Run("ip", "link", "set", "lo", "up")
	o.Run("ovsdb-tool", "create", filepath.Join(dir, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema")
	o.StartDB()
	o.Vsctl("--no-wait", "init")
	o.StartVswitchd()
	return o
}

// newNamespace makes a network namespace that only the returned descriptor keeps alive.
func newNamespace() (netns.NsHandle, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return netns.None(), err
	}
	defer func() { _ = home.Close() }()
	made, err := netns.New()
	if err != nil {
		return netns.None(), err
	}
	return made, netns.Set(home)
}

func (o *OVS) cleanup() {
	for _, d := range []*daemon{o.vsw, o.db} {
		d.kill()
	}
	if o.ns.IsOpen() {
		_ = o.ns.Close() // the process's end closes it too
	}
	if o.t.Failed() {
		o.logTail("ovs-vswitchd.log")
		o.logTail("ovsdb-server.log")
	}
	if err := os.RemoveAll(o.dir); err != nil {
		o.t.Errorf("ovstest: removing %s: %v", o.dir, err)
	}
}

// logTail shows warnings of a daemon when the test has failed.
func (o *OVS) logTail(name string) {
	text, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "|WARN|") || strings.Contains(line, "|ERR|") || strings.Contains(line, "|EMER|") {
			o.t.Logf("%s: %s", name, strings.TrimSpace(line))
		}
	}
}

// Dir is OVS_RUNDIR, OVS_DBDIR and OVS_LOGDIR at once.
func (o *OVS) Dir() string { return o.dir }

// Endpoint is the database's address in the form that ovs.Options.Endpoint takes.
func (o *OVS) Endpoint() string { return "unix:" + o.socket() }

func (o *OVS) socket() string { return filepath.Join(o.dir, "db.sock") }

// Mgmt is the path of a bridge's OpenFlow management socket, in the form that openflow.Options.Socket takes.
func (o *OVS) Mgmt(bridge string) string { return filepath.Join(o.dir, bridge+".mgmt") }

// Namespace is a path under which this process and its children can open the daemons' network namespace.
func (o *OVS) Namespace() string { return o.path }

// Command is a command inside the network namespace, with the environment that points the ovs tools at this instance.
// It is killed should the test process die.
func (o *OVS) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + o.path, name}, args...)...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+o.dir, "OVS_DBDIR="+o.dir, "OVS_LOGDIR="+o.dir, "OVS_SYSCONFDIR="+o.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Try runs a command to its end and gives what it printed on standard output; the error holds standard error.
func (o *OVS) Try(name string, args ...string) (string, error) {
	var stderr strings.Builder
	cmd := o.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

// Run is Try that fails the test on error.
func (o *OVS) Run(name string, args ...string) string {
	o.t.Helper()
	out, err := o.Try(name, args...)
	if err != nil {
		o.t.Fatalf("ovstest: %v", err)
	}
	return out
}

// Vsctl runs ovs-vsctl against this instance.
func (o *OVS) Vsctl(args ...string) string {
	o.t.Helper()
	return o.Run("ovs-vsctl", append([]string{"--db=" + o.Endpoint(), "--timeout=30"}, args...)...)
}

// Ofctl runs ovs-ofctl with OpenFlow 1.5; name bridges as "br-int", not as paths.
func (o *OVS) Ofctl(args ...string) string {
	o.t.Helper()
	return o.Run("ovs-ofctl", append([]string{"-O", "OpenFlow15"}, args...)...)
}

// AddBridge makes a bridge of a stranger, fail_mode secure, with OpenFlow 1.4 and 1.5.
func (o *OVS) AddBridge(name string) {
	o.t.Helper()
	o.Vsctl("add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev", "fail_mode=secure",
		"protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15")
}

// StartDB starts ovsdb-server and waits until it serves.
func (o *OVS) StartDB() {
	o.t.Helper()
	o.db = o.launch("ovsdb-server", filepath.Join(o.dir, "conf.db"), "--remote=p"+o.Endpoint(),
		"--unixctl="+filepath.Join(o.dir, "db.ctl"), "--log-file="+filepath.Join(o.dir, "ovsdb-server.log"))
	o.await(o.db, "db.sock")
}

// StartVswitchd starts ovs-vswitchd and waits until it has read its configuration.
func (o *OVS) StartVswitchd() {
	o.t.Helper()
	o.vsw = o.launch("ovs-vswitchd", o.Endpoint(), "--disable-system",
		"--unixctl="+filepath.Join(o.dir, "vswitchd.ctl"), "--log-file="+filepath.Join(o.dir, "ovs-vswitchd.log"))
	o.await(o.vsw, "vswitchd.ctl")
	o.Vsctl("set", "Open_vSwitch", ".", "external_ids:ovstest=started") // returns when ovs-vswitchd has followed
	o.Vsctl("remove", "Open_vSwitch", ".", "external_ids", "ovstest")
}

// KillDB kills ovsdb-server with SIGKILL and waits for its end.
func (o *OVS) KillDB() { o.db.kill() }

// KillVswitchd kills ovs-vswitchd with SIGKILL and waits for its end. Its taps vanish, its flows are lost.
func (o *OVS) KillVswitchd() { o.vsw.kill() }

// RestartVswitchd is KillVswitchd and StartVswitchd.
func (o *OVS) RestartVswitchd() {
	o.t.Helper()
	o.KillVswitchd()
	o.StartVswitchd()
}

// PauseDB stops ovsdb-server without ending it, as an overloaded one looks; ResumeDB lets it go on.
func (o *OVS) PauseDB() { o.signal(o.db, syscall.SIGSTOP) }

// ResumeDB undoes PauseDB.
func (o *OVS) ResumeDB() { o.signal(o.db, syscall.SIGCONT) }

// PauseVswitchd stops ovs-vswitchd with SIGSTOP; ResumeVswitchd lets it go on.
func (o *OVS) PauseVswitchd() { o.signal(o.vsw, syscall.SIGSTOP) }

// ResumeVswitchd undoes PauseVswitchd.
func (o *OVS) ResumeVswitchd() { o.signal(o.vsw, syscall.SIGCONT) }

func (o *OVS) signal(d *daemon, s syscall.Signal) {
	o.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		o.t.Fatalf("ovstest: signal %s: %v", s, err)
	}
}

func (o *OVS) launch(name string, args ...string) *daemon {
	o.t.Helper()
	d := &daemon{cmd: o.Command(name, append(args, "--no-chdir", "-vconsole:off", "-vsyslog:off")...), exited: make(chan struct{})}
	if err := d.cmd.Start(); err != nil {
		o.t.Fatalf("ovstest: %v", err)
	}
	go func() {
		defer close(d.exited)
		_ = d.cmd.Wait() // it ends by a signal; await notices an end that came too early
	}()
	return d
}

// await waits until a daemon accepts connections on its socket.
func (o *OVS) await(d *daemon, socket string) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if serving(filepath.Join(o.dir, socket)) {
			return
		}
		select {
		case <-d.exited:
			o.t.Fatalf("ovstest: %s ended at once: %v", d.cmd, d.cmd.ProcessState)
		case <-ctx.Done():
			o.t.Fatalf("ovstest: %s does not serve %s within %s", d.cmd, socket, patience)
		case <-tick.C:
		}
	}
}

func serving(path string) bool {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = syscall.Close(fd) }()
	return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) == nil
}

// kill ends the process, also one that is stopped or gone already; a daemon that never started is fine too.
func (d *daemon) kill() {
	if d == nil {
		return
	}
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return // cannot happen to a child of ours; waiting for it would hang the test
	}
	<-d.exited
}
