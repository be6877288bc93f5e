package e2e_test

import (
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func TestZZ(t *testing.T) {
	f := newFleet(t, "e2e-zz", func(o *lab.Options) { o.NetworkNodes, o.Externals = 1, 0 })
	n, s := f.vxlan("n", "10.10.0.0/24")
	there := f.guest("there", "cmp2", n)
	mk := func(name string) *guest {
		return f.guestOf(name, "cmp1", f.port(&weftv1.Port{Name: name, NetworkId: n.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.GetId(), IpAddress: "10.10.0.52"}}}))
	}
	a := mk("a")
	f.reach(there.Space, a.ip)
	f.removeGuest(a)
	b := mk("b")
	t.Log(b.Spec.Port.MAC)
	c := f.capture(there.Space, "eth0", "arp")
	st := time.Now()
	run, _ := b.StartPing(t.Context(), echo.Options{Destination: there.ip})
	for i := 0; i < 40; i++ {
		out := f.sh(there.Space, "ip neigh show | grep 10.10.0.52 || true")
		t.Log(time.Since(st), run.Snapshot().Received, out)
		time.Sleep(500 * time.Millisecond)
	}
	run.Stop()
	for i, p := range f.seen(c) {
		if i < 40 {
			t.Log(p)
		}
	}
	t.Log(f.sh(f.host("cmp2").Space, "ovs-ofctl dump-flows br-tun table=2; ovs-ofctl dump-flows br-tun table=21; ovs-ofctl dump-flows br-tun table=20"))
}
