package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/query"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
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
	v := r.asOf(s.page.Revision)
	entries, err := r.candidates(ctx, v, s.filter)
	if err != nil {
		return page[M]{}, fault.Status(err)
	}
	out := page[M]{revision: v.Revision()}
	rest := 0
	if s.filter.Empty() && s.order.Empty() && s.project == "" {
		slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(idOf(a.Key), idOf(b.Key)) })
		var some []store.Entry
		some, rest = cut(entries, s.page)
		out.items = r.decodeAll(some, func(M) bool { return true })
	} else {
		all := r.decodeAll(entries, func(m M) bool { return r.ofProject(m, s.project) && s.filter.Match(m.ProtoReflect()) })
		slices.SortStableFunc(all, func(a, b M) int {
			if c := s.order.Compare(a.ProtoReflect(), b.ProtoReflect()); c != 0 {
				return c
			}
			return strings.Compare(*r.Header(a).ID, *r.Header(b).ID)
		})
		out.items, rest = cut(all, s.page)
	}
	if rest > 0 {
		out.next = query.Token(v.Revision(), s.page.Offset+len(out.items), s.text...)
	}
	return out, nil
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

// decodeAll decodes what it can, completes it and keeps what is wanted. An entry that is no object of the kind is left
// out with a line in the log: one bad object hides no other.
func (r *resource[M]) decodeAll(entries []store.Entry, want func(M) bool) []M {
	out := make([]M, 0, len(entries))
	for _, e := range entries {
		s, err := r.Decode(e)
		if err != nil {
			r.server.opts.Log.Error("leaving an object out of a list", "key", e.Key, "error", err)
			continue
		}
		if m := r.shown(s.Msg, s.Revision); want(m) {
			out = append(out, m)
		}
	}
	return out
}

// ofProject reports whether an object belongs into the list of a project: its own and, of networks, shared ones.
func (r *resource[M]) ofProject(m M, project string) bool {
	h := r.Header(m)
	if project == "" || h.Project == nil || *h.Project == project {
		return true
	}
	shared, ok := any(m).(interface{ GetShared() bool })
	return ok && shared.GetShared()
}
