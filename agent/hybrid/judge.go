package hybrid

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/proto/model"
)

// Connection is one that conntrack knows, as it began.
type Connection struct {
	Zone           uint16
	Protocol       model.Protocol
	Source, Target netip.Addr
	TargetPort     uint16
}

// Judge tells which connections began under filters that have changed since. What a rule that went had allowed has to be
// removed from conntrack: of such a connection nothing more passes to where it began, but what comes back would.
type Judge struct {
	ports   []Port
	rules   map[string][]model.Rule
	members map[string]addresses
}

// addresses are a set: whole prefixes, and single addresses for a quick look.
type addresses struct {
	single   map[netip.Addr]bool
	prefixes []netip.Prefix
}

func (a addresses) contains(ip netip.Addr) bool {
	return a.single[ip] || slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// NewJudge prepares to judge by filters, which must not change meanwhile.
func NewJudge(f Filters) *Judge {
	j := &Judge{ports: f.Ports, rules: f.Rules, members: map[string]addresses{}}
	for id, prefixes := range f.Members {
		set := addresses{single: map[netip.Addr]bool{}}
		for _, p := range prefixes {
			if p.IsSingleIP() {
				set.single[p.Addr()] = true
			} else {
				set.prefixes = append(set.prefixes, p)
			}
		}
		j.members[id] = set
	}
	return j
}

// Forbids reports whether a port that the connection is from or to would not let it begin now. Of ICMP, whose type conntrack
// does not tell, that takes that no type is allowed. DHCP, which needs no rule, is let be.
func (j *Judge) Forbids(c Connection) bool {
	if c.Protocol == model.ProtocolUDP && slices.Contains([]uint16{67, 68, 546, 547}, c.TargetPort) {
		return false
	}
	for _, p := range j.ports {
		if p.Zone == c.Zone && p.Stateful &&
			(p.has(c.Source) && !j.allows(p, false, c) || p.has(c.Target) && !j.allows(p, true, c)) {
			return true
		}
	}
	return false
}

func (p *Port) has(ip netip.Addr) bool {
	return slices.ContainsFunc(p.Sources, func(s model.AddressPair) bool { return s.Prefix.Contains(ip) })
}

func (j *Judge) allows(p Port, ingress bool, c Connection) bool {
	return slices.ContainsFunc(p.Groups, func(group string) bool {
		return slices.ContainsFunc(j.rules[group], func(r model.Rule) bool { return r.Ingress == ingress && j.admits(r, c) })
	})
}

func (j *Judge) admits(r model.Rule, c Connection) bool {
	remote := c.Target
	if r.Ingress {
		remote = c.Source
	}
	switch {
	case r.IPv6 != remote.Is6():
		return false
	case r.Protocol != model.AnyProtocol && r.Protocol != c.Protocol:
		return false
	case r.Protocol.HasPorts() && (c.TargetPort < r.Ports.Min || c.TargetPort > r.Ports.Max):
		return false
	case r.RemoteGroup+r.RemoteAddressGroup != "":
		return j.members[r.RemoteGroup+r.RemoteAddressGroup].contains(remote)
	default:
		return !r.Prefix.IsValid() || r.Prefix.Contains(remote)
	}
}
