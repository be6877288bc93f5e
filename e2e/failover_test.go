package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	tcp "github.com/weft-sdn/weft/e2e/lab/talk"
	"github.com/weft-sdn/weft/e2e/lab/witness"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// pool is a fleet with three network nodes that hold routers for each other.
type pool struct {
	*fleet
	outside *lab.External
	ways    []*way
}

// way is a router with a VM and a floating IP behind it.
type way struct {
	router   *weftv1.Router
	guest    *guest
	floating netip.Addr
	mac      string // of its gateway
}

// newPool brings up a fleet with some routers, each with two nodes and all working.
func newPool(t *testing.T, name string, routers int) *pool {
	t.Helper()
	f := newFleet(t, name, func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 3, 1, 1 })
	p := &pool{fleet: f, outside: f.external("ext1")}
	ext1 := f.outside("ext1", "203.0.113.0/24")
	for i := range routers {
		n, s := f.vxlan(fmt.Sprintf("n%d", i), fmt.Sprintf("10.%d.0.0/24", 10+i))
		w := &way{guest: f.guest(fmt.Sprintf("g%d", i), "cmp1", n)}
		w.router = f.router(fmt.Sprintf("r%d", i), ext1, s)
		_, w.floating = f.floatingIP(ext1, w.guest)
		p.ways = append(p.ways, w)
	}
	p.gateways()
	p.whole()
	for _, w := range p.ways {
		f.reach(w.guest.Space, outside1)
		f.reach(p.outside.Space, w.floating)
	}
	return p
}

// in is the same pool for a subtest.
func (p *pool) in(t *testing.T) *pool {
	q := *p
	q.fleet = p.fleet.in(t)
	return &q
}

// gateways finds the MAC addresses of the routers' gateways.
func (p *pool) gateways() {
	p.t.Helper()
	got, err := p.ports.ListPorts(p.t.Context(), &weftv1.ListPortsRequest{PageSize: 1000})
	p.must(err)
	for _, w := range p.ways {
		for _, port := range got.GetPorts() {
			if port.GetDeviceOwner() == model.OwnerRouterGateway && port.GetDeviceId() == w.router.GetId() {
				w.mac = port.GetMacAddress()
			}
		}
	}
}

// whole waits until every node is alive and every router is ACTIVE and ready on two nodes.
func (p *pool) whole() {
	p.t.Helper()
	p.alive()
	p.within(2*patience, "every router is ACTIVE and has a standby", func(ctx context.Context) error {
		got, err := p.routers.ListRouters(ctx, &weftv1.ListRoutersRequest{})
		for _, r := range got.GetRouters() {
			ready := 0
			for _, i := range r.GetInstances() {
				if i.GetState() == weftv1.State_STATE_ACTIVE {
					ready++
				}
			}
			if s := r.GetStatus(); s.GetState() != weftv1.State_STATE_ACTIVE || ready < 2 || ready < len(r.GetInstances()) {
				return fmt.Errorf("%s is %s %q, ready on %d of %v", r.GetName(), s.GetState(), everything(s), ready, r.GetInstances())
			}
		}
		return err
	})
}

// holder is the node that forwards for a router.
func (p *pool) holder(w *way) string {
	p.t.Helper()
	r, err := p.routers.GetRouter(p.t.Context(), &weftv1.GetRouterRequest{Id: w.router.GetId()})
	p.must(err)
	return r.GetActiveNode()
}

// holders are the nodes that forward, by the routers' names.
func (p *pool) holders() map[string]string {
	p.t.Helper()
	out := map[string]string{}
	for _, w := range p.ways {
		out[w.router.GetName()] = p.holder(w)
	}
	return out
}

// on are the ways through a node.
func (p *pool) on(node string) []*way {
	p.t.Helper()
	return slices.DeleteFunc(slices.Clone(p.ways), func(w *way) bool { return p.holder(w) != node })
}

// leaves waits until a router is held by another node than before.
func (p *pool) leaves(ways []*way, before string) {
	p.t.Helper()
	p.eventually("other nodes than "+before+" forward", func(ctx context.Context) error {
		for _, w := range ways {
			r, err := p.routers.GetRouter(ctx, &weftv1.GetRouterRequest{Id: w.router.GetId()})
			if err != nil || r.GetActiveNode() == before || r.GetActiveNode() == "" {
				return errors.Join(err, fmt.Errorf("%s: %q does", w.router.GetName(), r.GetActiveNode()))
			}
		}
		return nil
	})
}

// carried wants every way to carry new traffic in both directions.
func (p *pool) carried() {
	p.t.Helper()
	for _, w := range p.ways {
		p.reach(w.guest.Space, outside1)
		p.reach(p.outside.Space, w.floating)
	}
}

// vigil watches the external network for a router that two nodes speak for, and holds connections through routers.
type vigil struct {
	p       *pool
	witness *witness.Witness
	talks   map[string]*tcp.Talk
}

// keepVigil begins, with three connections through each way: out through SNAT, in to the floating IP, and a download by
// a client that says nothing.
func (p *pool) keepVigil(ways []*way) *vigil {
	p.t.Helper()
	v := &vigil{p: p, talks: map[string]*tcp.Talk{}}
	var err error
	v.witness, err = witness.Start(p.Switch().Do, "net1-ext1", "net2-ext1", "net3-ext1")
	p.must(err)
	p.t.Cleanup(func() { _, _ = v.witness.Stop() }) // in vain if it has been stopped
	out := p.serve(p.outside.Space, outside1)
	for _, w := range ways {
		at := p.serve(w.guest.Space, w.guest.ip)
		v.connect(w.router.GetName()+" out", w.guest.Space, out, tcp.Echo)
		v.connect(w.router.GetName()+" download", w.guest.Space, out, tcp.Download)
		v.connect(w.router.GetName()+" in", p.outside.Space, netip.AddrPortFrom(w.floating, at.Port()), tcp.Echo)
	}
	return v
}

func (p *pool) serve(at lab.Space, address netip.Addr) netip.AddrPort {
	p.t.Helper()
	s, err := tcp.Serve(at.Do, netip.AddrPortFrom(address, 0))
	p.must(err)
	p.t.Cleanup(s.Close)
	return s.Addr()
}

func (v *vigil) connect(name string, from lab.Space, to netip.AddrPort, kind tcp.Kind) {
	v.p.t.Helper()
	c, err := tcp.Start(v.p.t.Context(), from.Do, to, kind)
	v.p.must(err)
	v.p.t.Cleanup(func() { c.Stop() })
	v.talks[name] = c
}

// goOn waits until all connections carry, which must be those that were made.
func (v *vigil) goOn() {
	v.p.t.Helper()
	v.p.eventually("the connections go on", func(context.Context) error {
		var errs []error
		for name, c := range v.talks {
			if err := c.Alive(200 * time.Millisecond); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
		return errors.Join(errs...)
	})
}

// end ends the vigil and wants that at no time two nodes spoke for a router, and that each that is named as moved was
// heard from exactly two nodes.
func (v *vigil) end(moved []*way) {
	v.p.t.Helper()
	for name, c := range v.talks {
		v.p.t.Logf("%s: %v", name, c.Stop())
	}
	record, err := v.witness.Stop()
	v.p.must(err)
	for _, w := range v.p.ways {
		if text := record.Overlaps(w.mac); text != "" {
			v.p.t.Errorf("two nodes spoke for %s: %s", w.router.GetName(), text)
		}
		var nodes []string
		for _, s := range record.Spells[w.mac] {
			node, _, _ := strings.Cut(s.Port, "-")
			nodes = append(nodes, node)
		}
		want := 1
		if slices.Contains(moved, w) {
			want = 2
		}
		if len(nodes) != want {
			v.p.t.Errorf("%s was heard from %v, want %d nodes", w.router.GetName(), nodes, want)
		}
	}
}

// TestFailover strikes a network node in each way that its peers or it itself notice, and wants its routers elsewhere with
// their connections, and nothing to move back when the node is mended.
func TestFailover(t *testing.T) {
	p := newPool(t, "e2e-failover", 3)
	for _, fault := range []struct {
		what         string
		strike, mend func(context.Context, *lab.Host) error
	}{
		{"power lost", func(ctx context.Context, h *lab.Host) error { return h.PowerOff(ctx) }, func(ctx context.Context, h *lab.Host) error { return h.PowerOn(ctx) }},
		{
			"ovs-vswitchd killed",
			func(ctx context.Context, h *lab.Host) error { return h.Kill(ctx, lab.VSwitchDaemon) },
			func(ctx context.Context, h *lab.Host) error { return h.Start(ctx, lab.VSwitchDaemon) },
		},
		{
			"uplink down",
			func(_ context.Context, h *lab.Host) error { return h.CutCarrier("ext1") },
			func(_ context.Context, h *lab.Host) error { return h.Heal("ext1") },
		},
		{
			"underlay cut",
			func(_ context.Context, h *lab.Host) error { return h.Cut(lab.Underlay) },
			func(_ context.Context, h *lab.Host) error { return h.Heal(lab.Underlay) },
		},
	} {
		t.Run(fault.what, func(t *testing.T) {
			p := p.in(t)
			node := p.holder(p.ways[0])
			hit := p.on(node)
			v := p.keepVigil(hit)
			p.must(fault.strike(t.Context(), p.host(node)))
			p.leaves(hit, node)
			v.goOn()
			p.carried()
			moved := p.holders()

			p.must(fault.mend(t.Context(), p.host(node)))
			p.whole()
			p.pause(time.Second)
			if now := p.holders(); fmt.Sprint(now) != fmt.Sprint(moved) {
				t.Errorf("after the mending, routers are held by %v, before by %v", now, moved)
			}
			v.goOn()
			p.carried()
			v.end(hit)
		})
	}
}
