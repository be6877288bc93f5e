package replica_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/peer"
	"github.com/weft-sdn/weft/agent/replica"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
)

// hello is the first frame of a peer, as the format has it.
func hello(node string) []byte {
	return frame(1, append(append([]byte{1, byte(len(node))}, node...), 1, 'b')...)
}

func frame(kind byte, body ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(b, kind), body...)
}

// dial makes a connection of a fleet's.
func dial(t *testing.T, address net.Addr, config *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := net.Dial("tcp4", address.String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, config)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { raw.Close() })
	return c
}

// refused reports whether the other end closes the connection when it gets what is given.
func refused(c *tls.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return nil //nolint:nilerr // that is what is wanted
	}
	rest, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("still open, and answered %x", rest)
	}
	return nil
}

// credentials are the certificates of nodes of one fleet.
func credentials(t *testing.T, nodes ...string) map[string]peer.Certificates {
	t.Helper()
	authority, err := pki.Init(filepath.Join(t.TempDir(), "pki"), pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]peer.Certificates{}
	for _, node := range nodes {
		folder, err := authority.Issue(pki.Request{Identity: identity.Identity{Role: identity.Node, Name: node}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := identity.Load(folder)
		if err != nil {
			t.Fatal(err)
		}
		out[node] = peer.Certificates{Credential: c}
	}
	return out
}

func TestANodesCertificateSpeaksForThatNodeAlone(t *testing.T) {
	l := newLab(t)
	nodes := credentials(t, "a", "b", "c")
	l.optionsA.Trust, l.optionsB.Trust = nodes["a"], nodes["b"]
	l.start()
	l.traffic(4000)
	l.synced()
	l.alike()
	had := fmt.Sprint(l.listing(l.b))
	end := binary.BigEndian.AppendUint64(append([]byte{byte(len(router))}, router...), 9)
	everything := append(append(hello("a"), frame(3, end...)...), frame(4, end...)...) // begin and end: nothing is left
	if err := refused(dial(t, l.nodeB.Addr(), nodes["c"].Client("b")), everything); err != nil {
		t.Errorf("node c says that it is a: %v", err)
	}
	strangers := credentials(t, "a")
	foreign := strangers["a"].Client("b")
	foreign.InsecureSkipVerify = true // it would talk to anybody
	if err := refused(dial(t, l.nodeB.Addr(), foreign), everything); err != nil {
		t.Errorf("node a of another fleet: %v", err)
	}
	l.eventually("both are counted", func() string {
		if n := l.nodeB.Stats().Rejected; n != 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if have := fmt.Sprint(l.listing(l.b)); have != had {
		t.Errorf("the entries of b have changed:\n%s\nbefore:\n%s", have, had)
	}
	// The other way round: what dials b gets to c.
	c := l.optionsB
	c.Node, c.Trust, c.Enter = "b", nodes["c"], l.ns.Run
	impostor, err := replica.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(impostor.Close)
	conn := dial(t, impostor.Addr(), nodes["a"].Client("b"))
	if err := conn.Handshake(); err == nil {
		t.Error("node a took c for b")
	}
}

func TestAPeerWithoutTheKeyChangesNothing(t *testing.T) {
	l := newLab(t)
	l.start()
	l.traffic(4000)
	l.synced()
	l.alike()
	had := fmt.Sprint(l.listing(l.b))
	other := keyring(t, 'x').TLS()
	other.VerifyConnection = nil // it would talk to anybody
	end := append([]byte{byte(len(router))}, router...)
	end = binary.BigEndian.AppendUint64(end, 9)
	all := append(append(hello("a"), frame(3, end...)...), frame(4, end...)...) // begin and end: nothing is left
	for name, config := range map[string]*tls.Config{"of another fleet": other, "without a certificate": {InsecureSkipVerify: true}} {
		if err := refused(dial(t, l.nodeB.Addr(), config), all); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw, err := net.Dial("tcp4", l.nodeB.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write(all); err != nil {
		t.Fatal(err)
	}
	l.eventually("all three are counted", func() string {
		if n := l.nodeB.Stats().Rejected; n != 3 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if have := fmt.Sprint(l.listing(l.b)); have != had {
		t.Errorf("it had %s and has %s", had, have)
	}
	if !l.nodeB.Synced(router) {
		t.Error("no longer synced")
	}
}

func TestAPeerThatIsNotOfTheRouterChangesNothing(t *testing.T) {
	l := newLab(t)
	l.start()
	l.traffic(4000)
	l.synced()
	l.alike()
	had := fmt.Sprint(l.listing(l.b))
	end := append([]byte{byte(len(router))}, router...)
	end = binary.BigEndian.AppendUint64(end, 9)
	c := dial(t, l.nodeB.Addr(), l.keys.TLS())
	if _, err := c.Write(append(append(hello("c"), frame(3, end...)...), frame(4, end...)...)); err != nil {
		t.Fatal(err)
	}
	l.eventually("it is counted", func() string {
		if n := l.nodeB.Stats().Stale; n < 2 {
			return fmt.Sprint(n)
		}
		return ""
	})
	if have := fmt.Sprint(l.listing(l.b)); have != had {
		t.Errorf("it had %s and has %s", had, have)
	}
}

func TestMalformedFramesEndTheConnectionAndNothingElse(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	for name, b := range map[string][]byte{
		"too long":               {0xff, 0xff, 0xff, 0xff, 2},
		"empty":                  {0, 0, 0, 0},
		"unknown":                frame(99),
		"an answer":              frame(8, 0, 0, 0, 0, 0, 0, 0, 1),
		"changes of no router":   frame(2),
		"half a change":          frame(2, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1, 1, 6, 10),
		"an unknown change":      frame(2, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1, 9),
		"a name beyond its end":  frame(3, 200, 'r'),
		"something after an end": frame(4, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1, 0),
		"half a neighbour":       frame(9, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1, 1, 'l', 10, 0, 0, 1, 2),
		"a group's MAC address":  frame(9, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1, 1, 'l', 10, 0, 0, 1, 1, 0, 0, 0, 0, 1),
	} {
		c := dial(t, l.nodeB.Addr(), l.keys.TLS())
		if err := refused(c, append(hello("c"), b...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"another version": frame(1, 2, 1, 'c', 1, 'b'), "its own name": hello("b"), "no name": frame(1, 1), "looking for another": frame(1, 1, 1, 'a', 1, 'c'), "no hello": frame(3, 1, 'r', 0, 0, 0, 0, 0, 0, 0, 1),
	} {
		if err := refused(dial(t, l.nodeB.Addr(), l.keys.TLS()), b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.traffic(4000)
	l.alike()
}

func TestANodeThatAnswersUnderAnotherNameGetsNothing(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	a := replica.Assignment{
		Namespace: l.a, Epoch: 1, Role: replica.Active,
		Peers: map[string]string{"b": l.nodeB.Addr().String(), "c": l.nodeB.Addr().String()},
	}
	l.nodeA.Set(router, a)
	l.eventually("it is tried", func() string {
		if n := l.nodeA.Stats().Reconnects; n < 2 {
			return "no"
		}
		return ""
	})
	if a, b := l.nodeA.Stats(), l.nodeB.Stats(); a.Links != 1 || b.Inbound != 1 || !l.nodeB.Synced(router) {
		t.Errorf("%+v, %+v", a, b)
	}
}
