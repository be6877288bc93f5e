package quota_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	id1 = "11111111-1111-4111-8111-111111111111"
	id2 = "22222222-2222-4222-8222-222222222222"
)

// held is the claims of one project and kind: places, and how many objects have none.
type held struct {
	places     map[uint32]bool
	unnumbered int64
}

func (h *held) used() int64 { return int64(len(h.places)) + h.unnumbered }

func (h *held) count(first, last uint32) (n int64) {
	for p := range h.places {
		if first <= p && p <= last {
			n++
		}
	}
	return n
}

// wish is a creation under way: what was chosen from what was there when its view was made.
type wish struct {
	place uint32 // 0: without a number
	limit int    // which setting of the limit it was built under
}

// TestALimitHoldsWhateverHappensInBetween has creations choose by what was there once and commit much later, among
// deletions and changes of the limit. What guards a commit is what the transaction guards: the place, and that the limit is
// the same setting still.
func TestALimitHoldsWhateverHappensInBetween(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := held{places: map[uint32]bool{}}
		limit, setting := int64(3), 0
		var pending []wish
		begin := func() {
			if limit == quota.Unlimited {
				pending = append(pending, wish{limit: setting})
				return
			}
			room, err := quota.Room(uint32(limit), func(p uint32) (int64, error) { return h.count(p+1, 1<<31) + h.unnumbered, nil })
			if err != nil {
				t.Fatal(err)
			}
			place, err := quota.FindFree(room, rapid.Uint64().Draw(t, "seed"), func(first, last uint32) (int64, error) { return h.count(first, last), nil })
			if err != nil {
				t.Fatal(err)
			}
			if left := h.used() < limit; left != (place != 0) || h.places[place] {
				t.Fatalf("%d of %d are used (%v and %d), room %d: chosen is %d", h.used(), limit, h.places, h.unnumbered, room, place)
			}
			for _, p := range quota.Probes(room, 1, 4) {
				if p < 1 || p > room {
					t.Fatalf("place %d is probed, the room is %d", p, room)
				}
			}
			if place != 0 {
				pending = append(pending, wish{place: place, limit: setting})
			}
		}
		commit := func() {
			if len(pending) == 0 {
				return
			}
			i := rapid.IntRange(0, len(pending)-1).Draw(t, "which")
			w := pending[i]
			pending = slices.Delete(pending, i, i+1)
			if w.limit != setting || w.place != 0 && h.places[w.place] {
				return // a guard does not hold
			}
			if w.place == 0 {
				h.unnumbered++
			} else {
				h.places[w.place] = true
			}
			if limit != quota.Unlimited && h.used() > limit {
				t.Fatalf("%d are used of %d: %v and %d", h.used(), limit, h.places, h.unnumbered)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"":       func(*rapid.T) {},
			"begin":  func(*rapid.T) { begin() },
			"commit": func(*rapid.T) { commit() },
			"delete": func(t *rapid.T) {
				if len(h.places) > 0 {
					delete(h.places, rapid.SampledFrom(slices.Sorted(maps.Keys(h.places))).Draw(t, "place"))
				}
			},
			"delete one without a number": func(*rapid.T) { h.unnumbered = max(h.unnumbered-1, 0) },
			"set": func(t *rapid.T) {
				limit = rapid.Int64Range(quota.Unlimited, 8).Draw(t, "limit")
				setting++
			},
		})
	})
}

func TestWhatTheControllersMakeByThemselvesDoesNotCount(t *testing.T) {
	group, rules, err := secgroup.Default("red", nil)
	if err != nil {
		t.Fatal(err)
	}
	own := &weftv1.SecurityGroupRule{SecurityGroupId: group.GetId(), Project: "red", Protocol: "tcp", Direction: weftv1.Direction_DIRECTION_INGRESS}
	if _, err := secgroup.Normalize(own); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		m    proto.Message
		want string // the key; "" for what does not count
	}{
		{"a network", &weftv1.Network{Id: id1, Project: "red", QuotaPlace: 255}, "claim/place/red/network/000000ff"},
		{"one without a number", &weftv1.Network{Id: id1, Project: "red"}, "claim/place/red/network/of-" + id1},
		{"a subnet", &weftv1.Subnet{Id: id1, Project: "red", QuotaPlace: 1}, "claim/place/red/subnet/00000001"},
		{"a port", &weftv1.Port{Id: id1, Project: "red", QuotaPlace: 1, DeviceOwner: "compute:nova"}, "claim/place/red/port/00000001"},
		{"a DHCP server's port", &weftv1.Port{Id: id1, Project: "red", DeviceOwner: "network:dhcp"}, ""},
		{"a gateway", &weftv1.Port{Id: id1, Project: "red", DeviceOwner: "network:router_gateway"}, ""},
		{"a router", &weftv1.Router{Id: id1, Project: "red", QuotaPlace: 1}, "claim/place/red/router/00000001"},
		{"a floating IP", &weftv1.FloatingIp{Id: id1, Project: "red", QuotaPlace: 1}, "claim/place/red/floatingip/00000001"},
		{"a group", &weftv1.SecurityGroup{Id: id1, Project: "red", QuotaPlace: 1}, "claim/place/red/securitygroup/00000001"},
		{"the default group", group, ""},
		{"another's default group, as it seems", &weftv1.SecurityGroup{Id: group.GetId(), Project: "blue", QuotaPlace: 1}, "claim/place/blue/securitygroup/00000001"},
		{"a rule of the default group", rules[3], ""},
		{"another rule of it", own, "claim/place/red/rule/of-" + own.GetId()},
		{"an address group", &weftv1.AddressGroup{Id: id1, Project: "red", QuotaPlace: 1}, "claim/place/red/addressgroup/00000001"},
		{"a segment range", &weftv1.SegmentRange{Id: id1}, ""},
	} {
		o, counts := quota.Of(tc.m)
		got := ""
		if counts {
			got = strings.TrimPrefix(o.Key(), keys.Root)
		}
		if got != tc.want {
			t.Errorf("%s counts by %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestLimitsOfTheOperatorAndOfTheProjectGoBeforeTheDefaults(t *testing.T) {
	fleet, err := quota.Named(map[string]int64{"routers": 3, "floating_ips": quota.Unlimited})
	if err != nil {
		t.Fatal(err)
	}
	project, err := fleet.With(&storev1.Quota{Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_ROUTER, Limit: 0}, {Kind: weftv1.Kind_KIND_PORT, Limit: quota.Unlimited}}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint32{}
	for _, k := range quota.Kinds() {
		if limit, limited := project.Of(k); limited {
			got[k.Setting()] = limit
		}
	}
	want := map[string]uint32{"networks": 100, "subnets": 100, "routers": 0, "security_groups": 10, "security_group_rules": 100, "address_groups": 10}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if fleet[weftv1.Kind_KIND_ROUTER] != 3 {
		t.Error("what is set for a project changes the fleet's")
	}
	for name, limits := range map[string]map[string]int64{
		"no setting": {"nodes": 1}, "too low": {"ports": -2}, "too high": {"ports": quota.MaxLimit + 1},
	} {
		if _, err := quota.Named(limits); err == nil {
			t.Errorf("%s is a limit", name)
		}
	}
	if _, err := fleet.With(&storev1.Quota{Limits: []*weftv1.QuotaLimit{{Kind: weftv1.Kind_KIND_ROUTER, Limit: -2}}}); err == nil {
		t.Error("-2 is a limit")
	}
}

func TestWhatDoesNotCountAndShouldIsFound(t *testing.T) {
	entry := func(key string, m proto.Message) store.Entry {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return store.Entry{Key: key, Value: raw, Revision: 7}
	}
	missing, left := quota.Missing([]store.Entry{
		entry(keys.Network(id1), &weftv1.Network{Id: id1, Project: "red"}),
		entry(keys.Router(id1), &weftv1.Router{Id: id1, Project: "red", QuotaPlace: 4}),
		entry(keys.Router(id2), &weftv1.Router{Id: id2, Project: "red", QuotaPlace: 4}),
		entry(keys.SecurityGroup(id1), &weftv1.SecurityGroup{Id: id1, Project: "red", QuotaPlace: 2}),
		entry(keys.PlaceClaim("red", keys.KindSecurityGroup, 2), &storev1.Claim{Kind: keys.KindSecurityGroup, Id: id1}),
		entry(keys.AddressGroup(id1), &weftv1.AddressGroup{Id: id1, Project: "no/project"}),
		entry(keys.Port(id1, id2), &weftv1.Port{Id: id1, Project: "red"}),
		{Key: keys.Port(id1, id1), Value: []byte{0xff}},
		{Key: "/other"},
	})
	var got []string
	for _, m := range missing {
		got = append(got, strings.TrimPrefix(m.Key(), keys.Root)+" for "+strings.TrimPrefix(m.Stored.Key, keys.Root))
	}
	want := []string{
		"claim/place/red/network/of-" + id1 + " for network/" + id1,
		"claim/place/red/router/00000004 for router/" + id1,
	}
	if diff := cmp.Diff(want, got); diff != "" || len(left) != 1 || !strings.Contains(left[0], id2) {
		t.Errorf("left %q, %s", left, diff)
	}
}
