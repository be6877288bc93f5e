// Package fleet understands the files of `weft apply`: it parses a file of wanted objects and plans, from what is stored,
// the calls that lead there. It is pure: it neither reads the file nor makes the calls, and it leaves every rule about
// networks to the controllers; only what could never be asked of them (a changed immutable field, a reference to
// nothing) is refused here, so that nothing is changed at all then.
package fleet

import (
	"fmt"
	"strings"
)

// File is what a fleet file says. A field that is left out (nil), or has a value that stands for the controllers' choice
// (segmentation_id: 0), is left as it is stored, and has its default on creation; a list that is given is complete. Objects are known by their names, which must be unique among the objects of
// their kind in the project (a subnet's on its network). What is stored and not in the file is left alone.
type File struct {
	// Project holds every object of the file; "" stands for the one of the command line.
	Project       string         `json:"project"`
	SegmentRanges []SegmentRange `json:"segment_ranges"`
	Networks      []Network      `json:"networks"`
	Ports         []Port         `json:"ports"`
	Routers       []Router       `json:"routers"`
	FloatingIPs   []FloatingIP   `json:"floating_ips"`

	AddressGroups  []AddressGroup  `json:"address_groups"`
	SecurityGroups []SecurityGroup `json:"security_groups"`
}

// SegmentRange is a wanted weft.v1.SegmentRange. Ranges belong to no project.
type SegmentRange struct {
	Name            string  `json:"name"`
	Type            string  `json:"type"`
	PhysicalNetwork *string `json:"physical_network"`
	Minimum         uint32  `json:"minimum"`
	Maximum         uint32  `json:"maximum"`
}

// Network is a wanted weft.v1.Network with its subnets.
type Network struct {
	Name            string  `json:"name"`
	Type            *string `json:"type"`
	PhysicalNetwork *string `json:"physical_network"`
	SegmentationID  *uint32 `json:"segmentation_id"`
	MTU             *int32  `json:"mtu"`
	External        *bool   `json:"external"`
	Shared          *bool   `json:"shared"`
	AdminStateUp    *bool   `json:"admin_state_up"`
	DNSDomain       *string `json:"dns_domain"`
	DHCPServers     *int32  `json:"dhcp_servers"`
	PortSecurity    *bool   `json:"port_security_enabled"`
	// Pool may be "none".
	Pool *string `json:"pool"`
	// GrantedTo are the other projects that may use it.
	GrantedTo []string `json:"granted_to"`
	Subnets   []Subnet `json:"subnets"`
}

// Subnet is a wanted weft.v1.Subnet.
type Subnet struct {
	Name string `json:"name"`
	CIDR string `json:"cidr"`
	// GatewayIP may be "none".
	GatewayIP       *string  `json:"gateway_ip"`
	AllocationPools []Pool   `json:"allocation_pools"`
	DNSNameservers  []string `json:"dns_nameservers"`
	HostRoutes      []Route  `json:"host_routes"`
	EnableDHCP      *bool    `json:"enable_dhcp"`
}

// Pool is a weft.v1.AllocationPool, as {start, end} or "A-B".
type Pool struct {
	Start string `json:"start"`
	End   string `json:"end"`
}

func (p *Pool) fromString(s string) (err error) {
	var ok bool
	if p.Start, p.End, ok = strings.Cut(s, "-"); !ok {
		return fmt.Errorf("%q is not of the form A-B", s)
	}
	return nil
}

// Route is a weft.v1.Route.
type Route struct {
	Destination string `json:"destination"`
	Nexthop     string `json:"nexthop"`
}

// Port is a wanted weft.v1.Port.
type Port struct {
	Name string `json:"name"`
	// Network is a name.
	Network       string            `json:"network"`
	MACAddress    *string           `json:"mac_address"`
	FixedIPs      []FixedIP         `json:"fixed_ips"`
	Host          *string           `json:"host"`
	DeviceID      *string           `json:"device_id"`
	DeviceOwner   *string           `json:"device_owner"`
	AdminStateUp  *bool             `json:"admin_state_up"`
	ExtraDHCPOpts map[string]string `json:"extra_dhcp_opts"`
	// SecurityGroups are names. A port whose security is switched off has none.
	SecurityGroups []string      `json:"security_groups"`
	PortSecurity   *bool         `json:"port_security_enabled"`
	AddressPairs   []AddressPair `json:"allowed_address_pairs"`
	// VIFType is "ovs" or "hybrid".
	VIFType *string `json:"vif_type"`
	// Instance is complete: what it leaves out, the VM does not learn.
	Instance *Instance `json:"instance"`
}

// Instance is a weft.v1.Instance: what the VM behind a port learns of itself.
type Instance struct {
	ID         string   `json:"id"`
	Hostname   string   `json:"hostname"`
	PublicKeys []string `json:"public_keys"`
	// UserData is text.
	UserData string            `json:"user_data"`
	Metadata map[string]string `json:"metadata"`
}

// AddressPair is a weft.v1.AddressPair, as {ip_address, mac_address} or an address.
type AddressPair struct {
	IPAddress  string `json:"ip_address"`
	MACAddress string `json:"mac_address"`
}

func (a *AddressPair) fromString(s string) error {
	a.IPAddress = s
	return nil
}

// FixedIP is an address of a port, as an address or {subnet, ip_address} of which either may be left out. Subnet is a
// name, or NETWORK/NAME.
type FixedIP struct {
	Subnet    string `json:"subnet"`
	IPAddress string `json:"ip_address"`
}

func (f *FixedIP) fromString(s string) error {
	f.IPAddress = s
	return nil
}

// Router is a wanted weft.v1.Router.
type Router struct {
	Name         string `json:"name"`
	AdminStateUp *bool  `json:"admin_state_up"`
	HA           *int32 `json:"ha"`
	// Pool may be "none".
	Pool       *string     `json:"pool"`
	Gateway    *Gateway    `json:"gateway"`
	Interfaces []Interface `json:"interfaces"`
	Routes     []Route     `json:"routes"`
}

// Gateway is a router's way out: the name of a network, {network, …}, or "none".
type Gateway struct {
	Network     string   `json:"network"`
	IPAddresses []string `json:"ip_addresses"`
	EnableSNAT  *bool    `json:"enable_snat"`
}

func (g *Gateway) fromString(s string) error {
	g.Network = s
	return nil
}

// Interface is a router's leg: the name of a subnet (or NETWORK/NAME), {subnet} or {port}.
type Interface struct {
	Subnet string `json:"subnet"`
	Port   string `json:"port"`
}

func (i *Interface) fromString(s string) error {
	i.Subnet = s
	return nil
}

// FloatingIP is a wanted weft.v1.FloatingIp.
type FloatingIP struct {
	Name string `json:"name"`
	// Network is a name.
	Network   string  `json:"network"`
	IPAddress *string `json:"ip_address"`
	// Port is a name, or "none".
	Port           *string `json:"port"`
	FixedIPAddress *string `json:"fixed_ip_address"`
}

// none is the word for an absent gateway, port and so on.
const none = "none"

func orNone(s string) string {
	if s == none {
		return ""
	}
	return s
}
