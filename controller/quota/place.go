package quota

import (
	"math/rand/v2"

	"github.com/weft-sdn/weft/ipam/space"
	"github.com/weft-sdn/weft/proto/keys"
)

// Above is the range of keys, end excluded, of the claims on places above one, and of those without a number.
func Above(project string, k Kind, place uint32) (start, end string) {
	return keys.PlaceClaim(project, k.Key, place+1), keys.End(keys.PlaceClaims(project, k.Key))
}

// Between is the range of keys, end excluded, of the claims on the places from first to last, both included.
func Between(project string, k Kind, first, last uint32) (start, end string) {
	return keys.PlaceClaim(project, k.Key, first), keys.PlaceClaim(project, k.Key, last+1)
}

// Room is the last place that may be taken under a limit, 0 if none may: the highest n for which n objects and those above
// place n are no more than the limit. above counts the claims in the range Above.
//
// It is the limit itself unless the limit was lowered, or there was none before. Then there are objects above it, and
// the more there are the less room is left below. Whoever takes a place up to n leaves no more than the limit, whatever
// others did since above was asked: nobody takes a place above the highest room that was ever given under this limit, and what was
// above that when it was given only becomes less.
func Room(limit uint32, above func(place uint32) (int64, error)) (uint32, error) {
	fits := func(n uint32) (bool, error) {
		more, err := above(n)
		return int64(n)+more <= int64(limit), err
	}
	if all, err := fits(limit); all || err != nil {
		return limit, err
	}
	low, high := uint32(0), limit // low fits or is 0, high does not: n and those above n only become more as n grows
	for high-low > 1 {
		middle := low + (high-low)/2
		ok, err := fits(middle)
		if err != nil {
			return 0, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}

// Probes names n different places of a room, or all when there are fewer, drawn with the seed.
func Probes(room uint32, seed uint64, n int) []uint32 {
	drawn := places(room).Probes(source(seed), n)
	out := make([]uint32, len(drawn))
	for i, d := range drawn {
		out[i] = uint32(d) //nolint:gosec // in the room
	}
	return out
}

// FindFree finds a free place of a room, each with the same probability; 0 if all are taken. count counts the claims in the
// range Between; it is asked about log2(room) times.
func FindFree(room uint32, seed uint64, count func(first, last uint32) (int64, error)) (uint32, error) {
	n, _, err := places(room).FindFree(source(seed), func(first, last uint64) (int64, error) {
		return count(uint32(first), uint32(last)) //nolint:gosec // in the room
	})
	return uint32(n), err //nolint:gosec // in the room, or 0
}

func places(room uint32) space.Space { return space.New(space.Range{First: 1, Last: uint64(room)}) }

// source draws from the seed; the second word tells this package's draws from others' with the same seed.
func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x71756f74)) }
