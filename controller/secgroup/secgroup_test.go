package secgroup_test

import (
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	group = "11111111-1111-4111-8111-111111111111"
	other = "22222222-2222-4222-8222-222222222222"
)

type rule = weftv1.SecurityGroupRule

// ingress is a rule of the group with what a test adds.
func ingress(with func(*rule)) *rule {
	r := &rule{SecurityGroupId: group, Direction: weftv1.Direction_DIRECTION_INGRESS}
	if with != nil {
		with(r)
	}
	return r
}

func remote(cidr string) *weftv1.SecurityGroupRule_RemoteCidr {
	return &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: cidr}
}

func idOf(t *testing.T, r *rule) string {
	t.Helper()
	out, err := secgroup.Normalize(r)
	if err != nil {
		t.Fatal(err)
	}
	if out.ID != r.GetId() || !model.ValidUUID(out.ID) {
		t.Fatalf("the rule's id is %q, the message's %q", out.ID, r.GetId())
	}
	return out.ID
}

func TestRulesThatSayTheSameHaveOneID(t *testing.T) {
	for name, same := range map[string][2]*rule{
		"a name and a number of a protocol": {
			ingress(func(r *rule) { r.Protocol = "TCP" }), ingress(func(r *rule) { r.Protocol = "6" }),
		},
		"one port and a range of one": {
			ingress(func(r *rule) { r.Protocol, r.PortMin = "udp", proto.Uint32(53) }),
			ingress(func(r *rule) { r.Protocol, r.PortMin, r.PortMax = "udp", proto.Uint32(53), proto.Uint32(53) }),
		},
		"all ports and none": {
			ingress(func(r *rule) { r.Protocol = "tcp" }),
			ingress(func(r *rule) { r.Protocol, r.PortMin, r.PortMax = "tcp", proto.Uint32(0), proto.Uint32(65535) }),
		},
		"an address and its prefix": {
			ingress(func(r *rule) { r.Remote = remote("10.0.0.1") }), ingress(func(r *rule) { r.Remote = remote("10.0.0.1/32") }),
		},
		"a family that follows from the prefix": {
			ingress(func(r *rule) { r.Remote = remote("2001:db8::/32") }),
			ingress(func(r *rule) { r.Remote, r.EtherType = remote("2001:DB8::/32"), weftv1.EtherType_ETHER_TYPE_IPV6 }),
		},
		"other descriptions": {
			ingress(func(r *rule) { r.Description = "a" }), ingress(func(r *rule) { r.Description = "b" }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if a, b := idOf(t, same[0]), idOf(t, same[1]); a != b {
				t.Errorf("the ids differ: %s (%v), %s (%v)", a, same[0], b, same[1])
			}
			same[0].Description, same[1].Description = "", ""
			if !proto.Equal(same[0], same[1]) {
				t.Errorf("the forms differ: %v, %v", same[0], same[1])
			}
		})
	}
}

func TestRulesThatSayOtherThingsHaveOtherIDs(t *testing.T) {
	all := []*rule{
		ingress(nil),
		ingress(func(r *rule) { r.Direction = weftv1.Direction_DIRECTION_EGRESS }),
		ingress(func(r *rule) { r.SecurityGroupId = other }),
		ingress(func(r *rule) { r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV6 }),
		ingress(func(r *rule) { r.Protocol = "0" }),
		ingress(func(r *rule) { r.Protocol = "icmp" }),
		ingress(func(r *rule) { r.Protocol, r.IcmpType = "icmp", proto.Uint32(0) }),
		ingress(func(r *rule) { r.Protocol, r.IcmpType, r.IcmpCode = "icmp", proto.Uint32(0), proto.Uint32(0) }),
		ingress(func(r *rule) { r.Remote = remote("0.0.0.0/0") }),
		ingress(func(r *rule) { r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: other} }),
		ingress(func(r *rule) { r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: other} }),
	}
	seen := map[string]*rule{}
	for _, r := range all {
		id := idOf(t, r)
		if seen[id] != nil {
			t.Errorf("%v and %v have one id", r, seen[id])
		}
		seen[id] = r
	}
}

// drawRule makes any rule that a caller may send, good or bad.
func drawRule(t *rapid.T) *rule {
	return ingress(func(r *rule) {
		r.Direction = weftv1.Direction(rapid.Int32Range(0, 3).Draw(t, "direction"))
		r.EtherType = weftv1.EtherType(rapid.Int32Range(0, 3).Draw(t, "family"))
		r.Protocol = rapid.SampledFrom([]string{"", "tcp", "17", "icmp", "58", "gre", "300", "x"}).Draw(t, "protocol")
		number := func(name string, limit uint32) *uint32 {
			if rapid.Bool().Draw(t, name+" given") {
				return proto.Uint32(rapid.Uint32Range(0, limit).Draw(t, name))
			}
			return nil
		}
		r.PortMin, r.PortMax = number("port_min", 70000), number("port_max", 70000)
		r.IcmpType, r.IcmpCode = number("icmp_type", 300), number("icmp_code", 300)
		switch rapid.IntRange(0, 3).Draw(t, "remote") {
		case 1:
			r.Remote = remote(rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.1/8", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0/33"}).Draw(t, "cidr"))
		case 2:
			r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: rapid.SampledFrom([]string{group, other, "x"}).Draw(t, "group")}
		case 3:
			r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: other}
		}
	})
}

func TestAFormIsItsOwnForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t)
		first, err := secgroup.Normalize(r)
		if err != nil {
			return
		}
		again, _ := proto.Clone(r).(*rule)
		second, err := secgroup.Normalize(again)
		if err != nil || first != second || !proto.Equal(r, again) {
			t.Fatalf("%v became %v (%v)", r, again, err)
		}
	})
}

func TestADefaultGroupIsTheSameWhoeverMakesIt(t *testing.T) {
	g, rules, err := secgroup.Default("red", timestamppb.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := secgroup.Default("red", timestamppb.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := model.SecurityGroupFrom(g); err != nil || g.GetId() != secgroup.DefaultID("red") || g.GetId() == secgroup.DefaultID("blue") {
		t.Errorf("group %v: %v", g, err)
	}
	ids := map[string]bool{}
	for i, r := range rules {
		if r.GetId() != again[i].GetId() || r.GetProject() != "red" {
			t.Errorf("rule %v, another time %v", r, again[i])
		}
		typed, err := model.RuleFrom(r)
		if err != nil || secgroup.Reference(typed) != "" {
			t.Errorf("rule %v refers to %q: %v", r, secgroup.Reference(typed), err)
		}
		ids[r.GetId()] = true
	}
	if len(ids) != 4 {
		t.Errorf("%d rules", len(ids))
	}
}

func TestARuleHoldsWhatItRefersTo(t *testing.T) {
	for _, c := range []struct {
		rule *rule
		want func(id string) string
	}{
		{ingress(nil), func(string) string { return "" }},
		{ingress(func(r *rule) { r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: group} }), func(string) string { return "" }},
		{ingress(func(r *rule) { r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: other} }), func(id string) string { return keys.RemoteClaim(other, id) }},
		{ingress(func(r *rule) { r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: other} }), func(id string) string { return keys.RemoteClaim(other, id) }},
	} {
		typed, err := secgroup.Normalize(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := secgroup.Reference(typed); got != c.want(typed.ID) {
			t.Errorf("%v refers to %q", c.rule, got)
		}
	}
}

func TestAMemberHasEveryAddressOnce(t *testing.T) {
	addr := netip.MustParseAddr
	m := secgroup.Member(model.Port{
		Network:  group,
		FixedIPs: []model.FixedIP{{IP: addr("10.0.0.9")}, {IP: addr("10.0.0.2")}},
		Pairs: []model.AddressPair{
			{Prefix: netip.MustParsePrefix("2001:db8::1/128")},
			{Prefix: netip.MustParsePrefix("10.0.0.9/32")},
			{Prefix: netip.MustParsePrefix("10.0.1.0/24"), MAC: "a"},
			{Prefix: netip.MustParsePrefix("10.0.1.0/24"), MAC: "b"},
		},
	})
	if want := []string{"10.0.0.2", "10.0.0.9", "10.0.1.0/24", "2001:db8::1"}; !slices.Equal(m.GetAddresses(), want) || m.GetNetworkId() != group {
		t.Errorf("%v, want %v", m, want)
	}
}
