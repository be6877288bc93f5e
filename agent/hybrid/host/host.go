// Package host holds a node to the plan of package hybrid: IP sets, the chains of iptables and ip6tables in the node's own
// network namespace, and that bridged frames pass them; and it ends the connections that filters no longer allow. What a node
// has of Linux bridges, and which VM is plugged how, is not its business.
package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/ipset"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/proto/model"
)

// Options is what a Driver needs.
type Options struct {
	// Enter calls a function on a thread inside the node's network namespace; nil: the calling one is.
	Enter func(fn func() error) error
	Log   *slog.Logger
}

// Driver holds the filters of one node. Its methods may be called concurrently; they wait for each other.
type Driver struct {
	enter  func(func() error) error
	mu     sync.Mutex
	v4, v6 *iptables.Driver
	sets   ipset.Driver
	// used: there may be filters; while there are none, nothing is asked of the kernel that filters alone need.
	used bool
	// wanted was last asked for, and refused are those of its rules that the host does not take.
	wanted  *hybrid.Filters
	refused map[model.Rule]error
}

// place names the node's own namespace in messages.
const place = "the host"

// New makes a Driver, which knows nothing of what the host has yet. The error says which program is missing.
func New(ctx context.Context, o Options) (*Driver, error) {
	d := &Driver{enter: o.Enter}
	if d.enter == nil {
		d.enter = func(fn func() error) error { return fn() }
	}
	in := func(_ string, fn func() error) error { return d.enter(fn) }
	for family, driver := range map[bool]**iptables.Driver{false: &d.v4, true: &d.v6} {
		var err error
		if *driver, err = iptables.New(ctx, iptables.Options{Enter: in, IPv6: family, Prefix: hybrid.ChainPrefix, Log: o.Log}); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Writes counts the changes made since New.
func (d *Driver) Writes() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.v4.Writes() + d.v6.Writes() + d.sets.Writes()
}

// Apply makes the filters what is wanted: sets before the rules that refer to them, and those that no rule refers to any more
// last. When it returns without an error they are in force, and no connection is left that they do not allow; with a
// *RefusedError too, but for the rules that it names. Idempotent. When it is called once more for the same filters, it trusts
// nothing that it remembers.
func (d *Driver) Apply(ctx context.Context, want *hybrid.Filters) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ensure := (*iptables.Driver).Ensure
	if want == d.wanted {
		d.sets.Resync()
		ensure = (*iptables.Driver).Resync
	}
	d.used = d.used || len(want.Ports) > 0
	if !d.used { // an earlier agent's may be there
		d.wanted = want
		return errors.Join(d.rules(ctx, hybrid.New(*want), ensure), d.enter(func() error { return d.sets.Prune(nil) }))
	}
	if len(want.Ports) > 0 {
		if err := d.enter(haveBridgesPass); err != nil {
			return err
		}
	}
	if err := d.prepare(ctx, want); err != nil {
		return err
	}
	d.wanted = want
	if err := d.enforce(ctx, want, ensure); err != nil {
		return err
	}
	taken := want.Without(d.refused)
	if err := d.enter(func() error {
		return errors.Join(d.sets.Prune(hybrid.New(taken).Sets), end(hybrid.NewJudge(taken)))
	}); err != nil {
		return err
	}
	return refusedError(d.refused)
}

// Filtered are the VMs' devices whose frames pass filters, as an earlier agent has left them.
func (d *Driver) Filtered(ctx context.Context) (map[string]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	four, err := d.v4.Rules(ctx, place, "filter", hybrid.ChainForward)
	six, err6 := d.v6.Rules(ctx, place, "filter", hybrid.ChainForward)
	out, both := hybrid.Taps(four), hybrid.Taps(six)
	if len(out) == 0 || errors.Join(err, err6) != nil {
		return nil, errors.Join(err, err6)
	}
	var off []desired.Difference
	err = d.enter(func() (err error) { off, err = bridgesPass(); return err })
	maps.DeleteFunc(out, func(device string, _ bool) bool { return !both[device] || len(off) > 0 })
	return out, err
}

// Resync is Apply against what the host really has.
func (d *Driver) Resync(ctx context.Context, want *hybrid.Filters) error {
	d.mu.Lock()
	d.wanted = want
	d.mu.Unlock()
	return d.Apply(ctx, want)
}

// ensurer is how a family's tables are made what is wanted.
type ensurer func(d *iptables.Driver, ctx context.Context, namespace string, want desired.IPTables) error

func (d *Driver) rules(ctx context.Context, p hybrid.Plan, ensure ensurer) error {
	return errors.Join(ensure(d.v4, ctx, place, p.IPv4), ensure(d.v6, ctx, place, p.IPv6))
}

// Diff tells how the host differs from what is wanted and it does not refuse, and changes nothing.
func (d *Driver) Diff(ctx context.Context, want *hybrid.Filters) ([]desired.Difference, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := hybrid.New(want.Without(d.refused))
	four, err := d.v4.Diff(ctx, place, p.IPv4)
	six, err6 := d.v6.Diff(ctx, place, p.IPv6)
	out, errs := append(four, six...), []error{err, err6}
	if !d.used {
		return out, errors.Join(errs...)
	}
	errs = append(errs, d.enter(func() error {
		sets, err := d.sets.Diff(p.Sets)
		out = append(out, sets...)
		if len(want.Ports) == 0 {
			return err
		}
		bridges, err2 := bridgesPass()
		out = append(out, bridges...)
		return errors.Join(err, err2)
	}))
	return out, errors.Join(errs...)
}

// The switches by which bridged frames pass iptables and ip6tables (Documentation/networking/ip-sysctl.rst, bridge-nf-call).
func switches() []string {
	return []string{"/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"}
}

func bridgesPass() ([]desired.Difference, error) {
	var out []desired.Difference
	for _, s := range switches() {
		b, err := os.ReadFile(s)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: load the kernel module br_netfilter, which filters of VMs with bridges of their own need", err)
		}
		if err != nil {
			return nil, err
		}
		if have := strings.TrimSpace(string(b)); have != "1" {
			out = append(out, desired.Difference{Kind: "sysctl", Object: s, Desired: "1", Actual: have})
		}
	}
	return out, nil
}

func haveBridgesPass() error {
	off, err := bridgesPass()
	for _, d := range off {
		err = errors.Join(err, os.WriteFile(d.Object, []byte(d.Desired), 0o644))
	}
	return err
}

// end removes the connections that a judge forbids.
func end(j *hybrid.Judge) error {
	if err := forget(forbidden{j}); err != nil {
		return fmt.Errorf("end connections that are no longer allowed: %w", err)
	}
	return nil
}

// ForgetZones has the host forget all connections of some conntrack zones; none: nothing is asked of the kernel.
func (d *Driver) ForgetZones(zones []uint16) error {
	if len(zones) == 0 {
		return nil
	}
	if err := d.enter(func() error { return forget(within(zones)) }); err != nil {
		return fmt.Errorf("forget the connections of conntrack zones %v: %w", zones, err)
	}
	return nil
}

func forget(which netlink.CustomConntrackFilter) error {
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, which); err != nil {
			return err
		}
	}
	return nil
}

// within are the zones of conntrack's entries.
type within []uint16

// MatchConntrackFlow is as in netlink.CustomConntrackFilter.
func (w within) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return slices.Contains(w, flow.Zone)
}

// forbidden is a filter of conntrack's entries.
type forbidden struct{ *hybrid.Judge }

// MatchConntrackFlow is as in netlink.CustomConntrackFilter.
func (f forbidden) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	source, ok := netip.AddrFromSlice(flow.Forward.SrcIP)
	target, ok2 := netip.AddrFromSlice(flow.Forward.DstIP)
	return ok && ok2 && f.Forbids(hybrid.Connection{
		Zone: flow.Zone, Protocol: model.Protocol(flow.Forward.Protocol), Source: source.Unmap(), Target: target.Unmap(), TargetPort: flow.Forward.DstPort,
	})
}

// ProtocolNames are the names that this host's iptables gives protocols.
func ProtocolNames() map[model.Protocol]string {
	text, err := os.ReadFile("/etc/protocols")
	if err != nil {
		return nil // it prints numbers then
	}
	return hybrid.ParseProtocols(string(text))
}
