package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/weft-sdn/weft/e2e/lab/netspace"
)

// bootSwitch starts the tree that holds the switches and makes a Linux bridge for every network. The bridges filter no
// VLANs, so tagged frames pass as they are.
func (l *Lab) bootSwitch(ctx context.Context) error {
	if err := l.startInit(ctx, switchHost); err != nil {
		return err
	}
	target, err := l.Switch().target()
	if err != nil {
		return err
	}
	if err := quiet(target); err != nil {
		return err
	}
	handle, err := target.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	s, err := l.load()
	if err != nil {
		return err
	}
	for _, network := range networks(s.Hosts) {
		if err := addBridge(handle, network, s.UnderlayMTU); err != nil {
			return err
		}
	}
	return nil
}

func addBridge(handle *netlink.Handle, name string, mtu int) error {
	snooping := false // a switch that learns groups would hide multicast from captures
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, MulticastSnooping: &snooping}
	if err := handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make the switch of network %s: %w", name, err)
	}
	if err := handle.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("start the switch of network %s: %w", name, err)
	}
	return nil
}

// quiet keeps the kernel of a namespace from talking by itself on devices made later: no IPv6, and no ARP answer on one
// device for the address of another, as an uplink that a bridge owns would otherwise give.
func quiet(t netspace.Target) error {
	if err := t.Sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // no such file: a kernel without IPv6
	}
	return t.Sysctl("ipv4/conf/default/arp_ignore", "1")
}

// plugCables makes the host's network devices and connects them to the switches, but for those that were cut.
func (l *Lab) plugCables(h HostInfo) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	w, err := l.openWiring(h.Name)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := quiet(w.target); err != nil {
		return err
	}
	if err := setUp(w.inside, "lo"); err != nil {
		return err
	}
	for _, link := range h.Links {
		if err := w.plug(link); err != nil {
			return err
		}
		if s.isCut(cut{Host: h.Name, Network: link.Network, Carrier: true}) {
			err = w.darken(link)
		}
		if !s.isCut(cut{Host: h.Name, Network: link.Network}) {
			err = errors.Join(err, w.join(link))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wiring is access to both ends of a host's cables.
type wiring struct {
	target netspace.Target // the host
	inside *netlink.Handle // in the host
	patch  *netlink.Handle // in the switch
}

func (l *Lab) openWiring(host string) (*wiring, error) {
	target, err := l.space(host, "").target()
	if err != nil {
		return nil, err
	}
	inside, err := target.Netlink()
	if err != nil {
		return nil, err
	}
	patch, err := l.Switch().Netlink()
	if err != nil {
		inside.Close()
		return nil, err
	}
	return &wiring{target: target, inside: inside, patch: patch}, nil
}

// Close releases the namespaces.
func (w *wiring) Close() {
	w.inside.Close()
	w.patch.Close()
}

// plug makes one cable: a veth pair, one end in the switch's namespace and the other in the host.
func (w *wiring) plug(link Link) error {
	mac, err := net.ParseMAC(link.MAC)
	if err != nil {
		return fmt.Errorf("cable to %s: %w", link.Network, err)
	}
	ns, err := w.target.Open()
	if err != nil {
		return fmt.Errorf("cable to %s: %w", link.Network, err)
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: link.SwitchPort, MTU: link.MTU},
		PeerName:  link.Device, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	if err := w.patch.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the cable to %s: %w", link.Network, err)
	}
	if err := w.patch.LinkSetUp(veth); err != nil {
		return fmt.Errorf("start the switch's end of the cable to %s: %w", link.Network, err)
	}
	return w.prepareDevice(link)
}

func (w *wiring) prepareDevice(link Link) error {
	if err := w.target.DisableTxChecksum(link.Device); err != nil {
		return err
	}
	if err := setUp(w.inside, link.Device); err != nil {
		return err
	}
	if link.Bridge != "" || !link.Address.IsValid() {
		return nil
	}
	return addAddress(w.inside, link.Device, link.Address)
}

// join connects the cable to the switch, leave takes it out. The host sees no difference in carrier: its frames are lost
// in silence, which is the failure that is hard to notice.
func (w *wiring) join(link Link) error {
	port, err := w.patch.LinkByName(link.SwitchPort)
	if err != nil {
		return fmt.Errorf("find switch port %s: %w", link.SwitchPort, err)
	}
	bridge, err := w.patch.LinkByName(link.Network)
	if err != nil {
		return fmt.Errorf("find the switch of network %s: %w", link.Network, err)
	}
	if err := w.patch.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("connect %s: %w", link.SwitchPort, err)
	}
	return nil
}

func (w *wiring) leave(link Link) error {
	port, err := w.patch.LinkByName(link.SwitchPort)
	if err != nil {
		return fmt.Errorf("find switch port %s: %w", link.SwitchPort, err)
	}
	if err := w.patch.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("disconnect %s: %w", link.SwitchPort, err)
	}
	return nil
}

// darken takes the switch's end down, so that the host's end loses its carrier; lighten undoes it.
func (w *wiring) darken(link Link) error {
	port, err := w.patch.LinkByName(link.SwitchPort)
	if err != nil {
		return fmt.Errorf("find switch port %s: %w", link.SwitchPort, err)
	}
	if err := w.patch.LinkSetDown(port); err != nil {
		return fmt.Errorf("set switch port %s down: %w", link.SwitchPort, err)
	}
	return nil
}

func (w *wiring) lighten(link Link) error { return setUp(w.patch, link.SwitchPort) }

func setUp(handle *netlink.Handle, device string) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", device, err)
	}
	return nil
}

// addAddress is idempotent.
func addAddress(handle *netlink.Handle, device string, address netip.Prefix) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	ipNet := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}
	if err := handle.AddrReplace(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		return fmt.Errorf("give %s the address %v: %w", device, address, err)
	}
	return nil
}

// AllExternal as the network of Cut and Heal means every external network of the host.
const AllExternal = "external"

// Cut takes a host's cable out of a network's switch: Underlay, Management, Tenant, "ext1", …, or AllExternal. Its carrier
// stays up; frames are lost, as when something in the fabric breaks. A cut survives power cycles until Heal. Idempotent;
// works on a host that is off.
func (h *Host) Cut(network string) error { return h.breakCable(network, (*wiring).leave, false) }

// CutCarrier breaks a host's cable so that the host sees it: the device loses its carrier (RUNNING is off, ip-link(8) says
// NO-CARRIER). Otherwise as Cut.
func (h *Host) CutCarrier(network string) error { return h.breakCable(network, (*wiring).darken, true) }

func (h *Host) breakCable(network string, act func(*wiring, Link) error, carrier bool) error {
	return h.rewire(network, act, func(s *state, c cut) {
		if c.Carrier = carrier; !s.isCut(c) {
			s.Cuts = append(s.Cuts, c)
		}
	})
}

// Heal undoes Cut and CutCarrier. Idempotent.
func (h *Host) Heal(network string) error {
	mend := func(w *wiring, link Link) error { return errors.Join(w.join(link), w.lighten(link)) }
	return h.rewire(network, mend, func(s *state, c cut) {
		s.Cuts = slices.DeleteFunc(s.Cuts, func(have cut) bool { return have.Host == c.Host && have.Network == c.Network })
	})
}

func (h *Host) rewire(network string, act func(*wiring, Link) error, record func(*state, cut)) error {
	links := slices.DeleteFunc(slices.Clone(h.Info.Links), func(l Link) bool { return !l.isIn(network) })
	if len(links) == 0 {
		return fmt.Errorf("host %s has no cable to %q: %w", h.Info.Name, network, ErrNotFound)
	}
	on := false
	err := h.lab.update(func(s *state) error {
		for _, link := range links {
			record(s, cut{Host: h.Info.Name, Network: link.Network})
		}
		info, err := s.host(h.Info.Name)
		on = err == nil && info.On()
		return err
	})
	if err != nil || !on {
		return err
	}
	w, err := h.lab.openWiring(h.Info.Name)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, link := range links {
		if err := act(w, link); err != nil {
			return fmt.Errorf("host %s: %w", h.Info.Name, err)
		}
	}
	return nil
}

func (l Link) isIn(network string) bool {
	return l.Network == network || network == AllExternal && strings.HasPrefix(l.Network, "ext")
}

// pullCables removes the switch's ends of a host's cables; the kernel removes a pair with either end. Missing is success.
func (l *Lab) pullCables(h HostInfo) error {
	patch, err := l.Switch().Netlink()
	if err != nil {
		return err
	}
	defer patch.Close()
	for _, link := range h.Links {
		port, err := patch.LinkByName(link.SwitchPort)
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find switch port %s: %w", link.SwitchPort, err)
		}
		if err := patch.LinkDel(port); err != nil && !goneMeanwhile(patch, link.SwitchPort) {
			return fmt.Errorf("remove switch port %s: %w", link.SwitchPort, err)
		}
	}
	return nil
}

// goneMeanwhile: the death of the host's namespace races with us for its cables.
func goneMeanwhile(patch *netlink.Handle, device string) bool {
	_, err := patch.LinkByName(device)
	missing := netlink.LinkNotFoundError{}
	return errors.As(err, &missing)
}
