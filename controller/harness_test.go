package controller_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store/storetest"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// deadline bounds everything that a test waits for.
const deadline = 30 * time.Second

// client is all services on one connection.
type client struct {
	weftv1.NetworkServiceClient
	weftv1.SubnetServiceClient
	weftv1.PortServiceClient
	weftv1.RouterServiceClient
	weftv1.FloatingIpServiceClient
	weftv1.SegmentRangeServiceClient
	weftv1.NodeServiceClient
	weftv1.WatchServiceClient
	weftv1.SecurityGroupServiceClient
	weftv1.QuotaServiceClient
	conn *grpc.ClientConn
}

// replica is a controller that a test runs, with a client to it.
type replica struct {
	client
	controller *controller.Controller
	listener   *bufconn.Listener
	stopped    bool
}

func (r *replica) stop() {
	if r.stopped {
		return
	}
	r.stopped = true
	_ = r.conn.Close() // a connection that is closed already is closed
	r.controller.Stop()
}

// bench is the face of testing.TB that the harness needs.
type bench struct {
	testing.TB
	etcd       *storetest.Server
	etcdClient *clientv3.Client
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	server := storetest.Start(tb)
	return &bench{TB: tb, etcd: server, etcdClient: server.Client()}
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	b.Cleanup(cancel)
	return ctx
}

// replica starts a controller on the bench's etcd; it ends with the test.
func (b *bench) replica() *replica { return b.replicaOn(b.etcd.NewClient()) }

func (b *bench) replicaOn(etcd *clientv3.Client) *replica {
	b.Helper()
	return b.replicaWith(controller.Options{Client: etcd})
}

// replicaWith is replica with options, of which the ones that are needed are decided.
func (b *bench) replicaWith(o controller.Options) *replica {
	b.Helper()
	o.UnderlayMTU, o.Log = 1500, slog.New(slog.NewTextHandler(logWriter{b}, nil))
	if o.Quotas == nil {
		o.Quotas = ample()
	}
	if o.Client == nil {
		o.Client = b.etcd.NewClient()
	}
	c, err := controller.Start(b.context(), o)
	if err != nil {
		b.Fatal(err)
	}
	r := &replica{controller: c, listener: bufconn.Listen(1 << 20)}
	go func() { _ = c.Serve(r.listener) }() // ends with Stop
	r.client = dial(b, r.listener)
	b.Cleanup(r.stop)
	return r
}

// ample are limits that no test meets by accident, and that everything counts under.
func ample() quota.Limits {
	out := quota.Limits{}
	for _, k := range quota.Kinds() {
		out[k.Enum] = 100_000
	}
	return out
}

func dial(tb testing.TB, l *bufconn.Listener) client {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:///weft", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		tb.Fatal(err)
	}
	return clientOn(conn)
}

// clientOn is all services on a connection.
func clientOn(conn *grpc.ClientConn) client {
	return client{
		weftv1.NewNetworkServiceClient(conn), weftv1.NewSubnetServiceClient(conn), weftv1.NewPortServiceClient(conn),
		weftv1.NewRouterServiceClient(conn), weftv1.NewFloatingIpServiceClient(conn), weftv1.NewSegmentRangeServiceClient(conn),
		weftv1.NewNodeServiceClient(conn), weftv1.NewWatchServiceClient(conn),
		weftv1.NewSecurityGroupServiceClient(conn), weftv1.NewQuotaServiceClient(conn), conn,
	}
}

// logWriter sends a controller's log to the test's, which may have ended. A fuzz test takes none from outside its target.
type logWriter struct{ b *bench }

func (w logWriter) Write(p []byte) (int, error) {
	if _, fuzz := w.b.TB.(*testing.F); fuzz {
		return len(p), nil
	}
	if w.b.Context().Err() == nil {
		w.b.Log(string(p))
	}
	return len(p), nil
}

// put writes a key as an agent would.
func (b *bench) put(key string, m proto.Message) int64 {
	b.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := b.etcdClient.Put(b.context(), key, string(raw))
	if err != nil {
		b.Fatal(err)
	}
	return resp.Header.Revision
}

func (b *bench) del(key string) {
	b.Helper()
	if _, err := b.etcdClient.Delete(b.context(), key); err != nil {
		b.Fatal(err)
	}
}

// read reads a key into a message; the revision is 0 when there is none.
func (b *bench) read(key string, into proto.Message) int64 {
	b.Helper()
	resp, err := b.etcdClient.Get(b.context(), key)
	if err != nil {
		b.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return 0
	}
	if err := proto.Unmarshal(resp.Kvs[0].Value, into); err != nil {
		b.Fatal(err)
	}
	return resp.Kvs[0].ModRevision
}

func (b *bench) exists(key string) bool {
	b.Helper()
	return b.read(key, &storev1.Locator{}) != 0
}

// node registers a node as its agent would.
func (b *bench) node(name string, agent *storev1.Agent) {
	b.Helper()
	if agent.GetStartTime() == nil {
		agent.StartTime = timestamppb.Now()
	}
	b.put(keys.Agent(name), agent)
	b.put(keys.Live(name), agent)
}

func networkNode(physnets ...string) *storev1.Agent {
	a := &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK, weftv1.Role_ROLE_COMPUTE}, TunnelIp: "192.0.2.1", BridgeMappings: map[string]string{}}
	for _, p := range physnets {
		a.BridgeMappings[p] = "br-" + p
		a.Uplinks = append(a.Uplinks, &weftv1.Uplink{PhysicalNetwork: p, Bridge: "br-" + p, Proven: true})
	}
	return a
}

// eventually waits for a condition.
func (b *bench) eventually(what string, condition func() bool) {
	b.Helper()
	b.eventuallyOr(what, condition, func() {})
}

// eventuallyOr waits for a condition, and lets explain say more when it never comes.
func (b *bench) eventuallyOr(what string, condition func() bool, explain func()) {
	b.Helper()
	ctx := b.context()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			explain()
			b.Fatalf("never happened: %s", what)
		case <-ticker.C:
		}
	}
}

// seen waits until a replica's fleet has the nodes.
func (b *bench) seen(r *replica, nodes ...string) {
	b.Helper()
	for _, n := range nodes {
		b.eventually("node "+n+" is seen alive", func() bool {
			got, err := r.GetNode(b.context(), &weftv1.GetNodeRequest{Id: n})
			return err == nil && got.GetAlive()
		})
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func withPrefix() clientv3.OpOption { return clientv3.WithPrefix() }
