package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/proto/keys"
)

// switching is what the builders of routers and DHCP servers ask of OVS and tell it, about devices by name. Its functions
// are called from several goroutines at once.
type switching struct {
	// held reports whether OVSDB has a port of weft's for a device.
	held func(device string) bool
	// numbered reports whether OVS passes the device's frames: this very device's, by its identity (netns.Report).
	numbered func(device, identity string) bool
	// made says that the devices are there, and weft's: OVS may have ports for them. They come with their identities.
	made func(ctx context.Context, devices map[string]string)
}

// deviceKey is the key of an OVS interface's external_ids that holds the identity of the device it was made for.
const deviceKey = "weft-device"

// newSwitching answers from OVSDB, and says over a channel what has been made. Whether OVS passes a device's frames it
// takes from the snapshot that seen gives: the loop's last one, after which the loop has whoever waits for OVS tried again.
func newSwitching(client *ovs.Client, seen func() *ovs.Snapshot, made chan<- map[string]string) switching {
	return switching{
		held: func(device string) bool {
			p := client.Snapshot().Ports[device]
			return p != nil && p.Owner() != ""
		},
		numbered: func(device, identity string) bool {
			i := seen().Interfaces[device]
			return i != nil && i.Owner() != "" && i.Type == "" && i.OFPort != 0 && i.ExternalIDs[deviceKey] == identity
		},
		made: func(ctx context.Context, devices map[string]string) {
			select {
			case made <- devices:
			case <-ctx.Done():
			}
		},
	}
}

// devicesMade has OVSDB get the ports of devices that are new.
func (a *Agent) devicesMade(ctx context.Context, devices map[string]string) {
	var stale []string
	for name, identity := range devices {
		if a.devices[name] == identity {
			continue
		}
		a.devices[name] = identity
		a.arrived = append(a.arrived, name)
		if !a.renewing[name] && a.replaced(name, identity) {
			stale = append(stale, name)
		}
	}
	if len(stale) > 0 {
		a.renewPorts(ctx, stale)
	}
}

// arrivalPatience is how long devices wait for more to come while many are being made.
const arrivalPatience = 10 * time.Second

// admitDevices has OVSDB get the ports of devices that have arrived. Each change of OVSDB costs ovs-vswitchd a look at every
// port it has, seconds when there are thousands, during which it serves nothing else: while many devices are on their way,
// they go in together.
func (a *Agent) admitDevices(now time.Time) {
	if len(a.arrived) == 0 {
		return
	}
	if a.arrivedSince.IsZero() {
		a.arrivedSince = now
	}
	if a.workers.depth() > 2*maxBuilds && now.Sub(a.arrivedSince) < arrivalPatience {
		return
	}
	for _, name := range a.arrived {
		a.suspectPort(name)
	}
	a.arrived, a.arrivedSince = nil, time.Time{}
}

// devicesMadeToo takes in what else has been made meanwhile: it goes into the same transaction.
func (a *Agent) devicesMadeToo(ctx context.Context) {
	for range maxBuilds * 4 {
		select {
		case devices := <-a.made:
			a.devicesMade(ctx, devices)
		default:
			return
		}
	}
}

// replaced reports whether OVS has taken a device that was there before, under the same name: with the userspace datapath it
// goes on listening to that one, which is gone. One of an earlier boot, or that OVS has no number for, it has not taken.
func (a *Agent) replaced(name, identity string) bool {
	i := a.ovs.Snapshot().Interfaces[name]
	if i == nil || i.Owner() == "" || i.Type != "" || i.OFPort == 0 {
		return false
	}
	boot, _, _ := strings.Cut(identity, ":")
	was := i.ExternalIDs[deviceKey]
	return was != identity && strings.HasPrefix(was, boot+":")
}

// renewPorts has OVS let go of ports, beside the loop: ovs-vswitchd must have seen that they are gone before they may come
// back, or it would take no notice. Until then no port is made for them.
func (a *Agent) renewPorts(ctx context.Context, names []string) {
	a.log.Warn("devices were replaced behind Open vSwitch's back, it gets them anew", "devices", names)
	for _, name := range names {
		a.renewing[name] = true
	}
	go func() {
		for {
			waiting, cancel := context.WithTimeout(ctx, ovsTimeout(len(names)))
			_, err := a.ovs.Ensure(waiting, ovs.Change{DeletePorts: names, Wait: true})
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			a.log.Warn("ovs-vswitchd has not let go of devices, trying again", "devices", names, "error", err)
			sleep(ctx, 200*time.Millisecond)
		}
		a.post.send(ctx, func() { a.portsRenewed(names) })
	}()
}

// portsRenewed has the ports made again that OVS has let go of.
func (a *Agent) portsRenewed(names []string) {
	for _, name := range names {
		delete(a.renewing, name)
		a.suspectPort(name)
	}
}

// postponeDevices takes the ports out of a change whose devices have not been made: OVS would take a stranger's device of
// that name. A port that OVSDB has already stays, but for one of another type: an earlier agent's internal port gives way.
// The others note which device they are made for.
func (a *Agent) postponeDevices(change *ovs.Change) {
	snap := a.ovs.Snapshot()
	var now []desired.Port
	for _, p := range change.Ports {
		have, port := snap.Interfaces[p.Name], snap.Ports[p.Name]
		switch {
		case p.Type != desired.PortSystem:
			now = append(now, p)
		case a.renewing[p.Name]:
		case a.devices[p.Name] != "":
			p.ExternalIDs = maps.Clone(p.ExternalIDs)
			p.ExternalIDs[deviceKey] = a.devices[p.Name]
			now = append(now, p)
		case have == nil || port == nil:
		case port.Owner() != "" && have.Type != "" && a.careful: // its router may not be built yet
		case port.Owner() != "" && have.Type != "":
			change.DeletePorts = append(change.DeletePorts, p.Name)
		default:
			now = append(now, p)
		}
	}
	change.Ports = now
}

// devicesChanged has the routers and DHCP servers built again whose devices OVS has taken, or taken anew, and those that
// failed while somebody did something about one of them.
func (a *Agent) devicesChanged(changes ovs.Changes, now map[string]uint32) {
	kick := func(u unit, devices []string) {
		failed := a.units[u] != nil && !soon(a.units[u])
		if slices.ContainsFunc(devices, func(device string) bool {
			return a.facts.OFPorts[device] != now[device] || (failed && slices.Contains(changes.Interfaces, device))
		}) {
			a.workers.again(u)
		}
	}
	for id, r := range a.planner.Routers() {
		kick(unit{keys.KindRouter, id}, r.Devices)
	}
	for id, d := range a.planner.DHCP() {
		kick(unit{keys.KindDHCP, id}, []string{d.Device})
	}
}

// errNotNumbered tells that OVS has not taken a device yet. What is announced before goes nowhere.
var errNotNumbered = errors.New("OVS has not taken the device yet")
