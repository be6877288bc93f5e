// Package client speaks to the controllers on behalf of the command line: it goes on with the next endpoint when one is
// down, gives every mutation a request id so that repeating it is safe, and offers the standard methods of every kind of
// object in one shape. It prints nothing and takes no decisions about what is to be changed.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weft-sdn/weft/proto/identity"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// serviceConfig spreads calls over the endpoints that answer and repeats a call that found none, or whose controller
// could not reach the store, on another one (gRPC proposal A6). Repeating is safe: mutations carry a request id.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]}}]
}`

// maxMessage bounds an answer: a page of 10,000 ports with their status is a few megabytes.
const maxMessage = 64 << 20

// Options say where the controllers are.
type Options struct {
	// Servers are endpoints, each "host:port" or "unix:/path"; at least one.
	Servers []string
	// Credential gives what the client is known by and knows controllers by; nil: nobody is known, and nothing encrypted. It
	// is asked once, with the first call, and not at all when every server is a unix socket. It may be nil for that.
	Credential func() (*identity.Credential, error)
	// Token gives what the client is known by besides, or instead of a certificate; nil: nothing. It is asked as Credential is.
	Token func() (string, error)
	// Timeout bounds each call but Watch; 0: none.
	Timeout time.Duration
	// Try is how long one controller may take before a call is repeated on the next; twice as long once all have had their
	// chance. 0: DefaultTry. With a single server nothing is repeated for its time.
	Try time.Duration
}

// DefaultTry is long for a call and short for a person: a controller that is held, or cut off, does not refuse calls.
const DefaultTry = 3 * time.Second

// Client is a connection to the controllers. It may be used concurrently.
type Client struct {
	dial    func() (*grpc.ClientConn, error)
	servers []string
	timeout time.Duration
	try     time.Duration
	methods map[protoreflect.FullName]method

	once sync.Once // the connection is made, or the client closed without
	conn *grpc.ClientConn
	err  error
}

type method struct {
	path   string
	output protoreflect.FullName
}

// New prepares a client; it connects with the first call. Close it after use.
func New(o Options) (*Client, error) {
	for _, s := range o.Servers {
		if err := checkEndpoint(s); err != nil {
			return nil, err
		}
	}
	if len(o.Servers) == 0 {
		return nil, fmt.Errorf("no server given: name at least one host:port or unix:/path")
	}
	return &Client{
		dial: o.dial, servers: o.Servers, timeout: o.Timeout, try: cmp.Or(o.Try, DefaultTry), methods: methods(),
	}, nil
}

// dial prepares the connection.
func (o Options) dial() (*grpc.ClientConn, error) {
	creds, err := o.transport()
	if err != nil {
		return nil, err
	}
	var addrs []resolver.Address
	for _, s := range o.Servers {
		addrs = append(addrs, resolver.Address{Addr: s, ServerName: serverName(s)})
	}
	r := manual.NewBuilderWithScheme("weft")
	r.InitialState(resolver.State{Addresses: addrs})
	bearer, err := o.bearer()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("weft:///controller",
		bearer,
		grpc.WithResolvers(r),
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to %s: %w", strings.Join(o.Servers, ", "), err)
	}
	return conn, nil
}

// transport is how the client and the controllers know each other.
func (o Options) transport() (credentials.TransportCredentials, error) {
	local := !slices.ContainsFunc(o.Servers, func(s string) bool { return !strings.HasPrefix(s, "unix:") })
	if o.Credential == nil || local {
		return insecure.NewCredentials(), nil
	}
	c, err := o.Credential()
	if c == nil || err != nil {
		return insecure.NewCredentials(), err
	}
	return c.Dialing(identity.Controller), nil
}

// bearer has each call say who the client is, if it has a token.
func (o Options) bearer() (grpc.DialOption, error) {
	if o.Token == nil {
		return grpc.EmptyDialOption{}, nil
	}
	text, err := o.Token()
	if err != nil {
		return nil, err
	}
	return grpc.WithPerRPCCredentials(token(text)), nil
}

// token is a credentials.PerRPCCredentials.
type token string

// GetRequestMetadata is as in credentials.PerRPCCredentials.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity is as in credentials.PerRPCCredentials. What is not a unix socket is encrypted unless the user
// has asked for the contrary.
func (token) RequireTransportSecurity() bool { return false }

// Close ends the connection and every call on it.
func (c *Client) Close() error {
	c.once.Do(func() { c.err = errors.New("the client is closed") })
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// connection is there from the first call on.
func (c *Client) connection() (*grpc.ClientConn, error) {
	c.once.Do(func() { c.conn, c.err = c.dial() })
	return c.conn, c.err
}

// checkEndpoint refuses what can't be an endpoint, before gRPC reports it as unreachable.
func checkEndpoint(s string) error {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("server %q: the path is missing, as in unix:/run/weft-controller/api.sock", s)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if _, notPort := strconv.ParseUint(port, 10, 16); err != nil || host == "" || notPort != nil {
		return fmt.Errorf("server %q is neither host:port nor unix:/path", s)
	}
	return nil
}

// serverName is the name that a controller's certificate has to have; of a socket it is not asked for.
func serverName(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "localhost"
	}
	return host
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// methods indexes the API's unary methods by the request message, which no two methods share.
func methods() map[protoreflect.FullName]method {
	out := map[protoreflect.FullName]method{}
	protoregistry.GlobalFiles.RangeFilesByPackage(weftv1.File_weft_v1_watch_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				if !m.IsStreamingServer() {
					out[m.Input().FullName()] = method{fmt.Sprintf("/%s/%s", s.FullName(), m.Name()), m.Output().FullName()}
				}
			}
		}
		return true
	})
	return out
}

// Do makes the call that takes this request and returns its answer. It gives a mutation without a request id one; the
// request is changed in no other way. Errors are of type *Error.
func (c *Client) Do(ctx context.Context, req proto.Message) (proto.Message, error) {
	name := req.ProtoReflect().Descriptor().FullName()
	m, ok := c.methods[name]
	if !ok {
		return nil, fmt.Errorf("%s is no request of the API", name)
	}
	resp, err := newMessage(m.output)
	if err != nil {
		return nil, err
	}
	setRequestID(req.ProtoReflect())
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	if err := c.invoke(ctx, conn, m.path, req, resp); err != nil {
		return nil, c.fail(err)
	}
	return resp, nil
}

// invoke repeats a call that a controller does not answer, for as long as the context lasts; calls go around the controllers.
// It is safe as in serviceConfig.
func (c *Client) invoke(ctx context.Context, conn *grpc.ClientConn, path string, req, resp proto.Message) error {
	if len(c.servers) == 1 {
		return conn.Invoke(ctx, path, req, resp)
	}
	limit := c.try
	for n := 1; ; n++ {
		if n > 2*len(c.servers) { // other calls take their turns too, so that two tries may meet the same one
			limit *= 2
		}
		try, cancel := context.WithTimeout(ctx, limit)
		err := conn.Invoke(try, path, req, resp)
		cancel()
		if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
			return err
		}
	}
}

func setRequestID(m protoreflect.Message) {
	f := m.Descriptor().Fields().ByName("request_id")
	if f != nil && m.Get(f).String() == "" {
		m.Set(f, protoreflect.ValueOfString(uuid.NewString()))
	}
}

func newMessage(name protoreflect.FullName) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w", name, err)
	}
	return t.New().Interface(), nil
}

// maxQuiet is how often in a row a Watch may break before it gives anything until it is given up.
const maxQuiet = 3

// Watch streams changes to do until the context ends (nil), do returns an error (that error) or the server refuses. A
// controller that goes away is followed by the next one, from the last revision seen.
func (c *Client) Watch(ctx context.Context, req *weftv1.WatchRequest, do func(*weftv1.WatchEvent) error) error {
	conn, err := c.connection()
	if err != nil {
		return err
	}
	req = proto.CloneOf(req)
	for quiet := 0; ; quiet++ {
		before := req.GetRevision()
		err := c.watchOnce(ctx, conn, req, do)
		if ctx.Err() != nil {
			return nil
		}
		if req.GetRevision() != before {
			quiet = 0
		}
		if !c.fail(err).Unreachable() || req.GetRevision() == 0 || quiet >= maxQuiet {
			return err
		}
	}
}

// watchOnce follows one stream and advances the request's revision; its errors are of type *Error or do's.
func (c *Client) watchOnce(ctx context.Context, conn *grpc.ClientConn, req *weftv1.WatchRequest, do func(*weftv1.WatchEvent) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := weftv1.NewWatchServiceClient(conn).Watch(ctx, req)
	if err != nil {
		return c.fail(err)
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return c.fail(err)
		}
		if err := do(e); err != nil {
			return err
		}
		if e.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK { // an event's revision may have more events to come
			req.Revision = max(req.Revision, e.GetRevision())
		}
	}
}
