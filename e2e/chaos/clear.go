package chaos

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/e2e/fleet"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// clear removes every VM and deletes every object, in the order in which the API allows it, whatever made it: what a call
// made whose answer was lost, too. Refusals are errors now.
func (d *driver) clear(ctx context.Context) error {
	vms, err := d.VMs()
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if err := d.unplug(ctx, vm.Name); err != nil {
			return fmt.Errorf("clear up: %w", err)
		}
	}
	for _, step := range []func(context.Context) error{d.clearFloating, d.clearRouters, d.clearPorts, d.clearNetworks} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("clear up: %w", err)
		}
	}
	return nil
}

func (d *driver) delete(ctx context.Context, request proto.Message) error {
	_, err := fleet.Do[*emptypb.Empty](ctx, d.Fleet, request)
	return err
}

func (d *driver) clearFloating(ctx context.Context) error {
	all, err := fleet.Do[*weftv1.ListFloatingIpsResponse](ctx, d.Fleet, &weftv1.ListFloatingIpsRequest{})
	for _, f := range all.GetFloatingIps() {
		if err == nil {
			err = d.delete(ctx, &weftv1.DeleteFloatingIpRequest{Id: f.GetId()})
		}
	}
	return err
}

func (d *driver) clearRouters(ctx context.Context) error {
	all, err := fleet.Do[*weftv1.ListRoutersResponse](ctx, d.Fleet, &weftv1.ListRoutersRequest{})
	for _, r := range all.GetRouters() {
		for _, i := range r.GetInterfaces() {
			if err == nil {
				_, err = fleet.Do[*weftv1.Router](ctx, d.Fleet, &weftv1.RemoveRouterInterfaceRequest{
					RouterId: r.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_PortId{PortId: i.GetPortId()},
				})
			}
		}
		if err == nil {
			err = d.delete(ctx, &weftv1.DeleteRouterRequest{Id: r.GetId()})
		}
	}
	return err
}

func (d *driver) clearPorts(ctx context.Context) error {
	all, err := fleet.Do[*weftv1.ListPortsResponse](ctx, d.Fleet, &weftv1.ListPortsRequest{})
	for _, p := range all.GetPorts() {
		if err == nil && !strings.HasPrefix(p.GetDeviceOwner(), "network:") {
			err = d.delete(ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
		}
	}
	return err
}

func (d *driver) clearNetworks(ctx context.Context) error {
	subnets, err := fleet.Do[*weftv1.ListSubnetsResponse](ctx, d.Fleet, &weftv1.ListSubnetsRequest{})
	for _, s := range subnets.GetSubnets() {
		if err == nil {
			err = d.delete(ctx, &weftv1.DeleteSubnetRequest{Id: s.GetId()})
		}
	}
	if err != nil {
		return err
	}
	all, err := fleet.Do[*weftv1.ListNetworksResponse](ctx, d.Fleet, &weftv1.ListNetworksRequest{})
	for _, n := range all.GetNetworks() {
		if err == nil {
			err = d.delete(ctx, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
		}
	}
	return err
}
