package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (s *Server) addInterface(ctx context.Context, e *edit, r *weftv1.Router, req *weftv1.AddRouterInterfaceRequest) error {
	if len(r.GetInterfaces()) >= model.MaxLegs {
		return fault.Exhausted("%s has %d interfaces, which is the limit", s.routers.Label(r), model.MaxLegs)
	}
	var port *weftv1.Port
	var err error
	switch at := req.GetAttachment().(type) {
	case *weftv1.AddRouterInterfaceRequest_SubnetId:
		port, err = s.interfaceBySubnet(ctx, e, r, at.SubnetId)
	case *weftv1.AddRouterInterfaceRequest_PortId:
		port, err = s.interfaceByPort(ctx, e, r, at.PortId)
	default:
		return model.Invalid("attachment", "subnet_id or port_id is required")
	}
	if err != nil {
		return err
	}
	fixed := port.GetFixedIps()[0]
	r.Interfaces = append(r.Interfaces, &weftv1.RouterInterface{
		PortId: port.GetId(), NetworkId: port.GetNetworkId(), SubnetId: fixed.GetSubnetId(), IpAddress: fixed.GetIpAddress(),
	})
	return s.extendRouter(ctx, e, r)
}

// checkAttach refuses a subnet that the router can't be attached to, and guards what that relies on.
func (s *Server) checkAttach(ctx context.Context, e *edit, r *weftv1.Router, sub record.Stored[*weftv1.Subnet]) error {
	net, err := s.networks.At(ctx, e.View, "", sub.Msg.GetNetworkId())
	if err != nil {
		return err
	}
	if err := s.checkProject(ctx, e, r.GetProject(), net.Msg); err != nil {
		return err
	}
	legs, err := s.legs(ctx, e, r)
	if err != nil {
		return err
	}
	guard(e, net)
	guard(e, sub)
	return s.checkOverlap(sub.Msg, legs, r)
}

// interfaceBySubnet makes a port with the subnet's gateway address.
func (s *Server) interfaceBySubnet(ctx context.Context, e *edit, r *weftv1.Router, id string) (*weftv1.Port, error) {
	if !model.ValidUUID(id) {
		return nil, model.Invalid("subnet_id", "%q is not a UUID", id)
	}
	sub, err := s.subnets.look(ctx, e.View, id)
	if err != nil {
		return nil, err
	}
	if err := s.checkAttach(ctx, e, r, sub); err != nil {
		return nil, err
	}
	if err := s.subnets.mine(ctx, sub.Msg); err != nil {
		return nil, fmt.Errorf("its gateway address is its owner's to give, attach a port: %w", err)
	}
	if sub.Msg.GetGatewayIp() == "" {
		return nil, fault.Precondition("%s has no gateway address for the interface; attach a port with the address that it is to have", s.subnets.Label(sub.Msg))
	}
	port := s.routerPort(e, r, sub.Msg.GetNetworkId(), model.OwnerRouterInterface)
	port.FixedIps = []*weftv1.FixedIp{{SubnetId: id, IpAddress: sub.Msg.GetGatewayIp()}}
	return port, s.newPort(ctx, e, port, []record.Stored[*weftv1.Subnet]{sub}, ipam.ForRouterInterface)
}

// interfaceByPort takes over a port that nothing uses yet.
func (s *Server) interfaceByPort(ctx context.Context, e *edit, r *weftv1.Router, id string) (*weftv1.Port, error) {
	if !model.ValidUUID(id) {
		return nil, model.Invalid("port_id", "%q is not a UUID", id)
	}
	before, err := s.ports.own(ctx, e.View, id)
	if err != nil {
		return nil, err
	}
	p := before.Msg
	switch {
	case p.GetDeviceOwner() != "" || p.GetDeviceId() != "":
		return nil, fault.Precondition("%s is in use by %s %s", portLabel(p), p.GetDeviceOwner(), p.GetDeviceId())
	case p.GetBoundHost() != "" || p.GetHost() != "":
		return nil, fault.Precondition("%s is bound to node %s; an interface needs an unbound port", portLabel(p), p.GetBoundHost())
	case len(p.GetFixedIps()) != 1:
		return nil, fault.Precondition("%s has %d addresses; an interface needs exactly one", portLabel(p), len(p.GetFixedIps()))
	case p.GetProject() != r.GetProject():
		return nil, fault.Precondition("%s is project %s's, the router is project %s's", portLabel(p), p.GetProject(), r.GetProject())
	}
	floating, err := s.floatingOf(ctx, e, id)
	if err != nil {
		return nil, err
	}
	if len(floating) > 0 {
		return nil, fault.Obstacles(portLabel(p)+" can't become an interface", []string{floatingLabel(floating[0].Msg)})
	}
	sub, err := s.subnets.At(ctx, e.View, p.GetNetworkId(), p.GetFixedIps()[0].GetSubnetId())
	if err != nil {
		return nil, err
	}
	if err := s.checkAttach(ctx, e, r, sub); err != nil {
		return nil, err
	}
	if err := uncount(ctx, e, p); err != nil { // it is the system's own from now on
		return nil, err
	}
	after := before.Copy()
	after.DeviceId, after.DeviceOwner, after.QuotaPlace, after.UpdateTime = r.GetId(), model.OwnerRouterInterface, 0, e.now
	unsecure(e, after)
	return after, e.place().PutPort(&before, after)
}

func (s *Server) removeInterface(ctx context.Context, e *edit, r *weftv1.Router, req *weftv1.RemoveRouterInterfaceRequest) error {
	i := slices.IndexFunc(r.GetInterfaces(), func(in *weftv1.RouterInterface) bool {
		return in.GetPortId() == req.GetPortId() && req.GetPortId() != "" || in.GetSubnetId() == req.GetSubnetId() && req.GetSubnetId() != ""
	})
	switch {
	case req.GetPortId() == "" && req.GetSubnetId() == "":
		return model.Invalid("attachment", "subnet_id or port_id is required")
	case i < 0:
		return fault.NotFound("interface of "+s.routers.Label(r)+" for", req.GetPortId()+req.GetSubnetId())
	}
	gone := r.GetInterfaces()[i]
	if err := s.checkNoneBehind(ctx, e, r, gone); err != nil {
		return err
	}
	r.Interfaces = slices.Delete(r.Interfaces, i, i+1)
	if err := s.checkRoutes(ctx, e, r); err != nil {
		return err
	}
	if err := s.deleteRouterPort(ctx, e, gone.GetNetworkId(), gone.GetPortId()); err != nil {
		return err
	}
	return s.placeRouter(ctx, e, r)
}

// checkNoneBehind refuses to remove an interface that floating IPs need.
func (s *Server) checkNoneBehind(ctx context.Context, e *edit, r *weftv1.Router, in *weftv1.RouterInterface) error {
	sub, err := s.subnets.At(ctx, e.View, in.GetNetworkId(), in.GetSubnetId())
	if err != nil {
		return err
	}
	cidr, err := netip.ParsePrefix(sub.Msg.GetCidr())
	if err != nil {
		return fault.Damaged(s.subnets.Label(sub.Msg), err)
	}
	all, err := s.floating.Under(ctx, e.View, keys.FloatingIPs(r.GetId()))
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.FloatingIPs(r.GetId()), e.Revision())
	var obstacles []string
	for _, f := range all {
		if ip, err := netip.ParseAddr(f.Msg.GetFixedIpAddress()); err == nil && cidr.Contains(ip) {
			obstacles = append(obstacles, floatingLabelFor(ctx, f.Msg))
		}
	}
	return fault.Obstacles("the interface of "+s.routers.Label(r)+" in "+s.subnets.Label(sub.Msg)+" can't be removed", obstacles)
}
