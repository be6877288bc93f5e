// Package oidc takes the JSON Web Tokens (RFC 7519) of one issuer, such as an OpenID Connect provider's, for who bears them: it
// verifies them by the issuer's keys and reads user, role and projects from their claims. It asks the issuer for nothing but
// its keys, sends nobody there to log in, and no token is ever in what it logs or returns.
//
// What is verified, and of the algorithms RS256, ES256 and EdDSA alone (RFC 8725): the signature, by a key of the issuer's
// that is for this algorithm; iss and aud; exp, which is required; nbf and iat, where they are there.
package oidc

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"log/slog"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/controller/caller"
)

// Limits on what is taken.
const (
	// leeway is how far the clocks of issuer and controller may be apart.
	leeway = 30 * time.Second
	// maxToken is in bytes; gRPC itself takes far longer headers.
	maxToken = 16 << 10
)

// Options is how an Issuer goes about its keys. All are required but the times.
type Options struct {
	Config Config
	Log    *slog.Logger
	// Every is how often the keys are fetched, 5 minutes if 0. AtMost is how long after the keys have been fetched a token of an
	// unknown key has them fetched again, 10 seconds if 0; it is also how soon a failure is followed by another attempt.
	Every, AtMost time.Duration
}

// Issuer knows the bearers of tokens. It is safe for concurrent use. Run keeps its keys up to date.
type Issuer struct {
	config Config
	log    *slog.Logger
	parser *jwt.Parser
	keys   *keyring
}

var _ caller.Verifier = (*Issuer)(nil)

// New makes an Issuer. The error says what of the configuration is wrong; that the issuer can't be reached is none.
func New(opts Options) (*Issuer, error) {
	c := opts.Config
	if err := c.complete(); err != nil {
		return nil, err
	}
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	fetch := func(ctx context.Context) ([]key, error) { return c.keys(ctx, client) }
	return &Issuer{
		config: c, log: opts.Log, keys: newKeyring(fetch, cmp.Or(opts.Every, 5*time.Minute), cmp.Or(opts.AtMost, 10*time.Second)),
		parser: jwt.NewParser(
			jwt.WithValidMethods(c.Algorithms), jwt.WithIssuer(c.Issuer), jwt.WithAudience(c.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithStrictDecoding(),
		),
	}, nil
}

// Bearer is whose a token is. The error is a status: UNAUTHENTICATED with a reason that tells nothing of the token, or
// UNAVAILABLE while no key of the issuer's is known.
func (i *Issuer) Bearer(ctx context.Context, token string) (caller.Caller, error) {
	if len(token) > maxToken {
		return caller.Caller{}, refuse("it is too long")
	}
	claims := jwt.MapClaims{}
	parsed, err := i.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) { return i.key(ctx, t) })
	if err != nil {
		return caller.Caller{}, reason(err)
	}
	c, err := i.config.caller(claims)
	if err != nil {
		return caller.Caller{}, refuse(err.Error())
	}
	expires, err := parsed.Claims.GetExpirationTime()
	if err != nil || expires == nil {
		return caller.Caller{}, refuse("it never ends")
	}
	c.Until = expires.Add(leeway)
	return c, nil
}

// errCritical: RFC 7515, section 4.1.11.
var errCritical = errors.New("the header asks for what is not understood")

// key is the one that a token's header names.
func (i *Issuer) key(ctx context.Context, t *jwt.Token) (crypto.PublicKey, error) {
	if _, critical := t.Header["crit"]; critical {
		return nil, errCritical
	}
	id, _ := t.Header["kid"].(string)
	return i.keys.get(ctx, t.Method.Alg(), id)
}

func refuse(why string) error {
	return status.Error(codes.Unauthenticated, "the token is not taken: "+why)
}

// reason is what is told of a token that failed: the classes of error alone, whose texts hold no part of it.
func reason(err error) error {
	for _, r := range []struct {
		err  error
		text string
	}{
		{errCritical, "its header asks for what is not understood"},
		{errNoKey, "its key is none of the issuer's"},
		{jwt.ErrTokenSignatureInvalid, "its signature is wrong, or of an algorithm that is not taken"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks one of iss, aud and exp"},
		{jwt.ErrTokenInvalidIssuer, "it is of another issuer"},
		{jwt.ErrTokenInvalidAudience, "it is for another audience"},
		{jwt.ErrTokenExpired, "it has expired"},
		{jwt.ErrTokenNotValidYet, "its time has not come yet"},
		{jwt.ErrTokenUsedBeforeIssued, "its time has not come yet"},
	} {
		if errors.Is(err, r.err) {
			return refuse(r.text)
		}
	}
	if errors.Is(err, errNoKeys) {
		return status.Error(codes.Unavailable, "the keys of the tokens' issuer can't be had at the moment")
	}
	return refuse("it is no token of the issuer's")
}

// Run keeps the keys up to date until the context ends. While they can't be had, those that are known stay in force.
func (i *Issuer) Run(ctx context.Context) {
	i.keys.run(ctx, func(err error) {
		i.log.Warn("the keys of the tokens' issuer can't be had; those that are known stay in force", "issuer", i.config.Issuer, "error", err)
	})
}
