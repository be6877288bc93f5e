package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// hearing is a TCP connection of which the server speaks first: the client's silence lets no router learn it anew.
type hearing struct {
	what           string
	client, server *net.TCPConn
}

// listening accepts TCP connections at a port of a place and hands them over.
func (f *fleet) listening(at lab.Space, port uint16) <-chan *net.TCPConn {
	f.t.Helper()
	var l *net.TCPListener
	f.must(at.Do(func() (err error) {
		l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), port)))
		return err
	}))
	accepted, done := make(chan *net.TCPConn, 8), make(chan struct{})
	f.t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	return accepted
}

// hears connects from a port of a place's; 0 is any.
func (f *fleet) hears(what string, accepted <-chan *net.TCPConn, from lab.Space, port uint16, to netip.AddrPort) *hearing {
	f.t.Helper()
	h := &hearing{what: what}
	f.eventually(what, func(context.Context) error {
		return from.Do(func() error {
			conn, err := net.DialTCP("tcp4", &net.TCPAddr{Port: int(port)}, net.TCPAddrFromAddrPort(to))
			h.client = conn
			return err
		})
	})
	h.server = <-accepted
	f.t.Cleanup(func() { h.client.Close(); h.server.Close() })
	return h
}

// goesOn has the server say a word that the client hears, and the client one.
func (f *fleet) goesOn(when string, all ...*hearing) {
	f.t.Helper()
	for _, h := range all {
		for _, way := range [][2]*net.TCPConn{{h.server, h.client}, {h.client, h.server}} {
			deadline := time.Now().Add(patience)
			err := errors.Join(way[0].SetDeadline(deadline), way[1].SetDeadline(deadline))
			if err == nil {
				_, err = way[0].Write([]byte("word"))
			}
			if err == nil {
				_, err = io.ReadFull(way[1], make([]byte, 4))
			}
			if err != nil {
				f.t.Errorf("%s: %s: %v", when, h.what, err)
			}
		}
	}
}

// holds is the node that forwards for a router, once that is one of those named and the router has a standby that is ready.
func (f *fleet) holds(r *weftv1.Router, nodes ...string) string {
	f.t.Helper()
	holder := ""
	f.within(3*patience, "the router is held by one of "+fmt.Sprint(nodes), func(ctx context.Context) error {
		got, err := f.routers.GetRouter(ctx, &weftv1.GetRouterRequest{Id: r.GetId()})
		for _, n := range nodes {
			if got.GetActiveNode() == n {
				holder = n
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%s holds it: %v", got.GetActiveNode(), got.GetInstances()))
	})
	return holder
}

// replicated waits until the standby has the entries of so many TCP connections.
func (f *fleet) replicated(r *weftv1.Router, node string, n int) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s has %d TCP connections", node, n), func(ctx context.Context) error {
		out, err := f.host(node).Namespace("qrouter-"+r.GetId()).Exec(ctx, "sh", "-c", "conntrack -L -p tcp 2>/dev/null | grep -c ESTABLISHED || true")
		if err == nil && out != fmt.Sprintln(n) {
			err = fmt.Errorf("it has %q", out)
		}
		return err
	})
}

func TestConnectionsFollowTheirRouter(t *testing.T) {
	f := newFleet(t, "e2e-connections", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 2, 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a, b, c := f.guest("a", "cmp1", n), f.guest("b", "cmp1", n), f.guest("c", "cmp1", n)
	r := f.router("r", ext1, s)
	_, address := f.floatingIP(ext1, a)
	f.reach(b.Space, outside1)
	f.reach(out.Space, address)
	served, inside := f.listening(out.Space, 7010), f.listening(a.Space, 7011)
	to := netip.AddrPortFrom(outside1, 7010)
	all := []*hearing{
		f.hears("through SNAT", served, b.Space, 7100, to),
		f.hears("through SNAT, the port taken", served, c.Space, 7100, to), // only the router knows which it got instead
		f.hears("from a VM with a floating IP", served, a.Space, 0, to),
		f.hears("to a floating IP", inside, out.Space, 0, netip.AddrPortFrom(address, 7011)),
	}
	f.goesOn("at first", all...)
	first := f.holds(r, "net1", "net2")
	second := map[string]string{"net1": "net2", "net2": "net1"}[first]
	f.replicated(r, second, len(all))

	move := func(to string) {
		t.Helper()
		_, err := f.routers.MoveRouter(t.Context(), &weftv1.MoveRouterRequest{Id: r.GetId(), Node: to})
		f.must(err)
		f.holds(r, to)
		f.goesOn("moved to "+to, all...)
	}
	move(second)
	all = append(all, f.hears("made meanwhile", served, b.Space, 0, to))
	f.replicated(r, first, len(all))
	move(first)

	// Agents restart, and know the connections of before.
	for _, node := range []string{first, second} {
		f.must(f.host(node).Kill(t.Context(), lab.AgentDaemon))
		f.must(f.host(node).Start(t.Context(), lab.AgentDaemon))
		f.alive()
	}
	all = append(all, f.hears("made after a restart", served, c.Space, 0, to))
	f.replicated(r, second, len(all))
	f.must(f.host(first).PowerOff(t.Context()))
	f.holds(r, second)
	f.goesOn("after "+first+" lost power", all...)
}
