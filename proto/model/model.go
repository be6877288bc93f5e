// Package model is the domain in typed form: what an API message or a stored object means once it has been checked. Both
// sides use it: the controller refuses what it can't convert, naming the field; the agent quarantines it. It checks each
// object by itself; what needs other objects (overlaps, taken addresses, missing parents) is the controller's. It is
// pure and keeps no reference to the messages it reads.
package model

import (
	"net/netip"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Values of Port.DeviceOwner that are the system's (REFERENCE R4).
const (
	OwnerPrefix          = "network:"
	OwnerDHCP            = "network:dhcp"
	OwnerRouterInterface = "network:router_interface"
	OwnerRouterGateway   = "network:router_gateway"
)

// DefaultProject and DefaultDomain stand for an empty field on creation.
const (
	DefaultProject = "default"
	DefaultDomain  = "weft.internal"
)

// Limits on lists, so that no object outgrows a transaction or a frame.
const (
	MaxFixedIPs  = 16
	MaxPools     = 16
	MaxDNS       = 8
	MaxRoutes    = 64
	MaxLegs      = 100 // interfaces of a router
	MaxNodes     = 8   // that hold a router, or serve a network's DHCP
	MaxDHCPOpts  = 16
	MaxNameBytes = 255
)

// NetworkType is how a network's frames travel.
type NetworkType = weftv1.NetworkType

// Network is a checked weft.v1.Network.
type Network struct {
	ID, Name, Project string
	Up                bool
	Shared, External  bool
	Type              NetworkType
	PhysicalNetwork   string
	Segment           uint32
	MTU               int // 0: not yet decided
	Domain            string
}

// Tunnelled reports whether the network's frames travel in tunnels rather than over a provider bridge.
func (n *Network) Tunnelled() bool {
	return n.Type == weftv1.NetworkType_NETWORK_TYPE_VXLAN || n.Type == weftv1.NetworkType_NETWORK_TYPE_GRE
}

// Pool is a range of addresses, both ends included.
type Pool struct {
	Start, End netip.Addr
}

// Contains reports whether the address lies in the pool.
func (p Pool) Contains(ip netip.Addr) bool {
	return p.Start.Compare(ip) <= 0 && ip.Compare(p.End) <= 0
}

// Route is a destination and where to send it.
type Route struct {
	Destination netip.Prefix
	NextHop     netip.Addr
}

// Subnet is a checked weft.v1.Subnet.
type Subnet struct {
	ID, Name, Project, Network string
	CIDR                       netip.Prefix
	Gateway                    netip.Addr // invalid: none
	Pools                      []Pool     // sorted
	DNS                        []netip.Addr
	Routes                     []Route
	DHCP                       bool
}

// FixedIP is an address of a port.
type FixedIP struct {
	Subnet string
	IP     netip.Addr
}

// DHCPOption is one extra DHCP option of a port.
type DHCPOption struct {
	Name, Value string
}

// Port is a checked weft.v1.Port.
type Port struct {
	ID, Name, Project, Network string
	MAC                        string // lower case, colon separated
	FixedIPs                   []FixedIP
	DeviceID, DeviceOwner      string
	Host, BoundHost            string
	Up                         bool
	DHCPOptions                []DHCPOption
	// Secure: only frames with the port's own addresses leave it, and its groups are applied. False in ports stored before
	// weft had security groups.
	Secure bool
	// Groups are the ids of its security groups, sorted.
	Groups []string
	// Pairs are further sources that it may use.
	Pairs []AddressPair
	// Hybrid: filtered by iptables on a bridge of its own rather than by flows of br-int.
	Hybrid bool
	// Hostname is the label by which its VM wishes to be known; "" none.
	Hostname string
}

// OfRouter reports whether the port is a router's interface or gateway; the router is DeviceID.
func (p *Port) OfRouter() bool {
	return p.DeviceOwner == OwnerRouterInterface || p.DeviceOwner == OwnerRouterGateway
}

// Gateway is a router's way out.
type Gateway struct {
	Network, Port string
	FixedIPs      []FixedIP
	SNAT          bool
}

// Interface is a router's leg in a subnet.
type Interface struct {
	Port, Network, Subnet string
	IP                    netip.Addr
}

// Router is a checked weft.v1.Router.
type Router struct {
	ID, Name, Project string
	Up                bool
	Gateway           *Gateway // nil: none
	Interfaces        []Interface
	Routes            []Route
	Nodes             []string // placement, first choice first
}

// FloatingIP is a checked weft.v1.FloatingIp.
type FloatingIP struct {
	ID, Name, Project, Network string
	IP                         netip.Addr
	Port                       string     // "": not associated
	Fixed                      netip.Addr // invalid: not associated
	Router                     string
}

// SegmentRange is a checked weft.v1.SegmentRange.
type SegmentRange struct {
	ID, Name        string
	Type            NetworkType
	PhysicalNetwork string
	Min, Max        uint32 // both included
}
