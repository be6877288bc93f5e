package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/ovs/ovstest"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// site is a node n1 with a real Open vSwitch and a real store, on which an agent can be run.
type site struct {
	*testing.T
	ovs   *ovstest.OVS
	etcd  *storetest.Server
	store *store.Store
	cfg   Config

	metrics     *prometheus.Registry
	auditPeriod time.Duration
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, ovs: ovstest.Start(t), etcd: storetest.Start(t)}
	s.store = s.etcd.Store()
	s.etcd.Prepare()
	s.cfg = Config{
		Node: "n1", Insecure: true, Etcd: []string{s.etcd.Endpoint()}, TunnelIP: "127.0.0.1", DatapathType: "netdev",
		BridgeMappings: map[string]string{"tenant": "br-tenant"}, StateDir: t.TempDir(),
		OVSDB: s.ovs.Endpoint(), OVSRunDir: s.ovs.Dir(),
	}
	s.cfg.Metadata.Disabled = true // the proxy's program is not built for these tests
	s.cfg.Defaults()
	if err := os.Chmod(filepath.Dir(s.cfg.StateDir), 0o755); err != nil { // dnsmasq has to get through
		t.Fatal(err)
	}
	return s
}

// run runs an agent until the test ends or the function it returns is called.
func (s *site) run() (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	s.metrics = prometheus.NewRegistry()
	metrics := s.metrics
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Config: s.cfg, Version: "test", Log: slog.New(slog.NewTextHandler(s.Output(), nil)), Metrics: metrics, auditPeriod: s.auditPeriod,
		})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	}
	s.Cleanup(stop)
	return stop
}

func (s *site) put(key string, m proto.Message) int64 {
	s.Helper()
	var t txn.Txn
	t.Put(key, m)
	rev, err := s.store.Commit(s.Context(), &t, 0)
	if err != nil {
		s.Fatal(err)
	}
	return rev
}

// eventually waits until a condition holds; what it says otherwise is shown.
func (s *site) eventually(what string, holds func() string) {
	s.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		problem := holds()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("waited in vain until %s: %s", what, problem)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// reported waits for a report on a port.
func (s *site) reported(port string, state weftv1.State, message string) {
	s.Helper()
	s.eventually(fmt.Sprintf("port %s is %s", port, state), func() string {
		snap, err := s.store.Read(s.Context(), store.Key(keys.Status("n1", keys.KindPort, port)))
		if err != nil || len(snap.Results[0].Entries) == 0 {
			return fmt.Sprintf("no report (%v)", err)
		}
		r := &storev1.Report{}
		if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, r); err != nil {
			return err.Error()
		}
		if r.GetState() != state || !strings.Contains(r.GetMessage(), message) {
			return r.String()
		}
		return ""
	})
}

const (
	testNetwork = "a0000001-0000-4000-8000-000000000001"
	testPort    = "c0000001-0000-4000-8000-000000000001"
)

// wired puts a VLAN network with one port on n1 into the store.
func (s *site) wired() {
	s.Helper()
	s.put(keys.Network(testNetwork), &weftv1.Network{
		Id: testNetwork, Project: "default", Type: weftv1.NetworkType_NETWORK_TYPE_VLAN, PhysicalNetwork: "tenant",
		SegmentationId: 100, Mtu: 1500, DnsDomain: "weft.internal",
	})
	s.put(keys.Port(testNetwork, testPort), &weftv1.Port{
		Id: testPort, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:01", BoundHost: "n1",
	})
	s.put(keys.HostObject("n1", keys.KindPort, testPort), &storev1.PortBinding{NetworkId: testNetwork})
}

// plug adds an interface to br-int as a hypervisor does.
func (s *site) plug(name, port string) {
	s.Helper()
	s.eventually("br-int is there", func() string {
		out, err := s.ovs.Try("ovs-vsctl", "add-port", "br-int", name, "--", "set", "Interface", name, "type=internal", "external_ids:iface-id="+port)
		if err != nil {
			return fmt.Sprint(out, err)
		}
		return ""
	})
}

// flows waits until a bridge has a flow that contains a text.
func (s *site) flow(bridge, text string) {
	s.Helper()
	s.eventually("a flow on "+bridge+" has "+text, func() string {
		out, err := s.ovs.Try("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", bridge)
		if err != nil || !strings.Contains(out, text) {
			return fmt.Sprint(out, err)
		}
		return ""
	})
}

func TestAPortOfWeftThatSomebodyDeletesIsMadeAgain(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	for what, do := range map[string][]string{
		"the patch port":      {"del-port", "int-br-tenant"},
		"both patch ports":    {"del-port", "int-br-tenant", "--", "del-port", "phy-br-tenant"},
		"br-tun":              {"del-br", "br-tun"},
		"the provider bridge": {"del-br", "br-tenant", "--", "add-br", "br-tenant", "--", "set", "bridge", "br-tenant", "datapath_type=netdev"},
		"the patch's peer":    {"set", "Interface", "int-br-tenant", "options:peer=nowhere"},
	} {
		t.Log(what)
		s.ovs.Vsctl(do...)
		s.eventually(what+" is there again", func() string {
			out, err := s.ovs.Try("ovs-vsctl", "get", "Interface", "int-br-tenant", "options:peer", "--",
				"get", "Interface", "phy-br-tenant", "options:peer", "--", "get", "Interface", "patch-tun", "options:peer", "--",
				"get", "Interface", "patch-int", "options:peer")
			if got := strings.Join(strings.Fields(out), " "); err != nil || got != "phy-br-tenant int-br-tenant patch-int patch-tun" {
				return fmt.Sprint(out, err)
			}
			return ""
		})
		s.flow("br-tenant", "set_field:4196->vlan_vid")
	}
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
}

func TestAProviderBridgeThatAppearsLaterIsUsed(t *testing.T) {
	s := newSite(t)
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ERROR, "no bridge for physical network tenant")
	s.ovs.AddBridge("br-tenant")
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.flow("br-tenant", "set_field:4196->vlan_vid")
}

func TestAPortWithoutAWayOutIsNotActive(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.ovs.AddBridge("br-other")
	s.ovs.Vsctl("add-port", "br-other", "phy-br-tenant", "--", "set", "Interface", "phy-br-tenant", "type=internal") // a stranger's
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ERROR, "phy-br-tenant")
	s.ovs.Vsctl("del-port", "phy-br-tenant")
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
}

func TestAStrangersIntegrationBridgeIsNotTouched(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.ovs.AddBridge("br-int")
	s.wired()
	s.plug("vm1", testPort)
	before := s.ovs.Vsctl("list-ports", "br-int") + s.ovs.Ofctl("--no-stats", "dump-flows", "br-int") + s.ovs.Vsctl("get", "Port", "vm1", "tag")
	s.run()
	s.eventually("the node says what is wrong", func() string {
		snap, err := s.store.Read(s.Context(), store.Key(keys.Agent("n1")))
		if err != nil || len(snap.Results[0].Entries) == 0 {
			return fmt.Sprintf("no word of the agent (%v)", err)
		}
		a := &storev1.Agent{}
		if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, a); err != nil {
			return err.Error()
		}
		if !strings.Contains(fmt.Sprint(a.GetProblems()), "br-int") {
			return a.String()
		}
		return ""
	})
	s.reported(testPort, weftv1.State_STATE_ERROR, "br-int")
	if after := s.ovs.Vsctl("list-ports", "br-int") + s.ovs.Ofctl("--no-stats", "dump-flows", "br-int") + s.ovs.Vsctl("get", "Port", "vm1", "tag"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	s.ovs.Vsctl("set", "Bridge", "br-int", "external_ids:weft-owner=bridge:br-int") // handed over
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
}

func TestAnInterfaceThatGetsAnotherPortIsWiredForThatOne(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	const other = "c0000002-0000-4000-8000-000000000002"
	s.put(keys.Port(testNetwork, other), &weftv1.Port{
		Id: other, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:02", BoundHost: "n1",
	})
	s.put(keys.HostObject("n1", keys.KindPort, other), &storev1.PortBinding{NetworkId: testNetwork})
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	for _, id := range []string{other, testPort, other} {
		s.ovs.Vsctl("set", "Interface", "vm1", "external_ids:iface-id="+id)
		s.reported(id, weftv1.State_STATE_ACTIVE, "")
		s.flow("br-int", "dl_dst=fa:16:3e:00:00:0"+id[7:8])
		s.flow("br-int", "vlan_tci=0x0000/0x1fff actions=push_vlan")
		s.eventually("the interface is tagged", func() string {
			if out := s.ovs.Vsctl("get", "Port", "vm1", "tag"); strings.TrimSpace(out) != "1" {
				return out
			}
			return ""
		})
	}
}

func TestABridgeThatIsNoLongerMappedIsLeftClean(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.ovs.AddBridge("br-other")
	s.ovs.Vsctl("add-port", "br-tenant", "theirs", "--", "set", "Interface", "theirs", "type=internal", "--", "set", "Port", "theirs", "external_ids:a=b")
	look := func() string {
		return s.ovs.Vsctl("list-ports", "br-tenant") + s.ovs.Ofctl("--no-stats", "dump-flows", "br-tenant")
	}
	before := look()
	s.wired()
	stop := s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.flow("br-tenant", "set_field:4196->vlan_vid")
	stop()
	s.cfg.BridgeMappings = map[string]string{"tenant": "br-other"}
	s.run()
	s.flow("br-other", "set_field:4196->vlan_vid")
	s.eventually("br-tenant is as it was", func() string {
		if now := look(); now != before {
			return now
		}
		return ""
	})
}
