package client_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// replica is a controller of which only the connection is of interest: it answers as told and remembers request ids. What
// the API does with requests is tested with the real controller, in package cli.
type replica struct {
	weftv1.UnimplementedNetworkServiceServer
	weftv1.UnimplementedPortServiceServer
	weftv1.UnimplementedWatchServiceServer

	name string
	mu   sync.Mutex
	held bool  // calls are not answered
	fail error // of the next calls
	seen []string
	from []int64 // revisions that watches began at
}

func (r *replica) answer(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, id)
	return r.fail
}

func (r *replica) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *replica) CreateNetwork(ctx context.Context, req *weftv1.CreateNetworkRequest) (*weftv1.Network, error) {
	if r.held {
		_ = r.answer(req.GetRequestId()) // only to remember it
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &weftv1.Network{Id: r.name, Name: req.GetNetwork().GetName()}, r.answer(req.GetRequestId())
}

func (r *replica) DeleteNetwork(_ context.Context, req *weftv1.DeleteNetworkRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, r.answer(req.GetRequestId())
}

func (r *replica) ListPorts(_ context.Context, req *weftv1.ListPortsRequest) (*weftv1.ListPortsResponse, error) {
	resp := &weftv1.ListPortsResponse{NextPageToken: req.GetPageToken() + "x"}
	if len(resp.GetNextPageToken()) == 3 {
		resp.NextPageToken = ""
	}
	for range min(2, req.GetPageSize()) {
		resp.Ports = append(resp.Ports, &weftv1.Port{Id: req.GetPageToken()})
	}
	return resp, r.answer("")
}

func (r *replica) Watch(req *weftv1.WatchRequest, s weftv1.WatchService_WatchServer) error {
	r.mu.Lock()
	r.from = append(r.from, req.GetRevision())
	r.mu.Unlock()
	if err := s.Send(&weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_BOOKMARK, Revision: req.GetRevision() + 1}); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "going away")
}

// serve runs a replica on an address until the test ends or the returned function is called.
func serve(t *testing.T, r *replica, network, addr string) (endpoint string, stop func()) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	weftv1.RegisterNetworkServiceServer(s, r)
	weftv1.RegisterPortServiceServer(s, r)
	weftv1.RegisterWatchServiceServer(s, r)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			s.Stop()
			if err := <-done; err != nil {
				t.Errorf("replica %s: %v", r.name, err)
			}
		})
	}
	t.Cleanup(stop)
	if network == "unix" {
		return "unix:" + addr, stop
	}
	return l.Addr().String(), stop
}

func connect(t *testing.T, servers ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Servers: servers, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// nobody is an endpoint where nothing listens.
func nobody(t *testing.T) string { return "unix:" + filepath.Join(t.TempDir(), "nobody") }

func TestGoesOnWithTheNextEndpointWhenOneIsDown(t *testing.T) {
	a, b := &replica{name: "a"}, &replica{name: "b"}
	atA, stopA := serve(t, a, "tcp", "127.0.0.1:0")
	atB, _ := serve(t, b, "unix", filepath.Join(t.TempDir(), "b.sock"))
	c := connect(t, nobody(t), atA, atB)
	for range 4 {
		if _, err := c.Create(t.Context(), &weftv1.Network{Name: "n"}); err != nil {
			t.Fatal(err)
		}
	}
	stopA()
	for range 4 {
		m, err := c.Create(t.Context(), &weftv1.Network{Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		if id := client.Field(m, "id"); id != "b" {
			t.Errorf("answered by %q, want b", id)
		}
	}
}

func TestRepeatsOnAnotherControllerWithTheSameRequestID(t *testing.T) {
	a, b := &replica{name: "a", fail: status.Error(codes.Unavailable, "etcd is away")}, &replica{name: "b"}
	atA, _ := serve(t, a, "tcp", "127.0.0.1:0")
	atB, _ := serve(t, b, "tcp", "127.0.0.1:0")
	c := connect(t, atA, atB)
	deadline := time.Now().Add(10 * time.Second)
	for len(a.ids()) == 0 { // the first calls may all go to b, while the connection to a is being made
		if time.Now().After(deadline) {
			t.Fatal("no call ever went to the controller that can't answer")
		}
		if err := c.Delete(t.Context(), client.Network, "n"); err != nil {
			t.Fatal(err)
		}
	}
	id, last := a.ids()[0], b.ids()
	if id == "" || last[len(last)-1] != id {
		t.Errorf("request id %q first, then %q", id, last[len(last)-1])
	}
}

func TestACallThatIsNotAnsweredIsRepeatedOnTheNextController(t *testing.T) {
	held, well := &replica{name: "held", held: true}, &replica{name: "well"}
	atHeld, _ := serve(t, held, "tcp", "127.0.0.1:0")
	atWell, _ := serve(t, well, "tcp", "127.0.0.1:0")
	c, err := client.New(client.Options{Servers: []string{atHeld, atWell}, Timeout: 10 * time.Second, Try: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	deadline := time.Now().Add(10 * time.Second)
	for len(held.ids()) == 0 { // the first calls may all go to the other, while the connection is being made
		if time.Now().After(deadline) {
			t.Fatal("no call ever went to the controller that does not answer")
		}
		m, err := c.Create(t.Context(), &weftv1.Network{Name: "n"})
		if err != nil || client.Field(m, "id") != "well" {
			t.Fatalf("%v, %v", m, err)
		}
	}
	id, last := held.ids()[0], well.ids()
	if id == "" || last[len(last)-1] != id {
		t.Errorf("request id %q first, then %q", id, last[len(last)-1])
	}
}

func TestNoControllerIsAnErrorOfItsOwn(t *testing.T) {
	at, _ := serve(t, &replica{fail: status.Error(codes.Unavailable, "the store can't be reached")}, "tcp", "127.0.0.1:0")
	for name, tc := range map[string]struct{ server, want string }{
		"nobody listens":       {nobody(t), "no such file"},
		"its store is away":    {at, "the store can't be reached"},
		"all are named":        {at, at},
		"gRPC's own words not": {at, "can answer: the store can't be reached"},
	} {
		_, err := connect(t, tc.server).List(t.Context(), client.Port, client.Query{})
		var e *client.Error
		if !errors.As(err, &e) || !e.Unreachable() || !strings.Contains(e.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestRefusalsAreNotRepeatedAndNameTheFields(t *testing.T) {
	s, err := status.New(codes.InvalidArgument, "two things are wrong").WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "network.mtu", Description: "5 is not in 68..65535"}, {Field: "network.name", Description: "is too long"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{fail: s.Err()}
	at, _ := serve(t, r, "tcp", "127.0.0.1:0")
	_, err = connect(t, at).Create(t.Context(), &weftv1.Network{})
	if want := "network.mtu: 5 is not in 68..65535\nnetwork.name: is too long"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if n := len(r.ids()); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestListFollowsPagesUpToTheLimit(t *testing.T) {
	at, _ := serve(t, &replica{}, "tcp", "127.0.0.1:0")
	c := connect(t, at)
	for limit, want := range map[int]int{0: 6, 1: 1, 2: 2, 3: 3, 6: 6, 7: 6} {
		got, err := c.List(t.Context(), client.Port, client.Query{Limit: limit})
		if err != nil || len(got) != want {
			t.Errorf("limit %d: %d ports, %v; want %d", limit, len(got), err, want)
		}
	}
}

func TestWatchGoesOnFromTheLastRevisionWithTheNextController(t *testing.T) {
	r := &replica{}
	at, _ := serve(t, r, "tcp", "127.0.0.1:0")
	enough := errors.New("enough")
	var got []int64
	err := connect(t, at).Watch(t.Context(), &weftv1.WatchRequest{Revision: 7}, func(e *weftv1.WatchEvent) error {
		if got = append(got, e.GetRevision()); len(got) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || got[2] != 10 {
		t.Errorf("watch: %v, %v", got, err)
	}
}

func TestEndpointsAreChecked(t *testing.T) {
	for _, bad := range []string{"", "localhost", ":7680", "host:", "unix:", "http://host"} {
		if _, err := client.New(client.Options{Servers: []string{bad}}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := client.New(client.Options{}); err == nil {
		t.Error("no endpoint was taken")
	}
}

func TestEveryKindHasItsStandardMethods(t *testing.T) {
	c := connect(t, nobody(t))
	for _, k := range client.Kinds() {
		for name, call := range map[string]func(context.Context) error{
			"list":   func(ctx context.Context) error { _, err := c.List(ctx, k, client.Query{}); return err },
			"get":    func(ctx context.Context) error { _, err := c.Get(ctx, k, "x"); return err },
			"delete": func(ctx context.Context) error { return c.Delete(ctx, k, "x") },
		} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // it is enough that the call could be made
			var e *client.Error
			if err := call(ctx); !errors.As(err, &e) || e.Code != codes.Canceled {
				t.Errorf("%s %s: %v", name, k, err)
			}
		}
	}
}
