package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const (
	testRouter     = "d0000001-0000-4000-8000-000000000001"
	testRouterPort = "c0000002-0000-4000-8000-000000000002"
	testSubnet     = "b0000001-0000-4000-8000-000000000001"
)

// newNetworkNode is a site whose node n1 holds routers, for a pool of n1 and n2. What its agents built is taken off in the
// end.
func newNetworkNode(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.cfg.Roles = []string{RoleNetwork}
	s.ovs.AddBridge("br-tenant")
	t.Cleanup(func() {
		if err := Cleanup(context.Background(), s.cfg, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Error(err)
		}
	})
	return s
}

// read reads one key into m; false when there is no such key.
func (s *site) read(key string, m proto.Message) bool {
	s.Helper()
	snap, err := s.store.Read(s.Context(), store.Key(key))
	if err != nil {
		s.Fatal(err)
	}
	if len(snap.Results[0].Entries) == 0 {
		return false
	}
	if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, m); err != nil {
		s.Fatal(err)
	}
	return true
}

// routed puts a router with one interface into the store, planned for n1 and n2; holder forwards.
func (s *site) routed(holder string) {
	s.Helper()
	s.wired()
	gateway := "10.9.0.1"
	s.put(keys.Subnet(testNetwork, testSubnet), &weftv1.Subnet{Id: testSubnet, Project: "default", NetworkId: testNetwork, Cidr: "10.9.0.0/24", GatewayIp: &gateway})
	s.put(keys.Port(testNetwork, testRouterPort), &weftv1.Port{
		Id: testRouterPort, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:02",
		FixedIps:    []*weftv1.FixedIp{{SubnetId: testSubnet, IpAddress: gateway}},
		DeviceOwner: "network:router_interface", DeviceId: testRouter,
	})
	s.put(keys.Router(testRouter), &weftv1.Router{
		Id: testRouter, Name: "r", Project: "default",
		Interfaces: []*weftv1.RouterInterface{{PortId: testRouterPort, NetworkId: testNetwork, SubnetId: testSubnet, IpAddress: gateway}},
	})
	s.put(keys.HostObject("n1", keys.KindRouter, testRouter), &storev1.RouterBinding{Nodes: []string{"n2", "n1"}, Rank: 1})
	s.put(keys.HostObject("n2", keys.KindRouter, testRouter), &storev1.RouterBinding{Nodes: []string{"n2", "n1"}})
	s.put(keys.Active(testRouter), &storev1.ActiveRouter{Node: holder, Epoch: 1})
}

func TestAHolderThatIsToldToHandsOver(t *testing.T) {
	s := newNetworkNode(t)
	s.routed("n1")
	s.put(keys.Agent("n2"), &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK}})
	s.put(keys.Live("n2"), &storev1.Agent{})
	s.run()
	s.put(keys.HostObject("n1", keys.KindRouter, testRouter), &storev1.RouterBinding{Nodes: []string{"n2", "n1"}, Rank: 1, HandOver: "n2"})
	s.eventually("n2 is the holder", func() string {
		a := &storev1.ActiveRouter{}
		if !s.read(keys.Active(testRouter), a) || a.GetNode() != "n2" || a.GetEpoch() != 2 || a.GetReason() == "" {
			return fmt.Sprintf("it says %q", a)
		}
		return ""
	})
	s.eventually("the namespace, which was muted for a while, forwards again", func() string {
		forward, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", plan.RouterNamespace(testRouter), "sysctl", "-n", "net.ipv4.ip_forward").CombinedOutput()
		if err != nil || strings.TrimSpace(string(forward)) != "1" {
			return fmt.Sprintf("%s, %v", forward, err)
		}
		return ""
	})
}

func TestANodeProvesItsUplinksAndGivesItsRoutersAwayWithoutThem(t *testing.T) {
	s := newNetworkNode(t)
	proven := []*weftv1.Uplink{{PhysicalNetwork: "tenant", Bridge: "br-tenant", Proven: true}}
	s.put(keys.Agent("n2"), &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK}, Uplinks: proven})
	s.put(keys.Live("n2"), &storev1.Agent{})
	uplink := func(want bool, reason string) {
		t.Helper()
		s.eventually(fmt.Sprintf("proven is %v: %q", want, reason), func() string {
			a := &storev1.Agent{}
			if !s.read(keys.Agent("n1"), a) || len(a.GetUplinks()) != 1 || a.GetUplinks()[0].GetProven() != want || !strings.Contains(a.GetUplinks()[0].GetReason(), reason) {
				return fmt.Sprintf("it says %q", a)
			}
			return ""
		})
	}
	s.run()
	uplink(false, "no physical port")
	s.ovs.Run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1-far")
	s.ovs.Run("ip", "link", "set", "eth1-far", "up")
	s.ovs.Run("ip", "link", "set", "eth1", "up")
	s.ovs.Vsctl("add-port", "br-tenant", "eth1")
	uplink(true, "")
	s.routed("n1")
	s.ovs.Run("ip", "link", "set", "eth1-far", "down")
	uplink(false, "the link of eth1 on bridge br-tenant is down")
	s.eventually("n2 is the holder", func() string {
		a := &storev1.ActiveRouter{}
		if !s.read(keys.Active(testRouter), a) || a.GetNode() != "n2" {
			return fmt.Sprintf("it says %q", a)
		}
		return ""
	})
}

// reports returns all that has been reported of the router, in order.
func (s *site) reports() []*storev1.Report {
	s.Helper()
	key := keys.Status("n1", keys.KindRouter, testRouter)
	now, err := s.store.Client().Get(s.Context(), key)
	if err != nil {
		s.Fatal(err)
	}
	if len(now.Kvs) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var out []*storev1.Report
	for answer := range s.store.Client().Watch(ctx, key, clientv3.WithRev(1)) {
		for _, e := range answer.Events {
			r := &storev1.Report{}
			if err := proto.Unmarshal(e.Kv.Value, r); err != nil {
				s.Fatal(err)
			}
			out = append(out, r)
			if e.Kv.ModRevision >= now.Kvs[0].ModRevision {
				return out
			}
		}
	}
	s.Fatal("the watch has ended")
	return nil
}

// Each of a router's ports comes by the watch of its network, the router by its own.
func TestARouterThatComesBeforeItsPortIsNotInError(t *testing.T) {
	s := newNetworkNode(t)
	s.routed("n1")
	port := &weftv1.Port{}
	s.read(keys.Port(testNetwork, testRouterPort), port)
	s.remove(keys.Port(testNetwork, testRouterPort))
	s.run()
	s.eventually("the router's namespace is there", func() string {
		if _, err := os.Stat(filepath.Join("/run/netns", plan.RouterNamespace(testRouter))); err != nil {
			return err.Error()
		}
		return ""
	})
	s.put(keys.Port(testNetwork, testRouterPort), port)
	latest := func(what, says string) {
		t.Helper()
		s.eventually(what, func() string {
			if all := s.reports(); len(all) == 0 || !strings.Contains(all[len(all)-1].GetMessage(), says) {
				return fmt.Sprint(all)
			}
			return ""
		})
	}
	latest("the router waits for Open vSwitch, which is in another namespace here", "OVS has not taken the device")
	for _, r := range s.reports() {
		if strings.Contains(r.GetMessage(), testRouterPort) {
			t.Errorf("the report was made meanwhile: %s", r)
		}
	}
	s.remove(keys.Port(testNetwork, testRouterPort))
	latest("the router lacks its port", testRouterPort)
}

// remove takes a key out of the store.
func (s *site) remove(key string) {
	s.Helper()
	var t txn.Txn
	t.Delete(key)
	if _, err := s.store.Commit(s.Context(), &t, 0); err != nil {
		s.Fatal(err)
	}
}
