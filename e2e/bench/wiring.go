package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// manyPorts is how many ports are plugged at once, and how many an agent has when it is restarted.
const manyPorts = 100

func wiring() []measurement {
	return []measurement{
		{"plug", measurePlug, []figure{
			{
				ID: "plug", Name: "plug -> first ping from another node", Unit: "ms", Reach: 20,
				Between: "ovs-vsctl is started to add the VM's device to br-int (its run is included) -> first answer at a VM on the other node that pings every 10 ms; the port was created with this host, its network is on the node already",
			},
		}},
		{"late plug", measureLatePlug, []figure{
			{
				ID: "plug-unbound", Name: "plug of a port without a host, on a network new to the node -> same", Unit: "ms",
				Between: "as plug, but the controller binds the port when its plug is seen, and nothing else of the network is on the node",
			},
		}},
		{"create and plug", measureCreatePlug, []figure{
			{
				ID: "create-plug", Name: "port create + plug -> same", Unit: "ms", Reach: 30,
				Between: "CreatePort (with host, MAC and address) is called -> it returns, ovs-vsctl plugs -> first answer, as plug",
			},
		}},
		{"100 ports", measureManyPorts, []figure{
			{
				ID: "plug-100", Name: "100 ports plugged at once on one node: all ACTIVE", Unit: "ms", Reach: 150,
				Between: "one ovs-vsctl is started to add 100 devices in one transaction -> the API's Watch stream has said ACTIVE of the last of the ports",
			},
			{
				ID: "plug-100-ping", Name: "100 ports plugged at once: all answer", Unit: "ms",
				Between: "same begin -> all 100 have answered a VM on the other node, which asks those missing every 10 ms from the moment that all are ACTIVE",
			},
			{
				ID: "plug-100-ovs", Name: "of it, 100 devices plugged into a bare bridge", Unit: "ms",
				Between: "one ovs-vsctl adds the same 100 devices to a bridge of nobody's on the same node -> it returns; what no control plane can save",
			},
		}},
	}
}

// pair is a network with a VM on cmp2 that asks and, on cmp1, something to keep the network there.
func (b *bench) pair(ctx context.Context, cidr string) (segment, guest, error) {
	s, err := b.segment(ctx, cidr, true)
	if err != nil {
		return s, guest{}, err
	}
	asker, err := b.plugged(ctx, s, "cmp2")
	if err != nil {
		return s, guest{}, err
	}
	_, err = b.plugged(ctx, s, "cmp1")
	return s, asker, err
}

// plugOnce plugs, takes the time to the first answer, and unplugs.
func (b *bench) plugOnce(ctx context.Context, g, asker guest, got samples, id string) error {
	took, err := firstPing(ctx, asker.Space, g.address, func() error { return b.lab.Plug(ctx, g.VM) })
	if err != nil {
		return err
	}
	got.took(id, took)
	if err := b.unplug(ctx, g); err != nil {
		return err
	}
	return silent(ctx, asker.Space, g.address)
}

// unplug unplugs once all is said and done of the plugging, and waits until that is known too.
func (b *bench) unplug(ctx context.Context, g guest) error {
	if err := until(ctx, "the port is ACTIVE", func() (bool, error) {
		p, err := b.GetPort(ctx, &weftv1.GetPortRequest{Id: g.port.GetId()})
		return p.GetStatus().GetState() == weftv1.State_STATE_ACTIVE, err
	}); err != nil {
		return err
	}
	return b.reach(ctx, weftv1.State_STATE_DOWN, []guest{g}, func() error { return b.lab.Unplug(ctx, g.VM) })
}

func measurePlug(ctx context.Context, b *bench, got samples) error {
	s, asker, err := b.pair(ctx, "10.1.0.0/24")
	if err != nil {
		return err
	}
	g, err := b.guest(ctx, s, "cmp1")
	if err != nil {
		return err
	}
	for range b.n {
		if err := b.plugOnce(ctx, g, asker, got, "plug"); err != nil {
			return err
		}
	}
	return nil
}

func measureLatePlug(ctx context.Context, b *bench, got samples) error {
	s, err := b.segment(ctx, "10.2.0.0/24", true)
	if err != nil {
		return err
	}
	asker, err := b.plugged(ctx, s, "cmp2")
	if err != nil {
		return err
	}
	late, err := b.guests(ctx, s, "cmp1", 1, true)
	if err != nil {
		return err
	}
	for range b.n {
		if err := b.plugOnce(ctx, late[0], asker, got, "plug-unbound"); err != nil {
			return err
		}
	}
	return nil
}

func measureCreatePlug(ctx context.Context, b *bench, got samples) error {
	s, asker, err := b.pair(ctx, "10.3.0.0/16")
	if err != nil {
		return err
	}
	return b.createAndPlug(ctx, s, asker, b.n, got, "create-plug")
}

// createAndPlug creates a port, plugs it, takes the time to the first answer from the asker, and removes it; count times.
func (b *bench) createAndPlug(ctx context.Context, s segment, asker guest, count int, got samples, id string) error {
	g, err := b.spare(ctx, s)
	if err != nil {
		return err
	}
	for range count {
		took, err := firstPing(ctx, asker.Space, g.address, func() error {
			p, err := b.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{
				NetworkId: s.network.GetId(), Host: "cmp1", MacAddress: g.Spec.Port.MAC,
				FixedIps: []*weftv1.FixedIp{{SubnetId: s.subnet.GetId(), IpAddress: g.address.String()}},
			}})
			if err != nil {
				return fmt.Errorf("create a port: %w", err)
			}
			g.port, g.Spec.Port.ID = p, p.GetId()
			return b.lab.Plug(ctx, g.VM)
		})
		if err != nil {
			return err
		}
		got.took(id, took)
		if err := b.unplugAndDelete(ctx, g); err != nil {
			return err
		}
		if err := silent(ctx, asker.Space, g.address); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) unplugAndDelete(ctx context.Context, g guest) error {
	if err := b.unplug(ctx, g); err != nil {
		return err
	}
	if _, err := b.DeletePort(ctx, &weftv1.DeletePortRequest{Id: g.port.GetId()}); err != nil {
		return fmt.Errorf("delete a port: %w", err)
	}
	return nil
}

// spare makes a VM on cmp1 whose port does not exist yet, with a MAC and an address that nobody has.
func (b *bench) spare(ctx context.Context, s segment) (guest, error) {
	cidr, err := netip.ParsePrefix(s.subnet.GetCidr())
	if err != nil {
		return guest{}, err
	}
	base := cidr.Addr().As4()
	base[3] = 250
	p := &weftv1.Port{
		Id: uuid.NewString(), MacAddress: "02:42:00:00:00:fa",
		FixedIps: []*weftv1.FixedIp{{IpAddress: netip.AddrFrom4(base).String()}},
	}
	spec, err := b.spec(s, p, "cmp1")
	if err != nil {
		return guest{}, err
	}
	vms, err := b.prepare(ctx, []lab.VMSpec{spec})
	if err != nil {
		return guest{}, err
	}
	return guest{VM: vms[0], port: p, address: netip.AddrFrom4(base)}, nil
}

func measureManyPorts(ctx context.Context, b *bench, got samples) error {
	s, asker, err := b.pair(ctx, "10.4.0.0/16")
	if err != nil {
		return err
	}
	guests, err := b.guests(ctx, s, "cmp1", manyPorts, false)
	if err != nil {
		return err
	}
	addresses := make([]netip.Addr, len(guests))
	for i, g := range guests {
		addresses[i] = g.address
	}
	for range b.few() {
		if err := b.plugMany(ctx, guests, asker, addresses, got); err != nil {
			return err
		}
	}
	for range b.few() {
		if err := b.plugBare(ctx, vmsOf(guests), got); err != nil {
			return err
		}
	}
	return nil
}

func vmsOf(guests []guest) []*lab.VM {
	var out []*lab.VM
	for _, g := range guests {
		out = append(out, g.VM)
	}
	return out
}

func (b *bench) plugMany(ctx context.Context, guests []guest, asker guest, addresses []netip.Addr, got samples) error {
	began := stopwatch()
	active, err := b.timeToReach(ctx, weftv1.State_STATE_ACTIVE, guests, func() error {
		began = stopwatch()
		return b.lab.Plug(ctx, vmsOf(guests)...)
	})
	if err != nil {
		return err
	}
	if err := sweep(ctx, asker.Space, addresses); err != nil {
		return err
	}
	got.took("plug-100", active)
	got.took("plug-100-ping", began())
	return b.reach(ctx, weftv1.State_STATE_DOWN, guests, func() error { return b.lab.Unplug(ctx, vmsOf(guests)...) })
}

// bareBridge is a bridge that weft has nothing to do with.
const bareBridge = "br-bare"

// plugBare plugs devices into a bridge that no agent looks after, and takes them off again.
func (b *bench) plugBare(ctx context.Context, vms []*lab.VM, got samples) error {
	h, err := b.lab.Host("cmp1")
	if err != nil {
		return err
	}
	if err := b.addBare(ctx, h); err != nil {
		return err
	}
	args := []string{"ovs-vsctl", "--timeout=30"}
	for _, vm := range vms {
		args = append(args, "--", "add-port", bareBridge, vm.Device)
	}
	began := stopwatch()
	if _, err := h.Exec(ctx, args...); err != nil {
		return err
	}
	got.took("plug-100-ovs", began())
	return b.deleteBare(ctx, h)
}

func (b *bench) addBare(ctx context.Context, h *lab.Host) error {
	_, err := h.Exec(ctx, "ovs-vsctl", "--timeout=30", "--", "--may-exist", "add-br", bareBridge, "--", "set", "Bridge", bareBridge, "datapath_type=netdev")
	return err
}

func (b *bench) deleteBare(ctx context.Context, h *lab.Host) error {
	_, err := h.Exec(ctx, "ovs-vsctl", "--timeout=30", "--if-exists", "del-br", bareBridge)
	return err
}
