package main

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/lease"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func addressing() []measurement {
	return []measurement{
		{"subnet to DHCP", measureSubnetOffer, []figure{{
			ID: "subnet-offer", Name: "subnet create -> first DHCP offer", Unit: "ms", Reach: 200,
			Between: "CreateSubnet is called, then UpdatePort gives the port of a plugged VM an address of it -> first DHCPOFFER at the VM, which asks every 10 ms; the network had no DHCP server before",
		}}},
		{"port to DHCP", measurePortOffer, []figure{{
			ID: "port-offer", Name: "port create -> offer", Unit: "ms", Reach: 30,
			Between: "CreatePort is called -> first DHCPOFFER for its MAC, for which a VM of the network on a compute node asks every 10 ms",
		}}},
	}
}

func measureSubnetOffer(ctx context.Context, b *bench, got samples) error {
	for range b.few() {
		if err := b.subnetOffer(ctx, got); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) subnetOffer(ctx context.Context, got samples) error {
	n, err := b.network(ctx)
	if err != nil {
		return err
	}
	p, err := b.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: n.GetId(), Host: "cmp1"}})
	if err != nil {
		return fmt.Errorf("create a port: %w", err)
	}
	vms, err := b.prepare(ctx, []lab.VMSpec{{
		Name: b.name("vm"), Host: "cmp1", Port: lab.Port{ID: p.GetId(), MAC: p.GetMacAddress()}, Addressing: lab.Unaddressed,
	}})
	if err != nil {
		return err
	}
	vm := guest{VM: vms[0], port: p}
	if err := b.reach(ctx, weftv1.State_STATE_ACTIVE, []guest{vm}, func() error { return b.lab.Plug(ctx, vm.VM) }); err != nil {
		return err
	}
	took, err := firstOffer(ctx, vm.Space, p.GetMacAddress(), func() error {
		s, err := b.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.7.0.0/24"}})
		if err != nil {
			return fmt.Errorf("create a subnet: %w", err)
		}
		_, err = b.UpdatePort(ctx, &weftv1.UpdatePortRequest{
			Port:       &weftv1.Port{Id: p.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.GetId()}}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"fixed_ips"}},
		})
		return err
	})
	if err != nil {
		return err
	}
	got.took("subnet-offer", took)
	return nil
}

func measurePortOffer(ctx context.Context, b *bench, got samples) error {
	s, err := b.segment(ctx, "10.8.0.0/24", true)
	if err != nil {
		return err
	}
	vm, err := b.plugged(ctx, s, "cmp1")
	if err != nil {
		return err
	}
	// Once the VM itself has been answered, the server is up.
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := lease.Acquire(waiting, vm.Do, lab.VMDevice, lease.Options{}); err != nil {
		return err
	}
	for i := range b.n {
		mac := fmt.Sprintf("02:42:00:00:01:%02x", i)
		took, err := firstOffer(ctx, vm.Space, mac, func() error {
			_, err := b.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: s.network.GetId(), Host: "cmp2", MacAddress: mac}})
			return err
		})
		if err != nil {
			return err
		}
		got.took("port-offer", took)
	}
	return nil
}
