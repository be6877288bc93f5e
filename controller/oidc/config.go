package oidc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/model"
)

// Config says whose tokens are taken and how they are read. Its JSON names are the keys of the file.
type Config struct {
	// Issuer is what iss has to be, an https URL. Audience has to be among aud.
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	// JWKS is where the issuer's keys are: an https URL or the path of a file; "": where the issuer says.
	JWKS string `json:"jwks"`
	// CAFile holds the authorities of the issuer's https, PEM; "": the system's.
	CAFile string `json:"ca_file"`
	// Algorithms are those that are taken; none: RS256, ES256 and EdDSA, and there are no others.
	Algorithms []string `json:"algorithms"`
	Claims     Claims   `json:"claims"`
	// Roles are the values of the role claim that stand for a role of weft's, by value; none: reader, member and operator stand
	// for themselves. Nobody is an admin unless a value stands for that.
	Roles map[string]string `json:"roles"`
}

// Claims are the names of claims. One within others is written with dots, "realm_access.roles".
type Claims struct {
	User     string `json:"user"`     // text; default sub
	Projects string `json:"projects"` // text or a list; default projects
	Role     string `json:"role"`     // text or a list, of which the most counts; default role
}

// algorithms are all that there are.
func algorithms() []string { return []string{"RS256", "ES256", "EdDSA"} }

// ReadConfig reads a YAML file. One that others may write to is refused.
func ReadConfig(path string) (Config, error) {
	var c Config
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return c, fmt.Errorf("others may write to %s: chmod go-w it", path)
	}
	raw, err := readFile(path)
	if err != nil {
		return c, err
	}
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// complete checks a configuration and sets what it leaves open.
func (c *Config) complete() error {
	if len(c.Algorithms) == 0 {
		c.Algorithms = algorithms()
	}
	if len(c.Roles) == 0 {
		c.Roles = map[string]string{}
		for _, role := range identity.UserRoles() {
			c.Roles[role] = role
		}
	}
	for name, field := range map[string]*string{"sub": &c.Claims.User, "projects": &c.Claims.Projects, "role": &c.Claims.Role} {
		if *field == "" {
			*field = name
		}
	}
	return c.check()
}

func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !isHTTPS(c.Issuer) {
		bad("issuer: %q is no https URL", c.Issuer)
	}
	if c.Audience == "" {
		bad("audience: is required, or tokens for others would be taken")
	}
	if c.JWKS != "" && !isHTTPS(c.JWKS) && !c.keysInFile() {
		bad("jwks: %q is neither an https URL nor the path of a file, from /", c.JWKS)
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(algorithms(), a) {
			bad("algorithms: %q is none of %s", a, strings.Join(algorithms(), ", "))
		}
	}
	for value, role := range c.Roles {
		if r, ok := caller.ParseRole(role); !ok || r == caller.Nobody {
			bad("roles: %q stands for %q, which is no role", value, role)
		}
	}
	return errors.Join(errs...)
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

func (c *Config) keysInFile() bool { return filepath.IsAbs(c.JWKS) }

// client is how the issuer is asked: over TLS, and only where the configuration says.
func (c *Config) client() (*http.Client, error) {
	var roots *x509.CertPool
	if c.CAFile != "" {
		text, err := readFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		certs, err := identity.Certificates(text)
		if err != nil {
			return nil, fmt.Errorf("ca_file %s: %w", c.CAFile, err)
		}
		roots = x509.NewCertPool()
		for _, cert := range certs {
			roots.AddCert(cert)
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			MaxResponseHeaderBytes: maxDocument, DisableKeepAlives: true, // it is asked once in minutes
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects, which is not followed") },
	}, nil
}

// caller is whom a token's claims describe. The error names claims and no values.
func (c *Config) caller(claims map[string]any) (caller.Caller, error) {
	user, ok := claim(claims, c.Claims.User).(string)
	if !ok || user == "" || len(user) > model.MaxNameBytes || strings.ContainsFunc(user, unicode.IsControl) {
		return caller.Caller{}, fmt.Errorf("its claim %s names no user", c.Claims.User)
	}
	role := caller.Nobody
	for _, value := range texts(claim(claims, c.Claims.Role)) {
		if r, ok := caller.ParseRole(c.Roles[value]); ok {
			role = max(role, r)
		}
	}
	if role == caller.Nobody {
		return caller.Caller{}, fmt.Errorf("its claim %s gives no role", c.Claims.Role)
	}
	projects := slices.Compact(slices.Sorted(slices.Values(texts(claim(claims, c.Claims.Projects)))))
	switch {
	case len(projects) > identity.MaxProjects || slices.ContainsFunc(projects, func(p string) bool { return !model.ValidProject(p) }):
		return caller.Caller{}, fmt.Errorf("its claim %s holds more than %d projects, or what can't name one", c.Claims.Projects, identity.MaxProjects)
	case len(projects) == 0 && role < caller.Operator:
		return caller.Caller{}, fmt.Errorf("its claim %s names no project, and a %s is of some", c.Claims.Projects, role)
	}
	return caller.Caller{Name: "oidc:" + user, Role: role, Projects: projects}, nil
}

// claim is the value of a claim by its name or, within others, by their names with dots between; nil when there is none.
func claim(in map[string]any, name string) any {
	if v, ok := in[name]; ok {
		return v
	}
	outer, inner, dotted := strings.Cut(name, ".")
	if next, ok := in[outer].(map[string]any); ok && dotted {
		return claim(next, inner)
	}
	return nil
}

// texts is a claim that is a text or a list of them. What is no text is left out.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	default:
		return nil
	}
}
