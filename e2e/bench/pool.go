package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// poolRouters is how many routers the pool of network nodes has.
const poolRouters = 50

// poolShape is the lab of the failover figures.
func poolShape(o *lab.Options) {
	o.NetworkNodes, o.ComputeNodes, o.Controllers, o.Etcd, o.Externals = 3, 2, 2, 1, 1
}

// networkNodes are those of poolShape.
func networkNodes() []string { return []string{"net1", "net2", "net3"} }

// pool is a pool of network nodes with its routers, each with a network, a gateway, a VM and a floating IP.
type pool struct {
	outside *lab.External
	ways    []*way
}

// way is one router with what is behind it.
type way struct {
	router   *weftv1.Router
	vm       guest
	floating netip.Addr
	// mac is that of the router's gateway, which all its frames on the external network come from.
	mac string
}

// preparePool makes the pool.
func preparePool(ctx context.Context, b *bench) error {
	outside, err := b.outside(ctx)
	if err != nil {
		return err
	}
	b.pool = &pool{outside: outside}
	for i := range poolRouters {
		w, err := b.way(ctx, i)
		if err != nil {
			return fmt.Errorf("router %d of %d: %w", i+1, poolRouters, err)
		}
		b.pool.ways = append(b.pool.ways, w)
	}
	if err := b.plugPool(ctx); err != nil {
		return err
	}
	if err := b.gatewayMACs(ctx); err != nil {
		return err
	}
	if err := b.ready(ctx); err != nil {
		return err
	}
	return b.calm(ctx)
}

// way makes one router with what is behind it; its VM is not plugged yet.
func (b *bench) way(ctx context.Context, i int) (*way, error) {
	s, err := b.segment(ctx, fmt.Sprintf("10.20.%d.0/24", i), true)
	if err != nil {
		return nil, err
	}
	w := &way{}
	if w.router, err = b.router(ctx, s); err != nil {
		return nil, err
	}
	if w.vm, err = b.guest(ctx, s, []string{"cmp1", "cmp2"}[i%2]); err != nil {
		return nil, err
	}
	f, err := b.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{
		NetworkId: b.external.GetId(), PortId: w.vm.port.GetId(),
	}})
	if err != nil {
		return nil, fmt.Errorf("create a floating IP: %w", err)
	}
	w.floating, err = addressOf(f)
	return w, err
}

func (b *bench) plugPool(ctx context.Context) error {
	var guests []guest
	for _, w := range b.pool.ways {
		guests = append(guests, w.vm)
	}
	return b.reach(ctx, weftv1.State_STATE_ACTIVE, guests, func() error { return b.lab.Plug(ctx, vmsOf(guests)...) })
}

// gatewayMACs finds the MAC addresses of the routers on the external network.
func (b *bench) gatewayMACs(ctx context.Context) error {
	got, err := b.ListPorts(ctx, &weftv1.ListPortsRequest{
		PageSize: 1000, Filter: fmt.Sprintf("device_owner = %q", model.OwnerRouterGateway),
	})
	if err != nil {
		return fmt.Errorf("list gateways: %w", err)
	}
	for _, w := range b.pool.ways {
		i := slices.IndexFunc(got.GetPorts(), func(p *weftv1.Port) bool { return p.GetDeviceId() == w.router.GetId() })
		if i < 0 {
			return fmt.Errorf("router %s has no gateway port", w.router.GetName())
		}
		w.mac = got.GetPorts()[i].GetMacAddress()
	}
	return nil
}

// ready waits until every router is ACTIVE, and built on every node of its plan.
func (b *bench) ready(ctx context.Context) error {
	return until(ctx, "every router is ACTIVE and its standbys are ready", func() (bool, error) {
		routers, err := b.routersOf(ctx)
		for _, r := range routers {
			if r.GetStatus().GetState() != weftv1.State_STATE_ACTIVE {
				return false, fmt.Errorf("router %s is %s: %s", r.GetName(), r.GetStatus().GetState(), r.GetStatus().GetMessage())
			}
			for _, i := range r.GetInstances() {
				if i.GetState() != weftv1.State_STATE_ACTIVE {
					return false, fmt.Errorf("router %s on %s is %s: %s", r.GetName(), i.GetNode(), i.GetState(), i.GetMessage())
				}
			}
		}
		return err == nil, err
	})
}

func (a *api) routersOf(ctx context.Context) (map[string]*weftv1.Router, error) {
	got, err := a.ListRouters(ctx, &weftv1.ListRoutersRequest{PageSize: 1000})
	if err != nil {
		return nil, fmt.Errorf("list routers: %w", err)
	}
	out := map[string]*weftv1.Router{}
	for _, r := range got.GetRouters() {
		out[r.GetId()] = r
	}
	return out, nil
}

// holders are the nodes that forward, by router.
func (a *api) holders(ctx context.Context) (map[string]string, error) {
	routers, err := a.routersOf(ctx)
	out := map[string]string{}
	for id, r := range routers {
		out[id] = r.GetActiveNode()
	}
	return out, err
}

// held are the pool's routers that a node forwards for.
func (b *bench) held(ctx context.Context, node string) ([]*way, error) {
	holders, err := b.holders(ctx)
	return slices.DeleteFunc(slices.Clone(b.pool.ways), func(w *way) bool { return holders[w.router.GetId()] != node }), err
}

// gathering bounds the moves of all routers to one node.
const gathering = 2 * time.Minute

// gather moves all routers to one node, which may be the only one that holds any.
func (b *bench) gather(ctx context.Context, node string) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	deadline, cancel := context.WithTimeout(ctx, gathering)
	defer cancel()
	for {
		left, err := b.send(deadline, node)
		if err != nil {
			return err
		}
		if left == 0 {
			return b.ready(ctx)
		}
		// A node that does not answer for a moment, on a busy machine, loses routers again; so they are sent again.
		_ = within(deadline, 5*time.Second, "all routers are on "+node, func() (bool, error) {
			held, err := b.held(deadline, node)
			return err == nil && len(held) == len(b.pool.ways), err
		})
		if deadline.Err() != nil {
			return fmt.Errorf("%d of %d routers are not on %s after %s", left, len(b.pool.ways), node, gathering)
		}
	}
}

// send asks for the routers that are not on a node to be moved there, and returns how many those are.
func (b *bench) send(ctx context.Context, node string) (int, error) {
	routers, err := b.routersOf(ctx)
	if err != nil {
		return 0, err
	}
	left := 0
	for _, w := range b.pool.ways {
		if r := routers[w.router.GetId()]; r.GetActiveNode() != node {
			left++
			if _, err := b.MoveRouter(ctx, &weftv1.MoveRouterRequest{Id: r.GetId(), Node: node}); err != nil {
				return left, fmt.Errorf("move router %s to %s: %w", r.GetName(), node, err)
			}
		}
	}
	return left, nil
}
