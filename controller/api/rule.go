package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (s *securityGroupService) CreateSecurityGroupRule(ctx context.Context, req *weftv1.CreateSecurityGroupRuleRequest) (*weftv1.SecurityGroupRule, error) {
	return s.rules.create(ctx, req, req.GetSecurityGroupRule(), s.addRule)
}

func (s *securityGroupService) GetSecurityGroupRule(ctx context.Context, req *weftv1.GetSecurityGroupRuleRequest) (*weftv1.SecurityGroupRule, error) {
	return s.rules.get(ctx, req.GetId())
}

func (s *securityGroupService) ListSecurityGroupRules(ctx context.Context, req *weftv1.ListSecurityGroupRulesRequest) (*weftv1.ListSecurityGroupRulesResponse, error) {
	p, err := s.rules.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListSecurityGroupRulesResponse{SecurityGroupRules: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *securityGroupService) DeleteSecurityGroupRule(ctx context.Context, req *weftv1.DeleteSecurityGroupRuleRequest) (*emptypb.Empty, error) {
	return s.rules.removeWith(ctx, req, s.releaseRule)
}

func (s *Server) addRule(ctx context.Context, e *edit, r *weftv1.SecurityGroupRule) error {
	if !model.ValidUUID(r.GetSecurityGroupId()) {
		return model.Invalid("security_group_id", "%q is not a UUID", r.GetSecurityGroupId())
	}
	group, err := s.groups.own(ctx, e.View, r.GetSecurityGroupId())
	if err != nil {
		return err
	}
	typed, err := secgroup.Normalize(r)
	if err != nil {
		return err
	}
	guard(e, group)
	r.Project = group.Msg.GetProject()
	if err := s.refer(ctx, e, typed, r.GetProject()); err != nil {
		return err
	}
	if !e.blind {
		have, err := s.rules.At(ctx, e.View, typed.Group, typed.ID)
		if err == nil {
			return fault.Taken("what the rule says", s.rules.Label(have.Msg)+" of "+s.groups.Label(group.Msg))
		}
		if !fault.IsNotFound(err) {
			return err
		}
	}
	if err := s.rules.count(ctx, e, r); err != nil {
		return err
	}
	e.txn.Absent(s.rules.KeyOf(r))
	putNew(e, s.rules.Kind, r)
	return nil
}

// refer checks that what a rule refers to is there and of the same project, and keeps it there.
func (s *Server) refer(ctx context.Context, e *edit, r model.Rule, project string) error {
	key := secgroup.Reference(r)
	if key == "" {
		return nil
	}
	var err error
	if r.RemoteAddressGroup != "" {
		_, err = relied(ctx, e, s.addressGroups, r.RemoteAddressGroup, "the rule", project)
	} else {
		_, err = relied(ctx, e, s.groups, r.RemoteGroup, "the rule", project)
	}
	if err != nil {
		return err
	}
	e.txn.Claim(key, keys.KindRule, r.ID)
	return nil
}

// relied reads an object that another of the same project, called who, is to rely on. The transaction guards it.
func relied[M messageOf](ctx context.Context, e *edit, r *resource[M], id, who, project string) (record.Stored[M], error) {
	have, err := r.look(ctx, e.View, id)
	if err != nil {
		return have, err
	}
	if owner := *r.Header(have.Msg).Project; owner != project {
		return have, fault.Precondition("%s is project %s's, %s is project %s's", r.Label(have.Msg), owner, who, project)
	}
	guard(e, have)
	return have, nil
}

// releaseRule appends the deletion of a rule with all that belongs to it. Of one that makes no sense that is not known; the
// collector finds it.
func (s *Server) releaseRule(ctx context.Context, e *edit, r record.Stored[*weftv1.SecurityGroupRule]) error {
	deleteStored(e, s.rules.Kind, r)
	if err := uncount(ctx, e, r.Msg); err != nil {
		return err
	}
	typed, err := model.RuleFrom(r.Msg)
	if err != nil {
		return nil //nolint:nilerr // what it says does not matter any more
	}
	key := secgroup.Reference(typed)
	if key == "" {
		return nil
	}
	held, err := e.holds(ctx, key, typed.ID)
	if held {
		e.txn.Delete(key)
	}
	return err
}

// ruleName names a rule for a person, with its group.
func (s *Server) ruleName(ctx context.Context, e *edit, id string) string {
	r, err := s.rules.Get(ctx, e.View, id)
	if err != nil {
		return fault.Label(s.rules.Name, "", id)
	}
	return s.rules.Label(r.Msg) + " of " + labelled(ctx, e, s.groups.Kind, r.Msg.GetSecurityGroupId())
}
