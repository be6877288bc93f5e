package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type securityGroupService struct {
	weftv1.UnimplementedSecurityGroupServiceServer
	*Server
}

func (s *securityGroupService) CreateSecurityGroup(ctx context.Context, req *weftv1.CreateSecurityGroupRequest) (*weftv1.SecurityGroup, error) {
	return s.groups.create(ctx, req, req.GetSecurityGroup(), s.addGroup)
}

func (s *securityGroupService) GetSecurityGroup(ctx context.Context, req *weftv1.GetSecurityGroupRequest) (*weftv1.SecurityGroup, error) {
	return s.groups.get(ctx, req.GetId())
}

func (s *securityGroupService) ListSecurityGroups(ctx context.Context, req *weftv1.ListSecurityGroupsRequest) (*weftv1.ListSecurityGroupsResponse, error) {
	p, err := s.groups.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListSecurityGroupsResponse{SecurityGroups: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *securityGroupService) UpdateSecurityGroup(ctx context.Context, req *weftv1.UpdateSecurityGroupRequest) (*weftv1.SecurityGroup, error) {
	return s.groups.update(ctx, req, req.GetSecurityGroup(), s.changeGroup)
}

func (s *securityGroupService) DeleteSecurityGroup(ctx context.Context, req *weftv1.DeleteSecurityGroupRequest) (*emptypb.Empty, error) {
	if err := s.thinOut(ctx, req); err != nil {
		return nil, fault.Status(err)
	}
	return s.groups.remove(ctx, req, func(ctx context.Context, e *edit, g record.Stored[*weftv1.SecurityGroup]) error {
		_, err := s.releaseGroup(ctx, e, g.Msg)
		return err
	})
}

// addGroup makes a group. One called "default" is the project's default group, with its rules.
func (s *Server) addGroup(ctx context.Context, e *edit, g *weftv1.SecurityGroup) error {
	setDefault(&g.Project, model.DefaultProject)
	setTrue(&g.Stateful)
	if g.GetName() == model.DefaultGroup {
		return s.addDefault(ctx, e, g)
	}
	if _, err := model.SecurityGroupFrom(g); err != nil {
		return err
	}
	if err := s.groups.count(ctx, e, g); err != nil {
		return err
	}
	putNew(e, s.groups.Kind, g)
	return nil
}

// addDefault makes the project's default group for somebody who does not want to wait for the first port to do so.
func (s *Server) addDefault(ctx context.Context, e *edit, g *weftv1.SecurityGroup) error {
	if !g.GetStateful() {
		return model.Invalid("stateful", "the group called %q is stateful", model.DefaultGroup)
	}
	if _, err := model.SecurityGroupFrom(g); err != nil {
		return err
	}
	have, err := s.groups.At(ctx, e.View, "", secgroup.DefaultID(g.GetProject()))
	switch {
	case err == nil:
		return fault.Taken("the name "+model.DefaultGroup, s.groups.Label(have.Msg))
	case !fault.IsNotFound(err):
		return err
	}
	made, err := s.makeDefault(e, g.GetProject())
	if err != nil {
		return err
	}
	g.Id = made.GetId()
	if g.GetDescription() == "" {
		g.Description = made.GetDescription()
	}
	putNew(e, s.groups.Kind, g)
	return nil
}

// makeDefault appends all of a project's default group but the group itself, which the caller writes. The transaction guards
// that it is not there yet.
func (s *Server) makeDefault(e *edit, project string) (*weftv1.SecurityGroup, error) {
	g, rules, err := secgroup.Default(project, e.now)
	if err != nil {
		return nil, err
	}
	e.txn.Absent(s.groups.KeyOf(g))
	for _, r := range rules {
		putNew(e, s.rules.Kind, r)
	}
	return g, nil
}

// defaultGroup is a project's default group: as stored, or made by this transaction, which may be asked for it once.
func (s *Server) defaultGroup(ctx context.Context, e *edit, project string) (*weftv1.SecurityGroup, error) {
	have, err := s.groups.At(ctx, e.View, "", secgroup.DefaultID(project))
	switch {
	case err == nil:
		guard(e, have)
		return have.Msg, nil
	case !fault.IsNotFound(err):
		return nil, err
	}
	g, err := s.makeDefault(e, project)
	if err != nil {
		return nil, err
	}
	putNew(e, s.groups.Kind, g)
	return g, nil
}

func (s *Server) changeGroup(ctx context.Context, e *edit, before record.Stored[*weftv1.SecurityGroup], after *weftv1.SecurityGroup, _ []string) error {
	setTrue(&after.Stateful)
	if _, err := model.SecurityGroupFrom(after); err != nil {
		return err
	}
	switch was := before.Msg; {
	case was.GetName() != after.GetName() && was.GetName() == model.DefaultGroup:
		return model.Invalid("name", "the default group of a project keeps its name")
	case was.GetName() != after.GetName() && after.GetName() == model.DefaultGroup:
		return model.Invalid("name", "%q is the name of the group that a project has by itself", model.DefaultGroup)
	case orTrue(was.Stateful) == after.GetStateful(): //nolint:protogetter // presence
		return nil
	}
	return s.checkNoMembers(ctx, e, before.Msg, "can't change between stateful and stateless")
}

// fewObstacles is how many of the things in the way are read: more than a message names.
const fewObstacles = 16

// checkNoMembers refuses while ports are in a group. The transaction guards that there will be none.
func (s *Server) checkNoMembers(ctx context.Context, e *edit, g *weftv1.SecurityGroup, what string) error {
	ids, err := s.some(ctx, e, keys.Members(g.GetId()))
	if err != nil {
		return err
	}
	var obstacles []string
	for _, id := range ids {
		obstacles = append(obstacles, s.portName(ctx, e, id))
	}
	return fault.Obstacles(s.groups.Label(g)+" "+what, obstacles)
}

// checkUnreferred refuses while rules refer to a group, a security group or an address group. The transaction guards that
// there will be none.
func (s *Server) checkUnreferred(ctx context.Context, e *edit, label, id string) error {
	ids, err := s.some(ctx, e, keys.RemoteClaims(id))
	if err != nil {
		return err
	}
	var obstacles []string
	for _, id := range ids {
		obstacles = append(obstacles, s.ruleName(ctx, e, id))
	}
	return fault.Obstacles(label+" can't be deleted", obstacles)
}

// some is the last element of some of the keys below a prefix, all of them if they are few; the transaction guards that
// there is none.
func (s *Server) some(ctx context.Context, e *edit, prefix string) ([]string, error) {
	results, err := e.Read(ctx, store.Range(prefix, keys.End(prefix), fewObstacles))
	if err != nil {
		return nil, err
	}
	e.txn.NoneUnder(prefix)
	var ids []string
	for _, entry := range results[0].Entries {
		ids = append(ids, idOf(entry.Key))
	}
	return ids, nil
}

// rulesAtOnce is how many rules go in one transaction, each with what is derived from it: they fit with the group.
const rulesAtOnce = 30

// releaseGroup checks that nothing holds a group and appends the deletion of its rules, as many as fit; more are left.
func (s *Server) releaseGroup(ctx context.Context, e *edit, g *weftv1.SecurityGroup) (more bool, err error) {
	if err := s.checkNoMembers(ctx, e, g, "can't be deleted"); err != nil {
		return false, err
	}
	if err := s.checkUnreferred(ctx, e, s.groups.Label(g), g.GetId()); err != nil {
		return false, err
	}
	prefix := keys.Rules(g.GetId())
	results, err := e.Read(ctx, store.Range(prefix, keys.End(prefix), rulesAtOnce))
	if err != nil {
		return false, err
	}
	e.txn.NoneChangedUnder(prefix, e.Revision())
	var rules []record.Stored[*weftv1.SecurityGroupRule]
	var places []store.Query
	for _, entry := range results[0].Entries {
		r, err := s.rules.Decode(entry)
		if err != nil {
			deleteEntry(e, s.rules.Kind, idOf(entry.Key), entry) // it allows nothing, and nobody can read it
			continue
		}
		rules = append(rules, r)
		if o, counts := quota.Of(r.Msg); counts {
			places = append(places, store.Key(o.Key()))
		}
	}
	if _, err := e.Read(ctx, places...); err != nil {
		return false, err
	}
	for _, r := range rules {
		if err := s.releaseRule(ctx, e, r); err != nil {
			return false, err
		}
	}
	return results[0].Count > rulesAtOnce, nil
}

// thinOut deletes rules of a group that is to be deleted until the rest fit into the transaction that deletes the group. One
// that anything holds is refused before; one that is not there, or can't be read, is left to that transaction.
func (s *Server) thinOut(ctx context.Context, req deleteRequest) error {
	for {
		revision, err := s.opts.Store.Update(ctx, 0, func(ctx context.Context) (*txn.Txn, error) {
			e := s.newEdit(record.NewView(s.opts.Store), false)
			g, err := s.groups.checked(ctx, e, req.GetId(), req.GetEtag())
			if err != nil {
				return nil, err
			}
			guard(e, g)
			more, err := s.releaseGroup(ctx, e, g.Msg)
			if err != nil || !more {
				return nil, err
			}
			return e.txn, e.txn.Err()
		})
		switch {
		case fault.IsNotFound(err), discardable(ctx, err), err == nil && revision == 0:
			return nil
		case err != nil:
			return err
		}
	}
}
