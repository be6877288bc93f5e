package fleet

import (
	"slices"

	"google.golang.org/protobuf/proto"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (p *planner) router(w where, r Router) {
	obj := &weftv1.Router{Name: r.Name, Project: p.project}
	wish := wish{where: w, phase: phaseRouter, noun: nounRouter, name: r.Name, object: obj, mutable: []string{"admin_state_up", "ha", "pool"}}
	given(&wish, "admin_state_up", r.AdminStateUp, func(b bool) { obj.AdminStateUp = &b })
	given(&wish, "ha", r.HA, func(v int32) { obj.Ha = v })
	given(&wish, "pool", r.Pool, func(s string) { obj.Pool = orNone(s) })
	cur, stored := known(p, p.current.Routers, nounRouter, r.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateRouterRequest{Router: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateRouterRequest{Router: obj, UpdateMask: maskOf(mask)}
		})
	id := p.ids[placeholder(nounRouter, r.Name)]
	if r.Gateway != nil {
		p.gateway(w, id, r, cur.GetExternalGateway())
	}
	if r.Interfaces != nil {
		p.interfaces(w, id, r, cur.GetInterfaces())
	}
	if r.Routes != nil {
		p.routes(w, id, r, cur.GetRoutes())
	}
	p.unchanged(phaseRouter, nounRouter, r.Name)
}

func (p *planner) gateway(w where, id string, r Router, cur *weftv1.ExternalGateway) {
	if orNone(r.Gateway.Network) == "" {
		if cur != nil {
			p.update(phaseClearGateway, nounRouter, r.Name, "gateway cleared", &weftv1.ClearRouterGatewayRequest{RouterId: id})
		}
		return
	}
	want := &weftv1.ExternalGateway{NetworkId: p.networkID(w, r.Gateway.Network), EnableSnat: proto.Bool(cur == nil || snat(cur))}
	if r.Gateway.EnableSNAT != nil {
		want.EnableSnat = r.Gateway.EnableSNAT
	}
	sameNetwork := cur != nil && cur.GetNetworkId() == want.GetNetworkId()
	switch {
	case r.Gateway.IPAddresses != nil:
		for _, ip := range r.Gateway.IPAddresses {
			want.FixedIps = append(want.FixedIps, &weftv1.FixedIp{IpAddress: canonical(ip)})
		}
	case sameNetwork: // its addresses are left as they are
		want.FixedIps = cur.GetFixedIps()
	}
	if sameNetwork && snat(cur) == want.GetEnableSnat() && sameFixedIPs(cur.GetFixedIps(), want.GetFixedIps()) {
		return
	}
	ph := phaseGateway
	if r.Gateway.IPAddresses != nil {
		ph = phaseGatewayAt
	}
	p.update(ph, nounRouter, r.Name, "gateway on "+r.Gateway.Network,
		&weftv1.SetRouterGatewayRequest{RouterId: id, ExternalGateway: want})
}

// snat reads enable_snat, whose default is true.
func snat(g *weftv1.ExternalGateway) bool { return g.EnableSnat == nil || g.GetEnableSnat() }

func (p *planner) interfaces(w where, id string, r Router, cur []*weftv1.RouterInterface) {
	left := slices.Clone(cur)
	seen := map[Interface]bool{}
	for _, want := range r.Interfaces {
		if seen[want] {
			p.failf(w, "interfaces: %s stands there twice", want.Subnet+want.Port)
		}
		seen[want] = true
		if (want.Subnet == "") == (want.Port == "") {
			p.failf(w, "interfaces: each needs either a subnet or a port")
			continue
		}
		req := &weftv1.AddRouterInterfaceRequest{RouterId: id}
		name := want.Subnet
		var is func(*weftv1.RouterInterface) bool
		if want.Port != "" {
			port := p.portID(w, want.Port)
			name = "port " + want.Port
			req.Attachment = &weftv1.AddRouterInterfaceRequest_PortId{PortId: port}
			is = func(i *weftv1.RouterInterface) bool { return i.GetPortId() == port }
		} else {
			subnet := p.subnetID(w, want.Subnet)
			req.Attachment = &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: subnet}
			is = func(i *weftv1.RouterInterface) bool { return i.GetSubnetId() == subnet }
		}
		if i := slices.IndexFunc(left, is); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		p.update(phaseInterface, nounRouter, r.Name, "interface in "+name+" added", req)
	}
	for _, i := range left {
		req := &weftv1.RemoveRouterInterfaceRequest{
			RouterId:   id,
			Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: i.GetSubnetId()},
		}
		p.update(phaseRemoveInterface, nounRouter, r.Name, "interface "+i.GetIpAddress()+" removed", req)
	}
}

func (p *planner) routes(w where, id string, r Router, cur []*weftv1.Route) {
	var want []string
	for _, route := range routesOf(r.Routes) {
		if slices.Contains(want, routeText(route)) {
			p.failf(w, "routes: %s stands there twice", routeText(route))
		}
		want = append(want, routeText(route))
		if !slices.ContainsFunc(cur, func(c *weftv1.Route) bool { return routeText(c) == routeText(route) }) {
			p.update(phaseRoute, nounRouter, r.Name, "route "+routeText(route)+" added", &weftv1.AddRouterRouteRequest{RouterId: id, Route: route})
		}
	}
	for _, c := range cur {
		if !slices.Contains(want, routeText(c)) {
			p.update(phaseRemoveRoute, nounRouter, r.Name, "route "+routeText(c)+" removed", &weftv1.RemoveRouterRouteRequest{RouterId: id, Route: c})
		}
	}
}
