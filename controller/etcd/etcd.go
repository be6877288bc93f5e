// Package etcd runs the embedded etcd of a controller that is given no cluster: one member, its data in a directory, its
// client URL for agents on other hosts. It is no cluster manager: for more than one controller run etcd by itself.
package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"github.com/weft-sdn/weft/proto/identity"
)

// Options says where the server keeps its data and where it listens.
type Options struct {
	// Dir is created if need be.
	Dir string
	// Listen are the URLs for clients, e.g. "https://10.0.0.1:2379".
	Listen []string
	// TLSDir is the folder of the server's credential (proto/identity), by which clients know it and it knows clients. Its
	// certificate is followed as it changes; which authorities are trusted is read at the start. "": http:// URLs only, and
	// everybody is a client.
	TLSDir string
	// Tick is the heartbeat interval and Election the time after which a member stands for election; a lone member elects
	// itself after that long. Defaults 100 ms and 1 s, etcd's own.
	Tick, Election time.Duration
	// Quota is the size in bytes at which the database takes no more writes. Default 2 GiB.
	Quota int64
}

// startTimeout bounds the start: replaying a large log takes its time.
const startTimeout = time.Minute

// history is how long old revisions are kept, for pages and watches.
const history = time.Hour

// Server is a running etcd. Close ends it.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
}

// Start starts the server and waits until it serves.
func Start(ctx context.Context, opts Options) (*Server, error) {
	cfg, err := config(opts)
	if err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded etcd in %s: %w", opts.Dir, err)
	}
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-e.Server.ReadyNotify():
		return &Server{etcd: e, client: v3client.New(e.Server)}, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("not ready after %s", startTimeout)
	}
	e.Close()
	return nil, fmt.Errorf("embedded etcd in %s: %w", opts.Dir, err)
}

// Client is a client inside the process: its calls cross no socket, and it has no certificate, so that an etcd that goes by
// users refuses it. It lives as long as the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Endpoints are the URLs at which the server is reached on this host; a port 0 has become the real one.
func (s *Server) Endpoints() []string {
	var out []string
	for _, l := range s.etcd.Clients {
		at, err := netip.ParseAddrPort(l.Addr().String())
		if err == nil && at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
		}
		out = append(out, s.etcd.Config().ListenClientUrls[0].Scheme+"://"+at.String())
	}
	return out
}

// Failed is readable when the server has ended by itself.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Close ends client and server.
func (s *Server) Close() error {
	err := s.client.Close()
	s.etcd.Close()
	if err != nil {
		return fmt.Errorf("close the embedded etcd's client: %w", err)
	}
	return nil
}

func config(opts Options) (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "weft", filepath.Join(opts.Dir, "etcd")
	listen, err := parse(opts)
	if err != nil {
		return nil, err
	}
	if opts.TLSDir != "" {
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: filepath.Join(opts.TLSDir, identity.CertFile), KeyFile: filepath.Join(opts.TLSDir, identity.KeyFile),
			TrustedCAFile: filepath.Join(opts.TLSDir, identity.CAFile), ClientCertAuth: true,
		}
		cfg.TlsMinVersion = string(tlsutil.TLSVersion13)
	}
	cfg.EnableGRPCGateway = false // nobody speaks JSON to it, and it knows no client certificates
	// No other member will ever join; the peer listener takes any free port on loopback.
	peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = listen, listen
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	if opts.Tick > 0 {
		cfg.TickMs = uint(opts.Tick / time.Millisecond)
	}
	if opts.Election > 0 {
		cfg.ElectionMs = uint(opts.Election / time.Millisecond)
	}
	cfg.QuotaBackendBytes = 2 << 30
	if opts.Quota > 0 {
		cfg.QuotaBackendBytes = opts.Quota
	}
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, history.String()
	// The log is replayed from the last snapshot: fewer entries to keep in memory than etcd's default of 10,000.
	cfg.SnapshotCount = 5000
	cfg.WatchProgressNotifyInterval = 10 * time.Second
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg, nil
}

func parse(opts Options) ([]url.URL, error) {
	scheme := "http"
	if opts.TLSDir != "" {
		scheme = "https"
	}
	var out []url.URL
	for _, text := range opts.Listen {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != scheme || u.Port() == "" {
			return nil, fmt.Errorf("etcd_listen: %q is not a URL such as %s://10.0.0.1:2379", text, scheme)
		}
		out = append(out, *u)
	}
	return out, nil
}
