package space_test

import (
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/ipam/space"
)

// ranges draws up to four ranges with bounds up to limit that may overlap, touch or be empty.
func ranges(limit uint64) *rapid.Generator[[]space.Range] {
	one := rapid.Custom(func(t *rapid.T) space.Range {
		first := rapid.Uint64Range(0, limit).Draw(t, "first")
		return space.Range{First: first, Last: rapid.Uint64Range(0, limit).Draw(t, "last")}
	})
	return rapid.SliceOfN(one, 0, 4)
}

func members(rs []space.Range, limit uint64) map[uint64]bool {
	all := map[uint64]bool{}
	for n := range limit + 1 {
		if slices.ContainsFunc(rs, func(r space.Range) bool { return r.First <= n && n <= r.Last }) {
			all[n] = true
		}
	}
	return all
}

func source(t *rapid.T) *rand.Rand {
	return rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
}

// counter counts the taken numbers of a range, and how often it was asked.
func counter(taken map[uint64]bool, asked *int) space.Count {
	return func(first, last uint64) (int64, error) {
		*asked++
		var n int64
		for k := range taken {
			if first <= k && k <= last {
				n++
			}
		}
		return n, nil
	}
}

func TestASpaceHoldsWhatItsRangesHold(t *testing.T) {
	const limit = 60
	rapid.Check(t, func(t *rapid.T) {
		rs := ranges(limit).Draw(t, "ranges")
		s, want := space.New(rs...), members(rs, limit)
		if s.Size() != uint64(len(want)) {
			t.Fatalf("size %d, want %d", s.Size(), len(want))
		}
		for n := range uint64(limit + 5) {
			if s.Contains(n) != want[n] {
				t.Fatalf("Contains(%d) = %v", n, s.Contains(n))
			}
		}
	})
}

func TestProbesAreInsideDistinctAndAsManyAsCanBe(t *testing.T) {
	const limit = 40
	rapid.Check(t, func(t *rapid.T) {
		rs := ranges(limit).Draw(t, "ranges")
		n := rapid.IntRange(0, 50).Draw(t, "n")
		s, all := space.New(rs...), members(rs, limit)
		seen := map[uint64]bool{}
		for _, p := range s.Probes(source(t), n) {
			if !all[p] || seen[p] {
				t.Fatalf("probe %d is outside or drawn twice", p)
			}
			seen[p] = true
		}
		if len(seen) != min(n, len(all)) {
			t.Fatalf("%d probes, want %d", len(seen), min(n, len(all)))
		}
	})
}

func TestFindFreeFindsAFreeNumberExactlyIfThereIsOne(t *testing.T) {
	const limit = 60
	rapid.Check(t, func(t *rapid.T) {
		rs := ranges(limit).Draw(t, "ranges")
		all := members(rs, limit)
		taken := map[uint64]bool{}
		leaveOut := rapid.IntRange(0, 3).Draw(t, "free")
		for n := range uint64(limit + 1) {
			switch {
			case leaveOut > 0 && all[n] && rapid.Bool().Draw(t, "leave"):
				leaveOut--
			default:
				taken[n] = true // outside the space too: that must not matter
			}
		}
		free := 0
		for n := range all {
			if !taken[n] {
				free++
			}
		}
		asked := 0
		n, found, err := space.New(rs...).FindFree(source(t), counter(taken, &asked))
		switch {
		case err != nil:
			t.Fatal(err)
		case found != (free > 0):
			t.Fatalf("found %v with %d free", found, free)
		case found && (!all[n] || taken[n]):
			t.Fatalf("found %d, which is taken or outside", n)
		case asked > 4+bits.Len(limit)+1:
			t.Fatalf("asked for %d counts", asked)
		}
	})
}

func TestFindFreeDrawsEveryFreeNumberAlike(t *testing.T) {
	s := space.New(space.Range{First: 0, Last: 99}, space.Range{First: 1000, Last: 1999})
	free := map[uint64]int{3: 0, 4: 0, 50: 0, 1000: 0, 1999: 0}
	taken := map[uint64]bool{}
	for _, r := range []space.Range{{First: 0, Last: 99}, {First: 1000, Last: 1999}} {
		for n := r.First; n <= r.Last; n++ {
			if _, ok := free[n]; !ok {
				taken[n] = true
			}
		}
	}
	r, asked := rand.New(rand.NewPCG(1, 2)), 0
	const draws = 1000
	for range draws {
		n, _, _ := s.FindFree(r, counter(taken, &asked))
		free[n]++
	}
	for n, times := range free {
		if want := draws / 5; times < want/2 || times > want*2 {
			t.Errorf("%d was found %d times of %d, want about %d", n, times, draws, want)
		}
	}
}

func TestFindFreeReturnsTheErrorOfTheCount(t *testing.T) {
	broken := errors.New("broken")
	s := space.New(space.Range{First: 0, Last: 99})
	for failing := range 4 {
		asked := 0
		_, found, err := s.FindFree(rand.New(rand.NewPCG(1, 2)), func(_, _ uint64) (int64, error) {
			if asked++; asked > failing {
				return 0, broken
			}
			return 1, nil
		})
		if found || !errors.Is(err, broken) {
			t.Errorf("after %d counts: found %v, error %v", failing, found, err)
		}
	}
}

func TestCountsThatContradictOneAnotherEndInANumberOfTheSpace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := ranges(1000).Draw(t, "ranges")
		s := space.New(rs...)
		n, found, err := s.FindFree(source(t), func(_, _ uint64) (int64, error) {
			return rapid.Int64Range(-5, 2000).Draw(t, "count"), nil
		})
		if err != nil || found && !s.Contains(n) {
			t.Fatalf("found %d, %v", n, err)
		}
	})
}

func TestSpacesAtTheEndOfTheNumbers(t *testing.T) {
	s := space.New(space.Range{First: math.MaxUint64 - 1, Last: math.MaxUint64}, space.Range{First: math.MaxUint64, Last: math.MaxUint64})
	if s.Size() != 2 || s.Contains(0) {
		t.Errorf("size %d, holds 0: %v", s.Size(), s.Contains(0))
	}
	asked := 0
	n, found, err := s.FindFree(rand.New(rand.NewPCG(1, 2)), counter(map[uint64]bool{math.MaxUint64 - 1: true}, &asked))
	if n != math.MaxUint64 || !found || err != nil {
		t.Errorf("found %d, %v, %v", n, found, err)
	}
	if got := (space.Range{First: 0, Last: math.MaxUint64}).Size(); got != math.MaxUint64 {
		t.Errorf("the size of all numbers is %d", got)
	}
}
