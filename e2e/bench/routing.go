package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func routing() []measurement {
	return []measurement{
		{"router", measureRouter, []figure{
			{
				ID: "router", Name: "router + gateway + interface -> VM pings outside", Unit: "ms", Reach: 50,
				Between: "CreateRouter is called, then SetRouterGateway, then AddRouterInterface -> first answer of the outside host at the VM on a compute node, which pings it every 10 ms through a gateway that is not there yet",
			},
			{
				ID: "router-api", Name: "of it, the three calls", Unit: "ms",
				Between: "CreateRouter is called -> AddRouterInterface returns",
			},
		}},
		{"floating IP", measureFloatingIP, []figure{
			{
				ID: "floatingip", Name: "floating IP associate -> ping from outside", Unit: "ms", Reach: 18,
				Between: "UpdateFloatingIp is called with the port -> first answer of the VM at the outside host, which pings the floating IP every 10 ms (and repeats ARP as often)",
			},
		}},
	}
}

// outside is the outside host of ext1, with an external network for it in the API.
func (b *bench) outside(ctx context.Context) (*lab.External, error) {
	e, err := b.lab.External("ext1")
	if err != nil || b.external != nil {
		return e, err
	}
	// As in the VMs: Linux otherwise repeats an unanswered ARP request once a second.
	err = e.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/neigh/"+e.Device()+"/retrans_time_ms", []byte("10"), 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", e, err)
	}
	n, err := b.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{
		Name: "outside", Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1", External: true,
	}})
	if err != nil {
		return nil, fmt.Errorf("create an external network: %w", err)
	}
	dhcp, gateway := false, e.Address().Addr().String()
	_, err = b.CreateSubnet(ctx, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{
		NetworkId: n.GetId(), Cidr: e.Address().Masked().String(), GatewayIp: &gateway, EnableDhcp: &dhcp,
	}})
	if err != nil {
		return nil, fmt.Errorf("create an external subnet: %w", err)
	}
	b.external = n
	return e, nil
}

// router makes a router with a gateway to the outside and an interface on each segment.
func (b *bench) router(ctx context.Context, segments ...segment) (*weftv1.Router, error) {
	return b.routerOf(ctx, &weftv1.Router{Name: b.name("router")}, segments...)
}

// routerOf does that for callers that are several, or want a router in particular.
func (b *bench) routerOf(ctx context.Context, like *weftv1.Router, segments ...segment) (*weftv1.Router, error) {
	r, err := b.CreateRouter(ctx, &weftv1.CreateRouterRequest{Router: like})
	if err != nil {
		return nil, fmt.Errorf("create a router: %w", err)
	}
	if _, err := b.SetRouterGateway(ctx, &weftv1.SetRouterGatewayRequest{
		RouterId: r.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: b.external.GetId()},
	}); err != nil {
		return nil, fmt.Errorf("set a router's gateway: %w", err)
	}
	for _, s := range segments {
		if r, err = b.AddRouterInterface(ctx, &weftv1.AddRouterInterfaceRequest{
			RouterId: r.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: s.subnet.GetId()},
		}); err != nil {
			return nil, fmt.Errorf("add a router's interface: %w", err)
		}
	}
	return r, nil
}

// removeRouter removes a router with its interfaces, and waits until no node speaks of it any more.
func (b *bench) removeRouter(ctx context.Context, r *weftv1.Router, segments ...segment) error {
	for _, s := range segments {
		if _, err := b.RemoveRouterInterface(ctx, &weftv1.RemoveRouterInterfaceRequest{
			RouterId: r.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: s.subnet.GetId()},
		}); err != nil {
			return fmt.Errorf("remove a router's interface: %w", err)
		}
	}
	if _, err := b.DeleteRouter(ctx, &weftv1.DeleteRouterRequest{Id: r.GetId()}); err != nil {
		return fmt.Errorf("delete a router: %w", err)
	}
	for _, node := range r.GetPlacement().GetNodes() {
		h, err := b.lab.Host(node)
		if err != nil {
			return err
		}
		err = until(ctx, "the router's namespace is gone", func() (bool, error) {
			_, err := h.Exec(ctx, "test", "!", "-e", "/run/netns/qrouter-"+r.GetId())
			return err == nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func measureRouter(ctx context.Context, b *bench, got samples) error {
	outside, err := b.outside(ctx)
	if err != nil {
		return err
	}
	s, err := b.segment(ctx, "10.5.0.0/24", true)
	if err != nil {
		return err
	}
	vm, err := b.plugged(ctx, s, "cmp1")
	if err != nil {
		return err
	}
	if err := b.settled(ctx); err != nil {
		return err
	}
	for range b.n {
		var r *weftv1.Router
		took, err := firstPing(ctx, vm.Space, outside.Address().Addr(), func() (err error) {
			began := stopwatch()
			r, err = b.router(ctx, s)
			got.took("router-api", began())
			return err
		})
		if err != nil {
			return err
		}
		got.took("router", took)
		if err := b.removeRouter(ctx, r, s); err != nil {
			return err
		}
		// Open vSwitch serves nothing while it removes ports.
		if err := b.settled(ctx); err != nil {
			return err
		}
	}
	return nil
}

func measureFloatingIP(ctx context.Context, b *bench, got samples) error {
	outside, err := b.outside(ctx)
	if err != nil {
		return err
	}
	s, err := b.segment(ctx, "10.6.0.0/24", true)
	if err != nil {
		return err
	}
	vm, err := b.plugged(ctx, s, "cmp1")
	if err != nil {
		return err
	}
	r, err := b.router(ctx, s)
	if err != nil {
		return err
	}
	if err := b.routed(ctx, vm, outside); err != nil {
		return err
	}
	f, address, err := b.floatingIP(ctx)
	if err != nil {
		return err
	}
	for range b.n {
		took, err := firstPing(ctx, outside.Space, address, func() error { return b.associate(ctx, f, vm.port.GetId()) })
		if err != nil {
			return err
		}
		got.took("floatingip", took)
		if err := b.associate(ctx, f, ""); err != nil {
			return err
		}
		if err := silent(ctx, outside.Space, address); err != nil {
			return err
		}
	}
	if _, err := b.DeleteFloatingIp(ctx, &weftv1.DeleteFloatingIpRequest{Id: f.GetId()}); err != nil {
		return fmt.Errorf("delete a floating IP: %w", err)
	}
	return b.removeRouter(ctx, r, s)
}

// routed waits until a VM reaches the outside.
func (b *bench) routed(ctx context.Context, vm guest, outside *lab.External) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := vm.AwaitPing(ctx, outside.Address().Addr())
	return err
}

func (b *bench) floatingIP(ctx context.Context) (*weftv1.FloatingIp, netip.Addr, error) {
	f, err := b.CreateFloatingIp(ctx, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: b.external.GetId()}})
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("create a floating IP: %w", err)
	}
	address, err := addressOf(f)
	return f, address, err
}

// associate has a floating IP lead to a port, or to none.
func (b *bench) associate(ctx context.Context, f *weftv1.FloatingIp, port string) error {
	_, err := b.UpdateFloatingIp(ctx, &weftv1.UpdateFloatingIpRequest{
		FloatingIp: &weftv1.FloatingIp{Id: f.GetId(), PortId: port}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"port_id"}},
	})
	if err != nil {
		return fmt.Errorf("associate a floating IP: %w", err)
	}
	return nil
}
