package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// minMTU is the least MTU that IPv4 allows (RFC 791).
const minMTU = 68

// addressed is the state of one link's addresses.
type addressed struct {
	have []netip.Prefix
	want desired.Link
	link netlink.Link
}

func (p *pass) ensure() {
	addresses, err := p.observeAddresses()
	if err != nil {
		p.fail(err)
		return
	}
	for _, want := range p.want.Links {
		link := p.links[want.Name]
		if link == nil {
			continue // pairs has said so
		}
		mac, err := checkLink(want)
		if err != nil {
			continue // so here
		}
		renamed := p.setLink(link, want, mac)
		p.setAddresses(addressed{addresses[link.Attrs().Index], want, link}, mac, renamed)
	}
	p.setRoutes()
}

func checkLink(l desired.Link) (net.HardwareAddr, error) {
	if !OwnedLink(l.Name) {
		return nil, fmt.Errorf("link %q: name must be qr-, qg- or tap and the start of a port id", l.Name)
	}
	mac, err := net.ParseMAC(l.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("link %s: %q is not a unicast MAC address", l.Name, l.MAC)
	}
	if l.MTU < minMTU {
		return nil, fmt.Errorf("link %s: MTU %d is below %d", l.Name, l.MTU, minMTU)
	}
	for _, a := range l.Addresses {
		if !a.IsValid() || !a.Addr().Is4() {
			return nil, fmt.Errorf("link %s: %s is not an IPv4 address with a prefix length", l.Name, a)
		}
	}
	return mac, nil
}

// setLink sets offload, MAC, MTU, the link's own settings and up, and reports whether the MAC changed.
func (p *pass) setLink(link netlink.Link, want desired.Link, mac net.HardwareAddr) bool {
	p.offloadOff(p.sock, want.Name)
	renamed := !bytes.Equal(link.Attrs().HardwareAddr, mac)
	if renamed {
		p.write(onLink(want.Name, "MAC "+want.MAC, "MAC "+link.Attrs().HardwareAddr.String()), func() error { return p.inside.LinkSetHardwareAddr(link, mac) })
	}
	if link.Attrs().MTU != want.MTU {
		p.write(onLink(want.Name, mtu(want.MTU), mtu(link.Attrs().MTU)), func() error { return p.inside.LinkSetMTU(link, want.MTU) })
	}
	p.fail(p.setSysctls(want.Name, want.Sysctls))
	if !up(link) {
		p.write(onLink(want.Name, "up", "down"), func() error { return p.inside.LinkSetUp(link) })
	}
	return renamed
}

func mtu(n int) string { return fmt.Sprintf("MTU %d", n) }

// observeAddresses reads the global IPv4 addresses of all links, by link index.
func (p *pass) observeAddresses() (map[int][]netip.Prefix, error) {
	list, err := p.inside.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := make(map[int][]netip.Prefix)
	for _, a := range list {
		if a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok {
			continue
		}
		ones, _ := a.Mask.Size()
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], netip.PrefixFrom(ip, ones))
	}
	return byLink, nil
}

// setAddresses adds what is missing, then removes what is not wanted.
func (p *pass) setAddresses(a addressed, mac net.HardwareAddr, renamed bool) {
	var fresh []netip.Addr
	for _, want := range a.want.Addresses {
		if slices.Contains(a.have, want) {
			continue
		}
		if p.write(desired.Difference{Kind: "address", Object: a.want.Name, Desired: want.String()}, func() error {
			return ignore(p.inside.AddrAdd(a.link, netlinkAddr(want)), unix.EEXIST)
		}) {
			fresh = append(fresh, want.Addr())
		}
	}
	for _, have := range a.have {
		if slices.Contains(a.want.Addresses, have) {
			continue
		}
		p.write(desired.Difference{Kind: "address", Object: a.want.Name, Actual: have.String()}, func() error {
			return ignore(p.inside.AddrDel(a.link, netlinkAddr(have)), unix.EADDRNOTAVAIL)
		})
	}
	for _, addr := range a.want.Announce {
		if renamed || slices.Contains(fresh, addr) {
			p.report.Announce = append(p.report.Announce, Announce{p.want.Name, a.want.Name, mac, addr})
		}
	}
}

func netlinkAddr(a netip.Prefix) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(a)}
}

// ipNet keeps the host bits, as an address needs and a masked prefix does not mind.
func ipNet(a netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
}

// ignore turns an error that means "already so" into success.
func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}
