package api

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// ofGroups asks for the security groups that a new port will be in, as far as can be told from what is asked for.
func ofGroups(p *weftv1.Port) []store.Query {
	ids := p.GetSecurityGroups().GetIds()
	if p.GetSecurityGroups() == nil {
		project := p.GetProject()
		setDefault(&project, model.DefaultProject)
		ids = []string{secgroup.DefaultID(project)}
	}
	var out []store.Query
	for _, id := range ids[:min(len(ids), model.MaxGroups)] {
		if model.ValidUUID(id) {
			out = append(out, store.Key(keys.SecurityGroup(id)))
		}
	}
	return out
}

// secure decides a port's filters: whether it has any, as its network says unless the port does, its groups, by default the
// project's own, and the form of its address pairs. The transaction guards the groups.
func (s *Server) secure(ctx context.Context, e *edit, p *weftv1.Port, net *weftv1.Network) error {
	if p.PortSecurityEnabled == nil {
		p.PortSecurityEnabled = proto.Bool(orTrue(net.PortSecurityEnabled)) //nolint:protogetter // presence
	}
	completePairs(p)
	switch {
	case !p.GetPortSecurityEnabled():
		if len(p.GetSecurityGroups().GetIds()) == 0 {
			p.SecurityGroups = nil
		}
		return nil // the model refuses what a port without security can't have
	case p.GetSecurityGroups() == nil:
		g, err := s.defaultGroup(ctx, e, p.GetProject())
		p.SecurityGroups = &weftv1.SecurityGroupIds{Ids: []string{g.GetId()}}
		return err
	default:
		return s.checkGroups(ctx, e, p)
	}
}

// completePairs brings address pairs into the form in which they are stored.
func completePairs(p *weftv1.Port) {
	for _, pair := range p.GetAllowedAddressPairs() {
		if prefix, err := netip.ParsePrefix(pair.GetIpAddress()); err == nil {
			pair.IpAddress = prefix.String()
			if prefix.IsSingleIP() {
				pair.IpAddress = prefix.Addr().String()
			}
		} else if ip, err := netip.ParseAddr(pair.GetIpAddress()); err == nil {
			pair.IpAddress = ip.String()
		}
		if hw, err := net.ParseMAC(pair.GetMacAddress()); err == nil {
			pair.MacAddress = hw.String()
		}
	}
}

// checkGroups sorts a port's groups and checks that they are there, of its project, and stateful or not together. What is
// no list of groups by itself is left for the model's check to name.
func (s *Server) checkGroups(ctx context.Context, e *edit, p *weftv1.Port) error {
	ids := p.GetSecurityGroups().GetIds()
	if len(ids) > model.MaxGroups {
		return nil
	}
	slices.Sort(ids)
	byState := map[bool]string{}
	for _, id := range slices.Compact(slices.Clone(ids)) {
		if !model.ValidUUID(id) {
			continue
		}
		g, err := relied(ctx, e, s.groups, id, "the port", p.GetProject())
		if err != nil {
			return err
		}
		byState[orTrue(g.Msg.Stateful)] = s.groups.Label(g.Msg) //nolint:protogetter // presence
	}
	if len(byState) > 1 {
		return fault.Precondition("%s is stateful and %s is stateless; a port's groups are one or the other", byState[true], byState[false])
	}
	return nil
}

// changeSecurity is secure for a change: groups that a port has are not looked at again, and one that was stored before weft
// had security groups gets none unless it is asked for.
func (s *Server) changeSecurity(ctx context.Context, e *edit, before, after *weftv1.Port, changed []string) error {
	if before.PortSecurityEnabled == nil && !slices.Contains(changed, "port_security_enabled") {
		after.PortSecurityEnabled = proto.Bool(false)
	}
	same := proto.Equal(before.GetSecurityGroups(), after.GetSecurityGroups()) && after.GetSecurityGroups() != nil
	if same && before.GetPortSecurityEnabled() && after.GetPortSecurityEnabled() {
		completePairs(after)
		return nil
	}
	net, err := s.networks.At(ctx, e.View, "", after.GetNetworkId())
	if err != nil {
		return err
	}
	return s.secure(ctx, e, after, net.Msg)
}

// unsecure makes a port one of the system's own: without filters, groups or a VM.
func unsecure(e *edit, p *weftv1.Port) {
	p.PortSecurityEnabled, p.SecurityGroups, p.AllowedAddressPairs, p.Hostname = proto.Bool(false), nil, nil, ""
	e.txn.Delete(keys.Instance(p.GetId()))
}

// showSecurity tells what holds for a port that was stored before weft had security groups: it is not filtered.
func showSecurity(p *weftv1.Port, _ int64) {
	if p.PortSecurityEnabled == nil {
		p.PortSecurityEnabled = proto.Bool(false)
	}
	if p.GetVifType() == weftv1.VifType_VIF_TYPE_UNSPECIFIED {
		p.VifType = weftv1.VifType_VIF_TYPE_OVS
	}
}

// readInstance adds to a port what its VM learns of itself.
func readInstance(ctx context.Context, v *record.View, p *weftv1.Port) error {
	e, found, err := v.One(ctx, keys.Instance(p.GetId()))
	if err != nil || !found {
		return err
	}
	p.Instance = &weftv1.Instance{}
	if err := proto.Unmarshal(e.Value, p.Instance); err != nil {
		return fault.Damaged("the instance at key "+e.Key, err)
	}
	return nil
}

// keepInstance takes what a new port's VM is to learn out of the port, but for its name, and appends it.
func keepInstance(e *edit, p *weftv1.Port) error {
	instance := p.GetInstance()
	p.Hostname = instance.GetHostname()
	if instance == nil {
		return nil
	}
	p.Instance = nil
	e.txn.Put(keys.Instance(p.GetId()), instance)
	return model.InstanceFrom(instance)
}

// changeInstance is keepInstance for a change, where there is any. The transaction guards the port.
func changeInstance(ctx context.Context, e *edit, p *weftv1.Port) error {
	want := p.GetInstance()
	have := &weftv1.Port{Id: p.GetId()}
	if err := readInstance(ctx, e.View, have); err != nil && fault.Code(err) != codes.DataLoss {
		return err
	}
	switch {
	case want == nil && have.GetInstance() != nil:
		e.txn.Delete(keys.Instance(p.GetId()))
	case want != nil && proto.Equal(want, have.GetInstance()):
		p.Instance, p.Hostname = nil, want.GetHostname()
		return nil
	}
	return keepInstance(e, p)
}
