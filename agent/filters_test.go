package agent

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const testGroup = "f0000001-0000-4000-8000-000000000001"

// secure stores the port with security groups.
func (s *site) secure(vif weftv1.VifType, groups ...string) {
	s.Helper()
	s.put(keys.Port(testNetwork, testPort), &weftv1.Port{
		Id: testPort, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:01", BoundHost: "n1",
		PortSecurityEnabled: proto.Bool(true), SecurityGroups: &weftv1.SecurityGroupIds{Ids: groups}, VifType: vif,
	})
}

// rule stores a rule of the group.
func (s *site) rule(id string, r *weftv1.SecurityGroupRule) {
	s.Helper()
	r.Id, r.SecurityGroupId = id, testGroup
	s.put(keys.Rule(testGroup, id), r)
}

func TestAPortsStatusTellsWhichOfItsRulesAllowNothing(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.secure(weftv1.VifType_VIF_TYPE_OVS, testGroup)
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ERROR, "security group "+testGroup+" does not exist")
	s.put(keys.SecurityGroup(testGroup), &weftv1.SecurityGroup{Id: testGroup, Project: "default"})
	good := &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_EGRESS, Protocol: "tcp"}
	s.rule("e0000001-0000-4000-8000-000000000001", good)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.flow("br-int", "table=82")
	if got := strings.TrimSpace(s.ovs.Ofctl("get-frags", "br-int")); got != "nx-match" {
		t.Errorf("br-int handles fragments as %q", got)
	}

	const bad = "e0000002-0000-4000-8000-000000000002"
	s.rule(bad, &weftv1.SecurityGroupRule{Protocol: "tcp"}) // in no direction
	s.reported(testPort, weftv1.State_STATE_ERROR, "rule "+bad+" of security group "+testGroup+" allows nothing")
	port := uint32(5000)
	s.rule(bad, &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "dccp", PortMin: &port})
	s.reported(testPort, weftv1.State_STATE_ERROR, "does not read ports of protocol dccp")
	s.rule(bad, &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "udp", PortMin: &port})
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.flow("br-int", "tp_dst=5000")

	s.secure(weftv1.VifType_VIF_TYPE_HYBRID, testGroup)
	s.reported(testPort, weftv1.State_STATE_ERROR, "hybrid")
}

func TestALocalVLANIsGivenBackWithoutWhatConntrackRemembersOfItsNetwork(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	remembered := func() string {
		return s.ovs.Run("ovs-appctl", "--target="+s.ovs.Dir()+"/vswitchd.ctl", "dpctl/dump-conntrack")
	}
	for _, zone := range []string{"1", "4000"} { // the network's, and another
		s.ovs.Ofctl("packet-out", "br-int", "in_port=local packet="+udpFrame+" actions=ct(commit,zone="+zone+")")
		if !strings.Contains(remembered(), "zone="+zone) {
			t.Fatalf("no connection in zone %s: %s", zone, remembered())
		}
	}
	var gone txn.Txn
	gone.Delete(keys.HostObject("n1", keys.KindPort, testPort))
	gone.Delete(keys.Port(testNetwork, testPort))
	if _, err := s.store.Commit(t.Context(), &gone, 0); err != nil {
		t.Fatal(err)
	}
	s.eventually("the local VLAN is given back", func() string {
		if out := s.ovs.Vsctl("get", "Bridge", "br-int", "external_ids"); strings.Contains(out, testNetwork) {
			return out
		}
		return ""
	})
	if got := remembered(); strings.Contains(got, "zone=1\n") || strings.Contains(got, "zone=1,") || !strings.Contains(got, "zone=4000") {
		t.Errorf("remembered: %s", got)
	}
}

// udpFrame is a frame from 10.0.0.1, port 4000, to 10.0.0.2, port 53.
const udpFrame = "fa163e000002fa163e000001" + "0800" + "4500001c00000000401166cf0a0000010a000002" + "0fa000350008dc06"

func TestWhereAnEarlierAgentFilteredBridgesAnyLocalVLANMayHaveFilledItsZone(t *testing.T) {
	for name, c := range map[string]struct {
		taps map[string]bool
		want int
	}{
		"it filtered one that has gone since": {map[string]bool{"tap00000001-00": true}, 2},
		"it filtered none":                    {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{view: view.New("n1"), bridged: bridgedFilters{zones: map[uint16]bool{}}}
			a.facts.VLANs = map[string]uint16{testNetwork: 3, "another": 7}
			a.adoptFilters(c.taps)
			if len(a.bridged.zones) != c.want {
				t.Errorf("zones %v, want %d", a.bridged.zones, c.want)
			}
		})
	}
}
