package faults

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// Load is what goes on in the API meanwhile.
type Load string

// The loads.
const (
	Idle Load = "idle"
	Busy Load = "20 changes/s"
)

// Case is one fault under one load.
type Case struct {
	ID     string // for --only: "agent-kill-holder-idle"
	What   string // breaks: "agent of the active network node"
	How    string // is done to it: "SIGKILL, started after 3 s"
	Load   Load
	Expect map[string]Bound // by flow; a flow that is not there has no bound
	begin  action
	end    action
	hold   time.Duration // between the two
	short  bool          // of the set that CI runs
}

// Bound is the most that a running ping may lose.
type Bound struct {
	Lost int // echoes in all; one every 10 ms
}

// action does something to a place of the world.
type action func(context.Context, *world) error

// The pings that run, by name.
const (
	East     = "same network, other node"
	Outbound = "outside, through SNAT"
	Floating = "to a floating IP"
)

// nothing lost.
func nothing() map[string]Bound { return map[string]Bound{East: {}, Outbound: {}, Floating: {}} }

// only the flows named are bounded, at nothing.
func only(flows ...string) map[string]Bound {
	out := map[string]Bound{}
	for _, f := range flows {
		out[f] = Bound{}
	}
	return out
}

// The places that faults happen at; the world knows which host each is.
const (
	holder     = "the network node that forwards"
	compute    = "a compute node"
	controller = "a controller"
	member     = "an etcd member"
	server     = "a node that serves DHCP"
)

// target is a daemon at a place, and what its loss may cost: to nobody, but where the dataplane itself is hit.
type target struct {
	daemon  lab.Daemon
	place   string
	unhurt  map[string]Bound // killed and started again
	held    map[string]Bound // for 20 s
	restart map[string]Bound
}

func targets() []target {
	return []target{
		{lab.AgentDaemon, holder, nothing(), nothing(), nothing()},
		{lab.AgentDaemon, compute, nothing(), nothing(), nothing()},
		{lab.ControllerDaemon, controller, nothing(), nothing(), nothing()},
		{lab.EtcdDaemon, member, nothing(), nothing(), nothing()},
		// Without its database ovs-vswitchd 3.1 does not turn its main loop, which carries the frames of the userspace datapath
		// (bridge_run returns while it does not hold the database's lock).
		{lab.OVSDBDaemon, holder, only(East), nothing(), only(East)},
		{lab.OVSDBDaemon, compute, nil, nothing(), nil},
		{lab.DnsmasqDaemon, server, nothing(), nothing(), nothing()},
		// Frames pass through ovs-vswitchd itself here (datapath_type netdev): what it carried stops with it.
		{lab.VSwitchDaemon, holder, only(East), only(East), only(East)},
		{lab.VSwitchDaemon, compute, nil, nil, nil},
	}
}

const (
	heldFor = 20 * time.Second
	downFor = 3 * time.Second
	cutFor  = 10 * time.Second
)

// Cases lists the whole matrix.
func Cases() []Case {
	var out []Case
	for _, load := range []Load{Idle, Busy} {
		for _, t := range targets() {
			out = append(out, daemonCases(t, load)...)
		}
		for _, link := range []string{lab.Management, lab.Underlay, lab.Tenant, "ext1"} {
			out = append(out, linkCases(link, load)...)
		}
		out = append(out, hostCases(load)...)
	}
	return out
}

func id(load Load, parts ...string) string {
	out := ""
	for _, p := range parts {
		out += p + "-"
	}
	if load == Busy {
		return out + "busy"
	}
	return out + "idle"
}

// short names places in ids.
func short(place string) string {
	return map[string]string{holder: "holder", compute: "compute", controller: "controller", member: "member", server: "server"}[place]
}

func daemonCases(t target, load Load) []Case {
	what := fmt.Sprintf("%s on %s", t.daemon, t.place)
	at := short(t.place)
	d := string(t.daemon)
	inCI := load == Busy && (t.daemon == lab.AgentDaemon || t.daemon == lab.ControllerDaemon)
	kill := Case{
		ID: id(load, d, "kill", at), What: what, How: "SIGKILL, started after 3 s", Load: load, Expect: t.unhurt, hold: downFor,
		begin: daemon(t, (*lab.Host).Kill), end: daemon(t, (*lab.Host).Start), short: inCI,
	}
	if t.daemon == lab.DnsmasqDaemon { // the agent starts it
		kill.How, kill.end = "SIGKILL", none
	}
	hold := Case{
		ID: id(load, d, "hold", at), What: what, How: "SIGSTOP for 20 s", Load: load, Expect: t.held, hold: heldFor,
		begin: daemon(t, (*lab.Host).Pause), end: resume(t),
	}
	restart := Case{
		ID: id(load, d, "restart", at), What: what, How: "restarted (SIGTERM, started)", Load: load, Expect: t.restart, end: none,
		begin: restart(t),
	}
	if t.daemon == lab.DnsmasqDaemon {
		restart.How = "SIGTERM"
	}
	return []Case{kill, hold, restart}
}

func none(context.Context, *world) error { return nil }

func daemon(t target, act func(*lab.Host, context.Context, lab.Daemon) error) action {
	return func(ctx context.Context, w *world) error {
		h, err := w.at(t.place)
		if err != nil {
			return err
		}
		return act(h, ctx, t.daemon)
	}
}

// resume lets a daemon go on, unless somebody has taken its place meanwhile.
func resume(t target) action {
	return func(ctx context.Context, w *world) error {
		h, err := w.at(t.place)
		if err != nil {
			return err
		}
		running, err := h.Processes(t.daemon)
		if err != nil || len(running) == 0 {
			return err
		}
		return h.Resume(ctx, t.daemon)
	}
}

func restart(t target) action {
	return func(ctx context.Context, w *world) error {
		h, err := w.at(t.place)
		if err != nil {
			return err
		}
		if err := h.Stop(ctx, t.daemon); err != nil || t.daemon == lab.DnsmasqDaemon {
			return err
		}
		return h.Start(ctx, t.daemon)
	}
}

// linkCases cut a network node's cable, and a compute node's where it has one.
func linkCases(link string, load Load) []Case {
	var out []Case
	for _, place := range []string{holder, compute} {
		if place == compute && link == "ext1" {
			continue
		}
		bound := nothing() // of a cable that carries none of the pings
		switch {
		case link == lab.Underlay && place == compute:
			bound = nil
		case link == lab.Underlay || link == "ext1":
			bound = only(East)
		}
		for _, v := range []struct {
			how, id string
			cut     func(*lab.Host, string) error
		}{{"cut in the fabric for 10 s", "cut", (*lab.Host).Cut}, {"without carrier for 10 s", "carrier", (*lab.Host).CutCarrier}} {
			out = append(out, Case{
				ID: id(load, link, v.id, short(place)), What: fmt.Sprintf("%s link of %s", link, place), How: v.how, Load: load, Expect: bound,
				begin: cable(place, link, v.cut), hold: cutFor, end: cable(place, link, (*lab.Host).Heal),
				short: link == lab.Management && place == holder && v.id == "cut" && load == Idle,
			})
		}
	}
	return out
}

func cable(place, link string, act func(*lab.Host, string) error) action {
	return func(_ context.Context, w *world) error {
		h, err := w.at(place)
		if err != nil {
			return err
		}
		return act(h, link)
	}
}

// hostCases concern a host as a whole.
func hostCases(load Load) []Case {
	host := func(place string, act func(*lab.Host, context.Context) error) action {
		return func(ctx context.Context, w *world) error {
			h, err := w.at(place)
			if err != nil {
				return err
			}
			return act(h, ctx)
		}
	}
	return []Case{
		{
			ID: id(load, "power", "holder"), What: holder, How: "loses power for 10 s", Load: load, Expect: only(East), hold: cutFor,
			begin: host(holder, (*lab.Host).PowerOff), end: host(holder, (*lab.Host).PowerOn),
		},
		{
			ID: id(load, "ovs", "restart", "holder"), What: "Open vSwitch on " + holder, How: "`ovs-ctl restart`", Load: load, Expect: only(East),
			begin: host(holder, (*lab.Host).RestartOVS), end: none,
		},
		{
			ID: id(load, "ovs", "restart", "compute"), What: "Open vSwitch on " + compute, How: "`ovs-ctl restart`", Load: load,
			begin: host(compute, (*lab.Host).RestartOVS), end: none,
		},
	}
}

// Select picks the cases whose id a regular expression matches, and of those the ones of CI's short set if only they are
// wanted.
func Select(expression *regexp.Regexp, shortSet bool) []Case {
	return slices.DeleteFunc(Cases(), func(c Case) bool { return !expression.MatchString(c.ID) || shortSet && !c.short })
}
