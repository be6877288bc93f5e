package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type floatingIPService struct {
	weftv1.UnimplementedFloatingIpServiceServer
	*Server
}

func (s *floatingIPService) CreateFloatingIp(ctx context.Context, req *weftv1.CreateFloatingIpRequest) (*weftv1.FloatingIp, error) {
	return s.floating.create(ctx, req, req.GetFloatingIp(), s.addFloating)
}

func (s *floatingIPService) GetFloatingIp(ctx context.Context, req *weftv1.GetFloatingIpRequest) (*weftv1.FloatingIp, error) {
	return s.floating.get(ctx, req.GetId())
}

func (s *floatingIPService) ListFloatingIps(ctx context.Context, req *weftv1.ListFloatingIpsRequest) (*weftv1.ListFloatingIpsResponse, error) {
	p, err := s.floating.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListFloatingIpsResponse{FloatingIps: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *floatingIPService) UpdateFloatingIp(ctx context.Context, req *weftv1.UpdateFloatingIpRequest) (*weftv1.FloatingIp, error) {
	return s.floating.update(ctx, req, req.GetFloatingIp(), s.changeFloating)
}

func (s *floatingIPService) DeleteFloatingIp(ctx context.Context, req *weftv1.DeleteFloatingIpRequest) (*emptypb.Empty, error) {
	return s.floating.remove(ctx, req, s.releaseFloating)
}

func (s *Server) addFloating(ctx context.Context, e *edit, f *weftv1.FloatingIp) error {
	f.RouterId = ""
	setDefault(&f.Project, model.DefaultProject)
	net, subnets, err := s.networkFor(ctx, e, f.GetNetworkId())
	if err != nil {
		return err
	}
	if f.GetIpAddress() != "" && !caller.From(ctx).Changes(net.Msg.GetProject()) {
		return fault.Denied("ip_address: on another project's network it is given, not chosen")
	}
	if !net.Msg.GetExternal() {
		return fault.Precondition("%s is not external, so it has no floating IPs", s.networks.Label(net.Msg))
	}
	guard(e, net)
	if len(subnets) == 0 {
		return fault.Precondition("%s has no subnet to take an address from", s.networks.Label(net.Msg))
	}
	var want []*weftv1.FixedIp
	if f.GetIpAddress() != "" {
		want = []*weftv1.FixedIp{{IpAddress: f.GetIpAddress()}}
	}
	a := addresser{edit: e, server: s, subnets: subnets}
	got, err := a.resolve(ctx, want, nil)
	if err != nil {
		return err
	}
	f.IpAddress = got[0].GetIpAddress()
	if err := s.associate(ctx, e, f); err != nil {
		return err
	}
	typed, err := model.FloatingIPFrom(f)
	if err != nil {
		return err
	}
	if err := s.checkClaim(ctx, e, keys.AddressClaim(got[0].GetSubnetId(), typed.IP), "address "+f.GetIpAddress()); err != nil {
		return err
	}
	ipam.Claim(e.txn, got[0].GetSubnetId(), typed.IP, keys.KindFloatingIP, f.GetId())
	if err := s.floating.count(ctx, e, f); err != nil {
		return err
	}
	putNew(e, s.floating.Kind, f)
	return nil
}

// associate finds the address and the router for the port that a floating IP names, if any, and claims the pair.
func (s *Server) associate(ctx context.Context, e *edit, f *weftv1.FloatingIp) error {
	f.RouterId = ""
	if f.GetPortId() == "" {
		if f.GetFixedIpAddress() != "" {
			return model.Invalid("fixed_ip_address", "is given without a port_id")
		}
		return nil
	}
	port, fixed, err := s.target(ctx, e, f)
	if err != nil {
		return err
	}
	router, err := s.routerBetween(ctx, e, f, port.Msg, fixed)
	if err != nil {
		return err
	}
	guard(e, port)
	guard(e, router)
	f.RouterId, f.FixedIpAddress = router.Msg.GetId(), fixed.GetIpAddress()
	ip, err := netip.ParseAddr(fixed.GetIpAddress())
	if err != nil {
		return fault.Damaged("port "+f.GetPortId(), err)
	}
	key := keys.FloatingClaim(f.GetPortId(), ip, f.GetRouterId())
	owner, err := e.claimant(ctx, key)
	if err != nil {
		return err
	}
	if owner != nil && owner.GetId() != f.GetId() {
		return fault.Taken(fmt.Sprintf("address %s of %s behind %s", fixed.GetIpAddress(), portLabel(port.Msg), s.routers.Label(router.Msg)),
			s.name(ctx, e, owner.GetKind(), owner.GetId()))
	}
	e.txn.Claim(key, keys.KindFloatingIP, f.GetId())
	return nil
}

// target is the port that a floating IP is to lead to and which of its addresses.
func (s *Server) target(ctx context.Context, e *edit, f *weftv1.FloatingIp) (record.Stored[*weftv1.Port], *weftv1.FixedIp, error) {
	if !model.ValidUUID(f.GetPortId()) {
		return record.Stored[*weftv1.Port]{}, nil, model.Invalid("port_id", "%q is not a UUID", f.GetPortId())
	}
	port, err := s.ports.own(ctx, e.View, f.GetPortId())
	if err != nil {
		return port, nil, err
	}
	p := port.Msg
	switch {
	case strings.HasPrefix(p.GetDeviceOwner(), model.OwnerPrefix):
		return port, nil, fault.Precondition("%s can't have a floating IP", portLabel(p))
	case p.GetProject() != f.GetProject():
		return port, nil, fault.Precondition("%s is project %s's, the floating IP is project %s's", portLabel(p), p.GetProject(), f.GetProject())
	case len(p.GetFixedIps()) == 0:
		return port, nil, fault.Precondition("%s has no address", portLabel(p))
	case f.GetFixedIpAddress() == "":
		return port, p.GetFixedIps()[0], nil
	}
	i := slices.IndexFunc(p.GetFixedIps(), func(x *weftv1.FixedIp) bool { return x.GetIpAddress() == f.GetFixedIpAddress() })
	if i < 0 {
		return port, nil, model.Invalid("fixed_ip_address", "%q is not an address of %s", f.GetFixedIpAddress(), portLabel(p))
	}
	return port, p.GetFixedIps()[i], nil
}

// routerBetween finds the router that has its gateway on the floating IP's network and an interface in the fixed address's
// subnet. The router that holds the subnet's gateway address is looked at first; only if it is not the one are all.
func (s *Server) routerBetween(ctx context.Context, e *edit, f *weftv1.FloatingIp, port *weftv1.Port, fixed *weftv1.FixedIp) (record.Stored[*weftv1.Router], error) {
	fits := func(r *weftv1.Router) bool {
		return caller.From(ctx).Changes(r.GetProject()) && r.GetExternalGateway().GetNetworkId() == f.GetNetworkId() &&
			slices.ContainsFunc(r.GetInterfaces(), func(in *weftv1.RouterInterface) bool { return in.GetSubnetId() == fixed.GetSubnetId() })
	}
	first, found, err := s.routerAtGateway(ctx, e, port.GetNetworkId(), fixed.GetSubnetId())
	if err != nil || found && fits(first.Msg) {
		return first, err
	}
	all, err := s.routers.All(ctx, e.View, s.opts.Log)
	if err != nil {
		return first, err
	}
	for _, r := range all {
		if fits(r.Msg) {
			return r, nil
		}
	}
	return first, fault.Precondition("no router connects %s (address %s) to network %s: a router needs an interface in subnet %s and its gateway on that network",
		portLabel(port), fixed.GetIpAddress(), f.GetNetworkId(), fixed.GetSubnetId())
}

// routerAtGateway is the router whose interface has a subnet's gateway address.
func (s *Server) routerAtGateway(ctx context.Context, e *edit, network, subnet string) (r record.Stored[*weftv1.Router], found bool, err error) {
	sub, err := s.subnets.At(ctx, e.View, network, subnet)
	if err != nil {
		return r, false, err
	}
	gateway, err := netip.ParseAddr(sub.Msg.GetGatewayIp())
	if err != nil {
		return r, false, nil //nolint:nilerr // the subnet has no gateway
	}
	owner, err := e.Claimant(ctx, keys.AddressClaim(subnet, gateway))
	if err != nil || owner == nil {
		return r, false, err
	}
	port, err := s.ports.At(ctx, e.View, network, owner.GetId())
	switch {
	case fault.IsNotFound(err):
		return r, false, nil
	case err != nil:
		return r, false, err
	case port.Msg.GetDeviceOwner() != model.OwnerRouterInterface:
		return r, false, nil
	}
	r, err = s.routers.At(ctx, e.View, "", port.Msg.GetDeviceId())
	return r, err == nil, err
}

func (s *Server) changeFloating(ctx context.Context, e *edit, before record.Stored[*weftv1.FloatingIp], after *weftv1.FloatingIp, changed []string) error {
	if after.GetPortId() != before.Msg.GetPortId() && !slices.Contains(changed, "fixed_ip_address") {
		after.FixedIpAddress = ""
	}
	if after.GetPortId() == before.Msg.GetPortId() && (after.GetFixedIpAddress() == before.Msg.GetFixedIpAddress() || after.GetFixedIpAddress() == "") {
		after.FixedIpAddress = before.Msg.GetFixedIpAddress()
		_, err := model.FloatingIPFrom(after)
		return err
	}
	if err := releasePair(ctx, e, before.Msg); err != nil {
		return err
	}
	if err := s.associate(ctx, e, after); err != nil {
		return err
	}
	_, err := model.FloatingIPFrom(after)
	return err
}

// releasePair gives back a floating IP's claim on a port's address.
func releasePair(ctx context.Context, e *edit, f *weftv1.FloatingIp) error {
	if f.GetPortId() == "" {
		return nil
	}
	ip, err := netip.ParseAddr(f.GetFixedIpAddress())
	if err != nil {
		return fault.Damaged("floating IP "+f.GetId(), err)
	}
	key := keys.FloatingClaim(f.GetPortId(), ip, f.GetRouterId())
	held, err := e.holds(ctx, key, f.GetId())
	if held {
		e.txn.Delete(key)
	}
	return err
}

// disassociate takes a floating IP off its port.
func (s *Server) disassociate(ctx context.Context, e *edit, f record.Stored[*weftv1.FloatingIp]) error {
	guard(e, f)
	if err := releasePair(ctx, e, f.Msg); err != nil {
		return err
	}
	after := f.Copy()
	after.PortId, after.FixedIpAddress, after.RouterId = "", "", ""
	after.UpdateTime = e.now
	s.floating.Clean(after)
	s.floating.replace(e, f, after)
	return nil
}

func (s *Server) releaseFloating(ctx context.Context, e *edit, f record.Stored[*weftv1.FloatingIp]) error {
	if err := releasePair(ctx, e, f.Msg); err != nil {
		return err
	}
	subnets, err := s.subnets.Sound(ctx, e.View, keys.Subnets(f.Msg.GetNetworkId()), s.opts.Log)
	if err != nil {
		return err
	}
	a := addresser{edit: e, server: s, subnets: subnets}
	sub, err := a.subnet("ip_address", &weftv1.FixedIp{IpAddress: f.Msg.GetIpAddress()})
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(f.Msg.GetIpAddress())
	if err != nil {
		return fault.Damaged("floating IP "+f.Msg.GetId(), err)
	}
	held, err := e.holds(ctx, keys.AddressClaim(sub.Msg.GetId(), ip), f.Msg.GetId())
	if held {
		ipam.Release(e.txn, sub.Msg.GetId(), ip)
	}
	return err
}
