package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/neighbour"
)

// A connection carries frames: 4 bytes length of what follows, 1 byte kind, body. Numbers are in network byte order. A
// name is 1 byte length and its text.
//
//	hello      both     version (1 byte), names of the node and of the one it means to talk to: the first frame each way
//	changes    sender   router (name), epoch (8), changes
//	begin      sender   router, epoch: the changes of this router that follow, up to end, are all there is
//	end        sender   router, epoch
//	neighbours sender   router, epoch, neighbours: all that it knows
//	mark       sender   number (8)
//	want       receiver router: send everything of it, and then what changes; or a feature
//	unwant     receiver router
//	ack        receiver number: what preceded the mark of that number has been done
//
// A kind that is not known ends the connection. What came to the format later is a feature, and is sent to those alone that
// want it by a name that no router has: who does not know the feature knows no such router, and takes no notice.
//
// A change is 1 byte what (1 put, 2 gone), 1 byte protocol, the original's source and target address (4 each) and ports (2
// each); of a put also the reply's, 1 byte status, 1 byte TCP state, 4 bytes timeout in seconds. A neighbour is the name of a
// link of the router's, which has it on every node, an address (4) and a MAC address (6).
const (
	kindHello = iota + 1
	kindChanges
	kindBegin
	kindEnd
	kindMark
	kindWant
	kindUnwant
	kindAck
	kindNeighbours
)

// featureNeighbours is wanted by those who take neighbours.
const featureNeighbours = "+neighbours"

// version is that of the format. A peer of another one is not talked to.
const version = 1

const (
	whatPut  = 1
	whatGone = 2

	putSize  = 2 + 12 + 12 + 6
	goneSize = 2 + 12
)

// maxFrame is the most bytes after a frame's length, maxChanges the most bytes of changes in one.
const (
	maxFrame   = 64 << 10
	maxChanges = maxFrame - 512
)

// statusBits are what is sent of a status, as they are in its lowest byte.
const statusBits = conntrack.Replied | conntrack.Assured

var errFrame = errors.New("malformed frame")

// frame is one that was received. What its fields mean depends on its kind; changes are valid until the next one is read.
type frame struct {
	kind    byte
	name    string // of a router, or of the node in a hello
	to      string // in a hello
	epoch   int64
	number  uint64
	changes []conntrack.Change
	// neighbours are the frame's own.
	neighbours []neighbour.Entry
}

// appendFrame appends a frame whose body fill appends.
func appendFrame(b []byte, kind byte, fill func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, kind)
	b = fill(b)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func appendName(b []byte, name string) []byte {
	return append(append(b, byte(len(name))), name...)
}

func appendHello(b []byte, node, to string) []byte {
	return appendFrame(b, kindHello, func(b []byte) []byte { return appendName(appendName(append(b, version), node), to) })
}

// appendRouter appends a frame about a router: begin, end, or changes with the changes themselves.
func appendRouter(b []byte, kind byte, router string, epoch int64, changes []byte) []byte {
	return appendFrame(b, kind, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint64(appendName(b, router), uint64(epoch))
		return append(b, changes...)
	})
}

func appendWant(b []byte, kind byte, router string) []byte {
	return appendFrame(b, kind, func(b []byte) []byte { return appendName(b, router) })
}

func appendNumber(b []byte, kind byte, number uint64) []byte {
	return appendFrame(b, kind, func(b []byte) []byte { return binary.BigEndian.AppendUint64(b, number) })
}

func appendTuple(b []byte, t *conntrack.Tuple) []byte {
	b = append(append(b, t.Source[:]...), t.Target[:]...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, t.SourcePort), t.TargetPort)
}

func appendPut(b []byte, e *conntrack.Entry) []byte {
	b = appendTuple(append(b, whatPut, e.Original.Protocol), &e.Original)
	b = append(appendTuple(b, &e.Reply), byte(e.Status&statusBits), e.State)
	return binary.BigEndian.AppendUint32(b, e.Timeout)
}

func appendGone(b []byte, original *conntrack.Tuple) []byte {
	return appendTuple(append(b, whatGone, original.Protocol), original)
}

func appendNeighbour(b []byte, e *neighbour.Entry) []byte {
	address := e.Address.As4()
	return append(append(appendName(b, e.Link), address[:]...), e.MAC[:]...)
}

// reader reads the frames of a connection into room that it uses again.
type reader struct {
	in      *bufio.Reader
	body    []byte
	changes []conntrack.Change
}

func newReader(in io.Reader) *reader { return &reader{in: bufio.NewReaderSize(in, 4096)} }

// next reads a frame. An error is the end of the connection.
func (r *reader) next() (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return frame{}, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	if cap(r.body) < int(n) {
		r.body = make([]byte, n)
	}
	body := r.body[:n-1]
	if _, err := io.ReadFull(r.in, body); err != nil {
		return frame{}, err
	}
	return r.parse(frame{kind: head[4]}, body)
}

func (r *reader) parse(f frame, b []byte) (frame, error) {
	var ok bool
	switch f.kind {
	case kindHello:
		if len(b) > 0 && b[0] != version {
			return f, fmt.Errorf("the peer speaks version %d, this node %d", b[0], version)
		}
		if f.name, b, ok = takeName(b[min(1, len(b)):]); ok {
			f.to, b, ok = takeName(b)
		}
	case kindWant, kindUnwant:
		f.name, b, ok = takeName(b)
	case kindMark, kindAck:
		f.number, b, ok = takeNumber(b)
	case kindBegin, kindEnd, kindChanges, kindNeighbours:
		var epoch uint64
		if f.name, b, ok = takeName(b); ok {
			epoch, b, ok = takeNumber(b)
			f.epoch = int64(epoch)
		}
		if ok && f.kind == kindChanges {
			ok = r.takeChanges(b)
			f.changes, b = r.changes, nil
		}
		if ok && f.kind == kindNeighbours {
			f.neighbours, ok = takeNeighbours(b)
			b = nil
		}
	}
	if !ok || len(b) > 0 {
		return f, fmt.Errorf("%w: kind %d", errFrame, f.kind)
	}
	return f, nil
}

func takeName(b []byte) (string, []byte, bool) {
	if len(b) < 1 || b[0] == 0 || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:], true
}

func takeNumber(b []byte) (uint64, []byte, bool) {
	if len(b) < 8 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint64(b), b[8:], true
}

func (r *reader) takeChanges(b []byte) bool {
	r.changes = r.changes[:0]
	for len(b) > 0 {
		var c conntrack.Change
		switch {
		case b[0] == whatPut && len(b) >= putSize:
			c.Original, c.Reply = takeTuple(b[1], b[2:]), takeTuple(b[1], b[14:])
			c.Status, c.State = conntrack.Status(b[26])&statusBits, b[27]
			c.Timeout = binary.BigEndian.Uint32(b[28:])
			b = b[putSize:]
		case b[0] == whatGone && len(b) >= goneSize:
			c.Original, c.Gone = takeTuple(b[1], b[2:]), true
			b = b[goneSize:]
		default:
			return false
		}
		r.changes = append(r.changes, c)
	}
	return true
}

func takeNeighbours(b []byte) ([]neighbour.Entry, bool) {
	var out []neighbour.Entry
	for len(b) > 0 {
		link, rest, ok := takeName(b)
		if !ok || len(rest) < 10 {
			return nil, false
		}
		e := neighbour.Entry{Link: link, Address: netip.AddrFrom4([4]byte(rest)), MAC: [6]byte(rest[4:])}
		if !e.Valid() {
			return nil, false
		}
		out, b = append(out, e), rest[10:]
	}
	return out, true
}

func takeTuple(protocol byte, b []byte) conntrack.Tuple {
	return conntrack.Tuple{
		Protocol: protocol, Source: [4]byte(b), Target: [4]byte(b[4:]),
		SourcePort: binary.BigEndian.Uint16(b[8:]), TargetPort: binary.BigEndian.Uint16(b[10:]),
	}
}
