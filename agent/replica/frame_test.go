package replica

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/neighbour"
)

func exampleNeighbour() neighbour.Entry {
	return neighbour.Entry{Link: "qr-1", Address: netip.MustParseAddr("10.0.0.10"), MAC: [6]byte{2, 0, 0, 0, 0, 10}}
}

func example() conntrack.Entry {
	return conntrack.Entry{
		Original: conntrack.Tuple{Protocol: conntrack.TCP, Source: [4]byte{10, 0, 0, 10}, Target: [4]byte{203, 0, 113, 1}, SourcePort: 4000, TargetPort: 80},
		Reply:    conntrack.Tuple{Protocol: conntrack.TCP, Source: [4]byte{203, 0, 113, 1}, Target: [4]byte{203, 0, 113, 5}, SourcePort: 80, TargetPort: 4001},
		Status:   conntrack.Replied | conntrack.Assured, State: conntrack.Established, Timeout: 432000,
	}
}

func TestFramesAreReadAsTheyWereWritten(t *testing.T) {
	e := example()
	changes := appendGone(appendPut(nil, &e), &e.Original)
	if len(changes) != putSize+goneSize || wholeChanges(changes[:len(changes)-1]) != putSize {
		t.Errorf("%d bytes", len(changes))
	}
	b := appendHello(nil, "net1", "net2")
	b = appendRouter(b, kindBegin, "r", 1, nil)
	b = appendRouter(b, kindChanges, "r", 1<<40, changes)
	b = appendRouter(b, kindEnd, "r", 1, nil)
	b = appendWant(appendWant(b, kindWant, "r"), kindUnwant, "r")
	b = appendNumber(appendNumber(b, kindMark, 1<<50), kindAck, 7)
	n := exampleNeighbour()
	b = appendRouter(b, kindNeighbours, "r", 5, appendNeighbour(appendNeighbour(nil, &n), &n))
	in := newReader(bytes.NewReader(b))
	for kind := byte(kindHello); kind <= kindNeighbours; kind++ {
		f, err := in.next()
		order := []byte{0, kindHello, kindBegin, kindChanges, kindEnd, kindWant, kindUnwant, kindMark, kindAck, kindNeighbours}
		if err != nil || f.kind != order[kind] {
			t.Fatalf("kind %d: %+v, %v", order[kind], f, err)
		}
		if f.kind == kindChanges && (f.epoch != 1<<40 || len(f.changes) != 2 || f.changes[0].Entry != e || !f.changes[1].Gone) {
			t.Errorf("changes %+v", f)
		}
		if f.kind == kindNeighbours && (f.epoch != 5 || len(f.neighbours) != 2 || f.neighbours[1] != n) {
			t.Errorf("neighbours %+v", f)
		}
	}
}

// Whatever a peer sends, what is read is within its bounds and is written the same way again.
func FuzzFrames(f *testing.F) {
	e := example()
	f.Add(appendHello(nil, "net1", "net2"))
	f.Add(appendRouter(nil, kindChanges, "r", 1, appendGone(appendPut(nil, &e), &e.Original)))
	f.Add(appendRouter(appendRouter(nil, kindBegin, "r", 1, nil), kindEnd, "r", 1, nil))
	f.Add(appendNumber(appendWant(nil, kindWant, "r"), kindMark, 1))
	n := exampleNeighbour()
	f.Add(appendRouter(nil, kindNeighbours, "r", 1, appendNeighbour(nil, &n)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newReader(bytes.NewReader(b))
		rest := b
		for {
			frame, err := in.next()
			if err != nil {
				return
			}
			again := write(&frame)
			if !bytes.HasPrefix(rest, again[:5]) || len(again) > len(rest) {
				t.Fatalf("%+v was written as %x, came from %x", frame, again, rest)
			}
			rest = rest[len(again):]
		}
	})
}

func write(f *frame) []byte {
	switch f.kind {
	case kindHello:
		return appendHello(nil, f.name, f.to)
	case kindWant, kindUnwant:
		return appendWant(nil, f.kind, f.name)
	case kindMark, kindAck:
		return appendNumber(nil, f.kind, f.number)
	default:
		var changes []byte
		for i := range f.changes {
			if c := &f.changes[i]; c.Gone {
				changes = appendGone(changes, &c.Original)
			} else {
				changes = appendPut(changes, &c.Entry)
			}
		}
		for i := range f.neighbours {
			changes = appendNeighbour(changes, &f.neighbours[i])
		}
		return appendRouter(nil, f.kind, f.name, f.epoch, changes)
	}
}
