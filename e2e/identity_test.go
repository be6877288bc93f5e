package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// asked makes a call on a connection of its own over the network, as the credential's identity, and returns the common
// name of who issued the controller's certificate.
func (f *fleet) asked(ctx context.Context, controller string, c *identity.Credential) (issuer string, err error) {
	at := f.host(controller)
	conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(at.Info.Management.String(), "7680"),
		grpc.WithTransportCredentials(c.Dialing(identity.Controller)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (conn net.Conn, err error) {
			return conn, errors.Join(at.Do(func() error {
				// A fallback would dial on another thread, outside of the host.
				conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, "tcp", address)
				return nil
			}), err)
		}))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var by peer.Peer
	if _, err := weftv1.NewNodeServiceClient(conn).ListNodes(ctx, &weftv1.ListNodesRequest{}, grpc.Peer(&by)); err != nil {
		return "", err
	}
	info, ok := by.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", fmt.Errorf("the connection is %T, not TLS", by.AuthInfo)
	}
	return info.State.PeerCertificates[0].Issuer.CommonName, nil
}

// secured are the hosts with credentials, and what is to stay as it is on them.
type secured struct {
	*fleet
	hosts []lab.HostInfo
	taken map[string]int // by host: how often its process has taken a credential, and keys of the peers, over
	keyed map[string]int
	stays map[string]string
}

func secure(f *fleet) *secured {
	s := &secured{fleet: f, taken: map[string]int{}, keyed: map[string]int{}}
	all, err := f.Hosts()
	f.must(err)
	for _, h := range all {
		if h.Node() || h.Kind == lab.Controller || h.Kind == lab.EtcdMember {
			s.hosts = append(s.hosts, h)
		}
	}
	s.stays = s.state()
	return s
}

// state is what a restart or a missed heartbeat would change: processes, and when the nodes' and the leader's keys were made.
func (s *secured) state() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, h := range s.hosts {
		for _, d := range []lab.Daemon{lab.AgentDaemon, lab.ControllerDaemon} {
			running, err := s.host(h.Name).Processes(d)
			s.must(err)
			for _, p := range running {
				out[h.Name+" "+string(d)] = fmt.Sprint(p.PID)
			}
		}
		if h.Node() {
			got, err := s.etcd().Get(s.t.Context(), keys.Live(h.Name))
			s.must(err)
			for _, kv := range got.Kvs {
				out[string(kv.Key)] = fmt.Sprint(kv.CreateRevision, kv.Lease)
			}
		}
	}
	return out
}

// carry gives every host its credential as it is now, one host after the other, and waits until each process has taken over
// what concerns it. The whole fleet works in between.
func (s *secured) carry(credentials, peerKeys bool) {
	s.t.Helper()
	for _, h := range s.hosts {
		s.must(s.Carry(h.Name))
		switch {
		case h.Kind == lab.EtcdMember: // it reads its certificate for each connection and says nothing
		case credentials:
			s.taken[h.Name]++
			s.said(h, "the credential has changed", s.taken[h.Name])
		}
		if peerKeys && h.Kind == lab.Network {
			s.keyed[h.Name]++
			s.said(h, "the keys of the peers have changed", s.keyed[h.Name])
		}
	}
}

func (s *secured) said(h lab.HostInfo, what string, times int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s says %q for the %d. time", h.Name, what, times), func(ctx context.Context) error {
		out, err := s.host(h.Name).Exec(ctx, "sh", "-c", "cat /var/log/weft/agent.log /var/log/weft/controller.log 2>/dev/null | grep -c '"+what+"' || true")
		if err == nil && strings.TrimSpace(out) != fmt.Sprint(times) {
			err = fmt.Errorf("it has said it %s times", strings.TrimSpace(out))
		}
		return err
	})
}

// synced waits until the standby has all connections of its routers.
func (s *secured) synced(node string) {
	s.t.Helper()
	s.eventually(node+" replicates", func(ctx context.Context) error {
		out, err := s.host(node).Exec(ctx, "curl", "-s", "http://127.0.0.1:9465/metrics")
		if err == nil && !strings.Contains(out, `weft_agent_replication_routers{state="synced"} 1`) {
			err = fmt.Errorf("it does not: %s", lines(out, "weft_agent_replication_routers"))
		}
		return err
	})
}

// confined tries what a compute node's stolen certificate opens: etcd for the node's own keys, and nothing else.
func (s *secured) confined(r *weftv1.Router, g *guest) {
	s.t.Helper()
	authority, err := s.Authority()
	s.must(err)
	stolen, err := identity.Load(authority.Folder(identity.Identity{Role: identity.Node, Name: "cmp1"}))
	s.must(err)
	if _, err := s.asked(s.t.Context(), "ctl1", stolen); status.Code(err) != codes.Unavailable {
		s.t.Errorf("a node's certificate opens the API: %v", err)
	}
	client, err := s.EtcdAs(stolen)
	s.must(err)
	defer client.Close()
	for _, key := range []string{
		keys.Active(r.GetId()), keys.Router(r.GetId()), keys.Port(g.port.GetNetworkId(), g.port.GetId()), keys.HostObject("cmp1", keys.KindRouter, r.GetId()),
		keys.Live("net1"), keys.Agent("net1"), keys.Witness("net1"), keys.Status("net1", keys.KindRouter, r.GetId()), keys.Schema,
	} {
		if _, err := client.Put(s.t.Context(), key, "stolen"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			s.t.Errorf("a compute node writes %s: %v", key, err)
		}
		if _, err := client.Delete(s.t.Context(), key); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			s.t.Errorf("a compute node deletes %s: %v", key, err)
		}
	}
	if _, err := client.Get(s.t.Context(), keys.Instance(g.port.GetId())); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		s.t.Errorf("a compute node reads what a VM is told: %v", err)
	}
}

// lines are those of a text that begin with a word.
func lines(text, prefix string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// TestTheFleetsCertificatesAreReplacedUnderIt renews certificates, the authority and the key of gossip on a fleet that
// forwards, and restarts nothing but, at the end, etcd.
func TestTheFleetsCertificatesAreReplacedUnderIt(t *testing.T) {
	f := newFleet(t, "e2e-identity", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 2, 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	n, sub := f.vxlan("n", "10.10.0.0/24")
	r := f.router("r", ext1, sub)
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	g := f.guest("g", "cmp1", n)
	s := secure(f)
	standby := map[string]string{"net1": "net2", "net2": "net1"}[f.activeOn(r)]
	s.synced(standby)
	authority, err := f.Authority()
	f.must(err)
	before, err := f.Credential()
	f.must(err)
	first, err := f.asked(t.Context(), "ctl1", before)
	f.must(err)

	out := f.ping(g.Space, outside1)
	for _, step := range []struct {
		what             string
		do               func() ([]string, error)
		certificate, key bool
	}{
		{"certificates renewed", func() ([]string, error) { return authority.Reissue(0) }, true, false},
		{"another authority", func() ([]string, error) { return authority.Rotate(pki.Given{}) }, true, false},
		{"another key of the peers accepted", func() ([]string, error) { return authority.RotatePeerKey(pki.AddPeerKey) }, false, true},
		{"and used", func() ([]string, error) { return authority.RotatePeerKey(pki.UsePeerKey) }, false, true},
		{"and the old one dropped", func() ([]string, error) { return authority.RotatePeerKey(pki.DropPeerKey) }, false, true},
		{"the old authority dropped", authority.Finish, true, false},
	} {
		_, err := step.do()
		f.must(err)
		s.carry(step.certificate, step.key)
		now, err := f.Credential()
		f.must(err)
		if _, err := f.asked(t.Context(), "ctl1", now); err != nil {
			t.Errorf("%s: a new call: %v", step.what, err)
		}
		s.synced(standby)
		t.Log(step.what)
	}
	out.noneLost()
	if after := s.state(); fmt.Sprint(after) != fmt.Sprint(s.stays) {
		t.Errorf("processes and keys are\n%v\nand were\n%v", after, s.stays)
	}
	now, err := f.Credential()
	f.must(err)
	if issuer, err := f.asked(t.Context(), "ctl1", now); err != nil || issuer == first {
		t.Errorf("the controller's certificate is still by %s, %v", issuer, err)
	}
	if _, err := f.asked(t.Context(), "ctl1", before); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of the authority that was dropped still opens the API: %v", err)
	}

	s.confined(r, g)

	// Everybody has to connect to etcd anew, with what the files say now.
	etcd1 := f.host("etcd1")
	f.must(etcd1.Kill(t.Context(), lab.EtcdDaemon))
	f.must(etcd1.Start(t.Context(), lab.EtcdDaemon))
	f.alive()
	late := f.guest("late", "cmp1", n)
	f.reach(late.Space, outside1)
	s.synced(standby)
}
