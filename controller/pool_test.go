package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (w *world) updateNode(n *weftv1.Node, paths ...string) *weftv1.Node {
	w.Helper()
	got, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: n, UpdateMask: mask(paths...)})
	w.check(err)
	return got
}

// fails fails the test unless an error has a code and says something.
func (w *world) fails(err error, code codes.Code, says string) {
	w.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), says) {
		w.Errorf("got %v, want %s: …%s…", err, code, says)
	}
}

func TestANodeIsCordonedAndDrainedWithoutLosingItsLabels(t *testing.T) {
	w := newPool(t, 2)
	w.updateNode(&weftv1.Node{Id: "net1", Labels: map[string]string{"rack": "7"}}, "labels")
	n := w.updateNode(&weftv1.Node{Id: "net1", Cordoned: true}, "cordoned")
	if !n.GetCordoned() || n.GetDraining() || n.GetLabels()["rack"] != "7" {
		t.Errorf("cordoned: %v", n)
	}
	n = w.updateNode(&weftv1.Node{Id: "net1", Draining: true}) // no mask: what is set
	if !n.GetCordoned() || !n.GetDraining() || n.GetLabels()["rack"] != "7" {
		t.Errorf("draining: %v", n)
	}
	for i := range 4 {
		if nodes := w.nodesOf(w.router(fmt.Sprint("r", i), w.ext1.GetId()).GetId()); !slices.Equal(nodes, []string{"net2"}) {
			t.Errorf("placed on %v while net1 is cordoned", nodes)
		}
	}
	n = w.updateNode(&weftv1.Node{Id: "net1"}, "draining", "cordoned")
	if n.GetCordoned() || n.GetDraining() {
		t.Errorf("back again: %v", n)
	}
	list, err := w.ListNodes(w.ctx, &weftv1.ListNodesRequest{Filter: `pool = "default" AND zone = "b" AND cordoned = false`})
	w.check(err)
	if len(list.GetNodes()) != 1 || list.GetNodes()[0].GetId() != "net2" || len(list.GetNodes()[0].GetActiveRouters()) != 4 {
		t.Errorf("listed: %v", list.GetNodes())
	}
}

func TestARouterShowsWhereItIsActiveAndWhatItsStandbysSay(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	get := func() *weftv1.Router {
		got, err := w.GetRouter(w.ctx, &weftv1.GetRouterRequest{Id: r.GetId()})
		w.check(err)
		return got
	}
	revision := w.read(keys.Router(r.GetId()), &weftv1.Router{})
	report := func(node string, r2 *storev1.Report) {
		r2.Revision = revision
		w.put(keys.Status(node, keys.KindRouter, r.GetId()), r2)
	}
	report(nodes[1], &storev1.Report{State: weftv1.State_STATE_ACTIVE, Standby: true})
	w.eventually("the standby is ready, the router is not active for that", func() bool {
		got := get()
		i := got.GetInstances()
		return got.GetActiveNode() == nodes[0] && len(i) == 2 && i[0].GetActive() && i[0].GetState() == weftv1.State_STATE_BUILD &&
			!i[1].GetActive() && i[1].GetState() == weftv1.State_STATE_ACTIVE && got.GetStatus().GetState() == weftv1.State_STATE_BUILD
	})
	report(nodes[0], &storev1.Report{State: weftv1.State_STATE_ACTIVE})
	report(nodes[1], &storev1.Report{State: weftv1.State_STATE_ERROR, Message: "no namespace", Standby: true})
	w.eventually("the router is active, its standby is told of", func() bool {
		s := get().GetStatus()
		return s.GetState() == weftv1.State_STATE_ACTIVE && s.GetMessage() == "no standby: node "+nodes[1]+": no namespace"
	})
	report(nodes[1], &storev1.Report{State: weftv1.State_STATE_ACTIVE, Standby: true})
	w.takeOver(r.GetId(), nodes[1])
	w.eventually("taken over but not yet reported so", func() bool {
		got := get()
		return got.GetActiveNode() == nodes[1] && got.GetStatus().GetState() == weftv1.State_STATE_BUILD
	})
	report(nodes[1], &storev1.Report{State: weftv1.State_STATE_ACTIVE})
	w.eventually("taken over", func() bool { return get().GetStatus().GetState() == weftv1.State_STATE_ACTIVE })
	list, err := w.ListRouters(w.ctx, &weftv1.ListRoutersRequest{Filter: fmt.Sprintf("active_node = %q", nodes[1])})
	w.check(err)
	if len(list.GetRouters()) != 1 {
		t.Errorf("by its active node: %v", list.GetRouters())
	}
	stored := &weftv1.Router{}
	w.read(keys.Router(r.GetId()), stored)
	if stored.GetActiveNode() != "" || stored.GetInstances() != nil {
		t.Errorf("stored: %v", stored)
	}
}

func TestANetworkIsActiveOnlyIfAllItsDHCPServersAre(t *testing.T) {
	w := newPool(t, 2)
	revision := w.read(keys.Network(w.net1.GetId()), &weftv1.Network{})
	get := func() *weftv1.ObjectStatus {
		n, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: w.net1.GetId()})
		w.check(err)
		return n.GetStatus()
	}
	for i, node := range []string{"net1", "net2"} {
		w.put(keys.Status(node, keys.KindDHCP, w.net1.GetId()), &storev1.Report{Revision: revision, State: weftv1.State_STATE_ACTIVE})
		if i == 0 {
			w.eventually("one of two has reported", func() bool {
				s := get()
				return s.GetState() == weftv1.State_STATE_BUILD && s.GetMessage() == "1 of 2 servers work: node net2 has not reported yet"
			})
		}
	}
	w.eventually("both have reported", func() bool { return get().GetState() == weftv1.State_STATE_ACTIVE })
	w.del(keys.Live("net1"))
	w.eventually("one is away", func() bool {
		s := get()
		return s.GetState() == weftv1.State_STATE_UNKNOWN && s.GetMessage() == "1 of 2 servers work: the agent of node net1 is not alive"
	})
}

func TestARoutersNodesAndPoolCanBeChanged(t *testing.T) {
	w := newPool(t, 4)
	r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Ha: 3}})
	w.check(err)
	_, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext1.GetId()})
	w.check(err)
	nodes := w.nodesOf(r.GetId())
	if len(nodes) != 3 {
		t.Fatalf("nodes %v, want 3", nodes)
	}
	w.takeOver(r.GetId(), nodes[2])
	update := func(r *weftv1.Router, paths ...string) error {
		_, err := w.UpdateRouter(w.ctx, &weftv1.UpdateRouterRequest{Router: r, UpdateMask: mask(paths...)})
		return err
	}
	w.check(update(&weftv1.Router{Id: r.GetId(), Ha: 1}, "ha"))
	if got := w.nodesOf(r.GetId()); !slices.Equal(got, nodes[2:]) || w.active(r.GetId()).GetEpoch() != 2 {
		t.Errorf("ha 1: %v, active %v; want the active node alone", got, w.active(r.GetId()))
	}
	w.check(update(&weftv1.Router{Id: r.GetId()}, "ha"))
	if got := w.nodesOf(r.GetId()); len(got) != 2 || got[0] != nodes[2] {
		t.Errorf("as the pool says: %v", got)
	}
	w.fails(update(&weftv1.Router{Id: r.GetId(), Ha: 9}, "ha"), codes.InvalidArgument, "9 is not in 0..8")
	w.fails(update(&weftv1.Router{Id: r.GetId(), Pool: "gold"}, "pool"), codes.FailedPrecondition, "is in pool default, not in gold")
	w.another("gold1", func(a *storev1.Agent) { a.Pool = "gold" })
	w.check(update(&weftv1.Router{Id: r.GetId(), Pool: "gold"}, "pool"))
	if got := w.nodesOf(r.GetId()); !slices.Equal(got, []string{"gold1"}) || w.active(r.GetId()).GetNode() != "gold1" || w.active(r.GetId()).GetEpoch() != 3 {
		t.Errorf("in pool gold: %v, active %v", got, w.active(r.GetId()))
	}
	w.audit()
}

func TestANetworksDHCPServersAndPoolCanBeChanged(t *testing.T) {
	w := newPool(t, 3)
	w.another("gold1", func(a *storev1.Agent) { a.Pool = "gold" })
	update := func(n *weftv1.Network, paths ...string) []string {
		n.Id = w.net1.GetId()
		got, err := w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{Network: n, UpdateMask: mask(paths...)})
		w.check(err)
		w.audit()
		return got.GetDhcpPlacement().GetNodes()
	}
	if nodes := update(&weftv1.Network{DhcpServers: 3}, "dhcp_servers"); len(nodes) != 3 {
		t.Errorf("three servers: %v", nodes)
	}
	if nodes := update(&weftv1.Network{DhcpServers: 1}, "dhcp_servers"); len(nodes) != 1 {
		t.Errorf("one server: %v", nodes)
	}
	if nodes := update(&weftv1.Network{Pool: "gold"}, "pool", "dhcp_servers"); !slices.Equal(nodes, []string{"gold1"}) {
		t.Errorf("in pool gold: %v", nodes)
	}
	update(&weftv1.Network{DhcpServers: 2}, "dhcp_servers")
	got, err := w.GetNetwork(w.ctx, &weftv1.GetNetworkRequest{Id: w.net1.GetId()})
	w.check(err)
	if !strings.HasSuffix(got.GetStatus().GetMessage(), "planned on 1 of 2 nodes") {
		t.Errorf("with fewer servers than asked for the status is %v", got.GetStatus())
	}
}

func TestAPoolIsThereAsSoonAsANodeNamesItAndItsSettingsCount(t *testing.T) {
	w := newPool(t, 3)
	w.another("gold1", func(a *storev1.Agent) { a.Pool = "gold" })
	list, err := w.ListPools(w.ctx, &weftv1.ListPoolsRequest{})
	w.check(err)
	if p := list.GetPools(); len(p) != 2 || p[0].GetId() != "default" || len(p[0].GetNodes()) != 3 || p[0].GetHa() != 2 || p[1].GetId() != "gold" {
		t.Errorf("pools %v", p)
	}
	got, err := w.UpdatePool(w.ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "default", Ha: 3, Failback: true, Etag: "0"}})
	w.check(err)
	if got.GetHa() != 3 || !got.GetFailback() || got.GetDhcpServers() != 2 {
		t.Errorf("updated: %v", got)
	}
	if nodes := w.nodesOf(w.router("r", w.ext1.GetId()).GetId()); len(nodes) != 3 {
		t.Errorf("a router of the pool: %v", nodes)
	}
	_, err = w.UpdatePool(w.ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "default", Ha: 1, Etag: "0"}})
	w.fails(err, codes.Aborted, "has changed")
	_, err = w.UpdatePool(w.ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "default", DhcpServers: -1}})
	w.fails(err, codes.InvalidArgument, "dhcp_servers")
	_, err = w.UpdatePool(w.ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "silver", Ha: 1}})
	w.fails(err, codes.NotFound, "silver")
	_, err = w.UpdatePool(w.ctx, &weftv1.UpdatePoolRequest{Pool: &weftv1.Pool{Id: "default"}, UpdateMask: mask("nodes")})
	w.fails(err, codes.InvalidArgument, "nodes of a pool can't be changed")
	_, err = w.GetPool(w.ctx, &weftv1.GetPoolRequest{Id: "silver"})
	w.fails(err, codes.NotFound, "silver")
	w.audit()
}

func TestMovingARouterIsAWishThatNamesAFitNode(t *testing.T) {
	w := newPool(t, 3)
	w.another("gold1", func(a *storev1.Agent) { a.Pool = "gold" })
	w.another("net9", func(a *storev1.Agent) {
		a.Uplinks = []*weftv1.Uplink{{PhysicalNetwork: "ext1", Bridge: "br-ext1", Reason: "br-ext1 has no physical port"}}
	})
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	move := func(to string) error {
		_, err := w.MoveRouter(w.ctx, &weftv1.MoveRouterRequest{Id: r.GetId(), Node: to})
		return err
	}
	w.fails(move("gold1"), codes.FailedPrecondition, "is in pool gold")
	w.fails(move("net9"), codes.FailedPrecondition, "br-ext1 has no physical port")
	w.fails(move("net8"), codes.FailedPrecondition, "is not registered")
	w.fails(move(""), codes.InvalidArgument, "node")
	wish := &storev1.Move{}
	if w.exists(keys.Move(r.GetId())) {
		t.Error("a refused move left a wish")
	}
	w.check(move(nodes[1]))
	if w.read(keys.Move(r.GetId()), wish); wish.GetTo() != nodes[1] || wish.GetReason() == "" || w.active(r.GetId()).GetNode() != nodes[0] {
		t.Errorf("the wish is %v", wish)
	}
	w.check(move(nodes[0]))
	if w.exists(keys.Move(r.GetId())) {
		t.Error("the wish outlived that the router is to stay")
	}
	w.check(move(nodes[1]))
	_, err := w.ClearRouterGateway(w.ctx, &weftv1.ClearRouterGatewayRequest{RouterId: r.GetId()})
	w.check(err)
	_, err = w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: r.GetId()})
	w.check(err)
	if w.exists(keys.Move(r.GetId())) {
		t.Error("the wish outlived the router")
	}
	w.audit()
}

func TestANodeWhoseUplinkIsNotProvenIsNotChosenButARouterStays(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	for _, uplinks := range [][]*weftv1.Uplink{{{PhysicalNetwork: "ext1", Bridge: "br-ext1", Reason: "the link of eth1 on bridge br-ext1 is down"}}, nil} {
		for _, node := range nodes {
			a := networkNode("ext1")
			a.Uplinks = uplinks
			w.put(keys.Agent(node), a)
		}
		reason := "the link of eth1"
		if uplinks == nil {
			reason = "its agent does not say"
		}
		w.eventually("no node has a proven uplink: "+reason, func() bool {
			n := w.router("new", w.ext1.GetId())
			rejected := n.GetPlacement().GetRejected()
			return len(n.GetPlacement().GetNodes()) == 0 && len(rejected) == 2 && strings.Contains(rejected[0].GetReason(), reason)
		})
		_, err := w.UpdateRouter(w.ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: r.GetId(), Name: reason}})
		w.check(err)
		if got := w.nodesOf(r.GetId()); !slices.Equal(got, nodes) {
			t.Errorf("a router that is there moved from %v to %v", nodes, got)
		}
	}
	w.audit()
}

func TestRebalancingIsShownAndThenWishedFor(t *testing.T) {
	w := newPool(t, 1)
	for i := range 5 {
		w.router(fmt.Sprint("r", i), w.ext1.GetId())
	}
	w.another("net2", nil)
	rebalance := func(dry bool) []*weftv1.RouterMove {
		got, err := w.Rebalance(w.ctx, &weftv1.RebalanceRequest{Pool: "default", DryRun: dry})
		w.check(err)
		return got.GetMoves()
	}
	wishes := func() int {
		resp, err := w.etcdClient.Get(w.ctx, keys.All(keys.FamilyMove), clientv3.WithPrefix())
		w.check(err)
		return len(resp.Kvs)
	}
	dry := rebalance(true)
	if len(dry) != 2 || wishes() != 0 {
		t.Errorf("dry run: %v, %d wishes", dry, wishes())
	}
	if done := rebalance(false); len(done) != len(dry) || wishes() != len(dry) {
		t.Errorf("moves %v, %d wishes; want %v", done, wishes(), dry)
	}
	if again := rebalance(false); len(again) != 0 {
		t.Errorf("while the moves are under way: %v", again)
	}
	_, err := w.Rebalance(w.ctx, &weftv1.RebalanceRequest{Pool: "silver"})
	w.fails(err, codes.NotFound, "silver")
	w.audit()
}

// answering plays an agent that answers questions until the test ends.
func (w *world) answering(node string, answer *storev1.Answer) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	w.Cleanup(func() { cancel(); <-done })
	asked := w.etcdClient.Watch(ctx, keys.Asks(node), clientv3.WithPrefix())
	go func() {
		defer close(done)
		for resp := range asked {
			for _, ev := range resp.Events {
				if k, err := keys.Parse(string(ev.Kv.Key)); err == nil && ev.IsCreate() {
					w.put(keys.Answer(node, k.ID()), answer)
				}
			}
		}
	}()
}

func TestANodeIsAskedForItsDifferences(t *testing.T) {
	w := newPool(t, 1)
	w.answering("net1", &storev1.Answer{Differences: []*weftv1.Difference{{Kind: "flow", Object: "br-int table=0", Desired: "drop"}}, Truncated: true})
	got, err := w.DiffNode(w.ctx, &weftv1.DiffNodeRequest{Id: "net1"})
	w.check(err)
	if d := got.GetDifferences(); len(d) != 1 || d[0].GetDesired() != "drop" || !got.GetTruncated() {
		t.Errorf("got %v", got)
	}
	resp, err := w.etcdClient.Get(w.ctx, keys.All(keys.FamilyAsk), clientv3.WithPrefix(), clientv3.WithCountOnly())
	w.check(err)
	if resp.Count != 0 {
		t.Errorf("%d questions are left", resp.Count)
	}
}

func TestANodeThatDoesNotAnswerIsUnavailable(t *testing.T) {
	w := newPool(t, 2)
	w.answering("net1", &storev1.Answer{Error: "the first view is not complete"})
	_, err := w.DiffNode(w.ctx, &weftv1.DiffNodeRequest{Id: "net1"})
	w.fails(err, codes.Unavailable, "the first view is not complete")
	_, err = w.DiffNode(w.ctx, &weftv1.DiffNodeRequest{Id: "net2"})
	w.fails(err, codes.Unavailable, "did not answer")
	_, err = w.DiffNode(w.ctx, &weftv1.DiffNodeRequest{Id: "net9"})
	w.fails(err, codes.NotFound, "net9")
	w.del(keys.Live("net2"))
	w.eventually("net2 is unavailable at once", func() bool {
		_, err := w.DiffNode(w.ctx, &weftv1.DiffNodeRequest{Id: "net2"})
		return strings.Contains(status.Convert(err).Message(), "not alive")
	})
}

func TestAWatchShowsThatARouterWasTakenOver(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	nodes := w.nodesOf(r.GetId())
	stream, err := w.Watch(w.ctx, &weftv1.WatchRequest{Kinds: []weftv1.Kind{weftv1.Kind_KIND_ROUTER}})
	w.check(err)
	_, err = stream.Recv() // the bookmark: from here on nothing is missed
	w.check(err)
	w.takeOver(r.GetId(), nodes[1])
	for {
		ev, err := stream.Recv()
		w.check(err)
		if ev.GetRouter().GetActiveNode() == nodes[1] {
			return
		}
	}
}

// Many change a router while its plan is edited and its standbys take it over.
func TestAPlanIsWholeHoweverManyWorkOnIt(t *testing.T) {
	w := newPool(t, 4)
	r := w.router("r", w.ext1.GetId())
	p := w.planner()
	steps := 30
	done := make(chan error, 3)
	go func() {
		var err error
		for i := range steps {
			_, err = w.UpdateRouter(w.ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: r.GetId(), Ha: int32(1 + i%4)}, UpdateMask: mask("ha")})
			if err != nil {
				break
			}
		}
		done <- err
	}()
	go func() {
		var err error
		for i := range steps {
			out := fmt.Sprintf("net%d", 1+i%4)
			if _, _, err = p.router(w.ctx, r.GetId(), placing.Replan{Leaving: map[string]string{out: "is drained"}}); err != nil {
				break
			}
		}
		done <- err
	}()
	go func() {
		var err error
		for i := range steps {
			if err = p.tryTakeOver(w.ctx, r.GetId(), fmt.Sprintf("net%d", 1+i%4)); err != nil && !errors.Is(err, store.ErrConflict) {
				break
			}
			err = nil
		}
		done <- err
	}()
	for range 3 {
		w.check(<-done)
	}
	if _, _, err := p.router(w.ctx, r.GetId(), placing.Replan{}); err != nil {
		t.Error(err)
	}
	w.nodesOf(r.GetId())
	w.audit()
}

// TestWhatTakesAwayFromARouterIsNotRefusedForItsPlace has the nodes leave the pool that a router asks for: what is left of
// it can be taken down all the same, and meanwhile it stays where it works.
func TestWhatTakesAwayFromARouterIsNotRefusedForItsPlace(t *testing.T) {
	w := newPool(t, 2)
	r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Pool: "default"}})
	w.check(err)
	_, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext1.GetId()})
	w.check(err)
	_, err = w.addInterface(r.GetId(), w.sub1.GetId())
	w.check(err)
	before := w.nodesOf(r.GetId())
	for _, name := range []string{"net1", "net2"} {
		a := networkNode("ext1")
		a.Pool = "west"
		w.node(name, a)
	}
	w.eventually("the nodes have left the pool", func() bool {
		all, err := w.ListNodes(w.ctx, &weftv1.ListNodesRequest{Filter: `pool = "west"`})
		w.check(err)
		return len(all.GetNodes()) == 2
	})
	_, err = w.ClearRouterGateway(w.ctx, &weftv1.ClearRouterGatewayRequest{RouterId: r.GetId()})
	w.check(err)
	if after := w.nodesOf(r.GetId()); !slices.Equal(before, after) || w.active(r.GetId()).GetNode() == "" {
		t.Errorf("it was on %v and is on %v", before, after)
	}
	_, err = w.setGateway(r.GetId(), &weftv1.ExternalGateway{NetworkId: w.ext1.GetId()})
	w.fails(err, codes.FailedPrecondition, "no node can take")
	_, err = w.removeInterface(r.GetId(), w.sub1.GetId())
	w.check(err)
	_, err = w.DeleteRouter(w.ctx, &weftv1.DeleteRouterRequest{Id: r.GetId()})
	w.check(err)
}

// TestADHCPServerWhosePortIsGoneIsNone takes a server's port away by hand: the network's DHCP can still be changed, and is
// then whole again.
func TestADHCPServerWhosePortIsGoneIsNone(t *testing.T) {
	w := newPool(t, 2)
	b := &storev1.DhcpBinding{}
	w.read(keys.HostObject("net1", keys.KindDHCP, w.net1.GetId()), b)
	w.del(keys.Port(w.net1.GetId(), b.GetPortId()))
	w.subnet(&weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.0.1.0/24"})
	w.read(keys.HostObject("net1", keys.KindDHCP, w.net1.GetId()), b)
	if !w.exists(keys.Port(w.net1.GetId(), b.GetPortId())) {
		t.Error("the server on net1 has no port")
	}
}

func TestADrainIsExplained(t *testing.T) {
	w := newPool(t, 2)
	r := w.router("r", w.ext1.GetId())
	active := w.active(r.GetId()).GetNode()
	other := map[string]string{"net1": "net2", "net2": "net1"}[active]
	w.updateNode(&weftv1.Node{Id: active, Draining: true}, "draining")
	why := func(node string) string {
		w.Helper()
		out, err := w.ExplainDrain(w.ctx, &weftv1.ExplainDrainRequest{Id: node})
		w.check(err)
		var lines []string
		for _, r := range out.GetRemainders() {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %v: %s", r.GetName(), r.GetActive(), r.GetReason())))
		}
		return strings.Join(lines, "\n")
	}
	says := func(node, want string) {
		w.Helper()
		w.eventually("it is said that "+want, func() bool { return strings.Contains(why(node), want) })
	}
	says(active, "r true: it waits for node "+other+": it is not ready yet\nnet1 false: it waits for node "+other+": it is not ready yet")
	revision := w.read(keys.Router(r.GetId()), &weftv1.Router{})
	ready := &storev1.Report{State: weftv1.State_STATE_ERROR, Message: "no namespace", Standby: true, Revision: revision}
	w.put(keys.Status(other, keys.KindRouter, r.GetId()), ready)
	says(active, "r true: it waits for node "+other+": no namespace")
	ready.State, ready.Message = weftv1.State_STATE_ACTIVE, ""
	w.put(keys.Status(other, keys.KindRouter, r.GetId()), ready)
	says(active, "r true: it goes when it is its turn: node "+other+" is ready")
	w.put(keys.HostObject(active, keys.KindRouter, r.GetId()), &storev1.RouterBinding{Nodes: []string{active, other}, HandOver: other})
	says(active, "r true: it is being handed over to node "+other)
	w.put(keys.HostObject(active, keys.KindRouter, r.GetId()), &storev1.RouterBinding{Nodes: []string{active, other}})
	w.another(other, func(a *storev1.Agent) {
		a.TunnelIp, a.Uplinks[0].Proven, a.Uplinks[0].Reason = "192.0.2.9", false, "no carrier"
	})
	says(active, "r true: it waits for node "+other+": its uplink to physical network ext1 is not proven: no carrier")
	w.updateNode(&weftv1.Node{Id: other, Draining: true}, "draining")
	says(active, "r true: no other node can take it: "+other+": is draining, its uplink to physical network ext1 is not proven: no carrier\nnet1 false: no other node can take it: "+other+": is draining")
	w.node("cmp9", &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_COMPUTE}})
	w.seen(w.replica, "cmp9")
	if got := why(active); strings.Contains(got, "cmp9") {
		t.Errorf("that a compute node takes no router is no news: %s", got)
	}
	w.del(keys.Live(active))
	says(active, "r true: the agent of the node is not alive, and the others have not found the node dead")
	_, err := w.ExplainDrain(w.ctx, &weftv1.ExplainDrainRequest{Id: "net9"})
	w.fails(err, codes.NotFound, "net9")
}
