package e2e_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// echoServer answers every TCP connection to a port of a place with what it says.
func (f *fleet) echoServer(at lab.Space, port uint16) {
	f.t.Helper()
	var l net.Listener
	f.must(at.Do(func() (err error) {
		l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), port)))
		return err
	}))
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(func() {
		cancel()
		l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			serving.Go(func() {
				defer conn.Close()
				defer stop()
				_, _ = io.Copy(conn, conn) // ends with the connection, however that ends
			})
		}
	})
}

// talk is a TCP connection to an echo server.
type talk struct {
	f    *fleet
	conn net.Conn
}

// talkTo connects, trying again until it succeeds.
func (f *fleet) talkTo(from lab.Space, to netip.AddrPort) *talk {
	f.t.Helper()
	t := &talk{f: f}
	f.eventually(from.String()+" connects to "+to.String(), func(ctx context.Context) error {
		var conn net.Conn
		err := from.Do(func() (err error) {
			// A fallback would dial on another thread, outside of the place.
			dialer := net.Dialer{FallbackDelay: -1, Timeout: time.Second}
			conn, err = dialer.DialContext(ctx, "tcp4", to.String())
			return err
		})
		t.conn = conn
		return err
	})
	f.t.Cleanup(func() { t.conn.Close() })
	return t
}

// say sends a word and wants it back within a time.
func (t *talk) say(limit time.Duration) error {
	if err := t.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	word := []byte("still here")
	if _, err := t.conn.Write(word); err != nil {
		return err
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(t.conn, got); err != nil {
		return err
	}
	if string(got) != string(word) {
		return errors.New("got back " + string(got))
	}
	return nil
}

// alive wants the connection to carry a word and its echo.
func (t *talk) alive() {
	t.f.t.Helper()
	if err := t.say(patience); err != nil {
		t.f.t.Errorf("the connection from %s to %s is dead: %v", t.conn.LocalAddr(), t.conn.RemoteAddr(), err)
	}
}

// dead wants the connection to carry nothing any more.
func (t *talk) dead() {
	t.f.t.Helper()
	if err := t.say(time.Second); err == nil {
		t.f.t.Errorf("the connection from %s to %s still lives", t.conn.LocalAddr(), t.conn.RemoteAddr())
	} else if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
		t.f.t.Logf("the connection ended: %v", err)
	}
}

// datagrams sends UDP datagrams to an address at 1 kHz until stop is called: most of one flow, others each of their own.
func (f *fleet) datagrams(from lab.Space, to netip.AddrPort) (stop func()) {
	f.t.Helper()
	listen := func() (conn *net.UDPConn, err error) {
		return conn, errors.Join(from.Do(func() error { conn, err = net.ListenUDP("udp4", nil); return err }), err)
	}
	long, err := listen()
	f.must(err)
	ctx, cancel := context.WithCancel(f.t.Context())
	var sending sync.WaitGroup
	sending.Go(func() {
		defer long.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			_, _ = long.WriteToUDPAddrPort([]byte("long"), to) // there may be no way yet
			if i%10 == 0 {
				if short, err := listen(); err == nil {
					_, _ = short.WriteToUDPAddrPort([]byte("short"), to)
					short.Close()
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	once := sync.OnceFunc(func() {
		cancel()
		sending.Wait()
	})
	f.t.Cleanup(once)
	return once
}
