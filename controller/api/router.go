package api

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type routerService struct {
	weftv1.UnimplementedRouterServiceServer
	*Server
}

func (s *routerService) CreateRouter(ctx context.Context, req *weftv1.CreateRouterRequest) (*weftv1.Router, error) {
	return s.routers.create(ctx, req, req.GetRouter(), s.addRouter)
}

func (s *routerService) GetRouter(ctx context.Context, req *weftv1.GetRouterRequest) (*weftv1.Router, error) {
	return s.routers.get(ctx, req.GetId())
}

func (s *routerService) ListRouters(ctx context.Context, req *weftv1.ListRoutersRequest) (*weftv1.ListRoutersResponse, error) {
	p, err := s.routers.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListRoutersResponse{Routers: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *routerService) UpdateRouter(ctx context.Context, req *weftv1.UpdateRouterRequest) (*weftv1.Router, error) {
	return s.routers.update(ctx, req, req.GetRouter(), func(ctx context.Context, e *edit, before record.Stored[*weftv1.Router], after *weftv1.Router, _ []string) error {
		setTrue(&after.AdminStateUp)
		if _, err := model.RouterFrom(after); err != nil {
			return err
		}
		if before.Msg.GetHa() == after.GetHa() && before.Msg.GetPool() == after.GetPool() {
			return nil
		}
		return s.extendRouter(ctx, e, after)
	})
}

func (s *routerService) DeleteRouter(ctx context.Context, req *weftv1.DeleteRouterRequest) (*emptypb.Empty, error) {
	return s.routers.remove(ctx, req, s.releaseRouter)
}

func (s *routerService) SetRouterGateway(ctx context.Context, req *weftv1.SetRouterGatewayRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "SetGateway", req, func(ctx context.Context, e *edit, r *weftv1.Router) error {
		return s.setGateway(ctx, e, r, req.GetExternalGateway())
	})
}

func (s *routerService) ClearRouterGateway(ctx context.Context, req *weftv1.ClearRouterGatewayRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "ClearGateway", req, s.clearGateway)
}

func (s *routerService) AddRouterInterface(ctx context.Context, req *weftv1.AddRouterInterfaceRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "AddInterface", req, func(ctx context.Context, e *edit, r *weftv1.Router) error {
		return s.addInterface(ctx, e, r, req)
	})
}

func (s *routerService) RemoveRouterInterface(ctx context.Context, req *weftv1.RemoveRouterInterfaceRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "RemoveInterface", req, func(ctx context.Context, e *edit, r *weftv1.Router) error {
		return s.removeInterface(ctx, e, r, req)
	})
}

func (s *routerService) AddRouterRoute(ctx context.Context, req *weftv1.AddRouterRouteRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "AddRoute", req, func(ctx context.Context, e *edit, r *weftv1.Router) error {
		return s.addRoute(ctx, e, r, req.GetRoute())
	})
}

func (s *routerService) RemoveRouterRoute(ctx context.Context, req *weftv1.RemoveRouterRouteRequest) (*weftv1.Router, error) {
	return s.reroute(ctx, "RemoveRoute", req, func(_ context.Context, _ *edit, r *weftv1.Router) error {
		i := slices.IndexFunc(r.GetRoutes(), func(have *weftv1.Route) bool { return proto.Equal(have, req.GetRoute()) })
		if i < 0 {
			return fault.NotFound("route of "+s.routers.Label(r), req.GetRoute().GetDestination()+" via "+req.GetRoute().GetNexthop())
		}
		r.Routes = slices.Delete(r.Routes, i, i+1)
		return nil
	})
}

// routerRequest is the request of a method that changes a router's ways.
type routerRequest interface {
	requester
	GetRouterId() string
}

// reroute changes a router by its own methods.
func (s *Server) reroute(ctx context.Context, verb string, req routerRequest, change func(context.Context, *edit, *weftv1.Router) error) (*weftv1.Router, error) {
	c, err := s.routers.call(ctx, verb, req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	return s.routers.mutate(ctx, c, func(ctx context.Context, e *edit) (built[*weftv1.Router], error) {
		before, err := s.routers.own(ctx, e.View, req.GetRouterId())
		if err != nil {
			return built[*weftv1.Router]{}, err
		}
		after := before.Copy()
		return s.routers.rewrite(ctx, e, before, after, func() error {
			if err := change(ctx, e, after); err != nil {
				return err
			}
			_, err := model.RouterFrom(after)
			return err
		})
	})
}

func (s *Server) addRouter(ctx context.Context, e *edit, r *weftv1.Router) error {
	r.ExternalGateway, r.Interfaces, r.Routes, r.Placement = nil, nil, nil, nil
	setDefault(&r.Project, model.DefaultProject)
	setTrue(&r.AdminStateUp)
	if _, err := model.RouterFrom(r); err != nil {
		return err
	}
	if err := s.routers.count(ctx, e, r); err != nil {
		return err
	}
	putNew(e, s.routers.Kind, r)
	return nil
}

func (s *Server) releaseRouter(ctx context.Context, e *edit, r record.Stored[*weftv1.Router]) error {
	var obstacles []string
	for _, in := range r.Msg.GetInterfaces() {
		obstacles = append(obstacles, "interface "+in.GetIpAddress()+" (port "+in.GetPortId()+", subnet "+in.GetSubnetId()+")")
	}
	if err := fault.Obstacles(s.routers.Label(r.Msg)+" can't be deleted", obstacles); err != nil {
		return err
	}
	if err := s.deleteGatewayPort(ctx, e, r.Msg); err != nil {
		return err
	}
	for _, node := range r.Msg.GetPlacement().GetNodes() {
		e.txn.Delete(keys.HostObject(node, keys.KindRouter, r.Msg.GetId()))
	}
	e.txn.Delete(keys.Active(r.Msg.GetId()))
	e.txn.Delete(keys.Move(r.Msg.GetId()))
	return nil
}

func (s *Server) deleteGatewayPort(ctx context.Context, e *edit, r *weftv1.Router) error {
	g := r.GetExternalGateway()
	if g == nil {
		return nil
	}
	return s.deleteRouterPort(ctx, e, g.GetNetworkId(), g.GetPortId())
}

// deleteRouterPort deletes a port of a router's own, unless it is gone: one that nobody could read an admin has deleted.
func (s *Server) deleteRouterPort(ctx context.Context, e *edit, network, id string) error {
	port, err := s.ports.At(ctx, e.View, network, id)
	switch {
	case fault.IsNotFound(err):
		return nil
	case err != nil:
		return err
	default:
		return e.place().DeletePort(ctx, port)
	}
}

func (s *Server) setGateway(ctx context.Context, e *edit, r *weftv1.Router, want *weftv1.ExternalGateway) error {
	if want == nil {
		return model.Invalid("external_gateway", "is required")
	}
	net, subnets, err := s.networkFor(ctx, e, want.GetNetworkId())
	if err != nil {
		return err
	}
	if err := checkGuest(ctx, net.Msg.GetProject(), &weftv1.Port{FixedIps: r.GetExternalGateway().GetFixedIps()}, &weftv1.Port{FixedIps: want.GetFixedIps()}); err != nil {
		return err
	}
	if !net.Msg.GetExternal() {
		return fault.Precondition("%s is not external, so it can't be the gateway of %s", s.networks.Label(net.Msg), s.routers.Label(r))
	}
	if len(subnets) == 0 {
		return fault.Precondition("%s has no subnet to take the gateway's address from", s.networks.Label(net.Msg))
	}
	guard(e, net)
	old := r.GetExternalGateway()
	if old != nil && old.GetNetworkId() != want.GetNetworkId() {
		if err := s.checkGatewayUnused(ctx, e, r); err != nil {
			return err
		}
	}
	next := &weftv1.ExternalGateway{NetworkId: want.GetNetworkId(), EnableSnat: proto.Bool(orTrue(want.EnableSnat))} //nolint:protogetter // presence
	port, err := s.gatewayPort(ctx, e, r, subnets, want)
	if err != nil {
		return err
	}
	next.PortId, next.FixedIps = port.GetId(), port.GetFixedIps()
	r.ExternalGateway = next
	if err := s.checkBehind(ctx, e, r, subnets, next.GetFixedIps()); err != nil {
		return err
	}
	if err := s.checkRoutes(ctx, e, r); err != nil {
		return err
	}
	return s.extendRouter(ctx, e, r)
}

// gatewayPort makes, changes or keeps the gateway's port.
func (s *Server) gatewayPort(ctx context.Context, e *edit, r *weftv1.Router, subnets []record.Stored[*weftv1.Subnet], want *weftv1.ExternalGateway) (*weftv1.Port, error) {
	old := r.GetExternalGateway()
	if old.GetNetworkId() != want.GetNetworkId() {
		if err := s.deleteGatewayPort(ctx, e, r); err != nil {
			return nil, err
		}
		port := s.routerPort(e, r, want.GetNetworkId(), model.OwnerRouterGateway)
		port.FixedIps = want.GetFixedIps()
		return port, s.newPort(ctx, e, port, subnets, 0)
	}
	before, err := s.ports.At(ctx, e.View, old.GetNetworkId(), old.GetPortId())
	if err != nil || len(want.GetFixedIps()) == 0 {
		return before.Msg, err
	}
	after := before.Copy()
	a := addresser{edit: e, server: s, subnets: subnets}
	if after.FixedIps, err = a.resolve(ctx, want.GetFixedIps(), before.Msg.GetFixedIps()); err != nil {
		return nil, err
	}
	if proto.Equal(after, before.Msg) {
		return before.Msg, nil
	}
	if err := s.checkHeld(ctx, e, before.Msg, after); err != nil {
		return nil, err
	}
	after.UpdateTime = e.now
	return after, e.place().PutPort(&before, after)
}

// routerPort is a new port of a router's own.
func (s *Server) routerPort(e *edit, r *weftv1.Router, network, owner string) *weftv1.Port {
	return &weftv1.Port{
		Id: uuid.NewString(), Project: r.GetProject(), NetworkId: network, DeviceId: r.GetId(), DeviceOwner: owner,
		CreateTime: e.now, UpdateTime: e.now,
	}
}

// checkGatewayUnused refuses while floating IPs need the router's gateway.
func (s *Server) checkGatewayUnused(ctx context.Context, e *edit, r *weftv1.Router) error {
	all, err := s.floating.Under(ctx, e.View, keys.FloatingIPs(r.GetId()))
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.FloatingIPs(r.GetId()), e.Revision())
	var obstacles []string
	for _, f := range all {
		obstacles = append(obstacles, floatingLabelFor(ctx, f.Msg))
	}
	return fault.Obstacles("the gateway of "+s.routers.Label(r)+" can't be taken away", obstacles)
}

func floatingLabel(f *weftv1.FloatingIp) string {
	return fault.Label("floating IP "+f.GetIpAddress(), f.GetName(), f.GetId())
}

// floatingLabelFor is floatingLabel as labelFor.
func floatingLabelFor(ctx context.Context, f *weftv1.FloatingIp) string {
	return labelFor(ctx, "floating IP", f.GetProject(), floatingLabel(f))
}

func (s *Server) clearGateway(ctx context.Context, e *edit, r *weftv1.Router) error {
	if r.GetExternalGateway() == nil {
		return nil
	}
	if err := s.checkGatewayUnused(ctx, e, r); err != nil {
		return err
	}
	if err := s.deleteGatewayPort(ctx, e, r); err != nil {
		return err
	}
	r.ExternalGateway = nil
	if err := s.checkRoutes(ctx, e, r); err != nil {
		return err
	}
	return s.placeRouter(ctx, e, r)
}

// leg is a subnet that a router is attached to.
type leg struct {
	subnet record.Stored[*weftv1.Subnet]
	cidr   netip.Prefix
	own    []netip.Addr
}

// legs reads the subnets that a router is attached to, its gateway's included.
func (s *Server) legs(ctx context.Context, e *edit, r *weftv1.Router) ([]leg, error) {
	var out []leg
	add := func(network, subnet, address string) error {
		sub, err := s.subnets.At(ctx, e.View, network, subnet)
		if err != nil {
			return err
		}
		l := leg{subnet: sub}
		if l.cidr, err = netip.ParsePrefix(sub.Msg.GetCidr()); err != nil {
			return fault.Damaged(s.subnets.Label(sub.Msg), err)
		}
		if ip, err := netip.ParseAddr(address); err == nil {
			l.own = append(l.own, ip)
		}
		out = append(out, l)
		return nil
	}
	for _, in := range r.GetInterfaces() {
		if err := add(in.GetNetworkId(), in.GetSubnetId(), in.GetIpAddress()); err != nil {
			return nil, err
		}
	}
	for _, f := range r.GetExternalGateway().GetFixedIps() {
		if err := add(r.GetExternalGateway().GetNetworkId(), f.GetSubnetId(), f.GetIpAddress()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkBehind refuses a gateway whose subnets overlap one behind the router.
func (s *Server) checkBehind(ctx context.Context, e *edit, r *weftv1.Router, subnets []record.Stored[*weftv1.Subnet], fixed []*weftv1.FixedIp) error {
	inside, err := s.legs(ctx, e, &weftv1.Router{Interfaces: r.GetInterfaces()})
	if err != nil {
		return err
	}
	for _, sub := range subnets {
		if !slices.ContainsFunc(fixed, func(f *weftv1.FixedIp) bool { return f.GetSubnetId() == sub.Msg.GetId() }) {
			continue
		}
		if err := s.checkOverlap(sub.Msg, inside, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) checkOverlap(sub *weftv1.Subnet, legs []leg, r *weftv1.Router) error {
	cidr, err := netip.ParsePrefix(sub.GetCidr())
	if err != nil {
		return fault.Damaged(s.subnets.Label(sub), err)
	}
	for _, l := range legs {
		switch {
		case l.subnet.Msg.GetId() == sub.GetId():
			return fault.Precondition("%s is attached to %s already", s.subnets.Label(sub), s.routers.Label(r))
		case l.cidr.Overlaps(cidr):
			return fault.Precondition("%s (%s) overlaps %s (%s), which is attached to %s too",
				s.subnets.Label(sub), cidr, s.subnets.Label(l.subnet.Msg), l.cidr, s.routers.Label(r))
		}
	}
	return nil
}

// checkRoutes refuses a change after which a static route's next hop could not be reached.
func (s *Server) checkRoutes(ctx context.Context, e *edit, r *weftv1.Router) error {
	if len(r.GetRoutes()) == 0 {
		return nil
	}
	legs, err := s.legs(ctx, e, r)
	if err != nil {
		return err
	}
	var obstacles []string
	for _, route := range r.GetRoutes() {
		hop, err := netip.ParseAddr(route.GetNexthop())
		if err != nil || !slices.ContainsFunc(legs, func(l leg) bool { return l.cidr.Contains(hop) }) {
			obstacles = append(obstacles, "static route "+route.GetDestination()+" via "+route.GetNexthop())
		}
	}
	return fault.Obstacles(s.routers.Label(r)+" can't be detached from the subnet", obstacles)
}

// placeRouter places the router for the networks that it touches now; one that touches none keeps its place.
func (s *Server) placeRouter(ctx context.Context, e *edit, r *weftv1.Router) error {
	networks, err := placing.Touched(ctx, e.View, r)
	if err != nil || len(networks) == 0 {
		return err
	}
	return e.place().PlaceRouter(ctx, r, networks)
}

// extendRouter is placeRouter for a router that asks for more than before. One that works is not taken down for it: if its
// nodes can't give it others that are alive must.
func (s *Server) extendRouter(ctx context.Context, e *edit, r *weftv1.Router) error {
	had := r.GetPlacement().GetNodes()
	if err := s.placeRouter(ctx, e, r); err != nil || len(had) == 0 || len(r.GetPlacement().GetNodes()) > 0 {
		return err
	}
	var reasons []string
	for _, n := range r.GetPlacement().GetRejected() {
		reasons = append(reasons, n.GetNode()+": "+n.GetReason())
	}
	return fault.Precondition("%s would lose its place on %s, for no node can take it: %s", s.routers.Label(r), strings.Join(had, ", "), strings.Join(reasons, "; "))
}

func (s *Server) addRoute(ctx context.Context, e *edit, r *weftv1.Router, in *weftv1.Route) error {
	route, err := model.RouteFrom("route", in)
	if err != nil {
		return err
	}
	added := &weftv1.Route{Destination: route.Destination.String(), Nexthop: route.NextHop.String()}
	for _, have := range r.GetRoutes() {
		switch {
		case proto.Equal(have, added):
			return nil
		case have.GetDestination() == added.GetDestination():
			return fault.Taken("destination "+added.GetDestination(), "the route via "+have.GetNexthop())
		}
	}
	if len(r.GetRoutes()) >= model.MaxRoutes {
		return fault.Exhausted("%s has %d routes, which is the limit", s.routers.Label(r), model.MaxRoutes)
	}
	legs, err := s.legs(ctx, e, r)
	if err != nil {
		return err
	}
	switch {
	case !slices.ContainsFunc(legs, func(l leg) bool { return l.cidr.Contains(route.NextHop) }):
		return fault.Precondition("next hop %s is in no subnet that %s is attached to", route.NextHop, s.routers.Label(r))
	case slices.ContainsFunc(legs, func(l leg) bool { return slices.Contains(l.own, route.NextHop) }):
		return model.Invalid("route.nexthop", "%s is the router's own address", route.NextHop)
	}
	r.Routes = append(r.Routes, added)
	return nil
}
