package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// Limits on what an issuer sends.
const (
	fetchTimeout = 5 * time.Second
	maxDocument  = 1 << 20 // bytes
	maxKeys      = 100
)

// key is a public key of the issuer's and the one algorithm that it is for.
type key struct {
	id, algorithm string
	public        crypto.PublicKey
}

// jwk is a JSON Web Key (RFC 7517; its members by type: RFC 7518 section 6, RFC 8037 section 2).
type jwk struct {
	Type      string   `json:"kty"`
	ID        string   `json:"kid"`
	Use       string   `json:"use"`
	Uses      []string `json:"key_ops"`
	Algorithm string   `json:"alg"`
	Curve     string   `json:"crv"`
	N         string   `json:"n"`
	E         string   `json:"e"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
}

// parseKeys reads a set of keys (RFC 7517 section 5) and leaves out what signatures are not verified with here: keys for
// encryption, secret ones, and those of other algorithms. It is an error if nothing is left.
func parseKeys(raw []byte) ([]key, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("it is no set of JSON Web Keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, the limit is %d", len(set.Keys), maxKeys)
	}
	var out []key
	for _, j := range set.Keys {
		if k, ok := j.key(); ok {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of its %d keys is for %s", len(set.Keys), strings.Join(algorithms(), ", "))
	}
	return out, nil
}

func (j jwk) key() (key, bool) {
	forOthers := j.Use != "" && j.Use != "sig" || j.Uses != nil && !slices.Contains(j.Uses, "verify")
	k := key{id: j.ID}
	var ok bool
	switch j.Type {
	case "RSA":
		k.algorithm = "RS256"
		k.public, ok = j.rsa()
	case "EC":
		k.algorithm = "ES256"
		k.public, ok = j.ec()
	case "OKP":
		k.algorithm = "EdDSA"
		k.public, ok = j.ed()
	}
	return k, ok && !forOthers && (j.Algorithm == "" || j.Algorithm == k.algorithm)
}

// rsa wants 2048 bits or more (RFC 7518 section 3.3), and not so many that verifying takes long.
func (j jwk) rsa() (crypto.PublicKey, bool) {
	n, e := new(big.Int).SetBytes(decode(j.N)), new(big.Int).SetBytes(decode(j.E))
	if n.BitLen() < 2048 || n.BitLen() > 8192 || e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, false
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, true
}

func (j jwk) ec() (crypto.PublicKey, bool) {
	x, y := decode(j.X), decode(j.Y)
	if j.Curve != "P-256" || len(x) != 32 || len(y) != 32 {
		return nil, false
	}
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	return k, err == nil
}

func (j jwk) ed() (crypto.PublicKey, bool) {
	x := decode(j.X)
	return ed25519.PublicKey(x), j.Curve == "Ed25519" && len(x) == ed25519.PublicKeySize
}

// decode is base64url without padding (RFC 7515 section 2); nil for what is not.
func decode(s string) []byte {
	out, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil
	}
	return out
}

// keys fetches the issuer's keys from where the configuration says.
func (c *Config) keys(ctx context.Context, client *http.Client) ([]key, error) {
	if c.keysInFile() {
		raw, err := readFile(c.JWKS)
		if err != nil {
			return nil, err
		}
		return parseKeys(raw)
	}
	from, err := c.keysAt(ctx, client)
	if err != nil {
		return nil, err
	}
	raw, err := get(ctx, client, from)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(raw)
	if err != nil {
		err = fmt.Errorf("%s: %w", from, err)
	}
	return keys, err
}

// keysAt is the URL of the keys: the one that is configured, else what the issuer says of itself (OpenID Connect Discovery 1.0,
// section 4).
func (c *Config) keysAt(ctx context.Context, client *http.Client) (string, error) {
	if c.JWKS != "" {
		return c.JWKS, nil
	}
	at := strings.TrimSuffix(c.Issuer, "/") + "/.well-known/openid-configuration"
	raw, err := get(ctx, client, at)
	if err != nil {
		return "", err
	}
	var said struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	switch err := json.Unmarshal(raw, &said); {
	case err != nil:
		return "", fmt.Errorf("%s: it is no configuration of an OpenID provider", at)
	case said.Issuer != c.Issuer:
		return "", fmt.Errorf("%s: it is of another issuer, %q", at, said.Issuer)
	case !isHTTPS(said.Keys):
		return "", fmt.Errorf("%s: jwks_uri %q is no https URL", at, said.Keys)
	}
	return said.Keys, nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return readAll(resp.Body)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("longer than %d bytes", maxDocument)
	}
	return raw, err
}
