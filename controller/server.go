package controller

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/metrics"
)

// Limits of the server: the size of a request (a batch of 1,000 objects is below 1 MB), of an answer (10,000 objects),
// and how long a call may take.
const (
	maxRequest  = 8 << 20
	maxResponse = 64 << 20
	unaryLimit  = 5 * time.Second
	batchLimit  = 30 * time.Second
	longWait    = time.Second
	// handshake is how long somebody may take to become a caller, and maxStreams how many calls one connection may have under
	// way: more wait on the caller's side.
	handshake  = 10 * time.Second
	maxStreams = 1000
)

func newServer(creds credentials.TransportCredentials, guard *caller.Guard, log *slog.Logger, m *metrics.Metrics) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(maxResponse),
		grpc.ConnectionTimeout(handshake), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(m.Unary, recovered(log), guard.Unary, bounded),
		grpc.ChainStreamInterceptor(m.Stream, recoveredStream(log), guard.Stream),
	)
}

// bounded ends a call that takes too long: a store that does not answer must not hold it for ever.
func bounded(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	limit := unaryLimit
	if strings.Contains(info.FullMethod, "/Batch") {
		limit = batchLimit
	}
	working, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begun := time.Now()
	resp, err := handler(working, req)
	if status.Code(err) == codes.Unavailable && time.Since(begun) > longWait {
		// The caller has waited long enough for the store: its gRPC library is not to call again by itself (gRPC A6,
		// "Pushback"). Without a connection to deliver this there is nobody to tell. One that was refused at once may well
		// ask another replica, whose way to the store is another one.
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1"))
	}
	return resp, err
}

// recovered turns a panic into an INTERNAL error, and logs every INTERNAL error: each is a bug.
func recovered(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		defer func() { err = report(log, info.FullMethod, recover(), err) }()
		return handler(ctx, req)
	}
}

func recoveredStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() { err = report(log, info.FullMethod, recover(), err) }()
		return handler(srv, stream)
	}
}

func report(log *slog.Logger, method string, panicked any, err error) error {
	if panicked != nil {
		log.Error("a call panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "%s failed; this is a bug of the controller, see its log", method)
	}
	if code := status.Code(err); code == codes.Internal || code == codes.Unknown {
		log.Error("a call failed for a reason that has no code", "method", method, "error", err)
	}
	return err
}
