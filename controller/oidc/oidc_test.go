package oidc_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/oidc"
)

// deadline bounds everything that a test waits for.
const deadline = 20 * time.Second

// provider is an issuer of tokens with an HTTPS server of its own.
type provider struct {
	t       testing.TB
	dir     string
	address string
	asked   atomic.Int64 // how often it was asked for its keys

	mu     sync.Mutex
	jwks   any
	server *httptest.Server
}

func newProvider(t testing.TB, keys ...map[string]string) *provider {
	t.Helper()
	p := &provider{t: t, dir: t.TempDir()}
	p.publish(keys...)
	p.up()
	p.address = p.server.Listener.Addr().String()
	p.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}))
	t.Cleanup(p.down)
	return p
}

// up starts the server, at the address that it had.
func (p *provider) up() {
	p.t.Helper()
	l, err := net.Listen("tcp4", max(p.address, "127.0.0.1:0"))
	p.must(err)
	p.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p, ReadHeaderTimeout: deadline, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelInfo)}}
	p.server.StartTLS()
}

func (p *provider) down() { p.server.Close() }

func (p *provider) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *provider) write(name string, content []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	p.must(os.WriteFile(path, content, 0o600))
	return path
}

// publish sets the provider's keys.
func (p *provider) publish(keys ...map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jwks = map[string]any{"keys": keys}
}

func (p *provider) url() string { return "https://" + p.address }

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q}`, p.url(), p.url()+"/keys")
	case "/keys":
		p.asked.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(p.jwks) // whoever asked may have gone
	case "/elsewhere":
		http.Redirect(w, r, "/keys", http.StatusFound)
	default:
		http.NotFound(w, r)
	}
}

func (p *provider) config() oidc.Config {
	return oidc.Config{Issuer: p.url(), Audience: "weft", CAFile: filepath.Join(p.dir, "ca.pem")}
}

// issuer takes the provider's tokens, until the test ends.
func (p *provider) issuer(c oidc.Config, log io.Writer, atMost time.Duration) *oidc.Issuer {
	p.t.Helper()
	i, err := oidc.New(oidc.Options{Config: c, Log: slog.New(slog.NewTextHandler(log, nil)), Every: time.Hour, AtMost: atMost})
	p.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { i.Run(ctx) })
	p.t.Cleanup(running.Wait)
	p.t.Cleanup(cancel)
	return i
}

// claims are those of a token that is taken.
func (p *provider) claims() jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{
		"iss": p.url(), "aud": "weft", "sub": "alice", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "nbf": now.Unix(),
		"role": "member", "projects": []string{"red", "blue"},
	}
}

// with changes claims; nil takes one away.
func with(claims jwt.MapClaims, name string, value any) jwt.MapClaims {
	if claims[name] = value; value == nil {
		delete(claims, name)
	}
	return claims
}

// signer signs tokens.
type signer struct {
	method jwt.SigningMethod
	id     string
	key    any
}

func (s signer) token(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, claims)
	if s.id != "" {
		token.Header["kid"] = s.id
	}
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// The signers, each with what the provider publishes of it.
func rs256(t testing.TB, id string, bits int) (signer, map[string]string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodRS256, id, k},
		map[string]string{"kty": "RSA", "kid": id, "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
}

func es256(t testing.TB, id string) (signer, map[string]string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodES256, id, k},
		map[string]string{"kty": "EC", "kid": id, "alg": "ES256", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

func eddsa(t testing.TB, id string) (signer, map[string]string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodEdDSA, id, private}, map[string]string{"kty": "OKP", "kid": id, "crv": "Ed25519", "x": b64(public)}
}

func takes(t *testing.T, i *oidc.Issuer, token string) {
	t.Helper()
	c, err := i.Bearer(t.Context(), token)
	if err != nil || c.Name != "oidc:alice" || c.Role != caller.Member || !slices.Equal(c.Projects, []string{"blue", "red"}) {
		t.Errorf("%+v, %v", c, err)
	}
	if left := time.Until(c.Until); left < time.Minute || left > 2*time.Hour {
		t.Errorf("it lasts %s", left)
	}
}

func refuses(t *testing.T, i *oidc.Issuer, what, token, says string) {
	t.Helper()
	c, err := i.Bearer(t.Context(), token)
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), says) || c.Role != caller.Nobody {
		t.Errorf("%s: %+v, %v; want %q", what, c, err, says)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error holds a part of the token: %v", what, err)
		}
	}
}

func TestTokensOfEachAlgorithmAreTaken(t *testing.T) {
	r, rk := rs256(t, "r", 2048)
	e, ek := es256(t, "e")
	d, dk := eddsa(t, "d")
	p := newProvider(t, rk, ek, dk)
	byName := p.config()
	byURL := p.config()
	byURL.JWKS = p.url() + "/keys"
	byFile := p.config()
	raw, err := json.Marshal(p.jwks)
	p.must(err)
	byFile.JWKS, byFile.CAFile = p.write("jwks.json", raw), ""
	for _, c := range []oidc.Config{byName, byURL, byFile} {
		i := p.issuer(c, t.Output(), time.Hour)
		for _, s := range []signer{r, e, d} {
			takes(t, i, s.token(t, p.claims()))
			s.id = "" // there is one of each algorithm
			takes(t, i, s.token(t, p.claims()))
		}
		takes(t, i, r.token(t, with(p.claims(), "aud", []string{"others", "weft"})))
		takes(t, i, r.token(t, with(p.claims(), "nbf", nil)))
	}
	some := p.config()
	some.Algorithms = []string{"EdDSA"}
	i := p.issuer(some, t.Output(), time.Hour)
	takes(t, i, d.token(t, p.claims()))
	refuses(t, i, "an algorithm that is not on the list", r.token(t, p.claims()), "algorithm")
}

// RFC 8725 and what has befallen others: CVE-2015-9235 (none, and HS256 by the public key), CVE-2018-0114 (a key in the header).
func TestTokensThatAreForgedOrOfAnotherAreRefused(t *testing.T) {
	r, rk := rs256(t, "r", 2048)
	e, ek := es256(t, "e")
	weak, wk := rs256(t, "weak", 1024)
	stranger, sk := rs256(t, "r", 2048)
	secret := map[string]string{"kty": "oct", "kid": "h", "k": b64([]byte("secret"))}
	sealing, sealk := rs256(t, "sealing", 2048)
	sealk["use"] = "enc"
	p := newProvider(t, rk, ek, wk, secret, sealk)
	var log bytes.Buffer
	i := p.issuer(p.config(), &log, time.Hour)
	takes(t, i, r.token(t, p.claims()))
	public, err := x509.MarshalPKIXPublicKey(r.key.(crypto.Signer).Public()) //nolint:forcetypeassert // made above
	p.must(err)
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	now := time.Now()
	headed := func(name string, value any) string {
		token := jwt.NewWithClaims(stranger.method, p.claims())
		token.Header["kid"], token.Header[name] = "r", value
		text, err := token.SignedString(stranger.key)
		p.must(err)
		return text
	}
	critical := jwt.NewWithClaims(r.method, p.claims())
	critical.Header["kid"], critical.Header["crit"] = "r", []string{"b64"}
	crit, err := critical.SignedString(r.key)
	p.must(err)
	good := r.token(t, p.claims())
	parts := strings.Split(good, ".")
	es := signer{jwt.SigningMethodES256, "r", e.key} // of a key that is for another algorithm
	var manyProjects []string
	for n := range 65 {
		manyProjects = append(manyProjects, fmt.Sprint("p", n))
	}
	for what, c := range map[string]struct{ token, says string }{
		"none":                           {signer{jwt.SigningMethodNone, "r", jwt.UnsafeAllowNoneSignatureType}.token(t, p.claims()), "algorithm"},
		"none without an id":             {signer{jwt.SigningMethodNone, "", jwt.UnsafeAllowNoneSignatureType}.token(t, p.claims()), "algorithm"},
		"HS256 by the public key, PEM":   {signer{jwt.SigningMethodHS256, "r", asPEM}.token(t, p.claims()), "algorithm"},
		"HS256 by the public key, DER":   {signer{jwt.SigningMethodHS256, "r", public}.token(t, p.claims()), "algorithm"},
		"HS256 by a secret that it has":  {signer{jwt.SigningMethodHS256, "h", []byte("secret")}.token(t, p.claims()), "algorithm"},
		"RS512":                          {signer{jwt.SigningMethodRS512, "r", r.key}.token(t, p.claims()), "algorithm"},
		"PS256":                          {signer{jwt.SigningMethodPS256, "r", r.key}.token(t, p.claims()), "algorithm"},
		"another's key of the same id":   {stranger.token(t, p.claims()), "signature"},
		"a key in the header":            {headed("jwk", sk), "signature"},
		"a URL of keys in the header":    {headed("jku", p.url()+"/others"), "signature"},
		"the id of another algorithm's":  {es.token(t, p.claims()), "none of the issuer's"},
		"an id that is none":             {signer{jwt.SigningMethodRS256, "x", r.key}.token(t, p.claims()), "none of the issuer's"},
		"an id that is a path":           {signer{jwt.SigningMethodRS256, "../../dev/null", r.key}.token(t, p.claims()), "none of the issuer's"},
		"a short key":                    {weak.token(t, p.claims()), "none of the issuer's"},
		"a key for encryption":           {sealing.token(t, p.claims()), "none of the issuer's"},
		"a header that asks for more":    {crit, "what is not understood"},
		"another audience":               {r.token(t, with(p.claims(), "aud", "nova")), "audience"},
		"no audience":                    {r.token(t, with(p.claims(), "aud", nil)), "iss, aud and exp"},
		"another issuer":                 {r.token(t, with(p.claims(), "iss", p.url()+"/")), "another issuer"},
		"no issuer":                      {r.token(t, with(p.claims(), "iss", nil)), "iss, aud and exp"},
		"expired":                        {r.token(t, with(p.claims(), "exp", now.Add(-time.Minute).Unix())), "expired"},
		"without an end":                 {r.token(t, with(p.claims(), "exp", nil)), "iss, aud and exp"},
		"an end that is no time":         {r.token(t, with(p.claims(), "exp", "never")), "no token"},
		"not yet":                        {r.token(t, with(p.claims(), "nbf", now.Add(time.Minute).Unix())), "not come"},
		"issued in the future":           {r.token(t, with(p.claims(), "iat", now.Add(time.Minute).Unix())), "not come"},
		"other claims than were signed":  {parts[0] + "." + strings.Split(r.token(t, with(p.claims(), "role", "operator")), ".")[1] + "." + parts[2], "signature"},
		"a signature cut off":            {parts[0] + "." + parts[1] + ".", "signature"},
		"two parts":                      {parts[0] + "." + parts[1], "no token"},
		"nothing":                        {"", "no token"},
		"no user":                        {r.token(t, with(p.claims(), "sub", nil)), "claim sub"},
		"a user that is no text":         {r.token(t, with(p.claims(), "sub", 7)), "claim sub"},
		"a user with a line's end":       {r.token(t, with(p.claims(), "sub", "a\nb")), "claim sub"},
		"no role":                        {r.token(t, with(p.claims(), "role", nil)), "claim role"},
		"a role that nobody has":         {r.token(t, with(p.claims(), "role", "emperor")), "claim role"},
		"an admin, whom nothing maps to": {r.token(t, with(p.claims(), "role", "admin")), "claim role"},
		"a project that can't be":        {r.token(t, with(p.claims(), "projects", []string{"red", "a/b"})), "claim projects"},
		"more projects than may be":      {r.token(t, with(p.claims(), "projects", manyProjects)), "claim projects"},
		"no project":                     {r.token(t, with(p.claims(), "projects", nil)), "names no project"},
		"projects that are no texts":     {r.token(t, with(p.claims(), "projects", map[string]any{"red": true})), "names no project"},
		"a long one":                     {r.token(t, with(p.claims(), "more", strings.Repeat("x", 20<<10))), "too long"},
	} {
		refuses(t, i, what, c.token, c.says)
	}
	takes(t, i, good)
	takes(t, i, r.token(t, with(p.claims(), "exp", now.Add(time.Minute).Unix())))
	if strings.Contains(log.String(), parts[1]) || strings.Contains(log.String(), "alice") {
		t.Errorf("the log tells of tokens: %s", log.String())
	}
}

func TestClaimsAreReadByTheirNames(t *testing.T) {
	s, k := eddsa(t, "d")
	p := newProvider(t, k)
	c := p.config()
	c.Claims = oidc.Claims{User: "email", Projects: "https://example.com/projects", Role: "realm_access.roles"}
	c.Roles = map[string]string{"net-admins": "admin", "staff": "reader", "net-ops": "operator"}
	i := p.issuer(c, t.Output(), time.Hour)
	for want, roles := range map[caller.Role]any{
		caller.Admin: []string{"staff", "net-admins", "x"}, caller.Operator: []any{7, "net-ops", "staff"}, caller.Reader: "staff",
	} {
		claims := p.claims()
		claims["email"], claims["https://example.com/projects"], claims["realm_access"] = "alice@example.com", []string{"green", "green"}, map[string]any{"roles": roles}
		got, err := i.Bearer(t.Context(), s.token(t, claims))
		if err != nil || got.Name != "oidc:alice@example.com" || got.Role != want || !slices.Equal(got.Projects, []string{"green"}) {
			t.Errorf("%v: %+v, %v", roles, got, err)
		}
	}
	refuses(t, i, "a role by weft's own name", s.token(t, with(with(p.claims(), "email", "a"), "realm_access", map[string]any{"roles": "member"})), "claim realm_access.roles")
}

func TestKeysAreFollowedAndOnesThatAreKnownOutliveTheIssuer(t *testing.T) {
	first, k1 := es256(t, "one")
	second, k2 := es256(t, "two")
	third, k3 := es256(t, "three")
	p := newProvider(t, k1)
	i := p.issuer(p.config(), t.Output(), time.Nanosecond)
	takes(t, i, first.token(t, p.claims()))
	p.publish(k2)
	takes(t, i, second.token(t, p.claims())) // whose key is asked for at once
	refuses(t, i, "a key that was replaced", first.token(t, p.claims()), "none of the issuer's")
	p.down()
	refuses(t, i, "a key that can't be asked for", third.token(t, p.claims()), "none of the issuer's")
	takes(t, i, second.token(t, p.claims()))
	p.publish(k3)
	p.up()
	takes(t, i, third.token(t, p.claims()))
}

func TestAnIssuerThatIsDownAtStartIsWaitedFor(t *testing.T) {
	s, k := es256(t, "one")
	p := newProvider(t, k)
	token := s.token(t, p.claims())
	p.down()
	i := p.issuer(p.config(), t.Output(), 10*time.Millisecond)
	if _, err := i.Bearer(t.Context(), token); status.Code(err) != codes.Unavailable {
		t.Errorf("while it is down: %v", err)
	}
	p.up()
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if _, err = i.Bearer(t.Context(), token); err == nil {
			return
		}
	}
	t.Fatalf("never taken: %v", err)
}

func TestUnknownKeysDoNotHaveTheIssuerAskedAgainAndAgain(t *testing.T) {
	_, k := es256(t, "one")
	other, _ := es256(t, "other")
	p := newProvider(t, k)
	i := p.issuer(p.config(), t.Output(), time.Hour)
	var group sync.WaitGroup
	for n := range 200 {
		group.Go(func() {
			other := other
			other.id = fmt.Sprint("other", n)
			refuses(t, i, "a key nobody has", other.token(t, p.claims()), "none of the issuer's")
		})
	}
	group.Wait()
	if n := p.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

func TestOnlyTheIssuerItselfIsAskedForItsKeys(t *testing.T) {
	s, k := es256(t, "one")
	p := newProvider(t, k)
	for what, change := range map[string]func(*oidc.Config){
		"another authority's server":       func(c *oidc.Config) { c.CAFile = "" },
		"a redirection":                    func(c *oidc.Config) { c.JWKS = p.url() + "/elsewhere" },
		"what is not there":                func(c *oidc.Config) { c.JWKS = p.url() + "/nowhere" },
		"what is no set of keys":           func(c *oidc.Config) { c.JWKS = p.url() + "/.well-known/openid-configuration" },
		"the configuration of another one": func(c *oidc.Config) { c.Issuer = p.url() + "/" },
		"a file that is missing":           func(c *oidc.Config) { c.JWKS = filepath.Join(p.dir, "missing") },
	} {
		c := p.config()
		change(&c)
		i := p.issuer(c, t.Output(), time.Millisecond)
		if _, err := i.Bearer(t.Context(), s.token(t, p.claims())); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	for says, text := range map[string]string{
		"issuer":                `{issuer: "http://a", audience: weft}`,
		"audience":              `{issuer: "https://a"}`,
		"jwks":                  `{issuer: "https://a", audience: weft, jwks: "http://a/keys"}`,
		"the path of a file":    `{issuer: "https://a", audience: weft, jwks: keys.json}`,
		`"HS256"`:               `{issuer: "https://a", audience: weft, algorithms: [HS256]}`,
		`"none"`:                `{issuer: "https://a", audience: weft, algorithms: [RS256, none]}`,
		`"emperor"`:             `{issuer: "https://a", audience: weft, roles: {x: emperor}}`,
		`"nobody"`:              `{issuer: "https://a", audience: weft, roles: {x: nobody}}`,
		"unknown field":         `{issuer: "https://a", audience: weft, secret: x}`,
		"ca_file":               `{issuer: "https://a", audience: weft, ca_file: /missing}`,
		"chmod go-w":            "",
		"no such file":          "-",
		`issuer: "" is no`:      `{}`,
		`roles: "x" stands for`: `{issuer: "https://a", audience: weft, roles: {x: ""}}`,
	} {
		path, mode := filepath.Join(t.TempDir(), "oidc.yaml"), os.FileMode(0o600)
		if text == "" {
			mode = 0o666
		}
		if text != "-" {
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		c, err := oidc.ReadConfig(path)
		if err == nil {
			_, err = oidc.New(oidc.Options{Config: c, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, which does not say %q", text, err, says)
		}
	}
}

// FuzzBearer holds that nothing but the issuer's tokens is taken, and that no text makes it fall over.
func FuzzBearer(f *testing.F) {
	s, k := eddsa(f, "d")
	p := newProvider(f, k)
	i := p.issuer(p.config(), io.Discard, time.Hour)
	good := s.token(f, p.claims())
	for _, seed := range []string{"", "a.b.c", "..", good + "x", strings.ToUpper(good), "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOltdfQ.e30."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := i.Bearer(t.Context(), token); err == nil && token != good {
			t.Errorf("%q is taken, as %+v", token, c)
		}
	})
}
