package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const deadline = time.Minute

// build builds the binary once per test.
func build(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "weft-controller")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		tb.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// process is a running controller; it ends with the test.
type process struct {
	tb     testing.TB
	cmd    *exec.Cmd
	log    bytes.Buffer
	exited chan error
}

func start(tb testing.TB, env []string, path string, args ...string) *process {
	tb.Helper()
	p := &process{tb: tb, cmd: exec.Command(path, args...), exited: make(chan error, 1)}
	p.cmd.Env = append(append(os.Environ(), "WEFT_CONTROLLER_INSECURE=true"), env...)
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	tb.Cleanup(func() { _ = p.cmd.Process.Kill() }) // it may have ended already
	return p
}

// stop asks the process to end, and returns how it did.
func (p *process) stop() error {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Fatal(err)
	}
	select {
	case err := <-p.exited:
		return err
	case <-time.After(deadline):
		p.tb.Fatalf("does not end:\n%s", p.log.String())
		return nil
	}
}

// connect waits until the API serves.
func connect(tb testing.TB, target string) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(tb.Context(), deadline)
	defer cancel()
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		tb.Fatal(err)
	}
	return conn
}

func TestFlagsGoOverTheEnvironmentAndThatOverTheFile(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "api.sock")
	file := filepath.Join(dir, "controller.yaml")
	text := fmt.Sprintf("listen: [\"unix:%s/unused.sock\"]\ndata_dir: %s/data\netcd_listen: [\"http://127.0.0.1:0\"]\nunderlay_mtu: 9000\netcd_tick: 10ms\netcd_election: 100ms\n", dir, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path := build(t)
	env := []string{"WEFT_CONTROLLER_UNDERLAY_MTU=8000", "WEFT_CONTROLLER_LISTEN=unix:" + socket}
	for range 2 { // the second one finds the data of the first
		p := start(t, env, path, "--config", file, "--underlay-mtu", "7000")
		conn := connect(t, "unix:"+socket)
		n, err := weftv1.NewNetworkServiceClient(conn).CreateNetwork(t.Context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
		if err != nil || n.GetMtu() != 6950 {
			t.Errorf("network = %v, %v, want MTU 6950", n, err)
		}
		if err := p.stop(); err != nil {
			t.Errorf("end on SIGTERM: %v\n%s", err, p.log.String())
		}
	}
}

func TestAWrongConfigurationIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "controller.yaml")
	if err := os.WriteFile(file, []byte("listen: [\"127.0.0.1:0\"]\nlogg_level: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, args []string
		says      string
	}{
		"unknown key":          {nil, []string{"--config", file}, "logg_level"},
		"no file":              {nil, []string{"--config", filepath.Join(dir, "none")}, "none"},
		"unknown variable":     {[]string{"WEFT_CONTROLLER_COLOUR=red"}, nil, "WEFT_CONTROLLER_COLOUR"},
		"unknown flag":         {nil, []string{"--colour", "red"}, "colour"},
		"no number":            {nil, []string{"--underlay-mtu", "x"}, "--underlay-mtu"},
		"a quota of nothing":   {nil, []string{"--quotas", "nodes=1"}, `quotas: "nodes"`},
		"a quota of no number": {nil, []string{"--quotas", "ports"}, "quotas"},
		"mtu too small":        {nil, []string{"--underlay-mtu", "100"}, "underlay_mtu"},
		"log level":            {nil, []string{"--log-level", "loud"}, "log_level"},
		"listen address":       {nil, []string{"--listen", "here"}, "listen"},
		"etcd url":             {nil, []string{"--etcd-listen", "127.0.0.1"}, "etcd_listen"},
		"election":             {nil, []string{"--etcd-tick", "1s", "--etcd-election", "2s"}, "etcd_election"},
		"an argument too many": {nil, []string{"now"}, "now"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(c.env)
			cmd.SetArgs(c.args)
			if c.args == nil {
				cmd.SetArgs([]string{})
			}
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an error that names %s", err, c.says)
			}
		})
	}
}

// BenchmarkMemory10000Ports reports the resident memory of a controller with 10,000 ports that uses another's etcd.
func BenchmarkMemory10000Ports(b *testing.B) {
	path, dir := build(b), b.TempDir()
	etcd := "http://127.0.0.1:" + strconv.Itoa(freePort(b))
	start(b, nil, path, "--data-dir", filepath.Join(dir, "data"), "--etcd-listen", etcd, "--listen", "unix:"+filepath.Join(dir, "a.sock"), "--etcd-tick", "10ms", "--etcd-election", "100ms", "--quotas", "ports=-1")
	connect(b, "unix:"+filepath.Join(dir, "a.sock"))
	p := start(b, nil, path, "--etcd", etcd, "--listen", "unix:"+filepath.Join(dir, "b.sock"), "--quotas", "ports=-1")
	conn := connect(b, "unix:"+filepath.Join(dir, "b.sock"))
	empty := resident(b, p.cmd.Process.Pid)
	fill(b, conn)
	full := settled(b, p)
	for range 10 {
		got, err := weftv1.NewPortServiceClient(conn).ListPorts(b.Context(), &weftv1.ListPortsRequest{PageSize: 10000}, grpc.MaxCallRecvMsgSize(64<<20))
		if err != nil || len(got.GetPorts()) != 10000 {
			b.Fatalf("%d ports, %v", len(got.GetPorts()), err)
		}
	}
	b.ReportMetric(empty, "MB-empty")
	b.ReportMetric(full, "MB-full")
	b.ReportMetric(resident(b, p.cmd.Process.Pid), "MB-listing")
	b.ReportMetric(settled(b, p), "MB-after-10-lists")
	q := start(b, nil, path, "--etcd", etcd, "--listen", "unix:"+filepath.Join(dir, "c.sock"))
	connect(b, "unix:"+filepath.Join(dir, "c.sock"))
	b.ReportMetric(settled(b, q), "MB-restarted")
}

// settled is a process's resident memory once it has given back what it does not need.
func settled(b *testing.B, p *process) float64 {
	timer := time.NewTimer(2*trimEvery + time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
	case err := <-p.exited:
		b.Fatalf("ended: %v", err)
	}
	return resident(b, p.cmd.Process.Pid)
}

// fill creates 10,000 ports on 10 networks, each bound to a node.
func fill(b *testing.B, conn *grpc.ClientConn) {
	for range 10 {
		n, err := weftv1.NewNetworkServiceClient(conn).CreateNetwork(b.Context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
		if err == nil {
			_, err = weftv1.NewSubnetServiceClient(conn).CreateSubnet(b.Context(), &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.0.0.0/16"}})
		}
		req := &weftv1.BatchCreatePortsRequest{}
		for i := range 1000 {
			req.Requests = append(req.Requests, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId(), Host: fmt.Sprintf("cmp%d", i%100)}})
		}
		if err == nil {
			_, err = weftv1.NewPortServiceClient(conn).BatchCreatePorts(b.Context(), req)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// resident is a process's resident memory in MB (proc(5)).
func resident(b *testing.B, pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// freePort is a port of loopback that nobody listens on.
func freePort(b testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestItWorksAgainstTheDistributionsEtcd runs a replica on an etcd of its own process, through a restart of it.
func TestItWorksAgainstTheDistributionsEtcd(t *testing.T) {
	server, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal("etcd is not installed: make deps installs it")
	}
	dir, listen, peer := t.TempDir(), "http://127.0.0.1:"+strconv.Itoa(freePort(t)), "http://127.0.0.1:"+strconv.Itoa(freePort(t))
	args := []string{
		"--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", listen, "--advertise-client-urls", listen,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--logger", "zap",
	}
	etcd := start(t, nil, server, args...)
	path, socket := build(t), "unix:"+filepath.Join(dir, "api.sock")
	p := start(t, nil, path, "--etcd", listen, "--listen", socket)
	conn := connect(t, socket)
	tour(t, conn)
	if err := etcd.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-etcd.exited; err == nil {
		t.Error("a killed etcd ended well")
	}
	start(t, nil, server, args...)
	tour(t, conn)
	if err := p.stop(); err != nil {
		t.Errorf("end on SIGTERM: %v\n%s", err, p.log.String())
	}
}

// tour creates a network, a subnet and a port, sees the port in a watch and in a list, and deletes it.
func tour(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	networks, ports := weftv1.NewNetworkServiceClient(conn), weftv1.NewPortServiceClient(conn)
	n, err := networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
	for status.Code(err) == codes.Unavailable && ctx.Err() == nil { // until the store is there again
		n, err = networks.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
	}
	must(t, err)
	_, err = weftv1.NewSubnetServiceClient(conn).CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.0.0.0/24"}})
	must(t, err)
	before, err := ports.ListPorts(ctx, &weftv1.ListPortsRequest{})
	must(t, err)
	p, err := ports.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId()}, RequestId: "00000000-0000-4000-8000-" + n.GetId()[24:]})
	must(t, err)
	stream, err := weftv1.NewWatchServiceClient(conn).Watch(ctx, &weftv1.WatchRequest{Revision: before.GetRevision(), Kinds: []weftv1.Kind{weftv1.Kind_KIND_PORT}})
	must(t, err)
	ev, err := stream.Recv()
	must(t, err)
	if ev.GetPort().GetId() != p.GetId() {
		t.Errorf("event = %v, want port %s", ev, p.GetId())
	}
	_, err = ports.DeletePort(ctx, &weftv1.DeletePortRequest{Id: p.GetId(), Etag: p.GetEtag()})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
