package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcp"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/hybrid/host"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Options are what an Agent needs.
type Options struct {
	// Config must be valid, with defaults filled in.
	Config Config
	// Version is the program's, for the API.
	Version string
	// Log gets what an operator should read. Required.
	Log *slog.Logger
	// Metrics is where the agent's metrics are registered and what Config.MetricsListen serves; nil for one of its own.
	Metrics *prometheus.Registry
	// auditPeriod is the period of the audit; 0 for the usual.
	auditPeriod time.Duration
}

// Agent is one node's agent. Everything in it belongs to the goroutine of Run.
type Agent struct {
	cfg     Config
	version string
	log     *slog.Logger

	mirror    *mirror.Mirror
	ovs       *ovs.Client
	watch     *ovs.Watch
	bridges   *bridges
	workers   *workers
	services  *services
	publisher *publisher
	questions *questions
	metrics   *metrics
	instances *instances
	peering   *peering // nil on a node that holds no routers

	view    *view.View
	planner *plan.Planner
	facts   plan.Facts
	dirty   *view.Dirty
	scopes  map[string]bool
	// started: the first complete view has been planned and the host's leftovers are known.
	started   bool
	startedAt time.Time
	// fullOVS: OVSDB has to be compared with the whole plan, not just changed by the difference.
	fullOVS bool
	retry   <-chan time.Time
	// prune fires once, when everything has had time to be reported anew.
	prune <-chan time.Time
	// alive is called once, when the agent has written what its node needs: from then on the fleet may count on the node.
	alive func()
	// careful: something that the node needs could not be read when the agent started. What an earlier agent built and no
	// plan has is kept until it can (promise I2).
	careful bool
	// found are the units that an earlier agent built, until it is known which of them stay.
	found []unit

	// audit is what is left of a round, auditTick makes its next step.
	audit     round
	auditTick <-chan time.Time

	// retired are bridges that an earlier agent was told to use and this one is not: its flows are still to be taken off.
	retired map[string]bool
	// suspected are OVS objects that have changed since they were last compared with the plan, by name; nil for none.
	suspected map[string]bool

	takeover takeover
	seen     *atomic.Pointer[ovs.Snapshot] // OVSDB as the loop last looked at it
	made     chan map[string]string        // devices that workers have made, with their identities
	devices  map[string]string             // the same, as far as the plan still has them
	// arrived are devices that OVSDB is still to get ports for, since when.
	arrived      []string
	arrivedSince time.Time
	renewing     map[string]bool // devices that OVS is to let go of
	// post is what goroutines beside the loop have it do.
	post mailbox

	refused    map[string]string       // OVS port or bridge -> why it could not be made
	tags       map[string]desired.Port // VMs' ports whose tag is still to be written, by name
	ports      map[view.PortKey]bool   // ports whose report has to be made anew
	awaited    map[string]time.Time    // ports whose interface OVS is making -> since when
	lacking    map[string]time.Time    // routers without something that may be on its way -> since when
	units      map[unit]error          // what the workers last said
	waiting    map[unit]time.Time      // units that wait for OVS -> since when
	builtAt    map[unit]any            // what they last built
	switchDown error                   // why Open vSwitch carries nothing; nil when it does

	ovsHeld  time.Time     // OVSDB is not written before: it did not take the last change
	ovsRetry time.Duration // how long that pause is

	deletionsHeld time.Time // no port is deleted before: the last ones have just been

	short   map[string]bool          // networks for which there is no local VLAN left
	reports map[unit]map[string]bool // keys of the reports made for a unit

	changed time.Time          // when the oldest change of what is desired came that is not on the bridges; zero for none
	served  map[unit]time.Time // units that are to become different -> since when

	bridged bridgedFilters
}

// Run runs an agent until the context ends. It leaves everything on the host as it is then: traffic goes on, and the next
// agent adopts it. The error says what kept it from starting.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	credential, err := credentialOf(ctx, o.Config, o.Log)
	if err != nil {
		return err
	}
	client, err := store.Dial(o.Config.Etcd, credential)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing is pending
	a, err := newAgent(ctx, o, credential, store.New(client))
	if err != nil {
		return err
	}
	defer a.close()
	if address := o.Config.MetricsListen; address != "" {
		if _, err := serveMetrics(ctx, address, a.metrics.registry, o.Log); err != nil {
			return err
		}
	}
	go a.publisher.run(ctx)
	tick := time.NewTicker(cmp.Or(o.auditPeriod, auditPeriod) / auditSteps)
	defer tick.Stop()
	a.auditTick = tick.C
	a.alive = sync.OnceFunc(func() { go live(ctx, store.New(client), o.Config, a.self(), o.Log, a.metrics.heard) })
	a.log.Info("agent started", "node", a.cfg.Node, "version", a.version)
	return a.loop(ctx)
}

// maxBuilds is how many routers are built at once, and how many DHCP servers: enough that one that hangs leaves room for
// others. See workers.
const maxBuilds = 8

func newAgent(ctx context.Context, o Options, credential *identity.Credential, s *store.Store) (*Agent, error) {
	client, err := ovs.Start(ovs.Options{Endpoint: o.Config.OVSDB, Logger: o.Log})
	if err != nil {
		return nil, err
	}
	made := make(chan map[string]string)
	metrics, err := newMetrics(o.Metrics)
	if err != nil {
		client.Close()
		return nil, err
	}
	seen := &atomic.Pointer[ovs.Snapshot]{}
	seen.Store(client.Snapshot())
	services, err := newServices(ctx, o.Config, newSwitching(client, seen.Load, made), o.Log)
	if err != nil {
		client.Close()
		return nil, err
	}
	a := &Agent{
		cfg: o.Config, version: o.Version, log: o.Log,
		mirror: mirror.New(s, mirror.Options{Log: o.Log, Check: schema.Check}), ovs: client, watch: client.Watch(),
		workers:  newWorkers(ctx, maxBuilds, builders{build: services.build, audit: services.audit, soon: soon, told: told, busy: busy}),
		services: services, instances: newInstances(s), publisher: newPublisher(s, o.Config.Node, o.Log), questions: &questions{s, o.Config.Node, o.Log}, metrics: metrics,
		view: view.New(o.Config.Node), planner: plan.NewPlanner(), dirty: view.NewDirty(), scopes: map[string]bool{},
		seen: seen, made: made, devices: map[string]string{}, post: make(mailbox), renewing: map[string]bool{}, refused: map[string]string{}, tags: map[string]desired.Port{}, bridged: bridgedFilters{zones: map[uint16]bool{}}, ports: map[view.PortKey]bool{}, awaited: map[string]time.Time{}, lacking: map[string]time.Time{},
		units: map[unit]error{}, waiting: map[unit]time.Time{}, builtAt: map[unit]any{},
		short: map[string]bool{}, reports: map[unit]map[string]bool{}, served: map[unit]time.Time{},
	}
	a.facts.ProtocolNames = host.ProtocolNames()
	a.takeover = takeover{kept: make(chan kept), epochs: map[string]int64{}}
	if o.Config.keepsRouters() {
		a.takeover.keeper = newKeeper(ctx, o.Config, s, a.publisher.set, a.takeover.kept, o.Log)
	}
	a.bridges = newBridges(ctx, o.Config.OVSRunDir, a.refuse, o.Log)
	a.bridges.drifted, a.bridges.post = a.bridgeDrifted, a.post
	services.metrics, a.publisher.metrics = metrics, metrics
	if services.metadata, err = newMetadata(o.Config, services.ns.Run, a.guest, o.Log); err != nil {
		client.Close()
		return nil, err
	}
	a.peering = newPeering(o.Config, credential, services.ns.Run, o.Log)
	services.remade = a.peering.reopen
	if a.takeover.keeper != nil {
		a.takeover.keeper.flush, a.takeover.keeper.mutes.mute = a.peering.flush, services.ns.Mute
	}
	if credential != nil {
		err = metrics.registry.Register(credential)
	}
	return a, errors.Join(err, metrics.observe(a))
}

// mailbox takes what is to be done in the loop.
type mailbox chan func()

// send has it done, unless the context ends before.
func (m mailbox) send(ctx context.Context, do func()) {
	select {
	case <-ctx.Done():
	case m <- do:
	}
}

// refuse notes that a bridge did not take a flow.
func (a *Agent) refuse(bridge string, key flow.Key, reason error) {
	dirty := view.NewDirty()
	a.planner.Refuse(bridge, key, reason, dirty)
	a.markReports(dirty)
}

// forgive forgets what a bridge has refused, before it gets the whole plan anew.
func (a *Agent) forgive(bridge string) {
	dirty := view.NewDirty()
	a.planner.Forgive(bridge, dirty)
	a.markReports(dirty)
}

func (a *Agent) close() {
	if a.takeover.keeper != nil {
		a.takeover.keeper.wait()
	}
	a.mirror.Close()
	a.workers.wait()
	a.peering.close()
	a.watch.Close()
	a.ovs.Close()
	a.services.close()
}

// self is what the agent says of itself to the fleet.
func (a *Agent) self() *storev1.Agent {
	out := &storev1.Agent{
		TunnelIp: a.cfg.TunnelIP, BridgeMappings: maps.Clone(a.cfg.BridgeMappings), DatapathType: a.cfg.DatapathType,
		Version: a.version, StartTime: timestamppb.Now(),
		Pool: a.cfg.Pool, Zone: a.cfg.Zone, Capacity: a.cfg.Capacity, PeerAddress: a.peering.address(),
	}
	for _, r := range a.cfg.Roles {
		if r == RoleNetwork {
			out.Roles = append(out.Roles, weftv1.Role_ROLE_NETWORK)
		} else {
			out.Roles = append(out.Roles, weftv1.Role_ROLE_COMPUTE)
		}
	}
	return out
}

// loop is the one goroutine that owns the view and the plan.
func (a *Agent) loop(ctx context.Context) error {
	if err := a.prepare(ctx); err != nil {
		return err
	}
	a.mirror.Follow(questionScope, mirror.Under(keys.Asks(a.cfg.Node)))
	a.follow()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.mirror.Wake():
			a.mirrored(ctx)
			a.gather(ctx)
		case <-a.watch.Ready():
			a.ovsChanged()
		case c := <-a.bridges.up:
			a.bridgeUp(c)
		case name := <-a.bridges.down:
			a.bridgeLost(name)
		case k := <-a.takeover.kept:
			a.keep(k)
			a.gather(ctx)
		case devices := <-a.made:
			a.devicesMade(ctx, devices)
			a.devicesMadeToo(ctx)
			a.admitDevices(time.Now())
		case o := <-a.workers.results:
			a.built(o)
		case exit := <-a.services.dhcp.Exits():
			a.dhcpDied(exit)
		case do := <-a.post:
			do()
		case now := <-a.auditTick:
			a.watchSwitch(now)
			a.admitDevices(now)
			a.openWorkers(now)
			a.auditStep()
		case <-a.retry:
			a.retry = nil
		case <-a.prune:
			a.prune = nil
			a.publisher.prune()
		}
		a.step(ctx)
	}
}

// mirrored takes in what the store says.
func (a *Agent) mirrored(ctx context.Context) {
	batch := a.mirror.Take()
	if batch.Rewound {
		a.publisher.doubt()
	}
	a.view.Apply(a.takeQuestions(ctx, batch), a.dirty)
	a.follow()
	if a.changed.IsZero() && !a.dirty.Empty() {
		a.changed = time.Now()
	}
}

// prepare waits until the host and the node's own keys can be read.
func (a *Agent) prepare(ctx context.Context) error {
	snap, err := a.ovs.WaitReady(ctx)
	if err != nil {
		return fmt.Errorf("read OVSDB at %s: %w", a.cfg.OVSDB, err)
	}
	a.facts = a.readFacts(snap, readVLANs(snap))
	for failures := 0; ; failures++ {
		loading, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.publisher.known(loading)
		if err == nil {
			err = a.publisher.load(loading)
		}
		cancel()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if failures%20 == 0 {
			a.log.Warn("waiting for the store", "etcd", a.cfg.Etcd, "error", err)
		}
		sleep(ctx, 250*time.Millisecond)
	}
}

// follow has the mirror follow what the view needs, until the view needs no more.
func (a *Agent) follow() {
	wanted := a.view.Scopes()
	for name, ranges := range wanted {
		if !a.scopes[name] {
			a.scopes[name] = true
			a.mirror.Follow(name, ranges...)
		}
	}
	for name := range a.scopes {
		if wanted[name] == nil {
			delete(a.scopes, name)
			a.mirror.Unfollow(name)
			a.view.Drop(name, a.dirty)
		}
	}
}

// ovsChanged takes a new look at OVSDB.
func (a *Agent) ovsChanged() {
	changes := a.watch.Take()
	snap := a.ovs.Snapshot()
	if !snap.Connected || !snap.Complete {
		return
	}
	a.seen.Store(snap)
	if changes.Restored {
		a.resync()
	}
	if changes.Everything {
		a.fullOVS, a.ovsHeld, a.ovsRetry = true, time.Time{}, 0
		a.metrics.resyncs.WithLabelValues("ovsdb").Inc()
	}
	a.suspect(changes)
	now := a.readFacts(snap, a.facts.VLANs)
	a.planner.MarkFacts(a.view, &a.facts, &now, a.dirty)
	a.takeover.stale = true
	a.devicesChanged(changes, now.OFPorts)
	a.facts = now
	a.describe(snap)
	a.plugs()
}

// describe publishes what the agent is and what is wrong with its node.
func (a *Agent) describe(snap *ovs.Snapshot) {
	self := a.self()
	if have, ok := a.publisher.current(keys.Agent(a.cfg.Node)).(*storev1.Agent); ok {
		self.StartTime = have.GetStartTime()
	}
	self.Problems = a.problems(snap)
	self.Uplinks = a.uplinks(snap)
	a.publisher.set(keys.Agent(a.cfg.Node), self)
	a.replicateAll()
}

func (a *Agent) refusedPorts() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(a.refused)) {
		out = append(out, legible(a.refused[name]))
	}
	return out
}

// plugs publishes which ports' interfaces are on the node.
func (a *Agent) plugs() {
	for id, p := range a.facts.Plugged {
		a.publisher.set(keys.Plug(a.cfg.Node, id), &storev1.Plug{Interface: p.Name})
	}
	for _, id := range a.publisher.plugged() {
		if _, ok := a.facts.Plugged[id]; !ok {
			a.publisher.set(keys.Plug(a.cfg.Node, id), nil)
		}
	}
}

func (a *Agent) bridgeUp(c connected) {
	a.takeover.stale = true
	a.forgive(c.bridge)
	a.metrics.resyncs.WithLabelValues(c.bridge).Inc()
	a.syncFlows(c.bridge, func(flows []flow.Flow) int { return a.bridges.connect(c, flows) })
	if br := a.bridges.all[c.bridge]; br != nil && br.synced {
		delete(a.retired, c.bridge) // its plan was empty
	}
}

func (a *Agent) bridgeLost(name string) {
	a.takeover.stale = true
	if br := a.bridges.all[name]; br != nil {
		br.close()
		a.log.Warn("connection to the bridge lost, its flows will be synced again", "bridge", name)
	}
}

func (a *Agent) dhcpDied(exit dhcp.Exit) {
	a.log.Warn("dnsmasq ended by itself, starting it again", "network", exit.Network, "pid", exit.PID)
	a.workers.again(unit{keys.KindDHCP, exit.Network})
}

// built takes in what a worker said.
func (a *Agent) built(o outcome) {
	if o.err != nil && !soon(o.err) && (a.units[o.unit] == nil || a.units[o.unit].Error() != o.err.Error()) {
		a.log.Error("can't build, trying again", "kind", o.unit.kind, "id", o.unit.id, "error", o.err)
	}
	if !soon(o.err) {
		delete(a.waiting, o.unit)
	} else if _, waits := a.waiting[o.unit]; !waits {
		a.waiting[o.unit] = time.Now()
	}
	if o.want == nil && o.err == nil {
		delete(a.units, o.unit)
		delete(a.builtAt, o.unit)
		delete(a.lacking, o.unit.id)
	} else {
		a.units[o.unit], a.builtAt[o.unit] = o.err, o.want
	}
	if since, ok := a.served[o.unit]; ok && o.err == nil {
		a.metrics.convergence.WithLabelValues(o.unit.kind).Observe(time.Since(since).Seconds())
		delete(a.served, o.unit)
	}
	if o.unit.kind == kindFilters {
		a.bridgesFiltered(o)
	}
	if o.unit.kind == keys.KindRouter {
		a.takeover.stale = true
		if a.peering != nil {
			a.peering.set(o.unit.id, a.roleOf(o.unit.id))
		}
	}
	a.reportUnit(o.unit)
}

// step plans what is dirty and writes the difference. Nothing happens before the first complete view (promise I2).
func (a *Agent) step(ctx context.Context) {
	if !a.started {
		if !a.view.Complete() || !a.ovs.Snapshot().Complete {
			return
		}
		if !a.start() {
			return
		}
	}
	a.relax()
	a.assignVLANs()
	if !a.dirty.Empty() || a.fullOVS || a.suspected != nil {
		dirty := a.dirty
		a.dirty = view.NewDirty()
		a.noteTakeover(dirty)
		a.facts.Silent = a.takeover.silent()
		delta := a.planner.Update(a.view, &a.facts, dirty)
		a.replicate(dirty)
		a.serve(delta)
		a.removeLeftovers()
		a.writeOVS(ctx, delta)
		a.writeFlows(delta, len(dirty.Actives) > 0)
		a.afterFlows(dirty)
		if delta.Bridged != nil {
			a.bridged.due = delta.Bridged
		}
		a.markReports(dirty)
		a.markReports(delta.Retried)
	}
	a.filterBridges()
	if a.switchDown != nil {
		a.reportPorts()
	}
	a.tellKeeper()
	if a.bridges.synced() {
		a.alive()
		a.workers.open()
		if !a.changed.IsZero() && a.dirty.Empty() {
			a.metrics.convergence.WithLabelValues(keys.KindPort).Observe(time.Since(a.changed).Seconds())
			a.changed = time.Time{}
		}
		a.reportPorts()
		a.writeTags(ctx)
		a.releaseVLANs(ctx)
	}
}

// pruneAfter is how long reports of an earlier agent are kept that this one has not made itself.
const pruneAfter = 10 * time.Second

// start marks everything, and notes what the host has of weft's; false when that can't be told yet.
func (a *Agent) start() bool {
	units, err := a.services.leftovers()
	if err != nil {
		a.log.Error("can't list what an earlier agent built, trying again", "error", err)
		a.retry = time.After(time.Second)
		return false
	}
	filtered, err := a.services.filters.Filtered(a.bridges.ctx)
	if err != nil {
		a.log.Error("can't read the filters of VMs with bridges of their own, making them anew", "error", err)
	}
	a.adoptFilters(filtered)
	a.found, a.started, a.fullOVS, a.startedAt = units, true, true, time.Now()
	a.careful = a.view.Unread()
	a.bridges.careful = a.careful
	a.retire()
	a.prune = time.After(pruneAfter)
	a.announced()
	if a.takeover.keeper != nil {
		said, _ := a.publisher.last(keys.Witness(a.cfg.Node)).(*storev1.Witness)
		a.takeover.keeper.start(a.keeperWorld(), said)
	}
	a.view.Everything(a.dirty)
	a.describe(a.ovs.Snapshot())
	a.plugs()
	if a.careful {
		a.log.Warn("something of this node's can't be read: what is on the host is kept until it can", "keys", slices.Sorted(maps.Keys(a.view.Invalid)))
	}
	a.log.Info("first complete view", "networks", len(a.view.Networks), "ports", len(a.view.HostPorts),
		"routers", len(a.view.HostRouters), "dhcp", len(a.view.HostDHCP))
	return true
}

// portsFirst is how long routers and DHCP servers wait, after a start, for the flows of VMs' ports.
const portsFirst = 10 * time.Second

// openWorkers has routers and DHCP servers built though the bridges do not have the plan yet.
func (a *Agent) openWorkers(now time.Time) {
	if a.started && now.Sub(a.startedAt) > portsFirst {
		a.workers.open()
	}
}

// markReports notes whose reports may have to change after dirty has been planned.
func (a *Agent) markReports(dirty *view.Dirty) {
	maps.Copy(a.ports, dirty.Ports)
	for network := range dirty.Networks {
		if n := a.view.Networks[network]; n != nil {
			for port := range n.Local {
				a.ports[view.PortKey{Network: network, Port: port}] = true
			}
		}
	}
	if len(dirty.Groups) > 0 {
		a.view.Under(dirty.Groups, func(k view.PortKey) { a.ports[k] = true })
	}
	for id := range dirty.Routers {
		a.reportUnit(unit{keys.KindRouter, id})
	}
	for id := range dirty.Actives {
		a.reportUnit(unit{keys.KindRouter, id})
	}
	for id := range dirty.DHCP {
		a.reportUnit(unit{keys.KindDHCP, id})
	}
}

// serve hands the routers and DHCP servers that differ to their workers. While the agent is careful, what it found on the
// host is not rebuilt from a plan that lacks something.
func (a *Agent) serve(delta plan.Delta) {
	for id, want := range delta.Routers {
		u := unit{keys.KindRouter, id}
		if !a.keeps(u, want == nil || want.Problem != nil) {
			a.setUnit(u, want, want == nil)
		}
	}
	for id, want := range delta.DHCP {
		u := unit{keys.KindDHCP, id}
		if !a.keeps(u, want == nil || want.Problem != nil || want.Incomplete) {
			a.setUnit(u, want, want == nil)
		}
	}
}

func (a *Agent) keeps(u unit, lacking bool) bool {
	return a.careful && lacking && slices.Contains(a.found, u)
}

// relax ends the care once everything can be read: the host is compared with the whole plan.
func (a *Agent) relax() {
	if !a.careful || a.view.Unread() {
		return
	}
	a.careful, a.bridges.careful, a.fullOVS = false, false, true
	a.view.Everything(a.dirty)
	for _, br := range a.bridges.all {
		br.close() // the next connection syncs the whole plan
	}
	a.log.Info("everything can be read again")
}

// removeLeftovers takes down what an earlier agent built and the plan does not have.
func (a *Agent) removeLeftovers() {
	if a.careful {
		return
	}
	for _, u := range a.found {
		planned := a.planner.Routers()[u.id] != nil
		if u.kind == keys.KindDHCP {
			planned = a.planner.DHCP()[u.id] != nil
		}
		if !planned {
			a.workers.set(u, nil)
		}
	}
	a.found = nil
}

func (a *Agent) setUnit(u unit, want any, remove bool) {
	if remove {
		want = nil
	}
	if _, waits := a.served[u]; !waits {
		a.served[u] = time.Now()
	}
	a.workers.set(u, want)
}

// ovsTimeout bounds one OVSDB transaction of n objects, during which the loop waits.
func ovsTimeout(n int) time.Duration { return 2*time.Second + time.Duration(n)*5*time.Millisecond }

// writeOVS makes the OVSDB part of a change in one transaction, or compares the whole.
func (a *Agent) writeOVS(ctx context.Context, delta plan.Delta) {
	change := ovs.Change{Bridges: plan.Bridges(&a.facts)}
	if len(a.foreignBridges()) > 0 {
		a.ensureOVS(ctx, change) // says so
		a.fullOVS = true
		return
	}
	if a.fullOVS {
		change = a.wholeChange()
		clear(a.tags)
	} else {
		change.Ports = a.withSuspects(a.postponeTags(delta.Ports))
		change.BridgeIDs = a.vlanNotes()
		a.postponeDevices(&change)
	}
	a.suspected = nil
	for _, p := range delta.GonePorts {
		delete(a.devices, p.Name)
		delete(a.tags, p.Name)
		delete(a.refused, p.Name)
		if !a.fullOVS { // else it is among the surplus
			a.gone(&change, p.Name)
		}
	}
	a.ensureOVS(ctx, change)
}

// wholeChange is all that the plan wants of OVSDB.
func (a *Agent) wholeChange() ovs.Change {
	change := ovs.Change{Bridges: plan.Bridges(&a.facts), Ports: a.planner.Ports(), BridgeIDs: a.vlanNotes()}
	if !a.careful {
		a.surplus(&change)
	}
	a.postponeDevices(&change)
	return change
}

// ensureOVS makes a change; when it fails, the whole is compared soon.
func (a *Agent) ensureOVS(ctx context.Context, change ovs.Change) {
	if time.Now().Before(a.ovsHeld) {
		a.fullOVS = true // the next step will do
		return
	}
	more := a.fewDeletions(&change)
	ctx, cancel := context.WithTimeout(ctx, ovsTimeout(len(change.Ports)+len(change.DeletePorts)))
	defer cancel()
	result, err := a.ovs.Ensure(ctx, change)
	if err != nil {
		a.fullOVS = true
		if !errors.Is(err, ovs.ErrDisconnected) {
			a.log.Error("writing OVSDB failed, trying again", "error", err)
		}
		// A server that does not answer leaves the loop free in between.
		a.ovsRetry = min(max(2*a.ovsRetry, 200*time.Millisecond), 5*time.Second)
		a.retry = time.After(a.ovsRetry)
		a.ovsHeld = time.Now().Add(a.ovsRetry)
		return
	}
	a.fullOVS, a.ovsRetry = more, 0
	a.metrics.ovsdbWrites.Add(uint64(result.Operations))
	a.noteRefused(change, result)
}

// Deleting ports stalls Open vSwitch's userspace datapath, and its BFD sessions with it, some 18 ms for each: a hundred at
// once would look like a dead node. So they go in small numbers, with pauses.
const (
	maxDeletions   = 5
	deletionsPause = 100 * time.Millisecond
)

// fewDeletions keeps to maxDeletions in one change, and reports whether the rest is left for later.
func (a *Agent) fewDeletions(change *ovs.Change) (more bool) {
	now := time.Now()
	switch n := len(change.DeletePorts); {
	case n == 0:
		return false
	case now.Before(a.deletionsHeld):
		change.DeletePorts = nil
	case n <= maxDeletions:
		a.deletionsHeld = now.Add(deletionsPause)
		return false
	default:
		change.DeletePorts = slices.Sorted(slices.Values(change.DeletePorts))[:maxDeletions]
		a.deletionsHeld = now.Add(deletionsPause)
	}
	if a.retry == nil {
		a.retry = time.After(deletionsPause)
	}
	return true
}

// noteRefused keeps the reasons why ports could not be made, for the reports.
func (a *Agent) noteRefused(change ovs.Change, result ovs.Result) {
	before := maps.Clone(a.refused)
	for _, p := range change.Ports {
		delete(a.refused, p.Name)
	}
	for _, b := range change.Bridges {
		delete(a.refused, b.Name)
	}
	for _, r := range result.Refused {
		if errors.Is(r.Err, ovs.ErrNotFound) {
			continue // unplugged between plan and write: an event follows
		}
		a.refused[r.Name] = r.Error()
		if before[r.Name] != r.Error() {
			a.log.Error("OVSDB object left out", "error", r)
		}
	}
	if !maps.Equal(before, a.refused) {
		a.describe(a.ovs.Snapshot())
	}
}

// gone takes a port away: weft's own is deleted, a VM's loses its tag.
func (a *Agent) gone(change *ovs.Change, name string) {
	p := a.ovs.Snapshot().Ports[name]
	switch {
	case p == nil:
	case p.Owner() != "":
		change.DeletePorts = append(change.DeletePorts, name)
	default:
		change.ClearTags = append(change.ClearTags, name)
	}
}

// surplus adds to a change what OVSDB has of weft's and the plan has not.
func (a *Agent) surplus(change *ovs.Change) {
	wanted := map[string]bool{plan.BrInt: true, plan.BrTun: true}
	for _, p := range change.Ports {
		wanted[p.Name] = true
	}
	for name, p := range a.ovs.Snapshot().Ports {
		switch {
		case wanted[name]:
		case p.Owner() != "":
			change.DeletePorts = append(change.DeletePorts, name)
		case p.ExternalIDs[ovs.TagKey] != "":
			change.ClearTags = append(change.ClearTags, name)
		}
	}
}

// writeFlows applies the flows of a change: br-int last, so that what it lets in finds the way already there.
// An urgent one, by which routers move, is written to all at once: every millisecond counts, and what is on its way then is
// lost anyhow.
func (a *Agent) writeFlows(delta plan.Delta, urgent bool) {
	names := map[string]bool{plan.BrInt: true, plan.BrTun: true}
	for _, bridge := range a.facts.Bridges {
		names[bridge] = true
	}
	maps.Copy(names, a.retired)
	if len(a.foreignBridges()) > 0 {
		clear(names)
	}
	a.bridges.want(names)
	if urgent {
		a.bridges.applyAtOnce(delta.Flows)
		return
	}
	order := slices.Sorted(maps.Keys(delta.Flows))
	slices.SortStableFunc(order, func(x, y string) int { return rank(x) - rank(y) })
	for _, name := range order {
		a.bridges.apply(name, withoutGate(delta.Flows[name]))
	}
}

func rank(bridge string) int {
	if bridge == plan.BrInt {
		return 1
	}
	return 0
}

// assignVLANs gives local VLANs to networks that have become local.
func (a *Agent) assignVLANs() {
	vlans, short := plan.AssignVLANs(a.facts.VLANs, plan.NeedVLAN(a.view))
	clear(a.short)
	for _, network := range short {
		a.short[network] = true
	}
	if maps.Equal(vlans, a.facts.VLANs) {
		return
	}
	old := a.facts
	a.facts.VLANs = vlans
	a.planner.MarkFacts(a.view, &old, &a.facts, a.dirty)
}

// vlanNotes are the local VLANs that br-int's external_ids do not hold yet.
func (a *Agent) vlanNotes() []ovs.BridgeIDs {
	var kept map[string]string
	if b := a.ovs.Snapshot().Bridges[plan.BrInt]; b != nil {
		kept = b.ExternalIDs
	}
	out := map[string]string{}
	for network, vlan := range a.facts.VLANs {
		if value := strconv.Itoa(int(vlan)); kept[vlanKey+network] != value {
			out[vlanKey+network] = value
		}
	}
	if len(out) == 0 {
		return nil
	}
	return []ovs.BridgeIDs{{Bridge: plan.BrInt, Set: out}}
}

// releaseVLANs takes local VLANs back that nothing on the host uses any more. It runs when all bridges have the plan, so
// that no flow of the network is left when another gets its VLAN; nor is a connection, whose answers would pass there.
func (a *Agent) releaseVLANs(ctx context.Context) {
	if !a.dirty.Empty() || a.fullOVS || a.careful {
		return
	}
	needed := map[string]bool{}
	for _, id := range plan.NeedVLAN(a.view) {
		needed[id] = true
	}
	var free []string
	var zones []uint16
	for id, vlan := range a.facts.VLANs {
		if !needed[id] {
			free, zones = append(free, vlanKey+id), append(zones, vlan)
		}
	}
	if len(free) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, ovsTimeout(len(free)))
	defer cancel()
	if a.forgetZones(ctx, zones) != nil {
		return // the VLANs stay taken until the next time
	}
	if _, err := a.ovs.Ensure(ctx, ovs.Change{BridgeIDs: []ovs.BridgeIDs{{Bridge: plan.BrInt, Delete: free}}}); err != nil {
		return // likewise
	}
	vlans := maps.Clone(a.facts.VLANs)
	for _, key := range free {
		delete(vlans, key[len(vlanKey):])
	}
	a.facts.VLANs = vlans
}

// forgetZones has conntrack forget the connections of local VLANs, in Open vSwitch and where VMs' own bridges are filtered.
func (a *Agent) forgetZones(ctx context.Context, vlans []uint16) error {
	if err := a.bridges.forgetZones(ctx, vlans); err != nil {
		return err
	}
	err := a.services.filters.ForgetZones(slices.DeleteFunc(slices.Clone(vlans), func(vlan uint16) bool { return !a.bridged.zones[vlan] }))
	if err != nil {
		a.log.Error("can't give local VLANs to other networks yet, trying again", "error", err)
	}
	return err
}
