package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/ha"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// gateText is what of plan.Silence is in a dump.
const gateText = "priority=100 actions=drop"

// keeperAgent is the part of an agent that deals with its keeper, which does not run.
func keeperAgent(t *testing.T) *Agent {
	t.Helper()
	cfg := Config{Node: "n1", LeaseSeconds: 10}
	cfg.Defaults()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a := &Agent{cfg: cfg, log: log, view: view.New("n1"), dirty: view.NewDirty(), planner: plan.NewPlanner()}
	a.bridges = newBridges(t.Context(), t.TempDir(), a.refuse, log)
	a.takeover = takeover{kept: make(chan kept, 8), epochs: map[string]int64{}}
	a.takeover.keeper = newKeeper(t.Context(), cfg, nil, func(string, proto.Message) {}, a.takeover.kept, log)
	a.takeover.keeper.flush = func(context.Context, string, string) error { return nil }
	t.Cleanup(a.takeover.keeper.wait)
	return a
}

// A node that is cut off and silent has its agent restarted: nothing that the new one does lets a frame of a router's out.
func TestTheAgentOfASilentNodeIsSilentFromItsStart(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.cfg.Roles = []string{RoleNetwork}
	s.cfg.TunnelIP = "127.0.0.11"
	for node, ip := range map[string]string{"n1": "127.0.0.11", "n2": "127.0.0.12", "n3": "127.0.0.13"} {
		self := &storev1.Agent{TunnelIp: ip, Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK}}
		s.put(keys.Agent(node), self)
		if node != "n1" {
			s.put(keys.Live(node), self)
		}
	}
	s.put(keys.Witness("n1"), &storev1.Witness{Lost: []string{"n2", "n3"}})
	s.run()
	s.flow(plan.BrInt, "table=60")
	s.flow(plan.BrInt, gateText)
	if got := s.witness(); len(got.GetLost()) != 2 {
		t.Errorf("it no longer says whom it has lost: %v", got)
	}
}

func (s *site) witness() *storev1.Witness {
	s.Helper()
	out := &storev1.Witness{}
	got, err := s.etcd.Store().Client().Get(s.Context(), keys.Witness("n1"))
	if err != nil || len(got.Kvs) != 1 {
		s.Fatalf("witness: %v, %v", got, err)
	}
	if err := proto.Unmarshal(got.Kvs[0].Value, out); err != nil {
		s.Fatal(err)
	}
	return out
}

// The keeper falls silent, by its own connection, while the loop compares br-int with a plan in which it is not.
func TestASilenceThatBeginsDuringASyncOutlastsIt(t *testing.T) {
	o := ovstest.Start(t)
	o.AddBridge(plan.BrInt)
	a := keeperAgent(t)
	k := a.takeover.keeper
	dial := func() *openflow.Conn {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := openflow.DialWait(ctx, openflow.Options{Socket: filepath.Join(o.Dir(), plan.BrInt+".mgmt"), Logger: a.log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	k.gate = dial()
	loop := dial()
	a.syncFlows(plan.BrInt, func(flows []flow.Flow) int {
		k.silent.Store(true)
		k.writeGate()
		if _, err := loop.Sync(t.Context(), flows); err != nil {
			t.Error(err)
		}
		return 0
	})
	k.wait()
	if flows := o.Ofctl("dump-flows", plan.BrInt); !strings.Contains(flows, gateText) {
		t.Errorf("the gate is open: %s", flows)
	}
}

// What br-int has not taken does not make the node silent, and nobody else may be made the holder.
func TestNothingIsHandedOverWhileTheBridgeIsNotAsPlanned(t *testing.T) {
	a := keeperAgent(t)
	k := a.takeover.keeper
	now := time.Now()
	k.machine.SetWorld(now, ha.World{
		Routers: map[string]ha.Router{"r1": {Plan: []string{"n1", "n2"}, Holder: "n1", Epoch: 1, Revision: 7, HandOver: "n2"}},
		Peers:   map[string]ha.Peer{"n2": {Live: true}}, Switch: true,
	})
	claims := k.machine.Decide(now).Claims
	if len(claims) != 1 {
		t.Fatalf("claims %v, want one", claims)
	}
	a.keep(kept{hush: claims})
	a.afterFlows(view.NewDirty()) // a store is not there: a claim that was made would end the test
	(<-k.calls)()
	if !a.dirty.Actives["r1"] {
		t.Error("the router's flows are not planned anew")
	}
	if again := k.machine.Decide(time.Now().Add(time.Second)).Claims; len(again) != 1 || again[0].To != "n2" {
		t.Errorf("then %v, want the hand-over once more", again)
	}
}

// etcd lets the node write who is active for one router and not yet for another, whose plan is younger.
func TestARouterThatTheNodeMayNotTakeYetStopsNoOther(t *testing.T) {
	server, ctx := storetest.Start(t), t.Context()
	admin := server.Client()
	ok := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var x txn.Txn
	for _, router := range []string{"r1", "r2"} {
		x.Put(keys.Active(router), &storev1.ActiveRouter{Node: "n2", Epoch: 1})
		x.Put(keys.HostObject("n1", keys.KindRouter, router), &storev1.RouterBinding{})
	}
	revision, err := server.Store().Commit(ctx, &x, 0)
	ok(revision, err)
	for user, role := range map[string]string{"root": "root", "node:n1": "node:n1"} {
		ok(admin.RoleAdd(ctx, role))
		ok(admin.UserAdd(ctx, user, "pw"))
		ok(admin.UserGrantRole(ctx, user, role))
	}
	ok(admin.RoleGrantPermission(ctx, "node:n1", keys.Host("n1"), keys.End(keys.Host("n1")), clientv3.PermissionType(clientv3.PermRead)))
	ok(admin.RoleGrantPermission(ctx, "node:n1", keys.Active("r1"), "", clientv3.PermissionType(clientv3.PermReadWrite)))
	ok(admin.RoleGrantPermission(ctx, "node:n1", keys.Active("r2"), "", clientv3.PermissionType(clientv3.PermRead)))
	ok(admin.AuthEnable(ctx))
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Username: "node:n1", Password: "pw", Logger: zap.NewNop()})
	ok(client, err)
	defer client.Close()

	k := keeperAgent(t).takeover.keeper
	k.store = store.New(client)
	var claims []ha.Claim
	for _, router := range []string{"r1", "r2"} {
		claims = append(claims, ha.Claim{Router: router, To: "n1", From: "n2", Epoch: 1, Revision: revision, Cause: ha.Lost})
	}
	k.commit(claims)
	for router, want := range map[string]string{"r1": "n1", "r2": "n2"} {
		got, err := client.Get(ctx, keys.Active(router))
		ok(got, err)
		active := &storev1.ActiveRouter{}
		ok(nil, proto.Unmarshal(got.Kvs[0].Value, active))
		if active.GetNode() != want {
			t.Errorf("%s is active on %s, want %s", router, active.GetNode(), want)
		}
	}
}

// A node that still forwards for what another has taken over has to stop at once.
func TestOnlyAMoveThatNobodyWaitsForIsGatheredAtLeisure(t *testing.T) {
	for name, c := range map[string]struct {
		holder                  string
		forwards, silent, muted bool
		compute                 bool
		want                    time.Duration
	}{
		"it comes to this node":                   {holder: "n1", want: gatherMoment},
		"it moves between others":                 {holder: "n2", want: gatherLeisure},
		"it leaves, and this node still forwards": {holder: "n2", forwards: true, want: gatherMoment},
		"it leaves this node, which is silent":    {holder: "n2", forwards: true, silent: true, want: gatherLeisure},
		"it was handed over":                      {holder: "n2", forwards: true, muted: true, want: gatherLeisure},
		"this node holds no routers":              {holder: "n2", compute: true, want: gatherMoment},
	} {
		t.Run(name, func(t *testing.T) {
			a := keeperAgent(t)
			a.cfg.Roles = []string{RoleNetwork}
			if c.compute {
				a.cfg.Roles = nil
			}
			a.dirty.Actives["r"] = true
			a.view.Active["r"] = view.Active{Node: c.holder}
			if c.forwards {
				a.takeover.epochs["r"] = 1
			}
			a.takeover.keeper.silent.Store(c.silent)
			if c.muted {
				a.takeover.keeper.mutes.now["r"] = muted{}
			}
			if have := a.gatherFor(); have != c.want {
				t.Errorf("%v, want %v", have, c.want)
			}
		})
	}
}

// One end of a session has it up before the other: a peer that never heard this node does not count as heard.
func TestAPeerIsHeardFromWhenBothEndsSayThatItsSessionIsUp(t *testing.T) {
	k := keeperAgent(t).takeover.keeper
	k.world.Peers = map[string]ha.Peer{"n2": {Live: true}}
	k.ports = map[string]bool{}
	for _, step := range []struct {
		what        string
		live, both  bool
		heard, lost int
	}{
		{"the session is asked for", true, false, 0, 0},
		{"both ends have it up", true, true, 1, 0},
		{"OVSDB is late", false, true, 0, 1},
		{"this end has it up again", true, false, 0, 1},
		{"both ends have it up again", true, true, 1, 0},
		{"OVSDB is early", true, false, 1, 0},
		{"it has ended", false, false, 0, 1},
	} {
		k.ports["vx"] = step.live
		k.world.sessions = map[string]session{"n2": {"vx", step.both}}
		k.see(k.world)
		d := k.machine.Decide(time.Now())
		if len(d.Heard) != step.heard || len(d.Lost) != step.lost {
			t.Errorf("%s: heard %v, lost %v", step.what, d.Heard, d.Lost)
		}
	}
}
