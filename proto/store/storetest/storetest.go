// Package storetest gives tests a real etcd: one embedded member on loopback that lives in the test's own process and
// temporary directory, can be stopped, restarted with its data, and compacted. It is for tests alone; nothing that runs
// on a host imports it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
)

// startTimeout bounds the start of the server; it takes 0.05 to 0.2 s on an idle machine.
const startTimeout = 30 * time.Second

// Server is an etcd of a test's own. Client, Store, Endpoint and Compact are safe for concurrent use; Stop and Restart
// belong to the test's own goroutine.
type Server struct {
	tb       testing.TB
	dir      string
	endpoint *url.URL
	etcd     *embed.Etcd
	client   *clientv3.Client
}

// Start starts an empty etcd and returns when it serves. It is stopped, and its client closed, when the test ends.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), endpoint: &url.URL{Scheme: "http", Host: "127.0.0.1:0"}}
	tb.Cleanup(s.Stop)
	s.Restart()
	s.client = s.NewClient()
	return s
}

// Client is a client that lives as long as the test, through stops and restarts of the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Store is a store on Client.
func (s *Server) Store() *store.Store { return store.New(s.client) }

// NewClient makes another client, closed when the test ends. A client may be closed earlier.
func (s *Server) NewClient() *clientv3.Client {
	s.tb.Helper()
	client, err := store.Dial([]string{s.Endpoint()}, nil)
	if err != nil {
		s.tb.Fatalf("dial the test's etcd: %v", err)
	}
	// Closing a client a second time reports that its context has ended; that is all that can go wrong.
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Endpoint is the server's URL. It stays the same through restarts.
func (s *Server) Endpoint() string { return s.endpoint.String() }

// Stop stops the server and keeps its data; clients see an unreachable store. Stopping a stopped server does nothing.
func (s *Server) Stop() {
	if s.etcd == nil {
		return
	}
	s.etcd.Close()
	s.etcd = nil
}

// Restart starts a stopped server on the same data and the same address, and returns when it serves.
func (s *Server) Restart() {
	s.tb.Helper()
	if s.etcd != nil {
		s.tb.Fatal("the test's etcd runs already; stop it first")
	}
	etcd, err := embed.StartEtcd(s.config())
	if err != nil {
		s.tb.Fatalf("start the test's etcd on %s: %v", s.endpoint, err)
	}
	s.etcd = etcd
	if err := s.ready(); err != nil {
		s.tb.Fatal(err)
	}
	s.endpoint = &url.URL{Scheme: "http", Host: etcd.Clients[0].Addr().String()}
}

func (s *Server) ready() error {
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.etcd.Err():
		return fmt.Errorf("the test's etcd ended while starting: %w", err)
	case <-time.After(startTimeout):
		return fmt.Errorf("the test's etcd is not ready after %s", startTimeout)
	}
}

// config is a member alone in its cluster, with ticks short enough that it elects itself at once, and without fsync: the
// data has to outlive the server, not the machine.
func (s *Server) config() *embed.Config {
	peer := &url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "test", s.dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*s.endpoint}, []url.URL{*s.endpoint}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg
}

// Prepare gives the store the schema version of this release, without which followers take it for one that is not whole.
func (s *Server) Prepare() {
	s.tb.Helper()
	var t txn.Txn
	t.Put(keys.Schema, schema.Value(schema.Version))
	if _, err := s.Store().Commit(context.Background(), &t, 0); err != nil {
		s.tb.Fatalf("prepare the test's etcd: %v", err)
	}
}

// Compact drops all history before the current revision, which it returns: watches and reads at earlier revisions fail
// from now on. Compacting twice in a row does nothing more.
func (s *Server) Compact(ctx context.Context) int64 {
	s.tb.Helper()
	got, err := s.client.Get(ctx, "compact", clientv3.WithCountOnly())
	if err != nil {
		s.tb.Fatalf("read the test's etcd's revision: %v", err)
	}
	if _, err := s.client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		s.tb.Fatalf("compact the test's etcd at %d: %v", got.Header.Revision, err)
	}
	return got.Header.Revision
}
