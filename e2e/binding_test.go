package e2e_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// prepare makes a VM for a port that is not plugged yet.
func (f *fleet) prepare(name, host string, p *weftv1.Port) *guest {
	f.t.Helper()
	vms, err := f.PrepareVMs(f.t.Context(), lab.VMSpec{Name: name, Host: host, Port: portOf(p)})
	f.must(err)
	g := &guest{VM: vms[0], port: p}
	if len(p.GetFixedIps()) > 0 {
		g.ip = netip.MustParseAddr(p.GetFixedIps()[0].GetIpAddress())
	}
	return g
}

func (f *fleet) plug(g *guest)   { f.t.Helper(); f.must(f.Plug(f.t.Context(), g.VM)) }
func (f *fleet) unplug(g *guest) { f.t.Helper(); f.must(f.Unplug(f.t.Context(), g.VM)) }

// configure has the VM get its address.
func (f *fleet) configure(g *guest) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	got, err := g.Configure(ctx)
	f.must(err)
	g.ip = got.Address.Addr()
	f.announce(g)
}

// boundTo waits until a port is bound to a node, or to none.
func (f *fleet) boundTo(p *weftv1.Port, node string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("port %s is bound to %q", p.GetName(), node), func(ctx context.Context) error {
		now, err := f.getPort(ctx, p.GetId())
		if err == nil && now.GetBoundHost() != node {
			err = fmt.Errorf("it is bound to %q", now.GetBoundHost())
		}
		return err
	})
}

// silent wants a guest that shouts to be heard by nobody, and to hear nothing, while something is done.
func (f *fleet) silent(g *guest, others []*guest, during func()) {
	f.t.Helper()
	var captures []*lab.Capture
	for _, o := range others {
		captures = append(captures, f.capture(o.Space, lab.VMDevice, "ether src "+g.Spec.Port.MAC))
	}
	hears := f.capture(g.Space, lab.VMDevice, "not ether src "+g.Spec.Port.MAC)
	stop := f.shout(g, 1, 2, 3, 4)
	during()
	stop()
	for i, c := range captures {
		f.none(c, fmt.Sprintf("%s heard %s", others[i], g))
	}
	f.none(hears, fmt.Sprintf("%s heard others", g))
}

func TestLateBinding(t *testing.T) {
	f := newFleet(t, "e2e-binding", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n, _ := f.vxlan("n", "10.10.0.0/24")
	f.unfiltered(n)
	here, there := f.guest("here", "cmp1", n), f.guest("there", "cmp2", n)

	t.Run("a port without a host is bound where its interface appears, and moves with it", func(t *testing.T) {
		f := f.in(t)
		p := f.port(&weftv1.Port{Name: "roaming", NetworkId: n.GetId()})
		f.portState(p, weftv1.State_STATE_DOWN, "bound to no node")
		first := f.prepare("roaming-1", "cmp1", p)
		f.plug(first)
		f.boundTo(p, "cmp1")
		f.configure(first)
		f.reach(there.Space, first.ip)
		f.reach(here.Space, first.ip)
		f.portState(p, weftv1.State_STATE_ACTIVE, "")
		f.unplug(first)
		f.boundTo(p, "")
		f.portState(p, weftv1.State_STATE_DOWN, "bound to no node")

		second := f.prepare("roaming-2", "cmp2", p)
		f.plug(second)
		f.boundTo(p, "cmp2")
		f.configure(second)
		if second.ip != first.ip {
			t.Errorf("its address was %s and is %s", first.ip, second.ip)
		}
		f.reach(here.Space, second.ip)
		f.reach(there.Space, second.ip)
		f.portState(p, weftv1.State_STATE_ACTIVE, "")

		// A live migration: the interface is on both nodes for a moment; the first one keeps the port until it lets go.
		f.plug(first)
		f.portState(p, weftv1.State_STATE_ACTIVE, "port roaming is bound to cmp2")
		f.reach(here.Space, second.ip)
		f.unplug(second)
		f.boundTo(p, "cmp1")
		f.reach(there.Space, first.ip)
		f.must(first.Remove(t.Context()))
		f.must(second.Remove(t.Context()))
		f.deletePort(p.GetId())
	})

	t.Run("a port bound elsewhere is not wired, and says so", func(t *testing.T) {
		f := f.in(t)
		p := f.port(&weftv1.Port{Name: "fixed", NetworkId: n.GetId(), Host: "cmp2"})
		g := f.prepare("fixed", "cmp1", p)
		f.silent(g, []*guest{here, there}, func() {
			f.plug(g)
			f.portState(p, weftv1.State_STATE_DOWN, "port fixed is bound to cmp2")
		})
		// The operator moves it: then it is wired.
		_, err := f.ports.UpdatePort(t.Context(), &weftv1.UpdatePortRequest{
			Port: &weftv1.Port{Id: p.GetId(), Host: "cmp1"}, UpdateMask: mask("host"),
		})
		f.must(err)
		f.configure(g)
		f.reach(there.Space, g.ip)
		f.portState(p, weftv1.State_STATE_ACTIVE, "")
		f.removeGuest(g)
	})

	t.Run("a port deleted while it is plugged is unwired", func(t *testing.T) {
		f := f.in(t)
		g := f.guest("doomed", "cmp1", n)
		f.reach(g.Space, there.ip)
		f.deletePort(g.port.GetId())
		f.cutOff(g.Space, there.ip)
		f.silent(g, []*guest{here, there}, func() { f.pause(500 * time.Millisecond) })
		f.untagged(g)
		f.refusal("cmp1", g.port.GetId(), "there is no port")
		f.must(g.Remove(t.Context()))
		f.refusal("cmp1", g.port.GetId(), "")
	})

	t.Run("an interface that is there before its port is wired when the port comes", func(t *testing.T) {
		f := f.in(t)
		// The API gives ids, so only somebody who restores a store can know one before; an interface with an unknown id
		// comes from an operator's mistake.
		unknown := f.prepare("unknown", "cmp1", &weftv1.Port{Id: uuid.NewString(), MacAddress: "fa:16:3e:00:00:aa"})
		f.silent(unknown, []*guest{here, there}, func() {
			f.plug(unknown)
			f.refusal("cmp1", unknown.port.GetId(), "there is no port")
		})
		// As far as the store is concerned: the port comes after its interface.
		p := f.port(&weftv1.Port{Name: "late", NetworkId: n.GetId(), AdminStateUp: new(bool)})
		g := f.prepare("late", "cmp2", p)
		f.plug(g)
		f.portState(p, weftv1.State_STATE_DOWN, "admin_state_up is false")
		up := true
		_, err := f.ports.UpdatePort(t.Context(), &weftv1.UpdatePortRequest{
			Port: &weftv1.Port{Id: p.GetId(), AdminStateUp: &up}, UpdateMask: mask("admin_state_up"),
		})
		f.must(err)
		f.configure(g)
		f.reach(here.Space, g.ip)

		client := f.etcd()
		restored := f.port(&weftv1.Port{Name: "restored", NetworkId: n.GetId()})
		stored, err := client.Get(t.Context(), keys.Port(n.GetId(), restored.GetId()))
		f.must(err)
		early := f.restore(client, restored, stored.Kvs[0].Value, unknown.port)
		f.boundTo(early, "cmp1")
		unknown.port = early
		f.configure(unknown)
		f.reach(there.Space, unknown.ip)
		f.removeGuest(unknown)
	})
}
