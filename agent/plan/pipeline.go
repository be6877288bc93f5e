package plan

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Generation is the layout of the pipeline below; it is part of every cookie. A change of the layout needs a new one, so
// that an upgraded agent replaces every flow.
const Generation = 6

// The tables of br-int. Frames carry their network's local VLAN from Classify on; nothing is learned: forwarding is
// computed from where the network's ports are.
const (
	intClassify  uint8 = 0  // which network: by port, or by tag on a patch port; all else is dropped
	intRouters   uint8 = 10 // what routers send, unless the node is silent
	intSource    uint8 = 20 // of guarded ports: what comes from their own addresses
	intSpeech    uint8 = 21 // what of that needs no rule, and what none may say
	intNeighbour uint8 = 22 // neighbour discovery that speaks of their own addresses
	intForward   uint8 = 60 // by network and destination
	intReceive   uint8 = 70 // the policy of the guarded port that a frame is for
	intAdmit     uint8 = 71 // what comes to it without a rule
	intTrack     uint8 = 80 // conntrack
	intJudge     uint8 = 81 // which rules
	intEgress    uint8 = 82 // rules of policies for what their ports send
	intIngress   uint8 = 83 // rules of policies for what their ports get
	intAccept    uint8 = 90 // on, or out
)

// The registers that filters use.
const (
	regPlace  = 4 // atReceiver and withoutState
	regZone   = 5 // the conntrack zone: the network's local VLAN
	regPolicy = 6 // the policy's number
	regPort   = 7 // the OpenFlow number of the port that a frame is for
)

// The tables of br-tun, numbered as in REFERENCE R11.
const (
	tunClassify uint8 = 0  // from br-int, or from which kind of tunnel
	tunOutbound uint8 = 2  // known destination or flood
	tunFromGRE  uint8 = 3  // key -> local VLAN
	tunFromVX   uint8 = 4  // VNI -> local VLAN
	tunUnicast  uint8 = 20 // known MAC -> one tunnel
	tunARP      uint8 = 21 // requests for known addresses are answered here
	tunFlood    uint8 = 22 // every node that has the network
)

// Priorities within intClassify, intForward and a provider bridge's table 0.
const (
	prioPort      = 100
	prioUnicast   = 90
	prioPaired    = 80
	prioQuiet     = 60
	prioFlood     = 50
	prioUnknown   = 10
	prioFromPhys  = 3 // REFERENCE R10
	prioToPhys    = 4 // REFERENCE R10
	prioDropPatch = 2 // REFERENCE R10
	prioKnown     = 1
	prioDefault   = 0
)

// Priorities within intRouters.
const (
	prioAsk      = 20 // a request for an address, or a loud announcement
	prioAnnounce = 10 // a quiet one (agent/garp), or a broadcast reply
)

// QuietMark is the target MAC of requests that announce what no router has to learn (agent/garp). It is a locally administered
// one (IEEE 802), so that nobody owns it.
func QuietMark() flow.MAC { return flow.MAC{0x02, 'w', 'e', 'f', 't', 0} }

// Flows are flows by bridge.
type Flows map[string][]flow.Flow

func (f Flows) add(bridge string, table uint8, priority uint16, match flow.Match, actions ...flow.Action) {
	f[bridge] = append(f[bridge], flow.Flow{Table: table, Priority: priority, Match: match, Actions: actions}.WithCookie(Generation))
}

// baseFlows are the flows that do not depend on any object.
func baseFlows(facts *Facts) Flows {
	out := Flows{}
	anything := flow.NewMatch()
	out.add(BrInt, intClassify, prioDefault, anything)
	out.add(BrInt, intForward, prioDefault, anything)
	out.add(BrInt, intForward, prioQuiet, flow.NewMatch(flow.ARP(), flow.ARPOp(flow.ARPRequest), flow.ARPTHA(QuietMark())))
	out.add(BrInt, intRouters, prioDefault, anything, flow.GotoTable(intForward))
	out.add(BrInt, intRouters, prioAsk, flow.NewMatch(flow.ARP(), flow.ARPOp(flow.ARPRequest), flow.ARPTHA(flow.MAC{})), flow.GotoTable(intForward))
	if facts.Silent {
		out[BrInt] = append(out[BrInt], Silence())
	}
	for _, table := range []uint8{tunClassify, tunFromGRE, tunFromVX, tunFlood} {
		out.add(BrTun, table, prioDefault, anything)
	}
	if in, ok := facts.OFPorts[PatchInt]; ok {
		out.add(BrTun, tunClassify, prioKnown, flow.NewMatch(flow.InPort(in)), flow.GotoTable(tunOutbound))
	}
	out.add(BrTun, tunOutbound, prioDefault, anything, flow.GotoTable(tunUnicast))
	out.add(BrTun, tunOutbound, prioKnown, flow.NewMatch(flow.Multicast()), flow.GotoTable(tunFlood))
	out.add(BrTun, tunOutbound, prioKnown+1, flow.NewMatch(flow.ARP(), flow.ARPOp(flow.ARPRequest), flow.Multicast()), flow.GotoTable(tunARP))
	out.add(BrTun, tunUnicast, prioDefault, anything, flow.GotoTable(tunFlood))
	out.add(BrTun, tunARP, prioDefault, anything, flow.GotoTable(tunFlood))
	for _, bridge := range facts.Bridges {
		out.provider(facts, bridge)
	}
	return out
}

// provider adds a provider bridge's standing flows: what comes from br-int leaves only under a segment that a network's
// flows give it; everything else is the operator's own and switched as ever.
func (f Flows) provider(facts *Facts, bridge string) {
	if phys, ok := facts.OFPorts[PhysPatch(bridge)]; ok {
		f.add(bridge, 0, prioDropPatch, flow.NewMatch(flow.InPort(phys)))
	}
	f.add(bridge, 0, prioKnown, flow.NewMatch(), flow.Normal())
	if in, ok := facts.OFPorts[IntPatch(bridge)]; ok {
		f.add(BrInt, intClassify, prioDropPatch, flow.NewMatch(flow.InPort(in)))
	}
}

// tunnelFlows send what arrives by one tunnel port to the table of its kind.
func tunnelFlows(facts *Facts, t tunnel) Flows {
	out := Flows{}
	table := tunFromVX
	if t.kind == weftv1.NetworkType_NETWORK_TYPE_GRE {
		table = tunFromGRE
	}
	if in, ok := facts.OFPorts[t.name()]; ok {
		out.add(BrTun, tunClassify, prioKnown, flow.NewMatch(flow.InPort(in)), flow.GotoTable(table))
	}
	return out
}

// networkFlows are a network's own flows: the mapping between its segment and its local VLAN, and its floods.
func networkFlows(v *view.View, facts *Facts, id string) Flows {
	out := Flows{}
	n, vlan := v.Networks[id], facts.VLANs[id]
	if n == nil || n.Revision == 0 || vlan == 0 || !n.Object.Up || !n.Held() {
		return out
	}
	if n.Object.Tunnelled() {
		out.tunnelled(v, facts, n, vlan)
	} else {
		out.onProvider(v, facts, n, vlan)
	}
	return out
}

// onVLAN matches a network's frames.
func onVLAN(vlan uint16, terms ...flow.Term) flow.Match {
	return flow.NewMatch(append(terms, flow.VLAN(vlan))...)
}

func (f Flows) tunnelled(v *view.View, facts *Facts, n *view.Network, vlan uint16) {
	patchTun, ok := facts.OFPorts[PatchTun]
	if !ok {
		return
	}
	f.add(BrInt, intClassify, prioFromPhys, onVLAN(vlan, flow.InPort(patchTun)), flow.GotoTable(intForward))
	f.floods(v, facts, n, vlan, patchTun)
	patchInt, ok := facts.OFPorts[PatchInt]
	if !ok {
		return
	}
	table := tunFromVX
	if n.Object.Type == weftv1.NetworkType_NETWORK_TYPE_GRE {
		table = tunFromGRE
	}
	segment := uint64(n.Object.Segment)
	f.add(BrTun, table, prioKnown, flow.NewMatch(flow.TunID(segment)),
		flow.PushVLAN(), flow.SetVLAN(vlan), flow.Output(patchInt))
	flood := []flow.Action{flow.PopVLAN(), flow.SetTunID(segment)}
	for _, t := range tunnelsOf(v, facts, n) {
		if port, ok := facts.OFPorts[t.name()]; ok {
			flood = append(flood, flow.Output(port))
		}
	}
	if len(flood) > 2 {
		f.add(BrTun, tunFlood, prioKnown, onVLAN(vlan), flood...)
	}
}

func (f Flows) onProvider(v *view.View, facts *Facts, n *view.Network, vlan uint16) {
	bridge := facts.Bridges[n.Object.PhysicalNetwork]
	in, ok := facts.OFPorts[IntPatch(bridge)]
	if !ok || bridge == "" {
		return
	}
	phys, ok := facts.OFPorts[PhysPatch(bridge)]
	if !ok {
		return
	}
	if n.Object.Type == weftv1.NetworkType_NETWORK_TYPE_FLAT {
		f.add(BrInt, intClassify, prioFromPhys, flow.NewMatch(flow.InPort(in), flow.Untagged()),
			flow.PushVLAN(), flow.SetVLAN(vlan), flow.GotoTable(intForward))
		f.add(bridge, 0, prioToPhys, onVLAN(vlan, flow.InPort(phys)), flow.PopVLAN(), flow.Normal())
	} else {
		segment := uint16(n.Object.Segment) //nolint:gosec // checked by package model: 1..4094
		f.add(BrInt, intClassify, prioFromPhys, onVLAN(segment, flow.InPort(in)), flow.SetVLAN(vlan), flow.GotoTable(intForward))
		f.add(bridge, 0, prioToPhys, onVLAN(vlan, flow.InPort(phys)), flow.SetVLAN(segment), flow.Normal())
	}
	f.floods(v, facts, n, vlan, in)
}

// floods are a network's flows on br-int for group and unknown addresses: out by the uplink, and groups to the local
// ports. A frame never goes back where it came from, so nothing goes from uplink to uplink. Routers' announcements of
// addresses whose MAC is known go out by the uplink alone: a node with hundreds of routers on one external network would
// have each of them hear all others.
func (f Flows) floods(v *view.View, facts *Facts, n *view.Network, vlan uint16, uplink uint32) {
	f.add(BrInt, intForward, prioUnknown, onVLAN(vlan), flow.Output(uplink))
	if hasRouter(n) {
		f.add(BrInt, intRouters, prioAnnounce, onVLAN(vlan, flow.ARP(), flow.Multicast()), flow.Output(uplink))
	}
	out := []flow.Action{flow.Output(uplink), flow.PopVLAN()}
	plain, guarded := localOFPorts(v, facts, n)
	f.add(BrInt, intForward, prioFlood, onVLAN(vlan, flow.Multicast()), slices.Concat(out, reach(plain, guarded))...)
	for mac, ports := range paired(v, facts, n) {
		f.add(BrInt, intForward, prioPaired, onVLAN(vlan, flow.EthDst(mac)), slices.Concat(out, reach(nil, ports))...)
	}
}

// hasRouter reports whether a router of this node is on the network.
func hasRouter(n *view.Network) bool {
	for id := range n.Local {
		if p := n.Ports[id].Object; p.OfRouter() {
			return true
		}
	}
	return false
}

// localOFPorts lists the OpenFlow numbers of the network's ports on this node that are to pass frames, sorted: those that pass
// all, and those that are guarded.
func localOFPorts(v *view.View, facts *Facts, n *view.Network) (plain, guarded []uint32) {
	for id := range n.Local {
		p := n.Ports[id].Object
		if port, ok := filteredPort(v, facts, p); ok {
			guarded = append(guarded, port)
		} else if port, ok := OFPort(facts, p); ok && p.Up && (!p.Secure || p.Hybrid && bridgeFiltered(facts, p)) {
			plain = append(plain, port)
		}
	}
	slices.Sort(plain)
	slices.Sort(guarded)
	return plain, guarded
}

// InterfaceName is the name of a port's interface on this node; "" when none is plugged.
func InterfaceName(facts *Facts, p model.Port) string {
	if prefix := devicePrefix(p); prefix != "" {
		return DeviceName(prefix, p.ID)
	}
	return facts.Plugged[p.ID].Name
}

// OFPort is the OpenFlow number of a port of this node, whether weft's own device or a VM's; false while it has none.
func OFPort(facts *Facts, p model.Port) (uint32, bool) {
	if prefix := devicePrefix(p); prefix != "" {
		n, ok := facts.OFPorts[DeviceName(prefix, p.ID)]
		return n, ok
	}
	plugged, ok := facts.Plugged[p.ID]
	return plugged.OFPort, ok && plugged.OFPort != 0
}

// devicePrefix is the prefix of the device that weft makes for a port; "" for a port that somebody else plugs.
func devicePrefix(p model.Port) string {
	switch p.DeviceOwner {
	case model.OwnerDHCP:
		return "tap"
	case model.OwnerRouterInterface:
		return "qr-"
	case model.OwnerRouterGateway:
		return "qg-"
	default:
		return ""
	}
}

// portFlows are the flows of one port: of a local one on br-int, of one behind a tunnel on br-tun. filter is the policy of a
// local secure port, nil while there is none.
func portFlows(v *view.View, facts *Facts, k view.PortKey, filter *policy) Flows {
	out := Flows{}
	n, vlan := v.Networks[k.Network], facts.VLANs[k.Network]
	if n == nil || n.Revision == 0 || vlan == 0 || !n.Object.Up || !n.Held() {
		return out
	}
	p, ok := n.Ports[k.Port]
	mac, err := flow.ParseMAC(p.Object.MAC)
	if !ok || err != nil || !p.Object.Up {
		return out
	}
	location := n.Location(k.Port)
	if p.Object.DeviceOwner == model.OwnerDHCP && location != "" {
		out.servesDHCP(vlan, mac)
	}
	switch {
	case location == v.Self:
		if port, ok := OFPort(facts, p.Object); ok {
			out.wired(vlan, mac, port, filter, bridgeFiltered(facts, p.Object), p.Object)
		}
	case location != "" && n.Object.Tunnelled():
		out.behindTunnel(v, facts, n, location, vlan, mac, p.Object.FixedIPs)
	}
	return out
}

// Silence is the flow on br-int that drops all that routers send: the node forwards for none of them. It is one flow however
// many they are, so that it is there at once.
func Silence() flow.Flow {
	return flow.Flow{Table: intRouters, Priority: prioPort, Match: flow.NewMatch()}.WithCookie(Generation)
}

// wired are the flows of a local port: none while it is secure and has no filters. filtered: its own bridge has.
func (f Flows) wired(vlan uint16, mac flow.MAC, port uint32, filter *policy, filtered bool, p model.Port) {
	switch {
	case p.Hybrid && p.Secure && filtered:
		f.behindBridge(vlan, mac, port, p)
	case p.Hybrid && p.Secure:
	case p.Secure && filter != nil:
		f.guarded(vlan, mac, port, filter, p)
	case p.Secure:
	case p.OfRouter():
		f.local(vlan, mac, port, intRouters)
	default:
		f.local(vlan, mac, port, intForward)
	}
}

// local lets a port's untagged frames in, on to table next, and frames to its address out.
func (f Flows) local(vlan uint16, mac flow.MAC, port uint32, next uint8) {
	f.add(BrInt, intClassify, prioPort, flow.NewMatch(flow.InPort(port), flow.Untagged()),
		flow.PushVLAN(), flow.SetVLAN(vlan), flow.GotoTable(next))
	f.add(BrInt, intForward, prioUnicast, onVLAN(vlan, flow.EthDst(mac)), flow.PopVLAN(), flow.Output(port))
}

func (f Flows) behindTunnel(v *view.View, facts *Facts, n *view.Network, node string, vlan uint16, mac flow.MAC, ips []model.FixedIP) {
	t, ok := tunnelTo(v, facts, n, node)
	if !ok {
		return
	}
	port, ok := facts.OFPorts[t.name()]
	if !ok {
		return
	}
	f.add(BrTun, tunUnicast, prioKnown+1, onVLAN(vlan, flow.EthDst(mac)),
		flow.PopVLAN(), flow.SetTunID(uint64(n.Object.Segment)), flow.Output(port))
	for _, ip := range ips {
		f.answerARP(vlan, mac, ip.IP)
	}
}

// answerARP turns a request for the address around into the reply that its owner would give (RFC 826).
func (f Flows) answerARP(vlan uint16, mac flow.MAC, ip netip.Addr) {
	f.add(BrTun, tunARP, prioKnown, onVLAN(vlan, flow.ARP(), flow.ARPOp(flow.ARPRequest), flow.ARPTPA(ip)),
		flow.Move(flow.FieldEthSrc, flow.FieldEthDst), flow.SetEthSrc(mac), flow.SetARPOp(flow.ARPReply),
		flow.Move(flow.FieldARPSHA, flow.FieldARPTHA), flow.Move(flow.FieldARPSPA, flow.FieldARPTPA),
		flow.SetARPSHA(mac), flow.SetARPSPA(ip), flow.BackToInPort())
}
