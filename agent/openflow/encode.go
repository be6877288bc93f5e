package openflow

import (
	"fmt"

	"github.com/weft-sdn/weft/agent/flow"
)

// OXM classes, OpenFlow 1.4 section 7.2.3.3, and Nicira's for registers, nicira-ext.h.
const (
	classNXM1  = 0x0001
	classBasic = 0x8000

	classPacketRegisters = 0x8001
)

// oxm is where a field lives on the wire.
type oxm struct {
	class  uint16
	number uint8
	bytes  int
}

// oxmOf gives the numbers of OpenFlow 1.4 table 11; registers are NXM_NX_REG0.. of nicira-ext.h.
func oxmOf(f flow.Field) (oxm, error) {
	if n, ok := f.Register(); ok {
		return oxm{classNXM1, uint8(n), 4}, nil
	}
	var number int
	switch f {
	case flow.FieldIPFrag:
		return oxm{classNXM1, 26, 1}, nil
	case flow.FieldConjID:
		return oxm{classNXM1, 37, 4}, nil
	case flow.FieldCTState:
		return oxm{classNXM1, 105, 4}, nil
	case flow.FieldInPort:
		number = 0
	case flow.FieldMetadata:
		number = 2
	case flow.FieldEthDst:
		number = 3
	case flow.FieldEthSrc:
		number = 4
	case flow.FieldEthType:
		number = 5
	case flow.FieldVLAN:
		number = 6
	case flow.FieldTunID:
		number = 38
	default:
		number = oxmNetwork(f)
	}
	if number < 0 {
		return oxm{}, fmt.Errorf("%s has no OXM number", f.Name())
	}
	return oxm{classBasic, uint8(number), (f.Bits() + 7) / 8}, nil
}

func oxmNetwork(f flow.Field) int {
	switch f {
	case flow.FieldIPProto:
		return 10
	case flow.FieldIPv4Src:
		return 11
	case flow.FieldIPv4Dst:
		return 12
	case flow.FieldTCPSrc:
		return 13
	case flow.FieldTCPDst:
		return 14
	case flow.FieldUDPSrc:
		return 15
	case flow.FieldUDPDst:
		return 16
	case flow.FieldARPOp:
		return 21
	case flow.FieldARPSPA:
		return 22
	case flow.FieldARPTPA:
		return 23
	case flow.FieldARPSHA:
		return 24
	case flow.FieldARPTHA:
		return 25
	default:
		return oxmFilter(f)
	}
}

func oxmFilter(f flow.Field) int {
	switch f {
	case flow.FieldSCTPDst:
		return 18
	case flow.FieldICMPType:
		return 19
	case flow.FieldICMPCode:
		return 20
	case flow.FieldIPv6Src:
		return 26
	case flow.FieldIPv6Dst:
		return 27
	case flow.FieldICMPv6Type:
		return 29
	case flow.FieldICMPv6Code:
		return 30
	case flow.FieldNDTarget:
		return 31
	case flow.FieldNDSLL:
		return 32
	case flow.FieldNDTLL:
		return 33
	default:
		return -1
	}
}

// header is the 32-bit OXM header of the field with a payload of n bytes.
func (o oxm) header(masked bool, n int) uint32 {
	h := uint32(o.class)<<16 | uint32(o.number)<<9 | uint32(n)
	if masked {
		h |= 1 << 8
	}
	return h
}

func appendTerm(b []byte, t flow.Term) ([]byte, error) {
	o, err := oxmOf(t.Field)
	if err != nil {
		return nil, err
	}
	if t.Exact() {
		return t.Value.Append(be32(b, o.header(false, o.bytes)), o.bytes), nil
	}
	b = be32(b, o.header(true, 2*o.bytes))
	return t.Mask.Append(t.Value.Append(b, o.bytes), o.bytes), nil
}

// appendMatch writes a struct ofp_match of OXM type, padded to 8 bytes (OpenFlow 1.4 section 7.2.3.1).
func appendMatch(b []byte, m flow.Match) ([]byte, error) {
	start := len(b)
	b = zeros(b, 4)
	var err error
	for _, t := range m {
		if b, err = appendTerm(b, t); err != nil {
			return nil, err
		}
	}
	return finishMatch(b, start), nil
}

// finishMatch fills in ofp_match's type and length, which does not count the padding.
func finishMatch(b []byte, start int) []byte {
	length := len(b) - start
	copy(b[start:], []byte{0, 1, byte(length >> 8), byte(length)})
	return pad8(b, start)
}

// appendRawMatch writes OXM bytes that a switch gave, without their padding.
func appendRawMatch(b, fields []byte) []byte {
	start := len(b)
	return finishMatch(append(zeros(b, 4), fields...), start)
}

// Action and instruction types, OpenFlow 1.4 sections 7.2.4 and 7.2.5; Nicira subtypes, nicira-ext.h enum nx_action_subtype.
const (
	actionOutput       = 0
	actionPushVLAN     = 17
	actionPopVLAN      = 18
	actionSetField     = 25
	actionCopyField    = 28 // OpenFlow 1.5
	actionExperimenter = 0xffff

	instructionGotoTable    = 1
	instructionApplyActions = 4

	niciraVendor      = 0x00002320
	niciraMove        = 6
	niciraResubmit    = 14
	niciraOutputReg   = 15
	niciraLoad2       = 33
	niciraConjunction = 34
	niciraCT          = 35
	niciraResubmitCT  = 44
)

// appendInstructions writes the actions as one apply-actions instruction and a goto-table after it.
func appendInstructions(b []byte, v Version, actions []flow.Action) ([]byte, error) {
	var next *flow.Action
	if n := len(actions); n > 0 && actions[n-1].Kind == flow.KindGotoTable {
		actions, next = actions[:n-1], &actions[n-1]
	}
	if len(actions) > 0 {
		var err error
		if b, err = appendApply(b, v, actions); err != nil {
			return nil, err
		}
	}
	if next != nil {
		b = append(be16(be16(b, instructionGotoTable), 8), next.Table, 0, 0, 0)
	}
	return b, nil
}

func appendApply(b []byte, v Version, actions []flow.Action) ([]byte, error) {
	start := len(b)
	b = zeros(be16(b, instructionApplyActions), 6)
	var err error
	for _, a := range actions {
		if b, err = appendAction(b, v, a); err != nil {
			return nil, err
		}
	}
	length := len(b) - start
	b[start+2], b[start+3] = byte(length>>8), byte(length)
	return b, nil
}

func appendAction(b []byte, v Version, a flow.Action) ([]byte, error) {
	switch a.Kind {
	case flow.KindOutput:
		return zeros(be32(be16(be16(b, actionOutput), 16), a.Port), 8), nil
	case flow.KindPushVLAN:
		return zeros(be16(be16(be16(b, actionPushVLAN), 8), 0x8100), 2), nil
	case flow.KindPopVLAN:
		return zeros(be16(be16(b, actionPopVLAN), 8), 4), nil
	case flow.KindSetField:
		return appendSetField(b, v, a)
	case flow.KindMove:
		return appendMove(b, v, a)
	case flow.KindResubmit:
		return appendResubmit(b, niciraResubmit, a), nil
	case flow.KindResubmitCT:
		return appendResubmit(b, niciraResubmitCT, a), nil
	case flow.KindConjunction:
		b = append(appendNicira(b, 16, niciraConjunction), a.Table, byte(a.Mask))
		return be32(b, uint32(a.Value)), nil
	case flow.KindTrack:
		return appendTrack(b, a)
	case flow.KindOutputField:
		return appendOutputReg(b, a)
	case flow.KindNone, flow.KindGotoTable:
	}
	return nil, fmt.Errorf("action %s cannot stand here", a)
}

// appendResubmit writes struct nx_action_resubmit.
func appendResubmit(b []byte, subtype uint16, a flow.Action) []byte {
	b = be16(appendNicira(b, 16, subtype), flow.PortInPort&0xffff)
	return append(b, a.Table, 0, 0, 0)
}

// appendTrack writes struct nx_action_conntrack with the low 16 bits of a register as the zone.
func appendTrack(b []byte, a flow.Action) ([]byte, error) {
	zone, err := oxmOf(a.Field)
	if err != nil {
		return nil, err
	}
	b = be16(appendNicira(b, 24, niciraCT), uint16(a.Value))
	b = be16(be32(b, zone.header(false, zone.bytes)), bitRange(16))
	return append(b, a.Table, 0, 0, 0, 0, 0), nil
}

// appendOutputReg writes struct nx_action_output_reg, for all of a register.
func appendOutputReg(b []byte, a flow.Action) ([]byte, error) {
	port, err := oxmOf(a.Field)
	if err != nil {
		return nil, err
	}
	b = be16(appendNicira(b, 24, niciraOutputReg), bitRange(a.Field.Bits()))
	b = be16(be32(b, port.header(false, port.bytes)), 0xffff) // how much of it a controller would get
	return zeros(b, 6), nil
}

// bitRange is the ofs_nbits of nicira-ext.h for the n low bits of a field.
func bitRange(n int) uint16 { return uint16(n - 1) }

// appendSetField writes an OFPAT_SET_FIELD; OpenFlow 1.4 has none with a mask, there it is struct nx_action_reg_load2, whose
// OXM field follows the subtype at once.
func appendSetField(b []byte, v Version, a flow.Action) ([]byte, error) {
	start := len(b)
	t := flow.Term{Field: a.Field, Value: flow.Low(a.Value), Mask: flow.Low(a.Mask)}
	if v == Version14 && !t.Exact() {
		b = appendNicira(b, 0, niciraLoad2)
	} else {
		b = be16(be16(b, actionSetField), 0)
	}
	b, err := appendTerm(b, t)
	if err != nil {
		return nil, err
	}
	b = pad8(b, start)
	length := len(b) - start
	b[start+2], b[start+3] = byte(length>>8), byte(length)
	return b, nil
}

// appendNicira begins an experimenter action of Nicira: struct nx_action_header.
func appendNicira(b []byte, length, subtype uint16) []byte {
	b = be32(be16(be16(b, actionExperimenter), length), niciraVendor)
	return be16(b, subtype)
}

// appendMove writes struct nx_action_reg_move, or in OpenFlow 1.5, where OVS takes that no more, OFPAT_COPY_FIELD.
func appendMove(b []byte, v Version, a flow.Action) ([]byte, error) {
	from, err := oxmOf(a.From)
	if err != nil {
		return nil, err
	}
	to, err := oxmOf(a.Field)
	if err != nil {
		return nil, err
	}
	headers := be32(be32(nil, from.header(false, from.bytes)), to.header(false, to.bytes))
	bits := uint16(a.Field.Bits())
	if v == Version14 {
		return append(zeros(be16(appendNicira(b, 24, niciraMove), bits), 4), headers...), nil
	}
	b = zeros(be16(be16(be16(b, actionCopyField), 24), bits), 6)
	return zeros(append(b, headers...), 4), nil
}

// Flow-mod commands and wildcards, OpenFlow 1.4 section 7.3.4.2.
const (
	commandAdd          = 0
	commandDeleteStrict = 4
	noBuffer            = 0xffffffff
	anyPort             = 0xffffffff
)

// appendFlowModHead writes the fixed part of struct ofp_flow_mod, the same in 1.4 and 1.5.
func appendFlowModHead(b []byte, cookie, cookieMask uint64, table, command uint8, priority uint16) []byte {
	b = be64(be64(b, cookie), cookieMask)
	b = append(b, table, command)
	b = be16(be32(b, 0), priority) // no idle and no hard timeout
	b = be32(be32(be32(b, noBuffer), anyPort), anyPort)
	return be32(b, 0) // flags and importance
}

// appendAdd writes an OFPFC_ADD of the flow with its cookie.
func appendAdd(b []byte, v Version, xid uint32, f flow.Flow) ([]byte, error) {
	start := len(b)
	b = begin(b, v, typeFlowMod, xid)
	b = appendFlowModHead(b, f.Cookie, 0, f.Table, commandAdd, f.Priority)
	b, err := appendMatch(b, f.Match)
	if err != nil {
		return nil, err
	}
	if b, err = appendInstructions(b, v, f.Actions); err != nil {
		return nil, err
	}
	return end(b, start), nil
}

// appendDelete writes an OFPFC_DELETE_STRICT that touches nothing but the flow with just this table, priority, match and
// cookie. match is a finished ofp_match.
func appendDelete(b []byte, v Version, xid uint32, table uint8, priority uint16, cookie uint64, match []byte) []byte {
	start := len(b)
	b = begin(b, v, typeFlowMod, xid)
	b = appendFlowModHead(b, cookie, ^uint64(0), table, commandDeleteStrict, priority)
	return end(append(b, match...), start)
}
