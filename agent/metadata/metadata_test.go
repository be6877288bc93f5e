package metadata_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// program is the proxy's, built for these tests.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), metadata.ProgramName)
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/weft-metadata").CombinedOutput(); err != nil {
		t.Fatalf("build the proxy: %v: %s", err, out)
	}
	return path
}

// node is one test's share of the machine: a state directory, namespaces, and a Manager.
type node struct {
	*testing.T
	*metadata.Manager
	o    metadata.Options
	mu   sync.Mutex
	away bool // nobody can be told apart now
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	dir, err := os.MkdirTemp("", "wm") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	n := &node{T: t}
	n.o = metadata.Options{
		StateDir: dir, Enter: enter, Program: program(t), User: "nobody", Rate: 1000, Connections: 50, BackendTimeout: 2 * time.Second,
		Guest: n.guest, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	n.start()
	t.Cleanup(func() {
		n.Close()
		if err := metadata.Stop(dir, nil); err != nil {
			t.Errorf("clean up: %v", err)
		}
		n.eventually("no proxy is left", func() bool { return len(n.proxies()) == 0 })
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// start makes a Manager, as an agent that starts does.
func (n *node) start() {
	n.Helper()
	m, err := metadata.New(n.o)
	if err != nil {
		n.Fatal(err)
	}
	n.Manager = m
}

// restart is the next agent after one that has ended.
func (n *node) restart() {
	n.Helper()
	n.Close()
	n.start()
}

// guest tells guests apart by place and address.
func (n *node) guest(_ context.Context, q wire.Question) (guest.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.away:
		return guest.Guest{}, context.DeadlineExceeded
	case q.Source == netip.MustParseAddr("10.0.0.66"):
		return guest.Guest{}, metadata.ErrNobody
	case q.Source == netip.MustParseAddr("10.0.0.67"):
		return guest.Guest{}, fmt.Errorf("%w: too odd", metadata.ErrUnusable)
	}
	return guest.Guest{Instance: q.Source.String() + "@" + q.Router + q.Network, Project: "p-" + q.Router + q.Network, Hostname: "h"}, nil
}

// proxies are the processes of this node's proxy.
func (n *node) proxies() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if pid, err2 := strconv.Atoi(e.Name()); err == nil && err2 == nil && metadata.Owned(cmdline, n.o.StateDir) {
			out = append(out, pid)
		}
	}
	return out
}

// proxy is the only one.
func (n *node) proxy() int {
	n.Helper()
	pids := n.proxies()
	if len(pids) != 1 {
		n.Fatalf("proxies: %v, want one", pids)
	}
	return pids[0]
}

func (n *node) eventually(what string, holds func() bool) {
	n.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.Fatal("waited in vain until " + what)
		}
	}
}

// enter runs a function on a thread inside a namespace; the thread dies with it.
func enter(name string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open("/var/run/netns/" + name)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func run(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// space makes a namespace that goes with the test.
func space(t *testing.T) string {
	t.Helper()
	name := "wm-" + uuid.NewString()[:8]
	run(t, "ip netns add "+name+"; ip -n "+name+" link set lo up")
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() }) // a test may have removed it
	return name
}

// router is a namespace as a router's, with guests at 10.0.0.5, .66 and .67 behind it.
type router struct {
	desired.Metadata
	guest string // namespace
}

func (n *node) router() router {
	n.Helper()
	r := router{desired.Metadata{Router: uuid.NewString(), Namespace: space(n.T), Address: netip.MustParseAddrPort("0.0.0.0:9697")}, space(n.T)}
	run(n.T, fmt.Sprintf(`
		ip -n %[1]s link add qr-1 type veth peer name eth0 netns %[2]s
		ip -n %[1]s addr add 10.0.0.1/24 dev qr-1; ip -n %[1]s link set qr-1 up
		for a in 10.0.0.5 10.0.0.66 10.0.0.67; do ip -n %[2]s addr add $a/24 dev eth0; done
		ip -n %[2]s link set eth0 up; ip -n %[2]s route add default via 10.0.0.1
		ip netns exec %[1]s iptables -t nat -A PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697`, r.Namespace, r.guest))
	return r
}

// network is a namespace as a DHCP server's, with a guest at 10.0.0.5.
func (n *node) network() router {
	n.Helper()
	r := router{desired.Metadata{Network: uuid.NewString(), Namespace: space(n.T), Address: netip.MustParseAddrPort("169.254.169.254:80")}, space(n.T)}
	run(n.T, fmt.Sprintf(`
		ip -n %[1]s link add tap1 type veth peer name eth0 netns %[2]s
		ip -n %[1]s addr add 10.0.0.2/24 dev tap1; ip -n %[1]s addr add 169.254.169.254/32 dev tap1; ip -n %[1]s link set tap1 up
		ip -n %[2]s addr add 10.0.0.5/24 dev eth0; ip -n %[2]s link set eth0 up; ip -n %[2]s route add 169.254.169.254/32 via 10.0.0.2`, r.Namespace, r.guest))
	return r
}

// ask asks from the guest's namespace with curl; the status, and what was said.
func (r router) ask(t *testing.T, path string, args ...string) (status, body string) {
	t.Helper()
	argv := append([]string{"netns", "exec", r.guest, "curl", "-s", "-m", "20", "-w", "\n%{http_code}", "http://169.254.169.254" + path}, args...)
	out, err := exec.Command("ip", argv...).Output()
	if err != nil {
		return err.Error(), ""
	}
	at := strings.LastIndex(string(out), "\n")
	return string(out[at+1:]), string(out[:at])
}

func (r router) want(t *testing.T) {
	t.Helper()
	if status, body := r.ask(t, "/latest/meta-data/instance-id"); status != "200" || body != "10.0.0.5@"+r.Router+r.Network {
		t.Errorf("%s %q, want the instance of %s%s", status, body, r.Router, r.Network)
	}
}

func TestGuestsOfOverlappingNetworksAreToldApart(t *testing.T) {
	n := newNode(t)
	all := []router{n.router(), n.router(), n.network(), n.network()}
	for _, r := range all {
		n.Serve(r.Metadata)
	}
	for _, r := range all {
		r.want(t)
		if ok, err := n.Served(r.Metadata); !ok || err != nil {
			t.Errorf("served: %v %v", ok, err)
		}
	}
	n.proxy()
	if p := n.Problem(); p != "" {
		t.Error(p)
	}
	if got := n.Counts(); got["200"] != 4 {
		t.Errorf("counted %v", got)
	}
}

func TestWhoIsNoGuestGetsNothing(t *testing.T) {
	n := newNode(t)
	r := n.router()
	n.Serve(r.Metadata)
	for source, want := range map[string]string{"10.0.0.66": "404", "10.0.0.67": "500"} {
		if status, body := r.ask(t, "/latest/user-data", "--interface", source); status != want {
			t.Errorf("%s: %s %q, want %s", source, status, body, want)
		}
	}
	// The router's own address is not the service's.
	out, err := exec.Command("ip", "netns", "exec", r.guest, "curl", "-s", "-m", "20", "http://10.0.0.1:9697/latest/user-data").Output()
	if err == nil {
		t.Errorf("the router's own address answers %q", out)
	}
}

func TestTheProxyHasNoPrivileges(t *testing.T) {
	n := newNode(t)
	r := n.router()
	n.Serve(r.Metadata)
	proc := "/proc/" + strconv.Itoa(n.proxy())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t \n", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("its status lacks %q:\n%s", want, status)
		}
	}
	if st, err := os.Stat(proc + "/environ"); err != nil || st.Sys() == nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", proc+"/environ").CombinedOutput(); err == nil {
		t.Errorf("another process of its user can look into it: %q", out)
	}
}

func TestQuestionsAreTheProxysAlone(t *testing.T) {
	n := newNode(t)
	ask := filepath.Join(n.o.StateDir, "metadata", "ask")
	question := []string{"curl", "-s", "-m", "5", "--unix-socket", ask, "-d", `{"network":"x","source":"10.0.0.5"}`, "http://agent" + wire.AskPath}
	if out, err := exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups"}, question...)...).CombinedOutput(); err != nil || !strings.Contains(string(out), "10.0.0.5@x") {
		t.Errorf("the proxy's user: %v %q", err, out)
	}
	for _, user := range []string{"1", "0"} {
		if out, err := exec.Command("setpriv", append([]string{"--reuid=" + user, "--clear-groups"}, question...)...).CombinedOutput(); err == nil {
			t.Errorf("user %s is answered %q", user, out)
		}
	}
	control := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "test -r "+filepath.Join(n.o.StateDir, "metadata", "control"))
	if err := control.Run(); err == nil {
		t.Error("the proxy's user can direct it")
	}
}

// asking asks until it is told to stop, by several at once, and gives what was not answered right.
func (r router) asking(t *testing.T) (stop func() []string) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var wrong []string
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{}, 1000)
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, body := r.ask(t, "/latest/meta-data/instance-id"); status != "200" {
					mu.Lock()
					wrong = append(wrong, status+" "+body)
					mu.Unlock()
				}
				select {
				case asked <- struct{}{}:
				default:
				}
			}
		})
	}
	<-asked
	return func() []string {
		cancel()
		wg.Wait()
		return wrong
	}
}

func TestARestartedAgentAdoptsTheProxyAndNoRequestFails(t *testing.T) {
	n := newNode(t)
	r, other := n.router(), n.network()
	n.Serve(r.Metadata)
	n.Serve(other.Metadata)
	before := n.proxy()
	stop := r.asking(t)
	for range 3 {
		n.restart()
		n.Serve(r.Metadata)
		n.Serve(other.Metadata)
		if n.Writes() != 0 {
			t.Errorf("a restarted agent wrote %d times", n.Writes())
		}
		r.want(t)
	}
	if wrong := stop(); len(wrong) > 0 {
		t.Errorf("%d requests failed: %q", len(wrong), wrong[0])
	}
	if now := n.proxy(); now != before {
		t.Errorf("process %d took the place of %d", now, before)
	}
	other.want(t)
}

func TestAnUpgradedProxyTakesOverAndNoRequestFails(t *testing.T) {
	n := newNode(t)
	r, other := n.router(), n.network()
	n.Serve(r.Metadata)
	n.Serve(other.Metadata)
	before := n.proxy()
	stop := r.asking(t)
	for i, change := range []func(){
		func() { n.o.Program = program(t) },
		func() { n.o.Rate = 2000 },
	} {
		n.Close()
		change()
		n.start()
		n.Serve(r.Metadata)
		n.eventually("the old proxy has ended", func() bool { pids := n.proxies(); return len(pids) == 1 && pids[0] != before })
		before = n.proxy()
		if got, err := n.Served(other.Metadata); !got || err != nil {
			t.Errorf("change %d: the other place was not handed over (%v)", i, err)
		}
	}
	if wrong := stop(); len(wrong) > 0 {
		t.Errorf("%d requests failed: %q", len(wrong), wrong[0])
	}
	other.want(t)
}

func TestAProxyThatDiesOrIsLostIsReplaced(t *testing.T) {
	n := newNode(t)
	r := n.router()
	n.Serve(r.Metadata)
	first := n.proxy()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("another proxy serves", func() bool {
		pids := n.proxies()
		ok, _ := n.Served(r.Metadata)
		return ok && len(pids) == 1 && pids[0] != first
	})
	r.want(t)
	// One whose socket is gone can't be told anything.
	second := n.proxy()
	n.Close()
	if err := os.Remove(filepath.Join(n.o.StateDir, "metadata", "control")); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.Serve(r.Metadata)
	if now := n.proxy(); now == second {
		t.Error("the lost proxy is still there")
	}
	r.want(t)
	// One that hangs.
	third := n.proxy()
	if err := unix.Kill(third, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.eventually("another proxy serves", func() bool {
		pids := n.proxies()
		ok, _ := n.Served(r.Metadata)
		return ok && len(pids) == 1 && pids[0] != third
	})
	r.want(t)
}

func TestADroppedPlaceIsLetGoAndTheLastOneEndsTheProxy(t *testing.T) {
	n := newNode(t)
	r, other := n.router(), n.network()
	n.Serve(r.Metadata)
	n.Serve(other.Metadata)
	if err := n.Drop(wire.Place{Router: r.Router}); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.ask(t, "/", "-m", "2"); status == "200" {
		t.Error("it is still served")
	}
	other.want(t)
	n.restart() // an agent that has served nothing yet drops what an earlier one served
	for range 2 {
		if err := n.Drop(wire.Place{Network: other.Network}); err != nil {
			t.Fatal(err)
		}
	}
	n.eventually("the proxy has ended", func() bool { return len(n.proxies()) == 0 })
}

func TestANamespaceMadeAnewIsListenedToAnew(t *testing.T) {
	n := newNode(t)
	r := n.network()
	n.Serve(r.Metadata)
	fresh := n.network()
	old := r.Namespace
	r.Namespace, r.guest = fresh.Namespace, fresh.guest
	if ok, err := n.Served(r.Metadata); ok || err != nil {
		t.Errorf("a namespace nobody listens in counts as served (%v)", err)
	}
	n.Serve(r.Metadata)
	r.want(t)
	if out := run(t, "ip netns exec "+old+" ss -Htln"); strings.TrimSpace(out) != "" {
		t.Errorf("the old namespace is still listened in: %s", out)
	}
}

func TestAMissingProgramIsAProblemUntilItIsThere(t *testing.T) {
	n := newNode(t)
	n.Close()
	good := n.o.Program
	n.o.Program = filepath.Join(t.TempDir(), metadata.ProgramName)
	n.start()
	r := n.router()
	n.Serve(r.Metadata)
	if !strings.Contains(n.Problem(), "start the metadata proxy") {
		t.Errorf("problem %q", n.Problem())
	}
	if err := os.Symlink(good, n.o.Program); err != nil {
		t.Fatal(err)
	}
	n.eventually("the problem has passed", func() bool { return n.Problem() == "" })
	r.want(t)
}

func TestABackendIsToldWhoAsksUnderTheSharedSecret(t *testing.T) {
	n := newNode(t)
	n.Close()
	var got http.Header
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		fmt.Fprint(w, "backend")
	}))
	defer up.Close()
	n.o.Backends, n.o.Secret = []string{up.URL}, filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(n.o.Secret, []byte("quiet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	r := n.router()
	n.Serve(r.Metadata)
	ask := func() (string, string) { return r.ask(t, "/openstack", "-H", "X-Instance-ID: other") }
	if status, body := ask(); status != "200" || body != "backend" {
		t.Fatalf("%s %q", status, body)
	}
	instance := "10.0.0.5@" + r.Router
	for name, want := range map[string]string{
		"X-Instance-Id": instance, "X-Tenant-Id": "p-" + r.Router, "X-Forwarded-For": "10.0.0.5", "X-Neutron-Router-Id": r.Router,
		"X-Instance-Id-Signature": metadata.Sign([]byte("quiet"), instance),
	} {
		if got.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Get(name), want)
		}
	}
	// The next secret counts at once.
	if err := os.WriteFile(n.o.Secret, []byte("quieter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ask(); got.Get("X-Instance-Id-Signature") != metadata.Sign([]byte("quieter"), instance) {
		t.Error("signed with the old secret")
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(n.proxy()) + "/cmdline")
	if err != nil || strings.Contains(string(cmdline), "quiet") {
		t.Errorf("its arguments %q (%v)", cmdline, err)
	}
	// A secret that others may read is none.
	if err := os.Chmod(n.o.Secret, 0o644); err != nil {
		t.Fatal(err)
	}
	n.eventually("the node says so", func() bool { return strings.Contains(n.Problem(), "chmod 0600") })
	if err := os.Chmod(n.o.Secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask(); status != "200" {
		t.Errorf("status %s", status)
	}
}

// TestSignature is the second example of RFC 4231.
func TestSignature(t *testing.T) {
	want := "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
	if got := metadata.Sign([]byte("Jefe"), "what do ya want for nothing?"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
