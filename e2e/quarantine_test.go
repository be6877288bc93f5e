package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// bad is something in the store that the API would never write.
type bad struct {
	what string
	// entries are what is written, by key: a message, or bytes that are none.
	entries map[string]any
	// status is the key at which a node has to say what is wrong, in words that contain reason; "" where there is no object
	// that could have a status.
	status, reason string
	// plug is a port whose interface is on cmp1; "" for none.
	plug string
}

func (f *fleet) put(client *clientv3.Client, key string, value any) {
	f.t.Helper()
	text, ok := value.(string)
	if m, is := value.(proto.Message); is {
		b, err := proto.Marshal(m)
		f.must(err)
		text, ok = string(b), true
	}
	if !ok {
		f.t.Fatalf("%s: can't write a %T", key, value)
	}
	_, err := client.Put(f.t.Context(), key, text)
	f.must(err)
}

// report reads what a node says of an object.
func report(ctx context.Context, client *clientv3.Client, key string) (*storev1.Report, error) {
	out, err := client.Get(ctx, key)
	if err != nil || len(out.Kvs) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no report at %s", key))
	}
	r := &storev1.Report{}
	return r, proto.Unmarshal(out.Kvs[0].Value, r)
}

const garbage = "\xff\xfe this is no message"

// badThings are written all at once.
func badThings(n *weftv1.Network, s *weftv1.Subnet, r *weftv1.Router, a, outsider *weftv1.Port, segment uint32) []bad {
	id := func() string { return uuid.NewString() }
	bound := &storev1.PortBinding{NetworkId: n.GetId()}
	port := func(id string, change func(*weftv1.Port)) *weftv1.Port {
		p := &weftv1.Port{
			Id: id, NetworkId: n.GetId(), Project: "default", MacAddress: "fa:16:3e:ba:d0:01", Host: "cmp1", BoundHost: "cmp1",
			FixedIps: []*weftv1.FixedIp{{SubnetId: s.GetId(), IpAddress: "10.10.0.240"}},
		}
		change(p)
		return p
	}
	var out []bad
	add := func(what, status, reason string, entries map[string]any) {
		out = append(out, bad{what: what, entries: entries, status: status, reason: reason})
	}
	status := func(node, kind, id string) string { return keys.Status(node, kind, id) }

	g := id()
	add("a port that is no message", status("cmp1", keys.KindPort, g), "not a weft.v1.Port", map[string]any{
		keys.Port(n.GetId(), g): garbage, keys.HostObject("cmp1", keys.KindPort, g): bound,
	})
	mac := id()
	add("a port with a bad MAC", status("cmp1", keys.KindPort, mac), "mac_address", map[string]any{
		keys.Port(n.GetId(), mac): port(mac, func(p *weftv1.Port) { p.MacAddress = "no:mac" }), keys.HostObject("cmp1", keys.KindPort, mac): bound,
		keys.Locator(keys.KindPort, mac): &storev1.Locator{Scope: n.GetId()},
	})
	contradicting := id()
	add("a port whose key and content disagree", status("cmp1", keys.KindPort, contradicting), "its key says", map[string]any{
		keys.Port(n.GetId(), contradicting):                   port(id(), func(*weftv1.Port) {}),
		keys.HostObject("cmp1", keys.KindPort, contradicting): bound,
	})
	elsewhere := id() // plugged as well, so that the controllers have to decide upon it, together with others
	add("a port in another network's scope than it says, plugged", "", "", map[string]any{
		keys.Port(n.GetId(), elsewhere):                   port(elsewhere, func(p *weftv1.Port) { p.NetworkId = id() }),
		keys.HostObject("cmp1", keys.KindPort, elsewhere): bound, keys.Locator(keys.KindPort, elsewhere): &storev1.Locator{Scope: n.GetId()},
		keys.Plug("cmp9", elsewhere): &storev1.Plug{Interface: "tap0"},
	})
	double := id()
	add("a second port with a's MAC", status("cmp1", keys.KindPort, double), "holds the place", map[string]any{
		keys.Port(n.GetId(), double): port(double, func(p *weftv1.Port) {
			p.MacAddress = a.GetMacAddress()
		}), keys.HostObject("cmp1", keys.KindPort, double): bound,
	})
	out[len(out)-1].plug = double
	add("a port bound to a node with a network that is missing", "", "", map[string]any{
		keys.HostObject("cmp1", keys.KindPort, id()): &storev1.PortBinding{NetworkId: id()},
		keys.HostObject("cmp1", keys.KindPort, id()): garbage,
	})
	add("a subnet with a bad CIDR", status("net1", keys.KindDHCP, n.GetId()), "cidr", map[string]any{
		keys.Subnet(n.GetId(), id()): &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.10.0.0/99"},
	})
	stray := id()
	add("a router on networks that are missing", status("net1", keys.KindRouter, stray), "does not exist", map[string]any{
		keys.Router(stray): &weftv1.Router{
			Id: stray, Project: "default", Placement: &weftv1.Placement{Nodes: []string{"net1"}},
			Interfaces:      []*weftv1.RouterInterface{{PortId: id(), NetworkId: id(), SubnetId: id(), IpAddress: "10.0.0.1"}},
			ExternalGateway: &weftv1.ExternalGateway{NetworkId: id(), PortId: id()},
		},
		keys.HostObject("net1", keys.KindRouter, stray): &storev1.RouterBinding{}, keys.Active(stray): &storev1.ActiveRouter{Node: "net1", Epoch: 1},
	})
	broken := id()
	add("a router that is no message", status("net1", keys.KindRouter, broken), "not a weft.v1.Router", map[string]any{
		keys.Router(broken): garbage, keys.HostObject("net1", keys.KindRouter, broken): &storev1.RouterBinding{},
		keys.Active(broken): &storev1.ActiveRouter{Node: "net1", Epoch: 1},
	})
	nowhere := id()
	add("a floating IP for an address that no interface reaches", status("net1", keys.KindFloatingIP, nowhere), "172.30.0.9", map[string]any{
		keys.FloatingIP(r.GetId(), nowhere): &weftv1.FloatingIp{
			Id: nowhere, Project: "default", NetworkId: r.GetExternalGateway().GetNetworkId(), IpAddress: "203.0.113.240",
			PortId: outsider.GetId(), FixedIpAddress: "172.30.0.9", RouterId: r.GetId(),
		},
	})
	noFIP := id()
	add("a floating IP with a bad address", status("net1", keys.KindFloatingIP, noFIP), "ip_address", map[string]any{
		keys.FloatingIP(r.GetId(), noFIP): &weftv1.FloatingIp{
			Id: noFIP, Project: "default", NetworkId: r.GetExternalGateway().GetNetworkId(), IpAddress: "-j DROP",
			PortId: outsider.GetId(), FixedIpAddress: "10.10.0.9", RouterId: r.GetId(),
		},
	})
	twin, twinPort := id(), id()
	add("a network with the segment of another", status("cmp1", keys.KindPort, twinPort), "holds the place", map[string]any{
		keys.Network(twin): &weftv1.Network{Id: twin, Project: "default", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN, SegmentationId: segment, Mtu: 1450, DnsDomain: "weft.internal"},
		keys.Port(twin, twinPort): &weftv1.Port{
			Id: twinPort, NetworkId: twin, Project: "default", MacAddress: "fa:16:3e:ba:d0:07", BoundHost: "cmp1",
			DeviceOwner: "network:dhcp", DeviceId: twin,
		},
		keys.HostObject("cmp1", keys.KindPort, twinPort): &storev1.PortBinding{NetworkId: twin},
	})
	add("DHCP for a network that is missing, and one that is garbage", "", "", map[string]any{
		keys.HostObject("net1", keys.KindDHCP, id()): &storev1.DhcpBinding{PortId: id()},
		keys.HostObject("net1", keys.KindDHCP, id()): garbage,
	})
	add("an agent that is garbage, and one without an address", "", "", map[string]any{
		keys.Agent("cmp9"): garbage, keys.Agent("cmp8"): &storev1.Agent{TunnelIp: "nowhere"},
	})
	group := secgroup.DefaultID("default")
	add("security groups, rules, members and address groups that are no message, or say what can't be", "", "", map[string]any{
		keys.SecurityGroup(id()): garbage, keys.AddressGroup(id()): garbage, keys.Rule(id(), id()): garbage, keys.Member(id(), id()): garbage,
		keys.Member(group, id()): garbage, keys.Member(group, a.GetId()+"x"): garbage, keys.Instance(id()): garbage,
		keys.Member(group, id()): &storev1.Member{NetworkId: n.GetId(), Addresses: []string{"no address", "0.0.0.0/0 -j ACCEPT"}},
	})
	add("keys of no known form", "", "", map[string]any{
		keys.Host("cmp1") + "port/no-uuid": garbage, keys.Host("cmp1") + "wrong/kind/x": garbage, keys.Ports(n.GetId()) + "a/b/c": garbage,
		keys.Host("net1"): garbage, keys.Root + "nothing/of/weft": garbage,
	})
	return out
}

func TestWhatCannotBeProgrammedIsQuarantinedAndStopsNothingElse(t *testing.T) {
	f := newFleet(t, "e2e-quarantine", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	r := f.router("r", ext1, s)
	fip, floating := f.floatingIP(ext1, a)
	ext := f.external("ext1")
	f.reach(ext.Space, floating)
	f.portState(a.port, weftv1.State_STATE_ACTIVE, "")
	running := []*pinging{f.ping(a.Space, b.ip), f.ping(b.Space, outside1), f.ping(ext.Space, floating)}
	agents := f.agents()

	client := f.etcd()
	things := badThings(n, s, r, a.port, b.port, n.GetSegmentationId())
	for _, thing := range things {
		for key, value := range thing.entries {
			f.put(client, key, value)
		}
		if thing.plug != "" {
			f.sh(f.host("cmp1").Space, "ovs-vsctl add-port br-int double -- set Interface double type=internal external_ids:iface-id="+thing.plug)
		}
	}
	for _, thing := range things {
		if thing.status == "" {
			continue
		}
		t.Run(thing.what, func(t *testing.T) {
			f.in(t).eventually("its status says what is wrong", func(ctx context.Context) error {
				r, err := report(ctx, client, thing.status)
				if err == nil && (r.GetState() != weftv1.State_STATE_ERROR || !strings.Contains(r.GetMessage(), thing.reason)) {
					err = fmt.Errorf("it says %s %q, want ERROR with %q", r.GetState(), r.GetMessage(), thing.reason)
				}
				return err
			})
		})
	}
	// What can be read is shown by the API with its error, and lists leave out the rest.
	for key := range things[1].entries {
		if k, err := keys.Parse(key); err == nil && k.Family == keys.FamilyPort {
			f.portState(&weftv1.Port{Id: k.ID(), Name: "with a bad MAC"}, weftv1.State_STATE_ERROR, "mac_address")
		}
	}
	ports, err := f.ports.ListPorts(t.Context(), &weftv1.ListPortsRequest{})
	f.must(err)
	if len(ports.GetPorts()) < 2 {
		t.Errorf("the list has %d ports", len(ports.GetPorts()))
	}

	// What was there before it became unreadable stays in force.
	key := keys.Port(n.GetId(), b.port.GetId())
	stored, err := client.Get(t.Context(), key)
	f.must(err)
	f.put(client, key, garbage)
	f.eventually("b's port is quarantined", func(ctx context.Context) error {
		r, err := report(ctx, client, keys.Status("cmp2", keys.KindPort, b.port.GetId()))
		if err == nil && (r.GetState() != weftv1.State_STATE_ERROR || !strings.Contains(r.GetMessage(), "quarantined")) {
			err = fmt.Errorf("it says %s %q", r.GetState(), r.GetMessage())
		}
		return err
	})
	f.reach(a.Space, b.ip)
	f.put(client, key, string(stored.Kvs[0].Value))
	f.portState(b.port, weftv1.State_STATE_ACTIVE, "")

	// Everything else goes on, the new as well as the old, on the same nodes and in the same network.
	c := f.guest("c", "cmp1", n)
	f.reach(c.Space, b.ip)
	m, ms := f.vxlan("m", "10.20.0.0/24")
	d := f.guest("d", "cmp1", m)
	f.attach(r, ms)
	f.reach(d.Space, outside1)
	f.reach(d.Space, c.ip)
	_, second := f.floatingIP(ext1, d)
	f.reach(ext.Space, second)
	f.portState(c.port, weftv1.State_STATE_ACTIVE, "")
	f.floatingState(fip, weftv1.State_STATE_ACTIVE, "")

	for _, thing := range things {
		for key := range thing.entries {
			_, err := client.Delete(t.Context(), key)
			f.must(err)
		}
	}
	f.sh(f.host("cmp1").Space, "ovs-vsctl del-port double")
	f.networkState(n, weftv1.State_STATE_ACTIVE, "")
	for _, thing := range things {
		f.eventually("nothing is left of "+thing.what, func(ctx context.Context) error {
			if r, err := report(ctx, client, thing.status); err == nil && r.GetState() == weftv1.State_STATE_ERROR {
				return fmt.Errorf("there still is a report: %q", r.GetMessage())
			}
			return nil
		})
	}
	f.eventually("the nodes have no bridge port, namespace or address of what has gone", f.onlyReal("net1", "cmp1"))
	for _, p := range running {
		p.steady() // the second port with a's MAC makes a link
	}
	if now := f.agents(); !maps.Equal(agents, now) {
		t.Errorf("agents have restarted: %v, now %v", agents, now)
	}
}

func (f *fleet) networkState(n *weftv1.Network, want weftv1.State, message string) {
	f.t.Helper()
	f.stateOf("network "+n.GetName(), want, message, func(ctx context.Context) (*weftv1.ObjectStatus, error) {
		n, err := f.networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: n.GetId()})
		return n.GetStatus(), err
	})
}

// onlyReal wants each of weft's ports and namespaces on the nodes to be of an object that the API knows.
func (f *fleet) onlyReal(nodes ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		known := map[string]bool{}
		ports, err := f.ports.ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		for _, p := range ports.GetPorts() {
			known[p.GetId()[:11]] = true
		}
		var wrong []error
		for _, node := range nodes {
			out, err := f.host(node).Exec(ctx, "sh", "-ec", "ovs-vsctl list-ports br-int; ip netns list | cut -d' ' -f1")
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				line = strings.TrimSpace(line)
				if rest, ok := strings.CutPrefix(line, "tap"); ok && !known[rest] {
					wrong = append(wrong, fmt.Errorf("%s has %s", node, line))
				}
				if strings.HasPrefix(line, "qr-") && !known[line[3:]] || strings.HasPrefix(line, "qg-") && !known[line[3:]] {
					wrong = append(wrong, fmt.Errorf("%s has %s", node, line))
				}
				if id, ok := strings.CutPrefix(line, "qrouter-"); ok {
					_, err := f.routers.GetRouter(ctx, &weftv1.GetRouterRequest{Id: id})
					wrong = append(wrong, err)
				}
				if id, ok := strings.CutPrefix(line, "qdhcp-"); ok {
					_, err := f.networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: id})
					wrong = append(wrong, err)
				}
			}
		}
		return errors.Join(wrong...)
	}
}

// agents are the agents' pids by node.
func (f *fleet) agents() map[string]int {
	f.t.Helper()
	hosts, err := f.Hosts()
	f.must(err)
	out := map[string]int{}
	for _, h := range hosts {
		if !h.Node() {
			continue
		}
		running, err := f.host(h.Name).Processes(lab.AgentDaemon)
		f.must(err)
		for _, p := range running {
			out[h.Name] = p.PID
		}
	}
	return out
}

// TestWhatCannotBeReadIsNotTakenDown holds promise I2 for what has been built: an agent that starts and can't read a router, a
// DHCP server's port or a subnet keeps what it finds of them on the host, and takes them up when they can be read again.
func TestWhatCannotBeReadIsNotTakenDown(t *testing.T) {
	f := newFleet(t, "e2e-unreadable", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a := f.guest("a", "cmp1", n)
	r := f.router("r", ext1, s)
	_, floating := f.floatingIP(ext1, a)
	ext := f.external("ext1")
	f.reach(ext.Space, floating)
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	pid, err := f.dnsmasq("net1")
	f.must(err)
	ports, err := f.ports.ListPorts(t.Context(), &weftv1.ListPortsRequest{Filter: `device_owner = "network:dhcp"`})
	f.must(err)
	if len(ports.GetPorts()) != 1 {
		t.Fatalf("%d DHCP ports", len(ports.GetPorts()))
	}

	client := f.etcd()
	stored := map[string]string{}
	for _, key := range []string{keys.Router(r.GetId()), keys.Subnet(n.GetId(), s.GetId()), keys.Port(n.GetId(), ports.GetPorts()[0].GetId())} {
		out, err := client.Get(t.Context(), key)
		f.must(err)
		stored[key] = string(out.Kvs[0].Value)
	}
	running := f.ping(ext.Space, floating)
	for key := range stored {
		f.put(client, key, garbage)
	}
	f.must(f.host("net1").Kill(t.Context(), lab.AgentDaemon))
	f.must(f.host("net1").Start(t.Context(), lab.AgentDaemon))
	f.eventually("the restarted agent says what is wrong", func(ctx context.Context) error {
		now, err := report(ctx, client, keys.Status("net1", keys.KindRouter, r.GetId()))
		if err == nil && (now.GetState() != weftv1.State_STATE_ERROR || !strings.Contains(now.GetMessage(), "quarantined")) {
			err = fmt.Errorf("it says %s %q", now.GetState(), now.GetMessage())
		}
		return err
	})
	f.pause(time.Second) // whatever it wants to take down, it would have by now
	f.sameServer("net1", pid, "while the DHCP server's port can't be read")
	for key, value := range stored {
		f.put(client, key, value)
	}
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	f.networkState(n, weftv1.State_STATE_ACTIVE, "")
	f.sameServer("net1", pid, "after repair")
	running.steady()
	b := f.guest("b", "cmp2", n)
	f.reach(b.Space, outside1)
}
