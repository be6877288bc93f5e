package segments_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/txn"
	"github.com/weft-sdn/weft/proto/txn/txntest"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/segments"
)

const (
	vlan  = weftv1.NetworkType_NETWORK_TYPE_VLAN
	vxlan = weftv1.NetworkType_NETWORK_TYPE_VXLAN
	gre   = weftv1.NetworkType_NETWORK_TYPE_GRE
	flat  = weftv1.NetworkType_NETWORK_TYPE_FLAT
)

// ranges has several types and physical networks side by side, and ranges that overlap.
func ranges() []model.SegmentRange {
	return []model.SegmentRange{
		{ID: "3", Name: "low", Type: vlan, PhysicalNetwork: "tenant", Min: 3, Max: 5},
		{ID: "1", Type: vlan, PhysicalNetwork: "tenant", Min: 10, Max: 12},
		{ID: "2", Type: vlan, PhysicalNetwork: "tenant", Min: 12, Max: 12},
		{ID: "4", Type: vlan, PhysicalNetwork: "other", Min: 1, Max: 4094},
		{ID: "5", Type: vxlan, Min: 1, Max: 1<<24 - 1},
		{ID: "6", Type: gre, Min: 1 << 31, Max: 1<<32 - 1},
	}
}

func count(m *txntest.Memory, p segments.Pool) func(first, last uint32) (int64, error) {
	return func(first, last uint32) (int64, error) {
		return m.Count(segments.ClaimRange(p.Type, p.PhysicalNetwork, first, last)), nil
	}
}

func commit(m *txntest.Memory, do func(*txn.Txn)) bool {
	var t txn.Txn
	do(&t)
	return m.Commit(&t)
}

func TestNoSegmentIsEverHeldTwiceAndClaimsMatchNetworksOneToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, networks, made := txntest.New(), map[string]model.Network{}, 0
		pools := []segments.Pool{segments.NewPool(vlan, "tenant", ranges()), segments.NewPool(vlan, "other", ranges())}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				made++
				p := rapid.SampledFrom(pools).Draw(t, "pool")
				n := model.Network{ID: fmt.Sprint("n", made), Type: p.Type, PhysicalNetwork: p.PhysicalNetwork}
				n.Segment = rapid.Uint32Range(1, 14).Draw(t, "explicit")
				if seed := rapid.Uint64().Draw(t, "seed"); rapid.Bool().Draw(t, "from the pool") {
					n.Segment = p.Probes(seed, 1)[0]
				}
				if commit(m, func(x *txn.Txn) { segments.Claim(x, n) }) {
					networks[n.ID] = n
				}
			},
			"delete": func(t *rapid.T) {
				if len(networks) == 0 {
					t.Skip("no networks")
				}
				n := networks[rapid.SampledFrom(slices.Sorted(maps.Keys(networks))).Draw(t, "network")]
				commit(m, func(x *txn.Txn) { segments.Release(x, n) })
				delete(networks, n.ID)
			},
			"": func(t *rapid.T) {
				want := txntest.New()
				for _, n := range networks {
					if !commit(want, func(x *txn.Txn) { segments.Claim(x, n) }) {
						t.Fatalf("two networks hold segment %d", n.Segment)
					}
				}
				if diff := cmp.Diff(want.Values(), m.Values()); diff != "" {
					t.Fatalf("claims do not match the networks (-want +got):\n%s", diff)
				}
			},
		})
	})
}

func TestReleaseAfterClaimIsIdentity(t *testing.T) {
	for _, n := range []model.Network{
		{ID: "n1", Type: vlan, PhysicalNetwork: "tenant", Segment: 7},
		{ID: "n2", Type: vxlan, Segment: 7},
		{ID: "n3", Type: gre, Segment: 7},
		{ID: "n4", Type: flat, PhysicalNetwork: "tenant"},
	} {
		m := txntest.New()
		claim := func() bool { return commit(m, func(x *txn.Txn) { segments.Claim(x, n) }) }
		if !claim() || claim() {
			t.Errorf("%v: the first claim must hold and the second must not", n)
		}
		if !commit(m, func(x *txn.Txn) { segments.Release(x, n) }) || len(m.Values()) != 0 {
			t.Errorf("%v: after the release there is %v", n, m.Values())
		}
	}
}

func TestTypesAndPhysicalNetworksDoNotShareSegments(t *testing.T) {
	m := txntest.New()
	for _, n := range []model.Network{
		{ID: "n1", Type: vlan, PhysicalNetwork: "a", Segment: 7},
		{ID: "n2", Type: vlan, PhysicalNetwork: "b", Segment: 7},
		{ID: "n3", Type: vxlan, Segment: 7},
		{ID: "n4", Type: gre, Segment: 7},
		{ID: "n5", Type: flat, PhysicalNetwork: "a"},
	} {
		if !commit(m, func(x *txn.Txn) { segments.Claim(x, n) }) {
			t.Errorf("%v collides with %v", n, m.Values())
		}
	}
}

func TestExhaustionIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m, got := segments.NewPool(vlan, "tenant", ranges()), txntest.New(), 0
		for _, outside := range []uint32{2, 6, 9, 13} {
			commit(m, func(x *txn.Txn) {
				segments.Claim(x, model.Network{Type: vlan, PhysicalNetwork: "tenant", Segment: outside})
			})
		}
		for ; ; got++ {
			segment, err := p.FindFree(rapid.Uint64().Draw(t, "seed"), count(m, p))
			var exhausted *segments.Exhausted
			if errors.As(err, &exhausted) {
				break
			}
			n := model.Network{Type: vlan, PhysicalNetwork: "tenant", Segment: segment}
			if err != nil || p.CheckExplicit(segment) != nil || !commit(m, func(x *txn.Txn) { segments.Claim(x, n) }) {
				t.Fatalf("found %d, error %v, which can't be claimed", segment, err)
			}
		}
		if got != 6 || p.Size() != 6 {
			t.Fatalf("exhausted after %d segments, size %d, want 6", got, p.Size())
		}
	})
}

func TestProbesLieInTheRangesAndDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]model.NetworkType{vlan, vxlan, gre}).Draw(t, "type")
		physnet := ""
		if typ == vlan {
			physnet = "tenant"
		}
		p := segments.NewPool(typ, physnet, ranges())
		seed, n := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 20).Draw(t, "n")
		got, seen := p.Probes(seed, n), map[uint32]bool{}
		for _, s := range got {
			if p.CheckExplicit(s) != nil || seen[s] {
				t.Fatalf("probe %d is in no range or drawn twice", s)
			}
			seen[s] = true
		}
		if len(got) != min(n, int(p.Size())) || !slices.Equal(got, p.Probes(seed, n)) {
			t.Fatalf("%d probes of %d", len(got), n)
		}
	})
}

func TestErrorsNameTheRanges(t *testing.T) {
	full := func(_, _ uint32) (int64, error) { return 1 << 33, nil }
	exhausted := func(p segments.Pool) error { _, err := p.FindFree(1, full); return err }
	tenant := segments.NewPool(vlan, "tenant", ranges())
	for _, tc := range []struct {
		err  error
		want string
	}{
		{exhausted(tenant), "no free segment: all vlan segments of physical network tenant are taken: 3-5 (low, 3 segments), 10-12 (3 segments), 12-12 (1 segment); add a range or delete networks"},
		{exhausted(segments.NewPool(gre, "", ranges())), "no free segment: all gre segments are taken: 2147483648-4294967295 (2147483648 segments); add a range or delete networks"},
		{exhausted(segments.NewPool(vlan, "none", ranges())), "no segment can be had: there is no range of vlan segments of physical network none; add one"},
		{tenant.CheckExplicit(7), "7 is in none of the ranges of vlan segments of physical network tenant: 3-5 (low, 3 segments), 10-12 (3 segments), 12-12 (1 segment)"},
		{segments.NewPool(vxlan, "", nil).CheckExplicit(7), "7 can't be had: there is no range of vxlan segments; add one"},
	} {
		if tc.err == nil || tc.err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", tc.err, tc.want)
		}
	}
	var outside *segments.Outside
	if err := tenant.CheckExplicit(7); !errors.As(err, &outside) || outside.Segment != 7 {
		t.Errorf("an explicit segment outside: %v", err)
	}
}

func TestAnErrorWhileCountingIsNotExhaustion(t *testing.T) {
	broken := errors.New("broken")
	_, err := segments.NewPool(vlan, "tenant", ranges()).FindFree(1, func(_, _ uint32) (int64, error) { return 0, broken })
	var exhausted *segments.Exhausted
	if !errors.Is(err, broken) || errors.As(err, &exhausted) {
		t.Errorf("error %v", err)
	}
}

func TestTheWholeGREKeySpaceIsSearched(t *testing.T) {
	p := segments.NewPool(gre, "", []model.SegmentRange{{Type: gre, Min: 1, Max: 1<<32 - 1}})
	const free = 1<<32 - 1
	got, err := p.FindFree(5, func(first, last uint32) (int64, error) {
		n := int64(last) - int64(first) + 1
		if last == free {
			n--
		}
		return n, nil
	})
	if got != free || err != nil {
		t.Errorf("found %d, %v, want the last key", got, err)
	}
}

func TestClaimsBelongToTheirNetwork(t *testing.T) {
	m := txntest.New()
	n := model.Network{ID: "n1", Type: vlan, PhysicalNetwork: "tenant", Segment: 7}
	commit(m, func(x *txn.Txn) { segments.Claim(x, n) })
	var want txn.Txn
	want.Claim(keys.SegmentClaim("vlan", "tenant", 7), keys.KindNetwork, "n1")
	other := txntest.New()
	other.Commit(&want)
	if diff := cmp.Diff(other.Values(), m.Values()); diff != "" {
		t.Errorf("claim: %s", diff)
	}
}
