package talk

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func here(fn func() error) error { return fn() }

func serve(t *testing.T) *Server {
	t.Helper()
	s, err := Serve(here, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestBothKindsKeepHearingUntilTheyAreStopped(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := serve(t)
	defer s.Close()
	for _, kind := range []Kind{Echo, Download} {
		c, err := Start(context.Background(), here, s.Addr(), kind)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "something is heard", func() bool { return c.Snapshot().Octets > 1000 })
		if got := c.Stop(); got.Err != nil || got.LargestGap == 0 {
			t.Errorf("%c: %v", kind, got)
		}
	}
}

func TestATalkWhoseServerGoesSaysSo(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := serve(t)
	c, err := Start(context.Background(), here, s.Addr(), Download)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	await(t, "the end is known", func() bool { return c.Snapshot().Err != nil })
	if c.Alive(time.Hour) == nil {
		t.Error("it is said to be alive")
	}
	c.Stop()
}

// TestSilenceIsAccountedFor has a server that says one word and then nothing.
func TestSilenceIsAccountedFor(t *testing.T) {
	defer goleak.VerifyNone(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{0}); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	c, err := Start(context.Background(), here, l.Addr().(*net.TCPAddr).AddrPort(), Echo)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "50 ms are over", func() bool { return c.Snapshot().Silence > 50*time.Millisecond })
	got := c.Stop()
	if got.Err != nil || got.Octets != 0 || got.Silence < 50*time.Millisecond || got.LargestGap < got.Silence {
		t.Errorf("%v; want a silence of more than 50ms", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

func TestNobodyThereIsAnError(t *testing.T) {
	s := serve(t)
	s.Close()
	if _, err := Start(context.Background(), here, s.Addr(), Echo); err == nil {
		t.Fatal("a connection to a closed server was made")
	}
}
