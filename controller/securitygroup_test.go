package controller_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (w *world) group(g *weftv1.SecurityGroup) *weftv1.SecurityGroup {
	w.Helper()
	got, err := w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: g})
	w.check(err)
	return got
}

func (w *world) addressGroup(g *weftv1.AddressGroup) *weftv1.AddressGroup {
	w.Helper()
	got, err := w.CreateAddressGroup(w.ctx, &weftv1.CreateAddressGroupRequest{AddressGroup: g})
	w.check(err)
	return got
}

func (w *world) addRule(r *weftv1.SecurityGroupRule) (*weftv1.SecurityGroupRule, error) {
	return w.CreateSecurityGroupRule(w.ctx, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: r})
}

func (w *world) rule(r *weftv1.SecurityGroupRule) *weftv1.SecurityGroupRule {
	w.Helper()
	got, err := w.addRule(r)
	w.check(err)
	return got
}

func (w *world) deleteGroup(id string) error {
	_, err := w.DeleteSecurityGroup(w.ctx, &weftv1.DeleteSecurityGroupRequest{Id: id})
	return err
}

// ingressRule is a rule of a group for what comes in.
func ingressRule(group string) *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{SecurityGroupId: group, Direction: weftv1.Direction_DIRECTION_INGRESS}
}

func tcpRule(group string, port uint32) *weftv1.SecurityGroupRule {
	r := ingressRule(group)
	r.Protocol, r.PortMin = "tcp", proto.Uint32(port)
	return r
}

func fromGroup(r *weftv1.SecurityGroupRule, remote string) *weftv1.SecurityGroupRule {
	r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: remote}
	return r
}

func fromAddresses(r *weftv1.SecurityGroupRule, remote string) *weftv1.SecurityGroupRule {
	r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: remote}
	return r
}

// refused checks that a call was refused with a code and words that tell why.
func refused(t testing.TB, err error, code codes.Code, says ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
	for _, word := range says {
		if !strings.Contains(status.Convert(err).Message(), word) {
			t.Errorf("%q does not say %q", status.Convert(err).Message(), word)
		}
	}
}

func TestARuleIsStoredInOneForm(t *testing.T) {
	w := newWorld(t)
	g := w.group(&weftv1.SecurityGroup{Name: "web", Project: "red"})
	in := ingressRule(g.GetId())
	in.Protocol, in.PortMin, in.Remote = "6", proto.Uint32(80), &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "2001:DB8::1"}
	r := w.rule(in)
	if r.GetProject() != "red" || r.GetProtocol() != "tcp" || r.GetPortMax() != 80 || r.GetRemoteCidr() != "2001:db8::1/128" || r.GetEtherType() != weftv1.EtherType_ETHER_TYPE_IPV6 {
		t.Errorf("stored as %v", r)
	}
	got, err := w.GetSecurityGroupRule(w.ctx, &weftv1.GetSecurityGroupRuleRequest{Id: r.GetId()})
	w.check(err)
	list, err := w.ListSecurityGroupRules(w.ctx, &weftv1.ListSecurityGroupRulesRequest{Project: "red", Filter: "security_group_id = " + g.GetId()})
	w.check(err)
	if !proto.Equal(got, r) || len(list.GetSecurityGroupRules()) != 1 || !proto.Equal(list.GetSecurityGroupRules()[0], r) {
		t.Errorf("created %v, read %v, listed %v", r, got, list)
	}
	_, err = w.DeleteSecurityGroupRule(w.ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: r.GetId(), Etag: r.GetEtag()})
	w.check(err)
	w.rule(in) // it may come back
	w.audit()
}

func TestTheSameRuleIsTakenOnceHoweverManyAskForIt(t *testing.T) {
	w := newWorld(t)
	g := w.group(&weftv1.SecurityGroup{Name: "web"})
	var wg sync.WaitGroup
	var made, taken atomic.Int32
	for range 8 {
		wg.Go(func() {
			switch _, err := w.addRule(tcpRule(g.GetId(), 80)); status.Code(err) {
			case codes.OK:
				made.Add(1)
			case codes.AlreadyExists:
				taken.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || taken.Load() != 7 {
		t.Errorf("made %d times, refused %d times", made.Load(), taken.Load())
	}
	again := tcpRule(g.GetId(), 80)
	again.Protocol, again.PortMax, again.Description = "TCP", proto.Uint32(80), "the same in other words"
	_, err := w.addRule(again)
	refused(t, err, codes.AlreadyExists, "security group rule", `security group "web"`)
	w.audit()
}

func TestARetriedRuleIsTheFirstOne(t *testing.T) {
	w := newWorld(t)
	g := w.group(&weftv1.SecurityGroup{Name: "web"})
	req := &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: tcpRule(g.GetId(), 80), RequestId: uuid.NewString()}
	first, err := w.CreateSecurityGroupRule(w.ctx, req)
	w.check(err)
	second, err := w.CreateSecurityGroupRule(w.ctx, req)
	w.check(err)
	if !proto.Equal(first, second) {
		t.Errorf("%v, then %v", first, second)
	}
}

func TestAGroupGoesWithAllItsRules(t *testing.T) {
	w := newWorld(t)
	web, db := w.group(&weftv1.SecurityGroup{Name: "web"}), w.group(&weftv1.SecurityGroup{Name: "db"})
	const many = 75 // more than fit into one transaction
	for port := range uint32(many) {
		w.rule(fromGroup(tcpRule(db.GetId(), port), web.GetId()))
	}
	refused(t, w.deleteGroup(web.GetId()), codes.FailedPrecondition, `security group "web"`, "security group rule", `security group "db"`)
	w.check(w.deleteGroup(db.GetId()))
	w.check(w.deleteGroup(web.GetId()))
	left, err := w.ListSecurityGroupRules(w.ctx, &weftv1.ListSecurityGroupRulesRequest{Filter: "security_group_id = " + db.GetId()})
	w.check(err)
	if len(left.GetSecurityGroupRules()) > 0 {
		t.Errorf("left: %v", left)
	}
	refused(t, w.deleteGroup(db.GetId()), codes.NotFound)
	w.audit()
}

func TestGroupRefusals(t *testing.T) {
	w := newWorld(t)
	red, blue := w.group(&weftv1.SecurityGroup{Name: "a", Project: "red"}), w.group(&weftv1.SecurityGroup{Name: "a", Project: "blue"})
	addresses := w.addressGroup(&weftv1.AddressGroup{Name: "offices", Project: "blue"})
	for name, c := range map[string]struct {
		rule *weftv1.SecurityGroupRule
		code codes.Code
		says string
	}{
		"another project's group":      {fromGroup(ingressRule(red.GetId()), blue.GetId()), codes.FailedPrecondition, "project blue"},
		"another's address group":      {fromAddresses(ingressRule(red.GetId()), addresses.GetId()), codes.FailedPrecondition, "project blue"},
		"a group that is not there":    {fromGroup(ingressRule(red.GetId()), nobody), codes.NotFound, nobody},
		"a rule of no group":           {ingressRule(nobody), codes.NotFound, nobody},
		"a rule of a strange group":    {ingressRule("../x"), codes.InvalidArgument, "security_group_id"},
		"ports of a port-less one":     {&weftv1.SecurityGroupRule{SecurityGroupId: red.GetId(), Direction: 1, Protocol: "gre", PortMin: proto.Uint32(1)}, codes.InvalidArgument, "port_min"},
		"no direction":                 {&weftv1.SecurityGroupRule{SecurityGroupId: red.GetId()}, codes.InvalidArgument, "direction"},
		"a prefix longer than can be":  {&weftv1.SecurityGroupRule{SecurityGroupId: red.GetId(), Direction: 1, Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "10.0.0.0/33"}}, codes.InvalidArgument, "remote_cidr"},
		"host bits":                    {&weftv1.SecurityGroupRule{SecurityGroupId: red.GetId(), Direction: 1, Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "10.0.0.1/8"}}, codes.InvalidArgument, "10.0.0.0/8"},
		"an IPv4 address in IPv6 form": {&weftv1.SecurityGroupRule{SecurityGroupId: red.GetId(), Direction: 1, Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "::ffff:10.0.0.1"}}, codes.InvalidArgument, "remote_cidr"},
	} {
		_, err := w.addRule(c.rule)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.says) })
	}
	rename := func(g *weftv1.SecurityGroup, name string) error {
		_, err := w.UpdateSecurityGroup(w.ctx, &weftv1.UpdateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Id: g.GetId(), Name: name}, UpdateMask: mask("name")})
		return err
	}
	refused(t, rename(red, "default"), codes.InvalidArgument, "default")
	made := w.group(&weftv1.SecurityGroup{Name: "default", Project: "red"})
	if made.GetId() != secgroup.DefaultID("red") {
		t.Errorf("the default group is %v", made)
	}
	refused(t, rename(made, "other"), codes.InvalidArgument, "keeps its name")
	_, err := w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "default", Project: "red"}})
	refused(t, err, codes.AlreadyExists, "default")
	_, err = w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "default", Project: "blue", Stateful: proto.Bool(false)}})
	refused(t, err, codes.InvalidArgument, "stateful")
	w.audit()
}

func TestAnAddressGroupStaysAsLongAsARuleRefersToIt(t *testing.T) {
	w := newWorld(t)
	offices := w.addressGroup(&weftv1.AddressGroup{Name: "offices", Addresses: []string{"2001:DB8::1", "10.0.0.0/8", "192.0.2.1"}})
	if got := strings.Join(offices.GetAddresses(), " "); got != "10.0.0.0/8 192.0.2.1/32 2001:db8::1/128" {
		t.Errorf("stored as %s", got)
	}
	g := w.group(&weftv1.SecurityGroup{Name: "web"})
	r := w.rule(fromAddresses(ingressRule(g.GetId()), offices.GetId()))
	remove := func() error {
		_, err := w.DeleteAddressGroup(w.ctx, &weftv1.DeleteAddressGroupRequest{Id: offices.GetId()})
		return err
	}
	refused(t, remove(), codes.FailedPrecondition, r.GetId(), `security group "web"`)
	_, err := w.UpdateAddressGroup(w.ctx, &weftv1.UpdateAddressGroupRequest{AddressGroup: &weftv1.AddressGroup{Id: offices.GetId(), Addresses: []string{"10.0.0.0/8", "10.0.0.0/8"}}, UpdateMask: mask("addresses")})
	refused(t, err, codes.InvalidArgument, "addresses[1]", "twice")
	w.check(w.deleteGroup(g.GetId()))
	w.check(remove())
	w.audit()
}

func TestGroupsAreWatched(t *testing.T) {
	w := newWorld(t)
	events, err := w.Watch(w.ctx, &weftv1.WatchRequest{Kinds: []weftv1.Kind{
		weftv1.Kind_KIND_SECURITY_GROUP, weftv1.Kind_KIND_SECURITY_GROUP_RULE, weftv1.Kind_KIND_ADDRESS_GROUP,
	}, Project: "red"})
	w.check(err)
	next := func() *weftv1.WatchEvent {
		for {
			e, err := events.Recv()
			w.check(err)
			if e.GetType() != weftv1.WatchEvent_TYPE_BOOKMARK {
				return e
			}
		}
	}
	_, err = events.Recv() // from now on
	w.check(err)
	w.group(&weftv1.SecurityGroup{Name: "other", Project: "blue"})
	a := w.addressGroup(&weftv1.AddressGroup{Name: "offices", Project: "red"})
	if got := next().GetAddressGroup(); !proto.Equal(got, a) {
		t.Errorf("got %v", got)
	}
	g := w.group(&weftv1.SecurityGroup{Name: "web", Project: "red"})
	if got := next().GetSecurityGroup(); !proto.Equal(got, g) {
		t.Errorf("got %v", got)
	}
	r := w.rule(tcpRule(g.GetId(), 80))
	if got := next().GetSecurityGroupRule(); !proto.Equal(got, r) {
		t.Errorf("got %v", got)
	}
	w.check(w.deleteGroup(g.GetId()))
	if e := next(); e.GetType() != weftv1.WatchEvent_TYPE_DELETE {
		t.Errorf("got %v", e)
	}
}

func TestRulesHoldTheirReferencesWhileGroupsComeAndGo(t *testing.T) {
	w := newWorld(t)
	g := w.group(&weftv1.SecurityGroup{Name: "web"})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			remote, err := w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "remote"}})
			if err != nil {
				t.Error(err)
				return
			}
			var pair sync.WaitGroup
			pair.Go(func() { _, _ = w.addRule(fromGroup(tcpRule(g.GetId(), uint32(i)), remote.GetId())) })
			pair.Go(func() { _ = w.deleteGroup(remote.GetId()) })
			pair.Wait()
		})
	}
	wg.Wait()
	w.audit()
	w.put(keys.RemoteClaim(g.GetId(), nobody), &storev1.Claim{Kind: keys.KindRule, Id: nobody})
	refused(t, w.deleteGroup(g.GetId()), codes.FailedPrecondition, nobody)
	w.del(keys.RemoteClaim(g.GetId(), nobody))
}
