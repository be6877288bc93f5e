package flow

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Values of FieldEthType and FieldIPProto that prerequisites refer to (IANA ethertypes and protocol numbers).
const (
	EthTypeIPv4 = 0x0800
	EthTypeARP  = 0x0806
	EthTypeIPv6 = 0x86dd
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// Operations of ARP (RFC 826).
const (
	ARPRequest = 1
	ARPReply   = 2
)

// Types of ICMPv6 (RFC 4861) that prerequisites refer to.
const (
	NDSolicit = 135
	NDAdvert  = 136
)

// Term is one condition of a match: field & Mask == Value. Mask has all of the field's bits for an exact match.
// A term made from an argument that does not fit its field (an IPv6 address for nw_src) has field FieldNone or a value
// wider than the field; Flow.Validate refuses it, so that constructors need no error result.
type Term struct {
	Field Field
	Value Bits
	Mask  Bits
}

// Exact says whether the term covers every bit of its field.
func (t Term) Exact() bool { return t.Mask == t.Field.Full() }

// Match is a conjunction of terms, sorted by field, each field at most once. The zero Match matches every packet.
// It is a value: never change the slice after NewMatch.
type Match []Term

// NewMatch puts terms into canonical order. A field given twice is kept twice and refused by Flow.Validate.
func NewMatch(terms ...Term) Match {
	m := slices.Clone(terms)
	slices.SortStableFunc(m, func(a, b Term) int { return cmp.Compare(a.Field, b.Field) })
	return m
}

// With is the match with more terms; the receiver is not changed.
func (m Match) With(terms ...Term) Match {
	return NewMatch(slices.Concat(m, terms)...)
}

// Get is the term on field f, if there is one.
func (m Match) Get(f Field) (Term, bool) {
	for _, t := range m {
		if t.Field == f {
			return t, true
		}
	}
	return Term{}, false
}

func exact(f Field, v uint64) Term { return Term{f, Low(v), f.Full()} }

// masked clears the value's bits outside the mask: OpenFlow refuses them (OFPBMC_BAD_WILDCARDS).
func masked(f Field, v, mask uint64) Term { return Term{f, Low(v & mask), Low(mask)} }

func address(f Field, a netip.Addr) Term {
	v, ok := ipv4(a)
	if !ok {
		return Term{}
	}
	return exact(f, v)
}

func prefix(f Field, p netip.Prefix) Term {
	if !p.IsValid() || p.Addr().BitLen() != f.Bits() {
		return Term{}
	}
	mask := upper(p.Bits(), f.Bits())
	return Term{f, bitsOfIP(p.Addr()).And(mask), mask}
}

// InPort matches the OpenFlow number of the ingress port, or a reserved one such as PortLocal.
func InPort(port uint32) Term { return exact(FieldInPort, uint64(port)) }

// EthType matches the ethertype, of the frame inside a VLAN tag if there is one.
func EthType(t uint16) Term { return exact(FieldEthType, uint64(t)) }

// ARP matches ARP frames.
func ARP() Term { return EthType(EthTypeARP) }

// IPv4 matches IPv4 packets.
func IPv4() Term { return EthType(EthTypeIPv4) }

// EthSrc matches the source MAC address.
func EthSrc(m MAC) Term { return exact(FieldEthSrc, m.uint64()) }

// EthDst matches the destination MAC address.
func EthDst(m MAC) Term { return exact(FieldEthDst, m.uint64()) }

// EthDstMasked matches the bits of the destination address that mask selects.
func EthDstMasked(m, mask MAC) Term { return masked(FieldEthDst, m.uint64(), mask.uint64()) }

// Unicast matches frames to one station: the group bit of the destination is clear.
func Unicast() Term { return EthDstMasked(MAC{}, MAC{0x01}) }

// Multicast matches frames to a group, which includes broadcast: the group bit of the destination is set.
func Multicast() Term { return EthDstMasked(MAC{0x01}, MAC{0x01}) }

// Untagged matches frames without a VLAN tag; ovs-ofctl writes it vlan_tci=0x0000/0x1fff.
func Untagged() Term { return exact(FieldVLAN, 0) }

// VLAN matches frames tagged with vid, 0 to 4095.
func VLAN(vid uint16) Term {
	if vid > 4095 {
		return Term{}
	}
	return exact(FieldVLAN, VLANPresent|uint64(vid))
}

// Tagged matches frames with any VLAN tag; ovs-ofctl writes it vlan_tci=0x1000/0x1000.
func Tagged() Term { return masked(FieldVLAN, VLANPresent, VLANPresent) }

// TunID matches the tunnel key that a frame arrived with or that was set for it: VXLAN VNI or GRE key.
func TunID(id uint64) Term { return exact(FieldTunID, id) }

// Reg matches all 32 bits of register n, 0 to 15.
func Reg(n int, v uint32) Term { return exact(FieldReg(n), uint64(v)) }

// RegMasked matches the bits of register n that mask selects.
func RegMasked(n int, v, mask uint32) Term { return masked(FieldReg(n), uint64(v), uint64(mask)) }

// Metadata matches the pipeline's 64-bit metadata.
func Metadata(v uint64) Term { return exact(FieldMetadata, v) }

// MetadataMasked matches the bits of the metadata that mask selects.
func MetadataMasked(v, mask uint64) Term { return masked(FieldMetadata, v, mask) }

// ARPOp matches the ARP operation, ARPRequest or ARPReply; needs ARP().
func ARPOp(op uint16) Term { return exact(FieldARPOp, uint64(op)) }

// ARPSPA matches the sender's IPv4 address; needs ARP().
func ARPSPA(a netip.Addr) Term { return address(FieldARPSPA, a) }

// ARPSPAIn matches the sender's IPv4 address; needs ARP(). Do not use it with 0.0.0.0/0: leave the term out.
func ARPSPAIn(p netip.Prefix) Term { return prefix(FieldARPSPA, p) }

// ARPTPA matches the target's IPv4 address; needs ARP().
func ARPTPA(a netip.Addr) Term { return address(FieldARPTPA, a) }

// ARPTPAIn matches the ARP target protocol addresses of a prefix; needs ARP().
func ARPTPAIn(p netip.Prefix) Term { return prefix(FieldARPTPA, p) }

// ARPSHA matches the sender's MAC address; needs ARP().
func ARPSHA(m MAC) Term { return exact(FieldARPSHA, m.uint64()) }

// ARPTHA matches the target's MAC address; needs ARP().
func ARPTHA(m MAC) Term { return exact(FieldARPTHA, m.uint64()) }

// IPv4Src matches the source address; needs IPv4(). Do not use it with 0.0.0.0/0: leave the term out.
func IPv4Src(p netip.Prefix) Term { return prefix(FieldIPv4Src, p) }

// IPv4Dst matches the destination address; needs IPv4(). Do not use it with 0.0.0.0/0: leave the term out.
func IPv4Dst(p netip.Prefix) Term { return prefix(FieldIPv4Dst, p) }

// IPv6 matches IPv6 packets.
func IPv6() Term { return EthType(EthTypeIPv6) }

// IPv6Src matches the source address; needs IPv6(). Do not use it with ::/0: leave the term out.
func IPv6Src(p netip.Prefix) Term { return prefix(FieldIPv6Src, p) }

// IPv6Dst matches the destination address; needs IPv6(). Do not use it with ::/0: leave the term out.
func IPv6Dst(p netip.Prefix) Term { return prefix(FieldIPv6Dst, p) }

// IPProto matches the IP protocol number, of IPv6 that of the last header; needs IPv4() or IPv6().
func IPProto(p uint8) Term { return exact(FieldIPProto, uint64(p)) }

// TCPSrc matches the source port; needs IPv4() and IPProto(ProtoTCP).
func TCPSrc(port uint16) Term { return exact(FieldTCPSrc, uint64(port)) }

// TCPDst matches the destination port; needs IPv4() and IPProto(ProtoTCP).
func TCPDst(port uint16) Term { return exact(FieldTCPDst, uint64(port)) }

// UDPSrc matches the source port; needs IPv4() and IPProto(ProtoUDP).
func UDPSrc(port uint16) Term { return exact(FieldUDPSrc, uint64(port)) }

// UDPDst matches the destination port; needs IPv4() and IPProto(ProtoUDP).
func UDPDst(port uint16) Term { return exact(FieldUDPDst, uint64(port)) }

// PortDst matches the bits that mask selects of the destination port, FieldTCPDst, FieldUDPDst or FieldSCTPDst; needs IPv4()
// or IPv6(), and IPProto.
func PortDst(f Field, port, mask uint16) Term { return masked(f, uint64(port), uint64(mask)) }

// Type matches FieldICMPType or FieldICMPv6Type, and Code FieldICMPCode or FieldICMPv6Code; they need the family and IPProto.
func Type(f Field, v uint8) Term { return exact(f, uint64(v)) }

// Code is described with Type.
func Code(f Field, v uint8) Term { return exact(f, uint64(v)) }

// NDTarget matches the target of a neighbour solicitation or advertisement; needs IPv6(), IPProto(ProtoICMPv6) and the type.
func NDTarget(p netip.Prefix) Term { return prefix(FieldNDTarget, p) }

// NDSLL matches the source link-layer address of a neighbour solicitation, NDTLL the target's of an advertisement; the zero
// MAC matches those without the option. They need IPv6(), IPProto(ProtoICMPv6) and the type.
func NDSLL(m MAC) Term { return exact(FieldNDSLL, m.uint64()) }

// NDTLL is described with NDSLL.
func NDTLL(m MAC) Term { return exact(FieldNDTLL, m.uint64()) }

// Whole matches packets that are no fragments; needs IPv4() or IPv6().
func Whole() Term { return exact(FieldIPFrag, 0) }

// Fragment matches fragments, their packets' first ones too; needs IPv4() or IPv6().
func Fragment() Term { return masked(FieldIPFrag, FragAny, FragAny) }

// LaterFragment matches fragments but for their packets' first ones: they have no ports. Needs IPv4() or IPv6().
func LaterFragment() Term { return exact(FieldIPFrag, FragAny|FragLater) }

// CTState matches what conntrack says of a packet: all of the bits of has, and none of those of lacks. A packet that it has
// not seen has none.
func CTState(has, lacks uint32) Term { return masked(FieldCTState, uint64(has), uint64(has|lacks)) }

// ConjID matches the packets for which conjunction id holds, see Conjunction.
func ConjID(id uint32) Term { return exact(FieldConjID, uint64(id)) }

func (m Match) validate() error {
	for i, t := range m {
		if i > 0 && m[i-1].Field >= t.Field {
			return fmt.Errorf("match: %s is given twice or the terms are out of order; use NewMatch, one term per field", t.Field.Name())
		}
		if err := t.validate(); err != nil {
			return err
		}
		if err := m.prerequisites(t.Field); err != nil {
			return err
		}
	}
	return nil
}

func (t Term) validate() error {
	full := t.Field.Full()
	switch {
	case t.Field.Bits() == 0:
		return fmt.Errorf("match: a term of no known field, made from a value that its field cannot hold")
	case !t.Value.Without(full).Zero() || !t.Mask.Without(full).Zero():
		return fmt.Errorf("match: %s: value %s or mask %s is wider than %d bits", t.Field.Name(), t.Value, t.Mask, t.Field.Bits())
	case !t.Value.Without(t.Mask).Zero():
		return fmt.Errorf("match: %s: value %s has bits outside its mask %s", t.Field.Name(), t.Value, t.Mask)
	case t.Mask.Zero():
		return fmt.Errorf("match: %s: an empty mask matches everything; leave the term out", t.Field.Name())
	case !t.Exact() && !t.Field.maskable():
		return fmt.Errorf("match: %s cannot be masked (OpenFlow 1.4 table 12)", t.Field.Name())
	}
	return nil
}

func (f Field) maskable() bool {
	switch f {
	case FieldInPort, FieldEthType, FieldARPOp, FieldIPProto, FieldICMPType, FieldICMPCode, FieldICMPv6Type, FieldICMPv6Code,
		FieldConjID:
		return false
	default:
		return true
	}
}

// prerequisites checks the table of OpenFlow 1.4 section 7.2.3.8: a switch refuses arp_op without dl_type=0x0806.
func (m Match) prerequisites(f Field) error {
	switch f {
	case FieldARPOp, FieldARPSPA, FieldARPTPA, FieldARPSHA, FieldARPTHA:
		return m.require(f, EthType(EthTypeARP))
	case FieldIPv4Src, FieldIPv4Dst:
		return m.require(f, IPv4())
	case FieldIPv6Src, FieldIPv6Dst:
		return m.require(f, IPv6())
	case FieldIPProto, FieldIPFrag:
		return m.require(f, IPv4(), IPv6())
	case FieldTCPSrc, FieldTCPDst:
		return m.require(f, IPProto(ProtoTCP))
	case FieldUDPSrc, FieldUDPDst:
		return m.require(f, IPProto(ProtoUDP))
	case FieldSCTPDst:
		return m.require(f, IPProto(ProtoSCTP))
	default:
		return m.icmpPrerequisites(f)
	}
}

// icmpPrerequisites are those of ovs-fields(7) for ICMP and neighbour discovery.
func (m Match) icmpPrerequisites(f Field) error {
	switch f {
	case FieldICMPType, FieldICMPCode:
		return errors.Join(m.require(f, IPv4()), m.require(f, IPProto(ProtoICMP)))
	case FieldICMPv6Type, FieldICMPv6Code:
		return errors.Join(m.require(f, IPv6()), m.require(f, IPProto(ProtoICMPv6)))
	case FieldNDTarget:
		return m.require(f, Type(FieldICMPv6Type, NDSolicit), Type(FieldICMPv6Type, NDAdvert))
	case FieldNDSLL:
		return m.require(f, Type(FieldICMPv6Type, NDSolicit))
	case FieldNDTLL:
		return m.require(f, Type(FieldICMPv6Type, NDAdvert))
	default:
		return nil
	}
}

// require wants one of some terms on the same field.
func (m Match) require(f Field, oneOf ...Term) error {
	need := oneOf[0]
	if got, ok := m.Get(need.Field); !ok || !slices.Contains(oneOf, got) {
		return fmt.Errorf("match: %s needs %s=%s in the same match", f.Name(), need.Field.Name(), need.Value)
	}
	return nil
}
