package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// limit sets one limit of a project.
func (w *world) limit(project string, kind weftv1.Kind, limit int64) {
	w.Helper()
	_, err := w.SetQuota(w.ctx, &weftv1.SetQuotaRequest{Project: project, Limits: []*weftv1.QuotaLimit{{Kind: kind, Limit: limit}}})
	w.check(err)
}

// quotaOf is a project's quota by kind.
func (w *world) quotaOf(project string) map[weftv1.Kind]*weftv1.QuotaEntry {
	w.Helper()
	q, err := w.GetQuota(w.ctx, &weftv1.GetQuotaRequest{Project: project})
	w.check(err)
	out := map[weftv1.Kind]*weftv1.QuotaEntry{}
	for _, e := range q.GetEntries() {
		out[e.GetKind()] = e
	}
	return out
}

func (w *world) used(project string, kind weftv1.Kind) int { //nolint:unparam // it says of what
	w.Helper()
	return int(w.quotaOf(project)[kind].GetUsed())
}

// race has 64 clients of two replicas call at once, twice each, and counts the calls that succeed. The others must be told that the
// quota is used up.
func (w *world) race(other *replica, call func(ctx context.Context, c client) error) (succeeded int) {
	w.Helper()
	replicas := []client{w.client, other.client}
	results := make([]error, 64)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range results {
		wg.Go(func() {
			<-begin
			results[i] = call(w.ctx, replicas[i%2])
		})
	}
	close(begin)
	wg.Wait()
	for _, err := range results {
		if err == nil {
			succeeded++
			continue
		}
		refused(w.bench, err, codes.ResourceExhausted, "quota")
	}
	return succeeded
}

// TestTheLastPlacesGoToAsManyAsThereAre races clients of two replicas for the last places, in each of the ways in which a
// project can come by a limit.
func TestTheLastPlacesGoToAsManyAsThereAre(t *testing.T) {
	w := newWorld(t)
	other := w.replica2()
	shared := w.network(&weftv1.Network{Name: "shared", Shared: true})
	w.subnet(&weftv1.Subnet{NetworkId: shared.GetId(), Cidr: "10.9.0.0/16"})
	port := func(project string) func(context.Context, client) error {
		return func(ctx context.Context, c client) error {
			_, err := c.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: shared.GetId(), Project: project}})
			return err
		}
	}
	several := func(n int, project string) {
		for range n {
			w.check(port(project)(w.ctx, w.client))
		}
	}
	const kind = weftv1.Kind_KIND_PORT
	for _, tc := range []struct {
		project string
		prepare func(project string)
		want    int
	}{
		{"set", func(p string) { w.limit(p, kind, 20) }, 20},
		{"nothing", func(p string) { w.limit(p, kind, 0) }, 0},
		{"one", func(p string) { several(6, p); w.limit(p, kind, 7) }, 1},
		{"unlimited-before", func(p string) { w.limit(p, kind, quota.Unlimited); several(5, p); w.limit(p, kind, 20) }, 15},
		{"lowered", func(p string) { several(10, p); w.limit(p, kind, 12); several(1, p); w.limit(p, kind, 20) }, 9},
		{"lowered-below", func(p string) { several(10, p); w.limit(p, kind, 8) }, 0},
		{"mixed", func(p string) {
			several(4, p)
			w.limit(p, kind, quota.Unlimited)
			several(4, p)
			w.limit(p, kind, 16)
		}, 8},
	} {
		tc.prepare(tc.project)
		had := w.used(tc.project, kind)
		if got := w.race(other, port(tc.project)); got != tc.want {
			t.Errorf("%s: %d of 64 have got a place, %d were left", tc.project, got, tc.want)
		}
		if now := w.used(tc.project, kind); now != had+tc.want {
			t.Errorf("%s: %d places are used, %d were", tc.project, now, had)
		}
	}
	w.audit()
}

// replica2 is another controller on the world's store, which has seen its nodes.
func (w *world) replica2() *replica {
	w.Helper()
	other := w.bench.replica()
	w.seen(other, "net1", "cmp1")
	return other
}

// TestALimitHoldsWhileItIsUsedAndChanged has clients of two replicas make and delete at once, while the limit changes: there are never
// more than the highest limit, and what is left at the end can all be had.
func TestALimitHoldsWhileItIsUsedAndChanged(t *testing.T) {
	w := newWorld(t)
	other := w.replica2()
	const kind, most = weftv1.Kind_KIND_ADDRESS_GROUP, 10
	w.limit("red", kind, most)
	var wg sync.WaitGroup
	for i, c := range []client{w.client, other.client, w.client, other.client, w.client, other.client} {
		wg.Go(func() {
			var mine []string
			for n := range 25 {
				g, err := c.CreateAddressGroup(w.ctx, &weftv1.CreateAddressGroupRequest{AddressGroup: &weftv1.AddressGroup{Name: fmt.Sprint(i, n), Project: "red"}})
				switch {
				case err == nil:
					mine = append(mine, g.GetId())
				case status.Code(err) != codes.ResourceExhausted:
					t.Error(err)
					return
				}
				if len(mine) > 0 && (err != nil || n%3 == i%3) {
					if _, err := c.DeleteAddressGroup(w.ctx, &weftv1.DeleteAddressGroupRequest{Id: mine[0]}); err != nil {
						t.Error(err)
						return
					}
					mine = mine[1:]
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for n := 0; ; n++ {
		select {
		case <-done:
		default:
			if used := w.used("red", kind); used > most {
				t.Errorf("%d are used of at most %d", used, most)
			}
			w.limit("red", kind, int64(3+n%8))
			continue
		}
		break
	}
	w.limit("red", kind, most)
	had := w.used("red", kind)
	if got := w.race(other, func(ctx context.Context, c client) error {
		_, err := c.CreateAddressGroup(ctx, &weftv1.CreateAddressGroupRequest{AddressGroup: &weftv1.AddressGroup{Name: "last", Project: "red"}})
		return err
	}); had+got != most {
		t.Errorf("%d were left over, and %d could be had after them, of %d", had, got, most)
	}
	w.audit()
}

// TestABatchGetsAsManyAsThereArePlaces tells of each element whether it was made.
func TestABatchGetsAsManyAsThereArePlaces(t *testing.T) {
	w := newWorld(t)
	for name, before := range map[string]int64{"limited": 50, "unlimited-before": quota.Unlimited} {
		net := w.network(&weftv1.Network{Project: name})
		w.subnet(&weftv1.Subnet{NetworkId: net.GetId(), Cidr: "10.9.0.0/16"})
		w.limit(name, weftv1.Kind_KIND_PORT, before)
		w.port(&weftv1.Port{NetworkId: net.GetId(), Project: name})
		w.limit(name, weftv1.Kind_KIND_PORT, 50)
		req := &weftv1.BatchCreatePortsRequest{}
		for range 100 {
			req.Requests = append(req.Requests, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: net.GetId(), Project: name}})
		}
		got, err := w.BatchCreatePorts(w.ctx, req)
		w.check(err)
		made := 0
		for _, r := range got.GetResults() {
			if r.GetPort() != nil {
				made++
			} else if codes.Code(r.GetError().GetCode()) != codes.ResourceExhausted {
				t.Error(r.GetError())
			}
		}
		if used := w.used(name, weftv1.Kind_KIND_PORT); made != 49 || used != 50 {
			t.Errorf("%s: %d were made, %d are used", name, made, used)
		}
	}
	w.audit()
}

// TestEveryKindThatCountsIsLimited fills the quota of each kind, is refused, and gets what was deleted back.
func TestEveryKindThatCountsIsLimited(t *testing.T) {
	w := newWorld(t)
	net := w.network(&weftv1.Network{Name: "red", Project: "red"})
	w.subnet(&weftv1.Subnet{NetworkId: net.GetId(), Cidr: "10.1.0.0/24"})
	group := w.group(&weftv1.SecurityGroup{Name: "web", Project: "red"})
	n := 0
	type made struct {
		id  string
		err error
	}
	of := func(m interface{ GetId() string }, err error) made { return made{m.GetId(), err} }
	makers := map[weftv1.Kind]func() made{
		weftv1.Kind_KIND_NETWORK: func() made {
			return of(w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Project: "red"}}))
		},
		weftv1.Kind_KIND_SUBNET: func() made {
			return of(w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: net.GetId(), Cidr: fmt.Sprintf("10.2.%d.0/24", n)}}))
		},
		weftv1.Kind_KIND_PORT: func() made {
			return of(w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: net.GetId()}}))
		},
		weftv1.Kind_KIND_ROUTER: func() made {
			return of(w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Project: "red"}}))
		},
		weftv1.Kind_KIND_FLOATING_IP: func() made {
			return of(w.CreateFloatingIp(w.ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), Project: "red"}}))
		},
		weftv1.Kind_KIND_SECURITY_GROUP: func() made {
			return of(w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: fmt.Sprint("g", n), Project: "red"}}))
		},
		weftv1.Kind_KIND_SECURITY_GROUP_RULE: func() made {
			r := ingressRule(group.GetId())
			r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: fmt.Sprintf("10.2.%d.0/24", n)}
			return of(w.CreateSecurityGroupRule(w.ctx, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: r}))
		},
		weftv1.Kind_KIND_ADDRESS_GROUP: func() made {
			return of(w.CreateAddressGroup(w.ctx, &weftv1.CreateAddressGroupRequest{AddressGroup: &weftv1.AddressGroup{Name: fmt.Sprint("g", n), Project: "red"}}))
		},
	}
	deleters := map[weftv1.Kind]func(id string) error{
		weftv1.Kind_KIND_NETWORK: func(id string) error {
			_, err := w.DeleteNetwork(w.ctx, &weftv1.DeleteNetworkRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_SUBNET: func(id string) error {
			_, err := w.DeleteSubnet(w.ctx, &weftv1.DeleteSubnetRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_PORT: func(id string) error {
			_, err := w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_ROUTER: func(id string) error {
			_, err := w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_FLOATING_IP: func(id string) error {
			_, err := w.DeleteFloatingIp(w.ctx, &weftv1.DeleteFloatingIpRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_SECURITY_GROUP: func(id string) error {
			_, err := w.DeleteSecurityGroup(w.ctx, &weftv1.DeleteSecurityGroupRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_SECURITY_GROUP_RULE: func(id string) error {
			_, err := w.DeleteSecurityGroupRule(w.ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: id})
			return err
		},
		weftv1.Kind_KIND_ADDRESS_GROUP: func(id string) error {
			_, err := w.DeleteAddressGroup(w.ctx, &weftv1.DeleteAddressGroupRequest{Id: id})
			return err
		},
	}
	for _, k := range quota.Kinds() {
		for _, before := range []int64{100, quota.Unlimited} { // with and without a number
			w.limit("red", k.Enum, before)
			had := w.used("red", k.Enum)
			n++
			first := makers[k.Enum]()
			w.check(first.err)
			if now := w.used("red", k.Enum); now != had+1 {
				t.Errorf("%s: %d were used, %d are", k.Name, had, now)
			}
			w.limit("red", k.Enum, int64(had+1))
			n++
			refused(t, makers[k.Enum]().err, codes.ResourceExhausted, "project red", fmt.Sprintf("%d %ss", had+1, k.Name), fmt.Sprintf("quota is %d", had+1), "weft quota set")
			w.check(deleters[k.Enum](first.id))
			second := makers[k.Enum]()
			w.check(second.err)
			w.audit()
			w.check(deleters[k.Enum](second.id))
		}
	}
	w.audit()
}

// TestWhatTheControllersMakeIsNoProjectsUse makes the default group, DHCP servers, a gateway and an interface under limits that
// leave no place for them.
func TestWhatTheControllersMakeIsNoProjectsUse(t *testing.T) {
	w := newWorld(t)
	_, err := w.SetQuota(w.ctx, &weftv1.SetQuotaRequest{Project: "red", Limits: []*weftv1.QuotaLimit{
		{Kind: weftv1.Kind_KIND_SECURITY_GROUP}, {Kind: weftv1.Kind_KIND_SECURITY_GROUP_RULE}, {Kind: weftv1.Kind_KIND_PORT, Limit: 1},
	}})
	w.check(err)
	net := w.network(&weftv1.Network{Name: "red", Project: "red"})
	sub := w.subnet(&weftv1.Subnet{NetworkId: net.GetId(), Cidr: "10.1.0.0/24"})
	r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Project: "red"}})
	w.check(err)
	_, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext1.GetId()})
	w.check(err)
	_, err = w.addInterface(r.GetId(), sub.GetId())
	w.check(err)
	p := w.port(&weftv1.Port{NetworkId: net.GetId()})
	for kind, want := range map[weftv1.Kind]int{weftv1.Kind_KIND_PORT: 1, weftv1.Kind_KIND_SECURITY_GROUP: 0, weftv1.Kind_KIND_SECURITY_GROUP_RULE: 0} {
		if used := w.used("red", kind); used != want {
			t.Errorf("%s: %d are used, want %d", kind, used, want)
		}
	}
	// A rule of the default group that is deleted and made again is the same rule.
	group := p.GetSecurityGroups().GetIds()[0]
	rules, err := w.ListSecurityGroupRules(w.ctx, &weftv1.ListSecurityGroupRulesRequest{Filter: "security_group_id = " + group})
	w.check(err)
	for _, rule := range rules.GetSecurityGroupRules() {
		_, err := w.DeleteSecurityGroupRule(w.ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: rule.GetId()})
		w.check(err)
		_, err = w.CreateSecurityGroupRule(w.ctx, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: rule})
		w.check(err)
	}
	_, err = w.CreateSecurityGroupRule(w.ctx, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: ingressRule(group)})
	refused(t, err, codes.ResourceExhausted, "security group rules")
	w.audit()
}

func TestAQuotaIsShownSetAndUnset(t *testing.T) {
	w := newWorld(t)
	other := w.replicaWith(controller.Options{Quotas: quota.Defaults()})
	const kind = weftv1.Kind_KIND_ROUTER
	if e := w.quotaOf("red")[kind]; e.GetLimit() != 100_000 || e.GetSet() || e.GetUsed() != 0 {
		t.Errorf("by default: %v", e)
	}
	q, err := other.SetQuota(w.ctx, &weftv1.SetQuotaRequest{Project: "red", Limits: []*weftv1.QuotaLimit{{Kind: kind, Limit: 2}, {Kind: weftv1.Kind_KIND_PORT, Limit: quota.Unlimited}}})
	w.check(err)
	text := fmt.Sprint(q)
	for _, e := range w.quotaOf("red") {
		if want := e.GetKind() == kind || e.GetKind() == weftv1.Kind_KIND_PORT; e.GetSet() != want {
			t.Errorf("of %s: %v", text, e)
		}
	}
	if len(q.GetEntries()) != len(quota.Kinds()) || q.GetEntries()[0].GetLimit() != 100 || q.GetProject() != "red" {
		t.Errorf("set: %v", q)
	}
	_, err = w.UnsetQuota(w.ctx, &weftv1.UnsetQuotaRequest{Project: "red", Kinds: []weftv1.Kind{kind}})
	w.check(err)
	if e := w.quotaOf("red"); e[kind].GetSet() || !e[weftv1.Kind_KIND_PORT].GetSet() {
		t.Errorf("one is unset: %v", e)
	}
	_, err = w.UnsetQuota(w.ctx, &weftv1.UnsetQuotaRequest{Project: "red"})
	w.check(err)
	if e := w.quotaOf("red"); e[weftv1.Kind_KIND_PORT].GetSet() {
		t.Errorf("all are unset: %v", e)
	}
	w.audit()
}

func TestAQuotaThatMakesNoSenseIsRefused(t *testing.T) {
	w := newWorld(t)
	many := make([]*weftv1.QuotaLimit, 100_000)
	for i := range many {
		many[i] = &weftv1.QuotaLimit{Kind: weftv1.Kind_KIND_PORT}
	}
	for field, req := range map[string]*weftv1.SetQuotaRequest{
		"limits":          {},
		"limits[0].limit": {Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_PORT, Limit: -2}}},
		"limits[0]":       {Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_NODE, Limit: 1}}},
		"limits[1]":       {Limits: many},
		"project":         {Project: "a/b", Limits: many[:1]},
	} {
		_, err := w.SetQuota(w.ctx, req)
		refused(t, err, codes.InvalidArgument, field+":")
	}
	_, err := w.UnsetQuota(w.ctx, &weftv1.UnsetQuotaRequest{Kinds: []weftv1.Kind{weftv1.Kind_KIND_PORT, weftv1.Kind_KIND_PORT}})
	refused(t, err, codes.InvalidArgument, "kinds[1]:")
	_, err = w.GetQuota(w.ctx, &weftv1.GetQuotaRequest{Project: strings.Repeat("x", 65)})
	refused(t, err, codes.InvalidArgument, "project:")
}

// TestAQuotaThatCannotBeReadStopsItsProjectAlone writes one into the store by hand.
func TestAQuotaThatCannotBeReadStopsItsProjectAlone(t *testing.T) {
	w := newWorld(t)
	create := func(project string) error {
		_, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Project: project}})
		return err
	}
	w.put(keys.Quota("red"), &storev1.Quota{Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_ROUTER, Limit: -7}}})
	refused(t, create("red"), codes.DataLoss, "quota of project red")
	w.check(create("blue"))
	w.limit("red", weftv1.Kind_KIND_ROUTER, 1)
	w.check(create("red"))
}

func TestOwnersSeeTheirQuotaAndAdminsDecideIt(t *testing.T) {
	r := newRealm(t)
	for who, want := range map[string]codes.Code{"owner": codes.OK, "reader": codes.OK, "operator": codes.OK, "admin": codes.OK, "other": codes.NotFound} {
		_, err := r.GetQuota(by(r.ctx, who), &weftv1.GetQuotaRequest{Project: "red"})
		if status.Code(err) != want {
			t.Errorf("%s: %v", who, err)
		}
		_, err = r.SetQuota(by(r.ctx, who), &weftv1.SetQuotaRequest{Project: "red", Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_ROUTER, Limit: 1}}})
		if allowed := status.Code(err) == codes.OK; allowed != (who == "admin") {
			t.Errorf("%s sets a quota: %v", who, err)
		}
	}
	q, err := r.GetQuota(by(r.ctx, "owner"), &weftv1.GetQuotaRequest{})
	r.check(err)
	if q.GetProject() != "red" {
		t.Errorf("an owner's own quota is %v", q)
	}
	_, err = r.CreateRouter(by(r.ctx, "owner"), &weftv1.CreateRouterRequest{Router: &weftv1.Router{QuotaPlace: 7}})
	refused(t, err, codes.ResourceExhausted, "project red", "1 routers")
	_, err = r.CreateRouter(by(r.ctx, "admin"), &weftv1.CreateRouterRequest{Router: &weftv1.Router{Project: "red"}})
	refused(t, err, codes.ResourceExhausted, "project red") // it is the project's, whoever makes it
	r.audit()
}

// TestNobodyChoosesAPlace sends the place of another back, as a program does that copies objects.
func TestNobodyChoosesAPlace(t *testing.T) {
	w := newWorld(t)
	first, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "a"}})
	w.check(err)
	second, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: first})
	w.check(err)
	if first.GetQuotaPlace() == second.GetQuotaPlace() || first.GetQuotaPlace() == 0 {
		t.Errorf("places %d and %d", first.GetQuotaPlace(), second.GetQuotaPlace())
	}
	second.QuotaPlace, second.Name = first.GetQuotaPlace(), "b"
	now, err := w.UpdateRouter(w.ctx, &weftv1.UpdateRouterRequest{Router: second, UpdateMask: mask("name")})
	w.check(err)
	if now.GetQuotaPlace() == first.GetQuotaPlace() {
		t.Error("an update has taken another's place")
	}
	if _, err := w.UpdateRouter(w.ctx, &weftv1.UpdateRouterRequest{Router: second, UpdateMask: mask("quota_place")}); status.Code(err) != codes.InvalidArgument {
		t.Error(errors.Join(errors.New("the place can be changed"), err))
	}
	w.audit()
}
