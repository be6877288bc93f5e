package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The files of Open vSwitch inside a host, Debian's defaults, so that its tools work there without options.
const (
	ovsSchema   = "/usr/share/openvswitch/vswitch.ovsschema"
	ovsDatabase = "/etc/openvswitch/conf.db"
	ovsSocket   = "/var/run/openvswitch/db.sock"
	outBridge   = "br-out"
)

// bootOVS starts Open vSwitch where the host has it and arranges what its operator would have arranged.
func (l *Lab) bootOVS(ctx context.Context, h HostInfo) error {
	if !h.Node() && len(h.VLANs) == 0 {
		return nil
	}
	if err := l.startOVSDB(ctx, h); err != nil {
		return err
	}
	if err := l.configureOVS(ctx, h); err != nil {
		return err
	}
	return l.startVSwitch(ctx, h)
}

// startOVSDB makes the database on the first boot only: like a real host's, it survives power cycles.
func (l *Lab) startOVSDB(ctx context.Context, h HostInfo) error {
	space := l.space(h.Name, "")
	_, err := os.Stat(filepath.Join(l.spec(h.Name).Disk(), "etc-openvswitch", filepath.Base(ovsDatabase)))
	if errors.Is(err, fs.ErrNotExist) {
		_, err = space.Exec(ctx, "ovsdb-tool", "create", ovsDatabase, ovsSchema)
	}
	if err != nil {
		return fmt.Errorf("make the Open vSwitch database (is openvswitch-switch installed?): %w", err)
	}
	_, err = space.Exec(ctx, "nice", "-n", priority, "ovsdb-server", "--detach", "--no-chdir", "--pidfile", "--log-file", "-vconsole:off",
		"--remote=punix:"+ovsSocket, ovsDatabase)
	if err != nil {
		return err
	}
	return l.favour(h.Name)
}

// configureOVS writes the operator's bridges before ovs-vswitchd starts, which then makes all in one go. A bridge has
// another MAC than its uplink: userspace Open vSwitch reads the uplink through a packet socket, so that the kernel
// sees the same frames, and would otherwise take those meant for the bridge as its own and answer them too.
func (l *Lab) configureOVS(ctx context.Context, h HostInfo) error {
	args := []string{
		"ovs-vsctl", "--no-wait", "--timeout=10", "init",
		"--", "set", "Open_vSwitch", ".", "external_ids:system-id=" + h.Name, "external_ids:hostname=" + h.Name,
	}
	for _, link := range h.Links {
		if link.Bridge != "" {
			args = append(args, addBridgeArgs(link)...)
		}
	}
	if h.Kind == Outside {
		args = append(args, outsideArgs(h)...)
	}
	_, err := l.space(h.Name, "").Exec(ctx, args...)
	return err
}

// addBridgeArgs asks for the MTU by name: a bridge that is made together with its uplink does not take it from there.
func addBridgeArgs(l Link) []string {
	return []string{
		"--", "--may-exist", "add-br", l.Bridge, "--", "--may-exist", "add-port", l.Bridge, l.Device,
		"--", "set", "Bridge", l.Bridge, "datapath_type=netdev", fmt.Sprintf(`other_config:hwaddr="%s"`, l.Hardware),
		"--", "set", "Interface", l.Bridge, fmt.Sprintf("mtu_request=%d", l.MTU),
	}
}

// startVSwitch returns when ovs-vswitchd has configured itself (its --detach waits for that) and the host's addresses on
// its internal ports are in place.
func (l *Lab) startVSwitch(ctx context.Context, h HostInfo) error {
	_, err := l.space(h.Name, "").Exec(ctx, "nice", "-n", priority, "ovs-vswitchd", "--detach", "--no-chdir", "--pidfile", "--log-file", "-vconsole:off", "unix:"+ovsSocket)
	if err != nil {
		return err
	}
	return errors.Join(l.favour(h.Name), l.addressInternalPorts(ctx, h))
}

// ovsCtl is where Debian has it.
const ovsCtl = "/usr/share/openvswitch/scripts/ovs-ctl"

// RestartOVS restarts Open vSwitch as its package's upgrade does, with ovs-ctl(8): it saves the flows, restarts both daemons
// and restores the flows before they take effect. The host's addresses are put back as soon as its internal ports appear,
// as a network manager would. It returns when all is back.
func (h *Host) RestartOVS(ctx context.Context) error {
	info, err := h.now()
	if err != nil {
		return err
	}
	addressing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.lab.keepAddresses(addressing, info)
	}()
	_, err = h.Exec(ctx, ovsCtl, "--no-record-hostname", "--system-id="+info.Name, "restart")
	stop()
	<-done
	if err != nil {
		return err
	}
	return errors.Join(h.lab.favour(info.Name), h.lab.addressInternalPorts(ctx, info))
}

// keepAddresses gives devices that come anew their addresses, until the context ends. What it can't do is done, or its
// failure reported, when all is over.
func (l *Lab) keepAddresses(ctx context.Context, h HostInfo) {
	for pause(ctx, 10*time.Millisecond) == nil {
		_ = l.addressInternalPorts(ctx, h) // the device is not there now
	}
}

// addressInternalPorts does what a host's network manager does when a device appears. With the userspace datapath an
// internal port is a tap device that dies with ovs-vswitchd and comes back bare.
func (l *Lab) addressInternalPorts(ctx context.Context, h HostInfo) error {
	for _, link := range h.Links {
		if link.Bridge == "" || !link.Address.IsValid() {
			continue
		}
		if err := l.addressPort(ctx, h, link.Bridge, Link{Device: link.Bridge, Address: link.Address}); err != nil {
			return err
		}
	}
	for _, v := range h.VLANs {
		if err := l.addressPort(ctx, h, v.device(), Link{Device: v.device(), Address: v.Address}); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addressPort(ctx context.Context, h HostInfo, device string, as Link) error {
	w, err := l.openWiring(h.Name)
	if err != nil {
		return err
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = await(ctx, device+" exists", func() error {
		_, err := w.inside.LinkByName(device)
		return err
	})
	if err != nil {
		return err
	}
	return w.prepareDevice(as)
}
