package plan

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// The devices of a VM that is plugged the hybrid way (REFERENCE R12): its own, and the ends of the pair between its bridge and
// br-int.
const (
	tapDevice    = "tap"
	bridgeDevice = "qvb"
	switchDevice = "qvo"
)

// Misplugged reports whether a port's interface on br-int is not the end of a bridge's pair though the port is to be filtered on
// a bridge of its own: it passes nothing then.
func Misplugged(facts *Facts, p model.Port) bool {
	plugged, ok := facts.Plugged[p.ID]
	return ok && p.Hybrid && p.Secure && plugged.Name != DeviceName(switchDevice, p.ID)
}

// bridgeFiltered reports whether what comes from a port's interface has passed the filters of a bridge of its own.
func bridgeFiltered(facts *Facts, p model.Port) bool {
	return facts.Filtered[p.ID] && !Misplugged(facts, p)
}

// bridged reports whether a local port is to be filtered on a bridge of its own, and can be.
func bridged(v *view.View, facts *Facts, k view.PortKey) bool {
	n := v.Networks[k.Network]
	if n == nil || !n.Local[k.Port] || facts.VLANs[k.Network] == 0 {
		return false
	}
	p := n.Ports[k.Port].Object
	_, plugged := facts.Plugged[k.Port]
	_, settled := v.Groups(k)
	return p.Hybrid && p.Secure && plugged && settled && !Misplugged(facts, p)
}

// planBridged brings the filters of ports with bridges of their own up to date, if what is dirty may concern them. The first
// run gives them even if there are none: an earlier agent may have left some.
func (u *update) planBridged(dirty *view.Dirty) {
	stale := u.bridged == nil || len(u.bridged.Ports) > 0 && len(dirty.Groups)+len(dirty.Addresses) > 0
	for k := range dirty.Ports {
		was, is := u.behindBridges[k], bridged(u.view, u.facts, k)
		stale = u.noteServer(k) || stale || was || is
		if delete(u.behindBridges, k); is {
			u.behindBridges[k] = true
		}
	}
	if !stale {
		return
	}
	u.bridged = u.bridgeFilters()
	u.delta.Bridged = u.bridged
}

// noteServer notes the MAC address of a DHCP server's port, and reports whether filters on bridges are to know of a change.
func (u *update) noteServer(k view.PortKey) bool {
	var now string
	if n := u.view.Networks[k.Network]; n != nil && n.Location(k.Port) != "" {
		p := n.Ports[k.Port].Object
		if mac, err := flow.ParseMAC(p.MAC); err == nil && p.Up && p.DeviceOwner == model.OwnerDHCP { // package model lets no other MAC through
			now = mac.String()
		}
	}
	before := u.dhcpServers[k]
	if delete(u.dhcpServers, k); now != "" {
		u.dhcpServers[k] = now
	}
	return now != before && len(u.behindBridges) > 0
}

// servers are the MAC addresses of a network's DHCP servers, sorted.
func (u *update) servers(network string) []string {
	var out []string
	for k, mac := range u.dhcpServers {
		if k.Network == network {
			out = append(out, mac)
		}
	}
	slices.Sort(out)
	return out
}

// Bridged is the whole plan of the filters of ports with bridges of their own; nil before the first Update.
func (p *Planner) Bridged() *hybrid.Filters { return p.bridged }

func (u *update) bridgeFilters() *hybrid.Filters {
	out := &hybrid.Filters{Rules: map[string][]model.Rule{}, Members: map[string][]netip.Prefix{}, ProtocolNames: u.facts.ProtocolNames}
	for k := range u.behindBridges {
		groups, _ := u.view.Groups(k)
		p := bridgedPort(u.view, u.facts, k, groups)
		p.Servers = u.servers(k.Network)
		out.Ports = append(out.Ports, p)
		for _, id := range groups {
			if _, done := out.Rules[id]; done {
				continue
			}
			out.Rules[id] = rulesOf(u.view, []string{id})
			for _, far := range remotesOf(out.Rules[id]) {
				if _, done := out.Members[far.group]; !done {
					out.Members[far.group] = nil
					u.view.Addresses(far.group, func(p netip.Prefix) { out.Members[far.group] = append(out.Members[far.group], p) })
				}
			}
		}
	}
	return out
}

func bridgedPort(v *view.View, facts *Facts, k view.PortKey, groups []string) hybrid.Port {
	p := v.Networks[k.Network].Ports[k.Port].Object
	out := hybrid.Port{
		ID: k.Port, Tap: DeviceName(tapDevice, k.Port), Out: DeviceName(bridgeDevice, k.Port), Zone: facts.VLANs[k.Network],
		Groups: groups, Stateful: !stateless(v, groups),
	}
	mac, err := flow.ParseMAC(p.MAC)
	if err != nil {
		return out // package model lets none through
	}
	for _, s := range sources(mac, p) {
		for _, prefix := range s.prefixes {
			out.Sources = append(out.Sources, model.AddressPair{Prefix: prefix, MAC: s.mac.String()})
		}
	}
	return out
}

// behindBridge lets in what a port with a filtered bridge of its own says under its own addresses, and hands it what is for it:
// its groups' rules have been applied there, or will be.
func (f Flows) behindBridge(vlan uint16, mac flow.MAC, port uint32, o model.Port) {
	f.add(BrInt, intClassify, prioPort, flow.NewMatch(flow.InPort(port), flow.Untagged()), flow.PushVLAN(), flow.SetVLAN(vlan),
		flow.SetReg(regPlace, judgedBefore), flow.SetReg(regZone, uint32(vlan)), flow.GotoTable(intSource))
	f.add(BrInt, intForward, prioUnicast, onVLAN(vlan, flow.EthDst(mac)), flow.PopVLAN(), flow.Output(port))
	for _, s := range sources(mac, o) {
		f.source(port, s)
	}
}
