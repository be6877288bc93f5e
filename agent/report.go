package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func report(revision int64, state weftv1.State, message string) *storev1.Report {
	return &storev1.Report{Revision: revision, State: state, Message: legible(message), Time: timestamppb.Now()}
}

// maxMessage is the most bytes of a message that are reported: thousands of ports may be left out for a reason each, and
// the store takes 1.5 MB at once.
const maxMessage = 2048

// legible is a text as a protobuf string can hold it: UTF-8, and not too long.
func legible(text string) string {
	if len(text) > maxMessage {
		text = text[:maxMessage] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// reportOf is a report that says ACTIVE, or ERROR with the reason.
func reportOf(revision int64, err error) *storev1.Report {
	if err != nil {
		return report(revision, weftv1.State_STATE_ERROR, err.Error())
	}
	return report(revision, weftv1.State_STATE_ACTIVE, "")
}

// reportPorts makes the reports of ports whose flows have been written.
func (a *Agent) reportPorts() {
	for k := range a.ports {
		var value proto.Message
		if a.awaitsOVS(k) {
			a.publisher.set(keys.Status(a.cfg.Node, keys.KindPort, k.Port), nil)
			continue
		}
		if r := a.portReport(k); r != nil {
			value = r
		}
		a.publisher.set(keys.Status(a.cfg.Node, keys.KindPort, k.Port), value)
		delete(a.ports, k)
	}
}

// ovsPatience is how long OVS may take to make an interface before that is an error: a hundred at once take it a tenth of
// that.
const ovsPatience = time.Second

// awaitsOVS reports whether a port's interface has appeared and OVS is about to make it: there is nothing to report yet.
func (a *Agent) awaitsOVS(k view.PortKey) bool {
	p, plugged := a.facts.Plugged[k.Port]
	i := a.ovs.Snapshot().Interfaces[p.Name]
	if !plugged || p.OFPort != 0 || i == nil || i.Error != "" {
		delete(a.awaited, k.Port)
		return false
	}
	since, ok := a.awaited[k.Port]
	if !ok {
		since = time.Now()
		a.awaited[k.Port] = since
	}
	left := ovsPatience - time.Since(since)
	if left > 0 && a.retry == nil {
		a.retry = time.After(left)
	}
	return left > 0
}

// portReport is what is to be said of a port; nil when it is no matter of this node's, or its interface is not here.
func (a *Agent) portReport(k view.PortKey) *storev1.Report {
	binding, bound := a.view.HostPorts[k.Port]
	if bound && binding.Network != k.Network {
		return nil
	}
	n := a.view.Networks[k.Network]
	if bound && binding.Refused != "" {
		if _, plugged := a.facts.Plugged[k.Port]; plugged {
			return report(0, weftv1.State_STATE_ERROR, binding.Refused)
		}
		return nil
	}
	if n == nil || (!bound && !n.Local[k.Port]) {
		return nil
	}
	if revision, err := a.invalid(keys.Port(k.Network, k.Port)); err != nil {
		return reportOf(revision, err)
	}
	p, ok := n.Ports[k.Port]
	if !ok || !a.present(k, n) {
		return nil
	}
	if !p.Object.Up {
		return report(p.Revision, weftv1.State_STATE_DOWN, "admin_state_up is false")
	}
	if !a.view.Settled(k) || a.awaitsFilters(k, p.Object) {
		return nil // its filters follow within moments
	}
	return reportOf(p.Revision, errors.Join(a.portProblem(k, n), a.filterProblem(k, p.Object)))
}

// filterProblem is why a port's filters are not what its groups say: what can't be read or enforced allows nothing.
func (a *Agent) filterProblem(k view.PortKey, p model.Port) error {
	groups, _ := a.view.Groups(k)
	errs := []error{a.bridgeProblem(k, p)}
	for _, id := range groups {
		errs = append(errs, a.groupProblem(id, p.Hybrid))
	}
	return errors.Join(append(errs, a.planner.FilterConflict(k))...)
}

// groupProblem is what of a security group allows nothing, and why; nil when all of it holds. bridged: iptables judges by it.
func (a *Agent) groupProblem(id string, bridged bool) error {
	var errs []error
	g := a.view.SecurityGroups[id]
	if _, bad := a.invalid(keys.SecurityGroup(id)); bad != nil {
		errs = append(errs, fmt.Errorf("security group %s %w", id, bad))
	} else if g == nil || g.Revision == 0 {
		errs = append(errs, fmt.Errorf("security group %s does not exist", id))
	}
	if g == nil {
		return errors.Join(errs...)
	}
	for rule, bad := range a.view.InvalidUnder(keys.Rules(id)) {
		errs = append(errs, fmt.Errorf("rule %s of security group %s allows nothing: quarantined: %w", rule, id, bad.Err))
	}
	for rule, r := range g.Rules {
		if reason := a.unenforceable(r.Object, bridged); reason != nil {
			errs = append(errs, fmt.Errorf("rule %s of security group %s allows nothing: %w", rule, id, reason))
		}
		if remote := r.Object.RemoteAddressGroup; remote != "" {
			if _, bad := a.invalid(keys.AddressGroup(remote)); bad != nil {
				errs = append(errs, fmt.Errorf("address group %s of rule %s holds nothing: %w", remote, rule, bad))
			}
		}
	}
	slices.SortFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	return errors.Join(errs...)
}

// unenforceable is why the node can't let through what a rule allows; nil when it can.
func (a *Agent) unenforceable(r model.Rule, bridged bool) error {
	switch {
	case bridged:
		return refusedRules(a.units[unit{kind: kindFilters}])[r]
	case !plan.Enforceable(r):
		return fmt.Errorf("br-int does not read ports of protocol %s", r.Protocol)
	default:
		return nil
	}
}

// present reports whether the port's device is on br-int.
func (a *Agent) present(k view.PortKey, n *view.Network) bool {
	if p := n.Ports[k.Port].Object; p.DeviceOwner == "" || p.DeviceOwner[:min(8, len(p.DeviceOwner))] != "network:" {
		_, ok := a.facts.Plugged[k.Port]
		return ok
	}
	return true
}

// portProblem is why a port that is here does not pass frames; nil when it does.
func (a *Agent) portProblem(k view.PortKey, n *view.Network) error {
	if _, err := a.invalid(keys.Network(k.Network)); err != nil {
		return err
	}
	if a.switchDown != nil {
		return a.switchDown
	}
	switch {
	case n.Revision == 0:
		return fmt.Errorf("network %s does not exist", k.Network)
	case !n.Object.Up:
		return fmt.Errorf("network %s: admin_state_up is false", k.Network)
	case a.short[k.Network]:
		return fmt.Errorf("network %s: all 4094 local VLANs of this node are taken", k.Network)
	case n.Object.Tunnelled() && !a.facts.TunnelIP.IsValid():
		return fmt.Errorf("network %s: this node has no tunnel_ip", k.Network)
	case !n.Object.Tunnelled() && a.facts.Bridges[n.Object.PhysicalNetwork] == "":
		return fmt.Errorf("network %s: this node has no bridge for physical network %s", k.Network, n.Object.PhysicalNetwork)
	}
	if err := a.uplinkProblem(n); err != nil {
		return err
	}
	if err := errors.Join(a.planner.NetworkConflict(k.Network), a.planner.Conflict(k)); err != nil {
		return err
	}
	port, ok := plan.OFPort(&a.facts, n.Ports[k.Port].Object)
	if ok && port != 0 {
		return nil
	}
	return a.deviceProblem(k, n)
}

// uplinkProblem says why frames of a network can't leave br-int; nil when they can.
func (a *Agent) uplinkProblem(n *view.Network) error {
	needed := []string{plan.PatchTun, plan.PatchInt}
	if !n.Object.Tunnelled() {
		bridge := a.facts.Bridges[n.Object.PhysicalNetwork]
		needed = []string{plan.IntPatch(bridge), plan.PhysPatch(bridge)}
	}
	for _, name := range []string{plan.BrInt, plan.BrTun} {
		if reason := a.refused[name]; reason != "" {
			return errors.New(reason)
		}
	}
	for _, name := range needed {
		switch _, ok := a.facts.OFPorts[name]; {
		case ok:
		case a.refused[name] != "":
			return errors.New(a.refused[name])
		default:
			return fmt.Errorf("patch port %s is not there: ovs-vswitchd has not made it", name)
		}
	}
	return nil
}

// deviceProblem says why a port's interface has no OpenFlow number.
func (a *Agent) deviceProblem(k view.PortKey, n *view.Network) error {
	name := plan.InterfaceName(&a.facts, n.Ports[k.Port].Object)
	if reason := a.refused[name]; reason != "" {
		return errors.New(reason)
	}
	if i := a.ovs.Snapshot().Interfaces[name]; i != nil && i.Error != "" {
		return fmt.Errorf("OVS can't make interface %s: %s", name, i.Error)
	}
	if strings.HasPrefix(n.Ports[k.Port].Object.DeviceOwner, "network:") && a.devices[name] == "" {
		return fmt.Errorf("device %s has not been made: see the status of its router or DHCP server", name)
	}
	return fmt.Errorf("OVS has not made interface %s yet", name)
}

// invalid says why an object can't be used, and which revision of it; nil when it can.
func (a *Agent) invalid(key string) (revision int64, err error) {
	if bad, ok := a.view.Invalid[key]; ok {
		return bad.Revision, fmt.Errorf("quarantined: %w", bad.Err)
	}
	return 0, nil
}

// reportUnit makes the reports of a router, with its floating IPs, or of a DHCP server: of what has been built, and of
// what can't be read.
func (a *Agent) reportUnit(u unit) {
	err, known := a.units[u]
	if known && soon(err) && time.Since(a.waiting[u]) < unitPatience {
		return // the outcome follows within moments
	}
	if err != nil {
		err = errors.Join(err, a.devicesRefused(u))
	}
	err = errors.Join(err, a.switchDown)
	if err == nil && a.awaitsParts(u) {
		return
	}
	now := map[string]*storev1.Report{}
	switch want := a.builtAt[u].(type) {
	case *plan.Router:
		a.routerReports(u.id, want, err, now)
	case *plan.DHCP:
		now[keys.Status(a.cfg.Node, keys.KindDHCP, u.id)] = reportOf(want.Revision, errors.Join(err, a.unserved(u.id, want)))
	}
	if u.kind == keys.KindRouter && a.view.Planned(u.id) {
		a.quarantined(keys.Router(u.id), keys.KindRouter, u.id, now)
		for id := range a.view.InvalidUnder(keys.FloatingIPs(u.id)) {
			a.quarantined(keys.FloatingIP(u.id, id), keys.KindFloatingIP, id, now)
		}
	}
	if u.kind == keys.KindDHCP && a.view.HostDHCP[u.id] != "" {
		a.quarantined(keys.Network(u.id), keys.KindDHCP, u.id, now)
	}
	a.publishUnit(u, now)
}

// unitPatience is how long a router or DHCP server may wait for OVS, and a router for its ports, before that is an error;
// workers say every few seconds that they still do.
const unitPatience = 3 * time.Second

// awaitsParts reports whether a router lacks something that may be on its way: there is nothing to report yet.
func (a *Agent) awaitsParts(u unit) bool {
	want, ok := a.builtAt[u].(*plan.Router)
	if !ok || !errors.Is(want.Problem, plan.ErrAwaited) {
		delete(a.lacking, u.id)
		return false
	}
	since, known := a.lacking[u.id]
	if !known {
		since = time.Now()
		a.lacking[u.id] = since
		time.AfterFunc(unitPatience, func() { a.post.send(a.bridges.ctx, func() { a.reportUnit(u) }) })
	}
	return time.Since(since) < unitPatience
}

// devicesRefused says which devices of a unit OVSDB could not have, and why.
func (a *Agent) devicesRefused(u unit) error {
	var devices []string
	switch want := a.builtAt[u].(type) {
	case *plan.Router:
		devices = want.Devices
	case *plan.DHCP:
		devices = []string{want.Device}
	}
	var errs []error
	for _, d := range devices {
		if reason := a.refused[d]; reason != "" {
			errs = append(errs, errors.New(reason))
		}
	}
	return errors.Join(errs...)
}

// unserved says which subnets and ports of a network its DHCP server leaves out.
func (a *Agent) unserved(network string, want *plan.DHCP) error {
	var errs []error
	for id, bad := range a.view.InvalidUnder(keys.Subnets(network)) {
		errs = append(errs, fmt.Errorf("subnet %s quarantined: %w", id, bad.Err))
	}
	for id, err := range want.Rejected {
		errs = append(errs, fmt.Errorf("port %s left out: %w", id, err))
	}
	slices.SortFunc(errs, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	return errors.Join(errs...)
}

// quarantined makes the report of an object that can't be read, if it is such.
func (a *Agent) quarantined(key, kind, id string, now map[string]*storev1.Report) {
	if revision, err := a.invalid(key); err != nil {
		now[keys.Status(a.cfg.Node, kind, id)] = reportOf(revision, err)
	}
}

// routerReports are those of a router that the node forwards for, or is ready to.
func (a *Agent) routerReports(id string, want *plan.Router, err error, now map[string]*storev1.Report) {
	state := reportOf(want.Revision, errors.Join(err, want.Problem))
	if state.GetState() == weftv1.State_STATE_ACTIVE && !want.Namespace.Forward {
		state = report(want.Revision, weftv1.State_STATE_DOWN, "admin_state_up is false")
	}
	now[keys.Status(a.cfg.Node, keys.KindRouter, id)] = state
	if a.view.Active[id].Node != a.cfg.Node {
		state.Standby = err == nil && want.Problem == nil
		return
	}
	for fip, revision := range want.FloatingIPs {
		now[keys.Status(a.cfg.Node, keys.KindFloatingIP, fip)] = reportOf(revision, errors.Join(err, want.Unreachable[fip]))
	}
}

// publishUnit sets a unit's reports and takes back those it no longer has. A report that another unit makes now, since a
// floating IP has moved from router to router on this node, is that unit's to make anew.
func (a *Agent) publishUnit(u unit, now map[string]*storev1.Report) {
	before := a.reports[u]
	delete(a.reports, u)
	for key, r := range now {
		a.publisher.set(key, r)
		if a.reports[u] == nil {
			a.reports[u] = map[string]bool{}
		}
		a.reports[u][key] = true
	}
	for key := range before {
		if now[key] != nil {
			continue
		}
		if other, ok := a.alsoReports(key); ok {
			a.reportUnit(other)
			continue
		}
		a.publisher.set(key, nil)
	}
}

// alsoReports finds the unit that has made a report.
func (a *Agent) alsoReports(key string) (unit, bool) {
	for u, made := range a.reports {
		if made[key] {
			return u, true
		}
	}
	return unit{}, false
}
