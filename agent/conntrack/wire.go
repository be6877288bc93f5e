package conntrack

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// More attributes of linux/netfilter/nfnetlink_conntrack.h. Numbers in attributes are in network byte order, the headers
// in the host's.
const (
	ctaStatus    = 3
	ctaProtoinfo = 4
	ctaNATSource = 6
	ctaTimeout   = 7
	ctaNATTarget = 13

	ctaTupleProto = 2 // in a tuple
	ctaProtoNum   = 1 // in ctaTupleProto
	ctaProtoSrc   = 2
	ctaProtoDst   = 3
	ctaICMPID     = 4
	ctaICMPType   = 5
	ctaICMPCode   = 6

	ctaProtoinfoTCP  = 1 // in ctaProtoinfo
	ctaTCPState      = 1 // in ctaProtoinfoTCP
	ctaTCPFlagsOrig  = 4
	ctaTCPFlagsReply = 5

	ctaNATMinIP   = 1 // in ctaNATSource and ctaNATTarget
	ctaNATMaxIP   = 2
	ctaNATProto   = 3
	ctaNATPortMin = 1 // in ctaNATProto
	ctaNATPortMax = 2
)

// tcpLiberal has the kernel take any window: the sequence numbers of a connection that it did not see begin are unknown
// to it (IP_CT_TCP_FLAG_BE_LIBERAL of nf_conntrack_tcp.h, as flags and mask).
const tcpLiberal = 0x08

var errMalformed = errors.New("malformed attribute")

// Attributes are read without copying: struct nlattr is two numbers in the host's byte order, length and type.
const attrHeader = 4

func align(n int) int { return (n + 3) &^ 3 }

// attributes calls fn for each attribute of b, the flags taken off its type.
func attributes(b []byte, fn func(kind uint16, value []byte) error) error {
	for len(b) >= attrHeader {
		n := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & typeMask
		if n < attrHeader || n > len(b) {
			return errMalformed
		}
		if err := fn(kind, b[attrHeader:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// parseEntry reads the attributes of a message about an entry; false when it is not an IPv4 connection of a protocol that
// entries are read for.
func parseEntry(b []byte, e *Entry) (bool, error) {
	*e = Entry{}
	err := attributes(b, func(kind uint16, v []byte) error {
		switch kind {
		case ctaTupleOrig:
			return parseTuple(v, &e.Original)
		case ctaTupleReply:
			return parseTuple(v, &e.Reply)
		case ctaStatus:
			return number(v, func(n uint32) { e.Status = Status(n) })
		case ctaTimeout:
			return number(v, func(n uint32) { e.Timeout = n })
		case ctaProtoinfo:
			return parseState(v, e)
		default:
			return nil
		}
	})
	if err != nil {
		return false, err
	}
	switch e.Original.Protocol {
	case ICMP, TCP, UDP:
	default:
		return false, nil
	}
	if e.State == 0 && e.Original.Protocol == TCP && e.Status&Assured != 0 {
		e.State = Established // an event that is not about the state does not tell it
	}
	return e.Original.Source != [4]byte{} && e.Reply.Protocol == e.Original.Protocol, nil
}

func number(v []byte, set func(uint32)) error {
	if len(v) != 4 {
		return errMalformed
	}
	set(binary.BigEndian.Uint32(v))
	return nil
}

func parseTuple(b []byte, t *Tuple) error {
	return attributes(b, func(kind uint16, v []byte) error {
		switch kind {
		case ctaTupleIP:
			return attributes(v, func(kind uint16, v []byte) error {
				switch {
				case kind == ctaIPv4Src && len(v) == 4:
					t.Source = [4]byte(v)
				case kind == ctaIPv4Dst && len(v) == 4:
					t.Target = [4]byte(v)
				}
				return nil
			})
		case ctaTupleProto:
			return attributes(v, func(kind uint16, v []byte) error { return parsePorts(kind, v, t) })
		default:
			return nil
		}
	})
}

func parsePorts(kind uint16, v []byte, t *Tuple) error {
	var n uint16
	switch {
	case len(v) == 1:
		n = uint16(v[0])
	case len(v) == 2:
		n = binary.BigEndian.Uint16(v)
	default:
		return nil // IPv6's
	}
	switch kind {
	case ctaProtoNum:
		t.Protocol = uint8(n)
	case ctaProtoSrc, ctaICMPID:
		t.SourcePort = n
	case ctaProtoDst:
		t.TargetPort = n
	case ctaICMPType:
		t.TargetPort |= n << 8
	case ctaICMPCode:
		t.TargetPort |= n & 0xff
	}
	return nil
}

func parseState(b []byte, e *Entry) error {
	return attributes(b, func(kind uint16, v []byte) error {
		if kind != ctaProtoinfoTCP {
			return nil
		}
		flags := [2]byte{}
		err := attributes(v, func(kind uint16, v []byte) error {
			switch {
			case kind == ctaTCPState && len(v) == 1:
				e.State = v[0]
			case kind == ctaTCPFlagsOrig && len(v) == 2:
				flags[0] = v[0]
			case kind == ctaTCPFlagsReply && len(v) == 2:
				flags[1] = v[0]
			}
			return nil
		})
		e.Liberal = flags[0]&flags[1]&tcpLiberal != 0
		return err
	})
}

// appendAttr appends an attribute.
func appendAttr(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 { // what precedes is aligned
		b = append(b, 0)
	}
	return b
}

// appendNested appends an attribute that holds those which fill appends.
func appendNested(b []byte, kind uint16, fill func([]byte) []byte) []byte {
	start := len(b)
	b = fill(appendAttr(b, kind|unix.NLA_F_NESTED))
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

func appendUint16(b []byte, kind, n uint16) []byte { return appendAttr(b, kind, byte(n>>8), byte(n)) }

func appendUint32(b []byte, kind uint16, n uint32) []byte {
	return appendAttr(b, kind, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func appendTuple(b []byte, kind uint16, t Tuple) []byte {
	return appendNested(b, kind, func(b []byte) []byte {
		b = appendNested(b, ctaTupleIP, func(b []byte) []byte {
			b = appendAttr(b, ctaIPv4Src, t.Source[:]...)
			return appendAttr(b, ctaIPv4Dst, t.Target[:]...)
		})
		return appendNested(b, ctaTupleProto, func(b []byte) []byte {
			b = appendAttr(b, ctaProtoNum, t.Protocol)
			if t.Protocol == ICMP {
				b = appendUint16(b, ctaICMPID, t.SourcePort)
				b = appendAttr(b, ctaICMPType, byte(t.TargetPort>>8))
				return appendAttr(b, ctaICMPCode, byte(t.TargetPort))
			}
			b = appendUint16(b, ctaProtoSrc, t.SourcePort)
			return appendUint16(b, ctaProtoDst, t.TargetPort)
		})
	})
}

// appendState appends what changes in an entry's life.
func appendState(b []byte, e *Entry) []byte {
	b = appendUint32(b, ctaStatus, uint32(e.Status&(Replied|Assured)|confirmed))
	b = appendUint32(b, ctaTimeout, e.Timeout)
	if e.Original.Protocol != TCP {
		return b
	}
	return appendNested(b, ctaProtoinfo, func(b []byte) []byte {
		return appendNested(b, ctaProtoinfoTCP, func(b []byte) []byte {
			b = appendAttr(b, ctaTCPState, e.State)
			b = appendAttr(b, ctaTCPFlagsOrig, tcpLiberal, tcpLiberal)
			return appendAttr(b, ctaTCPFlagsReply, tcpLiberal, tcpLiberal)
		})
	})
}

// appendNew appends an entry as the kernel makes one with its translations: it wants the way back as if there were none,
// and works it out itself (ctnetlink_create_conntrack).
func appendNew(b []byte, e *Entry) []byte {
	b = appendTuple(b, ctaTupleOrig, e.Original)
	b = appendTuple(b, ctaTupleReply, e.Original.turned())
	destination, source := e.translations()
	b = appendTranslation(b, ctaNATTarget, destination)
	b = appendTranslation(b, ctaNATSource, source)
	return appendState(b, e)
}

func appendTranslation(b []byte, kind uint16, to *translation) []byte {
	if to == nil {
		return b
	}
	return appendNested(b, kind, func(b []byte) []byte {
		b = appendAttr(b, ctaNATMinIP, to.addr[:]...)
		b = appendAttr(b, ctaNATMaxIP, to.addr[:]...)
		return appendNested(b, ctaNATProto, func(b []byte) []byte {
			b = appendUint16(b, ctaNATPortMin, to.port)
			return appendUint16(b, ctaNATPortMax, to.port)
		})
	})
}
