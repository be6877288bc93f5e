package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/cmd/weft/cli"
	"github.com/weft-sdn/weft/controller/access"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// secured is a controller with TLS and an embedded etcd.
type secured struct {
	*process
	authority *pki.Authority
	api, etcd string
}

func startSecured(t *testing.T) *secured {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Init(filepath.Join(dir, "pki"), pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{authority: authority, api: "127.0.0.1:" + strconv.Itoa(freePort(t)), etcd: "https://127.0.0.1:" + strconv.Itoa(freePort(t))}
	for _, id := range []identity.Identity{{Role: identity.Controller, Name: "ctl1"}, {Role: identity.Admin, Name: "alice"}, {Role: identity.Node, Name: "net1"}} {
		if _, err := authority.Issue(pki.Request{Identity: id}); err != nil {
			t.Fatal(err)
		}
	}
	s.process = start(t, []string{"WEFT_CONTROLLER_INSECURE=false"}, build(t), "--listen", s.api, "--data-dir", dir, "--etcd-listen", s.etcd,
		"--etcd-tick", "10ms", "--etcd-election", "100ms", "--tls-dir", s.folder(identity.Controller, "ctl1"))
	return s
}

func (s *secured) folder(role identity.Role, name string) string {
	return s.authority.Folder(identity.Identity{Role: role, Name: name})
}

func (s *secured) credential(role identity.Role, name string) *identity.Credential {
	s.tb.Helper()
	c, err := identity.Load(s.folder(role, name))
	if err != nil {
		s.tb.Fatal(err)
	}
	return c
}

// call makes a call of the API on a connection of its own.
func (s *secured) call(options ...grpc.DialOption) error {
	s.tb.Helper()
	conn, err := grpc.NewClient(s.api, options...)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(s.tb.Context(), 5*time.Second)
	defer cancel()
	_, err = weftv1.NewNetworkServiceClient(conn).ListNetworks(ctx, &weftv1.ListNetworksRequest{})
	return err
}

// read reads from etcd on a connection of its own.
func (s *secured) read(c *identity.Credential) error {
	s.tb.Helper()
	client, err := store.Dial([]string{s.etcd}, c)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(s.tb.Context(), 5*time.Second)
	defer cancel()
	_, err = client.Get(ctx, "x", clientv3.WithCountOnly())
	return err
}

func with(c *identity.Credential) grpc.DialOption {
	return grpc.WithTransportCredentials(c.Dialing(identity.Controller))
}

// ready waits until the API serves an admin.
func (s *secured) ready() {
	s.tb.Helper()
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if err = s.call(with(s.credential(identity.Admin, "alice"))); err == nil {
			return
		}
	}
	s.tb.Fatalf("never served: %v\n%s", err, s.log.String())
}

func TestOnlyAdminsCallTheAPIAndOnlyTheFleetReachesTheEmbeddedEtcd(t *testing.T) {
	s := startSecured(t)
	s.ready()
	if err := s.call(with(s.credential(identity.Node, "net1"))); status.Code(err) != codes.Unavailable {
		t.Errorf("a node called the API: %v", err)
	}
	if err := s.call(grpc.WithTransportCredentials(insecure.NewCredentials())); status.Code(err) != codes.Unavailable {
		t.Errorf("a call in the clear: %v", err)
	}
	if err := s.read(s.credential(identity.Node, "net1")); err != nil {
		t.Errorf("a node can't read etcd: %v", err)
	}
	host := strings.TrimPrefix(s.etcd, "https://")
	if _, err := store.Dial([]string{"http://" + host}, s.credential(identity.Node, "net1")); err == nil {
		t.Error("an http:// endpoint was taken with a credential")
	}
	if _, err := store.Dial([]string{s.etcd}, nil); err == nil {
		t.Error("an https:// endpoint was taken without a credential")
	}
	// Nothing but a handshake is answered on either port.
	for _, address := range []string{s.api, host} {
		conn, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /v3/kv/range HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(conn); strings.Contains(string(text), "200 OK") {
			t.Errorf("%s answered %q, %v", address, text, err)
		}
		conn.Close()
	}
}

// weft runs the command line.
func (s *secured) weft(folder string, args ...string) (code int, out string) {
	s.tb.Helper()
	var text bytes.Buffer
	code = cli.Main(s.tb.Context(), cli.Env{
		Args: append([]string{"--server", s.api, "--tls-dir", folder}, args...), Stdout: &text, Stderr: &text,
		Getenv: func(string) string { return "" },
	})
	return code, text.String()
}

func TestTheCommandLineIsAnAdminAndTheDoctorSaysWhoIsNot(t *testing.T) {
	s := startSecured(t)
	s.ready()
	alice, net1 := s.folder(identity.Admin, "alice"), s.folder(identity.Node, "net1")
	if code, out := s.weft(alice, "network", "create", "n"); code != cli.ExitOK {
		t.Errorf("an admin makes a network: %d, %s", code, out)
	}
	code, out := s.weft(alice, "doctor")
	for _, want := range []string{"ok     admin:alice: the certificate lasts until", "ok     controller " + s.api + " answers", "ok     controller " + s.api + " (controller:ctl1): the certificate lasts until"} {
		if !strings.Contains(out, want) || code != cli.ExitOK {
			t.Errorf("the doctor does not say %q: %d\n%s", want, code, out)
		}
	}
	if code, out := s.weft(net1, "network", "list", "--timeout", "3s"); code != cli.ExitUnreachable {
		t.Errorf("a node lists networks: %d, %s", code, out)
	}
	if code, out := s.weft(net1, "doctor"); code != cli.ExitRefused || !strings.Contains(out, "WRONG  controller "+s.api) {
		t.Errorf("the doctor finds nothing wrong with a node's certificate: %d\n%s", code, out)
	}
	if _, err := s.authority.Reissue(time.Minute); err != nil {
		t.Fatal(err)
	}
	if code, out := s.weft(alice, "doctor"); code != cli.ExitRefused || !strings.Contains(out, "WRONG  admin:alice: the certificate ends") {
		t.Errorf("the doctor does not say that a certificate ends soon: %d\n%s", code, out)
	}
}

func TestAControllerWorksOnAnEmbeddedEtcdThatGoesByWhoIsCalling(t *testing.T) {
	s := startSecured(t)
	s.ready()
	admin := s.credential(identity.Admin, "alice")
	client, err := store.Dial([]string{s.etcd}, admin)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, id := range []identity.Identity{admin.Self(), {Role: identity.Controller, Name: "ctl1"}} {
		if err := access.Grant(t.Context(), client, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := access.Enable(t.Context(), client, admin.Self()); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(s.api, with(admin))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := weftv1.NewNetworkServiceClient(conn).CreateNetwork(t.Context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}}); err != nil {
		t.Errorf("a network: %v", err)
	}
	if err := s.read(s.credential(identity.Node, "net1")); err == nil {
		t.Error("a node that nobody has granted it reads etcd")
	}
}

func TestCertificatesAndAuthoritiesAreReplacedUnderARunningController(t *testing.T) {
	s := startSecured(t)
	s.ready()
	admin, node := s.credential(identity.Admin, "alice"), s.credential(identity.Node, "net1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	// A watch of the API and a lease of etcd's that are to outlast everything.
	conn, err := grpc.NewClient(s.api, with(admin))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch, err := weftv1.NewWatchServiceClient(conn).Watch(ctx, &weftv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	broken := make(chan error, 1)
	go func() {
		for {
			if _, err := watch.Recv(); err != nil {
				broken <- err
				return
			}
		}
	}()
	client, err := store.Dial([]string{s.etcd}, node)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lease, err := client.Grant(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	beats := 0
	for _, step := range []struct {
		name string
		do   func() ([]string, error)
	}{
		{"renewed", func() ([]string, error) { return s.authority.Reissue(0) }},
		{"another authority", func() ([]string, error) { return s.authority.Rotate(pki.Given{}) }},
		{"the old one dropped", s.authority.Finish},
	} {
		if _, err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		// Old connections stay, and new ones are made by old and by new certificates alike.
		for _, who := range []*identity.Credential{admin, s.credential(identity.Admin, "alice")} {
			if err := s.call(with(who)); err != nil && step.name != "the old one dropped" {
				t.Errorf("%s: a call: %v", step.name, err)
			}
		}
		s.ready()
		if err := s.read(s.credential(identity.Node, "net1")); err != nil {
			t.Errorf("%s: etcd: %v", step.name, err)
		}
		for range 2 { // each within the lease's two seconds
			if _, ok := <-alive; !ok {
				t.Fatalf("%s: the lease is lost", step.name)
			}
			beats++
		}
	}
	select {
	case err := <-broken:
		t.Errorf("the watch has broken: %v", err)
	default:
	}
	t.Logf("%d beats of the lease", beats)
}

func TestAControllerWithoutACertificateDoesNotStartUnlessItIsTold(t *testing.T) {
	path, dir := build(t), t.TempDir()
	authority, err := pki.Init(filepath.Join(dir, "pki"), pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	node, err := authority.Issue(pki.Request{Identity: identity.Identity{Role: identity.Node, Name: "net1"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no folder":            {[]string{"--tls-dir", filepath.Join(dir, "none")}, "weft pki issue controller"},
		"a node's certificate": {[]string{"--tls-dir", node}, "node:net1, which is no controller"},
		"etcd in the clear":    {[]string{"--tls-dir", node, "--etcd-listen", "http://127.0.0.1:2379"}, "such as https://"},
	} {
		p := start(t, []string{"WEFT_CONTROLLER_INSECURE=false"}, path, append(c.args, "--listen", "unix:"+filepath.Join(dir, "s"), "--data-dir", dir)...)
		select {
		case err := <-p.exited:
			if err == nil {
				t.Errorf("%s: it ended well", name)
			}
		case <-time.After(deadline):
			t.Fatalf("%s: it runs", name)
		}
		if !strings.Contains(p.log.String(), c.says) {
			t.Errorf("%s: %s", name, p.log.String())
		}
	}
	socket := "unix:" + filepath.Join(dir, "api.sock")
	p := start(t, nil, path, "--insecure", "--listen", socket, "--data-dir", dir, "--etcd-listen", "http://127.0.0.1:0", "--etcd-tick", "10ms", "--etcd-election", "100ms")
	connect(t, socket)
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(p.log.String(), "INSECURE") {
		t.Errorf("nothing is said of it:\n%s", p.log.String())
	}
}
