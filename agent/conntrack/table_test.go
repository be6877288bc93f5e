package conntrack_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
)

// open opens the table and the events of the lab's router.
func (l *lab) open() (*conntrack.Table, *conntrack.Events) {
	l.t.Helper()
	var table *conntrack.Table
	var events *conntrack.Events
	if err := l.ns.Run(l.router, func() (err error) {
		if table, err = conntrack.Open(); err != nil {
			return err
		}
		events, err = conntrack.Listen()
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(table.Close)
	l.t.Cleanup(events.Close)
	return table, events
}

func (l *lab) entries(table *conntrack.Table) []conntrack.Entry {
	l.t.Helper()
	var out []conntrack.Entry
	if err := table.Each(func(e *conntrack.Entry) { out = append(out, *e) }); err != nil {
		l.t.Fatal(err)
	}
	return out
}

// listing is what conntrack(8) says of the router's connections, without what differs from one moment to the next.
func (l *lab) listing() []string {
	l.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", l.router, "conntrack", "-L").Output()
	if err != nil {
		l.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		f = slices.Delete(f, 2, 3) // the timeout
		lines = append(lines, strings.Join(f, " "))
	}
	slices.Sort(lines)
	return lines
}

// traffic makes connections of every kind through the router.
func (l *lab) traffic() {
	l.t.Helper()
	l.serve(l.inside, vmA)
	l.serve(l.outside, outside)
	l.ask(l.dial(l.outside, outside, floating))
	l.ask(l.dial(l.inside, vmA, outside))
	l.ask(l.dial(l.inside, vmB, outside))
	for _, from := range []string{vmA, vmB} {
		l.send(l.inside, from+":4000", outside+":53")
		l.must("ip", "netns", "exec", l.inside, "ping", "-c1", "-W5", "-I", from, outside)
	}
	l.must("ip", "netns", "exec", l.outside, "ping", "-c1", "-W5", floating)
}

func (l *lab) must(argv ...string) {
	l.t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// send sends one UDP packet that nobody answers.
func (l *lab) send(ns, from, to string) {
	l.t.Helper()
	if err := l.ns.Run(ns, func() error {
		local, err := net.ResolveUDPAddr("udp4", from)
		if err != nil {
			return err
		}
		remote, err := net.ResolveUDPAddr("udp4", to)
		if err != nil {
			return err
		}
		c, err := net.DialUDP("udp4", local, remote)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
}

func TestEntriesMadeFromWhatWasReadAreTheSameOnAnotherRouter(t *testing.T) {
	from, to := newLab(t), newLab(t)
	source, _ := from.open()
	target, _ := to.open()
	from.traffic()
	entries := from.entries(source)
	if n, err := source.Count(); n != len(entries) || n != 8 || err != nil {
		t.Fatalf("%d entries of %d, %v:\n%s", len(entries), n, err, strings.Join(from.listing(), "\n"))
	}
	var changes []conntrack.Change
	for _, e := range entries {
		changes = append(changes, conntrack.Change{Entry: e})
	}
	for i, want := range []conntrack.Result{{Made: 8}, {Changed: 8}} {
		if got, err := target.Apply(changes); got != want || err != nil {
			t.Errorf("round %d: %+v, %v", i, got, err)
		}
	}
	want, got := strings.Join(from.listing(), "\n"), strings.Join(to.listing(), "\n")
	if got != want {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
	for i := range changes {
		changes[i].Gone = true
	}
	for i, want := range []conntrack.Result{{Removed: 8}, {}} {
		if got, err := target.Apply(changes); got != want || err != nil {
			t.Errorf("removal %d: %+v, %v", i, got, err)
		}
	}
}

func TestAPortThatSNATChangedIsKept(t *testing.T) {
	from, to := newLab(t), newLab(t)
	source, _ := from.open()
	target, _ := to.open()
	from.associate("")
	for _, vm := range []string{vmA, vmB} {
		from.send(from.inside, vm+":5000", outside+":53") // both want port 5000 of the router
	}
	ports := map[uint16]bool{}
	for _, e := range from.entries(source) {
		ports[e.Reply.TargetPort] = true
		if r, err := target.Apply([]conntrack.Change{{Entry: e}}); r.Made != 1 || err != nil {
			t.Errorf("%v: %+v, %v", e, r, err)
		}
	}
	if len(ports) != 2 || !ports[5000] {
		t.Errorf("ports %v", ports)
	}
	if want, got := fmt.Sprint(from.listing()), fmt.Sprint(to.listing()); got != want {
		t.Errorf("have %s, want %s", got, want)
	}
}

func TestAnEntryWhosePlaceIsTakenIsRefusedAndNamed(t *testing.T) {
	l := newLab(t)
	table, _ := l.open()
	l.associate("")
	l.send(l.inside, vmA+":5000", outside+":53")
	e := l.entries(table)[0]
	e.Original.Source = [4]byte{10, 0, 0, 11} // another VM, but the same port of the router
	other := e
	other.Original.SourcePort, other.Reply.TargetPort = 6000, 6000
	r, err := table.Apply([]conntrack.Change{{Entry: e}, {Entry: other}})
	if err != nil || r.Refused != 1 || r.Made != 1 || r.Reason == nil || !strings.Contains(r.Reason.Error(), vmB+":5000") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestEventsTellOfConnectionsAsTheyComeAndGo(t *testing.T) {
	l := newLab(t)
	table, events := l.open()
	l.serve(l.outside, outside)
	f := l.dial(l.inside, vmB, outside)
	l.ask(f)
	now := map[conntrack.Tuple]conntrack.Entry{}
	take := func(e *conntrack.Event) {
		if e.Gone {
			delete(now, e.Original)
		} else {
			now[e.Original] = e.Entry
		}
	}
	var buf conntrack.Buffer
	if err := events.Drain(&buf, take); err != nil {
		t.Fatal(err)
	}
	have := l.entries(table)
	if len(have) != 1 || len(now) != 1 || !have[0].Lasting() {
		t.Fatalf("table %v, by events %v", have, now)
	}
	e := now[have[0].Original]
	if e.State != conntrack.Established || e.Reply != have[0].Reply || !e.Lasting() || e.Timeout < 1000 {
		t.Errorf("by events %+v", e)
	}
	if n := l.forget(vmB); n != 1 {
		t.Fatalf("forgot %d", n)
	}
	if err := events.Drain(&buf, take); err != nil || len(now) != 0 {
		t.Errorf("by events %v, %v", now, err)
	}
}

func TestAReaderOfEventsWaitsIsWokenAndEndedByClose(t *testing.T) {
	l := newLab(t)
	_, events := l.open()
	read := func() error {
		return events.Read(func() *conntrack.Buffer { return new(conntrack.Buffer) }, func(*conntrack.Buffer) {}, func(*conntrack.Event) {})
	}
	done := make(chan error)
	wait := func(want error) {
		t.Helper()
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("read: %v, want %v", err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("still reading")
		}
	}
	go func() { done <- read() }()
	events.Wake()
	wait(os.ErrDeadlineExceeded)
	events.Rest()
	go func() { done <- read() }()
	l.send(l.inside, vmB+":4000", outside+":53")
	wait(nil)
	go func() { done <- read() }()
	events.Close()
	wait(os.ErrClosed)
	events.Close()
}

func TestEventsThatComeTooFastAreSaidToBeLost(t *testing.T) {
	l := newLab(t)
	_, events := l.open()
	var buf conntrack.Buffer
	deadline := time.Now().Add(60 * time.Second)
	for !time.Now().After(deadline) {
		l.fill(20000)
		l.forget("127.0.0.1")
		if err := events.Drain(&buf, func(*conntrack.Event) {}); errors.Is(err, conntrack.ErrLost) {
			return
		}
	}
	t.Error("40,000 events fit")
}

func TestATableKeepsItsNamespace(t *testing.T) {
	l := newLab(t)
	table, _ := l.open()
	var here string
	if err := l.ns.Run(l.router, func() (err error) { here, err = conntrack.Here(); return err }); err != nil {
		t.Fatal(err)
	}
	if outer, err := conntrack.Here(); err != nil || outer == here || here == "" {
		t.Errorf("namespaces %q and %q, %v", here, outer, err)
	}
	table.Close()
	if _, err := table.Count(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
