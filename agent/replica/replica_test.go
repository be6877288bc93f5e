package replica_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// traffic is a connection of each kind. Two VMs use the same port towards the same server, so that SNAT has to give one
// of them another: that the router could not guess.
type traffic struct {
	tcp map[string]*pair
	udp map[string]*datagrams
}

func (l *lab) traffic(port int) traffic {
	l.t.Helper()
	at := func(addr string, port int) string { return fmt.Sprintf("%s:%d", addr, port) }
	out, in := l.listen(l.out, at(outside, port)), l.listen(l.in, at(vmA, port))
	return traffic{
		tcp: map[string]*pair{
			"TCP by SNAT":                      l.connect(out, l.in, at(vmB, port+1), at(outside, port)),
			"TCP by SNAT with another port":    l.connect(out, l.in, at(vmC, port+1), at(outside, port)),
			"TCP to a floating IP":             l.connect(in, l.out, at(outside, 0), at(floating, port)),
			"TCP from a VM with a floating IP": l.connect(out, l.in, at(vmA, 0), at(outside, port)),
		},
		udp: map[string]*datagrams{
			"UDP by SNAT":                   l.datagrams(l.in, at(vmB, port+2), l.out, at(outside, port+2), at(outside, port+2)),
			"UDP by SNAT with another port": l.datagrams(l.in, at(vmC, port+2), l.out, at(outside, port+3), at(outside, port+3)),
			"UDP to a floating IP":          l.datagrams(l.out, at(outside, port+4), l.in, at(floating, port+4), at(vmA, port+4)),
		},
	}
}

func (tr traffic) goesOn(when string) {
	for what, p := range tr.tcp {
		p.l.t.Helper()
		p.goesOn(when + ": " + what)
	}
	for what, d := range tr.udp {
		d.answer(when + ": " + what)
	}
}

func TestConnectionsGoOnWhenTheirRouterMovesThereAndBack(t *testing.T) {
	l := newLab(t)
	l.start()
	before := l.traffic(4000) // some come before the standby has anything, some after
	l.synced()
	after := l.traffic(5000)
	before.goesOn("before")
	l.move("b")
	before.goesOn("on b")
	after.goesOn("on b")
	l.synced()
	l.alike()
	fresh := l.traffic(6000)
	fresh.goesOn("made on b")
	l.move("a")
	for _, tr := range []traffic{before, after, fresh} {
		tr.goesOn("back on a")
	}
}

// Without this a test of the others could not fail.
func TestWithoutReplicationConnectionsBySNATBreak(t *testing.T) {
	l := newLab(t)
	out := l.listen(l.out, outside+":4000")
	p := l.connect(out, l.in, vmB+":4001", outside+":4000")
	l.letThrough("b")
	if err := passes(p.server, p.client); err == nil {
		t.Error("the connection went on")
	}
}

func TestAnEndedConnectionGoesFromTheStandby(t *testing.T) {
	l := newLab(t)
	l.start()
	tr := l.traffic(4000)
	l.synced()
	l.alike()
	for _, p := range tr.tcp {
		p.client.Close()
		p.server.Close()
	}
	if len(l.listing(l.standby)) == 0 {
		t.Error("nothing was replicated")
	}
	l.alike()
	for _, line := range l.listing(l.standby) {
		if strings.HasPrefix(line, "tcp") {
			t.Errorf("left: %s", line)
		}
	}
}

func TestANewReplicatorOnTheActiveNodeGoesOn(t *testing.T) {
	l := newLab(t)
	l.start()
	tr := l.traffic(4000)
	l.synced()
	l.nodeA.Close()
	for what, p := range tr.tcp { // while nobody listens
		if strings.Contains(what, "floating") {
			p.client.Close()
			p.server.Close()
			delete(tr.tcp, what)
		}
	}
	more := l.traffic(5000)
	if len(l.listing(l.standby)) == 0 {
		t.Error("the standby forgot")
	}
	l.nodeA = nil
	l.start()
	l.alike()
	l.move("b")
	tr.goesOn("on b")
	more.goesOn("on b")
}

func TestANewReplicatorOnTheStandbyAdoptsAndCatchesUp(t *testing.T) {
	l := newLab(t)
	l.start()
	tr := l.traffic(4000)
	l.synced()
	l.alike()
	had := len(l.listing(l.standby))
	l.nodeB.Close()
	if len(l.listing(l.standby)) != had {
		t.Error("its end took connections along")
	}
	more := l.traffic(5000)
	l.nodeB = nil
	l.start()
	l.synced()
	l.alike()
	l.letThrough("b") // without a hand-over
	tr.goesOn("on b")
	more.goesOn("on b")
}

func TestAStandbyHoldsWhatTheActiveNodeSaysAndNothingElse(t *testing.T) {
	l := newLab(t)
	l.letThrough("b")
	l.traffic(4000) // of a time when b forwarded
	l.letThrough("a")
	l.start()
	l.synced()
	if have := l.listing(l.standby); len(have) != 0 {
		t.Errorf("left:\n%s", strings.Join(have, "\n"))
	}
}

func TestWhatStandsInTheWayOfAConnectionGoes(t *testing.T) {
	l := newLab(t)
	out := l.listen(l.out, outside+":4000")
	l.letThrough("b")
	l.connect(out, l.in, vmC+":4001", outside+":4000") // has the router's port 4001 on b
	l.letThrough("a")
	p := l.connect(out, l.in, vmB+":4001", outside+":4000") // has it on a
	l.start()
	l.alike()
	l.letThrough("b")
	p.goesOn("on b")
}

func TestNothingGetsIntoANodeThatForwards(t *testing.T) {
	l := newLab(t)
	l.start()
	l.traffic(4000)
	l.synced()
	l.alike()
	// b believes that it forwards, in a higher epoch; a does not know yet.
	l.nodeB.Set(router, replica.Assignment{
		Namespace: l.b, Epoch: 2, Role: replica.Active, Peers: map[string]string{"a": l.nodeA.Addr().String()},
	})
	had := l.listing(l.b)
	l.traffic(5000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.nodeA.Flush(ctx, router); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("flush to a node that forwards: %v", err)
	}
	if have := l.listing(l.b); fmt.Sprint(have) != fmt.Sprint(had) {
		t.Errorf("it had %v and has %v", had, have)
	}
}

func TestWhatIsOfAnOlderEpochIsDropped(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	b := replica.Assignment{Namespace: l.b, Epoch: 7, Role: replica.Standby, Peers: map[string]string{"a": l.nodeA.Addr().String()}}
	l.nodeB.Set(router, b)
	if l.nodeB.Synced(router) {
		t.Error("synced with a node of an older epoch")
	}
	l.traffic(4000)
	l.flush(l.nodeA)
	if have := l.listing(l.b); len(have) != 0 || l.nodeB.Stats().Stale == 0 {
		t.Errorf("it took %v", have)
	}
	l.epoch = 7
	l.roles()
	l.synced()
	l.alike()
	// The store was restored from a backup.
	l.epoch = 3
	l.roles()
	l.synced()
	l.traffic(5000)
	l.alike()
}

func TestAPeerThatDoesNotKeepUpGetsEverythingLater(t *testing.T) {
	l := newLab(t)
	l.optionsA.Queue = 512
	l.start()
	l.synced()
	l.many(300)
	l.eventually("overflow", func() string {
		if l.nodeA.Stats().Overflows == 0 {
			return "none"
		}
		return ""
	})
	l.alike()
	l.flush(l.nodeA)
}

func TestNoMoreEntriesAreTakenThanTheLimitAndTheRestIsCounted(t *testing.T) {
	for name, limit := range map[string]func(l *lab) *replica.Options{
		"by the sender":   func(l *lab) *replica.Options { return &l.optionsA },
		"by the receiver": func(l *lab) *replica.Options { return &l.optionsB },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			limit(l).Entries = 50
			lasting := l.connect(l.listen(l.out, outside+":4000"), l.in, vmB+":0", outside+":4000")
			l.many(200)
			l.start()
			l.synced()
			if n := len(l.listing(l.standby)); n > 50 || n < 40 {
				t.Errorf("%d entries, limit 50", n)
			}
			if dropped := l.nodeA.Stats().Dropped + l.nodeB.Stats().Dropped; dropped < 150 {
				t.Errorf("%d counted", dropped)
			}
			if name == "by the sender" {
				l.letThrough("b")
				lasting.goesOn("what lasts longest")
			}
		})
	}
}

// many makes UDP entries.
func (l *lab) many(n int) {
	l.t.Helper()
	if err := l.ns.Run(l.in, func() error {
		c, err := net.ListenPacket("udp4", vmB+":0")
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range n {
			if _, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(outside), Port: 10000 + i}); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

func TestFullSetsKeepEntriesAliveThatNoEventRenews(t *testing.T) {
	l := newLab(t)
	l.optionsA.Refresh, l.optionsB.Refresh = time.Second, time.Second
	d := l.datagrams(l.in, vmB+":4000", l.out, outside+":4000", outside+":4000")
	l.start()
	l.synced()
	sets := l.nodeA.Stats().FullSets
	l.eventually("full sets again", func() string {
		if l.nodeA.Stats().FullSets < sets+5 {
			return "too few"
		}
		return ""
	})
	l.alike()
	l.letThrough("b")
	d.answer("after several lifetimes")
}

func TestANamespaceThatWasMadeAnewIsFollowed(t *testing.T) {
	l := newLab(t)
	l.optionsA.Refresh = time.Second
	l.start()
	l.synced()
	// The name leads to another namespace, as after somebody deleted it and the agent built it again.
	a := replica.Assignment{Namespace: l.a, Epoch: 1, Role: replica.Active, Peers: map[string]string{"b": l.nodeB.Addr().String()}}
	other := newLab(t)
	l.nodeA.Close()
	swapped := l.a
	o := l.optionsA
	o.Enter = func(ns string, fn func() error) error {
		if ns == l.a {
			ns = swapped
		}
		m := l.ns
		if ns != l.a {
			m = other.ns
		}
		return m.Run(ns, fn)
	}
	o.Trust = l.keys
	node, err := replica.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	node.Set(router, a)
	l.eventually("events are read", func() string {
		if node.Stats().FullSets == 0 {
			return "not yet"
		}
		return ""
	})
	swapped = other.a
	node.Reopen(router)
	other.traffic(4000)
	l.active = other.a
	l.eventually("the same connections", func() string {
		want, have := other.listing(other.a), l.listing(l.b)
		if fmt.Sprint(want) != fmt.Sprint(have) || len(have) == 0 {
			return fmt.Sprintf("have %v, want %v", have, want)
		}
		return ""
	})
}

func TestANamespaceMayBeDeletedOnceTheRouterIsGone(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	l.nodeA.Set(router, replica.Assignment{})
	l.nodeB.Set(router, replica.Assignment{})
	if s := l.nodeA.Stats(); s.Active+s.Standby+s.Sources != 0 {
		t.Errorf("left: %+v", s)
	}
	for _, ns := range []string{l.a, l.b} {
		if err := l.ns.Delete(t.Context(), ns); err != nil {
			t.Error(err)
		}
	}
	// With its namespace a veth goes, and its other end with it: a socket would have kept them.
	l.eventually("the router's links go", func() string {
		out := l.output("ip", "-n", l.sw, "-br", "link")
		if strings.Contains(out, "qr-") || strings.Contains(out, "qg-") {
			return out
		}
		return ""
	})
	l.eventually("the connections between the nodes end", func() string {
		if s := l.nodeA.Stats(); s.Links != 0 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}

func TestFlushSaysWhichPeerIsBehind(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	l.nodeB.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.nodeA.Flush(ctx, router); !errors.Is(err, replica.ErrBehind) || !strings.Contains(err.Error(), "node b") {
		t.Errorf("flush: %v", err)
	}
	if err := l.nodeA.Flush(ctx, router, "c"); err != nil {
		t.Errorf("flush to none: %v", err)
	}
	if err := l.nodeA.Flush(ctx, "no-router"); err == nil {
		t.Error("flushed a router that is not there")
	}
}

// An agent of a pool holds hundreds of routers ready. Measured: see the log.
func TestAnIdleStandbyCostsLittleMemory(t *testing.T) {
	const routers = 500
	l := newLab(t)
	l.start()
	l.synced()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before, goroutines := heap(), runtime.NumGoroutine()
	for i := range routers {
		id := fmt.Sprintf("idle-%d", i)
		l.nodeB.Set(id, replica.Assignment{Role: replica.Standby, Namespace: l.b, Epoch: 1, Peers: map[string]string{"a": l.nodeA.Addr().String()}})
		l.nodeA.Set(id, replica.Assignment{Role: replica.Active, Namespace: l.a, Epoch: 1, Peers: map[string]string{"b": l.nodeB.Addr().String()}})
	}
	l.eventually("all are synced", func() string {
		if s := l.nodeB.Stats(); s.Synced != routers+1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	per := float64(int64(heap())-int64(before)) / routers
	t.Logf("%.1f kB of heap and stacks per router, both nodes together; %d goroutines more for %d routers",
		per/1024, runtime.NumGoroutine()-goroutines, routers)
	if per > 1<<20 {
		t.Errorf("%.0f bytes per router", per)
	}
	if n := runtime.NumGoroutine() - goroutines; n > routers+10 {
		t.Errorf("%d goroutines more", n)
	}
}

// How fast everything of a busy router reaches a standby, and what it costs there: see the log.
func TestAFullSetOfManyConnectionsArrivesWhole(t *testing.T) {
	l := newLab(t)
	const n = 30000
	for range n / 3000 {
		l.many(3000)
	}
	have := l.count(l.a)
	l.start()
	began := time.Now()
	l.synced()
	took := time.Since(began)
	s := l.nodeB.Stats()
	t.Logf("%d connections in %v; %.1f µs of the standby each, %.1f bytes on the wire",
		have, took.Round(time.Millisecond), float64(s.ApplyNanoseconds)/1000/float64(have), float64(l.nodeA.Stats().SentBytes)/float64(have))
	if got := l.count(l.b); got != have || have < n*9/10 {
		t.Errorf("%d of %d", got, have)
	}
}

func (l *lab) count(ns string) int {
	l.t.Helper()
	n := 0
	if err := l.ns.Run(ns, func() error {
		table, err := conntrack.Open()
		if err != nil {
			return err
		}
		defer table.Close()
		n, err = table.Count()
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// How long after a connection was made a flush has it on the standby: what a hand-over waits for while nothing passes.
func TestAFlushTakesMilliseconds(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	var worst, sum time.Duration
	const rounds = 50
	for range rounds {
		l.many(20)
		began := time.Now()
		l.flush(l.nodeA)
		took := time.Since(began)
		worst, sum = max(worst, took), sum+took
		if want, got := l.count(l.a), l.count(l.b); got != want {
			t.Fatalf("%d of %d", got, want)
		}
	}
	t.Logf("mean %v, worst %v of %d", (sum / rounds).Round(time.Microsecond), worst.Round(time.Microsecond), rounds)
}
