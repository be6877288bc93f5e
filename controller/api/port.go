package api

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type portService struct {
	weftv1.UnimplementedPortServiceServer
	*Server
}

func (s *portService) CreatePort(ctx context.Context, req *weftv1.CreatePortRequest) (*weftv1.Port, error) {
	return s.ports.create(ctx, req, req.GetPort(), s.addPort)
}

func (s *portService) GetPort(ctx context.Context, req *weftv1.GetPortRequest) (*weftv1.Port, error) {
	return s.ports.get(ctx, req.GetId())
}

func (s *portService) ListPorts(ctx context.Context, req *weftv1.ListPortsRequest) (*weftv1.ListPortsResponse, error) {
	p, err := s.ports.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListPortsResponse{Ports: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *portService) UpdatePort(ctx context.Context, req *weftv1.UpdatePortRequest) (*weftv1.Port, error) {
	return s.ports.update(ctx, req, req.GetPort(), s.changePort)
}

func (s *portService) DeletePort(ctx context.Context, req *weftv1.DeletePortRequest) (*emptypb.Empty, error) {
	return s.ports.removeWith(ctx, req, s.releasePort)
}

func (s *portService) BatchCreatePorts(ctx context.Context, req *weftv1.BatchCreatePortsRequest) (*weftv1.BatchCreatePortsResponse, error) {
	results, err := batch(ctx, s.ports, items(req.GetRequests(), (*weftv1.CreatePortRequest).GetPort), s.addPort, ofPort)
	if err != nil {
		return nil, err
	}
	out := &weftv1.BatchCreatePortsResponse{}
	for _, r := range results {
		if r.err != nil {
			out.Results = append(out.Results, &weftv1.BatchCreatePortsResponse_Result{Result: &weftv1.BatchCreatePortsResponse_Result_Error{Error: r.batchError()}})
			continue
		}
		out.Results = append(out.Results, &weftv1.BatchCreatePortsResponse_Result{Result: &weftv1.BatchCreatePortsResponse_Result_Port{Port: r.msg}})
	}
	return out, nil
}

// portLabel names a port for a person, with what it is of the system's own.
func portLabel(p *weftv1.Port) string {
	label := fault.Label("port", p.GetName(), p.GetId())
	switch p.GetDeviceOwner() {
	case model.OwnerRouterGateway:
		return fmt.Sprintf("%s (gateway of router %s)", label, p.GetDeviceId())
	case model.OwnerRouterInterface:
		return fmt.Sprintf("%s (interface of router %s)", label, p.GetDeviceId())
	case model.OwnerDHCP:
		return label + " (DHCP server)"
	default:
		return label
	}
}

func (s *Server) portName(ctx context.Context, e *edit, id string) string {
	p, err := s.ports.Get(ctx, e.View, id)
	if err != nil {
		return fault.Label("port", "", id)
	}
	return portLabelFor(ctx, p.Msg)
}

// portLabelFor is portLabel as labelFor.
func portLabelFor(ctx context.Context, p *weftv1.Port) string {
	return labelFor(ctx, "port", p.GetProject(), portLabel(p))
}

// ofPort asks for what a new port rests on.
func ofPort(p *weftv1.Port) []store.Query {
	out := append(ofNetwork(p.GetNetworkId()), ofGroups(p)...)
	if query, ok := ofDevice(p); ok {
		out = append(out, query)
	}
	return out
}

func (s *Server) addPort(ctx context.Context, e *edit, p *weftv1.Port) error {
	if _, err := e.Read(ctx, ofPort(p)...); err != nil {
		return err
	}
	net, subnets, err := s.networkFor(ctx, e, p.GetNetworkId())
	if err != nil {
		return err
	}
	if err := checkGuest(ctx, net.Msg.GetProject(), nil, p); err != nil {
		return err
	}
	if p.GetProject() == "" {
		p.Project = net.Msg.GetProject()
		if net.Msg.GetShared() {
			p.Project = model.DefaultProject
		}
	}
	if err := checkOwner(p); err != nil {
		return err
	}
	if err := checkDevice(ctx, e, p); err != nil {
		return err
	}
	if err := s.checkProject(ctx, e, p.GetProject(), net.Msg); err != nil {
		return err
	}
	guard(e, net)
	if err := s.secure(ctx, e, p, net.Msg); err != nil {
		return err
	}
	if err := keepInstance(e, p); err != nil {
		return err
	}
	if err := s.ports.count(ctx, e, p); err != nil {
		return err
	}
	return s.newPort(ctx, e, p, subnets, ipam.ForHost)
}

func checkOwner(p *weftv1.Port) error {
	if strings.HasPrefix(p.GetDeviceOwner(), model.OwnerPrefix) {
		return model.Invalid("device_owner", "%q begins with %q, which is the system's", p.GetDeviceOwner(), model.OwnerPrefix)
	}
	return nil
}

// newPort completes a port and appends all that it holds. The network must be guarded already.
func (s *Server) newPort(ctx context.Context, e *edit, p *weftv1.Port, subnets []record.Stored[*weftv1.Subnet], purpose ipam.Purpose) error {
	p.BoundHost = p.GetHost()
	setTrue(&p.AdminStateUp)
	if err := completeMAC(ctx, e, p); err != nil {
		return err
	}
	a := addresser{edit: e, server: s, subnets: subnets, purpose: purpose}
	var err error
	if p.FixedIps, err = a.resolve(ctx, p.GetFixedIps(), nil); err != nil {
		return err
	}
	if err := s.checkHeld(ctx, e, nil, p); err != nil {
		return err
	}
	return e.place().PutPort(nil, p)
}

// completeMAC draws a MAC address, or brings the one given into the form that claims have.
func completeMAC(ctx context.Context, e *edit, p *weftv1.Port) (err error) {
	if p.GetMacAddress() == "" {
		p.MacAddress, err = e.alloc.MAC(ctx, p.GetNetworkId())
		return err
	}
	if hw, err := net.ParseMAC(p.GetMacAddress()); err == nil {
		p.MacAddress = hw.String()
	}
	return nil
}

// checkHeld says who holds an address that the port is to have and has not got yet. A blind edit leaves it to the claims'
// guards.
func (s *Server) checkHeld(ctx context.Context, e *edit, before, p *weftv1.Port) error {
	if e.blind {
		return nil
	}
	if p.GetMacAddress() != before.GetMacAddress() {
		if err := s.checkClaim(ctx, e, keys.MACClaim(p.GetNetworkId(), p.GetMacAddress()), "MAC address "+p.GetMacAddress()); err != nil {
			return err
		}
	}
	for _, f := range p.GetFixedIps() {
		ip, err := netip.ParseAddr(f.GetIpAddress())
		if err != nil || slices.ContainsFunc(before.GetFixedIps(), func(b *weftv1.FixedIp) bool { return sameFixed(b, f) }) {
			continue
		}
		if err := s.checkClaim(ctx, e, keys.AddressClaim(f.GetSubnetId(), ip), "address "+f.GetIpAddress()); err != nil {
			return err
		}
	}
	return nil
}

func sameFixed(a, b *weftv1.FixedIp) bool {
	return a.GetSubnetId() == b.GetSubnetId() && a.GetIpAddress() == b.GetIpAddress()
}

func (s *Server) checkClaim(ctx context.Context, e *edit, key, what string) error {
	owner, err := e.claimant(ctx, key)
	if err != nil || owner == nil {
		return err
	}
	return fault.Taken(what, s.name(ctx, e, owner.GetKind(), owner.GetId()))
}

func (s *Server) changePort(ctx context.Context, e *edit, before record.Stored[*weftv1.Port], after *weftv1.Port, changed []string) error {
	if err := refuseSystem(before.Msg, "changed"); err != nil {
		return err
	}
	setTrue(&after.AdminStateUp)
	if err := checkOwner(after); err != nil {
		return err
	}
	if slices.Contains(changed, "device_id") {
		if err := checkDevice(ctx, e, after); err != nil {
			return err
		}
	}
	if err := s.checkGuestChange(ctx, e, before.Msg, after); err != nil {
		return err
	}
	if slices.Contains(changed, "host") && after.GetHost() != before.Msg.GetHost() {
		if err := rehost(ctx, e, after); err != nil {
			return err
		}
	}
	if err := completeMAC(ctx, e, after); err != nil {
		return err
	}
	if slices.Contains(changed, "fixed_ips") {
		if err := s.changeFixed(ctx, e, before.Msg, after); err != nil {
			return err
		}
	}
	if err := s.checkHeld(ctx, e, before.Msg, after); err != nil {
		return err
	}
	if err := s.changeSecurity(ctx, e, before.Msg, after, changed); err != nil {
		return err
	}
	if slices.Contains(changed, "instance") {
		if err := changeInstance(ctx, e, after); err != nil {
			return err
		}
	}
	if _, err := model.PortFrom(after); err != nil {
		return err
	}
	return e.place().ClaimChange(before, after)
}

// checkGuestChange is checkGuest for a change of a port, by somebody who may not own its network.
func (s *Server) checkGuestChange(ctx context.Context, e *edit, before, after *weftv1.Port) error {
	if caller.From(ctx).Role == caller.Admin {
		return nil
	}
	net, err := s.networks.At(ctx, e.View, "", after.GetNetworkId())
	if err != nil {
		return err
	}
	return checkGuest(ctx, net.Msg.GetProject(), before, after)
}

// rehost binds a port to the host that it names now. One that names none any more stays where it is plugged.
func rehost(ctx context.Context, e *edit, p *weftv1.Port) error {
	if p.GetHost() == "" && p.GetBoundHost() != "" {
		if _, plugged, err := e.One(ctx, keys.Plug(p.GetBoundHost(), p.GetId())); err != nil || plugged {
			return err
		}
	}
	p.BoundHost = p.GetHost()
	return nil
}

func refuseSystem(p *weftv1.Port, what string) error {
	if strings.HasPrefix(p.GetDeviceOwner(), model.OwnerPrefix) {
		return fault.Precondition("%s can't be %s here: change the router or the subnet that it belongs to", portLabel(p), what)
	}
	return nil
}

// changeFixed resolves a port's new addresses. One that a floating IP leads to must stay.
func (s *Server) changeFixed(ctx context.Context, e *edit, before, after *weftv1.Port) error {
	_, subnets, err := s.network(ctx, e, after.GetNetworkId())
	if err != nil {
		return err
	}
	a := addresser{edit: e, server: s, subnets: subnets}
	if len(after.GetFixedIps()) > 0 {
		if after.FixedIps, err = a.resolve(ctx, after.GetFixedIps(), before.GetFixedIps()); err != nil {
			return err
		}
	}
	floating, err := s.floatingOf(ctx, e, before.GetId())
	if err != nil {
		return err
	}
	var obstacles []string
	for _, f := range floating {
		stays := func(x *weftv1.FixedIp) bool { return x.GetIpAddress() == f.Msg.GetFixedIpAddress() }
		if !slices.ContainsFunc(after.GetFixedIps(), stays) {
			obstacles = append(obstacles, s.floating.Label(f.Msg))
		}
	}
	return fault.Obstacles(portLabel(before)+" can't lose an address", obstacles)
}

func (s *Server) releasePort(ctx context.Context, e *edit, p record.Stored[*weftv1.Port]) error {
	forsaken, err := s.forsaken(ctx, e, p.Msg)
	if err == nil && !forsaken {
		err = refuseSystem(p.Msg, "deleted")
	}
	if err != nil {
		return err
	}
	floating, err := s.floatingOf(ctx, e, p.Msg.GetId())
	if err != nil {
		return err
	}
	for _, f := range floating {
		if err := s.disassociate(ctx, e, f); err != nil {
			return err
		}
	}
	return e.place().DeletePort(ctx, p)
}

// floatingOf reads the floating IPs that lead to a port. The transaction guards that there will be no more.
func (s *Server) floatingOf(ctx context.Context, e *edit, port string) ([]record.Stored[*weftv1.FloatingIp], error) {
	claims, err := s.claimsOn(ctx, e, keys.FloatingClaims(port))
	if err != nil {
		return nil, err
	}
	e.txn.NoneChangedUnder(keys.FloatingClaims(port), e.Revision())
	var out []record.Stored[*weftv1.FloatingIp]
	var errs []error
	for _, c := range claims {
		f, err := s.floating.Get(ctx, e.View, c.GetId())
		out, errs = append(out, f), append(errs, err)
	}
	return out, errors.Join(errs...)
}
