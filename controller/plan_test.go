package controller_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// newPool is a small fleet whose network nodes are net1 to net<n>, in zones a and b by turns, with a tunnelled network, a
// subnet of it, and an external network.
func newPool(t testing.TB, n int) *world {
	t.Helper()
	b := newBench(t)
	b.put(keys.Leader("0"), &storev1.Leader{Name: "the test"}) // it edits plans itself
	w := &world{bench: b, replica: b.replica(), ctx: b.context()}
	for i := range n {
		a := networkNode("ext1")
		a.TunnelIp, a.Zone = fmt.Sprintf("192.0.2.%d", i+1), string(rune('a'+i%2))
		b.node(fmt.Sprintf("net%d", i+1), a)
	}
	for i := range n {
		b.seen(w.replica, fmt.Sprintf("net%d", i+1))
	}
	w.net1 = w.network(&weftv1.Network{Name: "net1"})
	w.ext1 = w.network(&weftv1.Network{Name: "ext1", External: true, Type: flat, PhysicalNetwork: "ext1"})
	w.sub1 = w.subnet(&weftv1.Subnet{Name: "sub1", NetworkId: w.net1.GetId(), Cidr: "10.0.0.0/24"})
	w.extSub1 = w.subnet(&weftv1.Subnet{NetworkId: w.ext1.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)})
	return w
}

// another adds a network node.
func (w *world) another(name string, change func(*storev1.Agent)) {
	w.Helper()
	a := networkNode("ext1")
	if change != nil {
		change(a)
	}
	w.node(name, a)
	w.seen(w.replica, name)
}

func (w *world) active(router string) *storev1.ActiveRouter {
	w.Helper()
	a := &storev1.ActiveRouter{}
	w.read(keys.Active(router), a)
	return a
}

// takeOver writes active/ as a standby's agent would.
func (w *world) takeOver(router, node string) {
	w.Helper()
	w.check((&planner{bench: w.bench, store: store.New(w.etcdClient)}).tryTakeOver(w.ctx, router, node))
}

// tryTakeOver is takeOver for any goroutine; the error is store.ErrConflict when the node holds the router no more.
func (p *planner) tryTakeOver(ctx context.Context, router, node string) error {
	snap, err := p.store.Read(ctx, store.Key(keys.Active(router)))
	if err != nil || len(snap.Results[0].Entries) == 0 {
		return err
	}
	a, now := &storev1.ActiveRouter{}, snap.Results[0].Entries[0]
	if err := proto.Unmarshal(now.Value, a); err != nil {
		return err
	}
	x := &txn.Txn{}
	x.Unchanged(now.Key, now.Revision)
	x.Exists(keys.HostObject(node, keys.KindRouter, router))
	x.Put(now.Key, &storev1.ActiveRouter{Node: node, Epoch: a.GetEpoch() + 1, Reason: "taken over", Time: timestamppb.Now()})
	_, err = p.store.Commit(ctx, x, 0)
	return err
}

// nodesOf is the plan that every binding of a router says it has; the test fails if they do not agree.
func (w *world) nodesOf(router string) []string {
	w.Helper()
	r, err := w.GetRouter(w.ctx, &weftv1.GetRouterRequest{Id: router})
	w.check(err)
	nodes := r.GetPlacement().GetNodes()
	for rank, node := range nodes {
		b := &storev1.RouterBinding{}
		w.read(keys.HostObject(node, keys.KindRouter, router), b)
		if int(b.GetRank()) != rank || !slices.Equal(b.GetNodes(), nodes) {
			w.Errorf("binding of %s is %v, the plan %v", node, b, nodes)
		}
	}
	return nodes
}

// planner works on plans as the leader's loops do, with a fleet of its own.
type planner struct {
	*bench
	fleet *fleet.Fleet
	store *store.Store
}

func (b *bench) planner() *planner {
	b.Helper()
	p := &planner{bench: b, store: store.New(b.etcdClient)}
	p.fleet = fleet.New(p.store, slog.New(slog.DiscardHandler))
	b.Cleanup(p.fleet.Close)
	check(b, p.fleet.Ready(b.context()))
	return p
}

// sees waits until the planner's fleet has so many living nodes.
func (p *planner) sees(n int) {
	p.Helper()
	p.eventually(fmt.Sprint(n, " living nodes are seen"), func() bool {
		nodes := p.fleet.Nodes()
		return len(nodes) == n && !slices.ContainsFunc(nodes, func(n scheduler.Node) bool { return !n.Alive })
	})
}

func (p *planner) change(v *record.View) *placing.Change {
	return &placing.Change{
		View: v, Alloc: &alloc.Allocator{View: v}, Txn: &txn.Txn{}, Now: timestamppb.Now(), Nodes: p.fleet.Nodes,
		Pools: func() placing.Pools { return p.fleet.PoolSettings() },
	}
}

// router brings a router's plan to what is wanted.
func (p *planner) router(ctx context.Context, id string, want placing.Replan) (plan placing.RouterPlan, changed bool, err error) {
	_, err = p.store.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		c := p.change(record.NewView(p.store))
		before, err := record.Routers().Get(ctx, c.View, id)
		if err != nil {
			return nil, err
		}
		if plan, changed, err = c.ReplanRouter(ctx, before, want); err != nil || !changed {
			return nil, err
		}
		return c.Txn, nil
	})
	return plan, changed, err
}

// dhcp brings a network's DHCP servers to what is wanted.
func (p *planner) dhcp(ctx context.Context, id string, want placing.Replan) (nodes []string, changed bool, err error) {
	_, err = p.store.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
		c := p.change(record.NewView(p.store))
		before, err := record.Networks().Get(ctx, c.View, id)
		if err != nil {
			return nil, err
		}
		if nodes, changed, err = c.ReplanDHCP(ctx, before, want, slog.New(slog.DiscardHandler)); err != nil || !changed {
			return nil, err
		}
		return c.Txn, nil
	})
	return nodes, changed, err
}

func TestARouterIsPlannedOnTwoNodesOfDifferentZonesAndActiveOnTheFirst(t *testing.T) {
	w := newPool(t, 3)
	for i := range 6 {
		r := w.router(fmt.Sprint("r", i), w.ext1.GetId())
		nodes := w.nodesOf(r.GetId())
		a := w.active(r.GetId())
		if len(nodes) != 2 || a.GetNode() != nodes[0] || a.GetEpoch() != 1 || a.GetReason() == "" || !slices.Contains(nodes, "net2") {
			t.Errorf("nodes %v, active %v", nodes, a)
		}
	}
	w.audit()
}

func TestATakenOverRouterStaysWhereItIsWhenItIsChanged(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	w.takeOver(r.GetId(), nodes[1])
	r, err := w.addInterface(r.GetId(), w.sub1.GetId())
	w.check(err)
	if a := w.active(r.GetId()); a.GetNode() != nodes[1] || a.GetEpoch() != 2 || !slices.Equal(w.nodesOf(r.GetId()), nodes) {
		t.Errorf("active %v, nodes %v; want %s active at epoch 2 of the plan %v", a, w.nodesOf(r.GetId()), nodes[1], nodes)
	}
	w.audit()
}

func TestAnEditOfAPlanLosesAgainstATakeover(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	w.another("net3", nil)
	p := w.planner()
	c := p.change(record.NewView(p.store))
	before, err := record.Routers().Get(w.ctx, c.View, r.GetId())
	w.check(err)
	_, changed, err := c.ReplanRouter(w.ctx, before, placing.Replan{Leaving: map[string]string{nodes[1]: "is dead"}})
	if err != nil || !changed {
		t.Fatalf("changed: %v, error %v", changed, err)
	}
	w.takeOver(r.GetId(), nodes[1])
	if _, err := p.store.Commit(w.ctx, c.Txn, 0); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the standby that took over was taken from the plan: %v", err)
	}
	w.audit()
}

func TestADeadActiveNodeStaysUntilAnotherIsActiveAndIsReplacedAtOnce(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	w.another("net3", nil)
	p := w.planner()
	dead := placing.Replan{Leaving: map[string]string{nodes[0]: "is dead"}}
	plan, _, err := p.router(w.ctx, r.GetId(), dead)
	w.check(err)
	if want := []string{nodes[0], nodes[1], "net3"}; !slices.Equal(plan.Nodes, want) || !slices.Equal(w.nodesOf(r.GetId()), want) || plan.Active != nodes[0] {
		t.Errorf("plan %v, active %s; want %v", plan.Nodes, plan.Active, want)
	}
	if _, changed, err := p.router(w.ctx, r.GetId(), dead); err != nil || changed {
		t.Errorf("once more: changed %v, error %v", changed, err)
	}
	w.takeOver(r.GetId(), nodes[1])
	plan, _, err = p.router(w.ctx, r.GetId(), dead)
	w.check(err)
	if want := []string{nodes[1], "net3"}; !slices.Equal(plan.Nodes, want) || !slices.Equal(w.nodesOf(r.GetId()), want) || w.active(r.GetId()).GetEpoch() != 2 {
		t.Errorf("plan %v, active %v; want %v, epoch 2", plan.Nodes, w.active(r.GetId()), want)
	}
	w.audit()
}

func TestAMoveAddsItsTargetHandsOverAndTrims(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	w.another("net3", nil)
	p := w.planner()
	move := placing.Replan{Add: "net3"}
	plan, _, err := p.router(w.ctx, r.GetId(), move)
	w.check(err)
	if !slices.Equal(plan.Nodes, append(slices.Clone(nodes), "net3")) {
		t.Errorf("plan %v, want net3 added", plan.Nodes)
	}
	move.HandOver = "net3"
	plan, changed, err := p.router(w.ctx, r.GetId(), move)
	w.check(err)
	binding := &storev1.RouterBinding{}
	w.read(keys.HostObject(nodes[0], keys.KindRouter, r.GetId()), binding)
	if !changed || plan.HandOver != "net3" || binding.GetHandOver() != "net3" || w.active(r.GetId()).GetNode() != nodes[0] {
		t.Errorf("hand over: plan %+v, binding %v", plan, binding)
	}
	w.audit()
	// An API call meanwhile takes nothing back.
	_, err = w.addInterface(r.GetId(), w.sub1.GetId())
	w.check(err)
	w.read(keys.HostObject(nodes[0], keys.KindRouter, r.GetId()), binding)
	if len(w.nodesOf(r.GetId())) != 3 || binding.GetHandOver() != "net3" {
		t.Errorf("a change during the move: plan %v, binding %v", w.nodesOf(r.GetId()), binding)
	}
	w.takeOver(r.GetId(), "net3")
	plan, _, err = p.router(w.ctx, r.GetId(), placing.Replan{First: "net3"})
	w.check(err)
	if want := []string{"net3", nodes[0]}; !slices.Equal(w.nodesOf(r.GetId()), want) || plan.Active != "net3" || plan.HandOver != "" {
		t.Errorf("after the move: plan %+v, want %v", plan, want)
	}
	w.audit()
}

func TestAnUnfitTargetOfAMoveIsRefusedWithItsReason(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	w.another("net3", func(a *storev1.Agent) {
		a.Uplinks = []*weftv1.Uplink{{PhysicalNetwork: "ext1", Bridge: "br-ext1", Reason: "eth1 has no link"}}
	})
	p := w.planner()
	_, changed, err := p.router(w.ctx, r.GetId(), placing.Replan{Add: "net3"})
	var unfit *placing.UnfitError
	if changed || !errors.As(err, &unfit) || !strings.Contains(err.Error(), "eth1 has no link") {
		t.Errorf("changed %v, error %v; want the uplink named", changed, err)
	}
}

func TestARouterThatIsNowherePossibleKeepsItsPlan(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	p := w.planner()
	gone := map[string]string{nodes[0]: "is drained", nodes[1]: "is drained"}
	plan, changed, err := p.router(w.ctx, r.GetId(), placing.Replan{Leaving: gone})
	w.check(err)
	if !slices.Contains(plan.Nodes, nodes[0]) || w.active(r.GetId()).GetNode() != nodes[0] {
		t.Errorf("changed %v: plan %v, want the active node kept", changed, plan.Nodes)
	}
	w.audit()
}

// servers is the DHCP servers' ports of a network by node.
func (w *world) servers(network string) map[string]*weftv1.Port {
	w.Helper()
	ports, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: fmt.Sprintf("network_id = %q AND device_owner = \"network:dhcp\"", network)})
	w.check(err)
	out := map[string]*weftv1.Port{}
	for _, p := range ports.GetPorts() {
		out[p.GetBoundHost()] = p
	}
	return out
}

func TestTwoNodesServeDHCPEachWithAPortAndAddressesOfItsOwn(t *testing.T) {
	w := newPool(t, 3)
	_, err := w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.0.1.0/24"}})
	w.check(err)
	n, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: w.net1.GetId()})
	w.check(err)
	servers := w.servers(n.GetId())
	if len(servers) != 2 || len(n.GetDhcpPlacement().GetNodes()) != 2 {
		t.Fatalf("servers %v, placement %v", servers, n.GetDhcpPlacement())
	}
	for node, p := range servers {
		if len(p.GetFixedIps()) != 2 || !slices.Contains(n.GetDhcpPlacement().GetNodes(), node) {
			t.Errorf("server on %s: %v", node, p)
		}
	}
	w.audit()
}

func TestDHCPServersAreReplacedOneByOneAndTheLastStays(t *testing.T) {
	w := newPool(t, 2)
	before := w.servers(w.net1.GetId())
	p := w.planner()
	all := map[string]string{"net1": "is drained", "net2": "is drained"}
	if nodes, changed, err := p.dhcp(w.ctx, w.net1.GetId(), placing.Replan{Leaving: all}); err != nil || changed || len(nodes) != 2 {
		t.Errorf("nowhere to go: changed %v, nodes %v", changed, nodes)
	}
	w.another("net3", nil)
	p.sees(3)
	drain := placing.Replan{Leaving: map[string]string{"net1": "is drained"}, Keep: []string{"net1"}}
	nodes, _, err := p.dhcp(w.ctx, w.net1.GetId(), drain)
	w.check(err)
	if len(nodes) != 3 || len(w.servers(w.net1.GetId())) != 3 {
		t.Errorf("while net1 is kept: %v", nodes)
	}
	w.audit()
	drain.Keep = nil
	nodes, _, err = p.dhcp(w.ctx, w.net1.GetId(), drain)
	w.check(err)
	after := w.servers(w.net1.GetId())
	if len(nodes) != 2 || after["net1"] != nil || after["net3"] == nil || after["net2"].GetId() != before["net2"].GetId() {
		t.Errorf("after net1 has gone: %v", nodes)
	}
	if _, changed, err := p.dhcp(w.ctx, w.net1.GetId(), drain); err != nil || changed {
		t.Errorf("once more: changed, %v", err)
	}
	w.audit()
}

func TestASmallSubnetIsNotEatenUpByItsDHCPServers(t *testing.T) {
	w := newPool(t, 2)
	n := w.network(&weftv1.Network{})
	w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.9.0.0/30"})
	if servers := w.servers(n.GetId()); len(servers) != 1 {
		t.Errorf("servers of a subnet with one address: %v", servers)
	}
	w.subnet(&weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.9.0.0/30"})
	if servers := w.servers(w.net1.GetId()); len(servers) != 1 {
		t.Errorf("servers after a small subnet has come: %v", servers)
	}
	w.audit()
}

func TestEightServersOfSixteenSubnetsFitIntoTheStore(t *testing.T) {
	w := newPool(t, 1)
	n := w.network(&weftv1.Network{})
	for i := range 16 {
		w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: fmt.Sprintf("10.1.%d.0/24", i)})
	}
	for i := 2; i <= 8; i++ {
		w.another(fmt.Sprintf("net%d", i), nil)
	}
	settings := &storev1.PoolSettings{DhcpServers: 8}
	w.put(keys.Pool("default"), settings)
	p := w.planner()
	rounds := 0
	var err error
	for changed := true; changed; rounds++ {
		_, changed, err = p.dhcp(w.ctx, n.GetId(), placing.Replan{})
		w.check(err)
		w.audit()
	}
	if servers := w.servers(n.GetId()); len(servers) != 8 || rounds < 3 { // each round is one transaction
		t.Errorf("%d servers after %d rounds", len(servers), rounds)
	}
	settings.DhcpServers = 1
	w.put(keys.Pool("default"), settings)
	p.eventually("the pool's settings are seen", func() bool { return p.fleet.PoolSettings()["default"].GetDhcpServers() == 1 })
	for changed := true; changed; {
		_, changed, err = p.dhcp(w.ctx, n.GetId(), placing.Replan{})
		w.check(err)
	}
	if servers := w.servers(n.GetId()); len(servers) != 1 {
		t.Errorf("%d servers, want 1", len(servers))
	}
	w.audit()
}
