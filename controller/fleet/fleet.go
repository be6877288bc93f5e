// Package fleet keeps in memory what the nodes say of themselves and of the objects on them: their agents, whether they
// live, what is bound and placed there, and their reports. It follows the store and never writes to it. What it says may
// be a moment old; whoever builds a transaction on it guards what matters.
package fleet

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// families are what a Fleet follows, each as a scope of its own, so that the changes of one family arrive in order.
var families = []keys.Family{
	keys.FamilyAgent, keys.FamilyLive, keys.FamilyNode, keys.FamilyStatus, keys.FamilyHost, keys.FamilyPlug, keys.FamilyActive,
	keys.FamilyPool, keys.FamilyQuota,
	keys.FamilyLeader, // for Await alone
}

// uuid is an id in 16 bytes: a tenth of what its text in a string of its own would cost.
type uuid [16]byte

func parseUUID(s string) (uuid, bool) {
	var id uuid
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, false
	}
	copy(id[:], raw)
	return id, true
}

func (u uuid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// object is what a report is about.
type object struct {
	kind string // a constant of package keys
	id   uuid
}

type report struct {
	node     string
	revision int64
	state    weftv1.State
	message  string
	standby  bool
	seconds  int64
	nanos    int32
}

// node is everything known of one node.
type node struct {
	name     string
	agent    *storev1.Agent // nil: never registered
	ability  scheduler.Node // what the agent says, as the scheduler wants it
	revision int64          // of the agent's description or the settings, whichever is later
	alive    bool
	left     time.Time                // when its agent was last seen to go
	settings *storev1.NodeSettings    // nil: none
	held     map[string]map[uuid]bool // kind -> ids bound or placed here; refused ports are not
	active   map[uuid]bool            // those of the routers that are active here
}

// pool is what is said of a pool.
type pool struct {
	settings *storev1.PoolSettings
	revision int64
}

// quota is what is set for a project.
type quota struct {
	set      *storev1.Quota
	revision int64
}

// active is where a router is active.
type active struct {
	node  string
	epoch int64
}

// Fleet is safe for concurrent use.
type Fleet struct {
	mirror *mirror.Mirror
	log    *slog.Logger
	stop   chan struct{} // closed by Close
	done   chan struct{} // closed when run has ended
	ready  chan struct{} // closed when every family has been listed
	began  time.Time

	mu      sync.RWMutex
	nodes   map[string]*node
	reports map[object][]report
	plugs   map[uuid][]string
	active  map[uuid]active
	pools   map[string]pool
	quotas  map[string]quota
	seen    map[keys.Family]int64
	listed  map[string]bool
	feeds   map[*Feed]bool
	applied chan struct{} // closed and replaced whenever something was applied
	changed chan struct{} // closed and replaced whenever a node or what it holds changed
	moved   func(from, to, reason string)
}

// OnMove has f told of each router that becomes active on another node, with the reason that was written. It must not
// block; it is told of nothing that happened before.
func (f *Fleet) OnMove(moved func(from, to, reason string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = moved
}

// Heard is when the store last said anything to the fleet's mirror; see mirror.Mirror.Heard.
func (f *Fleet) Heard() time.Time { return f.mirror.Heard() }

// Counts are the registered nodes, and how many of them are alive.
func (f *Fleet) Counts() (registered, alive int) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, n := range f.nodes {
		if n.agent == nil {
			continue
		}
		registered++
		if n.alive {
			alive++
		}
	}
	return registered, alive
}

// New begins to follow the fleet. Close ends it.
func New(s *store.Store, log *slog.Logger) *Fleet {
	f := &Fleet{
		mirror: mirror.New(s, mirror.Options{Log: log, Check: schema.Check}), log: log,
		stop: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}), began: time.Now(),
		nodes: map[string]*node{}, reports: map[object][]report{}, plugs: map[uuid][]string{}, active: map[uuid]active{}, pools: map[string]pool{}, quotas: map[string]quota{},
		seen: map[keys.Family]int64{}, listed: map[string]bool{}, feeds: map[*Feed]bool{},
		applied: make(chan struct{}), changed: make(chan struct{}),
	}
	for _, family := range families {
		f.mirror.Follow(string(family), mirror.Under(keys.All(family)))
	}
	go f.run()
	return f
}

// Close stops following.
func (f *Fleet) Close() {
	f.mirror.Close()
	close(f.stop)
	<-f.done
}

// Ready waits until everything has been listed once.
func (f *Fleet) Ready(ctx context.Context) error {
	select {
	case <-f.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the fleet has not been listed yet: %w", ctx.Err())
	}
}

// Changed returns a channel that is closed at the next change of a node or of what it holds.
func (f *Fleet) Changed() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// Await waits until the changes of a family up to a revision have been taken in; there must have been one at it.
func (f *Fleet) Await(ctx context.Context, family keys.Family, revision int64) error {
	for {
		f.mu.RLock()
		reached, next := f.seen[family] >= revision, f.applied
		f.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Fleet) run() {
	defer close(f.done)
	for {
		select {
		case <-f.stop:
			return
		case <-f.mirror.Wake():
			f.apply(f.mirror.Take())
		}
	}
}

func (f *Fleet) apply(b mirror.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Rewound {
		clear(f.seen) // revisions begin anew
	}
	nodesChanged := false
	for _, c := range b.Changes {
		family := keys.Family(c.Scope)
		f.seen[family] = max(f.seen[family], c.Revision)
		if err := f.change(family, c); err != nil {
			f.log.Warn("ignoring a key of the fleet", "key", c.Key, "error", err)
		}
		nodesChanged = nodesChanged || family != keys.FamilyStatus && family != keys.FamilyPlug && family != keys.FamilyLeader && family != keys.FamilyQuota
	}
	f.markListed(b.Listed)
	close(f.applied)
	f.applied = make(chan struct{})
	if nodesChanged {
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

func (f *Fleet) markListed(scopes []string) {
	for _, s := range scopes {
		f.listed[s] = true
		if len(f.listed) == len(families) {
			close(f.ready)
		}
	}
}

func (f *Fleet) change(family keys.Family, c mirror.Change) error {
	k, err := keys.Parse(c.Key)
	if err != nil {
		return err
	}
	f.tell(k)
	switch family { //nolint:exhaustive // those of the variable families
	case keys.FamilyAgent:
		return f.changeAgent(k.Scope(), c)
	case keys.FamilyLive:
		f.changeLive(f.node(k.Scope()), c.Value != nil)
		return nil
	case keys.FamilyNode:
		return f.changeSettings(k.Scope(), c)
	case keys.FamilyActive:
		return f.changeActive(k, c)
	case keys.FamilyLeader:
		return nil
	case keys.FamilyPool:
		return f.changePool(k.ID(), c)
	case keys.FamilyQuota:
		return f.changeQuota(k.ID(), c)
	default:
		id, ok := parseUUID(k.ID())
		if !ok {
			return fmt.Errorf("%q is not a UUID", k.ID())
		}
		return f.changeObject(k, id, c)
	}
}

func (f *Fleet) changeObject(k keys.Key, id uuid, c mirror.Change) error {
	switch k.Family { //nolint:exhaustive // the rest of change
	case keys.FamilyHost:
		return f.changeBinding(k, id, c)
	case keys.FamilyPlug:
		f.plugs[id] = without(f.plugs[id], k.Scope())
		if c.Value != nil {
			f.plugs[id] = append(f.plugs[id], f.node(k.Scope()).name)
		}
		if len(f.plugs[id]) == 0 {
			delete(f.plugs, id)
		}
		return nil
	default:
		return f.changeReport(k, id, c)
	}
}

func without(all []string, one string) []string {
	out := all[:0]
	for _, s := range all {
		if s != one {
			out = append(out, s)
		}
	}
	return out
}

// node finds or makes a node. Nodes that nothing is known of any more are few; they are kept, but not shown.
func (f *Fleet) node(name string) *node {
	n := f.nodes[name]
	if n == nil {
		n = &node{name: strings.Clone(name), held: map[string]map[uuid]bool{}, active: map[uuid]bool{}}
		f.nodes[n.name] = n
	}
	return n
}

func (f *Fleet) changeLive(n *node, alive bool) {
	if n.alive && !alive {
		n.left = time.Now()
	}
	n.alive = alive
}

func (f *Fleet) changeAgent(name string, c mirror.Change) error {
	n := f.node(name)
	n.agent = nil
	if c.Value == nil {
		return nil
	}
	agent := &storev1.Agent{}
	if err := proto.Unmarshal(c.Value, agent); err != nil {
		return err
	}
	n.agent, n.ability, n.revision = agent, ability(n.name, agent), max(n.revision, c.Revision)
	return nil
}

func (f *Fleet) changeSettings(name string, c mirror.Change) error {
	n := f.node(name)
	n.settings = nil
	settings := &storev1.NodeSettings{}
	if err := proto.Unmarshal(c.Value, settings); err != nil {
		return err
	}
	n.settings, n.revision = settings, max(n.revision, c.Revision)
	return nil
}

func (f *Fleet) changePool(name string, c mirror.Change) error {
	delete(f.pools, name)
	if c.Value == nil {
		return nil
	}
	settings := &storev1.PoolSettings{}
	if err := proto.Unmarshal(c.Value, settings); err != nil {
		return err
	}
	f.pools[strings.Clone(name)] = pool{settings: settings, revision: c.Revision}
	return nil
}

func (f *Fleet) changeQuota(project string, c mirror.Change) error {
	delete(f.quotas, project)
	if c.Value == nil {
		return nil
	}
	set := &storev1.Quota{}
	if err := proto.Unmarshal(c.Value, set); err != nil {
		return err
	}
	f.quotas[strings.Clone(project)] = quota{set: set, revision: c.Revision}
	return nil
}

func (f *Fleet) changeActive(k keys.Key, c mirror.Change) error {
	id, ok := parseUUID(k.ID())
	if !ok {
		return fmt.Errorf("%q is not a UUID", k.ID())
	}
	from := f.active[id].node
	if n := f.nodes[from]; n != nil {
		delete(n.active, id)
	}
	delete(f.active, id)
	if c.Value == nil {
		return nil
	}
	now := &storev1.ActiveRouter{}
	if err := proto.Unmarshal(c.Value, now); err != nil {
		return err
	}
	n := f.node(now.GetNode())
	n.active[id] = true
	f.active[id] = active{node: n.name, epoch: now.GetEpoch()}
	if from != "" && n.name != "" && from != n.name && f.moved != nil {
		f.moved(from, n.name, now.GetReason())
	}
	return nil
}

func (f *Fleet) changeBinding(k keys.Key, id uuid, c mirror.Change) error {
	kind := kindOf(k.Kind())
	n := f.node(k.Scope())
	delete(n.held[kind], id)
	if c.Value == nil {
		return nil
	}
	if kind == keys.KindPort {
		binding := &storev1.PortBinding{}
		if err := proto.Unmarshal(c.Value, binding); err != nil {
			return err
		}
		if binding.GetRefused() != "" {
			return nil
		}
	}
	if n.held[kind] == nil {
		n.held[kind] = map[uuid]bool{}
	}
	n.held[kind][id] = true
	return nil
}

// kindOf is the constant that equals s, so that a key's text is not kept alive by a part of it.
func kindOf(s string) string {
	for _, kind := range []string{keys.KindPort, keys.KindRouter, keys.KindDHCP, keys.KindFloatingIP} {
		if s == kind {
			return kind
		}
	}
	return strings.Clone(s)
}

func (f *Fleet) changeReport(k keys.Key, id uuid, c mirror.Change) error {
	about := object{kindOf(k.Kind()), id}
	kept := f.reports[about][:0]
	for _, r := range f.reports[about] {
		if r.node != k.Scope() {
			kept = append(kept, r)
		}
	}
	defer func() {
		if len(kept) == 0 {
			delete(f.reports, about)
			return
		}
		f.reports[about] = kept
	}()
	if c.Value == nil {
		return nil
	}
	r := &storev1.Report{}
	if err := proto.Unmarshal(c.Value, r); err != nil {
		return err
	}
	kept = append(kept, report{
		node: f.node(k.Scope()).name, revision: r.GetRevision(), state: r.GetState(), message: r.GetMessage(),
		standby: r.GetStandby(), seconds: r.GetTime().GetSeconds(), nanos: r.GetTime().GetNanos(),
	})
	return nil
}
