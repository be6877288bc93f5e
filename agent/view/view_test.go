package view_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	self   = "cmp1"
	broken = "broken" // no message at all
)

// id makes a readable UUID of a kind and a number: networks a…, subnets b…, ports c…, routers d…, rules e…, groups f….
func id(kind string, n int) string { return fmt.Sprintf("%s%07d-0000-4000-8000-000000000000", kind, n) }

// follower is a view that is fed from a store as a mirror does it.
type follower struct {
	*view.View
	store  map[string]mirror.Change
	dirty  *view.Dirty
	scopes map[string][]mirror.Range
}

func newFollower(store map[string]mirror.Change) *follower {
	return &follower{view.New(self), store, view.NewDirty(), map[string][]mirror.Range{}}
}

// list begins to follow a scope.
func (f *follower) list(scope string, ranges []mirror.Range) {
	f.scopes[scope] = ranges
	batch := mirror.Batch{Listed: []string{scope}}
	for key, c := range f.store {
		if within(ranges, key) {
			batch.Changes = append(batch.Changes, c)
		}
	}
	f.Apply(batch, f.dirty)
}

// wanting are the scopes that the view asks for and that are not followed, sorted; those that it no longer asks for are dropped.
func (f *follower) wanting() []string {
	wanted := f.Scopes()
	for scope := range f.scopes {
		if wanted[scope] == nil {
			delete(f.scopes, scope)
			f.Drop(scope, f.dirty)
		}
	}
	maps.DeleteFunc(wanted, func(scope string, _ []mirror.Range) bool { return f.scopes[scope] != nil })
	return slices.Sorted(maps.Keys(wanted))
}

// follow lists scopes until the view asks for no more.
func (f *follower) follow() {
	for missing := f.wanting(); len(missing) > 0; missing = f.wanting() {
		f.list(missing[0], f.Scopes()[missing[0]])
	}
}

// write changes the store; nil deletes the key. The view is told if it follows it.
func (f *follower) write(key string, value []byte) {
	c := mirror.Change{Key: key, Value: value, Revision: int64(len(f.store) + 1)}
	if before, ok := f.store[key]; ok {
		c.Revision = before.Revision + 1000
	}
	delete(f.store, key)
	if value != nil {
		f.store[key] = c
	}
	for _, ranges := range f.scopes {
		if within(ranges, key) {
			f.Apply(mirror.Batch{Changes: []mirror.Change{c}}, f.dirty)
			return
		}
	}
}

// put writes a message.
func (f *follower) put(key string, m proto.Message) { f.write(key, marshal(m)) }

func within(ranges []mirror.Range, key string) bool {
	return slices.ContainsFunc(ranges, func(r mirror.Range) bool { return r.Contains(key) })
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append([]byte{}, b...) // not nil
}

// known is what a view says, by question.
func (f *follower) known() map[string]string {
	out := map[string]string{}
	for _, n := range []int{1, 2} {
		network := id("a", n)
		for p := 1; p <= 3; p++ {
			k := view.PortKey{Network: network, Port: id("c", 10*n+p)}
			groups, in := f.Groups(k)
			out["groups of "+k.Port] = fmt.Sprint(groups, in, f.Settled(k))
		}
		if scope := f.Networks[network]; scope != nil {
			for _, ip := range addresses(n) {
				p, ok := scope.PortAt(netip.MustParseAddr(ip))
				out["port at "+ip] = fmt.Sprint(p.ID, ok)
			}
			out["nodes of "+network] = fmt.Sprint(scope.Held(), scope.Remote(self), scope.Local)
		}
	}
	for n := 1; n <= 3; n++ {
		group := id("f", n)
		if g := f.SecurityGroups[group]; g != nil && (g.Revision != 0 || len(g.Rules) > 0) { // one that has gone may be there, empty
			out["rules of "+group] = fmt.Sprint(g.Object, g.Rules)
		}
		var held []string
		f.Addresses(group, func(p netip.Prefix) { held = append(held, p.String()) })
		slices.Sort(held)
		out["addresses of "+group] = fmt.Sprint(held)
	}
	for _, p := range pool() {
		prefix, err := model.Addresses([]string{p})
		out["holders of "+p] = fmt.Sprint(f.Holders(prefix[0]), err)
	}
	out["invalid"] = fmt.Sprint(slices.Sorted(maps.Keys(f.Invalid)))
	out["scopes"] = fmt.Sprint(slices.Sorted(maps.Keys(f.Scopes())))
	return out
}

func network(id string) *weftv1.Network {
	return &weftv1.Network{Id: id, Project: "default", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN, SegmentationId: 7, Mtu: 1450, DnsDomain: "weft.internal"}
}

// pool is what groups hold.
func pool() []string { return []string{"10.0.1.1", "10.0.1.2", "10.0.0.0/16", "2001:db8::1"} }

// addresses are those that the ports of a network have.
func addresses(network int) []string {
	var out []string
	for n := range 6 {
		out = append(out, fmt.Sprintf("10.0.%d.%d", network, n+1))
	}
	return out
}

// places are the keys of a small fleet.
func places() []string {
	var out []string
	for _, n := range []int{1, 2} {
		out = append(out, keys.Network(id("a", n)))
		for p := 1; p <= 3; p++ {
			out = append(out, keys.Port(id("a", n), id("c", 10*n+p)), keys.HostObject(self, keys.KindPort, id("c", 10*n+p)))
		}
	}
	for n := 1; n <= 3; n++ {
		group := id("f", n)
		out = append(out, keys.SecurityGroup(group), keys.AddressGroup(group), keys.Rule(group, id("e", 1)), keys.Rule(group, id("e", 2)),
			keys.Member(group, id("c", 11)), keys.Member(group, id("c", 22)))
	}
	return out
}

// draw draws a value for a key: nothing, something that can't be read where that is nothing either, or an object.
func draw(t *rapid.T, key string) []byte {
	k, err := keys.Parse(key)
	if err != nil {
		t.Fatal(err)
	}
	if rapid.IntRange(0, 4).Draw(t, "gone") == 4 {
		return nil
	}
	some := func(of ...string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(of), rapid.ID).Draw(t, "some")
	}
	var m proto.Message
	switch k.Family { //nolint:exhaustive // those of places
	case keys.FamilyNetwork:
		m = network(k.ID())
	case keys.FamilyPort:
		return drawPort(t, k.Scope(), k.ID(), some(id("f", 1), id("f", 2), id("f", 3)))
	case keys.FamilyHost:
		m = &storev1.PortBinding{NetworkId: id("a", int(k.ID()[6]-'0'))}
	case keys.FamilySecurityGroup:
		m = &weftv1.SecurityGroup{Id: k.ID(), Project: "default", Stateful: proto.Bool(rapid.Bool().Draw(t, "stateful"))}
	case keys.FamilyRule:
		m = drawRule(t, k.Scope(), k.ID())
	case keys.FamilyMember:
		m = &storev1.Member{NetworkId: id("a", 1), Addresses: some(pool()...)}
	case keys.FamilyAddressGroup:
		m = &weftv1.AddressGroup{Id: k.ID(), Project: "default", Addresses: some(pool()...)}
	}
	switch k.Family { //nolint:exhaustive // those of which nothing is kept that can't be read
	case keys.FamilyRule, keys.FamilyMember, keys.FamilyAddressGroup:
		if rapid.IntRange(0, 5).Draw(t, "broken") == 0 {
			return []byte(broken)
		}
	}
	return marshal(m)
}

// drawPort draws a VM's port, here or on another node, with one of two addresses that no other port has.
func drawPort(t *rapid.T, network, port string, groups []string) []byte {
	slices.Sort(groups)
	secure := rapid.IntRange(0, 3).Draw(t, "open") > 0
	if !secure {
		groups = nil
	}
	n, p := int(network[7]-'0'), int(port[7]-'0')
	return marshal(&weftv1.Port{
		Id: port, Project: "default", NetworkId: network, MacAddress: fmt.Sprintf("fa:16:3e:00:00:%d%d", n, p), DeviceOwner: "compute:nova",
		FixedIps:       []*weftv1.FixedIp{{SubnetId: id("b", n), IpAddress: addresses(n)[2*(p-1)+rapid.IntRange(0, 1).Draw(t, "address")]}},
		BoundHost:      rapid.SampledFrom([]string{self, self, "cmp2", ""}).Draw(t, "host"),
		SecurityGroups: &weftv1.SecurityGroupIds{Ids: groups}, PortSecurityEnabled: &secure,
	})
}

func drawRule(t *rapid.T, group, rule string) *weftv1.SecurityGroupRule {
	r := &weftv1.SecurityGroupRule{
		Id: rule, SecurityGroupId: group, Direction: weftv1.Direction_DIRECTION_INGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV4,
		Protocol: rapid.SampledFrom([]string{"", "tcp"}).Draw(t, "protocol"),
	}
	remote := id("f", rapid.IntRange(1, 3).Draw(t, "remote"))
	switch rapid.IntRange(0, 2).Draw(t, "kind of remote") {
	case 0:
		r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: remote}
	case 1:
		r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: remote}
	}
	return r
}

// unmarked are the answers that have changed though nothing that they go by is marked.
func unmarked(before, now map[string]string, d *view.Dirty) []string {
	marked := map[string]bool{}
	for k := range d.Ports {
		marked["groups of "+k.Port] = true
	}
	for g := range d.Groups {
		marked["rules of "+g] = true
	}
	for p := range d.Addresses {
		marked["holders of "+strings.TrimSuffix(strings.TrimSuffix(p.String(), "/32"), "/128")] = true
	}
	var out []string
	for question, answer := range now {
		kind, _, _ := strings.Cut(question, " ")
		if before[question] != answer && !marked[question] && slices.Contains([]string{"groups", "rules", "holders"}, kind) {
			out = append(out, question)
		}
	}
	return out
}

// TestAViewThatSawEveryChangeSaysWhatANewOneSays has objects come, change and go while scopes are listed one by one: when all
// have been, the view says what one says that has seen nothing but the end, and on the way it marks whatever it changes.
func TestAViewThatSawEveryChangeSaysWhatANewOneSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newFollower(map[string]mirror.Change{})
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			before := f.known()
			f.dirty = view.NewDirty()
			if missing := f.wanting(); len(missing) > 0 && rapid.Bool().Draw(rt, "list") {
				scope := rapid.SampledFrom(missing).Draw(rt, "scope")
				f.list(scope, f.Scopes()[scope])
			} else {
				key := rapid.SampledFrom(places()).Draw(rt, "key")
				f.write(key, draw(rt, key))
			}
			if missed := unmarked(before, f.known(), f.dirty); len(missed) > 0 {
				rt.Fatalf("changed and not marked: %v", missed)
			}
		}
		f.follow()
		fresh := newFollower(f.store)
		fresh.follow()
		if diff := cmp.Diff(fresh.known(), f.known()); diff != "" {
			rt.Fatalf("step by step differs from at once (-at once +steps):\n%s", diff)
		}
		for key, why := range f.Invalid {
			if string(f.store[key].Value) != broken {
				rt.Fatalf("%s: %v", key, why.Err)
			}
		}
		if !f.Complete() {
			rt.Fatal("the view is not complete though everything has been listed")
		}
	})
}

// bound stores a network with a VM's port on this node that is in groups.
func (f *follower) bound(groups ...string) view.PortKey {
	k := view.PortKey{Network: id("a", 1), Port: id("c", 11)}
	f.put(keys.Network(id("a", 1)), network(id("a", 1)))
	f.put(keys.Port(k.Network, k.Port), &weftv1.Port{
		Id: k.Port, Project: "default", NetworkId: k.Network, MacAddress: "fa:16:3e:00:00:11", BoundHost: self, DeviceOwner: "compute:nova",
		FixedIps:            []*weftv1.FixedIp{{SubnetId: id("b", 1), IpAddress: "10.0.1.1"}},
		PortSecurityEnabled: proto.Bool(true), SecurityGroups: &weftv1.SecurityGroupIds{Ids: groups},
	})
	f.put(keys.HostObject(self, keys.KindPort, k.Port), &storev1.PortBinding{NetworkId: k.Network})
	return k
}

func TestAPortIsUnderItsOldGroupsUntilAllOfTheNewOnesHasBeenListed(t *testing.T) {
	f := newFollower(map[string]mirror.Change{})
	one, two, friends := id("f", 1), id("f", 2), id("f", 3)
	for _, g := range []string{one, two, friends} {
		f.put(keys.SecurityGroup(g), &weftv1.SecurityGroup{Id: g, Project: "default"})
	}
	f.put(keys.Rule(two, id("e", 1)), &weftv1.SecurityGroupRule{
		Id: id("e", 1), SecurityGroupId: two, Direction: weftv1.Direction_DIRECTION_INGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV4,
		Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: friends},
	})
	k := f.bound(one)
	under := func(want ...string) {
		t.Helper()
		if got, in := f.Groups(k); !slices.Equal(got, want) || in != (want != nil) {
			t.Errorf("under %v, %v; want %v", got, in, want)
		}
	}
	for missing := f.wanting(); len(missing) > 0; missing = f.wanting() {
		under()
		f.list(missing[0], f.Scopes()[missing[0]])
	}
	under(one)
	f.bound(two)
	for missing := f.wanting(); len(missing) > 0; missing = f.wanting() { // the group, then the members of the one that its rule refers to
		under(one)
		f.list(missing[0], f.Scopes()[missing[0]])
	}
	under(two)
}

func TestARuleThatCannotBeReadAllowsNothing(t *testing.T) {
	f := newFollower(map[string]mirror.Change{})
	group, rule := id("f", 1), id("e", 1)
	f.put(keys.SecurityGroup(group), &weftv1.SecurityGroup{Id: group, Project: "default"})
	readable := &weftv1.SecurityGroupRule{Id: rule, SecurityGroupId: group, Direction: weftv1.Direction_DIRECTION_INGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV4}
	f.put(keys.Rule(group, rule), readable)
	f.bound(group)
	f.follow()
	if len(f.SecurityGroups[group].Rules) != 1 {
		t.Fatal("the rule is not known")
	}
	misplaced := proto.CloneOf(readable)
	misplaced.SecurityGroupId = id("f", 2)
	for _, value := range [][]byte{[]byte(broken), marshal(misplaced)} {
		f.write(keys.Rule(group, rule), value)
		if len(f.SecurityGroups[group].Rules) != 0 || f.InvalidUnder(keys.Rules(group))[rule].Err == nil {
			t.Errorf("%q: rules %v, invalid %v", value, f.SecurityGroups[group].Rules, f.Invalid)
		}
		f.put(keys.Rule(group, rule), readable)
		if len(f.SecurityGroups[group].Rules) != 1 || len(f.Invalid) != 0 {
			t.Errorf("the rule can be read again: rules %v, invalid %v", f.SecurityGroups[group].Rules, f.Invalid)
		}
	}
}
