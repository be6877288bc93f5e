package agent

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/garp"
	"github.com/weft-sdn/weft/agent/ha"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
)

// takeover is the loop's side of the keeper: a network node's share in moving routers.
type takeover struct {
	keeper *keeper
	kept   chan kept
	// stale: the keeper has to be told anew what the loop knows.
	stale bool
	// hush are claims that wait until the flows of their routers are gone.
	hush []ha.Claim
	// epochs are those under which this node has announced its routers' addresses.
	epochs map[string]int64
}

// silent reports whether the node forwards for no router at present.
func (t *takeover) silent() bool { return t.keeper != nil && t.keeper.silent.Load() }

// muted reports whether a unit is a router that is being handed over, whose namespace is not quite as planned.
func (t *takeover) muted(u unit) bool {
	return t.keeper != nil && u.kind == keys.KindRouter && t.keeper.mutes.has(u.id)
}

// keepsRouters reports whether the node holds routers at all.
func (c *Config) keepsRouters() bool { return slices.Contains(c.Roles, RoleNetwork) }

// keep takes in what the keeper did.
func (a *Agent) keep(k kept) {
	for _, w := range k.wrote {
		a.metrics.moved(w.claim.To == a.cfg.Node)
		a.view.Wrote(w.claim.Router, view.Active{
			Node: w.claim.To, Epoch: w.active.GetEpoch(), Revision: w.revision, Reason: w.active.GetReason(),
		}, a.dirty)
	}
	for _, c := range k.hush {
		if now := a.view.Active[c.Router]; now.Node == a.cfg.Node && now.Revision == c.Revision {
			a.view.Hush(c.Router, a.dirty)
		}
		a.takeover.hush = append(a.takeover.hush, c)
	}
	for _, router := range k.spared {
		a.view.Unhush(router, a.dirty)
	}
	if k.silence {
		a.dirty.Peers = true
	}
}

// How long the loop waits for more when it has heard that a router has moved: others come within moments, each by a watch of its
// own, and writing the flows of one first would hold up the rest. A network node has leisure when none of them comes to it, and it
// is silent already for those that leave it: those that take them go first where hosts share processors.
const (
	gatherMoment  = 4 * time.Millisecond
	gatherLeisure = 30 * time.Millisecond
)

// gatherFor is how long to wait for more, as far as is known.
func (a *Agent) gatherFor() time.Duration {
	if !a.cfg.keepsRouters() {
		return gatherMoment
	}
	for id := range a.dirty.Actives {
		_, forwards := a.takeover.epochs[id]
		comes, silent := a.view.Active[id].Node == a.cfg.Node, a.takeover.silent() || a.takeover.keeper.mutes.has(id)
		if comes || forwards && !silent {
			return gatherMoment
		}
	}
	return gatherLeisure
}

// gather takes in what else there is to know of routers that move.
func (a *Agent) gather(ctx context.Context) {
	if !a.started || len(a.dirty.Actives) == 0 {
		return
	}
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(a.gatherFor()))):
			return
		case <-a.mirror.Wake():
			a.mirrored(ctx)
		case k := <-a.takeover.kept:
			a.keep(k)
		}
	}
}

// noteTakeover notes after a change whether the keeper has to know.
func (a *Agent) noteTakeover(dirty *view.Dirty) {
	if len(dirty.Actives)+len(dirty.Routers) > 0 || dirty.Peers {
		a.takeover.stale = true
	}
}

// afterFlows does what waits for the flows of a change: claims for which the node had to fall silent, and announcements.
func (a *Agent) afterFlows(dirty *view.Dirty) {
	if a.takeover.keeper == nil {
		return
	}
	if hush := a.takeover.hush; len(hush) > 0 {
		a.takeover.hush = nil
		a.give(hush)
	}
	for id := range dirty.Actives {
		a.announce(id)
	}
}

// give has claims made for whose routers the node is silent now. When br-int did not take the change it may still forward:
// then what was to be handed over stays. Who resigns has nothing that passes.
func (a *Agent) give(claims []ha.Claim) {
	if a.bridges.has(plan.BrInt) {
		a.takeover.keeper.hushed(claims)
		return
	}
	var stay, resigned []ha.Claim
	for _, c := range claims {
		if c.Cause == ha.Resign {
			resigned = append(resigned, c)
			continue
		}
		stay = append(stay, c)
		a.view.Unhush(c.Router, a.dirty)
		a.log.Warn("a router is not handed over: br-int has not taken the change that makes this node silent for it", "router", c.Router, "node", c.To)
	}
	a.takeover.keeper.hushed(resigned)
	a.takeover.keeper.spare(stay)
}

// announce tells the switches around a router that this node now forwards for where it is.
func (a *Agent) announce(id string) {
	now, want := a.view.Active[id], a.planner.Routers()[id]
	if now.Node != a.cfg.Node || want == nil {
		if _, had := a.takeover.epochs[id]; had {
			a.log.Info("no longer forwarding for a router", "router", id, "node", now.Node, "epoch", now.Epoch, "reason", now.Reason)
		}
		delete(a.takeover.epochs, id)
		return
	}
	if a.takeover.epochs[id] == now.Epoch {
		return
	}
	a.takeover.epochs[id] = now.Epoch
	a.log.Info("forwarding for a router", "router", id, "epoch", now.Epoch, "reason", now.Reason)
	if !a.ready(id) {
		return // it is announced link by link as it is built
	}
	for _, l := range want.Namespace.Links {
		if !want.Learned[l.Name] {
			continue
		}
		mac, err := net.ParseMAC(l.MAC)
		for _, ip := range l.Announce {
			if err == nil {
				err = a.services.announce.Announce(garp.Target{
					Namespace: want.Namespace.Name, Link: l.Name, MAC: mac, Address: ip, Audience: garp.Switches,
				})
			}
		}
		if err != nil {
			a.log.Warn("can't announce a router's addresses", "router", id, "link", l.Name, "error", err)
		}
	}
}

// announced notes at the start that what this node forwards for already needs no announcement.
func (a *Agent) announced() {
	for id, now := range a.view.Active {
		if now.Node == a.cfg.Node {
			a.takeover.epochs[id] = now.Epoch
		}
	}
}

// ready reports whether a router is completely built here.
func (a *Agent) ready(id string) bool {
	u := unit{keys.KindRouter, id}
	built, ok := a.builtAt[u].(*plan.Router)
	return ok && a.units[u] == nil && built.Problem == nil
}

// tellKeeper tells the keeper what the loop knows, if that has changed.
func (a *Agent) tellKeeper() {
	if a.takeover.keeper == nil || !a.takeover.stale {
		return
	}
	a.takeover.stale = false
	a.takeover.keeper.set(a.keeperWorld())
}

func (a *Agent) keeperWorld() keeperWorld {
	snap := a.ovs.Snapshot()
	w := keeperWorld{World: ha.World{
		Routers: map[string]ha.Router{}, Peers: map[string]ha.Peer{}, Uplinks: provenUplinks(a.uplinks(snap)),
		Switch: a.bridges.has(plan.BrInt) && a.bridges.has(plan.BrTun),
	}, sessions: map[string]session{}}
	for id, b := range a.view.HostRouters {
		now := a.view.Active[id]
		w.Routers[id] = ha.Router{
			Plan: b.Nodes, Holder: now.Node, Epoch: now.Epoch, Revision: now.Revision, HandOver: b.HandOver,
			Ready: a.ready(id), Physical: a.view.PhysicalNetworks(id),
		}
	}
	for _, name := range a.view.Peers() {
		said := a.view.Witness[name]
		w.Peers[name] = ha.Peer{Live: a.view.Live[name], Gossip: a.peering.alive(name), Heard: said.Heard, Lost: said.Lost, Revision: said.Revision, Uplinks: a.view.Nodes[name].Uplinks}
		if port := plan.SessionPort(a.view, &a.facts, name); port != "" {
			i := snap.Interfaces[port]
			w.sessions[name] = session{port: port, up: i != nil && i.BFDUp}
		}
	}
	return w
}

// withoutGate takes the flow that silences routers out of a change: the keeper alone writes it, so that no change decided
// earlier undoes it.
func withoutGate(change *plan.FlowChange) *plan.FlowChange {
	gate := plan.Silence()
	return &plan.FlowChange{Adds: without(change.Adds, gate), Deletes: without(change.Deletes, gate)}
}

// flowsOf are the planned flows of a bridge, as silent as the node is by now.
func (a *Agent) flowsOf(bridge string) []flow.Flow {
	flows := a.planner.Flows(bridge)
	if bridge != plan.BrInt {
		return flows
	}
	if flows = without(flows, plan.Silence()); a.takeover.silent() {
		flows = append(flows, plan.Silence())
	}
	return flows
}

// syncFlows makes a bridge what is planned. The keeper may have closed or opened the gate meanwhile, by a connection of its
// own: then its flow is written once more.
func (a *Agent) syncFlows(name string, sync func([]flow.Flow) int) int {
	silent := a.takeover.silent()
	n := sync(a.flowsOf(name))
	if k := a.takeover.keeper; k != nil && name == plan.BrInt && k.silent.Load() != silent {
		k.running.Go(k.writeGate)
	}
	return n
}

func without(flows []flow.Flow, one flow.Flow) []flow.Flow {
	var out []flow.Flow
	for _, f := range flows {
		if f.Key() != one.Key() {
			out = append(out, f)
		}
	}
	return out
}
