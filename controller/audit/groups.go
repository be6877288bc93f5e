package audit

import (
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// securityGroups checks security groups, their rules and address groups, what rules refer to, and what VMs learn.
func (a *auditor) securityGroups() {
	for id, g := range a.groups {
		if _, err := model.SecurityGroupFrom(g); err != nil {
			a.unread("security group %s: %v", id, err)
		} else {
			a.count(g)
		}
		if isDefault := id == secgroup.DefaultID(g.GetProject()); isDefault != (g.GetName() == model.DefaultGroup) {
			a.findf("security group %s of project %s is called %q; only the project's default group is called %q", id, g.GetProject(), g.GetName(), model.DefaultGroup)
		}
	}
	for id, g := range a.addressGroups {
		if _, err := model.AddressGroupFrom(g); err != nil {
			a.unread("address group %s: %v", id, err)
		} else {
			a.count(g)
		}
	}
	for id, r := range a.groupRules {
		a.groupRule(id, r)
	}
	for id, i := range a.instances {
		if err := model.InstanceFrom(i); err != nil {
			a.findf("what the VM of port %s learns of itself: %v", id, err)
		}
		switch p := a.ports[id]; {
		case p == nil:
			a.findf("key %s belongs to nothing", keys.Instance(id))
		case p.GetHostname() != "" && p.GetHostname() != i.GetHostname(): // of ports of before it is not known
			a.findf("port %s is called %q, its VM is told %q", id, p.GetHostname(), i.GetHostname())
		}
	}
}

func (a *auditor) groupRule(id string, r *weftv1.SecurityGroupRule) {
	typed, err := model.RuleFrom(r)
	if err != nil {
		a.unread("security group rule %s: %v", id, err)
		return
	}
	a.locator(keys.KindRule, id, typed.Group)
	a.count(r)
	a.ofProject("security group rule "+id, r.GetProject(), "security group", typed.Group, a.groups[typed.Group])
	if key := secgroup.Reference(typed); key != "" {
		a.claim(key, keys.KindRule, id)
	}
	if typed.RemoteGroup != "" {
		a.ofProject("security group rule "+id, r.GetProject(), "security group", typed.RemoteGroup, a.groups[typed.RemoteGroup])
	}
	if typed.RemoteAddressGroup != "" {
		a.ofProject("security group rule "+id, r.GetProject(), "address group", typed.RemoteAddressGroup, a.addressGroups[typed.RemoteAddressGroup])
	}
}

// ofProject checks that what an object refers to is there, and of the object's project.
func (a *auditor) ofProject(who, project, kind, id string, to interface{ GetProject() string }) {
	switch owner := to.GetProject(); owner {
	case project:
	case "":
		a.findf("%s: %s %s does not exist", who, kind, id)
	default:
		a.findf("%s is of project %s, %s %s of project %s", who, project, kind, id, owner)
	}
}

// memberships checks a port's groups and what they know of it.
func (a *auditor) memberships(p model.Port) {
	stateful := map[bool]string{}
	for _, id := range p.Groups {
		a.ofProject("port "+p.ID, p.Project, "security group", id, a.groups[id])
		a.expect(keys.Member(id, p.ID), secgroup.Member(p))
		stateful[a.groups[id].GetStateful()] = id
	}
	if len(stateful) > 1 {
		a.findf("port %s is in the stateful group %s and in the stateless group %s", p.ID, stateful[true], stateful[false])
	}
	if p.Secure && (p.OfRouter() || p.DeviceOwner == model.OwnerDHCP) {
		a.findf("port %s is the system's own and has port security", p.ID)
	}
}
