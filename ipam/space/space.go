// Package space picks free numbers from a set of ranges without ever holding the set: at random while most are free, and
// by counting what is taken when few are. It knows neither what the numbers stand for (packages ipam and segments do) nor
// where the taken ones are kept. It is pure apart from the counting function that its caller passes in.
package space

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// Range is the numbers from First to Last, both included. First is at most Last.
type Range struct {
	First, Last uint64
}

// Size is how many numbers the range holds. It is exact below 2^64 numbers; the one range that holds 2^64 is said to hold
// one less.
func (r Range) Size() uint64 {
	if n := r.Last - r.First + 1; n != 0 {
		return n
	}
	return 1<<64 - 1
}

// Contains reports whether the range holds the number.
func (r Range) Contains(n uint64) bool { return r.First <= n && n <= r.Last }

// Space is a set of numbers: ranges in order that neither overlap nor touch. Make it with New. It is never changed and
// safe for concurrent use.
type Space struct {
	ranges []Range
	size   uint64
}

// New is the union of the ranges, in any order; they may overlap. Together they must hold fewer than 2^63 numbers, for
// counts are signed. Ranges whose First is above their Last are empty.
func New(ranges ...Range) Space {
	sorted := slices.DeleteFunc(slices.Clone(ranges), func(r Range) bool { return r.First > r.Last })
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var s Space
	for _, r := range sorted {
		s.append(r)
	}
	for _, r := range s.ranges {
		s.size += r.Size()
	}
	return s
}

// append adds a range that begins no earlier than the last one.
func (s *Space) append(r Range) {
	if n := len(s.ranges); n > 0 {
		last := &s.ranges[n-1]
		if last.Contains(r.First) || r.First == last.Last+1 {
			last.Last = max(last.Last, r.Last)
			return
		}
	}
	s.ranges = append(s.ranges, r)
}

// Size is how many numbers the space holds.
func (s Space) Size() uint64 { return s.size }

// Contains reports whether the space holds the number.
func (s Space) Contains(n uint64) bool {
	return slices.ContainsFunc(s.ranges, func(r Range) bool { return r.Contains(n) })
}

// at is the number with index i, from 0 to Size-1, in order.
func (s Space) at(i uint64) uint64 {
	for _, r := range s.ranges {
		if i < r.Size() {
			return r.First + i
		}
		i -= r.Size()
	}
	panic("space: index beyond the size")
}

// Probes draws n different numbers of the space, or all of them when there are fewer, in random order. It takes memory
// for n numbers.
func (s Space) Probes(r *rand.Rand, n int) []uint64 {
	if uint64(n) > s.size {
		n = int(s.size)
	}
	// R. W. Floyd's sampling: each step draws from one more index, and takes the new one when it draws a used one.
	taken := make(map[uint64]bool, n)
	out := make([]uint64, 0, n)
	for limit := s.size - uint64(n); limit < s.size; limit++ {
		i := r.Uint64N(limit + 1)
		if taken[i] {
			i = limit
		}
		taken[i] = true
		out = append(out, s.at(i))
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Count tells how many numbers from first to last, both included, are taken.
type Count func(first, last uint64) (int64, error)

// FindFree returns a number that is not taken, each with the same probability, so that clients that contend for the last
// ones spread over them. found is false exactly if all are taken. It asks for one count per range and then one per
// halving: at most log2(Size)+1 more. That holds if the counts are all of one moment; otherwise the number may be
// taken by now, and found false may only have been true of a moment in between. An error of count is returned as it is.
func (s Space) FindFree(r *rand.Rand, count Count) (n uint64, found bool, err error) {
	free := make([]uint64, len(s.ranges))
	var total uint64
	for i, rg := range s.ranges {
		if free[i], err = freeIn(rg, count); err != nil {
			return 0, false, err
		}
		total += free[i]
	}
	if total == 0 {
		return 0, false, nil
	}
	pick := r.Uint64N(total)
	for i, rg := range s.ranges {
		if pick < free[i] {
			n, err = nthFree(rg, pick, count)
			return n, err == nil, err
		}
		pick -= free[i]
	}
	panic("space: a pick beyond the total")
}

// freeIn is how many numbers of the range are free. Counts of different moments may say that more are taken than there
// are; that is none free.
func freeIn(rg Range, count Count) (uint64, error) {
	taken, err := count(rg.First, rg.Last)
	if err != nil {
		return 0, err
	}
	return rg.Size() - min(uint64(max(taken, 0)), rg.Size()), nil
}

// nthFree is the free number with n free ones before it in the range, found by halving.
func nthFree(rg Range, n uint64, count Count) (uint64, error) {
	for rg.First < rg.Last {
		low := Range{First: rg.First, Last: rg.First + (rg.Last-rg.First)/2}
		free, err := freeIn(low, count)
		if err != nil {
			return 0, err
		}
		if n < free {
			rg = low
			continue
		}
		n -= free
		rg.First = low.Last + 1
	}
	return rg.First, nil
}
