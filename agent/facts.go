package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/proto/model"
)

// vlanKey is the prefix of br-int's external_ids in which the local VLANs are kept, so that they outlive the agent and OVS.
const vlanKey = "weft-vlan-"

// facts reads what the planner has to know from a snapshot of OVSDB. vlans are kept as they are: the agent gives them out.
func (a *Agent) readFacts(s *ovs.Snapshot, vlans map[string]uint16) plan.Facts {
	f := plan.Facts{
		Bridges: map[string]string{}, OFPorts: map[string]uint32{}, Plugged: map[string]plan.Plugged{},
		VLANs: vlans, DatapathType: a.cfg.DatapathType, BFD: a.cfg.bfd(),
		Metadata: !a.cfg.Metadata.Disabled,
		Silent:   a.takeover.silent(), Filtered: a.facts.Filtered, ProtocolNames: a.facts.ProtocolNames,
	}
	f.TunnelIP, _ = netip.ParseAddr(a.cfg.TunnelIP) // checked by Config.Validate; invalid when there is none
	for physnet, bridge := range a.cfg.BridgeMappings {
		if _, ok := s.Bridges[bridge]; ok {
			f.Bridges[physnet] = bridge
		}
	}
	for name, i := range s.Interfaces {
		switch {
		case i.Owner() != "":
			if i.OFPort != 0 {
				f.OFPorts[name] = i.OFPort
			}
		case i.Bridge == plan.BrInt && model.ValidUUID(i.IfaceID()):
			plug(f.Plugged, i)
		}
	}
	return f
}

// plug notes a VM's interface. Of two that claim one port, the first by name counts, so that it is always the same one.
func plug(plugged map[string]plan.Plugged, i *ovs.Interface) {
	if have, ok := plugged[i.IfaceID()]; ok && have.Name < i.Name {
		return
	}
	plugged[i.IfaceID()] = plan.Plugged{Name: i.Name, OFPort: i.OFPort}
}

// readVLANs reads the local VLANs that an earlier agent gave out.
func readVLANs(s *ovs.Snapshot) map[string]uint16 {
	out := map[string]uint16{}
	b, ok := s.Bridges[plan.BrInt]
	if !ok {
		return out
	}
	used := map[uint16]bool{}
	for _, key := range slices.Sorted(maps.Keys(b.ExternalIDs)) {
		network, ok := strings.CutPrefix(key, vlanKey)
		vlan, err := strconv.ParseUint(b.ExternalIDs[key], 10, 12)
		if ok && err == nil && vlan > 0 && vlan < 4095 && !used[uint16(vlan)] {
			out[network] = uint16(vlan)
			used[uint16(vlan)] = true
		}
	}
	return out
}

// problems says what is wrong with the node itself.
func (a *Agent) problems(s *ovs.Snapshot) []string {
	var out []string
	for _, physnet := range slices.Sorted(maps.Keys(a.cfg.BridgeMappings)) {
		if bridge := a.cfg.BridgeMappings[physnet]; s.Bridges[bridge] == nil {
			out = append(out, fmt.Sprintf("bridge %s of physical network %s does not exist", bridge, physnet))
		}
	}
	if a.switchDown != nil {
		out = append(out, a.switchDown.Error())
	}
	if !s.Connected {
		out = append(out, fmt.Sprintf("the Open vSwitch database at %s can't be reached: nothing can be plugged", a.cfg.OVSDB))
	}
	for _, reason := range a.planner.Problems() {
		out = append(out, legible(reason))
	}
	if problem := a.services.metadata.Problem(); problem != "" {
		out = append(out, legible(problem))
	}
	return append(append(out, a.refusedPorts()...), a.peering.problems()...)
}
