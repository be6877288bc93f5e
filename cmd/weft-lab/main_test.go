package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// asCommand makes the test binary be weft-lab itself, so that tests see real processes, exit codes and terminals.
const asCommand = "WEFT_LAB_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	lab.BecomeHost()
	m.Run()
}

// shell runs weft-lab commands on one lab.
type shell struct {
	t    *testing.T
	name string
}

func newShell(t *testing.T) shell {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("simulated hosts need root")
	}
	s := shell{t: t, name: fmt.Sprintf("cli-%d", os.Getpid())}
	t.Cleanup(func() {
		s.ok("down")
		if _, err := os.Stat(filepath.Join(lab.Root, s.name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after down: %v", err)
		}
	})
	return s
}

func (s shell) run(args ...string) (out, complaint string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	// The race detector otherwise sleeps for a second at every exit.
	cmd.Env = append(os.Environ(), asCommand+"=1", "WEFT_LAB="+s.name, "GORACE=atexit_sleep_ms=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func (s shell) ok(args ...string) string {
	s.t.Helper()
	out, complaint, code := s.run(args...)
	if code != 0 {
		s.t.Fatalf("weft-lab %s: exit code %d: %s", strings.Join(args, " "), code, complaint)
	}
	return out
}

func (s shell) fails(want string, args ...string) {
	s.t.Helper()
	if _, complaint, code := s.run(args...); code != 1 || !strings.Contains(complaint, want) {
		s.t.Errorf("weft-lab %s: exit code %d, %q; want 1 and %q", strings.Join(args, " "), code, complaint, want)
	}
}

func (s shell) shows(want string, args ...string) {
	s.t.Helper()
	if out := s.ok(args...); !strings.Contains(out, want) {
		s.t.Errorf("weft-lab %s: want %q in\n%s", strings.Join(args, " "), want, out)
	}
}

func TestCommandsOnALab(t *testing.T) {
	s := newShell(t)
	bin := t.TempDir() // what `weft port show` prints, without a controller to ask
	script := "#!/bin/sh\ncase \"$WEFT_SERVER $*\" in *ctl1/api.sock*'port show -o json -- p1') " +
		`echo '{"id":"01234567-89ab-4def-8123-456789abcdef","mac_address":"fa:16:3e:00:00:01","name":"p1"}';; ` + "*'port show -o json -- bridged') " +
		`echo '{"id":"11234567-89ab-4def-8123-456789abcdef","mac_address":"fa:16:3e:00:00:02","vif_type":"VIF_TYPE_HYBRID"}';; ` +
		"*) echo no such port >&2; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "weft"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s.fails("weft-lab up", "status")
	s.fails("make build", "up", "--bin", bin)
	s.shows("lab "+s.name+" is up", "up", "--bare", "--bin", bin, "--etcd", "0", "--network-nodes", "1", "--compute-nodes", "1", "--externals", "1")
	s.fails("exists already", "up", "--bare", "--bin", bin)
	s.shows("export WEFT_SERVER='unix:/run/weft-lab/"+s.name+"/ctl1/api.sock'\nexport WEFT_TLS_DIR='/run/weft-lab/"+s.name+"/pki/admin/lab'\nexport PATH='"+bin+":", "env")

	s.shows("cmp1\n", "exec", "cmp1", "--", "hostname")
	s.shows("203.0.113.1/24", "external", "exec", "ext1", "--", "ip", "address")
	if _, _, code := s.run("exec", "cmp1", "--", "sh", "-c", "exit 7"); code != 7 {
		t.Errorf("exit code of the command inside: %d", code)
	}
	s.fails("not found", "exec", "cmp9", "--", "true")
	s.ok("external", "vlan", "ext1", "1998", "198.18.0.1/24")
	s.shows("198.18.0.1/24", "external", "exec", "ext1", "--", "ip", "address")

	vmCommands(s)
	faultCommands(s)
	s.ok("down")
	s.ok("down") // nothing to do
}

func vmCommands(s shell) {
	s.t.Helper()
	s.ok("exec", "cmp1", "--", "sh", "-ec", `
		ovs-vsctl add-br br-int -- set Bridge br-int datapath_type=netdev
		ip address add 10.9.0.1/24 dev br-int; ip link set br-int up; ethtool -K br-int tx off >/dev/null
		dnsmasq --conf-file= --port=0 --interface=br-int --bind-interfaces --dhcp-range=10.9.0.0,static,1h --dhcp-host=fa:16:3e:00:00:01,10.9.0.5 --dhcp-host=fa:16:3e:00:00:02,10.9.0.6`)
	s.fails("no such port", "vm", "add", "a", "--host", "cmp1", "--port", "p2")
	if out := s.ok("vm", "add", "a", "--host", "cmp1", "--port", "p1"); out != "10.9.0.5\n" {
		s.t.Errorf("vm add printed %q", out)
	}
	s.fails("exists already", "vm", "add", "a", "--host", "cmp1", "--port", "p1")
	s.shows("10.9.0.5/24", "vm", "exec", "a", "--", "ip", "address")
	s.shows("tap01234567-89", "status")
	s.shows("10.9.0.6\n", "vm", "add", "b", "--host", "cmp1", "--port", "bridged")
	s.shows("qvo11234567-89", "exec", "cmp1", "--", "ovs-vsctl", "list-ports", "br-int")
	s.ok("vm", "del", "b")
	s.ok("vm", "del", "a")
	s.fails("not found", "vm", "del", "a")
	s.fails("required", "vm", "add", "a", "--host", "cmp1")
}

func faultCommands(s shell) {
	s.t.Helper()
	s.ok("fault", "pause", "cmp1", "ovsdb-server")
	s.shows("ovsdb-server (paused)", "status")
	s.ok("fault", "resume", "cmp1", "ovsdb-server")
	s.ok("fault", "kill", "cmp1", "ovs-vswitchd")
	s.fails("does not run", "fault", "stop", "cmp1", "ovs-vswitchd")
	s.ok("fault", "start", "cmp1", "ovs-vswitchd")
	s.fails("use one of", "fault", "kill", "cmp1", "sshd")
	s.ok("fault", "cut", "net1", "external")
	s.shows("ext1", "status")
	s.ok("fault", "heal", "net1", "external")
	s.ok("fault", "cut-carrier", "net1", "tenant")
	s.shows("tenant (no carrier)", "status")
	s.ok("fault", "heal", "net1", "tenant")
	s.ok("fault", "restart-ovs", "net1")
	s.ok("fault", "power-off", "cmp1")
	s.shows(`"power": "off"`, "status", "-o", "json")
	s.fails("powered off", "exec", "cmp1", "--", "true")
	s.ok("fault", "power-on", "cmp1")
	s.shows("br-int", "exec", "cmp1", "--", "ovs-vsctl", "list-br")
	s.ok("fault", "reboot", "cmp1")
	s.shows(s.name, "list")
}

func FuzzParsePort(f *testing.F) {
	f.Add([]byte(`{"id":"x","mac_address":"y"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := parsePort(text); err == nil && (p.Port.ID == "" || p.Port.MAC == "") {
			t.Errorf("accepted %q as %+v", text, p)
		}
	})
}
