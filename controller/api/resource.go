package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type messageOf = proto.Message

// resource is what all kinds of object have in common: the standard methods. The checks and consequences of a change of
// one kind come as functions.
type resource[M messageOf] struct {
	*record.Kind[M]
	server *Server
	status func(M, int64) *weftv1.ObjectStatus // nil: the kind has none
	// compose completes what else is composed at read; nil: nothing.
	compose func(M, int64)
	// derived: an object's project is that of another that it names.
	derived bool
	// enrich adds what Get alone tells; nil: nothing.
	enrich func(context.Context, *record.View, M) error
}

// requester is a request that may be retried under its id.
type requester interface {
	proto.Message
	GetRequestId() string
}

// shown completes a message, which it may change, to what the API shows the caller of the object at a mod revision.
func (r *resource[M]) shown(ctx context.Context, m M, revision int64) M {
	h := r.Header(m)
	*h.Etag = record.Etag(revision)
	if r.status != nil {
		*h.Status = r.status(m, revision)
	}
	if r.compose != nil {
		r.compose(m, revision)
	}
	mask(ctx, m)
	return m
}

// get reads one object.
func (r *resource[M]) get(ctx context.Context, id string) (M, error) {
	s, err := record.Fresh(r.server.opts.Store, func(v *record.View) (record.Stored[M], error) {
		s, err := r.look(ctx, v, id)
		if err == nil && r.enrich != nil {
			err = r.enrich(ctx, v, s.Msg)
		}
		return s, err
	})
	if err != nil {
		var none M
		return none, fault.Status(err)
	}
	return r.shown(ctx, s.Msg, s.Revision), nil
}

// built is what building a change came to: the object as it will be, or, when revision is set, as it is already.
type built[M messageOf] struct {
	msg      M
	revision int64
}

// mutate runs build until its transaction is committed, and returns what it built as it is then stored. build gets a new
// edit each time. The first attempt is blind.
func (r *resource[M]) mutate(ctx context.Context, c call, build func(context.Context, *edit) (built[M], error)) (M, error) {
	var result built[M]
	revision, err := r.server.commit(ctx, c, r.New(), func(ctx context.Context, e *edit) (proto.Message, error) {
		var err error
		if result, err = build(ctx, e); err != nil {
			return nil, err
		}
		return result.msg, nil
	}, func(replayed proto.Message) { result.msg, _ = replayed.(M) })
	if err != nil {
		var none M
		return none, fault.Status(err)
	}
	if revision == 0 {
		revision = result.revision
	}
	m, _ := proto.Clone(result.msg).(M)
	return r.shown(ctx, m, revision), nil
}

// commit is the loop under every mutation: it builds, commits, and on a conflict builds again, looking for the result of
// an earlier call with the same request id whenever something stands in the way. empty is decoded into for that, and
// then given to replayed. The revision is 0 when there was nothing to change.
func (s *Server) commit(ctx context.Context, c call, empty proto.Message, build func(context.Context, *edit) (proto.Message, error), replayed func(proto.Message)) (revision int64, err error) {
	var lease clientv3.LeaseID
	if c.id != "" {
		if lease, err = s.requests.current(ctx, 1); err != nil {
			return 0, err
		}
	}
	attempt, earlier := 0, int64(0)
	revision, err = s.opts.Store.Update(ctx, lease, func(ctx context.Context) (*txn.Txn, error) {
		blind := attempt == 0
		attempt++
		var err error
		if !blind {
			if earlier, err = c.replay(ctx, s.opts.Store, empty); err != nil || earlier != 0 {
				return nil, err
			}
		}
		e := s.newEdit(record.NewView(s.opts.Store), blind)
		response, err := build(ctx, e)
		if err != nil {
			return nil, err
		}
		if len(e.txn.Writes()) == 0 {
			return nil, e.txn.Err()
		}
		return e.txn, errors.Join(c.remember(e.txn, response), e.txn.Err())
	})
	switch {
	case leaseLost(err):
		s.requests.lost(lease)
		return s.commit(ctx, c, empty, build, replayed)
	case err != nil && c.id != "" && earlier == 0 && attempt > 0:
		var again error
		if earlier, again = c.replay(ctx, s.opts.Store, empty); again != nil || earlier == 0 {
			return 0, err
		}
	case err != nil:
		return 0, err
	}
	if earlier != 0 {
		replayed(empty)
		return earlier, nil
	}
	return revision, nil
}

// prepare makes the object that a create call asks for: a copy of the input with id, times and project, without what is
// output only. What the caller may not decide is refused.
func (r *resource[M]) prepare(ctx context.Context, in M) (M, error) {
	var none M
	if !in.ProtoReflect().IsValid() {
		return none, model.Invalid(r.field(), "is required")
	}
	if err := unreserved(ctx, in); err != nil {
		return none, err
	}
	m, _ := proto.Clone(in).(M)
	r.Clean(m)
	h := r.Header(m)
	if h.Place != nil {
		*h.Place = 0
	}
	*h.ID = uuid.NewString()
	t := now()
	*h.Created, *h.Updated = t, t
	return m, r.place(ctx, m)
}

// field is the name of the kind's field in requests: "floating_ip".
func (r *resource[M]) field() string { return strings.ToLower(strings.ReplaceAll(r.Name, " ", "_")) }

// method is the name of a call for request ids: "Create network".
func (r *resource[M]) call(ctx context.Context, verb, id string, req proto.Message) (call, error) {
	return newCall(ctx, verb+" "+r.Name, id, req)
}

// adder checks a new object, completes it and appends all that has to be written for it.
type adder[M messageOf] func(ctx context.Context, e *edit, m M) error

// create is the standard method.
func (r *resource[M]) create(ctx context.Context, req requester, in M, add adder[M]) (M, error) {
	c, err := r.call(ctx, "Create", req.GetRequestId(), req)
	if err != nil {
		return in, fault.Status(err)
	}
	return r.mutate(ctx, c, func(ctx context.Context, e *edit) (built[M], error) {
		m, err := r.prepare(ctx, in)
		if err != nil {
			return built[M]{}, err
		}
		return built[M]{msg: m}, add(ctx, e, m)
	})
}

// updateRequest is the request of the standard method Update.
type updateRequest interface {
	requester
	GetUpdateMask() *fieldmaskpb.FieldMask
}

// changer checks a changed object, completes it and appends all that follows, but for the object itself, which its
// caller writes; before is guarded already.
type changer[M messageOf] func(ctx context.Context, e *edit, before record.Stored[M], after M, changed []string) error

// update is the standard method. A change that changes nothing writes nothing.
func (r *resource[M]) update(ctx context.Context, req updateRequest, in M, change changer[M]) (M, error) {
	var none M
	c, err := r.call(ctx, "Update", req.GetRequestId(), req)
	if err != nil {
		return none, fault.Status(err)
	}
	if !in.ProtoReflect().IsValid() {
		return none, fault.Status(model.Invalid(r.field(), "is required"))
	}
	paths, err := r.paths(in, req.GetUpdateMask().GetPaths())
	if err == nil {
		paths, err = changeable(ctx, in, paths, everything(req.GetUpdateMask().GetPaths()))
	}
	if err != nil {
		return none, fault.Status(err)
	}
	return r.mutate(ctx, c, func(ctx context.Context, e *edit) (built[M], error) {
		h := r.Header(in)
		before, err := r.checked(ctx, e, *h.ID, *h.Etag)
		if err != nil {
			return built[M]{}, err
		}
		after := before.Copy()
		apply(after.ProtoReflect(), in.ProtoReflect(), paths)
		return r.rewrite(ctx, e, before, after, func() error { return change(ctx, e, before, after, paths) })
	})
}

// rewrite lets change complete an object and writes it if it differs from before.
func (r *resource[M]) rewrite(_ context.Context, e *edit, before record.Stored[M], after M, change func() error) (built[M], error) {
	guard(e, before)
	if err := change(); err != nil {
		return built[M]{}, err
	}
	was := before.Copy()
	r.Clean(was)
	r.Clean(after)
	if proto.Equal(was, after) && len(e.txn.Writes()) == 0 {
		return built[M]{msg: was, revision: before.Revision}, nil
	}
	*r.Header(after).Updated = e.now
	r.replace(e, before, after)
	return built[M]{msg: after}, nil
}

// replace writes an object in place of its former self, whose key may have been another.
func (r *resource[M]) replace(e *edit, before record.Stored[M], after M) {
	if key := r.KeyOf(after); key == before.Key {
		e.txn.Put(key, after)
		return
	}
	e.txn.Delete(before.Key)
	putNew(e, r.Kind, after)
}

// checked reads an object that is to be changed and compares its etag, if one is given.
func (r *resource[M]) checked(ctx context.Context, e *edit, id, etag string) (record.Stored[M], error) {
	s, err := r.own(ctx, e.View, id)
	if err != nil {
		return s, err
	}
	if have := record.Etag(s.Revision); etag != "" && etag != have {
		return s, fault.Stale(r.Name, id, etag, have)
	}
	return s, nil
}

// maxPaths is how many paths an update mask may have: more than any kind has fields.
const maxPaths = 64

// paths checks an update mask. No mask names every mutable field that is set; "*" names every mutable field.
func (r *resource[M]) paths(in M, mask []string) ([]string, error) {
	if everything(mask) {
		return r.Mutable, nil
	}
	if len(mask) > maxPaths {
		return nil, model.Invalid("update_mask", "has %d paths, the limit is %d", len(mask), maxPaths)
	}
	if len(mask) == 0 {
		var out []string
		for _, p := range r.Mutable {
			if set(in, p) {
				out = append(out, p)
			}
		}
		return out, nil
	}
	for _, p := range mask {
		fd := in.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(p))
		switch {
		case fd == nil:
			return nil, model.Invalid("update_mask", "%q is no field of kind %s", p, r.Name)
		case !slices.Contains(r.Mutable, p):
			return nil, model.Invalid("update_mask", "%s of kind %s can't be changed", p, r.Name)
		}
	}
	return mask, nil
}

// everything reports whether a mask names every mutable field.
func everything(mask []string) bool { return slices.Equal(mask, []string{"*"}) }

// set reports whether a field of a message is set.
func set(m messageOf, field string) bool {
	return m.ProtoReflect().Has(m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)))
}

// apply copies the named fields from one message to another; one that is not set is cleared.
func apply(to, from protoreflect.Message, paths []string) {
	from = proto.Clone(from.Interface()).ProtoReflect()
	for _, p := range paths {
		fd := to.Descriptor().Fields().ByName(protoreflect.Name(p))
		if !from.Has(fd) {
			to.Clear(fd)
			continue
		}
		to.Set(fd, from.Get(fd))
	}
}

// deleteRequest is the request of the standard method Delete.
type deleteRequest interface {
	requester
	GetId() string
	GetEtag() string
}

// remove is the standard method Delete: release checks that nothing stands in the way and appends all that goes with the
// object, but for the object itself.
func (r *resource[M]) remove(ctx context.Context, req deleteRequest, release func(context.Context, *edit, record.Stored[M]) error) (*emptypb.Empty, error) {
	return r.removeWith(ctx, req, func(ctx context.Context, e *edit, s record.Stored[M]) error {
		deleteStored(e, r.Kind, s)
		if err := uncount(ctx, e, s.Msg); err != nil {
			return err
		}
		return release(ctx, e, s)
	})
}

// removeWith is remove for a kind whose release deletes the object too.
func (r *resource[M]) removeWith(ctx context.Context, req deleteRequest, release func(context.Context, *edit, record.Stored[M]) error) (*emptypb.Empty, error) {
	c, err := r.call(ctx, "Delete", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	done := &emptypb.Empty{}
	_, err = r.server.commit(ctx, c, &emptypb.Empty{}, func(ctx context.Context, e *edit) (proto.Message, error) {
		s, err := r.checked(ctx, e, req.GetId(), req.GetEtag())
		if discardable(ctx, err) {
			return done, r.discard(ctx, e, req.GetId())
		}
		if err != nil {
			return nil, err
		}
		return done, release(ctx, e, s)
	}, func(proto.Message) {})
	if err != nil {
		return nil, fault.Status(err)
	}
	return done, nil
}
