package view

import (
	"strings"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
)

// Names of the scopes. A scope of one object is the prefix with the object's id.
const (
	scopeHost    = "host"
	scopeAgents  = "agents"
	scopeNetwork = "network/"
	scopeRouter  = "router/"
	scopeActive  = "active/"
	scopeLive    = "live/"
	// The security groups of the node's ports, the members of groups and the address groups that their rules refer to.
	scopeGroup     = "securitygroup/"
	scopeMembers   = "member/"
	scopeAddresses = "addressgroup/"
)

// Scopes is everything that the node has to follow, as far as the view shows it: what is bound to it and all nodes; each
// network with a port, a DHCP server or a router of this node; each router planned here; who is active for each router with
// a port on one of these networks; whether the agents of its peers are alive; and the groups of the node's secure ports, with
// the addresses that their rules speak of.
func (v *View) Scopes() map[string][]mirror.Range {
	out := map[string][]mirror.Range{
		scopeHost:   {mirror.Under(keys.Host(v.Self))},
		scopeAgents: {mirror.Under(keys.All(keys.FamilyAgent))},
	}
	network := func(id string) {
		if out[scopeNetwork+id] == nil && id != "" {
			out[scopeNetwork+id] = []mirror.Range{
				mirror.Exactly(keys.Network(id)), mirror.Under(keys.Subnets(id)), mirror.Under(keys.Ports(id)),
			}
		}
	}
	for _, b := range v.HostPorts {
		if b.Refused == "" {
			network(b.Network)
		}
	}
	for id := range v.HostDHCP {
		network(id)
	}
	for id := range v.HostRouters {
		out[scopeRouter+id] = []mirror.Range{mirror.Exactly(keys.Router(id)), mirror.Under(keys.FloatingIPs(id))}
		out[scopeActive+id] = []mirror.Range{mirror.Exactly(keys.Active(id))}
		if r := v.Routers[id]; r != nil {
			for _, n := range r.networks() {
				network(n)
			}
		}
	}
	for _, peer := range v.Peers() {
		out[scopeLive+peer] = []mirror.Range{mirror.Exactly(keys.Live(peer)), mirror.Exactly(keys.Witness(peer))}
	}
	v.activeScopes(out)
	v.filterScopes(out)
	return out
}

// activeScopes adds the routers with a port on a tunnelled network: there the nodes' tunnels must know where it lives. On
// provider networks the fabric learns it.
func (v *View) activeScopes(out map[string][]mirror.Range) {
	for router, ports := range v.routerPorts {
		for k := range ports {
			if n := v.Networks[k.Network]; out[scopeNetwork+k.Network] != nil && n.Revision != 0 && n.Object.Tunnelled() {
				out[scopeActive+router] = []mirror.Range{mirror.Exactly(keys.Active(router))}
				break
			}
		}
	}
}

// Complete reports whether everything that the node has to follow has been listed: until then nothing on the host may be
// changed (promise I2).
func (v *View) Complete() bool {
	for name := range v.Scopes() {
		if !v.listed[name] {
			return false
		}
	}
	return true
}

// NetworkReady reports whether the network's scope has been listed.
func (v *View) NetworkReady(id string) bool { return v.listed[scopeNetwork+id] }

// RouterReady reports whether the router's scope and those of its networks have been listed.
func (v *View) RouterReady(id string) bool {
	if !v.listed[scopeRouter+id] || !v.listed[scopeActive+id] {
		return false
	}
	for _, n := range v.routerScope(id).networks() {
		if !v.NetworkReady(n) {
			return false
		}
	}
	return true
}

func (v *View) markListed(scope string, d *Dirty) {
	v.listed[scope] = true
	if id, ok := strings.CutPrefix(scope, scopeNetwork); ok {
		v.allOfNetwork(id, d)
	}
	if id, ok := strings.CutPrefix(scope, scopeRouter); ok {
		d.Routers[id] = true
	}
	if id, ok := strings.CutPrefix(scope, scopeActive); ok {
		d.Routers[id], d.Actives[id] = true, true
		for k := range v.routerPorts[id] {
			d.Port(k)
		}
	}
	for _, kind := range []string{scopeGroup, scopeMembers, scopeAddresses} {
		if id, ok := strings.CutPrefix(scope, kind); ok {
			d.Groups[id] = true
			v.settleAll(d)
		}
	}
}

// Drop forgets a scope that is no longer followed, and marks what hung on it.
func (v *View) Drop(scope string, d *Dirty) {
	delete(v.listed, scope)
	if id, ok := strings.CutPrefix(scope, scopeNetwork); ok {
		v.dropNetwork(id, d)
	}
	if id, ok := strings.CutPrefix(scope, scopeRouter); ok {
		delete(v.Routers, id)
		v.forgetInvalid(keys.Router(id), keys.FloatingIPs(id))
		d.Routers[id] = true
	}
	if id, ok := strings.CutPrefix(scope, scopeActive); ok {
		delete(v.Active, id)
		delete(v.written, id)
		delete(v.hushed, id)
		for k := range v.routerPorts[id] {
			v.locate(k, d)
		}
	}
	if id, ok := strings.CutPrefix(scope, scopeGroup); ok {
		v.dropGroup(id, d)
	}
	if id, ok := strings.CutPrefix(scope, scopeMembers); ok {
		v.dropAddresses(id, keys.Members(id), d)
	}
	if id, ok := strings.CutPrefix(scope, scopeAddresses); ok {
		v.dropAddresses(id, keys.AddressGroup(id), d)
	}
	if node, ok := strings.CutPrefix(scope, scopeLive); ok {
		delete(v.Live, node)
		delete(v.Witness, node)
		d.Peers = true
	}
}

func (v *View) dropNetwork(id string, d *Dirty) {
	v.allOfNetwork(id, d)
	n := v.Networks[id]
	delete(v.Networks, id)
	for port, p := range n.Ports {
		v.indexRouterPort(n, PortKey{id, port}, p.Object, model.Port{})
		v.settle(PortKey{id, port}, d)
	}
	v.forgetInvalid(keys.Network(id), keys.Subnets(id), keys.Ports(id))
}

// forgetInvalid drops what is known of broken objects below the prefixes.
func (v *View) forgetInvalid(prefixes ...string) {
	for key := range v.Invalid {
		for _, p := range prefixes {
			if strings.HasPrefix(key, p) {
				delete(v.Invalid, key)
			}
		}
	}
}

// InvalidUnder gives, by id, the objects directly below a prefix that can't be used.
func (v *View) InvalidUnder(prefix string) map[string]Invalid {
	out := map[string]Invalid{}
	for key, bad := range v.Invalid {
		if id, ok := strings.CutPrefix(key, prefix); ok {
			out[id] = bad
		}
	}
	return out
}

// Unread reports whether an object can't be used of which no usable version has been seen either: what the host may have of
// it is then not in any plan.
func (v *View) Unread() bool {
	for key := range v.Invalid {
		if k, err := keys.Parse(key); err == nil && !v.holds(k) {
			return true
		}
	}
	return false
}

// holds reports whether the view has a usable version of the object under a key.
func (v *View) holds(k keys.Key) bool {
	var held bool
	switch k.Family { //nolint:exhaustive // the families that an agent follows
	case keys.FamilyNetwork:
		held = v.Networks[k.ID()] != nil && v.Networks[k.ID()].Revision != 0
	case keys.FamilySubnet:
		if n := v.Networks[k.Scope()]; n != nil {
			_, held = n.Subnets[k.ID()]
		}
	case keys.FamilyPort:
		if n := v.Networks[k.Scope()]; n != nil {
			_, held = n.Ports[k.ID()]
		}
	case keys.FamilyRouter:
		held = v.Routers[k.ID()] != nil && v.Routers[k.ID()].Revision != 0
	case keys.FamilyFloatingIP:
		if r := v.Routers[k.Scope()]; r != nil {
			_, held = r.FloatingIPs[k.ID()]
		}
	case keys.FamilyActive:
		_, held = v.Active[k.ID()]
	case keys.FamilyAgent:
		_, held = v.Nodes[k.ID()]
	case keys.FamilyLive, keys.FamilyWitness:
		held = true // nothing on the host is planned from it
	case keys.FamilySecurityGroup, keys.FamilyRule, keys.FamilyMember, keys.FamilyAddressGroup:
		held = true // one that can't be read allows nothing, and that is the plan
	case keys.FamilyHost:
		held = v.bound(k)
	}
	return held
}

func (v *View) bound(k keys.Key) bool {
	switch k.Kind() {
	case keys.KindPort:
		_, ok := v.HostPorts[k.ID()]
		return ok
	case keys.KindDHCP:
		_, ok := v.HostDHCP[k.ID()]
		return ok
	default:
		return v.Planned(k.ID())
	}
}
