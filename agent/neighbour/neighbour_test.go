package neighbour_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/neighbour"
	"github.com/weft-sdn/weft/agent/netns"
)

// lab is a namespace with a link qr-1, 10.0.0.1/24, whose other end is of nobody's.
type lab struct {
	t    *testing.T
	ns   *netns.Manager
	name string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes a network namespace")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t, m, "qrouter-" + uuid.NewString()}
	if _, err := m.Prepare(t.Context(), desired.Namespace{Name: l.name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Delete(context.Background(), l.name); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	l.ip("link", "add", "qr-1", "type", "veth", "peer", "name", "other")
	l.ip("link", "set", "other", "up")
	l.ip("link", "set", "qr-1", "up")
	l.ip("addr", "add", "10.0.0.1/24", "dev", "qr-1")
	return l
}

func (l *lab) ip(argv ...string) string {
	l.t.Helper()
	out, err := exec.Command("ip", append([]string{"-4", "-n", l.name}, argv...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("ip %v: %v: %s", argv, err, out)
	}
	return string(out)
}

func (l *lab) hold(want ...neighbour.Entry) (r neighbour.Result) {
	l.t.Helper()
	if err := l.ns.Run(l.name, func() (err error) {
		r, err = neighbour.Hold(want)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) list(limit int) (entries []neighbour.Entry, dropped int) {
	l.t.Helper()
	if err := l.ns.Run(l.name, func() (err error) {
		entries, dropped, err = neighbour.List(limit)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return entries, dropped
}

// is holds the neighbours against lines of `ip neigh`.
func (l *lab) is(want ...string) {
	l.t.Helper()
	var have []string
	for line := range strings.Lines(l.ip("neigh", "show", "dev", "qr-1")) {
		have = append(have, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		l.t.Errorf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// entry is 10.0.0.<host> at 02:00:00:00:00:<mac>.
func entry(host, mac byte) neighbour.Entry {
	return neighbour.Entry{Link: "qr-1", Address: netip.AddrFrom4([4]byte{10, 0, 0, host}), MAC: [6]byte{2, 0, 0, 0, 0, mac}}
}

func TestHoldPutsWhatIsMissingAndRemovesWhatItHasPut(t *testing.T) {
	l := newLab(t)
	if r := l.hold(entry(10, 0x10), entry(11, 0x11)); r != (neighbour.Result{Put: 2}) {
		t.Errorf("%+v", r)
	}
	l.is("10.0.0.10 lladdr 02:00:00:00:00:10 extern_learn STALE", "10.0.0.11 lladdr 02:00:00:00:00:11 extern_learn STALE")
	if r := l.hold(entry(11, 0x11), entry(10, 0x10)); r != (neighbour.Result{}) {
		t.Errorf("nothing to do, and it wrote: %+v", r)
	}
	if r := l.hold(entry(11, 0x99), entry(12, 0x12)); r != (neighbour.Result{Put: 2, Removed: 1}) {
		t.Errorf("%+v", r)
	}
	l.is("10.0.0.11 lladdr 02:00:00:00:00:99 extern_learn STALE", "10.0.0.12 lladdr 02:00:00:00:00:12 extern_learn STALE")
}

func TestHoldLeavesWhatIsInForceAndWhatIsNotItsOwn(t *testing.T) {
	l := newLab(t)
	l.ip("neigh", "add", "10.0.0.10", "lladdr", "02:00:00:00:00:aa", "dev", "qr-1", "nud", "reachable")
	l.ip("neigh", "add", "10.0.0.11", "lladdr", "02:00:00:00:00:ab", "dev", "qr-1", "nud", "permanent")
	l.ip("neigh", "add", "10.0.0.12", "lladdr", "02:00:00:00:00:ac", "dev", "qr-1", "nud", "stale")
	l.ip("neigh", "add", "10.0.0.13", "lladdr", "02:00:00:00:00:ad", "dev", "qr-1", "nud", "stale")
	if r := l.hold(entry(10, 0x10), entry(11, 0x11), entry(12, 0x12)); r != (neighbour.Result{Put: 1}) {
		t.Errorf("%+v", r)
	}
	l.is(
		"10.0.0.10 lladdr 02:00:00:00:00:aa REACHABLE", "10.0.0.11 lladdr 02:00:00:00:00:ab PERMANENT",
		"10.0.0.12 lladdr 02:00:00:00:00:12 extern_learn STALE", "10.0.0.13 lladdr 02:00:00:00:00:ad STALE",
	)
}

func TestHoldLeavesOutWhatCanNotBeHere(t *testing.T) {
	l := newLab(t)
	elsewhere, group, nobody := entry(10, 0x10), entry(11, 0x11), entry(12, 0x12)
	elsewhere.Link = "qr-2"
	group.MAC[0] |= 1
	nobody.Address = netip.IPv4Unspecified()
	if r := l.hold(elsewhere, group, nobody); r != (neighbour.Result{}) {
		t.Errorf("%+v", r)
	}
}

func TestListListsWhatHasBeenLearnedUpToTheLimit(t *testing.T) {
	l := newLab(t)
	l.hold(entry(10, 0x10))
	l.ip("neigh", "add", "10.0.0.11", "lladdr", "02:00:00:00:00:11", "dev", "qr-1", "nud", "reachable")
	l.ip("neigh", "add", "10.0.0.12", "lladdr", "02:00:00:00:00:12", "dev", "qr-1", "nud", "permanent")
	l.ip("neigh", "add", "10.0.0.13", "dev", "qr-1", "nud", "failed")
	want := []neighbour.Entry{entry(11, 0x11), entry(10, 0x10)} // the one that was confirmed last first
	if have, dropped := l.list(10); fmt.Sprint(have) != fmt.Sprint(want) || dropped != 0 {
		t.Errorf("%v, %d left out", have, dropped)
	}
	if have, dropped := l.list(1); fmt.Sprint(have) != fmt.Sprint(want[:1]) || dropped != 1 {
		t.Errorf("%v, %d left out", have, dropped)
	}
}
