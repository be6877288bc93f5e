package fleet

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// AddressGroup is a wanted weft.v1.AddressGroup.
type AddressGroup struct {
	Name        string   `json:"name"`
	Description *string  `json:"description"`
	Addresses   []string `json:"addresses"`
}

// SecurityGroup is a wanted weft.v1.SecurityGroup with its rules. The one called "default" is the project's own, which has
// rules of its own as long as the file gives none.
type SecurityGroup struct {
	Name        string  `json:"name"`
	Description *string `json:"description"`
	Stateful    *bool   `json:"stateful"`
	Rules       []Rule  `json:"rules"`
}

// Rule is a wanted weft.v1.SecurityGroupRule.
type Rule struct {
	// Direction is "ingress" or "egress", Family "ipv4" or "ipv6" (default: that of RemoteCIDR, else ipv4).
	Direction   string  `json:"direction"`
	Family      string  `json:"family"`
	Protocol    string  `json:"protocol"`
	PortMin     *uint32 `json:"port_min"`
	PortMax     *uint32 `json:"port_max"`
	ICMPType    *uint32 `json:"icmp_type"`
	ICMPCode    *uint32 `json:"icmp_code"`
	RemoteCIDR  string  `json:"remote_cidr"`
	Description string  `json:"description"`
	// RemoteGroup and RemoteAddressGroup are names.
	RemoteGroup        string `json:"remote_group"`
	RemoteAddressGroup string `json:"remote_address_group"`
}

func (p *planner) addressGroup(w where, g AddressGroup) {
	obj := &weftv1.AddressGroup{Name: g.Name, Project: p.project}
	wish := wish{where: w, phase: phaseAddressGroup, noun: nounAddressGroup, name: g.Name, object: obj, mutable: []string{"description", "addresses"}}
	given(&wish, "description", g.Description, func(s string) { obj.Description = s })
	list(&wish, "addresses", g.Addresses, func(l []string) {
		for _, a := range l {
			obj.Addresses = append(obj.Addresses, prefix(a))
		}
	})
	cur, stored := known(p, p.current.AddressGroups, nounAddressGroup, g.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateAddressGroupRequest{AddressGroup: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateAddressGroupRequest{AddressGroup: obj, UpdateMask: maskOf(mask)}
		})
	p.unchanged(phaseAddressGroup, nounAddressGroup, g.Name)
}

// prefix writes an address as the prefix that the controllers store.
func prefix(s string) string {
	s = canonical(s)
	if strings.Contains(s, "/") {
		return s
	}
	if strings.Contains(s, ":") {
		return s + "/128"
	}
	return s + "/32"
}

func (p *planner) securityGroup(w where, g SecurityGroup) {
	obj := &weftv1.SecurityGroup{Name: g.Name, Project: p.project}
	wish := wish{where: w, phase: phaseSecurityGroup, noun: nounSecurityGroup, name: g.Name, object: obj, mutable: []string{"description", "stateful"}}
	given(&wish, "description", g.Description, func(s string) { obj.Description = s })
	given(&wish, "stateful", g.Stateful, func(b bool) { obj.Stateful = &b })
	cur, stored := known(p, p.current.SecurityGroups, nounSecurityGroup, g.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateSecurityGroupRequest{SecurityGroup: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateSecurityGroupRequest{SecurityGroup: obj, UpdateMask: maskOf(mask)}
		})
	if g.Rules != nil {
		p.rules(w, g, p.rulesOf(w, g.Name))
	}
	p.unchanged(phaseSecurityGroup, nounSecurityGroup, g.Name)
}

// rulesOf are the rules that a group has once it is there.
func (p *planner) rulesOf(w where, group string) []*weftv1.SecurityGroupRule {
	id := p.ids[placeholder(nounSecurityGroup, group)]
	if id == placeholder(nounSecurityGroup, group) && group == model.DefaultGroup {
		_, rules, err := secgroup.Default(p.project, nil)
		if err != nil {
			p.failf(w, "%w", err)
		}
		for _, r := range rules {
			if r.GetRemoteGroupId() != "" {
				r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: id}
			}
		}
		return rules
	}
	return slices.DeleteFunc(slices.Clone(p.current.Rules), func(r *weftv1.SecurityGroupRule) bool { return r.GetSecurityGroupId() != id })
}

func (p *planner) rules(w where, g SecurityGroup, cur []*weftv1.SecurityGroupRule) {
	var want []string
	for i, r := range g.Rules {
		msg := p.rule(where(fmt.Sprintf("%s.rules[%d]", w, i)), p.ids[placeholder(nounSecurityGroup, g.Name)], r)
		text := p.ruleText(msg)
		if slices.Contains(want, text) {
			p.failf(w, "rules: %s stands there twice", text)
		}
		want = append(want, text)
		if !slices.ContainsFunc(cur, func(c *weftv1.SecurityGroupRule) bool { return p.ruleText(c) == text }) {
			p.update(phaseRule, nounSecurityGroup, g.Name, "rule "+text+" added", &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: msg})
		}
	}
	for _, c := range cur {
		if text := p.ruleText(c); !slices.Contains(want, text) {
			p.update(phaseRemoveRule, nounSecurityGroup, g.Name, "rule "+text+" removed", &weftv1.DeleteSecurityGroupRuleRequest{Id: c.GetId()})
		}
	}
}

func (p *planner) rule(w where, group string, r Rule) *weftv1.SecurityGroupRule {
	out := &weftv1.SecurityGroupRule{
		SecurityGroupId: group, Description: r.Description, Protocol: r.Protocol,
		PortMin: r.PortMin, PortMax: r.PortMax, IcmpType: r.ICMPType, IcmpCode: r.ICMPCode,
		Direction: weftv1.Direction(weftv1.Direction_value["DIRECTION_"+strings.ToUpper(r.Direction)]),
		EtherType: weftv1.EtherType(weftv1.EtherType_value["ETHER_TYPE_"+strings.ToUpper(r.Family)]),
	}
	if out.GetDirection() == weftv1.Direction_DIRECTION_UNSPECIFIED {
		p.failf(w, "direction: %q is neither ingress nor egress", r.Direction)
	}
	if out.GetEtherType() == weftv1.EtherType_ETHER_TYPE_UNSPECIFIED && r.Family != "" {
		p.failf(w, "family: %q is neither ipv4 nor ipv6", r.Family)
	}
	remotes := 0
	if r.RemoteCIDR != "" {
		out.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: prefix(r.RemoteCIDR)}
		remotes++
	}
	if r.RemoteGroup != "" {
		id := reference(p, w, nounSecurityGroup, r.RemoteGroup, p.current.SecurityGroups)
		out.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: id}
		remotes++
	}
	if r.RemoteAddressGroup != "" {
		id := reference(p, w, nounAddressGroup, r.RemoteAddressGroup, p.current.AddressGroups)
		out.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: id}
		remotes++
	}
	if remotes > 1 {
		p.failf(w, "give one of remote_cidr, remote_group and remote_address_group")
	}
	return out
}

// security notes what the file says of a port's filters.
func (p *planner) security(w where, wish *wish, obj *weftv1.Port, port Port) {
	groups, pairs := port.SecurityGroups, port.AddressPairs
	if port.PortSecurity != nil && !*port.PortSecurity { // it has neither, then
		groups, pairs = append([]string{}, groups...), append([]AddressPair{}, pairs...)
	}
	given(wish, "port_security_enabled", port.PortSecurity, func(b bool) { obj.PortSecurityEnabled = &b })
	list(wish, "security_groups", groups, func(names []string) {
		obj.SecurityGroups = &weftv1.SecurityGroupIds{}
		for _, name := range names {
			obj.SecurityGroups.Ids = append(obj.SecurityGroups.Ids, reference(p, w, nounSecurityGroup, name, p.current.SecurityGroups))
		}
	})
	list(wish, "allowed_address_pairs", pairs, func(all []AddressPair) {
		for _, a := range all {
			address := strings.TrimSuffix(strings.TrimSuffix(prefix(a.IPAddress), "/32"), "/128")
			obj.AllowedAddressPairs = append(obj.AllowedAddressPairs, &weftv1.AddressPair{IpAddress: address, MacAddress: canonical(a.MACAddress)})
		}
	})
	chosen(wish, "vif_type", port.VIFType, func(s string) {
		t, ok := weftv1.VifType_value["VIF_TYPE_"+strings.ToUpper(s)]
		if !ok || t == 0 {
			p.failf(w, "vif_type: %q is neither ovs nor hybrid", s)
		}
		obj.VifType = weftv1.VifType(t)
	})
}

// reference follows a reference to an object of the file or of the project.
func reference[M interface {
	named
	GetProject() string
}](p *planner, w where, noun, ref string, stored []M,
) string {
	if id, ok := p.ids[placeholder(noun, ref)]; ok {
		return id
	}
	return pick(p, w, noun, ref, byName(ofProject(p, stored), ref))
}

// ruleText is what a rule says, for people and to tell whether two say the same.
func (p *planner) ruleText(r *weftv1.SecurityGroupRule) string {
	parts := []string{strings.ToLower(strings.TrimPrefix(r.GetDirection().String(), "DIRECTION_"))}
	switch family := r.GetEtherType(); {
	case family == weftv1.EtherType_ETHER_TYPE_IPV6, family == weftv1.EtherType_ETHER_TYPE_UNSPECIFIED && strings.Contains(r.GetRemoteCidr(), ":"):
		parts = append(parts, "ipv6")
	default:
		parts = append(parts, "ipv4")
	}
	if protocol, ok := model.ParseProtocol(r.GetProtocol()); ok {
		parts = append(parts, protocol.String())
	} else {
		parts = append(parts, r.GetProtocol()) // the controllers refuse it
	}
	if r.PortMin != nil || r.PortMax != nil { //nolint:protogetter // presence
		highest := r.GetPortMax()
		if r.PortMax == nil { //nolint:protogetter // presence
			highest = r.GetPortMin()
		}
		switch {
		case r.GetPortMin() == highest:
			parts = append(parts, fmt.Sprintf("port %d", highest))
		case r.GetPortMin() != 0 || highest != uint32(model.AllPorts().Max):
			parts = append(parts, fmt.Sprintf("ports %d-%d", r.GetPortMin(), highest))
		}
	}
	if r.IcmpType != nil { //nolint:protogetter // presence
		parts = append(parts, fmt.Sprintf("type %d", r.GetIcmpType()))
	}
	if r.IcmpCode != nil { //nolint:protogetter // presence
		parts = append(parts, fmt.Sprintf("code %d", r.GetIcmpCode()))
	}
	switch to := r.GetRemote().(type) {
	case *weftv1.SecurityGroupRule_RemoteCidr:
		parts = append(parts, to.RemoteCidr)
	case *weftv1.SecurityGroupRule_RemoteGroupId:
		parts = append(parts, "group "+p.called(nounSecurityGroup, to.RemoteGroupId))
	case *weftv1.SecurityGroupRule_RemoteAddressGroupId:
		parts = append(parts, "addresses "+p.called(nounAddressGroup, to.RemoteAddressGroupId))
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// called is the name by which the file knows the object of an id, else the id.
func (p *planner) called(noun, id string) string {
	for key, have := range p.ids {
		if have == id && strings.HasPrefix(key, placeholder(noun, "")) {
			return strings.TrimPrefix(key, placeholder(noun, ""))
		}
	}
	return id
}
