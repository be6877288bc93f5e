package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/proto/keys"
)

// switching is what the builders of routers and DHCP servers ask of OVS and tell it, about devices by name. Its functions
// are called from several goroutines at once.
type switching struct {
	// held reports whether OVSDB has a port of weft's for a device.
	held func(device string) bool
	// numbered reports whether OVS passes the device's frames.
	numbered func(device string) bool
	// made says that the devices are there, and weft's: OVS may have ports for them.
	made func(ctx context.Context, devices []string)
}

// newSwitching answers from OVSDB as it is, and says over a channel what has been made.
func newSwitching(client *ovs.Client, made chan<- []string) switching {
	return switching{
		held: func(device string) bool {
			p := client.Snapshot().Ports[device]
			return p != nil && p.Owner() != ""
		},
		numbered: func(device string) bool {
			i := client.Snapshot().Interfaces[device]
			return i != nil && i.Owner() != "" && i.Type == "" && i.OFPort != 0
		},
		made: func(ctx context.Context, devices []string) {
			select {
			case made <- devices:
			case <-ctx.Done():
			}
		},
	}
}

// devicesMade has OVSDB get the ports of devices that are new.
func (a *Agent) devicesMade(devices []string) {
	for _, name := range devices {
		if !a.devices[name] {
			a.devices[name] = true
			a.suspectPort(name)
		}
	}
}

// postponeDevices takes the ports out of a change whose devices have not been made: OVS would take a stranger's device of
// that name. A port that OVSDB has already stays, but for one of another type: an earlier agent's internal port gives way.
func (a *Agent) postponeDevices(change *ovs.Change) {
	snap := a.ovs.Snapshot()
	var now []desired.Port
	for _, p := range change.Ports {
		have, port := snap.Interfaces[p.Name], snap.Ports[p.Name]
		switch {
		case p.Type != desired.PortSystem || a.devices[p.Name]:
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

// deviceNames are the devices of a namespace.
func deviceNames(ns desired.Namespace) []string {
	var out []string
	for _, l := range ns.Links {
		out = append(out, l.Name)
	}
	return out
}
