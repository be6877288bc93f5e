package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// downTime is how long all controllers, and all of etcd, are down.
const downTime = 60 * time.Second

func outages() []measurement {
	figures := func(id, name, between string) []figure {
		return []figure{
			{ID: id + "-lost", Name: name + ": lost", Unit: "packets", Zero: true, Between: between + "; pings of one flow each, at 100 Hz both ways through 3 routers and at 20 Hz to the floating IPs of the other 47: echoes not answered"},
			{ID: id + "-moved", Name: "same: routers that moved", Unit: "routers", Zero: true, Between: "the same time"},
		}
	}
	return []measurement{
		{"agents killed", measureAgents("agents-killed", (*lab.Host).Kill), figures("agents-killed", "agents of all five nodes killed (SIGKILL) and started at once",
			"the agents are killed -> all are alive again and every router is ACTIVE, and 1 s more")},
		{"agents restarted", measureAgents("agents-restarted", (*lab.Host).Stop), figures("agents-restarted", "agents of all five nodes stopped (SIGTERM) and started at once", "as agents-killed")},
		{"controllers down", measureDown("controllers-down", lab.ControllerDaemon, lab.Controller), figures("controllers-down", "all controllers down for 60 s",
			"the controllers are killed -> 60 s later they are started -> every router is ACTIVE, and 1 s more")},
		{"etcd down", measureDown("etcd-down", lab.EtcdDaemon, lab.EtcdMember), figures("etcd-down", "all of etcd down for 60 s", "as controllers-down, with etcd")},
	}
}

// ending is a way to end a daemon.
type ending func(*lab.Host, context.Context, lab.Daemon) error

// measureAgents ends the agents of all nodes at once and starts them again.
func measureAgents(id string, end ending) func(context.Context, *bench, samples) error {
	return func(ctx context.Context, b *bench, got samples) error {
		nodes, err := b.nodes()
		if err != nil {
			return err
		}
		for range b.rounds() {
			if err := b.unscathed(ctx, got, id, func() error { return b.restartAgents(ctx, nodes, end) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// restartAgents returns when every new agent has described itself, which it does once it has a complete view.
func (b *bench) restartAgents(ctx context.Context, nodes []lab.HostInfo, end ending) error {
	before, err := b.startTimes(ctx)
	if err != nil {
		return err
	}
	if err := b.every(ctx, nodes, lab.AgentDaemon, end); err != nil {
		return err
	}
	if err := b.every(ctx, nodes, lab.AgentDaemon, (*lab.Host).Start); err != nil {
		return err
	}
	if err := until(ctx, "all agents are new", func() (bool, error) {
		now, err := b.startTimes(ctx)
		for node, began := range now {
			if !began.After(before[node]) {
				return false, fmt.Errorf("%s is not", node)
			}
		}
		return err == nil, err
	}); err != nil {
		return err
	}
	return b.whole(ctx)
}

// startTimes are when the nodes' agents began, as the API has it.
func (a *api) startTimes(ctx context.Context) (map[string]time.Time, error) {
	got, err := a.ListNodes(ctx, &weftv1.ListNodesRequest{})
	out := map[string]time.Time{}
	for _, n := range got.GetNodes() {
		out[n.GetId()] = n.GetStartTime().AsTime()
	}
	return out, err
}

// every does something to a daemon of hosts, at once.
func (b *bench) every(ctx context.Context, hosts []lab.HostInfo, d lab.Daemon, do ending) error {
	var group errgroup.Group
	for _, info := range hosts {
		h, err := b.lab.Host(info.Name)
		if err != nil {
			return err
		}
		group.Go(func() error { return do(h, ctx, d) })
	}
	return group.Wait()
}

// measureDown takes all daemons of a kind of host down for a while.
func measureDown(id string, d lab.Daemon, kind lab.Kind) func(context.Context, *bench, samples) error {
	return func(ctx context.Context, b *bench, got samples) error {
		hosts, err := b.lab.Hosts()
		if err != nil {
			return err
		}
		hosts = slices.DeleteFunc(hosts, func(h lab.HostInfo) bool { return h.Kind != kind })
		return b.unscathed(ctx, got, id, func() error {
			if err := b.every(ctx, hosts, d, (*lab.Host).Kill); err != nil {
				return err
			}
			select {
			case <-time.After(downTime):
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := b.every(ctx, hosts, d, (*lab.Host).Start); err != nil {
				return err
			}
			if err := until(ctx, "the API serves", func() (bool, error) {
				_, err := b.ListNodes(ctx, &weftv1.ListNodesRequest{})
				return err == nil, err
			}); err != nil {
				return fmt.Errorf("after %s: %w", downTime, err)
			}
			return b.whole(ctx)
		})
	}
}
