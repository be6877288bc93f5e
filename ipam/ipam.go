// Package ipam decides which addresses of a subnet, and which MAC addresses of a network, may be had, and appends the
// claims on them to the transaction of the object that is to hold them. It neither reads nor commits: the caller tries
// the candidates that Probes names, and when all are taken lets FindFree count. It does not check subnets (package model
// does) and knows nothing of ports beyond what they hold.
//
// A claim has one key per address; its guard makes the transaction fail if anybody holds it. So an address is held
// once or not at all, whatever this package's callers read before.
package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/txn"
)

// Claim takes an address of a subnet for an object, given by its kind and id: the transaction fails if it is taken.
func Claim(t *txn.Txn, subnet string, ip netip.Addr, ownerKind, ownerID string) {
	t.Claim(keys.AddressClaim(subnet, ip), ownerKind, ownerID)
}

// Release gives an address back. The transaction must guard the object that holds it, so that nobody else's claim can be
// meant.
func Release(t *txn.Txn, subnet string, ip netip.Addr) { t.Delete(keys.AddressClaim(subnet, ip)) }

// ClaimMAC takes a MAC address, as model.Port has it, on a network for an object: the transaction fails if it is taken.
func ClaimMAC(t *txn.Txn, network, mac, ownerKind, ownerID string) {
	t.Claim(keys.MACClaim(network, mac), ownerKind, ownerID)
}

// ReleaseMAC gives a MAC address back; as with Release the transaction must guard its holder.
func ReleaseMAC(t *txn.Txn, network, mac string) { t.Delete(keys.MACClaim(network, mac)) }

// ClaimPort takes everything that a port holds: its MAC address and each fixed address.
func ClaimPort(t *txn.Txn, p model.Port) { UpdatePort(t, model.Port{}, p) }

// ReleasePort gives back everything that a port holds. The transaction must guard the port.
func ReleasePort(t *txn.Txn, p model.Port) { UpdatePort(t, p, model.Port{}) }

// UpdatePort gives back what only the old form of a port holds and takes what only the new one does; what both hold is
// not touched. The transaction must guard the port. The zero Port holds nothing.
func UpdatePort(t *txn.Txn, before, after model.Port) {
	had, has := holdings(before), holdings(after)
	for _, key := range had {
		if !slices.Contains(has, key) {
			t.Delete(key)
		}
	}
	for _, key := range has {
		if !slices.Contains(had, key) {
			t.Claim(key, keys.KindPort, after.ID)
		}
	}
}

func holdings(p model.Port) []string {
	var all []string
	if p.MAC != "" {
		all = append(all, keys.MACClaim(p.Network, p.MAC))
	}
	for _, f := range p.FixedIPs {
		all = append(all, keys.AddressClaim(f.Subnet, f.IP))
	}
	return all
}

// ClaimRange is the range of keys, end excluded, that holds the claims on a subnet's addresses from first to last, both
// included: what the count function of FindFree counts.
func ClaimRange(subnet string, first, last netip.Addr) (start, end string) {
	return keys.AddressClaim(subnet, first), keys.AddressClaim(subnet, last) + "\x00"
}

// RandomMAC draws a MAC address below the base prefix fa:16:3e (REFERENCE R4); 2^24 there are. The same seed gives the
// same address.
func RandomMAC(seed uint64) string {
	n := source(seed).Uint32()
	return fmt.Sprintf("fa:16:3e:%02x:%02x:%02x", byte(n>>16), byte(n>>8), byte(n))
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x77656674)) }
