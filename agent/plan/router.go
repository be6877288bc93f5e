package plan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
)

// Router is what one router needs besides its ports' flows.
type Router struct {
	Namespace desired.Namespace
	// Devices are the names of its OVS ports.
	Devices []string
	// Learned are those of its links, by name, whose network's switches learn where a MAC is: it is not in a tunnel, where flows
	// say it.
	Learned map[string]bool
	// Metadata is where guests are listened to; nil: nowhere.
	Metadata *desired.Metadata
	// Revision is that of the router that this is made from, FloatingIPs those of its floating IPs.
	Revision    int64
	FloatingIPs map[string]int64
	// Unreachable are the floating IPs that are left out, and why.
	Unreachable map[string]error
	// Floating gives the fixed address behind each floating one.
	Floating map[netip.Addr]netip.Addr
	// Problem says what of the router can't be built; the rest of it is. Nil when it is whole.
	Problem error
}

// ErrAwaited is within Router.Problem when a network, subnet or port is not there. It may be on its way: a router comes by another
// watch than its networks.
var ErrAwaited = errors.New("does not exist or is not usable")

// RouterNamespace is the name of a router's namespace (REFERENCE R15).
func RouterNamespace(id string) string { return "qrouter-" + id }

// routerPlan plans a router; nil when this node is not to have it. It is the same plan whether the node forwards for the
// router or stands by: what makes a standby silent is that no flow admits or delivers a frame of its ports.
func routerPlan(v *view.View, facts *Facts, id string) *Router {
	r := v.Routers[id]
	if r == nil || r.Revision == 0 || !v.Planned(id) {
		return nil
	}
	b := routerBuilder{view: v, router: r, plan: &Router{
		Namespace: desired.Namespace{Name: RouterNamespace(id), Forward: r.Object.Up, Sysctls: routerSysctls()},
		Revision:  r.Revision, FloatingIPs: map[string]int64{}, Unreachable: map[string]error{},
		Floating: map[netip.Addr]netip.Addr{}, Learned: map[string]bool{},
	}}
	b.interfaces()
	b.gateway()
	b.routes()
	if facts.Metadata {
		b.plan.Metadata = routerMetadata(id)
		interceptMetadata(&b.plan.Namespace.IPTables)
	}
	b.finish()
	return b.plan
}

// noIPv6 keeps IPv6, which weft does not route, off the links of a namespace (ip-sysctl.rst, disable_ipv6): each would ask for
// routers and tell of its groups, by some eight packets to everybody, when it goes up.
const noIPv6 = "net.ipv6.conf.all.disable_ipv6"

// routerSysctls are set before any link goes up. A router's addresses answer ARP only on their own link, and a packet may
// come by another way than the answer goes (ip-sysctl.rst: arp_ignore, arp_announce, rp_filter). That it answers echo requests is said
// for a namespace that was left mute (agent/netns, Mute).
func routerSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.conf.all.arp_ignore":       "1",
		arpAnnounce:                          "2",
		"net.ipv4.conf.all.rp_filter":        "0",
		"net.ipv4.conf.default.rp_filter":    "0",
		"net.ipv4.conf.all.send_redirects":   "0",
		"net.ipv4.conf.all.accept_redirects": "0",
		"net.ipv4.icmp_echo_ignore_all":      "0",
		noIPv6:                               "1",
	}
}

type routerBuilder struct {
	view   *view.View
	router *view.Router
	plan   *Router
	// inside are the prefixes that leave through the gateway under its address.
	inside   []netip.Prefix
	attached []attachment
	problems []error
}

// attachment is a prefix that a link of the router lies in.
type attachment struct {
	prefix netip.Prefix
	dev    string
}

func (b *routerBuilder) problemf(format string, args ...any) {
	b.problems = append(b.problems, fmt.Errorf(format, args...))
}

// port finds one of the router's own ports with its network; false, and a problem noted, when something is missing.
func (b *routerBuilder) port(network, port string) (model.Port, *view.Network, bool) {
	n := b.view.Networks[network]
	if n == nil || n.Revision == 0 {
		b.problemf("network %s of port %s %w", network, port, ErrAwaited)
		return model.Port{}, nil, false
	}
	p, ok := n.Ports[port]
	if !ok || p.Object.DeviceID != b.router.Object.ID {
		b.problemf("port %s on network %s %w, or is not this router's", port, network, ErrAwaited)
		return model.Port{}, nil, false
	}
	return p.Object, n, true
}

// link makes the link for a port and notes the prefixes it lies in.
func (b *routerBuilder) link(prefix string, p model.Port, n *view.Network) desired.Link {
	l := desired.Link{Name: DeviceName(prefix, p.ID), MAC: p.MAC, MTU: n.Object.MTU}
	l.Sysctls = patience(l.Name)
	b.plan.Learned[l.Name] = !n.Object.Tunnelled()
	for _, f := range p.FixedIPs {
		s, ok := n.Subnets[f.Subnet]
		if !ok {
			b.problemf("subnet %s of port %s %w", f.Subnet, p.ID, ErrAwaited)
			continue
		}
		l.Addresses = append(l.Addresses, netip.PrefixFrom(f.IP, s.Object.CIDR.Bits()))
		l.Announce = append(l.Announce, f.IP)
		b.attached = append(b.attached, attachment{s.Object.CIDR, l.Name})
	}
	return l
}

// patience has the kernel ask anew for a neighbour's address every 60 ms, for a second (arp(7), Documentation/networking/
// ip-sysctl.rst). A node that takes a router over knows no neighbour yet, and its first question may be lost while flows are
// on their way into the datapath; by default the next one follows a second later. 60 ms are whole jiffies at any rate of the
// kernel's clock: other values read back as something else.
func patience(link string) map[string]string {
	return map[string]string{"net.ipv4.neigh." + link + ".retrans_time_ms": "60", "net.ipv4.neigh." + link + ".mcast_solicit": "16"}
}

func (b *routerBuilder) interfaces() {
	for _, i := range b.router.Object.Interfaces {
		p, n, ok := b.port(i.Network, i.Port)
		if !ok {
			continue
		}
		l := b.link("qr-", p, n)
		for _, a := range l.Addresses {
			b.inside = append(b.inside, a.Masked())
		}
		b.add(l)
	}
}

func (b *routerBuilder) add(l desired.Link) {
	b.plan.Namespace.Links = append(b.plan.Namespace.Links, l)
	b.plan.Devices = append(b.plan.Devices, l.Name)
}

// gateway adds the link to the outside, its default route and NAT.
func (b *routerBuilder) gateway() {
	g := b.router.Object.Gateway
	if g == nil {
		return
	}
	p, n, ok := b.port(g.Network, g.Port)
	if !ok {
		return
	}
	for _, r := range b.router.Object.Routes {
		if dev := b.via(r.NextHop); dev != "" {
			b.inside = append(b.inside, r.Destination)
		}
	}
	l := b.link("qg-", p, n)
	floating := b.floatingIPs()
	for _, f := range floating {
		l.Addresses = append(l.Addresses, netip.PrefixFrom(f.IP, f.IP.BitLen()))
		l.Announce = append(l.Announce, f.IP)
	}
	b.add(l)
	b.defaultRoute(p, n, l.Name)
	source := netip.Addr{}
	if g.SNAT && len(p.FixedIPs) > 0 {
		source = p.FixedIPs[0].IP
	}
	b.plan.Namespace.IPTables = natTables(l.Name, source, b.inside, floating)
}

func (b *routerBuilder) floatingIPs() []model.FloatingIP {
	var out []model.FloatingIP
	for id, f := range b.router.FloatingIPs {
		b.plan.FloatingIPs[id] = f.Revision
		if b.via(f.Object.Fixed) == "" {
			b.plan.Unreachable[id] = fmt.Errorf("no interface of router %s reaches the fixed address %s", b.router.Object.ID, f.Object.Fixed)
			continue
		}
		b.plan.Floating[f.Object.IP] = f.Object.Fixed
		out = append(out, f.Object)
	}
	slices.SortFunc(out, func(x, y model.FloatingIP) int { return x.IP.Compare(y.IP) })
	return out
}

func (b *routerBuilder) defaultRoute(p model.Port, n *view.Network, dev string) {
	for _, f := range p.FixedIPs {
		if s := n.Subnets[f.Subnet]; s.Object.Gateway.IsValid() {
			b.plan.Namespace.Routes = append(b.plan.Namespace.Routes,
				desired.Route{Destination: anywhere, Via: s.Object.Gateway, Dev: dev})
			return
		}
	}
}

var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// via is the link that a next hop is reached by; "" when none.
func (b *routerBuilder) via(hop netip.Addr) string {
	for _, a := range b.attached {
		if a.prefix.Contains(hop) {
			return a.dev
		}
	}
	return ""
}

func (b *routerBuilder) routes() {
	for _, r := range b.router.Object.Routes {
		dev := b.via(r.NextHop)
		if dev == "" {
			b.problemf("route %s: no interface of the router reaches the next hop %s", r.Destination, r.NextHop)
			continue
		}
		if r.Destination == anywhere {
			b.plan.Namespace.Routes = slices.DeleteFunc(b.plan.Namespace.Routes, func(d desired.Route) bool { return d.Destination == anywhere })
		}
		b.plan.Namespace.Routes = append(b.plan.Namespace.Routes, desired.Route{Destination: r.Destination, Via: r.NextHop, Dev: dev})
	}
}

func (b *routerBuilder) finish() {
	ns := &b.plan.Namespace
	for _, l := range ns.Links {
		slices.SortFunc(l.Addresses, model.ComparePrefixes)
	}
	slices.SortFunc(ns.Links, func(x, y desired.Link) int { return cmp.Compare(x.Name, y.Name) })
	slices.SortFunc(ns.Routes, func(x, y desired.Route) int { return model.ComparePrefixes(x.Destination, y.Destination) })
	slices.Sort(b.plan.Devices)
	b.plan.Problem = errors.Join(b.problems...)
}

// The chains of a router's table nat (REFERENCE R16). ChainDNAT has one rule per floating IP, which ParseDNAT reads.
const (
	ChainDNAT        = "weft-l3-agent-PREROUTING"
	chainOutput      = "weft-l3-agent-OUTPUT"
	chainPostrouting = "weft-l3-agent-POSTROUTING"
	chainFloatSNAT   = "weft-l3-agent-float-snat"
	chainSNAT        = "weft-l3-agent-snat"
	chainBottom      = "weft-postrouting-bottom"
)

// natTables are a router's NAT rules. source is the address that inside prefixes leave under; invalid: none.
func natTables(gateway string, source netip.Addr, inside []netip.Prefix, floating []model.FloatingIP) desired.IPTables {
	var in, floatSNAT, snat []string
	for _, f := range floating {
		in = append(in, fmt.Sprintf("-d %s/32 -j DNAT --to-destination %s", f.IP, f.Fixed))
		floatSNAT = append(floatSNAT, fmt.Sprintf("-s %s/32 -j SNAT --to-source %s", f.Fixed, f.IP))
	}
	snat = append(snat, "-j "+chainFloatSNAT)
	if source.IsValid() {
		snat = append(snat, sourceNAT(gateway, source, inside)...)
	}
	chains := map[string][]string{
		ChainDNAT:   in,
		chainOutput: in,
		// What was not addressed to a floating IP and does not leave by the gateway is plain routing between subnets.
		chainPostrouting: {fmt.Sprintf("! -o %s -m conntrack ! --ctstate DNAT -j ACCEPT", gateway)},
		chainFloatSNAT:   floatSNAT,
		chainSNAT:        snat,
		chainBottom:      {"-j " + chainSNAT},
	}
	out := desired.IPTables{Jumps: []desired.Jump{
		{Table: "nat", Builtin: "PREROUTING", Target: ChainDNAT},
		{Table: "nat", Builtin: "OUTPUT", Target: chainOutput},
		{Table: "nat", Builtin: "POSTROUTING", Target: chainPostrouting},
		{Table: "nat", Builtin: "POSTROUTING", Target: chainBottom},
	}}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		out.Chains = append(out.Chains, desired.Chain{Table: "nat", Name: name, Rules: chains[name]})
	}
	return out
}

// sourceNAT are the rules by which inside prefixes leave under the gateway's address: to the outside, and to a floating
// IP of the same router, where the answer would else go straight to the asker and not through the router.
func sourceNAT(gateway string, source netip.Addr, inside []netip.Prefix) []string {
	inside = slices.Clone(inside)
	slices.SortFunc(inside, model.ComparePrefixes)
	var out []string
	for _, p := range slices.Compact(inside) {
		out = append(out,
			fmt.Sprintf("-s %s -o %s -j SNAT --to-source %s", p, gateway, source),
			fmt.Sprintf("-s %s -m conntrack --ctstate DNAT -j SNAT --to-source %s", p, source))
	}
	return out
}

// ParseDNAT reads back from ChainDNAT's rules which fixed address each floating one leads to. Rules of another shape are
// passed over.
func ParseDNAT(rules []string) map[netip.Addr]netip.Addr {
	out := map[netip.Addr]netip.Addr{}
	for _, rule := range rules {
		var floating, fixed string
		if n, _ := fmt.Sscanf(rule, "-d %s -j DNAT --to-destination %s", &floating, &fixed); n != 2 {
			continue
		}
		p, err := netip.ParsePrefix(floating)
		to, err2 := netip.ParseAddr(fixed)
		if err == nil && err2 == nil {
			out[p.Addr()] = to
		}
	}
	return out
}
