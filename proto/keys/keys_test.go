package keys_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/proto/keys"
)

const (
	id1 = "11111111-1111-1111-1111-111111111111"
	id2 = "22222222-2222-2222-2222-222222222222"
)

type example struct {
	key      string
	family   keys.Family
	parts    []string
	prefixes []string
}

// built is one key of every builder, with what Parse must make of it and the prefixes that must cover it.
var built = []example{
	{keys.Network(id1), keys.FamilyNetwork, []string{id1}, nil},
	{keys.NetworkGrant(id1, id2), keys.FamilyNetworkGrant, []string{id1, id2}, []string{keys.NetworkGrants(id1)}},
	{keys.Subnet(id1, id2), keys.FamilySubnet, []string{id1, id2}, []string{keys.Subnets(id1)}},
	{keys.Port(id1, id2), keys.FamilyPort, []string{id1, id2}, []string{keys.Ports(id1)}},
	{keys.Router(id1), keys.FamilyRouter, []string{id1}, nil},
	{keys.FloatingIP(id1, id2), keys.FamilyFloatingIP, []string{id1, id2}, []string{keys.FloatingIPs(id1)}},
	{keys.FloatingIP(keys.Unassociated, id2), keys.FamilyFloatingIP, []string{"-", id2}, []string{keys.FloatingIPs(keys.Unassociated)}},
	{keys.SecurityGroup(id1), keys.FamilySecurityGroup, []string{id1}, nil},
	{keys.Rule(id1, id2), keys.FamilyRule, []string{id1, id2}, []string{keys.Rules(id1)}},
	{keys.Member(id1, id2), keys.FamilyMember, []string{id1, id2}, []string{keys.Members(id1)}},
	{keys.AddressGroup(id1), keys.FamilyAddressGroup, []string{id1}, nil},
	{keys.Instance(id1), keys.FamilyInstance, []string{id1}, nil},
	{keys.RemoteClaim(id1, id2), keys.FamilyClaim, []string{"remote", id1, id2}, []string{keys.RemoteClaims(id1)}},
	{keys.SegmentRange(id1), keys.FamilySegmentRange, []string{id1}, nil},
	{keys.Node("cmp1.dc"), keys.FamilyNode, []string{"cmp1.dc"}, nil},
	{keys.Locator(keys.KindPort, id1), keys.FamilyLocator, []string{"port", id1}, nil},
	{keys.HostObject("cmp1", keys.KindPort, id1), keys.FamilyHost, []string{"cmp1", "port", id1}, []string{keys.Host("cmp1"), keys.HostKind("cmp1", keys.KindPort)}},
	{keys.HostObject("net1", keys.KindRouter, id1), keys.FamilyHost, []string{"net1", "router", id1}, []string{keys.Host("net1"), keys.HostKind("net1", keys.KindRouter)}},
	{keys.HostObject("net1", keys.KindDHCP, id1), keys.FamilyHost, []string{"net1", "dhcp", id1}, []string{keys.Host("net1"), keys.HostKind("net1", keys.KindDHCP)}},
	{keys.Active(id1), keys.FamilyActive, []string{id1}, nil},
	{keys.Agent("cmp1"), keys.FamilyAgent, []string{"cmp1"}, nil},
	{keys.Live("cmp1"), keys.FamilyLive, []string{"cmp1"}, nil},
	{keys.Plug("cmp1", id1), keys.FamilyPlug, []string{"cmp1", id1}, []string{keys.Plugs("cmp1")}},
	{keys.Status("net1", keys.KindFloatingIP, id1), keys.FamilyStatus, []string{"net1", "floatingip", id1}, []string{keys.Statuses("net1")}},
	{keys.SegmentClaim("vlan", "tenant", 1998), keys.FamilyClaim, []string{"segment", "vlan", "tenant", "000007ce"}, []string{keys.SegmentClaims("vlan", "tenant")}},
	{keys.SegmentClaim("gre", "", 1<<32-1), keys.FamilyClaim, []string{"segment", "gre", "-", "ffffffff"}, []string{keys.SegmentClaims("gre", "")}},
	{keys.AddressClaim(id1, netip.MustParseAddr("10.0.255.1")), keys.FamilyClaim, []string{"address", id1, "0a00ff01"}, []string{keys.AddressClaims(id1)}},
	{keys.AddressClaim(id1, netip.MustParseAddr("fd00::1")), keys.FamilyClaim, []string{"address", id1, "fd000000000000000000000000000001"}, []string{keys.AddressClaims(id1)}},
	{keys.MACClaim(id1, "fa:16:3e:00:00:01"), keys.FamilyClaim, []string{"mac", id1, "fa:16:3e:00:00:01"}, []string{keys.MACClaims(id1)}},
	{keys.FloatingClaim(id1, netip.MustParseAddr("10.0.0.2"), id2), keys.FamilyClaim, []string{"floating", id1, "0a000002", id2}, []string{keys.FloatingClaims(id1)}},
	{keys.PlaceClaim("red", keys.KindPort, 500), keys.FamilyClaim, []string{"place", "red", "port", "000001f4"}, []string{keys.PlaceClaims("red", keys.KindPort)}},
	{keys.UnnumberedPlace("red", keys.KindPort, id1), keys.FamilyClaim, []string{"place", "red", "port", "of-" + id1}, []string{keys.PlaceClaims("red", keys.KindPort)}},
	{keys.Quota("red"), keys.FamilyQuota, []string{"red"}, nil},
	{keys.Request(id1), keys.FamilyRequest, []string{id1}, nil},
	{keys.Witness("net1"), keys.FamilyWitness, []string{"net1"}, nil},
	{keys.Move(id1), keys.FamilyMove, []string{id1}, nil},
	{keys.Pool("default"), keys.FamilyPool, []string{"default"}, nil},
	{keys.Leader("00000000000000ff"), keys.FamilyLeader, []string{"00000000000000ff"}, []string{keys.Leaders()}},
	{keys.Ask("net1", id1), keys.FamilyAsk, []string{"net1", id1}, []string{keys.Asks("net1")}},
	{keys.Answer("net1", id1), keys.FamilyAnswer, []string{"net1", id1}, []string{keys.Answers("net1")}},
}

func TestEveryKeyThatIsBuiltIsParsedBack(t *testing.T) {
	for _, b := range built {
		k, err := keys.Parse(b.key)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(keys.Key{Family: b.family, Parts: b.parts}, k); diff != "" {
			t.Errorf("%s: %s", b.key, diff)
		}
		if k.ID() != b.parts[len(b.parts)-1] || k.Scope() != b.parts[0] {
			t.Errorf("%s: id %q, scope %q", b.key, k.ID(), k.Scope())
		}
		wantKind := ""
		if k.Family == keys.FamilyHost || k.Family == keys.FamilyStatus {
			wantKind = b.parts[1]
		}
		if k.Kind() != wantKind {
			t.Errorf("%s: kind %q, want %q", b.key, k.Kind(), wantKind)
		}
	}
}

func TestPrefixesCoverTheirKeysAndNoOthers(t *testing.T) {
	for _, b := range built {
		for _, p := range append([]string{keys.All(b.family), keys.Root}, b.prefixes...) {
			if b.key < p || b.key >= keys.End(p) || strings.HasSuffix(p, "//") {
				t.Errorf("%s is not in the range of %s", b.key, p)
			}
		}
	}
	if strings.HasPrefix(keys.HostObject("cmp10", keys.KindPort, id1), keys.Host("cmp1")) {
		t.Error("the range of node cmp1 holds keys of cmp10")
	}
}

// of reports whether the example has the shape.
func (e example) of(s keys.Spec) bool {
	return e.family == s.Family && len(e.parts) == len(s.Parts) &&
		(s.Family != keys.FamilyClaim || e.parts[0] == s.Parts[0]) && (s.Family != keys.FamilyHost || e.parts[1] == s.Parts[1])
}

func TestEveryShapeHasABuilder(t *testing.T) {
	for _, s := range keys.Families() {
		if !slices.ContainsFunc(built, func(e example) bool { return e.of(s) }) {
			t.Errorf("no key of shape %s %v is tested", s.Family, s.Parts)
		}
	}
}

func TestOtherKeysAreRefused(t *testing.T) {
	for _, k := range []string{
		"", "/", keys.Root, keys.Schema, keys.Root + "network", keys.Root + "network/", keys.Root + "network//", keys.Root + "network/a/b",
		keys.Root + "port/a", keys.Root + "port//a", keys.Root + "port/a/", keys.Root + "unknown/a", keys.Root + "host/a/network/b",
		keys.Root + "claim/other/a/b", keys.Root + "claim/segment/a/b", "x" + keys.Network(id1), keys.Network(id1) + "/",
	} {
		if got, err := keys.Parse(k); err == nil {
			t.Errorf("%q is parsed as %v", k, got)
		}
	}
}

func TestClaimsSortByWhatTheyClaim(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint32().Draw(t, "a"), rapid.Uint32().Draw(t, "b")
		if (a < b) != (keys.SegmentClaim("gre", "", a) < keys.SegmentClaim("gre", "", b)) {
			t.Fatalf("segments %d and %d", a, b)
		}
		if (a < b) != (keys.PlaceClaim("red", keys.KindPort, a) < keys.PlaceClaim("red", keys.KindPort, b)) {
			t.Fatalf("places %d and %d", a, b)
		}
		if keys.PlaceClaim("red", keys.KindPort, a) > keys.UnnumberedPlace("red", keys.KindPort, id1) {
			t.Fatalf("place %d is after those without numbers", a)
		}
		x, y := addr4(a), addr4(b)
		if x.Less(y) != (keys.AddressClaim(id1, x) < keys.AddressClaim(id1, y)) {
			t.Fatalf("addresses %s and %s", x, y)
		}
	})
}

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func TestEndIsTheEndOfAPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alphabet := rapid.SampledFrom([]rune("a/\x00\u007f"))
		prefix := rapid.StringOfN(alphabet, 1, 3, -1).Draw(t, "prefix")
		key := rapid.StringOfN(alphabet, 0, 5, -1).Draw(t, "key")
		if in := prefix <= key && key < keys.End(prefix); in != strings.HasPrefix(key, prefix) {
			t.Fatalf("%q in the range of %q: %v", key, prefix, in)
		}
	})
	if keys.End("\xff\xff") != "\x00" || keys.End("a\xff") != "b" {
		t.Error("a prefix that ends in the last byte")
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range built {
		f.Add(b.key)
	}
	f.Add(keys.Root + "claim/segment/a/b")
	f.Add(keys.Root + "host/a/x/b")
	f.Add(keys.Root)
	f.Fuzz(func(t *testing.T, key string) {
		k, err := keys.Parse(key)
		if err != nil {
			return
		}
		if again := keys.All(k.Family) + strings.Join(k.Parts, "/"); again != key {
			t.Errorf("%q is parsed as %v, which is %q", key, k, again)
		}
		if k.ID() == "" || k.Scope() == "" || slices.Contains(k.Parts, "") {
			t.Errorf("%q has empty parts: %v", key, k)
		}
		_ = k.Kind()
	})
}
