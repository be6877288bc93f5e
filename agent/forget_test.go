package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/plan"
)

const (
	testFloating = "203.0.113.7"
	fixedBefore  = "10.0.0.10"
	fixedAfter   = "10.0.0.11"
)

// routerTo is a router without links that leads a floating IP to a fixed address.
func routerTo(id, fixed string) *plan.Router {
	to := map[netip.Addr]netip.Addr{}
	var rules []string
	if fixed != "" {
		to[netip.MustParseAddr(testFloating)] = netip.MustParseAddr(fixed)
		rules = []string{"-d " + testFloating + "/32 -j DNAT --to-destination " + fixed}
	}
	return &plan.Router{Floating: to, Namespace: desired.Namespace{
		Name: plan.RouterNamespace(id), Forward: true,
		IPTables: desired.IPTables{
			Jumps: []desired.Jump{
				{Table: "nat", Builtin: "PREROUTING", Target: plan.ChainDNAT}, {Table: "nat", Builtin: "OUTPUT", Target: plan.ChainDNAT},
			},
			Chains: []desired.Chain{{Table: "nat", Name: plan.ChainDNAT, Rules: rules}},
		},
	}}
}

func testServices(t *testing.T, stateDir string) *services {
	t.Helper()
	return servicesBeside(t, stateDir, true)
}

// servicesBeside are services beside an OVS that has taken all devices, or none.
func servicesBeside(t *testing.T, stateDir string, taken bool) *services {
	t.Helper()
	s, err := newServices(t.Context(), Config{StateDir: stateDir}, switching{
		held: func(string) bool { return false }, numbered: func(string, string) bool { return taken }, made: func(context.Context, map[string]string) {},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// An agent that is killed when the rules of a moved floating IP are in, and before its connections are ended, leaves that to
// the next one: nothing but its note tells.
func TestConnectionsOfAMovedFloatingIPEndThoughTheAgentWasKilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	for name, after := range map[string]string{"moved": fixedAfter, "gone": ""} {
		t.Run(name, func(t *testing.T) {
			stateDir, id := t.TempDir(), uuid.NewString()
			if err := os.Chmod(filepath.Dir(stateDir), 0o755); err != nil { // dnsmasq's user looks into it
				t.Fatal(err)
			}
			ns := plan.RouterNamespace(id)
			first := testServices(t, stateDir)
			t.Cleanup(func() {
				if err := first.remove(context.Background(), unit{"router", id}); err != nil {
					t.Errorf("clean up: %v", err)
				}
			})
			if err := first.router(t.Context(), id, routerTo(id, fixedBefore), &waiting{}); err != nil {
				t.Fatal(err)
			}
			connect(t, first, ns)
			killed := errors.New("killed")
			first.forget.Enter = func(string, func() error) error { return killed }
			if err := first.router(t.Context(), id, routerTo(id, after), &waiting{}); !errors.Is(err, killed) {
				t.Fatal(err)
			}
			if !strings.Contains(entries(t, ns), "src="+fixedBefore) {
				t.Fatalf("no connection to end:\n%s", entries(t, ns))
			}
			second := testServices(t, stateDir)
			if err := second.router(t.Context(), id, routerTo(id, after), &waiting{}); err != nil {
				t.Fatal(err)
			}
			if left := entries(t, ns); strings.Contains(left, testFloating) {
				t.Errorf("left:\n%s", left)
			}
			if noted, err := second.notes.read(id); len(noted) > 0 || err != nil {
				t.Errorf("still noted: %v, %v", noted, err)
			}
			if after == "" {
				return
			}
			// The third finds nothing to end.
			connect(t, first, ns)
			had := entries(t, ns)
			if err := testServices(t, stateDir).router(t.Context(), id, routerTo(id, after), &waiting{}); err != nil {
				t.Fatal(err)
			}
			if left := entries(t, ns); left == "" || strings.Count(left, "\n") != strings.Count(had, "\n") {
				t.Errorf("had:\n%s\nleft:\n%s", had, left)
			}
		})
	}
}

// connect sends a packet to the floating IP from within the router, whose rules lead it on.
func connect(t *testing.T, s *services, ns string) {
	t.Helper()
	if out, err := exec.Command("ip", "-n", ns, "route", "replace", "default", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("route: %v: %s", err, out)
	}
	if err := s.ns.Run(ns, func() error {
		c, err := net.Dial("udp4", testFloating+":9")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, ns string) string {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", ns, "conntrack", "-L", "-p", "udp").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestNotesAddUpAndOutliveTheirWriter(t *testing.T) {
	dir := t.TempDir()
	n, err := newNotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	for _, addrs := range [][]netip.Addr{{b}, nil, {a, b}} {
		if err := n.write("r", addrs); err != nil {
			t.Fatal(err)
		}
	}
	n, err = newNotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := n.read("r"); err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("%v, %v", got, err)
	}
	for range 2 {
		if err := n.remove("r"); err != nil {
			t.Error(err)
		}
	}
	if got, err := n.read("r"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
