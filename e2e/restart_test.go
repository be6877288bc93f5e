package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// weftFlows are weft's flows on a node's bridges, without what counts or numbers.
func (f *fleet) weftFlows(ctx context.Context, node string) (string, error) {
	out, err := f.host(node).Exec(ctx, "sh", "-ec",
		"for b in br-int br-tun br-tenant; do echo $b; ovs-ofctl -O OpenFlow15 --names dump-flows --no-stats $b; done")
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n"), err
}

func (f *fleet) sameFlows(node, before string) {
	f.t.Helper()
	f.eventually("the flows of "+node+" are back", func(ctx context.Context) error {
		now, err := f.weftFlows(ctx, node)
		// Ports that were made anew may have other numbers, and with them other cookies.
		if err == nil && strings.Count(now, "cookie=") != strings.Count(before, "cookie=") {
			err = errors.New(difference(before, now))
		}
		return err
	})
}

// TestSwitchAndHostRestarts brings every part of a node down, one after the other, up to the power.
func TestSwitchAndHostRestarts(t *testing.T) {
	f := newFleet(t, "e2e-restarts", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	n, s := f.vxlan("n", "10.10.0.0/24")
	m, ms := f.tenant("m", weftv1.NetworkType_NETWORK_TYPE_VLAN, "10.20.0.0/24")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	c := f.guest("c", "cmp1", m)
	r := f.router("r", ext1, s, ms)
	_, floating := f.floatingIP(ext1, a)
	works := func(f *fleet) {
		f.t.Helper()
		f.reach(a.Space, b.ip)
		f.reach(c.Space, b.ip)
		f.reach(b.Space, outside1)
		f.reach(out.Space, floating)
		for _, g := range []*guest{a, b, c} {
			f.portState(g.port, weftv1.State_STATE_ACTIVE, "")
		}
		f.routerState(r, weftv1.State_STATE_ACTIVE, "")
		f.networkState(n, weftv1.State_STATE_ACTIVE, "")
		f.networkState(m, weftv1.State_STATE_ACTIVE, "")
		// DHCP answers, and what is new is wired.
		g := f.guest("new", "cmp1", n)
		f.reach(g.Space, b.ip)
		f.removeGuest(g)
	}
	works(f)

	for _, node := range []string{"cmp1", "net1"} {
		for _, daemon := range []lab.Daemon{lab.VSwitchDaemon, lab.OVSDBDaemon} {
			t.Run(fmt.Sprintf("%s of %s killed and started again", daemon, node), func(t *testing.T) {
				f := f.in(t)
				before, err := f.weftFlows(t.Context(), node)
				f.must(err)
				agents := f.agents()
				running := []*pinging{f.ping(a.Space, b.ip), f.ping(c.Space, b.ip), f.ping(b.Space, outside1), f.ping(out.Space, floating)}
				f.must(f.host(node).Kill(t.Context(), daemon))
				f.must(f.host(node).Start(t.Context(), daemon))
				f.sameFlows(node, before)
				for _, p := range running {
					if daemon == lab.OVSDBDaemon {
						p.noneLost()
					} else {
						p.run.Stop()
					}
				}
				works(f)
				if now := f.agents(); now[node] != agents[node] {
					t.Errorf("the agent of %s was process %d and is %d", node, agents[node], now[node])
				}
			})
		}
	}

	t.Run("a compute node loses its power", func(t *testing.T) {
		f := f.in(t)
		cmp1 := f.host("cmp1")
		f.must(cmp1.PowerOff(t.Context()))
		f.within(2*patience, "the node is seen to be dead, and its ports to be unknown", func(ctx context.Context) error {
			node, err := f.nodes.GetNode(ctx, &weftv1.GetNodeRequest{Id: "cmp1"})
			if err != nil || node.GetAlive() {
				return errors.Join(err, errors.New("the node is alive"))
			}
			p, err := f.getPort(ctx, a.port.GetId())
			if err == nil && p.GetStatus().GetState() == weftv1.State_STATE_ACTIVE {
				err = errors.New("the port is ACTIVE")
			}
			return err
		})
		f.reach(b.Space, outside1) // the others go on
		f.must(cmp1.PowerOn(t.Context()))
		f.alive()
		a, c = f.guestOf("a", "cmp1", a.port), f.guestOf("c", "cmp1", c.port)
		works(f)
	})

	t.Run("a network node loses its power", func(t *testing.T) {
		f := f.in(t)
		running := f.ping(a.Space, b.ip) // needs no network node
		f.must(f.host("net1").PowerOff(t.Context()))
		f.must(f.host("net1").PowerOn(t.Context()))
		f.alive()
		running.noneLost()
		works(f)
		f.eventually("net1 has just what belongs there", f.onlyReal("net1"))
	})
}
