// Package secgroup knows what follows from security groups by themselves: the form and the id of a rule, the group that a
// project has without having made it, and what a port's membership looks like in the store. It reads and writes nothing;
// what other objects have to say is the handlers'.
//
// A rule's id, and that of a project's default group, is a name-based UUID (RFC 9562 section 5.5): whoever makes the same
// thing twice, or at the same time, meets itself under one key.
package secgroup

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// projects is the namespace of the ids of default groups.
const projects = "8f6a1c1e-5d0b-4c39-9d3e-2f0a7c5b9e14"

// DefaultID is the id of a project's default group.
func DefaultID(project string) string {
	return uuid.NewSHA1(uuid.MustParse(projects), []byte(project)).String()
}

// Default is a project's default group with its rules: all egress, and ingress from its own members, of both families.
func Default(project string, now *timestamppb.Timestamp) (*weftv1.SecurityGroup, []*weftv1.SecurityGroupRule, error) {
	g := &weftv1.SecurityGroup{
		Id: DefaultID(project), Name: model.DefaultGroup, Project: project, Description: "made for ports that name no group",
		Stateful: proto.Bool(true), CreateTime: now, UpdateTime: now,
	}
	var rules []*weftv1.SecurityGroupRule
	for _, family := range []weftv1.EtherType{weftv1.EtherType_ETHER_TYPE_IPV4, weftv1.EtherType_ETHER_TYPE_IPV6} {
		rules = append(rules,
			&weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_EGRESS, EtherType: family},
			&weftv1.SecurityGroupRule{
				Direction: weftv1.Direction_DIRECTION_INGRESS, EtherType: family,
				Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: g.GetId()},
			})
	}
	for _, r := range rules {
		r.SecurityGroupId, r.Project, r.CreateTime, r.UpdateTime = g.GetId(), project, now, now
		if _, err := Normalize(r); err != nil {
			return nil, nil, fmt.Errorf("default group of project %s: %w", project, err)
		}
	}
	return g, rules, nil
}

// OfDefault reports whether a rule is one of those that a project's default group has by itself, made then or again.
func OfDefault(r *weftv1.SecurityGroupRule) bool {
	if r.GetSecurityGroupId() != DefaultID(r.GetProject()) {
		return false
	}
	_, rules, err := Default(r.GetProject(), nil)
	return err == nil && slices.ContainsFunc(rules, func(d *weftv1.SecurityGroupRule) bool { return d.GetId() == r.GetId() })
}

// Normalize checks a rule whose group is set, brings it into the one form that all rules of the same meaning have (family,
// protocol by name, both ends of a port range, remote_cidr as a prefix), and gives it the id that follows from group and
// meaning. Two rules of a group say the same exactly when their ids are equal; the description has no part in it.
func Normalize(r *weftv1.SecurityGroupRule) (model.Rule, error) {
	r.Id = r.GetSecurityGroupId() // a UUID until there is one of its own
	rule, err := model.RuleFrom(r)
	if err != nil {
		return rule, err
	}
	r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV4
	if rule.IPv6 {
		r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV6
	}
	r.Protocol = rule.Protocol.String()
	r.PortMin, r.PortMax = nil, nil
	if rule.Ports != model.AllPorts() {
		r.PortMin, r.PortMax = proto.Uint32(uint32(rule.Ports.Min)), proto.Uint32(uint32(rule.Ports.Max))
	}
	if rule.Prefix.IsValid() {
		r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: rule.Prefix.String()}
	}
	group, err := uuid.Parse(rule.Group)
	if err != nil {
		return rule, model.Invalid("security_group_id", "%q is not a UUID", rule.Group)
	}
	rule.ID = uuid.NewSHA1(group, []byte(meaning(rule))).String()
	r.Id = rule.ID
	return rule, nil
}

// meaning is what a rule of any group says, as text: equal for rules that say the same. It must never change, for ids follow from it.
func meaning(r model.Rule) string {
	return fmt.Sprintf("ingress=%t ipv6=%t protocol=%d ports=%d-%d icmp=%d/%d prefix=%s group=%s addresses=%s",
		r.Ingress, r.IPv6, r.Protocol, r.Ports.Min, r.Ports.Max, r.Type, r.Code, text(r.Prefix), r.RemoteGroup, r.RemoteAddressGroup)
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// Reference is the key by which a rule keeps what it refers to from being deleted; "" for a rule that refers to no group
// but its own.
func Reference(r model.Rule) string {
	switch {
	case r.RemoteAddressGroup != "":
		return keys.RemoteClaim(r.RemoteAddressGroup, r.ID)
	case r.RemoteGroup != "" && r.RemoteGroup != r.Group:
		return keys.RemoteClaim(r.RemoteGroup, r.ID)
	default:
		return ""
	}
}

// Member is what a port's groups know of it: every address that it may use, in order, each once. An address stands for
// itself, a range of them as a prefix.
func Member(p model.Port) *storev1.Member {
	all := make([]netip.Prefix, 0, len(p.FixedIPs)+len(p.Pairs))
	for _, f := range p.FixedIPs {
		all = append(all, netip.PrefixFrom(f.IP, f.IP.BitLen()))
	}
	for _, pair := range p.Pairs {
		all = append(all, pair.Prefix)
	}
	slices.SortFunc(all, model.ComparePrefixes)
	out := &storev1.Member{NetworkId: p.Network}
	for _, prefix := range slices.Compact(all) {
		if prefix.IsSingleIP() {
			out.Addresses = append(out.Addresses, prefix.Addr().String())
			continue
		}
		out.Addresses = append(out.Addresses, prefix.String())
	}
	return out
}
