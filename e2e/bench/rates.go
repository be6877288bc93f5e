package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func rates() []measurement {
	const paused = "; subnets have DHCP and are placed on two live network nodes, whose agents are paused meanwhile"
	return []measurement{
		{"triples, one client", measureOneClient, []figure{{
			ID: "triples-1", Name: "network + subnet + port created, one client", Unit: "/s", Reach: 300, AtLeast: true,
			Between: "300 times CreateNetwork, CreateSubnet, CreatePort, one call after the other" + paused,
		}}},
		{"triples, 64 clients", measureManyClients, []figure{{
			ID: "triples-64", Name: "same, 64 clients", Unit: "/s", Reach: 1000, AtLeast: true,
			Between: "1,000 triples by 64 clients with a connection each" + paused,
		}}},
		{"triples, bulk", measureBulk, []figure{{
			ID: "triples-bulk", Name: "same, bulk", Unit: "/s", Reach: 2000, AtLeast: true,
			Between: "three calls: BatchCreateNetworks, BatchCreateSubnets, BatchCreatePorts of 1,000 each" + paused,
		}}},
		{"10,000 ports in the API", measureList, []figure{
			{
				ID: "list-10000", Name: "list 10,000 ports", Unit: "ms", Reach: 150,
				Between: "ListPorts with page_size 10,000 is called -> the answer is decoded by a Go client" + paused,
			},
			{
				ID: "controller-rss", Name: "memory: controller with 10,000 ports, resident", Unit: "MB", Reach: 50,
				Between: "Rss of /proc/<pid>/smaps_rollup of weft-controller (etcd is a process of its own) once the ports have been created",
			},
			{
				ID: "controller-pss", Name: "same, proportional share (PSS)", Unit: "MB", Reach: 50,
				Between: "Pss at the same moment",
			},
			{
				ID: "controller-rss-lists", Name: "same, resident, after lists of all 10,000", Unit: "MB", Reach: 50,
				Between: "Rss after the lists above, one after the other",
			},
			{
				ID: "controller-pss-lists", Name: "same, proportional share (PSS), after lists of all 10,000", Unit: "MB", Reach: 50,
				Between: "Pss at the same moment",
			},
		}},
	}
}

// bursts is how often a burst of calls is made.
const bursts = 3

// inQuiet runs something against a lab of its own: a controller, an etcd, and two network nodes that count as alive but
// do nothing, for their leases last 10 s.
func inQuiet(ctx context.Context, b *bench, do func(context.Context, *bench) error) (err error) {
	bin, err := b.lab.Bin()
	if err != nil {
		return err
	}
	o := lab.Options{Name: "bench-api", NetworkNodes: 2, Controllers: 1, Etcd: 1, Externals: 1, UnderlayMTU: 1500, Bin: bin}
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down(ctx, l)) }()
	a, err := dial(l)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.nodesAlive(ctx, o.NetworkNodes); err != nil {
		return err
	}
	if err := fleet.Unlimited(ctx, weftv1.NewQuotaServiceClient(a.conn)); err != nil {
		return err
	}
	for _, name := range []string{"net1", "net2"} {
		h, err := l.Host(name)
		if err != nil {
			return err
		}
		if err := h.Pause(ctx, lab.AgentDaemon); err != nil {
			return err
		}
	}
	return do(ctx, &bench{api: a, lab: l, n: b.n, out: b.out})
}

func (a *api) triple(ctx context.Context) error {
	n, err := a.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "n"}})
	if err != nil {
		return fmt.Errorf("create a network: %w", err)
	}
	if _, err := a.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.0.0.0/24"}}); err != nil {
		return fmt.Errorf("create a subnet: %w", err)
	}
	if _, err := a.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId()}}); err != nil {
		return fmt.Errorf("create a port: %w", err)
	}
	return nil
}

func perSecond(count int, took time.Duration) float64 { return float64(count) / took.Seconds() }

func measureOneClient(ctx context.Context, b *bench, got samples) error {
	const count = 300
	return inQuiet(ctx, b, func(ctx context.Context, b *bench) error {
		for range bursts {
			began := stopwatch()
			for range count {
				if err := b.triple(ctx); err != nil {
					return err
				}
			}
			got.add("triples-1", perSecond(count, began()))
		}
		return nil
	})
}

func measureManyClients(ctx context.Context, b *bench, got samples) error {
	const count, clients = 1000, 64
	return inQuiet(ctx, b, func(ctx context.Context, b *bench) error {
		var all []*api
		defer func() {
			for _, a := range all {
				a.close()
			}
		}()
		for range clients {
			a, err := dial(b.lab)
			if err != nil {
				return err
			}
			all = append(all, a)
			if err := a.nodesAlive(ctx, 2); err != nil { // connects
				return err
			}
		}
		for range bursts {
			began := stopwatch()
			if err := inParallel(ctx, all, count); err != nil {
				return err
			}
			got.add("triples-64", perSecond(count, began()))
		}
		return nil
	})
}

// inParallel has all clients create triples until there are count.
func inParallel(ctx context.Context, clients []*api, count int64) error {
	var left atomic.Int64
	left.Store(count)
	group, ctx := errgroup.WithContext(ctx)
	for _, a := range clients {
		group.Go(func() error {
			for left.Add(-1) >= 0 {
				if err := a.triple(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func measureBulk(ctx context.Context, b *bench, got samples) error {
	return inQuiet(ctx, b, func(ctx context.Context, b *bench) error {
		for range bursts {
			began := stopwatch()
			all, err := b.segments(ctx, batchSize, "10.0.0.0/24", true)
			if err != nil {
				return err
			}
			if _, err := b.createPorts(ctx, batchSize, func(i int) *weftv1.Port {
				return &weftv1.Port{NetworkId: all[i].network.GetId()}
			}); err != nil {
				return err
			}
			got.add("triples-bulk", perSecond(batchSize, began()))
		}
		return nil
	})
}

// segments makes VXLAN networks with a subnet each, at most batchSize, in bulk.
func (a *api) segments(ctx context.Context, count int, cidr string, dhcp bool) ([]segment, error) {
	networks := &weftv1.BatchCreateNetworksRequest{}
	for range count {
		networks.Requests = append(networks.Requests, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "n"}})
	}
	made, err := a.BatchCreateNetworks(ctx, networks)
	if err != nil {
		return nil, fmt.Errorf("create networks: %w", err)
	}
	subnets := &weftv1.BatchCreateSubnetsRequest{}
	var out []segment
	for _, r := range made.GetResults() {
		if e := r.GetError(); e != nil {
			return nil, fmt.Errorf("create networks: %s", e.GetMessage())
		}
		out = append(out, segment{network: r.GetNetwork()})
		subnets.Requests = append(subnets.Requests, &weftv1.CreateSubnetRequest{
			Subnet: &weftv1.Subnet{NetworkId: r.GetNetwork().GetId(), Cidr: cidr, EnableDhcp: &dhcp},
		})
	}
	got, err := a.BatchCreateSubnets(ctx, subnets)
	if err != nil {
		return nil, fmt.Errorf("create subnets: %w", err)
	}
	for i, r := range got.GetResults() {
		if e := r.GetError(); e != nil {
			return nil, fmt.Errorf("create subnets: %s", e.GetMessage())
		}
		out[i].subnet = r.GetSubnet()
	}
	return out, nil
}

func measureList(ctx context.Context, b *bench, got samples) error {
	const networks, ports = 100, 9900 // and a DHCP port per network
	return inQuiet(ctx, b, func(ctx context.Context, b *bench) error {
		all, err := b.segments(ctx, networks, "10.0.0.0/16", true)
		if err != nil {
			return err
		}
		if _, err := b.createPorts(ctx, ports, func(i int) *weftv1.Port {
			return &weftv1.Port{NetworkId: all[i%networks].network.GetId()}
		}); err != nil {
			return err
		}
		if err := b.memory("ctl1", lab.ControllerDaemon, got, "controller-rss", "controller-pss"); err != nil {
			return err
		}
		for range b.n {
			began := stopwatch()
			list, err := b.ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: networks + ports})
			if err != nil {
				return fmt.Errorf("list ports: %w", err)
			}
			got.took("list-10000", began())
			if len(list.GetPorts()) != networks+ports {
				return fmt.Errorf("list ports: got %d, want %d", len(list.GetPorts()), networks+ports)
			}
		}
		return b.memory("ctl1", lab.ControllerDaemon, got, "controller-rss-lists", "controller-pss-lists")
	})
}
