package ovs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, o *ovstest.OVS) *ovs.Client {
	t.Helper()
	c, err := ovs.Start(ovs.Options{Endpoint: o.Endpoint(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.WaitReady(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return c
}

func start(t testing.TB) (*ovstest.OVS, *ovs.Client) {
	t.Helper()
	o := ovstest.Start(t)
	return o, connect(t, o)
}

func ensure(t testing.TB, c *ovs.Client, ch ovs.Change) ovs.Result {
	t.Helper()
	res, err := c.Ensure(testContext(t), ch)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.Refused {
		t.Fatalf("refused: %v", r)
	}
	return res
}

// again says that a change is idempotent: ensuring it once more writes nothing.
func again(t testing.TB, c *ovs.Client, ch ovs.Change) {
	t.Helper()
	if res := ensure(t, c, ch); res.Operations != 0 {
		t.Errorf("ensuring the same again wrote %d operations", res.Operations)
	}
	d, err := c.Diff(ch)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Writes)+len(d.Refused) != 0 {
		t.Errorf("differences although nothing was written: %v", d)
	}
}

// refused ensures a change that must write nothing and refuse one object for the given reason.
func refused(t testing.TB, c *ovs.Client, ch ovs.Change, reason error, mentions string) {
	t.Helper()
	res, err := c.Ensure(testContext(t), ch)
	if err != nil {
		t.Fatal(err)
	}
	if res.Operations != 0 || len(res.Refused) != 1 {
		t.Fatalf("result %+v, want one refusal and no operation", res)
	}
	if got := res.Refused[0]; !errors.Is(got, reason) || !strings.Contains(got.Error(), mentions) {
		t.Errorf("refused with %q, want %q and mention of %q", got, reason, mentions)
	}
}

func waitFor(t testing.TB, c *ovs.Client, what string, holds func(*ovs.Snapshot) bool) *ovs.Snapshot {
	t.Helper()
	s, err := c.WaitFor(testContext(t), holds)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return s
}

func brInt() desired.Bridge { return desired.Bridge{Name: "br-int", DatapathType: "netdev"} }

func internal(name string, tag uint16) desired.Port {
	return desired.Port{
		Bridge: "br-int", Name: name, Type: desired.PortInternal, Tag: tag, MAC: "fa:16:3e:00:00:01",
		ExternalIDs: map[string]string{ovs.OwnerKey: "router:r1", ovs.IfaceIDKey: "port-" + name},
	}
}

func ports(n int) []desired.Port {
	var out []desired.Port
	for i := range n {
		p := internal(fmt.Sprintf("tap%d", i), uint16(i%10+1))
		p.MAC = fmt.Sprintf("fa:16:3e:00:%02x:%02x", i>>8, i&255)
		out = append(out, p)
	}
	return out
}

func numbered(names ...string) func(*ovs.Snapshot) bool {
	return func(s *ovs.Snapshot) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return s.Interfaces[n] == nil || s.Interfaces[n].OFPort == 0 })
	}
}

func TestBridgesAndPortsAreCreatedInOneTransactionAndAgainCostsNothing(t *testing.T) {
	o, c := start(t)
	ch := ovs.Change{
		Bridges: []desired.Bridge{brInt(), {Name: "br-tun", DatapathType: "netdev"}},
		Ports: []desired.Port{
			internal("qr-1", 7),
			{Bridge: "br-int", Name: "patch-tun", Type: desired.PortPatch, Options: map[string]string{"peer": "patch-int"}, ExternalIDs: map[string]string{ovs.OwnerKey: "tunnel:mesh"}},
			{Bridge: "br-tun", Name: "patch-int", Type: desired.PortPatch, Options: map[string]string{"peer": "patch-tun"}, ExternalIDs: map[string]string{ovs.OwnerKey: "tunnel:mesh"}},
			{Bridge: "br-tun", Name: "vxlan-0a000002", Type: desired.PortVXLAN, Options: map[string]string{"remote_ip": "10.0.0.2", "in_key": "flow", "out_key": "flow"}, ExternalIDs: map[string]string{ovs.OwnerKey: "tunnel:mesh"}},
			{Bridge: "br-tun", Name: "gre-0a000002", Type: desired.PortGRE, Options: map[string]string{"remote_ip": "10.0.0.2", "in_key": "flow", "out_key": "flow"}, ExternalIDs: map[string]string{ovs.OwnerKey: "tunnel:mesh"}},
		},
		BridgeIDs: []ovs.BridgeIDs{{Bridge: "br-int", Set: map[string]string{"weft-vlans": "a=1"}}},
		Wait:      true,
	}
	if res := ensure(t, c, ch); res.Operations == 0 {
		t.Error("nothing was written")
	}
	again(t, c, ch)
	s := c.Snapshot()
	if !numbered("qr-1", "patch-tun", "patch-int", "vxlan-0a000002", "gre-0a000002")(s) {
		t.Errorf("Wait returned before every port had its number:\n%s", o.Vsctl("show"))
	}
	b := s.Bridges["br-int"]
	if b.FailMode != "secure" || b.DatapathType != "netdev" || b.Owner() != "bridge:br-int" || b.ExternalIDs["weft-vlans"] != "a=1" ||
		!slices.Equal(b.Ports, []string{"br-int", "patch-tun", "qr-1"}) {
		t.Errorf("br-int: %+v", b)
	}
	p, i := s.Ports["qr-1"], s.Interfaces["qr-1"]
	if p.Bridge != "br-int" || p.Tag != 7 || p.Owner() != "router:r1" || i.Owner() != "router:r1" || i.IfaceID() != "port-qr-1" || i.Bridge != "br-int" {
		t.Errorf("qr-1: %+v, %+v", p, i)
	}
	// The device has its address by now, but the database tells it a little later.
	waitFor(t, c, "the MAC asked for", func(s *ovs.Snapshot) bool { return s.Interfaces["qr-1"].MACInUse == "fa:16:3e:00:00:01" })
}

func TestPortsAreBroughtToShape(t *testing.T) {
	_, c := start(t)
	tunnel := desired.Port{Bridge: "br-int", Name: "vx", Type: desired.PortVXLAN, Options: map[string]string{"remote_ip": "10.0.0.2"}, ExternalIDs: map[string]string{ovs.OwnerKey: "tunnel:a"}}
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: []desired.Port{internal("qr-1", 7), tunnel}})

	moved := internal("qr-1", 0)
	moved.MAC = "fa:16:3e:00:00:02"
	moved.ExternalIDs = map[string]string{ovs.OwnerKey: "router:r2", ovs.IfaceIDKey: "other"}
	tunnel.Options = map[string]string{"remote_ip": "10.0.0.3", "in_key": "flow"}
	tunnel.BFD = map[string]string{"enable": "true", "min_tx": "30", "min_rx": "30", "mult": "8"}
	ch := ovs.Change{Ports: []desired.Port{moved, tunnel}}
	ensure(t, c, ch)
	again(t, c, ch)
	s := c.Snapshot()
	if p, i := s.Ports["qr-1"], s.Interfaces["qr-1"]; p.Tag != 0 || p.Owner() != "router:r2" || i.Owner() != "router:r2" || i.IfaceID() != "other" || i.MAC != moved.MAC {
		t.Errorf("qr-1: %+v, %+v", p, i)
	}
	if diff := cmp.Diff(tunnel.Options, s.Interfaces["vx"].Options); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(tunnel.BFD, s.Interfaces["vx"].BFD); diff != "" || s.Interfaces["vx"].BFDUp {
		t.Error("a session with nobody:", s.Interfaces["vx"], diff)
	}
	tunnel.BFD = nil
	ensure(t, c, ovs.Change{Ports: []desired.Port{tunnel}})
	if left := c.Snapshot().Interfaces["vx"].BFD; len(left) != 0 {
		t.Error("the session is not taken off:", left)
	}
}

func TestAHundredPortsInOneTransaction(t *testing.T) {
	_, c := start(t)
	ch := ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: ports(100), Wait: true}
	ensure(t, c, ch)
	again(t, c, ch)
	var names []string
	for _, p := range ch.Ports {
		names = append(names, p.Name)
	}
	if !numbered(names...)(c.Snapshot()) {
		t.Error("ports without numbers")
	}
	gone := ovs.Change{DeletePorts: names, Wait: true}
	ensure(t, c, gone)
	again(t, c, gone)
	if n := len(c.Snapshot().Interfaces); n != 1 {
		t.Errorf("%d interfaces left, want br-int alone", n)
	}
}

func TestForeignPortGetsItsTagAndLosesItAgain(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}})
	o.Vsctl("add-port", "br-int", "vm1", "--", "set", "Interface", "vm1", "type=internal", "external_ids:iface-id=p1")
	waitFor(t, c, "vm1", numbered("vm1"))
	before := o.Vsctl("--columns=name,tag,external_ids,interfaces", "list", "Port", "vm1")

	tagged := ovs.Change{Ports: []desired.Port{{Bridge: "br-int", Name: "vm1", Type: desired.PortForeign, Tag: 12}}}
	ensure(t, c, tagged)
	again(t, c, tagged)
	if p := c.Snapshot().Ports["vm1"]; p.Tag != 12 || p.Owner() != "" {
		t.Errorf("vm1: %+v", p)
	}
	if got := c.Snapshot().ByIfaceID()["p1"]; len(got) != 1 || got[0].Name != "vm1" {
		t.Errorf("by iface-id: %v", got)
	}
	cleared := ovs.Change{ClearTags: []string{"vm1", "never-there"}}
	ensure(t, c, cleared)
	again(t, c, cleared)
	if after := o.Vsctl("--columns=name,tag,external_ids,interfaces", "list", "Port", "vm1"); after != before {
		t.Errorf("the port is not as it was:\n%s\nbut\n%s", before, after)
	}
}

func TestTagOfAStrangerIsNotCleared(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}})
	o.Vsctl("add-port", "br-int", "vm1", "tag=5", "--", "set", "Interface", "vm1", "type=internal")
	waitFor(t, c, "vm1", numbered("vm1"))
	again(t, c, ovs.Change{ClearTags: []string{"vm1"}})

	ensure(t, c, ovs.Change{Ports: []desired.Port{{Bridge: "br-int", Name: "vm1", Type: desired.PortForeign, Tag: 12}}})
	o.Vsctl("set", "Port", "vm1", "tag=33")
	waitFor(t, c, "tag 33", func(s *ovs.Snapshot) bool { return s.Ports["vm1"].Tag == 33 })
	ensure(t, c, ovs.Change{ClearTags: []string{"vm1"}})
	if p := c.Snapshot().Ports["vm1"]; p.Tag != 33 || p.ExternalIDs[ovs.TagKey] != "" {
		t.Errorf("vm1: %+v", p)
	}
}

func TestStrangersAreRefusedByNameAndTheRestIsDone(t *testing.T) {
	o, c := start(t)
	o.AddBridge("br-ex")
	o.Vsctl("add-port", "br-ex", "theirs", "--", "set", "Interface", "theirs", "type=internal")
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt(), {Name: "br-tun", DatapathType: "netdev"}}, Ports: []desired.Port{internal("qr-1", 1)}})
	waitFor(t, c, "theirs", numbered("theirs"))
	before := o.Vsctl("list", "Bridge", "br-ex") + o.Vsctl("--columns=name,tag,external_ids", "list", "Port", "theirs")

	theirs, elsewhere := internal("theirs", 1), internal("qr-1", 1)
	elsewhere.Bridge = "br-tun"
	unowned := internal("new", 1)
	unowned.ExternalIDs = nil
	nowhere := internal("new", 1)
	nowhere.Bridge = "br-none"
	refused(t, c, ovs.Change{Ports: []desired.Port{theirs}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{Ports: []desired.Port{elsewhere}}, ovs.ErrInvalid, "br-int")
	refused(t, c, ovs.Change{Ports: []desired.Port{unowned}}, ovs.ErrInvalid, ovs.OwnerKey)
	refused(t, c, ovs.Change{Ports: []desired.Port{nowhere}}, ovs.ErrNotFound, "br-none")
	refused(t, c, ovs.Change{Ports: []desired.Port{{Bridge: "br-int", Name: "vm9", Type: desired.PortForeign, Tag: 1}}}, ovs.ErrNotFound, "vm9")
	refused(t, c, ovs.Change{Ports: []desired.Port{{Bridge: "br-int", Name: "qr-1", Type: desired.PortForeign, Tag: 1}}}, ovs.ErrInvalid, "router:r1")
	refused(t, c, ovs.Change{DeletePorts: []string{"theirs"}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{DeletePorts: []string{"br-int"}}, ovs.ErrInvalid, "delete the bridge")
	refused(t, c, ovs.Change{DeleteBridges: []string{"br-ex"}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{Bridges: []desired.Bridge{{Name: "br-ex"}}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{Bridges: []desired.Bridge{{Name: "theirs"}}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{BridgeIDs: []ovs.BridgeIDs{{Bridge: "br-ex", Set: map[string]string{"weft-a": "b"}}}}, ovs.ErrNotOwned, "br-ex")
	refused(t, c, ovs.Change{BridgeIDs: []ovs.BridgeIDs{{Bridge: "br-int", Set: map[string]string{"theirs": "b"}}}}, ovs.ErrInvalid, "theirs")

	res, err := c.Ensure(testContext(t), ovs.Change{Ports: []desired.Port{internal("a", 1), theirs, internal("b", 2)}})
	if err != nil || len(res.Refused) != 1 || c.Snapshot().Ports["a"] == nil || c.Snapshot().Ports["b"] == nil {
		t.Errorf("one bad port among three: %+v, %v", res, err)
	}
	if after := o.Vsctl("list", "Bridge", "br-ex") + o.Vsctl("--columns=name,tag,external_ids", "list", "Port", "theirs"); after != before {
		t.Errorf("strangers changed: %s\n%s", before, after)
	}
}

// ovsdb-server drops the connection over a NUL byte; such text must never reach it.
func TestPoisonousTextIsRefusedAndTheRestIsDone(t *testing.T) {
	_, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}})
	nul, latin, name, twice := internal("nul", 1), internal("latin", 1), internal("a b", 1), internal("a", 2)
	nul.Options = map[string]string{"x": "a\x00b"}
	latin.ExternalIDs = map[string]string{ovs.OwnerKey: "router:\xff"}
	odd := internal("odd", 1)
	odd.ExternalIDs[ovs.IfaceIDKey] = "\"], \n\t\u2028 'x' \\"
	res, err := c.Ensure(testContext(t), ovs.Change{Ports: []desired.Port{internal("a", 1), nul, latin, name, twice, odd, internal("b", 1)}})
	if err != nil || len(res.Refused) != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, r := range res.Refused {
		if !errors.Is(r, ovs.ErrInvalid) {
			t.Error(r)
		}
	}
	s := c.Snapshot()
	if !s.Connected || s.Ports["a"].Tag != 1 || s.Ports["b"] == nil || s.Interfaces["odd"].IfaceID() != odd.ExternalIDs[ovs.IfaceIDKey] || len(s.Ports) != 4 {
		t.Errorf("ports: %v", s.Ports)
	}
}

func TestBridgeWithAStrangersPortIsNotDeleted(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: []desired.Port{internal("qr-1", 1)}})
	o.Vsctl("add-port", "br-int", "vm1", "--", "set", "Interface", "vm1", "type=internal")
	waitFor(t, c, "vm1", numbered("vm1"))
	refused(t, c, ovs.Change{DeleteBridges: []string{"br-int"}}, ovs.ErrNotOwned, "vm1")
	o.Vsctl("del-port", "vm1")
	waitFor(t, c, "vm1 gone", func(s *ovs.Snapshot) bool { return s.Ports["vm1"] == nil })
	ch := ovs.Change{DeleteBridges: []string{"br-int"}, DeletePorts: []string{"qr-1"}}
	ensure(t, c, ch)
	again(t, c, ch)
	if got := strings.TrimSpace(o.Vsctl("list-br") + o.Vsctl("--columns=name", "list", "Port")); got != "" {
		t.Errorf("left over: %s", got)
	}
}

func TestBridgeNotesAreSetAndDeletedBesideOthers(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}})
	o.Vsctl("br-set-external-id", "br-int", "theirs", "stays")
	waitFor(t, c, "theirs", func(s *ovs.Snapshot) bool { return s.Bridges["br-int"].ExternalIDs["theirs"] != "" })
	ensure(t, c, ovs.Change{BridgeIDs: []ovs.BridgeIDs{{Bridge: "br-int", Set: map[string]string{"weft-a": "1", "weft-b": "1"}}}})
	ch := ovs.Change{BridgeIDs: []ovs.BridgeIDs{{Bridge: "br-int", Set: map[string]string{"weft-a": "2"}, Delete: []string{"weft-b", "weft-c"}}}}
	ensure(t, c, ch)
	again(t, c, ch)
	want := map[string]string{"theirs": "stays", "weft-a": "2", ovs.OwnerKey: "bridge:br-int"}
	if diff := cmp.Diff(want, c.Snapshot().Bridges["br-int"].ExternalIDs); diff != "" {
		t.Error(diff)
	}
}

// take waits until a watch has told of every name given.
func take(t *testing.T, w *ovs.Watch, names ...string) {
	t.Helper()
	missing := map[string]bool{}
	for _, n := range names {
		missing[n] = true
	}
	for len(missing) > 0 {
		select {
		case <-w.Ready():
			for _, n := range w.Take().Interfaces {
				delete(missing, n)
			}
		case <-testContext(t).Done():
			t.Fatalf("no word of %v", missing)
		}
	}
}

func TestWatchNamesWhatChanged(t *testing.T) {
	o, c := start(t)
	o.AddBridge("br-ex")
	w := c.Watch()
	defer w.Close()
	<-w.Ready()
	if ch := w.Take(); !ch.Everything {
		t.Errorf("first take: %+v", ch)
	}
	waitFor(t, c, "br-ex", numbered("br-ex"))

	o.Vsctl("add-port", "br-ex", "vm1", "--", "set", "Interface", "vm1", "type=internal", "external_ids:iface-id=p1")
	take(t, w, "vm1")
	if c.Snapshot().Interfaces["vm1"].IfaceID() != "p1" {
		t.Error("the snapshot is behind the watch")
	}
	o.Vsctl("del-port", "vm1")
	waitFor(t, c, "vm1 gone", func(s *ovs.Snapshot) bool { return s.Interfaces["vm1"] == nil })
	take(t, w, "vm1")
}

func TestReconnectsAndSaysThatEverythingMayHaveChanged(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: ports(5), Wait: true})
	w := c.Watch()
	defer w.Close()
	for range 3 {
		w.Take()
		o.KillDB()
		s := waitFor(t, c, "disconnected", func(s *ovs.Snapshot) bool { return !s.Connected })
		if !s.Complete || len(s.Ports) != 6 {
			t.Errorf("the last view is gone: %+v", s)
		}
		if _, err := c.Ensure(testContext(t), ovs.Change{Ports: ports(6)}); !errors.Is(err, ovs.ErrDisconnected) {
			t.Errorf("Ensure without a connection: %v", err)
		}
		o.StartDB()
		waitFor(t, c, "connected", func(s *ovs.Snapshot) bool { return s.Connected })
		if ch := w.Take(); !ch.Everything {
			t.Errorf("after the reconnection: %+v", ch)
		}
		again(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: ports(5)})
	}
}

func TestStartsBeforeTheDatabaseIsThere(t *testing.T) {
	o := ovstest.Start(t)
	o.KillDB()
	c, err := ovs.Start(ovs.Options{Endpoint: o.Endpoint(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s := c.Snapshot(); s.Complete || s.Connected {
		t.Errorf("an empty view claims to be complete: %+v", s)
	}
	o.StartDB()
	if s := waitFor(t, c, "ready", func(s *ovs.Snapshot) bool { return s.Connected }); !s.Complete {
		t.Errorf("%+v", s)
	}
}

func TestEnsureDoesNotWaitForVswitchdUnlessAsked(t *testing.T) {
	o, c := start(t)
	ensure(t, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Wait: true})
	o.PauseVswitchd()
	ensure(t, c, ovs.Change{Ports: []desired.Port{internal("a", 1)}})
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Ensure(ctx, ovs.Change{Ports: []desired.Port{internal("b", 1)}, Wait: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a stopped ovs-vswitchd: %v", err)
	}
	o.ResumeVswitchd()
	waitFor(t, c, "numbers", numbered("a", "b"))
}

func TestConcurrentEnsuresOfTheSameChange(t *testing.T) {
	o, c := start(t)
	ch := ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: ports(10)}
	other := connect(t, o)
	errs := make(chan error, 8)
	for i := range 8 {
		go func() {
			client := []*ovs.Client{c, other}[i%2]
			res, err := client.Ensure(testContext(t), ch)
			for _, r := range res.Refused {
				err = errors.Join(err, r)
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	again(t, c, ch)
}

func BenchmarkEnsureOnePort(b *testing.B) {
	for _, present := range []int{0, 100} {
		b.Run(fmt.Sprintf("beside-%d", present), func(b *testing.B) { benchmarkOnePort(b, present) })
	}
}

// benchmarkOnePort measures until the port's number is known, and as ms-commit the part until the database has it.
func benchmarkOnePort(b *testing.B, present int) {
	_, c := start(b)
	ensure(b, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Ports: ports(present), Wait: true})
	var commit time.Duration
	p := internal("new", 1)
	for b.Loop() {
		began := time.Now()
		ensure(b, c, ovs.Change{Ports: []desired.Port{p}})
		commit += time.Since(began)
		waitFor(b, c, "its number", numbered("new"))
		b.StopTimer()
		ensure(b, c, ovs.Change{DeletePorts: []string{"new"}, Wait: true})
		b.StartTimer()
	}
	b.ReportMetric(float64(commit.Microseconds())/1000/float64(b.N), "ms-commit")
}

func BenchmarkEnsureHundredPortsUntilNumbered(b *testing.B) {
	_, c := start(b)
	all := ports(100)
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	ensure(b, c, ovs.Change{Bridges: []desired.Bridge{brInt()}, Wait: true})
	for b.Loop() {
		ensure(b, c, ovs.Change{Ports: all})
		waitFor(b, c, "numbers", numbered(names...))
		b.StopTimer()
		ensure(b, c, ovs.Change{DeletePorts: names, Wait: true})
		b.StartTimer()
	}
}
