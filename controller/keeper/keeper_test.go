package keeper_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/keeper"
	"github.com/weft-sdn/weft/controller/leader"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// deadline bounds everything that a test waits for.
const deadline = 30 * time.Second

// grace is how long a node is away until it is dead, in most tests.
const grace = 50 * time.Millisecond

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a store with routers and networks, and nodes to hold them.
type world struct {
	*testing.T
	server   *storetest.Server
	s        *store.Store
	agents   *agents
	routers  []string
	networks []string
	began    int64 // the revision from which on the keeper is watched
}

// newWorld makes a number of routers, each with a network of its own, on some nodes; set changes each router.
func newWorld(t *testing.T, routers int, set func(*weftv1.Router), nodes ...string) *world {
	t.Helper()
	server := storetest.Start(t)
	w := &world{T: t, server: server, s: server.Store()}
	w.agents = startAgents(t, w.s, nodes...)
	w.create(routers, set)
	if len(nodes) > 1 {
		w.await("everything is built", w.built)
	}
	w.began = w.revision()
	return w
}

// create makes the routers through a controller, which is gone afterwards.
func (w *world) create(n int, set func(*weftv1.Router)) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), deadline)
	defer cancel()
	c, err := controller.Start(ctx, controller.Options{Client: w.server.NewClient(), UnderlayMTU: 1500, Quotas: quota.Limits{}, Log: w.log("api")})
	w.must(err)
	defer c.Stop()
	l := bufconn.Listen(1 << 20)
	go func() { _ = c.Serve(l) }() // ends with Stop
	conn, err := grpc.NewClient("passthrough:///weft", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	w.must(err)
	defer conn.Close()
	networks, subnets, routers := weftv1.NewNetworkServiceClient(conn), weftv1.NewSubnetServiceClient(conn), weftv1.NewRouterServiceClient(conn)
	ext, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{External: true, Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1"}})
	w.must(err)
	_, err = subnets.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: ext.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)}})
	w.must(err)
	for i := range n {
		net, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
		w.must(err)
		sub, err := subnets.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: net.GetId(), Cidr: fmt.Sprintf("10.0.%d.0/24", i)}})
		w.must(err)
		r := &weftv1.Router{}
		if set != nil {
			set(r)
		}
		r, err = routers.CreateRouter(ctx, &weftv1.CreateRouterRequest{Router: r})
		w.must(err)
		_, err = routers.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{RouterId: r.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: ext.GetId()}})
		w.must(err)
		_, err = routers.AddRouterInterface(ctx, &weftv1.AddRouterInterfaceRequest{RouterId: r.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: sub.GetId()}})
		w.must(err)
		w.networks, w.routers = append(w.networks, net.GetId()), append(w.routers, r.GetId())
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

type testLog struct {
	t    *testing.T
	name string
}

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s: %s", l.name, strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (w *world) log(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{w.T, name}, nil))
}

// keeping is a keeper that runs, under a term of its own.
type keeping struct {
	term leader.Term
	stop func()
}

// keep starts a keeper on a client of its own, which ends with the test; set changes its options.
func (w *world) keep(name string, set func(*keeper.Options)) *keeping {
	w.Helper()
	return w.keepOn(name, store.New(w.server.NewClient()), w.term(name), set)
}

// term takes the leadership, or a place in the queue for it.
func (w *world) term(name string) leader.Term {
	w.Helper()
	term := leader.Term{Key: keys.Leader(name)}
	x := &txn.Txn{}
	x.Put(term.Key, &storev1.Leader{Name: name})
	var err error
	term.CreateRevision, err = w.s.Commit(w.Context(), x, 0)
	w.must(err)
	return term
}

func (w *world) keepOn(name string, s *store.Store, term leader.Term, set func(*keeper.Options)) *keeping {
	w.Helper()
	f := fleet.New(s, w.log(name))
	w.must(f.Ready(w.Context()))
	opts := keeper.Options{Store: s, Fleet: f, Log: w.log(name), DeadAfter: grace}
	if set != nil {
		set(&opts)
	}
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keeper.New(opts).Run(ctx, term)
	}()
	k := &keeping{term: term, stop: func() { cancel(); <-done; f.Close() }}
	stopped := false
	w.Cleanup(func() {
		if !stopped {
			k.stop()
		}
	})
	return &keeping{term: term, stop: func() { stopped = true; k.stop() }}
}

// depose ends a term.
func (w *world) depose(term leader.Term) {
	w.Helper()
	w.agents.do(func(x *txn.Txn) { x.Delete(term.Key) })
}

func (w *world) revision() int64 {
	w.Helper()
	snap, err := w.s.Read(w.Context(), store.Key(keys.Schema))
	w.must(err)
	return snap.Revision
}

func (w *world) image() *image {
	w.Helper()
	m, err := w.agents.look(w.Context())
	w.must(err)
	return m
}

func (w *world) await(what string, condition func(*image) bool) {
	w.Helper()
	if !w.agents.await(condition) {
		w.Fatalf("never happened: %s; %s", what, w.describe())
	}
}

// describe is where everything is.
func (w *world) describe() string {
	m := w.image()
	var out strings.Builder
	for _, r := range w.routers {
		fmt.Fprintf(&out, "router %s active on %s, planned on %v\n", r, m.active[r].GetNode(), m.plan(r))
	}
	for _, n := range w.networks {
		fmt.Fprintf(&out, "network %s on %v\n", n, m.servers[n])
	}
	return out.String()
}

// plan is the nodes of a router in their order, nil when its bindings do not agree.
func (m *image) plan(router string) []string {
	var nodes []string
	for _, b := range m.bindings[router] {
		nodes = b.GetNodes()
	}
	if len(nodes) != len(m.bindings[router]) {
		return nil
	}
	for i, node := range nodes {
		b := m.bindings[router][node]
		if b == nil || !slices.Equal(b.GetNodes(), nodes) || int(b.GetRank()) != i {
			return nil
		}
	}
	return nodes
}

// built reports whether everything has as many nodes as it can have, which have reported it as it is, and nothing is
func (w *world) built(m *image) bool {
	for _, r := range w.routers {
		plan := m.plan(r)
		if len(plan) != 2 || m.bindings[r][m.active[r].GetNode()] == nil || m.revision[keys.Move(r)] != 0 {
			return false
		}
		for _, node := range plan {
			said := m.reports[keys.Status(node, keys.KindRouter, r)]
			if said.GetRevision() != m.revision[keys.Router(r)] || said.GetStandby() != (node != m.active[r].GetNode()) || m.bindings[r][node].GetHandOver() != "" {
				return false
			}
		}
	}
	for _, n := range w.networks {
		if len(m.servers[n]) != 2 {
			return false
		}
		for node := range m.servers[n] {
			if m.reports[keys.Status(node, keys.KindDHCP, n)].GetRevision() != m.revision[keys.Network(n)] {
				return false
			}
		}
	}
	return true
}

// empty reports whether nothing is planned on a node.
func (m *image) empty(node string) bool {
	for _, on := range m.bindings {
		if on[node] != nil {
			return false
		}
	}
	for _, on := range m.servers {
		if on[node] {
			return false
		}
	}
	return true
}

func (w *world) check(failing bool) *history {
	w.Helper()
	h := &history{t: w.T, failing: failing}
	h.check(w.s, w.began)
	return h
}

// actives is the active node of each router with its epoch.
func (w *world) actives() map[string]string {
	out := map[string]string{}
	for router, a := range w.image().active {
		out[router] = fmt.Sprint(a.GetNode(), " ", a.GetEpoch())
	}
	return out
}
