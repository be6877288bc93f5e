package e2e_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// plugged is a VM in groups that is plugged as its port's vif_type says.
func (s grouped) plugged(name, host string, n *weftv1.Network, vif weftv1.VifType, groups ...*weftv1.SecurityGroup) *guest {
	s.t.Helper()
	return s.guestOf(name, host, s.port(&weftv1.Port{Name: name, NetworkId: n.GetId(), VifType: vif, SecurityGroups: ids(groups...)}))
}

// admit lets something in to the ports of a group.
func (s grouped) admit(g *weftv1.SecurityGroup, r *weftv1.SecurityGroupRule) *weftv1.SecurityGroupRule {
	s.t.Helper()
	r.SecurityGroupId, r.Direction = g.GetId(), weftv1.Direction_DIRECTION_INGRESS
	return s.rule(r)
}

// TestFiltersMeanTheSameBothWaysOfPlugging has the same happen to a VM that is filtered by flows and to one that is filtered on a
// bridge of its own.
func TestFiltersMeanTheSameBothWaysOfPlugging(t *testing.T) {
	f := newFleet(t, "e2e-vifs", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n, _ := f.vxlan("n", "10.10.0.0/24")
	s := grouped{f, weftv1.NewSecurityGroupServiceClient(f.connected)}
	friends, all := s.group("friends"), s.group("all")
	s.admit(friends, &weftv1.SecurityGroupRule{})
	s.admit(all, &weftv1.SecurityGroupRule{})
	friend := s.plugged("friend", "cmp2", n, weftv1.VifType_VIF_TYPE_HYBRID, friends)
	stranger := s.plugged("stranger", "cmp2", n, weftv1.VifType_VIF_TYPE_OVS, all)
	for i, vif := range []weftv1.VifType{weftv1.VifType_VIF_TYPE_OVS, weftv1.VifType_VIF_TYPE_HYBRID} {
		t.Run(vif.String(), func(t *testing.T) {
			f := f.in(t)
			s := grouped{f, s.api}
			g := s.group(fmt.Sprintf("g%d", i))
			s.admit(g, &weftv1.SecurityGroupRule{Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: friends.GetId()}})
			a := s.plugged(fmt.Sprintf("a%d", i), "cmp1", n, vif, g)
			f.portState(a.port, weftv1.State_STATE_ACTIVE, "")
			f.reach(friend.Space, a.ip)
			f.reach(a.Space, stranger.ip)
			f.cutOff(stranger.Space, a.ip)

			rule := s.admit(g, &weftv1.SecurityGroupRule{Protocol: "icmp"})
			f.reach(stranger.Space, a.ip)
			stays, goes := f.ping(friend.Space, a.ip), f.ping(stranger.Space, a.ip)
			s.remove(rule)
			f.cutOff(stranger.Space, a.ip)
			goes.silent()
			stays.noneLost()

			s.join(friend, all)
			f.cutOff(friend.Space, a.ip)
			s.join(friend, friends)
			f.reach(friend.Space, a.ip)

			stays = f.ping(friend.Space, a.ip)
			cmp1 := f.host("cmp1")
			f.must(cmp1.Kill(t.Context(), lab.AgentDaemon))
			f.must(cmp1.Start(t.Context(), lab.AgentDaemon))
			f.asPlanned(f.etcd(), "cmp1")
			stays.noneLost()
			f.cutOff(stranger.Space, a.ip)
		})
	}
}

// silent ends the ping and wants it to have stopped being answered.
func (p *pinging) silent() {
	p.f.t.Helper()
	stats := p.run.Stop()
	if stats.LongestLoss == 0 {
		p.f.t.Errorf("%s goes on being answered: %s", p.what, stats)
	}
}

func TestABridgeIsFilteredWhateverIsDoneToItsHost(t *testing.T) {
	f := newFleet(t, "e2e-bridged", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n, _ := f.vxlan("n", "10.10.0.0/24")
	s := grouped{f, weftv1.NewSecurityGroupServiceClient(f.connected)}
	stranger := s.plugged("stranger", "cmp2", n, weftv1.VifType_VIF_TYPE_OVS, s.group("all"))
	a := s.plugged("a", "cmp1", n, weftv1.VifType_VIF_TYPE_HYBRID, s.group("closed"))
	f.cutOff(stranger.Space, a.ip)
	etcd, cmp1 := f.etcd(), f.host("cmp1")
	f.asPlanned(etcd, "cmp1")
	for _, damage := range []string{
		"iptables -F weft-sg-FORWARD", "iptables -I FORWARD -j ACCEPT",
		"sysctl -qw net.bridge.bridge-nf-call-iptables=0",
	} {
		f.sh(cmp1.Space, damage)
		f.asPlanned(etcd, "cmp1")
		f.cutOff(stranger.Space, a.ip)
	}
	f.sh(cmp1.Space, "iptables -D FORWARD -j ACCEPT")

	p := f.port(&weftv1.Port{Name: "straight", NetworkId: n.GetId(), VifType: weftv1.VifType_VIF_TYPE_HYBRID})
	vm, err := f.PrepareVMs(t.Context(), lab.VMSpec{Name: "straight", Host: "cmp1", Port: portOf(p), Addressing: lab.Unaddressed})
	f.must(err)
	f.must(f.Plug(t.Context(), vm...))
	f.portState(p, weftv1.State_STATE_ERROR, "vif_type is hybrid")
	f.must(vm[0].Remove(t.Context()))
	f.deletePort(p.GetId())

	f.removeGuest(a)
	f.eventually("nothing of the filters is left", func(ctx context.Context) error {
		left, err := cmp1.Exec(ctx, "sh", "-c", "{ iptables-save; ip6tables-save; ipset list -n; } | grep weft || true")
		if err == nil && left != "" {
			err = fmt.Errorf("left:\n%s", left)
		}
		return err
	})
}

// TestARuleThatAHostRefusesStopsNothingElse takes from a host's iptables what it needs to tell ICMP messages of type 255.
func TestARuleThatAHostRefusesStopsNothingElse(t *testing.T) {
	f := newFleet(t, "e2e-refused", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n, _ := f.vxlan("n", "10.10.0.0/24")
	s := grouped{f, weftv1.NewSecurityGroupServiceClient(f.connected)}
	stranger := s.plugged("stranger", "cmp2", n, weftv1.VifType_VIF_TYPE_OVS, s.group("all"))
	odd, plain := s.group("odd"), s.group("plain")
	s.admit(odd, &weftv1.SecurityGroupRule{Protocol: "icmp", IcmpType: proto.Uint32(8)})
	const extension = "/usr/lib/x86_64-linux-gnu/xtables/libxt_u32.so"
	f.sh(f.host("cmp1").Space, "mount --bind /dev/null "+extension)
	refused := s.admit(odd, &weftv1.SecurityGroupRule{Protocol: "icmp", IcmpType: proto.Uint32(255)})
	a := s.plugged("a", "cmp1", n, weftv1.VifType_VIF_TYPE_HYBRID, odd)
	b := s.plugged("b", "cmp1", n, weftv1.VifType_VIF_TYPE_HYBRID, plain)
	f.portState(a.port, weftv1.State_STATE_ERROR, "rule "+refused.GetId()+" of security group "+odd.GetId()+" allows nothing")
	f.portState(b.port, weftv1.State_STATE_ACTIVE, "")
	f.reach(stranger.Space, a.ip)
	f.cutOff(stranger.Space, b.ip)
	s.admit(plain, &weftv1.SecurityGroupRule{Protocol: "icmp"})
	f.reach(stranger.Space, b.ip)

	f.sh(f.host("cmp1").Space, "umount "+extension)
	f.portState(a.port, weftv1.State_STATE_ACTIVE, "")
	f.asPlanned(f.etcd(), "cmp1")
}
