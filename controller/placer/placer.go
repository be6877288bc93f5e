// Package placer finds a place, when nodes come, for routers and DHCP services that were stored without one. It runs on
// every controller: transactions are guarded, so that one of them wins. It moves nothing that has a place.
package placer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	"github.com/weft-sdn/weft/scheduler"
)

// Placer places. Make it with New; Run does the work.
type Placer struct {
	store *store.Store
	fleet *fleet.Fleet
	log   *slog.Logger
	kick  chan struct{}
}

// New makes a Placer.
func New(s *store.Store, f *fleet.Fleet, log *slog.Logger) *Placer {
	return &Placer{store: s, fleet: f, log: log, kick: make(chan struct{}, 1)}
}

// Kick says that something was stored without a place. It never blocks and is safe for concurrent use.
func (p *Placer) Kick() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// How often everything is looked at although nothing seems to have changed, and how much time at least lies between two
// looks: nodes come in crowds.
const (
	period = time.Minute
	calm   = 20 * time.Millisecond
)

// Run places until the context ends.
func (p *Placer) Run(ctx context.Context) {
	able := ""
	for ctx.Err() == nil {
		changed := p.fleet.Changed()
		if now := fingerprint(p.fleet); now != able {
			able = now
			p.look(ctx)
		}
		if wait(ctx, calm) != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-p.kick:
			able = ""
		case <-time.After(period/2 + rand.N(period/2)):
			able = ""
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// fingerprint changes when a node can take something that it could not before.
func fingerprint(f *fleet.Fleet) string {
	out := "nodes"
	for _, n := range f.Nodes() {
		if !n.Alive || !n.Network || n.Cordoned || n.Draining {
			continue
		}
		out += fmt.Sprintf(" %s %s %s %d", n.Name, n.Pool, n.TunnelIP, n.Capacity)
		for _, name := range slices.Sorted(maps.Keys(n.Uplinks)) {
			if n.Uplinks[name].Proven {
				out += "," + name
			}
		}
	}
	return out
}

// look places everything that has no place and can have one now.
func (p *Placer) look(ctx context.Context) {
	if !slices.ContainsFunc(p.fleet.Nodes(), func(n scheduler.Node) bool { return n.Alive && n.Network }) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := errors.Join(p.dhcp(ctx), p.routers(ctx)); err != nil && ctx.Err() == nil {
		p.log.Warn("placing failed, trying again later", "error", err)
	}
}

func (p *Placer) change(v *record.View) *placing.Change {
	return &placing.Change{
		View: v, Alloc: &alloc.Allocator{View: v}, Txn: &txn.Txn{}, Now: timestamppb.Now(), Nodes: p.fleet.Nodes,
		Pools: func() placing.Pools { return p.fleet.PoolSettings() },
	}
}

func (p *Placer) dhcp(ctx context.Context) error {
	networks, err := record.Networks().All(ctx, record.NewView(p.store), p.log)
	if err != nil {
		return err
	}
	var errs []error
	nodes, pools := p.fleet.Nodes(), placing.Pools(p.fleet.PoolSettings())
	for _, n := range networks {
		if n.Msg.GetDhcpPlacement() == nil || len(n.Msg.GetDhcpPlacement().GetNodes()) > 0 {
			continue
		}
		if _, err := scheduler.Place(placing.DHCPRequest(n.Msg, nil, pools), nodes); err != nil {
			continue // its placement says why
		}
		_, err := p.store.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) { return p.placeDHCP(ctx, n.Msg.GetId()) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// placeDHCP builds the transaction that places one network's DHCP; nil when there is nothing to do or no place yet.
func (p *Placer) placeDHCP(ctx context.Context, id string) (*txn.Txn, error) {
	v := record.NewView(p.store)
	net, err := record.Networks().At(ctx, v, "", id)
	if err != nil {
		return nil, gone(err)
	}
	if net.Msg.GetDhcpPlacement() == nil || len(net.Msg.GetDhcpPlacement().GetNodes()) > 0 {
		return nil, nil //nolint:nilnil // nothing to do
	}
	c := p.change(v)
	_, changed, err := c.ReplanDHCP(ctx, net, placing.Replan{}, p.log)
	if err != nil || !changed {
		return nil, err
	}
	p.log.Info("placing DHCP", "network", id)
	return c.Txn, nil
}

func (p *Placer) routers(ctx context.Context) error {
	routers, err := record.Routers().All(ctx, record.NewView(p.store), p.log)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range routers {
		if r.Msg.GetPlacement() == nil || len(r.Msg.GetPlacement().GetNodes()) > 0 {
			continue
		}
		_, err := p.store.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) { return p.placeRouter(ctx, r.Msg.GetId()) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *Placer) placeRouter(ctx context.Context, id string) (*txn.Txn, error) {
	v := record.NewView(p.store)
	before, err := record.Routers().At(ctx, v, "", id)
	if err != nil {
		return nil, gone(err)
	}
	if before.Msg.GetPlacement() == nil || len(before.Msg.GetPlacement().GetNodes()) > 0 {
		return nil, nil //nolint:nilnil // nothing to do
	}
	c := p.change(v)
	plan, changed, err := c.ReplanRouter(ctx, before, placing.Replan{})
	if err != nil || !changed {
		return nil, err
	}
	p.log.Info("placing a router", "router", id, "nodes", plan.Nodes)
	return c.Txn, nil
}

// gone makes nothing of the absence of an object that was there a moment ago.
func gone(err error) error {
	if fault.IsNotFound(err) {
		return nil
	}
	return err
}
