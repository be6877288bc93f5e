package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// join checks that claims, locators, members and bindings are those that follow from the objects: none missing, none twice, none
// that belongs to nothing.
func (s *store) join() findings {
	j := &joining{store: s, want: map[string]proto.Message{}, found: slices.Clone(s.found)}
	j.networks()
	j.networkGrants()
	j.subnets()
	j.ports()
	j.routers()
	j.floatingIPs()
	j.groups()
	j.counts()
	j.compare()
	j.agents()
	return j.found
}

type joining struct {
	*store
	want  map[string]proto.Message // by key
	found findings
}

func (j *joining) addf(format string, args ...any) { j.found.addf(Exact, inStore, format, args...) }

// expect notes a key that follows from an object. Two objects that lead to one key hold the same thing.
func (j *joining) expect(key string, m proto.Message) {
	if have, twice := j.want[key]; twice && !proto.Equal(have, m) {
		j.addf("key %s should be both %v and %v", key, have, m)
	}
	j.want[key] = m
}

func (j *joining) claim(key, kind, id string) { j.expect(key, &storev1.Claim{Kind: kind, Id: id}) }

// counts checks that what tenants make, and nothing else, counts against their project's quota: by the place that it says it
// holds, or by its id.
func (j *joining) counts() {
	for id, n := range j.store.networks {
		j.counted(keys.KindNetwork, id, n.msg)
	}
	for id, s := range j.store.subnets {
		j.counted(keys.KindSubnet, id, s.msg)
	}
	for id, p := range j.store.ports {
		if !strings.HasPrefix(p.msg.GetDeviceOwner(), "network:") {
			j.counted(keys.KindPort, id, p.msg)
		}
	}
	for id, r := range j.store.routers {
		j.counted(keys.KindRouter, id, r.msg)
	}
	for id, f := range j.floating {
		j.counted(keys.KindFloatingIP, id, f.msg)
	}
	for id, g := range j.store.groups {
		if g.msg.GetName() != "default" {
			j.counted(keys.KindSecurityGroup, id, g.msg)
		}
	}
	for id, r := range j.rules {
		if j.store.groups[r.msg.GetSecurityGroupId()].msg.GetName() != "default" || !byItself(r.msg) {
			j.counted(keys.KindRule, id, r.msg)
		}
	}
	for id, g := range j.addressGroups {
		j.counted(keys.KindAddressGroup, id, g.msg)
	}
}

func (j *joining) counted(kind, id string, m interface {
	GetProject() string
	GetQuotaPlace() uint32
},
) {
	key := keys.UnnumberedPlace(m.GetProject(), kind, id)
	if place := m.GetQuotaPlace(); place > 0 {
		key = keys.PlaceClaim(m.GetProject(), kind, place)
	}
	j.claim(key, kind, id)
}

// byItself reports whether a rule of a default group is one that it has by itself: all egress, and ingress from its members.
func byItself(r *weftv1.SecurityGroupRule) bool {
	everything := r.GetProtocol() == "" && r.PortMin == nil && r.PortMax == nil && r.IcmpType == nil && r.IcmpCode == nil && //nolint:protogetter // presence
		r.GetRemoteCidr() == "" && r.GetRemoteAddressGroupId() == ""
	if r.GetDirection() == weftv1.Direction_DIRECTION_EGRESS {
		return everything && r.GetRemoteGroupId() == ""
	}
	return everything && r.GetRemoteGroupId() == r.GetSecurityGroupId()
}

// typeNames are the network types as claims spell them.
func typeName(t weftv1.NetworkType) string {
	switch t {
	case weftv1.NetworkType_NETWORK_TYPE_VLAN:
		return "vlan"
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN:
		return "vxlan"
	case weftv1.NetworkType_NETWORK_TYPE_GRE:
		return "gre"
	case weftv1.NetworkType_NETWORK_TYPE_FLAT:
		return "flat"
	case weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED:
	}
	return t.String()
}

func tunnelled(n *weftv1.Network) bool {
	return n.GetType() == weftv1.NetworkType_NETWORK_TYPE_VXLAN || n.GetType() == weftv1.NetworkType_NETWORK_TYPE_GRE
}

func (j *joining) networks() {
	for id, n := range j.store.networks {
		j.claim(keys.SegmentClaim(typeName(n.msg.GetType()), n.msg.GetPhysicalNetwork(), n.msg.GetSegmentationId()), keys.KindNetwork, id)
		j.dhcp(id, n.msg)
	}
}

// dhcp checks that a network's DHCP servers are on the nodes it says, one each, with an address in each served subnet.
func (j *joining) dhcp(id string, n *weftv1.Network) {
	served := j.servedSubnets(id)
	nodes := slices.Sorted(slices.Values(n.GetDhcpPlacement().GetNodes()))
	var on []string
	for port, p := range j.store.ports {
		if p.msg.GetDeviceOwner() != ownerDHCP || p.msg.GetNetworkId() != id {
			continue
		}
		on = append(on, p.msg.GetBoundHost())
		j.expect(keys.HostObject(p.msg.GetBoundHost(), keys.KindDHCP, id), &storev1.DhcpBinding{PortId: port})
		var in []string
		for _, f := range p.msg.GetFixedIps() {
			in = append(in, f.GetSubnetId())
		}
		slices.Sort(in)
		if !slices.Equal(in, slices.Sorted(maps.Keys(served))) {
			j.addf("DHCP port %s of network %s has addresses in the subnets %v; those with DHCP are %v", port, id, in, slices.Sorted(maps.Keys(served)))
		}
	}
	slices.Sort(on)
	if !slices.Equal(on, nodes) {
		j.addf("network %s is to be served by the nodes %v; its DHCP ports are on %v", id, nodes, on)
	}
	if len(served) == 0 && len(nodes) > 0 {
		j.addf("network %s has no subnet with DHCP and is served by %v", id, nodes)
	}
}

// networkGrants checks that grants lie with the network that they name, and are of its project.
func (j *joining) networkGrants() {
	for id, g := range j.grants {
		network := g.msg.GetNetworkId()
		j.expect(keys.Locator(keys.KindNetworkGrant, id), &storev1.Locator{Scope: network})
		if got := j.scopes[keys.NetworkGrant(network, id)]; got != network {
			j.addf("network grant %s is of network %q and does not lie there", id, network)
		}
		j.inProject("network grant "+id, g.msg.GetProject(), j.store.networks[network].msg)
	}
}

// guest checks that a network is a project's to use: its own, shared or granted to it.
func (j *joining) guest(who, project, network string) {
	n, ok := j.store.networks[network]
	if !ok || n.msg.GetShared() || n.msg.GetProject() == project {
		return
	}
	for _, g := range j.grants {
		if g.msg.GetNetworkId() == network && g.msg.GetTargetProject() == project {
			return
		}
	}
	j.addf("%s is of project %s, and its network %s is private to project %s", who, project, network, n.msg.GetProject())
}

func (j *joining) subnets() {
	for id, s := range j.store.subnets {
		j.guest("subnet "+id, s.msg.GetProject(), s.msg.GetNetworkId())
		j.expect(keys.Locator(keys.KindSubnet, id), &storev1.Locator{Scope: s.msg.GetNetworkId()})
		if _, ok := j.store.networks[s.msg.GetNetworkId()]; !ok {
			j.addf("subnet %s is of network %s, which does not exist", id, s.msg.GetNetworkId())
		}
	}
}

func (j *joining) ports() {
	for id, p := range j.store.ports {
		network := p.msg.GetNetworkId()
		j.expect(keys.Locator(keys.KindPort, id), &storev1.Locator{Scope: network})
		j.claim(keys.MACClaim(network, p.msg.GetMacAddress()), keys.KindPort, id)
		if p.msg.GetDeviceOwner() != ownerGateway { // on an external network
			j.guest("port "+id, p.msg.GetProject(), network)
		}
		if _, ok := j.store.networks[network]; !ok {
			j.addf("port %s is of network %s, which does not exist", id, network)
		}
		for _, f := range p.msg.GetFixedIps() {
			j.address("port "+id, network, f.GetSubnetId(), f.GetIpAddress(), keys.KindPort, id)
		}
		switch bound := p.msg.GetBoundHost(); {
		case ofRouter(p.msg):
			if bound != "" {
				j.addf("port %s is router %s's and bound to %s", id, p.msg.GetDeviceId(), bound)
			}
			j.leg(id, p.msg)
		case bound != "":
			j.expect(keys.HostObject(bound, keys.KindPort, id), &storev1.PortBinding{NetworkId: network})
		}
	}
}

// address notes the claim on an address and checks that it is in its subnet, and that in its network.
func (j *joining) address(who, network, subnet, address, kind, id string) {
	ip, err := netip.ParseAddr(address)
	s, ok := j.store.subnets[subnet]
	if err != nil || !ok || s.msg.GetNetworkId() != network {
		j.addf("%s: address %q in subnet %s: none of its network", who, address, subnet)
		return
	}
	if cidr, err := netip.ParsePrefix(s.msg.GetCidr()); err != nil || !cidr.Contains(ip) {
		j.addf("%s: address %s is not in %s", who, ip, s.msg.GetCidr())
	}
	j.claim(keys.AddressClaim(subnet, ip), kind, id)
}

// leg checks that a router knows a port that says it is the router's.
func (j *joining) leg(id string, p *weftv1.Port) {
	r := j.store.routers[p.GetDeviceId()].msg
	known := r.GetExternalGateway().GetPortId() == id
	if p.GetDeviceOwner() == ownerInterface {
		known = slices.ContainsFunc(r.GetInterfaces(), func(i *weftv1.RouterInterface) bool { return i.GetPortId() == id })
	}
	if !known {
		j.addf("port %s says that it is router %s's, which does not say so", id, p.GetDeviceId())
	}
}

func (j *joining) routers() {
	for id, r := range j.store.routers {
		for _, port := range routerPorts(r.msg) {
			if p, ok := j.store.ports[port]; !ok || p.msg.GetDeviceId() != id {
				j.addf("router %s: its port %s does not exist or is another's", id, port)
			}
		}
		j.placement(id)
	}
	for id := range j.active {
		if _, ok := j.store.routers[id]; !ok {
			j.addf("key %s belongs to nothing", keys.Active(id))
		}
	}
	for id, m := range j.moves {
		if _, ok := j.store.routers[id]; !ok {
			j.addf("key %s belongs to nothing", keys.Move(id))
			continue
		}
		j.addf("router %s is still to be moved to %s (%s)", id, m.msg.GetTo(), m.msg.GetReason())
	}
}

func routerPorts(r *weftv1.Router) []string {
	var out []string
	for _, i := range r.GetInterfaces() {
		out = append(out, i.GetPortId())
	}
	if g := r.GetExternalGateway(); g != nil {
		out = append(out, g.GetPortId())
	}
	return out
}

// placement checks that every node of a router's plan has its binding, that all say the same, and that the one which
// forwards is of the plan.
func (j *joining) placement(id string) {
	nodes := j.planned(id)
	a, have := j.active[id]
	for rank, node := range nodes {
		if slices.Index(nodes, node) != rank {
			j.addf("router %s is planned on %s twice: %v", id, node, nodes)
		}
		key := keys.HostObject(node, keys.KindRouter, id)
		b, ok := j.derived[key].(*storev1.RouterBinding)
		switch {
		case !ok:
			j.addf("key %s is missing: router %s is planned on %v", key, id, nodes)
		case int(b.GetRank()) != rank || !slices.Equal(b.GetNodes(), nodes):
			j.addf("key %s is %v; router %s is planned on %v", key, b, id, nodes)
		case b.GetHandOver() != "":
			j.addf("router %s: %s is still to hand it over to %s", id, node, b.GetHandOver())
		}
		j.want[key] = j.derived[key]
	}
	switch {
	case len(nodes) > 0 && (!have || !slices.Contains(nodes, a.msg.GetNode()) || a.msg.GetEpoch() < 1):
		j.addf("router %s: the node that forwards is %q, epoch %d; it is planned on %v", id, a.msg.GetNode(), a.msg.GetEpoch(), nodes)
	case len(nodes) == 0 && a.msg.GetNode() != "":
		j.addf("router %s is planned nowhere; the node that forwards is %q", id, a.msg.GetNode())
	}
	for _, node := range nodes {
		if pool(j.agent(node)) != pool(j.agent(nodes[0])) {
			j.addf("router %s is planned on nodes of several pools: %v", id, nodes)
			return
		}
	}
}

// agent is what a node's agent says of itself; never nil.
func (s *store) agent(node string) *storev1.Agent { return s.agents[node].msg }

func pool(a *storev1.Agent) string {
	if a.GetPool() == "" {
		return "default"
	}
	return a.GetPool()
}

func (j *joining) floatingIPs() {
	for id, f := range j.floating {
		scope := f.msg.GetRouterId()
		if scope == "" {
			scope = keys.Unassociated
		}
		j.expect(keys.Locator(keys.KindFloatingIP, id), &storev1.Locator{Scope: scope})
		if got := j.scopes[keys.FloatingIP(scope, id)]; got != scope {
			j.addf("floating IP %s is of router %q and does not lie there", id, f.msg.GetRouterId())
		}
		j.outside(id, f.msg)
		if f.msg.GetPortId() == "" {
			continue
		}
		fixed, err := netip.ParseAddr(f.msg.GetFixedIpAddress())
		if err != nil || !j.has(f.msg.GetPortId(), fixed) {
			j.addf("floating IP %s leads to %q of port %s, which has no such address", id, f.msg.GetFixedIpAddress(), f.msg.GetPortId())
			continue
		}
		j.claim(keys.FloatingClaim(f.msg.GetPortId(), fixed, f.msg.GetRouterId()), keys.KindFloatingIP, id)
	}
}

// outside notes the claim on a floating IP's own address.
func (j *joining) outside(id string, f *weftv1.FloatingIp) {
	ip, err := netip.ParseAddr(f.GetIpAddress())
	for subnet, s := range j.store.subnets {
		if cidr, bad := netip.ParsePrefix(s.msg.GetCidr()); err == nil && bad == nil && s.msg.GetNetworkId() == f.GetNetworkId() && cidr.Contains(ip) {
			j.claim(keys.AddressClaim(subnet, ip), keys.KindFloatingIP, id)
			return
		}
	}
	j.addf("floating IP %s: %q is in no subnet of network %s", id, f.GetIpAddress(), f.GetNetworkId())
}

func (j *joining) has(port string, ip netip.Addr) bool {
	return slices.ContainsFunc(j.store.ports[port].msg.GetFixedIps(), func(f *weftv1.FixedIp) bool { return f.GetIpAddress() == ip.String() })
}

// compare finds what is missing, what is left over and what differs.
func (j *joining) compare() {
	for key, want := range j.want {
		if want == nil {
			continue // a binding that was found missing
		}
		switch have := j.derived[key]; {
		case have == nil:
			j.addf("key %s is missing; it should be %v", key, want)
		case !proto.Equal(have, want):
			j.addf("key %s is %v; it should be %v", key, have, want)
		}
	}
	for key, have := range j.derived {
		if _, ok := j.want[key]; ok || j.refusal(key, have) {
			continue
		}
		j.addf("key %s (%v) belongs to nothing", key, have)
	}
}

// refusal: a port that is not to be wired on a node is told so there for as long as it is plugged there.
func (j *joining) refusal(key string, have proto.Message) bool {
	b, ok := have.(*storev1.PortBinding)
	k, err := keys.Parse(key)
	if !ok || b.GetRefused() == "" || err != nil {
		return false
	}
	_, plugged := j.plugs[keys.Plug(k.Scope(), k.ID())]
	return plugged
}

// agents checks what agents wrote: reports of objects that are there, by nodes concerned. A node whose agent is not alive
// could not take back what it said.
func (j *joining) agents() {
	for key := range j.reports {
		k, err := keys.Parse(key)
		if err != nil {
			continue // was found when it was read
		}
		if _, alive := j.live[k.Scope()]; alive && !j.concerned(k.Scope(), k.Kind(), k.ID()) {
			j.addf("key %s: the report belongs to nothing", key)
		}
	}
	for key := range j.plugs {
		if k, err := keys.Parse(key); err == nil {
			if _, known := j.store.agents[k.Scope()]; !known {
				j.addf("key %s: there is no node %s", key, k.Scope())
			}
		}
	}
}

// concerned reports whether a node has something to say of an object.
func (j *joining) concerned(node, kind, id string) bool {
	switch kind {
	case keys.KindPort:
		p, ok := j.store.ports[id]
		_, plugged := j.plugs[keys.Plug(node, id)]
		return plugged || ok && (j.location(p.msg) == node || ofRouter(p.msg) && slices.Contains(j.planned(p.msg.GetDeviceId()), node))
	case keys.KindRouter:
		return slices.Contains(j.planned(id), node)
	case keys.KindFloatingIP:
		f, ok := j.floating[id]
		return ok && slices.Contains(j.planned(f.msg.GetRouterId()), node)
	case keys.KindDHCP:
		n, ok := j.store.networks[id]
		return ok && slices.Contains(n.msg.GetDhcpPlacement().GetNodes(), node)
	default:
		return false
	}
}

// truth checks that a node that is alive has reported every object that concerns it at the revision that is stored.
func (s *store) truth(h *host) findings {
	var out findings
	node := h.name
	if _, alive := s.live[node]; !alive {
		out.addf(Truth, node, "its agent is not alive")
		return out
	}
	for _, peer := range s.witnesses[node].msg.GetLost() {
		if _, alive := s.live[peer]; alive {
			out.addf(Truth, node, "it does not hear %s any more, whose agent is alive", peer)
		}
	}
	t := reporting{s, node, &out, h}
	for id, p := range s.ports {
		_, plugged := s.plugs[keys.Plug(node, id)]
		own := ofRouter(p.msg) || p.msg.GetDeviceOwner() == ownerDHCP
		if s.location(p.msg) == node && (own || plugged) {
			t.expect(keys.KindPort, id, p.revision, t.portState(p.msg))
		}
	}
	for id, r := range s.routers {
		switch {
		case s.holder(id) == node:
			t.expect(keys.KindRouter, id, r.revision, state(up(r.msg.AdminStateUp))) //nolint:protogetter // presence
		case slices.Contains(s.planned(id), node):
			t.standby(id, r.revision)
		}
	}
	for id, f := range s.floating {
		if f.msg.GetRouterId() != "" && s.holder(f.msg.GetRouterId()) == node {
			t.expect(keys.KindFloatingIP, id, f.revision, weftv1.State_STATE_ACTIVE)
		}
	}
	for id, n := range s.networks {
		if slices.Contains(n.msg.GetDhcpPlacement().GetNodes(), node) {
			t.expect(keys.KindDHCP, id, s.dhcpRevision(id), weftv1.State_STATE_ACTIVE)
		}
	}
	return out
}

// dhcpRevision is the newest change that a network's DHCP server has to know of.
func (s *store) dhcpRevision(network string) int64 {
	out := s.networks[network].revision
	for _, sub := range s.subnets {
		if sub.msg.GetNetworkId() == network {
			out = max(out, sub.revision)
		}
	}
	return out
}

type reporting struct {
	*store
	node  string
	found *findings
	host  *host
}

func state(up bool) weftv1.State {
	if up {
		return weftv1.State_STATE_ACTIVE
	}
	return weftv1.State_STATE_DOWN
}

func (t reporting) portState(p *weftv1.Port) weftv1.State {
	if n := t.networks[p.GetNetworkId()].msg; up(p.AdminStateUp) && !up(n.AdminStateUp) { //nolint:protogetter // presence
		return weftv1.State_STATE_ERROR
	}
	if t.deviceless(p) && up(p.AdminStateUp) { //nolint:protogetter // presence
		return weftv1.State_STATE_ERROR
	}
	return state(up(p.AdminStateUp)) //nolint:protogetter // presence
}

// deviceless reports whether the port's interface is one that somebody plugged whose device does not exist: after a reboot,
// the database remembers VMs that have not been started again.
func (t reporting) deviceless(p *weftv1.Port) bool {
	i := t.host.ports[t.host.plugged()[p.GetId()]]
	return i != nil && i.number == 0 && i.err != ""
}

func (t reporting) expect(kind, id string, revision int64, want weftv1.State) {
	r, ok := t.reports[keys.Status(t.node, kind, id)]
	switch {
	case !ok:
		t.found.addf(Truth, t.node, "%s %s is not reported", kind, id)
	case r.msg.GetState() != want || r.msg.GetRevision() != revision:
		t.found.addf(Truth, t.node, "%s %s is reported as %s%s; it should be %s", kind, id, told(r.msg), sinceRevision(r.msg, revision), want)
	case r.msg.GetStandby():
		t.found.addf(Truth, t.node, "%s %s forwards here and is reported as standby", kind, id)
	}
}

func (t reporting) standby(id string, revision int64) {
	r, ok := t.reports[keys.Status(t.node, keys.KindRouter, id)]
	if !ok || !r.msg.GetStandby() || r.msg.GetRevision() != revision {
		t.found.addf(Truth, t.node, "router %s is not reported as a standby that is ready (%s)", id, told(r.msg))
	}
}

func told(r *storev1.Report) string {
	if r == nil {
		return "no report"
	}
	if r.GetMessage() == "" {
		return r.GetState().String()
	}
	return fmt.Sprintf("%s %q", r.GetState(), r.GetMessage())
}

func sinceRevision(r *storev1.Report, want int64) string {
	if r.GetRevision() == want {
		return ""
	}
	return fmt.Sprintf(" at revision %d of %d", r.GetRevision(), want)
}
