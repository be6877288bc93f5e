package store

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// A member of etcd that is held or cut off keeps its connections open and answers nothing. gRPC notices after more than 10
// seconds (its keepalive pings come no closer, grpc-go keepalive.ClientParameters), and until then every third call of a
// client of three members hangs. So the connections are watched: when something has been sent and nothing has come back
// for patience, the member is asked on a new connection whether it speaks HTTP/2 at all, which takes it no leader and no
// peer; if it does not within answerTime, its connections are closed, calls on it fail at once and watches go on elsewhere.
const (
	patience   = time.Second
	answerTime = time.Second
)

// dialGuarded opens a connection for gRPC that closes itself when its other end has stopped answering.
func dialGuarded(ctx context.Context, address string) (net.Conn, error) {
	conn, err := dialRaw(ctx, address)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	return &guardedConn{Conn: conn, address: address, life: life, end: end}, nil
}

// dialRaw opens "host:port" or "unix:/path".
func dialRaw(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", address)
}

// guardedConn is a connection that is closed when nothing comes back.
type guardedConn struct {
	net.Conn
	address string
	life    context.Context //nolint:containedctx // the connection's own, ended by Close
	end     context.CancelFunc

	mu    sync.Mutex
	timer *time.Timer // set while something has been sent and nothing has come back
}

// Write sends, and begins to wait for an answer.
func (c *guardedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.timer == nil && c.life.Err() == nil {
		c.timer = time.AfterFunc(patience, c.ask)
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// Read receives; whatever comes is an answer.
func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.calm()
	}
	return n, err
}

// Close ends the connection and its watch.
func (c *guardedConn) Close() error {
	c.end()
	c.calm()
	return c.Conn.Close()
}

func (c *guardedConn) calm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}

// ask finds out whether the other end is there, and closes the connection if not.
func (c *guardedConn) ask() {
	c.mu.Lock()
	mine := c.timer
	c.mu.Unlock()
	if mine == nil {
		return
	}
	err := greet(c.life, c.address)
	c.mu.Lock()
	quiet := c.timer == mine
	c.timer = nil // what is sent from now on is waited for anew
	c.mu.Unlock()
	if err != nil && quiet {
		_ = c.Conn.Close() // gRPC sees the end of the connection; it closes it once more
	}
}

// greet opens a connection and waits for the first frame that any HTTP/2 server sends of its own accord: SETTINGS
// (RFC 9113, section 3.4).
func greet(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := dialRaw(ctx, address)
	if err != nil {
		return fmt.Errorf("greet %s: %w", address, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends what waits on it
	// The preface is a fixed text and a SETTINGS frame: length 0, type 4, no flags, stream 0.
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return fmt.Errorf("greet %s: %w", address, err)
	}
	frame := make([]byte, 9)
	_, err = io.ReadFull(conn, frame)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("greet %s: no answer in %s", address, answerTime)
	}
	// Anything else that is said is a sign of life, be it a TLS alert or the end of the connection.
	return nil
}
