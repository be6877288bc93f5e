package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// fault is something that happens to a network node that forwards, and how it is mended.
type fault struct {
	id, name string
	strike   func(ctx context.Context, b *bench, h *lab.Host) error
	mend     func(ctx context.Context, b *bench, h *lab.Host) error
}

func faults() []fault {
	return []fault{
		{
			"power", "network node powered off",
			func(ctx context.Context, _ *bench, h *lab.Host) error { return h.PowerOff(ctx) },
			func(ctx context.Context, _ *bench, h *lab.Host) error { return h.PowerOn(ctx) },
		},
		{
			"vswitchd", "its ovs-vswitchd killed",
			func(ctx context.Context, _ *bench, h *lab.Host) error { return h.Kill(ctx, lab.VSwitchDaemon) },
			func(ctx context.Context, _ *bench, h *lab.Host) error { return h.Start(ctx, lab.VSwitchDaemon) },
		},
		{
			"uplink", "its uplink cut (link down)",
			func(_ context.Context, _ *bench, h *lab.Host) error { return h.CutCarrier("ext1") },
			func(_ context.Context, _ *bench, h *lab.Host) error { return h.Heal("ext1") },
		},
		{
			"underlay", "its underlay cut (frames lost, link up)",
			func(_ context.Context, _ *bench, h *lab.Host) error { return h.Cut(lab.Underlay) },
			func(_ context.Context, _ *bench, h *lab.Host) error { return h.Heal(lab.Underlay) },
		},
	}
}

// failovers measure what each fault of a node with all of the pool's routers costs.
func failovers() []measurement {
	var out []measurement
	for _, f := range faults() {
		out = append(out, measurement{f.name, f.measure, f.figures()})
	}
	return append(out, measurement{"network node returns", measureReturn, []figure{
		{
			ID: "failover-return-lost", Name: "network node returns: lost", Unit: "packets", Zero: true,
			Between: "a network node that was powered off without a router of its own is powered on -> it is alive and its standbys are ready, and 1 s more; echoes not answered, of pings as in failover-power-worst",
		},
		{ID: "failover-return-moved", Name: "same: routers that moved", Unit: "routers", Zero: true, Between: "the same time"},
	}})
}

func (f fault) figures() []figure {
	const what = "50 routers that are active on the node; 100 Hz pings, one flow each, on 10 of them: the longest time without an answer"
	id, same := "failover-"+f.id, "same: "
	return []figure{
		{ID: id + "-out", Name: f.name + ": outage out through SNAT, median router", Unit: "ms", Reach: 350, Between: what + ", from the VMs to the outside host; a sample is the median of a round"},
		{ID: id + "-in", Name: same + "outage of floating IPs, median router", Unit: "ms", Reach: 350, Between: what + ", from the outside host to the floating IPs"},
		{ID: id + "-worst", Name: same + "worst of 50 routers, both ways", Unit: "ms", Reach: 600, Every: true, Between: "the same pings, and 20 Hz pings to the floating IPs of the other 47; the longest of all in a round"},
		{ID: id + "-taken", Name: same + "until the store names the new node, median of 50", Unit: "ms", Between: "the fault is begun -> a watch of the store shows the router's new node"},
		{ID: id + "-taken-last", Name: same + "of the last router", Unit: "ms", Between: "the same, of the last of the 50"},
		{ID: id + "-tcp", Name: same + "gap of TCP out through SNAT and in to floating IPs", Unit: "ms", Reach: 800, Every: true, Between: "64 octets every 10 ms and their echo, two connections on each of 5 routers: the longest time without an octet received"},
		{ID: id + "-download", Name: same + "gap of a download by a silent client", Unit: "ms", Reach: 800, Every: true, Between: "1,000 octets every 10 ms from the outside host to a VM that sends acknowledgements only, on each of 5 routers"},
		{ID: id + "-broken", Name: same + "connections broken", Unit: "of 15", Zero: true, Between: "those connections that ended, or did not go on within 10 s"},
		{ID: id + "-double", Name: same + "routers that two nodes spoke for", Unit: "routers", Zero: true, Between: "a capture on the external network: a frame of the router's MAC, or an ARP reply for its floating IP, from a node after the first of another"},
		{ID: id + "-others", Name: same + "lost on routers of other nodes", Unit: "packets", Between: "echoes not answered, on routers that were not active on the node, if any"},
	}
}

// rounds is how often something that takes a quarter of a minute is done.
func (b *bench) rounds() int { return min(b.n, 3) }

func (f fault) measure(ctx context.Context, b *bench, got samples) error {
	for i := range b.rounds() {
		node := networkNodes()[i%len(networkNodes())]
		if err := f.round(ctx, b, node, got); err != nil {
			return fmt.Errorf("round %d, %s: %w", i+1, node, err)
		}
	}
	return nil
}

func (f fault) round(ctx context.Context, b *bench, node string, got samples) error {
	hit, err := b.loadNode(ctx, node)
	if err != nil {
		return err
	}
	h, err := b.lab.Host(node)
	if err != nil {
		return err
	}
	t, err := b.start(ctx, hit)
	if err != nil {
		return err
	}
	began := time.Now()
	struck := f.strike(ctx, b, h)
	if struck == nil {
		struck = t.recovered(ctx, hit)
	}
	l, err := t.stop()
	if struck != nil || err != nil {
		f.report(b.out, l, hit)
		return errors.Join(struck, err)
	}
	f.account(got, l, hit, began)
	f.report(b.out, l, hit)
	if err := f.mend(ctx, b, h); err != nil {
		return err
	}
	return b.whole(ctx)
}

// atRest is how long a pool is left alone before something is done to it: moving fifty routers keeps the machine so busy that
// nodes seem lost for moments, after which they are taken over from later (agent/ha, Config.Calm).
const atRest = 11 * time.Second

func rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(atRest):
		return nil
	}
}

// loadNode has a node forward for all routers, and returns them. On a machine that is too busy for BFD, routers may leave
// the node again at once; then those that are left are returned.
func (b *bench) loadNode(ctx context.Context, node string) ([]*way, error) {
	if err := b.gather(ctx, node); err != nil {
		return nil, err
	}
	if err := rest(ctx); err != nil {
		return nil, err
	}
	if err := b.calm(ctx); err != nil {
		return nil, err
	}
	held, err := b.held(ctx, node)
	if err == nil && len(held) < sampled {
		err = fmt.Errorf("of all routers only %d are still on %s: the machine is too busy", len(held), node)
	}
	return held, err
}

// whole waits until all nodes are alive and every router is as it should be.
func (b *bench) whole(ctx context.Context) error {
	nodes, err := b.nodes()
	if err != nil {
		return err
	}
	if err := b.nodesAlive(ctx, len(nodes)); err != nil {
		return err
	}
	return b.ready(ctx)
}

// recovered waits until the routers carry again, their connections too if they ever will, and a second more.
func (t *traffic) recovered(ctx context.Context, hit []*way) error {
	if err := t.heard(ctx, hit); err != nil {
		return err
	}
	before := map[*talking]int{}
	for _, c := range t.talks {
		before[c] = c.Snapshot().Octets
	}
	// What has not gone on by the end of the wait is counted as broken.
	_ = within(ctx, connectionsTime, "the connections go on", func() (bool, error) {
		t.stuck = slices.DeleteFunc(slices.Clone(t.talks), func(c *talking) bool { return c.Snapshot().Octets > before[c] })
		return len(t.stuck) == 0, nil
	})
	return settle(ctx)
}

// connectionsTime is how long a connection may take to go on.
const connectionsTime = 10 * time.Second

func (f fault) account(got samples, l lost, hit []*way, began time.Time) {
	id := "failover-" + f.id
	got.add(id+"-out", median(l.outages(l.out, hit)))
	got.add(id+"-in", median(l.outages(l.in, l.sample)))
	got.add(id+"-worst", slices.Max(slices.Concat(l.outages(l.out, hit), l.outages(l.in, hit))))
	var taken []float64
	for _, w := range hit {
		if at, ok := l.taken[w.router.GetId()]; ok {
			taken = append(taken, milliseconds(at.Sub(began)))
		}
	}
	if len(taken) > 0 {
		got.add(id+"-taken", median(taken))
		got.add(id+"-taken-last", slices.Max(taken))
	}
	got.add(id+"-tcp", l.gap("out", "in"))
	got.add(id+"-download", l.gap("download"))
	got.add(id+"-broken", float64(len(l.broken())))
	got.add(id+"-double", float64(len(l.overlaps)))
	got.add(id+"-others", float64(l.packets(hit)))
}

// report prints what a figure alone does not show.
func (f fault) report(out io.Writer, l lost, hit []*way) {
	fmt.Fprintf(out, "   %s: %d routers hit", f.name, len(hit))
	for _, d := range []struct {
		name string
		of   []float64
	}{{"out", l.outages(l.out, hit)}, {"in", l.outages(l.in, hit)}} {
		if len(d.of) > 0 {
			fmt.Fprintf(out, ", %s %s-%s-%s ms", d.name, number(slices.Min(d.of)), number(median(d.of)), number(slices.Max(d.of)))
		}
	}
	fmt.Fprintln(out)
	for _, line := range slices.Concat(l.overlaps, l.broken()) {
		fmt.Fprintf(out, "   %s\n", line)
	}
}

// measureReturn has a node without active routers come back.
func measureReturn(ctx context.Context, b *bench, got samples) error {
	for i := range b.rounds() {
		node := networkNodes()[i%len(networkNodes())]
		other := networkNodes()[(i+1)%len(networkNodes())]
		if err := b.gather(ctx, other); err != nil {
			return err
		}
		h, err := b.lab.Host(node)
		if err != nil {
			return err
		}
		if err := h.PowerOff(ctx); err != nil {
			return err
		}
		if err := b.unscathed(ctx, got, "failover-return", func() error {
			if err := h.PowerOn(ctx); err != nil {
				return err
			}
			return b.whole(ctx)
		}); err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	return nil
}

// unscathed does something that should cost nothing, under traffic, and adds figures <id>-lost and <id>-moved.
func (b *bench) unscathed(ctx context.Context, got samples, id string, do func() error) error {
	before, err := b.holders(ctx)
	if err != nil {
		return err
	}
	if err := b.calm(ctx); err != nil {
		return err
	}
	t, err := b.start(ctx, b.pool.ways)
	if err != nil {
		return err
	}
	done := do()
	if done == nil {
		done = settle(ctx)
	}
	l, err := t.stop()
	for w, s := range l.out {
		if s.Lost()+l.in[w].Lost() > 0 {
			fmt.Fprintf(b.out, "   router %s: out %v; in %v\n", w.router.GetName(), s, l.in[w])
		}
	}
	for _, line := range slices.Concat(l.overlaps, l.broken()) {
		fmt.Fprintf(b.out, "   %s\n", line)
	}
	if done != nil || err != nil {
		return errors.Join(done, err)
	}
	got.add(id+"-lost", float64(l.packets(nil)))
	after, err := b.holders(ctx)
	if err != nil {
		return err
	}
	moved := 0
	for id, node := range after {
		if before[id] != node {
			moved++
		}
	}
	got.add(id+"-moved", float64(moved))
	return nil
}
