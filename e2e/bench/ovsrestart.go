package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// switchShape is the lab of the figures of a restarted Open vSwitch.
func switchShape(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 }

// sampleEvery is the distance of two echoes to one of a hundred ports.
const sampleEvery = 20 * time.Millisecond

func switchRestarts() []measurement {
	const pings = "50 Hz pings from a VM on the other compute node to each of the 100 ports, of one flow each: the longest time without an answer"
	var out []measurement
	for _, r := range []struct {
		id, name, how string
		restart       func(context.Context, *lab.Host) error
	}{
		{"ovs-killed", "ovs-vswitchd killed (SIGKILL) and started on a compute with 100 ports", "SIGKILL, and at its end ovs-vswitchd is started", func(ctx context.Context, h *lab.Host) error {
			return errors.Join(h.Kill(ctx, lab.VSwitchDaemon), h.Start(ctx, lab.VSwitchDaemon))
		}},
		{"ovs-restarted", "`ovs-ctl restart` on a compute with 100 ports", "`ovs-ctl restart`, as Debian's package does at an upgrade", func(ctx context.Context, h *lab.Host) error { return h.RestartOVS(ctx) }},
	} {
		out = append(out, measurement{r.name, measureSwitch(r.id, r.restart), []figure{
			{ID: r.id, Name: r.name + ": outage, median of the ports", Unit: "ms", Between: r.how + "; " + pings},
			{ID: r.id + "-worst", Name: "same: of the worst port", Unit: "ms", Reach: 300, Every: true, Between: "the same pings"},
			{ID: r.id + "-ovs", Name: "same: of it, until Open vSwitch runs again", Unit: "ms", Between: r.how + ": the signal or the command is given -> ovs-vswitchd has configured its ports; what no control plane can save"},
			{ID: r.id + "-stuck", Name: "same: ports that stay silent", Unit: "ports", Zero: true, Between: "ports that do not answer 30 s after"},
		}})
	}
	return out
}

func measureSwitch(id string, restart func(context.Context, *lab.Host) error) func(context.Context, *bench, samples) error {
	return func(ctx context.Context, b *bench, got samples) error {
		s, err := b.segment(ctx, "10.40.0.0/16", true)
		if err != nil {
			return err
		}
		asker, err := b.plugged(ctx, s, "cmp2")
		if err != nil {
			return err
		}
		guests, err := b.guests(ctx, s, "cmp1", manyPorts, false)
		if err != nil {
			return err
		}
		if err := b.reach(ctx, weftv1.State_STATE_ACTIVE, guests, func() error { return b.lab.Plug(ctx, vmsOf(guests)...) }); err != nil {
			return err
		}
		var addresses []netip.Addr
		for _, g := range guests {
			addresses = append(addresses, g.address)
		}
		h, err := b.lab.Host("cmp1")
		if err != nil {
			return err
		}
		for i := range b.few() {
			if err := b.switchRound(ctx, got, id, asker, addresses, func() error { return restart(ctx, h) }); err != nil {
				return fmt.Errorf("round %d: %w", i+1, err)
			}
		}
		return nil
	}
}

func (b *bench) switchRound(ctx context.Context, got samples, id string, asker guest, addresses []netip.Addr, restart func() error) error {
	if err := sweep(ctx, asker.Space, addresses); err != nil {
		return err
	}
	if err := b.calm(ctx); err != nil {
		return err
	}
	fan, err := asker.StartFan(ctx, echo.FanOptions{Destinations: addresses, Interval: sampleEvery})
	if err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	began := stopwatch()
	restarted := restart()
	got.took(id+"-ovs", began())
	before := fan.Snapshot()
	stuck := until(ctx, "all ports answer", func() (bool, error) {
		now, silent := fan.Snapshot(), 0
		for _, a := range addresses {
			if now[a].Received <= before[a].Received {
				silent++
			}
		}
		return silent == 0, fmt.Errorf("%d are silent", silent)
	})
	settled := settle(ctx)
	stats := fan.Stop()
	if err := errors.Join(restarted, settled); err != nil {
		return err
	}
	account(b.out, got, id, stats, before, stuck)
	return nil
}

func account(out io.Writer, got samples, id string, stats, before map[netip.Addr]echo.Stats, stuck error) {
	var outages []float64
	silent := 0
	for a, s := range stats {
		outages = append(outages, milliseconds(s.Outage(sampleEvery)))
		if s.Received <= before[a].Received {
			silent++
		}
	}
	if stuck != nil {
		fmt.Fprintf(out, "   %v\n", stuck)
	}
	got.add(id, median(outages))
	got.add(id+"-worst", slices.Max(outages))
	got.add(id+"-stuck", float64(silent))
}
