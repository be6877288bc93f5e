package check

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestAControllerThatShowsWhatIsNotSoIsFound holds that ACTIVE is believed only with a report of the stored revision by a node
// that is alive, and that an object which is made may not be shown otherwise.
func TestAControllerThatShowsWhatIsNotSoIsFound(t *testing.T) {
	const id = "p"
	active, build := weftv1.State_STATE_ACTIVE, weftv1.State_STATE_BUILD
	for _, c := range []struct {
		name   string
		live   bool
		report *storev1.Report
		shown  map[string]weftv1.State
		says   string // "": nothing
	}{
		{"made and shown so", true, &storev1.Report{State: active, Revision: 5}, map[string]weftv1.State{id: active}, ""},
		{"an older revision", true, &storev1.Report{State: active, Revision: 4}, map[string]weftv1.State{id: active}, "is shown as STATE_ACTIVE"},
		{"no report", true, nil, map[string]weftv1.State{id: active}, "is shown as STATE_ACTIVE"},
		{"a node that is not alive", false, &storev1.Report{State: active, Revision: 5}, map[string]weftv1.State{id: active}, "is shown as STATE_ACTIVE"},
		{"made and not shown so", true, &storev1.Report{State: active, Revision: 5}, map[string]weftv1.State{id: build}, "its node says that it is made"},
		{"not shown", true, &storev1.Report{State: active, Revision: 5}, map[string]weftv1.State{}, "is stored and not shown"},
		{"a ghost", true, &storev1.Report{State: active, Revision: 5}, map[string]weftv1.State{id: active, "q": active}, "2 ports are shown, 1 are stored"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore()
			s.ports[id] = stored[*weftv1.Port]{&weftv1.Port{Id: id, BoundHost: "cmp1"}, 5}
			if c.live {
				s.live["cmp1"] = stored[*storev1.Agent]{msg: &storev1.Agent{}}
			}
			if c.report != nil {
				s.reports[keys.Status("cmp1", keys.KindPort, id)] = stored[*storev1.Report]{msg: c.report}
			}
			found := s.shownTruly(shown{controller: "ctl1", ports: c.shown})
			if c.says == "" && len(found) > 0 {
				t.Errorf("found %v", found)
			}
			if c.says != "" && !slices.ContainsFunc(found, func(f Finding) bool { return f.Promise == Truth && strings.Contains(f.Text, c.says) }) {
				t.Errorf("nothing like %q in %v", c.says, found)
			}
		})
	}
}

// TestARouterWithTwoNodesIsJoined holds the check to plans of several nodes: what is right is not found, and what is not is.
func TestARouterWithTwoNodesIsJoined(t *testing.T) {
	good := func() *store {
		s := newStore()
		for _, n := range []string{"net1", "net2"} {
			s.agents[n] = stored[*storev1.Agent]{msg: &storev1.Agent{}}
		}
		plan := []string{"net1", "net2"}
		s.routers["r"] = stored[*weftv1.Router]{&weftv1.Router{Id: "r", Project: "red", QuotaPlace: 7, Placement: &weftv1.Placement{Nodes: plan}}, 5}
		s.derived[keys.PlaceClaim("red", keys.KindRouter, 7)] = &storev1.Claim{Kind: keys.KindRouter, Id: "r"}
		s.active["r"] = stored[*storev1.ActiveRouter]{msg: &storev1.ActiveRouter{Node: "net2", Epoch: 3}}
		for rank, n := range plan {
			s.derived[keys.HostObject(n, keys.KindRouter, "r")] = &storev1.RouterBinding{Rank: int32(rank), Nodes: plan} //nolint:gosec // two
		}
		return s
	}
	if found := good().join(); len(found) > 0 {
		t.Fatalf("found %v", found)
	}
	binding := func(s *store, node string) *storev1.RouterBinding {
		return s.derived[keys.HostObject(node, keys.KindRouter, "r")].(*storev1.RouterBinding) //nolint:forcetypeassert // put there
	}
	for says, spoil := range map[string]func(*store){
		"the node that forwards is \"net3\"":   func(s *store) { s.active["r"].msg.Node = "net3" },
		"the node that forwards is \"\"":       func(s *store) { delete(s.active, "r") },
		"is missing: router r is planned":      func(s *store) { delete(s.derived, keys.HostObject("net2", keys.KindRouter, "r")) },
		"belongs to nothing":                   func(s *store) { s.derived[keys.HostObject("net3", keys.KindRouter, "r")] = &storev1.RouterBinding{} },
		"is still to be moved to net1":         func(s *store) { s.moves["r"] = stored[*storev1.Move]{msg: &storev1.Move{To: "net1"}} },
		"net2 is still to hand it over":        func(s *store) { binding(s, "net2").HandOver = "net1" },
		"; router r is planned on [net1 net2]": func(s *store) { binding(s, "net2").Nodes = []string{"net2"} },
		"on nodes of several pools":            func(s *store) { s.agents["net2"].msg.Pool = "other" },
		"claim/place/red/router/00000008 is m": func(s *store) { s.routers["r"].msg.QuotaPlace = 8 },
		"claim/place/red/router/of-r is miss":  func(s *store) { s.routers["r"].msg.QuotaPlace = 0 },
	} {
		s := good()
		spoil(s)
		found := s.join()
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Promise == Exact && strings.Contains(f.Text, says) }) {
			t.Errorf("nothing like %q in %v", says, found)
		}
	}
}

// TestAGuestOnANetworkIsJoined holds the check to who may use a network: its project, and those to whom it is granted.
func TestAGuestOnANetworkIsJoined(t *testing.T) {
	good := func() *store {
		s := newStore()
		s.networks["n"] = stored[*weftv1.Network]{msg: &weftv1.Network{Id: "n", Project: "red", Type: weftv1.NetworkType_NETWORK_TYPE_VXLAN}}
		s.ports["p"] = stored[*weftv1.Port]{msg: &weftv1.Port{Id: "p", Project: "green", NetworkId: "n"}}
		s.grants["g"] = stored[*weftv1.NetworkGrant]{msg: &weftv1.NetworkGrant{Id: "g", NetworkId: "n", Project: "red", TargetProject: "green"}}
		s.scopes[keys.NetworkGrant("n", "g")] = "n"
		for key, m := range map[string]proto.Message{
			keys.SegmentClaim("vxlan", "", 0):                  &storev1.Claim{Kind: keys.KindNetwork, Id: "n"},
			keys.MACClaim("n", ""):                             &storev1.Claim{Kind: keys.KindPort, Id: "p"},
			keys.UnnumberedPlace("red", keys.KindNetwork, "n"): &storev1.Claim{Kind: keys.KindNetwork, Id: "n"},
			keys.UnnumberedPlace("green", keys.KindPort, "p"):  &storev1.Claim{Kind: keys.KindPort, Id: "p"},
			keys.Locator(keys.KindPort, "p"):                   &storev1.Locator{Scope: "n"},
			keys.Locator(keys.KindNetworkGrant, "g"):           &storev1.Locator{Scope: "n"},
		} {
			s.derived[key] = m
		}
		return s
	}
	if found := good().join(); len(found) > 0 {
		t.Fatalf("found %v", found)
	}
	for says, spoil := range map[string]func(*store){
		"its network n is private to project red": func(s *store) { s.grants["g"].msg.TargetProject = "blue" },
		"network grant g is of project pink":      func(s *store) { s.grants["g"].msg.Project = "pink" },
		"does not lie there":                      func(s *store) { s.scopes[keys.NetworkGrant("n", "g")] = "m" },
		"is missing":                              func(s *store) { delete(s.derived, keys.Locator(keys.KindNetworkGrant, "g")) },
	} {
		s := good()
		spoil(s)
		found := s.join()
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Promise == Exact && strings.Contains(f.Text, says) }) {
			t.Errorf("nothing like %q in %v", says, found)
		}
	}
}

// TestWhatCountsIsJoined holds the check to what counts against quotas: everything of tenants', and nothing that the controllers
// make by themselves.
func TestWhatCountsIsJoined(t *testing.T) {
	const egress, ingress = weftv1.Direction_DIRECTION_EGRESS, weftv1.Direction_DIRECTION_INGRESS
	rule := func(r *weftv1.SecurityGroupRule) stored[*weftv1.SecurityGroupRule] {
		r.Project, r.SecurityGroupId = "red", "d"
		return stored[*weftv1.SecurityGroupRule]{msg: r}
	}
	self := &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: "d"}
	s := newStore()
	s.ports["dhcp"] = stored[*weftv1.Port]{msg: &weftv1.Port{Project: "red", DeviceOwner: ownerDHCP}}
	s.ports["leg"] = stored[*weftv1.Port]{msg: &weftv1.Port{Project: "red", DeviceOwner: ownerInterface}}
	s.ports["vm"] = stored[*weftv1.Port]{msg: &weftv1.Port{Project: "red", DeviceOwner: "compute:nova", QuotaPlace: 1}}
	s.subnets["s"] = stored[*weftv1.Subnet]{msg: &weftv1.Subnet{Project: "red", QuotaPlace: 2}}
	s.floating["f"] = stored[*weftv1.FloatingIp]{msg: &weftv1.FloatingIp{Project: "red", QuotaPlace: 3}}
	s.groups["d"] = stored[*weftv1.SecurityGroup]{msg: &weftv1.SecurityGroup{Project: "red", Name: "default"}}
	s.groups["w"] = stored[*weftv1.SecurityGroup]{msg: &weftv1.SecurityGroup{Project: "red", Name: "web", QuotaPlace: 4}}
	s.addressGroups["a"] = stored[*weftv1.AddressGroup]{msg: &weftv1.AddressGroup{Project: "red", QuotaPlace: 5}}
	s.rules["out"] = rule(&weftv1.SecurityGroupRule{Direction: egress})
	s.rules["in"] = rule(&weftv1.SecurityGroupRule{Direction: ingress, Remote: self})
	s.rules["own"] = rule(&weftv1.SecurityGroupRule{Direction: ingress, QuotaPlace: 6})
	s.rules["own2"] = rule(&weftv1.SecurityGroupRule{Direction: egress, Remote: self, Protocol: "tcp"})
	j := &joining{store: s, want: map[string]proto.Message{}}
	j.counts()
	want := []string{
		keys.PlaceClaim("red", keys.KindAddressGroup, 5), keys.PlaceClaim("red", keys.KindFloatingIP, 3), keys.PlaceClaim("red", keys.KindPort, 1),
		keys.PlaceClaim("red", keys.KindRule, 6), keys.UnnumberedPlace("red", keys.KindRule, "own2"),
		keys.PlaceClaim("red", keys.KindSecurityGroup, 4), keys.PlaceClaim("red", keys.KindSubnet, 2),
	}
	if got := slices.Sorted(maps.Keys(j.want)); !slices.Equal(got, want) || len(j.found) > 0 {
		t.Errorf("these count: %q, want %q; found %v", got, want, j.found)
	}
}
