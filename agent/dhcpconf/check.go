package dhcpconf

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The forms of what is written. A DNS label is that of RFC 1123 section 2.1; a link name is what netns.OwnedLink allows
// and fits IFNAMSIZ.
var (
	uuidForm  = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	linkForm  = regexp.MustCompile(`^tap[0-9a-f-]{1,11}$`)
	labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	// periodForm is what dnsmasq takes for a lease time where a name may stand (dnsmasq(8), --dhcp-host).
	periodForm = regexp.MustCompile(`^([0-9]+[wdhmsWDHMS]?|infinite|ignore)$`)
	// addressForm is what Label makes of an address.
	addressForm = regexp.MustCompile(`^(?i)host(-[0-9]+){4}$`)
	// trustedForm is what hosts look for by themselves and believe: localhost (RFC 6761 section 6.3), a proxy (VU#598349), a
	// tunnel's router (RFC 5214 section 8.3.2).
	trustedForm = regexp.MustCompile(`^(?i)(localhost|wpad|isatap)$`)
	digitsForm  = regexp.MustCompile(`^[0-9]+$`)
	macForm     = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
)

// maxName is the longest domain name (RFC 1035 section 2.3.4), in its text form.
const maxName = 253

// Limits on the size of one option: 255 bytes of value (RFC 2132 section 2), in which an address takes four and a route
// up to nine.
const (
	maxOptionBytes = 255
	maxAddresses   = maxOptionBytes / 4
)

func checkNetwork(c Config) error {
	bad := func(field, reason string) error {
		return &FieldError{"network " + printable(c.NetworkID), field, reason}
	}
	switch {
	case !uuidForm.MatchString(c.NetworkID):
		return bad("NetworkID", "must be a UUID in lower case")
	case c.Namespace != "qdhcp-"+c.NetworkID:
		return bad("Namespace", "must be qdhcp-"+c.NetworkID)
	case !linkForm.MatchString(c.Interface):
		return bad("Interface", "must be tap and the start of a port id")
	case c.Domain != "" && !domain(c.Domain):
		return bad("Domain", "must be a domain name: labels of letters, digits and dashes, joined by dots")
	case c.MTU < 68 || c.MTU > 65535:
		return bad("MTU", "must be 68 to 65535")
	case c.LeaseSeconds < 0 || c.LeaseSeconds > 0 && c.LeaseSeconds < 120:
		return bad("LeaseSeconds", "must be at least 120, dnsmasq's least") // dnsmasq(8), --dhcp-range
	case c.LeaseSeconds > 1<<31-1:
		return bad("LeaseSeconds", "must be below 2^31")
	case len(c.Subnets) == 0:
		return bad("Subnets", "there is none to serve")
	}
	return nil
}

// domain tells whether s is a domain name. Its last label is not a number (RFC 3696 section 2): with a label before it,
// it could be an address otherwise.
func domain(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > maxName || digitsForm.MatchString(labels[len(labels)-1]) {
		return false
	}
	return !slices.ContainsFunc(labels, func(l string) bool { return !labelForm.MatchString(l) })
}

func checkSubnet(s Subnet, others []Subnet) error {
	bad := func(field, reason string) error {
		return &FieldError{"subnet " + printable(s.ID), field, reason}
	}
	switch {
	case !uuidForm.MatchString(s.ID):
		return bad("ID", "must be a UUID in lower case")
	case !network(s.CIDR) || s.CIDR.Bits() < 8:
		return bad("CIDR", "must be an IPv4 network of /8 or smaller")
	case slices.ContainsFunc(others, func(o Subnet) bool { return o.ID == s.ID }):
		return bad("ID", "is there twice")
	case slices.ContainsFunc(others, func(o Subnet) bool { return o.CIDR.Overlaps(s.CIDR) }):
		return bad("CIDR", "overlaps with another subnet of the network")
	case s.Gateway.IsValid() && !s.Gateway.Is4():
		return bad("Gateway", "must be an IPv4 address")
	case len(s.DNS) > maxAddresses:
		return bad("DNS", fmt.Sprintf("at most %d fit into the option", maxAddresses))
	case slices.ContainsFunc(s.DNS, func(a netip.Addr) bool { return !a.Is4() }):
		return bad("DNS", "must be IPv4 addresses")
	case slices.ContainsFunc(s.Routes, func(r Route) bool { return !network(r.Destination) || !r.NextHop.Is4() }):
		return bad("Routes", "must be IPv4 networks with IPv4 next hops")
	case routeBytes(s) > maxOptionBytes:
		return bad("Routes", fmt.Sprintf("take more than the option's %d bytes", maxOptionBytes))
	}
	return nil
}

// network tells whether a prefix is an IPv4 network, with no host bits set.
func network(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p == p.Masked()
}

// routeBytes is the size of option 121: per route the prefix length, the significant bytes and the next hop (RFC 3442).
func routeBytes(s Subnet) int {
	n := 0
	for _, r := range s.Routes {
		n += 1 + (r.Destination.Bits()+7)/8 + 4
	}
	return n + 5 // the default route
}

// printable makes a value that may be anything fit for an error message.
func printable(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	if uuidForm.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

// Usable reports whether a label can be a host's name in a domain, "" none: a DNS label that dnsmasq takes for nothing else, that
// is not how an address is named (Label), which may be another host's, and that hosts do not trust whoever has it.
func Usable(label, domain string) bool {
	full := fullName(Config{Domain: domain}, Host{Hostname: label})
	return labelForm.MatchString(label) && !periodForm.MatchString(full) && len(full) <= maxName &&
		!addressForm.MatchString(label) && !trustedForm.MatchString(label)
}

func (h Host) bad(field, reason string) error {
	return &FieldError{"port " + printable(h.PortID), field, reason}
}

func checkHost(c Config, h Host, subnets map[string]netip.Prefix) error {
	cidr, known := subnets[h.SubnetID]
	switch {
	case !uuidForm.MatchString(h.PortID):
		return h.bad("PortID", "must be a UUID in lower case")
	case !unicast(h.MAC):
		return h.bad("MAC", "must be a unicast MAC address, six bytes with colons")
	case !known:
		return h.bad("SubnetID", "is not a subnet of this service")
	case !h.Address.Is4() || !cidr.Contains(h.Address):
		return h.bad("Address", "must be an address of the subnet "+cidr.String())
	case h.Hostname != "" && !labelForm.MatchString(h.Hostname):
		return h.bad("Hostname", "must be one DNS label: letters, digits and dashes, at most 63")
	case periodForm.MatchString(fullName(c, h)):
		return h.bad("Hostname", "dnsmasq takes it for a keyword or a lease time: choose another, or set a domain")
	case len(fullName(c, h)) > maxName:
		return h.bad("Hostname", fmt.Sprintf("is longer than %d with the domain", maxName))
	}
	for _, o := range h.ExtraOpts {
		if err := checkOption(o); err != nil {
			return h.bad("ExtraOpts "+printable(o.Name), err.Error())
		}
	}
	return nil
}

func unicast(s string) bool {
	mac, err := net.ParseMAC(s)
	return err == nil && macForm.MatchString(s) && mac[0]&1 == 0 && strings.Trim(s, "0:") != ""
}
