package api

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/query"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// pool finds a pool that a node names or something is said of.
func (s *Server) pool(id string) (*weftv1.Pool, error) {
	pools := s.opts.Fleet.Pools()
	i := slices.IndexFunc(pools, func(p *weftv1.Pool) bool { return p.GetId() == id })
	if i < 0 {
		return nil, fault.NotFound("pool", id)
	}
	return pools[i], nil
}

func (s *nodeService) GetPool(ctx context.Context, req *weftv1.GetPoolRequest) (*weftv1.Pool, error) {
	if _, err := s.reached(ctx); err != nil {
		return nil, fault.Status(err)
	}
	p, err := s.pool(req.GetId())
	return p, fault.Status(err)
}

// ListPools answers from memory, as ListNodes does.
func (s *nodeService) ListPools(ctx context.Context, req *weftv1.ListPoolsRequest) (*weftv1.ListPoolsResponse, error) {
	d := (&weftv1.Pool{}).ProtoReflect().Descriptor()
	text := []string{"pool", req.GetFilter(), req.GetOrderBy()}
	filter, err1 := query.ParseFilter(d, req.GetFilter())
	order, err2 := query.ParseOrder(d, req.GetOrderBy())
	p, err3 := query.ParsePage(req.GetPageSize(), req.GetPageToken(), text...)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fault.Status(err)
	}
	revision, err := s.reached(ctx)
	if err != nil {
		return nil, fault.Status(err)
	}
	all := slices.DeleteFunc(s.opts.Fleet.Pools(), func(p *weftv1.Pool) bool { return !filter.Match(p.ProtoReflect()) })
	slices.SortStableFunc(all, func(a, b *weftv1.Pool) int { return order.Compare(a.ProtoReflect(), b.ProtoReflect()) })
	out := &weftv1.ListPoolsResponse{Revision: revision}
	rest := 0
	if out.Pools, rest = cut(all, p); rest > 0 {
		out.NextPageToken = query.Token(revision, p.Offset+len(out.GetPools()), text...)
	}
	return out, nil
}

func (s *nodeService) UpdatePool(ctx context.Context, req *weftv1.UpdatePoolRequest) (*weftv1.Pool, error) {
	in := req.GetPool()
	c, err := newCall(ctx, "Update pool", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	paths, err := namedPaths("pool", in, req.GetUpdateMask().GetPaths(), []string{"failback", "ha", "dhcp_servers"})
	if err == nil {
		err = checkPool(in)
	}
	if err != nil {
		return nil, fault.Status(err)
	}
	if _, err := s.pool(in.GetId()); err != nil {
		return nil, fault.Status(err)
	}
	revision, err := s.commit(ctx, c, &storev1.PoolSettings{}, func(ctx context.Context, e *edit) (proto.Message, error) {
		return changePool(ctx, e, in, paths)
	}, func(proto.Message) {})
	if err != nil {
		return nil, fault.Status(err)
	}
	return awaited(ctx, s.Server, keys.FamilyPool, revision, func() (*weftv1.Pool, error) { return s.pool(in.GetId()) })
}

func checkPool(in *weftv1.Pool) error {
	var errs []error
	for field, n := range map[string]int32{"ha": in.GetHa(), "dhcp_servers": in.GetDhcpServers()} {
		if n < 0 || n > model.MaxNodes {
			errs = append(errs, model.Invalid(field, "%d is not in 0..%d", n, model.MaxNodes))
		}
	}
	return errors.Join(errs...)
}

// changePool appends the change of a pool's settings; none when nothing is named.
func changePool(ctx context.Context, e *edit, in *weftv1.Pool, paths []string) (proto.Message, error) {
	settings := &storev1.PoolSettings{}
	before, _, err := e.One(ctx, keys.Pool(in.GetId()))
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(before.Value, settings); err != nil {
		return nil, fault.Damaged("pool "+in.GetId(), err)
	}
	if have := record.Etag(before.Revision); in.GetEtag() != "" && in.GetEtag() != have {
		return nil, fault.Stale("pool", in.GetId(), in.GetEtag(), have)
	}
	for _, p := range paths {
		switch p {
		case "failback":
			settings.Failback = in.GetFailback()
		case "ha":
			settings.Ha = in.GetHa()
		case "dhcp_servers":
			settings.DhcpServers = in.GetDhcpServers()
		}
	}
	if len(paths) > 0 {
		e.txn.Unchanged(before.Key, before.Revision)
		e.txn.Put(before.Key, settings)
	}
	return settings, nil
}

// namedPaths is which fields of a thing that is no resource an update names, as with resource.paths.
func namedPaths(what string, in proto.Message, mask, mutable []string) ([]string, error) {
	if slices.Equal(mask, []string{"*"}) {
		return mutable, nil
	}
	if len(mask) > maxPaths {
		return nil, model.Invalid("update_mask", "has %d paths, the limit is %d", len(mask), maxPaths)
	}
	if len(mask) == 0 {
		var out []string
		for _, p := range mutable {
			if set(in, p) {
				out = append(out, p)
			}
		}
		return out, nil
	}
	for _, p := range mask {
		if !slices.Contains(mutable, p) {
			return nil, model.Invalid("update_mask", "%s of a %s can't be changed", p, what)
		}
	}
	return mask, nil
}

// awaited reads from memory what was committed at a revision, once the fleet has taken it in; 0 is no change.
func awaited[T any](ctx context.Context, s *Server, family keys.Family, revision int64, read func() (T, error)) (T, error) {
	if revision > 0 {
		if err := s.opts.Fleet.Await(ctx, family, revision); err != nil {
			var none T
			return none, fault.Status(fmt.Errorf("%w: %w", store.ErrUnavailable, err))
		}
	}
	out, err := read()
	return out, fault.Status(err)
}
