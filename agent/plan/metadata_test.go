package plan_test

import (
	"strings"
	"testing"

	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"google.golang.org/protobuf/proto"
)

const (
	interception = "-d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
	classless    = "option:classless-static-route,169.254.169.254/32,"
)

// changed is net1 with the whole fleet, as it is when something has been changed.
func changed(t *testing.T, change func(s *storeSim, n *node)) *node {
	t.Helper()
	s := newStore()
	for _, e := range fleet() {
		s.put(e.key, e.value)
	}
	n := newNode(s, "net1", factsOf("net1", addresses()["net1"]))
	change(s, n)
	n.follow()
	n.plan()
	n.learn()
	return n
}

// without puts the router as it is without something.
func without(t *testing.T, take func(*weftv1.Router)) func(*storeSim, *node) {
	t.Helper()
	return func(s *storeSim, _ *node) {
		for _, e := range fleet() {
			if e.key == keys.Router(router1) {
				r := proto.Clone(e.value).(*weftv1.Router)
				take(r)
				s.put(e.key, r)
			}
		}
	}
}

func TestARouterWithoutAGatewayServesMetadataAndHasNoOtherRules(t *testing.T) {
	n := changed(t, without(t, func(r *weftv1.Router) { r.ExternalGateway = nil }))
	r := n.planner.Routers()[router1]
	if r.Metadata == nil {
		t.Fatal("nothing listens")
	}
	ip := r.Namespace.IPTables
	if len(ip.Jumps) != 1 || len(ip.Chains) != 1 || len(ip.Chains[0].Rules) != 1 || ip.Chains[0].Rules[0] != interception {
		t.Errorf("rules %+v", ip)
	}
}

func TestOnlySubnetsWithoutARouterGetARouteToTheDHCPServer(t *testing.T) {
	n := changed(t, func(*storeSim, *node) {})
	for network, want := range map[string]bool{netVXLAN: false, netGRE: true} {
		d := n.planner.DHCP()[network]
		if d.Metadata == nil {
			t.Fatalf("network %s: nothing listens", network)
		}
		if got := strings.Contains(d.Server.Files["opts"], classless); got != want {
			t.Errorf("network %s: a route %v, want %v:\n%s", network, got, want, d.Server.Files["opts"])
		}
	}
}

func TestANodeThatServesNoMetadataPlansNone(t *testing.T) {
	n := changed(t, func(_ *storeSim, n *node) { n.facts.Metadata = false })
	if text := n.text(t); strings.Contains(text, "169.254") || strings.Contains(text, "metadata") {
		t.Errorf("something of it is planned:\n%s", text)
	}
}
