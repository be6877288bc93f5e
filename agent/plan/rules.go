package plan

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// policy is a set of security groups that some port of the node is under. Its rules are flows that match its number, however
// many ports there are.
type policy struct {
	groups []string
	number uint32
	// stateless: each packet is judged by itself.
	stateless bool
	ports     map[view.PortKey]bool
	remotes   []remote // that its rules refer to
}

// policyKey names a set of groups, which are sorted.
func policyKey(groups []string) string { return strings.Join(groups, ",") }

// remote is the far end of rules that refer to a security group or an address group: one conjunction, which holds for what
// such a rule of any policy is about, and for what the group holds.
type remote struct {
	group   string
	ingress bool
	ipv6    bool
}

func (r remote) key() string {
	return r.group + "/" + strconv.FormatBool(r.ingress) + "/" + strconv.FormatBool(r.ipv6)
}

// numbers gives each name a number of its own, at least 1, that depends on nothing but the set of names: a restarted agent
// gives out the same ones.
func numbers(names []string) map[string]uint32 {
	out, taken := make(map[string]uint32, len(names)), make(map[uint32]bool, len(names))
	for _, name := range slices.Sorted(slices.Values(names)) {
		h := fnv.New32a()
		_, _ = h.Write([]byte(name)) // never fails
		n := h.Sum32()
		for n == 0 || taken[n] {
			n++
		}
		out[name], taken[n] = n, true
	}
	return out
}

// stateless reports whether all groups there are say so.
func stateless(v *view.View, groups []string) bool {
	for _, id := range groups {
		if g := v.SecurityGroups[id]; g == nil || g.Revision == 0 || g.Object.Stateful {
			return false
		}
	}
	return len(groups) > 0
}

// rulesOf are the rules of a policy.
func rulesOf(v *view.View, groups []string) []model.Rule {
	var out []model.Rule
	for _, id := range groups {
		if g := v.SecurityGroups[id]; g != nil {
			for _, r := range g.Rules {
				out = append(out, r.Object)
			}
		}
	}
	return out
}

// remoteOf is what a rule refers to, if it does.
func remoteOf(r model.Rule) (remote, bool) {
	id := r.RemoteGroup + r.RemoteAddressGroup // at most one is set
	return remote{id, r.Ingress, r.IPv6}, id != ""
}

func remotesOf(rules []model.Rule) []remote {
	var out []remote
	for _, r := range rules {
		if far, ok := remoteOf(r); ok && !slices.Contains(out, far) {
			out = append(out, far)
		}
	}
	return out
}

func tableOf(ingress bool) uint8 {
	if ingress {
		return intIngress
	}
	return intEgress
}

// policyFlows are a policy's rules. Rules that refer to a group are one dimension of its conjunction: those of several groups
// may be about the same packets, and are then one flow.
func policyFlows(rules []model.Rule, number uint32, conjunction map[string]uint32) Flows {
	out := Flows{}
	type place struct {
		table uint8
		key   flow.Key
	}
	dimension, matches := map[place][]flow.Action{}, map[place]flow.Match{}
	for _, r := range rules {
		far, conjunctive := remoteOf(r)
		for _, m := range ruleMatches(r) {
			m = m.With(flow.Reg(regPolicy, number))
			if !conjunctive {
				out.add(BrInt, tableOf(r.Ingress), prioRule, m, flow.GotoTable(intAccept))
				continue
			}
			p := place{tableOf(r.Ingress), flow.Flow{Match: m}.Key()}
			matches[p] = m
			if a := flow.Conjunction(conjunction[far.key()], 1, 2); !slices.Contains(dimension[p], a) {
				dimension[p] = append(dimension[p], a)
			}
		}
	}
	for p, actions := range dimension {
		out.add(BrInt, p.table, prioConjunction, matches[p], sortConjunctions(actions)...)
	}
	return out
}

// sortConjunctions puts them into one order, whatever order they were found in.
func sortConjunctions(actions []flow.Action) []flow.Action {
	slices.SortFunc(actions, func(a, b flow.Action) int { return int(int64(a.Value) - int64(b.Value)) }) //nolint:gosec // 32 bits
	return actions
}

// remoteFlows say what becomes of packets for which a remote's conjunction holds.
func remoteFlows(r remote, id uint32) Flows {
	out := Flows{}
	out.add(BrInt, tableOf(r.ingress), prioConjunction, flow.NewMatch(flow.ConjID(id), family(r.ipv6)), flow.GotoTable(intAccept))
	return out
}

// addressFlows are the other dimension of conjunctions: an address, or prefix, and all of the remotes that hold it.
func addressFlows(p netip.Prefix, holders []string, conjunction map[string]uint32) Flows {
	out := Flows{}
	for _, ingress := range []bool{false, true} {
		var actions []flow.Action
		for _, id := range holders {
			if n := conjunction[remote{id, ingress, p.Addr().Is6()}.key()]; n != 0 {
				actions = append(actions, flow.Conjunction(n, 2, 2))
			}
		}
		if len(actions) > 0 {
			out.add(BrInt, tableOf(ingress), prioConjunction, flow.NewMatch(farEnd(p, ingress)...), sortConjunctions(actions)...)
		}
	}
	return out
}

func family(ipv6 bool) flow.Term {
	if ipv6 {
		return flow.IPv6()
	}
	return flow.IPv4()
}

// farEnd matches the far end of a port's packets by address.
func farEnd(p netip.Prefix, ingress bool) []flow.Term {
	out := []flow.Term{family(p.Addr().Is6())}
	if p.Bits() == 0 {
		return out
	}
	switch {
	case p.Addr().Is6() && ingress:
		return append(out, flow.IPv6Src(p))
	case p.Addr().Is6():
		return append(out, flow.IPv6Dst(p))
	case ingress:
		return append(out, flow.IPv4Src(p))
	default:
		return append(out, flow.IPv4Dst(p))
	}
}

// ruleMatches are the packets that a rule is about, but for its remote group. Later fragments have neither ports nor types:
// they pass by their addresses and protocol alone, and are of no use to a receiver that did not get the first.
func ruleMatches(r model.Rule) []flow.Match {
	terms := []flow.Term{family(r.IPv6)}
	if r.Prefix.IsValid() {
		terms = farEnd(r.Prefix, r.Ingress)
	}
	if r.Protocol == model.AnyProtocol {
		return []flow.Match{flow.NewMatch(terms...)}
	}
	all := flow.NewMatch(append(terms, flow.IPProto(uint8(r.Protocol)))...) //nolint:gosec // checked by package model: 0..255
	var out []flow.Match
	for _, more := range finer(r) {
		out = append(out, all.With(more...))
	}
	if out == nil {
		return nil
	}
	if len(out[0]) > len(all) {
		out = append(out, all.With(flow.LaterFragment()))
	}
	return out
}

// finer are the alternatives of ports, or of type and code, that a rule is about: one that has no terms when it is about all,
// none when Open vSwitch can't tell them.
func finer(r model.Rule) [][]flow.Term {
	if r.Type >= 0 {
		return [][]flow.Term{typeAndCode(r)}
	}
	if r.Ports == model.AllPorts() {
		return [][]flow.Term{nil}
	}
	var out [][]flow.Term
	if field := portField(r.Protocol); field != flow.FieldNone {
		for _, m := range portMasks(r.Ports) {
			out = append(out, []flow.Term{flow.PortDst(field, m.value, m.mask)})
		}
	}
	return out
}

func typeAndCode(r model.Rule) []flow.Term {
	kind, code := flow.FieldICMPType, flow.FieldICMPCode
	if r.IPv6 {
		kind, code = flow.FieldICMPv6Type, flow.FieldICMPv6Code
	}
	out := []flow.Term{flow.Type(kind, uint8(r.Type))} //nolint:gosec // checked by package model: 0..255
	if r.Code >= 0 {
		out = append(out, flow.Code(code, uint8(r.Code))) //nolint:gosec // likewise
	}
	return out
}

// portField is the field of a protocol's destination port; FieldNone for one whose ports Open vSwitch does not read.
func portField(p model.Protocol) flow.Field {
	switch p {
	case model.ProtocolTCP:
		return flow.FieldTCPDst
	case model.ProtocolUDP:
		return flow.FieldUDPDst
	case model.ProtocolSCTP:
		return flow.FieldSCTPDst
	default:
		return flow.FieldNone
	}
}

// Enforceable reports whether the node's flows can tell the packets that a rule is about; else it allows nothing.
func Enforceable(r model.Rule) bool { return len(ruleMatches(r)) > 0 }

// portMask is a choice of ports: those that have value in the bits of mask.
type portMask struct {
	value, mask uint16
}

// portMasks is the fewest that make up a range, at most 30: each takes the largest aligned block that fits.
func portMasks(r model.PortRange) []portMask {
	var out []portMask
	for at, end := uint32(r.Min), uint32(r.Max); at <= end; {
		size := uint32(1)
		for at&(2*size-1) == 0 && at+2*size-1 <= end && size < 1<<16 {
			size *= 2
		}
		out = append(out, portMask{uint16(at), uint16(^(size - 1))}) //nolint:gosec // the low 16 bits
		at += size
	}
	return out
}

// planFilters brings the policies up to date with the ports and groups that are dirty.
func (u *update) planFilters(dirty *view.Dirty) {
	stale := map[string]bool{}
	for k := range dirty.Ports {
		if u.view.Networks[k.Network] == nil || u.view.NetworkReady(k.Network) {
			u.enlist(k, stale)
		}
	}
	for key, p := range u.policies {
		if slices.ContainsFunc(p.groups, func(g string) bool { return dirty.Groups[g] }) {
			stale[key] = true
		}
	}
	if len(stale) > 0 {
		u.renumber(stale, dirty)
	}
	for key := range stale {
		u.planPolicy(key, dirty)
	}
	u.planRemotes(stale, dirty)
	for p := range dirty.Addresses {
		u.set(piece{kind: "address", id: p.String()}, addressFlows(p, u.view.Holders(p), u.conjunctions), nil)
	}
}

// enlist notes which policy a port is under, and which policies have come or gone by it.
func (u *update) enlist(k view.PortKey, stale map[string]bool) {
	groups, secure := u.guards(k)
	key := policyKey(groups)
	if old, had := u.under[k]; had && (!secure || old != key) {
		delete(u.under, k)
		if delete(u.policies[old].ports, k); len(u.policies[old].ports) == 0 {
			delete(u.policies, old)
			stale[old] = true
		}
	}
	if !secure {
		return
	}
	if u.policies[key] == nil {
		u.policies[key] = &policy{groups: groups, ports: map[view.PortKey]bool{}}
		stale[key] = true
	}
	u.policies[key].ports[k], u.under[k] = true, key
}

// guards are the groups that a port is under; false when it has no flows, or none of filters.
func (u *update) guards(k view.PortKey) ([]string, bool) {
	n := u.view.Networks[k.Network]
	if n == nil || n.Revision == 0 || !n.Object.Up || u.facts.VLANs[k.Network] == 0 {
		return nil, false
	}
	groups, _ := u.view.Groups(k)
	_, ok := filteredPort(u.view, u.facts, n.Ports[k.Port].Object)
	return groups, ok
}

// renumber gives policies their numbers. One that gets another is planned anew with its ports: of two whose numbers would be
// the same, the later one by name may have to give way to one that is new.
func (u *update) renumber(stale map[string]bool, dirty *view.Dirty) {
	for key, n := range numbers(slices.Collect(maps.Keys(u.policies))) {
		if p := u.policies[key]; p.number != n {
			p.number, stale[key] = n, true
			p.markPorts(dirty)
		}
	}
}

func (p *policy) markPorts(dirty *view.Dirty) {
	for k := range p.ports {
		dirty.Ports[k] = true
	}
}

// planPolicy reads a policy's groups anew. Its flows follow, in planRemotes, when the conjunctions have their numbers.
func (u *update) planPolicy(key string, dirty *view.Dirty) {
	p := u.policies[key]
	if p == nil {
		u.set(piece{kind: "policy", id: key}, nil, nil)
		return
	}
	if now := stateless(u.view, p.groups); now != p.stateless {
		p.stateless = now
		p.markPorts(dirty)
	}
	p.remotes = remotesOf(rulesOf(u.view, p.groups))
}

// planRemotes brings the conjunctions up to date, marks the addresses of those that have come, gone or changed, and plans the
// flows of stale policies.
func (u *update) planRemotes(stale map[string]bool, dirty *view.Dirty) {
	if len(stale) == 0 {
		return
	}
	used, names := map[string]remote{}, []string{}
	for _, p := range u.policies {
		for _, r := range p.remotes {
			if _, known := used[r.key()]; !known {
				used[r.key()], names = r, append(names, r.key())
			}
		}
	}
	now := numbers(names)
	for name, r := range u.remotes {
		if now[name] == 0 {
			u.set(piece{kind: "remote", id: name}, nil, nil)
			u.view.Addresses(r.group, func(p netip.Prefix) { dirty.Addresses[p] = true })
		}
	}
	for name, r := range used {
		if now[name] == u.conjunctions[name] {
			continue
		}
		u.set(piece{kind: "remote", id: name}, remoteFlows(r, now[name]), nil)
		u.view.Addresses(r.group, func(p netip.Prefix) { dirty.Addresses[p] = true })
		for key, p := range u.policies {
			if slices.Contains(p.remotes, r) {
				stale[key] = true
			}
		}
	}
	u.remotes, u.conjunctions = used, now
	for key := range stale {
		if p := u.policies[key]; p != nil {
			u.set(piece{kind: "policy", id: key}, policyFlows(rulesOf(u.view, p.groups), p.number, now), nil)
		}
	}
}

// policyOf is what a port is under; nil when it is not secure, or must pass nothing yet.
func (u *update) policyOf(k view.PortKey) *policy {
	if key, ok := u.under[k]; ok {
		return u.policies[key]
	}
	return nil
}
