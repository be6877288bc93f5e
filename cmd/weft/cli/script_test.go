package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/weft-sdn/weft/cmd/weft/cli"
	"github.com/weft-sdn/weft/controller/api"
	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weft": func() {
		os.Exit(cli.Main(context.Background(), cli.Env{
			Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: "test",
		}))
	}})
}

// TestScripts runs each script with a controller and an etcd of its own.
func TestScripts(t *testing.T) {
	update := flag.Lookup("update")
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v, %v", files, err)
	}
	example, err := filepath.Abs("../../../deploy/examples/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			c := startController(t)
			testscript.Run(t, testscript.Params{
				Files: []string{f}, UpdateScripts: update != nil && update.Value.String() == "true", RequireExplicitExec: true,
				Setup: func(e *testscript.Env) error {
					e.Setenv("WEFT_SERVER", c.endpoint)
					e.Setenv("WEFT_ETCD", c.etcd)
					e.Setenv("WEFT_INSECURE", "true")
					e.Setenv("EMPTY_ETCD", storetest.Start(t).Endpoint())
					e.Setenv("EXAMPLE", example)
					// Otherwise every weft, built with the race detector, sleeps a second before it exits.
					e.Setenv("GORACE", "atexit_sleep_ms=0")
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"node": c.nodeCmd, "report": c.reportCmd, "jsonvar": jsonVar, "stray": c.strayCmd, "unclaim": c.unclaimCmd, "active": c.activeCmd, "answer": c.answerCmd, "gone": c.goneCmd,
				},
			})
		})
	}
}

// people is a file of users: alice, whose token is "alice".
const people = `users:
- {name: alice, role: member, projects: [red], tokens_sha256: [2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90]}
`

// controller is the real API on a real etcd.
type controller struct {
	store    *store.Store
	endpoint string
	etcd     string
}

func startController(t *testing.T) controller {
	t.Helper()
	etcd := storetest.Start(t)
	etcd.Prepare()
	s := etcd.Store()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	nodes := fleet.New(s, log)
	t.Cleanup(nodes.Close)
	if err := nodes.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, []byte(people), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := caller.LoadUsers(users)
	if err != nil {
		t.Fatal(err)
	}
	guard := caller.NewGuard(caller.Options{Users: known, Insecure: true})
	server := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream))
	api.New(api.Options{Store: s, Fleet: nodes, Log: log, UnderlayMTU: 1500, Quotas: quota.Defaults()}).Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("the API's server: %v", err)
		}
	})
	return controller{store: s, endpoint: "unix:" + socket, etcd: etcd.Endpoint()}
}

func (c controller) commit(ts *testscript.TestScript, build func(*txn.Txn)) {
	var t txn.Txn
	build(&t)
	_, err := c.store.Commit(context.Background(), &t, 0)
	ts.Check(err)
}

// strayCmd is `stray NETWORK`: it writes a claim of an object that does not exist.
func (c controller) strayCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: stray NETWORK")
	}
	c.commit(ts, func(t *txn.Txn) {
		t.Claim(keys.MACClaim(args[0], "fa:16:3e:ff:ff:ff"), keys.KindPort, "00000000-0000-4000-8000-00000000dead")
	})
}

// unclaimCmd is `unclaim PROJECT KIND PLACE`: it deletes the claim on a place of a quota.
func (c controller) unclaimCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: unclaim PROJECT KIND PLACE")
	}
	place, err := strconv.ParseUint(args[2], 10, 32)
	ts.Check(err)
	c.commit(ts, func(t *txn.Txn) { t.Delete(keys.PlaceClaim(args[0], args[1], uint32(place))) })
}

// nodeCmd is `node NAME ROLE[,ROLE] [PHYSNET:BRIDGE…]`: it writes what an agent that starts writes.
func (c controller) nodeCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: node NAME ROLE[,ROLE] [PHYSNET:BRIDGE...]")
	}
	agent := &storev1.Agent{TunnelIp: "192.0.2.1", DatapathType: "system", Version: "test", BridgeMappings: map[string]string{}}
	for r := range strings.SplitSeq(args[1], ",") {
		agent.Roles = append(agent.Roles, weftv1.Role(weftv1.Role_value["ROLE_"+strings.ToUpper(r)]))
	}
	for _, m := range args[2:] {
		physnet, bridge, _ := strings.Cut(m, ":")
		agent.BridgeMappings[physnet] = bridge
		agent.Uplinks = append(agent.Uplinks, &weftv1.Uplink{PhysicalNetwork: physnet, Bridge: bridge, Proven: true})
	}
	c.commit(ts, func(t *txn.Txn) {
		t.Put(keys.Agent(args[0]), agent)
		t.Put(keys.Live(args[0]), &storev1.Agent{})
	})
}

// reportCmd is `report NODE KIND ID STATE [MESSAGE]`: it writes what an agent that has programmed all revisions of an
// object so far reports.
func (c controller) reportCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: report NODE KIND ID STATE [MESSAGE]")
	}
	r := &storev1.Report{Revision: 1 << 50, State: weftv1.State(weftv1.State_value["STATE_"+args[3]]), Message: strings.Join(args[4:], " ")}
	c.commit(ts, func(t *txn.Txn) { t.Put(keys.Status(args[0], args[1], args[2]), r) })
}

// goneCmd is `gone NODE`: the node's agent is not alive any more.
func (c controller) goneCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: gone NODE")
	}
	c.commit(ts, func(t *txn.Txn) { t.Delete(keys.Live(args[0])) })
}

// activeCmd is `active ROUTER NODE`: it writes what an agent that takes a router over writes.
func (c controller) activeCmd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: active ROUTER NODE")
	}
	c.commit(ts, func(t *txn.Txn) { t.Put(keys.Active(args[0]), &storev1.ActiveRouter{Node: args[1], Epoch: 1 << 20}) })
}

// answerCmd is `answer NODE [KIND OBJECT DESIRED]`: from now on the node's agent answers questions so.
func (c controller) answerCmd(ts *testscript.TestScript, _ bool, args []string) {
	answer := &storev1.Answer{}
	switch len(args) {
	case 1:
	case 4:
		answer.Differences = []*weftv1.Difference{{Kind: args[1], Object: args[2], Desired: args[3]}}
	default:
		ts.Fatalf("usage: answer NODE [KIND OBJECT DESIRED]")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	ts.Defer(func() { cancel(); <-done })
	asked := c.store.Client().Watch(ctx, keys.Asks(args[0]), clientv3.WithPrefix())
	go func() {
		defer close(done)
		for resp := range asked {
			for _, ev := range resp.Events {
				k, err := keys.Parse(string(ev.Kv.Key))
				if err != nil || !ev.IsCreate() {
					continue
				}
				t := &txn.Txn{}
				t.Put(keys.Answer(args[0], k.ID()), answer)
				if _, err := c.store.Commit(ctx, t, 0); err != nil {
					ts.Logf("answering: %v", err)
				}
			}
		}
	}()
}

// jsonVar is `jsonvar VAR PATH`: it sets a variable to a value in the JSON printed last, e.g. 0.fixed_ips.0.ip_address.
func jsonVar(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: jsonvar VAR PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(at) {
				ts.Fatalf("no element %s", step)
			}
			v = at[i]
		}
	}
	if v == nil {
		ts.Fatalf("nothing at %s", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// run runs one command line without a controller.
func run(env map[string]string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = cli.Main(context.Background(), cli.Env{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(k string) string { return env[k] },
	})
	return code, out.String(), errs.String()
}

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"nix", `weft has no command "nix"`},
		{"network lst", "did you mean list?"},
		{"router gateway", ""},
		{"network create", "accepts 1 arg"},
		{"network create a --mtu big", `--mtu: "big" is not a number`},
		{"network create a --nix", "unknown flag: --nix"},
		{"network create a --type ipip", `--type: "ipip" is not one of vlan, vxlan, gre, flat`},
		{"network create a --external=maybe", `neither true nor false`},
		{"network list -o xml", `output format "xml" is not one of table, wide, json, yaml`},
		{"network list --limit -1", "must not be negative"},
		{"network list --server nowhere", "neither host:port nor unix:/path"},
		{"network list --timeout 0s", "must be more than nothing"},
		{"subnet create s --cidr 10.0.0.0/24", "--network is needed"},
		{"subnet create s --network 6a1b6d3e-0000-4000-8000-000000000000 --cidr 10.0.0.0/24 --pool 10.0.0.1", `--pool: "10.0.0.1" is not of the form A-B`},
		{"subnet create s --network 6a1b6d3e-0000-4000-8000-000000000000 --cidr 10.0.0.0/24 --route 10.0.0.1", `--route: "10.0.0.1" is not of the form CIDR=A`},
		{"network update 6a1b6d3e-0000-4000-8000-000000000000", "nothing to change"},
		{"network update 6a1b6d3e-0000-4000-8000-000000000000 --up --down", "--up contradicts another flag"},
		{"router interface add r", "give either a subnet or --port"},
		{"router interface add r s --port p", "give either a subnet or --port"},
		{"segment range add --type vlan --range 5", `"5" is not of the form MIN-MAX`},
		{"segment range add --type vlan --range a-b", `"a" is not a number`},
		{"node label n x", `"x" is neither KEY=VALUE nor KEY-`},
		{"router move r", "--to is needed"},
		{"pool set p --ha many", `--ha: "many" is not a number`},
		{"node cordon", "requires at least 1 arg"},
		{"watch cats", `"cats" is not one of addressgroup, floatingip, network`},
		{"apply", "-f is needed"},
		{"apply -f /does/not/exist", "no such file"},
	} {
		code, _, stderr := run(nil, strings.Fields(tc.line)...)
		if tc.want == "" {
			if code != cli.ExitOK {
				t.Errorf("%s: exit code %d: %s", tc.line, code, stderr)
			}
			continue
		}
		if code != cli.ExitUsage || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, stderr %q; want %d, %q", tc.line, code, stderr, cli.ExitUsage, tc.want)
		}
	}
}

func TestNoControllerIsExitCode3(t *testing.T) {
	env := map[string]string{"WEFT_SERVER": "unix:" + filepath.Join(t.TempDir(), "none")}
	for _, line := range []string{"network list", "port show 6a1b6d3e-0000-4000-8000-000000000000", "network delete n"} {
		if code, _, stderr := run(env, strings.Fields(line)...); code != cli.ExitUnreachable || !strings.Contains(stderr, env["WEFT_SERVER"]) {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), string(cli.Docs())); diff != "" {
		t.Errorf("run `go generate ./cmd/weft/cli`; docs/cli.md (-have +want):\n%s", diff)
	}
}
