package agent

import (
	"slices"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/plan"
)

// suspect notes which of the planned OVS objects have changed, by whatever hand: somebody may have deleted one, or made the
// bridge that it sat on anew. What is as planned costs a comparison, and no write.
func (a *Agent) suspect(changes ovs.Changes) {
	for _, name := range []string{plan.BrInt, plan.BrTun} {
		if slices.Contains(changes.Bridges, name) {
			a.suspectPort(name)
		}
	}
	changed := map[string]bool{}
	for _, name := range slices.Concat(changes.Ports, changes.Interfaces) {
		changed[name] = true
	}
	for _, p := range a.planner.PortsNamed(changed) {
		if p.Type == desired.PortForeign { // of a VM's port only the tag is weft's, and is written when the port works
			a.tags[p.Name] = p
		} else {
			a.suspectPort(p.Name)
		}
	}
}

// suspectPort has one port or bridge compared with the plan.
func (a *Agent) suspectPort(name string) {
	if a.suspected == nil {
		a.suspected = map[string]bool{}
	}
	a.suspected[name] = true
}

// withSuspects adds the suspected ports to those that a change makes.
func (a *Agent) withSuspects(ports []desired.Port) []desired.Port {
	for _, p := range a.planner.PortsNamed(a.suspected) {
		if p.Type != desired.PortForeign && !slices.ContainsFunc(ports, func(have desired.Port) bool { return have.Name == p.Name }) {
			ports = append(ports, p)
		}
	}
	return ports
}

// foreignBridges are the bridges under weft's names that somebody else made. Their owner may hand them over; until then
// the agent leaves them, and all of Open vSwitch, as they are.
func (a *Agent) foreignBridges() []string {
	var out []string
	bridges := a.ovs.Snapshot().Bridges
	for _, name := range []string{plan.BrInt, plan.BrTun} {
		if b := bridges[name]; b != nil && b.Owner() == "" {
			out = append(out, name)
		}
	}
	return out
}

// retire notes the bridges on which an earlier agent left a patch port and to which no physical network leads any more.
func (a *Agent) retire() {
	a.retired = map[string]bool{}
	snap := a.ovs.Snapshot()
	for _, p := range snap.Ports {
		if b := snap.Bridges[p.Bridge]; b != nil && b.Owner() == "" && p.Owner() == "patch:"+plan.PhysPatch(b.Name) {
			a.retired[b.Name] = true
		}
	}
	for _, bridge := range a.facts.Bridges {
		delete(a.retired, bridge)
	}
}
