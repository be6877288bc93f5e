package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/collect"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// rubbish is what no message is.
const rubbish = "\xff this is no message"

// bad is the id of the nth object that is damaged.
func bad(n int) string { return fmt.Sprintf("bad00000-0000-4000-8000-%012d", n) }

// write puts a text as it is under a key.
func (w *world) write(key, text string) {
	w.Helper()
	_, err := w.etcdClient.Put(w.ctx, key, text)
	w.check(err)
}

// damage writes, besides good objects, one of each kind that is no message and some that say what can't be; group has rules
// that are so too. It returns the ids of those that have one.
func (w *world) damage(group string) (ids []string) {
	w.Helper()
	n := 0
	next := func() string {
		n++
		ids = append(ids, bad(n))
		return bad(n)
	}
	located := func(kind, id, scope string) { w.put(keys.Locator(kind, id), &storev1.Locator{Scope: scope}) }
	for _, key := range []string{keys.Network(next()), keys.Router(next()), keys.SecurityGroup(next()), keys.AddressGroup(next()), keys.SegmentRange(next())} {
		w.write(key, rubbish)
	}
	for kind, key := range map[string]func(string) string{
		keys.KindSubnet:     func(id string) string { return keys.Subnet(w.net1.GetId(), id) },
		keys.KindPort:       func(id string) string { return keys.Port(w.net1.GetId(), id) },
		keys.KindFloatingIP: func(id string) string { return keys.FloatingIP("-", id) },
		keys.KindRule:       func(id string) string { return keys.Rule(group, id) },
	} {
		id := next()
		w.write(key(id), rubbish)
		scope := map[string]string{keys.KindFloatingIP: "-", keys.KindRule: group}[kind]
		if scope == "" {
			scope = w.net1.GetId()
		}
		located(kind, id, scope)
	}
	odd := next() // a protocol that is none, about a group that is not there
	w.put(keys.Rule(group, odd), &weftv1.SecurityGroupRule{
		Id: odd, SecurityGroupId: group, Project: "default", Direction: 9, Protocol: "no\nprotocol", Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: "../x"},
	})
	located(keys.KindRule, odd, group)
	w.put(keys.Rule(group, bad(90)), &weftv1.SecurityGroupRule{Id: bad(91), SecurityGroupId: bad(92)}) // under a key that contradicts it
	w.write(keys.Member(group, bad(93)), rubbish)
	w.put(keys.Member(bad(94), w.p1.GetId()), &storev1.Member{NetworkId: "x", Addresses: []string{"no address", "0.0.0.0/0"}})
	w.write(keys.Instance(w.p1.GetId()), rubbish)
	w.write(keys.Pool("odd"), rubbish)
	w.write(keys.Node("net1"), rubbish)
	w.write(keys.Agent("odd"), rubbish)
	w.write(keys.Plug("odd", w.p1.GetId()), rubbish)
	return ids
}

// TestWhatIsDamagedStopsNothingElseAndCanBeDeleted has bad objects put straight into the store, groups' and rules' among them:
// lists, placement and new objects go on, the audit names each, and an admin can delete each by its id.
func TestWhatIsDamagedStopsNothingElseAndCanBeDeleted(t *testing.T) {
	w := newWorld(t)
	group := w.group(&weftv1.SecurityGroup{Name: "web"})
	good, err := w.addRule(ingressRule(group.GetId()))
	w.check(err)
	ids := w.damage(group.GetId())

	second, err := w.addRule(&weftv1.SecurityGroupRule{SecurityGroupId: group.GetId(), Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "udp", Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: group.GetId()}})
	w.check(err)
	rules, err := w.ListSecurityGroupRules(w.ctx, &weftv1.ListSecurityGroupRulesRequest{Filter: "security_group_id = " + group.GetId()})
	w.check(err)
	for _, r := range []*weftv1.SecurityGroupRule{good, second} {
		if !slices.ContainsFunc(rules.GetSecurityGroupRules(), func(x *weftv1.SecurityGroupRule) bool { return x.GetId() == r.GetId() }) {
			t.Errorf("rule %s is not listed", r.GetId())
		}
	}
	groups, err := w.ListSecurityGroups(w.ctx, &weftv1.ListSecurityGroupsRequest{Filter: "name = web"})
	w.check(err)
	if len(groups.GetSecurityGroups()) != 1 {
		t.Errorf("the groups are %v", groups)
	}
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), SecurityGroups: groupIDs(group.GetId())})
	r := w.router("r2", w.ext1.GetId()) // the scheduler finds a place for it
	if len(r.GetPlacement().GetNodes()) == 0 {
		t.Error("a router finds no place")
	}
	w.group(&weftv1.SecurityGroup{Name: "other"})

	findings, err := audit.Run(w.ctx, store.New(w.etcdClient))
	w.check(err)
	for _, id := range append(slices.Clone(ids), bad(90), bad(93), bad(94), keys.Instance(w.p1.GetId())) {
		if !strings.Contains(strings.Join(findings, "\n"), id) {
			t.Errorf("the audit says nothing of %s", id)
		}
	}
	_, err = w.GetSecurityGroup(w.ctx, &weftv1.GetSecurityGroupRequest{Id: ids[2]})
	wantCode(t, codes.DataLoss, err)

	for _, id := range ids {
		w.deleteWhatever(id)
	}
	_, err = w.changePort(&weftv1.Port{Id: w.p1.GetId(), Instance: &weftv1.Instance{Hostname: "new"}}, "instance")
	w.check(err)
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
	w.check(err)
	for _, key := range []string{keys.Member(group.GetId(), bad(93)), keys.Member(bad(94), w.p1.GetId())} { // nobody's, and found as such below
		w.write(key, "")
	}
	w.collected()
	w.check(w.deleteGroup(group.GetId())) // with the rule that contradicts its key
	w.collected()
	for key := range w.contents() {
		if strings.Contains(key, "/bad00000") && !strings.HasPrefix(key, keys.All(keys.FamilyRequest)) {
			t.Errorf("key %s is left", key)
		}
	}
}

// deleteWhatever deletes the object of an id, whatever its kind: the one call that finds it has to succeed.
func (w *world) deleteWhatever(id string) {
	w.Helper()
	answers := map[string]error{}
	for kind, remove := range map[string]func() (*emptypb.Empty, error){
		"network": func() (*emptypb.Empty, error) { return w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: id}) },
		"subnet":  func() (*emptypb.Empty, error) { return w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: id}) },
		"port":    func() (*emptypb.Empty, error) { return w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: id}) },
		"router":  func() (*emptypb.Empty, error) { return w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: id}) },
		"floating IP": func() (*emptypb.Empty, error) {
			return w.DeleteFloatingIp(w.ctx, &weftv1.DeleteFloatingIpRequest{Id: id})
		},
		"group": func() (*emptypb.Empty, error) {
			return w.DeleteSecurityGroup(w.ctx, &weftv1.DeleteSecurityGroupRequest{Id: id})
		},
		"rule": func() (*emptypb.Empty, error) {
			return w.DeleteSecurityGroupRule(w.ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: id})
		},
		"address group": func() (*emptypb.Empty, error) {
			return w.DeleteAddressGroup(w.ctx, &weftv1.DeleteAddressGroupRequest{Id: id})
		},
		"range": func() (*emptypb.Empty, error) {
			return w.DeleteSegmentRange(w.ctx, &weftv1.DeleteSegmentRangeRequest{Id: id})
		},
	} {
		_, answers[kind] = remove()
	}
	for _, err := range answers {
		if err == nil {
			return
		}
	}
	w.Errorf("%s can't be deleted: %v", id, answers)
}

// collected deletes what belongs to nothing, as the collector does in two looks.
func (w *world) collected() {
	w.Helper()
	s := store.New(w.etcdClient)
	orphans, err := collect.Look(w.ctx, s)
	w.check(err)
	_, err = collect.Delete(w.ctx, s, orphans, nil)
	w.check(err)
}

// TestOnlyAnAdminDeletesWhatNobodyCanRead since nobody knows whose it is, and not while something lies in it.
func TestOnlyAnAdminDeletesWhatNobodyCanRead(t *testing.T) {
	r := newRealm(t)
	r.write(keys.SecurityGroup(r.group.GetId()), rubbish)
	for _, who := range []string{"owner", "other", "reader", "operator"} {
		if _, err := r.DeleteSecurityGroup(by(r.ctx, who), &weftv1.DeleteSecurityGroupRequest{Id: r.group.GetId()}); err == nil {
			t.Errorf("%s deletes what nobody can read", who)
		}
	}
	refused(t, r.deleteGroup(r.group.GetId()), codes.FailedPrecondition, "can't be read", keys.Rule(r.group.GetId(), r.rule.GetId()))
	_, err := r.DeleteSecurityGroupRule(r.ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: r.rule.GetId()})
	r.check(err)
	r.check(r.deleteGroup(r.group.GetId()))
	r.write(keys.Network(r.network.GetId()), rubbish)
	_, err = r.DeleteNetwork(r.ctx, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()})
	refused(t, err, codes.FailedPrecondition, keys.Subnet(r.network.GetId(), r.subnet.GetId()))
}

func TestWhatRestedOnAPortThatAnAdminDeletedUnreadCanBeDeleted(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	_, err := r.DeleteFloatingIp(red, &weftv1.DeleteFloatingIpRequest{Id: r.fip.GetId()})
	r.check(err)
	router, err := r.GetRouter(red, &weftv1.GetRouterRequest{Id: r.router.GetId()})
	r.check(err)
	ports, err := r.ListPorts(r.ctx, &weftv1.ListPortsRequest{Filter: "project = red"})
	r.check(err)
	for _, p := range ports.GetPorts() {
		r.write(keys.Port(p.GetNetworkId(), p.GetId()), rubbish)
		_, err := r.DeletePort(r.ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
		r.check(err)
	}
	_, err = r.RemoveRouterInterface(red, &weftv1.RemoveRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: r.subnet.GetId()}})
	r.check(err)
	_, err = r.DeleteRouter(red, &weftv1.DeleteRouterRequest{Id: router.GetId()})
	r.check(err)
	r.collected()
	_, err = r.DeleteSubnet(red, &weftv1.DeleteSubnetRequest{Id: r.subnet.GetId()})
	r.check(err)
	_, err = r.DeleteNetwork(red, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	r.collected()
	r.audit()
}

// TestWhatLiesInWhatNobodyCanReadCanBeDeleted has an admin clear away networks and a router that nobody can read, with all that
// there is in them, and what the controllers made for them.
func TestWhatLiesInWhatNobodyCanReadCanBeDeleted(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	ports, err := r.ListPorts(r.ctx, &weftv1.ListPortsRequest{Filter: "project = red"})
	r.check(err)
	r.put(keys.NetworkGrant(bad(1), bad(2)), &weftv1.NetworkGrant{Id: bad(2), NetworkId: bad(1), Project: "red", TargetProject: "green"})
	r.put(keys.Locator(keys.KindNetworkGrant, bad(2)), &storev1.Locator{Scope: bad(1)})
	r.check(r.revoke(red, bad(2))) // it is of no network
	for _, key := range []string{keys.Network(r.network.GetId()), keys.Network(r.ext1.GetId()), keys.Router(r.router.GetId())} {
		r.write(key, rubbish)
	}
	_, err = r.DeleteFloatingIp(red, &weftv1.DeleteFloatingIpRequest{Id: r.fip.GetId()})
	r.check(err)
	_, err = r.DeleteRouter(r.ctx, &weftv1.DeleteRouterRequest{Id: r.router.GetId()})
	r.check(err)
	owners := map[string]bool{}
	for _, p := range ports.GetPorts() {
		if owners[p.GetDeviceOwner()] = true; p.GetDeviceOwner() != "" {
			refused(t, only(r.DeletePort(red, &weftv1.DeletePortRequest{Id: p.GetId()})), codes.FailedPrecondition, "can't be deleted here")
			refused(t, only(r.DeleteSubnet(r.ctx, &weftv1.DeleteSubnetRequest{Id: p.GetFixedIps()[0].GetSubnetId()})), codes.FailedPrecondition, "in the way")
		}
		_, err := r.DeletePort(r.ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
		r.check(err)
	}
	if len(owners) != 4 {
		t.Errorf("red had ports of %v", owners)
	}
	_, err = r.DeleteSubnet(r.ctx, &weftv1.DeleteSubnetRequest{Id: r.subnet.GetId()})
	r.check(err)
	_, err = r.DeleteNetwork(r.ctx, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	r.put(keys.Network(r.ext1.GetId()), r.ext1)
	r.collected()
	r.audit()
}
