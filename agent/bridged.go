package agent

import (
	"errors"
	"fmt"
	"maps"

	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/hybrid/host"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// kindFilters is the unit of the filters of VMs that have bridges of their own: one for the node.
const kindFilters = "filters"

// bridgedFilters is the loop's side of those filters. A port's flows on br-int come after its filters, and its filters go
// after its flows: so it never passes anything unfiltered.
type bridgedFilters struct {
	// due are planned and not given to the worker yet, wanted are the last that were.
	due, wanted *hybrid.Filters
	// zones are the conntrack zones that may hold something by their doing.
	zones map[uint16]bool
}

// adoptFilters takes the filters that an earlier agent has left for as good as its flows: what has changed since is changed
// soon. Which conntrack zones they filled is not known any more: any local VLAN's.
func (a *Agent) adoptFilters(taps map[string]bool) {
	a.facts.Filtered = map[string]bool{}
	if len(taps) > 0 {
		for _, vlan := range a.facts.VLANs {
			a.bridged.zones[vlan] = true
		}
	}
	for id := range a.view.HostPorts {
		if taps[plan.DeviceName("tap", id)] {
			a.facts.Filtered[id] = true
		}
	}
}

// filterBridges has what is due applied once br-int has the flows that were planned with it. While something of this node's
// can't be read, what an earlier agent left stays: its flows do too.
func (a *Agent) filterBridges() {
	if a.bridged.due == nil || a.careful || !a.bridges.has(plan.BrInt) {
		return
	}
	a.bridged.wanted, a.bridged.due = a.bridged.due, nil
	for _, p := range a.bridged.wanted.Ports {
		a.bridged.zones[p.Zone] = true
	}
	a.setFiltered(a.facts.Filtered)
	a.setUnit(unit{kind: kindFilters}, a.bridged.wanted, false)
}

// bridgesFiltered takes in what the worker did. If that is not what is wanted by now, it is about to do something else.
func (a *Agent) bridgesFiltered(o outcome) {
	refused := refusedRules(o.err)
	if o.want == any(a.bridged.wanted) && (o.err == nil || refused != nil) {
		a.setFiltered(idsOf(a.bridged.wanted))
	}
	for id, b := range a.view.HostPorts {
		if n := a.view.Networks[b.Network]; n != nil && n.Ports[id].Object.Hybrid {
			a.ports[view.PortKey{Network: b.Network, Port: id}] = true
		}
	}
}

// refusedRules are those that the host's iptables does not take, and why, if that is all that is wrong with the filters.
func refusedRules(err error) map[model.Rule]error {
	var refused *host.RefusedError
	if errors.As(err, &refused) {
		return refused.Rules
	}
	return nil
}

func idsOf(f *hybrid.Filters) map[string]bool {
	out := map[string]bool{}
	for _, p := range f.Ports {
		out[p.ID] = true
	}
	return out
}

// setFiltered notes which ports' bridges are filtered: those of some that are wanted. One that is wanted no more, and then
// again, has to wait for its filters anew.
func (a *Agent) setFiltered(some map[string]bool) {
	now := idsOf(a.bridged.wanted)
	maps.DeleteFunc(now, func(id string, _ bool) bool { return !some[id] })
	old := a.facts
	a.facts.Filtered = now
	a.planner.MarkFacts(a.view, &old, &a.facts, a.dirty)
}

// awaitsFilters reports whether a port's own bridge is about to be filtered: there is nothing to report yet.
func (a *Agent) awaitsFilters(k view.PortKey, p model.Port) bool {
	return p.Hybrid && p.Secure && !a.facts.Filtered[k.Port] && a.bridgeProblem(k, p) == nil
}

// bridgeProblem is why a port's own bridge is not filtered, or can't be.
func (a *Agent) bridgeProblem(k view.PortKey, p model.Port) error {
	switch err := a.units[unit{kind: kindFilters}]; {
	case !p.Hybrid || !p.Secure:
		return nil
	case plan.Misplugged(&a.facts, p):
		return fmt.Errorf("vif_type is hybrid, but the interface on br-int is %s: plug %s, with a bridge behind it",
			a.facts.Plugged[k.Port].Name, plan.DeviceName("qvo", k.Port))
	case err != nil && refusedRules(err) == nil:
		return errors.Join(errors.New("the port's own bridge is not filtered as planned"), err)
	default:
		return nil
	}
}
