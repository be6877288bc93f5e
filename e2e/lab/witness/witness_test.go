package witness

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// wires is a namespace with ports p1 and p2, whose other ends h1 and h2 frames are sent from.
func wires(t *testing.T) Enter {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	away, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { away.Close() })
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(err) // the thread must not run others here
		}
	}()
	for _, n := range []string{"1", "2"} {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p" + n}, PeerName: "h" + n}
		if err := netlink.LinkAdd(veth); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"p" + n, "h" + n} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetUp(link); err != nil {
				t.Fatal(err)
			}
		}
	}
	return func(fn func() error) error {
		result := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := netns.Set(away); err != nil {
				result <- err
				return
			}
			result <- fn()
		}()
		return <-result
	}
}

// send sends a frame from a device.
func send(t *testing.T, enter Enter, device string, frame []byte) {
	t.Helper()
	if err := enter(func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}); err != nil {
		t.Fatal(err)
	}
}

var (
	router = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	asker  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// arp is an ARP message of an operation from the router's address 10.0.0.1, with VLAN tags before it.
func arp(operation byte, tags ...byte) []byte {
	out := slices.Concat(asker, router)
	for _, tag := range tags {
		out = append(out, 0x81, 0, 0, tag)
	}
	out = append(out, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation)
	out = append(out, slices.Concat(router, []byte{10, 0, 0, 1}, asker, []byte{10, 0, 0, 2})...)
	return append(out, make([]byte, 18)...)
}

func start(t *testing.T, enter Enter) *Witness {
	t.Helper()
	w, err := Start(enter, "p1", "p2")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func stop(t *testing.T, w *Witness) Record {
	t.Helper()
	record, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return record
}

func TestARouterThatMovesOnceHasTwoSpellsAndNoOverlap(t *testing.T) {
	enter := wires(t)
	w := start(t, enter)
	before := time.Now()
	for range 3 {
		send(t, enter, "h1", arp(1))
	}
	send(t, enter, "h2", arp(1))
	spells := stop(t, w).Spells[router.String()]
	if len(spells) != 2 || spells[0].Port != "p1" || spells[0].Frames != 3 || spells[1].Port != "p2" || spells[1].Frames != 1 {
		t.Fatalf("spells %+v; want 3 frames from p1, then 1 from p2", spells)
	}
	if spells[0].First.Before(before.Add(-time.Second)) || spells[1].First.Before(spells[0].Last) || time.Since(spells[1].Last) > time.Minute {
		t.Errorf("spells %+v: their times are not those of the frames", spells)
	}
	if got := (Record{Spells: map[string][]Spell{router.String(): spells}}).Overlaps(router.String()); got != "" {
		t.Errorf("overlap: %s", got)
	}
}

func TestTwoThatSpeakAtATimeAreAnOverlap(t *testing.T) {
	enter := wires(t)
	w := start(t, enter)
	for _, from := range []string{"h1", "h2", "h1"} {
		send(t, enter, from, arp(1))
	}
	record := stop(t, w)
	if got := record.Overlaps(router.String()); !strings.Contains(got, "from p1 again") {
		t.Errorf("overlap: %q; want p1 again", got)
	}
	if got := record.Overlaps(asker.String()); got != "" {
		t.Errorf("overlap of one that said nothing: %q", got)
	}
}

func TestAnswersAreARPRepliesTaggedOrNot(t *testing.T) {
	enter := wires(t)
	w := start(t, enter)
	send(t, enter, "h1", arp(1))
	send(t, enter, "h1", arp(2))
	send(t, enter, "h2", arp(2, 7))
	answers := stop(t, w).Answers
	want := netip.MustParseAddr("10.0.0.1")
	if len(answers) != 2 || answers[0].Port != "p1" || answers[1].Port != "p2" || answers[0].Address != want || answers[1].Address != want {
		t.Errorf("answers %+v; want one from p1 and one from p2 for %v", answers, want)
	}
}

func TestWhatIsSentOutOfAPortIsNotItsStations(t *testing.T) {
	enter := wires(t)
	w := start(t, enter)
	send(t, enter, "p1", arp(1))
	if spells := stop(t, w).Spells[router.String()]; len(spells) != 0 {
		t.Errorf("spells %+v; want none", spells)
	}
}

func TestADeviceThatIsMissingIsAnError(t *testing.T) {
	if _, err := Start(wires(t), "nobody"); err == nil {
		t.Fatal("a missing device was watched")
	}
}
