package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// observeRoutes reads weft's routes: IPv4 unicast, main table, protocol static.
func (p *pass) observeRoutes() ([]desired.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Type: unix.RTN_UNICAST}
	list, err := p.inside.RouteListFiltered(unix.AF_INET, filter,
		netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	names := make(map[int]string, len(p.links))
	for name, l := range p.links {
		names[l.Attrs().Index] = name
	}
	routes := make([]desired.Route, 0, len(list))
	for _, r := range list {
		routes = append(routes, readRoute(r, names))
	}
	return routes, nil
}

func readRoute(r netlink.Route, names map[int]string) desired.Route {
	out := desired.Route{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Dev: names[r.LinkIndex]}
	if r.Dst != nil {
		ip, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		out.Destination = netip.PrefixFrom(ip, ones)
	}
	if gw, ok := netip.AddrFromSlice(r.Gw.To4()); ok {
		out.Via = gw
	}
	return out
}

// setRoutes adds or replaces what is missing, then removes what is not wanted. It reads the routes only now, because
// the kernel drops some of them itself when links go down or addresses go.
func (p *pass) setRoutes() {
	have, err := p.observeRoutes()
	if err != nil {
		p.fail(err)
		return
	}
	replaced := make(map[netip.Prefix]bool)
	for i, want := range p.want.Routes {
		same := func(r desired.Route) bool { return r.Destination == want.Destination }
		switch err := checkRoute(want); {
		case err != nil:
			p.fail(err)
			continue
		case slices.ContainsFunc(p.want.Routes[:i], same):
			p.fail(fmt.Errorf("route to %s: wanted twice", want.Destination))
			continue
		case p.links[want.Dev] == nil || slices.Contains(have, want):
			continue // a missing link has been reported; the route comes with it
		}
		if slices.ContainsFunc(have, same) {
			replaced[want.Destination] = p.putRoute(want, p.inside.RouteReplace)
		} else {
			p.putRoute(want, p.inside.RouteAdd)
		}
	}
	p.dropRoutes(have, replaced)
}

func checkRoute(r desired.Route) error {
	if !r.Destination.IsValid() || !r.Destination.Addr().Is4() || r.Destination != r.Destination.Masked() {
		return fmt.Errorf("route to %q: not an IPv4 network", r.Destination)
	}
	if r.Via.IsValid() && !r.Via.Is4() {
		return fmt.Errorf("route to %s: next hop %s is not IPv4", r.Destination, r.Via)
	}
	return nil
}

func (p *pass) putRoute(want desired.Route, put func(*netlink.Route) error) bool {
	return p.write(desired.Difference{Kind: "route", Object: want.Destination.String(), Desired: way(want)}, func() error {
		err := put(p.netlinkRoute(want))
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("a route that is not weft's is in the way: %w", err)
		}
		return err
	})
}

// dropRoutes removes the routes of have that are not wanted. A replaced one is gone already.
func (p *pass) dropRoutes(have []desired.Route, replaced map[netip.Prefix]bool) {
	for _, r := range have {
		if slices.Contains(p.want.Routes, r) {
			continue
		}
		if replaced[r.Destination] {
			replaced[r.Destination] = false // only one of several was replaced
			continue
		}
		if p.links[r.Dev] == nil {
			continue
		}
		p.write(desired.Difference{Kind: "route", Object: r.Destination.String(), Actual: way(r)}, func() error {
			return ignore(p.inside.RouteDel(p.netlinkRoute(r)), unix.ESRCH)
		})
	}
}

// way is where a route leads, as ip-route(8) writes it.
func way(r desired.Route) string {
	if r.Via.IsValid() {
		return "via " + r.Via.String() + " dev " + r.Dev
	}
	return "dev " + r.Dev
}

func (p *pass) netlinkRoute(r desired.Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: p.links[r.Dev].Attrs().Index,
		Dst:       ipNet(r.Destination),
		Protocol:  unix.RTPROT_STATIC,
		Table:     unix.RT_TABLE_MAIN,
		Scope:     netlink.SCOPE_UNIVERSE,
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
	} else {
		out.Scope = netlink.SCOPE_LINK
	}
	return out
}
