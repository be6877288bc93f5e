package keys

import (
	"fmt"
	"strings"
)

//go:generate sh -c "go run ./schemadoc >../../docs/etcd-schema.md"

// Spec describes a family of keys: the shape of its keys, the type of its values and who writes them.
type Spec struct {
	Family Family
	// Parts are the names of the elements after the family. For FamilyClaim, whose shapes differ by the first element, the
	// first is the literal kind.
	Parts []string
	// Value is the full name of the protobuf message that is the value.
	Value string
	// Writer is who writes such keys: "controller", "agent" (only below its own node) or both.
	Writer string
	Doc    string
}

// Families lists every shape of key, in the order of the schema document. The result is the caller's.
func Families() []Spec {
	return []Spec{
		{FamilyNetwork, []string{"network"}, "weft.v1.Network", "controller", "A network."},
		{FamilyNetworkGrant, []string{"network", "grant"}, "weft.v1.NetworkGrant", "controller", "A project other than the network's own may use it."},
		{FamilySubnet, []string{"network", "subnet"}, "weft.v1.Subnet", "controller", "A subnet, in its network's scope."},
		{FamilyPort, []string{"network", "port"}, "weft.v1.Port", "controller", "A port, in its network's scope: every node with a port of the network follows these."},
		{FamilyRouter, []string{"router"}, "weft.v1.Router", "controller", "A router with its gateway, interfaces, routes and placement."},
		{FamilyFloatingIP, []string{"router", "floatingip"}, "weft.v1.FloatingIp", "controller", "A floating IP, in the scope of the router that serves it, or \"-\"."},
		{FamilySecurityGroup, []string{"group"}, "weft.v1.SecurityGroup", "controller", "A security group."},
		{FamilyRule, []string{"group", "rule"}, "weft.v1.SecurityGroupRule", "controller", "A rule, in its security group's scope: nodes with a port of the group follow these."},
		{FamilyMember, []string{"group", "port"}, "weft.store.v1.Member", "controller", "The port is in the security group: nodes follow these whose ports' rules refer to the group."},
		{FamilyAddressGroup, []string{"group"}, "weft.v1.AddressGroup", "controller", "An address group."},
		{FamilyInstance, []string{"port"}, "weft.v1.Instance", "controller", "What the VM behind the port learns of itself; read when it asks."},
		{FamilySegmentRange, []string{"range"}, "weft.v1.SegmentRange", "controller", "A pool of segments."},
		{FamilyNode, []string{"node"}, "weft.store.v1.NodeSettings", "controller", "What the operator says of a node."},
		{FamilyLocator, []string{"kind", "id"}, "weft.store.v1.Locator", "controller", "The scope of a subnet, port, floating IP, rule or network grant."},
		{FamilyHost, []string{"node", KindPort, "port"}, "weft.store.v1.PortBinding", "controller", "The port is this node's to wire, or is refused there."},
		{FamilyHost, []string{"node", KindRouter, "router"}, "weft.store.v1.RouterBinding", "controller", "The node is planned to hold the router."},
		{FamilyHost, []string{"node", KindDHCP, "network"}, "weft.store.v1.DhcpBinding", "controller", "The node runs a DHCP server for the network."},
		{FamilyActive, []string{"router"}, "weft.store.v1.ActiveRouter", "controller and agent", "The one node that forwards for the router. Of agents, only those of nodes planned to hold the router write it, by compare and swap."},
		{FamilyAgent, []string{"node"}, "weft.store.v1.Agent", "agent", "What the node's agent says of itself; outlives it, as its tunnels do."},
		{FamilyLive, []string{"node"}, "weft.store.v1.Agent", "agent", "Exists, under a lease, while the agent lives."},
		{FamilyWitness, []string{"node"}, "weft.store.v1.Witness", "agent", "Which of its peers a network node hears."},
		{FamilyPlug, []string{"node", "port"}, "weft.store.v1.Plug", "agent", "The port's interface is on the node's integration bridge."},
		{FamilyStatus, []string{"node", "kind", "id"}, "weft.store.v1.Report", "agent", "The node's report on a port, router, floatingip or dhcp (id: the network's)."},
		{FamilyClaim, []string{ClaimSegment, "type", "physical_network", "segment"}, "weft.store.v1.Claim", "controller", "Who holds the segment (8 hex digits)."},
		{FamilyClaim, []string{ClaimAddress, "subnet", "address"}, "weft.store.v1.Claim", "controller", "Who holds the address (hex, 4 or 16 bytes)."},
		{FamilyClaim, []string{ClaimMAC, "network", "mac"}, "weft.store.v1.Claim", "controller", "Who holds the MAC address on the network."},
		{FamilyClaim, []string{ClaimFloating, "port", "address", "router"}, "weft.store.v1.Claim", "controller", "Which floating IP leads to the port's address through the router."},
		{FamilyClaim, []string{ClaimRemote, "group", "rule"}, "weft.store.v1.Claim", "controller", "The rule refers to the group, a security group other than its own or an address group, which therefore stays."},
		{FamilyClaim, []string{ClaimPlace, "project", "kind", "place"}, "weft.store.v1.Claim", "controller", "Which object takes the place (8 hex digits) of the project's quota, or counts without a number (of-<id>)."},
		{FamilyRequest, []string{"request"}, "weft.store.v1.Request", "controller", "The first result of a call, for its retries; under a lease."},
		{FamilyMove, []string{"router"}, "weft.store.v1.Move", "controller", "The router is to become active on another node."},
		{FamilyPool, []string{"pool"}, "weft.store.v1.PoolSettings", "controller", "What the operator says of a pool of network nodes."},
		{FamilyQuota, []string{"project"}, "weft.store.v1.Quota", "controller", "The limits that were set for the project."},
		{FamilyLeader, []string{"lease"}, "weft.store.v1.Leader", "controller", "A controller that leads (the lowest create revision) or is next; under its lease."},
		{FamilyAsk, []string{"node", "question"}, "weft.store.v1.Question", "controller", "The node's agent is asked how its node differs from the plan; under a lease."},
		{FamilyAnswer, []string{"node", "question"}, "weft.store.v1.Answer", "agent", "The agent's answer; under a lease."},
	}
}

// Key is a key taken apart.
type Key struct {
	Family Family
	// Parts are the elements after the family, as many as the family's Spec names.
	Parts []string
}

// ID is the last element: the object's own id or, for FamilyHost and FamilyStatus with KindDHCP, the network's.
func (k Key) ID() string { return k.Parts[len(k.Parts)-1] }

// Scope is the first element: the network of a port or subnet, the router of a floating IP, the node of a binding.
func (k Key) Scope() string { return k.Parts[0] }

// Kind is the kind of object that a FamilyHost or FamilyStatus key speaks of; "" for other families.
func (k Key) Kind() string {
	if k.Family == FamilyHost || k.Family == FamilyStatus {
		return k.Parts[1]
	}
	return ""
}

// Parse takes a key apart. It is an error if the key is not of a shape listed in Families, or an element is empty.
func Parse(key string) (Key, error) {
	rest, ok := strings.CutPrefix(key, Root)
	if !ok {
		return Key{}, fmt.Errorf("key %q: does not begin with %q", key, Root)
	}
	elements := strings.Split(rest, "/")
	k := Key{Family: Family(elements[0]), Parts: elements[1:]}
	for _, p := range k.Parts {
		if p == "" {
			return Key{}, fmt.Errorf("key %q: has an empty element", key)
		}
	}
	for _, s := range Families() {
		if s.Family == k.Family && s.fits(k.Parts) {
			return k, nil
		}
	}
	return Key{}, fmt.Errorf("key %q: no family of keys has this shape", key)
}

func (s Spec) fits(parts []string) bool {
	if len(parts) != len(s.Parts) {
		return false
	}
	switch s.Family {
	case FamilyHost:
		return parts[1] == s.Parts[1]
	case FamilyClaim:
		return parts[0] == s.Parts[0]
	default:
		return true
	}
}
