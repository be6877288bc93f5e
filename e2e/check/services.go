package check

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// wantNamespace is a namespace of a router or DHCP server.
type wantNamespace struct {
	links   map[string]link // up is not compared: it is always wanted
	routes  []string
	rules   []string // of the table nat, in words
	jumps   []string // that lead to them
	listens []string // what the metadata proxy listens on
	forward bool
}

// wantDHCP is a network's DHCP server.
type wantDHCP struct {
	device string
	ranges []string // "10.0.0.0,static,255.255.255.0"
	hosts  []string // "<mac> <address>"
	// routes lead to the metadata service by the server: "<subnet> by <address>".
	routes []string
}

// router notes a router's namespace, which is the same on the node that forwards and on those that stand by.
func (e *expected) router(id string, r *weftv1.Router) {
	ns := wantNamespace{
		links: map[string]link{}, forward: up(r.AdminStateUp), //nolint:protogetter // presence
		rules: []string{metadataService + ":80 is answered on port 9697 of the router"}, jumps: wantJumps()[:1], listens: []string{"0.0.0.0:9697"},
	}
	reach := map[netip.Prefix]string{} // prefix -> device
	var inside []netip.Prefix
	var gateway *weftv1.Port
	for _, p := range e.legs(id) {
		l := e.leg(p)
		ns.links[deviceName(p)] = l
		for _, a := range l.addresses {
			reach[a.Masked()] = deviceName(p)
		}
		if p.GetDeviceOwner() == ownerGateway {
			gateway = p
			continue
		}
		for _, a := range l.addresses {
			inside = append(inside, a.Masked())
		}
	}
	via := func(hop netip.Addr) string {
		for prefix, device := range reach {
			if prefix.Contains(hop) {
				return device
			}
		}
		return ""
	}
	ns.routes = e.routes(r, gateway, via)
	if gateway != nil {
		for _, route := range r.GetRoutes() {
			if to, err := netip.ParsePrefix(route.GetDestination()); err == nil && via(parse(route.GetNexthop())) != deviceName(gateway) {
				inside = append(inside, to)
			}
		}
		ns.jumps = wantJumps()
		e.nat(&ns, r, gateway, inside, via)
	}
	e.namespaces["qrouter-"+id] = ns
}

// metadataService is where VMs ask (REFERENCE R17).
const metadataService = "169.254.169.254"

// parse reads an address; the invalid one for anything else.
func parse(text string) netip.Addr {
	ip, _ := netip.ParseAddr(text) // the store's join has found it
	return ip
}

// leg is the device of one of the system's own ports, with its addresses.
func (e *expected) leg(p *weftv1.Port) link {
	l := link{mac: p.GetMacAddress(), mtu: int(e.networks[p.GetNetworkId()].msg.GetMtu())}
	for _, f := range p.GetFixedIps() {
		s := e.subnets[f.GetSubnetId()].msg
		if cidr, err := netip.ParsePrefix(s.GetCidr()); err == nil {
			l.addresses = append(l.addresses, netip.PrefixFrom(parse(f.GetIpAddress()), cidr.Bits()))
		}
	}
	return l
}

// routes are a router's static routes: its own, and the default by the gateway unless one of its own is that.
func (e *expected) routes(r *weftv1.Router, gateway *weftv1.Port, via func(netip.Addr) string) []string {
	var out []string
	for _, route := range r.GetRoutes() {
		if device := via(parse(route.GetNexthop())); device != "" {
			out = append(out, routeText(route.GetDestination(), route.GetNexthop(), device))
		}
	}
	own := slices.ContainsFunc(out, func(s string) bool { return strings.HasPrefix(s, "default ") })
	for _, f := range gateway.GetFixedIps() {
		if hop := e.subnets[f.GetSubnetId()].msg.GetGatewayIp(); hop != "" && !own {
			return append(out, routeText("0.0.0.0/0", hop, deviceName(gateway)))
		}
	}
	return out
}

// nat notes the addresses of floating IPs and the rules of the table nat.
func (e *expected) nat(ns *wantNamespace, r *weftv1.Router, gateway *weftv1.Port, inside []netip.Prefix, via func(netip.Addr) string) {
	device := deviceName(gateway)
	l := ns.links[device]
	for _, f := range e.floating {
		fixed := parse(f.msg.GetFixedIpAddress())
		if f.msg.GetRouterId() != r.GetId() || via(fixed) == "" {
			continue
		}
		ip := parse(f.msg.GetIpAddress())
		l.addresses = append(l.addresses, netip.PrefixFrom(ip, ip.BitLen()))
		ns.rules = append(ns.rules, fmt.Sprintf("%s leads to %s", ip, fixed), fmt.Sprintf("%s leads to %s, from the router itself", ip, fixed),
			fmt.Sprintf("%s leaves as %s", fixed, ip))
	}
	ns.links[device] = l
	source := ""
	if len(gateway.GetFixedIps()) > 0 && enabled(r.GetExternalGateway()) {
		source = gateway.GetFixedIps()[0].GetIpAddress()
	}
	slices.SortFunc(inside, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range slices.Compact(inside) {
		if source != "" {
			ns.rules = append(ns.rules, fmt.Sprintf("%s leaves by %s as %s", p, device, source), fmt.Sprintf("%s goes to a floating IP as %s", p, source))
		}
	}
	ns.rules = append(ns.rules, "what does not leave by "+device+" is left alone")
}

func enabled(g *weftv1.ExternalGateway) bool { return up(g.EnableSnat) } //nolint:protogetter // presence

// server notes a network's DHCP server.
func (e *expected) server(id string) {
	served := e.servedSubnets(id)
	for _, p := range e.store.ports {
		if p.msg.GetDeviceOwner() == ownerDHCP && p.msg.GetNetworkId() == id && p.msg.GetBoundHost() == e.node {
			want := wantDHCP{device: deviceName(p.msg)}
			for _, s := range served {
				if cidr, err := netip.ParsePrefix(s.GetCidr()); err == nil {
					want.ranges = append(want.ranges, fmt.Sprintf("%s,static,%s", cidr.Addr(), net.IP(net.CIDRMask(cidr.Bits(), 32))))
				}
			}
			want.hosts = e.clients(id, served)
			leg := e.leg(p.msg)
			leg.addresses = append(leg.addresses, netip.PrefixFrom(parse(metadataService), 32))
			want.routes = e.metadataRoutes(p.msg, served)
			e.dhcp[id] = want
			e.namespaces["qdhcp-"+id] = wantNamespace{links: map[string]link{want.device: leg}, listens: []string{metadataService + ":80"}}
		}
	}
}

// metadataRoutes are those of served subnets that no router has an interface in.
func (e *expected) metadataRoutes(server *weftv1.Port, served map[string]*weftv1.Subnet) []string {
	routed := map[string]bool{}
	for _, p := range e.store.ports {
		for _, f := range p.msg.GetFixedIps() {
			routed[f.GetSubnetId()] = routed[f.GetSubnetId()] || p.msg.GetDeviceOwner() == ownerInterface
		}
	}
	var out []string
	for _, f := range server.GetFixedIps() {
		if s := served[f.GetSubnetId()]; s != nil && !routed[f.GetSubnetId()] {
			out = append(out, f.GetSubnetId()+" by "+f.GetIpAddress())
		}
	}
	return out
}

// clients are the addresses that a network's DHCP servers give: those of all ports but the servers' own.
func (e *expected) clients(network string, served map[string]*weftv1.Subnet) []string {
	var out []string
	for _, p := range e.store.ports {
		if p.msg.GetNetworkId() != network || p.msg.GetDeviceOwner() == ownerDHCP {
			continue
		}
		for _, f := range p.msg.GetFixedIps() {
			if served[f.GetSubnetId()] != nil {
				out = append(out, p.msg.GetMacAddress()+" "+f.GetIpAddress())
			}
		}
	}
	return out
}

// readRules puts the rules of a namespace into words, and says which of weft's are of no known form or lead nowhere.
func readRules(lines, want []string) (rules, strange []string) {
	jumps := map[string]bool{}
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.Contains(line, "weft-") {
			continue
		}
		if text := readRule(strings.TrimPrefix(f[1], "weft-l3-agent-"), f[2:]); text != "" {
			rules = append(rules, text)
		} else if !slices.Contains(want, strings.Join(f[1:], " ")) {
			strange = append(strange, line)
		}
		jumps[strings.Join(f[1:], " ")] = true
	}
	if len(lines) > 0 && len(rules) > 0 {
		for _, j := range want {
			if !jumps[j] {
				strange = append(strange, "missing: -A "+j)
			}
		}
	}
	return rules, strange
}

// wantJumps lead from the built-in chains to weft's and on (REFERENCE R16).
func wantJumps() []string {
	return []string{
		"PREROUTING -j weft-l3-agent-PREROUTING", "OUTPUT -j weft-l3-agent-OUTPUT", "POSTROUTING -j weft-l3-agent-POSTROUTING",
		"POSTROUTING -j weft-postrouting-bottom", "weft-postrouting-bottom -j weft-l3-agent-snat", "weft-l3-agent-snat -j weft-l3-agent-float-snat",
	}
}

// readRule is one rule in words; "" when it is of no known form.
func readRule(chain string, f []string) string {
	host := func(s string) string { return strings.TrimSuffix(s, "/32") }
	var a, b, c string
	text := strings.Join(f, " ")
	switch {
	case chain == "PREROUTING" && scan(text, "-d %s -j DNAT --to-destination %s", &a, &b):
		return fmt.Sprintf("%s leads to %s", host(a), b)
	case chain == "PREROUTING" && scan(text, "-d %s -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports %s", &a, &b):
		return fmt.Sprintf("%s:80 is answered on port %s of the router", host(a), b)
	case chain == "OUTPUT" && scan(text, "-d %s -j DNAT --to-destination %s", &a, &b):
		return fmt.Sprintf("%s leads to %s, from the router itself", host(a), b)
	case chain == "float-snat" && scan(text, "-s %s -j SNAT --to-source %s", &a, &b):
		return fmt.Sprintf("%s leaves as %s", host(a), b)
	case chain == "snat" && scan(text, "-s %s -o %s -j SNAT --to-source %s", &a, &b, &c):
		return fmt.Sprintf("%s leaves by %s as %s", a, b, c)
	case chain == "snat" && scan(text, "-s %s -m conntrack --ctstate DNAT -j SNAT --to-source %s", &a, &b):
		return fmt.Sprintf("%s goes to a floating IP as %s", a, b)
	case chain == "POSTROUTING" && scan(text, "! -o %s -m conntrack ! --ctstate DNAT -j ACCEPT", &a):
		return "what does not leave by " + a + " is left alone"
	}
	return ""
}

func scan(text, form string, into ...any) bool {
	n, err := fmt.Sscanf(text, form, into...)
	return err == nil && n == len(into) && len(strings.Fields(text)) == len(strings.Fields(form))
}

// compareServices compares namespaces, the devices that lead into them, and DHCP servers.
func (e *expected) compareServices(out *findings) {
	h := e.host
	var own []string // a stranger's has no mark (docs/ownership.md)
	for name := range h.namespaces {
		if _, wanted := e.namespaces[name]; wanted || slices.Contains(h.marks, name) {
			own = append(own, name)
		}
	}
	e.sameSet(out, "namespace", own, slices.Collect(maps.Keys(e.namespaces)))
	e.sameSet(out, "mark of a namespace", h.marks, slices.Collect(maps.Keys(e.namespaces)))
	var devices, aliased []string
	for name, want := range e.namespaces {
		for device := range want.links {
			devices = append(devices, device+" of "+name)
		}
		if have := h.namespaces[name]; have != nil {
			e.compareNamespace(out, name, want, have)
		}
	}
	for device, alias := range h.links {
		if ns, ok := strings.CutPrefix(alias, "weft:"); ok {
			aliased = append(aliased, device+" of "+ns)
		}
	}
	e.sameSet(out, "device", aliased, devices)
	e.compareDHCP(out)
	e.compareProxy(out)
}

// compareProxy wants one metadata proxy, which is not root, where there is anything to serve, and else none.
func (e *expected) compareProxy(out *findings) {
	if most := min(1, len(e.namespaces)); len(e.host.proxies) != most {
		out.addf(Exact, e.node, "%d metadata proxies run; %d should", len(e.host.proxies), most)
	}
	for pid, uids := range e.host.proxies {
		if slices.Contains(strings.Fields(uids), "0") {
			out.addf(Exact, e.node, "metadata proxy %s has root's user id: %s", pid, uids)
		}
	}
}

func (e *expected) compareNamespace(out *findings, name string, want wantNamespace, have *namespace) {
	for device, l := range have.links {
		if _, ok := want.links[device]; !ok {
			out.addf(Exact, e.node, "%s has the link %s, which nothing calls for", name, device)
		} else if !l.up {
			out.addf(Exact, e.node, "%s: link %s is down", name, device)
		}
	}
	for device, w := range want.links {
		l, ok := have.links[device]
		if !ok {
			out.addf(Exact, e.node, "%s has no link %s", name, device)
			continue
		}
		if l.mac != w.mac || l.mtu != w.mtu {
			out.addf(Exact, e.node, "%s: link %s has MAC %s and MTU %d; it should have %s and %d", name, device, l.mac, l.mtu, w.mac, w.mtu)
		}
		e.sameSet(out, name+": address of "+device, texts(l.addresses), texts(w.addresses))
	}
	if have.forward != want.forward {
		out.addf(Exact, e.node, "%s: forwards %v; it should be %v", name, have.forward, want.forward)
	}
	e.sameSet(out, name+": route", have.routes, want.routes)
	e.sameSet(out, name+": metadata listens on", have.listens, want.listens)
	rules, strange := readRules(have.iptables, want.jumps)
	e.sameSet(out, name+": NAT rule", rules, want.rules)
	for _, line := range strange {
		out.addf(Exact, e.node, "%s: a rule of weft's that the check does not know: %s", name, line)
	}
}

func texts[T fmt.Stringer](values []T) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.String())
	}
	return out
}

// sameSet says what is there and should not be, what should be and is not, and what is there twice.
func (e *expected) sameSet(out *findings, what string, have, want []string) {
	have, want = slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(want))
	for i, x := range have {
		if i > 0 && have[i-1] == x {
			out.addf(Exact, e.node, "%s %s is there twice", what, x)
		}
		if _, ok := slices.BinarySearch(want, x); !ok {
			out.addf(Exact, e.node, "%s %s is there; nothing calls for it", what, x)
		}
	}
	for _, x := range want {
		if _, ok := slices.BinarySearch(have, x); !ok {
			out.addf(Exact, e.node, "%s %s is missing", what, x)
		}
	}
}

const dhcpDir = "/var/lib/weft/dhcp/"

func (e *expected) compareDHCP(out *findings) {
	networks := slices.Collect(maps.Keys(e.dhcp))
	e.sameSet(out, "DHCP files of network", e.host.dhcpDirs, networks)
	var running []string
	for _, d := range e.host.dnsmasq {
		for _, arg := range d.args {
			if path, ok := strings.CutPrefix(arg, "--pid-file="+dhcpDir); ok {
				network := strings.TrimSuffix(path, "/pid")
				running = append(running, network)
				e.compareProcess(out, network, d)
			}
		}
	}
	e.sameSet(out, "dnsmasq of network", running, networks)
	for id, want := range e.dhcp {
		var hosts []string
		for line := range strings.Lines(e.host.hostFiles[id]) {
			if f := strings.Split(strings.TrimSpace(line), ","); len(f) >= 3 {
				hosts = append(hosts, f[0]+" "+f[2])
			}
		}
		e.sameSet(out, "DHCP of network "+id+": client", hosts, want.hosts)
		e.sameSet(out, "DHCP of network "+id+": route to the metadata service", metadataRoutesIn(e.host.optFiles[id]), want.routes)
	}
}

// metadataRoutesIn reads them from dnsmasq's options: "tag:subnet-<id>,option:classless-static-route,<to>,<by>,…".
func metadataRoutesIn(options string) []string {
	var out []string
	for line := range strings.Lines(options) {
		f := strings.Split(strings.TrimSpace(line), ",")
		for i := 2; len(f) > 2 && f[1] == "option:classless-static-route" && i+1 < len(f); i += 2 {
			if f[i] == metadataService+"/32" {
				out = append(out, strings.TrimPrefix(f[0], "tag:subnet-")+" by "+f[i+1])
			}
		}
	}
	return out
}

func (e *expected) compareProcess(out *findings, network string, d dnsmasq) {
	want, ok := e.dhcp[network]
	if !ok {
		return // found as one too many
	}
	if ns := e.host.namespaces["qdhcp-"+network]; ns != nil && ns.inode != d.inode {
		out.addf(Exact, e.node, "dnsmasq of network %s does not run in its namespace", network)
	}
	var ranges []string
	for _, arg := range d.args {
		if text, ok := strings.CutPrefix(arg, "--dhcp-range="); ok {
			if f := strings.Split(text, ","); len(f) >= 4 {
				ranges = append(ranges, strings.Join(f[1:4], ","))
			}
		}
	}
	e.sameSet(out, "dnsmasq of network "+network+": range", ranges, want.ranges)
	if !slices.Contains(d.args, "--interface="+want.device) {
		out.addf(Exact, e.node, "dnsmasq of network %s does not serve %s", network, want.device)
	}
}
