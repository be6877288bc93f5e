// Package api serves weft's gRPC API. Every mutation reads a view, checks what is asked against it, builds one
// transaction with a guard for everything that it relied on, and commits it; the object is returned as stored. The shape
// that all kinds of object share is in resource.go; one file per service holds what is its own. It has no state but
// connections: any number of servers work side by side.
package api

import (
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Options is what a Server needs. All are required but Ending.
type Options struct {
	Store *store.Store
	Fleet *fleet.Fleet
	Log   *slog.Logger
	// UnderlayMTU is the MTU in bytes of the network that carries the tunnels and the provider networks.
	UnderlayMTU int
	// Quotas are the limits of a project for which none were set.
	Quotas quota.Limits
	// Ending is closed when the controller stops: watches end then, so that their callers go to another replica.
	Ending <-chan struct{}
}

// Server implements all of weft's services. It is safe for concurrent use.
type Server struct {
	opts     Options
	requests *requests

	networks  *resource[*weftv1.Network]
	grants    *resource[*weftv1.NetworkGrant]
	subnets   *resource[*weftv1.Subnet]
	ports     *resource[*weftv1.Port]
	routers   *resource[*weftv1.Router]
	floating  *resource[*weftv1.FloatingIp]
	segRanges *resource[*weftv1.SegmentRange]

	groups        *resource[*weftv1.SecurityGroup]
	rules         *resource[*weftv1.SecurityGroupRule]
	addressGroups *resource[*weftv1.AddressGroup]
}

// New makes a Server.
func New(opts Options) *Server {
	s := &Server{opts: opts, requests: &requests{store: opts.Store}}
	s.networks = newResource(s, record.Networks(), opts.Fleet.Network)
	s.grants = newResource(s, record.NetworkGrants(), nil)
	s.grants.derived = true
	s.subnets = newResource(s, record.Subnets(), nil)
	s.ports = newResource(s, record.Ports(), opts.Fleet.Port)
	s.ports.compose, s.ports.enrich = showSecurity, readInstance
	s.routers = newResource(s, record.Routers(), opts.Fleet.Router)
	s.routers.compose = func(r *weftv1.Router, revision int64) { r.ActiveNode, r.Instances = opts.Fleet.Instances(r, revision) }
	s.floating = newResource(s, record.FloatingIPs(), opts.Fleet.FloatingIP)
	s.segRanges = newResource(s, record.SegmentRanges(), nil)
	s.groups = newResource(s, record.SecurityGroups(), nil)
	s.rules = newResource(s, record.SecurityGroupRules(), nil)
	s.rules.derived = true
	s.addressGroups = newResource(s, record.AddressGroups(), nil)
	return s
}

func newResource[M proto.Message](s *Server, k *record.Kind[M], status func(M, int64) *weftv1.ObjectStatus) *resource[M] {
	return &resource[M]{Kind: k, server: s, status: status}
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	weftv1.RegisterNetworkServiceServer(r, &networkService{Server: s})
	weftv1.RegisterSubnetServiceServer(r, &subnetService{Server: s})
	weftv1.RegisterPortServiceServer(r, &portService{Server: s})
	weftv1.RegisterRouterServiceServer(r, &routerService{Server: s})
	weftv1.RegisterFloatingIpServiceServer(r, &floatingIPService{Server: s})
	weftv1.RegisterSegmentRangeServiceServer(r, &segmentRangeService{Server: s})
	weftv1.RegisterSecurityGroupServiceServer(r, &securityGroupService{Server: s})
	weftv1.RegisterNodeServiceServer(r, &nodeService{Server: s})
	weftv1.RegisterQuotaServiceServer(r, &quotaService{Server: s})
	weftv1.RegisterWatchServiceServer(r, &watchService{Server: s})
}

func now() *timestamppb.Timestamp { return timestamppb.New(time.Now()) }
