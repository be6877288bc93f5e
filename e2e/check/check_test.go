package check_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func TestMain(m *testing.M) {
	lab.BecomeHost()
	m.Run()
}

// patience is how long a node may take to come right.
const patience = 10 * time.Second

// scene is a lab with one of everything.
type scene struct {
	*fleet.Fleet
	t                 *testing.T
	network           string // tunnelled, with DHCP and a router
	vm                *weftv1.Port
	router            *weftv1.Router
	holder, bystander string // nodes: the router's, and another network node
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t}
	options := lab.Defaults()
	options.Name, options.ComputeNodes, options.Externals = "e2e-check", 1, 1
	bin, err := filepath.Abs("../../bin")
	s.must(err)
	options.Bin = bin
	l, err := lab.Up(t.Context(), options)
	s.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			if err := l.Dump(ctx, os.Stderr); err != nil {
				t.Log(err)
			}
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	s.Fleet, err = fleet.Open(l, 10*time.Second)
	s.must(err)
	t.Cleanup(func() { _ = s.Close() })
	s.populate()
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) populate() {
	s.t.Helper()
	ctx := s.t.Context()
	external, err := s.Network(ctx, &weftv1.Network{
		Name: "ext1", Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1", External: true,
	})
	s.must(err)
	_, err = s.Subnet(ctx, &weftv1.Subnet{NetworkId: external.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)})
	s.must(err)
	n, err := s.Network(ctx, &weftv1.Network{Name: "n"})
	s.must(err)
	sub, err := s.Subnet(ctx, &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.10.0.0/24"})
	s.must(err)
	s.network = n.GetId()
	s.vm, err = s.Port(ctx, &weftv1.Port{Name: "vm", NetworkId: n.GetId()})
	s.must(err)
	_, err = s.AddVM(ctx, lab.VMSpec{Name: "vm", Host: "cmp1", Port: lab.Port{ID: s.vm.GetId(), MAC: s.vm.GetMacAddress()}})
	s.must(err)
	s.router, err = s.Router(ctx, &weftv1.Router{Name: "r", Ha: 1}, external.GetId(), sub.GetId())
	s.must(err)
	_, err = s.FloatingIP(ctx, external.GetId(), s.vm.GetId())
	s.must(err)
	s.holder, s.bystander = s.router.GetPlacement().GetNodes()[0], "net1"
	if s.holder == "net1" {
		s.bystander = "net2"
	}
}

// clean waits until nothing is found.
func (s *scene) clean(t *testing.T) {
	t.Helper()
	found, err := check.Await(t.Context(), s.Lab, patience)
	if err != nil || len(found) > 0 {
		t.Fatalf("%v; found: %v", err, found)
	}
}

func (s *scene) sh(t *testing.T, node, script string) {
	t.Helper()
	h, err := s.Host(node)
	s.must(err)
	if out, err := h.Exec(t.Context(), "sh", "-ec", s.fill(script)); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// fill puts the scene's names into a script.
func (s *scene) fill(script string) string {
	return strings.NewReplacer(
		"NETWORK", s.network, "ROUTER", "qrouter-"+s.router.GetId(), "VM", s.vm.GetId(), "MAC", s.vm.GetMacAddress(), "IP", s.vm.GetFixedIps()[0].GetIpAddress(),
		"GATEWAY", "qg-"+s.router.GetExternalGateway().GetPortId()[:11], "LEG", "qr-"+s.router.GetInterfaces()[0].GetPortId()[:11],
	).Replace(script)
}

// plant is a fault planted on a host while its agent is held, and how it is taken away again.
type plant struct {
	name, at      string // at: "holder", "bystander" or a host
	script, undo  string
	promise, says string
}

func plants() []plant {
	const flows = "ovs-ofctl -O OpenFlow15 "
	return []plant{
		{
			"a namespace of nothing", "bystander", "ip netns add qrouter-00000000-0000-4000-8000-000000000000; touch /var/lib/weft/netns/qrouter-00000000-0000-4000-8000-000000000000",
			"ip netns del qrouter-00000000-0000-4000-8000-000000000000; rm -f /var/lib/weft/netns/qrouter-00000000-0000-4000-8000-000000000000", "I1", "namespace qrouter-00000000-0000-4000-8000-000000000000 is there",
		},
		{"a stranger's namespace is none of its business", "cmp1", "ip netns add qrouter-00000000-0000-4000-8000-000000000000", "ip netns del qrouter-00000000-0000-4000-8000-000000000000", "", ""},
		{"a flow deleted", "cmp1", flows + "del-flows br-int table=60,dl_dst=MAC", "", "I1", "dl_dst=MAC,network=NETWORK is missing"},
		{"a flow that sends elsewhere", "holder", flows + "mod-flows br-tun table=20,dl_dst=MAC,actions=drop", flows + "del-flows br-tun table=20,dl_dst=MAC", "I1", "it should do pop_vlan,tun_id="},
		{"a flow of nothing", "cmp1", flows + "add-flow br-int cookie=0x776501aaaaaaaaaa,table=60,priority=7,dl_dst=fa:16:3e:00:00:99,actions=drop", flows + "del-flows br-int cookie=0x776501aaaaaaaaaa/-1", "I1", "nothing calls for it"},
		{"a stranger's flow is none of its business", "cmp1", flows + "add-flow br-int cookie=0x1234,table=61,actions=drop", flows + "del-flows br-int cookie=0x1234/-1", "", ""},
		{
			"a second node that forwards", "bystander", `ip link add LEG type veth peer name LEGx; ovs-vsctl add-port br-int LEG
			n=$(ovs-vsctl get Interface LEG ofport)
			` + flows + `add-flow br-int cookie=0x776501aaaaaaaaaa,table=0,priority=100,in_port=$n,actions=goto_table:60`,
			flows + "del-flows br-int cookie=0x776501aaaaaaaaaa/-1; ovs-vsctl del-port LEG; ip link del LEG", "I4", "forwards here too",
		},
		{"a port with another tag", "holder", "ovs-vsctl set Port LEG tag=77", "", "I1", "with tag 77"},
		{"a VM's port with another tag", "cmp1", "ovs-vsctl set Port tap$(echo VM | cut -c1-11) tag=77", "", "I1", "has tag 77"},
		{
			"a local VLAN twice", "holder", `v=$(ovs-vsctl get Bridge br-int external_ids:weft-vlan-NETWORK)
			ovs-vsctl set Bridge br-int external_ids:weft-vlan-00000000-0000-4000-8000-000000000000="$v"`,
			"ovs-vsctl remove Bridge br-int external_ids weft-vlan-00000000-0000-4000-8000-000000000000", "I7", "local VLAN",
		},
		{"an OVS port of nothing", "cmp1", "ovs-vsctl add-port br-tun vxlan-01020304 -- set Port vxlan-01020304 external_ids:weft-owner=tunnel:x -- set Interface vxlan-01020304 type=vxlan options:remote_ip=1.2.3.4", "ovs-vsctl del-port vxlan-01020304", "I1", "port vxlan-01020304 of br-tun is there"},
		{"an address too many", "holder", "ip -n ROUTER address add 203.0.113.77/32 dev GATEWAY", "ip -n ROUTER address del 203.0.113.77/32 dev GATEWAY", "I1", "203.0.113.77/32 is there"},
		{"a route gone", "holder", "ip -n ROUTER route del default", "", "I1", "route default via 203.0.113.1"},
		{"a NAT rule gone", "holder", "ip netns exec ROUTER iptables -t nat -F weft-l3-agent-float-snat", "", "I1", "NAT rule IP leaves as"},
		{"a jump gone", "holder", "ip netns exec ROUTER iptables -t nat -D POSTROUTING -j weft-postrouting-bottom", "", "I1", "missing: -A POSTROUTING -j weft-postrouting-bottom"},
		{"forwarding off", "holder", "ip netns exec ROUTER sysctl -qw net.ipv4.ip_forward=0", "", "I1", "forwards false"},
		{"a DHCP client of nothing", "dhcp", "echo fa:16:3e:00:00:99,x,10.10.0.99 >>/var/lib/weft/dhcp/NETWORK/host", "", "I1", "client fa:16:3e:00:00:99 10.10.0.99 is there"},
		{"no DHCP server", "dhcp", "kill $(cat /var/lib/weft/dhcp/NETWORK/pid)", "", "I1", "dnsmasq of network NETWORK is missing"},
	}
}

// TestItFindsWhatIsPlanted plants faults while the node's agent is held, so that it repairs nothing meanwhile. Then the
// agent starts anew, which puts its own things right.
func TestItFindsWhatIsPlanted(t *testing.T) {
	s := newScene(t)
	s.clean(t)
	for _, p := range plants() {
		if !t.Run(p.name, func(t *testing.T) { s.plant(t, p) }) {
			return
		}
	}
	t.Run("in the store", s.inStore)
}

func (s *scene) node(t *testing.T, name string) string {
	t.Helper()
	switch name {
	case "holder":
		return s.holder
	case "bystander":
		return s.bystander
	case "dhcp":
		n, err := fleet.Do[*weftv1.Network](t.Context(), s.Fleet, &weftv1.GetNetworkRequest{Id: s.network})
		s.must(err)
		return n.GetDhcpPlacement().GetNodes()[0]
	default:
		return name
	}
}

func (s *scene) plant(t *testing.T, p plant) {
	node := s.node(t, p.at)
	h, err := s.Host(node)
	s.must(err)
	s.must(h.Kill(t.Context(), lab.AgentDaemon))
	s.sh(t, node, p.script)
	found, err := check.Run(t.Context(), s.Lab)
	s.must(err)
	if p.promise != "" && !has(found, p.promise, node, s.fill(p.says)) {
		t.Errorf("nothing like %s %s: … %s … in %v", p.promise, node, s.fill(p.says), found)
	}
	if p.promise == "" && len(found) > 0 && !has(found[:1], "I6", node, "not alive") {
		t.Errorf("found %v", found)
	}
	if p.undo != "" {
		s.sh(t, node, p.undo)
	}
	s.must(h.Start(t.Context(), lab.AgentDaemon))
	s.clean(t)
}

func has(found []check.Finding, promise, place, text string) bool {
	for _, f := range found {
		if string(f.Promise) == promise && f.Place == place && strings.Contains(f.Text, text) {
			return true
		}
	}
	return false
}

// inStore plants keys. What no controller would write is taken away again by hand.
func (s *scene) inStore(t *testing.T) {
	store, err := s.Etcd()
	s.must(err)
	defer store.Close()
	gone := "00000000-0000-4000-8000-000000000000"
	encoded := func(m proto.Message) string {
		b, err := proto.Marshal(m)
		s.must(err)
		return string(b)
	}
	for _, p := range []struct{ name, key, value, says string }{
		{"a claim of nothing", keys.MACClaim(s.network, "fa:16:3e:00:00:99"), encoded(&storev1.Claim{Kind: keys.KindPort, Id: gone}), "belongs to nothing"},
		{"a claim of another's", keys.MACClaim(s.network, s.vm.GetMacAddress()), encoded(&storev1.Claim{Kind: keys.KindPort, Id: gone}), "it should be"},
		{"a binding of nothing", keys.HostObject("cmp1", keys.KindRouter, gone), encoded(&storev1.RouterBinding{}), "belongs to nothing"},
		{"a report of nothing", keys.Status("cmp1", keys.KindPort, gone), encoded(&storev1.Report{State: weftv1.State_STATE_ACTIVE}), "the report belongs to nothing"},
		{"an active node of nothing", keys.Active(gone), encoded(&storev1.ActiveRouter{Node: "net1", Epoch: 1}), "belongs to nothing"},
		{"a key of no known shape", keys.Root + "strange/thing", "x", "no family"},
		{"no message", keys.Port(s.network, gone), "\xff\xff", "its value is no weft.v1.Port"},
	} {
		t.Run(p.name, func(t *testing.T) {
			before, err := store.Get(t.Context(), p.key)
			s.must(err)
			_, err = store.Put(t.Context(), p.key, p.value)
			s.must(err)
			found, err := check.Run(t.Context(), s.Lab)
			s.must(err)
			if !has(found, "I1", "etcd", p.says) {
				t.Errorf("nothing like %q in %v", p.says, found)
			}
			if len(before.Kvs) > 0 {
				_, err = store.Put(t.Context(), p.key, string(before.Kvs[0].Value))
			} else {
				_, err = store.Delete(t.Context(), p.key)
			}
			s.must(err)
			s.clean(t)
		})
	}
	t.Run("an object's locator gone", func(t *testing.T) {
		key := keys.Locator(keys.KindPort, s.vm.GetId())
		had, err := store.Delete(t.Context(), key, clientv3.WithPrevKV())
		s.must(err)
		found, err := check.Run(t.Context(), s.Lab)
		s.must(err)
		if !has(found, "I1", "etcd", key+" is missing") {
			t.Errorf("found %v", found)
		}
		_, err = store.Put(t.Context(), key, string(had.PrevKvs[0].Value))
		s.must(err)
		s.clean(t)
	})
}
