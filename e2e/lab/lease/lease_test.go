package lease

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t *testing.T, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	base := []dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(10, 10, 10, 7)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 10, 10, 1)),
	}
	message, err := dhcpv4.New(append(base, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestStaticRoutesReplaceTheRouterOption(t *testing.T) {
	_, link, _ := net.ParseCIDR("169.254.169.254/32")
	_, far, _ := net.ParseCIDR("10.20.0.0/16")
	byRouter := []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.10.10.1")}}
	byStatic := []Route{
		{Destination: netip.MustParsePrefix("169.254.169.254/32")},
		{Destination: netip.MustParsePrefix("10.20.0.0/16"), Gateway: netip.MustParseAddr("10.10.10.9")},
	}
	for name, c := range map[string]struct {
		message *dhcpv4.DHCPv4
		want    []Route
	}{
		"router only": {ack(t), byRouter},
		"both": {ack(t, dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: link, Router: net.IPv4zero}, &dhcpv4.Route{Dest: far, Router: net.IPv4(10, 10, 10, 9)}))), byStatic},
	} {
		got, err := parse(c.message)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got.Routes, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestLeaseCarriesAddressAndMTU(t *testing.T) {
	got, err := parse(ack(t, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0xaa})))
	if err != nil {
		t.Fatal(err)
	}
	if got.Address != netip.MustParsePrefix("10.10.10.7/24") || got.MTU != 1450 {
		t.Errorf("got %+v", got)
	}
}

func TestLeaseWithoutMaskIsRefused(t *testing.T) {
	message, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 10, 10, 7)))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := parse(message); err == nil {
		t.Fatalf("accepted: %+v", l)
	}
}
