package agent

import (
	"fmt"
	"maps"
	"slices"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// uplinks says of each physical network whether the node has proven that it reaches it: the bridge is there and has a
// physical port whose link is up.
func (a *Agent) uplinks(s *ovs.Snapshot) []*weftv1.Uplink {
	var out []*weftv1.Uplink
	for _, physnet := range slices.Sorted(maps.Keys(a.cfg.BridgeMappings)) {
		bridge := a.cfg.BridgeMappings[physnet]
		reason := unproven(s, bridge)
		out = append(out, &weftv1.Uplink{PhysicalNetwork: physnet, Bridge: bridge, Proven: reason == "", Reason: reason})
	}
	return out
}

// unproven is why a provider bridge leads nowhere; "" when it does lead out.
func unproven(s *ovs.Snapshot, bridge string) string {
	b := s.Bridges[bridge]
	if b == nil {
		return fmt.Sprintf("bridge %s does not exist", bridge)
	}
	reason := fmt.Sprintf("bridge %s has no physical port", bridge)
	for _, port := range b.Ports {
		for _, name := range s.Ports[port].Interfaces {
			i := s.Interfaces[name]
			if i == nil || !physical(i) {
				continue
			}
			if i.LinkState == "up" {
				return ""
			}
			reason = fmt.Sprintf("the link of %s on bridge %s is down", name, bridge)
		}
	}
	return reason
}

// physical reports whether an interface of a provider bridge leads out of the node: it is no port of OVS's own making, none
// of weft's, and no VM's.
func physical(i *ovs.Interface) bool {
	own := []string{string(desired.PortInternal), string(desired.PortPatch), string(desired.PortVXLAN), string(desired.PortGRE)}
	return !slices.Contains(own, i.Type) && i.Owner() == "" && i.IfaceID() == ""
}

// provenUplinks are the same for the node's own decisions.
func provenUplinks(uplinks []*weftv1.Uplink) map[string]bool {
	out := map[string]bool{}
	for _, u := range uplinks {
		out[u.GetPhysicalNetwork()] = u.GetProven()
	}
	return out
}
