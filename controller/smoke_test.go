package controller_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func TestFromAnEmptyFleetToAFloatingIP(t *testing.T) {
	b := newBench(t)
	r := b.replica()
	b.node("net1", networkNode("ext1"))
	b.node("cmp1", &storev1.Agent{Roles: []weftv1.Role{weftv1.Role_ROLE_COMPUTE}, TunnelIp: "192.0.2.2"})
	b.seen(r, "net1", "cmp1")
	ctx := b.context()
	net, err := r.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "n1"}})
	check(t, err)
	ext, err := r.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "ext", External: true, Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1"}})
	check(t, err)
	sub, err := r.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: net.GetId(), Cidr: "10.0.0.0/24"}})
	check(t, err)
	no := false
	_, err = r.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: ext.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: &no}})
	check(t, err)
	port, err := r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: net.GetId(), Name: "p1"}})
	check(t, err)
	router, err := r.CreateRouter(ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "r1"}})
	check(t, err)
	_, err = r.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{RouterId: router.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: ext.GetId()}})
	check(t, err)
	router, err = r.AddRouterInterface(ctx, &weftv1.AddRouterInterfaceRequest{RouterId: router.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: sub.GetId()}})
	check(t, err)
	fip, err := r.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: ext.GetId(), PortId: port.GetId()}})
	check(t, err)
	b.put(keys.Plug("cmp1", port.GetId()), &storev1.Plug{Interface: "tap1"})
	b.eventually("the port is bound", func() bool {
		port, err = r.GetPort(ctx, &weftv1.GetPortRequest{Id: port.GetId()})
		check(t, err)
		return port.GetBoundHost() == "cmp1"
	})
	net, err = r.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: net.GetId()})
	check(t, err)
	t.Log(protojson.Format(net), protojson.Format(port), protojson.Format(router), protojson.Format(fip))
	resp, err := b.etcd.Client().Get(ctx, "/weft", withPrefix())
	check(t, err)
	for _, kv := range resp.Kvs {
		t.Log(string(kv.Key))
	}
}
