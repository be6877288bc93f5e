package replica_test

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/replica"
)

// neighbours lists those that a namespace would send to without asking, as "link address MAC".
func (l *lab) neighbours(ns string) []string {
	l.t.Helper()
	var out []string
	for line := range strings.Lines(l.output("ip", "-4", "-n", ns, "neigh", "show")) {
		f := strings.Fields(line) // 10.0.0.10 dev qr-1 lladdr 02:00:00:00:00:0a extern_learn STALE
		if i := slices.Index(f, "lladdr"); i > 0 {
			out = append(out, fmt.Sprintf("%s %s %s", f[2], f[0], f[i+1]))
		}
	}
	slices.Sort(out)
	return out
}

// acquainted waits until the node that stands by knows the neighbours of the one that forwards, as many as there are to be.
func (l *lab) acquainted(count int) {
	l.t.Helper()
	l.eventually("the same neighbours", func() string {
		want, have := l.neighbours(l.active), l.neighbours(l.standby)
		if len(want) == count && slices.Equal(want, have) {
			return ""
		}
		return fmt.Sprintf("have %v, want %d: %v", have, count, want)
	})
}

func TestAStandbyKnowsTheNeighboursOfTheNodeThatForwards(t *testing.T) {
	l := newLab(t)
	l.connect(l.listen(l.out, outside+":4000"), l.in, vmB+":0", outside+":4000")
	l.start()
	l.acquainted(2) // with the full set
	l.connect(l.listen(l.out, outside+":5000"), l.in, vmC+":0", outside+":5000")
	l.acquainted(3) // a while after a connection
	for line := range strings.Lines(l.output("ip", "-4", "-n", l.standby, "neigh", "show")) {
		if !strings.Contains(line, "extern_learn") || !strings.Contains(line, "STALE") {
			t.Errorf("not put so that nobody is asked: %s", line)
		}
	}
	if n := l.nodeB.Stats().NeighboursPut; n != 3 {
		t.Errorf("%d put, want 3", n)
	}
}

func TestNeighboursThatAreKnownAreNotWrittenAgain(t *testing.T) {
	l := newLab(t)
	l.optionsA.Refresh, l.optionsB.Refresh = time.Second, time.Second
	l.connect(l.listen(l.out, outside+":4000"), l.in, vmB+":0", outside+":4000")
	l.start()
	l.acquainted(2)
	had, sets := l.nodeB.Stats(), l.nodeA.Stats().FullSets
	l.eventually("full sets again", func() string {
		if l.nodeA.Stats().FullSets < sets+3 {
			return "too few"
		}
		return ""
	})
	l.flush(l.nodeA) // what was sent has been done
	if now := l.nodeB.Stats(); now.NeighboursPut != had.NeighboursPut || now.NeighboursRemoved != had.NeighboursRemoved {
		t.Errorf("it wrote: %+v, before %+v", now, had)
	}
}

func TestANeighbourThatHasGoneOrHasAnotherMACAddressIsNotKeptAsItWas(t *testing.T) {
	l := newLab(t)
	l.optionsA.Refresh = time.Second
	out := l.listen(l.out, outside+":4000")
	l.connect(out, l.in, vmB+":0", outside+":4000")
	l.connect(out, l.in, vmC+":0", outside+":4000")
	l.start()
	l.acquainted(3)
	l.ip(l.active, "neigh", "del", vmC, "dev", "qr-1")
	l.ip(l.active, "neigh", "replace", vmB, "lladdr", "02:00:00:00:00:77", "dev", "qr-1", "nud", "stale")
	l.acquainted(2)
}

func TestNeighboursGetNeitherIntoANodeThatForwardsNorFromAPeerOfNoRouter(t *testing.T) {
	l := newLab(t)
	l.start()
	l.synced()
	l.nodeB.Set(router, replica.Assignment{
		Namespace: l.b, Epoch: 2, Role: replica.Active, Peers: map[string]string{"a": l.nodeA.Addr().String()},
	})
	body := append([]byte{byte(len(router))}, router...)
	body = append(binary.BigEndian.AppendUint64(body, 9), 4, 'q', 'r', '-', '1', 10, 0, 0, 99, 2, 0, 0, 0, 0, 99)
	had := l.nodeB.Stats().Stale
	for i, node := range []string{"a", "c"} {
		c := dial(t, l.nodeB.Addr(), l.keys.TLS())
		if _, err := c.Write(append(hello(node), frame(9, body...)...)); err != nil {
			t.Fatal(err)
		}
		l.eventually("it is counted", func() string {
			if n := l.nodeB.Stats().Stale; n <= had+uint64(i) {
				return fmt.Sprint(n)
			}
			return ""
		})
	}
	if have := l.neighbours(l.b); len(have) != 0 {
		t.Errorf("it took %v", have)
	}
}

// An agent of an earlier release wants no neighbours, and would end the connection if it got some.
func TestWhoDoesNotWantNeighboursGetsNone(t *testing.T) {
	l := newLab(t)
	l.connect(l.listen(l.out, outside+":4000"), l.in, vmB+":0", outside+":4000")
	lis, err := tls.Listen("tcp4", "127.0.0.1:0", l.keys.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	l.nodeA = l.replicator(l.optionsA)
	l.nodeA.Set(router, replica.Assignment{Namespace: l.a, Epoch: 1, Role: replica.Active, Peers: map[string]string{"b": lis.Addr().String()}})
	c, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	want := append([]byte{byte(len(router))}, router...)
	if _, err := c.Write(append(frame(1, 1, 1, 'b', 1, 'a'), frame(6, want...)...)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []byte{1, 3, 2, 4, 5} { // hello; begin, changes, end; and the mark of a connection that is idle
		if have := nextKind(t, c); have != kind {
			t.Fatalf("got a frame of kind %d, want %d", have, kind)
		}
	}
}

// nextKind reads a frame and returns its kind.
func nextKind(t *testing.T, c io.Reader) byte {
	t.Helper()
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-1); err != nil {
		t.Fatal(err)
	}
	return head[4]
}
