package check

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/proto/keys"
)

// compare says what of weft's the host has too much, too little or otherwise.
func (e *expected) compare() findings {
	out := slices.Clone(e.host.found)
	if len(e.host.bridges) == 0 {
		return out // Open vSwitch does not answer, which has been found
	}
	e.compareVLANs(&out)
	e.compareBridges(&out)
	e.comparePorts(&out)
	e.comparePlugged(&out)
	e.compareFlows(&out)
	e.compareFilters(&out)
	e.compareServices(&out)
	return out
}

// vlans are the local VLANs that br-int's external_ids hold, by network.
func (h *host) vlans() map[string]int {
	out := map[string]int{}
	if b := h.bridges["br-int"]; b != nil {
		for key, value := range b.externalIDs {
			if network, ok := strings.CutPrefix(key, "weft-vlan-"); ok {
				out[network] = number(value)
			}
		}
	}
	return out
}

func (e *expected) compareVLANs(out *findings) {
	holder := map[int]string{}
	vlans := e.host.vlans()
	for _, network := range slices.Sorted(maps.Keys(vlans)) {
		vlan := vlans[network]
		if other := holder[vlan]; other != "" || vlan < 1 || vlan > 4094 {
			out.addf(Alone, e.node, "local VLAN %d is network %s's and network %s's", vlan, other, network)
		}
		holder[vlan] = network
		if !e.here[network] && !e.ready[network] {
			out.addf(Exact, e.node, "local VLAN %d is network %s's, which has nothing here", vlan, network)
		}
	}
	for network := range e.here {
		if vlans[network] == 0 {
			out.addf(Exact, e.node, "network %s has no local VLAN", network)
		}
	}
}

func (e *expected) compareBridges(out *findings) {
	for _, name := range []string{"br-int", "br-tun"} {
		b := e.host.bridges[name]
		if b == nil {
			out.addf(Exact, e.node, "bridge %s is missing", name)
			continue
		}
		if b.externalIDs["weft-owner"] == "" || b.failMode != "secure" {
			out.addf(Exact, e.node, "bridge %s: owner %q, fail_mode %q", name, b.externalIDs["weft-owner"], b.failMode)
		}
	}
}

func (e *expected) comparePorts(out *findings) {
	vlans := e.host.vlans()
	for name, p := range e.host.ports {
		if p.err != "" && p.owned() {
			out.addf(Exact, e.node, "interface %s: %s", name, p.err)
		}
		want, ok := e.ports[name]
		switch {
		case !p.owned():
		case !ok && name != p.bridge:
			out.addf(Exact, e.node, "port %s of %s is there; nothing calls for it", name, p.bridge)
		case ok:
			e.comparePort(out, p, want, vlans)
		}
	}
	for name, want := range e.ports {
		if p := e.host.ports[name]; p == nil && !want.optional {
			out.addf(Exact, e.node, "port %s of %s is missing", name, want.bridge)
		} else if p != nil && !p.owned() {
			out.addf(Exact, e.node, "port %s of %s is not weft's", name, p.bridge)
		}
	}
}

func (e *expected) comparePort(out *findings, p *port, want wantPort, vlans map[string]int) {
	if p.bridge != want.bridge || p.kind != want.kind || p.tag != vlans[want.network] {
		out.addf(Exact, e.node, "port %s is on %s, of type %q, with tag %d; it should be on %s, of type %q, with tag %d",
			p.name, p.bridge, p.kind, p.tag, want.bridge, want.kind, vlans[want.network])
	}
	if p.number == 0 {
		out.addf(Exact, e.node, "port %s has no OpenFlow number", p.name)
	}
	for key, value := range want.options {
		if p.options[key] != value {
			out.addf(Exact, e.node, "port %s: option %s is %q; it should be %q", p.name, key, p.options[key], value)
		}
	}
	if p.externalIDs["iface-id"] != want.ifaceID {
		out.addf(Exact, e.node, "port %s: iface-id is %q; it should be %q", p.name, p.externalIDs["iface-id"], want.ifaceID)
	}
}

// comparePlugged checks what others plugged: which interfaces the store knows of, and their tags.
func (e *expected) comparePlugged(out *findings) {
	plugged, vlans := e.host.plugged(), e.host.vlans()
	var known []string
	for key := range e.plugs {
		if k, err := keys.Parse(key); err == nil && k.Scope() == e.node {
			known = append(known, k.ID())
		}
	}
	e.sameSet(out, "plug of port", known, slices.Collect(maps.Keys(plugged)))
	for name, p := range e.host.ports {
		if p.bridge != "br-int" || p.owned() {
			continue
		}
		id, tag := p.externalIDs["iface-id"], 0
		if stored, ok := e.store.ports[id]; ok && plugged[id] == name && stored.msg.GetBoundHost() == e.node {
			tag = vlans[stored.msg.GetNetworkId()]
		}
		if noted := p.portIDs["weft-tag"]; (tag != 0 || noted != "") && (p.tag != tag || noted != text(tag)) {
			out.addf(Exact, e.node, "interface %s of port %s has tag %d, noted as %q; it should be %d", name, id, p.tag, noted, tag)
		}
	}
}

func text(tag int) string {
	if tag == 0 {
		return ""
	}
	return strconv.Itoa(tag)
}

func (e *expected) compareFlows(out *findings) {
	networks := map[int]string{}
	for network, vlan := range e.host.vlans() {
		networks[vlan] = network
	}
	policies, found := e.policyNames(out), conjunctions{}
	defer func() { e.compareConjunctions(out, found) }()
	for name, b := range e.host.bridges {
		w := words{b.portNames, networks, policies}
		seen := map[string]bool{}
		for _, f := range b.flows {
			if name == "br-int" && w.conjunctive(f, found) {
				continue
			}
			fromWire := name == "br-int" && strings.HasPrefix(w.port(f.match["in_port"]), "int-")
			toWire := name != "br-int" && name != "br-tun"
			place, does := w.place(f, fromWire), w.does(f, toWire)
			want, ok := e.flows[name][place]
			switch {
			case !ok:
				out.addf(Exact, e.node, "flow of %s at %s, which does %s: nothing calls for it", name, place, does)
			case seen[place]:
				out.addf(Exact, e.node, "flow of %s at %s is there twice", name, place)
			case !want.allows(does):
				out.addf(Exact, e.node, "flow of %s at %s does %s; it should do %s", name, place, does, want)
			}
			seen[place] = true
		}
		for place, want := range e.flows[name] {
			if !seen[place] && !want.optional {
				out.addf(Exact, e.node, "flow of %s at %s is missing; it should do %s", name, place, want)
			}
		}
	}
}

// allows reports whether actions are what the rule says.
func (r rule) allows(does string) bool {
	rest, ok := strings.CutPrefix(does, r.fixed)
	if !ok {
		return false
	}
	var to []string
	for _, a := range strings.FieldsFunc(rest, func(c rune) bool { return c == ',' }) {
		name, ok := strings.CutPrefix(a, "output:")
		if !ok || !slices.Contains(r.must, name) && !slices.Contains(r.may, name) {
			return false
		}
		to = append(to, name)
	}
	for _, name := range r.must {
		if !slices.Contains(to, name) {
			return false
		}
	}
	return true
}

func (r rule) String() string {
	out := r.fixed
	for _, name := range slices.Sorted(slices.Values(r.must)) {
		out += ",output:" + name
	}
	return out
}

// forwarders checks that the frames of a router's ports pass on the node that forwards for it and on no other (I4).
func (s *sight) forwarders() findings {
	var out findings
	for id := range s.store.routers {
		devices := map[string]bool{}
		for _, p := range s.store.legs(id) {
			devices[deviceName(p)] = true
		}
		for node, h := range s.hosts {
			if holder := s.store.holder(id); node != holder && h.passes(devices) {
				out.addf(Single, node, "router %s forwards here too; its node is %q", id, holder)
			}
		}
	}
	return out
}

// passes reports whether a flow of br-int takes frames from one of the devices, or gives them some.
func (h *host) passes(devices map[string]bool) bool {
	b := h.bridges["br-int"]
	if b == nil {
		return false
	}
	return slices.ContainsFunc(b.flows, func(f flow) bool {
		if devices[b.portNames[f.inPort()]] && !slices.Equal(f.actions, []string{drop}) {
			return true
		}
		return slices.ContainsFunc(f.outputs(), func(n int) bool { return devices[b.portNames[n]] })
	})
}
