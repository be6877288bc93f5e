package api

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// visible reports whether the caller sees an object: what is of their projects, networks that are shared, external or granted
// to them, with their subnets, and such grants. What somebody does not see does not exist for them.
func (r *resource[M]) visible(ctx context.Context, v *record.View, m M) (bool, error) {
	c, h := caller.From(ctx), r.Header(m)
	switch {
	case c.Operates():
		return true, nil
	case h.Project == nil || c.Role == caller.Nobody:
		return false, nil
	case c.Sees(*h.Project):
		return true, nil
	}
	switch m := any(m).(type) {
	case *weftv1.Network:
		return lent(ctx, v, m)
	case *weftv1.Subnet:
		n, err := r.server.networks.At(ctx, v, "", m.GetNetworkId())
		if fault.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return lent(ctx, v, n.Msg)
	case *weftv1.NetworkGrant:
		return c.Sees(m.GetTargetProject()), nil
	default:
		return false, nil
	}
}

// lent reports whether a network that is not the caller's is theirs to use, in one way or another.
func lent(ctx context.Context, v *record.View, n *weftv1.Network) (bool, error) {
	if n.GetShared() || n.GetExternal() {
		return true, nil
	}
	return granted(ctx, v, n.GetId(), caller.From(ctx).Projects...)
}

// seen is an object that has been read, if the caller sees it; else it does not exist.
func (r *resource[M]) seen(ctx context.Context, v *record.View, s record.Stored[M], err error) (record.Stored[M], error) {
	if err != nil {
		return s, err
	}
	ok, err := r.visible(ctx, v, s.Msg)
	if err == nil && !ok {
		err = fault.NotFound(r.Name, *r.Header(s.Msg).ID)
	}
	return s, err
}

// look reads an object that a caller names.
func (r *resource[M]) look(ctx context.Context, v *record.View, id string) (record.Stored[M], error) {
	s, err := r.Get(ctx, v, id)
	return r.seen(ctx, v, s, err)
}

// labelFor is an object's label for a caller who may not see the object, and then learns no more than whose it is.
func labelFor(ctx context.Context, kind, project, label string) string {
	if !caller.From(ctx).Sees(project) {
		return "a " + kind + " of project " + project
	}
	return label
}

// own reads an object that a caller names and is to be changed, or to be part of something new.
func (r *resource[M]) own(ctx context.Context, v *record.View, id string) (record.Stored[M], error) {
	s, err := r.look(ctx, v, id)
	if err != nil {
		return s, err
	}
	return s, r.mine(ctx, s.Msg)
}

// mine refuses a change of an object by somebody who only sees it.
func (r *resource[M]) mine(ctx context.Context, m M) error {
	c, h := caller.From(ctx), r.Header(m)
	if h.Project == nil && c.Operates() || h.Project != nil && c.Changes(*h.Project) {
		return nil
	}
	return fault.Denied("%s is not %s's to change", r.Label(m), c.Name)
}

// place decides the project of a new object that its caller has not.
func (r *resource[M]) place(ctx context.Context, m M) error {
	c, h := caller.From(ctx), r.Header(m)
	switch {
	case h.Project == nil || c.Role == caller.Admin:
		return nil
	case r.derived:
		return nil
	case *h.Project == "" && len(c.Projects) == 1:
		*h.Project = c.Projects[0]
		return nil
	case *h.Project == "":
		return model.Invalid("project", "is required: %s is of %s", c.Name, cmp.Or(strings.Join(c.Projects, ", "), "no project"))
	case !c.Changes(*h.Project):
		return fault.Denied("%s can't make anything in project %s", c.Name, *h.Project)
	default:
		return nil
	}
}

// projectFor is the project that a caller names, or the one that they are of. One that they see nothing of does not exist.
func projectFor(ctx context.Context, project string) (string, error) {
	c := caller.From(ctx)
	switch {
	case project == "" && c.Role < caller.Operator && len(c.Projects) != 1:
		return "", model.Invalid("project", "is required: %s is of %s", c.Name, cmp.Or(strings.Join(c.Projects, ", "), "no project"))
	case project == "" && c.Role < caller.Operator:
		return c.Projects[0], nil
	case project == "":
		return model.DefaultProject, nil
	case !model.ValidProject(project):
		return "", model.Invalid("project", "%q can't name a project", project)
	case !c.Sees(project):
		return "", fault.NotFound("project", project)
	default:
		return project, nil
	}
}

// inner are the fields of an object that say how it lies on the fleet, which are operators' to see and to decide.
func inner(m messageOf) []string {
	switch m.(type) {
	case *weftv1.Network:
		return []string{"physical_network", "segmentation_id", "dhcp_placement", "dhcp_servers", "pool"}
	case *weftv1.Port:
		return []string{"host", "bound_host"}
	case *weftv1.Router:
		return []string{"ha", "pool", "placement", "active_node", "instances"}
	default:
		return nil
	}
}

// reserved are the fields that operators decide: the inner ones, and those by which an object concerns other projects.
func reserved(m messageOf) []string {
	if _, ok := m.(*weftv1.Network); ok {
		return append(inner(m), "type", "shared", "external")
	}
	return inner(m)
}

// mask takes from an object what its caller may not see.
func mask(ctx context.Context, m messageOf) {
	if caller.From(ctx).Operates() {
		return
	}
	fields := m.ProtoReflect().Descriptor().Fields()
	for _, name := range inner(m) {
		m.ProtoReflect().Clear(fields.ByName(protoreflect.Name(name)))
	}
	if s, ok := m.(interface{ GetStatus() *weftv1.ObjectStatus }); ok && s.GetStatus() != nil {
		s.GetStatus().Reports, s.GetStatus().Message = nil, ""
	}
}

// unreserved refuses an object that sets what its caller may not decide.
func unreserved(ctx context.Context, m messageOf) error {
	if caller.From(ctx).Operates() {
		return nil
	}
	for _, name := range reserved(m) {
		if set(m, name) && !output(m, name) {
			return fault.Denied("%s is for operators to decide", name)
		}
	}
	return nil
}

// output reports whether a field is one that callers send back as they got it, and that is ignored.
func output(m messageOf, name string) bool {
	switch m.(type) {
	case *weftv1.Network:
		return name == "dhcp_placement"
	case *weftv1.Port:
		return name == "bound_host"
	case *weftv1.Router:
		return slices.Contains([]string{"placement", "active_node", "instances"}, name)
	default:
		return false
	}
}

// changeable are the fields of an update mask, unless one is for operators to decide and the caller is none: not even what
// it was before, nor what it is by default. All fields are those that the caller may change.
func changeable(ctx context.Context, m messageOf, paths []string, all bool) ([]string, error) {
	if caller.From(ctx).Operates() {
		return paths, nil
	}
	for _, name := range reserved(m) {
		if !slices.Contains(paths, name) {
			continue
		}
		if !all {
			return nil, fault.Denied("%s is for operators to decide", name)
		}
		paths = slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == name })
	}
	return paths, nil
}

// networkFor is network for one that a caller names.
func (s *Server) networkFor(ctx context.Context, e *edit, id string) (record.Stored[*weftv1.Network], []record.Stored[*weftv1.Subnet], error) {
	n, subnets, err := s.network(ctx, e, id)
	n, err = s.networks.seen(ctx, e.View, n, err)
	return n, subnets, err
}

// checkGuest refuses what only the owner of a network may decide about a port on it: its addresses, and that it is not held
// to them. before is the port as it was, nil for a new one; after as its caller wants it.
func checkGuest(ctx context.Context, owner string, before, after *weftv1.Port) error {
	if caller.From(ctx).Changes(owner) {
		return nil
	}
	for _, f := range after.GetFixedIps() {
		if f.GetIpAddress() != "" && !slices.ContainsFunc(before.GetFixedIps(), func(b *weftv1.FixedIp) bool { return b.GetIpAddress() == f.GetIpAddress() }) {
			return fault.Denied("fixed_ips: on another project's network addresses are given, not chosen")
		}
	}
	switch {
	case after.GetMacAddress() != "" && after.GetMacAddress() != before.GetMacAddress():
		return fault.Denied("mac_address: on another project's network it is given, not chosen")
	case len(after.GetAllowedAddressPairs()) > 0 && !samePairs(before, after):
		return fault.Denied("allowed_address_pairs: on another project's network a port has its own addresses only")
	case after.PortSecurityEnabled != nil && !after.GetPortSecurityEnabled() && (before == nil || before.GetPortSecurityEnabled()):
		return fault.Denied("port_security_enabled: on another project's network it stays as the network has it")
	default:
		return nil
	}
}

func samePairs(a, b *weftv1.Port) bool {
	return slices.EqualFunc(a.GetAllowedAddressPairs(), b.GetAllowedAddressPairs(), func(x, y *weftv1.AddressPair) bool { return proto.Equal(x, y) })
}

// checkDevice refuses a port that says it is a router's: what is a router's is made by the router's own methods.
func checkDevice(ctx context.Context, e *edit, p *weftv1.Port) error {
	query, ok := ofDevice(p)
	if !ok {
		return nil
	}
	results, err := e.Read(ctx, query)
	if err == nil && len(results[0].Entries) > 0 {
		err = model.Invalid("device_id", "%q is a router's: attach the port to it instead", p.GetDeviceId())
	}
	return err
}

// ofDevice asks for the router that a port may say it is of.
func ofDevice(p *weftv1.Port) (store.Query, bool) {
	return store.Key(keys.Router(p.GetDeviceId())), model.ValidUUID(p.GetDeviceId())
}
