package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// portsLike lists a host's OVS ports whose names begin so.
func (f *fleet) portsLike(at lab.Space, prefix string) []string {
	f.t.Helper()
	var out []string
	for _, name := range strings.Fields(f.sh(at, "ovs-vsctl --bare --columns=name list Port")) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		f.t.Fatalf("%s has no port %s…", at, prefix)
	}
	return out
}

func TestWhatSomebodyDeletesInTheSwitchIsMadeAgain(t *testing.T) {
	f := newFleet(t, "e2e-drift", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 2, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	r := f.router("r", ext1, s)
	f.reach(a.Space, outside1)
	net1, cmp1 := f.host("net1").Space, f.host("cmp1").Space
	for _, part := range []struct {
		at     lab.Space
		prefix string
	}{
		{net1, "qr-"},
		{net1, "qg-"},
		{net1, "tap"},
		{net1, "int-br-ext1"},
		{net1, "phy-br-ext1"},
		{net1, "patch-tun"},
		{net1, "vxlan-"},
		{cmp1, "vxlan-"},
		{cmp1, "patch-int"},
	} {
		t.Run(part.prefix+" on "+part.at.String(), func(t *testing.T) {
			f := f.in(t)
			for _, name := range f.portsLike(part.at, part.prefix) {
				f.sh(part.at, "ovs-vsctl del-port "+name)
			}
			f.reach(a.Space, outside1)
			f.reach(a.Space, b.ip)
		})
	}
	t.Run("br-tun", func(t *testing.T) {
		f := f.in(t)
		f.sh(cmp1, "ovs-vsctl del-br br-tun")
		f.reach(a.Space, b.ip)
		f.reach(a.Space, outside1)
	})
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	f.guest("late", "cmp1", n) // gets an address by DHCP
}

func TestARouterWhoseDeviceHasAStrangersNameSaysSo(t *testing.T) {
	f := newFleet(t, "e2e-taken", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a := f.guest("a", "cmp1", n)
	net1 := f.host("net1")
	f.must(net1.Kill(t.Context(), lab.AgentDaemon))
	r := f.router("r", ext1, s)
	device := plan.DeviceName("qr-", r.GetInterfaces()[0].GetPortId())
	f.sh(net1.Space, fmt.Sprintf("ovs-vsctl add-br br-strange -- set bridge br-strange datapath_type=netdev -- "+
		"add-port br-strange %s -- set Interface %s type=internal", device, device))
	f.must(net1.Start(t.Context(), lab.AgentDaemon))
	f.routerState(r, weftv1.State_STATE_ERROR, "somebody else has a port of that name")
	f.sh(net1.Space, "ip link show "+device) // still where its owner put it
	f.sh(net1.Space, "ovs-vsctl del-br br-strange")
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	f.reach(a.Space, outside1)
}

// An agent of before had internal ports of OVS where there are veth pairs now.
func TestANodeUpgradedInPlaceGetsVethPairs(t *testing.T) {
	f := newFleet(t, "e2e-upgrade", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a := f.guest("a", "cmp1", n)
	r := f.router("r", ext1, s)
	f.reach(a.Space, outside1)
	net1 := f.host("net1")
	f.must(net1.Kill(t.Context(), lab.AgentDaemon))
	var devices []string
	for _, prefix := range []string{"qr-", "qg-", "tap"} {
		devices = append(devices, f.portsLike(net1.Space, prefix)...)
	}
	for _, device := range devices {
		f.sh(net1.Space, fmt.Sprintf(`d=%s; ns=$(ip link show $d | sed -n 's/.*alias weft://p')
			owner=$(ovs-vsctl get Port $d external_ids:weft-owner)
			ovs-vsctl del-port $d; ip link del $d
			ovs-vsctl add-port br-int $d -- set Port $d external_ids:weft-owner="$owner" -- \
				set Interface $d type=internal external_ids:weft-owner="$owner"
			ip link set $d netns $ns`, device))
	}
	f.must(net1.Start(t.Context(), lab.AgentDaemon))
	f.eventually("the ports are system devices", func(ctx context.Context) error {
		for _, device := range devices {
			kind, err := net1.Exec(ctx, "ovs-vsctl", "get", "Interface", device, "type")
			if err != nil || strings.TrimSpace(kind) != `""` {
				return errors.Join(err, fmt.Errorf("%s is %s", device, kind))
			}
		}
		return nil
	})
	f.reach(a.Space, outside1)
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	f.networkState(n, weftv1.State_STATE_ACTIVE, "")
	f.guest("late", "cmp1", n) // gets an address by DHCP
}
