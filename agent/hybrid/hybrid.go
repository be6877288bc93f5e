// Package hybrid plans the filters of VMs that are plugged the hybrid way (REFERENCE R12, R13): a VM's device tapX and the
// device qvbX are the ports of a Linux bridge of its own, qbrX, and qvbX's other end, qvoX, is the port of br-int. The bridge
// is made by whoever plugs the VM. Its frames pass iptables and ip6tables (br_netfilter), where the rules of the VM's security
// groups are chains, and the members of groups that rules refer to are IP sets.
//
// What is planned means the same as the flows by which br-int filters VMs that are plugged straight. One part is left to
// br-int in both cases: that MAC addresses, ARP and neighbour discovery are the port's own, and that nothing but IP and ARP
// passes. The package is pure; agent/iptables and agent/ipset hold the host to the plan.
package hybrid

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/proto/model"
)

// Port is one VM's port.
type Port struct {
	ID string
	// Tap is the VM's device, Out the bridge's other port.
	Tap, Out string
	// Sources are what the VM may send from: its own addresses with its MAC, and its address pairs.
	Sources []model.AddressPair
	// Servers are the MAC addresses of its network's DHCP servers, whose answers need no rule. Sorted.
	Servers []string
	// Zone is the conntrack zone of its network: addresses of different networks may be the same. Not 0.
	Zone uint16
	// Groups are its security groups. Stateful: what belongs to a connection that a rule allowed passes both ways.
	Groups   []string
	Stateful bool
}

// Filters is all there is to filter on a node.
type Filters struct {
	Ports []Port
	// Rules are those of each group that a port is in.
	Rules map[string][]model.Rule
	// Members are the addresses of each security group and address group that one of Rules refers to.
	Members map[string][]netip.Prefix
	// ProtocolNames are the names that iptables-save gives protocols (protocols(5)), by number.
	ProtocolNames map[model.Protocol]string
}

// Without are the filters when some rules allow nothing.
func (f Filters) Without(refused map[model.Rule]error) Filters {
	if len(refused) == 0 {
		return f
	}
	left := make(map[string][]model.Rule, len(f.Rules))
	for group, rules := range f.Rules {
		left[group] = slices.DeleteFunc(slices.Clone(rules), func(r model.Rule) bool { return refused[r] != nil })
	}
	f.Rules = left
	return f
}

// Text is a rule as it stands in the chain of its group; false for one that no packet fits, which has none.
func (f Filters) Text(r model.Rule) (string, bool) { return family{Filters: f, ipv6: r.IPv6}.rule(r) }

// SetOf is the name of the IP set that a rule refers to; "" if it refers to none.
func SetOf(r model.Rule) string {
	if group := r.RemoteGroup + r.RemoteAddressGroup; group != "" {
		return setName(group, r.IPv6)
	}
	return ""
}

// Plan is what a node needs in its own network namespace.
type Plan struct {
	IPv4, IPv6 desired.IPTables
	Sets       []desired.IPSet
}

// ChainPrefix begins the name of every chain that is planned here, and of no other.
const ChainPrefix = "weft-sg-"

// The chains of each family. A port's chains, and a group's, have the begin of its id in their names.
const (
	ChainForward = "weft-sg-FORWARD" // which device's frames pass which port's chains

	chainInput = "weft-sg-INPUT"
	chainZones = "weft-sg-zones"

	toPort    = "weft-sg-i" // what is delivered to a port
	fromPort  = "weft-sg-o" // what it sends
	source    = "weft-sg-s" // from which addresses
	toGroup   = "weft-sg-I" // what its group lets in
	fromGroup = "weft-sg-O" // and out
)

// portChain is a port's chain: as much of the port's id as names its device (REFERENCE R9).
func portChain(prefix, id string) string { return prefix + id[:min(11, len(id))] }

// groupChain is a group's chain: as much of the group's id as fits into 28 characters (agent/iptables).
func groupChain(prefix, id string) string {
	id = strings.ReplaceAll(id, "-", "")
	return prefix + id[:min(19, len(id))]
}

// setName is the name of a group's IP set, of one family; at most 31 characters (linux/netfilter/ipset/ip_set.h).
func setName(id string, ipv6 bool) string {
	family := "4-"
	if ipv6 {
		family = "6-"
	}
	id = strings.ReplaceAll(id, "-", "")
	return desired.IPSetPrefix + family + id[:min(24, len(id))]
}

// New plans the filters. The order of what is given does not matter.
func New(f Filters) Plan {
	ports := slices.SortedFunc(slices.Values(f.Ports), func(a, b Port) int { return cmp.Compare(a.ID, b.ID) })
	out := Plan{}
	if len(ports) == 0 {
		return out
	}
	out.IPv4 = family{Filters: f, ports: ports}.tables()
	out.IPv6 = family{Filters: f, ports: ports, ipv6: true}.tables()
	for _, id := range slices.Sorted(maps.Keys(f.Members)) {
		for _, ipv6 := range []bool{false, true} {
			out.Sets = append(out.Sets, desired.IPSet{Name: setName(id, ipv6), IPv6: ipv6, Members: ofFamily(f.Members[id], ipv6)})
		}
	}
	return out
}

// Taps are the VMs' devices of a chain of ChainForward's rules.
func Taps(rules []string) map[string]bool {
	out := map[string]bool{}
	for _, rule := range rules {
		if _, after, ok := strings.Cut(rule, "--physdev-out "); ok {
			device, _, _ := strings.Cut(after, " ")
			out[device] = true
		}
	}
	return out
}

// ofFamily are the prefixes of one family, sorted, each once. The whole of a family, which a set can't hold (ipset(8),
// hash:net), is its two halves.
func ofFamily(in []netip.Prefix, ipv6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		switch {
		case p.Addr().Is6() != ipv6:
		case p.Bits() == 0:
			out = append(out, netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(half(ipv6), 1))
		default:
			out = append(out, p)
		}
	}
	slices.SortFunc(out, model.ComparePrefixes)
	return slices.Compact(out)
}

func half(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16([16]byte{0x80})
	}
	return netip.AddrFrom4([4]byte{0x80})
}

// family plans the tables of one family of addresses.
type family struct {
	Filters
	ports []Port
	ipv6  bool
}

func (f family) tables() desired.IPTables {
	var forward, input, zones []string
	out := desired.IPTables{Jumps: []desired.Jump{
		{Table: "filter", Builtin: "FORWARD", Target: ChainForward, First: true},
		{Table: "filter", Builtin: "INPUT", Target: chainInput, First: true},
		{Table: "raw", Builtin: "PREROUTING", Target: chainZones, First: true},
	}}
	add := func(table, name string, rules []string) {
		out.Chains = append(out.Chains, desired.Chain{Table: table, Name: name, Rules: rules})
	}
	groups := map[string]bool{}
	for _, p := range f.ports {
		forward = append(forward,
			fmt.Sprintf("-m physdev --physdev-out %s --physdev-is-bridged -j %s", p.Tap, portChain(toPort, p.ID)),
			fmt.Sprintf("-m physdev --physdev-in %s --physdev-is-bridged -j %s", p.Tap, portChain(fromPort, p.ID)))
		// What a VM sends to the host itself, by its bridge.
		input = append(input, fmt.Sprintf("-m physdev --physdev-in %s -j DROP", p.Tap))
		for _, device := range []string{p.Tap, p.Out} {
			zones = append(zones, fmt.Sprintf("-m physdev --physdev-in %s -j CT %s", device, tracking(p)))
		}
		add("filter", portChain(toPort, p.ID), f.ingress(p))
		add("filter", portChain(fromPort, p.ID), f.egress(p))
		add("filter", portChain(source, p.ID), f.sources(p))
		for _, g := range p.Groups {
			groups[g] = true
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		add("filter", groupChain(toGroup, g), f.groupRules(g, true))
		add("filter", groupChain(fromGroup, g), f.groupRules(g, false))
	}
	add("filter", ChainForward, forward)
	add("filter", chainInput, input)
	add("raw", chainZones, zones)
	return out
}

func tracking(p Port) string {
	if !p.Stateful {
		return "--notrack"
	}
	return "--zone " + strconv.Itoa(int(p.Zone))
}

// ingress is what may be delivered to a port.
func (f family) ingress(p Port) []string {
	var out []string
	if !f.ipv6 {
		for _, mac := range p.Servers {
			out = append(out, "-p udp -m udp --sport 67 --dport 68 -m mac --mac-source "+mac+" -j ACCEPT")
		}
	}
	return append(append(out, f.discovery(130, 134, 135, 136)...), f.judged(p, toGroup)...)
}

// egress is what a port may send. Addresses are asked for before there are any, and never given by a VM; a VM is no router.
func (f family) egress(p Port) []string {
	out := f.before()
	out = append(out, "-j "+portChain(source, p.ID))
	if f.ipv6 {
		out = append(out, "-p udp -m udp --sport 546 --dport 547 -j ACCEPT")
		out = append(out, f.discovery(131, 132, 133, 135, 136, 143)...)
		out = append(out, "-p udp -m udp --dport 546 -j DROP", icmp6(134)+"-j DROP", icmp6(137)+"-j DROP")
	} else {
		out = append(out, "-p udp -m udp --sport 68 --dport 67 -j ACCEPT", "-p udp -m udp --dport 68 -j DROP", "-p icmp -m icmp --icmp-type 5 -j DROP")
	}
	return append(out, f.judged(p, fromGroup)...)
}

// discovery lets types of neighbour discovery, and of listeners' discovery, pass without a rule (RFC 4861, RFC 2710, RFC 3810).
func (f family) discovery(types ...int) []string {
	if !f.ipv6 {
		return nil
	}
	var out []string
	for _, t := range types {
		out = append(out, icmp6(t)+"-j ACCEPT")
	}
	return out
}

// before is what a VM sends before it has an address: DHCP requests, duplicate address detection, router solicitations and
// listener reports from the unspecified address.
func (f family) before() []string {
	if !f.ipv6 {
		return []string{"-s 0.0.0.0/32 -d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 -j ACCEPT"}
	}
	out := f.discovery(131, 133, 135, 143)
	for i, rule := range out {
		out[i] = "-s ::/128 " + rule
	}
	return out
}

func icmp6(kind int) string { return fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d ", kind) }

// judged is what the groups allow. Of a connection the way back passes as it is; the way there is judged each time, so that
// a rule that goes ends what it allowed. Packets of stateless groups are of no connection, but as long as a rule asks for those,
// the kernel puts fragments together before any rule sees them (nf_defrag_ipv4, nf_defrag_ipv6): later ones have no ports.
func (f family) judged(p Port, prefix string) []string {
	out := []string{
		"-m conntrack --ctstate INVALID -j DROP", "-m conntrack --ctstate RELATED -j ACCEPT",
		"-m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT",
	}
	for _, g := range slices.Sorted(slices.Values(p.Groups)) {
		out = append(out, "-j "+groupChain(prefix, g))
	}
	return append(out, "-j DROP")
}

func (f family) sources(p Port) []string {
	var out []string
	for _, s := range slices.SortedFunc(slices.Values(p.Sources), comparePairs) {
		if s.Prefix.Addr().Is6() == f.ipv6 {
			out = append(out, fmt.Sprintf("-s %s -m mac --mac-source %s -j RETURN", s.Prefix, s.MAC))
		}
	}
	return append(out, "-j DROP")
}

func comparePairs(a, b model.AddressPair) int {
	return cmp.Or(model.ComparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.MAC, b.MAC))
}

// groupRules are a group's rules of one direction, sorted, each once.
func (f family) groupRules(group string, ingress bool) []string {
	var out []string
	for _, r := range f.Rules[group] {
		if r.Ingress != ingress || r.IPv6 != f.ipv6 {
			continue
		}
		if text, fits := f.rule(r); fits {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rule is a rule of the family as it stands in its group's chain; false for one that no packet fits.
func (f family) rule(r model.Rule) (string, bool) {
	protocol, match, fits := f.transport(r)
	address, set := f.remote(r)
	return address + protocol + set + match + "-j ACCEPT", fits
}

// remote is whom a rule is about, as an address or as a set: who sends what comes in, who gets what goes out.
func (f family) remote(r model.Rule) (address, set string) {
	option, side := "-d", "dst"
	if r.Ingress {
		option, side = "-s", "src"
	}
	switch name := SetOf(r); {
	case name != "":
		return "", fmt.Sprintf("-m set --match-set %s %s ", name, side)
	case r.Prefix.IsValid() && r.Prefix.Bits() > 0:
		return option + " " + r.Prefix.String() + " ", ""
	default:
		return "", ""
	}
}
