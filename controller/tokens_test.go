package controller_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/oidc"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// mint is an issuer's key, and contexts of calls with tokens by it.
type mint struct {
	t       testing.TB
	key     ed25519.PrivateKey
	issuer  *oidc.Issuer
	context context.Context //nolint:containedctx // the test's
}

func newMint(b *bench) *mint {
	b.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	check(b, err)
	path := filepath.Join(b.TempDir(), "jwks.json")
	check(b, os.WriteFile(path, fmt.Appendf(nil, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": %q}]}`, base64.RawURLEncoding.EncodeToString(public)), 0o600))
	m := &mint{t: b, key: private, context: b.context()}
	m.issuer, err = oidc.New(oidc.Options{
		Config: oidc.Config{Issuer: "https://issuer.example.com", Audience: "weft", JWKS: path}, Log: slog.New(slog.NewTextHandler(logWriter{b}, nil)),
	})
	check(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.issuer.Run(ctx) })
	b.Cleanup(running.Wait)
	b.Cleanup(cancel)
	return m
}

// as is a context of a member's calls, whose token ends some time from now.
func (m *mint) as(user, project string, life time.Duration) context.Context {
	m.t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "https://issuer.example.com", "aud": "weft", "sub": user, "role": "member", "projects": project, "exp": time.Now().Add(life).Unix(),
	}).SignedString(m.key)
	check(m.t, err)
	return metadata.AppendToOutgoingContext(m.context, "authorization", "Bearer "+token)
}

func TestATokenOfTheIssuersSaysWhoItsBearerIs(t *testing.T) {
	b := newBench(t)
	m := newMint(b)
	users, err := caller.LoadUsers(usersFile(t))
	check(t, err)
	r := b.replicaWith(controller.Options{Users: users, Issuer: m.issuer})
	create := func(ctx context.Context, project string) error {
		return only(r.CreateSecurityGroup(ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "x", Project: project}}))
	}
	alice := m.as("alice", "red", time.Hour)
	check(t, create(alice, "red"))
	check(t, create(alice, ""))
	refused(t, create(alice, "blue"), codes.PermissionDenied, "oidc:alice")
	refused(t, only(r.ListNodes(alice, &weftv1.ListNodesRequest{})), codes.PermissionDenied, "oidc:alice is a member")
	refused(t, create(m.as("alice", "red", -time.Hour), "red"), codes.Unauthenticated, "expired")
	refused(t, create(metadata.AppendToOutgoingContext(alice, "authorization", "Bearer token-admin"), "red"), codes.Unauthenticated)
	check(t, create(by(b.context(), "owner"), "red")) // who is listed in the file, still
	refused(t, create(by(b.context(), "nobody"), "red"), codes.Unauthenticated, "token")
}

func TestAWatchLastsNoLongerThanItsToken(t *testing.T) {
	b := newBench(t)
	m := newMint(b)
	r := b.replicaWith(controller.Options{Issuer: m.issuer})
	var events weftv1.WatchService_WatchClient
	for left := time.Second; ; left *= 2 { // as short as it may be for this machine
		var err error
		events, err = r.Watch(m.as("alice", "red", left-30*time.Second), &weftv1.WatchRequest{}) // clocks may be 30 seconds apart
		check(t, err)
		if _, err = events.Recv(); err == nil {
			break
		}
		if left > deadline/2 {
			t.Fatal(err)
		}
	}
	var err error
	for err == nil {
		_, err = events.Recv()
	}
	refused(t, err, codes.Unauthenticated, "oidc:alice", "has ended")
}
