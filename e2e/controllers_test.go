package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	labfleet "github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestControllerKilledUnderLoad holds that any replica serves any call: commands go on, each is done once, and what runs in the
// background goes on too.
func TestControllerKilledUnderLoad(t *testing.T) {
	f := newFleet(t, "e2e-controllers", func(o *lab.Options) { o.NetworkNodes, o.Externals, o.Controllers, o.Etcd = 1, 0, 2, 1 })
	f.must(labfleet.Unlimited(t.Context(), weftv1.NewQuotaServiceClient(f.connected)))
	n, _ := f.vxlan("n", "10.10.0.0/16")
	a, b := f.guest("a", "cmp1", n), f.guest("b", "cmp2", n)
	running := f.ping(a.Space, b.ip)
	ctl1, ctl2 := f.host("ctl1"), f.host("ctl2")

	var mu sync.Mutex
	created := map[string]int{}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for client := range 3 {
		clients.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("p-%d-%d", client, i)
				if _, err := f.weft(t.Context(), "port", "create", name, "--network", "n"); err != nil && t.Context().Err() == nil {
					t.Errorf("a command failed: %v", err)
				}
				mu.Lock()
				created[name] = 0
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-t.Context().Done(): // the test has failed
					return
				default:
				}
			}
		})
	}
	t.Cleanup(clients.Wait)
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(created) }
	more := func(when string) {
		t.Helper()
		want := count() + 10
		deadline := time.Now().Add(patience)
		for count() < want {
			if time.Now().After(deadline) {
				t.Fatalf("%s, no more commands get through", when)
			}
			f.pause(20 * time.Millisecond)
		}
	}
	more("at first")
	f.must(ctl1.Kill(t.Context(), lab.ControllerDaemon))
	more("without ctl1")
	late := f.prepare("late", "cmp1", f.portBy(t, "late"))
	f.plug(late)
	f.configure(late) // the other replica has bound the port
	f.reach(late.Space, b.ip)
	f.must(ctl1.Start(t.Context(), lab.ControllerDaemon))
	more("with ctl1 again")
	f.must(ctl2.Kill(t.Context(), lab.ControllerDaemon))
	more("without ctl2")
	f.must(ctl2.Start(t.Context(), lab.ControllerDaemon))
	close(stop)
	clients.Wait()

	out, err := f.weft(t.Context(), "port", "list", "-o", "json")
	f.must(err)
	var ports []struct{ Name string }
	f.must(json.Unmarshal([]byte(out), &ports))
	for _, p := range ports {
		if strings.HasPrefix(p.Name, "p-") {
			created[p.Name]++
		}
	}
	for name, n := range created {
		if n != 1 {
			t.Errorf("port %s is there %d times", name, n)
		}
	}
	t.Logf("%d ports were created", len(created))
	running.steady()
}

// portBy creates a port on network n through the command line, which finds a controller that lives.
func (f *fleet) portBy(t *testing.T, name string) *weftv1.Port {
	t.Helper()
	out, err := f.weft(t.Context(), "port", "create", name, "--network", "n", "-o", "json")
	f.must(err)
	var p struct {
		ID  string `json:"id"`
		MAC string `json:"mac_address"`
	}
	f.must(json.Unmarshal([]byte(out), &p))
	return &weftv1.Port{Id: p.ID, Name: name, MacAddress: p.MAC}
}
