package dhcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/weft-sdn/weft/agent/desired"
)

// hostsFile is the file of desired.DHCP with a line per known client: `MAC[,…],name,address`.
const hostsFile = "host"

// binding is an address that dnsmasq gives to a MAC.
type binding struct {
	mac string
	ip  netip.Addr
}

// bindings reads a hosts file as dhcpconf writes it; lines of another shape are passed over.
func bindings(text string) map[binding]bool {
	out := map[binding]bool{}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		ip, err := netip.ParseAddr(fields[len(fields)-1])
		if err == nil {
			out[binding{fields[0], ip}] = true
		}
	}
	return out
}

// releaseGone gives back the leases of clients that the hosts file on disk still has and the wanted one has not: dnsmasq
// keeps a lease in memory to its end and refuses the address to another client meanwhile. It comes before the file is
// written, so that an agent killed in between does it again.
func (m *Manager) releaseGone(want desired.DHCP) error {
	have, err := os.ReadFile(filepath.Join(m.Dir(want.Network), hostsFile))
	if errors.Is(err, os.ErrNotExist) || (err == nil && string(have) == want.Files[hostsFile]) {
		return nil
	}
	if err != nil {
		return err
	}
	kept := bindings(want.Files[hostsFile])
	var gone []binding
	for b := range bindings(string(have)) {
		if !kept[b] {
			gone = append(gone, b)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	m.writes.Add(1)
	return m.o.Enter(want.Namespace, func() error { return release(gone) })
}

// release sends a DHCPRELEASE (RFC 2131 section 4.4.6) for each binding from the server's own host, which dnsmasq takes as
// the client's. It runs inside the namespace. A binding in no subnet of the namespace has no lease.
func release(gone []binding) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("release leases: %w", err)
	}
	for _, b := range gone {
		server := serverFor(addrs, b.ip)
		mac, err := net.ParseMAC(b.mac)
		if server == nil || err != nil {
			continue
		}
		if err := sendRelease(server, mac, b.ip.AsSlice()); err != nil {
			return fmt.Errorf("release the lease of %s on %s: %w", b.mac, b.ip, err)
		}
	}
	return nil
}

// serverFor is the server's address in the subnet of a client's.
func serverFor(addrs []net.Addr, client netip.Addr) net.IP {
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.Contains(client.AsSlice()) {
			return n.IP.To4()
		}
	}
	return nil
}

func sendRelease(server net.IP, mac net.HardwareAddr, client net.IP) error {
	p, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRelease), dhcpv4.WithHwAddr(mac),
		dhcpv4.WithClientIP(client), dhcpv4.WithServerIP(server), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)))
	if err != nil {
		return err
	}
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: server, Port: dhcpv4.ServerPort})
	if err != nil {
		return err
	}
	_, err = conn.Write(p.ToBytes())
	return errors.Join(err, conn.Close())
}
