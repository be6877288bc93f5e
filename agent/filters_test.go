package agent

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
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
