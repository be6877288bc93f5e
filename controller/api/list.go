package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/query"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// listRequest is the request of the standard method List.
type listRequest interface {
	GetPageSize() int32
	GetPageToken() string
	GetFilter() string
	GetOrderBy() string
}

// page is one answer of a list call.
type page[M messageOf] struct {
	items    []M
	next     string
	revision int64
}

// selection is a list call understood.
type selection struct {
	project string
	filter  query.Filter
	order   query.Order
	page    query.Page
	text    []string // what must be the same on all pages
}

func (r *resource[M]) understand(req listRequest) (selection, error) {
	s := selection{text: []string{r.Name, "", req.GetFilter(), req.GetOrderBy()}}
	if p, ok := req.(interface{ GetProject() string }); ok {
		s.project, s.text[1] = p.GetProject(), p.GetProject()
	}
	d := r.New().ProtoReflect().Descriptor()
	var errs [3]error
	s.filter, errs[0] = query.ParseFilter(d, req.GetFilter())
	s.order, errs[1] = query.ParseOrder(d, req.GetOrderBy())
	s.page, errs[2] = query.ParsePage(req.GetPageSize(), req.GetPageToken(), s.text...)
	return s, errors.Join(errs[:]...)
}

// list is the standard method. All pages show the store as it was at the first one.
func (r *resource[M]) list(ctx context.Context, req listRequest) (page[M], error) {
	s, err := r.understand(req)
	if err != nil {
		return page[M]{}, fault.Status(err)
	}
	v, entries, err := r.asOf(ctx, s)
	if err != nil {
		return page[M]{}, fault.Status(err)
	}
	n, at := r.sorted(ctx, v, entries, s)
	out := page[M]{revision: v.Revision()}
	next := 0
	out.items, next = fill(n, s.page, func(i int) (M, bool) {
		m, ok := at(i)
		return m, ok && s.filter.Match(m.ProtoReflect())
	})
	if next > 0 {
		out.next = query.Token(out.revision, next, s.text...)
	}
	return out, nil
}

// sorted puts what entries hold in order: n places, and what is at each, if it is anything to show. A place is the same on
// all pages, for it does not depend on what nodes report, unless that is what the list is ordered by.
func (r *resource[M]) sorted(ctx context.Context, v *record.View, entries []store.Entry, s selection) (n int, at func(int) (M, bool)) {
	entries = slices.Clone(entries) // what a view has read is in the order of the keys
	slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(idOf(a.Key), idOf(b.Key)) })
	if s.order.Empty() {
		return len(entries), func(i int) (M, bool) {
			return r.decode(ctx, v, entries[i], s.project)
		}
	}
	all := make([]M, 0, len(entries))
	for _, e := range entries {
		if m, ok := r.decode(ctx, v, e, s.project); ok {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b M) int { return s.order.Compare(a.ProtoReflect(), b.ProtoReflect()) })
	return len(all), func(i int) (M, bool) { return all[i], true }
}

// fill takes a page's items out of n places, and says at which place the next page begins; 0 when there is none.
func fill[M any](n int, p query.Page, at func(int) (M, bool)) (items []M, next int) {
	items = make([]M, 0, min(p.Size, max(n-p.Offset, 0)))
	for i := p.Offset; i < n; i++ {
		m, ok := at(i)
		switch {
		case !ok:
		case len(items) == p.Size:
			return items, i
		default:
			items = append(items, m)
		}
	}
	return items, 0
}

// asOf reads what a list call may have to show, at its page's revision or now, through a view.
func (r *resource[M]) asOf(ctx context.Context, s selection) (used *record.View, entries []store.Entry, err error) {
	read := func(v *record.View) ([]store.Entry, error) {
		used = v
		entries, err := r.candidates(ctx, v, s.filter)
		if err != nil {
			return nil, err
		}
		return entries, r.lenders(ctx, v, entries, s.project)
	}
	if s.page.Revision > 0 {
		entries, err = read(record.ViewAt(r.server.opts.Store, s.page.Revision))
	} else {
		entries, err = record.Fresh(r.server.opts.Store, read)
	}
	return used, entries, err
}

// lenders reads together what decides whether networks and subnets belong into a list: grants and, of subnets, their
// networks.
func (r *resource[M]) lenders(ctx context.Context, v *record.View, entries []store.Entry, project string) error {
	operates := caller.From(ctx).Operates()
	grants := store.Prefix(keys.All(keys.FamilyNetworkGrant))
	switch {
	case r.Family == keys.FamilyNetwork && (!operates || project != ""):
		_, err := v.Read(ctx, grants)
		return err
	case r.Family != keys.FamilySubnet || operates:
		return nil
	}
	queries := []store.Query{grants}
	asked := map[string]bool{}
	for _, e := range entries {
		if k, err := keys.Parse(e.Key); err == nil && !asked[k.Scope()] {
			asked[k.Scope()] = true
			queries = append(queries, store.Key(keys.Network(k.Scope())))
		}
	}
	_, err := v.Read(ctx, queries...)
	return err
}

// cut is one page of all, and how many come after it.
func cut[T any](all []T, p query.Page) (some []T, rest int) {
	begin := min(p.Offset, len(all))
	end := min(begin+p.Size, len(all))
	return all[begin:end:end], len(all) - end
}

// idOf is the last element of a key.
func idOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// candidates reads no more than the filter leaves possible: one scope, or one object.
func (r *resource[M]) candidates(ctx context.Context, v *record.View, f query.Filter) ([]store.Entry, error) {
	if id, ok := f.Exactly("id"); ok {
		s, err := r.Get(ctx, v, id)
		if err != nil {
			return nil, ifNotFound(err, v.Read)(ctx)
		}
		entry, _, err := v.One(ctx, s.Key)
		return []store.Entry{entry}, err
	}
	prefix := keys.All(r.Family)
	if scope, ok := f.Exactly(r.ScopeField); ok && r.ScopeField != "" && (scope == "" || model.ValidUUID(scope)) {
		if scope == "" {
			scope = keys.Unassociated
		}
		prefix += scope + "/"
	}
	return v.Prefix(ctx, prefix)
}

// ifNotFound turns the absence of one object into an empty list, which needs a revision all the same.
func ifNotFound(err error, read func(context.Context, ...store.Query) ([]store.Result, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		if !fault.IsNotFound(err) {
			return err
		}
		_, err := read(ctx, store.Key(keys.Schema))
		return err
	}
}

// decode decodes an entry that belongs into the list of a project and that the caller sees, and completes it. One that is no
// object of the kind is left out with a line in the log: one bad object hides no other.
func (r *resource[M]) decode(ctx context.Context, v *record.View, e store.Entry, project string) (M, bool) {
	s, err := r.Decode(e)
	if err != nil {
		r.server.opts.Log.Error("leaving an object out of a list", "key", e.Key, "error", err)
		return s.Msg, false
	}
	if ok, err := r.listed(ctx, v, s.Msg, project); err != nil || !ok {
		return s.Msg, false
	}
	return r.shown(ctx, s.Msg, s.Revision), true
}

// listed reports whether an object belongs into the list of a project that the caller gets.
func (r *resource[M]) listed(ctx context.Context, v *record.View, m M, project string) (bool, error) {
	if of, err := r.ofProject(ctx, v, m, project); err != nil || !of {
		return false, err
	}
	return r.visible(ctx, v, m)
}

// ofProject reports whether an object belongs into the list of a project: its own, networks that are shared or granted to it,
// and such grants.
func (r *resource[M]) ofProject(ctx context.Context, v *record.View, m M, project string) (bool, error) {
	h := r.Header(m)
	if project == "" || h.Project == nil || *h.Project == project {
		return true, nil
	}
	switch m := any(m).(type) {
	case *weftv1.Network:
		if m.GetShared() || !caller.From(ctx).Sees(project) {
			return m.GetShared(), nil
		}
		return granted(ctx, v, m.GetId(), project)
	case *weftv1.NetworkGrant:
		return m.GetTargetProject() == project, nil
	default:
		return false, nil
	}
}
