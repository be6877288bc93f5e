// Package talk holds long-lived TCP connections and keeps account of their silences: whether a connection survives a
// fault, and how long it stood still. It works in any network namespace without starting a process there. It is a
// measuring tool, not a load generator: connections carry a hundred small messages a second.
package talk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Kind is who talks on a connection. Its value is the first octet that the client sends.
type Kind byte

const (
	// Echo has the client say a word every interval, which the server says back.
	Echo Kind = 'e'
	// Download has the server send a chunk every interval to a client that sends nothing but acknowledgements.
	Download Kind = 'd'
)

const (
	// interval is the distance of two messages, unless an option says otherwise.
	interval = 10 * time.Millisecond
	// wordSize is the size of an echoed message, chunkSize that of a downloaded one, in octets.
	wordSize, chunkSize = 64, 1000
)

// Enter runs a function inside a network namespace, such as lab.Space.Do.
type Enter func(func() error) error

// Server answers connections until it is closed.
type Server struct {
	listener net.Listener
	stop     context.CancelFunc
	serving  sync.WaitGroup
}

// Serve listens at an address inside a namespace.
func Serve(enter Enter, at netip.AddrPort) (*Server, error) {
	s := &Server{}
	err := enter(func() (err error) {
		s.listener, err = net.Listen("tcp4", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve at %v: %w", at, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.serving.Go(func() { s.accept(ctx) })
	return s, nil
}

// Close ends the server and its connections, and returns when all is over.
func (s *Server) Close() {
	s.stop()
	_ = s.listener.Close() // ends accept
	s.serving.Wait()
}

// Addr is where it listens.
func (s *Server) Addr() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort() //nolint:forcetypeassert // Serve made a TCP listener
}

func (s *Server) accept(ctx context.Context) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.serving.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			answer(ctx, conn)
		})
	}
}

// answer serves one connection as its first octet asks; it ends with the connection, however that ends.
func answer(ctx context.Context, conn net.Conn) {
	kind := make([]byte, 1)
	if _, err := io.ReadFull(conn, kind); err != nil {
		return
	}
	switch Kind(kind[0]) {
	case Echo:
		_, _ = io.Copy(conn, conn)
	case Download:
		_ = say(ctx, conn, chunkSize, interval)
	}
}

// say writes a message every interval until an error or the context's end.
func say(ctx context.Context, conn net.Conn, size int, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	message := make([]byte, size)
	for {
		if _, err := conn.Write(message); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Stats is the account of a connection.
type Stats struct {
	Octets     int           // received
	LargestGap time.Duration // longest time between two receptions, the silence until Stop included
	Silence    time.Duration // from the last reception to Stop
	Err        error         // what ended the connection before Stop
}

// String is a line for logs and failures.
func (s Stats) String() string {
	line := fmt.Sprintf("%d octets, largest gap %v, silent at the end for %v", s.Octets, s.LargestGap, s.Silence)
	if s.Err != nil {
		line += fmt.Sprintf(", ended by: %v", s.Err)
	}
	return line
}

// Talk is a client's connection under way. Its methods are safe for concurrent use.
type Talk struct {
	conn    net.Conn
	stop    context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	last  time.Time
	stats Stats
}

// dialTime bounds the making of a connection.
const dialTime = 10 * time.Second

// Start connects to a server from inside a namespace and returns when the first octet has come back. The talk ends at Stop
// or with the context.
func Start(ctx context.Context, enter Enter, to netip.AddrPort, kind Kind) (*Talk, error) {
	var conn net.Conn
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	err := enter(func() (err error) {
		// A fallback would dial on another thread, outside of the namespace.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(dialing, "tcp4", to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("talk to %v: %w", to, err)
	}
	ctx, stop := context.WithCancel(ctx)
	t := &Talk{conn: conn, stop: stop}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends reader and writer
	if err := t.begin(kind); err != nil {
		stop()
		return nil, fmt.Errorf("talk to %v: %w", to, err)
	}
	t.running.Go(func() { t.listen(ctx) })
	if kind == Echo {
		t.running.Go(func() { t.fail(ctx, say(ctx, conn, wordSize, interval)) })
	}
	return t, nil
}

// begin says what is wanted and waits for the first of it.
func (t *Talk) begin(kind Kind) error {
	if err := t.conn.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	hello := []byte{byte(kind)}
	if kind == Echo {
		hello = append(hello, 0)
	}
	if _, err := t.conn.Write(hello); err != nil {
		return err
	}
	if _, err := io.ReadFull(t.conn, make([]byte, 1)); err != nil {
		return err
	}
	t.last = time.Now()
	return t.conn.SetDeadline(time.Time{})
}

func (t *Talk) listen(ctx context.Context) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := t.conn.Read(buffer)
		if n > 0 {
			t.heard(n, time.Now())
		}
		if err != nil {
			t.fail(ctx, err)
			return
		}
	}
}

func (t *Talk) heard(n int, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.LargestGap = max(t.stats.LargestGap, now.Sub(t.last))
	t.last = now
	t.stats.Octets += n
}

// fail keeps the first error that Stop did not cause.
func (t *Talk) fail(ctx context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() == nil && t.stats.Err == nil && err != nil {
		t.stats.Err = err
	}
}

// Snapshot is the account so far.
func (t *Talk) Snapshot() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.stats
	out.Silence = time.Since(t.last)
	out.LargestGap = max(out.LargestGap, out.Silence)
	return out
}

// Alive is nil when the connection has been heard of within a time, and otherwise says how it is.
func (t *Talk) Alive(within time.Duration) error {
	now := t.Snapshot()
	if now.Err == nil && now.Silence <= within {
		return nil
	}
	return errors.Join(now.Err, fmt.Errorf("connection from %v to %v: %v", t.conn.LocalAddr(), t.conn.RemoteAddr(), now))
}

// Stop closes the connection and returns the account up to then. Idempotent, but for the silence at the end.
func (t *Talk) Stop() Stats {
	out := t.Snapshot()
	t.stop()
	t.running.Wait()
	return out
}
