package flow

import (
	"fmt"
	"strconv"
	"strings"
)

// TextOptions says how flows are printed. The zero value gives port numbers and no cookie.
type TextOptions struct {
	// PortName gives the name of a port number, "" for one it does not know, which is then printed as a number. Names
	// appear in double quotes, as ovs-ofctl --names prints them.
	PortName func(port uint32) string
	// Cookie puts cookie=0x… first, so that ovs-ofctl add-flows writes it.
	Cookie bool
}

// String is the flow as ovs-ofctl add-flow takes it, without its cookie:
//
//	table=0, priority=100,in_port=3,vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4101->vlan_vid,goto_table:10
func (f Flow) String() string { return f.Text(TextOptions{}) }

// Text is the flow in one line in the syntax of ovs-ofctl(8) "Flow Syntax" for OpenFlow 1.4 and later, terms in the order
// in which ovs-ofctl dump-flows prints them. The text of equal flows is equal.
func (f Flow) Text(o TextOptions) string {
	var b strings.Builder
	if o.Cookie {
		fmt.Fprintf(&b, "cookie=%#x, ", f.Cookie)
	}
	fmt.Fprintf(&b, "table=%d, priority=%d", f.Table, f.Priority)
	for _, t := range f.Match.terms(o) {
		b.WriteString("," + t)
	}
	b.WriteString(" actions=" + actionsText(f.Actions, o))
	return b.String()
}

// Text prints flows one per line, in the order given, each line ended: the content of a file for ovs-ofctl add-flows.
func Text(flows []Flow, o TextOptions) string {
	var b strings.Builder
	for _, f := range flows {
		b.WriteString(f.Text(o) + "\n")
	}
	return b.String()
}

// String is the match as ovs-ofctl writes it; "" matches everything.
func (m Match) String() string { return strings.Join(m.terms(TextOptions{}), ",") }

func (m Match) terms(o TextOptions) []string {
	out := m.appendTerm(nil, FieldConjID, nil, o)
	out = m.appendTerm(out, FieldCTState, nil, o)
	short, covered := m.shorthand()
	if short != "" {
		out = append(out, short)
	}
	for n := range registers {
		out = m.appendTerm(out, FieldReg(n), covered, o)
	}
	for _, f := range [...]Field{
		FieldTunID, FieldMetadata, FieldInPort, FieldVLAN, FieldEthSrc, FieldEthDst, FieldEthType,
		FieldIPv4Src, FieldIPv4Dst, FieldIPv6Src, FieldIPv6Dst, FieldIPProto,
		FieldARPSPA, FieldARPTPA, FieldARPOp, FieldARPSHA, FieldARPTHA, FieldIPFrag,
		FieldICMPType, FieldICMPCode, FieldICMPv6Type, FieldICMPv6Code, FieldNDTarget, FieldNDSLL, FieldNDTLL,
		FieldTCPSrc, FieldUDPSrc, FieldTCPDst, FieldUDPDst, FieldSCTPDst, FieldNone,
	} {
		out = m.appendTerm(out, f, covered, o)
	}
	return out
}

func (m Match) appendTerm(out []string, f Field, covered []Field, o TextOptions) []string {
	for _, c := range covered {
		if c == f {
			return out
		}
	}
	if t, ok := m.Get(f); ok {
		return append(out, t.text(o))
	}
	return out
}

// shorthand is ovs-ofctl's word for the ethertype and IP protocol, and the fields that it says.
func (m Match) shorthand() (string, []Field) {
	eth, ok := m.Get(FieldEthType)
	if !ok {
		return "", nil
	}
	switch eth.Value.Lo {
	case EthTypeARP:
		return "arp", []Field{FieldEthType}
	case EthTypeIPv4:
		return m.protoShorthand("ip", "", ProtoICMP)
	case EthTypeIPv6:
		return m.protoShorthand("ipv6", "6", ProtoICMPv6)
	}
	return "", nil
}

func (m Match) protoShorthand(family, suffix string, icmp uint64) (string, []Field) {
	both := []Field{FieldEthType, FieldIPProto}
	proto, _ := m.Get(FieldIPProto)
	switch proto.Value.Lo {
	case icmp:
		return "icmp" + suffix, both
	case ProtoTCP:
		return "tcp" + suffix, both
	case ProtoUDP:
		return "udp" + suffix, both
	case ProtoSCTP:
		return "sctp" + suffix, both
	}
	return family, both[:1]
}

func (t Term) text(o TextOptions) string {
	i := t.Field.info()
	v := t.Value.Lo
	switch {
	case t.Field == FieldVLAN && t.Exact() && v&VLANPresent != 0:
		return fmt.Sprintf("dl_vlan=%d", v&^VLANPresent)
	case t.Field == FieldVLAN:
		// An exact 0 covers the present bit and the VID, 0x1fff of the 16-bit TCI that ovs-ofctl speaks of.
		return fmt.Sprintf("vlan_tci=0x%04x/0x%04x", v, t.Mask.Lo)
	case i.format == formatPort:
		return i.match + "=" + portText(uint32(v), o)
	case i.format == formatFrag:
		return i.match + "=" + fragText(t)
	case i.format == formatCTState:
		return i.match + "=" + stateText(t)
	case i.format == formatIPv6:
		return i.match + "=" + ipv6Of(t.Value).String() + t.ipv6Mask()
	case t.Exact():
		return i.match + "=" + i.format.text(v)
	case i.format == formatIPv4:
		return i.match + "=" + ipv4Of(v).String() + "/" + maskText(uint32(t.Mask.Lo))
	case i.format == formatMAC || i.format == formatHex:
		return i.match + "=" + i.format.text(v) + "/" + i.format.text(t.Mask.Lo)
	}
	return fmt.Sprintf("%s=%s/%s", t.Field.Name(), t.Value, t.Mask)
}

// ipv6Mask is the prefix length where the mask is one, nothing for a whole address.
func (t Term) ipv6Mask() string {
	n, ok := t.Mask.prefixLength(128)
	switch {
	case !ok:
		return "/" + ipv6Of(t.Mask).String()
	case n == 128:
		return ""
	}
	return "/" + strconv.Itoa(n)
}

// fragText is ovs-ofctl's word for a choice of fragments.
func fragText(t Term) string {
	switch {
	case t.Exact() && t.Value.Zero():
		return "no"
	case t.Exact() && t.Value == t.Field.Full():
		return "later"
	case t == Fragment():
		return "yes"
	}
	return fmt.Sprintf("%s/%s", t.Value, t.Mask)
}

// stateText are the bits of conntrack's state as ovs-ofctl names them.
func stateText(t Term) string {
	var out string
	for i, name := range [...]string{"new", "est", "rel", "rpl", "inv", "trk"} {
		switch bit := uint64(1) << i; {
		case t.Value.Lo&bit != 0:
			out += "+" + name
		case t.Mask.Lo&bit != 0:
			out += "-" + name
		}
	}
	return out
}

// maskText is a prefix length where the mask is one, as ovs-ofctl prints it.
func maskText(mask uint32) string {
	for n := 0; n <= 32; n++ {
		if uint32(0xffffffff)<<(32-n) == mask {
			return strconv.Itoa(n)
		}
	}
	return ipv4Of(uint64(mask)).String()
}

func (f format) text(v uint64) string {
	switch f {
	case formatHex:
		return hex(v)
	case formatMAC:
		return macOf(v).String()
	case formatIPv4:
		return ipv4Of(v).String()
	case formatDecimal, formatPort, formatIPv6, formatFrag, formatCTState:
	}
	return strconv.FormatUint(v, 10)
}

// hex is a number in C's %#x: 0 has no prefix.
func hex(v uint64) string {
	if v == 0 {
		return "0"
	}
	return "0x" + strconv.FormatUint(v, 16)
}

func portText(port uint32, o TextOptions) string {
	switch port {
	case PortInPort:
		return "IN_PORT"
	case PortNormal:
		return "NORMAL"
	case PortLocal:
		return "LOCAL"
	}
	if o.PortName != nil {
		if name := o.PortName(port); name != "" {
			return strconv.Quote(name)
		}
	}
	return strconv.FormatUint(uint64(port), 10)
}

func actionsText(actions []Action, o TextOptions) string {
	if len(actions) == 0 {
		return "drop"
	}
	out := make([]string, len(actions))
	for i, a := range actions {
		out[i] = a.Text(o)
	}
	return strings.Join(out, ",")
}

// String is the action as ovs-ofctl writes it.
func (a Action) String() string { return a.Text(TextOptions{}) }

// Text is the action as ovs-ofctl writes it, with port names if the options give any.
func (a Action) Text(o TextOptions) string {
	i := a.Field.info()
	switch a.Kind {
	case KindOutput:
		return outputText(a.Port, o)
	case KindPushVLAN:
		return "push_vlan:0x8100"
	case KindPopVLAN:
		return "pop_vlan"
	case KindSetField:
		return "set_field:" + i.format.text(a.Value) + a.maskText() + "->" + i.set
	case KindMove:
		return "move:" + a.From.info().nxm + "[]->" + i.nxm + "[]"
	case KindGotoTable:
		return "goto_table:" + strconv.Itoa(int(a.Table))
	case KindResubmit:
		return "resubmit(," + strconv.Itoa(int(a.Table)) + ")"
	case KindResubmitCT:
		return "resubmit(," + strconv.Itoa(int(a.Table)) + ",ct)"
	case KindTrack:
		return a.trackText()
	case KindConjunction:
		return fmt.Sprintf("conjunction(%d,%d/%d)", a.Value, a.Table+1, a.Mask)
	case KindOutputField:
		return "output:" + i.nxm + "[]"
	case KindNone:
	}
	return "invalid"
}

func (a Action) trackText() string {
	var args []string
	if a.Value&trackCommit != 0 {
		args = append(args, "commit")
	}
	if a.Table != noTable {
		args = append(args, "table="+strconv.Itoa(int(a.Table)))
	}
	args = append(args, "zone="+a.Field.info().nxm+"[0..15]")
	return "ct(" + strings.Join(args, ",") + ")"
}

func outputText(port uint32, o TextOptions) string {
	text := portText(port, o)
	switch port {
	case PortInPort, PortNormal, PortLocal:
		return text
	}
	return "output:" + text
}

func (a Action) maskText() string {
	if a.Mask == a.Field.full() {
		return ""
	}
	return "/" + a.Field.info().format.text(a.Mask)
}
