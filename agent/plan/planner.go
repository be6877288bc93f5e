package plan

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/view"
)

// piece names a part of the plan that is computed by itself.
type piece struct {
	kind string // "base", "tunnel", "network", "port", "policy", "remote", "address"
	id   string // of the tunnel port, network or port; the key of the policy or remote; the address
	net  string // the port's network
}

var basePiece, filterPiece = piece{kind: "base"}, piece{kind: "base", id: "filters"}

func portPiece(k view.PortKey) piece { return piece{kind: "port", id: k.Port, net: k.Network} }

// FlowChange is what to write to one bridge. A flow whose actions changed is in both lists, for agent/openflow's Apply.
type FlowChange struct {
	Adds, Deletes []flow.Flow
}

// Delta is what a change of the view or the facts does to the plan.
type Delta struct {
	// Flows are by bridge.
	Flows map[string]*FlowChange
	// Ports are OVS ports that are new or different; GonePorts are those no longer wanted, by name.
	Ports     []desired.Port
	GonePorts []desired.Port
	// Routers and DHCP hold the new plan, nil for one to be taken down, by router and by network.
	Routers map[string]*Router
	DHCP    map[string]*DHCP
	// Bridged are all filters of ports with bridges of their own; nil when none of them has changed.
	Bridged *hybrid.Filters
	// Retried are the networks and ports that were planned anew because a place that they had found taken became free.
	Retried *view.Dirty
}

// Planner keeps the whole plan in pieces. The zero value is not ready; use NewPlanner. It belongs to one goroutine.
type Planner struct {
	pieces    map[piece]Flows
	holders   map[string]map[flow.Key]piece // bridge -> place -> the piece whose flow is there
	flows     map[string]map[flow.Key]flow.Flow
	ports     map[piece][]desired.Port
	conflicts map[piece]error
	refused   map[string]map[flow.Key]error // bridge -> place -> why the bridge did not take the flow there
	tunnels   []tunnel
	routers   map[string]*Router
	dhcp      map[string]*DHCP

	policies map[string]*policy      // by policyKey
	under    map[view.PortKey]string // port -> the key of its policy
	remotes  map[string]remote       // that policies' rules refer to, by key
	// conjunctions are the ids of the remotes' conjunctions, by their key.
	conjunctions map[string]uint32

	// bridged are the filters of ports with bridges of their own, behindBridges those ports; nil before the first Update.
	bridged       *hybrid.Filters
	behindBridges map[view.PortKey]bool
	// dhcpServers are the MAC addresses of DHCP servers' ports.
	dhcpServers map[view.PortKey]string
}

// NewPlanner has an empty plan.
func NewPlanner() *Planner {
	return &Planner{
		pieces: map[piece]Flows{}, holders: map[string]map[flow.Key]piece{}, flows: map[string]map[flow.Key]flow.Flow{},
		ports: map[piece][]desired.Port{}, conflicts: map[piece]error{},
		refused: map[string]map[flow.Key]error{}, routers: map[string]*Router{}, dhcp: map[string]*DHCP{},
		policies: map[string]*policy{}, under: map[view.PortKey]string{}, remotes: map[string]remote{}, conjunctions: map[string]uint32{},
		behindBridges: map[view.PortKey]bool{}, dhcpServers: map[view.PortKey]string{},
	}
}

// Flows lists the whole plan for a bridge, sorted.
func (p *Planner) Flows(bridge string) []flow.Flow {
	return slices.SortedFunc(maps.Values(p.flows[bridge]), flow.Compare)
}

// Ports lists the whole plan's OVS ports, sorted by name.
func (p *Planner) Ports() []desired.Port {
	var out []desired.Port
	for _, ports := range p.ports {
		out = append(out, ports...)
	}
	slices.SortFunc(out, func(a, b desired.Port) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// PortsNamed lists those of the plan's OVS ports that have one of the names.
func (p *Planner) PortsNamed(names map[string]bool) []desired.Port {
	if len(names) == 0 {
		return nil
	}
	var out []desired.Port
	for _, ports := range p.ports {
		for _, port := range ports {
			if names[port.Name] {
				out = append(out, port)
			}
		}
	}
	return out
}

// Routers are the planned routers. The map must not be changed.
func (p *Planner) Routers() map[string]*Router { return p.routers }

// DHCP are the planned DHCP servers, by network. The map must not be changed.
func (p *Planner) DHCP() map[string]*DHCP { return p.dhcp }

// Conflict says why a port's flows are not all on the bridges: another object holds their place, or a bridge refuses them.
// Nil when they are.
func (p *Planner) Conflict(k view.PortKey) error { return p.conflict(portPiece(k)) }

// FilterConflict says why the flows of a port's filters are not all on the bridges; nil when they are.
func (p *Planner) FilterConflict(k view.PortKey) error {
	key, ok := p.under[k]
	if !ok {
		return nil
	}
	errs := []error{p.conflict(piece{kind: "policy", id: key})}
	for _, r := range p.policies[key].remotes {
		errs = append(errs, p.conflict(piece{kind: "remote", id: r.key()}))
	}
	return errors.Join(errs...)
}

// NetworkConflict says why the flows of a network as such are not all on the bridges; nil when they are.
func (p *Planner) NetworkConflict(id string) error {
	return p.conflict(piece{kind: "network", id: id})
}

func (p *Planner) conflict(of piece) error {
	if err := p.conflicts[of]; err != nil {
		return err
	}
	for bridge, places := range p.refused {
		for key, reason := range places {
			if p.holders[bridge][key] == of {
				return reason
			}
		}
	}
	return nil
}

// Problems says which of the flows that belong to no object, those of the bridges as such and of tunnels, are not on the
// bridges, and why. Sorted.
func (p *Planner) Problems() []string {
	var out []string
	for bridge, places := range p.refused {
		for key, reason := range places {
			if of := p.holders[bridge][key]; of.kind == "base" || of.kind == "tunnel" {
				out = append(out, fmt.Sprintf("bridge %s: %v", bridge, reason))
			}
		}
	}
	slices.Sort(out)
	return out
}

// Refuse notes that the bridge did not take a flow: until the plan has another flow in its place, or Forgive. It marks the
// object that the flow belongs to, whose report has to change.
func (p *Planner) Refuse(bridge string, key flow.Key, reason error, dirty *view.Dirty) {
	holder, ok := p.holders[bridge][key]
	if !ok {
		return
	}
	if p.refused[bridge] == nil {
		p.refused[bridge] = map[flow.Key]error{}
	}
	p.refused[bridge][key] = reason
	holder.mark(dirty)
}

// Forgive forgets what a bridge has refused, because it gets the whole plan anew. It marks the objects concerned.
func (p *Planner) Forgive(bridge string, dirty *view.Dirty) {
	for key := range p.refused[bridge] {
		p.holders[bridge][key].mark(dirty)
	}
	delete(p.refused, bridge)
}

// mark marks the port, the network or the groups that a piece is of, if it is one's.
func (p piece) mark(dirty *view.Dirty) {
	switch p.kind {
	case "port":
		dirty.Ports[view.PortKey{Network: p.net, Port: p.id}] = true
	case "network":
		dirty.Networks[p.id] = true
	case "policy":
		for _, id := range strings.Split(p.id, ",") {
			dirty.Groups[id] = true
		}
	case "remote":
		group, _, _ := strings.Cut(p.id, "/")
		dirty.Groups[group] = true
	}
}

// Update plans anew what is dirty and returns the difference. What can't be planned yet, because its scopes have not
// been listed, is left as it was.
func (p *Planner) Update(v *view.View, facts *Facts, dirty *view.Dirty) Delta {
	u := update{
		Planner: p, view: v, facts: facts,
		before: map[string]map[flow.Key]*flow.Flow{},
		delta:  Delta{Flows: map[string]*FlowChange{}, Routers: map[string]*Router{}, DHCP: map[string]*DHCP{}, Retried: view.NewDirty()},
	}
	u.set(basePiece, baseFlows(facts), basePorts(facts))
	if u.pieces[filterPiece] == nil { // they never change
		u.set(filterPiece, filterFlows(), nil)
	}
	if dirty.Tunnels {
		u.planTunnels()
	}
	u.planFilters(dirty)
	u.planBridged(dirty)
	for id := range dirty.Networks {
		if v.Networks[id] == nil || v.NetworkReady(id) {
			u.set(piece{kind: "network", id: id}, networkFlows(v, facts, id), nil)
		}
	}
	for k := range dirty.Ports {
		if v.Networks[k.Network] == nil || v.NetworkReady(k.Network) {
			u.planPort(k)
		}
	}
	u.retryConflicts()
	u.planServices(dirty)
	u.sumFlows()
	u.sumPorts()
	return u.delta
}

// update is one run of Update.
type update struct {
	*Planner
	view  *view.View
	facts *Facts
	delta Delta
	freed bool // a place has become free
	// before are the flows that stood in the places this run has touched, nil for none.
	before map[string]map[flow.Key]*flow.Flow
}

func (u *update) planTunnels() {
	now, watched := tunnels(u.view, u.facts), map[netip.Addr]bool{}
	for _, peer := range u.view.Peers() {
		watched[u.view.Nodes[peer].TunnelIP] = true
	}
	for _, t := range u.tunnels {
		if !slices.Contains(now, t) {
			u.set(piece{kind: "tunnel", id: t.name()}, nil, nil)
		}
	}
	for _, t := range now {
		u.set(piece{kind: "tunnel", id: t.name()}, tunnelFlows(u.facts, t), []desired.Port{t.port(u.facts, watched[t.remote])})
	}
	u.tunnels = now
}

func (u *update) planPort(k view.PortKey) {
	var ports []desired.Port
	if p, ok := devicePort(u.view, u.facts, k); ok {
		ports = append(ports, p)
	}
	u.set(portPiece(k), portFlows(u.view, u.facts, k, u.policyOf(k)), ports)
}

func (u *update) planServices(dirty *view.Dirty) {
	for id := range dirty.Routers {
		if u.view.Planned(id) && !u.view.RouterReady(id) {
			continue
		}
		plan := routerPlan(u.view, u.facts, id)
		if plan != nil || u.routers[id] != nil {
			u.delta.Routers[id] = plan
		}
		keep(u.routers, id, plan)
	}
	for id := range dirty.DHCP {
		if u.view.HostDHCP[id] != "" && !u.view.NetworkReady(id) {
			continue
		}
		plan := dhcpPlan(u.view, u.facts, id)
		if plan != nil || u.dhcp[id] != nil {
			u.delta.DHCP[id] = plan
		}
		keep(u.dhcp, id, plan)
	}
}

func keep[T any](m map[string]*T, id string, value *T) {
	if value == nil {
		delete(m, id)
		return
	}
	m[id] = value
}

// set replaces a piece.
func (u *update) set(p piece, flows Flows, ports []desired.Port) {
	u.setPorts(p, ports)
	old := u.pieces[p]
	delete(u.conflicts, p)
	held, places := Flows{}, map[string]map[flow.Key]bool{}
	for bridge, fs := range flows {
		places[bridge] = map[flow.Key]bool{}
		for _, f := range fs {
			if u.take(bridge, f, p) {
				held[bridge] = append(held[bridge], f)
				places[bridge][f.Key()] = true
			}
		}
	}
	for bridge, fs := range old {
		for _, f := range fs {
			if !places[bridge][f.Key()] {
				u.drop(bridge, f)
			}
		}
	}
	if len(held) == 0 {
		delete(u.pieces, p)
		return
	}
	u.pieces[p] = held
}

// take puts a flow in its place; false, and a conflict noted, when another piece's different flow is there.
func (u *update) take(bridge string, f flow.Flow, p piece) bool {
	key := f.Key()
	if holder, ok := u.holders[bridge][key]; ok && holder != p {
		if u.conflicts[p] == nil {
			u.conflicts[p] = fmt.Errorf("%s %s holds the place of flow %q on %s", holder.kind, holder.id, f, bridge)
		}
		return false
	}
	if u.flows[bridge] == nil {
		u.flows[bridge], u.holders[bridge] = map[flow.Key]flow.Flow{}, map[flow.Key]piece{}
	}
	was, exists := u.flows[bridge][key]
	if exists && was.Cookie == f.Cookie {
		return true
	}
	u.touch(bridge, key)
	u.flows[bridge][key], u.holders[bridge][key] = f, p
	return true
}

func (u *update) drop(bridge string, f flow.Flow) {
	key := f.Key()
	u.touch(bridge, key)
	delete(u.flows[bridge], key)
	delete(u.holders[bridge], key)
	u.freed = true
}

// touch notes what stood in a place before the first change of this run.
func (u *update) touch(bridge string, key flow.Key) {
	if u.before[bridge] == nil {
		u.before[bridge] = map[flow.Key]*flow.Flow{}
	}
	if _, noted := u.before[bridge][key]; noted {
		return
	}
	u.before[bridge][key] = nil
	if f, ok := u.flows[bridge][key]; ok {
		u.before[bridge][key] = &f
	}
}

// sumFlows makes the difference of the flows: of what each place held before the run and holds now. What one piece gave up
// and another took over unchanged is none; told as a deletion and an addition, it would be deleted last.
func (u *update) sumFlows() {
	for bridge, places := range u.before {
		change := &FlowChange{}
		for key, was := range places {
			now, exists := u.flows[bridge][key]
			if exists && was != nil && now.Cookie == was.Cookie {
				continue
			}
			delete(u.refused[bridge], key)
			if exists {
				change.Adds = append(change.Adds, now)
			}
			if was != nil {
				change.Deletes = append(change.Deletes, *was)
			}
		}
		if len(change.Adds)+len(change.Deletes) > 0 {
			u.delta.Flows[bridge] = change
		}
	}
}

// sumPorts takes from the ports that one piece gave up those that another took over.
func (u *update) sumPorts() {
	taken := map[string]bool{}
	for _, p := range u.delta.Ports {
		taken[p.Name] = true
	}
	u.delta.GonePorts = slices.DeleteFunc(u.delta.GonePorts, func(p desired.Port) bool { return taken[p.Name] })
}

func (u *update) setPorts(p piece, ports []desired.Port) {
	old := u.ports[p]
	for _, port := range ports {
		if !slices.ContainsFunc(old, func(o desired.Port) bool { return samePort(o, port) }) {
			u.delta.Ports = append(u.delta.Ports, port)
		}
	}
	for _, port := range old {
		if !slices.ContainsFunc(ports, func(n desired.Port) bool { return n.Name == port.Name }) {
			u.delta.GonePorts = append(u.delta.GonePorts, port)
		}
	}
	if len(ports) == 0 {
		delete(u.ports, p)
		return
	}
	u.ports[p] = ports
}

func samePort(a, b desired.Port) bool {
	return a.Bridge == b.Bridge && a.Name == b.Name && a.Type == b.Type && a.Tag == b.Tag && a.MAC == b.MAC &&
		maps.Equal(a.Options, b.Options) && maps.Equal(a.BFD, b.BFD) && maps.Equal(a.ExternalIDs, b.ExternalIDs)
}

// retryConflicts plans pieces anew that had found a place taken, when one has become free.
func (u *update) retryConflicts() {
	if !u.freed {
		return
	}
	for p := range u.conflicts {
		switch p.kind {
		case "port":
			k := view.PortKey{Network: p.net, Port: p.id}
			u.delta.Retried.Ports[k] = true
			u.planPort(k)
		case "network":
			u.delta.Retried.Networks[p.id] = true
			u.set(p, networkFlows(u.view, u.facts, p.id), nil)
		}
	}
}

// MarkFacts marks what depends on facts that differ: on a VM's interface, or on the number of one of weft's own ports.
func (p *Planner) MarkFacts(v *view.View, old, now *Facts, dirty *view.Dirty) {
	if old.TunnelIP != now.TunnelIP || !maps.Equal(old.Bridges, now.Bridges) {
		everything(v, dirty)
		return
	}
	for id := range union(different(old.Plugged, now.Plugged), different(old.Filtered, now.Filtered)) {
		if b, ok := v.HostPorts[id]; ok {
			dirty.Port(view.PortKey{Network: b.Network, Port: id})
		}
		for network, n := range v.Networks { // its binding may come later, or have gone earlier, than the port itself
			if n.Local[id] {
				dirty.Port(view.PortKey{Network: network, Port: id})
			}
		}
	}
	for network := range different(old.VLANs, now.VLANs) {
		wholeNetwork(v, network, dirty)
	}
	changed := different(old.OFPorts, now.OFPorts)
	if len(changed) == 0 {
		return
	}
	if p.sharedPortChanged(v, changed, dirty) {
		everything(v, dirty)
		return
	}
	p.markDevices(changed, dirty)
}

// sharedPortChanged marks what uses a tunnel port whose number changed, and reports whether a patch port's did, which
// everything uses.
func (p *Planner) sharedPortChanged(v *view.View, changed map[string]bool, dirty *view.Dirty) bool {
	for _, port := range p.ports[basePiece] {
		if changed[port.Name] {
			return true
		}
	}
	for _, t := range p.tunnels {
		if !changed[t.name()] {
			continue
		}
		dirty.Tunnels = true
		for id, n := range v.Networks {
			if n.Revision == 0 || n.Object.Type != t.kind {
				continue
			}
			for port := range n.Ports {
				if v.Nodes[n.Location(port)].TunnelIP == t.remote {
					dirty.Port(view.PortKey{Network: id, Port: port})
				}
			}
		}
	}
	return false
}

// markDevices marks the ports whose devices' numbers changed.
func (p *Planner) markDevices(changed map[string]bool, dirty *view.Dirty) {
	for piece, ports := range p.ports {
		if piece.kind == "port" && len(ports) == 1 && changed[ports[0].Name] {
			dirty.Port(view.PortKey{Network: piece.net, Port: piece.id})
		}
	}
}

func everything(v *view.View, dirty *view.Dirty) {
	dirty.Tunnels = true
	for id := range v.Networks {
		wholeNetwork(v, id, dirty)
	}
}

func wholeNetwork(v *view.View, id string, dirty *view.Dirty) {
	dirty.Networks[id] = true
	if n := v.Networks[id]; n != nil {
		for port := range n.Ports {
			dirty.Ports[view.PortKey{Network: id, Port: port}] = true
		}
	}
}

func union[K comparable](a, b map[K]bool) map[K]bool {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// different lists the keys whose values differ or that only one of the maps has.
func different[K, V comparable](a, b map[K]V) map[K]bool {
	out := map[K]bool{}
	for k, x := range a {
		if y, ok := b[k]; !ok || x != y {
			out[k] = true
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			out[k] = true
		}
	}
	return out
}

// AssignVLANs gives each network that needs one a local VLAN, 1..4094 (IEEE 802.1Q; REFERENCE R9), keeping those that
// are held. Networks that hold one and no longer need it keep it: the caller takes it away once nothing on the host uses
// it. The result is a new map; networks in short are without because all are taken.
func AssignVLANs(held map[string]uint16, needed []string) (vlans map[string]uint16, short []string) {
	vlans = maps.Clone(held)
	if vlans == nil {
		vlans = map[string]uint16{}
	}
	used := map[uint16]bool{}
	for _, vlan := range held {
		used[vlan] = true
	}
	next := uint16(1)
	for _, id := range slices.Sorted(slices.Values(needed)) {
		if vlans[id] != 0 {
			continue
		}
		for next <= maxVLAN && used[next] {
			next++
		}
		if next > maxVLAN {
			short = append(short, id)
			continue
		}
		vlans[id], used[next] = next, true
	}
	return vlans, short
}

const maxVLAN = 4094

// NeedVLAN lists the networks that this node has.
func NeedVLAN(v *view.View) []string {
	var out []string
	for id, n := range v.Networks {
		if n.Revision != 0 && n.Held() {
			out = append(out, id)
		}
	}
	return out
}
