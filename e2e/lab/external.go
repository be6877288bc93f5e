package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// External is the outside host of one physical network. Untagged traffic reaches its kernel directly; for tagged
// traffic, see AddVLAN.
type External struct {
	Host
	network string
}

// Address is what the outside host holds untagged, with its prefix: 203.0.113.1/24 on ext1, 198.51.100.1/24 on ext2.
func (e *External) Address() netip.Prefix {
	link, _ := e.Info.Link(e.network) // External was found by it
	return link.Address
}

// Device is the outside host's end of its cable, which shows tagged and untagged frames to a capture.
func (e *External) Device() string {
	link, _ := e.Info.Link(e.network)
	return link.Device
}

func (v VLAN) device() string { return fmt.Sprintf("vlan%d", v.ID) }

// AddVLAN gives the outside host an address on a VLAN (1..4094) of the physical network, on a device vlan<id> of its own.
// It goes through an Open vSwitch in the outside host, since a kernel may lack VLAN devices. The untagged side is
// unchanged; choose an address that does not overlap with it. Survives a power cycle.
func (e *External) AddVLAN(ctx context.Context, id int, address netip.Prefix) error {
	if id < 1 || id > 4094 {
		return fmt.Errorf("VLAN %d of %s: use 1 to 4094", id, e.network)
	}
	var info HostInfo
	err := e.lab.update(func(s *state) error {
		h, err := s.host(e.Info.Name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(h.VLANs, func(v VLAN) bool { return v.ID == id }) {
			return fmt.Errorf("VLAN %d of %s: %w", id, e.network, ErrExists)
		}
		h.VLANs = append(h.VLANs, VLAN{ID: id, Address: address})
		info = *h
		return nil
	})
	if err != nil {
		return err
	}
	if len(info.VLANs) == 1 {
		return e.lab.bootOVS(ctx, info)
	}
	if _, err := e.Exec(ctx, append([]string{"ovs-vsctl", "--timeout=10"}, outsideArgs(info)[1:]...)...); err != nil {
		return err
	}
	return e.lab.addressInternalPorts(ctx, info)
}

// outsideArgs are the ovs-vsctl commands for a trunk bridge on the cable with an access port per VLAN.
func outsideArgs(h HostInfo) []string {
	args := []string{
		"--", "--may-exist", "add-br", outBridge, "--", "set", "Bridge", outBridge, "datapath_type=netdev",
		"--", "--may-exist", "add-port", outBridge, h.Links[0].Device,
	}
	for _, v := range h.VLANs {
		args = append(args, "--", "--may-exist", "add-port", outBridge, v.device(), fmt.Sprintf("tag=%d", v.ID),
			"--", "set", "Interface", v.device(), "type=internal")
	}
	return args
}
