package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weft-sdn/weft/ipam/space"
	"github.com/weft-sdn/weft/proto/model"
)

// DefaultPools is all host addresses of a prefix but the gateway (R3): one pool, two when the gateway lies between, none
// when it is the only one. An invalid gateway means that there is none.
func DefaultPools(cidr netip.Prefix, gateway netip.Addr) []model.Pool {
	all := model.HostAddresses(cidr)
	if !gateway.IsValid() || !all.Contains(gateway) {
		return []model.Pool{all}
	}
	var pools []model.Pool
	if all.Start.Less(gateway) {
		pools = append(pools, model.Pool{Start: all.Start, End: gateway.Prev()})
	}
	if gateway.Less(all.End) {
		pools = append(pools, model.Pool{Start: gateway.Next(), End: all.End})
	}
	return pools
}

// Purpose is what an address is wanted for.
type Purpose int

// The purposes.
const (
	ForHost            Purpose = iota // a VM, a DHCP server, a router's external gateway port, a floating IP
	ForRouterInterface                // a router's leg in the subnet, which may be the subnet's gateway
)

// BadAddress is the error for an explicit address that nobody may have, or not for this purpose.
type BadAddress struct {
	IP      netip.Addr
	CIDR    netip.Prefix
	Problem string // ends the sentence that begins with the address
}

func (e *BadAddress) Error() string { return e.IP.String() + " " + e.Problem }

// CheckExplicit says whether an address that a caller asks for may be had, if it is free: it must be a host address of the
// subnet, inside or outside its pools, and its gateway only for a router's interface. The error is a *BadAddress.
func CheckExplicit(sub model.Subnet, ip netip.Addr, purpose Purpose) error {
	host := model.HostAddresses(sub.CIDR)
	problem := ""
	switch {
	case !sub.CIDR.Contains(ip):
		problem = fmt.Sprintf("is not inside %s", sub.CIDR)
	case ip.Less(host.Start):
		problem = fmt.Sprintf("is the address of the network %s itself", sub.CIDR)
	case host.End.Less(ip):
		problem = fmt.Sprintf("is the broadcast address of %s", sub.CIDR)
	case ip == sub.Gateway && purpose != ForRouterInterface:
		problem = fmt.Sprintf("is the gateway of %s, which only a router's interface can have", sub.CIDR)
	default:
		return nil
	}
	return &BadAddress{IP: ip, CIDR: sub.CIDR, Problem: problem}
}

// Probes names n different addresses of the subnet's pools, or all when there are fewer, drawn with the seed. It does not
// know which are taken: a caller reads the claims on a few probes at once, and while the subnet is not nearly full one of
// them is free.
func Probes(sub model.Subnet, seed uint64, n int) []netip.Addr {
	drawn := poolSpace(sub).Probes(source(seed), n)
	out := make([]netip.Addr, len(drawn))
	for i, d := range drawn {
		out[i] = address(sub.CIDR, d)
	}
	return out
}

// FindFree finds a free address in the subnet's pools, each with the same probability, so that clients that contend for
// the last ones spread over them. count tells how many addresses from first to last, both included, are claimed
// (ClaimRange); it is asked once per pool and then about log2(size of the pool) times. If it answers as of one revision
// the address was free at that revision, and the error is *Exhausted exactly if none was. Other errors are count's.
func FindFree(sub model.Subnet, seed uint64, count func(first, last netip.Addr) (int64, error)) (netip.Addr, error) {
	n, found, err := poolSpace(sub).FindFree(source(seed), func(first, last uint64) (int64, error) {
		return count(address(sub.CIDR, first), address(sub.CIDR, last))
	})
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("count the claims on subnet %s: %w", sub.CIDR, err)
	case !found:
		return netip.Addr{}, &Exhausted{Subnet: sub.ID, CIDR: sub.CIDR, Pools: sub.Pools}
	default:
		return address(sub.CIDR, n), nil
	}
}

// Exhausted is the error for a subnet all of whose pools are taken.
type Exhausted struct {
	Subnet string // id
	CIDR   netip.Prefix
	Pools  []model.Pool
}

func (e *Exhausted) Error() string {
	at := fmt.Sprintf("subnet %s (%s) has no free address", e.CIDR, e.Subnet)
	if len(e.Pools) == 0 {
		return at + ": it has no allocation pools; add one"
	}
	texts := make([]string, len(e.Pools))
	for i, p := range e.Pools {
		texts[i] = poolText(e.CIDR, p)
	}
	return fmt.Sprintf("%s: all of its pools are taken: %s; widen a pool or free addresses", at, strings.Join(texts, ", "))
}

func poolText(cidr netip.Prefix, p model.Pool) string {
	unit := "addresses"
	n := Size(cidr, p)
	if n == 1 {
		unit = "address"
	}
	return fmt.Sprintf("%s-%s (%d %s)", p.Start, p.End, n, unit)
}

// Size is how many addresses of the prefix a pool holds.
func Size(cidr netip.Prefix, p model.Pool) uint64 {
	return space.Range{First: offset(cidr, p.Start), Last: offset(cidr, p.End)}.Size()
}

func poolSpace(sub model.Subnet) space.Space {
	ranges := make([]space.Range, len(sub.Pools))
	for i, p := range sub.Pools {
		ranges[i] = space.Range{First: offset(sub.CIDR, p.Start), Last: offset(sub.CIDR, p.End)}
	}
	return space.New(ranges...)
}

// offset is the place of an address in its prefix. It takes the last 64 bits, all that vary below an IPv6 /64 too.
func offset(cidr netip.Prefix, ip netip.Addr) uint64 { return low(ip) - low(cidr.Masked().Addr()) }

func low(ip netip.Addr) uint64 {
	b := ip.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// address is the inverse of offset.
func address(cidr netip.Prefix, offset uint64) netip.Addr {
	base := cidr.Masked().Addr()
	b := base.As16()
	binary.BigEndian.PutUint64(b[8:], low(base)+offset)
	ip := netip.AddrFrom16(b)
	if base.Is4() {
		return ip.Unmap()
	}
	return ip
}
