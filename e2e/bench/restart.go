package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func restarts() []measurement {
	const paths = "100 Hz pings, each a flow of its own: to a VM of the node, through a router of it to the outside, and from outside to a floating IP of it"
	return []measurement{{"agent restart", measureRestart, []figure{
		{
			ID: "restart-sync", Name: "agent restart with 100 ports and 20 routers: in sync", Unit: "ms", Reach: 500,
			Between: "the process of an agent that was killed (SIGKILL) is started again -> the API says ACTIVE of a port that was plugged while it was down",
		},
		{ID: "restart-lost", Name: "same: packets lost", Unit: "packets", Zero: true, Between: "a second restart, with nothing to do: from before the kill until 1 s after the agent has a complete view; " + paths},
		{
			ID: "restart-writes", Name: "same: writes to the host", Unit: "writes", Zero: true,
			Between: "a second restart, with nothing to do: flows that are gone, new or younger than the restart, and rows of OVSDB's tables Port and Bridge that are gone, new or have a new _version",
		},
		{
			ID: "agent-rss", Name: "memory: agent with 100 ports, resident", Unit: "MB", Reach: 50,
			Between: "Rss of /proc/<pid>/smaps_rollup of weft-agent on the network node, with 100 ports plugged and 20 routers, before the first restart and after each",
		},
		{ID: "agent-pss", Name: "same, proportional share (PSS)", Unit: "MB", Reach: 50, Between: "Pss at the same moments"},
	}}}
}

// restarted is the node whose agent is restarted, and how many routers it has then.
const (
	restarted      = "net1"
	restartRouters = 20
)

// loaded is a node with work: ports, routers, and paths through it.
type loaded struct {
	segment
	host    *lab.Host
	outside *lab.External
	// asker is a VM on another node whose router is on this one.
	asker guest
	// local is a VM on this node.
	local guest
	// floating leads to asker.
	floating *weftv1.FloatingIp
}

func measureRestart(ctx context.Context, b *bench, got samples) error {
	n, err := b.load(ctx)
	if err != nil {
		return err
	}
	if err := b.memory(restarted, lab.AgentDaemon, got, "agent-rss", "agent-pss"); err != nil {
		return err
	}
	for range b.few() {
		if err := b.restart(ctx, n, got); err != nil {
			return err
		}
		if err := b.memory(restarted, lab.AgentDaemon, got, "agent-rss", "agent-pss"); err != nil {
			return err
		}
	}
	return nil
}

// load gives the node its work.
func (b *bench) load(ctx context.Context) (*loaded, error) {
	n := &loaded{}
	var err error
	if n.outside, err = b.outside(ctx); err != nil {
		return nil, err
	}
	if n.host, err = b.lab.Host(restarted); err != nil {
		return nil, err
	}
	if err := b.routers(ctx, n); err != nil {
		return nil, err
	}
	if n.asker, err = b.plugged(ctx, n.segment, "cmp1"); err != nil {
		return nil, err
	}
	guests, err := b.guests(ctx, n.segment, restarted, manyPorts, false)
	if err != nil {
		return nil, err
	}
	err = b.reach(ctx, weftv1.State_STATE_ACTIVE, guests, func() error { return b.lab.Plug(ctx, vmsOf(guests)...) })
	if err != nil {
		return nil, err
	}
	n.local = guests[0]
	if n.floating, _, err = b.floatingIP(ctx); err != nil {
		return nil, err
	}
	if err := b.associate(ctx, n.floating, n.asker.port.GetId()); err != nil {
		return nil, err
	}
	if err := b.routed(ctx, n.asker, n.outside); err != nil {
		return nil, err
	}
	return n, b.settled(ctx)
}

// routers makes routers until the node has its number, and keeps a network behind one of them.
func (b *bench) routers(ctx context.Context, n *loaded) error {
	var here []*weftv1.Router
	for i := 0; len(here) < restartRouters; i++ {
		s, err := b.segment(ctx, fmt.Sprintf("10.20.%d.0/24", i), i == 0)
		if err != nil {
			return err
		}
		r, err := b.routerOf(ctx, &weftv1.Router{Name: b.name("router"), Ha: 1}, s)
		if err != nil {
			return err
		}
		if slices.Equal(r.GetPlacement().GetNodes(), []string{restarted}) {
			here = append(here, r)
			n.segment = s
		}
		if i > 4*restartRouters {
			return fmt.Errorf("of %d routers only %d are placed on %s", i, len(here), restarted)
		}
	}
	return until(ctx, "all routers are ACTIVE", func() (bool, error) {
		got, err := b.ListRouters(ctx, &weftv1.ListRoutersRequest{})
		return err == nil && !slices.ContainsFunc(got.GetRouters(), func(r *weftv1.Router) bool {
			return r.GetStatus().GetState() != weftv1.State_STATE_ACTIVE
		}), err
	})
}

// restart restarts the agent twice: once while a VM is plugged, and once with nothing to do, under traffic. The traffic is
// not there the first time: the userspace datapath may lose a packet to the new port, weft or no weft (docs/failure.md).
func (b *bench) restart(ctx context.Context, n *loaded, got samples) error {
	if err := b.restartBehind(ctx, n, got); err != nil {
		return err
	}
	runs, err := n.pings(ctx)
	if err != nil {
		return err
	}
	if err := b.restartIdle(ctx, n, got); err != nil {
		return err
	}
	lost := 0
	for i, run := range runs {
		stats := run.Stop()
		lost += stats.Lost()
		if stats.Lost() > 0 {
			fmt.Fprintf(b.out, "   lost on path %d of 3: %s\n", i+1, stats)
		}
	}
	got.add("restart-lost", float64(lost))
	return nil
}

// restartBehind plugs a VM while the agent is down.
func (b *bench) restartBehind(ctx context.Context, n *loaded, got samples) error {
	late, err := b.guest(ctx, n.segment, restarted)
	if err != nil {
		return err
	}
	if err := n.host.Kill(ctx, lab.AgentDaemon); err != nil {
		return err
	}
	if err := b.lab.Plug(ctx, late.VM); err != nil {
		return err
	}
	took, err := b.timeToReach(ctx, weftv1.State_STATE_ACTIVE, []guest{late}, func() error { return n.host.Start(ctx, lab.AgentDaemon) })
	if err != nil {
		return err
	}
	got.took("restart-sync", took)
	return settle(ctx)
}

// settle waits while an agent does what may be left to do; the fleet is never idle under traffic.
func settle(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
		return nil
	}
}

// restartIdle restarts the agent when nothing has changed, and counts what it writes all the same.
func (b *bench) restartIdle(ctx context.Context, n *loaded, got samples) error {
	last, err := b.startTime(ctx)
	if err != nil {
		return err
	}
	before, err := look(ctx, n.host)
	if err != nil {
		return err
	}
	if err := n.host.Kill(ctx, lab.AgentDaemon); err != nil {
		return err
	}
	if err := n.host.Start(ctx, lab.AgentDaemon); err != nil {
		return err
	}
	if err := until(ctx, "the new agent describes itself", func() (bool, error) {
		now, err := b.startTime(ctx)
		return err == nil && now.After(last), err
	}); err != nil {
		return err
	}
	if err := settle(ctx); err != nil {
		return err
	}
	after, err := look(ctx, n.host)
	if err != nil {
		return err
	}
	written := before.written(after)
	got.add("restart-writes", float64(len(written)))
	for _, w := range written {
		fmt.Fprintf(b.out, "   written by the restarted agent: %s\n", strings.TrimSpace(w))
	}
	return nil
}

// startTime is when the restarted node's agent began, as the API has it.
func (b *bench) startTime(ctx context.Context) (time.Time, error) {
	n, err := b.GetNode(ctx, &weftv1.GetNodeRequest{Id: restarted})
	return n.GetStartTime().AsTime(), err
}

// pings begins to ping along all paths, and returns when each has been answered.
func (n *loaded) pings(ctx context.Context) ([]*echo.Run, error) {
	floating, err := addressOf(n.floating)
	if err != nil {
		return nil, err
	}
	var runs []*echo.Run
	for _, path := range []struct {
		from lab.Space
		o    echo.Options
	}{
		{n.asker.Space, echo.Options{Destination: n.local.address}},
		{n.asker.Space, echo.Options{Destination: n.outside.Address().Addr()}},
		{n.outside.Space, echo.Options{Destination: floating}},
	} {
		// The first packets of a path may be lost to ARP, and are not what is measured.
		waiting, cancel := context.WithTimeout(ctx, patience)
		_, err := path.from.AwaitPing(waiting, path.o.Destination)
		cancel()
		if err != nil {
			return nil, err
		}
		path.o.Interval, path.o.Identity = probeEvery, echo.NewFlows
		run, err := path.from.StartPing(ctx, path.o)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// aspect is what a host has at a moment that an agent might write.
type aspect struct {
	at time.Time
	// flows have their age, by their text without counters.
	flows map[string]time.Duration
	// rows have their version, by table and name.
	rows map[string]string
}

// The parts of ovs-ofctl's dump-flows that change by themselves.
var (
	flowAge      = regexp.MustCompile(`duration=([0-9.]+s), `)
	flowCounters = regexp.MustCompile(`(duration|n_packets|n_bytes|idle_age|hard_age)=[^ ]* `)
)

func look(ctx context.Context, h *lab.Host) (aspect, error) {
	a := aspect{at: time.Now(), flows: map[string]time.Duration{}, rows: map[string]string{}}
	for _, bridge := range []string{"br-int", "br-tun", "br-tenant", "br-ext1"} {
		out, err := h.Exec(ctx, "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", bridge)
		if err != nil {
			return a, err
		}
		for line := range strings.Lines(out) {
			m := flowAge.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			age, err := time.ParseDuration(m[1])
			if err != nil {
				return a, fmt.Errorf("flow %q: %w", line, err)
			}
			a.flows[bridge+" "+flowCounters.ReplaceAllString(line, "")] = age
		}
	}
	return a, a.readRows(ctx, h)
}

// readRows reads the names and versions of OVSDB's rows (RFC 7047, 5.2.2). Table Interface is left out: ovs-vswitchd writes
// its statistics there.
func (a *aspect) readRows(ctx context.Context, h *lab.Host) error {
	for _, table := range []string{"Port", "Bridge"} {
		query := fmt.Sprintf(`["Open_vSwitch",{"op":"select","table":%q,"where":[],"columns":["name","_version"]}]`, table)
		out, err := h.Exec(ctx, "ovsdb-client", "query", query)
		if err != nil {
			return err
		}
		rows, err := parseRows(out)
		if err != nil {
			return fmt.Errorf("OVSDB table %s: %w", table, err)
		}
		for name, version := range rows {
			a.rows[table+" "+name] = version
		}
	}
	return nil
}

// written lists what has been written between two looks: flows that are gone, new or younger than the first look, and
// rows that are gone, new or have another version.
func (a aspect) written(b aspect) []string {
	var out []string
	for flow := range a.flows {
		if _, ok := b.flows[flow]; !ok {
			out = append(out, flow)
		}
	}
	for flow, age := range b.flows {
		if age < b.at.Sub(a.at) {
			out = append(out, flow)
		}
	}
	for row, version := range b.rows {
		if a.rows[row] != version {
			out = append(out, row)
		}
	}
	for row := range a.rows {
		if _, ok := b.rows[row]; !ok {
			out = append(out, row)
		}
	}
	return out
}
