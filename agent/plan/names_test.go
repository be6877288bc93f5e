package plan_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"google.golang.org/protobuf/proto"
)

// TestDHCPNamesAPortAsItsInstanceIsCalled gives the ports of a network names and looks for what DHCP makes of them.
func TestDHCPNamesAPortAsItsInstanceIsCalled(t *testing.T) {
	for _, c := range []struct {
		what   string
		wishes []string
		names  []string
	}{
		{"a name", []string{"Web_1"}, []string{"web-1"}},
		{"two names", []string{"web", "db"}, []string{"db", "web"}},
		{"one name twice, in other letters", []string{"web", "WEB"}, nil},
		{"another's address", []string{"host-10-0-0-9"}, nil},
		{"where hosts look for a proxy by themselves", []string{"WPAD", "isatap"}, nil},
		{"the host itself", []string{"localhost"}, nil},
		{"what looks like a lease time", []string{"1h"}, []string{"1h"}}, // the domain follows it
	} {
		var wished []string
		n := changed(t, func(s *storeSim, _ *node) {
			for _, e := range fleet() {
				p, ok := e.value.(*weftv1.Port)
				if !ok || p.GetNetworkId() != netVXLAN || p.GetDeviceOwner() != "compute:nova" || len(wished) == len(c.wishes) {
					continue
				}
				p = proto.CloneOf(p)
				p.Hostname = c.wishes[len(wished)]
				wished = append(wished, p.Hostname)
				s.put(keys.Port(netVXLAN, p.GetId()), p)
			}
		})
		if len(wished) != len(c.wishes) {
			t.Fatalf("%s: the fleet has only %d VMs on the network", c.what, len(wished))
		}
		d := n.planner.DHCP()[netVXLAN]
		var names []string
		for _, m := range regexp.MustCompile(`(?m)^\S+\s+(\S+?)\.`).FindAllStringSubmatch(d.Server.Files["addn_hosts"], -1) {
			if m[1][:min(5, len(m[1]))] != "host-" {
				names = append(names, m[1])
			}
		}
		slices.Sort(names)
		if !slices.Equal(names, c.names) || len(d.Rejected) > 0 {
			t.Errorf("%s: named %q, want %q; rejected %v:\n%s", c.what, names, c.names, d.Rejected, d.Server.Files["addn_hosts"])
		}
	}
}
