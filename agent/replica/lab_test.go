package replica_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/agent/netns"
	"github.com/weft-sdn/weft/agent/peer"
	"github.com/weft-sdn/weft/agent/replica"
)

const (
	floating = "203.0.113.7"
	vmA      = "10.0.0.10" // behind the floating IP
	vmB      = "10.0.0.11"
	vmC      = "10.0.0.12"
	outside  = "203.0.113.1"
	router   = "router-1"
)

// lab is one router on two nodes, with the same addresses and MACs, between an inside with VMs and an outside. A switch
// lets the frames of one of the two through: the other stands by in silence.
type lab struct {
	t               *testing.T
	ns              *netns.Manager
	sw, in, out     string
	a, b            string // the router's namespaces
	nodeA, nodeB    *replica.Replicator
	keys            *peer.Keyring
	epoch           int64
	optionsA        replica.Options
	optionsB        replica.Options
	active, standby string
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
	l := &lab{t: t, ns: m, epoch: 1, keys: keyring(t, 'k')}
	for _, ns := range []*string{&l.sw, &l.in, &l.out, &l.a, &l.b} {
		*ns = "qrouter-" + uuid.NewString()
		if _, err := m.Prepare(t.Context(), desired.Namespace{Name: *ns}); err != nil {
			t.Fatal(err)
		}
		name := *ns
		t.Cleanup(func() {
			if err := m.Delete(context.Background(), name); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
	}
	for _, bridge := range []string{"lan", "wan"} {
		l.ip(l.sw, "link", "add", bridge, "up", "type", "bridge")
	}
	l.wire(l.in, "tap-in", "lan", "in", "", vmA+"/24", vmB+"/24", vmC+"/24")
	l.wire(l.out, "tap-out", "wan", "out", "", outside+"/24")
	l.ip(l.in, "route", "add", "default", "via", "10.0.0.1")
	for name, ns := range map[string]string{"a": l.a, "b": l.b} {
		l.wire(ns, "qr-1", "lan", "qr-"+name, "02:00:00:00:00:01", "10.0.0.1/24")
		l.wire(ns, "qg-1", "wan", "qg-"+name, "02:00:00:00:00:02", "203.0.113.5/24", floating+"/32")
		l.rules(ns, "qg-1")
		if err := m.Run(ns, conntrack.TellAll); err != nil { // as the agent does before it forwards
			t.Fatal(err)
		}
	}
	l.optionsA = replica.Options{Node: "a", Listen: "127.0.0.1:0"}
	l.optionsB = replica.Options{Node: "b", Listen: "127.0.0.1:0"}
	l.letThrough("a")
	return l
}

func keyring(t *testing.T, letter byte) *peer.Keyring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peer.key")
	text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{letter}, peer.KeySize))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := peer.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (l *lab) ip(ns string, argv ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns}, argv...)...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %v: %v: %s", argv, err, out)
	}
}

// wire leads a link of a namespace to a port of a bridge of the switch.
func (l *lab) wire(ns, link, bridge, port, mac string, addrs ...string) {
	l.t.Helper()
	l.ip(l.sw, "link", "add", port, "up", "type", "veth", "peer", "name", link, "netns", ns)
	l.ip(l.sw, "link", "set", port, "master", bridge)
	if mac != "" {
		l.ip(ns, "link", "set", link, "address", mac)
	}
	l.ip(ns, "link", "set", link, "up")
	for _, a := range addrs {
		l.ip(ns, "addr", "add", a, "dev", link)
	}
}

func (l *lab) rules(ns, external string) {
	l.t.Helper()
	d, err := iptables.New(l.t.Context(), iptables.Options{Enter: l.ns.Run})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := d.Ensure(l.t.Context(), ns, desired.IPTables{
		Jumps: []desired.Jump{
			{Table: "nat", Builtin: "PREROUTING", Target: "weft-PREROUTING"},
			{Table: "nat", Builtin: "POSTROUTING", Target: "weft-snat"},
		},
		Chains: []desired.Chain{
			{Table: "nat", Name: "weft-PREROUTING", Rules: []string{"-d " + floating + "/32 -j DNAT --to-destination " + vmA}},
			{Table: "nat", Name: "weft-snat", Rules: []string{
				"-s " + vmA + "/32 -o " + external + " -j SNAT --to-source " + floating,
				"-o " + external + " -j SNAT --to-source 203.0.113.5",
			}},
		},
	}); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.ns.Forward(l.t.Context(), desired.Namespace{Name: ns, Forward: true}); err != nil {
		l.t.Fatal(err)
	}
}

// letThrough has the switch pass the frames of one node's router only. A port that is set down forgets its MACs.
func (l *lab) letThrough(node string) {
	l.t.Helper()
	l.active, l.standby = l.a, l.b
	if node == "b" {
		l.active, l.standby = l.b, l.a
	}
	for _, n := range []string{"a", "b"} {
		if n != node {
			l.ip(l.sw, "link", "set", "qr-"+n, "down")
			l.ip(l.sw, "link", "set", "qg-"+n, "down")
		}
	}
	l.ip(l.sw, "link", "set", "qr-"+node, "up")
	l.ip(l.sw, "link", "set", "qg-"+node, "up")
}

// start starts the replicators that do not run, and tells them their roles.
func (l *lab) start() {
	l.t.Helper()
	for _, n := range []struct {
		r *(*replica.Replicator)
		o replica.Options
	}{{&l.nodeA, l.optionsA}, {&l.nodeB, l.optionsB}} {
		if *n.r != nil {
			continue
		}
		*n.r = l.replicator(n.o)
	}
	l.roles()
}

func (l *lab) replicator(o replica.Options) *replica.Replicator {
	l.t.Helper()
	o.Enter = l.ns.Run
	if o.Trust == nil {
		o.Trust = l.keys
	}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(l.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r, err := replica.New(o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(r.Close)
	return r
}

// roles says who forwards, as the switch has it: the new standby first.
func (l *lab) roles() {
	a := replica.Assignment{Namespace: l.a, Epoch: l.epoch, Role: replica.Standby, Peers: map[string]string{"b": l.nodeB.Addr().String()}}
	b := replica.Assignment{Namespace: l.b, Epoch: l.epoch, Role: replica.Standby, Peers: map[string]string{"a": l.nodeA.Addr().String()}}
	if l.active == l.a {
		a.Role = replica.Active
		l.nodeB.Set(router, b)
		l.nodeA.Set(router, a)
		return
	}
	b.Role = replica.Active
	l.nodeA.Set(router, a)
	l.nodeB.Set(router, b)
}

func (l *lab) nodes() (active, standby *replica.Replicator) {
	if l.active == l.a {
		return l.nodeA, l.nodeB
	}
	return l.nodeB, l.nodeA
}

// move hands the router over as two agents do: the old one is silent before the new one forwards.
func (l *lab) move(to string) {
	l.t.Helper()
	active, _ := l.nodes()
	l.flush(active)
	l.ip(l.sw, "link", "set", "qr-a", "down")
	l.ip(l.sw, "link", "set", "qr-b", "down")
	l.ip(l.sw, "link", "set", "qg-a", "down")
	l.ip(l.sw, "link", "set", "qg-b", "down")
	l.flush(active)
	l.letThroughNext(to)
	l.roles()
	l.ip(l.sw, "link", "set", "qr-"+to, "up")
	l.ip(l.sw, "link", "set", "qg-"+to, "up")
}

func (l *lab) letThroughNext(to string) {
	l.epoch++
	l.active, l.standby = l.a, l.b
	if to == "b" {
		l.active, l.standby = l.b, l.a
	}
}

func (l *lab) flush(r *replica.Replicator) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	if err := r.Flush(ctx, router); err != nil {
		l.t.Fatal(err)
	}
}

// eventually waits for a condition and says what is missing.
func (l *lab) eventually(what string, have func() string) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		problem := have()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: %s", what, problem)
		}
		select {
		case <-l.t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (l *lab) synced() {
	l.t.Helper()
	l.eventually("synced", func() string {
		if _, standby := l.nodes(); !standby.Synced(router) {
			return "not yet"
		}
		return ""
	})
}

// alike waits until the node that stands by has exactly the lasting entries of the one that forwards.
func (l *lab) alike() {
	l.t.Helper()
	l.eventually("the same connections", func() string {
		want, have := l.listing(l.active), l.listing(l.standby)
		if slices.Equal(want, have) {
			return ""
		}
		return fmt.Sprintf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	})
}

// listing is what conntrack(8) says of a namespace, without timeouts and without what ends at once.
func (l *lab) listing(ns string) []string {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", ns, "conntrack", "-L").Output()
	if err != nil {
		l.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if f[0] == "tcp" && slices.Contains([]string{"SYN_SENT", "SYN_RECV", "TIME_WAIT", "CLOSE"}, f[3]) || slices.Contains(f, "src=127.0.0.1") {
			continue
		}
		lines = append(lines, strings.Join(slices.Delete(f, 2, 3), " "))
	}
	slices.Sort(lines)
	return lines
}

// listen accepts TCP connections and hands them over.
func (l *lab) listen(ns, addr string) <-chan net.Conn {
	l.t.Helper()
	var lis net.Listener
	if err := l.ns.Run(ns, func() (err error) {
		lis, err = net.Listen("tcp4", addr)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1024)
	done := make(chan struct{})
	l.t.Cleanup(func() { lis.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return accepted
}

// pair is one connection, seen from both ends.
type pair struct {
	l              *lab
	client, server net.Conn
}

func (l *lab) connect(accepted <-chan net.Conn, ns, from, to string) *pair {
	l.t.Helper()
	local, err := net.ResolveTCPAddr("tcp4", from)
	if err != nil {
		l.t.Fatal(err)
	}
	p := &pair{l: l}
	d := net.Dialer{LocalAddr: local, Timeout: 10 * time.Second, FallbackDelay: -1}
	if err := l.ns.Run(ns, func() (err error) {
		p.client, err = d.Dial("tcp4", to)
		return err
	}); err != nil {
		l.t.Fatalf("dial %s from %s: %v", to, from, err)
	}
	p.server = <-accepted
	l.t.Cleanup(func() { p.client.Close(); p.server.Close() })
	return p
}

// passes sends a line one way.
func passes(from, to net.Conn) error {
	deadline := time.Now().Add(5 * time.Second)
	from.SetDeadline(deadline)
	to.SetDeadline(deadline)
	if _, err := fmt.Fprintln(from, "x"); err != nil {
		return err
	}
	_, err := bufio.NewReaderSize(to, 16).ReadString('\n')
	return err
}

// goesOn has the server speak first: a client that is silent does not help the router to learn the connection anew.
func (p *pair) goesOn(what string) {
	p.l.t.Helper()
	if err := passes(p.server, p.client); err != nil {
		p.l.t.Errorf("%s: server to client: %v", what, err)
	}
	if err := passes(p.client, p.server); err != nil {
		p.l.t.Errorf("%s: client to server: %v", what, err)
	}
}

// datagrams opens two UDP sockets; the first sends, and the second answers to where that came from.
type datagrams struct {
	l              *lab
	client, server *net.UDPConn
	at             *net.UDPAddr // the client, as the server sees it
}

func (l *lab) datagrams(ns, from, serverNS, to, at string) *datagrams {
	l.t.Helper()
	resolve := func(s string) *net.UDPAddr {
		a, err := net.ResolveUDPAddr("udp4", s)
		if err != nil {
			l.t.Fatal(err)
		}
		return a
	}
	d := &datagrams{l: l}
	if err := l.ns.Run(serverNS, func() (err error) { d.server, err = net.ListenUDP("udp4", resolve(at)); return err }); err != nil {
		l.t.Fatal(err)
	}
	if err := l.ns.Run(ns, func() (err error) { d.client, err = net.DialUDP("udp4", resolve(from), resolve(to)); return err }); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { d.client.Close(); d.server.Close() })
	for range 2 { // the second one makes it a stream
		d.ask()
		d.answer("")
	}
	return d
}

func (d *datagrams) ask() {
	d.l.t.Helper()
	b := make([]byte, 8)
	_ = d.server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := d.client.Write([]byte("x")); err != nil {
		d.l.t.Fatal(err)
	}
	_, at, err := d.server.ReadFromUDP(b)
	if err != nil {
		d.l.t.Fatal(err)
	}
	d.at = at
}

// answer sends until one arrives: a port of the switch that has just been set up may lose the first.
func (d *datagrams) answer(what string) {
	d.l.t.Helper()
	b := make([]byte, 8)
	var err error
	for range 25 {
		_ = d.client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := d.server.WriteToUDP([]byte("y"), d.at); err != nil {
			d.l.t.Fatal(err)
		}
		if _, err = d.client.Read(b); err == nil {
			return
		}
	}
	d.l.t.Errorf("%s: %v", what, err)
}

func (l *lab) output(argv ...string) string {
	l.t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}
