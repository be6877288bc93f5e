package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/netns"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/replica"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
)

func writeKeys(t *testing.T, path string, letters string) {
	t.Helper()
	var text strings.Builder
	for _, letter := range letters {
		text.WriteString(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(letter)}, 32)) + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort is a port of loopback of which the next one is free too.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		first, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		at, _ := first.Addr().(*net.TCPAddr)
		second, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: at.IP, Port: at.Port + 1})
		first.Close()
		if err == nil {
			second.Close()
			return at.String()
		}
	}
	t.Fatal("no two ports in a row are free")
	return ""
}

func testPeering(t *testing.T, cfg Config, enter func(string, func() error) error) *peering {
	t.Helper()
	cfg.Roles = []string{RoleNetwork}
	p := newPeering(cfg, nil, enter, slog.New(slog.DiscardHandler))
	t.Cleanup(p.close)
	return p
}

func TestANetworkNodeWithoutAKeySaysThatItDoesNotReplicateAndBeginsWhenItHasOne(t *testing.T) {
	file, at := filepath.Join(t.TempDir(), "peer.key"), freePort(t)
	for want, cfg := range map[string]Config{
		"peer_key_file is not set": {Node: "n1", PeerAddress: at},
		"peer_address is not set":  {Node: "n1", PeerKeyFile: file},
		"no such file":             {Node: "n1", PeerAddress: at, PeerKeyFile: file},
	} {
		p := testPeering(t, cfg, nil)
		if got := p.problems(); len(got) != 1 || !strings.Contains(got[0], want) || p.address() != "" {
			t.Errorf("%q at %q, want %q", got, p.address(), want)
		}
	}
	if p := newPeering(Config{Node: "c1", Roles: []string{RoleCompute}}, nil, nil, nil); len(p.problems()) != 0 || p.address() != "" {
		t.Errorf("a compute node: %v", p.problems())
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	p := testPeering(t, Config{Node: "n1", PeerAddress: at, PeerKeyFile: file}, m.Run)
	p.set("r", replica.Assignment{Role: replica.Standby, Namespace: "qrouter-x"})
	writeKeys(t, file, "a")
	p.follow()
	if got := p.problems(); len(got) != 0 || p.address() != at {
		t.Errorf("with a key: %v at %q", got, p.address())
	}
	if s := p.replica.Stats(); s.Standby != 1 {
		t.Errorf("what was set before is not known: %+v", s)
	}
	writeKeys(t, file, "ba")
	p.follow()
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	p.follow()
	if got := p.problems(); len(got) != 1 || !strings.Contains(got[0], "0644") || p.address() != at {
		t.Errorf("with a file that others can read: %v at %q", got, p.address())
	}
}

// The loop's part: what a router is on this node, and with whom.
func TestARouterHasARoleOnceItIsBuiltUntilItIsNotPlanned(t *testing.T) {
	file, id := filepath.Join(t.TempDir(), "peer.key"), uuid.NewString()
	writeKeys(t, file, "a")
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Prepare(t.Context(), desired.Namespace{Name: plan.RouterNamespace(id)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Delete(context.Background(), plan.RouterNamespace(id)); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	cfg := Config{Node: "n1", PeerAddress: freePort(t), PeerKeyFile: file, Roles: []string{RoleNetwork}}
	a := &Agent{
		cfg: cfg, view: view.New("n1"), units: map[unit]error{}, builtAt: map[unit]any{}, started: true,
		peering: testPeering(t, cfg, m.Run),
	}
	dirty := view.NewDirty()
	dirty.Actives[id] = true
	check := func(when string, want replica.Role, peers ...string) {
		t.Helper()
		a.replicate(dirty)
		got := a.peering.roles[id]
		var have []string
		for node, at := range got.Peers {
			have = append(have, node+"="+at)
		}
		slices.Sort(have)
		if got.Role != want || !slices.Equal(have, peers) {
			t.Errorf("%s: %+v", when, got)
		}
	}
	a.view.HostRouters[id] = view.RouterBinding{Nodes: []string{"n2", "n1"}}
	check("not built", replica.None)
	a.builtAt[unit{keys.KindRouter, id}] = &plan.Router{}
	check("built", replica.Standby, "n2=")
	for _, name := range []string{"n1", "n2"} {
		a.view.Nodes[name] = view.Node{Network: true, Pool: "default", PeerAddress: "127.0.0.9:7682"}
	}
	a.replicateAll()
	check("the peer's address is known", replica.Standby, "n2=127.0.0.9:7683")
	a.view.Active[id] = view.Active{Node: "n1", Epoch: 4}
	a.units[unit{keys.KindRouter, id}] = os.ErrInvalid // being built anew
	check("active", replica.Active, "n2=127.0.0.9:7683")
	if e := a.peering.roles[id].Epoch; e != 4 {
		t.Errorf("epoch %d", e)
	}
	delete(a.view.HostRouters, id)
	check("no longer planned", replica.None)
	if s := a.peering.replica.Stats(); s.Active+s.Standby != 0 {
		t.Errorf("%+v", s)
	}
}
