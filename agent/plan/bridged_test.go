package plan_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// hybridBob is a node where bob has a bridge of his own, in a group with a rule that refers to another.
func hybridBob(t *testing.T) *wired {
	t.Helper()
	w := newWired(t)
	w.group(group1, true, rule(1, false, ""), rule(2, true, ""))
	w.group(group2, false, rule(11, true, "udp", ports(53, 53), remoteGroup(friends)))
	w.member(friends, 50, holds(friends)...)
	w.join(alice, group1)
	w.storePort(bob, func(p *weftv1.Port) {
		p.VifType, p.PortSecurityEnabled = weftv1.VifType_VIF_TYPE_HYBRID, proto.Bool(true)
		p.SecurityGroups = &weftv1.SecurityGroupIds{Ids: []string{group2}}
	})
	w.facts.Plugged[id("c", bob)] = plan.Plugged{Name: plan.DeviceName("qvo", id("c", bob)), OFPort: bob}
	return w
}

// filtered plans with bob's bridge filtered, or not.
func (w *wired) filtered(is bool) {
	w.Helper()
	old := w.facts
	w.facts.Filtered = map[string]bool{id("c", bob): is}
	maps.DeleteFunc(w.facts.Filtered, func(_ string, is bool) bool { return !is })
	w.planner.MarkFacts(w.view, &old, &w.facts, w.dirty)
	w.settle()
}

// nowhere wants packets to go nowhere, of which one end gets or sends nothing at all.
func (w *wired) nowhere(what string, packets ...packet) {
	w.Helper()
	for _, p := range packets {
		if out, text := w.trace(p); slices.Contains(out, p.to) {
			w.Errorf("%s: %s passes:\n%s", what, p, text)
		}
	}
}

func TestAPortWithABridgeOfItsOwnPassesWhatItsBridgeLetsThrough(t *testing.T) {
	w := hybridBob(t)
	w.settle()
	out, in := udpTo(bob, alice, 3000, 9), udpTo(plain, bob, 3000, 9)
	w.nowhere("before the bridge is filtered", out, in)
	w.filtered(true)
	w.expect(true, "what the bridge has let out, or will judge", out, in, out.back(), in.back())
	lie := out
	lie.sender = netip.MustParseAddr("10.1.0.77")
	w.expect(false, "under an address that is not its own", lie)
	w.expect(false, "what is DHCP by its ports alone", udpTo(bob, plain, 68, 67))
	w.group(group1, true)
	w.settle()
	w.expect(false, "what the receiver's rules do not allow", out)
	w.filtered(false)
	w.nowhere("when the bridge is no longer filtered", out, in)
}

func TestWhatABridgeIsFilteredByFollowsTheGroups(t *testing.T) {
	w := hybridBob(t)
	got := w.settle().Bridged
	if got == nil || len(got.Ports) != 1 {
		t.Fatalf("filters of one port are wanted, got %+v", got)
	}
	p := got.Ports[0]
	if p.ID != id("c", bob) || p.Tap != plan.DeviceName("tap", p.ID) || p.Out != plan.DeviceName("qvb", p.ID) || p.Stateful || p.Zone != w.facts.VLANs[netVXLAN] {
		t.Errorf("the port: %+v", p)
	}
	own := []string{netip.PrefixFrom(ip6Of(bob), 128).String(), netip.PrefixFrom(ipOf(bob), 32).String()}
	var sources []string
	for _, s := range p.Sources {
		if s.MAC != macOf(bob).String() {
			t.Errorf("a source with MAC %s", s.MAC)
		}
		sources = append(sources, s.Prefix.String())
	}
	if diff := cmp.Diff(own, sources); diff != "" {
		t.Error(diff)
	}
	if rules := got.Rules[group2]; len(rules) != 1 || rules[0].Ports != (model.PortRange{Min: 53, Max: 53}) || len(got.Members[friends]) != len(holds(friends)) {
		t.Errorf("rules %+v, members %v", rules, got.Members)
	}
	if w.settle().Bridged != nil {
		t.Error("planned anew with nothing changed")
	}
	w.member(friends, 51, "10.1.0.99")
	if got := w.settle().Bridged; got == nil || !slices.Contains(got.Members[friends], netip.MustParsePrefix("10.1.0.99/32")) {
		t.Errorf("a new member is not there: %+v", got)
	}
	server := port(40, netVXLAN, id("b", 1), "10.1.0.2", model.OwnerDHCP, netVXLAN, "net1")
	w.see(w.store.put(keys.Port(netVXLAN, server.GetId()), server))
	if got := w.settle().Bridged; got == nil || !slices.Equal(got.Ports[0].Servers, []string{server.GetMacAddress()}) {
		t.Errorf("a new DHCP server is not there: %+v", got)
	}
	w.see(w.store.delete(keys.Port(netVXLAN, server.GetId())))
	if got := w.settle().Bridged; got == nil || len(got.Ports[0].Servers) != 0 {
		t.Errorf("a DHCP server that has gone is there: %+v", got)
	}
	w.storePort(plain, func(p *weftv1.Port) { p.PortSecurityEnabled = proto.Bool(false) })
	if w.settle().Bridged != nil {
		t.Error("planned anew for a port that has no bridge")
	}
	w.storePort(bob, func(p *weftv1.Port) {
		p.VifType, p.PortSecurityEnabled = weftv1.VifType_VIF_TYPE_HYBRID, proto.Bool(false)
	})
	if got := w.settle().Bridged; got == nil || len(got.Ports) != 0 {
		t.Errorf("without port security: %+v", got)
	}
	w.settle()
	w.expect(true, "without port security", udpTo(plain, bob, 3000, 9))
}

func TestAHybridPortPluggedStraightPassesNothing(t *testing.T) {
	w := hybridBob(t)
	w.facts.Plugged[id("c", bob)] = plan.Plugged{Name: "vm2", OFPort: bob}
	if got := w.settle().Bridged; got == nil || len(got.Ports) != 0 {
		t.Errorf("filters of a bridge that is not there: %+v", got)
	}
	w.filtered(true)
	w.nowhere("it has no bridge", udpTo(bob, alice, 3000, 9), udpTo(plain, bob, 3000, 9))
}
