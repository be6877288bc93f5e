package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Field names a packet or metadata field of OpenFlow, as in ovs-fields(7). The numbers enter the cookie's content
// hash: append new fields at the end, or every flow of a running node is written again at the next upgrade.
type Field uint8

// The fields an L2 agent matches on or writes.
const (
	FieldNone Field = iota
	FieldInPort
	FieldEthType
	FieldEthSrc
	FieldEthDst
	// FieldVLAN is the 12-bit VID and the "present" bit 0x1000 as in OXM_OF_VLAN_VID; the value 0 means untagged.
	FieldVLAN
	FieldTunID
	FieldMetadata
	FieldARPOp
	FieldARPSPA
	FieldARPTPA
	FieldARPSHA
	FieldARPTHA
	FieldIPv4Src
	FieldIPv4Dst
	FieldIPProto
	FieldTCPSrc
	FieldTCPDst
	FieldUDPSrc
	FieldUDPDst
	// FieldReg0 is register 0; registers 1 to 15 follow it, see FieldReg.
	FieldReg0
)

// The fields that filters match on besides.
const (
	FieldIPv6Src Field = FieldReg0 + registers + iota
	FieldIPv6Dst
	FieldSCTPDst
	FieldICMPType
	FieldICMPCode
	FieldICMPv6Type
	FieldICMPv6Code
	// FieldNDTarget is the target of a neighbour solicitation or advertisement, FieldNDSLL and FieldNDTLL are the link-layer
	// addresses in their options (RFC 4861), 0 where there is none.
	FieldNDTarget
	FieldNDSLL
	FieldNDTLL
	// FieldIPFrag is FragAny and FragLater.
	FieldIPFrag
	// FieldCTState is the set of CTNew and the others.
	FieldCTState
	// FieldConjID is the id of the conjunction that has just been found true.
	FieldConjID
	fieldEnd
)

// The bits of FieldIPFrag (ovs-fields(7), ip_frag): a fragment, and one that is not its packet's first.
const (
	FragAny   = 1
	FragLater = 2
)

// The bits of FieldCTState (ovs-fields(7), ct_state).
const (
	CTNew         = 0x01
	CTEstablished = 0x02
	CTRelated     = 0x04
	CTReply       = 0x08
	CTInvalid     = 0x10
	CTTracked     = 0x20
)

const registers = 16

// VLANPresent is the bit of a VLAN value that says "tagged" (OFPVID_PRESENT, OpenFlow 1.4 section 7.2.3.8).
const VLANPresent = 0x1000

// FieldReg is the field of register n, 0 to 15; any other n gives FieldNone, which no flow validates with.
func FieldReg(n int) Field {
	if n < 0 || n >= registers {
		return FieldNone
	}
	return FieldReg0 + Field(n)
}

// Register is the number of a register field, or false for another field.
func (f Field) Register() (int, bool) {
	if f < FieldReg0 || f >= FieldReg0+registers {
		return 0, false
	}
	return int(f - FieldReg0), true
}

// format is how ovs-ofctl writes a field's value.
type format uint8

const (
	formatDecimal format = iota
	formatHex
	formatMAC
	formatIPv4
	formatPort
	formatIPv6
	formatFrag
	formatCTState
)

// info is what the text form needs to know of a field.
type info struct {
	match  string // the name in a match, the one that ovs-ofctl prints
	set    string // the name in set_field; "" for a field that is never written
	nxm    string // the name in move; "" if it is never moved
	bits   int
	format format
}

func (f Field) info() info {
	if n, ok := f.Register(); ok {
		reg := strconv.Itoa(n)
		return info{"reg" + reg, "reg" + reg, "NXM_NX_REG" + reg, 32, formatHex}
	}
	switch f {
	case FieldInPort:
		return info{"in_port", "", "", 32, formatPort}
	case FieldEthType:
		return info{"dl_type", "", "", 16, formatHex}
	case FieldEthSrc:
		return info{"dl_src", "eth_src", "NXM_OF_ETH_SRC", 48, formatMAC}
	case FieldEthDst:
		return info{"dl_dst", "eth_dst", "NXM_OF_ETH_DST", 48, formatMAC}
	case FieldVLAN:
		return info{"dl_vlan", "vlan_vid", "", 13, formatDecimal}
	case FieldTunID:
		return info{"tun_id", "tun_id", "NXM_NX_TUN_ID", 64, formatHex}
	case FieldMetadata:
		return info{"metadata", "metadata", "OXM_OF_METADATA", 64, formatHex}
	default:
		return f.networkInfo()
	}
}

func (f Field) networkInfo() info {
	switch f {
	case FieldARPOp:
		return info{"arp_op", "arp_op", "NXM_OF_ARP_OP", 16, formatDecimal}
	case FieldARPSPA:
		return info{"arp_spa", "arp_spa", "NXM_OF_ARP_SPA", 32, formatIPv4}
	case FieldARPTPA:
		return info{"arp_tpa", "arp_tpa", "NXM_OF_ARP_TPA", 32, formatIPv4}
	case FieldARPSHA:
		return info{"arp_sha", "arp_sha", "NXM_NX_ARP_SHA", 48, formatMAC}
	case FieldARPTHA:
		return info{"arp_tha", "arp_tha", "NXM_NX_ARP_THA", 48, formatMAC}
	case FieldIPv4Src:
		return info{"nw_src", "ipv4_src", "NXM_OF_IP_SRC", 32, formatIPv4}
	case FieldIPv4Dst:
		return info{"nw_dst", "ipv4_dst", "NXM_OF_IP_DST", 32, formatIPv4}
	case FieldIPProto:
		return info{"nw_proto", "", "", 8, formatDecimal}
	case FieldTCPSrc, FieldUDPSrc:
		return info{"tp_src", "", "", 16, formatDecimal}
	case FieldTCPDst, FieldUDPDst, FieldSCTPDst:
		return info{"tp_dst", "", "", 16, formatDecimal}
	default:
		return f.filterInfo()
	}
}

func (f Field) filterInfo() info {
	switch f {
	case FieldIPv6Src:
		return info{"ipv6_src", "", "", 128, formatIPv6}
	case FieldIPv6Dst:
		return info{"ipv6_dst", "", "", 128, formatIPv6}
	case FieldICMPType, FieldICMPv6Type:
		return info{"icmp_type", "", "", 8, formatDecimal}
	case FieldICMPCode, FieldICMPv6Code:
		return info{"icmp_code", "", "", 8, formatDecimal}
	case FieldNDTarget:
		return info{"nd_target", "", "", 128, formatIPv6}
	case FieldNDSLL:
		return info{"nd_sll", "", "", 48, formatMAC}
	case FieldNDTLL:
		return info{"nd_tll", "", "", 48, formatMAC}
	case FieldIPFrag:
		return info{"nw_frag", "", "", 2, formatFrag}
	case FieldCTState:
		return info{"ct_state", "", "", 32, formatCTState}
	case FieldConjID:
		return info{"conj_id", "", "", 32, formatDecimal}
	default:
		return info{}
	}
}

// Bits is the field's width; 0 for an unknown field. The VLAN field has 13: the VID and the present bit.
func (f Field) Bits() int { return f.info().bits }

// Name is the field's name in a match as ovs-ofctl prints it, for error texts.
func (f Field) Name() string {
	if i := f.info(); i.match != "" {
		return i.match
	}
	return "field(" + strconv.Itoa(int(f)) + ")"
}

// Full is the mask that covers all of the field.
func (f Field) Full() Bits { return ones(f.Bits()) }

// full is Full of a field of at most 64 bits.
func (f Field) full() uint64 { return f.Full().Lo }

// MAC is an Ethernet address.
type MAC [6]byte

// ParseMAC reads the form aa:bb:cc:dd:ee:ff.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	parts := strings.Split(s, ":")
	if len(parts) != len(m) {
		return MAC{}, fmt.Errorf("MAC address %q: want six bytes as aa:bb:cc:dd:ee:ff", s)
	}
	for i, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) != 2 {
			return MAC{}, fmt.Errorf("MAC address %q: %q is not a byte in two hexadecimal digits", s, p)
		}
		m[i] = byte(b)
	}
	return m, nil
}

// String is the form aa:bb:cc:dd:ee:ff.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func (m MAC) uint64() uint64 {
	var b [8]byte
	copy(b[2:], m[:])
	return binary.BigEndian.Uint64(b[:])
}

func macOf(v uint64) MAC {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return MAC(b[2:])
}

// ipv4 gives 0 and false for what is not an IPv4 address.
func ipv4(a netip.Addr) (uint64, bool) {
	if !a.Is4() {
		return 0, false
	}
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:])), true
}

func ipv4Of(v uint64) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(v))
	return netip.AddrFrom4(b)
}
