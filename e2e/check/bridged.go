package check

import (
	"fmt"
	"slices"
	"strings"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// bridged reports whether a port's frames pass filters on a bridge of its own.
func bridged(p *weftv1.Port) bool {
	return p.GetPortSecurityEnabled() && p.GetVifType() == weftv1.VifType_VIF_TYPE_HYBRID
}

// misplugged reports whether a port that wants a bridge of its own is plugged without one: it passes nothing.
func misplugged(p *weftv1.Port, device string) bool {
	return bridged(p) && device != "qvo"+p.GetId()[:11]
}

// bridgedPort notes the flows of a local port with a bridge of its own, and the rules that filter there.
func (e *expected) bridgedPort(p *weftv1.Port, device string) {
	network := "network=" + p.GetNetworkId()
	e.flow("br-int", at(0, "in_port="+device, "untagged"), fmt.Sprintf("push_vlan:0x8100,%s,place=4,zone=%s,goto_table:20", network, p.GetNetworkId()))
	e.flow("br-int", at(60, "dl_dst="+p.GetMacAddress(), network), "pop_vlan,output:"+device)
	id := p.GetId()[:11]
	tap := "tap" + id
	for _, family := range []string{"4 ", "6 "} {
		for _, rule := range []string{
			"-A weft-sg-FORWARD -m physdev --physdev-out " + tap + " --physdev-is-bridged -j weft-sg-i" + id,
			"-A weft-sg-FORWARD -m physdev --physdev-in " + tap + " --physdev-is-bridged -j weft-sg-o" + id,
			"-A weft-sg-INPUT -m physdev --physdev-in " + tap + " -j DROP",
			"-A weft-sg-o" + id + " -j weft-sg-s" + id,
			"-A weft-sg-i" + id + " -j DROP", "-A weft-sg-o" + id + " -j DROP", "-A weft-sg-s" + id + " -j DROP",
		} {
			e.filters = append(e.filters, family+rule)
		}
		for _, group := range p.GetSecurityGroups().GetIds() {
			hex := strings.ReplaceAll(group, "-", "")[:19]
			e.filters = append(e.filters, family+"-A weft-sg-i"+id+" -j weft-sg-I"+hex, family+"-A weft-sg-o"+id+" -j weft-sg-O"+hex)
		}
	}
	for _, server := range e.store.ports {
		s := server.msg
		if s.GetDeviceOwner() == ownerDHCP && s.GetNetworkId() == p.GetNetworkId() && up(s.AdminStateUp) && e.location(s) != "" { //nolint:protogetter // presence
			e.filters = append(e.filters, "4 -A weft-sg-i"+id+" -p udp -m udp --sport 67 --dport 68 -m mac --mac-source "+s.GetMacAddress()+" -j ACCEPT")
		}
	}
	for mac, addresses := range ownAddresses(p) {
		e.speaks(device, mac, addresses)
		for _, a := range addresses {
			family, length := "4 ", "/32"
			if strings.Contains(a, ":") {
				family, length = "6 ", "/128"
			}
			if strings.Contains(a, "/") {
				length = ""
			}
			e.filters = append(e.filters, fmt.Sprintf("%s-A weft-sg-s%s -s %s%s -m mac --mac-source %s -j RETURN", family, id, a, length, mac))
		}
	}
}

// compareFilters looks for the rules that make a port's bridge filter, for ports that nobody knows any more, and for rules of
// others that come first. What groups' own rules let through is for scenarios with packets to show.
func (e *expected) compareFilters(out *findings) {
	for _, rule := range e.filters {
		if !slices.Contains(e.host.filters, rule) {
			out.addf(Exact, e.node, "the host's own filters lack %s", rule)
		}
	}
	first := map[string]bool{}
	for _, line := range e.host.filters {
		family, rule, _ := strings.Cut(line, " ")
		chain, rest, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
		ours := strings.HasPrefix(rest, "-j weft-")
		switch key := family + chain; {
		case strings.HasPrefix(chain, "weft-sg-") && len(e.filters) == 0:
			out.addf(Exact, e.node, "a filter for no port: %s", line)
		case (chain == "weft-sg-FORWARD" || chain == "weft-sg-INPUT") && !slices.Contains(e.filters, line):
			out.addf(Exact, e.node, "a filter for a port that is not here: %s", line)
		case ours && first[key]:
			out.addf(Alone, e.node, "a rule of somebody else stands before %s", line)
		default:
			first[key] = first[key] || !ours && !strings.HasPrefix(chain, "weft-")
		}
	}
}
