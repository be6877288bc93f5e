package audit

import (
	"net/netip"

	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// rules checks what no single key shows: what the API refuses because of other objects must not have come about by two
// calls that did not see each other.
func (a *auditor) rules() {
	a.segmentRanges()
	a.projects()
	a.places()
	for id, p := range a.ports {
		a.hostAddresses("port "+id, p.GetDeviceOwner() == model.OwnerRouterInterface, p.GetFixedIps())
		if p.GetHost() == "" && p.GetBoundHost() != "" && !a.plugs[keys.Plug(p.GetBoundHost(), id)] {
			a.findf("port %s names no host and is bound to node %s, where it is not plugged", id, p.GetBoundHost())
		}
	}
}

// segmentRanges checks that no two ranges of one type and physical network overlap.
func (a *auditor) segmentRanges() {
	for i, r := range a.ranges {
		if _, err := model.SegmentRangeFrom(r); err != nil {
			a.findf("segment range %s: %v", r.GetId(), err)
		}
		for _, o := range a.ranges[:i] {
			same := o.GetType() == r.GetType() && o.GetPhysicalNetwork() == r.GetPhysicalNetwork()
			if same && o.GetMinimum() <= r.GetMaximum() && r.GetMinimum() <= o.GetMaximum() {
				a.findf("segment ranges %s and %s overlap", r.GetId(), o.GetId())
			}
		}
	}
}

// projects checks that private networks hold nothing of projects to which they are not granted but gateways, and that a floating IP and its port
// are of one project.
func (a *auditor) projects() {
	private := func(network, project string) bool {
		n := a.networks[network]
		return n != nil && !n.GetShared() && n.GetProject() != project && a.grants[record.GrantID(network, project)] == nil
	}
	for id, s := range a.subnets {
		if private(s.GetNetworkId(), s.GetProject()) {
			a.findf("subnet %s is of project %s, in another's private network", id, s.GetProject())
		}
	}
	for id, p := range a.ports {
		way := p.GetDeviceOwner() == model.OwnerRouterGateway && a.networks[p.GetNetworkId()].GetExternal()
		if !way && private(p.GetNetworkId(), p.GetProject()) {
			a.findf("port %s is of project %s, in another's private network", id, p.GetProject())
		}
	}
	for id, f := range a.floating {
		if p := a.ports[f.GetPortId()]; p != nil && p.GetProject() != f.GetProject() {
			a.findf("floating IP %s is of project %s, its port %s of project %s", id, f.GetProject(), p.GetId(), p.GetProject())
		}
	}
}

// places checks that what is placed is on nodes that are registered, and that a router is attached to no subnet twice.
func (a *auditor) places() {
	placed := func(what, id string, p *weftv1.Placement) {
		for _, node := range p.GetNodes() {
			if !a.agents[node] {
				a.findf("%s %s is placed on node %s, which is not registered", what, id, node)
			}
		}
	}
	for id, n := range a.networks {
		placed("DHCP of network", id, n.GetDhcpPlacement())
	}
	for _, id := range a.moves {
		if a.routers[id] == nil {
			a.findf("router %s is to move but does not exist", id)
		}
	}
	for id, r := range a.routers {
		placed("router", id, r.GetPlacement())
		seen := map[string]bool{}
		for _, in := range r.GetInterfaces() {
			if seen[in.GetSubnetId()] {
				a.findf("router %s is attached to subnet %s twice", id, in.GetSubnetId())
			}
			seen[in.GetSubnetId()] = true
		}
	}
}

// hostAddresses checks that addresses are hosts' and that only a router's interface has a subnet's gateway address.
func (a *auditor) hostAddresses(who string, ofInterface bool, fixed []*weftv1.FixedIp) {
	for _, f := range fixed {
		if a.subnets[f.GetSubnetId()] == nil {
			continue // found elsewhere
		}
		sub, err := model.SubnetFrom(a.subnets[f.GetSubnetId()])
		ip, bad := netip.ParseAddr(f.GetIpAddress())
		switch {
		case err != nil || bad != nil: // found elsewhere
		case !model.HostAddresses(sub.CIDR).Contains(ip):
			a.findf("%s: %s is no host address of %s", who, ip, sub.CIDR)
		case ip == sub.Gateway && !ofInterface:
			a.findf("%s: %s is the gateway of subnet %s", who, ip, sub.ID)
		}
	}
}
