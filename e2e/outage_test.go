package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// away is how long the store is away: longer than the nodes' leases last.
const away = 15 * time.Second

// prompt is how long a call may take to fail without its store.
const prompt = 4 * time.Second

// failsFast wants calls to fail with UNAVAILABLE, promptly and in words, as long as ctx lasts.
func (f *fleet) failsFast(ctx context.Context, n *weftv1.Network) {
	f.t.Helper()
	calls := map[string]func(context.Context) error{
		"list ports": func(ctx context.Context) error {
			_, err := f.ports.ListPorts(ctx, &weftv1.ListPortsRequest{})
			return err
		},
		"get a network": func(ctx context.Context) error {
			_, err := f.networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: n.GetId()})
			return err
		},
		"create a port": func(ctx context.Context) error {
			_, err := f.ports.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{Name: "away", NetworkId: n.GetId()}})
			return err
		},
	}
	for ctx.Err() == nil {
		for what, call := range calls {
			calling, cancel := context.WithTimeout(f.t.Context(), prompt)
			err := call(calling)
			cancel()
			if status.Code(err) != codes.Unavailable || status.Convert(err).Message() == "" {
				f.t.Errorf("%s: %v; want UNAVAILABLE within %s", what, err, prompt)
			}
		}
		f.pause(200 * time.Millisecond)
	}
}

func TestStoreAway(t *testing.T) {
	f := newFleet(t, "e2e-away", func(o *lab.Options) { o.NetworkNodes, o.Externals, o.Etcd = 1, 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	r := f.router("r", ext1, s)
	_, floating := f.floatingIP(ext1, a)
	f.reach(out.Space, floating)
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	store := f.host("etcd1")

	for _, outage := range []struct {
		what       string
		begin, end func(context.Context, lab.Daemon) error
		during     func(f *fleet)
	}{
		{"held: its sockets stay open and nobody answers", store.Pause, store.Resume, func(*fleet) {}},
		{"killed, and agents restarted meanwhile", store.Kill, store.Start, func(f *fleet) {
			for _, node := range []string{"cmp1", "net1"} {
				f.must(f.host(node).Kill(t.Context(), lab.AgentDaemon))
				f.must(f.host(node).Start(t.Context(), lab.AgentDaemon))
			}
		}},
	} {
		t.Run(outage.what, func(t *testing.T) {
			f := f.in(t)
			late := f.prepare(fmt.Sprintf("late-%.4s", outage.what), "cmp2", f.port(&weftv1.Port{Name: "late", NetworkId: n.GetId()}))
			running := []*pinging{f.ping(a.Space, b.ip), f.ping(b.Space, outside1), f.ping(out.Space, floating)}
			f.must(outage.begin(t.Context(), lab.EtcdDaemon))
			over, cancel := context.WithTimeout(t.Context(), away)
			defer cancel()
			outage.during(f)
			f.failsFast(over, n)
			for _, p := range running {
				p.noneLost()
			}
			running = []*pinging{f.ping(a.Space, b.ip), f.ping(b.Space, outside1), f.ping(out.Space, floating)}
			f.plug(late) // nobody can bind it now
			f.must(outage.end(t.Context(), lab.EtcdDaemon))

			// At once, as a client would that has been waiting for it.
			var p *weftv1.Port
			f.eventually("a port can be created", func(ctx context.Context) (err error) {
				p, err = f.ports.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{Name: "after", NetworkId: n.GetId()}})
				return err
			})
			after := f.guestOf(fmt.Sprintf("after-%.4s", outage.what), "cmp1", p)
			f.reach(after.Space, b.ip)
			f.reach(after.Space, outside1)
			f.boundTo(late.port, "cmp2")
			f.configure(late)
			f.reach(after.Space, late.ip)
			f.alive()
			for _, p := range []*weftv1.Port{a.port, b.port, late.port, after.port} {
				f.portState(p, weftv1.State_STATE_ACTIVE, "")
			}
			f.routerState(r, weftv1.State_STATE_ACTIVE, "")
			f.networkState(n, weftv1.State_STATE_ACTIVE, "")
			for _, p := range running {
				p.steady()
			}
			f.removeGuest(late)
			f.removeGuest(after)
		})
	}
}

// TestWatchCompactedAway holds that an agent that missed events for good lists again, and notices what has been deleted.
func TestWatchCompactedAway(t *testing.T) {
	f := newFleet(t, "e2e-compacted", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	m, ms := f.vxlan("m", "10.20.0.0/24")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	gone := f.guest("gone", "cmp2", n)
	r, old := f.router("r", ext1, s), f.router("old", nil, ms)
	f.reach(a.Space, gone.ip)
	f.reach(a.Space, outside1)
	running := f.ping(a.Space, b.ip)

	for _, node := range []string{"cmp1", "net1"} {
		f.must(f.host(node).Pause(t.Context(), lab.AgentDaemon))
	}
	// The store restarts, so that what happens next is not waiting for the agents in their connections' buffers.
	f.must(f.host("etcd1").Kill(t.Context(), lab.EtcdDaemon))
	f.must(f.host("etcd1").Start(t.Context(), lab.EtcdDaemon))
	f.eventually("the API serves again", func(ctx context.Context) error {
		_, err := f.networks.ListNetworks(ctx, &weftv1.ListNetworksRequest{})
		return err
	})
	f.deletePort(gone.port.GetId())
	f.detach(old, ms)
	f.deleteRouter(old)
	_, err := f.subnets.DeleteSubnet(t.Context(), &weftv1.DeleteSubnetRequest{Id: ms.GetId()})
	f.must(err)
	_, err = f.networks.DeleteNetwork(t.Context(), &weftv1.DeleteNetworkRequest{Id: m.GetId()})
	f.must(err)
	fresh := f.port(&weftv1.Port{Name: "fresh", NetworkId: n.GetId()})
	client := f.etcd()
	last, err := client.Get(t.Context(), "x")
	f.must(err)
	_, err = client.Compact(t.Context(), last.Header.GetRevision())
	f.must(err)
	for _, node := range []string{"cmp1", "net1"} {
		f.must(f.host(node).Resume(t.Context(), lab.AgentDaemon))
	}

	f.eventually("cmp1 knows the way to gone no more", func(ctx context.Context) error {
		flows, err := f.host("cmp1").Exec(ctx, "sh", "-ec", "ovs-ofctl dump-flows br-tun; ovs-ofctl dump-flows br-int")
		if err == nil {
			err = without(flows, gone.port.GetMacAddress())
		}
		return err
	})
	f.eventually("net1 has nothing of the deleted router and network", func(ctx context.Context) error {
		names, err := f.host("net1").Exec(ctx, "ip", "netns", "list")
		if err == nil {
			err = without(names, old.GetId(), m.GetId())
		}
		return err
	})
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	running.noneLost()
	g := f.guestOf("fresh", "cmp1", fresh)
	f.reach(g.Space, b.ip)
	f.reach(g.Space, outside1)
}
