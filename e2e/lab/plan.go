package lab

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// Kind is what a host is for.
type Kind string

// The kinds of hosts.
const (
	Controller Kind = "controller"
	EtcdMember Kind = "etcd"
	Network    Kind = "network"
	Compute    Kind = "compute"
	Outside    Kind = "outside" // the rest of the world on one external network
	switchKind Kind = "switch"
)

// The networks that every lab has; the external ones are ext1, ext2, ….
const (
	Underlay   = "underlay"
	Management = "management"
	Tenant     = "tenant" // physical network, a VLAN trunk to every node
)

// Link is a cable from a host to the switch of one network.
type Link struct {
	Network    string       `json:"network"`
	Device     string       `json:"device"`            // in the host
	SwitchPort string       `json:"switch_port"`       // in the switch's namespace
	MAC        string       `json:"mac"`               // of Device
	MTU        int          `json:"mtu"`               // octets, of Device and Bridge
	Address    netip.Prefix `json:"address,omitzero"`  // of Bridge if there is one, else of Device
	Bridge     string       `json:"bridge,omitempty"`  // OVS bridge that owns Device
	Hardware   string       `json:"hardware,omitzero"` // MAC of Bridge; differs from Device's, see ovs.go
}

// VLAN is a tagged presence of an outside host.
type VLAN struct {
	ID      int          `json:"id"`
	Address netip.Prefix `json:"address"`
}

// HostInfo is what a lab knows of one host. PID is zero while the host is powered off.
type HostInfo struct {
	Name       string     `json:"name"`
	Kind       Kind       `json:"kind"`
	Management netip.Addr `json:"management,omitzero"`
	Tunnel     netip.Addr `json:"tunnel,omitzero"` // nodes only
	Links      []Link     `json:"links,omitempty"`
	VLANs      []VLAN     `json:"vlans,omitempty"` // outside hosts only
	procfs.ID
}

// Node tells whether the host carries tenant traffic and an agent.
func (h HostInfo) Node() bool { return h.Kind == Network || h.Kind == Compute }

// On tells whether the host is powered on, as far as the lab has been told.
func (h HostInfo) On() bool { return h.PID != 0 }

// Link finds the cable to a network.
func (h HostInfo) Link(network string) (Link, bool) {
	i := slices.IndexFunc(h.Links, func(l Link) bool { return l.Network == network })
	if i < 0 {
		return Link{}, false
	}
	return h.Links[i], true
}

// switchHost is the name of the tree that holds the switches.
const switchHost = "switch"

// plan lays the fleet out: the same options always give the same hosts, addresses and MACs.
func plan(o Options) []HostInfo {
	hosts := []HostInfo{{Name: switchHost, Kind: switchKind}}
	for _, group := range []struct {
		kind   Kind
		prefix string
		count  int
	}{
		{Controller, "ctl", o.Controllers},
		{EtcdMember, "etcd", o.Etcd},
		{Network, "net", o.NetworkNodes},
		{Compute, "cmp", o.ComputeNodes},
		{Outside, "out", o.Externals},
	} {
		for i := 1; i <= group.count; i++ {
			hosts = append(hosts, planHost(group.kind, fmt.Sprintf("%s%d", group.prefix, i), i, o))
		}
	}
	return hosts
}

func planHost(kind Kind, name string, index int, o Options) HostInfo {
	h := HostInfo{Name: name, Kind: kind}
	n := number(kind, index)
	if kind == Outside {
		h.connect(Link{Network: external(index), Device: external(index), Address: outsideAddress(index)}, n, 9)
		return h
	}
	h.Management = netip.AddrFrom4([4]byte{10, 30, 0, n})
	h.connect(Link{Network: Management, Device: "eth-mgmt", Address: netip.PrefixFrom(h.Management, 24)}, n, 0)
	if !h.Node() {
		return h
	}
	h.Tunnel = netip.AddrFrom4([4]byte{10, 31, 0, n})
	h.connect(Link{Network: Underlay, Device: "eth-phy", MTU: o.UnderlayMTU, Bridge: "br-phy", Address: netip.PrefixFrom(h.Tunnel, 24)}, n, 1)
	h.connect(Link{Network: Tenant, Device: "eth-" + Tenant, Bridge: "br-" + Tenant}, n, 2)
	for e := 1; kind == Network && e <= o.Externals; e++ {
		h.connect(Link{Network: external(e), Device: "eth-" + external(e), Bridge: "br-" + external(e)}, n, byte(2+e))
	}
	return h
}

// connect completes the cable. MACs are locally administered (IEEE 802, second bit of the first octet) and tell the
// cable and the host to whoever reads a capture.
func (h *HostInfo) connect(l Link, number, cable byte) {
	short := l.Network
	if l.Network == Management {
		short = "mgmt"
	}
	if l.MTU == 0 {
		l.MTU = 1500 // Ethernet's, IEEE 802.3
	}
	l.SwitchPort = h.Name + "-" + short
	l.MAC = fmt.Sprintf("02:30:00:00:%02x:%02x", cable, number)
	if l.Bridge != "" {
		l.Hardware = fmt.Sprintf("02:31:00:00:%02x:%02x", cable, number)
	}
	h.Links = append(h.Links, l)
}

func external(i int) string { return fmt.Sprintf("ext%d", i) }

// number is the last octet of a host's addresses: stable however many hosts of other kinds there are.
func number(kind Kind, index int) byte {
	base := map[Kind]int{Controller: 10, EtcdMember: 20, Network: 30, Compute: 100, Outside: 0}
	return byte(base[kind] + index)
}

// outsideAddress is from the blocks for documentation (RFC 5737), which no real network uses.
func outsideAddress(index int) netip.Prefix {
	return map[int]netip.Prefix{
		1: netip.MustParsePrefix("203.0.113.1/24"),
		2: netip.MustParsePrefix("198.51.100.1/24"),
		3: netip.MustParsePrefix("192.0.2.1/24"),
	}[index]
}

// networks lists what the switch must carry.
func networks(hosts []HostInfo) []string {
	var names []string
	for _, h := range hosts {
		for _, l := range h.Links {
			if !slices.Contains(names, l.Network) {
				names = append(names, l.Network)
			}
		}
	}
	return names
}
