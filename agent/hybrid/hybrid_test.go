package hybrid_test

import (
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/proto/model"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	portID   = "c0000001-0000-4000-8000-000000000001"
	groupID  = "a0000001-0000-4000-8000-000000000001"
	remoteID = "a0000002-0000-4000-8000-000000000002"
)

// filters are those of one port.
func filters(stateful bool, rules ...model.Rule) hybrid.Filters {
	prefix := netip.MustParsePrefix
	return hybrid.Filters{
		Ports: []hybrid.Port{{
			ID: portID, Tap: "tapvm", Out: "qvb", Zone: 7, Groups: []string{groupID}, Stateful: stateful, Servers: []string{"fa:16:3e:00:00:02"},
			Sources: []model.AddressPair{{Prefix: prefix("10.0.0.10/32"), MAC: "fa:16:3e:00:00:01"}, {Prefix: prefix("2001:db8::10/128"), MAC: "fa:16:3e:00:00:01"}},
		}},
		Rules:   map[string][]model.Rule{groupID: rules},
		Members: map[string][]netip.Prefix{remoteID: {prefix("10.0.0.20/32"), prefix("10.9.0.0/16"), prefix("2001:db8::20/128")}},
	}
}

func rule(change func(*model.Rule)) model.Rule {
	r := model.Rule{ID: "r", Group: groupID, Protocol: model.AnyProtocol, Ports: model.AllPorts(), Type: -1, Code: -1}
	change(&r)
	return r
}

func in(protocol model.Protocol, lowest, highest uint16) model.Rule {
	return rule(func(r *model.Rule) {
		r.Ingress, r.Protocol, r.Ports = true, protocol, model.PortRange{Min: lowest, Max: highest}
	})
}

func TestPlanReads(t *testing.T) {
	f := filters(true, in(model.ProtocolTCP, 22, 22),
		rule(func(r *model.Rule) { r.Ingress, r.RemoteGroup = true, remoteID }),
		rule(func(r *model.Rule) { r.Ingress, r.IPv6, r.RemoteGroup = true, true, remoteID }),
		rule(func(*model.Rule) {}), rule(func(r *model.Rule) { r.IPv6 = true }))
	p := hybrid.New(f)
	var b strings.Builder
	for _, tables := range []desired.IPTables{p.IPv4, p.IPv6} {
		text, err := iptables.Render(tables)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(text + "\n")
	}
	for _, s := range p.Sets {
		b.WriteString(s.Name + ":")
		for _, m := range s.Members {
			b.WriteString(" " + m.String())
		}
		b.WriteString("\n")
	}
	const golden = "testdata/plan.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestNoPortsNeedNothing(t *testing.T) {
	if diff := cmp.Diff(hybrid.Plan{}, hybrid.New(hybrid.Filters{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

func TestASetHoldsTheWholeOfAFamilyAsHalves(t *testing.T) {
	f := filters(true)
	f.Members[remoteID] = []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8")}
	var got []string
	for _, s := range hybrid.New(f).Sets {
		for _, m := range s.Members {
			got = append(got, m.String())
		}
	}
	if diff := cmp.Diff([]string{"0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1", "::/1", "8000::/1"}, got); diff != "" {
		t.Error(diff)
	}
}
