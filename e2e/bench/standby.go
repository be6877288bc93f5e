package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// standbyRouters is how many routers a node stands by for.
const standbyRouters = 200

// standbyShape is a node that forwards and one that stands by for it.
func standbyShape(o *lab.Options) {
	o.NetworkNodes, o.ComputeNodes, o.Controllers, o.Etcd, o.Externals = 2, 0, 1, 1, 1
}

func standbys() []measurement {
	const between = "of weft-agent on a node that stands by for 200 idle routers (a gateway and an interface each, their networks without DHCP) that are active on another, less what it had without them; divided by 200"
	return []measurement{{"memory of standbys", measureStandbys, []figure{
		{ID: "standby-rss", Name: "memory of the agent per standby router, resident", Unit: "MB", Reach: 1, Between: "Rss " + between},
		{ID: "standby-pss", Name: "same, proportional share (PSS)", Unit: "MB", Reach: 1, Between: "Pss " + between},
	}}}
}

func measureStandbys(ctx context.Context, b *bench, got samples) error {
	b.keep = true // deleting all would take longer than taking the lab down
	const active, standby = "net1", "net2"
	if err := b.wideOutside(ctx); err != nil {
		return err
	}
	before := samples{}
	if err := b.memory(standby, lab.AgentDaemon, before, "standby-rss", "standby-pss"); err != nil {
		return err
	}
	segments, err := b.segments(ctx, standbyRouters, "10.0.0.0/24", false)
	if err != nil {
		return err
	}
	b.pool = &pool{ways: make([]*way, standbyRouters)}
	var group errgroup.Group
	group.SetLimit(cleaners)
	for i, s := range segments {
		group.Go(func() error {
			r, err := b.routerOf(ctx, &weftv1.Router{Name: fmt.Sprintf("router-%d", i)}, s)
			b.pool.ways[i] = &way{router: r}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := b.gather(ctx, active); err != nil {
		return err
	}
	if err := b.calm(ctx); err != nil {
		return err
	}
	after := samples{}
	if err := b.memory(standby, lab.AgentDaemon, after, "standby-rss", "standby-pss"); err != nil {
		return err
	}
	for id := range after {
		got.add(id, (after[id][0]-before[id][0])/standbyRouters)
	}
	return nil
}
