package model

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// FieldError says which field of a message is wrong and why. Several may be joined into one error; find them with
// FieldErrors.
type FieldError struct {
	// Field is the path in proto names, e.g. "fixed_ips[1].ip_address".
	Field string
	// Problem is a phrase that names the value and what would be right.
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// FieldErrors lists every FieldError in err's tree, in order.
func FieldErrors(err error) []*FieldError {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself
	case *FieldError:
		return []*FieldError{e}
	case interface{ Unwrap() []error }:
		var all []*FieldError
		for _, one := range e.Unwrap() {
			all = append(all, FieldErrors(one)...)
		}
		return all
	case interface{ Unwrap() error }:
		return FieldErrors(e.Unwrap())
	default:
		return nil
	}
}

// Invalid makes a FieldError.
func Invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// checker collects field errors while a message is converted.
type checker struct {
	errs []error
}

func (c *checker) addf(field, format string, args ...any) {
	c.errs = append(c.errs, Invalid(field, format, args...))
}

func (c *checker) err() error { return errors.Join(c.errs...) }

var (
	uuidPattern     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	labelPattern    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	physnetPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	projectPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$`)
	optNamePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	optValuePattern = regexp.MustCompile(`^[ !$-+\--\[\]-~]{1,255}$`) // printable ASCII without '"', '#', ',', '\'
)

// ValidUUID reports whether s is a UUID in lower case canonical form (RFC 9562 section 4).
func ValidUUID(s string) bool { return uuidPattern.MatchString(s) }

// ValidNodeName reports whether s can name a node: DNS labels, at most 63 characters (RFC 1123 section 2.1).
func ValidNodeName(s string) bool { return len(s) <= 63 && ValidDomain(s) }

// ValidPhysicalNetwork reports whether s can name a physical network.
func ValidPhysicalNetwork(s string) bool { return physnetPattern.MatchString(s) }

// ValidProject reports whether s can name a project.
func ValidProject(s string) bool { return projectPattern.MatchString(s) }

// ValidPool reports whether s can name a pool of network nodes: what can name a node can.
func ValidPool(s string) bool { return ValidNodeName(s) }

// ValidDomain reports whether s is a domain name (RFC 1123, section 2.1), or part of one.
func ValidDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !labelPattern.MatchString(label) {
			return false
		}
	}
	return true
}

func (c *checker) uuid(field, s string) string {
	if !ValidUUID(s) {
		c.addf(field, "%q is not a UUID", s)
	}
	return s
}

func (c *checker) uuidOrEmpty(field, s string) string {
	if s != "" {
		c.uuid(field, s)
	}
	return s
}

// text checks a string that people read: a name, a device id.
func (c *checker) text(field, s string) string {
	switch {
	case len(s) > MaxNameBytes:
		c.addf(field, "is %d bytes long, the limit is %d", len(s), MaxNameBytes)
	case !utf8.ValidString(s):
		c.addf(field, "is not UTF-8")
	case strings.ContainsFunc(s, unicode.IsControl):
		c.addf(field, "%q has a control character", s)
	}
	return s
}

func (c *checker) project(s string) string {
	if !projectPattern.MatchString(s) {
		c.addf("project", "%q must be 1 to 64 letters, digits or any of _ . @ -", s)
	}
	return s
}

func (c *checker) node(field, s string) string {
	if s != "" && !ValidNodeName(s) {
		c.addf(field, "%q is not a node name", s)
	}
	return s
}

// hostname checks the name of a VM, of one label.
func (c *checker) hostname(field, s string) string {
	if s != "" && !labelPattern.MatchString(s) {
		c.addf(field, "%q is not a DNS label", s)
	}
	return s
}

// nodes checks on how many nodes, and of which pool, an object is to be.
func (c *checker) nodes(field string, n int32, pool string) {
	if n < 0 || n > MaxNodes {
		c.addf(field, "%d is not in 0..%d", n, MaxNodes)
	}
	if pool != "" && !ValidPool(pool) {
		c.addf("pool", "%q can't name a pool (letters, digits, '-' and '.', at most 63)", pool)
	}
}

func (c *checker) addr(field, s string) netip.Addr {
	ip, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		c.addf(field, "%q is not an IP address", s)
	case !ip.Is4():
		c.addf(field, "%q is not an IPv4 address; IPv6 is not supported yet", s)
	default:
		return ip
	}
	return netip.Addr{}
}

func (c *checker) addrOrEmpty(field, s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return c.addr(field, s)
}

func (c *checker) prefix(field, s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		c.addf(field, "%q is not a CIDR such as 10.0.0.0/24", s)
	case !p.Addr().Is4():
		c.addf(field, "%q is not an IPv4 CIDR; IPv6 is not supported yet", s)
	case p != p.Masked():
		c.addf(field, "%q has host bits set; did you mean %s?", s, p.Masked())
	default:
		return p
	}
	return netip.Prefix{}
}

func (c *checker) mac(field, s string) string {
	hw, err := net.ParseMAC(s)
	switch {
	case err != nil || len(hw) != 6:
		c.addf(field, "%q is not a MAC address such as fa:16:3e:00:00:01", s)
	case hw[0]&1 != 0:
		c.addf(field, "%q is a multicast address", s)
	case [6]byte(hw) == [6]byte{}:
		c.addf(field, "%q is the null address", s)
	default:
		return hw.String()
	}
	return s
}

// list checks the length of a list and reports whether it is worth looking at its elements.
func (c *checker) list(field string, n, limit int) bool {
	if n > limit {
		c.addf(field, "has %d elements, the limit is %d", n, limit)
	}
	return n <= limit
}

func (c *checker) routes(field string, in []*weftv1.Route) []Route {
	if !c.list(field, len(in), MaxRoutes) {
		return nil
	}
	var out []Route
	seen := map[netip.Prefix]bool{}
	for i, r := range in {
		route := c.route(fmt.Sprintf("%s[%d]", field, i), r)
		if seen[route.Destination] && route.Destination.IsValid() {
			c.addf(fmt.Sprintf("%s[%d].destination", field, i), "%s stands twice", route.Destination)
		}
		seen[route.Destination] = true
		out = append(out, route)
	}
	return out
}

func (c *checker) route(field string, r *weftv1.Route) Route {
	route := Route{
		Destination: c.prefix(field+".destination", r.GetDestination()),
		NextHop:     c.addr(field+".nexthop", r.GetNexthop()),
	}
	if ip := route.NextHop; ip.IsValid() && (ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip == broadcast) {
		c.addf(field+".nexthop", "%s can't be a next hop", ip)
	}
	return route
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// RouteFrom checks one route; field is the path for errors.
func RouteFrom(field string, r *weftv1.Route) (Route, error) {
	var c checker
	route := c.route(field, r)
	return route, c.err()
}

func orTrue(b *bool) bool { return b == nil || *b }
