package model_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// fuzz feeds a converter with any message there can be. It must not panic, must name the fields of what it refuses, must
// leave the message as it was, and what it accepts must come out the same after the message was encoded and decoded, as
// it will be in the store.
func fuzz[M proto.Message, T any](f *testing.F, empty func() M, from func(M) (T, error), seeds ...M) {
	for _, s := range append(seeds, empty()) {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := empty()
		if proto.Unmarshal(b, m) != nil {
			return
		}
		before := proto.Clone(m)
		got, err := from(m)
		if !proto.Equal(before, m) {
			t.Fatal("the message was changed")
		}
		if err != nil {
			if len(model.FieldErrors(err)) == 0 {
				t.Fatalf("an error without fields: %v", err)
			}
			return
		}
		again := empty()
		if b, err = proto.Marshal(m); err != nil {
			t.Fatalf("what was accepted can't be encoded: %v", err)
		}
		if err := proto.Unmarshal(b, again); err != nil {
			t.Fatal(err)
		}
		second, err := from(again)
		if diff := cmp.Diff(got, second, equalAddrs); err != nil || diff != "" {
			t.Fatalf("after encoding: %v\n%s", err, diff)
		}
	})
}

func FuzzNetworkFrom(f *testing.F) {
	v := network()
	v.Type, v.PhysicalNetwork = vlan, "tenant"
	fuzz(f, func() *weftv1.Network { return &weftv1.Network{} }, model.NetworkFrom, network(), v)
}

func FuzzSubnetFrom(f *testing.F) {
	fuzz(f, func() *weftv1.Subnet { return &weftv1.Subnet{} }, model.SubnetFrom, subnet(),
		&weftv1.Subnet{Cidr: "255.255.255.255/32", AllocationPools: []*weftv1.AllocationPool{{Start: "255.255.255.255", End: "0.0.0.0"}}},
		&weftv1.Subnet{Cidr: "0.0.0.0/0", AllocationPools: []*weftv1.AllocationPool{{Start: "0.0.0.0", End: "255.255.255.255"}}})
}

func FuzzPortFrom(f *testing.F) {
	fuzz(f, func() *weftv1.Port { return &weftv1.Port{} }, model.PortFrom, port(), securePort())
}

func FuzzRouterFrom(f *testing.F) {
	fuzz(f, func() *weftv1.Router { return &weftv1.Router{} }, model.RouterFrom, router())
}

func FuzzFloatingIPFrom(f *testing.F) {
	fuzz(f, func() *weftv1.FloatingIp { return &weftv1.FloatingIp{} }, model.FloatingIPFrom, floatingIP(), &weftv1.FloatingIp{PortId: "x"})
}

func FuzzSegmentRangeFrom(f *testing.F) {
	fuzz(f, func() *weftv1.SegmentRange { return &weftv1.SegmentRange{} }, model.SegmentRangeFrom, segmentRange())
}

func FuzzSecurityGroupFrom(f *testing.F) {
	fuzz(f, func() *weftv1.SecurityGroup { return &weftv1.SecurityGroup{} }, model.SecurityGroupFrom, &weftv1.SecurityGroup{Id: id(1), Project: "p"})
}

func FuzzRuleFrom(f *testing.F) {
	fuzz(f, func() *weftv1.SecurityGroupRule { return &weftv1.SecurityGroupRule{} }, model.RuleFrom, rule(), ping(),
		&weftv1.SecurityGroupRule{Remote: &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: "::ffff:10.0.0.1/104"}})
}

func FuzzAddressGroupFrom(f *testing.F) {
	fuzz(f, func() *weftv1.AddressGroup { return &weftv1.AddressGroup{} }, model.AddressGroupFrom, addressGroup())
}

func FuzzNetworkGrantFrom(f *testing.F) {
	fuzz(f, func() *weftv1.NetworkGrant { return &weftv1.NetworkGrant{} }, model.NetworkGrantFrom,
		&weftv1.NetworkGrant{Id: id(1), NetworkId: id(2), Project: "p", TargetProject: "q"}, &weftv1.NetworkGrant{Project: "p", TargetProject: "*"})
}
