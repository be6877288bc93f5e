package api

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type quotaService struct {
	weftv1.UnimplementedQuotaServiceServer
	*Server
}

// count has a new object, whose project is decided, count against the project's quota. The transaction guards the limit.
func (r *resource[M]) count(ctx context.Context, e *edit, m M) error {
	o, counts := quota.Of(m)
	if !counts {
		return nil
	}
	limits, err := r.server.limits(ctx, e, o.Project)
	if err != nil {
		return err
	}
	if limit, limited := limits.Of(o.Kind); limited {
		if o.Place, err = e.alloc.Place(ctx, o.Project, o.Kind, limit); err != nil {
			return err
		}
		if err := e.within(ctx, o, limit); err != nil {
			return err
		}
		*r.Header(m).Place = o.Place
	}
	e.txn.Claim(o.Key(), o.Kind.Key, o.ID)
	return nil
}

// within refuses an object for which no place was left. A blind edit has not looked: what it relied on is guarded, and the
// next attempt says what is wrong.
func (e *edit) within(ctx context.Context, o quota.Object, limit uint32) error {
	switch {
	case e.blind && o.Place == 0:
		return store.ErrConflict
	case e.blind:
		e.txn.NoneBetween(quota.Above(o.Project, o.Kind, limit))
		return nil
	case o.Place != 0:
		return nil
	}
	have, err := used(ctx, e.View, o.Project, o.Kind)
	if err != nil {
		return err
	}
	return fault.Exhausted("project %s has %d %ss and its quota is %d: delete some, or have an admin set another (weft quota set %s)",
		o.Project, have[0], o.Kind.Name, limit, o.Project)
}

// limits are a project's; the transaction guards that they stay. A blind edit goes by what this replica has heard of them.
func (s *Server) limits(ctx context.Context, e *edit, project string) (quota.Limits, error) {
	set, revision := s.opts.Fleet.Quota(project)
	if !e.blind {
		var err error
		if set, revision, err = readQuota(ctx, e.View, project); err != nil {
			return nil, err
		}
	}
	e.txn.Unchanged(keys.Quota(project), revision)
	return s.limitsOf(project, set)
}

// limitsOf are the limits of a project for which some were set.
func (s *Server) limitsOf(project string, set *storev1.Quota) (quota.Limits, error) {
	limits, err := s.opts.Quotas.With(set)
	if err != nil {
		return nil, fault.Damaged("the quota of project "+project, err)
	}
	return limits, nil
}

// readQuota reads what was set for a project; the revision is 0 when nothing was.
func readQuota(ctx context.Context, v *record.View, project string) (*storev1.Quota, int64, error) {
	e, _, err := v.One(ctx, keys.Quota(project))
	if err != nil {
		return nil, 0, err
	}
	set := &storev1.Quota{}
	if err := proto.Unmarshal(e.Value, set); err != nil {
		return nil, 0, fault.Damaged("the quota of project "+project, err)
	}
	return set, e.Revision, nil
}

// used is how many objects of each of the kinds a project has.
func used(ctx context.Context, v *record.View, project string, kinds ...quota.Kind) ([]int64, error) {
	queries := make([]store.Query, len(kinds))
	for i, k := range kinds {
		prefix := keys.PlaceClaims(project, k.Key)
		queries[i] = store.Count(prefix, keys.End(prefix))
	}
	results, err := v.Read(ctx, queries...)
	if err != nil {
		return nil, err
	}
	out := make([]int64, len(kinds))
	for i, r := range results {
		out[i] = r.Count
	}
	return out, nil
}

// uncount gives back what an object counted by.
func uncount(ctx context.Context, e *edit, m proto.Message) error {
	o, counts := quota.Of(m)
	if !counts {
		return nil
	}
	held, err := e.holds(ctx, o.Key(), o.ID)
	if held {
		e.txn.Delete(o.Key())
	}
	return err
}

func (s *quotaService) GetQuota(ctx context.Context, req *weftv1.GetQuotaRequest) (*weftv1.Quota, error) {
	project, err := projectFor(ctx, req.GetProject())
	if err != nil {
		return nil, fault.Status(err)
	}
	q, err := s.quota(ctx, project)
	return q, fault.Status(err)
}

// quota is a project's as the API shows it.
func (s *Server) quota(ctx context.Context, project string) (*weftv1.Quota, error) {
	return record.Fresh(s.opts.Store, func(v *record.View) (*weftv1.Quota, error) {
		set, _, err := readQuota(ctx, v, project)
		if err != nil {
			return nil, err
		}
		kinds := quota.Kinds()
		have, err := used(ctx, v, project, kinds...)
		if err != nil {
			return nil, err
		}
		limits, err := s.limitsOf(project, set)
		if err != nil {
			return nil, err
		}
		out := &weftv1.Quota{Project: project}
		for i, k := range kinds {
			entry := &weftv1.QuotaEntry{Kind: k.Enum, Limit: quota.Unlimited, Used: have[i], Set: setFor(set, k.Enum)}
			if limit, limited := limits.Of(k); limited {
				entry.Limit = int64(limit)
			}
			out.Entries = append(out.Entries, entry)
		}
		return out, nil
	})
}

func setFor(q *storev1.Quota, kind weftv1.Kind) bool {
	return slices.ContainsFunc(q.GetLimits(), func(l *weftv1.QuotaLimit) bool { return l.GetKind() == kind })
}

func (s *quotaService) SetQuota(ctx context.Context, req *weftv1.SetQuotaRequest) (*weftv1.Quota, error) {
	if len(req.GetLimits()) == 0 {
		return nil, fault.Status(model.Invalid("limits", "name at least one kind"))
	}
	kinds := make([]weftv1.Kind, len(req.GetLimits()))
	for i, l := range req.GetLimits() {
		kinds[i] = l.GetKind()
		if !quota.Valid(l.GetLimit()) {
			return nil, fault.Status(model.Invalid(fmt.Sprintf("limits[%d].limit", i), "%d is not in %d (no limit)..%d", l.GetLimit(), quota.Unlimited, quota.MaxLimit))
		}
	}
	return s.change(ctx, "Set", req, kinds, "limits", func(q *storev1.Quota) {
		q.Limits = append(without(q.GetLimits(), kinds), req.GetLimits()...)
	})
}

func (s *quotaService) UnsetQuota(ctx context.Context, req *weftv1.UnsetQuotaRequest) (*weftv1.Quota, error) {
	return s.change(ctx, "Unset", req, req.GetKinds(), "kinds", func(q *storev1.Quota) {
		if q.Limits = without(q.GetLimits(), req.GetKinds()); len(req.GetKinds()) == 0 {
			q.Limits = nil
		}
	})
}

func without(limits []*weftv1.QuotaLimit, kinds []weftv1.Kind) []*weftv1.QuotaLimit {
	return slices.DeleteFunc(limits, func(l *weftv1.QuotaLimit) bool { return slices.Contains(kinds, l.GetKind()) })
}

// quotaRequest is a request that changes a project's quota.
type quotaRequest interface {
	requester
	GetProject() string
}

// change changes what is set for a project. The key stays even if nothing is: what was built on one limit must not be
// committed under another, and the revision of a key that is made again could not tell.
func (s *quotaService) change(ctx context.Context, verb string, req quotaRequest, kinds []weftv1.Kind, field string, do func(*storev1.Quota)) (*weftv1.Quota, error) {
	project, err := projectFor(ctx, req.GetProject())
	if err == nil {
		err = checkKinds(field, kinds)
	}
	if err != nil {
		return nil, fault.Status(err)
	}
	c, err := newCall(ctx, verb+" quota", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	revision, err := s.commit(ctx, c, &storev1.Quota{}, func(ctx context.Context, e *edit) (proto.Message, error) {
		set, revision, err := readQuota(ctx, e.View, project)
		if err != nil {
			return nil, err
		}
		do(set)
		e.txn.Unchanged(keys.Quota(project), revision)
		e.txn.Put(keys.Quota(project), set)
		return set, nil
	}, func(proto.Message) {})
	if err != nil {
		return nil, fault.Status(err)
	}
	return awaited(ctx, s.Server, keys.FamilyQuota, revision, func() (*weftv1.Quota, error) { return s.quota(ctx, project) })
}

// checkKinds refuses kinds that don't count, and one that is named twice.
func checkKinds(field string, kinds []weftv1.Kind) error {
	for i, k := range kinds {
		switch at := fmt.Sprintf("%s[%d]", field, i); {
		case !quota.Counts(k):
			return model.Invalid(at, "%s has no quota", k)
		case slices.Contains(kinds[:i], k):
			return model.Invalid(at, "%s is named twice", k)
		}
	}
	return nil
}
