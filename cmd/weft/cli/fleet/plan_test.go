package fleet

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func mustParse(t testing.TB, text string) File {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f.Project == "" {
		f.Project = "default"
	}
	return f
}

// texts are the plan's lines without what is unchanged.
func planned(actions []Action) []string {
	var out []string
	for _, a := range Changes(actions) {
		out = append(out, a.String())
	}
	return out
}

func TestExampleIsPlannedInOrderAndSettles(t *testing.T) {
	text, err := os.ReadFile("../../../../deploy/examples/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f := mustParse(t, string(text))
	actions, err := Plan(Current{}, f)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"created segment range tenant-vlans",
		"created network ext1", "created network web", "created network db",
		"created subnet ext1/ext1-v4", "created subnet web/web-v4", "created subnet db/db-v4",
		"created address group offices",
		"created security group web", "created security group db", "created security group default",
		"updated security group web: rule egress ipv4 added",
		"updated security group web: rule ingress ipv4 tcp ports 80-81 0.0.0.0/0 added",
		"updated security group web: rule ingress ipv4 tcp port 22 addresses offices added",
		"updated security group web: rule ingress ipv4 icmp type 8 code 0 added",
		"updated security group db: rule ingress ipv4 tcp port 5432 group web added",
		"updated security group db: rule ingress ipv4 group db added",
		"created port web1", "created port db1",
		"created floating IP www", // its address is taken before the gateway gets one
		"created router edge",
		"created port web2",
		"updated router edge: gateway on ext1",
		"updated router edge: interface in web-v4 added", "updated router edge: interface in db-v4 added",
		"updated router edge: route 192.168.0.0/16 via 10.10.20.5 added",
		"updated floating IP www: port_id",
	}
	if diff := cmp.Diff(want, planned(actions)); diff != "" {
		t.Fatalf("plan (-want +got):\n%s", diff)
	}
	again, err := Plan(take(t, Current{}, actions), f)
	if err != nil {
		t.Fatal(err)
	}
	if got := Summary(again); got != "no changes" {
		t.Errorf("second plan: %s\n%s", got, strings.Join(planned(again), "\n"))
	}
	if got := Summary(actions); got != "16 created, 0 updated, 0 unchanged" {
		t.Errorf("summary of the first plan: %s", got)
	}
}

func TestChangesOfAFile(t *testing.T) {
	const nets = `
networks:
- {name: ext, external: true, subnets: [{name: e, cidr: 203.0.113.0/24}]}
- {name: ext2, external: true}
- {name: net, mtu: 1400, subnets: [{name: a, cidr: 10.0.0.0/24, dns_nameservers: [192.0.2.1, 192.0.2.2], host_routes: [{destination: 10.8.0.0/16, nexthop: 10.0.0.9}]}, {name: b, cidr: 10.0.1.0/24}]}
`
	for _, tc := range []struct {
		name, before, after string
		want                []string
	}{
		{"a changed field", nets, strings.Replace(nets, "1400", "1300", 1), []string{"updated network net: mtu"}},
		{"an address written otherwise is the same", `ports: [{name: p, network: x, mac_address: "FA-16-3E-00-00-01", fixed_ips: ["10.0.0.5"]}]
networks: [{name: x}]`, `ports: [{name: p, network: x, mac_address: "fa:16:3e:00:00:01"}]
networks: [{name: x}]`, nil},
		{
			"values that leave the choice to the controllers", nets,
			strings.Replace(nets, "mtu: 1400,", `mtu: 0, segmentation_id: 0, dns_domain: "", physical_network: "",`, 1) +
				`ports: [{name: p, network: net, mac_address: ""}]`,
			[]string{"created port p"},
		},
		{
			"a port without addresses", nets, nets + `ports: [{name: p, network: net, fixed_ips: []}]`,
			[]string{"created port p", "updated port p: fixed_ips"},
		},
		{
			"a port loses its addresses", nets + `ports: [{name: p, network: net}]`, nets + `ports: [{name: p, network: net, fixed_ips: []}]`,
			[]string{"updated port p: fixed_ips"},
		},
		{"name servers have an order", nets, strings.Replace(nets, "192.0.2.1, 192.0.2.2", "192.0.2.2, 192.0.2.1", 1), []string{"updated subnet net/a: dns_nameservers"}},
		{
			"a network is granted to others", "networks: [{name: net, granted_to: [blue, green]}]", "networks: [{name: net, granted_to: [red, blue]}]",
			[]string{"updated network net: granted to red", "updated network net: grant to green revoked"},
		},
		{"grants left out stay", "networks: [{name: net, granted_to: [blue]}]", "networks: [{name: net}]", nil},
		{"an empty list clears", nets, strings.Replace(nets, "[192.0.2.1, 192.0.2.2]", "[]", 1), []string{"updated subnet net/a: dns_nameservers"}},
		{"a list left out stays", nets, strings.Replace(nets, "dns_nameservers: [192.0.2.1, 192.0.2.2],", "", 1), nil},
		{"default true given", nets, strings.Replace(nets, "name: b,", "name: b, enable_dhcp: true,", 1), nil},
		{"default true negated", nets, strings.Replace(nets, "name: b,", "name: b, enable_dhcp: false,", 1), []string{"updated subnet net/b: enable_dhcp"}},
		{
			"a subnet moves to another router", nets + "routers: [{name: r1, interfaces: [a]}, {name: r2, interfaces: [b]}]",
			nets + "routers: [{name: r1, interfaces: [b]}, {name: r2, interfaces: [a]}]",
			[]string{
				"updated router r1: interface of subnet-net/a-5 removed", "updated router r2: interface of subnet-net/b-6 removed",
				"updated router r1: interface in b added", "updated router r2: interface in a added",
			},
		},
		{
			"nodes and pools", "networks: [{name: one, pool: a}, {name: m, dhcp_servers: 1, pool: none}]\nrouters: [{name: r, ha: 2, pool: a}]",
			"networks: [{name: one, pool: none}, {name: m, dhcp_servers: 3, pool: none}]\nrouters: [{name: r, ha: 0, pool: b}]",
			[]string{"updated network one: pool", "updated network m: dhcp_servers", "updated router r: ha, pool"},
		},
		{
			"interfaces and gateway left out stay", nets + "routers: [{name: r1, interfaces: [a], gateway: ext}]",
			nets + "routers: [{name: r1}]", nil,
		},
		{
			"a gateway moves", nets + "routers: [{name: r1, gateway: ext}]", nets + "routers: [{name: r1, gateway: {network: ext2}}]",
			[]string{"updated router r1: gateway on ext2"},
		},
		{
			"a gateway goes", nets + "routers: [{name: r1, gateway: ext}]", nets + "routers: [{name: r1, gateway: none}]",
			[]string{"updated router r1: gateway cleared"},
		},
		{
			"snat is switched off, addresses stay", nets + "routers: [{name: r1, gateway: ext}]",
			nets + "routers: [{name: r1, gateway: {network: ext, enable_snat: false}}]",
			[]string{"updated router r1: gateway on ext"},
		},
		{
			"routes are replaced", nets + "routers: [{name: r1, routes: [{destination: 10.9.0.0/16, nexthop: 10.0.0.4}]}]",
			nets + "routers: [{name: r1, routes: [{destination: 10.9.0.0/16, nexthop: 10.0.0.5}]}]",
			[]string{"updated router r1: route 10.9.0.0/16 via 10.0.0.4 removed", "updated router r1: route 10.9.0.0/16 via 10.0.0.5 added"},
		},
		{
			"floating IPs swap their ports",
			nets + "ports: [{name: p1, network: net}, {name: p2, network: net}]\nfloating_ips: [{name: f1, network: ext, port: p1}, {name: f2, network: ext, port: p2}]",
			nets + "ports: [{name: p1, network: net}, {name: p2, network: net}]\nfloating_ips: [{name: f1, network: ext, port: p2}, {name: f2, network: ext, port: p1}]",
			[]string{
				"updated floating IP f1: disassociated", "updated floating IP f2: disassociated",
				"updated floating IP f1: port_id", "updated floating IP f2: port_id",
			},
		},
		{
			"a floating IP moves in one step",
			nets + "ports: [{name: p1, network: net}, {name: p2, network: net}]\nfloating_ips: [{name: f1, network: ext, port: p1}]",
			nets + "ports: [{name: p1, network: net}, {name: p2, network: net}]\nfloating_ips: [{name: f1, network: ext, port: p2}]",
			[]string{"updated floating IP f1: port_id"},
		},
		{
			"a floating IP is let go", nets + "ports: [{name: p1, network: net}]\nfloating_ips: [{name: f1, network: ext, port: p1}]",
			nets + "floating_ips: [{name: f1, network: ext, port: none}]",
			[]string{"updated floating IP f1: disassociated"},
		},
		{
			"rules in other words are the same",
			`security_groups: [{name: web, rules: [{direction: ingress, protocol: tcp, port_min: 80}, {direction: egress, remote_cidr: "2001:DB8::1"}]}]`,
			`security_groups: [{name: web, stateful: true, rules: [{direction: Ingress, family: ipv4, protocol: "6", port_min: 80, port_max: 80}, {direction: egress, family: ipv6, remote_cidr: "2001:db8::1/128"}]}]`,
			nil,
		},
		{
			"rules are replaced, the new one first",
			`security_groups: [{name: web, rules: [{direction: ingress, protocol: tcp, port_min: 80}]}]`,
			`security_groups: [{name: web, rules: [{direction: ingress, protocol: tcp, port_min: 443}]}]`,
			[]string{"updated security group web: rule ingress ipv4 tcp port 443 added", "updated security group web: rule ingress ipv4 tcp port 80 removed"},
		},
		{
			"rules left out stay",
			`security_groups: [{name: web, rules: [{direction: egress}]}]`, `security_groups: [{name: web, description: x}]`,
			[]string{"updated security group web: description"},
		},
		{
			"the default group has rules of its own", "", `security_groups: [{name: default, rules: [{direction: egress}, {direction: ingress, protocol: icmp}]}]`,
			[]string{
				"created security group default", "updated security group default: rule ingress ipv4 icmp added",
				"updated security group default: rule ingress ipv4 group default removed", "updated security group default: rule egress ipv6 removed",
				"updated security group default: rule ingress ipv6 group default removed",
			},
		},
		{
			"a port changes its groups", nets + "security_groups: [{name: a}, {name: b}]\nports: [{name: p, network: net, security_groups: [a, b]}, {name: q, network: net, security_groups: [a]}]",
			nets + "security_groups: [{name: a}, {name: b}]\nports: [{name: p, network: net, security_groups: [b, a]}, {name: q, network: net, port_security_enabled: false}]",
			[]string{"updated port q: port_security_enabled, security_groups"},
		},
		{
			"addresses are a set", `address_groups: [{name: a, addresses: [10.0.0.0/8, 192.0.2.1]}]`,
			`address_groups: [{name: a, addresses: [192.0.2.1/32, 10.0.0.0/8]}]`, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first, err := Plan(Current{}, mustParse(t, tc.before))
			if err != nil {
				t.Fatal(err)
			}
			cur := take(t, Current{}, first)
			second, err := Plan(cur, mustParse(t, tc.after))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, planned(second)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			third, err := Plan(take(t, cur, second), mustParse(t, tc.after))
			if err != nil || len(Changes(third)) > 0 {
				t.Errorf("third plan: %v, %v", planned(third), err)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	cur := Current{
		Networks: []*weftv1.Network{
			{Id: "1", Name: "net", Project: "default", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN},
			{Id: "2", Name: "twice", Project: "default"},
			{Id: "3", Name: "twice", Project: "default"},
			{Id: "4", Name: "foreign", Project: "other"},
			{Id: "5", Name: "public", Project: "other", External: true},
			{Id: "6", Name: "lent", Project: "other"},
		},
		Grants: []*weftv1.NetworkGrant{{Id: "20", NetworkId: "4", TargetProject: "third"}, {Id: "21", NetworkId: "6", TargetProject: "default"}},
		Subnets: []*weftv1.Subnet{
			{Id: "10", Name: "s", Project: "default", NetworkId: "1", Cidr: "10.0.0.0/24"},
			{Id: "11", Name: "s", Project: "default", NetworkId: "2", Cidr: "10.0.0.0/24"},
		},
	}
	for _, tc := range []struct{ name, file, want string }{
		{"an immutable field", "networks: [{name: net, type: gre}]", `networks[0] (net): type: is vxlan and can't be changed to gre`},
		{"an immutable field of a subnet", "networks: [{name: net, subnets: [{name: s, cidr: 10.1.0.0/24}]}]", `cidr: is 10.0.0.0/24 and can't be changed to 10.1.0.0/24`},
		{"a type that does not exist", "networks: [{name: m, type: ipip}]", `type: "ipip" is not one of`},
		{"an ambiguous name", "networks: [{name: twice}]", `2 stored networks are called "twice": 2, 3`},
		{"an ambiguous reference", "ports: [{name: p, network: twice}]", `ports[0] (p): 2 stored networks are called "twice": 2, 3`},
		{"an ambiguous subnet", "routers: [{name: r, interfaces: [s]}]", `2 subnets are called "s"; write NETWORK/s`},
		{"a network of another project", "ports: [{name: p, network: foreign}]", `no network is called "foreign"`},
		{"a reference to nothing", "floating_ips: [{name: f, network: public, port: nix}]", `no port is called "nix"`},
		{"a grant twice", "networks: [{name: net, granted_to: [blue, blue]}]", `granted_to: blue stands there twice`},
		{"two of one name", "routers: [{name: r}, {name: r}]", `routers[1] (r): the file holds two routers of this name`},
		{"a missing name", "ports: [{network: net}]", `ports[0] (): name: is missing`},
		{"an interface without subnet and port", "routers: [{name: r, interfaces: [{}]}]", `each needs either a subnet or a port`},
		{"an interface twice", "routers: [{name: r, interfaces: [net/s, net/s]}]", `net/s stands there twice`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			actions, err := Plan(cur, mustParse(t, tc.file))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if actions != nil {
				t.Errorf("a refused plan has steps: %v", planned(actions))
			}
		})
	}
	if _, err := Plan(cur, mustParse(t, "floating_ips: [{name: f, network: public}]\nrouters: [{name: r, gateway: public, interfaces: [net/s]}]\nports: [{name: p, network: lent}]")); err != nil {
		t.Errorf("networks of another project that are external, or granted, may be used: %v", err)
	}
}

// drawFile draws a file whose objects have few names, so that files overlap; what is immutable follows from the name.
func drawFile(t *rapid.T) File {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	some := func(label string) bool { return rapid.Bool().Draw(t, label) }
	f := File{Project: "default", Networks: []Network{{Name: "ext", External: proto.Bool(true)}}}
	for _, n := range []string{"n1", "n2"} {
		net := Network{Name: n}
		if some(n + " mtu") {
			net.MTU = proto.Int32(rapid.Int32Range(1300, 1302).Draw(t, "mtu"))
		}
		if some(n + " granted") {
			net.GrantedTo = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"red", "blue"}), 0, 2, rapid.ID).Draw(t, "grants")
		}
		for i, s := range []string{"a", "b"} {
			sub := Subnet{Name: n + s, CIDR: fmt.Sprintf("10.%s.%d.0/24", n[1:], i)}
			if some("dns of " + sub.Name) {
				sub.DNSNameservers = rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2"}), 0, 2).Draw(t, "dns")
			}
			if some("pool of " + sub.Name) {
				sub.AllocationPools = []Pool{{"10.0.0.2", pick("end", "10.0.0.3", "10.0.0.4")}}
			}
			net.Subnets = append(net.Subnets, sub)
		}
		f.Networks = append(f.Networks, net)
	}
	drawGroups(t, &f, pick, some)
	for _, name := range []string{"p1", "p2", "p3"} {
		p := Port{Name: name, Network: "n1"}
		if some("addresses of " + name) {
			p.FixedIPs = []FixedIP{{Subnet: pick("subnet", "n1a", "n1/n1b")}, {IPAddress: pick("ip", "10.1.0.7", "10.1.0.8")}}
		}
		if some("options of " + name) {
			p.ExtraDHCPOpts = map[string]string{"ntp-server": pick("ntp", "192.0.2.1", "192.0.2.2")}
		}
		switch pick("security of "+name, "", "none", "off", "g1") {
		case "none":
			p.SecurityGroups = []string{}
		case "off":
			p.PortSecurity = proto.Bool(false)
		case "g1":
			p.PortSecurity, p.SecurityGroups = proto.Bool(true), []string{"g1", "default"}
			p.AddressPairs = []AddressPair{{IPAddress: pick("pair", "10.9.0.1", "10.9.0.1/32"), MACAddress: pick("pair's MAC", "", "FA-16-3E-00-00-01")}}
		}
		f.Ports = append(f.Ports, p)
	}
	homes := map[string][]Interface{"r1": {}, "r2": {}}
	for _, s := range []string{"n1a", "n1b", "n2a", "n2b"} {
		if r := pick("router of "+s, "r1", "r2", "none"); r != "none" {
			homes[r] = append(homes[r], Interface{Subnet: s})
		}
	}
	for name, in := range homes {
		r := Router{Name: name, Interfaces: in}
		if some("gateway of " + name) {
			r.Gateway = &Gateway{Network: pick("gateway", "ext", "none")}
		}
		if some("routes of " + name) {
			r.Routes = []Route{{pick("destination", "10.8.0.0/16", "10.9.0.0/16"), "10.1.0.9"}}
		}
		f.Routers = append(f.Routers, r)
	}
	ports := rapid.Permutation([]string{"p1", "p2", "p3", "none", "none"}).Draw(t, "ports of floating IPs")
	for i, name := range []string{"f1", "f2", "f3"} {
		f.FloatingIPs = append(f.FloatingIPs, FloatingIP{Name: name, Network: "ext", Port: &ports[i]})
	}
	return f
}

// drawGroups adds security groups that refer to each other and to an address group.
func drawGroups(t *rapid.T, f *File, pick func(string, ...string) string, some func(string) bool) {
	addresses := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"}), 0, 3, rapid.ID).Draw(t, "addresses")
	f.AddressGroups = []AddressGroup{{Name: "a", Addresses: append([]string{}, addresses...)}}
	for _, name := range []string{"g1", "default"} {
		g := SecurityGroup{Name: name}
		if some("rules of " + name) {
			g.Rules = []Rule{}
		}
		for _, r := range []Rule{
			{Direction: "egress"},
			{Direction: "ingress", RemoteGroup: pick("remote of "+name, "g1", "default")},
			{Direction: "ingress", Protocol: pick("protocol of "+name, "tcp", "6", "udp"), PortMin: proto.Uint32(1), RemoteAddressGroup: "a"},
		} {
			if g.Rules != nil && some("rule") {
				g.Rules = append(g.Rules, r)
			}
		}
		f.SecurityGroups = append(f.SecurityGroups, g)
	}
}

func TestAnyFileAppliedAfterAnyOtherSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var cur Current
		for range 3 {
			f := drawFile(t)
			actions, err := Plan(cur, f)
			if err != nil {
				t.Fatalf("plan: %v", err)
			}
			cur = take(t, cur, actions)
			again, err := Plan(cur, f)
			if err != nil {
				t.Fatalf("second plan: %v", err)
			}
			if len(Changes(again)) > 0 || Summary(again) != "no changes" {
				t.Fatalf("a second apply would change something:\n%s", strings.Join(planned(again), "\n"))
			}
		}
	})
}

func TestPlanDoesNotChangeItsArguments(t *testing.T) {
	cur := Current{Networks: []*weftv1.Network{{Id: "1", Name: "net", Project: "default", Mtu: 1400}}}
	before := proto.CloneOf(cur.Networks[0])
	if _, err := Plan(cur, mustParse(t, "networks: [{name: net, mtu: 1300}]")); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(before, cur.Networks[0]) {
		t.Errorf("the stored network was changed: %v", cur.Networks[0])
	}
}

func TestFillNeedsEveryID(t *testing.T) {
	req := &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: placeholder("network", "net"), FixedIps: []*weftv1.FixedIp{{SubnetId: placeholder("subnet", "net/s")}}}}
	if _, err := Fill(req, map[string]string{placeholder("network", "net"): "1"}); err == nil || !strings.Contains(err.Error(), "subnet net/s") {
		t.Errorf("a missing id: %v", err)
	}
	got, err := Fill(req, map[string]string{placeholder("network", "net"): "1", placeholder("subnet", "net/s"): "2"})
	if err != nil {
		t.Fatal(err)
	}
	want := &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: "1", FixedIps: []*weftv1.FixedIp{{SubnetId: "2"}}}}
	if !proto.Equal(got, want) {
		t.Errorf("filled: %v", got)
	}
}
