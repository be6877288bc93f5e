package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/lab/lease"
	"github.com/weft-sdn/weft/e2e/lab/netspace"
	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// Port is what a hypervisor knows of a weft port.
type Port struct {
	ID  string `json:"id"`  // UUID
	MAC string `json:"mac"` // aa:bb:cc:dd:ee:ff
}

// Addressing says how a VM comes to its address.
type Addressing int

// The ways of addressing.
const (
	ByDHCP      Addressing = iota
	Static                 // VMSpec.Lease is applied as if a server had given it
	Unaddressed            // the VM's device has none
)

// VMSpec describes a VM.
type VMSpec struct {
	Name       string // unique in the lab; lower-case letters, digits and dashes
	Host       string
	Port       Port
	Addressing Addressing
	Lease      lease.Lease // for Static
	// Hybrid: between the VM and br-int there is a Linux bridge of its own (REFERENCE R12), made as hypervisors make it.
	Hybrid bool
}

// VM is a network namespace that behaves as a guest: one device eth0 with the port's MAC, the other end of which is on
// its host's br-int. IPv6 is off and an unanswered ARP request is repeated every 10 ms. A VM dies with its host.
type VM struct {
	Space
	Spec   VMSpec
	Device string // on br-int: "tap", or "qvo" of a hybrid one, and the first 11 characters of the port's id
}

// VMDevice is the guest's only device.
const VMDevice = "eth0"

func vmNamespace(name string) string { return "vm-" + name }

func (s VMSpec) check() error {
	if !nameForm.MatchString(s.Name) {
		return fmt.Errorf("VM name %q: use 1 to 24 lower-case letters, digits and dashes", s.Name)
	}
	if len(s.Port.ID) < 11 || strings.Trim(s.Port.ID, "0123456789abcdef-") != "" {
		return fmt.Errorf("VM %s: port id %q is not a UUID in lower case", s.Name, s.Port.ID)
	}
	if mac, err := net.ParseMAC(s.Port.MAC); err != nil || len(mac) != 6 {
		return fmt.Errorf("VM %s: port MAC %q: want aa:bb:cc:dd:ee:ff", s.Name, s.Port.MAC)
	}
	if s.Addressing == Static && !s.Lease.Address.IsValid() {
		return fmt.Errorf("VM %s: static addressing needs an address", s.Name)
	}
	return nil
}

func (l *Lab) vm(spec VMSpec) *VM {
	vm := &VM{Space: l.space(spec.Host, vmNamespace(spec.Name)), Spec: spec}
	vm.Device = vm.device(onSwitch)
	if !spec.Hybrid {
		vm.Device = vm.device(atGuest)
	}
	return vm
}

// What the devices of a VM on its host begin with (REFERENCE R9, R12): the other end of the guest's own and, of a hybrid one,
// its bridge and the pair between that and br-int.
const (
	atGuest  = "tap"
	bridge   = "qbr"
	onBridge = "qvb"
	onSwitch = "qvo"
)

func (vm *VM) device(prefix string) string { return prefix + vm.Spec.Port.ID[:11] }

// AddVM makes a VM, plugs it and gives it its address; it returns when the VM has that. On failure nothing of it is left.
func (l *Lab) AddVM(ctx context.Context, spec VMSpec) (*VM, error) {
	vms, err := l.AddVMs(ctx, spec)
	if err != nil {
		return nil, err
	}
	return vms[0], nil
}

// AddVMs does what AddVM does for many at once: all or none.
func (l *Lab) AddVMs(ctx context.Context, specs ...VMSpec) ([]*VM, error) {
	vms, err := l.PrepareVMs(ctx, specs...)
	if err != nil {
		return nil, err
	}
	err = l.Plug(ctx, vms...)
	if err == nil {
		group, ctx := errgroup.WithContext(ctx)
		for _, vm := range vms {
			group.Go(func() error { _, err := vm.Configure(ctx); return err })
		}
		err = group.Wait()
	}
	if err != nil {
		return nil, errors.Join(err, discard(ctx, vms))
	}
	return vms, nil
}

// discard removes VMs on a failure path, where the context may have ended.
func discard(ctx context.Context, vms []*VM) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	var errs []error
	for _, vm := range vms {
		errs = append(errs, vm.Remove(ctx))
	}
	return errors.Join(errs...)
}

// PrepareVMs makes VMs that are not plugged yet: a bench times Plug alone. All or none.
func (l *Lab) PrepareVMs(ctx context.Context, specs ...VMSpec) ([]*VM, error) {
	var vms []*VM
	for _, spec := range specs {
		if err := spec.check(); err != nil {
			return nil, err
		}
		vms = append(vms, l.vm(spec))
	}
	if err := l.update(func(s *state) error { return s.claim(vms) }); err != nil {
		return nil, err
	}
	for host, group := range byHost(vms) {
		if err := l.makeVMs(ctx, host, group); err != nil {
			return nil, errors.Join(err, discard(ctx, vms))
		}
	}
	return vms, nil
}

// claim takes names and devices, or nothing.
func (s *state) claim(vms []*VM) error {
	for _, vm := range vms {
		if _, err := s.host(vm.Spec.Host); err != nil {
			return err
		}
		for _, have := range s.VMs {
			if have.Name == vm.Spec.Name {
				return fmt.Errorf("VM %s: %w", vm.Spec.Name, ErrExists)
			}
			if have.Host == vm.Spec.Host && have.Device == vm.Device {
				return fmt.Errorf("VM %s: port %s is plugged on host %s by VM %s: %w", vm.Spec.Name, vm.Spec.Port.ID, have.Host, have.Name, ErrExists)
			}
		}
		s.VMs = append(s.VMs, VMInfo{Name: vm.Spec.Name, Host: vm.Spec.Host, Port: vm.Spec.Port, Device: vm.Device})
	}
	return nil
}

func byHost(vms []*VM) map[string][]*VM {
	groups := map[string][]*VM{}
	for _, vm := range vms {
		groups[vm.Spec.Host] = append(groups[vm.Spec.Host], vm)
	}
	return groups
}

func (l *Lab) makeVMs(ctx context.Context, host string, vms []*VM) error {
	// An earlier life of the host may have left rows in its database. ovs-vswitchd would take the new devices for those as
	// soon as they exist, and set them down again when the row is replaced.
	if err := l.Unplug(ctx, vms...); err != nil {
		return err
	}
	names := []string{"sh", "-c", `for n; do ip netns add "$n" || exit 1; done`, "sh"}
	for _, vm := range vms {
		names = append(names, vm.netns)
	}
	space := l.space(host, "")
	if _, err := space.Exec(ctx, names...); err != nil {
		return err
	}
	handle, err := space.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	target, err := space.target()
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if err := vm.wire(target, handle); err != nil {
			return fmt.Errorf("VM %s: %w", vm.Spec.Name, err)
		}
	}
	return nil
}

// wire makes the veth pair between the host and the guest.
func (vm *VM) wire(host netspace.Target, outside *netlink.Handle) error {
	guest := netspace.Target{PID: host.PID, Netns: vm.netns}
	ns, err := guest.Open()
	if err != nil {
		return err
	}
	defer ns.Close()
	mac, err := net.ParseMAC(vm.Spec.Port.MAC)
	if err != nil {
		return err
	}
	if err := guest.Sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: vm.device(atGuest)},
		PeerName:  VMDevice, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.Fd()),
	}
	devices := []string{veth.Name}
	if err := outside.LinkAdd(veth); err != nil {
		return fmt.Errorf("make its device %s: %w", veth.Name, err)
	}
	if vm.Spec.Hybrid {
		if err := vm.bridge(outside); err != nil {
			return err
		}
		devices = append(devices, vm.device(onBridge), vm.device(onSwitch))
	}
	for _, device := range devices {
		if err := setUp(outside, device); err != nil {
			return err
		}
		if err := host.DisableTxChecksum(device); err != nil {
			return err
		}
	}
	return vm.wireGuest(guest)
}

// bridge makes a hybrid VM's bridge with its two ports, one of which is there.
func (vm *VM) bridge(outside *netlink.Handle) error {
	qbr := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: vm.device(bridge)}}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: vm.device(onBridge)}, PeerName: vm.device(onSwitch)}
	for _, link := range []netlink.Link{qbr, pair} {
		if err := outside.LinkAdd(link); err != nil {
			return fmt.Errorf("make its device %s: %w", link.Attrs().Name, err)
		}
	}
	for _, prefix := range []string{atGuest, onBridge} {
		port, err := outside.LinkByName(vm.device(prefix))
		if err != nil {
			return fmt.Errorf("find its device %s: %w", vm.device(prefix), err)
		}
		if err := outside.LinkSetMaster(port, qbr); err != nil {
			return fmt.Errorf("put its device %s into bridge %s: %w", port.Attrs().Name, qbr.Name, err)
		}
	}
	return setUp(outside, qbr.Name)
}

func (vm *VM) wireGuest(guest netspace.Target) error {
	inside, err := guest.Netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	if err := guest.DisableTxChecksum(VMDevice); err != nil {
		return err
	}
	// Linux otherwise asks once a second, which hides how fast the network became usable.
	// A request every 10 ms, but for as long as the kernel's default of three a second apart: a busy machine must not make
	// a neighbour fail.
	for name, value := range map[string]string{"retrans_time_ms": "10", "ucast_solicit": "300", "mcast_solicit": "300"} {
		if err := guest.Sysctl("ipv4/neigh/"+VMDevice+"/"+name, value); err != nil {
			return err
		}
	}
	if err := setUp(inside, "lo"); err != nil {
		return err
	}
	return setUp(inside, VMDevice)
}

// Plug adds the VMs' devices to br-int with the external_ids that hypervisors set: one Open vSwitch transaction per
// host, however many VMs. It returns when Open vSwitch has the ports, which says nothing of the agent. Idempotent.
func (l *Lab) Plug(ctx context.Context, vms ...*VM) error {
	for host, group := range byHost(vms) {
		var args []string
		for _, vm := range group {
			args = append(args, vm.plugArgs()...)
		}
		if err := l.vsctl(ctx, host, args); err != nil {
			return fmt.Errorf("plug %d VMs: %w", len(group), err)
		}
	}
	return nil
}

// plugArgs leaves a port that is there in place: makeVMs has removed stale ones.
func (vm *VM) plugArgs() []string {
	return []string{
		"--", "--may-exist", "add-port", "br-int", vm.Device,
		"--", "set", "Interface", vm.Device, "external_ids:iface-id=" + vm.Spec.Port.ID,
		fmt.Sprintf(`external_ids:attached-mac="%s"`, vm.Spec.Port.MAC), "external_ids:vm-id=" + vm.Spec.Name, "external_ids:iface-status=active",
	}
}

// Unplug takes the VMs' devices off br-int, one transaction per host; the VMs stay. Idempotent.
func (l *Lab) Unplug(ctx context.Context, vms ...*VM) error {
	for host, group := range byHost(vms) {
		var args []string
		for _, vm := range group {
			args = append(args, "--", "--if-exists", "del-port", vm.Device)
		}
		if err := l.vsctl(ctx, host, args); err != nil {
			return fmt.Errorf("unplug %d VMs: %w", len(group), err)
		}
	}
	return nil
}

// vsctl speaks to a host's database from outside, through the host's own view of the file system.
func (l *Lab) vsctl(ctx context.Context, host string, args []string) error {
	target, err := l.space(host, "").target()
	if err != nil {
		return err
	}
	db := fmt.Sprintf("--db=unix:/proc/%d/root/run/openvswitch/db.sock", target.PID)
	return run(ctx, "ovs-vsctl", append([]string{db, "--timeout=30"}, args...)...)
}

// Configure gives the VM its address as its spec says, and returns what it was given. By DHCP it asks until it is answered
// or the context ends.
func (vm *VM) Configure(ctx context.Context) (lease.Lease, error) {
	got := vm.Spec.Lease
	switch vm.Spec.Addressing {
	case Unaddressed:
		return lease.Lease{}, nil
	case ByDHCP:
		var err error
		if got, err = lease.Acquire(ctx, vm.Do, VMDevice, lease.Options{}); err != nil {
			return lease.Lease{}, fmt.Errorf("VM %s: %w", vm.Spec.Name, err)
		}
	case Static:
	}
	handle, err := vm.Netlink()
	if err != nil {
		return lease.Lease{}, err
	}
	defer handle.Close()
	if err := got.Apply(handle, VMDevice); err != nil {
		return lease.Lease{}, fmt.Errorf("VM %s: %w", vm.Spec.Name, err)
	}
	vm.Spec.Lease = got
	return got, vm.lab.update(func(s *state) error {
		info, err := s.vm(vm.Spec.Name)
		if err == nil {
			info.Lease = got
		}
		return err
	})
}

// VM finds a VM by name.
func (l *Lab) VM(name string) (*VM, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	info, err := s.vm(name)
	if err != nil {
		return nil, err
	}
	return l.vm(VMSpec{Name: info.Name, Host: info.Host, Port: info.Port, Lease: info.Lease, Hybrid: strings.HasPrefix(info.Device, onSwitch)}), nil
}

// VMs lists what the lab knows of its VMs.
func (l *Lab) VMs() ([]VMInfo, error) {
	s, err := l.load()
	if err != nil {
		return nil, err
	}
	return s.VMs, nil
}

// Remove unplugs the VM, ends its processes and removes it, as a hypervisor deletes a guest. A VM that is half there, or
// gone with its host, is success.
func (vm *VM) Remove(ctx context.Context) error {
	if target, err := vm.lab.space(vm.Spec.Host, "").target(); err == nil {
		if err := vm.dismantle(ctx, target); err != nil {
			return fmt.Errorf("remove VM %s: %w", vm.Spec.Name, err)
		}
	}
	return vm.lab.update(func(s *state) error {
		s.VMs = slices.DeleteFunc(s.VMs, func(v VMInfo) bool { return v.Name == vm.Spec.Name })
		return nil
	})
}

func (vm *VM) dismantle(ctx context.Context, host netspace.Target) error {
	if err := vm.lab.Unplug(ctx, vm); err != nil {
		return err
	}
	if err := vm.removeDevices(host); err != nil {
		return err
	}
	ns, err := procfs.HoldPath("net", netspace.Target{PID: host.PID, Netns: vm.netns}.Path())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := vm.endProcesses(ctx, ns); err != nil {
		return err
	}
	_, err = vm.lab.space(vm.Spec.Host, "").Exec(ctx, "ip", "netns", "del", vm.netns)
	return err
}

// endProcesses ends what runs in the VM. A process of the machine that has only a socket or a thread there just now, as this
// one may, is not in the host's pid namespace and is spared.
func (vm *VM) endProcesses(ctx context.Context, network *procfs.Namespace) error {
	s, err := vm.lab.load()
	if err != nil {
		return err
	}
	host, err := s.host(vm.Spec.Host)
	if err != nil {
		return err
	}
	pids, err := host.Hold("pid")
	if err != nil {
		return fmt.Errorf("host %s: %w", host.Name, err)
	}
	defer pids.Close()
	ofHost, err := pids.Members()
	if err != nil {
		return err
	}
	members, err := network.Members()
	if err != nil {
		return err
	}
	inside := func(p procfs.Process) bool {
		return slices.ContainsFunc(ofHost, func(q procfs.Process) bool { return q.ID == p.ID })
	}
	return end(ctx, slices.DeleteFunc(members, func(p procfs.Process) bool { return !inside(p) }))
}

func (vm *VM) removeDevices(host netspace.Target) error {
	handle, err := host.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	for _, prefix := range []string{atGuest, onSwitch, bridge} {
		device := vm.device(prefix)
		link, err := handle.LinkByName(device)
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find its device %s: %w", device, err)
		}
		if err := handle.LinkDel(link); err != nil {
			return fmt.Errorf("remove its device %s: %w", device, err)
		}
	}
	return nil
}
