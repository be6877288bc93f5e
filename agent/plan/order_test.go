package plan_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// host is what a node would have when every difference that its planner gave out has been written to it.
type host struct {
	flows   map[string]map[flow.Key]flow.Flow
	ports   map[string]desired.Port
	routers map[string]*plan.Router
	dhcp    map[string]*plan.DHCP
}

func newHost() *host {
	return &host{
		flows: map[string]map[flow.Key]flow.Flow{}, ports: map[string]desired.Port{},
		routers: map[string]*plan.Router{}, dhcp: map[string]*plan.DHCP{},
	}
}

// write applies a difference as the drivers do: of a bridge's flows the additions first, and a deletion hits only the flow
// with its cookie; of ports likewise, by name.
func (h *host) write(d plan.Delta) {
	for bridge, change := range d.Flows {
		if h.flows[bridge] == nil {
			h.flows[bridge] = map[flow.Key]flow.Flow{}
		}
		for _, f := range change.Adds {
			h.flows[bridge][f.Key()] = f
		}
		for _, f := range change.Deletes {
			if h.flows[bridge][f.Key()].Cookie == f.Cookie {
				delete(h.flows[bridge], f.Key())
			}
		}
	}
	for _, p := range d.Ports {
		h.ports[p.Name] = p
	}
	for _, p := range d.GonePorts {
		delete(h.ports, p.Name)
	}
	overlay(h.routers, d.Routers)
	overlay(h.dhcp, d.DHCP)
}

func overlay[T any](have, change map[string]*T) {
	for id, value := range change {
		have[id] = value
		if value == nil {
			delete(have, id)
		}
	}
}

// differs says what of the whole plan the host does not have, or has too much.
func (h *host) differs(p *plan.Planner) string {
	for _, bridge := range []string{plan.BrInt, plan.BrTun, "br-tenant", "br-ext1"} {
		have := slices.SortedFunc(maps.Values(h.flows[bridge]), flow.Compare)
		if diff := cmp.Diff(flow.Text(p.Flows(bridge), flow.TextOptions{}), flow.Text(have, flow.TextOptions{})); diff != "" {
			return bridge + ":\n" + diff
		}
	}
	have := slices.SortedFunc(maps.Values(h.ports), func(a, b desired.Port) int { return cmpText(a.Name, b.Name) })
	return cmp.Diff(p.Ports(), have) +
		cmp.Diff(slices.Sorted(maps.Keys(p.Routers())), slices.Sorted(maps.Keys(h.routers))) +
		cmp.Diff(slices.Sorted(maps.Keys(p.DHCP())), slices.Sorted(maps.Keys(h.dhcp)))
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// slot is a place in the store that holds one of several alternatives, or nothing. An alternative comes with all its keys
// at once, and those of the one before go.
type slot [][]entry

// set puts an alternative in the slot, none for a negative one.
func (s slot) set(n *node, which int) {
	var changes []mirror.Change
	now := map[string]bool{}
	if which >= 0 {
		for _, e := range s[which] {
			now[e.key] = true
			changes = append(changes, n.store.put(e.key, e.value))
		}
	}
	for _, alternative := range s {
		for _, e := range alternative {
			if _, there := n.store.entries[e.key]; there && !now[e.key] {
				now[e.key] = true // once
				changes = append(changes, n.store.delete(e.key))
			}
		}
	}
	n.see(changes...)
}

// slots are the fleet's entries, each by itself, some with other values that they may take.
func slots() []slot {
	var out []slot
	for _, e := range fleet() {
		s := slot{{e}}
		for _, other := range others(e) {
			s = append(s, []entry{other})
		}
		out = append(out, s)
	}
	return append(out, replaced(2, netVXLAN), replaced(1, netVXLAN), replaced(6, netVLAN))
}

// others are values that an entry might have instead.
func others(e entry) []entry {
	down := false
	var out []entry
	add := func(m proto.Message) { out = append(out, entry{e.key, m}) }
	switch m := e.value.(type) {
	case *storev1.Agent:
		moved, other, compute := proto.CloneOf(m), proto.CloneOf(m), proto.CloneOf(m)
		if ip, err := netip.ParseAddr(m.GetTunnelIp()); err == nil {
			moved.TunnelIp = ip.Next().Next().Next().Next().String()
		}
		other.Pool, compute.Roles = "other", nil
		add(moved)
		add(other)
		add(compute)
	case *storev1.ActiveRouter:
		add(&storev1.ActiveRouter{Node: "cmp2", Epoch: 2})
		add(&storev1.ActiveRouter{Node: "cmp1", Epoch: 3})
		add(&storev1.ActiveRouter{Node: "net2", Epoch: 4})
	case *storev1.PortBinding:
		add(&storev1.PortBinding{NetworkId: m.GetNetworkId(), Refused: "bound elsewhere"})
	case *weftv1.Network:
		off, other := proto.CloneOf(m), proto.CloneOf(m)
		off.AdminStateUp = &down
		other.SegmentationId, other.Mtu = m.GetSegmentationId(), m.GetMtu()-100
		if m.GetSegmentationId() != 0 {
			other.SegmentationId++
		}
		add(off)
		add(other)
	case *weftv1.Subnet:
		off := proto.CloneOf(m)
		off.EnableDhcp = &down
		add(off)
	case *weftv1.SecurityGroup:
		without := proto.CloneOf(m)
		without.Stateful = &down
		add(without)
	case *weftv1.SecurityGroupRule:
		other, far := proto.CloneOf(m), proto.CloneOf(m)
		other.Protocol, other.PortMin, other.PortMax = "sctp", nil, nil
		remoteGroup(friends)(far)
		add(other)
		add(far)
	case *storev1.Member:
		add(&storev1.Member{NetworkId: m.GetNetworkId(), Addresses: []string{"10.1.0.17", "192.0.2.0/24"}})
	case *weftv1.AddressGroup:
		other := proto.CloneOf(m)
		other.Addresses = []string{"10.2.0.88", "10.1.0.0/24"}
		add(other)
	case *weftv1.Port:
		add(guardedOtherwise(m))
		off, mac := proto.CloneOf(m), proto.CloneOf(m)
		off.AdminStateUp = &down
		mac.MacAddress = "fa:16:3e:ff" + m.GetMacAddress()[len("fa:16:3e:00"):]
		add(off)
		add(mac)
		if m.GetBoundHost() != "" {
			for _, to := range []string{"cmp1", "cmp2", "net1", ""} {
				moved := proto.CloneOf(m)
				moved.BoundHost = to
				add(moved)
			}
		}
	}
	return out
}

// guardedOtherwise is a VM's port with other groups, or with none instead of being open.
func guardedOtherwise(m *weftv1.Port) *weftv1.Port {
	p := proto.CloneOf(m)
	switch {
	case m.GetBoundHost() == "" || m.GetDeviceOwner() == model.OwnerDHCP:
	case m.GetPortSecurityEnabled():
		p.SecurityGroups = &weftv1.SecurityGroupIds{Ids: []string{group2, friends}}
		p.AllowedAddressPairs = nil
	default:
		p.PortSecurityEnabled = proto.Bool(true)
	}
	return p
}

// replaced is a VM's port that can be another with the same addresses on the same node.
func replaced(n int, network string) slot {
	var s slot
	for _, e := range fleet() {
		p, ok := e.value.(*weftv1.Port)
		if !ok || p.GetId() != id("c", n) {
			continue
		}
		for _, number := range []int{60 + n, 70 + n} {
			p := proto.CloneOf(p)
			p.Id, p.MacAddress = id("c", number), fmt.Sprintf("fa:16:3e:00:60:%02x", n)
			p.FixedIps[0].IpAddress = fmt.Sprintf("10.9.0.%d", 60+n)
			s = append(s, []entry{
				{keys.Port(network, p.GetId()), p},
				{keys.HostObject(p.GetBoundHost(), keys.KindPort, p.GetId()), &storev1.PortBinding{NetworkId: network}},
			})
		}
	}
	return s
}

// plugSome plugs a choice of ports; 61 and 71 are two ports that one interface may carry.
func (n *node) plugSome(rt *rapid.T) {
	old := n.facts
	n.facts.Plugged = map[string]plan.Plugged{}
	plug(&n.facts, rapid.SliceOfDistinct(rapid.SampledFrom([]int{1, 3, 5, 7}), rapid.ID).Draw(rt, "plugged")...)
	if which := rapid.SampledFrom([]int{0, 61, 71}).Draw(rt, "iface-id"); which != 0 {
		n.facts.Plugged[id("c", which)] = plan.Plugged{Name: "vm61", OFPort: 161}
	}
	for _, id := range slices.Sorted(maps.Keys(n.facts.Plugged)) {
		p := n.facts.Plugged[id]
		if rapid.IntRange(0, 3).Draw(rt, "number") == 0 {
			p.OFPort += 1000
			n.facts.Plugged[id] = p
		}
	}
	n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
}

// mapBridges has some of the node's provider bridges be there.
func (n *node) mapBridges(rt *rapid.T, name, tunnel string) {
	old := n.facts
	n.facts.Bridges = factsOf(name, tunnel).Bridges
	for _, physnet := range slices.Sorted(maps.Keys(n.facts.Bridges)) {
		if rapid.Bool().Draw(rt, "without "+physnet) {
			delete(n.facts.Bridges, physnet)
		}
	}
	n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
}

// settle plans until the numbers of all planned ports are known, and gives back local VLANs that nothing needs, as the
// agent does then.
func (n *node) settle(h *host) {
	h.write(n.plan())
	h.write(n.learn())
	needed := plan.NeedVLAN(n.view)
	n.facts.VLANs = maps.Clone(n.facts.VLANs)
	maps.DeleteFunc(n.facts.VLANs, func(network string, _ uint16) bool { return !slices.Contains(needed, network) })
}

// astray says how the plan differs from one that is made from scratch, or the host from the plan.
func (n *node) astray(t *testing.T, h *host) string {
	fresh := newNode(n.store, n.view.Self, n.facts)
	fresh.facts.OFPorts, fresh.salt = map[string]uint32{}, n.salt
	fresh.follow()
	fresh.plan()
	fresh.learn()
	if diff := cmp.Diff(fresh.text(t), n.text(t)); diff != "" {
		return "step by step differs from scratch (-scratch +steps):\n" + diff
	}
	if diff := h.differs(n.planner); diff != "" {
		return "the differences do not lead to the plan (-plan +host):\n" + diff
	}
	return ""
}

// TestAnyOrderOfChangesEndsInTheSamePlan feeds the fleet in random order, split and duplicated, with objects that change,
// move, go and come back, interfaces that appear, carry another port or get another number, and provider bridges that come
// and go. At any end, whatever the store then holds, the plan made step by step must be the one made from scratch, and the
// differences given out must have brought the host there.
func TestAnyOrderOfChangesEndsInTheSamePlan(t *testing.T) {
	all := slots()
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom([]string{"net1", "net2", "cmp1"}).Draw(rt, "node")
		tunnel := addresses()[name]
		s, h := newStore(), newHost()
		n := newNode(s, name, factsOf(name, tunnel))
		n.follow()
		if rapid.Bool().Draw(rt, "full") {
			for _, e := range fleet() {
				n.see(s.put(e.key, e.value))
			}
		}
		for range rapid.IntRange(0, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				h.write(n.plan())
			case 1:
				n.settle(h)
			case 2:
				n.plugSome(rt)
			case 3:
				n.salt = rapid.Uint32Range(0, 2).Draw(rt, "numbers")
				h.write(n.learn())
			case 4:
				n.mapBridges(rt, name, tunnel)
			default:
				place := rapid.SampledFrom(all).Draw(rt, "place")
				place.set(n, rapid.IntRange(-1, len(place)-1).Draw(rt, "value"))
			}
		}
		n.settle(h)
		n.settle(h)

		if problem := n.astray(t, h); problem != "" {
			rt.Fatal(problem)
		}
	})
}

// Whatever takes over exactly what another gave up keeps it: a port made anew with its addresses on the same node, an
// interface that carries another port of the network.
func TestWhatOneObjectGivesUpAndAnotherTakesOverStays(t *testing.T) {
	for what, replace := range map[string]func(*node){
		"a remote port with the same addresses": func(n *node) {
			again := port(92, netVXLAN, id("b", 1), "10.1.0.12", "compute:nova", "vm", "cmp2")
			again.MacAddress = "fa:16:3e:00:00:02"
			n.see(n.store.delete(keys.Port(netVXLAN, id("c", 2))), n.store.put(keys.Port(netVXLAN, again.GetId()), again))
		},
		"an interface with another port of the network": func(n *node) {
			other := port(91, netVXLAN, id("b", 1), "10.1.0.91", "compute:nova", "vm", "cmp1")
			n.see(n.store.put(keys.Port(netVXLAN, other.GetId()), other),
				n.store.put(keys.HostObject("cmp1", keys.KindPort, other.GetId()), &storev1.PortBinding{NetworkId: netVXLAN}))
			old := n.facts
			n.facts.Plugged = maps.Clone(old.Plugged)
			n.facts.Plugged[other.GetId()] = old.Plugged[id("c", 1)]
			delete(n.facts.Plugged, id("c", 1))
			n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
		},
	} {
		t.Run(what, func(t *testing.T) {
			for range 20 { // the order in which objects are planned is not the same each time
				s, h := newStore(), newHost()
				for _, e := range fleet() {
					s.put(e.key, e.value)
				}
				n := newNode(s, "cmp1", factsOf("cmp1", "10.31.0.12"))
				plug(&n.facts, 1, 3, 5, 7)
				n.follow()
				n.settle(h)
				replace(n)
				n.settle(h)
				if problem := n.astray(t, h); problem != "" {
					t.Fatal(problem)
				}
			}
		})
	}
}

// Nothing is taken away because something can't be read (promise I2).
func TestAValueThatCannotBeReadLeavesThePlanAsItIs(t *testing.T) {
	for _, name := range []string{"net1", "net2", "cmp1"} {
		tunnel := addresses()[name]
		for _, e := range fleet() {
			if k, err := keys.Parse(e.key); err != nil || k.Family == keys.FamilyRule || k.Family == keys.FamilyMember || k.Family == keys.FamilyAddressGroup {
				continue // what they allow is taken away
			}
			t.Run(name+e.key, func(t *testing.T) {
				s, h := newStore(), newHost()
				for _, e := range fleet() {
					s.put(e.key, e.value)
				}
				n := newNode(s, name, factsOf(name, tunnel))
				plug(&n.facts, 1, 3, 5, 7)
				n.follow()
				n.settle(h)
				before := n.text(t)
				n.see(mirror.Change{Key: e.key, Value: []byte("\xff no message"), Revision: 1000})
				n.settle(h)
				if diff := cmp.Diff(before, n.text(t)); diff != "" {
					t.Errorf("-before +after:\n%s", diff)
				}
			})
		}
	}
}

func TestARefusedFlowIsHeldAgainstItsObjectUntilThePlanHasAnotherOrTheBridgeIsForgiven(t *testing.T) {
	s, h := newStore(), newHost()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	n := newNode(s, "cmp1", factsOf("cmp1", "10.31.0.12"))
	plug(&n.facts, 1, 3, 5, 7)
	n.follow()
	n.settle(h)
	k := view.PortKey{Network: netVXLAN, Port: id("c", 1)}
	reason, dirty := errors.New("no room"), view.NewDirty()
	refuse := func() {
		t.Helper()
		for _, f := range n.planner.Flows(plan.BrInt) {
			n.planner.Refuse(plan.BrInt, f.Key(), reason, dirty)
		}
		if !errors.Is(n.planner.Conflict(k), reason) || !errors.Is(n.planner.NetworkConflict(netVXLAN), reason) || !dirty.Ports[k] || !dirty.Networks[netVXLAN] {
			t.Fatal("the refusal is not noted")
		}
	}
	refuse()
	named := port(1, netVXLAN, id("b", 1), "10.1.0.11", "compute:nova", "vm", "cmp1")
	named.Name = "another name, the same flows"
	n.see(s.put(keys.Port(netVXLAN, named.GetId()), named))
	n.settle(h)
	if !errors.Is(n.planner.Conflict(k), reason) {
		t.Error("the refusal is forgotten because the port was planned again, with the same flows")
	}
	named.MacAddress = "fa:16:3e:00:00:99"
	n.see(s.put(keys.Port(netVXLAN, named.GetId()), named))
	old := n.facts
	n.facts.Plugged = maps.Clone(old.Plugged)
	n.facts.Plugged[k.Port] = plan.Plugged{Name: "vm1", OFPort: 777}
	n.planner.MarkFacts(n.view, &old, &n.facts, n.dirty)
	n.settle(h)
	if err := n.planner.Conflict(k); err != nil {
		t.Errorf("the port has other flows, and still: %v", err)
	}
	refuse()
	clear(dirty.Ports)
	n.planner.Forgive(plan.BrInt, dirty)
	if err := errors.Join(n.planner.Conflict(k), n.planner.NetworkConflict(netVXLAN)); err != nil || !dirty.Ports[k] {
		t.Errorf("after Forgive: %v", err)
	}
}

// held counts what a value's maps and slices hold, the unexported ones too.
func held(v reflect.Value) int {
	n := 0
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Map || f.Kind() == reflect.Slice {
			n += f.Len()
		}
	}
	return n
}

func TestWhatHasComeAndGoneLeavesNothingBehind(t *testing.T) {
	rounds := 200
	for _, name := range []string{"net1", "net2", "cmp1"} {
		s := newStore()
		n := newNode(s, name, factsOf(name, addresses()[name]))
		plug(&n.facts, 1, 3, 5, 7)
		n.follow()
		h := newHost()
		n.settle(h)
		view, planner := held(reflect.ValueOf(*n.view)), held(reflect.ValueOf(*n.planner))
		for round := range rounds {
			rng := rand.New(rand.NewPCG(1, uint64(round)))
			for _, garbage := range []bool{false, true} {
				all := fleet()
				rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for i, e := range all {
					if garbage && rng.IntN(10) == 0 {
						n.see(mirror.Change{Key: e.key, Value: []byte("\xff"), Revision: 1})
						continue
					}
					n.see(s.put(e.key, e.value))
					if i%16 == 0 {
						n.settle(h)
					}
				}
				n.settle(h)
				rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, e := range all {
					n.see(s.delete(e.key))
				}
				n.settle(h)
			}
		}
		if now := held(reflect.ValueOf(*n.view)); now != view {
			t.Errorf("%s: the view holds %d things, %d before: %+v", name, now, view, n.view)
		}
		if now := held(reflect.ValueOf(*n.planner)); now != planner {
			t.Errorf("%s: the planner holds %d things, %d before", name, now, planner)
		}
	}
}

func TestANetworkThatFindsNoLocalVLANGetsOneWhenOneIsFree(t *testing.T) {
	s, h := newStore(), newHost()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	n := newNode(s, "cmp1", factsOf("cmp1", "10.31.0.12"))
	plug(&n.facts, 1, 3, 5, 7)
	n.facts.VLANs = map[string]uint16{}
	for vlan := range uint16(4094) {
		n.facts.VLANs[fmt.Sprint("earlier ", vlan)] = vlan + 1
	}
	n.follow()
	h.write(n.plan())
	h.write(n.learn())
	if len(n.facts.VLANs) != 4094 || n.planner.Ports()[0].Tag != 0 {
		t.Fatalf("a VLAN was given out twice: %d, %+v", len(n.facts.VLANs), n.planner.Ports()[0])
	}
	n.settle(h) // the earlier networks' are given back
	n.settle(h)
	if problem := n.astray(t, h); problem != "" || n.facts.VLANs[netVXLAN] == 0 {
		t.Fatal(problem, n.facts.VLANs)
	}
}
