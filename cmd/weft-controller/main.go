// Weft-controller serves weft's API and keeps the fleet's desired state in etcd, its own embedded one unless it is given
// a cluster. It does nothing to any host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/config"
	"github.com/weft-sdn/weft/controller/etcd"
	"github.com/weft-sdn/weft/controller/metrics"
	"github.com/weft-sdn/weft/controller/oidc"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := command(os.Environ()).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "weft-controller:", err)
		os.Exit(1)
	}
}

// command is the command line. Flags go over the environment, the environment over the file.
func command(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "weft-controller", Short: "serve weft's API", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
	}
	file := cmd.PersistentFlags().String("config", "", "configuration file (YAML)")
	values := map[string]*string{}
	for _, s := range config.Settings() {
		flag := strings.ReplaceAll(s.Name, "_", "-")
		values[s.Name] = cmd.PersistentFlags().String(flag, "", s.Help)
		if s.Switch() {
			cmd.PersistentFlags().Lookup(flag).NoOptDefVal = "true"
		}
	}
	with := func(do func(context.Context, config.Config, io.Writer) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			cfg := config.Default()
			if err := configure(&cfg, *file, environ, cmd, values); err != nil {
				return err
			}
			return do(cmd.Context(), cfg, cmd.ErrOrStderr())
		}
	}
	cmd.RunE = with(run)
	cmd.AddCommand(&cobra.Command{
		Use: "store", Short: "run the embedded etcd alone, for weft backup restore", Args: cobra.NoArgs, RunE: with(runStore),
	})
	return cmd
}

// configure reads the file, the environment and the flags, and checks the result.
func configure(cfg *config.Config, file string, environ []string, cmd *cobra.Command, values map[string]*string) error {
	if file != "" {
		if err := cfg.File(file); err != nil {
			return err
		}
	}
	if err := cfg.Environment(environ); err != nil {
		return err
	}
	for _, s := range config.Settings() {
		flag := strings.ReplaceAll(s.Name, "_", "-")
		if !cmd.Flags().Changed(flag) {
			continue
		}
		if err := s.Set(cfg, *values[s.Name]); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

// runStore runs the embedded etcd and nothing else.
func runStore(ctx context.Context, cfg config.Config, logTo io.Writer) error {
	if len(cfg.Etcd) > 0 {
		return fmt.Errorf("the configuration names an etcd, %v: there is none embedded", cfg.Etcd)
	}
	level, err := cfg.Level()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: level}))
	credential, err := credentialOf(ctx, cfg, log)
	if err != nil {
		return err
	}
	_, failed, closeStore, err := openStore(ctx, cfg, credential, log)
	if err != nil {
		return err
	}
	defer closeStore()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("the embedded etcd has failed: %w", err)
	}
}

// startTimeout is how long the store may take to answer at start.
const startTimeout = 30 * time.Second

func run(ctx context.Context, cfg config.Config, logTo io.Writer) error {
	level, err := cfg.Level()
	if err != nil {
		return err
	}
	go trim(ctx)
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: level}))
	credential, err := credentialOf(ctx, cfg, log)
	if err != nil {
		return err
	}
	client, failed, closeStore, err := openStore(ctx, cfg, credential, log)
	if err != nil {
		return err
	}
	defer closeStore()
	if len(cfg.Etcd) > 0 {
		log.Info("waiting for the store", "etcd", cfg.Etcd)
	}
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	name, err := nameOf(cfg)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if credential != nil {
		registry.MustRegister(credential)
	}
	if cfg.MetricsListen != "" {
		if _, err := metrics.Serve(ctx, cfg.MetricsListen, registry, log); err != nil {
			return err
		}
	}
	quotas, err := quota.Named(cfg.Quotas)
	if err != nil {
		return fmt.Errorf("quotas: %w", err)
	}
	users, trail, err := callersOf(cfg)
	if err != nil {
		return err
	}
	issuer, err := issuerOf(ctx, cfg, log)
	if err != nil {
		return err
	}
	c, err := controller.Start(starting, controller.Options{
		Client: client, Credential: credential, Users: users, Issuer: issuer, Trail: trail, UnderlayMTU: cfg.UnderlayMTU, Quotas: quotas, Log: log, Name: name,
		Metrics:       registry,
		NodeDeadAfter: time.Duration(cfg.NodeDeadAfterSeconds) * time.Second,
	})
	if err != nil {
		return fmt.Errorf("store %v: %w", client.Endpoints(), err)
	}
	defer c.Stop()
	ended := make(chan error, len(cfg.Listen))
	for _, address := range cfg.Listen {
		l, err := listen(ctx, address)
		if err != nil {
			return err
		}
		log.Info("serving", "address", l.Addr().String())
		go func() { ended <- c.Serve(l) }()
	}
	select {
	case <-ctx.Done():
		log.Info("stopping")
		return nil
	case err := <-ended:
		return err
	case err := <-failed:
		return fmt.Errorf("the embedded etcd has failed: %w", err)
	}
}

// credentialOf is the controller's own credential, which follows its files until the context ends; nil where TLS is off.
func credentialOf(ctx context.Context, cfg config.Config, log *slog.Logger) (*identity.Credential, error) {
	if cfg.Insecure {
		log.Warn("INSECURE: TLS is off, whoever reaches the API or etcd can do anything to the fleet (insecure: true)")
		return nil, nil //nolint:nilnil // as asked for
	}
	c, err := identity.Load(cfg.TLSDir)
	if err != nil {
		return nil, fmt.Errorf("tls_dir: %w; make one with: weft pki issue controller NAME", err)
	}
	if c.Self().Role != identity.Controller {
		return nil, fmt.Errorf("tls_dir: the certificate in %s is of %s, which is no controller", cfg.TLSDir, c.Self())
	}
	go c.Follow(ctx, log)
	return c, nil
}

// callersOf is who else may call, and where it is written what they did.
func callersOf(cfg config.Config) (users *caller.Users, trail *slog.Logger, err error) {
	if cfg.UsersFile != "" {
		if users, err = caller.LoadUsers(cfg.UsersFile); err != nil {
			return nil, nil, fmt.Errorf("users_file: %w", err)
		}
	}
	if cfg.AuditLog != "" {
		f, err := os.OpenFile(cfg.AuditLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("audit_log: %w", err)
		}
		trail = slog.New(slog.NewJSONHandler(f, nil)) // open as long as the process lives
	}
	return users, trail, nil
}

// issuerOf knows the bearers of an OpenID Connect provider's tokens, whose keys it follows until the context ends; nil where
// there is none.
func issuerOf(ctx context.Context, cfg config.Config, log *slog.Logger) (caller.Verifier, error) {
	if cfg.OIDCFile == "" {
		return nil, nil //nolint:nilnil // as asked for
	}
	c, err := oidc.ReadConfig(cfg.OIDCFile)
	if err != nil {
		return nil, fmt.Errorf("oidc_file: %w", err)
	}
	issuer, err := oidc.New(oidc.Options{Config: c, Log: log})
	if err != nil {
		return nil, fmt.Errorf("oidc_file %s: %w", cfg.OIDCFile, err)
	}
	go issuer.Run(ctx)
	return issuer, nil
}

func nameOf(cfg config.Config) (string, error) {
	if cfg.Name != "" {
		return cfg.Name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name: the host has none, set one: %w", err)
	}
	return name, nil
}

// openStore starts the embedded etcd or dials the cluster. failed is nil for a cluster.
func openStore(ctx context.Context, cfg config.Config, credential *identity.Credential, log *slog.Logger) (client *clientv3.Client, failed <-chan error, closeStore func(), err error) {
	report := func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("closing the store", "error", err)
		}
	}
	if len(cfg.Etcd) > 0 {
		collectEarly(os.Environ())
		if client, err = store.Dial(cfg.Etcd, credential); err != nil {
			return nil, nil, nil, err
		}
		return client, nil, func() { report(client.Close()) }, nil
	}
	options := etcd.Options{
		Dir: cfg.DataDir, Listen: cfg.EtcdURLs(), Tick: time.Duration(cfg.EtcdTick), Election: time.Duration(cfg.EtcdElection),
	}
	if credential != nil {
		options.TLSDir = cfg.TLSDir
	}
	server, err := etcd.Start(ctx, options)
	if err != nil {
		return nil, nil, nil, err
	}
	log.Info("embedded etcd", "data", cfg.DataDir, "endpoints", server.Endpoints())
	if credential == nil {
		return server.Client(), server.Failed(), func() { report(server.Close()) }, nil
	}
	// As everybody else does, for an etcd that goes by who is calling.
	if client, err = store.Dial(server.Endpoints(), credential); err != nil {
		report(server.Close())
		return nil, nil, nil, err
	}
	return client, server.Failed(), func() { report(client.Close()); report(server.Close()) }, nil
}

// listen opens "host:port" or "unix:/path". A socket left behind by a controller that was killed is replaced.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return l, nil
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600) // who can open it is an admin
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// removeStale removes a socket that nobody answers on.
func removeStale(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("listen on %s: there is a file that is no socket", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return errors.Join(fmt.Errorf("listen on %s: somebody else does already", path), conn.Close())
	}
	return os.Remove(path)
}
