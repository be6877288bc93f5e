// Command weft-agent is the process on every node that builds the node's part of the virtual networks.
//
//	weft-agent --config /etc/weft/agent.yaml
//	weft-agent cleanup --config /etc/weft/agent.yaml
//
// The configuration file is YAML with the names of package agent's Config; unknown names are refused. A flag overrides
// an environment variable (WEFT_AGENT_<NAME>), which overrides the file.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/agent"
)

var version = "dev"

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "weft-agent:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var file string
	var flags agent.Config
	var mappings []string
	with := func(do func(context.Context, agent.Config, *slog.Logger) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(file, os.LookupEnv)
			if err != nil {
				return err
			}
			if err := override(&cfg, cmd, flags, mappings); err != nil {
				return err
			}
			return run(cmd.Context(), cfg, do)
		}
	}
	cmd := &cobra.Command{
		Use: "weft-agent", Short: "Build this node's part of weft's virtual networks", Version: version,
		SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: with(func(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
			metrics := prometheus.NewRegistry()
			metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
			return agent.Run(ctx, agent.Options{Config: cfg, Version: version, Log: log, Metrics: metrics})
		}),
	}
	cmd.AddCommand(&cobra.Command{
		Use: "cleanup", Short: "Take everything of weft off this node, while no agent runs", Args: cobra.NoArgs,
		RunE: with(agent.Cleanup),
	})
	f := cmd.PersistentFlags()
	f.StringVar(&file, "config", "", "configuration file (YAML)")
	f.StringVar(&flags.Node, "node", "", "the node's name")
	f.StringSliceVar(&flags.Etcd, "etcd", nil, "etcd endpoints")
	f.StringVar(&flags.TLSDir, "tls-dir", "", "folder of the node's certificate, its key and the authorities to trust")
	f.BoolVar(&flags.Insecure, "insecure", false, "go without TLS: whoever reaches etcd can do anything to the fleet")
	f.StringVar(&flags.TunnelIP, "tunnel-ip", "", "local end of tunnels")
	f.StringArrayVar(&mappings, "bridge-mapping", nil, "physnet:bridge, may be given several times")
	f.StringVar(&flags.DatapathType, "datapath-type", "", "system or netdev")
	f.StringSliceVar(&flags.Roles, "roles", nil, "compute, network")
	f.StringVar(&flags.MetricsListen, "metrics-listen", "", "address of /metrics, such as 127.0.0.1:9465")
	f.StringVar(&flags.LogLevel, "log-level", "", "debug, info, warn or error")
	return cmd
}

// load reads the file and the environment.
func load(file string, env func(string) (string, bool)) (agent.Config, error) {
	var cfg agent.Config
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return cfg, err
		}
		if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
			return cfg, fmt.Errorf("configuration %s: %s", file, plain(err))
		}
	}
	for name, field := range map[string]*string{
		"NODE": &cfg.Node, "TUNNEL_IP": &cfg.TunnelIP, "DATAPATH_TYPE": &cfg.DatapathType, "STATE_DIR": &cfg.StateDir,
		"TLS_DIR": &cfg.TLSDir, "PEER_ADDRESS": &cfg.PeerAddress, "PEER_KEY_FILE": &cfg.PeerKeyFile,
		"OVSDB": &cfg.OVSDB, "OVS_RUN_DIR": &cfg.OVSRunDir, "LOG_LEVEL": &cfg.LogLevel, "METRICS_LISTEN": &cfg.MetricsListen,
	} {
		if value, ok := env("WEFT_AGENT_" + name); ok {
			*field = value
		}
	}
	for name, field := range map[string]*[]string{"ETCD": &cfg.Etcd, "ROLES": &cfg.Roles} {
		if value, ok := env("WEFT_AGENT_" + name); ok {
			*field = strings.Split(value, ",")
		}
	}
	if value, ok := env("WEFT_AGENT_INSECURE"); ok {
		var err error
		if cfg.Insecure, err = strconv.ParseBool(value); err != nil {
			return cfg, fmt.Errorf("environment variable WEFT_AGENT_INSECURE: %q is neither true nor false", value)
		}
	}
	if value, ok := env("WEFT_AGENT_BRIDGE_MAPPINGS"); ok {
		return cfg, setMappings(&cfg, strings.Split(value, ","))
	}
	return cfg, nil
}

// plain is what a YAML error says, without the words of the JSON decoder that it went through.
func plain(err error) string {
	text := err.Error()
	for _, words := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "error converting YAML to JSON: ", "json: "} {
		text = strings.TrimPrefix(text, words)
	}
	return strings.Replace(text, "Go struct field Config.", "", 1)
}

func setMappings(cfg *agent.Config, mappings []string) error {
	cfg.BridgeMappings = map[string]string{}
	for _, m := range mappings {
		physnet, bridge, ok := strings.Cut(m, ":")
		if !ok {
			return fmt.Errorf("bridge mapping %q: want physnet:bridge", m)
		}
		cfg.BridgeMappings[physnet] = bridge
	}
	return nil
}

// override lets the flags that were given win.
func override(cfg *agent.Config, cmd *cobra.Command, flags agent.Config, mappings []string) error {
	for name, set := range map[string]func(){
		"node": func() { cfg.Node = flags.Node }, "etcd": func() { cfg.Etcd = flags.Etcd },
		"tunnel-ip":     func() { cfg.TunnelIP = flags.TunnelIP },
		"datapath-type": func() { cfg.DatapathType = flags.DatapathType },
		"roles":         func() { cfg.Roles = flags.Roles }, "log-level": func() { cfg.LogLevel = flags.LogLevel },
		"tls-dir":        func() { cfg.TLSDir = flags.TLSDir },
		"insecure":       func() { cfg.Insecure = flags.Insecure },
		"metrics-listen": func() { cfg.MetricsListen = flags.MetricsListen },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
	if cmd.Flags().Changed("bridge-mapping") {
		return setMappings(cfg, mappings)
	}
	return nil
}

func run(ctx context.Context, cfg agent.Config, do func(context.Context, agent.Config, *slog.Logger) error) error {
	cfg.Defaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return fmt.Errorf("configuration: log_level: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return do(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}
