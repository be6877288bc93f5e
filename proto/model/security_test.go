package model_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func rule() *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{
		Id: id(20), SecurityGroupId: id(21), Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "tcp",
		PortMin: proto.Uint32(22), PortMax: proto.Uint32(25), Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "192.0.2.0/24"},
	}
}

func ping() *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{
		Id: id(20), SecurityGroupId: id(21), Direction: weftv1.Direction_DIRECTION_EGRESS, EtherType: weftv1.EtherType_ETHER_TYPE_IPV6, Protocol: "ipv6-icmp",
		IcmpType: proto.Uint32(128), IcmpCode: proto.Uint32(0), Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: id(22)},
	}
}

func addressGroup() *weftv1.AddressGroup {
	return &weftv1.AddressGroup{Id: id(23), Name: "office", Project: "p", Addresses: []string{"2001:db8::/32", "192.0.2.7", "192.0.2.0/28"}}
}

func securePort() *weftv1.Port {
	p := port()
	p.PortSecurityEnabled = proto.Bool(true)
	p.SecurityGroups = &weftv1.SecurityGroupIds{Ids: []string{id(22), id(21)}}
	p.AllowedAddressPairs = []*weftv1.AddressPair{{IpAddress: "10.10.10.50"}, {IpAddress: "10.10.11.0/24", MacAddress: "00:00:5E:00:01:01"}}
	p.VifType = weftv1.VifType_VIF_TYPE_HYBRID
	return p
}

func TestRuleFromReadsWhatItSays(t *testing.T) {
	for _, c := range []struct {
		name string
		in   *weftv1.SecurityGroupRule
		want model.Rule
	}{
		{"a range of ports from a prefix", rule(), model.Rule{
			ID: id(20), Group: id(21), Ingress: true, Protocol: model.ProtocolTCP, Ports: model.PortRange{Min: 22, Max: 25}, Type: -1, Code: -1,
			Prefix: netip.MustParsePrefix("192.0.2.0/24"),
		}},
		{"a type and code to a group", ping(), model.Rule{
			ID: id(20), Group: id(21), IPv6: true, Protocol: model.ProtocolICMPv6, Ports: model.AllPorts(), Type: 128, RemoteGroup: id(22),
		}},
		{"the family follows the prefix, an address is one", changed(rule(), func(r *weftv1.SecurityGroupRule) {
			r.Protocol, r.PortMin, r.PortMax = "", nil, nil
			r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "2001:db8::1"}
		}), model.Rule{
			ID: id(20), Group: id(21), Ingress: true, IPv6: true, Protocol: model.AnyProtocol, Ports: model.AllPorts(), Type: -1, Code: -1,
			Prefix: netip.MustParsePrefix("2001:db8::1/128"),
		}},
		{"one port", changed(rule(), func(r *weftv1.SecurityGroupRule) { r.PortMax, r.Remote = nil, nil }), model.Rule{
			ID: id(20), Group: id(21), Ingress: true, Protocol: model.ProtocolTCP, Ports: model.PortRange{Min: 22, Max: 22}, Type: -1, Code: -1,
		}},
		{"a protocol by number", changed(rule(), func(r *weftv1.SecurityGroupRule) {
			r.Protocol, r.PortMin, r.PortMax, r.Remote = "255", nil, nil, nil
		}), model.Rule{ID: id(20), Group: id(21), Ingress: true, Protocol: 255, Ports: model.AllPorts(), Type: -1, Code: -1}},
	} {
		got, err := model.RuleFrom(c.in)
		if diff := cmp.Diff(c.want, got, equalAddrs); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.name, err, diff)
		}
	}
}

func changed[M proto.Message](m M, change func(M)) M {
	change(m)
	return m
}

func TestRuleFromNamesTheFieldThatIsWrong(t *testing.T) {
	for _, c := range []struct {
		field, problem string
		change         func(*weftv1.SecurityGroupRule)
	}{
		{"direction", "ingress or egress", func(r *weftv1.SecurityGroupRule) { r.Direction = 0 }},
		{"direction", "ingress or egress", func(r *weftv1.SecurityGroupRule) { r.Direction = 9 }},
		{"ether_type", "is IPv6, remote_cidr", func(r *weftv1.SecurityGroupRule) { r.EtherType = weftv1.EtherType_ETHER_TYPE_IPV6 }},
		{"ether_type", "ipv4 or ipv6", func(r *weftv1.SecurityGroupRule) { r.EtherType = 7 }},
		{"protocol", "nor a name", func(r *weftv1.SecurityGroupRule) { r.Protocol = "tcp\n" }},
		{"protocol", "nor a name", func(r *weftv1.SecurityGroupRule) { r.Protocol = "256" }},
		{"protocol", "nor a name", func(r *weftv1.SecurityGroupRule) { r.Protocol = "-1" }},
		{"protocol", "ipv6-icmp over ipv6", func(r *weftv1.SecurityGroupRule) { r.Protocol, r.PortMin, r.PortMax = "ipv6-icmp", nil, nil }},
		// CVE-2019-9735: a port of a protocol without ports.
		{"port_min", "only tcp, udp", func(r *weftv1.SecurityGroupRule) { r.Protocol = "vrrp" }},
		{"port_min", "only tcp, udp", func(r *weftv1.SecurityGroupRule) { r.Protocol = "" }},
		{"port_min", "is required", func(r *weftv1.SecurityGroupRule) { r.PortMin = nil }},
		{"port_min", "above port_max", func(r *weftv1.SecurityGroupRule) { r.PortMin = proto.Uint32(26) }},
		{"port_max", "not in 0..65535", func(r *weftv1.SecurityGroupRule) { r.PortMax = proto.Uint32(65536) }},
		{"icmp_type", "only icmp", func(r *weftv1.SecurityGroupRule) { r.IcmpType = proto.Uint32(8) }},
		{"icmp_type", "not in 0..255", func(r *weftv1.SecurityGroupRule) {
			r.Protocol, r.PortMin, r.PortMax, r.IcmpType = "icmp", nil, nil, proto.Uint32(256)
		}},
		{"icmp_type", "is required", func(r *weftv1.SecurityGroupRule) {
			r.Protocol, r.PortMin, r.PortMax, r.IcmpCode = "icmp", nil, nil, proto.Uint32(0)
		}},
		{"remote_cidr", "host bits", func(r *weftv1.SecurityGroupRule) { setRemote(r, "192.0.2.1/24") }},
		{"remote_cidr", "written as IPv6", func(r *weftv1.SecurityGroupRule) { setRemote(r, "::ffff:192.0.2.0/120") }},
		{"remote_cidr", "neither an address nor", func(r *weftv1.SecurityGroupRule) { setRemote(r, "192.0.2.0/33") }},
		{"remote_cidr", "neither an address nor", func(r *weftv1.SecurityGroupRule) { setRemote(r, "fe80::1%eth0/64") }},
		{"remote_cidr", "neither an address nor", func(r *weftv1.SecurityGroupRule) { setRemote(r, "fe80::1%eth0") }},
		{"remote_group_id", "not a UUID", func(r *weftv1.SecurityGroupRule) {
			r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: "web"}
		}},
	} {
		wantField(t, c.field, c.problem, errOf(model.RuleFrom(changed(rule(), c.change))))
	}
}

func setRemote(r *weftv1.SecurityGroupRule, cidr string) {
	r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: cidr}
}

func errOf[T any](_ T, err error) error { return err }

func wantField(t *testing.T, field, problem string, err error) {
	t.Helper()
	for _, f := range model.FieldErrors(err) {
		if f.Field == field && strings.Contains(f.Problem, problem) {
			return
		}
	}
	t.Errorf("want %s: …%s…, got %v", field, problem, err)
}

func TestProtocolsComeBackFromTheirNames(t *testing.T) {
	for n := model.AnyProtocol; n <= 255; n++ {
		if got, ok := model.ParseProtocol(n.String()); !ok || got != n {
			t.Errorf("%d is written %q, which is read as %d (%v)", n, n, got, ok)
		}
	}
}

func TestPortFromReadsItsFilters(t *testing.T) {
	got, err := model.PortFrom(securePort())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{id(21), id(22)}, got.Groups); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]model.AddressPair{
		{Prefix: netip.MustParsePrefix("10.10.10.50/32"), MAC: "fa:16:3e:00:00:01"},
		{Prefix: netip.MustParsePrefix("10.10.11.0/24"), MAC: "00:00:5e:00:01:01"},
	}, got.Pairs, equalAddrs); diff != "" {
		t.Error(diff)
	}
	if !got.Secure || !got.Hybrid {
		t.Errorf("secure %v, hybrid %v", got.Secure, got.Hybrid)
	}
	if old, err := model.PortFrom(port()); err != nil || old.Secure {
		t.Errorf("a port from before security groups: secure %v, %v", old.Secure, err)
	}
}

func TestPortFromRefusesFiltersThatAreNone(t *testing.T) {
	pair := func(ip, mac string) func(*weftv1.Port) {
		return func(p *weftv1.Port) {
			p.AllowedAddressPairs = []*weftv1.AddressPair{{IpAddress: ip, MacAddress: mac}}
		}
	}
	for _, c := range []struct {
		field, problem string
		change         func(*weftv1.Port)
	}{
		// CVE-2015-3221, CVE-2014-3555: pairs that take everything, a group's address, or too many.
		{"allowed_address_pairs[0].ip_address", "every address there is", pair("0.0.0.0/0", "")},
		{"allowed_address_pairs[0].ip_address", "every address there is", pair("::/0", "")},
		{"allowed_address_pairs[0].ip_address", "no host can send from", pair("224.0.0.1", "")},
		{"allowed_address_pairs[0].ip_address", "no host can send from", pair("ff02::1", "")},
		{"allowed_address_pairs[0].ip_address", "no host can send from", pair("255.255.255.255", "")},
		{"allowed_address_pairs[0].ip_address", "no host can send from", pair("127.0.0.0/8", "")},
		{"allowed_address_pairs[0].ip_address", "neither an address nor", pair("", "")},
		{"allowed_address_pairs[0].mac_address", "multicast", pair("10.0.0.5", "01:00:5e:00:00:01")},
		{"allowed_address_pairs[0].mac_address", "multicast", pair("10.0.0.5", "ff:ff:ff:ff:ff:ff")},
		{"allowed_address_pairs[0].mac_address", "null", pair("10.0.0.5", "00:00:00:00:00:00")},
		{"allowed_address_pairs[1]", "stands twice", func(p *weftv1.Port) {
			p.AllowedAddressPairs = []*weftv1.AddressPair{{IpAddress: "10.0.0.5"}, {IpAddress: "10.0.0.5/32", MacAddress: p.GetMacAddress()}}
		}},
		{"allowed_address_pairs", "limit is 16", func(p *weftv1.Port) { p.AllowedAddressPairs = make([]*weftv1.AddressPair, 17) }},
		{"security_groups.ids", "limit is 16", func(p *weftv1.Port) { p.SecurityGroups.Ids = make([]string, 17) }},
		{"security_groups.ids[1]", "stands twice", func(p *weftv1.Port) { p.SecurityGroups.Ids = []string{id(21), id(21)} }},
		{"security_groups.ids[0]", "not a UUID", func(p *weftv1.Port) { p.SecurityGroups.Ids = []string{"default"} }},
		{"port_security_enabled", "no security groups", func(p *weftv1.Port) { p.PortSecurityEnabled = proto.Bool(false) }},
		{"port_security_enabled", "no allowed_address_pairs", func(p *weftv1.Port) {
			p.PortSecurityEnabled, p.SecurityGroups = proto.Bool(false), nil
		}},
		{"vif_type", "ovs or hybrid", func(p *weftv1.Port) { p.VifType = 9 }},
	} {
		wantField(t, c.field, c.problem, errOf(model.PortFrom(changed(securePort(), c.change))))
	}
}

func TestAddressGroupFromSortsAndRefusesDuplicates(t *testing.T) {
	got, err := model.AddressGroupFrom(addressGroup())
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32")}
	if diff := cmp.Diff(want, got.Addresses, equalAddrs); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	twice := addressGroup()
	twice.Addresses = append(twice.Addresses, "192.0.2.7/32")
	wantField(t, "addresses[3]", "stands twice", errOf(model.AddressGroupFrom(twice)))
	twice.Addresses = make([]string, model.MaxGroupAddresses+1)
	wantField(t, "addresses", "limit is 1000", errOf(model.AddressGroupFrom(twice)))
}

func TestInstanceFromHoldsItsLimits(t *testing.T) {
	good := &weftv1.Instance{Hostname: "web-1", PublicKeys: []string{"ssh-ed25519 AAAA me@home"}, UserData: make([]byte, model.MaxUserDataBytes), Metadata: map[string]string{"role": "web"}}
	if err := model.InstanceFrom(good); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		field, problem string
		in             *weftv1.Instance
	}{
		{"instance.hostname", "DNS label", &weftv1.Instance{Hostname: "a.b"}},
		{"instance.id", "control character", &weftv1.Instance{Id: "a\nb"}},
		{"instance.user_data", "limit is 16384", &weftv1.Instance{UserData: make([]byte, model.MaxUserDataBytes+1)}},
		{"instance.public_keys[0]", "control character", &weftv1.Instance{PublicKeys: []string{"ssh-rsa AAAA\nssh-rsa BBBB"}}},
		{"instance.public_keys[0]", "limits are 1 and 4096", &weftv1.Instance{PublicKeys: []string{""}}},
		{"instance.public_keys", "limit is 16", &weftv1.Instance{PublicKeys: make([]string, 17)}},
		{`instance.metadata["a"]`, "limit is 255", &weftv1.Instance{Metadata: map[string]string{"a": strings.Repeat("x", 256)}}},
	} {
		wantField(t, c.field, c.problem, model.InstanceFrom(c.in))
	}
}
