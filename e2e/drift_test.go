package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// auditTime is within what an agent has found and repaired what somebody did behind its back: a round of its audit, and the
// repair on a machine that is busy.
const auditTime = patience + patience

// differences asks a node's agent how the node differs from the plan.
func (f *fleet) differences(ctx context.Context, etcd *clientv3.Client, node string) ([]*weftv1.Difference, error) {
	id := uuid.NewString()
	if _, err := etcd.Put(ctx, keys.Ask(node, id), ""); err != nil {
		return nil, err
	}
	defer etcd.Delete(context.WithoutCancel(ctx), keys.Ask(node, id)) //nolint:errcheck // the lab goes with it
	for ctx.Err() == nil {
		got, err := etcd.Get(ctx, keys.Answer(node, id))
		if err != nil {
			return nil, err
		}
		if len(got.Kvs) == 0 {
			f.pause(20 * time.Millisecond)
			continue
		}
		answer := &storev1.Answer{}
		if err := proto.Unmarshal(got.Kvs[0].Value, answer); err != nil {
			return nil, err
		}
		if answer.GetError() != "" {
			return nil, errors.New(answer.GetError())
		}
		return answer.GetDifferences(), nil
	}
	return nil, ctx.Err()
}

// asPlanned wants a node to have what it should, and nothing else of weft's.
func (f *fleet) asPlanned(etcd *clientv3.Client, node string) {
	f.t.Helper()
	f.within(auditTime, node+" is as planned", func(ctx context.Context) error {
		d, err := f.differences(ctx, etcd, node)
		if err == nil && len(d) > 0 {
			err = fmt.Errorf("%d differences: %v", len(d), d[:min(len(d), 5)])
		}
		return err
	})
}

// differs wants a node's agent to say that something of a kind is not as planned.
func (f *fleet) differs(etcd *clientv3.Client, node, kind string) {
	f.t.Helper()
	d, err := f.differences(f.t.Context(), etcd, node)
	f.must(err)
	for _, d := range d {
		if d.GetKind() == kind {
			return
		}
	}
	f.t.Errorf("no difference of kind %s among %v", kind, d)
}

func TestWhatSomebodyElseChangesOnANodeIsRepaired(t *testing.T) {
	f := newFleet(t, "e2e-drift", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1, out := f.outside("ext1", "203.0.113.0/24"), f.external("ext1")
	n, s := f.vxlan("n", "10.10.0.0/24")
	a := f.guest("a", "cmp1", n)
	r := f.router("r", ext1, s)
	_, floating := f.floatingIP(ext1, a)
	f.reach(a.Space, outside1)
	f.reach(out.Space, floating)
	host, router := f.placed(r)
	etcd := f.etcd()
	f.asPlanned(etcd, "net1")
	f.asPlanned(etcd, "cmp1")
	server := host.Namespace("qdhcp-" + n.GetId())
	f.sh(router, "ip link add theirs0 type veth peer name theirs1; ip addr add 192.0.2.1/32 dev theirs0; iptables -t nat -N theirs; iptables -t nat -A theirs -s 192.0.2.9 -j ACCEPT")
	theirs := func() string {
		return f.sh(router, "ip -o addr show dev theirs0 || true; iptables -t nat -S theirs || true")
	}
	before := theirs()

	type change struct {
		what, kind string
		at         lab.Space
		script     string
	}
	// A round of the audit finds all of one group.
	for _, group := range []struct {
		name    string
		changes []change
	}{
		{"small things", []change{
			{"the gateway's addresses deleted", "address", router, "ip addr flush dev $(GATEWAY) scope global"},
			{"an address added", "address", router, "ip addr add 10.99.0.1/24 dev $(ip -o link | grep -o 'qr-[0-9a-f-]*' | head -1)"},
			{"NAT rules flushed", "iptables", router, "iptables -t nat -F weft-l3-agent-PREROUTING; iptables -t nat -F weft-l3-agent-snat"},
			{"forwarding switched off", "namespace", router, "sysctl -qw net.ipv4.ip_forward=0"},
			{"the gateway's MTU changed", "link", router, "ip link set $(GATEWAY) mtu 1300"},
			{"the DHCP server's address deleted", "address", server, "ip addr flush dev $(ip -o link | grep -o 'tap[0-9a-f-]*' | head -1) scope global"},
			{"the DHCP server's files deleted", "dhcp", host.Space, "rm -rf /var/lib/weft/dhcp/" + n.GetId() + "/host /var/lib/weft/dhcp/" + n.GetId() + "/opts"},
			{"the DHCP server stopped", "dhcp", host.Space, "kill -STOP $(cat /var/lib/weft/dhcp/" + n.GetId() + "/pid)"},
		}},
		{"greater things", []change{
			{"the default route deleted", "route", router, "ip route del default"},
			{"all of NAT deleted", "iptables", router, "for j in PREROUTING OUTPUT POSTROUTING; do iptables -t nat -F $j; done"},
			{"the gateway set down", "link", router, "ip link set $(GATEWAY) down"},
		}},
		{"the gateway deleted", []change{{"it is deleted", "link", router, "ip link del $(GATEWAY)"}}},
		{"namespaces deleted", []change{{"they are deleted", "namespace", host.Space, "ip netns del qrouter-" + r.GetId() + "; ip netns del qdhcp-" + n.GetId()}}},
	} {
		t.Run(group.name, func(t *testing.T) {
			f := f.in(t)
			for _, c := range group.changes {
				t.Log(c.what)
				f.sh(c.at, strings.ReplaceAll(c.script, "GATEWAY", "ip -o link | grep -o 'qg-[0-9a-f-]*' | head -1"))
				f.differs(etcd, "net1", c.kind)
			}
			f.asPlanned(etcd, "net1")
			f.reach(a.Space, outside1)
			f.reach(out.Space, floating)
			f.configure(a)
			f.routerState(r, weftv1.State_STATE_ACTIVE, "")
			if now := theirs(); now != before && group.name != "namespaces deleted" {
				t.Errorf("a stranger's things were\n%s\nand are\n%s", before, now)
			}
		})
	}
}

// hang puts a program in the place of another that never ends when its network namespace or command line has a name in it,
// and else does what it should.
func (f *fleet) hang(at *lab.Host, program string, names ...string) {
	f.t.Helper()
	var cases strings.Builder
	for _, name := range names {
		fmt.Fprintf(&cases, "*%s*) exec sleep 1000;;\n", name)
	}
	f.sh(at.Space, fmt.Sprintf(`
at=$(readlink -f $(command -v %[1]s)); mkdir -p /run/real/%[1]s; cp $at /run/real/%[1]s/image
cat > /run/hang-%[1]s <<'END'
#!/bin/sh
name=$(basename $0) # a program of several names, as iptables is, hangs under one
if [ $name = %[1]s ]; then case "$(ip netns identify $$) $*" in
%[2]s
esac; fi
[ -e /run/real/%[1]s/$name ] || ln -s image /run/real/%[1]s/$name
exec /run/real/%[1]s/$name "$@"
END
chmod 755 /run/hang-%[1]s; mount --bind /run/hang-%[1]s $at`, program, cases.String()))
}

// free undoes hang, also for who is just being started.
func (f *fleet) free(at *lab.Host, program string) {
	f.t.Helper()
	f.sh(at.Space, "umount -l $(readlink -f $(command -v "+program+"))")
}

func TestWhatHangsHoldsUpNothingElse(t *testing.T) {
	f := newFleet(t, "e2e-hang", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	net1 := f.host("net1")
	var bad []*weftv1.Network
	var names []string
	for i := range 12 { // more than are built at once
		n := f.network(&weftv1.Network{Name: fmt.Sprintf("bad%d", i), Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN})
		bad, names = append(bad, n), append(names, n.GetId())
	}
	f.hang(net1, "dnsmasq", names...)
	for i, n := range bad {
		f.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: fmt.Sprintf("10.30.%d.0/24", i)})
	}
	n, s := f.vxlan("n", "10.10.0.0/24")
	a := f.guest("a", "cmp1", n) // gets an address by DHCP
	r := f.router("r", ext1, s)
	f.routerState(r, weftv1.State_STATE_ACTIVE, "")
	f.networkState(n, weftv1.State_STATE_ACTIVE, "")
	f.reach(a.Space, outside1)
	for _, n := range bad {
		f.networkState(n, weftv1.State_STATE_ERROR, "dnsmasq")
	}
	f.free(net1, "dnsmasq")
	f.within(2*auditTime, "the others have a server when it hangs no more", func(ctx context.Context) error {
		for _, n := range bad {
			got, err := f.networks.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: n.GetId()})
			if err != nil {
				return err
			}
			if got.GetStatus().GetState() != weftv1.State_STATE_ACTIVE {
				return fmt.Errorf("%s is %s %q", n.GetName(), got.GetStatus().GetState(), everything(got.GetStatus()))
			}
		}
		return nil
	})

	// The same with iptables, for one router.
	_, s2 := f.vxlan("n2", "10.20.0.0/24")
	_, s3 := f.vxlan("n3", "10.21.0.0/24")
	hangs, err := f.routers.CreateRouter(t.Context(), &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "hangs"}})
	f.must(err)
	f.hang(net1, "iptables-restore", hangs.GetId())
	f.setGateway(hangs, &weftv1.ExternalGateway{NetworkId: ext1.GetId()})
	f.attach(hangs, s2)
	other := f.router("other", ext1, s3)
	f.routerState(other, weftv1.State_STATE_ACTIVE, "")
	f.routerState(hangs, weftv1.State_STATE_ERROR, "iptables-restore")
	f.reach(a.Space, outside1)
	f.free(net1, "iptables-restore")
	f.within(2*auditTime, "the router is built when iptables hangs no more", func(ctx context.Context) error {
		got, err := f.routers.GetRouter(ctx, &weftv1.GetRouterRequest{Id: hangs.GetId()})
		if err == nil && got.GetStatus().GetState() != weftv1.State_STATE_ACTIVE {
			err = fmt.Errorf("it is %s %q", got.GetStatus().GetState(), everything(got.GetStatus()))
		}
		return err
	})
}
