package e2e_test

import (
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// restore writes a port as somebody would who restores a part of the store: a copy of one that the API made, under the id and
// MAC of another, which takes over its claims.
func (f *fleet) restore(client *clientv3.Client, made *weftv1.Port, value []byte, as *weftv1.Port) *weftv1.Port {
	f.t.Helper()
	p := &weftv1.Port{}
	f.must(proto.Unmarshal(value, p))
	p.Id, p.MacAddress = as.GetId(), as.GetMacAddress()
	ip := netip.MustParseAddr(p.GetFixedIps()[0].GetIpAddress())
	claim := &storev1.Claim{Kind: keys.KindPort, Id: p.GetId()}
	f.deletePort(made.GetId())
	f.put(client, keys.AddressClaim(p.GetFixedIps()[0].GetSubnetId(), ip), claim)
	f.put(client, keys.MACClaim(p.GetNetworkId(), p.GetMacAddress()), claim)
	f.put(client, keys.Locator(keys.KindPort, p.GetId()), &storev1.Locator{Scope: p.GetNetworkId()})
	f.put(client, keys.Port(p.GetNetworkId(), p.GetId()), p)
	return p
}
