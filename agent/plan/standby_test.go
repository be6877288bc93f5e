package plan_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// settled is a node that has the whole fleet, with all numbers known.
func settled(name string) (*node, *host) {
	s, h := newStore(), newHost()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	n := newNode(s, name, factsOf(name, addresses()[name]))
	n.follow()
	n.settle(h)
	return n, h
}

// mentions lists the flows of a bridge that let frames of a router's devices in or out.
func (n *node) mentions(router, bridge string) []string {
	names := map[uint32]string{}
	for name, port := range n.facts.OFPorts {
		names[port] = name
	}
	text := flow.Text(n.planner.Flows(bridge), flow.TextOptions{PortName: func(port uint32) string { return names[port] }})
	var out []string
	for line := range strings.Lines(text) {
		if slices.ContainsFunc(n.planner.Routers()[router].Devices, func(device string) bool { return strings.Contains(line, device) }) {
			out = append(out, line)
		}
	}
	return out
}

func TestAStandbyIsBuiltLikeTheHolderAndNoFlowConcernsItsDevices(t *testing.T) {
	holder, _ := settled("net1")
	standby, _ := settled("net2")
	if want, got := holder.planner.Routers()[router1], standby.planner.Routers()[router1]; !reflect.DeepEqual(want, got) {
		t.Errorf("holder %+v\nstandby %+v", want, got)
	}
	for _, device := range standby.planner.Routers()[router1].Devices {
		if standby.facts.OFPorts[device] == 0 {
			t.Errorf("no OVS port is planned for %s", device)
		}
	}
	if flows := standby.mentions(router1, plan.BrInt); len(flows) != 0 {
		t.Errorf("the standby is not silent: %q", flows)
	}
	if flows := holder.mentions(router1, plan.BrInt); len(flows) < 3 {
		t.Errorf("the holder does not forward: %q", flows)
	}
}

func TestATakeoverChangesTheFlowsOfTheRoutersPortsAndNothingElse(t *testing.T) {
	n, h := settled("net2")
	before := flow.Text(n.planner.Flows(plan.BrInt), flow.TextOptions{})
	for epoch, node := range []string{"net2", "net1"} {
		n.see(n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: node, Epoch: int64(2 + epoch)}))
		if !n.dirty.Actives[router1] {
			t.Error("the router's report is not made anew")
		}
		delta := n.plan()
		h.write(delta)
		if len(delta.Routers)+len(delta.DHCP)+len(delta.Ports)+len(delta.GonePorts) != 0 {
			t.Errorf("to %s: more than flows changed: %+v", node, delta)
		}
		if got := len(n.mentions(router1, plan.BrInt)) > 0; got != (node == "net2") {
			t.Errorf("to %s: forwards: %v", node, got)
		}
	}
	if diff := cmp.Diff(before, flow.Text(n.planner.Flows(plan.BrInt), flow.TextOptions{})); diff != "" {
		t.Errorf("after there and back: %s", diff)
	}
	if problem := n.astray(t, h); problem != "" {
		t.Error(problem)
	}
}

func TestAComputeHasTheTunnelsToEveryNodeThatARouterMayMoveTo(t *testing.T) {
	n, _ := settled("cmp1")
	before := n.planner.Ports()
	n.see(n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net2", Epoch: 2}))
	delta := n.plan()
	if len(delta.Ports)+len(delta.GonePorts) != 0 {
		t.Errorf("OVS ports change at a takeover: %+v, %+v; before: %+v", delta.Ports, delta.GonePorts, before)
	}
	if delta.Flows[plan.BrTun] == nil {
		t.Error("the flows to the router do not move to its new node")
	}
}

func TestWhatTheNodeHasWrittenItselfIsNotUndoneByWhatWasBefore(t *testing.T) {
	n, _ := settled("net2")
	old := n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net1", Epoch: 2})
	now := n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net2", Epoch: 3})
	n.view.Wrote(router1, view.Active{Node: "net2", Epoch: 3, Revision: now.Revision}, n.dirty)
	n.see(old)
	if got := n.view.Active[router1].Node; got != "net2" {
		t.Errorf("the older change made it %s", got)
	}
	n.see(now)
	n.see(n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net1", Epoch: 4}))
	if got := n.view.Active[router1]; got.Node != "net1" || got.Epoch != 4 {
		t.Errorf("the newer change is not seen: %+v", got)
	}
}

// A router that this node has just got and is giving away again: the mirror's word of the first does not end the silence.
func TestTheSilenceOfAHandOverOutlastsTheNewsOfHowTheRouterCame(t *testing.T) {
	n, _ := settled("net2")
	now := n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net2", Epoch: 2})
	n.view.Wrote(router1, view.Active{Node: "net2", Epoch: 2, Revision: now.Revision}, n.dirty)
	n.view.Hush(router1, n.dirty)
	n.see(now)
	n.plan()
	if flows := n.mentions(router1, plan.BrInt); len(flows) != 0 {
		t.Errorf("it forwards while it is handed over: %q", flows)
	}
	n.see(n.store.put(keys.Active(router1), &storev1.ActiveRouter{Node: "net2", Epoch: 3}))
	n.plan()
	if flows := n.mentions(router1, plan.BrInt); len(flows) == 0 {
		t.Error("it does not forward though it was made the holder anew")
	}
}
