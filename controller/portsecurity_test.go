package controller_test

import (
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func groupIDs(ids ...string) *weftv1.SecurityGroupIds { return &weftv1.SecurityGroupIds{Ids: ids} }

// changePort updates a port, the fields of the mask.
func (w *world) changePort(p *weftv1.Port, paths ...string) (*weftv1.Port, error) {
	return w.UpdatePort(w.ctx, &weftv1.UpdatePortRequest{Port: p, UpdateMask: mask(paths...)})
}

// member is what a group knows of a port; nil when the port is none of its members.
func (w *world) member(group, port string) []string {
	w.Helper()
	m := &storev1.Member{}
	if w.read(keys.Member(group, port), m) == 0 {
		return nil
	}
	return m.GetAddresses()
}

func TestAPortIsInItsProjectsDefaultGroupUnlessItSaysOtherwise(t *testing.T) {
	w := newWorld(t)
	shared := w.network(&weftv1.Network{Name: "shared", Shared: true})
	open := w.network(&weftv1.Network{Name: "open", Shared: true, PortSecurityEnabled: proto.Bool(false)})
	group := w.group(&weftv1.SecurityGroup{Name: "web", Project: "red"})
	red := secgroup.DefaultID("red")
	for name, c := range map[string]struct {
		port   *weftv1.Port
		secure bool
		groups []string // nil: none stored
	}{
		"nothing said":             {&weftv1.Port{NetworkId: shared.GetId()}, true, []string{red}},
		"groups given":             {&weftv1.Port{NetworkId: shared.GetId(), SecurityGroups: groupIDs(group.GetId())}, true, []string{group.GetId()}},
		"no group wanted":          {&weftv1.Port{NetworkId: shared.GetId(), SecurityGroups: groupIDs()}, true, []string{}},
		"no security":              {&weftv1.Port{NetworkId: shared.GetId(), PortSecurityEnabled: proto.Bool(false)}, false, nil},
		"a network without":        {&weftv1.Port{NetworkId: open.GetId()}, false, nil},
		"security all the same":    {&weftv1.Port{NetworkId: open.GetId(), PortSecurityEnabled: proto.Bool(true)}, true, []string{red}},
		"hybrid and with security": {&weftv1.Port{NetworkId: shared.GetId(), VifType: weftv1.VifType_VIF_TYPE_HYBRID}, true, []string{red}},
	} {
		t.Run(name, func(t *testing.T) {
			c.port.Project = "red"
			p := w.port(c.port)
			if p.PortSecurityEnabled == nil || p.GetPortSecurityEnabled() != c.secure || (p.GetSecurityGroups() == nil) != (c.groups == nil) || !slices.Equal(p.GetSecurityGroups().GetIds(), c.groups) {
				t.Errorf("stored as %v", p)
			}
			if p.GetVifType() == weftv1.VifType_VIF_TYPE_UNSPECIFIED {
				t.Error("the kind of interface is not decided")
			}
		})
	}
	rules, err := w.ListSecurityGroupRules(w.ctx, &weftv1.ListSecurityGroupRulesRequest{Filter: "security_group_id = " + red})
	w.check(err)
	if len(rules.GetSecurityGroupRules()) != 4 {
		t.Errorf("the default group's rules: %v", rules)
	}
	list, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: "security_groups.ids = " + group.GetId()})
	w.check(err)
	if len(list.GetPorts()) != 1 {
		t.Errorf("found %v by group", list)
	}
	w.audit()
}

func TestTheFirstPortsOfAProjectMakeOneDefaultGroup(t *testing.T) {
	w := newWorld(t)
	shared := w.network(&weftv1.Network{Name: "shared", Shared: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: shared.GetId(), Project: "red"}}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			req := &weftv1.BatchCreatePortsRequest{}
			for range 10 {
				req.Requests = append(req.Requests, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: shared.GetId(), Project: "red"}})
			}
			resp, err := w.BatchCreatePorts(w.ctx, req)
			if err != nil {
				t.Error(err)
				return
			}
			for _, r := range resp.GetResults() {
				if r.GetError() != nil {
					t.Error(r.GetError())
				}
			}
		})
	}
	wg.Wait()
	groups, err := w.ListSecurityGroups(w.ctx, &weftv1.ListSecurityGroupsRequest{Project: "red"})
	w.check(err)
	if len(groups.GetSecurityGroups()) != 1 || groups.GetSecurityGroups()[0].GetId() != secgroup.DefaultID("red") {
		t.Errorf("groups: %v", groups)
	}
	w.audit()
}

func TestGroupsKnowTheirMembersAddresses(t *testing.T) {
	w := newWorld(t)
	a, b := w.group(&weftv1.SecurityGroup{Name: "a"}).GetId(), w.group(&weftv1.SecurityGroup{Name: "b"}).GetId()
	p := w.port(&weftv1.Port{
		NetworkId: w.net1.GetId(), FixedIps: fixed("10.0.0.20"), SecurityGroups: groupIDs(b, a),
		AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.9.0.0/16", MacAddress: "FA-16-3E-00-00-99"}, {IpAddress: "10.0.0.7/32"}},
	})
	if pairs := p.GetAllowedAddressPairs(); pairs[0].GetMacAddress() != "fa:16:3e:00:00:99" || pairs[1].GetIpAddress() != "10.0.0.7" {
		t.Errorf("pairs are stored as %v", pairs)
	}
	both := func(want ...string) {
		t.Helper()
		if got, other := w.member(a, p.GetId()), w.member(b, p.GetId()); !slices.Equal(got, want) || !slices.Equal(other, want) {
			t.Errorf("a knows %v, b %v, want %v", got, other, want)
		}
	}
	both("10.0.0.7", "10.0.0.20", "10.9.0.0/16")
	_, err := w.changePort(&weftv1.Port{Id: p.GetId(), FixedIps: fixed("10.0.0.21")}, "fixed_ips", "allowed_address_pairs")
	w.check(err)
	both("10.0.0.21")
	_, err = w.changePort(&weftv1.Port{Id: p.GetId(), SecurityGroups: groupIDs(a)}, "security_groups")
	w.check(err)
	if w.member(b, p.GetId()) != nil || w.member(a, p.GetId()) == nil {
		t.Error("left b: b knows it still, or a no longer")
	}
	refused(t, w.deleteGroup(a), codes.FailedPrecondition, `security group "a"`, p.GetId())
	_, err = w.UpdateSecurityGroup(w.ctx, &weftv1.UpdateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Id: a, Stateful: proto.Bool(false)}, UpdateMask: mask("stateful")})
	refused(t, err, codes.FailedPrecondition, p.GetId())
	w.check(w.deleteGroup(b))
	w.audit()
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: p.GetId()})
	w.check(err)
	w.check(w.deleteGroup(a))
	w.audit()
}

func TestPortSecurityCanBeTakenAndGivenBack(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{NetworkId: w.net1.GetId()})
	off := &weftv1.Port{Id: p.GetId(), PortSecurityEnabled: proto.Bool(false)}
	_, err := w.changePort(off, "port_security_enabled")
	refused(t, err, codes.InvalidArgument, "port_security_enabled", "security groups")
	got, err := w.changePort(off, "port_security_enabled", "security_groups")
	w.check(err)
	if got.GetPortSecurityEnabled() || got.GetSecurityGroups() != nil {
		t.Errorf("without security: %v", got)
	}
	w.audit()
	got, err = w.changePort(&weftv1.Port{Id: p.GetId(), PortSecurityEnabled: proto.Bool(true)}, "port_security_enabled")
	w.check(err)
	if !got.GetPortSecurityEnabled() || !slices.Equal(got.GetSecurityGroups().GetIds(), []string{secgroup.DefaultID("default")}) {
		t.Errorf("with security again: %v", got)
	}
	w.audit()
}

func TestAnOldPortStaysAsItIsUntilItIsAsked(t *testing.T) {
	w := newWorld(t)
	old := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), PortSecurityEnabled: proto.Bool(false)})
	stored := &weftv1.Port{}
	w.read(keys.Port(w.net1.GetId(), old.GetId()), stored)
	stored.PortSecurityEnabled, stored.VifType = nil, 0
	w.put(keys.Port(w.net1.GetId(), old.GetId()), stored)
	shown, err := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: old.GetId()})
	w.check(err)
	if shown.PortSecurityEnabled == nil || shown.GetPortSecurityEnabled() || shown.GetVifType() != weftv1.VifType_VIF_TYPE_OVS {
		t.Errorf("shown as %v", shown)
	}
	renamed, err := w.changePort(&weftv1.Port{Id: old.GetId(), Name: "new"}, "name")
	w.check(err)
	if renamed.GetPortSecurityEnabled() || renamed.GetSecurityGroups() != nil {
		t.Errorf("renamed: %v", renamed)
	}
	secured, err := w.changePort(&weftv1.Port{Id: old.GetId()}, "port_security_enabled") // as the network has it
	w.check(err)
	if !secured.GetPortSecurityEnabled() || len(secured.GetSecurityGroups().GetIds()) != 1 {
		t.Errorf("secured: %v", secured)
	}
	w.audit()
}

func TestPortSecurityRefusals(t *testing.T) {
	w := newWorld(t)
	stateful, stateless := w.group(&weftv1.SecurityGroup{Name: "f"}), w.group(&weftv1.SecurityGroup{Name: "l", Stateful: proto.Bool(false)})
	foreign := w.group(&weftv1.SecurityGroup{Name: "x", Project: "red"})
	pair := func(ip, mac string) *weftv1.Port {
		return &weftv1.Port{AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: ip, MacAddress: mac}}}
	}
	many := make([]string, 17)
	for i := range many {
		many[i] = nobody
	}
	for name, c := range map[string]struct {
		port *weftv1.Port
		code codes.Code
		says []string
	}{
		"stateful and stateless":      {&weftv1.Port{SecurityGroups: groupIDs(stateful.GetId(), stateless.GetId())}, codes.FailedPrecondition, []string{`"f"`, `"l"`}},
		"another project's group":     {&weftv1.Port{SecurityGroups: groupIDs(foreign.GetId())}, codes.FailedPrecondition, []string{"project red"}},
		"a group that is not there":   {&weftv1.Port{SecurityGroups: groupIDs(nobody)}, codes.NotFound, []string{nobody}},
		"a group twice":               {&weftv1.Port{SecurityGroups: groupIDs(stateful.GetId(), stateful.GetId())}, codes.InvalidArgument, []string{"security_groups.ids[1]", "twice"}},
		"no id":                       {&weftv1.Port{SecurityGroups: groupIDs("../x")}, codes.InvalidArgument, []string{"security_groups.ids[0]"}},
		"too many groups":             {&weftv1.Port{SecurityGroups: groupIDs(many...)}, codes.InvalidArgument, []string{"17 elements"}},
		"groups without security":     {&weftv1.Port{PortSecurityEnabled: proto.Bool(false), SecurityGroups: groupIDs(stateful.GetId())}, codes.InvalidArgument, []string{"port_security_enabled"}},
		"pairs without security":      {&weftv1.Port{PortSecurityEnabled: proto.Bool(false), AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.0.0.1"}}}, codes.InvalidArgument, []string{"allowed_address_pairs"}},
		"every address as a pair":     {pair("0.0.0.0/0", ""), codes.InvalidArgument, []string{"allowed_address_pairs[0].ip_address"}},
		"every IPv6 address":          {pair("::/0", ""), codes.InvalidArgument, []string{"allowed_address_pairs[0].ip_address"}},
		"a multicast pair":            {pair("224.0.0.1", ""), codes.InvalidArgument, []string{"allowed_address_pairs[0].ip_address"}},
		"a pair with a multicast MAC": {pair("10.0.0.9", "01:00:5e:00:00:01"), codes.InvalidArgument, []string{"allowed_address_pairs[0].mac_address"}},
		"a pair that stands twice": {
			&weftv1.Port{AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.0.0.9"}, {IpAddress: "10.0.0.9/32"}}},
			codes.InvalidArgument,
			[]string{"allowed_address_pairs[1]", "twice"},
		},
		"an unknown interface":         {&weftv1.Port{VifType: 9}, codes.InvalidArgument, []string{"vif_type"}},
		"a host name with a line end":  {&weftv1.Port{Instance: &weftv1.Instance{Hostname: "a\nb"}}, codes.InvalidArgument, []string{"instance.hostname"}},
		"a key of two lines":           {&weftv1.Port{Instance: &weftv1.Instance{PublicKeys: []string{"ssh-rsa a\nssh-rsa b"}}}, codes.InvalidArgument, []string{"instance.public_keys[0]"}},
		"more user data than can be":   {&weftv1.Port{Instance: &weftv1.Instance{UserData: make([]byte, 16385)}}, codes.InvalidArgument, []string{"instance.user_data"}},
		"a port that is the system's":  {&weftv1.Port{DeviceOwner: "network:router_interface", DeviceId: w.r1.GetId()}, codes.InvalidArgument, []string{"device_owner"}},
		"a pair in IPv4-mapped form":   {pair("::ffff:10.0.0.1", ""), codes.InvalidArgument, []string{"allowed_address_pairs[0].ip_address"}},
		"a pair with host bits in it":  {pair("10.0.0.1/24", ""), codes.InvalidArgument, []string{"10.0.0.0/24"}},
		"a pair with a zone or a name": {pair("fe80::1%eth0", ""), codes.InvalidArgument, []string{"allowed_address_pairs[0].ip_address"}},
	} {
		err := createPort(c.port)(w)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.says...) })
	}
	_, err := w.changePort(&weftv1.Port{Id: w.p1.GetId(), VifType: weftv1.VifType_VIF_TYPE_HYBRID}, "vif_type")
	refused(t, err, codes.InvalidArgument, "vif_type")
	w.audit()
}

func TestWhatAVMLearnsOfItselfIsTheOwnersToRead(t *testing.T) {
	w := newWorld(t)
	secret := &weftv1.Instance{Hostname: "vm1", UserData: []byte("#cloud-config"), Metadata: map[string]string{"role": "web"}}
	created := w.port(&weftv1.Port{NetworkId: w.net1.GetId(), Name: "vm1", Instance: secret})
	get := func() *weftv1.Instance {
		t.Helper()
		p, err := w.GetPort(w.ctx, &weftv1.GetPortRequest{Id: created.GetId()})
		w.check(err)
		return p.GetInstance()
	}
	stored := &weftv1.Port{}
	w.read(keys.Port(w.net1.GetId(), created.GetId()), stored)
	list, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{Filter: "name = vm1"})
	w.check(err)
	if created.GetHostname() != "vm1" || stored.GetHostname() != "vm1" {
		t.Errorf("created %v, stored %v; nodes are to know its name", created, stored)
	}
	if created.GetInstance() != nil || stored.GetInstance() != nil || list.GetPorts()[0].GetInstance() != nil || !proto.Equal(get(), secret) {
		t.Errorf("created %v, stored %v, listed %v, read %v", created, stored, list, get())
	}
	same, err := w.changePort(&weftv1.Port{Id: created.GetId(), Instance: secret}, "instance")
	w.check(err)
	if same.GetEtag() != created.GetEtag() {
		t.Error("what changes nothing was written")
	}
	changed, err := w.changePort(&weftv1.Port{Id: created.GetId(), Hostname: "vm3", Instance: &weftv1.Instance{Hostname: "vm2"}}, "instance")
	w.check(err)
	if changed.GetHostname() != "vm2" {
		t.Errorf("changed to %v", changed)
	}
	if got := get(); got.GetHostname() != "vm2" || got.GetUserData() != nil {
		t.Errorf("changed to %v", got)
	}
	w.audit()
	cleared, err := w.changePort(&weftv1.Port{Id: created.GetId()}, "instance")
	w.check(err)
	if cleared.GetHostname() != "" || get() != nil || w.read(keys.Instance(created.GetId()), &weftv1.Instance{}) != 0 {
		t.Errorf("cleared to %v", get())
	}
	_, err = w.changePort(&weftv1.Port{Id: created.GetId(), Instance: secret}, "instance")
	w.check(err)
	_, err = w.DeletePort(w.ctx, &weftv1.DeletePortRequest{Id: created.GetId()})
	w.check(err)
	w.audit()
}

func TestASystemPortHasNoFilters(t *testing.T) {
	w := newWorld(t)
	p := w.port(&weftv1.Port{
		NetworkId: w.net1.GetId(), Instance: &weftv1.Instance{Hostname: "vm1"},
		AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.9.0.0/16"}},
	})
	r := w.router("r2", "")
	_, err := w.AddRouterInterface(w.ctx, &weftv1.AddRouterInterfaceRequest{RouterId: r.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: p.GetId()}})
	w.check(err)
	all, err := w.ListPorts(w.ctx, &weftv1.ListPortsRequest{})
	w.check(err)
	for _, p := range all.GetPorts() {
		if system := p.GetDeviceOwner() != ""; system && (p.GetPortSecurityEnabled() || p.GetSecurityGroups() != nil || p.GetAllowedAddressPairs() != nil) {
			t.Errorf("a system's port is filtered: %v", p)
		}
	}
	w.audit()
}
