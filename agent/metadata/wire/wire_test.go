package wire_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// proxy is the other side, which does nothing but hold sockets.
type proxy struct {
	testing.TB
	path     string
	held     []held
	released chan struct{}
}

type held struct {
	wire.Listener
	file *os.File
}

func (p *proxy) Hello() wire.Hello   { return wire.Hello{Program: "1:2:3", Args: []string{"--ask=/x"}} }
func (p *proxy) Counts() wire.Counts { return wire.Counts{"200": 3} }
func (p *proxy) Released()           { close(p.released) }

func (p *proxy) List() []wire.Listener {
	var out []wire.Listener
	for _, h := range p.held {
		out = append(out, h.Listener)
	}
	return out
}

func (p *proxy) Listen(l wire.Listener, f *os.File) error {
	if l.Inode == 0 {
		return errors.Join(errors.New("in no namespace"), f.Close())
	}
	p.held = append(p.held, held{l, f})
	return nil
}

func (p *proxy) Shut(at wire.Place) {
	p.held = slices.DeleteFunc(p.held, func(h held) bool { return h.Place == at && p.closed(h) })
}

func (p *proxy) closed(h held) bool {
	if err := h.file.Close(); err != nil {
		p.Error(err)
	}
	return true
}

func (p *proxy) Release(give func(wire.Listener, syscall.Conn) error) error {
	for _, h := range p.held {
		if err := errors.Join(give(h.Listener, h.file), h.file.Close()); err != nil {
			return err
		}
	}
	p.held = nil
	return nil
}

// newProxy serves until the test ends.
func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{TB: t, path: filepath.Join(t.TempDir(), "control"), released: make(chan struct{})}
	socket, err := wire.Bind(p.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- wire.Serve(ctx, socket, p) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, h := range p.held {
			p.closed(h)
		}
	})
	return p
}

// dial waits until the proxy listens.
func (p *proxy) dial() *wire.Client {
	p.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := wire.Dial(context.Background(), p.path)
		if err == nil {
			p.Cleanup(func() { _ = c.Close() })
			return c
		}
		if !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(deadline) {
			p.Fatal(err)
		}
	}
}

// tcp is a listening socket, closed when the test ends, and where it listens.
func tcp(t *testing.T) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, netip.MustParseAddrPort(l.Addr().String())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheAgentIsToldWhatTheProxySays(t *testing.T) {
	c := newProxy(t).dial()
	said, err := c.Hello()
	must(t, err)
	if diff := cmp.Diff(wire.Hello{Program: "1:2:3", Args: []string{"--ask=/x"}}, said); diff != "" {
		t.Error(diff)
	}
	counts, err := c.Counts()
	must(t, err)
	if counts["200"] != 3 {
		t.Errorf("counts: %v", counts)
	}
	if none, err := c.List(); err != nil || len(none) > 0 {
		t.Errorf("listens at %v, %v", none, err)
	}
	if c.PID() != os.Getpid() {
		t.Errorf("the proxy is process %d, this one %d", c.PID(), os.Getpid())
	}
}

// A connection that waits to be accepted waits for whoever gets the socket next.
func TestSocketsGoThereAndComeBack(t *testing.T) {
	p := newProxy(t)
	c := p.dial()
	var want []wire.Listener
	for i, at := range []wire.Place{{Router: "r1"}, {Network: "n1"}, {Network: "n2"}} {
		l, address := tcp(t)
		want = append(want, wire.Listener{Place: at, Inode: uint64(i + 1), Address: address})
		must(t, c.Listen(want[i], l))
		must(t, l.Close())
	}
	must(t, c.Shut(wire.Place{Network: "n1"}))
	must(t, c.Shut(wire.Place{Network: "nowhere"}))
	want = slices.Delete(want, 1, 2)
	if got, err := p.dial().List(); err != nil || cmp.Diff(want, got, cmp.Comparer(sameAddress)) != "" { // to a later agent
		t.Errorf("listens at %v, %v; want %v", got, err, want)
	}
	guest, err := net.Dial("tcp4", want[0].Address.String())
	must(t, err)
	defer guest.Close() //nolint:errcheck // nothing is written
	back, err := c.Release()
	must(t, err)
	<-p.released
	for i, h := range back {
		if i >= len(want) || h.Listener != want[i] {
			t.Errorf("back came %v, want %v", back, want)
		}
		l, err := net.FileListener(h.File)
		must(t, errors.Join(err, h.File.Close()))
		if i == 0 {
			accepted, err := l.Accept()
			must(t, err)
			must(t, accepted.Close())
		}
		must(t, l.Close())
	}
	if len(back) != len(want) {
		t.Errorf("%d sockets came back, want %d", len(back), len(want))
	}
}

func sameAddress(a, b netip.AddrPort) bool { return a == b }

func TestWhatTheProxyRefusesIsAnErrorAndTheConnectionGoesOn(t *testing.T) {
	c := newProxy(t).dial()
	l, address := tcp(t)
	if err := c.Listen(wire.Listener{Place: wire.Place{Router: "r1"}, Address: address}, l); err == nil || !strings.Contains(err.Error(), "in no namespace") {
		t.Errorf("listening: %v", err)
	}
	if _, err := c.Hello(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// say sends packets over a connection of its own, with a file beside each if there is one, and returns the last answer, "" if
// the proxy hangs up.
func (p *proxy) say(file *os.File, packets ...string) string {
	p.Helper()
	p.dial() // it listens
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: p.path, Net: "unixpacket"})
	if err != nil {
		p.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // whatever was said has been
	answer := make([]byte, 4096)
	var n int
	for _, packet := range packets {
		var rights []byte
		if file != nil {
			rights = unix.UnixRights(int(file.Fd())) //nolint:gosec // a descriptor
		}
		if _, _, err := conn.WriteMsgUnix([]byte(packet), rights, nil); err != nil {
			p.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			p.Fatal(err)
		}
		n, err = conn.Read(answer)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			p.Fatal(err)
		}
	}
	return string(answer[:n])
}

func TestNonsenseEndsItsOwnConnectionAlone(t *testing.T) {
	p := newProxy(t)
	c := p.dial()
	read, write, err := os.Pipe()
	must(t, err)
	defer read.Close() //nolint:errcheck // it is closed for the end of the pipe to be seen
	for name, s := range map[string]struct {
		file   *os.File
		packet string
		answer string // part of it; "": it hangs up
	}{
		"no JSON":                      {nil, "{", ""},
		"too long":                     {nil, `{"do":"` + strings.Repeat("x", 80<<10) + `"}`, ""},
		"an unknown verb":              {nil, `{"do":"weft"}`, "nothing that can be done"},
		"no socket":                    {nil, `{"do":"listen","listener":{"router":"r1","inode":1,"address":"127.0.0.1:80"}}`, "no socket came"},
		"a file that nobody asked for": {write, `{"do":"hello"}`, "nobody asked for"},
	} {
		if got := p.say(s.file, s.packet); !strings.Contains(got, s.answer) || s.answer == "" && got != "" {
			t.Errorf("%s: answered %q", name, got)
		}
		if _, err := c.Hello(); err != nil {
			t.Errorf("%s: another connection: %v", name, err)
		}
	}
	must(t, write.Close())
	must(t, read.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a file that came with nonsense is still open: %v", err)
	}
}

func TestTheSocketIsForRootAloneAndTakesNoPath(t *testing.T) {
	p := newProxy(t)
	info, err := os.Stat(p.path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	if f, err := wire.Bind(p.path); err == nil {
		t.Errorf("a second one: %v", f.Close())
	}
}
