package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/plan"
)

// An agent that is killed before OVS has taken a router's device has announced nothing that anybody heard; the next one finds
// the addresses there.
func TestAddressesAreAnnouncedThoughTheAgentWasKilledBeforeOVSTookTheDevice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	stateDir, id := t.TempDir(), uuid.NewString()
	if err := os.Chmod(filepath.Dir(stateDir), 0o755); err != nil { // dnsmasq's user looks into it
		t.Fatal(err)
	}
	address := netip.MustParseAddr("203.0.113.9")
	want := &plan.Router{Namespace: desired.Namespace{Name: plan.RouterNamespace(id), Links: []desired.Link{{
		Name: plan.DeviceName("qg-", id), MAC: "fa:16:3e:00:00:01", MTU: 1500,
		Addresses: []netip.Prefix{netip.PrefixFrom(address, 24)}, Announce: []netip.Addr{address},
	}}}}
	first := servicesBeside(t, stateDir, false)
	t.Cleanup(func() {
		if err := first.remove(context.Background(), unit{"router", id}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	for _, attempt := range []struct {
		what     string
		services *services
		announce int
	}{
		{"the first agent, before OVS has the device", first, 1},
		{"the second, before OVS has the device", servicesBeside(t, stateDir, false), 1},
		{"the third, when OVS has had it for long", servicesBeside(t, stateDir, true), 0},
	} {
		var w waiting
		if err := attempt.services.router(t.Context(), id, want, &w); err != nil {
			t.Fatal(err)
		}
		heard := map[netip.Addr]bool{}
		for _, a := range w.announce {
			heard[a.Address] = true
		}
		if len(heard) != attempt.announce || (attempt.announce == 1 && !heard[address]) {
			t.Errorf("%s: announces %v", attempt.what, w.announce)
		}
	}
}
