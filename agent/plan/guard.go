package plan

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// The UDP ports of DHCP (RFC 2131, RFC 8415).
const (
	dhcpServer, dhcpClient     = 67, 68
	dhcpv6Server, dhcpv6Client = 547, 546
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 2710, RFC 3810, RFC 4861) that filters know of themselves.
const (
	icmpRedirect     = 5
	mldQuery         = 130
	mldReport        = 131
	mldDone          = 132
	routerSolicit    = 133
	routerAdvert     = 134
	neighbourSolicit = flow.NDSolicit
	neighbourAdvert  = flow.NDAdvert
	redirect         = 137
	mldReport2       = 143
)

// noHeader is the protocol that Open vSwitch gives an IPv6 packet whose headers it can't follow to their end.
const noHeader = 0

// Priorities within the tables of filters.
const (
	prioNever       = 30 // what no port may say
	prioRule        = 30
	prioConjunction = 20
	prioStateless   = 20
	prioDefer       = 30
	prioCommit      = 20
	prioFragment    = 15
	prioPass        = 10
)

// Values of regPlace.
const (
	atReceiver   = 1 // the packet has come to the port in regPort, else it is still at its sender
	withoutState = 2 // the port's groups are stateless
	judgedBefore = 4 // the rules have been applied on the port's own bridge
	receiver     = 1 // the mask of atReceiver
)

func udp(ipv6 bool, from, to uint16) flow.Match { return udpTo(ipv6, to).With(flow.UDPSrc(from)) }

func toAll() flow.Term { return flow.EthDst(flow.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) }

func udpTo(ipv6 bool, to uint16) flow.Match {
	return flow.NewMatch(family(ipv6), flow.IPProto(flow.ProtoUDP), flow.UDPDst(to))
}

func icmpv6(kind uint8, terms ...flow.Term) flow.Match {
	return flow.NewMatch(append(terms, flow.IPv6(), flow.IPProto(flow.ProtoICMPv6), flow.Type(flow.FieldICMPv6Type, kind))...)
}

// filterFlows are the flows of filters that do not depend on any object.
func filterFlows() Flows {
	out := Flows{}
	for _, table := range []uint8{intSource, intNeighbour, intReceive, intAdmit, intJudge, intEgress, intIngress} {
		out.add(BrInt, table, prioDefault, flow.NewMatch())
	}
	out.speech()
	out.admission()
	out.judgement()
	out.acceptance()
	return out
}

// speech is what ports may say whatever their rules are, and what none may. Clients of DHCP take an answer from whatever port it
// comes, and its servers are the network's own: a packet to port 67 of anybody else is one like others. IPv6 headers that do not end in their packet, or its first fragment (RFC 7112), may have anything behind them.
// Neighbour discovery comes in no fragments (RFC 6980), and its target is the unspecified address when its options can't be read.
func (f Flows) speech() {
	f.add(BrInt, intSpeech, prioDefault, flow.NewMatch(), flow.GotoTable(intTrack))
	for _, never := range []flow.Match{
		udpTo(false, dhcpClient), udpTo(true, dhcpv6Client),
		flow.NewMatch(flow.IPv4(), flow.IPProto(flow.ProtoICMP), flow.Type(flow.FieldICMPType, icmpRedirect)),
		icmpv6(routerAdvert), icmpv6(redirect), icmpv6(mldQuery),
		flow.NewMatch(flow.IPv6(), flow.IPProto(noHeader)),
		icmpv6(neighbourSolicit, flow.Fragment()), icmpv6(neighbourAdvert, flow.Fragment()),
		icmpv6(neighbourSolicit, flow.NDTarget(nowhere(true))),
	} {
		f.add(BrInt, intSpeech, prioNever, never)
	}
	for _, always := range []flow.Match{
		udp(false, dhcpClient, dhcpServer).With(toAll()), udp(true, dhcpv6Client, dhcpv6Server).With(flow.Multicast()),
		icmpv6(routerSolicit), icmpv6(mldReport), icmpv6(mldDone), icmpv6(mldReport2),
	} {
		f.add(BrInt, intSpeech, prioPass, always, flow.GotoTable(intForward))
	}
	for _, unruly := range []flow.Match{udp(false, dhcpClient, dhcpServer), udp(true, dhcpv6Client, dhcpv6Server)} {
		f.add(BrInt, intSpeech, prioKnown, unruly.With(flow.RegMasked(regPlace, judgedBefore, judgedBefore))) // a bridge lets it out to anybody
	}
	for _, neighbour := range []uint8{neighbourSolicit, neighbourAdvert} {
		f.add(BrInt, intSpeech, prioPass, icmpv6(neighbour), flow.GotoTable(intNeighbour))
	}
}

// admission is what comes to ports whatever their rules are. DHCP's answers are let in by the flows of its servers' ports.
func (f Flows) admission() {
	f.add(BrInt, intAdmit, prioPass, flow.NewMatch(flow.ARP()), flow.OutputReg(regPort))
	for _, kind := range []uint8{mldQuery, routerAdvert, neighbourSolicit, neighbourAdvert} {
		f.add(BrInt, intAdmit, prioPass, icmpv6(kind), flow.OutputReg(regPort))
	}
	for _, ip := range []flow.Term{flow.IPv4(), flow.IPv6()} {
		f.add(BrInt, intAdmit, prioKnown, flow.NewMatch(ip), flow.GotoTable(intTrack))
	}
}

// judgement has conntrack look at what it has not seen, and the rules at every packet: at one that begins a connection or goes
// on in its direction, the rules for that direction; at one that answers, the rules for what it answers, by the addresses and
// ports of the connection's first packet. So a connection is allowed as long as what began it is, both ways, and conntrack
// holds no verdicts that a change of the rules would have to find.
func (f Flows) judgement() {
	f.add(BrInt, intTrack, prioStateless, flow.NewMatch(flow.RegMasked(regPlace, withoutState, withoutState)), flow.GotoTable(intJudge))
	f.add(BrInt, intTrack, prioNever, flow.NewMatch(flow.RegMasked(regPlace, judgedBefore, judgedBefore)), flow.Resubmit(intForward))
	f.add(BrInt, intTrack, prioDefault, flow.NewMatch(), flow.GotoTable(intJudge))
	for place, rules := range map[uint32][2]uint8{0: {intEgress, intIngress}, atReceiver: {intIngress, intEgress}} {
		own, opposite := rules[0], rules[1]
		f.add(BrInt, intJudge, prioStateless, flow.NewMatch(flow.Reg(regPlace, place|withoutState)), flow.GotoTable(own))
		for _, ip := range []flow.Term{flow.IPv4(), flow.IPv6()} {
			f.add(BrInt, intJudge, prioPass, flow.NewMatch(ip, flow.Reg(regPlace, place), flow.CTState(flow.CTTracked, flow.CTInvalid|flow.CTReply)),
				flow.ResubmitCT(own))
			f.add(BrInt, intJudge, prioPass, flow.NewMatch(ip, flow.Reg(regPlace, place), flow.CTState(flow.CTTracked|flow.CTReply, flow.CTInvalid)),
				flow.ResubmitCT(opposite))
		}
	}
	for _, ip := range []flow.Term{flow.IPv4(), flow.IPv6()} {
		f.add(BrInt, intTrack, prioPass, flow.NewMatch(ip, flow.CTState(0, flow.CTTracked)), flow.Track(zoneField(), intJudge))
	}
}

// acceptance is what becomes of packets that the rules allow: a connection that begins is committed, and the packet goes on to
// where it is bound for, or out. If its receiver is guarded and on this node too, it is committed there (guarded): what that one
// refuses must not make its own packets answers. Of a fragmented packet conntrack takes all fragments or none, and in the userspace datapath it
// holds them until it has seen the last: so these are committed when all else is done. Groups have no connections.
func (f Flows) acceptance() {
	unicast, begins := flow.Unicast(), flow.CTState(flow.CTTracked|flow.CTNew, 0)
	for _, ip := range []flow.Term{flow.IPv4(), flow.IPv6()} {
		f.add(BrInt, intAccept, prioCommit, flow.NewMatch(ip, begins, unicast, flow.Whole(), flow.RegMasked(regPlace, 0, receiver)),
			flow.CommitTrack(zoneField(), intForward))
		f.add(BrInt, intAccept, prioFragment, flow.NewMatch(ip, begins, unicast, flow.RegMasked(regPlace, 0, receiver)),
			flow.Resubmit(intForward), flow.Commit(zoneField()))
		f.add(BrInt, intAccept, prioCommit, flow.NewMatch(ip, begins, unicast, flow.Whole(), flow.RegMasked(regPlace, atReceiver, receiver)),
			flow.Commit(zoneField()), flow.OutputReg(regPort))
		f.add(BrInt, intAccept, prioFragment, flow.NewMatch(ip, begins, unicast, flow.RegMasked(regPlace, atReceiver, receiver)),
			flow.OutputReg(regPort), flow.Commit(zoneField()))
	}
	f.add(BrInt, intAccept, prioPass, flow.NewMatch(flow.RegMasked(regPlace, 0, receiver)), flow.Resubmit(intForward))
	f.add(BrInt, intAccept, prioPass, flow.NewMatch(flow.RegMasked(regPlace, atReceiver, receiver)), flow.OutputReg(regPort))
}

func zoneField() flow.Field { return flow.FieldReg(regZone) }

// place is a policy's part of regPlace.
func (p *policy) place() uint32 {
	if p.stateless {
		return withoutState
	}
	return 0
}

// guarded lets in what a port says under its own addresses, and has what comes to it pass its policy.
func (f Flows) guarded(vlan uint16, mac flow.MAC, port uint32, p *policy, o model.Port) {
	f.add(BrInt, intClassify, prioPort, flow.NewMatch(flow.InPort(port), flow.Untagged()), flow.PushVLAN(), flow.SetVLAN(vlan),
		flow.SetReg(regPlace, p.place()), flow.SetReg(regZone, uint32(vlan)), flow.SetReg(regPolicy, p.number), flow.GotoTable(intSource))
	f.add(BrInt, intForward, prioUnicast, onVLAN(vlan, flow.EthDst(mac)), flow.PopVLAN(), flow.SetReg(regPort, port), flow.GotoTable(intReceive))
	f.add(BrInt, intReceive, prioPort, flow.NewMatch(flow.Reg(regPort, port)),
		flow.SetReg(regPlace, atReceiver|p.place()), flow.SetReg(regZone, uint32(vlan)), flow.SetReg(regPolicy, p.number), flow.GotoTable(intAdmit))
	f.add(BrInt, intAccept, prioDefer, onVLAN(vlan, flow.EthDst(mac), flow.CTState(flow.CTTracked|flow.CTNew, 0), flow.RegMasked(regPlace, 0, receiver)),
		flow.Resubmit(intForward))
	for _, s := range sources(mac, o) {
		f.source(port, s)
	}
}

// source is an Ethernet address with the IP addresses that may be used with it.
type source struct {
	mac      flow.MAC
	prefixes []netip.Prefix
}

// sources are a port's own addresses and its address pairs, by Ethernet address, each with its link-local address.
func sources(mac flow.MAC, p model.Port) []source {
	out := []source{{mac, []netip.Prefix{linkLocal(mac)}}}
	for _, f := range p.FixedIPs {
		out[0].prefixes = append(out[0].prefixes, netip.PrefixFrom(f.IP, f.IP.BitLen()))
	}
	for _, pair := range p.Pairs {
		m, err := flow.ParseMAC(pair.MAC)
		if err != nil {
			continue // package model lets none through
		}
		i := slices.IndexFunc(out, func(s source) bool { return s.mac == m })
		if i < 0 {
			i, out = len(out), append(out, source{m, []netip.Prefix{linkLocal(m)}})
		}
		if !slices.Contains(out[i].prefixes, pair.Prefix) {
			out[i].prefixes = append(out[i].prefixes, pair.Prefix)
		}
	}
	return out
}

// nowhere is the unspecified address of a family.
func nowhere(ipv6 bool) netip.Prefix {
	if ipv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 128)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 32)
}

// linkLocal is the address that an interface makes of its Ethernet address (RFC 4291 appendix A).
func linkLocal(m flow.MAC) netip.Prefix {
	a := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
	return netip.PrefixFrom(a, 128)
}

// source lets in what a port says from one Ethernet address.
func (f Flows) source(port uint32, s source) {
	from := func(terms ...flow.Term) flow.Match {
		return flow.NewMatch(append(terms, flow.InPort(port), flow.EthSrc(s.mac))...)
	}
	arp := func(terms ...flow.Term) flow.Match { return from(append(terms, flow.ARP(), flow.ARPSHA(s.mac))...) }
	neighbour := func(kind uint8, terms ...flow.Term) flow.Match { return from(icmpv6(kind, terms...)...) }
	forward := flow.GotoTable(intForward)
	// A host that has no address yet asks for one.
	f.add(BrInt, intSource, prioPass, from(udp(false, dhcpClient, dhcpServer).With(flow.IPv4Src(nowhere(false)), toAll())...), forward)
	for _, kind := range []uint8{routerSolicit, mldReport, mldReport2} {
		f.add(BrInt, intSource, prioPass, neighbour(kind, flow.IPv6Src(nowhere(true))), forward)
	}
	for _, link := range []flow.MAC{s.mac, {}} { // with the option and without
		f.add(BrInt, intNeighbour, prioPass, neighbour(neighbourSolicit, flow.NDSLL(link)), forward)
	}
	for _, p := range s.prefixes {
		// Whether somebody has an address (RFC 5227, RFC 4862) is asked of one's own alone: others would give theirs up.
		if p.Addr().Is4() {
			f.add(BrInt, intSource, prioPass, arp(flow.ARPOp(flow.ARPRequest), flow.ARPSPA(netip.IPv4Unspecified()), flow.ARPTPAIn(p)), forward)
			f.add(BrInt, intSource, prioPass, arp(flow.ARPSPAIn(p)), forward)
			f.add(BrInt, intSource, prioPass, from(flow.IPv4(), flow.IPv4Src(p)), flow.GotoTable(intSpeech))
			continue
		}
		f.add(BrInt, intSource, prioPass, from(flow.IPv6(), flow.IPv6Src(p)), flow.GotoTable(intSpeech))
		f.add(BrInt, intSource, prioPass, neighbour(neighbourSolicit, flow.IPv6Src(nowhere(true)), flow.NDTarget(p), flow.NDSLL(flow.MAC{})), forward)
		for _, link := range []flow.MAC{s.mac, {}} {
			f.add(BrInt, intNeighbour, prioPass, neighbour(neighbourAdvert, flow.NDTarget(p), flow.NDTLL(link)), forward)
		}
	}
}

// servesDHCP lets the guarded ports of a network speak to the port of one of its DHCP servers, and its answers in to them.
func (f Flows) servesDHCP(vlan uint16, mac flow.MAC) {
	zone := flow.Reg(regZone, uint32(vlan))
	f.add(BrInt, intSpeech, prioPass, udp(false, dhcpClient, dhcpServer).With(flow.EthDst(mac), zone), flow.GotoTable(intForward))
	f.add(BrInt, intAdmit, prioPass, udp(false, dhcpServer, dhcpClient).With(flow.EthSrc(mac), zone), flow.OutputReg(regPort))
}

// reach are the actions that hand a copy of a frame without a tag to a network's ports, guarded ones by way of their policies.
func reach(plain, guarded []uint32) []flow.Action {
	var out []flow.Action
	for _, port := range plain {
		out = append(out, flow.Output(port))
	}
	for _, port := range guarded {
		out = append(out, flow.SetReg(regPort, port), flow.Resubmit(intReceive))
	}
	return out
}

// paired are the network's ports on this node that share an Ethernet address by their address pairs, by that address: who has
// it at the moment is not known, so each gets what is sent there.
func paired(v *view.View, facts *Facts, n *view.Network) map[flow.MAC][]uint32 {
	out := map[flow.MAC][]uint32{}
	for id := range n.Local {
		p := n.Ports[id].Object
		port, ok := filteredPort(v, facts, p)
		if !ok {
			continue
		}
		for _, pair := range p.Pairs {
			m, err := flow.ParseMAC(pair.MAC)
			if err == nil && pair.MAC != p.MAC && !slices.Contains(out[m], port) {
				out[m] = append(out[m], port)
			}
		}
	}
	for _, ports := range out {
		slices.Sort(ports)
	}
	return out
}

// filteredPort is the OpenFlow number of a secure port that passes frames.
func filteredPort(v *view.View, facts *Facts, p model.Port) (uint32, bool) {
	_, in := v.Groups(view.PortKey{Network: p.Network, Port: p.ID})
	port, ok := OFPort(facts, p)
	return port, ok && in && p.Up && p.Secure && !p.Hybrid
}
