package hybrid

import (
	"fmt"

	"github.com/weft-sdn/weft/proto/model"
)

// anyICMP is the type that iptables takes for all of them (linux/netfilter_ipv4/ip_tables.h, struct ipt_icmp).
const anyICMP = 255

// transport is what a rule says of the protocol, and of its ports and types, each in the form that iptables-save prints, with a
// space after it; false for one that no packet fits: the headers that extend IPv6's (RFC 8200 section 4) are never what is
// behind them.
func (f family) transport(r model.Rule) (protocol, match string, fits bool) {
	switch {
	case r.Protocol == model.AnyProtocol:
		return "", "", true
	case f.ipv6 && extends(r.Protocol):
		return "", "", false
	case r.Protocol == 0: // -p 0 is any
		return "", `-m u32 --u32 "0x6&0xff=0x0" `, true
	case r.Protocol.HasTypes():
		protocol, match = f.icmp(r)
		return protocol, match, true
	}
	protocol = "-p " + f.protocol(r.Protocol) + " "
	switch {
	case r.Ports == model.AllPorts() || !r.Protocol.HasPorts():
		return protocol, "", true
	case r.Protocol == model.ProtocolTCP, r.Protocol == model.ProtocolUDP, r.Protocol == model.ProtocolSCTP:
		return protocol, "-m " + r.Protocol.String() + " --dport " + ports(r.Ports) + " ", true
	default:
		return protocol, "-m multiport --dports " + ports(r.Ports) + " ", true
	}
}

func extends(p model.Protocol) bool {
	return p == 0 || p == 43 || p == 44 || p == 51 || p == 60
}

func ports(r model.PortRange) string {
	if r.Min == r.Max {
		return fmt.Sprint(r.Min)
	}
	return fmt.Sprintf("%d:%d", r.Min, r.Max)
}

// protocol is how iptables-save prints a protocol: by the names that it has itself, or that the host gives (protocols(5)),
// else by number (iptables 1.8, iptables/xshared.c, proto_to_name).
func (f family) protocol(p model.Protocol) string {
	switch p { //nolint:exhaustive // those that iptables has names for
	case model.ProtocolTCP, model.ProtocolUDP, model.ProtocolUDPLite, model.ProtocolSCTP, 50, 51:
		return p.String()
	}
	if name, ok := f.ProtocolNames[p]; ok {
		return name
	}
	return fmt.Sprint(int(p))
}

func (f family) icmp(r model.Rule) (protocol, match string) {
	protocol, name, option := "-p icmp ", "icmp", "--icmp-type"
	if f.ipv6 {
		protocol, name, option = "-p ipv6-icmp ", "icmp6", "--icmpv6-type"
	}
	switch {
	case r.Type < 0:
		return protocol, ""
	case r.Type == anyICMP && !f.ipv6 && r.Code < 0:
		return protocol, `-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x18=0xff" `
	case r.Type == anyICMP && !f.ipv6:
		return protocol, fmt.Sprintf(`-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x10=0xff%02x" `, r.Code)
	case r.Code < 0:
		return protocol, fmt.Sprintf("-m %s %s %d ", name, option, r.Type)
	default:
		return protocol, fmt.Sprintf("-m %s %s %d/%d ", name, option, r.Type, r.Code)
	}
}
