package check

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// guarded reports whether a port's frames pass filters on br-int.
func guarded(p *weftv1.Port) bool {
	return p.GetPortSecurityEnabled() && p.GetVifType() != weftv1.VifType_VIF_TYPE_HYBRID
}

// policy is how a port's groups are named: flows that match a number are about those groups.
func policy(p *weftv1.Port) string {
	return "policy=" + strings.Join(slices.Sorted(slices.Values(p.GetSecurityGroups().GetIds())), "+")
}

// standingFilters are the flows of filters that no object is needed for (docs/pipeline.md).
func (e *expected) standingFilters() {
	in := func(table int, does string, terms ...string) { e.flow("br-int", at(table, terms...), does) }
	for _, table := range []int{20, 22, 70, 71, 81, 82, 83} {
		in(table, drop)
	}
	in(21, "goto_table:80")
	for _, never := range []string{
		"icmp icmp_type=5", "udp tp_dst=68", "udp6 tp_dst=546", "ipv6 nw_proto=0",
		"icmp6 icmp_type=130", "icmp6 icmp_type=134", "icmp6 icmp_type=137",
		"icmp6 icmp_type=135 nw_frag=yes", "icmp6 icmp_type=136 nw_frag=yes", "icmp6 icmp_type=135 nd_target=::",
	} {
		in(21, drop, strings.Fields(never)...)
	}
	for _, free := range []string{
		"udp tp_src=68 tp_dst=67 dl_dst=ff:ff:ff:ff:ff:ff", "udp6 tp_src=546 tp_dst=547 group",
		"icmp6 icmp_type=131", "icmp6 icmp_type=132", "icmp6 icmp_type=133", "icmp6 icmp_type=143",
	} {
		in(21, "goto_table:60", strings.Fields(free)...)
	}
	in(21, drop, "udp", "tp_src=68", "tp_dst=67", "reg4=0x4/0x4")
	in(21, drop, "udp6", "tp_src=546", "tp_dst=547", "reg4=0x4/0x4")
	in(21, "goto_table:22", "icmp6", "icmp_type=135")
	in(21, "goto_table:22", "icmp6", "icmp_type=136")
	in(71, "output:to", "arp")
	for _, kind := range []string{"130", "134", "135", "136"} {
		in(71, "output:to", "icmp6", "icmp_type="+kind)
	}
	in(80, "goto_table:81")
	in(80, "resubmit(,60)", "reg4=0x4/0x4")
	in(80, "goto_table:81", "reg4=0x2/0x2")
	in(81, "goto_table:82", "reg4=0x2")
	in(81, "goto_table:83", "reg4=0x3")
	in(90, "resubmit(,60)", "reg4=0/0x1")
	in(90, "output:to", "reg4=0x1/0x1")
	for _, ip := range []string{"ip", "ipv6"} {
		e.standingTracking(ip)
	}
}

// standingTracking are those that conntrack has a part in, for one family.
func (e *expected) standingTracking(ip string) {
	in := func(table int, does string, terms ...string) { e.flow("br-int", at(table, append(terms, ip)...), does) }
	const one, another = "ct_state=-rpl-inv+trk", "ct_state=+rpl-inv+trk"
	in(71, "goto_table:80")
	in(80, "ct(table=81,in zone)", "ct_state=-trk")
	in(81, "resubmit(,82,ct)", "reg4=0", one)
	in(81, "resubmit(,83,ct)", "reg4=0", another)
	in(81, "resubmit(,83,ct)", "reg4=0x1", one)
	in(81, "resubmit(,82,ct)", "reg4=0x1", another)
	begins := []string{"ct_state=+new+trk", "unicast"}
	whole := append(slices.Clone(begins), "nw_frag=no")
	in(90, "ct(commit,table=60,in zone)", append(whole, "reg4=0/0x1")...)
	in(90, "resubmit(,60),ct(commit,in zone)", append(begins, "reg4=0/0x1")...)
	in(90, "ct(commit,in zone),output:to", append(whole, "reg4=0x1/0x1")...)
	in(90, "output:to,ct(commit,in zone)", append(begins, "reg4=0x1/0x1")...)
}

// guardedPort notes the flows of a local guarded port.
func (e *expected) guardedPort(p *weftv1.Port, device string) {
	network, place := "network="+p.GetNetworkId(), 0
	zone := "zone=" + p.GetNetworkId()
	if e.stateless(p) {
		place = 2
	}
	e.flow("br-int", at(0, "in_port="+device, "untagged"),
		fmt.Sprintf("push_vlan:0x8100,%s,place=%d,%s,%s,goto_table:20", network, place, zone, policy(p)))
	e.flow("br-int", at(60, "dl_dst="+p.GetMacAddress(), network), "pop_vlan,to="+device+",goto_table:70")
	e.flow("br-int", at(70, "to="+device), fmt.Sprintf("place=%d,%s,%s,goto_table:71", place+1, zone, policy(p)))
	e.flow("br-int", at(90, "ct_state=+new+trk", "dl_dst="+p.GetMacAddress(), network, "reg4=0/0x1"), "resubmit(,60)")
	for mac, addresses := range ownAddresses(p) {
		e.speaks(device, mac, addresses)
	}
	e.policies[policy(p)] = p.GetSecurityGroups().GetIds()
}

// ownAddresses are what a port may say something under, by Ethernet address.
func ownAddresses(p *weftv1.Port) map[string][]string {
	own := map[string][]string{p.GetMacAddress(): {linkLocal(p.GetMacAddress())}}
	for _, f := range p.GetFixedIps() {
		own[p.GetMacAddress()] = append(own[p.GetMacAddress()], f.GetIpAddress())
	}
	for _, pair := range p.GetAllowedAddressPairs() {
		mac := cmp.Or(pair.GetMacAddress(), p.GetMacAddress())
		if own[mac] == nil {
			own[mac] = []string{linkLocal(mac)}
		}
		own[mac] = append(own[mac], pair.GetIpAddress())
	}
	return own
}

// stateless reports whether all of a port's groups are.
func (e *expected) stateless(p *weftv1.Port) bool {
	ids := p.GetSecurityGroups().GetIds()
	return len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool {
		g, ok := e.groups[id]
		return !ok || up(g.msg.Stateful) //nolint:protogetter // presence: true when it is not set
	})
}

// linkLocal is RFC 4291 appendix A.
func linkLocal(mac string) string {
	var m [6]byte
	for i, part := range strings.Split(mac, ":") {
		n, _ := strconv.ParseUint(part, 16, 8) // a MAC that is none makes a place that no flow has
		m[i%6] = byte(n)
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}).String()
}

// speaks notes what a device may say from one Ethernet address and the addresses that go with it.
func (e *expected) speaks(device, mac string, addresses []string) {
	const none = "00:00:00:00:00:00"
	in := func(table int, next int, terms ...string) {
		e.flow("br-int", at(table, append(terms, "in_port="+device, "dl_src="+mac)...), fmt.Sprintf("goto_table:%d", next))
	}
	in(20, 60, "udp", "nw_src=0.0.0.0", "tp_src=68", "tp_dst=67", "dl_dst=ff:ff:ff:ff:ff:ff")
	for _, kind := range []string{"131", "133", "143"} {
		in(20, 60, "icmp6", "ipv6_src=::", "icmp_type="+kind)
	}
	in(22, 60, "icmp6", "icmp_type=135", "nd_sll="+none)
	in(22, 60, "icmp6", "icmp_type=135", "nd_sll="+mac)
	for _, a := range addresses {
		if !strings.Contains(a, ":") {
			in(20, 60, "arp", "arp_op=1", "arp_spa=0.0.0.0", "arp_sha="+mac, "arp_tpa="+a)
			in(20, 60, "arp", "arp_sha="+mac, "arp_spa="+a)
			in(20, 21, "ip", "nw_src="+a)
			continue
		}
		in(20, 21, "ipv6", "ipv6_src="+a)
		in(20, 60, "icmp6", "ipv6_src=::", "icmp_type=135", "nd_target="+a, "nd_sll="+none)
		in(22, 60, "icmp6", "icmp_type=136", "nd_target="+a, "nd_tll="+none)
		in(22, 60, "icmp6", "icmp_type=136", "nd_target="+a, "nd_tll="+mac)
	}
}

// paired are the guarded local devices of a network that share an Ethernet address by their pairs.
func (e *expected) paired(network string) map[string][]string {
	out := map[string][]string{}
	for id, p := range e.store.ports {
		device := e.device(id, p.msg)
		if p.msg.GetNetworkId() != network || e.location(p.msg) != e.node || !guarded(p.msg) || !up(p.msg.AdminStateUp) || device == "" { //nolint:protogetter // presence
			continue
		}
		for _, pair := range p.msg.GetAllowedAddressPairs() {
			if mac := pair.GetMacAddress(); mac != "" && mac != p.msg.GetMacAddress() && !slices.Contains(out[mac], device) {
				out[mac] = append(out[mac], device)
			}
		}
	}
	return out
}

// conjunctions are what rules that refer to a group come to: by table and group, the places of its two dimensions and of what
// then happens. Which number a conjunction has is the agent's matter.
type conjunctions map[string][]string

func (c conjunctions) add(id, part string) {
	if !slices.Contains(c[id], part) {
		c[id] = append(c[id], part)
	}
}

// texts are the conjunctions without their numbers.
func (c conjunctions) texts() []string {
	times := map[string]int{}
	for _, parts := range c {
		times[strings.Join(slices.Sorted(slices.Values(parts)), "; ")]++
	}
	var out []string
	for text, n := range times {
		out = append(out, fmt.Sprintf("%d times %s", n, text))
	}
	return out
}

// policyRules notes the flows of the rules of the policies that the node's ports are under.
func (e *expected) policyRules() {
	for name, groups := range e.policies {
		for _, r := range e.rules {
			if slices.Contains(groups, r.msg.GetSecurityGroupId()) {
				e.ruleFlows(name, r.msg)
			}
		}
	}
}

func (e *expected) ruleFlows(policy string, r *weftv1.SecurityGroupRule) {
	table, far := 82, "dst"
	if r.GetDirection() == weftv1.Direction_DIRECTION_INGRESS {
		table, far = 83, "src"
	}
	six := r.GetEtherType() == weftv1.EtherType_ETHER_TYPE_IPV6 || strings.Contains(r.GetRemoteCidr(), ":")
	group := cmp.Or(r.GetRemoteGroupId(), r.GetRemoteAddressGroupId())
	for _, terms := range matches(r, six) {
		terms = append(terms, policy)
		if cidr := r.GetRemoteCidr(); cidr != "" {
			terms = append(terms, remoteTerms(cidr, far)...)
		}
		if group == "" {
			e.flow("br-int", at(table, terms...), "goto_table:90")
			continue
		}
		id := fmt.Sprintf("%d/%s/%v", table, group, six)
		e.conjunctions.add(id, "1/2 at "+at(table, terms...))
		e.conjunctions.add(id, "then goto_table:90 at "+at(table, word("", six)))
		for _, a := range e.addressesOf(group) {
			if strings.Contains(a, ":") == six {
				e.conjunctions.add(id, "2/2 at "+at(table, append(remoteTerms(a, far), word("", six))...))
			}
		}
	}
}

// addressesOf are what a security group's members or an address group hold.
func (e *expected) addressesOf(group string) []string {
	out := slices.Clone(e.addressGroups[group].msg.GetAddresses())
	for key, m := range e.derived {
		if member, ok := m.(*storev1.Member); ok && strings.HasPrefix(key, keys.Members(group)) {
			out = append(out, member.GetAddresses()...)
		}
	}
	return out
}

// remoteTerms match the far end's address; nothing for all of a family.
func remoteTerms(cidr, far string) []string {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		if a, err := netip.ParseAddr(cidr); err == nil {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	text := p.String()
	switch {
	case p.Bits() == 0:
		return nil
	case p.IsSingleIP():
		text = p.Addr().String()
	}
	if p.Addr().Is6() {
		return []string{"ipv6_" + far + "=" + text}
	}
	return []string{"nw_" + far + "=" + text}
}

// word is ovs-ofctl's for a protocol over a family; the family's own for one that has none.
func word(protocol string, six bool) string {
	suffix, family := "", "ip"
	if six {
		suffix, family = "6", "ipv6"
	}
	switch protocol {
	case "tcp", "udp", "sctp", "icmp":
		return protocol + suffix
	case "ipv6-icmp":
		return "icmp6"
	default:
		return family
	}
}

// protocolNumbers are those of names that ovs-ofctl has no word for.
func protocolNumbers() map[string]string {
	return map[string]string{
		"hopopt": "0", "igmp": "2", "ipip": "4", "egp": "8", "dccp": "33", "ipv6-encap": "41", "ipv6-route": "43", "ipv6-frag": "44",
		"rsvp": "46", "gre": "47", "esp": "50", "ah": "51", "ipv6-nonxt": "59", "ipv6-opts": "60", "ospf": "89", "vrrp": "112",
		"pgm": "113", "udplite": "136",
	}
}

// matches are the packets that a rule is about, but for who is at the far end. Later fragments have no ports: they pass by
// protocol.
func matches(r *weftv1.SecurityGroupRule, six bool) [][]string {
	protocol := r.GetProtocol()
	terms := []string{word(protocol, six)}
	if protocol != "" && terms[0] == word("", six) {
		terms = append(terms, "nw_proto="+cmp.Or(protocolNumbers()[protocol], protocol))
	}
	var finer [][]string
	switch {
	case r.IcmpType != nil: //nolint:protogetter // presence
		kind := []string{fmt.Sprintf("icmp_type=%d", r.GetIcmpType())}
		if r.IcmpCode != nil { //nolint:protogetter // presence
			kind = append(kind, fmt.Sprintf("icmp_code=%d", r.GetIcmpCode()))
		}
		finer = append(finer, kind)
	case r.PortMin != nil && (r.GetPortMin() > 0 || r.GetPortMax() < 65535): //nolint:protogetter // presence
		last := r.GetPortMin()
		if r.PortMax != nil { //nolint:protogetter // presence
			last = r.GetPortMax()
		}
		if protocol == "dccp" || protocol == "udplite" {
			return nil
		}
		for _, block := range blocks(r.GetPortMin(), last, 0, 16) {
			finer = append(finer, []string{block})
		}
	default:
		return [][]string{terms}
	}
	var out [][]string
	for _, f := range append(finer, []string{"nw_frag=later"}) {
		out = append(out, append(slices.Clone(terms), f...))
	}
	return out
}

// blocks splits ports first to last into masked matches: of the block of 2^bits ports that begins at base.
func blocks(first, last, base uint32, bits int) []string {
	end := base + 1<<bits - 1
	switch {
	case last < base || first > end:
		return nil
	case first <= base && end <= last && bits == 0:
		return []string{fmt.Sprintf("tp_dst=%d", base)}
	case first <= base && end <= last:
		return []string{fmt.Sprintf("tp_dst=%#x/%#x", base, 0xffff&^(1<<bits-1))}
	}
	return append(blocks(first, last, base, bits-1), blocks(first, last, base+1<<(bits-1), bits-1)...)
}

// conjunctive takes a flow apart that is a part of conjunctions; false when it is none.
func (w words) conjunctive(f flow, into conjunctions) bool {
	if id, ok := f.match["conj_id"]; ok {
		without := flow{table: f.table, match: maps.Clone(f.match), actions: f.actions}
		delete(without.match, "conj_id")
		into.add(fmt.Sprintf("%d/%s", f.table, id), "then "+w.does(without, false)+" at "+w.place(without, false))
		return true
	}
	found := false
	for _, a := range f.actions {
		inner, ok := strings.CutPrefix(a, "conjunction(")
		if !ok {
			continue
		}
		found = true
		id, dimension, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ",")
		into.add(fmt.Sprintf("%d/%s", f.table, id), dimension+" at "+w.place(f, false))
	}
	return found
}

// compareConjunctions says which of the rules that refer to groups are not as they should be.
func (e *expected) compareConjunctions(out *findings, have conjunctions) {
	e.sameSet(out, "rules of br-int that refer to a group:", have.texts(), e.conjunctions.texts())
}

// policyNames are the numbers of policies, as the flows that let guarded ports' frames in have them.
func (e *expected) policyNames(out *findings) map[int]string {
	names := map[int]string{}
	b := e.host.bridges["br-int"]
	if b == nil {
		return names
	}
	plugged := map[string]*weftv1.Port{}
	for id, p := range e.store.ports {
		plugged[e.device(id, p.msg)] = p.msg
	}
	for _, f := range b.flows {
		p := plugged[b.portNames[f.inPort()]]
		for _, a := range f.actions {
			value, ok := strings.CutSuffix(a, "->reg6")
			if f.table != 0 || !ok || p == nil {
				continue
			}
			n := number(strings.TrimPrefix(value, "set_field:"))
			if have := names[n]; have != "" && have != policy(p) {
				out.addf(Alone, e.node, "number %#x is that of two policies, %s and %s", n, have, policy(p))
			}
			names[n] = policy(p)
		}
	}
	return names
}
