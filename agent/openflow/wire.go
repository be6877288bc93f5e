package openflow

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is an OpenFlow wire version.
type Version uint8

// The versions spoken here: the first ones with bundles.
const (
	Version14 Version = 5
	Version15 Version = 6
)

// String is the version's name in OVSDB's Bridge.protocols.
func (v Version) String() string {
	if v >= 1 && v <= Version15 {
		return fmt.Sprintf("OpenFlow1%d", v-1)
	}
	return fmt.Sprintf("OpenFlow(wire version %d)", uint8(v))
}

// Message types, OpenFlow 1.4 section 7.1.1, enum ofp_type.
const (
	typeHello            = 0
	typeError            = 1
	typeEchoRequest      = 2
	typeEchoReply        = 3
	typeExperimenter     = 4
	typeSetConfig        = 9
	typeFlowMod          = 14
	typeMultipartRequest = 18
	typeMultipartReply   = 19
	typeBarrierRequest   = 20
	typeBarrierReply     = 21
	typeBundleControl    = 33
	typeBundleAdd        = 34
)

const headerLen = 8

// message is one OpenFlow message: struct ofp_header and what follows it.
type message struct {
	version Version
	kind    uint8
	xid     uint32
	body    []byte
}

var errTruncated = errors.New("the message ends too early")

// decodeHeader reads an ofp_header; length includes the header.
func decodeHeader(b []byte) (m message, length int, err error) {
	if len(b) < headerLen {
		return message{}, 0, errTruncated
	}
	length = int(binary.BigEndian.Uint16(b[2:]))
	if length < headerLen {
		return message{}, 0, fmt.Errorf("a message claims to be %d bytes long, less than its own header", length)
	}
	return message{version: Version(b[0]), kind: b[1], xid: binary.BigEndian.Uint32(b[4:])}, length, nil
}

// begin appends a header whose length end fills in.
func begin(b []byte, v Version, kind uint8, xid uint32) []byte {
	b = append(b, byte(v), kind, 0, 0)
	return binary.BigEndian.AppendUint32(b, xid)
}

// end sets the length of the message that begins at start.
func end(b []byte, start int) []byte {
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

// pad8 appends zeros until the part that begins at start is a multiple of 8 bytes long.
func pad8(b []byte, start int) []byte {
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

func zeros(b []byte, n int) []byte { return append(b, make([]byte, n)...) }

func be16(b []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(b, v) }
func be32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }
func be64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

// appendHello writes OFPT_HELLO with a version bitmap (OpenFlow 1.4 section 7.5.1, OFPHET_VERSIONBITMAP).
func appendHello(b []byte, versions []Version) []byte {
	start := len(b)
	var highest Version
	var bitmap uint32
	for _, v := range versions {
		highest = max(highest, v)
		bitmap |= 1 << v
	}
	b = be32(be16(be16(begin(b, highest, typeHello, 0), 1), 8), bitmap)
	return end(b, start)
}

// negotiate picks the version to speak from the peer's hello: the highest that both have.
func negotiate(m message, versions []Version) (Version, error) {
	theirs, err := helloVersions(m)
	if err != nil {
		return 0, err
	}
	var best Version
	for _, v := range versions {
		if v < 32 && theirs&(1<<v) != 0 {
			best = max(best, v)
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("the bridge speaks none of %v (its version bitmap is %#x): add one of them to its protocols column", versions, theirs)
	}
	return best, nil
}

// helloVersions is the bitmap of versions in a hello; a hello without one means "my header's version and all below".
func helloVersions(m message) (uint32, error) {
	for b := m.body; len(b) >= 4; {
		kind, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if length < 4 || length > len(b) {
			return 0, fmt.Errorf("hello: an element of %d bytes in %d", length, len(b))
		}
		if kind == 1 && length >= 8 {
			return binary.BigEndian.Uint32(b[4:]), nil
		}
		b = b[min((length+7)/8*8, len(b)):]
	}
	if m.version >= 31 {
		return 0, fmt.Errorf("hello: version %d", m.version)
	}
	return 1<<(m.version+1) - 1, nil
}
