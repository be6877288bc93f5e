package view

import (
	"net/netip"
	"strings"

	"github.com/weft-sdn/weft/proto/model"
)

// PortAt is the port that has a fixed address on the network; false when none has.
func (n *Network) PortAt(ip netip.Addr) (model.Port, bool) {
	id, ok := n.addresses[ip]
	return n.Ports[id].Object, ok
}

// readdress keeps the index of addresses when a port changes.
func (n *Network) readdress(old, now model.Port) {
	for _, f := range old.FixedIPs {
		if n.addresses[f.IP] == old.ID {
			delete(n.addresses, f.IP)
		}
	}
	for _, f := range now.FixedIPs {
		n.addresses[f.IP] = now.ID
	}
}

// BehindRouter finds the VM's port that sends with an address to a router, and its network: on a subnet that the router has
// an interface in. False when there is none.
func (v *View) BehindRouter(router string, source netip.Addr) (model.Port, *Network, bool) {
	r := v.Routers[router]
	if r == nil || r.Revision == 0 {
		return model.Port{}, nil, false
	}
	for _, i := range r.Object.Interfaces {
		n := v.Networks[i.Network]
		if n == nil {
			continue
		}
		p, ok := n.vmAt(source)
		if ok && shareSubnet(n.Ports[i.Port].Object, p, source) {
			return p, n, true
		}
	}
	return model.Port{}, nil, false
}

// OnNetwork finds the VM's port that sends with an address on a network. False when there is none.
func (v *View) OnNetwork(network string, source netip.Addr) (model.Port, *Network, bool) {
	n := v.Networks[network]
	if n == nil || n.Revision == 0 {
		return model.Port{}, nil, false
	}
	p, ok := n.vmAt(source)
	return p, n, ok
}

func (n *Network) vmAt(ip netip.Addr) (model.Port, bool) {
	p, ok := n.PortAt(ip)
	return p, ok && !strings.HasPrefix(p.DeviceOwner, model.OwnerPrefix)
}

// shareSubnet reports whether an interface has an address in the subnet that a port's address is of.
func shareSubnet(iface, p model.Port, ip netip.Addr) bool {
	for _, f := range p.FixedIPs {
		for _, g := range iface.FixedIPs {
			if f.IP == ip && f.Subnet == g.Subnet {
				return true
			}
		}
	}
	return false
}

// Isolated reports whether no router has an interface in a subnet of the network.
func (n *Network) Isolated(subnet string) bool {
	if !n.Routed() {
		return true
	}
	for _, p := range n.Ports {
		if p.Object.DeviceOwner != model.OwnerRouterInterface {
			continue
		}
		for _, f := range p.Object.FixedIPs {
			if f.Subnet == subnet {
				return false
			}
		}
	}
	return true
}
