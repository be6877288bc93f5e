// Package controller puts a controller together: the store, what follows it, the background work and the gRPC server.
// What each does is in the packages below; this one only starts and stops them in order.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/weft-sdn/weft/controller/access"
	"github.com/weft-sdn/weft/controller/api"
	"github.com/weft-sdn/weft/controller/binder"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/collect"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/keeper"
	"github.com/weft-sdn/weft/controller/leader"
	"github.com/weft-sdn/weft/controller/metrics"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
)

// Options is what a Controller needs. All are required unless they say otherwise.
type Options struct {
	// Client is the etcd to work on; it stays the caller's to close, after the controller.
	Client *clientv3.Client
	// Credential is what callers know the controller by and it knows admins and users by; on unix sockets everybody whom their
	// permissions let in is one. nil: everybody anywhere.
	Credential *identity.Credential
	// Users are those who are known by a token, and need no certificate, or by a subject; nil: nobody is.
	Users *caller.Users
	// Issuer knows the bearers of tokens that are not listed with Users; nil: nobody does. Who keeps its keys is the caller.
	Issuer caller.Verifier
	// Trail gets a line of every call that changes something, or would have; nil: nobody does.
	Trail *slog.Logger
	// UnderlayMTU as in api.Options.
	UnderlayMTU int
	// Quotas as in api.Options; nil: quota.Defaults.
	Quotas quota.Limits
	Log    *slog.Logger
	// Name is this replica's, for the operator who wants to know who leads.
	Name string
	// NodeDeadAfter is how long a node whose lease has ended keeps what is planned on it; 0 is the keeper's default.
	NodeDeadAfter time.Duration
	// Metrics is where the controller registers its metrics, its own if nil; a registry holds those of one controller.
	Metrics *prometheus.Registry
	// Observe, if not nil, is told whenever the replica begins or ends to lead; see leader.Options.
	Observe func(leader.State)
}

// transport is how callers are known.
func (o *Options) transport() credentials.TransportCredentials {
	if o.Credential == nil {
		return insecure.NewCredentials()
	}
	if o.Users != nil || o.Issuer != nil {
		return o.Credential.ServingAnybody(identity.Admin, identity.User)
	}
	return o.Credential.Serving(identity.Admin, identity.User)
}

// LeaderService is the name under which the gRPC health service says whether a replica leads: SERVING or NOT_SERVING.
const LeaderService = "weft.leader"

// Controller is one running replica. Any number may work on one etcd.
type Controller struct {
	opts    Options
	fleet   *fleet.Fleet
	metrics *metrics.Metrics
	server  *grpc.Server
	health  *health.Server
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// drain is how long calls under way may take when the controller stops.
const drain = 5 * time.Second

// Start prepares the store, lists the fleet and starts the background work; ctx bounds only the start. The result serves
// nothing until Serve.
func Start(ctx context.Context, opts Options) (*Controller, error) {
	if opts.Metrics == nil {
		opts.Metrics = prometheus.NewRegistry()
	}
	if opts.Quotas == nil {
		opts.Quotas = quota.Defaults()
	}
	m, err := metrics.New(opts.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	s := store.New(opts.Client).Observed(m.Store())
	if err := prepared(ctx, s, opts.Log); err != nil {
		return nil, err
	}
	c := &Controller{opts: opts, fleet: fleet.New(s, opts.Log), metrics: m, health: health.NewServer()}
	c.fleet.OnMove(m.ActiveChanged)
	if err := c.fleet.Ready(ctx); err != nil {
		c.fleet.Close()
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	b := binder.New(s, opts.Log)
	if err := m.Observe(metrics.Sources{
		Nodes: c.fleet.Counts, Heard: c.fleet.Heard, Away: s.Away, Queues: map[string]func() int{"binder": b.Depth},
	}); err != nil {
		c.fleet.Close()
		return nil, fmt.Errorf("metrics: %w", err)
	}
	background, stop := context.WithCancel(context.Background())
	c.stop = stop
	guard := caller.NewGuard(caller.Options{Users: opts.Users, Issuer: opts.Issuer, Insecure: opts.Credential == nil, Trail: opts.Trail})
	c.server = newServer(opts.transport(), guard, opts.Log, m)
	api.New(api.Options{
		Store: s, Fleet: c.fleet, Log: opts.Log, UnderlayMTU: opts.UnderlayMTU, Quotas: opts.Quotas, Ending: background.Done(),
	}).Register(c.server)
	healthv1.RegisterHealthServer(c.server, c.health)
	reflection.Register(c.server)
	c.wg.Go(func() { b.Run(background) })
	c.observe(leader.State{})
	c.wg.Go(func() { c.elector(s).Run(background, c.work(s)) })
	return c, nil
}

// work is what the replica does while it leads.
func (c *Controller) work(s *store.Store) func(context.Context, leader.Term) {
	keep := keeper.New(keeper.Options{Store: s, Fleet: c.fleet, Log: c.opts.Log, DeadAfter: c.opts.NodeDeadAfter})
	collector := collect.New(collect.Options{Store: s, Log: c.opts.Log, Collected: c.metrics.Collected})
	rights := access.Options{Client: c.opts.Client, Plans: c.fleet.Plans, Servers: c.fleet.Servers, Changed: c.fleet.Changed, Log: c.opts.Log}
	return func(ctx context.Context, term leader.Term) {
		var loops sync.WaitGroup
		loops.Go(func() { collector.Run(ctx, term.Guard) })
		loops.Go(func() { access.Run(ctx, rights) })
		keep.Run(ctx, term)
		loops.Wait()
	}
}

func (c *Controller) elector(s *store.Store) *leader.Elector {
	return leader.New(leader.Options{
		Store: s, Name: c.opts.Name, Log: c.opts.Log, Observe: c.observe,
		Seen: func(ctx context.Context, revision int64) error {
			return c.fleet.Await(ctx, keys.FamilyLeader, revision)
		},
	})
}

// observe says in the health service whether this replica leads.
func (c *Controller) observe(state leader.State) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if state.Leading {
		status = healthv1.HealthCheckResponse_SERVING
	}
	c.health.SetServingStatus(LeaderService, status)
	c.metrics.Leading(state.Leading)
	if c.opts.Observe != nil {
		c.opts.Observe(state)
	}
}

// Serve serves the API on a listener until Stop. It may be called for several listeners at once.
func (c *Controller) Serve(l net.Listener) error {
	if err := c.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Stop lets calls under way end, for a few seconds, and stops everything. Watches are ended at once: their callers go to
// another replica.
func (c *Controller) Stop() {
	c.health.Shutdown()
	c.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.server.GracefulStop()
	}()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		c.server.Stop()
		<-done
	}
	c.fleet.Close()
	c.wg.Wait()
}
