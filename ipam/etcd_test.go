package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const probes = 8

// allocate builds the transaction of a new port with one address, as a client does: a free one of a few probes, all read
// at once, or what counting finds at the same revision.
func allocate(s *store.Store, sub model.Subnet, id string) func(context.Context) (*txn.Txn, error) {
	return func(ctx context.Context) (*txn.Txn, error) {
		ip, err := free(ctx, s, sub)
		if err != nil {
			return nil, err
		}
		mac := ipam.RandomMAC(rand.Uint64())
		var t txn.Txn
		t.Absent(keys.Port(sub.Network, id))
		t.Put(keys.Port(sub.Network, id), &weftv1.Port{
			Id: id, NetworkId: sub.Network, MacAddress: mac, FixedIps: []*weftv1.FixedIp{{SubnetId: sub.ID, IpAddress: ip.String()}},
		})
		ipam.ClaimPort(&t, model.Port{ID: id, Network: sub.Network, MAC: mac, FixedIPs: []model.FixedIP{{Subnet: sub.ID, IP: ip}}})
		return &t, nil
	}
}

func free(ctx context.Context, s *store.Store, sub model.Subnet) (netip.Addr, error) {
	candidates := ipam.Probes(sub, rand.Uint64(), probes)
	queries := make([]store.Query, len(candidates))
	for i, ip := range candidates {
		queries[i] = store.Key(keys.AddressClaim(sub.ID, ip))
	}
	snap, err := s.Read(ctx, queries...)
	if err != nil {
		return netip.Addr{}, err
	}
	for i, r := range snap.Results {
		if r.Count == 0 {
			return candidates[i], nil
		}
	}
	return search(ctx, s, sub, snap.Revision)
}

func search(ctx context.Context, s *store.Store, sub model.Subnet, revision int64) (netip.Addr, error) {
	return ipam.FindFree(sub, rand.Uint64(), func(first, last netip.Addr) (int64, error) {
		snap, err := s.ReadAt(ctx, revision, store.Count(ipam.ClaimRange(sub.ID, first, last)))
		if err != nil {
			return 0, err
		}
		return snap.Results[0].Count, nil
	})
}

// audit fails the test unless the ports and the claims in the store match one to one; it returns the number of ports.
func audit(t *testing.T, s *store.Store, sub model.Subnet) int {
	t.Helper()
	snap, err := s.Read(t.Context(), store.Prefix(keys.Ports(sub.Network)), store.Prefix(keys.AddressClaims(sub.ID)), store.Prefix(keys.MACClaims(sub.Network)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, e := range snap.Results[0].Entries {
		var p weftv1.Port
		if err := proto.Unmarshal(e.Value, &p); err != nil {
			t.Fatal(err)
		}
		want[keys.MACClaim(sub.Network, p.GetMacAddress())] = p.GetId()
		want[keys.AddressClaim(sub.ID, addr(p.GetFixedIps()[0].GetIpAddress()))] = p.GetId()
	}
	ports := len(snap.Results[0].Entries)
	if len(want) != 2*ports {
		t.Errorf("%d ports hold %d addresses and MACs: something is held twice", ports, len(want))
	}
	claims := append(snap.Results[1].Entries, snap.Results[2].Entries...)
	if len(claims) != len(want) {
		t.Errorf("%d claims for %d holdings", len(claims), len(want))
	}
	for _, e := range claims {
		var c storev1.Claim
		if err := proto.Unmarshal(e.Value, &c); err != nil || c.GetKind() != keys.KindPort || want[e.Key] != c.GetId() {
			t.Errorf("claim %s names %v (%v), held by %q", e.Key, &c, err, want[e.Key])
		}
	}
	return ports
}

func TestConcurrentClientsTakeExactlyWhatThereIs(t *testing.T) {
	server := storetest.Start(t)
	const clients, each = 32, 4
	sub := subnet("10.0.0.0/26", "10.0.0.1") // 61 addresses for 128 ports
	var mu sync.Mutex
	made, exhausted := 0, 0
	var wg sync.WaitGroup
	for client := range clients {
		s := store.New(server.NewClient())
		wg.Go(func() {
			for i := range each {
				_, err := s.Update(t.Context(), 0, allocate(s, sub, fmt.Sprintf("p%d-%d", client, i)))
				var full *ipam.Exhausted
				mu.Lock()
				switch {
				case err == nil:
					made++
				case errors.As(err, &full):
					exhausted++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if made != 61 || exhausted != clients*each-61 {
		t.Errorf("%d ports made, %d refused, want 61 and %d", made, exhausted, clients*each-61)
	}
	if got := audit(t, server.Store(), sub); got != made {
		t.Errorf("%d ports in the store, %d reported as made", got, made)
	}
}

// A client that dies between sending a transaction and reading the answer leaves a port with all of its claims, or
// nothing.
func TestClientsThatDieInTheMiddleLeakNothing(t *testing.T) {
	server := storetest.Start(t)
	sub := subnet("10.0.0.0/24", "10.0.0.1")
	var wg sync.WaitGroup
	for client := range 32 {
		c := server.NewClient()
		ctx, die := context.WithCancel(t.Context())
		wg.Go(func() {
			defer die()
			s := store.New(c)
			for i := range 6 {
				build := allocate(s, sub, fmt.Sprintf("p%d-%d", client, i))
				_, _ = s.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) { // the outcome is unknown to the dead
					x, err := build(ctx)
					if i == client%6 {
						go die() // while the commit is on its way
					}
					return x, err
				})
			}
		})
	}
	wg.Wait()
	if got := audit(t, server.Store(), sub); got == 0 {
		t.Error("no client made anything")
	}
}

// fill claims all addresses of the subnet but some, in transactions of the greatest size.
func fill(b *testing.B, s *store.Store, sub model.Subnet, leave int) {
	b.Helper()
	var t txn.Txn
	commit := func() {
		if _, err := s.Commit(b.Context(), &t, 0); err != nil {
			b.Fatal(err)
		}
		t = txn.Txn{}
	}
	n := 0
	for ip := sub.Pools[0].Start; sub.Pools[0].Contains(ip); ip = ip.Next() {
		if n++; n%leave == 0 {
			continue
		}
		ipam.Claim(&t, sub.ID, ip, keys.KindPort, "p")
		if len(t.Writes()) == txn.MaxOps {
			commit()
		}
	}
	commit()
}

func BenchmarkPortInANearlyFullSlash16OnEtcd(b *testing.B) {
	s := storetest.Start(b).Store()
	sub := subnet("10.0.0.0/16", "10.0.0.1")
	fill(b, s, sub, 1000)
	for b.Loop() {
		if _, err := search(b.Context(), s, sub, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPortInAnEmptySlash16OnEtcd(b *testing.B) {
	s := storetest.Start(b).Store()
	sub := subnet("10.0.0.0/16", "10.0.0.1")
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Update(b.Context(), 0, allocate(s, sub, fmt.Sprint("p", n))); err != nil {
			b.Fatal(err)
		}
	}
}
