// Package audit proves that a store is consistent: it joins objects with claims, locators and bindings one to one and says
// what does not fit. It looks at one revision, changes nothing and knows no excuse: what it finds in a store that only
// controllers wrote to is a bug. It does not look at what agents report.
package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Run reads the whole store at one revision and returns one sentence per inconsistency, sorted; none when all is well.
// The error is the store's.
func Run(ctx context.Context, s *store.Store) ([]string, error) {
	snap, err := s.Read(ctx, store.Prefix(keys.Root))
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return Check(snap.Results[0].Entries), nil
}

// Check is Run on entries read before: all of the store's at one revision.
func Check(entries []store.Entry) []string { return examine(entries).findings }

// examine joins everything.
func examine(entries []store.Entry) *auditor {
	a := &auditor{
		networks: map[string]*weftv1.Network{}, subnets: map[string]*weftv1.Subnet{}, ports: map[string]*weftv1.Port{},
		routers: map[string]*weftv1.Router{}, floating: map[string]*weftv1.FloatingIp{},
		groups: map[string]*weftv1.SecurityGroup{}, groupRules: map[string]*weftv1.SecurityGroupRule{}, addressGroups: map[string]*weftv1.AddressGroup{},
		instances: map[string]*weftv1.Instance{}, grants: map[string]*weftv1.NetworkGrant{},
		derived: map[string]proto.Message{}, expected: map[string]proto.Message{}, plugs: map[string]bool{}, agents: map[string]bool{},
		subnetsOf: map[string][]*weftv1.Subnet{}, serversOf: map[string][]*weftv1.Port{},
	}
	for _, e := range entries {
		a.load(e)
	}
	a.index()
	a.refusal()
	a.network()
	a.networkGrants()
	a.port()
	a.router()
	a.floatingIP()
	a.securityGroups()
	a.rules()
	a.compare()
	slices.Sort(a.findings)
	return a
}

// auditor collects what there is, what there should be, and the difference.
type auditor struct {
	networks map[string]*weftv1.Network
	grants   map[string]*weftv1.NetworkGrant
	subnets  map[string]*weftv1.Subnet
	ports    map[string]*weftv1.Port
	routers  map[string]*weftv1.Router
	floating map[string]*weftv1.FloatingIp

	groups        map[string]*weftv1.SecurityGroup
	groupRules    map[string]*weftv1.SecurityGroupRule
	addressGroups map[string]*weftv1.AddressGroup
	instances     map[string]*weftv1.Instance // by port

	ranges  []*weftv1.SegmentRange
	plugs   map[string]bool // keys
	agents  map[string]bool // names of nodes
	refused []keys.Key
	moves   []string // ids of routers that are to move

	// By network: the subnets and the ports of DHCP servers.
	subnetsOf map[string][]*weftv1.Subnet
	serversOf map[string][]*weftv1.Port

	// derived are the claims, locators, bindings, members and active nodes that are stored; expected those that follow from the
	// objects.
	derived, expected map[string]proto.Message
	findings          []string
	// unsound are objects that nothing can be derived from, since they can't be understood.
	unsound int
}

// unread notes an object that can't be understood.
func (a *auditor) unread(format string, args ...any) {
	a.unsound++
	a.findf(format, args...)
}

func (a *auditor) findf(format string, args ...any) {
	a.findings = append(a.findings, fmt.Sprintf(format, args...))
}

func (a *auditor) load(e store.Entry) {
	k, err := keys.Parse(e.Key)
	if err != nil {
		a.findf("%v", err)
		return
	}
	into := a.slot(k, e.Key)
	if into == nil {
		return
	}
	if err := proto.Unmarshal(e.Value, into); err != nil {
		a.unread("key %s: its value is no %s: %v", e.Key, into.ProtoReflect().Descriptor().FullName(), err)
	}
	if r, ok := into.(*storev1.PortBinding); ok && r.GetRefused() != "" {
		delete(a.derived, e.Key)
		a.refused = append(a.refused, k)
	}
	if id := idField(into); id != "" && id != k.ID() {
		a.unread("key %s holds an object whose id is %s", e.Key, id)
	}
}

func idField(m proto.Message) string {
	switch m := m.(type) {
	case *storev1.Claim, *storev1.Locator, *weftv1.Instance: // the id is another's
		return ""
	case interface{ GetId() string }:
		return m.GetId()
	default:
		return ""
	}
}

// slot is the message that a key's value is read into; nil for keys that agents write, and others that nothing is joined
// with.
func (a *auditor) slot(k keys.Key, key string) proto.Message {
	switch k.Family {
	case keys.FamilyNetwork:
		return put(a.networks, k.ID(), &weftv1.Network{})
	case keys.FamilyNetworkGrant:
		return put(a.grants, k.ID(), &weftv1.NetworkGrant{})
	case keys.FamilySubnet:
		return put(a.subnets, k.ID(), &weftv1.Subnet{})
	case keys.FamilyPort:
		return put(a.ports, k.ID(), &weftv1.Port{})
	case keys.FamilyRouter:
		return put(a.routers, k.ID(), &weftv1.Router{})
	case keys.FamilyFloatingIP:
		if a.floating[k.ID()] != nil {
			a.findf("floating IP %s is stored twice", k.ID())
		}
		return put(a.floating, k.ID(), &weftv1.FloatingIp{})
	case keys.FamilySegmentRange:
		r := &weftv1.SegmentRange{}
		a.ranges = append(a.ranges, r)
		return r
	case keys.FamilySecurityGroup:
		return put(a.groups, k.ID(), &weftv1.SecurityGroup{})
	case keys.FamilyRule:
		return put(a.groupRules, k.ID(), &weftv1.SecurityGroupRule{})
	case keys.FamilyAddressGroup:
		return put(a.addressGroups, k.ID(), &weftv1.AddressGroup{})
	default:
		return a.derivedSlot(k, key)
	}
}

// derivedSlot is slot for what belongs to an object.
func (a *auditor) derivedSlot(k keys.Key, key string) proto.Message {
	switch k.Family { //nolint:exhaustive // slot has the objects
	case keys.FamilyInstance:
		return put(a.instances, k.ID(), &weftv1.Instance{})
	case keys.FamilyMember:
		return put(a.derived, key, proto.Message(&storev1.Member{}))
	case keys.FamilyLocator:
		return put(a.derived, key, proto.Message(&storev1.Locator{}))
	case keys.FamilyClaim:
		return put(a.derived, key, proto.Message(&storev1.Claim{}))
	case keys.FamilyActive:
		return put(a.derived, key, proto.Message(&storev1.ActiveRouter{}))
	case keys.FamilyHost:
		return put(a.derived, key, binding(k.Kind()))
	case keys.FamilyPlug:
		a.plugs[key] = true
	case keys.FamilyAgent:
		a.agents[k.Scope()] = true
	case keys.FamilyMove:
		a.moves = append(a.moves, k.ID())
	case keys.FamilyNode, keys.FamilyLive, keys.FamilyStatus, keys.FamilyRequest, keys.FamilyLeader, keys.FamilyPool,
		keys.FamilyAsk, keys.FamilyAnswer, keys.FamilyWitness, keys.FamilyQuota:
	}
	return nil
}

func put[M proto.Message](in map[string]M, id string, m M) proto.Message {
	in[id] = m
	return m
}

func binding(kind string) proto.Message {
	switch kind {
	case keys.KindRouter:
		return &storev1.RouterBinding{}
	case keys.KindDHCP:
		return &storev1.DhcpBinding{}
	default:
		return &storev1.PortBinding{}
	}
}

func (a *auditor) index() {
	for _, s := range a.subnets {
		a.subnetsOf[s.GetNetworkId()] = append(a.subnetsOf[s.GetNetworkId()], s)
	}
	for _, p := range a.ports {
		if p.GetDeviceOwner() == model.OwnerDHCP {
			a.serversOf[p.GetDeviceId()] = append(a.serversOf[p.GetDeviceId()], p)
		}
	}
}

// refusal checks that what is refused on a node is plugged there.
func (a *auditor) refusal() {
	for _, k := range a.refused {
		if !a.plugs[keys.Plug(k.Scope(), k.ID())] {
			a.findf("port %s is refused on node %s, where it is not plugged", k.ID(), k.Scope())
		}
	}
}

// expect notes a key that follows from an object. Two objects that lead to one key are an inconsistency by themselves.
func (a *auditor) expect(key string, m proto.Message) {
	if have := a.expected[key]; have != nil && !proto.Equal(have, m) {
		a.findf("key %s should be both %s and %s", key, text(have), text(m))
	}
	a.expected[key] = m
}

func (a *auditor) claim(key, kind, id string) { a.expect(key, &storev1.Claim{Kind: kind, Id: id}) }

// count expects that an object counts against its project's quota.
func (a *auditor) count(m proto.Message) {
	if o, counts := quota.Of(m); counts {
		a.expect(o.Key(), o.Claim())
	}
}

func (a *auditor) locator(kind, id, scope string) {
	a.expect(keys.Locator(kind, id), &storev1.Locator{Scope: scope})
}

// compare finds what is missing, what is left over and what differs.
func (a *auditor) compare() {
	for key, want := range a.expected {
		have := a.derived[key]
		switch active, isActive := have.(*storev1.ActiveRouter); {
		case have == nil:
			a.findf("key %s is missing; it should be %s", key, text(want))
		case isActive:
			if wanted, ok := want.(*storev1.ActiveRouter); !ok || active.GetNode() != wanted.GetNode() || active.GetEpoch() < 1 {
				a.findf("key %s is %s; it should be %s", key, text(have), text(want))
			}
		case !proto.Equal(have, want):
			a.findf("key %s is %s; it should be %s", key, text(have), text(want))
		}
	}
	for key, have := range a.derived {
		if a.expected[key] == nil {
			a.findf("key %s (%s) belongs to nothing", key, text(have))
		}
	}
}

func text(m proto.Message) string { return strings.TrimSpace(fmt.Sprint(m)) }

// network checks networks and their subnets.
func (a *auditor) network() {
	for id, n := range a.networks {
		typed, err := model.NetworkFrom(n)
		if err != nil {
			a.unread("network %s: %v", id, err)
			continue
		}
		a.claim(keys.SegmentClaim(model.TypeName(typed.Type), typed.PhysicalNetwork, typed.Segment), keys.KindNetwork, id)
		if lo, _ := model.SegmentBounds(typed.Type); lo > 0 && !a.inRange(typed) {
			a.findf("network %s: its segment %d lies in no range", id, typed.Segment)
		}
		a.count(n)
		a.dhcp(n)
	}
	byNetwork := map[string][]model.Subnet{}
	for id, s := range a.subnets {
		typed, err := model.SubnetFrom(s)
		if err != nil {
			a.unread("subnet %s: %v", id, err)
			continue
		}
		if a.networks[typed.Network] == nil {
			a.findf("subnet %s: its network %s does not exist", id, typed.Network)
		}
		for _, o := range byNetwork[typed.Network] {
			if o.CIDR.Overlaps(typed.CIDR) {
				a.findf("subnets %s and %s of one network overlap", id, o.ID)
			}
		}
		byNetwork[typed.Network] = append(byNetwork[typed.Network], typed)
		a.locator(keys.KindSubnet, id, typed.Network)
		a.count(s)
	}
}

func (a *auditor) inRange(n model.Network) bool {
	return slices.ContainsFunc(a.ranges, func(r *weftv1.SegmentRange) bool {
		return r.GetType() == n.Type && r.GetPhysicalNetwork() == n.PhysicalNetwork && r.GetMinimum() <= n.Segment && n.Segment <= r.GetMaximum()
	})
}

// dhcp checks that a network with DHCP has a placement, and on its node one server port with an address in each subnet.
func (a *auditor) dhcp(n *weftv1.Network) {
	want := map[string]bool{}
	for _, s := range a.subnetsOf[n.GetId()] {
		if s.EnableDhcp == nil || s.GetEnableDhcp() {
			want[s.GetId()] = true
		}
	}
	servers := a.serversOf[n.GetId()]
	nodes := n.GetDhcpPlacement().GetNodes()
	if (len(want) > 0) != (n.GetDhcpPlacement() != nil) || len(servers) != len(nodes) {
		a.findf("network %s has %d subnets with DHCP, the nodes %v and %d server ports", n.GetId(), len(want), nodes, len(servers))
	}
	for _, p := range servers {
		a.expect(keys.HostObject(p.GetBoundHost(), keys.KindDHCP, n.GetId()), &storev1.DhcpBinding{PortId: p.GetId()})
		if !slices.Contains(nodes, p.GetBoundHost()) {
			a.findf("DHCP port %s of network %s is on %s, which is not in %v", p.GetId(), n.GetId(), p.GetBoundHost(), nodes)
		}
		for _, f := range p.GetFixedIps() {
			if !want[f.GetSubnetId()] {
				a.findf("DHCP port %s serves subnet %s, which has no DHCP", p.GetId(), f.GetSubnetId())
			}
		}
		if len(p.GetFixedIps()) != len(want) {
			a.findf("DHCP port %s has %d addresses for %d subnets", p.GetId(), len(p.GetFixedIps()), len(want))
		}
	}
}

// port checks ports, their addresses and their bindings.
func (a *auditor) port() {
	for id, p := range a.ports {
		typed, err := model.PortFrom(p)
		if err != nil {
			a.unread("port %s: %v", id, err)
			continue
		}
		if a.networks[typed.Network] == nil {
			a.findf("port %s: its network %s does not exist", id, typed.Network)
		}
		a.locator(keys.KindPort, id, typed.Network)
		a.count(p)
		a.claim(keys.MACClaim(typed.Network, typed.MAC), keys.KindPort, id)
		for _, f := range typed.FixedIPs {
			a.claim(keys.AddressClaim(f.Subnet, f.IP), keys.KindPort, id)
			a.address("port "+id, typed.Network, f)
		}
		if typed.BoundHost != "" {
			a.expect(keys.HostObject(typed.BoundHost, keys.KindPort, id), &storev1.PortBinding{NetworkId: typed.Network})
		}
		if typed.Host != "" && typed.Host != typed.BoundHost {
			a.findf("port %s is for %s but bound to %q", id, typed.Host, typed.BoundHost)
		}
		a.memberships(typed)
		if typed.OfRouter() && !a.holds(typed) {
			a.findf("port %s is of router %s, which does not know it", id, typed.DeviceID)
		}
	}
}

// address checks that an address lies in its subnet, and the subnet in the network.
func (a *auditor) address(who, network string, f model.FixedIP) {
	s := a.subnets[f.Subnet]
	if s == nil || s.GetNetworkId() != network {
		a.findf("%s: subnet %s of its address %s is none of its network", who, f.Subnet, f.IP)
		return
	}
	if typed, err := model.SubnetFrom(s); err == nil && !typed.CIDR.Contains(f.IP) {
		a.findf("%s: its address %s is not in %s", who, f.IP, typed.CIDR)
	}
}

func (a *auditor) holds(p model.Port) bool {
	r := a.routers[p.DeviceID]
	if p.DeviceOwner == model.OwnerRouterGateway {
		return r.GetExternalGateway().GetPortId() == p.ID
	}
	return slices.ContainsFunc(r.GetInterfaces(), func(in *weftv1.RouterInterface) bool { return in.GetPortId() == p.ID })
}
