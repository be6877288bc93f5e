// Package config is a controller's configuration: what can be set, its defaults, and how it is read from a file,
// environment and flags. It opens nothing but the file.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/model"
)

// Config is a controller's configuration. Its JSON names are the keys of the file, the flags (with "-" for "_") and, in
// capitals after EnvPrefix, the variables of the environment.
type Config struct {
	// Name is this replica's, for the operator who wants to know who leads; empty: the host's name.
	Name string `json:"name"`
	// Listen are where the API is served: "host:port" or "unix:/path".
	Listen []string `json:"listen"`
	// Etcd are the endpoints of an etcd cluster; none: an embedded one.
	Etcd []string `json:"etcd"`
	// DataDir holds the embedded etcd's data.
	DataDir string `json:"data_dir"`
	// EtcdListen are the URLs of the embedded etcd for agents; none: https://127.0.0.1:2379, or http:// if Insecure.
	EtcdListen []string `json:"etcd_listen"`
	// EtcdTick and EtcdElection tune the embedded etcd, e.g. "100ms", "1s".
	EtcdTick     Duration `json:"etcd_tick"`
	EtcdElection Duration `json:"etcd_election"`
	// TLSDir is the folder of the controller's credential, as package proto/identity describes it and `weft pki issue` makes
	// it. Insecure goes without: whoever reaches the API or etcd can do anything to the fleet.
	TLSDir   string `json:"tls_dir"`
	Insecure bool   `json:"insecure"`
	// UsersFile lists who is known by a token or by their certificate's subject, as docs/security.md describes it; "": nobody is.
	UsersFile string `json:"users_file"`
	// OIDCFile says whose tokens are taken besides, as docs/security.md describes it; "": nobody's.
	OIDCFile string `json:"oidc_file"`
	// AuditLog is a file that gets a line of every call that changes something; "": none does.
	AuditLog string `json:"audit_log"`
	// Quotas are limits of a project for which none were set, by the kind's name: "ports"; -1 is no limit. Kinds that are
	// missing have the limits of quota.Defaults.
	Quotas map[string]int64 `json:"quotas"`
	// UnderlayMTU is the MTU in bytes of the network between the nodes.
	UnderlayMTU int `json:"underlay_mtu"`
	// NodeDeadAfterSeconds is how long a node whose agent's lease has ended keeps what is planned on it, in seconds.
	NodeDeadAfterSeconds int `json:"node_dead_after_seconds"`
	// MetricsListen is where /metrics is served for Prometheus: "host:port"; "" nowhere.
	MetricsListen string `json:"metrics_listen"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"log_level"`
}

// Duration is a time.Duration that is written as in Go: "100ms".
type Duration time.Duration

// UnmarshalText parses a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 100ms", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes a duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// EnvPrefix begins the names of all variables of the environment.
const EnvPrefix = "WEFT_CONTROLLER_"

// Default is the configuration of a controller that is told nothing.
func Default() Config {
	return Config{
		Listen: []string{"127.0.0.1:7680"}, DataDir: "/var/lib/weft/controller", TLSDir: "/etc/weft/tls",
		EtcdTick: Duration(100 * time.Millisecond), EtcdElection: Duration(time.Second), UnderlayMTU: 1500, NodeDeadAfterSeconds: 15, LogLevel: "info",
	}
}

// EtcdURLs is where the embedded etcd listens.
func (c *Config) EtcdURLs() []string {
	if len(c.EtcdListen) > 0 {
		return c.EtcdListen
	}
	return []string{c.scheme() + "://127.0.0.1:2379"}
}

// scheme is that of etcd's URLs.
func (c *Config) scheme() string {
	if c.Insecure {
		return "http"
	}
	return "https"
}

// File reads a YAML file over the configuration. A key that is not known is an error that names it.
func (c *Config) File(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(raw, c); err != nil {
		return fmt.Errorf("configuration %s: %s", path, plain(err))
	}
	return nil
}

// plain is what a YAML error says, without the words of the JSON decoder that it went through.
func plain(err error) string {
	text := err.Error()
	for _, words := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "error converting YAML to JSON: ", "json: "} {
		text = strings.TrimPrefix(text, words)
	}
	return strings.Replace(text, "Go struct field Config.", "", 1)
}

// Setting is one thing that environment and flags can set.
type Setting struct {
	Name string // as in the file
	Help string
	// Set parses and stores a value; lists are comma separated.
	Set func(*Config, string) error
}

// Switch reports whether the setting's flag may be given without a value: true.
func (s Setting) Switch() bool { return s.Name == "insecure" }

// Settings lists all of them.
func Settings() []Setting {
	return []Setting{
		{"name", "this replica's name, shown where it leads; none: the host's name", func(c *Config, v string) error { c.Name = v; return nil }},
		{"listen", "where to serve the API: host:port or unix:/path, comma separated", list(func(c *Config) *[]string { return &c.Listen })},
		{"etcd", "endpoints of an etcd cluster, comma separated; none: an embedded one", list(func(c *Config) *[]string { return &c.Etcd })},
		{"data_dir", "directory of the embedded etcd's data", func(c *Config, v string) error { c.DataDir = v; return nil }},
		{"etcd_listen", "URLs of the embedded etcd for agents, comma separated", list(func(c *Config) *[]string { return &c.EtcdListen })},
		{"etcd_tick", "heartbeat interval of the embedded etcd", func(c *Config, v string) error { return c.EtcdTick.UnmarshalText([]byte(v)) }},
		{"etcd_election", "election timeout of the embedded etcd", func(c *Config, v string) error { return c.EtcdElection.UnmarshalText([]byte(v)) }},
		{"tls_dir", "folder of the controller's certificate, its key and the authorities to trust", func(c *Config, v string) error { c.TLSDir = v; return nil }},
		{"insecure", "go without TLS: whoever reaches the API or etcd can do anything to the fleet", setInsecure},
		{"users_file", "file of those who are known by a token or by their certificate; none: nobody is", func(c *Config, v string) error { c.UsersFile = v; return nil }},
		{"oidc_file", "file that says of which OpenID Connect provider tokens are taken; none: of none", func(c *Config, v string) error { c.OIDCFile = v; return nil }},
		{"audit_log", "file that gets a line of every call that changes something; none: no file does", func(c *Config, v string) error { c.AuditLog = v; return nil }},
		{"quotas", "how many objects a project may have for which nothing else is set, such as ports=1000,routers=-1 (-1: no limit)", setQuotas},
		{"underlay_mtu", "MTU in bytes of the network between the nodes", number(func(c *Config) *int { return &c.UnderlayMTU })},
		{"node_dead_after_seconds", "how long a node that is not alive keeps what is planned on it", number(func(c *Config) *int { return &c.NodeDeadAfterSeconds })},
		{"metrics_listen", "address of /metrics, such as 127.0.0.1:9464; none: nowhere", func(c *Config, v string) error { c.MetricsListen = v; return nil }},
		{"log_level", "debug, info, warn or error", func(c *Config, v string) error { c.LogLevel = v; return nil }},
	}
}

func setInsecure(c *Config, v string) (err error) {
	if c.Insecure, err = strconv.ParseBool(v); err != nil {
		return fmt.Errorf("%q is neither true nor false", v)
	}
	return nil
}

func setQuotas(c *Config, v string) error {
	var given []string
	SetList(&given, v)
	c.Quotas = map[string]int64{}
	for _, g := range given {
		name, limit, _ := strings.Cut(g, "=")
		n, err := strconv.ParseInt(limit, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a kind and a limit, such as ports=1000", g)
		}
		c.Quotas[name] = n
	}
	return nil
}

func list(field func(*Config) *[]string) func(*Config, string) error {
	return func(c *Config, v string) error {
		SetList(field(c), v)
		return nil
	}
}

// SetList sets a list from its comma separated form.
func SetList(field *[]string, v string) {
	*field = nil
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*field = append(*field, part)
		}
	}
}

func number(field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, v string) (err error) {
		if *field(c), err = strconv.Atoi(v); err != nil {
			return fmt.Errorf("%q is not a number", v)
		}
		return nil
	}
}

// Environment reads the variables that begin with EnvPrefix over the configuration. One that is not known is an error.
func (c *Config) Environment(environ []string) error {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		name, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours {
			continue
		}
		if err := c.set(strings.ToLower(name), value); err != nil {
			return fmt.Errorf("environment variable %s%s: %w", EnvPrefix, name, err)
		}
	}
	return nil
}

func (c *Config) set(name, value string) error {
	for _, s := range Settings() {
		if s.Name == name {
			return s.Set(c, value)
		}
	}
	return errors.New("there is no such setting")
}

// Check says what is wrong, all at once.
func (c *Config) Check() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	c.checkAddresses(bad)
	if len(c.Etcd) == 0 && c.DataDir == "" {
		bad("data_dir", "is needed for the embedded etcd")
	}
	if c.UnderlayMTU < 576 || c.UnderlayMTU > model.MaxMTU {
		bad("underlay_mtu", "%d is not in 576..%d", c.UnderlayMTU, model.MaxMTU)
	}
	if _, err := quota.Named(c.Quotas); err != nil {
		bad("quotas", "%v", err)
	}
	if c.NodeDeadAfterSeconds < 1 {
		bad("node_dead_after_seconds", "%d is less than 1", c.NodeDeadAfterSeconds)
	}
	if c.EtcdTick <= 0 || c.EtcdElection < 5*c.EtcdTick {
		bad("etcd_election", "must be at least five times etcd_tick")
	}
	if _, err := c.Level(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkAddresses checks what is listened on.
func (c *Config) checkAddresses(bad func(key, format string, args ...any)) {
	if len(c.Listen) == 0 {
		bad("listen", "at least one address is needed")
	}
	for _, l := range c.Listen {
		if path, unix := strings.CutPrefix(l, "unix:"); unix && path == "" || !unix && !strings.Contains(l, ":") {
			bad("listen", "%q is neither host:port nor unix:/path", l)
		}
	}
	for _, text := range c.EtcdListen {
		if u, err := url.Parse(text); err != nil || u.Scheme != c.scheme() || u.Port() == "" {
			bad("etcd_listen", "%q is not a URL such as %s://10.0.0.1:2379; TLS is off only where insecure is set", text, c.scheme())
		}
	}
	if c.TLSDir == "" && !c.Insecure {
		bad("tls_dir", "is needed; make one with: weft pki issue controller NAME")
	}
	if _, _, err := net.SplitHostPort(c.MetricsListen); c.MetricsListen != "" && err != nil {
		bad("metrics_listen", "%q is not an address and a port, such as 127.0.0.1:9464", c.MetricsListen)
	}
}

// Level is the log level.
func (c *Config) Level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return l, fmt.Errorf("log_level: %q is not debug, info, warn or error", c.LogLevel)
	}
	return l, nil
}
