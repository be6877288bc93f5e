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
	fieldEnd = FieldReg0 + registers
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
	if f < FieldReg0 || f >= fieldEnd {
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
	case FieldTCPDst, FieldUDPDst:
		return info{"tp_dst", "", "", 16, formatDecimal}
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

// full is the mask that covers all of the field.
func (f Field) full() uint64 {
	if b := f.Bits(); b < 64 {
		return 1<<b - 1
	}
	return ^uint64(0)
}

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
