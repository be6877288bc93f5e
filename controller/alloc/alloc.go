// Package alloc chooses addresses, MAC addresses, segments and places of quotas for objects under construction: it asks the
// store what packages ipam, segments and quota need to know. It appends nothing to transactions: the claim that the caller makes is what
// holds the choice.
package alloc

import (
	"context"
	"math/rand/v2"
	"net/netip"

	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/segments"
)

// probes is how many candidates are looked at together before counting.
const probes = 8

// Allocator chooses as of a view. A blind one takes the first candidate without looking: right while most are free, and
// otherwise found out by the claim's guard, after which the next attempt must not be blind. It is not safe for
// concurrent use.
type Allocator struct {
	View  *record.View
	Blind bool
}

// Address chooses a free address of a subnet's pools that is not in taken. The error is *ipam.Exhausted exactly when,
// taken aside, there was none at the view's revision; a blind allocator says so only of a subnet without pools.
func (a *Allocator) Address(ctx context.Context, sub model.Subnet, taken map[netip.Addr]bool) (netip.Addr, error) {
	candidates := ipam.Probes(sub, rand.Uint64(), probes)
	keysOf := make([]string, 0, len(candidates))
	free := make([]netip.Addr, 0, len(candidates))
	for _, ip := range candidates {
		if !taken[ip] {
			keysOf, free = append(keysOf, keys.AddressClaim(sub.ID, ip)), append(free, ip)
		}
	}
	i, err := a.firstFree(ctx, keysOf)
	if err != nil {
		return netip.Addr{}, err
	}
	if i >= 0 {
		return free[i], nil
	}
	return a.countAddress(ctx, sub, taken)
}

// LowAddress is Address, but prefers the first addresses of the subnet's pools: where an operator looks for a DHCP server,
// and out of the way of addresses that tenants ask for by name.
func (a *Allocator) LowAddress(ctx context.Context, sub model.Subnet, taken map[netip.Addr]bool) (netip.Addr, error) {
	var low []netip.Addr
	var keysOf []string
	for _, pool := range sub.Pools {
		for ip := pool.Start; pool.Contains(ip) && len(low) < probes; ip = ip.Next() {
			if !taken[ip] {
				low, keysOf = append(low, ip), append(keysOf, keys.AddressClaim(sub.ID, ip))
			}
		}
	}
	i, err := a.firstFree(ctx, keysOf)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case i >= 0:
		return low[i], nil
	default:
		return a.Address(ctx, sub, taken)
	}
}

func (a *Allocator) countAddress(ctx context.Context, sub model.Subnet, taken map[netip.Addr]bool) (netip.Addr, error) {
	return ipam.FindFree(sub, rand.Uint64(), func(first, last netip.Addr) (int64, error) {
		start, end := ipam.ClaimRange(sub.ID, first, last)
		n, err := a.count(ctx, start, end)
		if err != nil {
			return 0, err
		}
		for ip := range taken {
			if first.Compare(ip) <= 0 && ip.Compare(last) <= 0 {
				extra, err := a.unclaimed(ctx, keys.AddressClaim(sub.ID, ip))
				if err != nil {
					return 0, err
				}
				n += extra
			}
		}
		return n, nil
	})
}

// unclaimed is 1 when a key does not exist: an address taken in this transaction that no count in the store includes.
func (a *Allocator) unclaimed(ctx context.Context, key string) (int64, error) {
	_, found, err := a.View.One(ctx, key)
	if err != nil || found {
		return 0, err
	}
	return 1, nil
}

// MAC chooses a MAC address that is free on a network.
func (a *Allocator) MAC(ctx context.Context, network string) (string, error) {
	for {
		candidates := make([]string, probes)
		keysOf := make([]string, probes)
		for i := range candidates {
			candidates[i] = ipam.RandomMAC(rand.Uint64())
			keysOf[i] = keys.MACClaim(network, candidates[i])
		}
		i, err := a.firstFree(ctx, keysOf)
		if err != nil {
			return "", err
		}
		if i >= 0 {
			return candidates[i], nil
		}
	}
}

// Segment chooses a free segment of a pool. The error is *segments.Exhausted as with Address.
func (a *Allocator) Segment(ctx context.Context, pool segments.Pool) (uint32, error) {
	candidates := pool.Probes(rand.Uint64(), probes)
	keysOf := make([]string, len(candidates))
	for i, s := range candidates {
		keysOf[i] = keys.SegmentClaim(model.TypeName(pool.Type), pool.PhysicalNetwork, s)
	}
	i, err := a.firstFree(ctx, keysOf)
	if err != nil {
		return 0, err
	}
	if i >= 0 {
		return candidates[i], nil
	}
	return pool.FindFree(rand.Uint64(), func(first, last uint32) (int64, error) {
		start, end := segments.ClaimRange(pool.Type, pool.PhysicalNetwork, first, last)
		return a.count(ctx, start, end)
	})
}

// Place chooses a free place for one more of a project's objects of a kind under a limit, which the transaction must guard;
// 0 exactly when none was left at the view's revision. What a blind allocator chooses, and that nothing is left, is right
// only if no claim lies above the limit (quota.Above).
func (a *Allocator) Place(ctx context.Context, project string, k quota.Kind, limit uint32) (uint32, error) {
	room := limit
	if !a.Blind {
		var err error
		room, err = quota.Room(limit, func(place uint32) (int64, error) {
			start, end := quota.Above(project, k, place)
			return a.count(ctx, start, end)
		})
		if err != nil {
			return 0, err
		}
	}
	candidates := quota.Probes(room, rand.Uint64(), probes)
	keysOf := make([]string, len(candidates))
	for i, place := range candidates {
		keysOf[i] = keys.PlaceClaim(project, k.Key, place)
	}
	i, err := a.firstFree(ctx, keysOf)
	if err != nil {
		return 0, err
	}
	if i >= 0 {
		return candidates[i], nil
	}
	return quota.FindFree(room, rand.Uint64(), func(first, last uint32) (int64, error) {
		start, end := quota.Between(project, k, first, last)
		return a.count(ctx, start, end)
	})
}

// firstFree is the index of the first key that does not exist, -1 if all do.
func (a *Allocator) firstFree(ctx context.Context, keysOf []string) (int, error) {
	if a.Blind && len(keysOf) > 0 {
		return 0, nil
	}
	queries := make([]store.Query, len(keysOf))
	for i, k := range keysOf {
		queries[i] = store.Key(k)
	}
	results, err := a.View.Read(ctx, queries...)
	if err != nil {
		return -1, err
	}
	for i, r := range results {
		if len(r.Entries) == 0 {
			return i, nil
		}
	}
	return -1, nil
}

func (a *Allocator) count(ctx context.Context, start, end string) (int64, error) {
	results, err := a.View.Read(ctx, store.Count(start, end))
	if err != nil {
		return 0, err
	}
	return results[0].Count, nil
}
