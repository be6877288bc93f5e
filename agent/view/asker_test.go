package view_test

import (
	"net/netip"
	"testing"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// portWith stores a port of a network with an address of one of its subnets.
func (f *follower) portWith(n, network, subnet int, ip, owner, device string) string {
	p := &weftv1.Port{
		Id: id("c", n), Project: "default", NetworkId: id("a", network), MacAddress: "fa:16:3e:00:01:0" + id("c", n)[7:8],
		FixedIps: []*weftv1.FixedIp{{SubnetId: id("b", subnet), IpAddress: ip}}, DeviceOwner: owner, DeviceId: device,
	}
	f.put(keys.Port(p.GetNetworkId(), p.GetId()), p)
	return p.GetId()
}

// Two networks have the same addresses; a router that this node holds is on the first of them, in one of its two subnets.
func TestAnAskerIsTheVMOfItsOwnRouterOrNetworkAlone(t *testing.T) {
	f := newFollower(map[string]mirror.Change{})
	router := id("d", 1)
	for _, n := range []int{1, 2} {
		f.put(keys.Network(id("a", n)), network(id("a", n)))
		f.put(keys.HostObject(self, keys.KindDHCP, id("a", n)), &storev1.DhcpBinding{PortId: id("c", 9)})
	}
	gateway := f.portWith(1, 1, 1, "10.0.0.1", model.OwnerRouterInterface, router)
	first := f.portWith(2, 1, 1, "10.0.0.2", "compute:nova", "vm")
	second := f.portWith(3, 2, 2, "10.0.0.2", "compute:nova", "vm")
	apart := f.portWith(4, 1, 3, "10.3.0.4", "compute:nova", "vm") // in a subnet that the router is not in
	f.put(keys.Router(router), &weftv1.Router{Id: router, Project: "default", Interfaces: []*weftv1.RouterInterface{
		{NetworkId: id("a", 1), SubnetId: id("b", 1), PortId: gateway, IpAddress: "10.0.0.1"},
	}})
	f.put(keys.HostObject(self, keys.KindRouter, router), &storev1.RouterBinding{Nodes: []string{self}})
	f.follow()
	if len(f.Invalid) > 0 {
		t.Fatal(f.Invalid)
	}
	for _, c := range []struct {
		at, network string // network: of a DHCP namespace; "": of the router's
		want        string
	}{
		{"10.0.0.2", "", first},
		{"10.0.0.2", id("a", 1), first},
		{"10.0.0.2", id("a", 2), second},
		{"10.0.0.1", "", ""}, // the router itself
		{"10.0.0.1", id("a", 1), ""},
		{"10.3.0.4", "", ""},
		{"10.3.0.4", id("a", 1), apart},
		{"10.0.0.9", "", ""},
		{"10.0.0.2", id("a", 3), ""},
	} {
		p, n, ok := f.BehindRouter(router, netip.MustParseAddr(c.at))
		if c.network != "" {
			p, n, ok = f.OnNetwork(c.network, netip.MustParseAddr(c.at))
		}
		if p.ID != c.want && ok || ok != (c.want != "") {
			t.Errorf("%s asks at network %q: %s of %v, %v; want %q", c.at, c.network, p.ID, n, ok, c.want)
		}
	}
	if n := f.Networks[id("a", 1)]; n.Isolated(id("b", 1)) || !n.Isolated(id("b", 3)) {
		t.Error("a subnet is isolated if no router is in it, and else not")
	}
	if _, _, ok := f.BehindRouter(id("d", 2), netip.MustParseAddr("10.0.0.2")); ok {
		t.Error("somebody asks behind a router that does not exist")
	}
}
