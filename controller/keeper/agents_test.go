package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// image is what the store holds, as far as plans go.
type image struct {
	revision map[string]int64
	live     map[string]bool
	active   map[string]*storev1.ActiveRouter             // by router
	bindings map[string]map[string]*storev1.RouterBinding // by router and node
	servers  map[string]map[string]bool                   // by network and node
	reports  map[string]*storev1.Report                   // by key
}

func newImage() *image {
	return &image{
		revision: map[string]int64{}, live: map[string]bool{}, active: map[string]*storev1.ActiveRouter{},
		bindings: map[string]map[string]*storev1.RouterBinding{}, servers: map[string]map[string]bool{}, reports: map[string]*storev1.Report{},
	}
}

// set takes a key in; value is nil when it is gone.
func (m *image) set(key string, value []byte, revision int64) error {
	m.revision[key] = revision
	if value == nil {
		delete(m.revision, key)
	}
	k, err := keys.Parse(key)
	if err != nil {
		return err
	}
	switch k.Family { //nolint:exhaustive // what plans are made of
	case keys.FamilyLive:
		m.live[k.Scope()] = value != nil
	case keys.FamilyActive:
		put(m.active, k.ID(), value, &storev1.ActiveRouter{})
	case keys.FamilyStatus:
		put(m.reports, key, value, &storev1.Report{})
	case keys.FamilyHost:
		if k.Kind() == keys.KindRouter {
			put(inner(m.bindings, k.ID()), k.Scope(), value, &storev1.RouterBinding{})
		}
		if k.Kind() == keys.KindDHCP {
			servers := inner(m.servers, k.ID())
			if delete(servers, k.Scope()); value != nil {
				servers[k.Scope()] = true
			}
		}
	}
	return nil
}

func inner[V any](of map[string]map[string]V, key string) map[string]V {
	if of[key] == nil {
		of[key] = map[string]V{}
	}
	return of[key]
}

// put notes a message; one that can't be read is none.
func put[M proto.Message](in map[string]M, key string, value []byte, m M) {
	delete(in, key)
	if value != nil && proto.Unmarshal(value, m) == nil {
		in[key] = m
	}
}

// agents plays the agents of the network nodes, as far as plans go: they report what they hold, a standby as ready; the
// holder hands over when it is told to; a standby takes over from a node that is off.
type agents struct {
	t    *testing.T
	s    *store.Store
	kick chan struct{}
	stop func()

	mu      sync.Mutex
	image   *image
	seen    int64         // the revision that the image is of, at least
	changed chan struct{} // closed and replaced whenever the image changes
	up      map[string]bool
	off     map[string]bool      // the node is without power
	lazy    map[string]time.Time // the node is never done with building a router, since when
	cut     map[string]bool      // the node has lost its uplink
	slow    bool                 // nothing is handed over
	agent   *storev1.Agent
}

func startAgents(t *testing.T, s *store.Store, names ...string) *agents {
	t.Helper()
	a := &agents{
		t: t, s: s, kick: make(chan struct{}, 1), image: newImage(), changed: make(chan struct{}),
		up: map[string]bool{}, off: map[string]bool{}, lazy: map[string]time.Time{}, cut: map[string]bool{}, agent: &storev1.Agent{
			Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK}, TunnelIp: "192.0.2.1", BridgeMappings: map[string]string{"ext1": "br-ext1"},
			Uplinks: []*weftv1.Uplink{{PhysicalNetwork: "ext1", Bridge: "br-ext1", Proven: true}},
		},
	}
	m := mirror.New(s, mirror.Options{Log: slog.New(slog.DiscardHandler)})
	m.Follow("all", mirror.Under(keys.Root))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer m.Close()
		a.run(ctx, m)
	}()
	a.stop = func() { cancel(); <-done }
	t.Cleanup(a.stop)
	for _, name := range names {
		a.start(name)
	}
	return a
}

func (a *agents) run(ctx context.Context, m *mirror.Mirror) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.Wake():
		case <-a.kick:
		}
		a.mu.Lock()
		err := a.take(m.Take())
		if err == nil {
			err = a.round()
		}
		a.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			a.t.Error(err)
			return
		}
	}
}

func (a *agents) take(b mirror.Batch) error {
	for _, c := range b.Changes {
		if err := a.image.set(c.Key, c.Value, c.Revision); err != nil {
			return err
		}
		a.seen = max(a.seen, c.Revision)
	}
	close(a.changed)
	a.changed = make(chan struct{})
	return nil
}

// await waits until a condition holds for the image. It is looked at from time to time too, for it may be of other things.
func (a *agents) await(condition func(*image) bool) bool {
	ctx, cancel := context.WithTimeout(a.t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		a.mu.Lock()
		holds, changed := condition(a.image), a.changed
		a.mu.Unlock()
		if holds {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		case <-tick.C:
		}
	}
}

// do commits what a test writes, and waits until the image has it.
func (a *agents) do(write func(*txn.Txn)) {
	a.t.Helper()
	x := &txn.Txn{}
	write(x)
	revision, err := a.s.Commit(a.t.Context(), x, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	if !a.await(func(*image) bool { return a.seen >= revision }) {
		a.t.Fatalf("revision %d was never seen", revision)
	}
}

// set changes what the agents are like.
func (a *agents) set(change func()) {
	a.mu.Lock()
	change()
	a.mu.Unlock()
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// uplink makes a node's uplink proven, or not. Its agent gives away what it can't forward, as it must.
func (a *agents) uplink(name string, proven bool) {
	a.t.Helper()
	agent := proto.CloneOf(a.agent)
	agent.Uplinks[0].Proven = proven
	a.set(func() {
		if delete(a.cut, name); !proven {
			a.cut[name] = true
		}
	})
	a.do(func(x *txn.Txn) { x.Put(keys.Agent(name), agent) })
}

// start starts a node's agent, and the node if it was off.
func (a *agents) start(name string) {
	a.t.Helper()
	a.do(func(x *txn.Txn) {
		x.Put(keys.Agent(name), a.agent)
		x.Put(keys.Live(name), a.agent)
	})
	a.set(func() {
		a.up[name] = true
		delete(a.off, name)
	})
}

// end ends a node's agent; what it forwards it goes on forwarding.
func (a *agents) end(name string) {
	a.t.Helper()
	a.set(func() { delete(a.up, name) })
	a.do(func(x *txn.Txn) { x.Delete(keys.Live(name)) })
}

// powerOff ends everything on a node.
func (a *agents) powerOff(name string) {
	a.t.Helper()
	a.end(name)
	a.set(func() { a.off[name] = true })
}

// be makes a node lazy, or not.
func (a *agents) be(name string, lazy bool) {
	a.set(func() {
		if delete(a.lazy, name); lazy {
			a.lazy[name] = time.Now()
		}
	})
}

// hold has nothing handed over, or all again.
func (a *agents) hold(on bool) { a.set(func() { a.slow = on }) }

// settings sets what the operator says of a node.
func (a *agents) settings(name string, settings *storev1.NodeSettings) {
	a.t.Helper()
	a.do(func(x *txn.Txn) { x.Put(keys.Node(name), settings) })
}

// round does what there is to do by the image. A conflict means that something has changed: the next round sees it.
func (a *agents) round() error {
	m := a.image
	for router, on := range m.bindings {
		for node, b := range on {
			if err := a.tend(m, router, node, b); err != nil {
				return err
			}
		}
	}
	for network, on := range m.servers {
		for node := range on {
			if a.up[node] {
				if err := a.report(m, node, keys.KindDHCP, network, keys.Network(network), false); err != nil {
					return err
				}
			}
		}
	}
	return a.forget(m)
}

// commit commits what an agent writes.
func (a *agents) commit(x *txn.Txn) error {
	_, err := a.s.Commit(a.t.Context(), x, 0)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

func (a *agents) look(ctx context.Context) (*image, error) {
	snap, err := a.s.Read(ctx, store.Prefix(keys.Root))
	if err != nil {
		return nil, err
	}
	m := newImage()
	for _, e := range snap.Results[0].Entries {
		if err := m.set(e.Key, e.Value, e.Revision); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (a *agents) tend(m *image, router, node string, b *storev1.RouterBinding) error {
	active := m.active[router]
	switch {
	case !a.up[node] || active == nil:
		return nil
	case active.GetNode() == node && b.GetHandOver() != "" && !a.slow && !a.cut[b.GetHandOver()]:
		return a.pass(m, router, node, b.GetHandOver())
	case active.GetNode() == node && a.cut[node]:
		for _, other := range b.GetNodes() {
			if a.up[other] && !a.cut[other] {
				return a.pass(m, router, node, other)
			}
		}
	case a.off[active.GetNode()]:
		for _, first := range b.GetNodes() {
			if a.up[first] {
				if first == node {
					return a.pass(m, router, node, node)
				}
				break
			}
		}
	}
	if !a.lazy[node].IsZero() && active.GetNode() != node {
		return nil
	}
	return a.report(m, node, keys.KindRouter, router, keys.Router(router), active.GetNode() != node)
}

// pass makes another node the active one, by the rules that agents go by.
func (a *agents) pass(m *image, router, own, to string) error {
	x := &txn.Txn{}
	x.Unchanged(keys.Active(router), m.revision[keys.Active(router)])
	x.Exists(keys.HostObject(own, keys.KindRouter, router))
	x.Exists(keys.HostObject(to, keys.KindRouter, router))
	x.Put(keys.Active(router), &storev1.ActiveRouter{Node: to, Epoch: m.active[router].GetEpoch() + 1})
	return a.commit(x)
}

func (a *agents) report(m *image, node, kind, id, objectKey string, standby bool) error {
	r := &storev1.Report{Revision: m.revision[objectKey], State: weftv1.State_STATE_ACTIVE, Standby: standby}
	key := keys.Status(node, kind, id)
	if r.GetRevision() == 0 || proto.Equal(r, m.reports[key]) {
		return nil
	}
	x := &txn.Txn{}
	x.Exists(keys.HostObject(node, kind, id))
	x.Put(key, r)
	return a.commit(x)
}

// forget takes the reports away of what a node does not hold any more.
func (a *agents) forget(m *image) error {
	for key := range m.reports {
		k, err := keys.Parse(key)
		if err != nil {
			return err
		}
		if !a.up[k.Scope()] || m.revision[keys.HostObject(k.Scope(), k.Kind(), k.ID())] != 0 {
			continue
		}
		x := &txn.Txn{}
		x.Absent(keys.HostObject(k.Scope(), k.Kind(), k.ID()))
		x.Delete(key)
		if err := a.commit(x); err != nil {
			return err
		}
	}
	return nil
}

// history is what etcd has seen since a revision, and what must have held at each one of them:
//   - the active node is planned to hold the router;
//   - a router leaves a node that lives only when that has been told to hand over, to the one that it has been handed to;
//   - a node is told to hand over only to one that lives and is ready;
//   - a router that had a standby that was ready has one until the end, as long as no node fails;
//   - a network that was served by a live server still is.
type history struct {
	t       *testing.T
	failing bool // nodes fail in this story
	most    int  // routers that were being handed over at the same time
	moves   int  // changes of active nodes
	servers map[string]bool
	spared  map[string]bool
}

// check reads the history of the store from a revision on.
func (h *history) check(s *store.Store, from int64) {
	h.t.Helper()
	h.servers, h.spared = map[string]bool{}, map[string]bool{}
	snap, err := s.Read(h.t.Context(), store.Key(keys.Schema))
	if err != nil {
		h.t.Fatal(err)
	}
	end := &txn.Txn{}
	end.Put("end", &storev1.Claim{})
	last, err := s.Commit(h.t.Context(), end, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	m := newImage()
	start, err := s.ReadAt(h.t.Context(), min(from, snap.Revision), store.Prefix(keys.Root))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range start.Results[0].Entries {
		if err := m.set(e.Key, e.Value, e.Revision); err != nil {
			h.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), deadline)
	defer cancel()
	for resp := range s.Client().Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(from+1)) {
		for events := resp.Events; len(events) > 0; {
			revision := events[0].Kv.ModRevision
			if revision == last {
				return
			}
			n := slices.IndexFunc(events, func(e *clientv3.Event) bool { return e.Kv.ModRevision != revision })
			if n < 0 {
				n = len(events)
			}
			h.revision(m, events[:n])
			events = events[n:]
		}
	}
	h.t.Fatal("the store's history could not be read")
}

func (h *history) revision(m *image, events []*clientv3.Event) {
	before := map[string]string{}
	told := map[string]string{}
	for router, active := range m.active {
		before[router] = active.GetNode()
		told[router] = m.bindings[router][active.GetNode()].GetHandOver()
	}
	for _, e := range events {
		if !strings.HasPrefix(string(e.Kv.Key), keys.Root) {
			continue
		}
		value := e.Kv.Value
		if e.Type == clientv3.EventTypeDelete {
			value = nil
		} else if value == nil {
			value = []byte{}
		}
		if err := m.set(string(e.Kv.Key), value, e.Kv.ModRevision); err != nil {
			h.t.Fatal(err)
		}
	}
	at := events[0].Kv.ModRevision
	passing := 0
	for router, active := range m.active {
		node, was := active.GetNode(), before[router]
		if m.bindings[router][node] == nil {
			h.t.Errorf("revision %d: router %s is active on %s, which does not hold it", at, router, node)
		}
		if was != "" && node != was {
			h.moves++
			if m.live[was] && told[router] != node {
				h.t.Errorf("revision %d: router %s left %s, which lives and was told to hand over to %q, for %s", at, router, was, told[router], node)
			}
		}
		to := m.bindings[router][node].GetHandOver()
		if to == "" {
			h.standbys(m, router, at)
			continue
		}
		passing++
		if told[router] == "" && (!m.live[to] || !m.reports[keys.Status(to, keys.KindRouter, router)].GetStandby()) {
			h.t.Errorf("revision %d: router %s is to be handed over to %s, which is not ready", at, router, to)
		}
	}
	h.most = max(h.most, passing)
	h.served(m, at)
}

func (h *history) standbys(m *image, router string, at int64) {
	ready := false
	for node := range m.bindings[router] {
		ready = ready || node != m.active[router].GetNode() && m.reports[keys.Status(node, keys.KindRouter, router)].GetStandby()
	}
	// The node that has just handed over has not said yet that it is a standby.
	if h.spared[router] && !ready && !h.failing && len(m.bindings[router]) < 2 {
		h.t.Errorf("revision %d: router %s has no standby any more: %v", at, router, m.bindings[router])
	}
	h.spared[router] = h.spared[router] || ready
}

func (h *history) served(m *image, at int64) {
	for network, on := range m.servers {
		works := false
		for node := range on {
			works = works || m.live[node] && m.reports[keys.Status(node, keys.KindDHCP, network)] != nil
		}
		if h.servers[network] && !works && !h.failing {
			h.t.Errorf("revision %d: network %s has no DHCP server that works any more: %v", at, network, fmt.Sprint(on))
		}
		h.servers[network] = h.servers[network] || works
	}
}
