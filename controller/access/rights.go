// Package access says what etcd lets each identity of the fleet do, by etcd's own users and roles (etcd, "Role-based access
// control"), and makes it so. A user is named as the certificate's common name (proto/identity), which etcd takes for who
// is calling; a node's user has a role of its own under the same name. Controllers and admins have etcd's role root.
//
// What a node may do beyond its own keys follows from where routers are planned, so the leader keeps it up to date: Run.
// Who is a user at all is the operator's to say: Grant and Revoke.
//
// It protects keys from nodes. It does not stop a node from reading what other nodes' networks are, nor, with etcd 3.4, from
// asking for compaction or keeping another's lease alive.
package access

import (
	"maps"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
)

// Permission lets a user read a range of keys, and write it too. End is excluded; "" means Key alone.
type Permission struct {
	Key, End string
	Write    bool
}

func key(k string) Permission          { return Permission{Key: k} }
func under(prefix string) Permission   { return Permission{Key: prefix, End: keys.End(prefix)} }
func (p Permission) write() Permission { p.Write = true; return p }

// shared are the families that every agent may read: what networks, routers and groups are, and where the others are.
// Which of them a node follows depends on what is bound to it, which changes too often for roles.
var shared = []keys.Family{
	keys.FamilyNetwork, keys.FamilySubnet, keys.FamilyPort, keys.FamilyRouter, keys.FamilyFloatingIP,
	keys.FamilySecurityGroup, keys.FamilyRule, keys.FamilyMember, keys.FamilyAddressGroup,
	keys.FamilyActive, keys.FamilyAgent, keys.FamilyLive, keys.FamilyWitness,
}

// Placed is what is placed on a node. The zero value is nothing.
type Placed struct {
	// Routers are those that are planned on it, with all nodes of each: of these it may write who is active, which takes
	// looking at the other nodes' bindings.
	Routers map[string][]string
	// DHCP: it serves some network's.
	DHCP bool
}

// servesMetadata reports whether VMs may ask the node who they are.
func (p Placed) servesMetadata() bool { return p.DHCP || len(p.Routers) > 0 }

// Node is what the agent of a node may do.
func Node(node string, placed Placed) []Permission {
	out := []Permission{key(keys.Schema), under(keys.Host(node)), under(keys.Asks(node))}
	for _, f := range shared {
		out = append(out, under(keys.All(f)))
	}
	for _, p := range []Permission{
		key(keys.Agent(node)), key(keys.Live(node)), key(keys.Witness(node)),
		under(keys.Statuses(node)), under(keys.Plugs(node)), under(keys.Answers(node)),
	} {
		out = append(out, p.write())
	}
	if placed.servesMetadata() {
		out = append(out, under(keys.All(keys.FamilyInstance)))
	}
	for _, router := range slices.Sorted(maps.Keys(placed.Routers)) {
		out = append(out, key(keys.Active(router)).write())
		for _, other := range placed.Routers[router] {
			if other != node {
				out = append(out, key(keys.HostObject(other, keys.KindRouter, router)))
			}
		}
	}
	return out
}
