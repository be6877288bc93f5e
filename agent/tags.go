package agent

import (
	"context"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
)

// postponeTags takes VMs' ports out of what OVSDB has to have before the flows. Of such a port only the tag is weft's; it
// shows an operator the local VLAN, and no frame goes by it (docs/pipeline.md). It is written when the port works: OVS
// takes longer to tag a hundred ports than to wire them.
func (a *Agent) postponeTags(ports []desired.Port) []desired.Port {
	var now []desired.Port
	for _, p := range ports {
		if p.Type == desired.PortForeign {
			a.tags[p.Name] = p
		} else {
			now = append(now, p)
		}
	}
	return now
}

// writeTags writes the tags of ports that OVS has made, or could not make, in one transaction. While it makes them, it is
// left alone. It runs when all bridges have the plan and the reports have been handed over.
func (a *Agent) writeTags(ctx context.Context) {
	if len(a.tags) == 0 {
		return
	}
	var change ovs.Change
	interfaces := a.ovs.Snapshot().Interfaces
	for name, p := range a.tags {
		if i := interfaces[name]; i != nil && i.OFPort == 0 && i.Error == "" {
			continue
		}
		change.Ports = append(change.Ports, p)
		delete(a.tags, name)
	}
	if len(change.Ports) > 0 {
		a.ensureOVS(ctx, change)
	}
}
