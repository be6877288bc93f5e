// Package dhcpconf writes what dnsmasq reads: the command line and the files of one network's DHCP service
// (REFERENCE.md R14; formats from dnsmasq(8)), from typed values. It is pure: no files, no processes (agent/dhcp).
//
// Every string that comes from a user is checked against what the place it goes to can hold, so that no value can
// become another line, field or option. A port with a bad value is left out and reported; it does not take the
// network's other ports with it.
package dhcpconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

// DefaultLeaseSeconds is the lease time when none is given, Neutron's dhcp_lease_duration.
const DefaultLeaseSeconds = 86400

// maxLeases is the most that --dhcp-lease-max is set to, as Neutron does.
const maxLeases = 1 << 24

// Config is one network's DHCP service.
type Config struct {
	NetworkID    string // UUID
	Namespace    string // qdhcp-<NetworkID>
	Interface    string // the link in the namespace that dnsmasq serves, tap…
	Domain       string // "" for none
	MTU          int    // bytes, 68..65535; told to the clients (option 26)
	LeaseSeconds int    // DefaultLeaseSeconds if 0
	Subnets      []Subnet
	Hosts        []Host
}

// Subnet is an IPv4 subnet that the service has an address in.
type Subnet struct {
	ID      string // UUID
	CIDR    netip.Prefix
	Gateway netip.Addr   // invalid: the clients are told that there is no router
	DNS     []netip.Addr // empty: dnsmasq gives its own address in the subnet
	Routes  []Route
}

// Route is a static route for the clients (RFC 3442).
type Route struct {
	Destination netip.Prefix
	NextHop     netip.Addr
}

// Host is one fixed address of one port. A port with addresses in several subnets has several.
type Host struct {
	PortID    string // UUID
	MAC       string // six bytes with colons, unicast
	Address   netip.Addr
	SubnetID  string
	Hostname  string // one DNS label; "host-10-10-10-2" for 10.10.10.2 if empty
	ExtraOpts []Option
}

// Option is a DHCP option of one port: a name or number that Options lists, and a value of its kind.
type Option struct {
	Name, Value string
}

// FieldError tells which field of which object cannot be written, and why.
type FieldError struct {
	Object string // "network <id>", "subnet <id>", "port <id>"
	Field  string // as named in Config, Subnet or Host
	Reason string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("DHCP of %s: %s: %s", e.Object, e.Field, e.Reason)
}

// Rejection is a host that was left out.
type Rejection struct {
	PortID string
	Err    error // a *FieldError
}

// Render gives the DHCP service of a network. Hosts are written in the order of their addresses and subnets in the
// order of their CIDRs, so that the result does not depend on the order of the input. Hosts that cannot be written
// are left out and returned. Hosts and subnet options change files only, which dnsmasq reads again; a port with options
// of its own, like everything else, changes the command line, and so costs a restart. The error, a *FieldError, is about the network or a subnet: nothing can be served then.
func Render(c Config) (desired.DHCP, []Rejection, error) {
	c = sorted(c)
	if err := checkNetwork(c); err != nil {
		return desired.DHCP{}, nil, err
	}
	for i, s := range c.Subnets {
		if err := checkSubnet(s, c.Subnets[:i]); err != nil {
			return desired.DHCP{}, nil, err
		}
	}
	hosts, rejected := accept(c)
	return desired.DHCP{
		Network:   c.NetworkID,
		Namespace: c.Namespace,
		Args:      args(c, hosts),
		Files: map[string]string{
			"host":       hostsFile(c, hosts),
			"addn_hosts": namesFile(c, hosts),
			"opts":       optionsFile(c, hosts),
		},
	}, rejected, nil
}

// sorted copies the lists of a Config in canonical order.
func sorted(c Config) Config {
	c.Subnets = slices.SortedStableFunc(slices.Values(c.Subnets), func(a, b Subnet) int {
		if d := a.CIDR.Addr().Compare(b.CIDR.Addr()); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	c.Hosts = slices.SortedStableFunc(slices.Values(c.Hosts), func(a, b Host) int {
		if d := a.Address.Compare(b.Address); d != 0 {
			return d
		}
		return strings.Compare(a.PortID, b.PortID)
	})
	return c
}

// accept divides the hosts into those that can be written and those that cannot.
func accept(c Config) (hosts []Host, rejected []Rejection) {
	subnets := make(map[string]netip.Prefix, len(c.Subnets))
	for _, s := range c.Subnets {
		subnets[s.ID] = s.CIDR
	}
	taken := make(map[netip.Addr]string, len(c.Hosts))
	for _, h := range c.Hosts {
		err := checkHost(c, h, subnets)
		if first, twice := taken[h.Address]; err == nil && twice {
			err = h.bad("Address", fmt.Sprintf("%s belongs to port %s", h.Address, first))
		}
		if err != nil {
			rejected = append(rejected, Rejection{PortID: h.PortID, Err: err})
			continue
		}
		taken[h.Address] = h.PortID
		hosts = append(hosts, h)
	}
	return hosts, rejected
}

// args is the command line of R14.
func args(c Config, hosts []Host) []string {
	lease := c.LeaseSeconds
	if lease == 0 {
		lease = DefaultLeaseSeconds
	}
	out := []string{
		"--no-hosts", "--no-resolv", "--strict-order", "--bind-interfaces",
		"--interface=" + c.Interface, "--except-interface=lo",
		"--pid-file={dir}/pid", "--dhcp-hostsfile={dir}/host", "--addn-hosts={dir}/addn_hosts", "--dhcp-optsfile={dir}/opts",
		"--leasefile-ro",
		// There is no lease database to lose: who is known renews after a restart, who is not gets no answer, not even NAK.
		"--dhcp-authoritative", "--dhcp-ignore=tag:!known",
	}
	leases := 0
	for _, s := range c.Subnets {
		out = append(out, fmt.Sprintf("--dhcp-range=set:%s,%s,static,%s,%ds", subnetTag(s), s.CIDR.Addr(), mask(s.CIDR), lease))
		leases += 1 << (32 - s.CIDR.Bits())
	}
	out = append(out,
		// Forced, because many clients do not ask for it and would send frames that the overlay cannot carry.
		fmt.Sprintf("--dhcp-option-force=option:mtu,%d", c.MTU),
		fmt.Sprintf("--dhcp-lease-max=%d", min(leases, maxLeases)),
		"--conf-file=")
	if c.Domain != "" {
		out = append(out, "--domain="+c.Domain)
	}
	return append(out, tags(hosts)...)
}

// tags marks the ports that have options of their own. A set: in the hosts file would do it without a restart, but
// dnsmasq (seen with 2.90) links such a tag to others when its client asks, frees them all on SIGHUP, and dies.
func tags(hosts []Host) []string {
	var out []string
	for _, h := range hosts {
		if len(h.ExtraOpts) > 0 {
			out = append(out, fmt.Sprintf("--dhcp-mac=set:%s,%s", portTag(h), strings.ToLower(h.MAC)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func mask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }

func subnetTag(s Subnet) string { return "subnet-" + s.ID }

func portTag(h Host) string { return "port-" + h.PortID }

// label is the first label of a host's name, as Neutron forms it.
func label(h Host) string {
	if h.Hostname != "" {
		return h.Hostname
	}
	return Label(h.Address)
}

// Label is the first label of the name of a host that has no other: "host-10-10-10-2" for 10.10.10.2.
func Label(ip netip.Addr) string { return "host-" + strings.ReplaceAll(ip.String(), ".", "-") }

func fullName(c Config, h Host) string {
	if c.Domain == "" {
		return label(h)
	}
	return label(h) + "." + c.Domain
}

// hostsFile is --dhcp-hostsfile: who is answered, and with what.
func hostsFile(c Config, hosts []Host) string {
	var b strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&b, "%s,%s,%s\n", strings.ToLower(h.MAC), fullName(c, h), h.Address)
	}
	return b.String()
}

// namesFile is --addn-hosts, in the form of hosts(5).
func namesFile(c Config, hosts []Host) string {
	var b strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&b, "%s\t%s", h.Address, fullName(c, h))
		if c.Domain != "" {
			b.WriteString(" " + label(h))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// optionsFile is --dhcp-optsfile: what the clients of a subnet, and single ports, are told.
func optionsFile(c Config, hosts []Host) string {
	var b strings.Builder
	for _, s := range c.Subnets {
		line := func(option string) { fmt.Fprintf(&b, "tag:%s,%s\n", subnetTag(s), option) }
		if len(s.DNS) > 0 {
			line("option:dns-server," + join(s.DNS))
		}
		if routes := classless(s); routes != "" {
			line("option:classless-static-route," + routes)
			line("249," + routes) // the number older Windows clients ask for
		}
		if s.Gateway.IsValid() {
			line("option:router," + s.Gateway.String())
		} else {
			line("option:router") // empty: dnsmasq would name itself otherwise
		}
	}
	// A port with addresses in two subnets is there twice, with the same tag.
	done := make(map[string]bool)
	for _, h := range hosts {
		if done[h.PortID] || len(h.ExtraOpts) == 0 {
			continue
		}
		done[h.PortID] = true
		for _, o := range h.ExtraOpts {
			fmt.Fprintf(&b, "tag:%s,%s,%s\n", portTag(h), optionKey(o), o.Value)
		}
	}
	return b.String()
}

// classless is the value of option 121. A client that gets it ignores the router option, so the default route has to be
// in it (RFC 3442, DHCP Client Behavior).
func classless(s Subnet) string {
	if len(s.Routes) == 0 {
		return ""
	}
	var parts []string
	hasDefault := false
	for _, r := range s.Routes {
		hasDefault = hasDefault || r.Destination.Bits() == 0
		parts = append(parts, r.Destination.String(), r.NextHop.String())
	}
	if s.Gateway.IsValid() && !hasDefault {
		parts = append(parts, "0.0.0.0/0", s.Gateway.String())
	}
	return strings.Join(parts, ",")
}

func join(addrs []netip.Addr) string {
	parts := make([]string, len(addrs))
	for i, a := range addrs {
		parts[i] = a.String()
	}
	return strings.Join(parts, ",")
}

// optionKey is how dnsmasq is told which option a line is about. A checked option is known.
func optionKey(o Option) string {
	if _, err := strconv.Atoi(o.Name); err == nil {
		return o.Name
	}
	return "option:" + o.Name
}

// IsFieldError reports whether err is about a field of Config and gives it.
func IsFieldError(err error) (*FieldError, bool) {
	var f *FieldError
	ok := errors.As(err, &f)
	return f, ok
}
