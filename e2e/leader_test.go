package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// leads is the controller that leads, by the candidates' keys.
func (f *fleet) leads(client *clientv3.Client) string {
	f.t.Helper()
	var name string
	f.eventually("a controller leads", func(ctx context.Context) error {
		got, err := client.Get(ctx, keys.Leaders(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
		if err != nil {
			return err
		}
		if len(got.Kvs) == 0 {
			return fmt.Errorf("there is no candidate")
		}
		m := &storev1.Leader{}
		name = ""
		if err := proto.Unmarshal(got.Kvs[0].Value, m); err != nil {
			return err
		}
		name = m.GetName()
		return nil
	})
	return name
}

// activeOn is the node that forwards for a router.
func (f *fleet) activeOn(r *weftv1.Router) (node string) {
	f.t.Helper()
	f.eventually("router "+r.GetName()+" is active somewhere", func(ctx context.Context) error {
		out, err := f.weft(ctx, "router", "show", r.GetId(), "-o", "json")
		if err != nil {
			return err
		}
		var shown struct {
			Node string `json:"active_node"`
		}
		if err := json.Unmarshal([]byte(out), &shown); err != nil {
			return err
		}
		if node = shown.Node; node == "" {
			return fmt.Errorf("it is not: %s", out)
		}
		return nil
	})
	return node
}

// emptied waits until nothing is placed on a node.
func (f *fleet) emptied(node string) {
	f.t.Helper()
	f.within(time.Minute, node+" is empty", func(ctx context.Context) error {
		out, err := f.weft(ctx, "node", "show", node, "-o", "json")
		if err != nil {
			return err
		}
		var shown struct {
			Routers []string `json:"routers"`
			DHCP    []string `json:"dhcp_networks"`
		}
		if err := json.Unmarshal([]byte(out), &shown); err != nil {
			return err
		}
		if left := len(shown.Routers) + len(shown.DHCP); left > 0 {
			return fmt.Errorf("%d routers and %d DHCP servers are left", len(shown.Routers), len(shown.DHCP))
		}
		return nil
	})
}

// TestADrainGoesOnWithoutTheOneThatLed drains the node of a router in use when the controller that leads has just been killed,
// and another one when it is held, and then goes on.
func TestADrainGoesOnWithoutTheOneThatLed(t *testing.T) {
	f := newFleet(t, "e2e-leader", func(o *lab.Options) {
		o.NetworkNodes, o.ComputeNodes, o.Externals, o.Controllers, o.Etcd = 3, 1, 1, 2, 1
	})
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	var routers []*weftv1.Router
	n, s := f.vxlan("n0", "10.10.0.0/24")
	routers = append(routers, f.router("r0", ext1, s))
	for i := 1; i < 6; i++ {
		_, s := f.vxlan(fmt.Sprintf("n%d", i), fmt.Sprintf("10.10.%d.0/24", i))
		routers = append(routers, f.router(fmt.Sprintf("r%d", i), ext1, s))
	}
	guest := f.guest("a", "cmp1", n)
	f.echoServer(out.Space, 7)
	for _, r := range routers {
		f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	}
	store := f.etcd()
	for _, fault := range []struct {
		what       string
		begin, end func(*lab.Host) error
	}{
		{"killed", func(h *lab.Host) error { return h.Kill(t.Context(), lab.ControllerDaemon) }, func(h *lab.Host) error { return h.Start(t.Context(), lab.ControllerDaemon) }},
		{"held", func(h *lab.Host) error { return h.Pause(t.Context(), lab.ControllerDaemon) }, func(h *lab.Host) error { return h.Resume(t.Context(), lab.ControllerDaemon) }},
	} {
		t.Run(fault.what, func(t *testing.T) {
			f := f.in(t)
			leader, node := f.leads(store), f.activeOn(routers[0])
			running := f.ping(guest.Space, outside1)
			open := f.talkTo(guest.Space, netip.AddrPortFrom(outside1, 7))
			f.must(fault.begin(f.host(leader)))
			_, err := f.weft(t.Context(), "node", "drain", node, "--no-wait")
			f.must(err)
			f.emptied(node)
			if next := f.leads(store); next == leader {
				t.Errorf("%s, which is %s, still leads", leader, fault.what)
			}
			if now := f.activeOn(routers[0]); now == node {
				t.Errorf("the router is still active on %s", node)
			}
			f.must(fault.end(f.host(leader)))
			open.alive()
			f.reach(guest.Space, outside1)
			t.Logf("%s: %s", running.what, running.run.Stop()) // how long a hand-over takes is the bench's to say
			_, err = f.weft(t.Context(), "node", "undrain", node)
			f.must(err)
			findings, err := check.Await(t.Context(), f.Lab, time.Minute)
			f.must(err)
			for _, finding := range findings {
				t.Error(finding)
			}
		})
	}
}
