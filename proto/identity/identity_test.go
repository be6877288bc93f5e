package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/identitytest"
	"github.com/weft-sdn/weft/proto/identity/pki"
)

var ( // identities of the tests
	ctl1  = identity.Identity{Role: identity.Controller, Name: "ctl1"}
	net1  = identity.Identity{Role: identity.Node, Name: "net1"}
	net2  = identity.Identity{Role: identity.Node, Name: "net2"}
	alice = identity.Identity{Role: identity.Admin, Name: "alice"}
)

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	a, err := pki.Init(filepath.Join(t.TempDir(), "pki"), pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *pki.Authority, r pki.Request) string {
	t.Helper()
	folder, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func load(t *testing.T, folder string) *identity.Credential {
	t.Helper()
	c, err := identity.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// member issues and loads a credential.
func member(t *testing.T, a *pki.Authority, id identity.Identity) *identity.Credential {
	t.Helper()
	return load(t, issue(t, a, pki.Request{Identity: id}))
}

// talk has a client and a server exchange a byte each way and returns what either end says.
func talk(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := lis.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		done <- exchange(tls.Server(raw, server))
	}()
	raw, err := net.Dial("tcp4", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	clientErr = exchange(tls.Client(raw, client))
	raw.Close()
	return clientErr, <-done
}

func exchange(c *tls.Conn) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestACommonNameSpellsOneIdentity(t *testing.T) {
	for _, id := range []identity.Identity{ctl1, net1, alice, {Role: identity.Etcd, Name: "10.0.0.1"}, {Role: identity.Node, Name: "a.example.com"}} {
		if got, err := identity.Parse(id.String()); err != nil || got != id {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	for _, bad := range []string{"", "root", "node", "node:", ":net1", "king:net1", "node:net1:net2", "Node:net1", "node:net 1", "node:net1/", "node:-a", "node:" + strings.Repeat("a", 64)} {
		if id, err := identity.Parse(bad); !errors.Is(err, identity.ErrStranger) {
			t.Errorf("%q is %v, %v", bad, id, err)
		}
	}
}

func TestOnlyExpectedRolesOfTheFleetGetThrough(t *testing.T) {
	a, other := authority(t), authority(t)
	server, node, person := member(t, a, ctl1), member(t, a, net1), member(t, a, alice)
	strange, strangeServer := member(t, other, alice), member(t, other, ctl1)
	listening := server.Server(identity.Admin)
	bare := person.Client("ctl1", identity.Controller)
	bare.GetClientCertificate = nil
	old := person.Client("ctl1", identity.Controller)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	trusting := strange.Client("ctl1", identity.Controller)
	trusting.InsecureSkipVerify = true
	for name, c := range map[string]struct {
		client, server *tls.Config
		ok             bool
	}{
		"an admin":                                  {person.Client("ctl1", identity.Controller), listening, true},
		"an admin by address":                       {person.Client("127.0.0.1", identity.Controller), listening, true},
		"a node":                                    {node.Client("ctl1", identity.Controller), listening, false},
		"an admin of another fleet":                 {trusting, listening, false},
		"without a certificate":                     {bare, listening, false},
		"TLS 1.2":                                   {old, listening, false},
		"a server under another name":               {person.Client("ctl2", identity.Controller), listening, false},
		"a server of another role":                  {person.Client("net1", identity.Controller), node.Server(identity.Admin), false},
		"a server of another fleet":                 {person.Client("ctl1", identity.Controller), strangeServer.Server(identity.Admin), false},
		"a server that has no certificate to serve": {node.Client("alice", identity.Admin), person.Server(identity.Node), false},
		"a node to a node":                          {node.Client("net2", identity.Node), member(t, a, net2).Server(identity.Node), true},
	} {
		ce, se := talk(t, c.client, c.server)
		if ok := ce == nil && se == nil; ok != c.ok {
			t.Errorf("%s: client %v, server %v", name, ce, se)
		}
	}
}

// hosts have copies of folders, as hosts do, with what a process there has loaded.
type hosts struct {
	t *testing.T
	a *pki.Authority
	c map[identity.Identity]*identity.Credential
	d map[identity.Identity]string
}

func (h *hosts) carry(id identity.Identity) {
	h.t.Helper()
	if h.d[id] == "" {
		h.d[id] = h.t.TempDir()
	}
	if err := os.CopyFS(h.d[id]+".new", os.DirFS(h.a.Folder(id))); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range []string{identity.CAFile, identity.KeyFile, identity.CertFile} {
		if err := os.Chmod(filepath.Join(h.d[id]+".new", name), 0o600); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(h.d[id]+".new", name), filepath.Join(h.d[id], name)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := os.RemoveAll(h.d[id] + ".new"); err != nil {
		h.t.Fatal(err)
	}
	if h.c[id] == nil {
		h.c[id] = load(h.t, h.d[id])
		return
	}
	if changed, err := h.c[id].Reload(); err != nil || !changed {
		h.t.Fatalf("reload of %s: %v, %v", id, changed, err)
	}
}

// talk checks that everybody reaches everybody, and the process that never looked at its files again.
func (h *hosts) talk(when string, static *tls.Config) {
	h.t.Helper()
	for client, c := range h.c {
		for server, s := range h.c {
			if ce, se := talk(h.t, c.Client(server.Name, identity.Node), s.Server(identity.Node)); ce != nil || se != nil {
				h.t.Errorf("%s: %s to %s: client %v, server %v", when, client, server, ce, se)
			}
		}
		if ce, se := talk(h.t, c.Client("etcd1", identity.Etcd), static); ce != nil || se != nil {
			h.t.Errorf("%s: %s to who knows the first authority only: client %v, server %v", when, client, ce, se)
		}
	}
}

func TestAuthoritiesAreRotatedOneHostAfterTheOtherWithoutARefusal(t *testing.T) {
	a := authority(t)
	h := &hosts{t, a, map[identity.Identity]*identity.Credential{}, map[identity.Identity]string{}}
	for _, id := range []identity.Identity{net1, net2} {
		issue(t, a, pki.Request{Identity: id})
		h.carry(id)
	}
	etcd := identity.Identity{Role: identity.Etcd, Name: "etcd1"}
	issue(t, a, pki.Request{Identity: etcd})
	kept := t.TempDir()
	if err := os.CopyFS(filepath.Join(kept, "c"), os.DirFS(a.Folder(etcd))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(kept, "c", identity.KeyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	// As etcd does it: the authorities are read once, the certificate at each handshake.
	first, live := load(t, filepath.Join(kept, "c")), load(t, a.Folder(etcd))
	static := &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		now, err := first.Server(identity.Node).GetConfigForClient(hello)
		if err != nil {
			return nil, err
		}
		fresh, err := live.Server(identity.Node).GetConfigForClient(hello)
		if err == nil {
			now.Certificates = fresh.Certificates
		}
		return now, err
	}}
	h.talk("before", static)

	original := h.c[net1]
	var open tls.ConnectionState
	watched := original.Client("net2", identity.Node)
	role := watched.VerifyConnection
	watched.VerifyConnection = func(s tls.ConnectionState) error { open = s; return role(s) }
	if ce, se := talk(t, watched, h.c[net2].Server(identity.Node)); ce != nil || se != nil {
		t.Fatal(ce, se)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"renewed", func() error { _, err := a.Reissue(0); return err }},
		{"another authority", func() error { _, err := a.Rotate(pki.Given{}); return err }},
		{"the old one dropped", func() error { _, err := a.Finish(); return err }},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for _, id := range []identity.Identity{net2, net1} {
			h.talk(step.what+", before it came to "+id.String(), static)
			h.carry(id)
		}
		if _, err := live.Reload(); err != nil {
			t.Fatal(err)
		}
		h.talk(step.what, static)
	}
	if err := original.Verify(open, net2); err == nil {
		t.Error("an open connection by a certificate of the authority that was dropped is still taken for that of net2")
	}
}

func TestFilesThatDoNotFitLeaveEverythingAsItWas(t *testing.T) {
	a := authority(t)
	folder, otherFolder := issue(t, a, pki.Request{Identity: net1}), issue(t, a, pki.Request{Identity: net2})
	c := load(t, folder)
	put := func(name, from string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	works := func(when string) {
		t.Helper()
		if ce, se := talk(t, c.Client("net1", identity.Node), c.Server(identity.Node)); ce != nil || se != nil {
			t.Errorf("%s: %v, %v", when, ce, se)
		}
	}
	original := t.TempDir()
	if err := os.CopyFS(original, os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	put(identity.KeyFile, otherFolder)
	if _, err := c.Reload(); err == nil || !strings.Contains(err.Error(), "tls.key") {
		t.Errorf("a key that does not fit: %v", err)
	}
	works("a key that does not fit")
	put(identity.CertFile, otherFolder)
	if _, err := c.Reload(); err == nil || !strings.Contains(err.Error(), "node:net2") || c.Self() != net1 {
		t.Errorf("somebody else's: %v", err)
	}
	put(identity.KeyFile, original)
	put(identity.CertFile, original)
	put(identity.CAFile, issue(t, authority(t), pki.Request{Identity: net1}))
	if _, err := c.Reload(); err == nil {
		t.Error("authorities that do not know the own certificate were taken")
	}
	works("authorities of another fleet")
	put(identity.CAFile, original)
	if changed, err := c.Reload(); changed || err != nil {
		t.Errorf("as it was: %v, %v", changed, err)
	}
}

func TestAFolderThatCannotBeUsedIsRefusedWithTheFileAndWithoutTheKey(t *testing.T) {
	a := authority(t)
	for name, c := range map[string]struct {
		file, text string
		mode       os.FileMode
		want       string
	}{
		"no certificate":           {identity.CertFile, "", 0o600, "tls.crt"},
		"an exposed key":           {identity.KeyFile, "-", 0o640, "tls.key: mode 0640"},
		"a key that is not one":    {identity.KeyFile, "s3cret", 0o600, "tls.key"},
		"a key among authorities":  {identity.CAFile, "-----BEGIN PRIVATE KEY-----\nczNjcmV0\n-----END PRIVATE KEY-----\n", 0o600, "ca.crt"},
		"text after the authority": {identity.CAFile, "+s3cret", 0o600, "ca.crt"},
	} {
		folder := issue(t, a, pki.Request{Identity: identity.Identity{Role: identity.Node, Name: fmt.Sprint("n", len(name))}})
		path := filepath.Join(folder, c.file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(c.text, "+"):
			text = append(text, c.text[1:]...)
		case c.text != "-":
			text = []byte(c.text)
		}
		if err := errors.Join(os.WriteFile(path, text, 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err = identity.Load(folder)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "czNj") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := identity.Load(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	c := member(t, a, alice)
	if text := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(text, "PrivateKey") || strings.Contains(text, "{") {
		t.Errorf("prints %s", text)
	}
}

// logged collects a log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) wait(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		l.mu.Lock()
		text := l.text.String()
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q was never logged:\n%s", want, text)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestAProcessFollowsItsFilesAndSaysWhenACertificateEndsSoon(t *testing.T) {
	a := authority(t)
	folder := issue(t, a, pki.Request{Identity: net1, Life: time.Minute}) // of which 1 of 6 minutes is left: it began in the past
	c := load(t, folder)
	ctx, cancel := context.WithCancel(t.Context())
	var log logged
	var following sync.WaitGroup
	following.Go(func() { c.Follow(ctx, slog.New(slog.NewTextHandler(&log, nil))) })
	defer following.Wait()
	defer cancel()
	log.wait(t, `msg="a certificate ends soon; renew it: weft pki rotate" certificate=node:net1`)
	before := gauge(t, c, "node:net1")
	if before <= 0 || before > 60 {
		t.Errorf("expires in %v s", before)
	}
	if _, err := a.Reissue(time.Hour); err != nil {
		t.Fatal(err)
	}
	log.wait(t, `msg="the credential has changed"`)
	if after := gauge(t, c, "node:net1"); after < 3000 || after > 3600 {
		t.Errorf("expires in %v s after the renewal", after)
	}
	if err := os.WriteFile(filepath.Join(folder, identity.CertFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log.wait(t, `msg="the credential stays as it was"`)
}

// gauge is a certificate's metric.
func gauge(t *testing.T, c *identity.Credential, certificate string) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == certificate {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric of %s: %v", certificate, families)
	return 0
}

func TestACertificateThatHasExpiredIsNotLoaded(t *testing.T) {
	a := authority(t)
	folder := issue(t, a, pki.Request{Identity: net1, Life: time.Nanosecond})
	if _, err := identity.Load(folder); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
}

// alive serves gRPC's health service.
type alive struct {
	healthv1.UnimplementedHealthServer
}

func (alive) Check(context.Context, *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{}, nil
}

func TestGRPCGoesByTheCredentialAndUnixSocketsByTheirPermissions(t *testing.T) {
	a := authority(t)
	server, person, node := member(t, a, ctl1), member(t, a, alice), member(t, a, net1)
	s := grpc.NewServer(grpc.Creds(server.Serving(identity.Admin)))
	healthv1.RegisterHealthServer(s, alive{})
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for _, l := range []net.Listener{tcp, unix} {
		serving.Go(func() { _ = s.Serve(l) }) // until Stop
	}
	defer serving.Wait()
	defer s.Stop()
	for name, c := range map[string]struct {
		who  *identity.Credential
		at   string
		want codes.Code
	}{
		"an admin":             {person, tcp.Addr().String(), codes.OK},
		"a node":               {node, tcp.Addr().String(), codes.Unavailable},
		"anybody on the host":  {node, "unix:" + socket, codes.OK},
		"an admin on the host": {person, "unix:" + socket, codes.OK},
	} {
		conn, err := grpc.NewClient(c.at, grpc.WithTransportCredentials(c.who.Dialing(identity.Controller)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
}

// stranger has a certificate of an authority of the fleet whose subject is no identity's, as a company's may be.
func stranger(t *testing.T, a *pki.Authority) *identity.Credential {
	t.Helper()
	dir := filepath.Dir(filepath.Dir(a.Folder(alice)))
	folder := identitytest.Issue(t, dir, pkix.Name{CommonName: "Alice", Organization: []string{"Example, Inc."}}, time.Hour)
	if _, err := identity.Load(folder); !errors.Is(err, identity.ErrStranger) {
		t.Errorf("it is somebody's: %v", err)
	}
	c, err := identity.LoadCaller(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhoShowsNoCertificateIsLetInWhereTheServerAsks(t *testing.T) {
	a, b := authority(t), authority(t)
	server := member(t, a, ctl1)
	serve := func(creds credentials.TransportCredentials) string {
		s := grpc.NewServer(grpc.Creds(creds))
		healthv1.RegisterHealthServer(s, alive{})
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { _ = s.Serve(l) }) // until Stop
		t.Cleanup(func() {
			s.Stop()
			serving.Wait()
		})
		return l.Addr().String()
	}
	closed, open := serve(server.Serving(identity.Admin)), serve(server.ServingAnybody(identity.Admin))
	folder := issue(t, a, pki.Request{Identity: alice})
	admin, err := identity.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := identity.LoadAuthorities(folder)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		who  *identity.Credential
		at   string
		want codes.Code
	}{
		"nobody, where certificates are needed": {nobody, closed, codes.Unavailable},
		"nobody, where the server asks":         {nobody, open, codes.OK},
		"an admin, where the server asks":       {admin, open, codes.OK},
		"a node, where the server asks":         {member(t, a, net1), open, codes.Unavailable},
		"an admin of another fleet's":           {member(t, b, alice), open, codes.Unavailable},
		"a stranger to the fleet's names":       {stranger(t, a), open, codes.OK},
		"a stranger, where they are needed":     {stranger(t, a), closed, codes.Unavailable},
		"a stranger of another fleet's":         {stranger(t, b), open, codes.Unavailable},
	} {
		conn, err := grpc.NewClient(c.at, grpc.WithTransportCredentials(c.who.Dialing(identity.Controller)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	if (nobody.Self() != identity.Identity{}) {
		t.Errorf("nobody is %s", nobody.Self())
	}
}
