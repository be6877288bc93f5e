package flow

import (
	"fmt"
	"net/netip"
)

// Reserved OpenFlow port numbers (OpenFlow 1.4 section 7.2.1, enum ofp_port_no).
const (
	PortMax    = 0xffffff00
	PortInPort = 0xfffffff8
	PortNormal = 0xfffffffa
	PortLocal  = 0xfffffffe
)

// Kind says what an action does; it enters the cookie's hash, so append only.
type Kind uint8

// The kinds of action.
const (
	KindNone Kind = iota
	KindOutput
	KindPushVLAN
	KindPopVLAN
	KindSetField
	KindMove
	KindGotoTable
	KindResubmit
	KindResubmitCT
	KindTrack
	KindConjunction
	KindOutputField
)

// Action is one step of a flow. Make it with a constructor below; which fields mean something depends on the kind.
// A flow with no action drops the packet.
type Action struct {
	Kind  Kind
	Port  uint32 // output
	Table uint8  // goto_table, resubmit, ct; conjunction: the dimension, from 0
	Field Field  // set_field: the field written; move: the destination; ct: the register that holds the zone; output of a field
	From  Field  // move: the source
	Value uint64 // set_field; ct: flags; conjunction: the id
	Mask  uint64 // set_field: the bits written, all of the field's for an exact value; conjunction: how many dimensions
}

// noTable stands for none where a table may be given.
const noTable = 255

// trackCommit has ct remember the connection (nicira-ext.h, NX_CT_F_COMMIT).
const trackCommit = 1

// Output sends the packet to a port. A packet is never sent to the port it came in by: that is BackToInPort.
func Output(port uint32) Action { return Action{Kind: KindOutput, Port: port} }

// BackToInPort sends the packet out of the port it came in by.
func BackToInPort() Action { return Output(PortInPort) }

// Normal hands the packet to the bridge's own MAC-learning switch.
func Normal() Action { return Output(PortNormal) }

// PushVLAN adds an 802.1Q tag with VID 0; follow it with SetVLAN.
func PushVLAN() Action { return Action{Kind: KindPushVLAN} }

// PopVLAN takes off the outermost tag.
func PopVLAN() Action { return Action{Kind: KindPopVLAN} }

// SetField writes an exact value into a field. The match must guarantee that the packet has the field: OVS refuses the
// flow otherwise. For FieldVLAN the value includes VLANPresent, see SetVLAN.
func SetField(f Field, v uint64) Action { return SetMasked(f, v, f.full()) }

// SetMasked writes the bits of a field that mask selects and leaves the others.
func SetMasked(f Field, v, mask uint64) Action {
	return Action{Kind: KindSetField, Field: f, Value: v, Mask: mask}
}

// SetVLAN rewrites the VID of a tagged packet, 0 to 4095.
func SetVLAN(vid uint16) Action { return SetField(FieldVLAN, VLANPresent|uint64(vid)) }

// SetTunID sets the key with which the packet enters a tunnel.
func SetTunID(id uint64) Action { return SetField(FieldTunID, id) }

// SetReg writes all of register n, 0 to 15.
func SetReg(n int, v uint32) Action { return SetField(FieldReg(n), uint64(v)) }

// SetEthSrc writes the source MAC address.
func SetEthSrc(m MAC) Action { return SetField(FieldEthSrc, m.uint64()) }

// SetEthDst writes the destination MAC address.
func SetEthDst(m MAC) Action { return SetField(FieldEthDst, m.uint64()) }

// SetARPOp writes the operation of an ARP packet.
func SetARPOp(op uint16) Action { return SetField(FieldARPOp, uint64(op)) }

// SetARPSHA writes the sender's MAC address of an ARP packet.
func SetARPSHA(m MAC) Action { return SetField(FieldARPSHA, m.uint64()) }

// SetARPTHA writes the target's MAC address of an ARP packet.
func SetARPTHA(m MAC) Action { return SetField(FieldARPTHA, m.uint64()) }

// SetARPSPA writes the sender's IPv4 address of an ARP packet.
func SetARPSPA(a netip.Addr) Action { return setAddress(FieldARPSPA, a) }

// SetARPTPA writes the target's IPv4 address of an ARP packet.
func SetARPTPA(a netip.Addr) Action { return setAddress(FieldARPTPA, a) }

func setAddress(f Field, a netip.Addr) Action {
	v, ok := ipv4(a)
	if !ok {
		return Action{}
	}
	return SetField(f, v)
}

// Move copies the whole of one field into another of the same width.
func Move(from, to Field) Action { return Action{Kind: KindMove, From: from, Field: to} }

// GotoTable continues in a later table. It must be the last action: it is an instruction that runs after all of them.
func GotoTable(table uint8) Action { return Action{Kind: KindGotoTable, Table: table} }

// Resubmit looks the packet up in another table, then continues with the next action (Nicira extension).
func Resubmit(table uint8) Action { return Action{Kind: KindResubmit, Table: table} }

// ResubmitCT is Resubmit, but the lookup takes the addresses, protocol and ports from the connection that the packet belongs
// to, as they were in its first packet. The match must guarantee that conntrack knows the packet as valid.
func ResubmitCT(table uint8) Action { return Action{Kind: KindResubmitCT, Table: table} }

// Track looks the packet up in conntrack, in the zone that is in the low 16 bits of a register, and continues in a table with
// what it says; the actions after it see the packet as not tracked. The match must guarantee IPv4 or IPv6.
func Track(zone Field, table uint8) Action {
	return Action{Kind: KindTrack, Field: zone, Table: table}
}

// Commit has conntrack remember the connection that the packet begins. The actions after it see the packet as not tracked.
func Commit(zone Field) Action {
	return Action{Kind: KindTrack, Field: zone, Table: noTable, Value: trackCommit}
}

// CommitTrack is Commit and Track in one.
func CommitTrack(zone Field, table uint8) Action {
	return Action{Kind: KindTrack, Field: zone, Table: table, Value: trackCommit}
}

// Conjunction says that the packet matches one dimension, counted from 1, of the n of a conjunction: when it matches all, the
// flow with ConjID(id) of the same table holds (ovs-fields(7), "Conjunctive Match Fields"). A flow has either conjunctions
// alone or other actions; all flows of one id have the same priority.
func Conjunction(id uint32, dimension, n uint8) Action {
	return Action{Kind: KindConjunction, Value: uint64(id), Table: dimension - 1, Mask: uint64(n)}
}

// OutputReg sends the packet to the port whose number is in register n, unless it came from there.
func OutputReg(n int) Action { return Action{Kind: KindOutputField, Field: FieldReg(n)} }

func (a Action) validate() error {
	switch a.Kind {
	case KindOutput:
		return a.validatePort()
	case KindSetField:
		return a.validateSet()
	case KindMove:
		return a.validateMove()
	case KindPushVLAN, KindPopVLAN, KindGotoTable, KindResubmit, KindResubmitCT:
		return nil
	case KindTrack, KindOutputField:
		if _, ok := a.Field.Register(); !ok {
			return fmt.Errorf("action: %s is not a register", a.Field.Name())
		}
		return nil
	case KindConjunction:
		if a.Mask < 2 || a.Mask > 64 || uint64(a.Table) >= a.Mask {
			return fmt.Errorf("action: dimension %d of the %d of a conjunction; they are 1 to n of 2 to 64", a.Table+1, a.Mask)
		}
		return nil
	case KindNone:
	}
	return fmt.Errorf("action: of no known kind, made from a value that its field cannot hold")
}

func (a Action) validatePort() error {
	switch {
	case a.Port == PortInPort, a.Port == PortNormal, a.Port == PortLocal:
		return nil
	case a.Port == 0, a.Port > PortMax:
		return fmt.Errorf("action: output to port %#x, which is not a port number; wait until OVS has given the port one", a.Port)
	}
	return nil
}

func (a Action) validateSet() error {
	if a.Field.info().set == "" {
		return fmt.Errorf("action: set_field: %s cannot be written", a.Field.Name())
	}
	if a.Mask == 0 || (a.Value|a.Mask)&^a.Field.full() != 0 || a.Value&^a.Mask != 0 {
		return fmt.Errorf("action: set_field: value %#x and mask %#x do not fit %s (%d bits)", a.Value, a.Mask, a.Field.Name(), a.Field.Bits())
	}
	if a.Field == FieldVLAN && (a.Value&VLANPresent == 0 || a.Mask != a.Field.full()) {
		return fmt.Errorf("action: set_field: a VLAN without the present bit or with a mask; use PopVLAN to take a tag off")
	}
	return nil
}

func (a Action) validateMove() error {
	if a.From.info().nxm == "" || a.Field.info().nxm == "" || a.From.Bits() != a.Field.Bits() {
		return fmt.Errorf("action: move: %s to %s are not two movable fields of one width", a.From.Name(), a.Field.Name())
	}
	return nil
}
