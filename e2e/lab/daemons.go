package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/yaml"

	"github.com/weft-sdn/weft/e2e/lab/procfs"
	"github.com/weft-sdn/weft/proto/identity"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Daemon is a program that faults act on.
type Daemon string

// The daemons of a lab's hosts.
const (
	AgentDaemon      Daemon = "agent"
	ControllerDaemon Daemon = "controller"
	EtcdDaemon       Daemon = "etcd" // of an etcd host; the embedded one is its controller
	VSwitchDaemon    Daemon = "ovs-vswitchd"
	OVSDBDaemon      Daemon = "ovsdb-server"
	DnsmasqDaemon    Daemon = "dnsmasq" // all of the host's
)

// Daemons lists them all.
func Daemons() []Daemon {
	return []Daemon{AgentDaemon, ControllerDaemon, EtcdDaemon, VSwitchDaemon, OVSDBDaemon, DnsmasqDaemon}
}

// program is the base name that the daemon's process shows.
func (d Daemon) program() string {
	if d == AgentDaemon || d == ControllerDaemon {
		return "weft-" + string(d)
	}
	return string(d)
}

// daemonTime bounds the start of one daemon on a busy machine.
const daemonTime = 30 * time.Second

// agentConfig is the configuration file of weft-agent.
type agentConfig struct {
	Node           string            `json:"node"`
	Etcd           []string          `json:"etcd"`
	TunnelIP       netip.Addr        `json:"tunnel_ip"`
	BridgeMappings map[string]string `json:"bridge_mappings"`
	DatapathType   string            `json:"datapath_type"`
	Roles          []string          `json:"roles"`
	StateDir       string            `json:"state_dir"`
	OVSDB          string            `json:"ovsdb"`
	OVSRunDir      string            `json:"ovs_run_dir"`
	MetricsListen  string            `json:"metrics_listen"`
	PeerAddress    string            `json:"peer_address,omitempty"`
	TLSDir         string            `json:"tls_dir"`
	LogLevel       string            `json:"log_level"`
}

// controllerConfig is the configuration file of weft-controller.
type controllerConfig struct {
	Listen      []string `json:"listen"`
	Etcd        []string `json:"etcd"`
	DataDir     string   `json:"data_dir"`
	EtcdListen  []string `json:"etcd_listen,omitempty"`
	TLSDir      string   `json:"tls_dir"`
	UsersFile   string   `json:"users_file"`
	UnderlayMTU int      `json:"underlay_mtu"`
	LogLevel    string   `json:"log_level"`
}

// etcdEndpoints are what clients use: the members' hosts, or ctl1 when etcd is embedded there.
func (s *state) etcdEndpoints() []string {
	kind := s.storeKind()
	var endpoints []string
	for _, h := range s.Hosts {
		if h.Kind == kind {
			endpoints = append(endpoints, etcdURL(h, 2379))
		}
		if kind == Controller && len(endpoints) > 0 {
			break // only the first controller embeds it
		}
	}
	return endpoints
}

// storeKind is the kind of host that etcd runs on.
func (s *state) storeKind() Kind {
	if slices.ContainsFunc(s.Hosts, func(h HostInfo) bool { return h.Kind == EtcdMember }) {
		return EtcdMember
	}
	return Controller
}

func etcdURL(h HostInfo, port uint16) string {
	return "https://" + netip.AddrPortFrom(h.Management, port).String()
}

// embedsEtcd tells whether the controller serves the lab's etcd itself.
func (s *state) embedsEtcd(h HostInfo) bool {
	return h.Kind == Controller && slices.Contains(s.etcdEndpoints(), etcdURL(h, 2379))
}

func (l *Lab) controllerConfig(s *state, h HostInfo) controllerConfig {
	c := controllerConfig{
		Listen:      []string{h.api().String(), "unix:" + l.socket(h.Name)},
		Etcd:        s.etcdEndpoints(),
		DataDir:     "/var/lib/weft",
		TLSDir:      l.tlsDir(h.Name),
		UsersFile:   l.usersFile(h),
		UnderlayMTU: s.UnderlayMTU,
		LogLevel:    s.LogLevel,
	}
	if s.embedsEtcd(h) {
		c.Etcd, c.EtcdListen = []string{}, []string{etcdURL(h, 2379)}
	}
	return c
}

func (l *Lab) agentConfig(s *state, h HostInfo) agentConfig {
	mappings := map[string]string{}
	for _, link := range h.Links {
		if link.Bridge != "" && link.Network != Underlay {
			mappings[link.Network] = link.Bridge
		}
	}
	c := agentConfig{
		Node: h.Name, Etcd: s.etcdEndpoints(), TunnelIP: h.Tunnel, BridgeMappings: mappings, DatapathType: "netdev",
		Roles: []string{string(h.Kind)}, TLSDir: l.tlsDir(h.Name), StateDir: "/var/lib/weft",
		OVSDB: "unix:" + ovsSocket, OVSRunDir: filepath.Dir(ovsSocket), MetricsListen: "127.0.0.1:9465", LogLevel: s.LogLevel,
	}
	if h.Kind == Network {
		c.PeerAddress = netip.AddrPortFrom(h.Management, peerPort).String()
	}
	return c
}

// etcdArgs is the command line of an etcd member (etcd's configuration documentation, 3.4 and later). The timing is that
// of a fast local network, so that a lab of three is ready soon; a lone member has nobody to disturb.
func (l *Lab) etcdArgs(s *state, h HostInfo) []string {
	var cluster []string
	for _, m := range s.Hosts {
		if m.Kind == EtcdMember {
			cluster = append(cluster, m.Name+"="+etcdURL(m, 2380))
		}
	}
	heartbeat, election := "50", "500"
	if len(cluster) == 1 {
		heartbeat, election = "10", "100"
	}
	file := func(name string) string { return filepath.Join(l.tlsDir(h.Name), name) }
	return []string{
		"etcd", "--name", h.Name, "--data-dir", "/var/lib/etcd/default",
		"--listen-client-urls", etcdURL(h, 2379) + ",https://127.0.0.1:2379", "--advertise-client-urls", etcdURL(h, 2379),
		"--listen-peer-urls", etcdURL(h, 2380), "--initial-advertise-peer-urls", etcdURL(h, 2380),
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
		"--heartbeat-interval", heartbeat, "--election-timeout", election,
		"--client-cert-auth", "--cert-file", file(identity.CertFile), "--key-file", file(identity.KeyFile), "--trusted-ca-file", file(identity.CAFile),
		"--peer-client-cert-auth", "--peer-cert-file", file(identity.CertFile), "--peer-key-file", file(identity.KeyFile), "--peer-trusted-ca-file", file(identity.CAFile),
		"--enable-grpc-gateway=false",
	}
}

// startWeft starts the daemons of all hosts: the store, then who serves it, then who follows it.
func (l *Lab) startWeft(ctx context.Context, hosts []HostInfo) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	store := s.storeKind()
	for _, kinds := range [][]Kind{{EtcdMember}, {Controller}, {Network, Compute}} {
		group := slices.DeleteFunc(slices.Clone(hosts), func(h HostInfo) bool { return !slices.Contains(kinds, h.Kind) })
		if err := each(ctx, group, l.startDaemons); err != nil {
			return err
		}
		if slices.Contains(kinds, store) {
			if err := l.restrict(ctx, hosts); err != nil {
				return err
			}
		}
	}
	return l.awaitNodes(ctx, hosts)
}

// awaitNodes waits until the API lists every node alive: its agent has then made the bridges that VMs are plugged into.
func (l *Lab) awaitNodes(ctx context.Context, hosts []HostInfo) error {
	nodes := slices.DeleteFunc(slices.Clone(hosts), func(h HostInfo) bool { return !h.Node() })
	server := slices.IndexFunc(hosts, func(h HostInfo) bool { return h.Kind == Controller })
	if len(nodes) == 0 || server < 0 {
		return nil
	}
	conn, err := grpc.NewClient("unix:"+l.socket(hosts[server].Name), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only reads went over it
	ctx, cancel := context.WithTimeout(ctx, daemonTime)
	defer cancel()
	return await(ctx, "all nodes are alive", func() error {
		list, err := weftv1.NewNodeServiceClient(conn).ListNodes(ctx, &weftv1.ListNodesRequest{Filter: "alive = true"})
		if err == nil && len(list.GetNodes()) < len(nodes) {
			err = fmt.Errorf("%d of %d", len(list.GetNodes()), len(nodes))
		}
		return err
	})
}

// startDaemons starts what the host runs besides Open vSwitch.
func (l *Lab) startDaemons(ctx context.Context, h HostInfo) error {
	switch h.Kind {
	case EtcdMember:
		return l.startDaemon(ctx, h, EtcdDaemon)
	case Controller:
		return l.startDaemon(ctx, h, ControllerDaemon)
	case Network, Compute:
		return l.startDaemon(ctx, h, AgentDaemon)
	default:
		return nil // an outside host has none
	}
}

// startDaemon starts one daemon and returns when it serves.
func (l *Lab) startDaemon(ctx context.Context, h HostInfo, d Daemon) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTime)
	defer cancel()
	began := time.Now()
	s, err := l.load()
	if err != nil {
		return err
	}
	now, err := s.host(h.Name) // the caller's record may be from before the boot
	if err != nil {
		return err
	}
	start, ok := map[Daemon]func(context.Context, *state, HostInfo) error{
		AgentDaemon: l.startAgent, ControllerDaemon: l.startController, EtcdDaemon: l.startEtcd,
		OVSDBDaemon:   func(ctx context.Context, _ *state, h HostInfo) error { return l.startOVSDB(ctx, h) },
		VSwitchDaemon: func(ctx context.Context, _ *state, h HostInfo) error { return l.startVSwitch(ctx, h) },
	}[d]
	if !ok {
		return fmt.Errorf("the lab does not start %s: the agent does", d)
	}
	if err := start(ctx, s, *now); err != nil {
		return fmt.Errorf("host %s: start %s: %w", h.Name, d, err)
	}
	l.log.Info("daemon is up", "lab", l.name, "host", h.Name, "daemon", d, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (l *Lab) startEtcd(ctx context.Context, s *state, h HostInfo) error {
	if h.Kind != EtcdMember {
		return errors.New("it runs on etcd hosts only; the embedded one is part of its controller")
	}
	if err := l.Carry(h.Name); err != nil {
		return err
	}
	if err := l.launch(ctx, h, EtcdDaemon, l.etcdArgs(s, h)); err != nil {
		return err
	}
	if err := l.awaitServing(ctx, h, EtcdDaemon, func() error { return l.etcdHealth(ctx, h) }); err != nil {
		return err
	}
	return l.favour(h.Name)
}

func (l *Lab) startController(ctx context.Context, s *state, h HostInfo) error {
	if h.Kind != Controller {
		return errors.New("it runs on controller hosts only")
	}
	if err := os.Remove(l.socket(h.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	if _, err := os.Stat(l.usersFile(h)); errors.Is(err, fs.ErrNotExist) {
		if err := l.listUsers(h, nil); err != nil {
			return fmt.Errorf("users: %w", err)
		}
	}
	if err := l.launchWeft(ctx, s, h, ControllerDaemon, l.controllerConfig(s, h)); err != nil {
		return err
	}
	return l.awaitServing(ctx, h, ControllerDaemon, func() error { return dialGRPC(ctx, "unix:"+l.socket(h.Name)) })
}

// startAgent returns when the process runs; whether the agent is in sync is for the API to say.
func (l *Lab) startAgent(ctx context.Context, s *state, h HostInfo) error {
	if !h.Node() {
		return errors.New("it runs on network and compute nodes only")
	}
	if err := l.launchWeft(ctx, s, h, AgentDaemon, l.agentConfig(s, h)); err != nil {
		return err
	}
	if err := l.awaitServing(ctx, h, AgentDaemon, func() error { return nil }); err != nil {
		return err
	}
	return l.favour(h.Name)
}

// peerPort is where network nodes' agents reach each other.
const peerPort = 7682

// launchWeft writes the daemon's configuration and starts it.
func (l *Lab) launchWeft(ctx context.Context, s *state, h HostInfo, d Daemon, config any) error {
	if err := l.Carry(h.Name); err != nil {
		return err
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode its configuration: %w", err)
	}
	path := filepath.Join(l.spec(h.Name).Dir(), d.program()+".yaml")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write its configuration: %w", err)
	}
	argv := []string{filepath.Join(s.Bin, d.program()), "--config", path}
	if d == AgentDaemon {
		argv = append([]string{"setpriv", "--bounding-set", agentCapabilities}, argv...)
	}
	return l.launch(ctx, h, d, argv)
}

// agentCapabilities is all that the agent and its children may have (setpriv(1)), as in deploy/systemd/weft-agent.service.
const agentCapabilities = "-all,+net_admin,+net_raw,+sys_admin,+net_bind_service,+setuid,+setgid,+kill"

// launch starts a daemon as a child of the host's pid 1, with its output in the host's log.
func (l *Lab) launch(ctx context.Context, h HostInfo, d Daemon, argv []string) error {
	running, err := l.processes(h, d)
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return fmt.Errorf("it runs already (%w)", ErrExists)
	}
	if slices.Contains(favoured(), d) {
		argv = append([]string{"nice", "-n", priority}, argv...)
	}
	script := `log=$1; shift; exec setsid --fork "$@" </dev/null >>"$log" 2>&1`
	_, err = l.space(h.Name, "").Exec(ctx, append([]string{"sh", "-c", script, "sh", "/var/log/weft/" + string(d) + ".log"}, argv...)...)
	return err
}

func (l *Lab) logFile(h string, d Daemon) string {
	if d == VSwitchDaemon || d == OVSDBDaemon {
		return filepath.Join(l.spec(h).Disk(), "log/openvswitch", string(d)+".log")
	}
	return filepath.Join(l.spec(h).Disk(), "log/weft", string(d)+".log")
}

// awaitServing waits until the daemon is ready; when it ended instead, the error shows the end of its log.
func (l *Lab) awaitServing(ctx context.Context, h HostInfo, d Daemon, ready func() error) error {
	seen := false
	var died error
	err := await(ctx, string(d)+" serves", func() error {
		running, err := l.processes(h, d)
		if err != nil {
			return err
		}
		if len(running) == 0 && seen {
			died = errors.New("it ended")
			return nil
		}
		seen = seen || len(running) > 0
		if !seen {
			return errors.New("no such process")
		}
		return ready()
	})
	if err = errors.Join(err, died); err != nil {
		return fmt.Errorf("%w; the end of %s:\n%s", err, l.logFile(h.Name, d), tail(l.logFile(h.Name, d), 15))
	}
	return nil
}

// processes are the live processes of a daemon in the host, found by program name among the host's own pids.
func (l *Lab) processes(h HostInfo, d Daemon) ([]procfs.Process, error) {
	ns, err := h.Hold("pid")
	if err != nil {
		return nil, fmt.Errorf("host %s is powered off: %w", h.Name, err)
	}
	defer ns.Close()
	members, err := ns.Members()
	return slices.DeleteFunc(members, func(p procfs.Process) bool { return p.Name() != d.program() }), err
}

// etcdHealth asks a member whether it has a leader and can write.
func (l *Lab) etcdHealth(ctx context.Context, h HostInfo) error {
	credential, err := l.Credential()
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true, DialContext: l.space(h.Name, "").dial, TLSClientConfig: credential.Client("", identity.Etcd),
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, etcdURL(h, 2379)+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("health: %s: %s", answer.Status, text)
	}
	return err
}

// dial connects from inside the place. A fallback address family would be dialled on another thread, outside.
func (s Space) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = s.Do(func() (err error) {
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func dialGRPC(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing was sent over it
	for conn.Connect(); ; {
		switch at := conn.GetState(); at {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return fmt.Errorf("no gRPC on %s: %v", target, at)
		default:
			if !conn.WaitForStateChange(ctx, at) {
				return fmt.Errorf("no gRPC on %s: %w", target, ctx.Err())
			}
		}
	}
}

// tail is the last lines of a file, or why they cannot be had.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Processes lists the live processes of a daemon in the host; the pids are the machine's. Empty when it does not run.
func (h *Host) Processes(d Daemon) ([]procfs.Process, error) {
	info, err := h.now()
	if err != nil {
		return nil, err
	}
	return h.lab.processes(info, d)
}

// now is the host's record as of now.
func (h *Host) now() (HostInfo, error) {
	s, err := h.lab.load()
	if err != nil {
		return HostInfo{}, err
	}
	info, err := s.host(h.Info.Name)
	if err != nil {
		return HostInfo{}, err
	}
	return *info, nil
}

// Kill ends a daemon with SIGKILL and returns when it is gone. An error when it does not run.
func (h *Host) Kill(ctx context.Context, d Daemon) error {
	return h.signal(d, unix.SIGKILL, func(p procfs.Process) error { return awaitEnd(ctx, p.ID) })
}

// Stop ends a daemon with SIGTERM, as its service manager would, and returns when it is gone.
func (h *Host) Stop(ctx context.Context, d Daemon) error {
	return h.signal(d, unix.SIGTERM, func(p procfs.Process) error { return awaitEnd(ctx, p.ID) })
}

// Pause holds a daemon with SIGSTOP and returns when none of its threads runs: its sockets stay open and nobody serves them.
func (h *Host) Pause(ctx context.Context, d Daemon) error {
	return h.signal(d, unix.SIGSTOP, func(p procfs.Process) error {
		for {
			held, err := p.Held()
			if held || err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("process %d is not held: %w", p.PID, ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	})
}

// Resume lets a paused daemon go on.
func (h *Host) Resume(_ context.Context, d Daemon) error {
	return h.signal(d, unix.SIGCONT, func(procfs.Process) error { return nil })
}

func (h *Host) signal(d Daemon, s unix.Signal, then func(procfs.Process) error) error {
	running, err := h.Processes(d)
	if err != nil {
		return err
	}
	if len(running) == 0 {
		return fmt.Errorf("%s does not run on host %s: %w", d, h.Info.Name, ErrNotFound)
	}
	for _, p := range running {
		if err := signal(p.ID, s); err != nil {
			return fmt.Errorf("%s on host %s: %w", d, h.Info.Name, err)
		}
		if err := then(p); err != nil {
			return fmt.Errorf("%s on host %s: %w", d, h.Info.Name, err)
		}
	}
	return nil
}

// Start starts a daemon that was killed or stopped, and returns when it serves. After ovs-vswitchd, the host's addresses
// on its internal ports are put back. ErrExists when it runs; dnsmasq is for the agent to start.
func (h *Host) Start(ctx context.Context, d Daemon) error {
	info, err := h.now()
	if err != nil {
		return err
	}
	return h.lab.startDaemon(ctx, info, d)
}
