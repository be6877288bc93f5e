// Package lease is the DHCP client of a simulated VM: it obtains a lease (RFC 2131) in any network namespace and gives
// the device there what the lease says, as a VM's boot would. It does not renew: a lab does not live that long.
package lease

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Lease is what a server gave.
type Lease struct {
	Address netip.Prefix  `json:"address"`
	Server  netip.Addr    `json:"server"`
	MTU     int           `json:"mtu,omitempty"`    // option 26 (RFC 2132); 0 when absent
	Routes  []Route       `json:"routes,omitempty"` // option 121 (RFC 3442), or else a default route by option 3
	DNS     []netip.Addr  `json:"dns,omitempty"`    // option 6
	Domain  string        `json:"domain,omitempty"` // option 15
	Host    string        `json:"host,omitempty"`   // option 12
	Time    time.Duration `json:"time,omitempty"`   // option 51
}

// Route leads to a destination; the zero Gateway means that the destination is on the link (RFC 3442, router 0.0.0.0).
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway"`
}

// Options of Acquire.
type Options struct {
	// Retry is how long the client waits for an answer before it asks again; 0 is 200 ms. That is short: a lab's servers
	// are near, and the first request may leave before the port is wired.
	Retry time.Duration
}

// Acquire obtains a lease for the device, asking until the context ends. Enter runs a function inside the network
// namespace of the device (such as netspace.Target.Do). Nothing on the device is changed.
func Acquire(ctx context.Context, enter func(func() error) error, device string, o Options) (Lease, error) {
	if o.Retry <= 0 {
		o.Retry = 200 * time.Millisecond
	}
	var client *nclient4.Client
	err := enter(func() (err error) {
		client, err = nclient4.New(device, nclient4.WithTimeout(o.Retry), nclient4.WithRetry(1))
		return err
	})
	if err != nil {
		return Lease{}, fmt.Errorf("open a DHCP client on %s: %w", device, err)
	}
	defer func() { _ = client.Close() }() // the lease is had, or not, by then
	for {
		answer, err := client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName, dhcpv4.OptionClasslessStaticRoute))
		if err == nil {
			return parse(answer.ACK)
		}
		if ctx.Err() != nil {
			return Lease{}, fmt.Errorf("no DHCP lease on %s (%w); last attempt: %w", device, ctx.Err(), err)
		}
		if refused := (*nclient4.ErrNak)(nil); errors.As(err, &refused) {
			return Lease{}, fmt.Errorf("the DHCP server refused %s: %w", device, err)
		}
	}
}

// parse reads the acknowledgement.
func parse(ack *dhcpv4.DHCPv4) (Lease, error) {
	address, err := prefix(&net.IPNet{IP: ack.YourIPAddr, Mask: ack.SubnetMask()})
	if err != nil {
		return Lease{}, fmt.Errorf("the lease's address and mask (option 1): %w", err)
	}
	server, _ := netip.AddrFromSlice(ack.ServerIdentifier().To4())
	l := Lease{Address: address, Server: server, Domain: ack.DomainName(), Host: ack.HostName(), Time: ack.IPAddressLeaseTime(0)}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil {
		l.MTU = int(mtu)
	}
	for _, dns := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(dns.To4()); ok {
			l.DNS = append(l.DNS, a)
		}
	}
	l.Routes, err = routes(ack)
	return l, err
}

// routes prefers option 121, which makes a client ignore option 3 (RFC 3442, "DHCP Client Behavior").
func routes(ack *dhcpv4.DHCPv4) ([]Route, error) {
	var found []Route
	for _, r := range ack.ClasslessStaticRoute() {
		destination, err := prefix(r.Dest)
		if err != nil {
			return nil, fmt.Errorf("the lease's static routes (option 121): %w", err)
		}
		route := Route{Destination: destination}
		if gateway, ok := netip.AddrFromSlice(r.Router.To4()); ok && !gateway.IsUnspecified() {
			route.Gateway = gateway
		}
		found = append(found, route)
	}
	if len(found) > 0 {
		return found, nil
	}
	for _, router := range ack.Router() {
		if gateway, ok := netip.AddrFromSlice(router.To4()); ok {
			return []Route{{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: gateway}}, nil
		}
	}
	return nil, nil
}

func prefix(n *net.IPNet) (netip.Prefix, error) {
	if n == nil {
		return netip.Prefix{}, errors.New("missing")
	}
	address, ok := netip.AddrFromSlice(n.IP.To4())
	bits, size := n.Mask.Size()
	if !ok || size != 32 {
		return netip.Prefix{}, fmt.Errorf("%v is not an IPv4 prefix", n)
	}
	return netip.PrefixFrom(address, bits), nil
}

// Apply gives the device the lease's address, MTU and routes. Idempotent; it takes nothing away.
func (l Lease) Apply(handle *netlink.Handle, device string) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if l.MTU > 0 {
		if err := handle.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", device, l.MTU, err)
		}
	}
	if err := handle.AddrReplace(link, &netlink.Addr{IPNet: ipNet(l.Address)}); err != nil {
		return fmt.Errorf("give %s the address %v: %w", device, l.Address, err)
	}
	for _, r := range l.Routes {
		if err := handle.RouteReplace(r.netlink(link)); err != nil {
			return fmt.Errorf("add the route to %v by %v on %s: %w", r.Destination, r.Gateway, device, err)
		}
	}
	return nil
}

func (r Route) netlink(link netlink.Link) *netlink.Route {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Destination)}
	if r.Gateway.IsValid() {
		route.Gw = r.Gateway.AsSlice()
	} else {
		route.Scope = netlink.SCOPE_LINK
	}
	return route
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
