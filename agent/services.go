package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcp"
	"github.com/weft-sdn/weft/agent/garp"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/hybrid/host"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/metadata/wire"
	"github.com/weft-sdn/weft/agent/netns"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
)

// buildTimeout bounds one attempt to build a router or a DHCP server, all external commands included.
const buildTimeout = 20 * time.Second

// services builds routers and DHCP servers with the namespace drivers. Its methods are called by the workers, for
// different units at once.
type services struct {
	ns       *netns.Manager
	nat      *iptables.Driver
	dhcp     *dhcp.Manager
	filters  *host.Driver
	announce *garp.Announcer
	metadata *metadata.Manager // nil on a node that serves none
	forget   conntrack.Forgetter
	notes    notes
	ovs      switching
	log      *slog.Logger
	metrics  *metrics // nil where nothing is audited
	// remade is told the name of a namespace that has been made anew; may be nil.
	remade func(namespace string)

	mu sync.Mutex
	// waiting are the units that are built but for OVS, which has not taken their devices.
	waiting map[unit]waiting
	// floating are the floating IPs in each router's NAT, with the fixed address: what connections may still be tied to.
	floating map[string]map[netip.Addr]netip.Addr
}

func newServices(ctx context.Context, cfg Config, ovs switching, log *slog.Logger) (*services, error) {
	ns, err := netns.New(netns.Options{StateDir: cfg.StateDir, Log: log, Held: ovs.held})
	if err != nil {
		return nil, err
	}
	notes, err := newNotes(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	natDriver, err := iptables.New(ctx, iptables.Options{Enter: ns.Run, Log: log})
	if err != nil {
		return nil, err
	}
	filters, err := host.New(ctx, host.Options{Log: log})
	if err != nil {
		return nil, err
	}
	dhcpManager, err := dhcp.New(dhcp.Options{StateDir: cfg.StateDir, Enter: ns.Run, Log: log})
	if err != nil {
		return nil, err
	}
	mark := plan.QuietMark()
	announcer, err := garp.New(garp.Options{Enter: ns.Run, Mark: mark[:], Log: log})
	if err != nil {
		dhcpManager.Close()
		return nil, err
	}
	return &services{
		ns: ns, nat: natDriver, dhcp: dhcpManager, filters: filters, announce: announcer, ovs: ovs, log: log,
		forget: conntrack.Forgetter{Enter: ns.Run}, notes: notes, waiting: map[unit]waiting{}, floating: map[string]map[netip.Addr]netip.Addr{},
	}, nil
}

// close stops watching and announcing; what has been built stays.
func (s *services) close() {
	s.announce.Close()
	s.metadata.Close()
	s.dhcp.Close()
}

// leftovers lists the units that the host has.
func (s *services) leftovers() ([]unit, error) {
	names, err := s.ns.List()
	if err != nil {
		return nil, err
	}
	networks, err := s.dhcp.List()
	if err != nil {
		return nil, err
	}
	var out []unit
	for _, name := range names {
		if id, ok := strings.CutPrefix(name, plan.RouterNamespace("")); ok {
			out = append(out, unit{keys.KindRouter, id})
		} else if id, ok := strings.CutPrefix(name, plan.DHCPNamespace("")); ok {
			out = append(out, unit{keys.KindDHCP, id})
		}
	}
	for _, id := range networks {
		out = append(out, unit{keys.KindDHCP, id})
	}
	return out, nil
}

// soon reports whether an error passes by itself within moments: OVS has not taken or released a device yet.
func soon(err error) bool {
	return errors.Is(err, errNotNumbered) || errors.Is(err, netns.ErrLinkRemains) || errors.Is(err, dhcp.ErrLinkMissing)
}

// told reports whether the loop has a unit built again when what its error says has passed: see devicesChanged.
func told(err error) bool { return errors.Is(err, errNotNumbered) }

// busy reports whether an error tells that another program is in the way.
func busy(err error) bool { return errors.Is(err, iptables.ErrLocked) }

// build makes a unit what is wanted.
func (s *services) build(ctx context.Context, u unit, want any) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	w := s.wait(u)
	if want != nil && w.built == want && s.awaitOVS(w.devices) == nil {
		return s.pass(u, w, nil)
	}
	w.built = nil
	var err error
	switch want := want.(type) {
	case *plan.Router:
		err = s.router(ctx, u.id, want, &w)
	case *plan.DHCP:
		err = s.dhcpServer(ctx, want, &w)
	case *hybrid.Filters:
		return s.filters.Apply(ctx, want)
	case nil:
		return s.remove(ctx, u)
	default:
		return fmt.Errorf("%s %s: can't build a %T", u.kind, u.id, want)
	}
	if err == nil {
		w.built = want
	}
	return s.pass(u, w, err)
}

// waiting is what is left of a unit to be done when OVS has taken its devices.
type waiting struct {
	// built is what the unit was built as; nil if that failed.
	built any
	// devices have to be taken, by identity; announce are addresses that are new on their links.
	devices  map[string]string
	announce []garp.Target
}

func (s *services) wait(u unit) waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[u]
}

// pass ends an attempt to build a unit: announcements go out when OVS has taken the devices, even if something else is wrong.
func (s *services) pass(u unit, w waiting, err error) error {
	untaken := s.awaitOVS(w.devices)
	if untaken == nil {
		s.tell(w.announce)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, u)
	if untaken != nil {
		s.waiting[u] = w
	}
	return cmp.Or(err, untaken)
}

// router goes through the steps in the order that package netns gives: forwarding comes last, when NAT is in. It waits for
// OVS in none of them: what OVS has to take is left in w.
func (s *services) router(ctx context.Context, id string, want *plan.Router, w *waiting) error {
	name := want.Namespace.Name
	before, err := s.floatingBefore(ctx, id, name)
	if err != nil {
		return err
	}
	made, err := s.makeDevices(ctx, want.Namespace)
	w.devices = made.Devices
	if err != nil {
		return err
	}
	if err := s.notes.write(id, moved(before, want.Floating)); err != nil {
		return err
	}
	if err := s.nat.Ensure(ctx, name, want.Namespace.IPTables); err != nil {
		return err
	}
	if err := s.ns.Run(name, conntrack.TellAll); err != nil {
		return err
	}
	report, err := s.ns.Ensure(ctx, want.Namespace)
	w.announce = slices.Concat(w.announce, s.unheard(want.Namespace, made), announcements(report, made.Created))
	if err != nil {
		return err
	}
	if err := s.forgetGone(ctx, id, name, before, want.Floating); err != nil {
		return err
	}
	if _, err := s.ns.Forward(ctx, want.Namespace); err != nil {
		return err
	}
	s.serve(want.Metadata)
	_, err = s.ns.Prune(ctx, want.Namespace)
	return err
}

// announcements are those of addresses that are new on their links.
func announcements(report netns.Report, created bool) []garp.Target {
	out := make([]garp.Target, len(report.Announce))
	for i, a := range report.Announce {
		out[i] = garp.Target{Namespace: a.Namespace, Link: a.Link, MAC: a.MAC, Address: a.Address, Audience: audience(created)}
	}
	return out
}

// audience is who has to hear of addresses. The other routers of the node need not hear those of a namespace that has just been
// created, when a node starts hundreds at once; an address that has come to a router from another they have to.
func audience(created bool) garp.Audience {
	if created {
		return garp.Beyond
	}
	return garp.Everybody
}

// unheard are the announcements of all addresses of the links that OVS has not taken: whatever has been announced there, by
// this agent or one that was ended before OVS took them, nobody has heard.
func (s *services) unheard(want desired.Namespace, made netns.Report) []garp.Target {
	var out []garp.Target
	for _, l := range want.Links {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil || s.ovs.numbered(l.Name, made.Devices[l.Name]) {
			continue
		}
		for _, ip := range l.Announce {
			out = append(out, garp.Target{Namespace: want.Name, Link: l.Name, MAC: mac, Address: ip, Audience: audience(made.Created)})
		}
	}
	return out
}

func (s *services) tell(announce []garp.Target) {
	for _, a := range announce {
		if err := s.announce.Announce(a); err != nil {
			s.log.Warn("can't announce an address", "namespace", a.Namespace, "address", a.Address, "error", err)
		}
	}
}

func (s *services) dhcpServer(ctx context.Context, want *plan.DHCP, w *waiting) error {
	if want.Problem != nil {
		return want.Problem
	}
	made, err := s.makeDevices(ctx, want.Namespace)
	w.devices = made.Devices
	if err != nil {
		return err
	}
	if _, err := s.ns.Ensure(ctx, want.Namespace); err != nil {
		return err
	}
	if err := s.dhcp.Ensure(ctx, want.Server); err != nil {
		return err
	}
	s.serve(want.Metadata)
	_, err = s.ns.Prune(ctx, want.Namespace)
	return err
}

// serve has guests served with metadata. That it can't be is the node's problem and not the unit's.
func (s *services) serve(want *desired.Metadata) {
	if want != nil {
		s.metadata.Serve(*want)
	}
}

// makeDevices makes the namespace with its devices, for which OVS may then have ports.
func (s *services) makeDevices(ctx context.Context, ns desired.Namespace) (netns.Report, error) {
	report, err := s.ns.Prepare(ctx, ns)
	if report.Created && s.remade != nil {
		s.remade(ns.Name)
	}
	if err == nil {
		s.ovs.made(ctx, report.Devices)
	}
	return report, err
}

// awaitOVS wants OVS to have taken devices.
func (s *services) awaitOVS(devices map[string]string) error {
	for name, identity := range devices {
		if !s.ovs.numbered(name, identity) {
			return fmt.Errorf("link %s: %w", name, errNotNumbered)
		}
	}
	return nil
}

func (s *services) remove(ctx context.Context, u unit) error {
	name, place := plan.RouterNamespace(u.id), wire.Place{Router: u.id}
	if u.kind == keys.KindDHCP {
		name, place = plan.DHCPNamespace(u.id), wire.Place{Network: u.id}
		if err := s.dhcp.Delete(ctx, u.id); err != nil {
			return err
		}
	}
	if err := s.metadata.Drop(place); err != nil {
		return err
	}
	if err := s.ns.Delete(ctx, name); err != nil {
		return err
	}
	s.nat.Forget(name)
	if err := s.notes.remove(u.id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.floating, u.id)
	delete(s.waiting, u)
	return nil
}
