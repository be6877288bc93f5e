package controller_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func contains(s, sub string) bool { return strings.Contains(s, sub) }

// refused is why a node is told not to wire a port; "" when it is not refused there.
func (b *bench) refused(node, port string) string {
	b.Helper()
	var binding storev1.PortBinding
	b.read(keys.HostObject(node, keys.KindPort, port), &binding)
	return binding.GetRefused()
}

func TestAPortIsBoundWhereItsInterfaceAppears(t *testing.T) {
	w := newWorld(t)
	w.node("cmp2", &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_COMPUTE}, TunnelIp: "192.0.2.3"})
	w.replicaOn(w.etcd.NewClient()) // two that do the same work
	id := w.p1.GetId()
	w.put(keys.Plug("cmp1", id), &storev1.Plug{Interface: "tap1"})
	w.eventually("bound to cmp1", func() bool { return w.bound(id) == "cmp1" })

	w.put(keys.Plug("cmp2", id), &storev1.Plug{Interface: "tap1"})
	w.eventually("refused on cmp2", func() bool { return w.refused("cmp2", id) == "port p1 is bound to cmp1" })
	w.audit()

	w.del(keys.Plug("cmp1", id))
	w.eventually("moved to cmp2", func() bool { return w.bound(id) == "cmp2" && w.refused("cmp2", id) == "" })
	w.audit()

	w.del(keys.Plug("cmp2", id))
	w.eventually("free again", func() bool { return w.bound(id) == "" && !w.exists(keys.HostObject("cmp2", keys.KindPort, id)) })
	w.audit()
}

func TestAPortWithAHostIsRefusedElsewhere(t *testing.T) {
	w := newWorld(t)
	w.node("cmp2", &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_COMPUTE}, TunnelIp: "192.0.2.3"})
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"})
	w.put(keys.Plug("cmp2", p.GetId()), &storev1.Plug{})
	w.eventually("refused on cmp2", func() bool { return contains(w.refused("cmp2", p.GetId()), "is bound to cmp1") })
	_, err := w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: p.GetId(), Host: "cmp2"}, UpdateMask: mask("host")})
	w.check(err)
	w.eventually("no longer refused", func() bool { return w.refused("cmp2", p.GetId()) == "" && w.bound(p.GetId()) == "cmp2" })
	w.audit()
	_, err = w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: p.GetId()}, UpdateMask: mask("host")})
	w.check(err)
	w.eventually("bound by its plug", func() bool { return w.bound(p.GetId()) == "cmp2" })
	w.del(keys.Plug("cmp2", p.GetId()))
	w.eventually("free", func() bool { return w.bound(p.GetId()) == "" })
	w.audit()
}

func TestAnUnknownPortIsRefusedUntilItsPlugGoes(t *testing.T) {
	w := newWorld(t)
	id := uuid.NewString()
	w.put(keys.Plug("cmp1", id), &storev1.Plug{})
	w.eventually("refused", func() bool { return contains(w.refused("cmp1", id), "there is no port") })
	w.del(keys.Plug("cmp1", id))
	w.eventually("forgotten", func() bool { return !w.exists(keys.HostObject("cmp1", keys.KindPort, id)) })

	w.put(keys.Plug("cmp1", w.p1.GetId()), &storev1.Plug{})
	w.eventually("bound", func() bool { return w.bound(w.p1.GetId()) == "cmp1" })
	_, err := w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: w.p1.GetId()})
	w.check(err)
	w.eventually("refused when the port is deleted", func() bool { return contains(w.refused("cmp1", w.p1.GetId()), "there is no port") })
	w.audit()
}

func TestManyPortsPluggedAtOnceAreAllBound(t *testing.T) {
	w := newWorld(t)
	w.replicaOn(w.etcd.NewClient())
	var ids []string
	for range 100 {
		ids = append(ids, w.port(&weftv1.Port{NetworkId: w.net1.GetId()}).GetId())
	}
	for _, id := range ids {
		w.put(keys.Plug("cmp1", id), &storev1.Plug{})
	}
	w.eventually("all are bound", func() bool {
		n, err := w.GetNode(w.ctx, &weftv1.GetNodeRequest{Id: "cmp1"})
		w.check(err)
		return n.GetPortCount() == 100
	})
	w.audit()
}

func TestASystemPortIsNotBoundByAPlug(t *testing.T) {
	w := newWorld(t)
	gateway := w.r1.GetExternalGateway().GetPortId()
	w.put(keys.Plug("net1", gateway), &storev1.Plug{})
	w.put(keys.Plug("net1", w.p1.GetId()), &storev1.Plug{})
	w.eventually("the port plugged later is bound", func() bool { return w.bound(w.p1.GetId()) == "net1" })
	if got := w.bound(gateway); got != "" {
		t.Errorf("the gateway's port is bound to %s", got)
	}
	w.audit()
}

func TestANodeThatIsGoneCanBeForgotten(t *testing.T) {
	w := newWorld(t)
	n, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1", Labels: map[string]string{"rack": "7"}}, UpdateMask: mask("labels")})
	w.check(err)
	if n.GetLabels()["rack"] != "7" {
		t.Errorf("node = %v", n)
	}
	got, err := w.ListNodes(w.ctx, &weftv1.ListNodesRequest{Filter: "labels.rack = 7 AND roles = compute"})
	w.check(err)
	if len(got.GetNodes()) != 1 {
		t.Errorf("nodes of rack 7: %v", got.GetNodes())
	}
	w.put(keys.Plug("cmp1", w.p1.GetId()), &storev1.Plug{})
	w.eventually("bound", func() bool { return w.bound(w.p1.GetId()) == "cmp1" })
	w.del(keys.Live("cmp1"))
	_, err = w.DeleteNode(w.ctx, &weftv1.DeleteNodeRequest{Id: "cmp1"})
	if err == nil || !contains(err.Error(), `port "p1"`) {
		t.Errorf("DeleteNode = %v, want it to name p1", err)
	}
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: w.p1.GetId()})
	w.check(err)
	w.del(keys.Plug("cmp1", w.p1.GetId()))
	w.eventually("deleted", func() bool {
		_, err := w.DeleteNode(w.ctx, &weftv1.DeleteNodeRequest{Id: "cmp1"})
		return err == nil
	})
	if w.exists(keys.Agent("cmp1")) || w.exists(keys.Node("cmp1")) {
		t.Error("the node's keys are still there")
	}
	w.audit()
}

// TestANodeThatPlugsEverythingTakesNothingFromOthers has a node whose certificate was stolen claim all ports there are, thousands
// that are not, and keys that are none.
func TestANodeThatPlugsEverythingTakesNothingFromOthers(t *testing.T) {
	w := newWorld(t)
	plugged, placed := w.port(&weftv1.Port{NetworkId: w.net1.GetId()}).GetId(), w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Host: "cmp1"}).GetId()
	gateway := w.r1.GetExternalGateway().GetPortId()
	w.put(keys.Plug("cmp1", plugged), &storev1.Plug{})
	w.eventually("bound to cmp1", func() bool { return w.bound(plugged) == "cmp1" })
	for i := range 2000 {
		w.put(keys.Plug("evil", uuid.NewString()), &storev1.Plug{})
		if i%10 == 0 {
			w.write(keys.Plugs("evil")+strings.Repeat("x/", i%7)+"\n", "\xff")
		}
	}
	for _, id := range []string{plugged, placed, gateway} {
		w.put(keys.Plug("evil", id), &storev1.Plug{})
	}
	w.put(keys.Plug("cmp1", w.p1.GetId()), &storev1.Plug{})
	w.eventually("others' ports are bound", func() bool { return w.bound(w.p1.GetId()) == "cmp1" })
	w.eventually("the claims are refused", func() bool {
		return contains(w.refused("evil", plugged), "is bound to cmp1") && contains(w.refused("evil", placed), "is bound to cmp1")
	})
	if a, b, c := w.bound(plugged), w.bound(placed), w.bound(gateway); a != "cmp1" || b != "cmp1" || c != "" {
		t.Errorf("the ports are bound to %q, %q and %q", a, b, c)
	}
}
