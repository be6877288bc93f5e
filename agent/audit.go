package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/plan"
)

// auditPeriod is how often everything that the agent has built is compared with the plan; a round is made in auditSteps, so
// that the work is spread over it. What somebody changed behind weft's back is thereby repaired within the period, and a
// moment for the repair.
const (
	auditPeriod = 20 * time.Second
	auditSteps  = 100
)

// round is one walk of the audit over the node.
type round struct {
	left []func()
	per  int // how many are done with one step
	step int
}

// auditStep does the next share of a round. Audits read only; what differs is given to whoever builds it.
func (a *Agent) auditStep() {
	if !a.started {
		return
	}
	a.takeover.stale = a.takeover.stale || a.peering.heard()
	if a.audit.step%5 == 0 { // once a second
		a.metrics.count(a.units)
		a.describe(a.ovs.Snapshot())
	}
	if a.audit.step == 0 {
		a.audit.left = a.auditItems()
		a.audit.per = (len(a.audit.left) + auditSteps - 1) / auditSteps
	}
	n := min(a.audit.per, len(a.audit.left))
	for _, item := range a.audit.left[:n] {
		item()
	}
	a.audit.left = a.audit.left[n:]
	a.audit.step = (a.audit.step + 1) % auditSteps
}

// auditItems lists what a round goes through: OVSDB, the bridges, the routers and DHCP servers.
func (a *Agent) auditItems() []func() {
	out := []func(){a.auditOVS}
	for _, name := range slices.Sorted(maps.Keys(a.bridges.all)) {
		out = append(out, func() { a.bridges.inspect(name, a.flowsOf(name)) })
	}
	for _, u := range slices.SortedFunc(maps.Keys(a.units), func(x, y unit) int {
		return strings.Compare(x.kind+x.id, y.kind+y.id)
	}) {
		out = append(out, func() {
			if !a.takeover.muted(u) {
				a.workers.inspect(u)
			}
		})
	}
	return out
}

// auditOVS has OVSDB compared with the whole plan, and written if it differs.
func (a *Agent) auditOVS() {
	if len(a.foreignBridges()) > 0 || a.fullOVS || !a.dirty.Empty() {
		return // it is not as planned, and known not to be
	}
	d, err := a.ovs.Diff(a.wholeChange())
	if err != nil || len(d.Writes) == 0 {
		return // without a connection there will be a comparison when there is one
	}
	a.fullOVS = true
	found(a.log, a.metrics, "OVSDB differs from the plan, repairing it", d.Writes)
}

// bridgeDrifted writes the flows of a bridge that an audit found to differ. What the bridge refused is tried again.
func (a *Agent) bridgeDrifted(d drift) {
	br := a.bridges.all[d.bridge]
	if br == nil || !br.synced {
		return
	}
	a.forgive(d.bridge)
	clear(br.refused)
	if n := a.syncFlows(d.bridge, func(flows []flow.Flow) int { return a.bridges.sync(br, flows) }); n > 0 { // else it was changed by the agent meanwhile
		a.metrics.repaired("flow", n)
		logDifferences(a.log, "flows differed from the plan", flowDifferences(d.bridge, d.found), "bridge", d.bridge)
	}
}

// resync compares the flows of all bridges with the plan at once: somebody has put back flows of earlier.
func (a *Agent) resync() {
	for name, br := range a.bridges.all {
		if br.synced {
			a.metrics.resyncs.WithLabelValues(name).Inc()
			a.forgive(name)
			a.syncFlows(name, func(flows []flow.Flow) int { return a.bridges.sync(br, flows) })
		}
	}
}

// flowDifferences are the differences of a bridge as text.
func flowDifferences(bridge string, d openflow.Difference) []desired.Difference {
	var out []desired.Difference
	for _, f := range d.Missing {
		out = append(out, desired.Difference{Kind: "flow", Object: bridge, Desired: f.String()})
	}
	for _, f := range d.Altered {
		out = append(out, desired.Difference{Kind: "flow", Object: bridge, Desired: f.String(), Actual: "other actions under its cookie"})
	}
	for _, e := range d.Surplus {
		out = append(out, desired.Difference{Kind: "flow", Object: bridge, Actual: e.Text()})
	}
	return out
}

// audit compares a unit with its plan, and builds it anew where it differs.
func (s *services) audit(ctx context.Context, u unit, want any) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	d, err := s.diff(ctx, want)
	if err == nil && len(d) == 0 {
		return nil
	}
	if err != nil {
		s.log.Warn("can't compare with the plan, building anew", "kind", u.kind, "id", u.id, "error", err)
	}
	if len(d) > 0 {
		found(s.log, s.metrics, "differs from the plan, repairing it", d, "kind", u.kind, "id", u.id)
	}
	if r, ok := want.(*plan.Router); ok && slices.ContainsFunc(d, func(d desired.Difference) bool { return d.Kind == "iptables" }) {
		if err := s.nat.Resync(ctx, r.Namespace.Name, r.Namespace.IPTables); err != nil {
			return err
		}
	}
	if f, ok := want.(*hybrid.Filters); ok {
		return s.filters.Resync(ctx, f)
	}
	return s.build(ctx, u, want)
}

// diff compares a unit with its plan and writes nothing.
func (s *services) diff(ctx context.Context, want any) ([]desired.Difference, error) {
	switch want := want.(type) {
	case *plan.Router:
		d, err := s.ns.Diff(ctx, want.Namespace)
		if owned, err2 := s.ns.Owned(want.Namespace.Name); !owned || err2 != nil {
			return d, errors.Join(err, err2)
		}
		nat, err2 := s.nat.Diff(ctx, want.Namespace.Name, want.Namespace.IPTables)
		served, err3 := s.unserved(want.Metadata)
		return slices.Concat(d, nat, served), errors.Join(err, err2, err3)
	case *plan.DHCP:
		if want.Problem != nil {
			return nil, nil // it is left as it is, and its status says why
		}
		d, err := s.ns.Diff(ctx, want.Namespace)
		if owned, err2 := s.ns.Owned(want.Namespace.Name); !owned || err2 != nil {
			return d, errors.Join(err, err2)
		}
		server, err2 := s.dhcp.Diff(ctx, want.Server)
		served, err3 := s.unserved(want.Metadata)
		return slices.Concat(d, server, served), errors.Join(err, err2, err3)
	case *hybrid.Filters:
		return s.filters.Diff(ctx, want)
	default:
		return nil, fmt.Errorf("can't compare a %T", want)
	}
}

// unserved says that guests are not listened to where they should be. While nothing can be served, that is the node's problem.
func (s *services) unserved(want *desired.Metadata) ([]desired.Difference, error) {
	if want == nil || s.metadata.Problem() != "" {
		return nil, nil
	}
	ok, err := s.metadata.Served(*want)
	if ok || err != nil {
		return nil, err
	}
	return []desired.Difference{{Kind: "metadata", Object: want.Namespace, Desired: "listens on " + want.Address.String()}}, nil
}
