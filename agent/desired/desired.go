// Package desired holds the values that the planner produces and the drivers realise: what a node should
// have, as plain data that prints as text. It has no behaviour beyond comparison and rendering, imports no
// driver and does no I/O; how a value gets onto the host is the drivers' business (agent/ovs, agent/openflow,
// agent/netns, agent/iptables, agent/dhcp).
package desired

import (
	"net/netip"
)

// OwnerKey is the key of external_ids by which weft knows its own rows in OVSDB. Its value is "<kind>:<id>".
const OwnerKey = "weft-owner"

// Bridge is an Open vSwitch bridge that weft creates and owns (br-int, br-tun). Provider bridges belong to the
// operator and are never desired here: weft only adds its patch ports and flows to them.
type Bridge struct {
	Name         string
	DatapathType string // "system" or "netdev", ovs-vswitchd.conf.db(5) Bridge.datapath_type
}

// PortType is the OVSDB Interface.type of a port.
type PortType string

// The interface types weft uses (ovs-vswitchd.conf.db(5), Interface.type). A VM's own interface has type
// PortForeign: somebody else created it, weft only sets its tag.
const (
	PortForeign  PortType = "foreign"
	PortInternal PortType = "internal" // a bridge's own port
	PortSystem   PortType = "system"   // a device that agent/netns makes; the database has "" for it
	PortPatch    PortType = "patch"
	PortVXLAN    PortType = "vxlan"
	PortGRE      PortType = "gre"
)

// Port is one OVSDB port with its single interface of the same name.
type Port struct {
	Bridge      string
	Name        string // at most 15 bytes for devices (IFNAMSIZ-1); patch ports are not devices
	Type        PortType
	Tag         uint16            // Port.tag, the local VLAN 1..4094; 0 leaves the column empty
	MAC         string            // Interface.mac of an internal port; "" for others
	Options     map[string]string // Interface.options: peer, local_ip, remote_ip, in_key, out_key, df_default
	ExternalIDs map[string]string // Interface.external_ids: iface-id, attached-mac, and weft's owner mark
	BFD         map[string]string // Interface.bfd of a tunnel whose far end is watched; empty for others
}

// Namespace is one named network namespace with everything inside it: qrouter-<router> or qdhcp-<network>.
type Namespace struct {
	Name     string
	Sysctls  map[string]string // "net.ipv4.conf.all.arp_ignore" -> "1"; written before any link goes up; no forwarding switch
	Links    []Link            // sorted by name
	Routes   []Route           // sorted; only routes of protocol "static" (RTPROT_STATIC) in the main table are weft's
	IPTables IPTables          // empty for a DHCP namespace
	// Forward tells that the namespace routes packets between its links (net.ipv4.ip_forward). It is not a sysctl like
	// the others because it has its own place in the order: last, when IPTables is in (agent/netns, Forward). A flow let
	// through earlier is bound by conntrack without its NAT for as long as it lives.
	Forward bool
}

// Link is a device inside a namespace: the inner end of a veth pair whose outer end has the same name on the host, where
// it is a port of br-int.
type Link struct {
	Name      string
	MAC       string
	MTU       int
	Sysctls   map[string]string // of the link, "net.ipv4.neigh.<name>.retrans_time_ms" -> "60"; written before it goes up
	Addresses []netip.Prefix    // sorted; the host's whole set of global IPv4 addresses on this link
	// Announce lists the addresses for which a gratuitous ARP (RFC 5227 section 3, an ARP announcement) is sent when
	// they are first put on the link.
	Announce []netip.Addr
}

// Route is a static route of a namespace. Via is invalid for an on-link route.
type Route struct {
	Destination netip.Prefix // 0.0.0.0/0 for the default route
	Via         netip.Addr
	Dev         string
}

// IPTables is weft's part of one namespace's iptables: whole chains, and the jumps that lead to them.
type IPTables struct {
	Jumps  []Jump
	Chains []Chain // every chain whose name starts with "weft-" and is not listed is removed
}

// Jump is a rule in a built-in chain that leads to one of weft's chains: `-A Builtin -j Target`.
type Jump struct {
	Table, Builtin, Target string
	// First: it stands before all rules of others, which could let through what the chain would drop. All jumps of one
	// built-in chain are, or none.
	First bool
}

// Chain is the whole content of one of weft's chains, in order, each rule as the arguments after `-A CHAIN`, in the
// form in which iptables-save prints it. Rules are made of addresses, ports and device names only, never of strings
// that a user gave.
type Chain struct {
	Table, Name string
	Rules       []string
}

// DHCP is one dnsmasq process: its command line and its files.
type DHCP struct {
	Network   string // UUID; names the state directory <state_dir>/dhcp/<network>
	Namespace string
	// Args is the dnsmasq command line after the program's name. "{dir}" in an argument stands for the state directory.
	// A change of Args is the only thing that restarts the process. "--pid-file={dir}/pid" and "--conf-file=" are among
	// them: the one is how the process is recognised, the other keeps the host's own dnsmasq configuration out.
	Args []string
	// Files are written into the state directory: "host", "opts", "addn_hosts". A change of content is followed by
	// SIGHUP, on which dnsmasq reads them again (dnsmasq(8), NOTES).
	Files map[string]string
}

// IPSetPrefix begins the name of every IP set of weft's.
const IPSetPrefix = "weft"

// IPSet is an IP set of type hash:net (ipset(8)) in the node's own network namespace.
type IPSet struct {
	Name    string // at most 31 characters
	IPv6    bool
	Members []netip.Prefix // sorted; none is a whole family
}

// Metadata is one place where the metadata service listens to guests: a router's namespace or a network's DHCP namespace.
type Metadata struct {
	Router, Network string // the UUID of the one whose namespace it is; the other is ""
	Namespace       string
	Address         netip.AddrPort // listened on in the namespace
}
