// Package flow holds OpenFlow flows as plain values: match, actions, priority, and the cookie by which a restarted
// agent knows its own. It validates them, prints them as ovs-ofctl(8) does, and finds two flows that claim one place.
// It is pure: it speaks to no switch (agent/openflow does) and knows no pipeline (the planner declares the tables).
package flow

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Flow is one flow of one bridge; which bridge, the caller knows. It is a value: never change its slices once made.
type Flow struct {
	Table    uint8
	Priority uint16
	Match    Match
	Actions  []Action // in order; none drops the packet
	Cookie   uint64   // set by WithCookie; 0 until then
}

// The cookie's 64 bits, from the top:
//
//	63..48  Magic        the same in every flow of weft: who wrote it
//	47..40  generation   of the pipeline's layout; a layout change gives every flow a new cookie
//	39..0   content      of table, priority, match and actions (the first 40 bits of SHA-256)
//
// Two flows with equal (table, priority, cookie) are taken as equal, so nothing that a switch prints is ever parsed
// back. Among 10,000 flows of one bridge the chance that any two differ and collide is below 5e-5, and it is harmless
// unless both have the same table and priority and one of them is missing.
const (
	Magic          uint64 = 0x7765
	magicShift     uint64 = 48
	generationBits uint64 = 8
	contentBits    uint64 = 40

	// CookieMask selects the bits of a cookie that say whose a flow is.
	CookieMask uint64 = 0xffff << magicShift
	// CookieOwner is the value of those bits in a flow of weft.
	CookieOwner uint64 = Magic << magicShift
)

// Owned says whether a cookie is one of weft's, of any generation.
func Owned(cookie uint64) bool { return cookie&CookieMask == CookieOwner }

// Generation is the layout generation in one of weft's cookies.
func Generation(cookie uint64) uint8 { return uint8(cookie >> contentBits) }

// Sum is the flow's content hash, 40 bits: of everything but the cookie.
func Sum(f Flow) uint64 {
	h := sha256.Sum256(f.appendCanonical(make([]byte, 0, 256)))
	return binary.BigEndian.Uint64(h[:8]) >> (64 - contentBits)
}

// WithCookie is the flow with the cookie that its content and the layout generation give it.
func (f Flow) WithCookie(generation uint8) Flow {
	f.Cookie = CookieOwner | uint64(generation)<<contentBits | Sum(f)
	return f
}

// appendCanonical is an unambiguous encoding: every part has a fixed length or a count before it.
func (f Flow) appendCanonical(b []byte) []byte {
	b = append(f.appendKey(b), byte(len(f.Actions)>>8), byte(len(f.Actions)))
	for _, a := range f.Actions {
		b = append(b, byte(a.Kind), a.Table, byte(a.Field), byte(a.From))
		b = binary.BigEndian.AppendUint32(b, a.Port)
		b = binary.BigEndian.AppendUint64(b, a.Value)
		b = binary.BigEndian.AppendUint64(b, a.Mask)
	}
	return b
}

func (f Flow) appendKey(b []byte) []byte {
	b = append(b, f.Table)
	b = binary.BigEndian.AppendUint16(b, f.Priority)
	b = append(b, byte(len(f.Match)))
	for _, t := range f.Match {
		b = append(b, byte(t.Field))
		size := 8
		if t.Field.Bits() > 64 {
			size = 16
		}
		b = t.Mask.Append(t.Value.Append(b, size), size)
	}
	return b
}

// Key is the place the flow takes in its bridge: table, priority and match. A switch holds one flow per key; adding
// another replaces it. Opaque bytes, for comparison and as a map key only.
type Key string

// Key is the flow's place in its bridge.
func (f Flow) Key() Key { return Key(f.appendKey(make([]byte, 0, 128))) }

// Validate checks what a switch would refuse, as far as that can be told without one: unknown or repeated fields, values
// wider than their field, missing prerequisites, an action after goto_table. The error names the flow.
func (f Flow) Validate() error {
	if err := f.validate(); err != nil {
		return fmt.Errorf("flow %s: %w", f, err)
	}
	return nil
}

func (f Flow) validate() error {
	if f.Table == 255 {
		return errors.New("table 255 stands for all tables; use 0 to 254")
	}
	if err := f.Match.validate(); err != nil {
		return err
	}
	for i, a := range f.Actions {
		if err := a.validate(); err != nil {
			return err
		}
		if a.Kind != KindGotoTable {
			continue
		}
		if i != len(f.Actions)-1 {
			return errors.New("action: goto_table must be the last one")
		}
		if a.Table <= f.Table {
			return fmt.Errorf("action: goto_table:%d does not lead to a later table", a.Table)
		}
	}
	return nil
}

// Equal says whether two flows are the same in place and actions; cookies do not count.
func Equal(a, b Flow) bool {
	return a.Table == b.Table && a.Priority == b.Priority && slices.Equal(a.Match, b.Match) && slices.Equal(a.Actions, b.Actions)
}

// Compare orders flows as a reader wants them: by table, higher priority first, then by match.
func Compare(a, b Flow) int {
	return cmp.Or(
		cmp.Compare(a.Table, b.Table),
		cmp.Compare(b.Priority, a.Priority),
		slices.CompareFunc(a.Match, b.Match, compareTerms),
	)
}

func compareTerms(a, b Term) int {
	return cmp.Or(cmp.Compare(a.Field, b.Field), compareBits(a.Value, b.Value), compareBits(a.Mask, b.Mask))
}
