package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// take makes the call of each action on the stored objects, as the API's contract says, without its checks: what a plan
// leads to when every step is accepted.
func take(t fataler, cur Current, actions []Action) Current {
	t.Helper()
	s := &simulator{t: t, cur: cur, ids: map[string]string{}}
	for _, a := range actions {
		if a.Request == nil {
			continue
		}
		req, err := Fill(a.Request, s.ids)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		s.call(a, req)
	}
	return s.cur
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

var _ fataler = (*testing.T)(nil)

type simulator struct {
	t   fataler
	cur Current
	ids map[string]string
	n   int
}

func (s *simulator) id(a Action) string {
	s.n++
	id := fmt.Sprintf("%s-%s-%d", a.Noun, a.Name, s.n)
	s.ids[a.Placeholder] = id
	return id
}

func (s *simulator) call(a Action, req proto.Message) {
	switch r := req.(type) {
	case *weftv1.CreateSegmentRangeRequest:
		r.SegmentRange.Id = s.id(a)
		s.cur.SegmentRanges = append(s.cur.SegmentRanges, r.GetSegmentRange())
	case *weftv1.CreateNetworkRequest:
		r.Network.Id = s.id(a)
		r.Network.SegmentationId = cmp.Or(r.GetNetwork().GetSegmentationId(), 5000)
		r.Network.DnsDomain = cmp.Or(r.GetNetwork().GetDnsDomain(), "weft.internal")
		s.cur.Networks = append(s.cur.Networks, r.GetNetwork())
	case *weftv1.CreateSubnetRequest:
		r.Subnet.Id, r.Subnet.Project = s.id(a), "default"
		s.cur.Subnets = append(s.cur.Subnets, r.GetSubnet())
	case *weftv1.CreatePortRequest:
		r.Port.Id = s.id(a)
		if r.GetPort().PortSecurityEnabled == nil {
			r.Port.PortSecurityEnabled = proto.Bool(true)
		}
		if len(r.GetPort().GetFixedIps()) == 0 {
			r.Port.FixedIps = []*weftv1.FixedIp{{SubnetId: "any", IpAddress: "10.0.0.200"}}
		}
		s.cur.Ports = append(s.cur.Ports, r.GetPort())
	case *weftv1.CreateRouterRequest:
		r.Router.Id = s.id(a)
		s.cur.Routers = append(s.cur.Routers, r.GetRouter())
	case *weftv1.CreateFloatingIpRequest:
		r.FloatingIp.Id = s.id(a)
		s.cur.FloatingIPs = append(s.cur.FloatingIPs, r.GetFloatingIp())
	case *weftv1.CreateAddressGroupRequest:
		r.AddressGroup.Id = s.id(a)
		s.cur.AddressGroups = append(s.cur.AddressGroups, r.GetAddressGroup())
	case *weftv1.CreateSecurityGroupRequest:
		s.group(a, r.GetSecurityGroup())
	default:
		s.change(req)
	}
}

// group makes a security group; the default group has its id and rules by itself.
func (s *simulator) group(a Action, g *weftv1.SecurityGroup) {
	g.Id = s.id(a)
	if g.GetName() == model.DefaultGroup {
		made, rules, err := secgroup.Default(g.GetProject(), nil)
		if err != nil {
			s.t.Fatalf("%v", err)
		}
		g.Id = made.GetId()
		s.ids[a.Placeholder] = g.GetId()
		s.cur.Rules = append(s.cur.Rules, rules...)
	}
	s.cur.SecurityGroups = append(s.cur.SecurityGroups, g)
}

// rule makes a rule in its stored form, with an id as the API gives it.
func (s *simulator) rule(r *weftv1.SecurityGroupRule) {
	r.Id = r.GetSecurityGroupId() + " " + (&planner{}).ruleText(r)
	for _, have := range s.cur.Rules {
		if have.GetId() == r.GetId() {
			s.t.Fatalf("the rule is there already: %v", have)
		}
	}
	s.cur.Rules = append(s.cur.Rules, r)
}

func (s *simulator) change(req proto.Message) {
	switch r := req.(type) {
	case *weftv1.UpdateSegmentRangeRequest:
		update(s, s.cur.SegmentRanges, r.GetSegmentRange(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdateNetworkRequest:
		update(s, s.cur.Networks, r.GetNetwork(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdateSubnetRequest:
		update(s, s.cur.Subnets, r.GetSubnet(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdatePortRequest:
		update(s, s.cur.Ports, r.GetPort(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdateRouterRequest:
		update(s, s.cur.Routers, r.GetRouter(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdateFloatingIpRequest:
		update(s, s.cur.FloatingIPs, r.GetFloatingIp(), r.GetUpdateMask().GetPaths())
		s.onePerPort()
	case *weftv1.SetRouterGatewayRequest:
		s.router(r.GetRouterId()).ExternalGateway = r.GetExternalGateway()
	case *weftv1.ClearRouterGatewayRequest:
		s.router(r.GetRouterId()).ExternalGateway = nil
	case *weftv1.AddRouterInterfaceRequest:
		s.attach(r)
	case *weftv1.RemoveRouterInterfaceRequest:
		router := s.router(r.GetRouterId())
		router.Interfaces = slices.DeleteFunc(router.Interfaces, func(i *weftv1.RouterInterface) bool { return i.GetSubnetId() == r.GetSubnetId() })
	case *weftv1.AddRouterRouteRequest:
		router := s.router(r.GetRouterId())
		router.Routes = append(router.Routes, r.GetRoute())
	case *weftv1.RemoveRouterRouteRequest:
		router := s.router(r.GetRouterId())
		router.Routes = slices.DeleteFunc(router.Routes, func(x *weftv1.Route) bool { return proto.Equal(x, r.GetRoute()) })
	case *weftv1.UpdateAddressGroupRequest:
		update(s, s.cur.AddressGroups, r.GetAddressGroup(), r.GetUpdateMask().GetPaths())
	case *weftv1.UpdateSecurityGroupRequest:
		update(s, s.cur.SecurityGroups, r.GetSecurityGroup(), r.GetUpdateMask().GetPaths())
	case *weftv1.CreateNetworkGrantRequest:
		r.NetworkGrant.Id = r.GetNetworkGrant().GetNetworkId() + " to " + r.GetNetworkGrant().GetTargetProject()
		s.cur.Grants = append(s.cur.Grants, r.GetNetworkGrant())
	case *weftv1.DeleteNetworkGrantRequest:
		s.cur.Grants = slices.DeleteFunc(s.cur.Grants, func(g *weftv1.NetworkGrant) bool { return g.GetId() == r.GetId() })
	case *weftv1.CreateSecurityGroupRuleRequest:
		s.rule(r.GetSecurityGroupRule())
	case *weftv1.DeleteSecurityGroupRuleRequest:
		had := len(s.cur.Rules)
		s.cur.Rules = slices.DeleteFunc(s.cur.Rules, func(x *weftv1.SecurityGroupRule) bool { return x.GetId() == r.GetId() })
		if len(s.cur.Rules) != had-1 {
			s.t.Fatalf("there is no rule %q", r.GetId())
		}
	default:
		s.t.Fatalf("no such call: %T", req)
	}
}

// attach refuses what the API refuses and a wrong order of steps would run into: a subnet behind two routers.
func (s *simulator) attach(r *weftv1.AddRouterInterfaceRequest) {
	for _, other := range s.cur.Routers {
		for _, i := range other.GetInterfaces() {
			if i.GetSubnetId() == r.GetSubnetId() && r.GetSubnetId() != "" {
				s.t.Fatalf("subnet %s is behind router %s still", r.GetSubnetId(), other.GetName())
			}
		}
	}
	router := s.router(r.GetRouterId())
	port := r.GetPortId()
	if port == "" {
		port = "port-of-" + r.GetSubnetId()
	}
	router.Interfaces = append(router.Interfaces, &weftv1.RouterInterface{PortId: port, SubnetId: r.GetSubnetId(), IpAddress: "of " + r.GetSubnetId()})
}

// onePerPort holds that no two floating IPs lead to one port at any moment.
func (s *simulator) onePerPort() {
	seen := map[string]string{}
	for _, f := range s.cur.FloatingIPs {
		if other := seen[f.GetPortId()]; f.GetPortId() != "" && other != "" {
			s.t.Fatalf("floating IPs %s and %s both lead to %s", other, f.GetName(), f.GetPortId())
		}
		seen[f.GetPortId()] = f.GetName()
	}
}

func (s *simulator) router(id string) *weftv1.Router {
	r, ok := byID(s.cur.Routers, id)
	if !ok {
		s.t.Fatalf("there is no router %q", id)
	}
	return r
}

func update[M named](s *simulator, all []M, with M, mask []string) {
	m, ok := byID(all, with.GetId())
	if !ok {
		s.t.Fatalf("there is no %T %q", with, with.GetId())
	}
	to, from := m.ProtoReflect(), with.ProtoReflect()
	for _, path := range mask {
		fd := to.Descriptor().Fields().ByName(protoreflect.Name(path))
		if fd == nil {
			s.t.Fatalf("%T has no field %q", with, path)
		}
		to.Clear(fd)
		if from.Has(fd) {
			to.Set(fd, from.Get(fd))
		}
	}
}
