package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// What a node has to build.
const (
	coldNode    = "net1"
	coldRouters = 500
	coldPorts   = 2000
)

// coldShape is the lab of a cold start: one node with everything.
func coldShape(o *lab.Options) {
	o.NetworkNodes, o.ComputeNodes, o.Controllers, o.Etcd, o.Externals = 1, 0, 1, 1, 1
}

func coldStarts() []measurement {
	const all = "the agent of a node with 500 routers (a gateway and an interface each), 500 networks with DHCP and 2,000 plugged ports, of which none is built, is started -> the API says ACTIVE of "
	return []measurement{{"cold start", measureColdStart, []figure{
		{ID: "cold", Name: "cold start: 500 routers, 500 DHCP networks, 2,000 ports on one node: all built", Unit: "s", Reach: 30, Between: all + "all of them"},
		{ID: "cold-ports", Name: "same: the ports", Unit: "s", Between: all + "the last port"},
		{ID: "cold-networks", Name: "same: DHCP", Unit: "s", Between: all + "the last network"},
		{ID: "cold-routers", Name: "same: the routers", Unit: "s", Between: all + "the last router"},
		{ID: "cold-rss", Name: "memory: the agent then, resident", Unit: "MB", Between: "Rss of /proc/<pid>/smaps_rollup of weft-agent after it"},
		{ID: "cold-pss", Name: "same, proportional share (PSS)", Unit: "MB", Between: "Pss at the same moment"},
	}}}
}

// coldTime bounds the building.
const coldTime = 3 * time.Minute

func measureColdStart(ctx context.Context, b *bench, got samples) error {
	b.keep = true // deleting all would take longer than taking the lab down
	h, err := b.lab.Host(coldNode)
	if err != nil {
		return err
	}
	if err := b.wideOutside(ctx); err != nil {
		return err
	}
	if err := b.holdAlive(ctx, h); err != nil {
		return err
	}
	began := stopwatch()
	if err := b.fillCold(ctx); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "   made in %s\n", began().Round(100*time.Millisecond))
	building, cancel := context.WithTimeout(ctx, coldTime)
	defer cancel()
	began = stopwatch()
	if err := h.Start(building, lab.AgentDaemon); err != nil {
		return err
	}
	took, err := b.allActive(building, began)
	for id, d := range took {
		got.add(id, d.Seconds())
	}
	if err != nil {
		return err
	}
	return b.memory(coldNode, lab.AgentDaemon, got, "cold-rss", "cold-pss")
}

// wideOutside makes an external network with room for all gateways; nobody answers there.
func (b *bench) wideOutside(ctx context.Context) error {
	n, err := b.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{
		Name: "outside", Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1", External: true,
	}})
	if err != nil {
		return fmt.Errorf("create an external network: %w", err)
	}
	_, err = b.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{
		NetworkId: n.GetId(), Cidr: "172.24.0.0/16", EnableDhcp: new(bool),
	}})
	if err != nil {
		return fmt.Errorf("create an external subnet: %w", err)
	}
	b.external = n
	return nil
}

// holdAlive kills the node's agent and has the node count as alive all the same: things are placed on it, and wait.
func (b *bench) holdAlive(ctx context.Context, h *lab.Host) error {
	client, err := b.lab.Etcd()
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // all has been answered
	live, err := client.Get(ctx, keys.Live(coldNode))
	if err != nil || len(live.Kvs) == 0 {
		return fmt.Errorf("read that %s is alive (%d answers): %w", coldNode, len(live.Kvs), err)
	}
	if err := h.Kill(ctx, lab.AgentDaemon); err != nil {
		return err
	}
	if _, err := client.Put(ctx, keys.Live(coldNode), string(live.Kvs[0].Value)); err != nil {
		return fmt.Errorf("hold %s alive: %w", coldNode, err)
	}
	return nil
}

// fillCold makes and plugs everything.
func (b *bench) fillCold(ctx context.Context) error {
	segments, err := b.segments(ctx, coldRouters, "10.0.0.0/24", true)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(cleaners)
	for i, s := range segments {
		group.Go(func() error {
			_, err := b.routerOf(ctx, &weftv1.Router{Name: "router-" + strconv.Itoa(i)}, s)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	ports, err := b.createPorts(ctx, coldPorts, func(i int) *weftv1.Port {
		return &weftv1.Port{NetworkId: segments[i%len(segments)].network.GetId(), Host: coldNode}
	})
	if err != nil {
		return err
	}
	return b.plugCold(ctx, ports)
}

// plugCold plugs a VM without an address into each port.
func (b *bench) plugCold(ctx context.Context, ports []*weftv1.Port) error {
	const chunk = 250
	for len(ports) > 0 {
		now := ports[:min(chunk, len(ports))]
		ports = ports[len(now):]
		var specs []lab.VMSpec
		for _, p := range now {
			specs = append(specs, lab.VMSpec{Name: b.name("vm"), Host: coldNode, Port: lab.Port{ID: p.GetId(), MAC: p.GetMacAddress()}, Addressing: lab.Unaddressed})
		}
		vms, err := b.prepare(ctx, specs)
		if err != nil {
			return err
		}
		if err := b.lab.Plug(ctx, vms...); err != nil {
			return err
		}
	}
	return nil
}

// allActive asks until everything is ACTIVE, and returns how long each kind took.
func (b *bench) allActive(ctx context.Context, began func() time.Duration) (map[string]time.Duration, error) {
	took := map[string]time.Duration{}
	kinds := map[string]func(context.Context) (left int, err error){
		"cold-ports": b.portsLeft, "cold-networks": b.networksLeft, "cold-routers": b.routersLeft,
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		state := ""
		for id, left := range kinds {
			if _, done := took[id]; done {
				continue
			}
			n, err := left(ctx)
			if err == nil && n == 0 {
				took[id] = began()
				continue
			}
			state += fmt.Sprintf(" %s: %d left (%v)", id, n, err)
		}
		if state == "" {
			took["cold"] = began()
			return took, nil
		}
		select {
		case <-ctx.Done():
			return took, fmt.Errorf("not all is built:%s", state)
		case <-tick.C:
		}
	}
}

func (b *bench) portsLeft(ctx context.Context) (int, error) {
	got, err := b.ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: 10000, Filter: `device_owner = ""`})
	return coldPorts - active(got.GetPorts()), err
}

func (b *bench) networksLeft(ctx context.Context) (int, error) {
	got, err := b.ListNetworks(ctx, &weftv1.ListNetworksRequest{PageSize: 10000, Filter: "external = false"})
	return coldRouters - active(got.GetNetworks()), err
}

func (b *bench) routersLeft(ctx context.Context) (int, error) {
	got, err := b.ListRouters(ctx, &weftv1.ListRoutersRequest{PageSize: 10000})
	return coldRouters - active(got.GetRouters()), err
}

func active[T interface{ GetStatus() *weftv1.ObjectStatus }](objects []T) int {
	n := 0
	for _, o := range objects {
		if o.GetStatus().GetState() == weftv1.State_STATE_ACTIVE {
			n++
		}
	}
	return n
}
