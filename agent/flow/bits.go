package flow

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// Bits are the up to 128 bits of a field's value or mask; those of a narrower field are the low ones.
type Bits struct {
	Hi, Lo uint64
}

// Low are bits of which only the low 64 may be set.
func Low(v uint64) Bits { return Bits{Lo: v} }

// ones are the n low bits, 0 to 128.
func ones(n int) Bits {
	if n > 64 {
		return Bits{Hi: ^uint64(0) >> (128 - n), Lo: ^uint64(0)}
	}
	return Bits{Lo: 1<<n - 1} // a shift by 64 gives 0, and all ones
}

// BitsOf reads up to 16 bytes, the most significant first.
func BitsOf(b []byte) Bits {
	var v Bits
	for _, x := range b {
		v.Hi, v.Lo = v.Hi<<8|v.Lo>>56, v.Lo<<8|uint64(x)
	}
	return v
}

// Append writes the low n bytes, at most 16, the most significant first.
func (b Bits) Append(out []byte, n int) []byte {
	all := b.bytes()
	return append(out, all[16-n:]...)
}

func (b Bits) bytes() [16]byte {
	var all [16]byte
	binary.BigEndian.PutUint64(all[:8], b.Hi)
	binary.BigEndian.PutUint64(all[8:], b.Lo)
	return all
}

// And are the bits that both have.
func (b Bits) And(o Bits) Bits { return Bits{b.Hi & o.Hi, b.Lo & o.Lo} }

// Without are the bits that o does not have.
func (b Bits) Without(o Bits) Bits { return Bits{b.Hi &^ o.Hi, b.Lo &^ o.Lo} }

// Zero reports whether no bit is set.
func (b Bits) Zero() bool { return b == Bits{} }

// String is the number in hexadecimal, as in 0x1f.
func (b Bits) String() string {
	if b.Hi == 0 {
		return fmt.Sprintf("%#x", b.Lo)
	}
	return fmt.Sprintf("%#x%016x", b.Hi, b.Lo)
}

func compareBits(a, b Bits) int { return cmp.Or(cmp.Compare(a.Hi, b.Hi), cmp.Compare(a.Lo, b.Lo)) }

// upper are the n highest of width bits: the mask of a prefix.
func upper(n, width int) Bits { return ones(width).Without(ones(width - n)) }

// prefixLength is the n for which the bits are upper(n, width), or false.
func (b Bits) prefixLength(width int) (int, bool) {
	n := bits.OnesCount64(b.Hi) + bits.OnesCount64(b.Lo)
	return n, b == upper(n, width)
}

// bitsOfIP are those of an address.
func bitsOfIP(a netip.Addr) Bits { return BitsOf(a.AsSlice()) }

func ipv6Of(b Bits) netip.Addr { return netip.AddrFrom16(b.bytes()) }
