package ipam_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/txn"
	"github.com/weft-sdn/weft/proto/txn/txntest"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pool(first, last string) model.Pool { return model.Pool{Start: addr(first), End: addr(last)} }

// subnet has pools given as "first-last", or the default ones.
func subnet(cidr, gateway string, pools ...string) model.Subnet {
	s := model.Subnet{ID: "s1", Network: "n1", CIDR: netip.MustParsePrefix(cidr)}
	if gateway != "" {
		s.Gateway = addr(gateway)
	}
	for _, p := range pools {
		first, last, _ := strings.Cut(p, "-")
		s.Pools = append(s.Pools, pool(first, last))
	}
	if pools == nil {
		s.Pools = ipam.DefaultPools(s.CIDR, s.Gateway)
	}
	return s
}

func inPools(s model.Subnet, ip netip.Addr) bool {
	return slices.ContainsFunc(s.Pools, func(p model.Pool) bool { return p.Contains(ip) })
}

// count counts claims in a store in memory.
func count(m *txntest.Memory, subnet string) func(first, last netip.Addr) (int64, error) {
	return func(first, last netip.Addr) (int64, error) { return m.Count(ipam.ClaimRange(subnet, first, last)), nil }
}

// portKey is the key of a port of network n1.
func portKey(id string) string { return keys.Port("n1", id) }

// commit writes a port in a transaction with its claims, as the handlers do.
func commit(m *txntest.Memory, before, after model.Port) bool {
	var t txn.Txn
	id := before.ID + after.ID
	if before.ID != "" && after.ID != "" {
		id = after.ID
	}
	t.Unchanged(portKey(id), m.Revision(portKey(id)))
	ipam.UpdatePort(&t, before, after)
	if after.ID == "" {
		t.Delete(portKey(id))
	}
	return m.Commit(&t)
}

// claims is what a set of ports should hold.
func claims(t *rapid.T, ports map[string]model.Port) map[string]string {
	m := txntest.New()
	for _, p := range ports {
		var one txn.Txn
		ipam.ClaimPort(&one, p)
		if !m.Commit(&one) {
			t.Fatalf("two ports hold the same: %v", ports)
		}
	}
	return m.Values()
}

// drawPort draws a port whose addresses come from explicit ones, probes or counting, so that collisions are frequent.
func drawPort(t *rapid.T, m *txntest.Memory, sub model.Subnet, id string) model.Port {
	p := model.Port{ID: id, Network: "n1", MAC: fmt.Sprintf("fa:16:3e:00:00:%02x", rapid.IntRange(0, 12).Draw(t, "mac"))}
	seed := rapid.Uint64().Draw(t, "seed")
	var ips []netip.Addr
	switch rapid.IntRange(0, 2).Draw(t, "how") {
	case 0:
		ips = ipam.Probes(sub, seed, rapid.IntRange(1, 3).Draw(t, "probes"))
	case 1:
		if ip, err := ipam.FindFree(sub, seed, count(m, sub.ID)); err == nil {
			ips = append(ips, ip)
		}
	case 2:
		ips = append(ips, addr("10.0.0.1"), sub.Pools[0].End)
	}
	for _, ip := range ips {
		p.FixedIPs = append(p.FixedIPs, model.FixedIP{Subnet: sub.ID, IP: ip})
	}
	return p
}

func TestNothingIsEverHeldTwiceAndClaimsMatchPortsOneToOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sub := subnet("10.0.0.0/28", "10.0.0.1")
		m, ports, made := txntest.New(), map[string]model.Port{}, 0
		existing := func(t *rapid.T) model.Port {
			if len(ports) == 0 {
				t.Skip("no ports")
			}
			return ports[rapid.SampledFrom(slices.Sorted(maps.Keys(ports))).Draw(t, "port")]
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				made++
				p := drawPort(t, m, sub, fmt.Sprint("p", made))
				if commit(m, model.Port{}, p) {
					ports[p.ID] = p
				}
			},
			"update": func(t *rapid.T) {
				before := existing(t)
				after := drawPort(t, m, sub, before.ID)
				if commit(m, before, after) {
					ports[after.ID] = after
				}
			},
			"delete": func(t *rapid.T) {
				p := existing(t)
				if !commit(m, p, model.Port{}) {
					t.Fatalf("port %v can't be deleted", p)
				}
				delete(ports, p.ID)
			},
			"": func(t *rapid.T) {
				if diff := cmp.Diff(claims(t, ports), m.Values()); diff != "" {
					t.Fatalf("claims do not match the ports (-want +got):\n%s", diff)
				}
			},
		})
	})
}

func TestReleaseAfterClaimIsIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sub, m := subnet("10.0.0.0/28", "10.0.0.1"), txntest.New()
		commit(m, model.Port{}, drawPort(t, m, sub, "other"))
		before := m.Values()
		p := drawPort(t, m, sub, "p1")
		if commit(m, model.Port{}, p) && !commit(m, p, model.Port{}) {
			t.Fatal("what was claimed can't be released")
		}
		if diff := cmp.Diff(before, m.Values()); diff != "" {
			t.Fatalf("a claim and its release leave a difference:\n%s", diff)
		}
	})
}

func TestSingleClaimsAndReleases(t *testing.T) {
	m := txntest.New()
	var first, second, release txn.Txn
	ipam.Claim(&first, "s1", addr("10.0.0.2"), keys.KindFloatingIP, "f1")
	ipam.ClaimMAC(&first, "n1", "fa:16:3e:00:00:01", keys.KindPort, "p1")
	ipam.Claim(&second, "s1", addr("10.0.0.2"), keys.KindFloatingIP, "f2")
	ipam.Release(&release, "s1", addr("10.0.0.2"))
	ipam.ReleaseMAC(&release, "n1", "fa:16:3e:00:00:01")
	if !m.Commit(&first) || m.Commit(&second) {
		t.Error("the first claim must hold and the second must not")
	}
	if !m.Commit(&release) || len(m.Values()) != 0 {
		t.Errorf("after the release there is %v", m.Values())
	}
}

func TestExhaustionIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sub := subnet("10.0.0.0/26", "10.0.0.1", rapid.SampledFrom([][]string{
			{"10.0.0.2-10.0.0.9"}, {"10.0.0.4-10.0.0.4"}, {"10.0.0.2-10.0.0.3", "10.0.0.20-10.0.0.30", "10.0.0.62-10.0.0.62"},
		}).Draw(t, "pools")...)
		m, got := txntest.New(), 0
		var outside txn.Txn // claims outside the pools do not count
		ipam.Claim(&outside, "s1", addr("10.0.0.1"), "port", "gw")
		ipam.Claim(&outside, "s2", addr("10.0.0.2"), "port", "other subnet")
		m.Commit(&outside)
		size := 0
		for _, p := range sub.Pools {
			size += int(ipam.Size(sub.CIDR, p))
		}
		for {
			ip, err := ipam.FindFree(sub, rapid.Uint64().Draw(t, "seed"), count(m, "s1"))
			var exhausted *ipam.Exhausted
			if errors.As(err, &exhausted) {
				break
			}
			var c txn.Txn
			ipam.Claim(&c, "s1", ip, "port", "p")
			if err != nil || !inPools(sub, ip) || !m.Commit(&c) {
				t.Fatalf("found %s, error %v, which can't be claimed or is in no pool", ip, err)
			}
			got++
		}
		if got != size {
			t.Fatalf("exhausted after %d addresses of %d", got, size)
		}
	})
}

func TestExhaustionNamesSubnetAndPools(t *testing.T) {
	full := func(_, _ netip.Addr) (int64, error) { return 1 << 32, nil }
	for _, tc := range []struct {
		sub  model.Subnet
		want string
	}{
		{
			subnet("10.10.10.0/24", "10.10.10.1"),
			"subnet 10.10.10.0/24 (s1) has no free address: all of its pools are taken: 10.10.10.2-10.10.10.254 (253 addresses); widen a pool or free addresses",
		},
		{
			subnet("10.0.0.0/29", "10.0.0.2"),
			"subnet 10.0.0.0/29 (s1) has no free address: all of its pools are taken: 10.0.0.1-10.0.0.1 (1 address), 10.0.0.3-10.0.0.6 (4 addresses); widen a pool or free addresses",
		},
		{
			model.Subnet{ID: "s1", CIDR: netip.MustParsePrefix("10.0.0.0/29")},
			"subnet 10.0.0.0/29 (s1) has no free address: it has no allocation pools; add one",
		},
	} {
		_, err := ipam.FindFree(tc.sub, 1, full)
		if err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

func TestAnErrorWhileCountingIsNotExhaustion(t *testing.T) {
	broken := errors.New("broken")
	_, err := ipam.FindFree(subnet("10.0.0.0/24", ""), 1, func(_, _ netip.Addr) (int64, error) { return 0, broken })
	var exhausted *ipam.Exhausted
	if !errors.Is(err, broken) || errors.As(err, &exhausted) {
		t.Errorf("error %v", err)
	}
}

func TestProbesLieInThePoolsAndDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(8, 30).Draw(t, "bits")
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, 100, 0}), bits).Masked()
		s := model.Subnet{CIDR: cidr, Gateway: cidr.Addr().Next()}
		s.Pools = ipam.DefaultPools(cidr, s.Gateway)
		seed, n := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 20).Draw(t, "n")
		got := ipam.Probes(s, seed, n)
		seen := map[netip.Addr]bool{}
		for _, ip := range got {
			if !inPools(s, ip) || seen[ip] {
				t.Fatalf("probe %s is in no pool or drawn twice", ip)
			}
			seen[ip] = true
		}
		if want := min(n, 1<<(32-bits)-3); len(got) != want {
			t.Fatalf("%d probes, want %d", len(got), want)
		}
		if !slices.Equal(got, ipam.Probes(s, seed, n)) {
			t.Fatal("the same seed draws other probes")
		}
	})
}

func TestDefaultPoolsAreAllHostAddressesButTheGateway(t *testing.T) {
	for _, tc := range []struct {
		cidr, gateway string
		want          []model.Pool
	}{
		{"10.10.10.0/24", "10.10.10.1", []model.Pool{pool("10.10.10.2", "10.10.10.254")}},
		{"10.10.10.0/24", "10.10.10.254", []model.Pool{pool("10.10.10.1", "10.10.10.253")}},
		{"10.10.10.0/24", "10.10.10.9", []model.Pool{pool("10.10.10.1", "10.10.10.8"), pool("10.10.10.10", "10.10.10.254")}},
		{"10.10.10.0/24", "", []model.Pool{pool("10.10.10.1", "10.10.10.254")}},
		{"10.10.10.0/24", "192.0.2.1", []model.Pool{pool("10.10.10.1", "10.10.10.254")}},
		{"10.0.0.0/30", "10.0.0.1", []model.Pool{pool("10.0.0.2", "10.0.0.2")}},
		{"10.0.0.0/30", "10.0.0.2", []model.Pool{pool("10.0.0.1", "10.0.0.1")}},
		{"10.0.0.0/8", "10.0.0.1", []model.Pool{pool("10.0.0.2", "10.255.255.254")}},
	} {
		var gateway netip.Addr
		if tc.gateway != "" {
			gateway = addr(tc.gateway)
		}
		got := ipam.DefaultPools(netip.MustParsePrefix(tc.cidr), gateway)
		if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s without %q: %s", tc.cidr, tc.gateway, diff)
		}
	}
}

func TestExplicitAddressesAreCheckedAgainstTheSubnet(t *testing.T) {
	sub := subnet("192.168.100.0/22", "192.168.100.1", "192.168.101.1-192.168.103.254")
	for _, tc := range []struct {
		ip      string
		purpose ipam.Purpose
		want    string
	}{
		{"192.168.102.7", ipam.ForHost, ""},
		{"192.168.100.9", ipam.ForHost, ""}, // outside the pools is allowed
		{"192.168.103.254", ipam.ForRouterInterface, ""},
		{"192.168.100.1", ipam.ForRouterInterface, ""},
		{"192.168.100.1", ipam.ForHost, "192.168.100.1 is the gateway of 192.168.100.0/22, which only a router's interface can have"},
		{"192.168.100.0", ipam.ForHost, "192.168.100.0 is the address of the network 192.168.100.0/22 itself"},
		{"192.168.103.255", ipam.ForRouterInterface, "192.168.103.255 is the broadcast address of 192.168.100.0/22"},
		{"192.168.104.0", ipam.ForHost, "192.168.104.0 is not inside 192.168.100.0/22"},
		{"::ffff:192.168.102.7", ipam.ForHost, "::ffff:192.168.102.7 is not inside 192.168.100.0/22"},
		{"fd00::1", ipam.ForHost, "fd00::1 is not inside 192.168.100.0/22"},
	} {
		err := ipam.CheckExplicit(sub, addr(tc.ip), tc.purpose)
		var bad *ipam.BadAddress
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.ip, err)
		case tc.want != "" && (!errors.As(err, &bad) || err.Error() != tc.want):
			t.Errorf("%s: got %v, want %s", tc.ip, err, tc.want)
		}
	}
}

func TestRandomMACsLieBelowThePrefixAndDiffer(t *testing.T) {
	form := regexp.MustCompile(`^fa:16:3e(:[0-9a-f]{2}){3}$`)
	seen := map[string]bool{}
	for seed := range uint64(100) {
		mac := ipam.RandomMAC(seed)
		if !form.MatchString(mac) || mac != ipam.RandomMAC(seed) {
			t.Errorf("MAC %q", mac)
		}
		seen[mac] = true
	}
	if len(seen) < 99 {
		t.Errorf("100 seeds give %d MACs", len(seen))
	}
}

func TestAnIPv6SubnetIsSearchedAlike(t *testing.T) {
	sub := model.Subnet{ID: "s6", CIDR: netip.MustParsePrefix("fd00::/64"), Pools: []model.Pool{pool("fd00::8000:0:0:1", "fd00::8000:0:0:4")}}
	m := txntest.New()
	for i := range 4 {
		ip, err := ipam.FindFree(sub, uint64(i), count(m, "s6"))
		var c txn.Txn
		ipam.Claim(&c, "s6", ip, "port", "p")
		if err != nil || !inPools(sub, ip) || !m.Commit(&c) {
			t.Fatalf("%s: %v", ip, err)
		}
	}
	if ip, err := ipam.FindFree(sub, 9, count(m, "s6")); err == nil {
		t.Errorf("found %s in a full pool", ip)
	}
}

// nearlyFull counts as if every address were claimed but each thousandth: a /8 with 99.9 % in use.
func nearlyFull(first, last netip.Addr) (int64, error) {
	a, b := first.As4(), last.As4()
	lo, hi := uint64(be(a)), uint64(be(b))
	free := hi/1000 - (lo-1)/1000
	return int64(hi-lo+1) - int64(free), nil
}

func be(a [4]byte) uint32 {
	return uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
}

func TestMemoryDoesNotGrowWithTheSubnet(t *testing.T) {
	cost := func(cidr string) float64 {
		sub := subnet(cidr, "")
		return testing.AllocsPerRun(20, func() {
			ipam.Probes(sub, 7, 8)
			if _, err := ipam.FindFree(sub, 7, nearlyFull); err != nil {
				t.Fatal(err)
			}
		})
	}
	if small, large := cost("10.0.0.0/20"), cost("10.0.0.0/8"); large > small+2 {
		t.Errorf("a /20 takes %v allocations, a /8 %v", small, large)
	}
}

func BenchmarkFindFreeInASlash8At999PerMille(b *testing.B) {
	sub, asked := subnet("10.0.0.0/8", "10.0.0.1"), 0
	b.ReportAllocs()
	for b.Loop() {
		_, err := ipam.FindFree(sub, rand.Uint64(), func(first, last netip.Addr) (int64, error) {
			asked++
			return nearlyFull(first, last)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(asked)/float64(b.N), "counts/op")
}

func BenchmarkProbesInASlash8(b *testing.B) {
	sub := subnet("10.0.0.0/8", "10.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		ipam.Probes(sub, rand.Uint64(), 8)
	}
}
