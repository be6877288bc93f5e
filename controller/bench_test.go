package controller_test

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/etcd"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// production is a controller as it runs: embedded etcd that syncs to disk, a unix socket, clients with connections of
// their own.
type production struct {
	testing.TB
	socket string
	etcd   *etcd.Server
}

// newProduction starts one whose projects have limits, the fleet's.
func newProduction(tb testing.TB, limits quota.Limits) *production {
	tb.Helper()
	dir := tb.TempDir()
	e, err := etcd.Start(tb.Context(), etcd.Options{Dir: dir, Listen: []string{"http://127.0.0.1:0"}, Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond})
	check(tb, err)
	tb.Cleanup(func() { _ = e.Close() })
	c, err := controller.Start(tb.Context(), controller.Options{Client: e.Client(), UnderlayMTU: 1500, Quotas: limits, Log: slog.New(slog.DiscardHandler)})
	check(tb, err)
	tb.Cleanup(c.Stop)
	p := &production{TB: tb, socket: filepath.Join(dir, "api.sock"), etcd: e}
	l, err := net.Listen("unix", p.socket)
	check(tb, err)
	go func() { _ = c.Serve(l) }()
	return p
}

func (p *production) client() client {
	conn, err := grpc.NewClient("unix:"+p.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	check(p, err)
	p.Cleanup(func() { _ = conn.Close() })
	return clientOn(conn)
}

// nodes registers network nodes, so that every subnet places a DHCP server.
func (p *production) nodes(n int) {
	b := &bench{TB: p}
	b.etcdClient = p.etcd.Client()
	for i := range n {
		a := networkNode("tenant")
		a.TunnelIp = fmt.Sprintf("192.0.2.%d", i+1)
		b.node(fmt.Sprintf("net%d", i+1), a)
	}
	r := p.client()
	b.eventually("nodes are seen", func() bool {
		got, err := r.ListNodes(p.Context(), &weftv1.ListNodesRequest{})
		return err == nil && len(got.GetNodes()) == n
	})
}

func triple(tb testing.TB, c client) {
	ctx := tb.Context()
	n, err := c.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "n"}})
	if err != nil {
		tb.Error(err)
		return
	}
	if _, err = c.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.0.0.0/24"}}); err != nil {
		tb.Error(err)
		return
	}
	if _, err = c.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId()}}); err != nil {
		tb.Error(err)
	}
}

func BenchmarkTriplesOneClient(b *testing.B) { benchTriples(b, 1, quota.Limits{}) }

func BenchmarkTriples64Clients(b *testing.B) { benchTriples(b, 64, quota.Limits{}) }

func BenchmarkTriples64ClientsOfALimitedProject(b *testing.B) { benchTriples(b, 64, ample()) }

func benchTriples(b *testing.B, clients int, limits quota.Limits) {
	p := newProduction(b, limits)
	p.nodes(2)
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range clients {
		c := p.client()
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				triple(b, c)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "triples/s")
}

func BenchmarkTriplesBulk(b *testing.B) {
	p := newProduction(b, quota.Limits{})
	p.nodes(2)
	c := p.client()
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(1000, b.N-done)
		bulk(b, c, n, 1)
		done += n
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "triples/s")
}

// bulk creates n networks with a subnet and ports each by batch calls, and returns the ids of the networks.
func bulk(tb testing.TB, c client, n, ports int) []string {
	ctx := tb.Context()
	nets := &weftv1.BatchCreateNetworksRequest{}
	for range n {
		nets.Requests = append(nets.Requests, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "n"}})
	}
	gotNets, err := c.BatchCreateNetworks(ctx, nets)
	check(tb, err)
	subs, prts, ids := &weftv1.BatchCreateSubnetsRequest{}, []*weftv1.CreatePortRequest{}, []string{}
	for _, r := range gotNets.GetResults() {
		if r.GetError() != nil {
			tb.Fatal(r.GetError())
		}
		ids = append(ids, r.GetNetwork().GetId())
		subs.Requests = append(subs.Requests, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: r.GetNetwork().GetId(), Cidr: "10.0.0.0/16"}})
		for range ports {
			prts = append(prts, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.GetNetwork().GetId()}})
		}
	}
	gotSubs, err := c.BatchCreateSubnets(ctx, subs)
	check(tb, err)
	for _, r := range gotSubs.GetResults() {
		if r.GetError() != nil {
			tb.Fatal(r.GetError())
		}
	}
	for len(prts) > 0 {
		n := min(1000, len(prts))
		got, err := c.BatchCreatePorts(ctx, &weftv1.BatchCreatePortsRequest{Requests: prts[:n]})
		check(tb, err)
		for _, r := range got.GetResults() {
			if r.GetError() != nil {
				tb.Fatal(r.GetError())
			}
		}
		prts = prts[n:]
	}
	return ids
}

func BenchmarkList10000Ports(b *testing.B) {
	p := newProduction(b, quota.Limits{})
	p.nodes(2)
	c := p.client()
	bulk(b, c, 100, 99) // and a DHCP port each
	b.ResetTimer()
	for range b.N {
		got, err := c.ListPorts(b.Context(), &weftv1.ListPortsRequest{PageSize: 10000})
		check(b, err)
		if len(got.GetPorts()) != 10000 {
			b.Fatalf("%d ports", len(got.GetPorts()))
		}
	}
}

// BenchmarkOneMorePort compares the creation of a port in a small and a large fleet.
func BenchmarkOneMorePort(b *testing.B) {
	for _, networks := range []int{1, 100} {
		b.Run(fmt.Sprintf("%dPorts", networks*100), func(b *testing.B) {
			p := newProduction(b, quota.Limits{})
			p.nodes(2)
			c := p.client()
			ids := bulk(b, c, networks, 99)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			b.ResetTimer()
			for i := range b.N {
				_, err := c.CreatePort(b.Context(), &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: ids[i%len(ids)]}})
				check(b, err)
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(before.HeapAlloc)/(1<<20), "heapMB")
		})
	}
}

// BenchmarkPlugToBinding measures from an agent's plug to the binding that tells it to wire the port.
func BenchmarkPlugToBinding(b *testing.B) {
	p := newProduction(b, quota.Limits{})
	p.nodes(1)
	c := p.client()
	net := bulk(b, c, 1, 0)[0]
	ports := make([]string, b.N)
	for i := range ports {
		got, err := c.CreatePort(b.Context(), &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: net}})
		check(b, err)
		ports[i] = got.GetId()
	}
	bindings := p.etcd.Client().Watch(b.Context(), keys.HostKind("cmp1", keys.KindPort), withPrefix())
	b.ResetTimer()
	for _, id := range ports {
		_, err := p.etcd.Client().Put(b.Context(), keys.Plug("cmp1", id), "")
		check(b, err)
		<-bindings
	}
}
