package dhcpconf

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kind is what the value of an option is made of.
type Kind int

// The kinds of values. Text and domains never hold a comma, a space, a quote or a '#', which mean something to dnsmasq.
const (
	Text      Kind = iota // 1 to 255 characters of a-z A-Z 0-9 . _ ~ / : = @ % + -
	Address               // one IPv4 address
	Addresses             // IPv4 addresses joined by commas
	Byte                  // 0..255
	Word                  // 0..65535
	Long                  // 0..4294967295
	Domain                // a domain name
	Domains               // domain names joined by commas
)

// Known is an option that may be set for a port.
type Known struct {
	Name   string // dnsmasq's name for it (dnsmasq --help dhcp); "" where it has none
	Number int    // RFC 2132 and the IANA registry of BOOTP and DHCP parameters; 255 is dnsmasq's for siaddr
	Kind   Kind
}

// Options lists the options that may be set for a port. It leaves out those that the service itself must control
// (addresses, leases, server, routes) and those whose encoding dnsmasq guesses from the value.
func Options() []Known {
	return []Known{
		{"time-offset", 2, Long},
		{"router", 3, Addresses},
		{"dns-server", 6, Addresses},
		{"log-server", 7, Addresses},
		{"lpr-server", 9, Addresses},
		{"boot-file-size", 13, Word},
		{"domain-name", 15, Domain},
		{"root-path", 17, Text},
		{"extension-path", 18, Text},
		{"default-ttl", 23, Byte},
		{"mtu", 26, Word},
		{"nis-domain", 40, Text},
		{"nis-server", 41, Addresses},
		{"ntp-server", 42, Addresses},
		{"netbios-ns", 44, Addresses},
		{"netbios-nodetype", 46, Byte},
		{"tftp-server", 66, Text},
		{"bootfile-name", 67, Text},
		{"smtp-server", 69, Addresses},
		{"domain-search", 119, Domains},
		{"tftp-server-address", 150, Addresses},
		{"server-ip-address", 255, Address},
	}
}

var textForm = regexp.MustCompile(`^[A-Za-z0-9._~/:=@%+-]{1,255}$`)

// find gives the option of a name or a number in decimal.
func find(name string) (Known, bool) {
	options := Options()
	i := slices.IndexFunc(options, func(k Known) bool {
		return name == k.Name || name == strconv.Itoa(k.Number)
	})
	if i < 0 {
		return Known{}, false
	}
	return options[i], true
}

func checkOption(o Option) error {
	k, ok := find(o.Name)
	if !ok {
		return errors.New("is not an option that can be set for a port")
	}
	if !k.Kind.holds(o.Value) {
		return fmt.Errorf("value must be %s", k.Kind)
	}
	return nil
}

func (k Kind) String() string {
	switch k {
	case Text:
		return "text without spaces, commas, quotes or #"
	case Address:
		return "an IPv4 address"
	case Addresses:
		return "IPv4 addresses joined by commas"
	case Byte:
		return "a number up to 255"
	case Word:
		return "a number up to 65535"
	case Long:
		return "a number up to 4294967295"
	case Domain:
		return "a domain name"
	case Domains:
		return "domain names joined by commas"
	}
	return "unknown"
}

// holds reports whether a value is of the kind.
func (k Kind) holds(v string) bool {
	switch k {
	case Text:
		return textForm.MatchString(v)
	case Address:
		return address(v)
	case Addresses:
		return all(v, maxAddresses, address)
	case Byte:
		return number(v, 8)
	case Word:
		return number(v, 16)
	case Long:
		return number(v, 32)
	case Domain:
		return domain(v)
	case Domains:
		return len(v) <= maxName && all(v, maxName, domain)
	}
	return false
}

func all(v string, most int, ok func(string) bool) bool {
	parts := strings.Split(v, ",")
	return len(parts) <= most && !slices.ContainsFunc(parts, func(p string) bool { return !ok(p) })
}

func address(v string) bool {
	a, err := netip.ParseAddr(v)
	return err == nil && a.Is4()
}

// number refuses signs and leading zeros, which dnsmasq reads as another base or size.
func number(v string, bits int) bool {
	n, err := strconv.ParseUint(v, 10, bits)
	return err == nil && v == strconv.FormatUint(n, 10)
}
