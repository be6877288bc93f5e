package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The ids that another network agent would have given its namespaces.
const (
	strangerRouter  = "qrouter-7d2c5c1e-90ab-4f0e-9d33-5f4c0c0ffee0"
	strangerDHCP    = "qdhcp-1b9de2aa-41c7-4b0c-8d54-0123456789ab"
	strangerNetwork = "1b9de2aa-41c7-4b0c-8d54-0123456789ab"
)

// moveIn is what others have on a node before weft comes: another system's namespaces, bridges, flows, chains and daemons.
const moveIn = `
ovs-vsctl add-br br-own -- set Bridge br-own datapath_type=netdev fail_mode=secure external_ids:role=theirs
ovs-vsctl add-port br-own own0 -- set Interface own0 type=internal
ovs-ofctl add-flow br-own cookie=0xbeef,priority=7,in_port=own0,actions=NORMAL
ovs-vsctl add-br br-int -- set Bridge br-int datapath_type=netdev fail_mode=secure
ovs-vsctl add-port br-int str0 tag=7 -- set Interface str0 type=internal external_ids:iface-id=not-a-uuid
ovs-vsctl add-port br-int str1 -- set Interface str1 type=internal
ovs-ofctl add-flow br-int cookie=0xbeef,table=0,priority=5000,in_port=str0,dl_dst=02:00:00:00:00:01,actions=str1
ovs-ofctl add-flow br-int cookie=0,table=0,priority=5001,in_port=str1,dl_dst=02:00:00:00:00:02,actions=str0
ovs-ofctl add-flow br-int cookie=0xbeef,table=60,priority=2,dl_vlan=4000,actions=drop
ovs-ofctl add-flow br-tenant cookie=0xbeef,priority=50,dl_vlan=3333,actions=drop
ip netns add ` + strangerRouter + `
ip netns exec ` + strangerRouter + ` sh -ec '
  ip link set lo up; ip addr add 10.66.0.1/32 dev lo; ip route add blackhole 10.77.0.0/16
  iptables -t nat -N neutron-l3-agent-snat; iptables -t nat -A neutron-l3-agent-snat -s 10.66.0.0/24 -j SNAT --to-source 10.66.0.1
  iptables -t nat -N weft-l3-agent-snat; iptables -t nat -A weft-l3-agent-snat -s 10.67.0.0/24 -j ACCEPT
  iptables -t nat -A POSTROUTING -j neutron-l3-agent-snat'
ip netns add ` + strangerDHCP + `
ip netns exec ` + strangerDHCP + ` sh -ec 'ip link set lo up; ip addr add 10.68.0.2/32 dev lo'
mkdir -p /var/lib/neutron/dhcp/` + strangerNetwork + `
ip netns exec ` + strangerDHCP + ` dnsmasq --conf-file= --no-resolv --port=0 --interface=lo --bind-interfaces --dhcp-range=10.68.0.0,static \
  --pid-file=/var/lib/neutron/dhcp/` + strangerNetwork + `/pid
dnsmasq --conf-file= --no-resolv --port=5353 --listen-address=127.0.0.1 --bind-interfaces --pid-file=/run/stranger.pid
iptables -N their-chain; iptables -A their-chain -s 192.0.2.9 -j DROP; iptables -A INPUT -j their-chain
iptables -t nat -N weft-theirs; iptables -t nat -A weft-theirs -s 192.0.2.9 -j ACCEPT; iptables -t nat -A PREROUTING -j weft-theirs`

// belongings prints all of what moveIn made, in a form that is the same as long as it is untouched. dnsmasq shows its pid
// and start, a namespace its inode: made anew is not untouched.
const belongings = `
for p in own0 str0 str1; do ovs-vsctl --columns=_uuid,name,tag,external_ids list Port $p; ovs-vsctl --columns=_uuid,ofport,external_ids,type,mtu_request list Interface $p; done
ovs-vsctl list Bridge br-own
ovs-vsctl --columns=external_ids,other_config,fail_mode,protocols,datapath_type,controller list Bridge br-tenant
ovs-ofctl dump-flows --no-stats br-own
for b in br-int br-tenant; do ovs-ofctl -O OpenFlow15 dump-flows --no-stats $b cookie=0xbeef/-1; done
ovs-ofctl -O OpenFlow15 dump-flows --no-stats br-int cookie=0/-1,in_port=str1
for n in ` + strangerRouter + ` ` + strangerDHCP + `; do
  stat -L -c '%i' /run/netns/$n; ip -n $n -o addr; ip -n $n route show table all; ip netns exec $n iptables-save; ip netns exec $n sysctl net.ipv4.ip_forward net.ipv4.conf.all.arp_ignore
done
for f in /var/lib/neutron/dhcp/` + strangerNetwork + `/pid /run/stranger.pid; do cut -d' ' -f1,22 /proc/$(cat $f)/stat; done
iptables-save`

// untouched wants the strangers' things to be as they were.
func (f *fleet) untouched(host *lab.Host, before, when string) {
	f.t.Helper()
	if now := f.belongings(host); now != before {
		f.t.Errorf("%s, strangers' things have changed:\n%s", when, difference(before, now))
	}
}

var counters = regexp.MustCompile(`(?m)^#.*$|\[\d+:\d+\]`)

func (f *fleet) belongings(host *lab.Host) string {
	f.t.Helper()
	return counters.ReplaceAllString(f.sh(host.Space, belongings), "")
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	var out []string
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range was {
		if !slices.Contains(is, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out[:min(len(out), 40)], "\n")
}

var age = regexp.MustCompile(`duration=([0-9.]+s)`)

// older wants the strangers' flows on a bridge not to have been written again.
func (f *fleet) older(host *lab.Host, bridge string, than time.Duration) {
	f.t.Helper()
	for line := range strings.Lines(f.sh(host.Space, "ovs-ofctl -O OpenFlow15 dump-flows "+bridge+" cookie=0xbeef/-1")) {
		m := age.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if d, err := time.ParseDuration(m[1]); err != nil || d < than {
			f.t.Errorf("a stranger's flow has been written again: %s", line)
		}
	}
}

func TestStrangersOnANodeKeepTheirThings(t *testing.T) {
	f := newFleet(t, "e2e-strangers", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	ctx, net1 := t.Context(), f.host("net1")
	// The node as it is before weft has ever run on it.
	f.eventually("the agent has made its bridges", func(context.Context) error {
		_, err := net1.Exec(ctx, "sh", "-ec", "ovs-vsctl br-exists br-tun && ovs-ofctl --names dump-flows br-tenant | grep -q phy-br-tenant")
		return err
	})
	f.must(net1.Stop(ctx, lab.AgentDaemon))
	f.sh(net1.Space, `for p in $(ovs-vsctl list-ports br-tenant | grep phy-) $(ovs-vsctl list-ports br-ext1 | grep phy-); do ovs-vsctl del-port $p; done
		ovs-vsctl del-br br-int -- del-br br-tun; for b in br-tenant br-ext1; do ovs-ofctl del-flows $b; ovs-ofctl add-flow $b priority=0,actions=NORMAL; done`)
	f.sh(net1.Space, moveIn)
	before, moved := f.belongings(net1), time.Now()

	// A bridge that somebody else made is left alone until the operator hands it over, in the words that the node gives.
	f.must(net1.Start(ctx, lab.AgentDaemon))
	var handOver string
	f.eventually("the node tells how to hand br-int over", func(ctx context.Context) error {
		n, err := f.nodes.GetNode(ctx, &weftv1.GetNodeRequest{Id: "net1"})
		if err != nil {
			return err
		}
		for _, p := range n.GetProblems() {
			if _, command, ok := strings.Cut(p, "to hand it over: "); ok {
				handOver = strings.Split(command, "\n")[0]
				return nil
			}
		}
		return fmt.Errorf("its problems: %q", n.GetProblems())
	})
	f.untouched(net1, before, "while br-int is not weft's")
	f.sh(net1.Space, handOver)

	ext1 := f.outside("ext1", "203.0.113.0/24")
	n1, s1 := f.vxlan("n1", "10.10.0.0/24")
	v1, _ := f.tenant("v1", weftv1.NetworkType_NETWORK_TYPE_VLAN, "10.11.0.0/24")
	g, onNet := f.guest("g", "cmp1", n1), f.guest("onnet", "net1", v1)
	r := f.router("r1", ext1, s1)
	fip, address := f.floatingIP(ext1, g)
	f.reach(g.Space, outside1)
	f.reach(f.external("ext1").Space, address)
	f.untouched(net1, before, "after work began")
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")

	// Others' chains inside weft's own namespace stay too, through its changes.
	_, router := f.placed(r)
	f.sh(router, `iptables -N their-chain; iptables -A their-chain -s 192.0.2.9 -j DROP; iptables -I FORWARD -j their-chain
		iptables -t nat -N their-nat; iptables -t nat -A their-nat -j RETURN; iptables -t nat -I POSTROUTING -j their-nat`)
	theirs := f.sh(router, "iptables-save | grep their-")
	f.sh(net1.Space, "ovs-ofctl add-flow br-tun cookie=0xbeef,table=22,priority=9,dl_vlan=4001,actions=drop")
	f.deleteFloating(fip)
	f.cutOff(f.external("ext1").Space, address)
	f.must(net1.Kill(ctx, lab.AgentDaemon))
	f.must(net1.Start(ctx, lab.AgentDaemon))
	_, address = f.floatingIP(ext1, g)
	f.reach(f.external("ext1").Space, address)
	f.untouched(net1, before, "after the agent's restart")
	if now := f.sh(router, "iptables-save | grep their-"); now != theirs {
		t.Errorf("chains of others in the router's namespace have changed:\n%s", difference(theirs, now))
	}

	f.deleteAll()
	f.must(g.Remove(ctx))
	f.must(onNet.Remove(ctx))
	f.eventually("weft's namespaces are gone and the strangers' are not", func(ctx context.Context) error {
		out, err := net1.Exec(ctx, "sh", "-ec", "ip netns list | cut -d' ' -f1 | sort")
		if want := strangerDHCP + "\n" + strangerRouter + "\n"; err == nil && out != want {
			err = errors.New(out)
		}
		return err
	})
	f.untouched(net1, before, "after everything was deleted")
	for _, bridge := range []string{"br-own", "br-int", "br-tenant"} {
		f.older(net1, bridge, time.Since(moved))
	}
	if out := f.sh(net1.Space, "ovs-ofctl dump-flows br-tun cookie=0xbeef/-1"); !strings.Contains(out, "dl_vlan=4001") {
		t.Errorf("a stranger's flow on br-tun is gone:\n%s", out)
	}
}

// deleteAll deletes every object of the fleet through its API.
func (f *fleet) deleteAll() {
	f.t.Helper()
	ctx := f.t.Context()
	f.clearFloating()
	routers, err := f.routers.ListRouters(ctx, &weftv1.ListRoutersRequest{})
	f.must(err)
	for _, r := range routers.GetRouters() {
		for _, i := range r.GetInterfaces() {
			f.detach(r, &weftv1.Subnet{Id: i.GetSubnetId()})
		}
		f.deleteRouter(r)
	}
	ports, err := f.ports.ListPorts(ctx, &weftv1.ListPortsRequest{})
	f.must(err)
	for _, p := range ports.GetPorts() {
		if !strings.HasPrefix(p.GetDeviceOwner(), "network:") {
			f.deletePort(p.GetId())
		}
	}
	subnets, err := f.subnets.ListSubnets(ctx, &weftv1.ListSubnetsRequest{})
	f.must(err)
	for _, s := range subnets.GetSubnets() {
		_, err := f.subnets.DeleteSubnet(ctx, &weftv1.DeleteSubnetRequest{Id: s.GetId()})
		f.must(err)
	}
	networks, err := f.networks.ListNetworks(ctx, &weftv1.ListNetworksRequest{})
	f.must(err)
	for _, n := range networks.GetNetworks() {
		_, err := f.networks.DeleteNetwork(ctx, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
		f.must(err)
	}
}
