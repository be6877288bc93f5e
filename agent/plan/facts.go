// Package plan computes what a node should have from what its agent knows of the store (package view) and of the host
// (Facts): flows, OVS ports, namespaces, NAT, DHCP. It is pure: the same view and facts give the same plan, nothing is
// read or written, and no time passes. Drivers make it so.
//
// Plans come in pieces, one per port, network, router and DHCP server, so that the work is proportional to the change;
// Planner keeps the pieces and says what a change adds and deletes.
package plan

import (
	"net/netip"
	"time"

	"github.com/weft-sdn/weft/proto/model"
)

// The bridges that weft owns (REFERENCE R9, R11).
const (
	BrInt = "br-int"
	BrTun = "br-tun"
)

// The patch ports between br-int and br-tun (REFERENCE R11).
const (
	PatchTun = "patch-tun" // on br-int
	PatchInt = "patch-int" // on br-tun
)

// Plugged is an interface on br-int that carries a port's id in external_ids:iface-id.
type Plugged struct {
	Name   string
	OFPort uint32
}

// Facts are what the planner has to know of the host.
type Facts struct {
	// TunnelIP is the local end of tunnels; invalid: this node has none.
	TunnelIP netip.Addr
	// Bridges are the provider bridges that exist, by physical network.
	Bridges map[string]string
	// OFPorts are the OpenFlow numbers of weft's own ports, by name.
	OFPorts map[string]uint32
	// Plugged are the VM interfaces found on br-int, by port id.
	Plugged map[string]Plugged
	// Filtered are the ports, by id, whose own bridges are filtered as Planner.Bridged wants: of those plugged the hybrid way.
	Filtered map[string]bool
	// ProtocolNames are as in hybrid.Filters.
	ProtocolNames map[model.Protocol]string
	// VLANs are the local VLANs, by network.
	VLANs map[string]uint16
	// DatapathType is that of the bridges that weft creates: "system" or "netdev".
	DatapathType string
	// BFD is how this node and its peers watch each other.
	BFD BFD
	// Metadata: the node serves metadata.
	Metadata bool
	// Silent: the node forwards for no router at present.
	Silent bool
}

// BFD is the timing of the sessions between the network nodes of a pool (RFC 5880).
type BFD struct {
	// Interval is that of packets, in whole milliseconds; 0: no sessions.
	Interval time.Duration
	// Multiplier is after how many intervals without a packet the far end is lost, 1 to 255.
	Multiplier int
}

// IntPatch is the name of br-int's end of the patch to a provider bridge, PhysPatch that of the bridge's end
// (REFERENCE R10). Names of patch ports are not limited to a device's 15 bytes.
func IntPatch(bridge string) string { return "int-" + bridge }

// PhysPatch is the provider bridge's end, see IntPatch.
func PhysPatch(bridge string) string { return "phy-" + bridge }

// idLength is how much of a port's UUID goes into a device name, so that prefix and all fit 15 bytes (REFERENCE R9).
const idLength = 11

// DeviceName is the name of the device of one of the system's own ports: prefix "qr-", "qg-" or "tap".
func DeviceName(prefix, port string) string { return prefix + port[:min(idLength, len(port))] }
