package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/hostinit"
	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// binaries is the folder that `make build` fills.
func binaries(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestDaemonsAreStartedConfiguredAndFaulted(t *testing.T) {
	o := small("daemons")
	o.Software, o.Bin, o.Controllers, o.Etcd, o.ComputeNodes = lab.Weft, binaries(t), 1, 3, 1
	l := up(t, o)
	ctx := within(t)

	config, err := os.ReadFile(filepath.Join(l.Dir(), "net1", "weft-agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := `bridge_mappings:
  ext1: br-ext1
  tenant: br-tenant
datapath_type: netdev
etcd:
- https://10.30.0.21:2379
- https://10.30.0.22:2379
- https://10.30.0.23:2379
log_level: info
metrics_listen: 127.0.0.1:9465
node: net1
ovs_run_dir: /var/run/openvswitch
ovsdb: unix:/var/run/openvswitch/db.sock
peer_address: 10.30.0.31:7682
roles:
- network
state_dir: /var/lib/weft
tls_dir: ` + l.Dir() + `/net1/tls
tunnel_ip: 10.31.0.31
`
	if string(config) != want {
		t.Errorf("configuration of the agent:\n%s", config)
	}
	if server, err := l.Server(); err != nil || server != "unix:"+l.Dir()+"/ctl1/api.sock" {
		t.Errorf("server %q, %v", server, err)
	}
	for _, f := range []struct {
		host   string
		daemon lab.Daemon
	}{{"ctl1", lab.ControllerDaemon}, {"cmp1", lab.AgentDaemon}, {"etcd2", lab.EtcdDaemon}} {
		h := host(t, l, f.host)
		for _, end := range []func(context.Context, lab.Daemon) error{h.Kill, h.Stop} {
			if err := end(ctx, f.daemon); err != nil {
				t.Fatal(err)
			}
			if running, err := h.Processes(f.daemon); err != nil || len(running) != 0 {
				t.Errorf("%s after its end: %v, %v", f.daemon, running, err)
			}
			if err := h.Start(ctx, f.daemon); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Start(ctx, f.daemon); !errors.Is(err, lab.ErrExists) {
			t.Errorf("start of a running %s: %v", f.daemon, err)
		}
	}
	ctl1 := host(t, l, "ctl1")
	if err := ctl1.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ctl1.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if running, err := ctl1.Processes(lab.ControllerDaemon); err != nil || len(running) != 1 {
		t.Errorf("controller after a power cycle: %v, %v", running, err)
	}
	client, err := l.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(ctx, "k", "v"); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedEtcdIsConfiguredInTheFirstControllerOnly(t *testing.T) {
	o := lab.Options{Name: small("embedded").Name, Software: lab.Weft, Bin: binaries(t), Controllers: 2}
	l := up(t, o)
	for name, want := range map[string]string{
		"ctl1": "etcd: []\netcd_listen:\n- https://10.30.0.11:2379\n",
		"ctl2": "etcd:\n- https://10.30.0.11:2379\nlisten:",
	} {
		config, err := os.ReadFile(filepath.Join(l.Dir(), name, "weft-controller.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(config), want) {
			t.Errorf("%s: want %q in\n%s", name, want, config)
		}
	}
}

func TestADaemonThatDiesAtStartShowsItsLogAndTheLabIsRemoved(t *testing.T) {
	before := machine(t)
	o := lab.Options{Name: small("dying").Name, Software: lab.Weft, Bin: binaries(t), Controllers: 1, LogLevel: "broken"}
	_, err := lab.Up(within(t), o)
	if err == nil || !strings.Contains(err.Error(), "log_level") {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, o.Name, before)
}

// upAndDie is what the process to be killed does, see TestDownAfterAKilledUp.
const upAndDie = "WEFT_LAB_TEST_UP"

func maybeUpAndDie() {
	name := os.Getenv(upAndDie)
	if name == "" {
		return
	}
	_, err := lab.Up(context.Background(), lab.Options{Name: name, NetworkNodes: 1, ComputeNodes: 2, Externals: 1, Software: lab.OVSOnly})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1) //nolint:forbidigo // this process exists to be killed
}

func TestDownAfterAKilledUp(t *testing.T) {
	before := machine(t)
	for hosts := range 6 { // 0: before the first; 5: all of them
		name := fmt.Sprintf("killed%d-%d", hosts, os.Getpid())
		dir := filepath.Join(lab.Root, name)
		cmd := osexec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), upAndDie+"="+name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitHosts(t, dir, hosts)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if err := lab.Down(within(t), name); err != nil {
			t.Error(err)
		}
		nothingLeft(t, name, before)
	}
}

func awaitHosts(t *testing.T, dir string, n int) {
	t.Helper()
	ctx := within(t)
	for ctx.Err() == nil {
		all, err := procfs.List()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, p := range all {
			if hostinit.Is(p, dir) {
				found++
			}
		}
		if _, err := os.Stat(dir); err == nil && found >= n {
			return
		}
	}
	t.Fatalf("%d hosts did not come up: %v", n, ctx.Err())
}
