package caller

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/proto/identity"
)

// Options are how a server tells its callers.
type Options struct {
	// Users are those who are known by a token, or by a certificate's subject; nil: nobody is.
	Users *Users
	// Issuer knows the bearers of tokens that no file lists; nil: nobody does.
	Issuer Verifier
	// Insecure: connections are not encrypted, and whoever makes one is an admin.
	Insecure bool
	// Trail is told of every call that changes something; nil: nobody is.
	Trail *slog.Logger
}

// Verifier tells whose a token is. The error is a gRPC status, which tells nothing of the token.
type Verifier interface {
	Bearer(ctx context.Context, token string) (Caller, error)
}

// Guard lets callers make the calls that their role may make, and tells handlers who they are (From).
type Guard struct {
	opts   Options
	policy policy
}

// NewGuard makes a Guard.
func NewGuard(opts Options) *Guard { return &Guard{opts: opts, policy: acts()} }

// Unary is a grpc.UnaryServerInterceptor.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		g.record(ctx, c, info.FullMethod, req, nil, err)
		return nil, err
	}
	resp, err := handler(With(ctx, c), req)
	g.record(ctx, c, info.FullMethod, req, resp, err)
	return resp, err
}

// Stream is a grpc.StreamServerInterceptor. Who the caller is and may be does not change while the stream lasts, which is no longer
// than what they are known by.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, err := g.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx := With(stream.Context(), c)
	if !c.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, c.Until, status.Errorf(codes.Unauthenticated, "what %s is known by has ended", c.Name))
		defer cancel()
	}
	return handler(srv, &known{ServerStream: stream, ctx: ctx})
}

// known is a stream whose caller is known.
type known struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // that is what a stream is
}

// Context is the stream's, with its caller.
func (s *known) Context() context.Context { return s.ctx }

// admit tells who makes a call and whether they may make calls of the method.
func (g *Guard) admit(ctx context.Context, method string) (Caller, error) {
	act, rowed := g.policy.of(method)
	c, err := g.identify(ctx)
	switch {
	case rowed && act.least() == Nobody:
		return c, nil
	case err != nil:
		return c, err
	case c.Role == Nobody:
		return c, status.Error(codes.Unauthenticated, "who are you? Call with a certificate of an admin's, or with a token (authorization: Bearer …)")
	case c.Role < act.least():
		return c, status.Errorf(codes.PermissionDenied, "%s is a %s; this takes %s", c.Name, c.Role, act.least().one())
	default:
		return c, nil
	}
}

// identify tells who a caller is: whom their token says, if they send one; else whom their certificate does. Whoever can open
// a unix socket of the controller's is an admin, and everybody is on a server that is insecure. No header but the token says
// anything.
func (g *Guard) identify(ctx context.Context) (Caller, error) {
	if sent := metadata.ValueFromIncomingContext(ctx, "authorization"); len(sent) > 0 {
		return g.bearer(ctx, sent)
	}
	from, ok := peer.FromContext(ctx)
	switch {
	case !ok:
		return Caller{}, nil
	case from.LocalAddr != nil && from.LocalAddr.Network() == "unix":
		return Caller{Name: "local", Role: Admin}, nil
	case g.opts.Insecure:
		return Caller{Name: "anybody", Role: Admin}, nil
	}
	tls, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(tls.State.VerifiedChains) == 0 {
		return Caller{}, nil
	}
	return g.certified(tls.State.VerifiedChains[0][0])
}

// certified is the caller that a certificate speaks for, whose chain was verified when the connection was made. What the file
// of users says of its subject comes before what it says itself.
func (g *Guard) certified(cert *x509.Certificate) (Caller, error) {
	subject := identity.Subject(cert)
	if time.Now().After(cert.NotAfter) {
		return Caller{Name: subject}, status.Error(codes.Unauthenticated, "your certificate has expired since the connection was made")
	}
	if g.opts.Users != nil {
		if c, ok := g.opts.Users.Subject(subject); ok && c.Role != Nobody {
			c.Until = cert.NotAfter
			return c, nil
		} else if ok {
			return c, status.Errorf(codes.Unauthenticated, "%s is shut out", c.Name)
		}
	}
	c, ok := spelled(cert)
	c.Until = cert.NotAfter
	if !ok {
		return Caller{Name: subject}, status.Errorf(codes.Unauthenticated, "your certificate is nobody's: its subject is %q", subject)
	}
	return c, nil
}

// spelled is the caller that a certificate names by itself: an admin, or a user with role and projects.
func spelled(cert *x509.Certificate) (Caller, bool) {
	id, err := identity.Of(cert)
	switch {
	case err != nil:
		return Caller{}, false
	case id.Role == identity.Admin:
		return Caller{Name: id.String(), Role: Admin}, true
	case id.Role != identity.User:
		return Caller{}, false
	}
	m, err := identity.MembershipOf(cert)
	if err != nil {
		return Caller{}, false
	}
	role, ok := ParseRole(m.Role)
	return Caller{Name: id.String(), Role: role, Projects: m.Projects}, ok
}

func (g *Guard) bearer(ctx context.Context, sent []string) (Caller, error) {
	scheme, token, _ := strings.Cut(sent[0], " ")
	if len(sent) != 1 || !strings.EqualFold(scheme, "bearer") {
		return Caller{}, status.Error(codes.Unauthenticated, "one token is wanted: authorization: Bearer …")
	}
	if g.opts.Users != nil {
		if c, ok := g.opts.Users.Bearer(token); ok {
			return c, nil
		}
	}
	if g.opts.Issuer != nil {
		return g.opts.Issuer.Bearer(ctx, token)
	}
	return Caller{}, status.Error(codes.Unauthenticated, "the token is nobody's")
}
