package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func scale() []measurement {
	return []measurement{{"one more port", measureOneMore, []figure{
		{
			ID: "one-more-10", Name: "one more port, 10 in the fleet", Unit: "ms",
			Between: "as create-plug, with 10 ports in the fleet",
		},
		{
			ID: "one-more-spread", Name: "one more port, 10,000 in the fleet", Unit: "ms",
			Between: "as create-plug, with 10,000 ports more, in 50 other networks, bound in turn to the four nodes (not plugged)",
		},
		{
			ID: "one-more-same", Name: "one more port, 10,000 in its own network", Unit: "ms",
			Between: "as create-plug, with another 10,000 ports in the measured network itself, bound in turn to the four nodes (not plugged)",
		},
		{ID: "one-more-ratio", Name: "one more port: 10,000 in the fleet against 10", Unit: "times", Reach: 1.2, Between: "the ratio of the medians"},
		{ID: "one-more-ratio-same", Name: "one more port: 10,000 in its network against 10 in the fleet", Unit: "times", Reach: 1.2, Between: "the ratio of the medians"},
	}}}
}

func measureOneMore(ctx context.Context, b *bench, got samples) error {
	const few, many, networks = 10, 10000, 50
	nodes := []string{"cmp1", "cmp2", "net1", "net2"}
	s, asker, err := b.pair(ctx, "10.12.0.0/16")
	if err != nil {
		return err
	}
	boundIn := func(of func(i int) segment) func(i int) *weftv1.Port {
		return func(i int) *weftv1.Port {
			return &weftv1.Port{NetworkId: of(i).network.GetId(), Host: nodes[i%len(nodes)]}
		}
	}
	if _, err := b.createPorts(ctx, few, boundIn(func(int) segment { return s })); err != nil {
		return err
	}
	if err := b.createAndPlug(ctx, s, asker, b.n, got, "one-more-10"); err != nil {
		return err
	}
	others, err := b.segments(ctx, networks, "10.0.0.0/16", true)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		id, ratio string
		of        func(i int) segment
	}{
		{"one-more-spread", "one-more-ratio", func(i int) segment { return others[i/len(nodes)%networks] }},
		{"one-more-same", "one-more-ratio-same", func(int) segment { return s }},
	} {
		if _, err := b.createPorts(ctx, many, boundIn(step.of)); err != nil {
			return err
		}
		if err := b.settled(ctx); err != nil {
			return err
		}
		if err := b.createAndPlug(ctx, s, asker, b.n, got, step.id); err != nil {
			return err
		}
		got.add(step.ratio, median(got[step.id])/median(got["one-more-10"]))
	}
	b.keep = true // deleting them would take longer than taking the lab down
	return nil
}

// settled waits until the agents, Open vSwitch and the controllers have nothing left to do: until they have used less than
// a twentieth of a processor for half a second, and twice that for every network node, whose Open vSwitch never rests: it
// sends and expects BFD's messages.
func (b *bench) settled(ctx context.Context) error {
	const distance = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	nodes, err := b.nodes()
	if err != nil {
		return err
	}
	idle := distance / 20
	for _, n := range nodes {
		if n.Kind == lab.Network {
			idle += distance / 10
		}
	}
	last, err := b.processorTime()
	for err == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the fleet does not settle: %w", ctx.Err())
		case <-time.After(distance):
		}
		var now time.Duration
		if now, err = b.processorTime(); now-last < idle {
			return err
		}
		last = now
	}
	return err
}

// processorTime is what the fleet's daemons have used so far, but for those of hosts that are off.
func (b *bench) processorTime() (time.Duration, error) {
	hosts, err := b.lab.Hosts()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, info := range hosts {
		daemons := []lab.Daemon{lab.AgentDaemon, lab.VSwitchDaemon}
		if !info.Node() {
			daemons = []lab.Daemon{lab.ControllerDaemon}
		}
		used, err := b.used(info, daemons)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (b *bench) used(info lab.HostInfo, daemons []lab.Daemon) (time.Duration, error) {
	if !info.On() || !info.Alive() {
		return 0, nil
	}
	h, err := b.lab.Host(info.Name)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, d := range daemons {
		running, err := h.Processes(d)
		if err != nil {
			return 0, err
		}
		for _, p := range running {
			used, err := processorTimeOf(p.PID)
			if err != nil {
				return 0, err
			}
			sum += used
		}
	}
	return sum, nil
}

// processorTimeOf reads utime and stime of proc(5)'s stat, in ticks of 10 ms.
func processorTimeOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q has too few fields", pid, text)
	}
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
