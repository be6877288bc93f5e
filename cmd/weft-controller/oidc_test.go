package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestTheFileSaysWhoseTokensAreTaken runs a controller with an issuer whose keys are in a file, as its configuration says, and looks
// for the token in its log.
func TestTheFileSaysWhoseTokensAreTaken(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"jwks.json": fmt.Sprintf(`{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": %q}]}`, base64.RawURLEncoding.EncodeToString(public)),
		"oidc.yaml": "issuer: https://login.example.com\naudience: weft\njwks: " + dir + "/jwks.json\nroles: {staff: member}\n",
		"bad.yaml":  "issuer: https://login.example.com\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, socket := build(t), "unix:"+filepath.Join(dir, "s")
	args := []string{"--data-dir", filepath.Join(dir, "data"), "--etcd-listen", "http://127.0.0.1:0", "--etcd-tick", "10ms", "--etcd-election", "100ms", "--log-level", "debug", "--listen", socket}
	bad := start(t, nil, path, append(args, "--oidc-file", filepath.Join(dir, "bad.yaml"))...)
	if err := <-bad.exited; err == nil || !strings.Contains(bad.log.String(), "bad.yaml: audience") {
		t.Errorf("%v\n%s", err, bad.log.String())
	}
	p := start(t, nil, path, append(args, "--oidc-file", filepath.Join(dir, "oidc.yaml"))...)
	networks := weftv1.NewNetworkServiceClient(connect(t, socket))
	token := func(audience string) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"iss": "https://login.example.com", "aud": audience, "sub": "alice", "role": "staff", "projects": "red", "exp": time.Now().Add(time.Hour).Unix(),
		}).SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for audience, want := range map[string]codes.Code{"weft": codes.OK, "nova": codes.Unauthenticated} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token(audience))
		n, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
		if status.Code(err) != want || err == nil && n.GetProject() != "red" {
			t.Errorf("for %s: %v, %v", audience, n, err)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.log.String(), strings.Split(token("weft"), ".")[0]) {
		t.Errorf("the log tells of the token:\n%s", p.log.String())
	}
}
