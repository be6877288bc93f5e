package conntrack

import (
	"fmt"
	"net/netip"
)

// Protocols that entries are read for (IANA protocol numbers).
const (
	ICMP uint8 = 1
	TCP  uint8 = 6
	UDP  uint8 = 17
)

// Tuple is one direction of an IPv4 connection. For ICMP SourcePort is the identifier and TargetPort type<<8|code.
// Tuples are comparable.
type Tuple struct {
	Protocol               uint8
	Source, Target         [4]byte
	SourcePort, TargetPort uint16
}

func (t Tuple) String() string {
	return fmt.Sprintf("%d %s:%d>%s:%d", t.Protocol, netip.AddrFrom4(t.Source), t.SourcePort, netip.AddrFrom4(t.Target), t.TargetPort)
}

// Entry is what the kernel knows of a connection. Where Reply is not Original turned round, the connection is translated.
type Entry struct {
	Original, Reply Tuple
	Status          Status
	// State is the TCP state (linux/netfilter/nf_conntrack_tcp.h), 0 for other protocols and where it is not told.
	State uint8
	// Liberal: of a TCP connection, packets of any sequence number pass, as of one that Table.Apply made or changed. It is
	// read and not written.
	Liberal bool
	// Timeout is after how many seconds without a packet the entry ends.
	Timeout uint32
}

// Status has bits of enum ip_conntrack_status (linux/netfilter/nf_conntrack_common.h).
type Status uint32

// The bits that matter to others.
const (
	Replied Status = 1 << 1 // packets have been seen both ways
	Assured Status = 1 << 2 // not to be dropped early

	confirmed Status = 1 << 3
	dying     Status = 1 << 9
)

// TCP states that matter here (linux/netfilter/nf_conntrack_tcp.h).
const (
	Established uint8 = 3

	lastAck  uint8 = 6
	timeWait uint8 = 7
	closed   uint8 = 8
)

// Own reports whether a connection does not pass through: one within the namespace, or to everybody.
func (e *Entry) Own() bool {
	for _, a := range [][4]byte{e.Original.Source, e.Original.Target} {
		if a[0] == 127 || a[0] >= 224 || a[0] == 0 {
			return true
		}
	}
	return false
}

// Lasting reports whether the connection is worth knowing on another node: one that passes through and that the other end
// would not just set up again or has ended.
func (e *Entry) Lasting() bool {
	switch e.Original.Protocol {
	case TCP:
		return e.Status&Replied != 0 && e.State >= Established && e.State <= lastAck && !e.Own()
	case UDP, ICMP:
		return !e.Own()
	default:
		return false
	}
}

// Ended reports whether it is a TCP connection that both ends have closed, or one has reset.
func (e *Entry) Ended() bool {
	return e.Original.Protocol == TCP && (e.State == timeWait || e.State == closed)
}

// Told reports whether the connection may have been Lasting before.
func (e *Entry) Told() bool { return e.Original.Protocol != TCP || e.Status&Replied != 0 }

// turned is the direction back when nothing is translated. ICMP has pairs of types (RFC 792); those without one are
// answered by nobody.
func (t Tuple) turned() Tuple {
	back := Tuple{Protocol: t.Protocol, Source: t.Target, Target: t.Source, SourcePort: t.TargetPort, TargetPort: t.SourcePort}
	if t.Protocol == ICMP {
		back.SourcePort, back.TargetPort = t.SourcePort, icmpReply(t.TargetPort)
	}
	return back
}

// icmpReply is the type and code of the answer (net/netfilter/nf_conntrack_proto_icmp.c, invmap).
func icmpReply(typeCode uint16) uint16 {
	const echo, timestamp, information, mask = 8, 13, 15, 17
	switch kind := typeCode >> 8; kind {
	case echo:
		return typeCode & 0xff
	case 0:
		return echo<<8 | typeCode&0xff
	case timestamp, information, mask:
		return typeCode + 1<<8
	case timestamp + 1, information + 1, mask + 1:
		return typeCode - 1<<8
	default:
		return typeCode
	}
}

// translation is what one side of a connection is made: an address and a port or ICMP identifier; nil for unchanged.
type translation struct {
	addr [4]byte
	port uint16
}

// translations are how the destination and the source of the first packet were rewritten.
func (e *Entry) translations() (destination, source *translation) {
	plain := e.Original.turned()
	id := e.Original.Protocol == ICMP // the identifier is the source's, both ways
	if e.Reply.Source != plain.Source || !id && e.Reply.SourcePort != plain.SourcePort {
		destination = &translation{e.Reply.Source, e.Reply.SourcePort}
	}
	if e.Reply.Target != plain.Target || !id && e.Reply.TargetPort != plain.TargetPort || id && e.Reply.SourcePort != plain.SourcePort {
		source = &translation{e.Reply.Target, e.Reply.TargetPort}
		if id {
			source.port = e.Reply.SourcePort
		}
	}
	return destination, source
}
