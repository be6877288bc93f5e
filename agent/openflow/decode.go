package openflow

import (
	"encoding/binary"
	"fmt"

	"github.com/weft-sdn/weft/agent/flow"
)

// Multipart types and flags, OpenFlow 1.4 section 7.3.5; in 1.5 type 1 is OFPMP_FLOW_DESC, with other entries.
const (
	multipartFlow = 1
	multipartMore = 1
)

// Entry is one flow as the bridge reports it.
type Entry struct {
	Table    uint8
	Priority uint16
	Cookie   uint64
	Packets  uint64 // 0 in OpenFlow 1.5 if the bridge sends no packet count
	match    []byte // the OXM fields as the bridge wrote them, without padding
	// instructions are as the bridge wrote them.
	instructions []byte
}

// Owned says whether the flow is weft's.
func (e Entry) Owned() bool { return flow.Owned(e.Cookie) }

// appendFlowRequest writes a multipart request for the flows whose cookie matches under mask, of all tables.
func appendFlowRequest(b []byte, v Version, xid uint32, cookie, mask uint64) []byte {
	start := len(b)
	b = begin(b, v, typeMultipartRequest, xid)
	b = zeros(be16(b, multipartFlow), 6)
	b = append(b, 0xff, 0, 0, 0) // OFPTT_ALL
	b = zeros(be32(be32(b, anyPort), anyPort), 4)
	b = appendRawMatch(be64(be64(b, cookie), mask), nil)
	return end(b, start)
}

// decodeFlowReply reads one part of a multipart flow reply; more says that another follows.
func decodeFlowReply(v Version, body []byte) (entries []Entry, more bool, err error) {
	if len(body) < 8 {
		return nil, false, errTruncated
	}
	if kind := binary.BigEndian.Uint16(body); kind != multipartFlow {
		return nil, false, fmt.Errorf("multipart reply of type %d to a flow request", kind)
	}
	more = binary.BigEndian.Uint16(body[2:])&multipartMore != 0
	for b := body[8:]; len(b) > 0; {
		if len(b) < 2 {
			return nil, false, errTruncated
		}
		length := int(binary.BigEndian.Uint16(b))
		if length < 8 || length > len(b) {
			return nil, false, fmt.Errorf("flow entry of %d bytes in %d", length, len(b))
		}
		e, err := decodeEntry(v, b[:length])
		if err != nil {
			return nil, false, err
		}
		entries = append(entries, e)
		b = b[length:]
	}
	return entries, more, nil
}

func decodeEntry(v Version, b []byte) (Entry, error) {
	if v == Version15 {
		return decodeFlowDesc(b)
	}
	return decodeFlowStats(b)
}

// decodeFlowStats reads struct ofp_flow_stats, OpenFlow 1.4 section 7.3.5.2.
func decodeFlowStats(b []byte) (Entry, error) {
	const fixed = 48
	if len(b) < fixed {
		return Entry{}, errTruncated
	}
	fields, rest, err := splitMatch(b[fixed:])
	if err != nil {
		return Entry{}, err
	}
	return Entry{
		Table:    b[2],
		Priority: binary.BigEndian.Uint16(b[12:]),
		Cookie:   binary.BigEndian.Uint64(b[24:]),
		Packets:  binary.BigEndian.Uint64(b[32:]),
		match:    fields, instructions: rest,
	}, nil
}

// decodeFlowDesc reads struct ofp_flow_desc, OpenFlow 1.5 section 7.3.5.2.
func decodeFlowDesc(b []byte) (Entry, error) {
	const fixed = 24
	if len(b) < fixed {
		return Entry{}, errTruncated
	}
	fields, rest, err := splitMatch(b[fixed:])
	if err != nil {
		return Entry{}, err
	}
	packets, rest, err := splitStats(rest)
	if err != nil {
		return Entry{}, err
	}
	return Entry{
		Table:    b[4],
		Priority: binary.BigEndian.Uint16(b[6:]),
		Cookie:   binary.BigEndian.Uint64(b[16:]),
		Packets:  packets,
		match:    fields, instructions: rest,
	}, nil
}

// splitStats takes a struct ofp_stats off the front (OpenFlow 1.5 section 7.2.4): its OXS_OF_PACKET_COUNT, 0 if there is
// none, and what follows its padding.
func splitStats(b []byte) (packets uint64, rest []byte, err error) {
	const headerPacketCount = 0x8002<<16 | 4<<9 | 8
	if len(b) < 4 {
		return 0, nil, nil
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length < 4 || length > len(b) {
		return 0, nil, fmt.Errorf("flow statistics of %d bytes in %d", length, len(b))
	}
	rest = b[min((length+7)/8*8, len(b)):]
	for b = b[4:length]; len(b) >= 4; {
		header := binary.BigEndian.Uint32(b)
		size := 4 + int(header&0xff)
		if size > len(b) {
			return 0, nil, errTruncated
		}
		if header == headerPacketCount && size == 12 {
			packets = binary.BigEndian.Uint64(b[4:])
		}
		b = b[size:]
	}
	return packets, rest, nil
}

// splitMatch takes a struct ofp_match off the front: its OXM fields, and what follows its padding.
func splitMatch(b []byte) (fields, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errTruncated
	}
	if kind := binary.BigEndian.Uint16(b); kind != 1 {
		return nil, nil, fmt.Errorf("match of type %d, not OXM", kind)
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	padded := (length + 7) / 8 * 8
	if length < 4 || padded > len(b) {
		return nil, nil, fmt.Errorf("match of %d bytes in %d", length, len(b))
	}
	return b[4:length], b[padded:], nil
}

// decodeMatch gives the match of an entry in weft's terms, or false if it uses a field that weft never does: then it can't
// be the same as the match of any of weft's flows.
func decodeMatch(b []byte) (flow.Match, bool) {
	var terms []flow.Term
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, false
		}
		header := binary.BigEndian.Uint32(b)
		size := int(header & 0xff)
		if len(b) < 4+size {
			return nil, false
		}
		found, ok := decodeTerms(header, b[4:4+size])
		if !ok {
			return nil, false
		}
		terms = append(terms, found...)
		b = b[4+size:]
	}
	return flow.NewMatch(terms...), true
}

// decodeTerms reads one OXM field. In OpenFlow 1.5 OVS writes registers in pairs, as 64-bit packet registers (section
// 7.2.3.10): the upper half of number n is register 2n.
func decodeTerms(header uint32, payload []byte) ([]flow.Term, bool) {
	if uint16(header>>16) != classPacketRegisters {
		t, ok := decodeTerm(header, payload)
		return []flow.Term{t}, ok
	}
	value, mask := payload, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if header&(1<<8) != 0 && len(payload) == 16 {
		value, mask = payload[:8], payload[8:]
	}
	if len(value) != 8 {
		return nil, false
	}
	var out []flow.Term
	for half := range 2 {
		f := flow.FieldReg(2*int(header>>9&0x7f) + half)
		if f == flow.FieldNone {
			return nil, false
		}
		if t, ok := maskedTerm(f, value[4*half:4*half+4], mask[4*half:4*half+4]); ok {
			out = append(out, t)
		}
	}
	return out, true
}

func decodeTerm(header uint32, payload []byte) (flow.Term, bool) {
	f := fieldOf(uint16(header>>16), uint8(header>>9&0x7f))
	size := (f.Bits() + 7) / 8
	masked := header&(1<<8) != 0
	switch {
	case f == flow.FieldNone:
		return flow.Term{}, false
	case !masked && len(payload) == size:
		return flow.Term{Field: f, Value: flow.BitsOf(payload), Mask: f.Full()}, true
	case masked && len(payload) == 2*size:
		return maskedTerm(f, payload[:size], payload[size:])
	}
	return flow.Term{}, false
}

// maskedTerm brings the mask down to the field's width: OVS may set bits above it.
func maskedTerm(f flow.Field, value, mask []byte) (flow.Term, bool) {
	m := flow.BitsOf(mask).And(f.Full())
	return flow.Term{Field: f, Value: flow.BitsOf(value).And(m), Mask: m}, !m.Zero()
}

// fieldOf is the inverse of oxmOf.
func fieldOf(class uint16, number uint8) flow.Field {
	for f := flow.FieldInPort; f.Bits() != 0; f++ {
		if o, err := oxmOf(f); err == nil && o.class == class && o.number == number {
			return f
		}
	}
	return flow.FieldNone
}

// SwitchError is an OFPT_ERROR of the bridge (OpenFlow 1.4 section 7.5.4).
type SwitchError struct {
	Type, Code uint16
}

// Error gives the class by name and the code as a number, as listed in OpenFlow 1.4 section 7.5.4.
func (e *SwitchError) Error() string {
	return fmt.Sprintf("the bridge answered OpenFlow error %s (type %d), code %d", errorClass(e.Type), e.Type, e.Code)
}

const (
	errorBundleFailed  = 17
	bundleMessageFails = 15 // OFPBFC_MSG_FAILED: the bundle failed because of a message that has its own error
)

func errorClass(kind uint16) string {
	switch kind {
	case 0:
		return "hello failed"
	case 1:
		return "bad request"
	case 2:
		return "bad action"
	case 3:
		return "bad instruction"
	case 4:
		return "bad match"
	case 5:
		return "flow mod failed"
	case errorBundleFailed:
		return "bundle failed"
	case 0xffff:
		return "experimenter (an Open vSwitch extension)"
	}
	return "other"
}

func decodeError(body []byte) (*SwitchError, error) {
	if len(body) < 4 {
		return nil, errTruncated
	}
	return &SwitchError{Type: binary.BigEndian.Uint16(body), Code: binary.BigEndian.Uint16(body[2:])}, nil
}
