package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/weft-sdn/weft/agent/desired"
)

// A wanted link is the inner end of a veth pair (veth(4)) whose outer end has the same name in the host's namespace, where
// OVS takes it as a system interface. The outer end is weft's when its alias says so, or when the inner end in an owned
// namespace is its peer: a creation that was cut short before the alias was written.

// alias is what the outer ends of a namespace's pairs carry as IFLA_IFALIAS, which ip-link(8) shows.
func alias(namespace string) string { return "weft:" + namespace }

// pairs makes what is missing of the wanted links, and brings the outer ends to what they should be.
func (p *pass) pairs() {
	made := false
	for _, want := range p.want.Links {
		mac, err := checkLink(want)
		if err != nil {
			p.fail(err)
			continue
		}
		outer, err := p.outer(want.Name)
		if err != nil {
			p.fail(err)
			continue
		}
		if outer == nil || !joined(outer, p.links[want.Name]) {
			if outer = p.create(want, mac, outer); outer == nil {
				continue
			}
			made = true
		}
		p.setOuter(outer, want)
		if p.report.Devices == nil {
			p.report.Devices = make(map[string]string, len(p.want.Links))
		}
		p.report.Devices[want.Name] = fmt.Sprintf("%.8s:%d", p.m.boot, outer.Attrs().Index)
	}
	if made {
		p.fail(p.observeLinks())
		p.raise()
	}
}

// raise brings the inner ends up where nothing is forwarded yet, and nothing answers for want of addresses. An end that goes
// up later, after OVS has taken the other, is one more change of the host's links, and each of these has ovs-vswitchd with the
// userspace datapath read all of them (Open vSwitch, lib/route-table.c): it serves nothing else meanwhile, and that takes
// seconds when there are thousands.
func (p *pass) raise() {
	if forwards, err := readSysctl(ipForward); err != nil || forwards != "0" {
		p.fail(err)
		return
	}
	for _, want := range p.want.Links {
		mac, err := checkLink(want)
		if link := p.links[want.Name]; link != nil && err == nil {
			p.setLink(link, want, mac)
		}
	}
}

// outer finds the outer end of a pair, nil if the host has no link of that name. ErrLinkForeign if it is a stranger's.
func (p *pass) outer(name string) (netlink.Link, error) {
	link, err := p.host.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("link %s: look for it on the host: %w", name, err)
	}
	if link.Attrs().Alias != alias(p.want.Name) && !joined(link, p.links[name]) {
		return nil, fmt.Errorf("link %s: %w: remove it or rename it", name, ErrLinkForeign)
	}
	return link, nil
}

// joined reports whether two links are the ends of one pair: each names the other's index as its own lower link
// (IFLA_LINK).
func joined(outer, inner netlink.Link) bool {
	if inner == nil {
		return false
	}
	_, here := outer.(*netlink.Veth)
	_, there := inner.(*netlink.Veth)
	return here && there && outer.Attrs().ParentIndex == inner.Attrs().Index && inner.Attrs().ParentIndex == outer.Attrs().Index
}

// create makes a pair, its inner end directly in the namespace: to move a link there takes the kernel ten times as long.
// Single ends are removed first. What is left of an internal port of OVS is among them; one that OVS still holds in the
// kernel can't be removed, and ErrLinkRemains says to wait for OVS.
func (p *pass) create(want desired.Link, mac net.HardwareAddr, outer netlink.Link) netlink.Link {
	if outer != nil && !p.write(onLink(want.Name, "a veth pair", "an outer end without an inner one"), func() error { return p.host.LinkDel(outer) }) {
		return nil
	}
	if inner := p.links[want.Name]; inner != nil {
		if !p.write(onLink(want.Name, "a veth pair", "no end of a pair, but a "+inner.Type()), func() error {
			if err := p.inside.LinkDel(inner); err != nil {
				return fmt.Errorf("%w: %w", ErrLinkRemains, err)
			}
			return nil
		}) {
			return nil
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = want.Name, want.MTU
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = want.Name, mac, uint32(want.MTU)
	pair.PeerNamespace = netlink.NsFd(p.target)
	if !p.write(onLink(want.Name, "a veth pair", ""), func() error { return p.host.LinkAdd(pair) }) {
		return nil
	}
	made, err := p.host.LinkByName(want.Name)
	if err != nil {
		p.fail(fmt.Errorf("link %s: read what was made: %w", want.Name, err))
		return nil
	}
	return made
}

// setOuter sets alias, MTU, offload and up. The host's own IP stack is kept out of it: beside a userspace datapath it gets to
// see every frame, and would answer ARP requests for the host's addresses (ip-sysctl.rst: arp_ignore 8, disable_ipv6).
func (p *pass) setOuter(outer netlink.Link, want desired.Link) {
	what := want.Name + " on the host"
	if name := alias(p.want.Name); outer.Attrs().Alias != name {
		p.write(onLink(what, "alias "+name, "alias "+outer.Attrs().Alias), func() error { return p.host.LinkSetAlias(outer, name) })
	}
	p.deafen(want.Name)
	if outer.Attrs().MTU != want.MTU {
		p.write(onLink(what, mtu(want.MTU), mtu(outer.Attrs().MTU)), func() error { return p.host.LinkSetMTU(outer, want.MTU) })
	}
	p.offloadOff(p.hostSock, want.Name)
	if !up(outer) {
		p.write(onLink(what, "up", "down"), func() error { return p.host.LinkSetUp(outer) })
	}
}

// deafen keeps the host's IP stack out of a link. A kernel without IPv6 has nothing to switch off.
func (p *pass) deafen(link string) {
	p.fail(onThread(func() error {
		for name, value := range map[string]string{
			"net.ipv4.conf." + link + ".arp_ignore":   "8",
			"net.ipv6.conf." + link + ".disable_ipv6": "1",
		} {
			if err := p.setSysctl(link+" on the host", name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}))
}

// offloadOff turns transmit checksum offload off on a link of sock's namespace.
func (p *pass) offloadOff(sock int, link string) {
	if on, err := txChecksum(sock, link); err != nil {
		p.fail(err)
	} else if on {
		p.write(onLink(link, "checksum offload off", "checksum offload on"), func() error { return txChecksumOff(sock, link) })
	}
}

// prune removes weft's links that are not wanted, with their outer ends. One that OVS has a port for stays: ErrLinkRemains.
func (p *pass) prune() {
	for name, link := range p.links {
		switch {
		case !OwnedLink(name) || p.wanted(name):
		case !p.dry && p.m.held(name):
			p.fail(fmt.Errorf("link %s: %w", name, ErrLinkRemains))
		default:
			p.write(onLink(name, "", "a "+link.Type()), func() error { return p.inside.LinkDel(link) })
		}
	}
}
