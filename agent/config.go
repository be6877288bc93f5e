// Package agent is the process that runs on every node: it follows what the store says for its node, plans what the node
// should have (package plan) and has the drivers make it so. One goroutine owns the view and the plan; routers and DHCP
// servers are built by workers of their own, so that one that can't be built holds up nothing else. It never talks to a
// controller and writes only under its own node's keys.
package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/model"
)

// Role names of the configuration.
const (
	RoleCompute = "compute"
	RoleNetwork = "network"
)

// Config is everything that the agent is told. The yaml of weft-agent's configuration file has these names.
type Config struct {
	// Node is the node's name, unique in the fleet.
	Node string `json:"node"`
	// Etcd lists the store's endpoints.
	Etcd []string `json:"etcd"`
	// TunnelIP is the local end of tunnels; empty on a node without VXLAN and GRE networks.
	TunnelIP string `json:"tunnel_ip"`
	// BridgeMappings give the provider bridge of each physical network.
	BridgeMappings map[string]string `json:"bridge_mappings"`
	// DatapathType is that of the bridges the agent makes: "system" (default) or "netdev".
	DatapathType string `json:"datapath_type"`
	// Roles are "compute" and "network"; default compute.
	Roles []string `json:"roles"`
	// Pool is the group of network nodes that hold routers for each other (default "default"), Zone the node's availability
	// zone: one router's nodes are spread over zones. Capacity is how many routers the node may hold, active and standby;
	// 0 is no limit. They mean nothing on a node without the role network.
	Pool     string `json:"pool"`
	Zone     string `json:"zone"`
	Capacity int32  `json:"capacity"`
	// BFDIntervalMS and BFDMultiplier are how network nodes of one pool watch each other over their tunnels: a packet every
	// so many milliseconds (default 30, 10 to 1000), and a node is lost after so many without one (default 7, 2 to 50). All
	// nodes of a pool should have the same. See docs/adr/0005.
	BFDIntervalMS int `json:"bfd_interval_ms"`
	BFDMultiplier int `json:"bfd_multiplier"`
	// PeerAddress is where a network node's agent is reached by those of its pool, IP:port: gossip by UDP and TCP, and the
	// replication of connections by TCP one port higher. PeerKeyFile is the file with the fleet's keys, as package
	// agent/peer describes it (default peer.key in TLSDir). Without both, a router that moves loses its connections, and the
	// node says so.
	PeerAddress string `json:"peer_address"`
	PeerKeyFile string `json:"peer_key_file"`
	// TLSDir is the folder of the node's credential, as package proto/identity describes it and `weft pki issue` makes it
	// (default /etc/weft/tls). Insecure goes without: etcd is spoken to in the clear, and whoever has a key of PeerKeyFile
	// is a peer.
	TLSDir   string `json:"tls_dir"`
	Insecure bool   `json:"insecure"`
	// StateDir holds what must outlive the agent (default /var/lib/weft).
	StateDir string `json:"state_dir"`
	// OVSDB is the database's endpoint (default unix:/var/run/openvswitch/db.sock), OVSRunDir the directory of the
	// bridges' management sockets (default /var/run/openvswitch).
	OVSDB     string `json:"ovsdb"`
	OVSRunDir string `json:"ovs_run_dir"`
	// LeaseSeconds is after how long without a sign of life the node counts as dead (default 10).
	LeaseSeconds int `json:"lease_seconds"`
	// MetricsListen is the address, as 127.0.0.1:9465, at which Prometheus finds /metrics (default empty: nowhere). On a
	// loopback address Go's profiles are at /debug/pprof/ too.
	MetricsListen string `json:"metrics_listen"`
	// Metadata is how VMs learn of themselves at 169.254.169.254, see docs/metadata.md.
	Metadata MetadataConfig `json:"metadata"`
	// LogLevel is debug, info, warn or error (default info).
	LogLevel string `json:"log_level"`
}

// MetadataConfig is the agent's configuration of the metadata service.
type MetadataConfig struct {
	// Disabled: the node serves none.
	Disabled bool `json:"disabled"`
	// Backends are asked in turn, each as http://10.0.0.1:8775; none: the node answers itself from what the port's instance
	// says. BackendCAFile has the certificates that HTTPS backends are verified by (default: the system's), and
	// BackendTimeoutSeconds is what one has to begin its answer (default 5).
	Backends              []string `json:"backends"`
	BackendCAFile         string   `json:"backend_ca_file"`
	BackendTimeoutSeconds int      `json:"backend_timeout_seconds"`
	// SecretFile, mode 0600, holds what the node shares with the backends: an instance's id is signed with it (Nova's
	// metadata_proxy_shared_secret). It is read anew for each request. Default: nothing is signed.
	SecretFile string `json:"secret_file"`
	// RequestsPerSecond is how many one VM may make, in bursts of 5 seconds' worth (default 20), Connections how many at once
	// (default 8).
	RequestsPerSecond int `json:"requests_per_second"`
	Connections       int `json:"connections"`
	// Program is the proxy's program (default weft-metadata beside weft-agent), User whom it runs as (default nobody).
	Program string `json:"program"`
	User    string `json:"user"`
}

// Defaults fills in what is not given.
func (c *Config) Defaults() {
	for _, d := range []struct {
		field *string
		value string
	}{
		{&c.DatapathType, "system"},
		{&c.Pool, "default"},
		{&c.TLSDir, "/etc/weft/tls"},
		{&c.StateDir, "/var/lib/weft"},
		{&c.OVSDB, "unix:/var/run/openvswitch/db.sock"},
		{&c.OVSRunDir, "/var/run/openvswitch"},
		{&c.LogLevel, "info"},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if c.PeerKeyFile == "" && !c.Insecure {
		c.PeerKeyFile = filepath.Join(c.TLSDir, "peer.key")
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{RoleCompute}
	}
	if c.BFDIntervalMS == 0 {
		c.BFDIntervalMS = 30
	}
	if c.BFDMultiplier == 0 {
		c.BFDMultiplier = 7
	}
	if c.LeaseSeconds == 0 {
		c.LeaseSeconds = 10
	}
	c.Metadata.defaults()
}

// Validate reports every field that can't be right, by its name in the file.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(model.ValidNodeName(c.Node), "node: %q is not a node name (letters, digits, '-' and '.', at most 63)", c.Node)
	check(len(c.Etcd) > 0, "etcd: give at least one endpoint, such as https://10.0.0.1:2379")
	check(filepath.IsAbs(c.TLSDir), "tls_dir: %q is not an absolute path", c.TLSDir)
	if c.TunnelIP != "" {
		ip, err := netip.ParseAddr(c.TunnelIP)
		check(err == nil && ip.Is4(), "tunnel_ip: %q is not an IPv4 address", c.TunnelIP)
	}
	check(slices.Contains([]string{"system", "netdev"}, c.DatapathType), "datapath_type: %q is neither system nor netdev", c.DatapathType)
	for _, r := range c.Roles {
		check(r == RoleCompute || r == RoleNetwork, "roles: %q is neither compute nor network", r)
	}
	check(model.ValidNodeName(c.Pool), "pool: %q can't name a pool (letters, digits, '-' and '.', at most 63)", c.Pool)
	check(c.Zone == "" || model.ValidNodeName(c.Zone), "zone: %q can't name a zone (letters, digits, '-' and '.', at most 63)", c.Zone)
	check(c.Capacity >= 0, "capacity: %d is less than 0", c.Capacity)
	check(c.BFDIntervalMS >= 10 && c.BFDIntervalMS <= 1000, "bfd_interval_ms: %d is not between 10 and 1000", c.BFDIntervalMS)
	check(c.BFDMultiplier >= 2 && c.BFDMultiplier <= 50, "bfd_multiplier: %d is not between 2 and 50", c.BFDMultiplier)
	if c.PeerAddress != "" {
		at, err := netip.ParseAddrPort(c.PeerAddress)
		check(err == nil && !at.Addr().IsUnspecified() && at.Port() > 0 && at.Port() < 65535,
			"peer_address: %q is not an address and a port, such as 10.0.0.1:7682, that others can reach", c.PeerAddress)
	}
	check(c.PeerKeyFile == "" || filepath.IsAbs(c.PeerKeyFile), "peer_key_file: %q is not an absolute path", c.PeerKeyFile)
	check(filepath.IsAbs(c.StateDir), "state_dir: %q is not an absolute path", c.StateDir)
	check(c.LeaseSeconds >= 2, "lease_seconds: %d is less than 2", c.LeaseSeconds)
	if c.MetricsListen != "" {
		_, _, err := net.SplitHostPort(c.MetricsListen)
		check(err == nil, "metrics_listen: %q is not an address and a port, such as 127.0.0.1:9465", c.MetricsListen)
	}
	errs = append(append(errs, c.mappings()...), c.Metadata.validate()...)
	return errors.Join(errs...)
}

func (c *Config) mappings() []error {
	var errs []error
	seen := map[string]string{}
	for physnet, bridge := range c.BridgeMappings {
		switch {
		case !model.ValidPhysicalNetwork(physnet):
			errs = append(errs, fmt.Errorf("bridge_mappings: %q can't name a physical network", physnet))
		case bridge == "" || len(bridge) > 15 || strings.ContainsAny(bridge, "/ \t\n"):
			errs = append(errs, fmt.Errorf("bridge_mappings: %s: %q can't name a bridge", physnet, bridge))
		case bridge == "br-int" || bridge == "br-tun":
			errs = append(errs, fmt.Errorf("bridge_mappings: %s: %s is weft's own bridge", physnet, bridge))
		case seen[bridge] != "":
			errs = append(errs, fmt.Errorf("bridge_mappings: %s and %s have the same bridge %s", seen[bridge], physnet, bridge))
		}
		seen[bridge] = physnet
	}
	return errs
}

// bfd is the timing of sessions with the node's peers.
func (c *Config) bfd() plan.BFD {
	return plan.BFD{Interval: time.Duration(c.BFDIntervalMS) * time.Millisecond, Multiplier: c.BFDMultiplier}
}

// lease is the lifetime of the node's sign of life.
func (c *Config) lease() time.Duration { return time.Duration(c.LeaseSeconds) * time.Second }
