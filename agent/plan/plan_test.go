package plan_test

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// storeSim is a store whose scopes a View follows, as the mirror would have it.
type storeSim struct {
	revision int64
	entries  map[string]mirror.Change
}

func newStore() *storeSim { return &storeSim{entries: map[string]mirror.Change{}} }

func (s *storeSim) put(key string, m proto.Message) mirror.Change {
	value, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	s.revision++
	c := mirror.Change{Key: key, Value: append([]byte{}, value...), Revision: s.revision}
	s.entries[key] = c
	return c
}

func (s *storeSim) delete(key string) mirror.Change {
	s.revision++
	delete(s.entries, key)
	return mirror.Change{Key: key, Revision: s.revision}
}

// node is a view with its planner, fed from a storeSim.
type node struct {
	store   *storeSim
	view    *view.View
	planner *plan.Planner
	facts   plan.Facts
	dirty   *view.Dirty
	scopes  map[string][]mirror.Range
	salt    uint32 // makes OVS give out other numbers
	hold    string // scopes of this kind are not listed
}

func newNode(s *storeSim, name string, facts plan.Facts) *node {
	return &node{
		store: s, view: view.New(name), planner: plan.NewPlanner(), facts: facts,
		dirty: view.NewDirty(), scopes: map[string][]mirror.Range{},
	}
}

// follow lists scopes until the view asks for no more.
func (n *node) follow() {
	for changed := true; changed; {
		changed = false
		wanted := n.view.Scopes()
		for name := range n.scopes {
			if wanted[name] == nil {
				delete(n.scopes, name)
				n.view.Drop(name, n.dirty)
				changed = true
			}
		}
		for name, ranges := range wanted {
			if n.scopes[name] == nil && (n.hold == "" || !strings.HasPrefix(name, n.hold)) {
				n.scopes[name] = ranges
				n.view.Apply(mirror.Batch{Changes: n.store.within(ranges), Listed: []string{name}}, n.dirty)
				changed = true
			}
		}
	}
}

func (s *storeSim) within(ranges []mirror.Range) []mirror.Change {
	var out []mirror.Change
	for key, c := range s.entries {
		if slices.ContainsFunc(ranges, func(r mirror.Range) bool { return r.Contains(key) }) {
			out = append(out, c)
		}
	}
	return out
}

// see hands the view the changes that it follows.
func (n *node) see(changes ...mirror.Change) {
	var batch mirror.Batch
	for _, c := range changes {
		for _, ranges := range n.scopes {
			if slices.ContainsFunc(ranges, func(r mirror.Range) bool { return r.Contains(c.Key) }) {
				batch.Changes = append(batch.Changes, c)
			}
		}
	}
	n.view.Apply(batch, n.dirty)
	n.follow()
}

// plan brings the plan up to date, with local VLANs given out as the agent does.
func (n *node) plan() plan.Delta {
	old := n.facts
	n.facts.VLANs, _ = plan.AssignVLANs(n.facts.VLANs, plan.NeedVLAN(n.view))
	n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
	dirty := n.dirty
	n.dirty = view.NewDirty()
	return n.planner.Update(n.view, &n.facts, dirty)
}

// learn gives numbers to the planned ports, as OVS would, and plans with them.
func (n *node) learn() plan.Delta {
	old := n.facts
	n.facts.OFPorts = map[string]uint32{}
	for _, p := range n.planner.Ports() {
		if p.Type != desired.PortForeign {
			n.facts.OFPorts[p.Name] = number(p.Name, n.salt)
		}
	}
	n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
	return n.plan()
}

// number is a stable OpenFlow number for a name, another one for another salt.
func number(name string, salt uint32) uint32 {
	h := uint32(2166136261) + salt
	for _, b := range []byte(name) {
		h = (h ^ uint32(b)) * 16777619
	}
	return h%60000 + 1
}

// text is the whole plan, for golden files.
func (n *node) text(t *testing.T) string {
	t.Helper()
	names := map[uint32]string{}
	for name, port := range n.facts.OFPorts {
		names[port] = name
	}
	for _, p := range n.facts.Plugged {
		names[p.OFPort] = p.Name
	}
	var b strings.Builder
	for _, p := range n.planner.Ports() {
		fmt.Fprintf(&b, "port %s on %s: type=%s tag=%d mac=%s options=%v ids=%v", p.Name, p.Bridge, p.Type, p.Tag, p.MAC, p.Options, p.ExternalIDs)
		if len(p.BFD) > 0 {
			fmt.Fprintf(&b, " bfd=%v", p.BFD)
		}
		b.WriteByte('\n')
	}
	for _, bridge := range []string{plan.BrInt, plan.BrTun, "br-tenant", "br-ext1"} {
		fmt.Fprintf(&b, "\n# %s\n%s", bridge, flow.Text(n.planner.Flows(bridge), flow.TextOptions{
			PortName: func(port uint32) string { return names[port] },
		}))
	}
	for _, id := range slices.Sorted(maps.Keys(n.planner.Routers())) {
		r := n.planner.Routers()[id]
		writeNamespace(&b, r.Namespace)
		rules, err := iptables.Render(r.Namespace.IPTables)
		if err != nil {
			t.Fatal(err)
		}
		writeMetadata(&b, r.Metadata)
		fmt.Fprintf(&b, "learned: %v\nproblem: %v\n%s", r.Learned, r.Problem, rules)
	}
	for _, id := range slices.Sorted(maps.Keys(n.planner.DHCP())) {
		d := n.planner.DHCP()[id]
		writeNamespace(&b, d.Namespace)
		writeMetadata(&b, d.Metadata)
		fmt.Fprintf(&b, "problem: %v\ndnsmasq %s\n", d.Problem, strings.Join(d.Server.Args, "\n  "))
		for _, name := range slices.Sorted(maps.Keys(d.Server.Files)) {
			fmt.Fprintf(&b, "file %s:\n%s\n", name, d.Server.Files[name])
		}
	}
	return b.String()
}

func writeMetadata(b *strings.Builder, m *desired.Metadata) {
	if m != nil {
		fmt.Fprintf(b, "metadata on %s for router %q, network %q\n", m.Address, m.Router, m.Network)
	}
}

func writeNamespace(b *strings.Builder, ns desired.Namespace) {
	fmt.Fprintf(b, "\n# namespace %s forward=%v\nsysctls %v\n", ns.Name, ns.Forward, ns.Sysctls)
	for _, l := range ns.Links {
		fmt.Fprintf(b, "link %s mac=%s mtu=%d addresses=%v announce=%v sysctls=%v\n", l.Name, l.MAC, l.MTU, l.Addresses, l.Announce, l.Sysctls)
	}
	for _, r := range ns.Routes {
		fmt.Fprintf(b, "route %s via %s dev %s\n", r.Destination, r.Via, r.Dev)
	}
}

// id makes a readable UUID.
func id(kind string, n int) string {
	return fmt.Sprintf("%s%07d-0000-4000-8000-00000000%04d", kind, n, n)
}

// The ids of the fixture: networks a…, subnets b…, ports c…, routers d…, floating IPs e….
var (
	netVXLAN, netGRE, netVLAN, netExt = id("a", 1), id("a", 2), id("a", 3), id("a", 4)
	router1                           = id("d", 1)
)

func network(id, name string, t weftv1.NetworkType, physnet string, segment uint32, mtu int32) *weftv1.Network {
	return &weftv1.Network{
		Id: id, Name: name, Project: "default", Type: t, PhysicalNetwork: physnet, SegmentationId: segment,
		Mtu: mtu, DnsDomain: "weft.internal",
	}
}

func subnet(id, network, cidr, gateway string) *weftv1.Subnet {
	return &weftv1.Subnet{Id: id, Project: "default", NetworkId: network, Cidr: cidr, GatewayIp: &gateway}
}

func port(n int, network, subnet, ip, owner, device, host string) *weftv1.Port {
	return &weftv1.Port{
		Id: id("c", n), Project: "default", NetworkId: network, MacAddress: fmt.Sprintf("fa:16:3e:00:00:%02x", n),
		FixedIps:    []*weftv1.FixedIp{{SubnetId: subnet, IpAddress: ip}},
		DeviceOwner: owner, DeviceId: device, BoundHost: host,
	}
}

// entry is a key with its value.
type entry struct {
	key   string
	value proto.Message
}

// addresses are the nodes' tunnel addresses.
func addresses() map[string]string {
	return map[string]string{"net1": "10.31.0.11", "cmp1": "10.31.0.12", "cmp2": "10.31.0.13", "net2": "10.31.0.14"}
}

// fleet is a small fleet: net1 with a router that net2 stands by for, DHCP servers and the outside; cmp1 and cmp2 with VMs
// on a VXLAN, a GRE and a VLAN network.
func fleet() []entry {
	var out []entry
	add := func(key string, m proto.Message) { out = append(out, entry{key, m}) }
	for _, name := range slices.Sorted(maps.Keys(addresses())) {
		role := weftv1.Role_ROLE_COMPUTE
		if strings.HasPrefix(name, "net") {
			role = weftv1.Role_ROLE_NETWORK
		}
		add(keys.Agent(name), &storev1.Agent{TunnelIp: addresses()[name], Roles: []weftv1.Role{role}})
		add(keys.Live(name), &storev1.Agent{})
		add(keys.Witness(name), &storev1.Witness{Heard: []string{"net1"}})
	}
	for _, n := range []*weftv1.Network{
		network(netVXLAN, "vx", weftv1.NetworkType_NETWORK_TYPE_VXLAN, "", 5001, 1450),
		network(netGRE, "gre", weftv1.NetworkType_NETWORK_TYPE_GRE, "", 77, 1458),
		network(netVLAN, "vlan", weftv1.NetworkType_NETWORK_TYPE_VLAN, "tenant", 1000, 1500),
		network(netExt, "ext1", weftv1.NetworkType_NETWORK_TYPE_FLAT, "ext1", 0, 1500),
	} {
		add(keys.Network(n.GetId()), n)
	}
	for i, s := range []*weftv1.Subnet{
		subnet(id("b", 1), netVXLAN, "10.1.0.0/24", "10.1.0.1"),
		subnet(id("b", 2), netGRE, "10.2.0.0/24", "10.2.0.1"),
		subnet(id("b", 3), netVLAN, "10.3.0.0/24", "10.3.0.1"),
		subnet(id("b", 4), netExt, "203.0.113.0/24", "203.0.113.1"),
	} {
		s.DnsNameservers = []string{fmt.Sprintf("192.0.2.%d", 50+i)}
		add(keys.Subnet(s.GetNetworkId(), s.GetId()), s)
	}
	vm := func(n int, network, subnet, ip, host string) {
		p := port(n, network, subnet, ip, "compute:nova", "vm", host)
		add(keys.Port(network, p.GetId()), p)
		add(keys.HostObject(host, keys.KindPort, p.GetId()), &storev1.PortBinding{NetworkId: network})
	}
	vm(1, netVXLAN, id("b", 1), "10.1.0.11", "cmp1")
	vm(2, netVXLAN, id("b", 1), "10.1.0.12", "cmp2")
	vm(3, netGRE, id("b", 2), "10.2.0.13", "cmp1")
	vm(4, netGRE, id("b", 2), "10.2.0.14", "cmp2")
	vm(5, netVLAN, id("b", 3), "10.3.0.15", "cmp1")
	vm(6, netVLAN, id("b", 3), "10.3.0.16", "cmp2")
	guarded(add)
	for i, n := range []string{netVXLAN, netGRE} {
		p := port(20+i, n, id("b", 1+i), fmt.Sprintf("10.%d.0.2", 1+i), "network:dhcp", n, "net1")
		add(keys.Port(n, p.GetId()), p)
		add(keys.HostObject("net1", keys.KindDHCP, n), &storev1.DhcpBinding{PortId: p.GetId()})
	}
	routed(add)
	return out
}

// guarded adds a VM on cmp1 that is in two security groups, with what their rules refer to.
func guarded(add func(string, proto.Message)) {
	p := port(7, netVXLAN, id("b", 1), "10.1.0.17", "compute:nova", "vm", "cmp1")
	p.PortSecurityEnabled, p.SecurityGroups = proto.Bool(true), &weftv1.SecurityGroupIds{Ids: []string{group1, group2}}
	p.AllowedAddressPairs = []*weftv1.AddressPair{{IpAddress: "10.1.0.100", MacAddress: "00:00:5e:00:01:05"}}
	add(keys.Port(netVXLAN, p.GetId()), p)
	add(keys.HostObject("cmp1", keys.KindPort, p.GetId()), &storev1.PortBinding{NetworkId: netVXLAN})
	for _, g := range []string{group1, group2} {
		add(keys.SecurityGroup(g), &weftv1.SecurityGroup{Id: g, Project: "default"})
	}
	for _, r := range []*weftv1.SecurityGroupRule{
		rule(1, false, ""), rule(2, false, "", ipv6), rule(3, true, "", remoteGroup(group1)), rule(4, true, "tcp", ports(22, 22), remoteAddresses(listed)),
	} {
		r.SecurityGroupId = group1
		add(keys.Rule(group1, r.GetId()), r)
	}
	for _, r := range []*weftv1.SecurityGroupRule{rule(5, true, "icmp", cidr("10.0.0.0/8")), rule(6, true, "tcp", ports(80, 83)), rule(7, true, "tcp", ports(22, 22), remoteGroup(group1))} {
		r.SecurityGroupId = group2
		add(keys.Rule(group2, r.GetId()), r)
	}
	add(keys.Member(group1, p.GetId()), &storev1.Member{NetworkId: netVXLAN, Addresses: []string{"10.1.0.17", "10.1.0.100"}})
	add(keys.Member(group1, id("c", 88)), &storev1.Member{NetworkId: netGRE, Addresses: []string{"10.2.0.88", "fd00::88"}})
	add(keys.AddressGroup(listed), &weftv1.AddressGroup{Id: listed, Project: "default", Addresses: []string{"10.2.0.88", "192.0.2.0/24"}})
}

// routed adds router1 with a leg in the VXLAN and the VLAN network, a gateway and a floating IP.
func routed(add func(string, proto.Message)) {
	r := &weftv1.Router{
		Id: router1, Name: "r1", Project: "default", Placement: &weftv1.Placement{Nodes: []string{"net1", "net2"}},
		Routes: []*weftv1.Route{{Destination: "192.168.0.0/16", Nexthop: "10.1.0.11"}},
	}
	for i, leg := range []struct{ network, ip, owner string }{
		{netVXLAN, "10.1.0.1", "network:router_interface"},
		{netVLAN, "10.3.0.1", "network:router_interface"},
		{netExt, "203.0.113.55", "network:router_gateway"},
	} {
		sub := id("b", []int{1, 3, 4}[i])
		p := port(30+i, leg.network, sub, leg.ip, leg.owner, router1, "")
		add(keys.Port(leg.network, p.GetId()), p)
		if leg.network == netExt {
			r.ExternalGateway = &weftv1.ExternalGateway{NetworkId: netExt, PortId: p.GetId(), FixedIps: p.GetFixedIps()}
		} else {
			r.Interfaces = append(r.Interfaces, &weftv1.RouterInterface{PortId: p.GetId(), NetworkId: leg.network, SubnetId: sub, IpAddress: leg.ip})
		}
	}
	add(keys.Router(router1), r)
	for i, node := range []string{"net1", "net2"} {
		add(keys.HostObject(node, keys.KindRouter, router1), &storev1.RouterBinding{Rank: int32(i), Nodes: []string{"net1", "net2"}})
	}
	add(keys.Active(router1), &storev1.ActiveRouter{Node: "net1", Epoch: 1})
	add(keys.FloatingIP(router1, id("e", 1)), &weftv1.FloatingIp{
		Id: id("e", 1), Project: "default", NetworkId: netExt, IpAddress: "203.0.113.244",
		PortId: id("c", 1), FixedIpAddress: "10.1.0.11", RouterId: router1,
	})
}

func factsOf(name string, tunnel string) plan.Facts {
	f := plan.Facts{
		TunnelIP: netip.MustParseAddr(tunnel), Bridges: map[string]string{"tenant": "br-tenant"},
		OFPorts: map[string]uint32{}, Plugged: map[string]plan.Plugged{}, DatapathType: "netdev",
		Metadata: true, BFD: plan.BFD{Interval: 30 * time.Millisecond, Multiplier: 8},
	}
	if strings.HasPrefix(name, "net") {
		f.Bridges["ext1"] = "br-ext1"
	}
	return f
}

func plug(f *plan.Facts, ports ...int) {
	for _, n := range ports {
		f.Plugged[id("c", n)] = plan.Plugged{Name: fmt.Sprintf("vm%d", n), OFPort: uint32(100 + n)}
	}
}

func TestPlanOfANodeIsTheGoldenText(t *testing.T) {
	for _, name := range []string{"net1", "net2", "cmp1"} {
		t.Run(name, func(t *testing.T) {
			s := newStore()
			for _, e := range fleet() {
				s.put(e.key, e.value)
			}
			n := newNode(s, name, factsOf(name, addresses()[name]))
			if name == "cmp1" {
				plug(&n.facts, 1, 3, 5, 7)
			}
			n.follow()
			if !n.view.Complete() {
				t.Fatal("the view is not complete after every scope has been listed")
			}
			n.plan()
			n.learn()
			golden(t, filepath.Join("testdata", name+".golden"), n.text(t))
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got), rewrite with -update if it should:\n%s", file, diff)
	}
}
