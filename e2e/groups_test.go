package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// grouped are calls about security groups.
type grouped struct {
	*fleet
	api weftv1.SecurityGroupServiceClient
}

// group makes a security group that allows its ports to send anything over IPv4.
func (s grouped) group(name string) *weftv1.SecurityGroup {
	s.t.Helper()
	g, err := s.api.CreateSecurityGroup(s.t.Context(), &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: name}})
	s.must(err)
	s.rule(&weftv1.SecurityGroupRule{SecurityGroupId: g.GetId(), Direction: weftv1.Direction_DIRECTION_EGRESS})
	return g
}

func (s grouped) rule(r *weftv1.SecurityGroupRule) *weftv1.SecurityGroupRule {
	s.t.Helper()
	out, err := s.api.CreateSecurityGroupRule(s.t.Context(), &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: r})
	s.must(err)
	return out
}

func (s grouped) remove(r *weftv1.SecurityGroupRule) {
	s.t.Helper()
	_, err := s.api.DeleteSecurityGroupRule(s.t.Context(), &weftv1.DeleteSecurityGroupRuleRequest{Id: r.GetId()})
	s.must(err)
}

func ids(groups ...*weftv1.SecurityGroup) *weftv1.SecurityGroupIds {
	out := &weftv1.SecurityGroupIds{}
	for _, g := range groups {
		out.Ids = append(out.Ids, g.GetId())
	}
	return out
}

// member makes a guest in groups.
func (s grouped) member(name, host string, n *weftv1.Network, groups ...*weftv1.SecurityGroup) *guest {
	s.t.Helper()
	return s.guestOf(name, host, s.port(&weftv1.Port{Name: name, NetworkId: n.GetId(), SecurityGroups: ids(groups...)}))
}

// join gives a guest other groups.
func (s grouped) join(g *guest, groups ...*weftv1.SecurityGroup) {
	s.t.Helper()
	_, err := s.ports.UpdatePort(s.t.Context(), &weftv1.UpdatePortRequest{
		Port: &weftv1.Port{Id: g.port.GetId(), SecurityGroups: ids(groups...)}, UpdateMask: mask("security_groups"),
	})
	s.must(err)
}

// refused wants no connection to come about.
func (s grouped) refused(from lab.Space, to netip.AddrPort) {
	s.t.Helper()
	err := from.Do(func() error {
		conn, err := net.DialTimeout("tcp4", to.String(), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err == nil {
		s.t.Errorf("%s connects to %s", from, to)
	}
}

// cut wants what either side of a connection says to be heard no more, soon.
func (s grouped) cut(h *hearing) {
	s.t.Helper()
	for _, way := range [][2]*net.TCPConn{{h.server, h.client}, {h.client, h.server}} {
		s.eventually(h.what+" is cut", func(context.Context) error {
			now := time.Now()
			err := errors.Join(way[0].SetWriteDeadline(now.Add(patience)), way[1].SetReadDeadline(now.Add(300*time.Millisecond)))
			if err == nil {
				_, err = way[0].Write([]byte("more"))
			}
			if err != nil {
				return err
			}
			n, err := way[1].Read(make([]byte, 512))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("%d octets were heard, %w", n, errors.Join(err, errors.New("the connection goes on")))
		})
	}
}

func TestSecurityGroups(t *testing.T) {
	f := newFleet(t, "e2e-groups", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	s := grouped{f, weftv1.NewSecurityGroupServiceClient(f.connected)}
	n, _ := f.vxlan("n", "10.10.0.0/24")
	servers, clients, others := s.group("servers"), s.group("clients"), s.group("others")
	port := uint32(8080)
	web := s.rule(&weftv1.SecurityGroupRule{
		SecurityGroupId: servers.GetId(), Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "tcp", PortMin: &port,
		Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: clients.GetId()},
	})
	server := s.member("server", "cmp1", n, servers)
	near, far := s.member("near", "cmp1", n, others), s.member("far", "cmp2", n, clients)
	accepted, at := f.listening(server.Space, 8080), netip.AddrPortFrom(server.ip, 8080)
	unheard := f.capture(server.Space, lab.VMDevice, "icmp or port 8081")

	connected := f.hears("a member of the group", accepted, far.Space, 0, at)
	f.goesOn("at first", connected)
	f.cutOff(far.Space, server.ip) // no rule for ICMP
	s.refused(far.Space, netip.AddrPortFrom(server.ip, 8081))
	s.refused(near.Space, at)

	s.join(near, others, clients)
	second := f.hears("who has joined", accepted, near.Space, 0, at)
	f.goesOn("when another has joined", connected, second)
	s.join(near, others)
	s.cut(second)
	f.goesOn("when another has left", connected)

	s.rule(&weftv1.SecurityGroupRule{
		SecurityGroupId: servers.GetId(), Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "tcp", PortMin: &port,
		Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: near.ip.String()},
	})
	third := f.hears("whom a rule names", accepted, near.Space, 0, at)
	s.remove(web)
	s.cut(connected)
	f.goesOn("when another rule has gone", third)
	f.none(unheard, "what no rule allows")
}
