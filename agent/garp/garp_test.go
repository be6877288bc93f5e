package garp_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/garp"
	"github.com/weft-sdn/weft/agent/netns"
)

var (
	mac  = net.HardwareAddr{0xfa, 0x16, 0x3e, 0, 0, 1}
	loud = net.HardwareAddr{0, 0, 0, 0, 0, 0}
	mark = net.HardwareAddr{0x02, 0, 0, 0, 0, 9}
	addr = netip.MustParseAddr("203.0.113.7")
)

// segment is two namespaces joined by a veth: qg-a speaks in one, qg-b listens in the other.
type segment struct {
	ns               *netns.Manager
	speaker, hearer  string
	hearerPacketSock int
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &segment{ns: m, speaker: "qrouter-" + uuid.NewString(), hearer: "qrouter-" + uuid.NewString()}
	for _, name := range []string{s.speaker, s.hearer} {
		if _, err := m.Prepare(context.Background(), desired.Namespace{Name: name}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Delete(context.Background(), name); err != nil {
				t.Errorf("clean up: %v", err)
			}
		})
	}
	s.ip(t, "-n", s.speaker, "link", "add", "qg-a", "address", mac.String(), "up", "type", "veth", "peer", "name", "qg-b", "netns", s.hearer)
	s.ip(t, "-n", s.hearer, "link", "set", "qg-b", "up")
	s.awaitUp(t)
	s.listen(t)
	return s
}

// awaitUp waits until the speaker's link is operational: the kernel drops what is sent before (operstates.rst).
func (s *segment) awaitUp(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		out, err := exec.Command("ip", "-n", s.speaker, "-o", "link", "show", "qg-a").CombinedOutput()
		if err == nil && bytes.Contains(out, []byte("state UP")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("qg-a does not come up: %v: %s", err, out)
		}
		<-time.After(time.Millisecond)
	}
}

func (s *segment) ip(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v: %s", argv, err, out)
	}
}

// listen opens a packet socket for ARP in the hearer's namespace.
func (s *segment) listen(t *testing.T) {
	t.Helper()
	const arp = 0x0608 // ETH_P_ARP in network byte order on a little-endian machine
	if err := s.ns.Run(s.hearer, func() (err error) {
		s.hearerPacketSock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, arp)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.hearerPacketSock) })
	timeout := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(s.hearerPacketSock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
}

func (s *segment) hear(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 2048)
	n, _, err := unix.Recvfrom(s.hearerPacketSock, b, 0)
	for errors.Is(err, unix.EINTR) { // a socket with a time limit is not restarted after a signal (signal(7))
		n, _, err = unix.Recvfrom(s.hearerPacketSock, b, 0)
	}
	if err != nil {
		t.Fatalf("hear: %v", err)
	}
	return b[:n]
}

func newAnnouncer(t *testing.T, o garp.Options) *garp.Announcer {
	t.Helper()
	o.Mark = mark
	a, err := garp.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestFramesAreThoseOfTheRFCs(t *testing.T) {
	head := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfa, 0x16, 0x3e, 0, 0, 1, 0x08, 0x06, // Ethernet: broadcast, ARP
		0, 1, 0x08, 0, 6, 4, // Ethernet, IPv4
	}
	sender := []byte{0xfa, 0x16, 0x3e, 0, 0, 1, 203, 0, 113, 7}
	target := garp.Target{Link: "qg-a", MAC: mac, Address: addr}
	for _, f := range []struct {
		what string
		got  []byte
		want [][]byte
	}{
		{"loud request", garp.Request(target, loud), [][]byte{head, {0, 1}, sender, {0, 0, 0, 0, 0, 0, 203, 0, 113, 7}}},
		{"quiet request", garp.Request(target, mark), [][]byte{head, {0, 1}, sender, {0x02, 0, 0, 0, 0, 9, 203, 0, 113, 7}}},
		{"reply", garp.Reply(target), [][]byte{head, {0, 2}, sender, sender}},
	} {
		if want := bytes.Join(f.want, nil); !bytes.Equal(f.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", f.what, f.got, want)
		}
	}
}

func TestEachAudienceHearsEveryRoundInItsForms(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newSegment(t)
	a := newAnnouncer(t, garp.Options{Enter: s.ns.Run, Rounds: []time.Duration{0, time.Millisecond, 2 * time.Millisecond}})
	target := garp.Target{Namespace: s.speaker, Link: "qg-a", MAC: mac, Address: addr}
	shout, whisper, reply := garp.Request(target, loud), garp.Request(target, mark), garp.Reply(target)
	for _, c := range []struct {
		audience garp.Audience
		want     [][]byte
	}{
		{garp.Everybody, [][]byte{shout, reply, whisper, reply, shout, reply}},
		{garp.Beyond, [][]byte{whisper, reply, whisper, reply, whisper, reply}},
		{garp.Switches, [][]byte{whisper, whisper, whisper}},
	} {
		target.Audience = c.audience
		if err := a.Announce(target); err != nil {
			t.Fatal(err)
		}
		for i, want := range c.want {
			if got := s.hear(t); !bytes.Equal(got, want) {
				t.Errorf("audience %d: frame %d is %x, want %x", c.audience, i, got, want)
			}
		}
	}
	a.Close()
}

func TestAnnounceDoesNotWaitAndIsBounded(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	a := newAnnouncer(t, garp.Options{
		Pending: 2,
		Enter: func(string, func() error) error {
			select {
			case entered <- struct{}{}:
			case <-release:
			}
			<-release
			return nil
		},
	})
	defer close(release)
	announce := func(ip string) error {
		return a.Announce(garp.Target{Namespace: "n", Link: "l", MAC: mac, Address: netip.MustParseAddr(ip)})
	}
	if err := announce("192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	<-entered // the sender is stuck from here on
	if err := announce("192.0.2.2"); err != nil {
		t.Fatal(err)
	}
	if err := announce("192.0.2.3"); !errors.Is(err, garp.ErrBusy) {
		t.Errorf("third: %v, want ErrBusy", err)
	}
	if err := announce("192.0.2.2"); err != nil { // replaces its own
		t.Errorf("again: %v", err)
	}
}

func TestALinkThatHasGoneEndsItsAnnouncementOnly(t *testing.T) {
	s := newSegment(t)
	a := newAnnouncer(t, garp.Options{Enter: s.ns.Run, Rounds: []time.Duration{0}, Pending: 1})
	gone := garp.Target{Namespace: s.speaker, Link: "qg-gone", MAC: mac, Address: addr}
	if err := a.Announce(gone); err != nil {
		t.Fatal(err)
	}
	good := garp.Target{Namespace: s.speaker, Link: "qg-a", MAC: mac, Address: addr}
	deadline := time.Now().Add(10 * time.Second)
	for err := a.Announce(good); err != nil; err = a.Announce(good) {
		if !errors.Is(err, garp.ErrBusy) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	if got := s.hear(t); !bytes.Equal(got, garp.Request(good, loud)) {
		t.Errorf("heard %x", got)
	}
}

func TestCloseMayBeCalledTwiceAndEndsAnnounce(t *testing.T) {
	a := newAnnouncer(t, garp.Options{Enter: func(string, func() error) error { return nil }})
	a.Close()
	a.Close()
	if err := a.Announce(garp.Target{MAC: mac, Address: addr}); !errors.Is(err, garp.ErrClosed) {
		t.Errorf("Announce after Close: %v", err)
	}
}

func TestWhatCannotBeAnnouncedIsRefused(t *testing.T) {
	a := newAnnouncer(t, garp.Options{Enter: func(string, func() error) error { return nil }})
	for _, bad := range []garp.Target{
		{MAC: mac}, {Address: addr}, {MAC: mac[:4], Address: addr}, {MAC: mac, Address: netip.MustParseAddr("2001:db8::1")},
	} {
		if err := a.Announce(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
