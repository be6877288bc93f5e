package keeper_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/keeper"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (w *world) wish(router, to string) {
	w.Helper()
	w.agents.do(func(x *txn.Txn) { x.Put(keys.Move(router), &storev1.Move{To: to, Reason: "a test"}) })
}

func (w *world) audit() {
	w.Helper()
	findings, err := audit.Run(w.Context(), w.s)
	w.must(err)
	for _, f := range findings {
		w.Errorf("audit: %s", f)
	}
}

// pick is a router that is active on one of the nodes, with that node and its standby's.
func (w *world) pick() (router, active, standby string) {
	w.Helper()
	m := w.image()
	router = w.routers[0]
	active = m.active[router].GetNode()
	for _, node := range m.plan(router) {
		if node != active {
			standby = node
		}
	}
	return router, active, standby
}

// told is how many routers are to be handed over.
func (m *image) told() (n int) {
	for router, active := range m.active {
		if m.bindings[router][active.GetNode()].GetHandOver() != "" {
			n++
		}
	}
	return n
}

// other is a node of net1, net2 and net3 that is none of those.
func other(not ...string) string {
	for _, n := range []string{"net1", "net2", "net3"} {
		if n != not[0] && n != not[len(not)-1] {
			return n
		}
	}
	return ""
}

// toldRouter is a router whose active node has been told to hand it over; "" none.
func (w *world) toldRouter() string {
	m := w.image()
	for _, r := range w.routers {
		if m.bindings[r][m.active[r].GetNode()].GetHandOver() != "" {
			return r
		}
	}
	return ""
}

// remove deletes a router with all that is said of where it is, as the API does.
func (w *world) remove(router string) {
	w.Helper()
	if router == "" {
		w.Fatal("no router to delete")
	}
	m := w.image()
	w.agents.do(func(x *txn.Txn) {
		for node := range m.bindings[router] {
			x.Delete(keys.HostObject(node, keys.KindRouter, router))
		}
		x.Delete(keys.Active(router))
		x.Delete(keys.Router(router))
	})
	w.routers = slices.DeleteFunc(w.routers, func(r string) bool { return r == router })
}

// busiest is the node on which the most routers are active.
func (w *world) busiest() (node string) {
	count := map[string]int{}
	for _, a := range w.image().active {
		if count[a.GetNode()]++; count[a.GetNode()] > count[node] {
			node = a.GetNode()
		}
	}
	return node
}

func TestADrainMovesEverythingBeforeAnythingIsTakenDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 12, nil, "net1", "net2", "net3")
	w.keep("a", func(o *keeper.Options) { o.Moving = 2 })
	drained := w.busiest()
	w.agents.hold(true)
	w.agents.settings(drained, &storev1.NodeSettings{Draining: true})
	w.await("two are told", func(m *image) bool { return m.told() == 2 })
	w.await("the DHCP servers have gone", func(m *image) bool {
		for _, on := range m.servers {
			if on[drained] {
				return false
			}
		}
		return true
	})
	w.agents.hold(false)
	w.await("the node is empty", func(m *image) bool { return m.empty(drained) && w.built(m) })
	h := w.check(false)
	if h.most != 2 || h.moves < 3 {
		t.Errorf("%d routers were handed over, at most %d at the same time, want more than 2 and 2", h.moves, h.most)
	}
	before := w.actives()
	w.agents.settings(drained, &storev1.NodeSettings{})
	w.wish(w.routers[0], other(drained, w.image().active[w.routers[0]].GetNode())) // something to wait for
	w.await("the wish is fulfilled", w.built)
	after := w.actives()
	delete(before, w.routers[0])
	delete(after, w.routers[0])
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what is active where, -before +after the node may be used again\n%s", diff)
	}
	w.audit()
}

func TestADeadNodeIsReplacedAndGetsNothingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 9, nil, "net1", "net2", "net3")
	w.keep("a", nil)
	w.agents.powerOff("net1")
	w.await("everything is elsewhere", func(m *image) bool { return m.empty("net1") && w.built(m) })
	before := w.actives()
	w.agents.start("net1")
	router, active, _ := w.pick()
	w.wish(router, other("net1", active)) // something to wait for
	w.await("the wish is fulfilled", w.built)
	after := w.actives()
	delete(before, router)
	delete(after, router)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what is active where, -before +after the node has come back\n%s", diff)
	}
	w.check(true)
	w.audit()
}

// TestADeadNodeIsDrainedAtOnce waits for no grace: who drains a node knows that it is not coming back.
func TestADeadNodeIsDrainedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 9, nil, "net1", "net2", "net3")
	w.keep("a", func(o *keeper.Options) { o.DeadAfter = time.Hour })
	dead := w.busiest()
	w.agents.powerOff(dead)
	w.agents.settings(dead, &storev1.NodeSettings{Draining: true})
	w.await("everything is elsewhere", func(m *image) bool { return m.empty(dead) && w.built(m) })
	w.check(true)
	w.audit()
}

func TestANodeWhoseAgentAloneIsDeadGoesOnForwarding(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, "net1", "net2", "net3")
	w.keep("a", nil)
	router, active, _ := w.pick()
	before := w.actives()
	w.agents.end(active)
	w.await("another standby is there", func(m *image) bool { return len(m.plan(router)) == 3 })
	w.agents.start(active)
	w.await("two nodes are left", w.built)
	if diff := cmp.Diff(before, w.actives()); diff != "" {
		t.Errorf("what is active where, -before +after the agent was away\n%s", diff)
	}
	w.check(true)
	w.audit()
}

func TestARouterOnOneNodeIsTakenOverByItsReplacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, func(r *weftv1.Router) { r.Ha = 1 }, "net1")
	w.agents.start("net2")
	w.keep("a", nil)
	w.agents.powerOff("net1")
	w.await("net2 is the only one", func(m *image) bool {
		for _, r := range w.routers {
			if plan := m.plan(r); len(plan) != 1 || plan[0] != "net2" || m.active[r].GetNode() != "net2" {
				return false
			}
		}
		return m.empty("net1")
	})
	w.check(true)
	w.audit()
}

func TestAWishToMoveIsFulfilledOnceAndTheNodeIsTheFirstChoiceThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, nil, "net1", "net2", "net3")
	w.keep("a", nil)
	router, active, standby := w.pick()
	third := other(active, standby)
	w.wish(router, third)
	w.await("the wish is fulfilled", w.built)
	if m := w.image(); m.active[router].GetNode() != third || m.plan(router)[0] != third {
		t.Errorf("wanted %s: %s", third, w.describe())
	}
	w.wish(router, third)
	w.await("so is one for what is", w.built)
	if h := w.check(false); h.moves != 1 {
		t.Errorf("%d moves", h.moves)
	}
	w.audit()
}

func TestAWishThatCannotBeFulfilledIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, "net1", "net2")
	w.keep("a", nil)
	router, active, _ := w.pick()
	w.agents.agent.Roles = []weftv1.Role{weftv1.Role_ROLE_COMPUTE}
	w.agents.start("cmp1")
	for _, node := range []string{"cmp1", "nowhere"} {
		w.wish(router, node)
		w.await("the wish is gone", func(m *image) bool { return m.revision[keys.Move(router)] == 0 })
	}
	nobody := "00000000-0000-4000-8000-000000000000"
	w.wish(nobody, "net1")
	w.await("the wish for no router is gone", func(m *image) bool { return m.revision[keys.Move(nobody)] == 0 })
	if m := w.image(); m.active[router].GetNode() != active || len(m.plan(router)) != 2 {
		t.Error(w.describe())
	}
	w.check(false)
}

func TestAPoolWithFailbackGivesTheFirstChoiceBackWhenItIsReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, nil, "net1", "net2", "net3")
	w.agents.do(func(x *txn.Txn) { x.Put(keys.Pool("default"), &storev1.PoolSettings{Failback: true}) })
	w.keep("a", nil)
	before := w.actives()
	_, active, _ := w.pick()
	w.agents.powerOff(active)
	w.await("another one is active, with a standby", func(m *image) bool {
		for _, r := range w.routers {
			if m.active[r].GetNode() == active || len(m.bindings[r]) < 2 || len(m.bindings[r]) == 2 && m.bindings[r][active] != nil {
				return false
			}
		}
		return true
	})
	w.agents.start(active)
	w.await("all is where it was", func(m *image) bool {
		for r, was := range before {
			if m.active[r].GetNode() != was[:len("net1")] {
				return false
			}
		}
		return w.built(m)
	})
	w.check(true)
	w.audit()
}

func TestAPoolWithFailbackGivesNothingToANodeWithoutItsUplink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, nil, "net1", "net2", "net3")
	w.agents.do(func(x *txn.Txn) { x.Put(keys.Pool("default"), &storev1.PoolSettings{Failback: true}) })
	w.keep("a", nil)
	router, active, standby := w.pick()
	before := w.image().active[router].GetEpoch()
	w.agents.uplink(active, false)
	w.await("another one is active", func(m *image) bool { return m.active[router].GetNode() == standby })
	w.await("both nodes have said so", w.built)
	for _, r := range w.routers { // something to wait for
		if r != router {
			w.wish(r, other(active, w.image().active[r].GetNode()))
		}
	}
	w.await("the wish is fulfilled", w.built)
	if a := w.image().active[router]; a.GetNode() != standby || a.GetEpoch() != before+1 {
		t.Errorf("%s is active at epoch %d, want %s at %d", a.GetNode(), a.GetEpoch(), standby, before+1)
	}
	w.audit()
}

// TestADrainGoesToWhoHasAnUplinkAndGoesOnWhenOneHasItAgain has the only standby lose its uplink before its peer is drained.
func TestADrainGoesToWhoHasAnUplinkAndGoesOnWhenOneHasItAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, nil, "net1", "net2")
	w.keep("a", nil)
	router, active, standby := w.pick()
	w.agents.uplink(standby, false)
	w.await("the drained node has everything", func(m *image) bool {
		for _, r := range w.routers {
			if m.active[r].GetNode() != active {
				return false
			}
		}
		return w.built(m)
	})
	before := w.image().active[router].GetEpoch()
	w.agents.settings(active, &storev1.NodeSettings{Draining: true})
	w.await("the DHCP servers have gone", func(m *image) bool {
		for _, on := range m.servers {
			if on[active] {
				return false
			}
		}
		return true
	})
	if told := w.toldRouter(); told != "" {
		t.Errorf("router %s is to be handed over to a node without its uplink", told)
	}
	w.agents.uplink(standby, true)
	w.await("the node is empty", func(m *image) bool { return m.empty(active) })
	if a := w.image().active[router]; a.GetNode() != standby || a.GetEpoch() != before+1 {
		t.Errorf("%s is active at epoch %d, want %s at %d", a.GetNode(), a.GetEpoch(), standby, before+1)
	}
	w.audit()
}

func TestARouterThatIsDeletedWhileItIsHandedOverLeavesItsPlaceToOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, nil, "net1", "net2", "net3")
	w.keep("a", func(o *keeper.Options) { o.Moving = 1 })
	drained := w.busiest()
	w.agents.hold(true)
	w.agents.settings(drained, &storev1.NodeSettings{Draining: true})
	w.await("one is told", func(m *image) bool { return m.told() == 1 })
	w.remove(w.toldRouter())
	w.agents.hold(false)
	w.await("the node is empty", func(m *image) bool { return m.empty(drained) })
}

func TestWhatCannotBeHandedOverStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, nil, "net1", "net2", "net3")
	w.keep("a", func(o *keeper.Options) { o.Moving, o.Stuck = 1, 50*time.Millisecond })
	drained := w.busiest()
	w.agents.hold(true)
	w.agents.settings(drained, &storev1.NodeSettings{Draining: true})
	w.await("more than one is told", func(m *image) bool { return m.told() > 1 })
	w.agents.hold(false)
	w.await("the node is empty", func(m *image) bool { return m.empty(drained) && w.built(m) })
	w.check(false)
}

func TestWhatLacksNodesGetsThemWhenTheyCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil)
	w.keep("a", nil)
	w.agents.start("net1")
	w.await("all is on net1", func(m *image) bool {
		for _, r := range w.routers {
			if m.active[r].GetNode() != "net1" {
				return false
			}
		}
		return true
	})
	before := w.actives()
	w.agents.start("net2")
	w.await("all has two nodes", func(m *image) bool { return len(m.servers) == 3 && w.all(m, 2) })
	if diff := cmp.Diff(before, w.actives()); diff != "" {
		t.Errorf("what is active where, -before +after another node has come\n%s", diff)
	}
	w.check(false)
	w.audit()
}

// all reports whether everything has so many nodes and they have built it.
func (w *world) all(m *image, n int) bool {
	for _, r := range w.routers {
		if len(m.plan(r)) != n {
			return false
		}
	}
	for _, on := range m.servers {
		if len(on) != n {
			return false
		}
	}
	return w.built(m)
}

// An object that can't be dealt with holds up no other.
func TestADamagedRouterStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, nil, "net1", "net2", "net3")
	bad := w.routers[0]
	_, err := w.s.Client().Put(t.Context(), keys.Active(bad), "\xff")
	w.must(err)
	w.keep("a", nil)
	w.agents.settings("net1", &storev1.NodeSettings{Draining: true})
	w.routers = w.routers[1:]
	w.await("the others have left net1", func(m *image) bool {
		for _, r := range w.routers {
			if m.bindings[r]["net1"] != nil {
				return false
			}
		}
		return w.built(m)
	})
}

// killing is an etcd that dies under a keeper at its nth commit: before it, or after it without the keeper knowing.
type killing struct {
	clientv3.KV
	left  atomic.Int64
	after bool
	kill  chan struct{}
}

var errKilled = errors.New("killed")

func (k *killing) Txn(ctx context.Context) clientv3.Txn { return &killingTxn{k.KV.Txn(ctx), k, false} }

type killingTxn struct {
	clientv3.Txn
	k      *killing
	guards bool
}

func (t *killingTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.Txn, t.guards = t.Txn.If(cs...), true
	return t
}

func (t *killingTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *killingTxn) Commit() (*clientv3.TxnResponse, error) {
	if !t.guards { // a read
		return t.Txn.Commit()
	}
	left := t.k.left.Add(-1)
	if left < 0 || left == 0 && !t.k.after {
		if left == 0 {
			close(t.k.kill)
		}
		return nil, errKilled
	}
	resp, err := t.Txn.Commit()
	if left == 0 {
		close(t.k.kill)
		return nil, errKilled
	}
	return resp, err
}

// A leader that dies at any commit of a drain and a move, before etcd has got it or before it has got etcd's answer, is
// followed by one that ends both all the same.
func TestALeaderMayDieAtAnyStep(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		steps := 1
		for dieAt(t, steps, after) {
			steps++
		}
		t.Logf("%d commits", steps-1)
		if steps < 5 {
			t.Errorf("only %d commits", steps-1)
		}
	}
}

// dieAt reports whether the leader died, which it does not when it makes fewer commits.
func dieAt(t *testing.T, n int, after bool) (died bool) {
	w := newWorld(t, 2, nil, "net1", "net2", "net3")
	_, active, standby := w.pick()
	client := w.server.NewClient()
	k := &killing{KV: client.KV, after: after, kill: make(chan struct{})}
	k.left.Store(int64(n))
	client.KV = k
	first := w.keepOn("a", store.New(client), w.term("a"), nil)
	w.agents.settings(active, &storev1.NodeSettings{Draining: true})
	w.wish(w.routers[1], other(active, standby))
	settled := func(m *image) bool { return m.empty(active) && w.built(m) }
	w.await("killed or settled", func(m *image) bool {
		select {
		case <-k.kill:
			died = true
		default:
		}
		return died || settled(m)
	})
	first.stop()
	w.depose(first.term)
	w.keep("b", nil)
	w.await("settled", settled)
	w.check(false)
	w.audit()
	w.agents.stop()
	return died
}

func TestOfTwoKeepersOneIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, nil, "net1", "net2", "net3")
	client := w.server.NewClient()
	k := &counting{KV: client.KV}
	client.KV = k
	old := w.keepOn("a", store.New(client), w.term("a"), nil)
	w.agents.settings("net1", &storev1.NodeSettings{Draining: true})
	w.await("the first one works", func(*image) bool { return k.done.Load() > 1 })
	w.depose(old.term) // and it goes on, knowing nothing
	done := k.done.Load()
	w.agents.settings("net1", &storev1.NodeSettings{})
	w.agents.settings("net2", &storev1.NodeSettings{Draining: true})
	w.keep("b", nil)
	w.await("net2 is empty", func(m *image) bool { return m.empty("net2") && w.built(m) })
	if now := k.done.Load(); now > done+1 { // one may have been under way
		t.Errorf("the first one wrote %d times after its term", now-done)
	}
	w.check(false)
	w.audit()
}

// counting counts the commits that were made.
type counting struct {
	clientv3.KV
	done atomic.Int64
}

func (k *counting) Txn(ctx context.Context) clientv3.Txn {
	return &countingTxn{k.KV.Txn(ctx), k, false}
}

type countingTxn struct {
	clientv3.Txn
	k      *counting
	guards bool
}

func (t *countingTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.Txn, t.guards = t.Txn.If(cs...), true
	return t
}

func (t *countingTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.Txn = t.Txn.Then(ops...)
	return t
}

func (t *countingTxn) Commit() (*clientv3.TxnResponse, error) {
	resp, err := t.Txn.Commit()
	if err == nil && t.guards && resp.Succeeded {
		t.k.done.Add(1)
	}
	return resp, err
}

func TestNothingIsHandedOverToANodeThatIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, nil, "net1", "net2", "net3")
	w.keep("a", nil)
	router, active, standby := w.pick()
	third := other(active, standby)
	w.agents.be(third, true)
	w.wish(router, third)
	w.await("the node is in the plan", func(m *image) bool { return len(m.plan(router)) == 3 })
	w.agents.do(func(x *txn.Txn) {
		x.Put(keys.Status(third, keys.KindRouter, router), &storev1.Report{Revision: 1, Standby: true})
	}) // of long ago
	w.agents.settings(other(active, third), &storev1.NodeSettings{Labels: map[string]string{"a": "b"}})
	w.await("the leader has had its time", func(*image) bool { return time.Since(w.agents.lazy[third]) > 200*time.Millisecond })
	if m := w.image(); m.active[router].GetNode() != active || m.bindings[router][active].GetHandOver() != "" {
		t.Error(w.describe())
	}
	w.agents.be(third, false)
	w.await("the wish is fulfilled", w.built)
	w.check(false)
}
