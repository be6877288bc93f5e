package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// cleaners is how many objects are deleted at once.
const cleaners = 8

// clean removes the VMs of a measurement and all that it made in the API but the external network, even after the
// measurement's time is up. It does nothing once b.keep is set.
func (b *bench) clean(ctx context.Context) error {
	if b.keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if err := b.removeVMs(ctx); err != nil {
		return err
	}
	for _, remove := range []func(context.Context) error{b.deleteFloatingIPs, b.deleteRouters, b.deletePorts, b.removeGroups, b.deleteNetworks} {
		if err := remove(ctx); err != nil {
			return err
		}
	}
	return nil
}

// removeVMs removes the VMs of a measurement.
func (b *bench) removeVMs(ctx context.Context) error {
	errs := []error{b.lab.Unplug(ctx, b.vms...)} // all of a host in one transaction
	for _, vm := range b.vms {
		errs = append(errs, vm.Remove(ctx))
	}
	b.vms = nil
	return errors.Join(errs...)
}

// each does something with all objects, several at once.
func each[T any](objects []T, do func(T) error) error {
	var group errgroup.Group
	group.SetLimit(cleaners)
	for _, o := range objects {
		group.Go(func() error { return do(o) })
	}
	return group.Wait()
}

func (b *bench) deleteFloatingIPs(ctx context.Context) error {
	got, err := b.ListFloatingIps(ctx, &weftv1.ListFloatingIpsRequest{})
	if err != nil {
		return fmt.Errorf("list floating IPs: %w", err)
	}
	return each(got.GetFloatingIps(), func(f *weftv1.FloatingIp) error {
		_, err := b.DeleteFloatingIp(ctx, &weftv1.DeleteFloatingIpRequest{Id: f.GetId()})
		return err
	})
}

func (b *bench) deleteRouters(ctx context.Context) error {
	got, err := b.ListRouters(ctx, &weftv1.ListRoutersRequest{})
	if err != nil {
		return fmt.Errorf("list routers: %w", err)
	}
	return each(got.GetRouters(), func(r *weftv1.Router) error {
		for _, i := range r.GetInterfaces() {
			if _, err := b.RemoveRouterInterface(ctx, &weftv1.RemoveRouterInterfaceRequest{
				RouterId: r.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: i.GetSubnetId()},
			}); err != nil {
				return fmt.Errorf("remove a router's interface: %w", err)
			}
		}
		_, err := b.DeleteRouter(ctx, &weftv1.DeleteRouterRequest{Id: r.GetId()})
		return err
	})
}

// deletePorts leaves those that belong to a subnet's DHCP service.
func (b *bench) deletePorts(ctx context.Context) error {
	got, err := b.ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: 10000})
	if err != nil {
		return fmt.Errorf("list ports: %w", err)
	}
	return each(got.GetPorts(), func(p *weftv1.Port) error {
		if strings.HasPrefix(p.GetDeviceOwner(), model.OwnerPrefix) {
			return nil
		}
		_, err := b.DeletePort(ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
		return err
	})
}

func (b *bench) deleteNetworks(ctx context.Context) error {
	subnets, err := b.ListSubnets(ctx, &weftv1.ListSubnetsRequest{})
	if err != nil {
		return fmt.Errorf("list subnets: %w", err)
	}
	err = each(subnets.GetSubnets(), func(s *weftv1.Subnet) error {
		if s.GetNetworkId() == b.external.GetId() {
			return nil
		}
		_, err := b.DeleteSubnet(ctx, &weftv1.DeleteSubnetRequest{Id: s.GetId()})
		return err
	})
	if err != nil {
		return fmt.Errorf("delete subnets: %w", err)
	}
	networks, err := b.ListNetworks(ctx, &weftv1.ListNetworksRequest{})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	return each(networks.GetNetworks(), func(n *weftv1.Network) error {
		if n.GetId() == b.external.GetId() {
			return nil
		}
		_, err := b.DeleteNetwork(ctx, &weftv1.DeleteNetworkRequest{Id: n.GetId()})
		return err
	})
}
