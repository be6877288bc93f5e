package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcpconf"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// DHCP is what one network's DHCP server on this node needs besides its port's flows.
type DHCP struct {
	Namespace desired.Namespace
	Server    desired.DHCP
	Device    string
	// Metadata is where guests are listened to; nil: nowhere.
	Metadata *desired.Metadata
	// Revision is the newest of the network's and its subnets'.
	Revision int64
	// Problem says what can't be served; the rest is.
	Problem error
	// Incomplete: a subnet that the server's port has an address in is not known.
	Incomplete bool
	// Rejected are the ports that get no answer, and why.
	Rejected map[string]error
}

// DHCPNamespace is the name of a network's DHCP namespace (REFERENCE R14).
func DHCPNamespace(network string) string { return "qdhcp-" + network }

// dhcpPlan plans a network's DHCP server; nil when this node is not to have one.
func dhcpPlan(v *view.View, facts *Facts, network string) *DHCP {
	portID, n := v.HostDHCP[network], v.Networks[network]
	if portID == "" || n == nil || n.Revision == 0 {
		return nil
	}
	p, ok := n.Ports[portID]
	if !ok {
		return nil
	}
	out := &DHCP{Device: DeviceName("tap", portID), Revision: n.Revision, Rejected: map[string]error{}}
	link := desired.Link{Name: out.Device, MAC: p.Object.MAC, MTU: n.Object.MTU}
	conf := dhcpconf.Config{
		NetworkID: network, Namespace: DHCPNamespace(network), Interface: out.Device,
		Domain: n.Object.Domain, MTU: n.Object.MTU,
	}
	for _, s := range n.Subnets {
		out.Revision = max(out.Revision, s.Revision)
	}
	for _, f := range p.Object.FixedIPs {
		s, ok := n.Subnets[f.Subnet]
		out.Incomplete = out.Incomplete || !ok
		if !ok || !s.Object.DHCP {
			continue
		}
		link.Addresses = append(link.Addresses, netip.PrefixFrom(f.IP, s.Object.CIDR.Bits()))
		subnet := dhcpSubnet(s.Object)
		if facts.Metadata && n.Isolated(f.Subnet) {
			routeMetadata(&subnet, f.IP)
		}
		conf.Subnets = append(conf.Subnets, subnet)
	}
	sysctls := map[string]string{noIPv6: "1"}
	if facts.Metadata {
		out.Metadata = dhcpMetadata(network)
		link.Addresses = append(link.Addresses, metadataPrefix())
		sysctls[arpAnnounce] = "2"
	}
	slices.SortFunc(link.Addresses, model.ComparePrefixes)
	conf.Hosts = dhcpHosts(n, conf.Domain, conf.Subnets)
	var rejected []dhcpconf.Rejection
	out.Server, rejected, out.Problem = dhcpconf.Render(conf)
	for _, r := range rejected {
		out.Rejected[r.PortID] = r.Err
	}
	if len(conf.Subnets) == 0 {
		out.Problem = errors.Join(out.Problem, fmt.Errorf("DHCP port %s has no address in a subnet with DHCP", portID))
	}
	out.Namespace = desired.Namespace{
		Name: conf.Namespace, Links: []desired.Link{link},
		Sysctls: sysctls,
	}
	return out
}

func dhcpSubnet(s model.Subnet) dhcpconf.Subnet {
	out := dhcpconf.Subnet{ID: s.ID, CIDR: s.CIDR, Gateway: s.Gateway, DNS: s.DNS}
	for _, r := range s.Routes {
		out.Routes = append(out.Routes, dhcpconf.Route{Destination: r.Destination, NextHop: r.NextHop})
	}
	return out
}

// dhcpHosts are the network's ports with an address in a served subnet, but for DHCP servers.
func dhcpHosts(n *view.Network, domain string, served []dhcpconf.Subnet) []dhcpconf.Host {
	var out []dhcpconf.Host
	names := hostnames(n, domain)
	for id, p := range n.Ports {
		if p.Object.DeviceOwner == model.OwnerDHCP {
			continue
		}
		name := names[id]
		for _, f := range p.Object.FixedIPs {
			if !slices.ContainsFunc(served, func(s dhcpconf.Subnet) bool { return s.ID == f.Subnet }) {
				continue
			}
			h := dhcpconf.Host{PortID: id, MAC: p.Object.MAC, Address: f.IP, SubnetID: f.Subnet, Hostname: name}
			name = "" // it is that of one address
			for _, o := range p.Object.DHCPOptions {
				h.ExtraOpts = append(h.ExtraOpts, dhcpconf.Option{Name: o.Name, Value: o.Value})
			}
			out = append(out, h)
		}
	}
	return out
}

// hostnames are the names that ports have, by port, besides those of their addresses. A name that several ports wish for is
// nobody's: on a network that tenants share, none takes another's.
func hostnames(n *view.Network, domain string) map[string]string {
	wishes := map[string][]string{}
	for id, p := range n.Ports {
		// "_" stands in names that people choose, but in no host's (RFC 1123 section 2.1).
		name := strings.ReplaceAll(strings.ToLower(p.Object.Hostname), "_", "-")
		if name != "" && dhcpconf.Usable(name, domain) {
			wishes[name] = append(wishes[name], id)
		}
	}
	out := map[string]string{}
	for name, ports := range wishes {
		if len(ports) == 1 {
			out[ports[0]] = name
		}
	}
	return out
}
