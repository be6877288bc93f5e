// Package segments decides which segments (VLAN ids, VNIs, GRE keys) networks may have, and appends the claims on them to
// the network's transaction. It neither reads nor commits: the caller tries the candidates that Probes names, and when
// all are taken lets FindFree count. It knows nothing of how frames are tagged on a node: the local VLAN there is the
// agent's own.
//
// A claim has one key per segment of a type and physical network; its guard makes the transaction fail if anybody holds
// it. So a segment is held once or not at all, whatever this package's callers read before.
package segments

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/ipam/space"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Claim takes what a network stands on for itself: its segment or, for a flat network, the untagged frames of its physical
// network (segment 0). The transaction fails if it is taken.
func Claim(t *txn.Txn, n model.Network) { t.Claim(key(n), keys.KindNetwork, n.ID) }

// Release gives a network's segment back. The transaction must guard the network, so that nobody else's claim can be
// meant.
func Release(t *txn.Txn, n model.Network) { t.Delete(key(n)) }

func key(n model.Network) string {
	return keys.SegmentClaim(model.TypeName(n.Type), n.PhysicalNetwork, n.Segment)
}

// ClaimRange is the range of keys, end excluded, that holds the claims on segments first to last, both included, of a type
// and physical network ("" for tunnels): what the count function of FindFree counts.
func ClaimRange(t model.NetworkType, physicalNetwork string, first, last uint32) (start, end string) {
	name := model.TypeName(t)
	return keys.SegmentClaim(name, physicalNetwork, first), keys.SegmentClaim(name, physicalNetwork, last) + "\x00"
}

// Pool is the segments of one type and physical network that networks may have. Make it with NewPool. It is never changed
// and safe for concurrent use.
type Pool struct {
	Type            model.NetworkType
	PhysicalNetwork string               // "" for tunnels
	Ranges          []model.SegmentRange // those of the type and physical network, by their minimum
	space           space.Space
}

// NewPool picks the ranges of a type and physical network out of all ranges. Ranges may overlap.
func NewPool(t model.NetworkType, physicalNetwork string, ranges []model.SegmentRange) Pool {
	p := Pool{Type: t, PhysicalNetwork: physicalNetwork}
	var numbers []space.Range
	for _, r := range ranges {
		if r.Type == t && r.PhysicalNetwork == physicalNetwork {
			p.Ranges = append(p.Ranges, r)
			numbers = append(numbers, space.Range{First: uint64(r.Min), Last: uint64(r.Max)})
		}
	}
	slices.SortFunc(p.Ranges, func(a, b model.SegmentRange) int {
		return cmp.Or(cmp.Compare(a.Min, b.Min), cmp.Compare(a.Max, b.Max), cmp.Compare(a.ID, b.ID))
	})
	p.space = space.New(numbers...)
	return p
}

// Size is how many segments the pool holds; one that lies in two ranges counts once.
func (p Pool) Size() uint64 { return p.space.Size() }

// CheckExplicit says whether a segment that a caller asks for may be had, if it is free. The error is *Outside when it
// lies in no range.
func (p Pool) CheckExplicit(segment uint32) error {
	if p.space.Contains(uint64(segment)) {
		return nil
	}
	return &Outside{Segment: segment, Pool: p}
}

// Probes names n different segments of the pool, or all when there are fewer, drawn with the seed. It does not know which
// are taken: a caller reads the claims on a few probes at once, and while the pool is not nearly full one of them is
// free.
func (p Pool) Probes(seed uint64, n int) []uint32 {
	drawn := p.space.Probes(source(seed), n)
	out := make([]uint32, len(drawn))
	for i, d := range drawn {
		out[i] = uint32(d)
	}
	return out
}

// FindFree finds a free segment, each with the same probability, so that clients that contend for the last ones spread
// over them. count tells how many segments from first to last, both included, are claimed (ClaimRange); it is asked
// once per range and then about log2(size of the range) times. If it answers as of one revision the segment was free at
// that revision, and the error is *Exhausted exactly if none was. Other errors are count's.
func (p Pool) FindFree(seed uint64, count func(first, last uint32) (int64, error)) (uint32, error) {
	n, found, err := p.space.FindFree(source(seed), func(first, last uint64) (int64, error) {
		return count(uint32(first), uint32(last))
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("count the claims on the %s: %w", p.what(), err)
	case !found:
		return 0, &Exhausted{Pool: p}
	default:
		return uint32(n), nil
	}
}

// source draws from the seed; the second word tells this package's draws from others' with the same seed.
func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x7365676d)) }

// Outside is the error for an explicit segment in no range.
type Outside struct {
	Segment uint32
	Pool    Pool
}

func (e *Outside) Error() string {
	if len(e.Pool.Ranges) == 0 {
		return fmt.Sprintf("%d can't be had: %s", e.Segment, e.Pool.noRanges())
	}
	return fmt.Sprintf("%d is in none of the ranges of %s: %s", e.Segment, e.Pool.what(), e.Pool.rangesText())
}

// Exhausted is the error for a pool all of whose segments are taken, or that has none.
type Exhausted struct {
	Pool Pool
}

func (e *Exhausted) Error() string {
	if len(e.Pool.Ranges) == 0 {
		return "no segment can be had: " + e.Pool.noRanges()
	}
	return fmt.Sprintf("no free segment: all %s are taken: %s; add a range or delete networks", e.Pool.what(), e.Pool.rangesText())
}

// noRanges says that a pool is empty, and what to do.
func (p Pool) noRanges() string {
	return fmt.Sprintf("there is no range of %s; add one", p.what())
}

// what is e.g. "vlan segments of physical network tenant".
func (p Pool) what() string {
	text := model.TypeName(p.Type) + " segments"
	if p.Type == weftv1.NetworkType_NETWORK_TYPE_VLAN {
		text += " of physical network " + p.PhysicalNetwork
	}
	return text
}

// rangesText is e.g. "100-199 (blue, 100 segments), 300-300 (1 segment)".
func (p Pool) rangesText() string {
	texts := make([]string, len(p.Ranges))
	for i, r := range p.Ranges {
		texts[i] = rangeText(r)
	}
	return strings.Join(texts, ", ")
}

func rangeText(r model.SegmentRange) string {
	n := uint64(r.Max) - uint64(r.Min) + 1
	text := fmt.Sprintf("%d segments", n)
	if n == 1 {
		text = "1 segment"
	}
	if r.Name != "" {
		text = r.Name + ", " + text
	}
	return fmt.Sprintf("%d-%d (%s)", r.Min, r.Max, text)
}
