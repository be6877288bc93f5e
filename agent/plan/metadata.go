package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcpconf"
)

// Where the metadata service is: guests ask at metadataAddress, port 80; a router listens on metadataPort (REFERENCE R17).
const (
	metadataAddress = "169.254.169.254"
	metadataPort    = 9697
)

// arpAnnounce has ARP requests name an address of the target's subnet as the sender's (ip-sysctl.rst, arp_announce): never the
// metadata service's, which is no neighbour's.
const arpAnnounce = "net.ipv4.conf.all.arp_announce"

// metadataPrefix is the service's address as a prefix.
func metadataPrefix() netip.Prefix {
	ip := netip.MustParseAddr(metadataAddress)
	return netip.PrefixFrom(ip, ip.BitLen())
}

// routerMetadata listens in a router's namespace, on all addresses since REDIRECT gives the one of the link that a packet
// came by. Who connects to it without having been redirected is sent away by the proxy.
func routerMetadata(router string) *desired.Metadata {
	return &desired.Metadata{
		Router: router, Namespace: RouterNamespace(router), Address: netip.AddrPortFrom(netip.IPv4Unspecified(), metadataPort),
	}
}

// dhcpMetadata listens in a network's DHCP namespace, for guests that no router serves.
func dhcpMetadata(network string) *desired.Metadata {
	return &desired.Metadata{
		Network: network, Namespace: DHCPNamespace(network), Address: netip.AddrPortFrom(metadataPrefix().Addr(), 80),
	}
}

// interceptMetadata has what a router's guests send to the service arrive at the router itself.
func interceptMetadata(t *desired.IPTables) {
	rule := fmt.Sprintf("-d %s -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports %d", metadataPrefix(), metadataPort)
	at := slices.IndexFunc(t.Chains, func(c desired.Chain) bool { return c.Name == ChainDNAT })
	if at < 0 { // a router without a gateway has no other rules
		t.Jumps = append(t.Jumps, desired.Jump{Table: "nat", Builtin: "PREROUTING", Target: ChainDNAT})
		t.Chains = append(t.Chains, desired.Chain{Table: "nat", Name: ChainDNAT, Rules: []string{rule}})
		return
	}
	t.Chains[at].Rules = slices.Concat([]string{rule}, t.Chains[at].Rules)
}

// routeMetadata has the clients of a subnet without a router send to the service by the DHCP server's address, unless the
// subnet sends it elsewhere.
func routeMetadata(s *dhcpconf.Subnet, server netip.Addr) {
	to := metadataPrefix()
	if !slices.ContainsFunc(s.Routes, func(r dhcpconf.Route) bool { return r.Destination == to }) {
		s.Routes = append(s.Routes, dhcpconf.Route{Destination: to, NextHop: server})
	}
}
