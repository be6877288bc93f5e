package audit

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// router checks routers, their ports and their placement.
func (a *auditor) router() {
	for id, r := range a.routers {
		typed, err := model.RouterFrom(r)
		if err != nil {
			a.unread("router %s: %v", id, err)
			continue
		}
		a.count(r)
		a.plan(id, typed.Nodes)
		if g := typed.Gateway; g != nil {
			a.leg(id, g.Port, g.Network, g.FixedIPs, model.OwnerRouterGateway)
			if n := a.networks[g.Network]; n != nil && !n.GetExternal() {
				a.findf("router %s has its gateway on network %s, which is not external", id, g.Network)
			}
		}
		for _, in := range typed.Interfaces {
			a.leg(id, in.Port, in.Network, []model.FixedIP{{Subnet: in.Subnet, IP: in.IP}}, model.OwnerRouterInterface)
		}
		if (typed.Gateway != nil || len(typed.Interfaces) > 0) && r.GetPlacement() == nil {
			a.findf("router %s is attached to a network but was never placed", id)
		}
		a.behind(typed)
	}
}

// plan checks the bindings of the nodes that hold a router, and the node that forwards: one of them, any one. Only its
// binding may tell it to hand over, to another of them. A router that lost its place keeps active/, without a node, for its
// epoch.
func (a *auditor) plan(id string, nodes []string) {
	key := keys.Active(id)
	active, _ := a.derived[key].(*storev1.ActiveRouter)
	for rank, node := range nodes {
		want := &storev1.RouterBinding{Rank: int32(rank), Nodes: nodes} //nolint:gosec // a few nodes
		have, _ := a.derived[keys.HostObject(node, keys.KindRouter, id)].(*storev1.RouterBinding)
		if to := have.GetHandOver(); slices.Contains(nodes, to) && to != node {
			want.HandOver = to // after a takeover the former holder's may still say so, and is ignored
		}
		a.expect(keys.HostObject(node, keys.KindRouter, id), want)
	}
	switch {
	case slices.Contains(nodes, active.GetNode()):
		a.expect(key, &storev1.ActiveRouter{Node: active.GetNode()})
	case len(nodes) > 0:
		a.expect(key, &storev1.ActiveRouter{Node: nodes[0]})
	case active != nil:
		a.expect(key, &storev1.ActiveRouter{})
	}
}

// leg checks that a port of a router's is what the router says of it.
func (a *auditor) leg(router, port, network string, fixed []model.FixedIP, owner string) {
	p := a.ports[port]
	if p.GetNetworkId() != network || p.GetDeviceOwner() != owner || p.GetDeviceId() != router || p.GetBoundHost() != "" {
		a.findf("router %s: its port %s is missing or another's", router, port)
		return
	}
	same := len(p.GetFixedIps()) == len(fixed)
	for i, f := range p.GetFixedIps() {
		same = same && f.GetSubnetId() == fixed[i].Subnet && f.GetIpAddress() == fixed[i].IP.String()
	}
	if !same {
		a.findf("router %s: its port %s has other addresses than it says", router, port)
	}
}

// behind checks that no two subnets of a router overlap and that its routes lead into one of them.
func (a *auditor) behind(r model.Router) {
	var ids []string
	for _, in := range r.Interfaces {
		ids = append(ids, in.Subnet)
	}
	if r.Gateway != nil {
		for _, f := range r.Gateway.FixedIPs {
			ids = append(ids, f.Subnet)
		}
	}
	var cidrs []netip.Prefix
	for _, id := range ids {
		cidr, err := netip.ParsePrefix(a.subnets[id].GetCidr())
		if err != nil {
			a.findf("router %s: its subnet %s does not exist", r.ID, id)
			continue
		}
		if r.Gateway == nil || !slices.ContainsFunc(r.Gateway.FixedIPs, func(f model.FixedIP) bool { return f.Subnet == id }) {
			for _, o := range cidrs {
				if o.Overlaps(cidr) {
					a.findf("router %s: its subnets %s and %s overlap", r.ID, o, cidr)
				}
			}
		}
		cidrs = append(cidrs, cidr)
	}
	for _, route := range r.Routes {
		if !slices.ContainsFunc(cidrs, func(c netip.Prefix) bool { return c.Contains(route.NextHop) }) {
			a.findf("router %s: next hop %s lies in none of its subnets", r.ID, route.NextHop)
		}
	}
}

// floatingIP checks floating IPs and where they lead.
func (a *auditor) floatingIP() {
	for id, f := range a.floating {
		typed, err := model.FloatingIPFrom(f)
		if err != nil {
			a.unread("floating IP %s: %v", id, err)
			continue
		}
		scope := keys.Unassociated
		if typed.Router != "" {
			scope = typed.Router
		}
		a.locator(keys.KindFloatingIP, id, scope)
		a.count(f)
		if n := a.networks[typed.Network]; !n.GetExternal() {
			a.findf("floating IP %s: its network %s does not exist or is not external", id, typed.Network)
		}
		a.floatingAddress(typed)
		if typed.Port != "" {
			a.claim(keys.FloatingClaim(typed.Port, typed.Fixed, typed.Router), keys.KindFloatingIP, id)
			a.leads(typed)
		}
	}
}

func (a *auditor) floatingAddress(f model.FloatingIP) {
	for _, s := range a.subnetsOf[f.Network] {
		if cidr, err := netip.ParsePrefix(s.GetCidr()); err == nil && cidr.Contains(f.IP) {
			a.claim(keys.AddressClaim(s.GetId(), f.IP), keys.KindFloatingIP, f.ID)
			return
		}
	}
	a.findf("floating IP %s: its address %s is in no subnet of its network", f.ID, f.IP)
}

// leads checks that the router connects the fixed address to the floating IP's network.
func (a *auditor) leads(f model.FloatingIP) {
	port, router := a.ports[f.Port], a.routers[f.Router]
	i := slices.IndexFunc(port.GetFixedIps(), func(x *weftv1.FixedIp) bool { return x.GetIpAddress() == f.Fixed.String() })
	if i < 0 {
		a.findf("floating IP %s leads to %s of port %s, which has no such address", f.ID, f.Fixed, f.Port)
		return
	}
	subnet := port.GetFixedIps()[i].GetSubnetId()
	attached := slices.ContainsFunc(router.GetInterfaces(), func(in *weftv1.RouterInterface) bool { return in.GetSubnetId() == subnet })
	if router.GetExternalGateway().GetNetworkId() != f.Network || !attached {
		a.findf("floating IP %s: router %s does not connect subnet %s to network %s", f.ID, f.Router, subnet, f.Network)
	}
}
