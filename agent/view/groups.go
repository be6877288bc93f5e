package view

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// SecurityGroup is a security group with its rules.
type SecurityGroup struct {
	// Revision is 0 until the group's own key has been seen, or when it is not usable.
	Versioned[model.SecurityGroup]
	Rules map[string]Versioned[model.Rule]
}

// filters is what the view keeps of the ports' filters.
type filters struct {
	// inForce are, by port, the groups whose rules the port is under.
	inForce map[PortKey][]string
	// unsettled are local secure ports about whose groups something is still to be listed.
	unsettled map[PortKey]bool
	// remotes say, by address or prefix, which groups and address groups hold it, and how often.
	remotes map[netip.Prefix]map[string]int
	// members are the addresses of groups' members, by group and port; an address group's are under the port "".
	members map[string]map[string][]netip.Prefix
}

func newFilters() filters {
	return filters{
		inForce: map[PortKey][]string{}, unsettled: map[PortKey]bool{},
		remotes: map[netip.Prefix]map[string]int{}, members: map[string]map[string][]netip.Prefix{},
	}
}

// Groups are the security groups whose rules a secure port of this node is under: its own, once everything about them has
// been listed; until then those that it had before. False: it has none yet, and must pass nothing.
func (v *View) Groups(k PortKey) ([]string, bool) {
	groups, ok := v.filters.inForce[k]
	return groups, ok
}

// Under calls f with the ports of this node that are under one of some groups, or under one whose rules refer to one of them.
func (v *View) Under(groups map[string]bool, f func(PortKey)) {
	for k, under := range v.filters.inForce {
		if slices.ContainsFunc(under, func(id string) bool { return groups[id] || v.refers(id, groups) }) {
			f(k)
		}
	}
}

// refers reports whether a group's rules refer to one of some groups.
func (v *View) refers(id string, groups map[string]bool) bool {
	if g := v.SecurityGroups[id]; g != nil {
		for _, r := range g.Rules {
			if groups[r.Object.RemoteGroup] || groups[r.Object.RemoteAddressGroup] {
				return true
			}
		}
	}
	return false
}

// Settled reports whether the groups that a port is under are its own.
func (v *View) Settled(k PortKey) bool { return !v.filters.unsettled[k] }

// Holders are the security groups and address groups that hold an address or prefix, sorted.
func (v *View) Holders(p netip.Prefix) []string {
	var out []string
	for id := range v.filters.remotes[p] {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Addresses calls f with what a security group's members, or an address group, hold; with one held twice, twice.
func (v *View) Addresses(group string, f func(netip.Prefix)) {
	for _, addresses := range v.filters.members[group] {
		for _, p := range addresses {
			f(p)
		}
	}
}

// settle brings what a port is under up to date.
func (v *View) settle(k PortKey, d *Dirty) {
	f, n := &v.filters, v.Networks[k.Network]
	if n == nil || !n.Local[k.Port] || !n.Ports[k.Port].Object.Secure {
		delete(f.inForce, k)
		delete(f.unsettled, k)
		return
	}
	groups := n.Ports[k.Port].Object.Groups
	have, ok := f.inForce[k]
	switch {
	case ok && slices.Equal(have, groups):
		delete(f.unsettled, k)
	case !v.groupsListed(groups):
		f.unsettled[k] = true
	default:
		delete(f.unsettled, k)
		f.inForce[k] = groups
		d.Port(k)
	}
}

// settleAll is settle for the ports that wait.
func (v *View) settleAll(d *Dirty) {
	for k := range v.filters.unsettled {
		v.settle(k, d)
	}
}

// groupsListed reports whether everything about some groups is known.
func (v *View) groupsListed(groups []string) bool {
	scopes := map[string][]mirror.Range{}
	for _, g := range groups {
		v.groupScopes(g, scopes)
	}
	for name := range scopes {
		if !v.listed[name] {
			return false
		}
	}
	return true
}

// groupScopes adds the scopes of a group and of what its rules refer to.
func (v *View) groupScopes(id string, out map[string][]mirror.Range) {
	out[scopeGroup+id] = []mirror.Range{mirror.Exactly(keys.SecurityGroup(id)), mirror.Under(keys.Rules(id))}
	g := v.SecurityGroups[id]
	if g == nil {
		return
	}
	for _, r := range g.Rules {
		if remote := r.Object.RemoteGroup; remote != "" {
			out[scopeMembers+remote] = []mirror.Range{mirror.Under(keys.Members(remote))}
		}
		if remote := r.Object.RemoteAddressGroup; remote != "" {
			out[scopeAddresses+remote] = []mirror.Range{mirror.Exactly(keys.AddressGroup(remote))}
		}
	}
}

// filterScopes adds what the filters of the node's ports need: of the groups that they are to be under, and of those that
// they still are.
func (v *View) filterScopes(out map[string][]mirror.Range) {
	seen := map[string]bool{}
	add := func(groups []string) {
		for _, g := range groups {
			if !seen[g] {
				seen[g] = true
				v.groupScopes(g, out)
			}
		}
	}
	for _, groups := range v.filters.inForce {
		add(groups)
	}
	for k := range v.filters.unsettled {
		add(v.Networks[k.Network].Ports[k.Port].Object.Groups)
	}
}

func (v *View) groupScope(id string) *SecurityGroup {
	g := v.SecurityGroups[id]
	if g == nil {
		g = &SecurityGroup{Rules: map[string]Versioned[model.Rule]{}}
		v.SecurityGroups[id] = g
	}
	return g
}

func (v *View) securityGroup(id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.SecurityGroup{}, model.SecurityGroupFrom)
	if err == nil && obj.Revision != 0 && obj.Object.ID != id {
		err = misplaced("id", obj.Object.ID, id)
	}
	if err == nil {
		v.groupScope(id).Versioned = obj
	}
	d.Groups[id] = true
	return err
}

// rule takes a rule in. Unlike with other objects, one that can't be read does not stay what it was: it allows nothing.
func (v *View) rule(group, id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.SecurityGroupRule{}, model.RuleFrom)
	if err == nil && obj.Revision != 0 && (obj.Object.ID != id || obj.Object.Group != group) {
		err = misplaced("security group and id", obj.Object.Group+"/"+obj.Object.ID, group+"/"+id)
	}
	if err != nil {
		obj = Versioned[model.Rule]{}
	}
	put(v.groupScope(group).Rules, id, obj)
	d.Groups[group] = true
	v.settleAll(d)
	return err
}

// member takes a group's member in; one that can't be read is none.
func (v *View) member(group, port string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &storev1.Member{}, memberFrom)
	v.setMember(group, port, obj.Object, d)
	return err
}

func memberFrom(m *storev1.Member) ([]netip.Prefix, error) { return model.Addresses(m.GetAddresses()) }

// addressGroup takes an address group in; one that can't be read is empty.
func (v *View) addressGroup(id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.AddressGroup{}, model.AddressGroupFrom)
	if err == nil && obj.Revision != 0 && obj.Object.ID != id {
		err = misplaced("id", obj.Object.ID, id)
		obj.Object.Addresses = nil
	}
	v.setMember(id, "", obj.Object.Addresses, d)
	d.Groups[id] = true
	return err
}

// setMember notes the addresses that a group has by one of its members.
func (v *View) setMember(group, port string, now []netip.Prefix, d *Dirty) {
	f := &v.filters
	for _, p := range f.members[group][port] {
		if f.remotes[p][group]--; f.remotes[p][group] == 0 {
			delete(f.remotes[p], group)
		}
		if len(f.remotes[p]) == 0 {
			delete(f.remotes, p)
		}
		d.Addresses[p] = true
	}
	if len(now) == 0 {
		delete(f.members[group], port)
		if len(f.members[group]) == 0 {
			delete(f.members, group)
		}
		return
	}
	if f.members[group] == nil {
		f.members[group] = map[string][]netip.Prefix{}
	}
	f.members[group][port] = now
	for _, p := range now {
		if f.remotes[p] == nil {
			f.remotes[p] = map[string]int{}
		}
		f.remotes[p][group]++
		d.Addresses[p] = true
	}
}

// dropGroup forgets a security group.
func (v *View) dropGroup(id string, d *Dirty) {
	delete(v.SecurityGroups, id)
	v.forgetInvalid(keys.SecurityGroup(id), keys.Rules(id))
	d.Groups[id] = true
}

// dropAddresses forgets the members of a security group, or an address group, and what is broken under the keys.
func (v *View) dropAddresses(id, prefix string, d *Dirty) {
	for port := range v.filters.members[id] {
		v.setMember(id, port, nil, d)
	}
	v.forgetInvalid(prefix)
	d.Groups[id] = true
}
