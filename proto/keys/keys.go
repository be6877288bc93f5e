// Package keys is the one place that knows how weft's etcd keys are spelled. It builds keys, ranges and parses keys
// back; it knows nothing of values beyond their type's name and does no I/O. docs/etcd-schema.md is generated from the
// table in schema.go.
//
// Keys are grouped by the scope that a reader has to follow: an agent follows host/<node>/, and for each network and
// router that leads to, the few ranges that hold them (DESIGN: "agents derive, controllers do not project").
package keys

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Root is the prefix of every key.
const Root = "/weft/v1/"

// Schema holds the version of this layout; it lies outside Root so that every version can read it.
const Schema = "/weft/schema"

// Restore marks a store into which a backup is being restored; it lies outside Root as Schema does.
const Restore = "/weft/restore"

// Family is the first element of a key below Root.
type Family string

// The families of keys; see Families for what each holds.
const (
	FamilyNetwork      Family = "network"
	FamilySubnet       Family = "subnet"
	FamilyPort         Family = "port"
	FamilyRouter       Family = "router"
	FamilyFloatingIP   Family = "floatingip"
	FamilySegmentRange Family = "segmentrange"
	FamilyNode         Family = "node"
	FamilyLocator      Family = "locator"
	FamilyHost         Family = "host"
	FamilyActive       Family = "active"
	FamilyAgent        Family = "agent"
	FamilyLive         Family = "live"
	FamilyPlug         Family = "plug"
	FamilyStatus       Family = "status"
	FamilyClaim        Family = "claim"
	FamilyRequest      Family = "request"
	FamilyMove         Family = "move"
	FamilyPool         Family = "pool"
	FamilyLeader       Family = "leader"
	FamilyAsk          Family = "ask"
	FamilyAnswer       Family = "answer"
	FamilyWitness      Family = "witness"
	FamilyQuota        Family = "quota"
	// Security groups.
	FamilySecurityGroup Family = "securitygroup"
	FamilyRule          Family = "rule"
	FamilyMember        Family = "member"
	FamilyAddressGroup  Family = "addressgroup"
	FamilyInstance      Family = "instance"
	FamilyNetworkGrant  Family = "networkgrant"
)

// The things that host/<node>/, status/<node>/, locator/ and claims speak of.
const (
	KindPort         = "port"
	KindSubnet       = "subnet"
	KindRouter       = "router"
	KindDHCP         = "dhcp"
	KindFloatingIP   = "floatingip"
	KindNetwork      = "network"
	KindRule         = "rule"
	KindNetworkGrant = "networkgrant"

	KindSecurityGroup = "securitygroup"
	KindAddressGroup  = "addressgroup"
)

// The kinds of claim.
const (
	ClaimSegment  = "segment"
	ClaimAddress  = "address"
	ClaimMAC      = "mac"
	ClaimFloating = "floating"
	ClaimRemote   = "remote"
	ClaimPlace    = "place"
)

// Unassociated is the scope of a floating IP that no router serves.
const Unassociated = "-"

// none stands in for an empty element, such as the physical network of a VXLAN segment.
const none = "-"

func join(f Family, parts ...string) string {
	return Root + string(f) + "/" + strings.Join(parts, "/")
}

func under(f Family, parts ...string) string { return join(f, append(parts, "")...) }

// All is the range of a whole family, as a prefix.
func All(f Family) string { return Root + string(f) + "/" }

// Network is the key of a network.
func Network(id string) string { return join(FamilyNetwork, id) }

// NetworkGrant is the key of a grant of a network.
func NetworkGrant(network, id string) string { return join(FamilyNetworkGrant, network, id) }

// NetworkGrants is the prefix of a network's grants.
func NetworkGrants(network string) string { return under(FamilyNetworkGrant, network) }

// Subnet is the key of a subnet.
func Subnet(network, id string) string { return join(FamilySubnet, network, id) }

// Subnets is the prefix of a network's subnets.
func Subnets(network string) string { return under(FamilySubnet, network) }

// Port is the key of a port.
func Port(network, id string) string { return join(FamilyPort, network, id) }

// Ports is the prefix of a network's ports.
func Ports(network string) string { return under(FamilyPort, network) }

// Router is the key of a router.
func Router(id string) string { return join(FamilyRouter, id) }

// FloatingIP is the key of a floating IP. router is the router that serves it, or Unassociated.
func FloatingIP(router, id string) string { return join(FamilyFloatingIP, router, id) }

// FloatingIPs is the prefix of the floating IPs that a router serves.
func FloatingIPs(router string) string { return under(FamilyFloatingIP, router) }

// SecurityGroup is the key of a security group.
func SecurityGroup(id string) string { return join(FamilySecurityGroup, id) }

// Rule is the key of a rule of a security group.
func Rule(group, id string) string { return join(FamilyRule, group, id) }

// Rules is the prefix of a security group's rules.
func Rules(group string) string { return under(FamilyRule, group) }

// Member is the key that says that a port is in a security group, and under which addresses.
func Member(group, port string) string { return join(FamilyMember, group, port) }

// Members is the prefix of a security group's members.
func Members(group string) string { return under(FamilyMember, group) }

// AddressGroup is the key of an address group.
func AddressGroup(id string) string { return join(FamilyAddressGroup, id) }

// Instance is the key of what the VM behind a port learns of itself.
func Instance(port string) string { return join(FamilyInstance, port) }

// SegmentRange is the key of a segment range.
func SegmentRange(id string) string { return join(FamilySegmentRange, id) }

// Node is the key of an operator's settings for a node.
func Node(name string) string { return join(FamilyNode, name) }

// Locator is the key that tells in which scope the object of a kind lies: the network of a subnet or port, the router of
// a floating IP.
func Locator(kind, id string) string { return join(FamilyLocator, kind, id) }

// Host is the prefix of everything bound to, or placed on, a node.
func Host(node string) string { return under(FamilyHost, node) }

// HostKind is the prefix of everything of one kind (KindPort, KindRouter, KindDHCP) bound to or placed on a node.
func HostKind(node, kind string) string { return under(FamilyHost, node, kind) }

// HostObject is the key of the binding of one object to a node; for KindDHCP the id is the network's.
func HostObject(node, kind, id string) string { return join(FamilyHost, node, kind, id) }

// Active is the key that says which node forwards for a router. Nodes planned to hold the router change it, by compare and
// swap.
func Active(router string) string { return join(FamilyActive, router) }

// Agent is the key of a node's agent's description of itself.
func Agent(node string) string { return join(FamilyAgent, node) }

// Live is the key that exists, under a lease, while a node's agent lives.
func Live(node string) string { return join(FamilyLive, node) }

// Plug is the key by which an agent says that a port's interface has appeared on its node.
func Plug(node, port string) string { return join(FamilyPlug, node, port) }

// Plugs is the prefix of a node's plugs.
func Plugs(node string) string { return under(FamilyPlug, node) }

// Status is the key of a node's report on an object; for KindDHCP the id is the network's.
func Status(node, kind, id string) string { return join(FamilyStatus, node, kind, id) }

// Statuses is the prefix of a node's reports.
func Statuses(node string) string { return under(FamilyStatus, node) }

// Request is the key of the remembered result of a call.
func Request(id string) string { return join(FamilyRequest, id) }

// Witness is the key by which a network node says which of its peers it hears.
func Witness(node string) string { return join(FamilyWitness, node) }

// Move is the key of the wish that a router become active on another node.
func Move(router string) string { return join(FamilyMove, router) }

// Pool is the key of the settings of a pool of network nodes.
func Pool(id string) string { return join(FamilyPool, id) }

// Quota is the key of the limits that were set for a project.
func Quota(project string) string { return join(FamilyQuota, project) }

// Leaders is the prefix of the keys of the controllers that lead or are next.
func Leaders() string { return All(FamilyLeader) }

// Leader is the key of one of them; lease is its lease, 16 hex digits.
func Leader(lease string) string { return join(FamilyLeader, lease) }

// Ask is the key of a question to a node's agent.
func Ask(node, question string) string { return join(FamilyAsk, node, question) }

// Asks is the prefix of the questions to a node's agent.
func Asks(node string) string { return under(FamilyAsk, node) }

// Answer is the key of the agent's answer to a question.
func Answer(node, question string) string { return join(FamilyAnswer, node, question) }

// Answers is the prefix of a node's answers.
func Answers(node string) string { return under(FamilyAnswer, node) }

// SegmentClaim is the key of the claim on a segment. networkType is "vlan", "vxlan", "gre" or "flat" (segment 0);
// physicalNetwork is empty for tunnels. Claims of one type and physical network sort by segment.
func SegmentClaim(networkType, physicalNetwork string, segment uint32) string {
	return SegmentClaims(networkType, physicalNetwork) + fmt.Sprintf("%08x", segment)
}

// SegmentClaims is the prefix of the claims on the segments of one type and physical network.
func SegmentClaims(networkType, physicalNetwork string) string {
	if physicalNetwork == "" {
		physicalNetwork = none
	}
	return under(FamilyClaim, ClaimSegment, networkType, physicalNetwork)
}

// AddressClaim is the key of the claim on an address of a subnet. Claims of one subnet sort by address.
func AddressClaim(subnet string, ip netip.Addr) string {
	return AddressClaims(subnet) + hex.EncodeToString(ip.AsSlice())
}

// AddressClaims is the prefix of the claims on a subnet's addresses.
func AddressClaims(subnet string) string { return under(FamilyClaim, ClaimAddress, subnet) }

// MACClaim is the key of the claim on a MAC address, in the form "fa:16:3e:00:00:01", on a network.
func MACClaim(network, mac string) string { return join(FamilyClaim, ClaimMAC, network, mac) }

// MACClaims is the prefix of the claims on a network's MAC addresses.
func MACClaims(network string) string { return under(FamilyClaim, ClaimMAC, network) }

// FloatingClaim is the key of the claim by which at most one floating IP leads to a port's fixed address through one
// router.
func FloatingClaim(port string, fixed netip.Addr, router string) string {
	return FloatingClaims(port) + hex.EncodeToString(fixed.AsSlice()) + "/" + router
}

// FloatingClaims is the prefix of the floating claims on a port.
func FloatingClaims(port string) string { return under(FamilyClaim, ClaimFloating, port) }

// RemoteClaim is the key by which a rule refers to a security group other than its own, or to an address group.
func RemoteClaim(group, rule string) string { return RemoteClaims(group) + rule }

// RemoteClaims is the prefix of the references to a security group or an address group.
func RemoteClaims(group string) string { return under(FamilyClaim, ClaimRemote, group) }

// PlaceClaim is the key of the claim on a place of a project's quota of a kind. Claims of one project and kind sort by
// place.
func PlaceClaim(project, kind string, place uint32) string {
	return PlaceClaims(project, kind) + fmt.Sprintf("%08x", place)
}

// UnnumberedPlace is the key by which an object counts that was made while its project had no limit. It sorts after those of
// all places.
func UnnumberedPlace(project, kind, id string) string { return PlaceClaims(project, kind) + "of-" + id }

// PlaceClaims is the prefix of the claims by which a project's objects of a kind count.
func PlaceClaims(project, kind string) string { return under(FamilyClaim, ClaimPlace, project, kind) }

// End is the end (excluded) of the range of keys that begin with prefix, as etcd's Range wants it.
func End(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\x00"
}
