package controller_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (c client) lend(ctx context.Context, network, project string) (*weftv1.NetworkGrant, error) {
	return c.CreateNetworkGrant(ctx, &weftv1.CreateNetworkGrantRequest{NetworkGrant: &weftv1.NetworkGrant{NetworkId: network, TargetProject: project}})
}

func (c client) revoke(ctx context.Context, grant string) error {
	return only(c.DeleteNetworkGrant(ctx, &weftv1.DeleteNetworkGrantRequest{Id: grant}))
}

func (c client) portOn(ctx context.Context, network string) (*weftv1.Port, error) {
	return c.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: network}})
}

func TestAGrantedProjectUsesTheNetworkAsIfItWereShared(t *testing.T) {
	r := newRealm(t)
	green := by(r.ctx, "granted")
	create := func(p *weftv1.Port) (*weftv1.Port, error) {
		p.NetworkId = r.network.GetId()
		return r.CreatePort(green, &weftv1.CreatePortRequest{Port: p})
	}
	for says, p := range map[string]*weftv1.Port{
		"fixed_ips": {FixedIps: fixed("10.8.0.50")}, "mac_address": {MacAddress: "fa:16:3e:00:00:07"},
		"allowed_address_pairs": {AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.8.0.1"}}}, "port_security_enabled": {PortSecurityEnabled: proto.Bool(false)},
	} {
		_, err := create(p)
		refused(t, err, codes.PermissionDenied, says)
	}
	p, err := create(&weftv1.Port{})
	r.check(err)
	if p.GetProject() != "green" || !strings.HasPrefix(p.GetFixedIps()[0].GetIpAddress(), "10.8.0.") {
		t.Errorf("made %v", p)
	}
	router, err := r.CreateRouter(green, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "green"}})
	r.check(err)
	_, err = r.AddRouterInterface(green, &weftv1.AddRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: r.subnet.GetId()}})
	refused(t, err, codes.PermissionDenied)
	_, err = r.AddRouterInterface(green, &weftv1.AddRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: p.GetId()}})
	r.check(err)
	for what, err := range map[string]error{
		"a change": only(r.UpdateNetwork(green, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: r.network.GetId(), Name: "mine"}})),
		"a delete": only(r.DeleteNetwork(green, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()})),
		"a subnet": only(r.CreateSubnet(green, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: r.network.GetId(), Cidr: "10.6.0.0/24"}})),
		"a grant":  only(r.lend(green, r.network.GetId(), "blue")),
		"a revoke": r.revoke(green, r.grant.GetId()),
	} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s by green: %v", what, err)
		}
	}
	refused(t, only(r.GetPort(green, &weftv1.GetPortRequest{Id: r.port.GetId()})), codes.NotFound)
	r.audit()
}

func TestOnlyTheOwnerOfANetworkGrantsItAndToOneProjectEach(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	for target, code := range map[string]codes.Code{"*": codes.InvalidArgument, "": codes.InvalidArgument, "a b": codes.InvalidArgument, "red": codes.InvalidArgument, "green": codes.AlreadyExists} {
		refused(t, only(r.lend(red, r.network.GetId(), target)), code)
	}
	refused(t, only(r.lend(by(r.ctx, "other"), r.network.GetId(), "blue")), codes.NotFound)
	refused(t, only(r.lend(by(r.ctx, "operator"), r.network.GetId(), "blue")), codes.PermissionDenied)
	refused(t, only(r.lend(by(r.ctx, "other"), r.shared.GetId(), "blue")), codes.PermissionDenied)
	g, err := r.lend(r.ctx, r.network.GetId(), "blue")
	r.check(err)
	if g.GetProject() != "red" || g.GetTargetProject() != "blue" || g.GetEtag() == "" {
		t.Errorf("an admin made %v", g)
	}
	sees := func(who string, req *weftv1.ListNetworkGrantsRequest) int {
		t.Helper()
		all, err := r.ListNetworkGrants(by(r.ctx, who), req)
		r.check(err)
		return len(all.GetNetworkGrants())
	}
	for who, want := range map[string]int{"owner": 2, "reader": 2, "other": 1, "granted": 1, "operator": 2, "admin": 2} {
		if got := sees(who, &weftv1.ListNetworkGrantsRequest{}); got != want {
			t.Errorf("%s sees %d grants, want %d", who, got, want)
		}
	}
	if n := sees("admin", &weftv1.ListNetworkGrantsRequest{Project: "green"}); n != 1 {
		t.Errorf("%d grants are about green", n)
	}
	if n := sees("owner", &weftv1.ListNetworkGrantsRequest{Filter: "network_id = " + r.network.GetId() + " AND target_project = blue"}); n != 1 {
		t.Errorf("%d grants of the network are to blue", n)
	}
	r.audit()
}

func TestAProjectsListHasWhatIsGrantedToIt(t *testing.T) {
	r := newRealm(t)
	has := func(who, project string) bool {
		t.Helper()
		all, err := r.ListNetworks(by(r.ctx, who), &weftv1.ListNetworksRequest{Project: project, Filter: "name = red"})
		r.check(err)
		return len(all.GetNetworks()) == 1
	}
	_, err := r.lend(by(r.ctx, "owner"), r.network.GetId(), "blue")
	r.check(err)
	for _, c := range []struct {
		who, project string
		want         bool
	}{
		{"granted", "green", true},
		{"admin", "green", true},
		{"operator", "green", true},
		{"admin", "yellow", false},
		{"granted", "blue", false}, // to whom else it is granted is not green's to know
		{"owner", "green", false},
	} {
		if got := has(c.who, c.project); got != c.want {
			t.Errorf("%s finds red's network in the list of %s: %t, want %t", c.who, c.project, got, c.want)
		}
	}
	subnets, err := r.ListSubnets(by(r.ctx, "granted"), &weftv1.ListSubnetsRequest{Filter: "network_id = " + r.network.GetId()})
	r.check(err)
	if len(subnets.GetSubnets()) != 1 {
		t.Errorf("green sees the subnets %v", subnets)
	}
}

func TestAGrantInUseIsNotRevoked(t *testing.T) {
	r := newRealm(t)
	red, green := by(r.ctx, "owner"), by(r.ctx, "granted")
	var ports []*weftv1.Port
	for range 2 {
		p, err := r.portOn(green, r.network.GetId())
		r.check(err)
		ports = append(ports, p)
	}
	refused(t, r.revoke(red, r.grant.GetId()), codes.FailedPrecondition, "to project green", "2 ports")
	err := only(r.DeleteNetwork(red, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()}))
	refused(t, err, codes.FailedPrecondition, "a port of project green")
	if strings.Contains(err.Error(), ports[0].GetId()) {
		t.Errorf("red learns what green's ports are: %v", err)
	}
	r.setShared(r.network.GetId())
	unshare := func() error {
		return only(r.UpdateNetwork(r.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: r.network.GetId()}, UpdateMask: mask("shared")}))
	}
	r.check(unshare()) // green has it all the same
	r.setShared(r.network.GetId())
	r.check(r.revoke(red, r.grant.GetId()))
	refused(t, unshare(), codes.FailedPrecondition, ports[0].GetId())
	for _, p := range ports {
		_, err := r.DeletePort(green, &weftv1.DeletePortRequest{Id: p.GetId()})
		r.check(err)
	}
	r.check(unshare())
	refused(t, only(r.GetNetwork(green, &weftv1.GetNetworkRequest{Id: r.network.GetId()})), codes.NotFound)
	refused(t, only(r.GetSubnet(green, &weftv1.GetSubnetRequest{Id: r.subnet.GetId()})), codes.NotFound)
	refused(t, only(r.portOn(green, r.network.GetId())), codes.NotFound)
	refused(t, only(r.CreatePort(r.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.network.GetId(), Project: "green"}})), codes.FailedPrecondition, "granted")
	r.audit()
}

func TestANetworkTakesItsGrantsWithIt(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	n, err := r.CreateNetwork(red, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "wide"}})
	r.check(err)
	for i := range 50 {
		_, err := r.lend(red, n.GetId(), fmt.Sprintf("p%d", i))
		r.check(err)
	}
	refused(t, only(r.lend(red, n.GetId(), "p50")), codes.ResourceExhausted, "50")
	_, err = r.DeleteNetwork(red, &weftv1.DeleteNetworkRequest{Id: n.GetId(), RequestId: "55555555-5555-4555-8555-555555555555"})
	r.check(err)
	snap, err := store.New(r.etcdClient).Read(r.ctx, store.Prefix(keys.NetworkGrants(n.GetId())))
	r.check(err)
	if snap.Results[0].Count > 0 {
		t.Errorf("%d grants are left", snap.Results[0].Count)
	}
	r.audit()
}

// TestAPortAndARevokeDoNotPassEachOther lets a project make ports through one controller while the grant that it rests on is
// revoked through another, over and over: whichever comes first, the other is refused.
func TestAPortAndARevokeDoNotPassEachOther(t *testing.T) {
	w := newWorld(t)
	second := w.bench.replica()
	for range 20 {
		g, err := w.lend(w.ctx, w.net1.GetId(), "green")
		w.check(err)
		const clients = 4
		made := make([]*weftv1.Port, clients)
		var revoked error
		var group sync.WaitGroup
		for i := range clients {
			group.Go(func() {
				made[i], _ = w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: w.net1.GetId(), Project: "green"}}) // or refused
			})
		}
		group.Go(func() { revoked = second.revoke(w.ctx, g.GetId()) })
		group.Wait()
		found, err := audit.Run(w.ctx, store.New(w.etcdClient))
		w.check(err)
		if len(found) > 0 {
			t.Fatalf("revoked: %v; %v", revoked, found)
		}
		for _, p := range made {
			if p != nil {
				w.check(only(w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: p.GetId()})))
			}
		}
		if revoked != nil {
			w.check(w.revoke(w.ctx, g.GetId()))
		}
	}
}

func TestAWatchFollowsWhatIsGranted(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	events, err := r.Watch(by(r.ctx, "other"), &weftv1.WatchRequest{})
	r.check(err)
	_, err = events.Recv() // from now on
	r.check(err)
	rename := func(name string) {
		_, err := r.UpdateNetwork(red, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: r.network.GetId(), Name: name}})
		r.check(err)
	}
	rename("unseen")
	g, err := r.lend(red, r.network.GetId(), "blue")
	r.check(err)
	rename("seen")
	r.check(r.revoke(red, g.GetId()))
	rename("unseen again")
	n, err := r.CreateNetwork(red, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "brief"}})
	r.check(err)
	_, err = r.lend(red, n.GetId(), "blue")
	r.check(err)
	_, err = r.DeleteNetwork(red, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
	r.check(err)
	var got []string
	for len(got) < 6 {
		e, err := events.Recv()
		r.check(err)
		verb := strings.TrimPrefix(e.GetType().String(), "TYPE_")
		switch o := e.GetObject().(type) {
		case nil: // a bookmark
		case *weftv1.WatchEvent_NetworkGrant:
			got = append(got, verb+" grant")
		case *weftv1.WatchEvent_Network:
			got = append(got, verb+" "+o.Network.GetName())
		default:
			t.Errorf("other is told %v", e)
		}
	}
	// The grant and the network of the last are deleted at once, in the order of their keys or another.
	if text := strings.Join(got, ", "); !strings.HasPrefix(text, "PUT grant, PUT seen, DELETE grant, PUT grant, ") ||
		!strings.Contains(text[30:], "DELETE grant") || !strings.Contains(text, "DELETE brief") {
		t.Errorf("other was told %s", text)
	}
}

// compacting is a store that is compacted right after it has told of a grant in the past.
type compacting struct {
	clientv3.KV
	compact func()
}

func (c compacting) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	resp, err := c.KV.Do(ctx, op)
	if op.Rev() > 0 && strings.HasPrefix(string(op.KeyBytes()), keys.All(keys.FamilyNetworkGrant)) {
		c.compact()
	}
	return resp, err
}

// TestAWatchLeavesNothingOutThatItCanNotTellApart has the store forget, under a watch that is behind, whether its caller saw a
// network: the watch ends, and its caller lists again, rather than miss a change of it.
func TestAWatchLeavesNothingOutThatItCanNotTellApart(t *testing.T) {
	r := newRealm(t)
	r.stop()
	users, err := caller.LoadUsers(usersFile(t))
	r.check(err)
	etcd := r.etcd.NewClient()
	etcd.KV = compacting{etcd.KV, sync.OnceFunc(func() { r.etcd.Compact(r.ctx) })}
	r.replica = r.replicaWith(controller.Options{Users: users, Client: etcd})
	from := r.read(keys.Network(r.network.GetId()), &weftv1.Network{})
	for _, name := range []string{"one", "two", "three"} {
		_, err := r.UpdateNetwork(by(r.ctx, "owner"), &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: r.network.GetId(), Name: name}})
		r.check(err)
	}
	events, err := r.Watch(by(r.ctx, "granted"), &weftv1.WatchRequest{Revision: from, Kinds: []weftv1.Kind{weftv1.Kind_KIND_NETWORK}})
	r.check(err)
	for _, name := range []string{"one", "two", "three"} {
		e, err := events.Recv()
		if err != nil {
			refused(t, err, codes.OutOfRange, "list again")
			return
		}
		if e.GetNetwork().GetName() != name {
			t.Fatalf("told %v, and nothing of %s", e, name)
		}
	}
	t.Error("the store has forgotten nothing")
}
