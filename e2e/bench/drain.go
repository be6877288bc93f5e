package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func drains() []measurement {
	const pings = "50 routers, all active on the node; pings of one flow each, at 100 Hz both ways on 3 of them and at 20 Hz to the floating IPs of the others, from before the drain until 1 s after it"
	return []measurement{{"drain", measureDrain, []figure{
		{ID: "drain-worst", Name: "drain of a node with 50 routers: lost on the worst router", Unit: "ms", Reach: 50, Every: true, Between: pings + ": echoes not answered on one router in one direction, times their distance"},
		{ID: "drain-outage", Name: "same: longest silence of any router", Unit: "ms", Between: "the same pings: the longest time without an answer"},
		{ID: "drain-lost", Name: "same: lost in all", Unit: "packets", Between: "the same pings: echoes not answered"},
		{ID: "drain-broken", Name: "same: connections broken", Unit: "of 15", Zero: true, Between: "TCP connections through 5 routers, as failover-power-broken"},
		{ID: "drain-gap", Name: "same: longest gap of a connection", Unit: "ms", Between: "the longest time without an octet received, of all 15"},
		{ID: "drain-double", Name: "same: routers that two nodes spoke for", Unit: "routers", Zero: true, Between: "as failover-power-double"},
		{ID: "drain-time", Name: "same: until the node holds no active router", Unit: "s", Between: "UpdateNode sets draining -> the API lists no router of the node as active"},
	}}}
}

func measureDrain(ctx context.Context, b *bench, got samples) error {
	for i := range b.rounds() {
		if err := b.drainRound(ctx, networkNodes()[i%len(networkNodes())], got); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	return nil
}

func (b *bench) drainRound(ctx context.Context, node string, got samples) (err error) {
	if _, err := b.loadNode(ctx, node); err != nil {
		return err
	}
	t, err := b.start(ctx, b.pool.ways)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.setDraining(context.WithoutCancel(ctx), node, false)) }()
	took, drained := b.drain(ctx, node)
	if drained == nil {
		drained = t.recovered(ctx, b.pool.ways)
	}
	l, err := t.stop()
	for _, line := range slices.Concat(l.overlaps, l.broken()) {
		fmt.Fprintf(b.out, "   %s\n", line)
	}
	if drained != nil || err != nil {
		return errors.Join(drained, err)
	}
	ways := b.pool.ways
	got.add("drain-worst", l.worst())
	got.add("drain-outage", slices.Max(slices.Concat(l.outages(l.out, ways), l.outages(l.in, ways))))
	got.add("drain-lost", float64(l.packets(nil)))
	got.add("drain-broken", float64(len(l.broken())))
	got.add("drain-gap", l.gap("out", "in", "download"))
	got.add("drain-double", float64(len(l.overlaps)))
	got.add("drain-time", took.Seconds())
	return nil
}

// drain sets a node draining and returns how long it took until it held no active router.
func (b *bench) drain(ctx context.Context, node string) (time.Duration, error) {
	began := stopwatch()
	if err := b.setDraining(ctx, node, true); err != nil {
		return 0, err
	}
	err := until(ctx, node+" holds no active router", func() (bool, error) {
		held, err := b.held(ctx, node)
		return err == nil && len(held) == 0, errors.Join(err, fmt.Errorf("it holds %d", len(held)))
	})
	return began(), err
}

func (b *bench) setDraining(ctx context.Context, node string, draining bool) error {
	_, err := b.UpdateNode(ctx, &weftv1.UpdateNodeRequest{
		Node: &weftv1.Node{Id: node, Draining: draining}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"draining"}},
	})
	if err != nil {
		return fmt.Errorf("set draining of %s to %v: %w", node, draining, err)
	}
	return nil
}
