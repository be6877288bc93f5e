package mirror_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// gate is a TCP relay that a test can close: its connections break, and new ones are dropped until it is opened again.
type gate struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	closed bool
	conns  map[net.Conn]bool
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: l, target: target, conns: map[net.Conn]bool{}}
	g.wg.Go(g.accept)
	t.Cleanup(func() {
		l.Close()
		g.set(true)
		g.wg.Wait()
	})
	return g
}

func (g *gate) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		if g.keep(c) {
			g.wg.Go(func() { g.relay(c) })
		}
	}
}

// keep remembers a connection; it closes it instead when the gate is closed.
func (g *gate) keep(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		c.Close()
		return false
	}
	g.conns[c] = true
	return true
}

func (g *gate) relay(c net.Conn) {
	defer g.drop(c)
	g.mu.Lock()
	target := g.target
	g.mu.Unlock()
	out, err := net.Dial("tcp", target)
	if err != nil || !g.keep(out) {
		return
	}
	defer g.drop(out)
	g.wg.Go(func() {
		_, _ = io.Copy(out, c) // ends with the connection, broken or not
		out.Close()
		c.Close()
	})
	_, _ = io.Copy(c, out)
}

func (g *gate) drop(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.Close()
	delete(g.conns, c)
}

// set closes or opens the gate.
func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
	if closed {
		for c := range g.conns {
			c.Close()
		}
	}
}

// lead has later connections go to another server.
func (g *gate) lead(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.target = target
}
