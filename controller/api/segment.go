package api

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/segments"
)

type segmentRangeService struct {
	weftv1.UnimplementedSegmentRangeServiceServer
	*Server
}

func (s *segmentRangeService) CreateSegmentRange(ctx context.Context, req *weftv1.CreateSegmentRangeRequest) (*weftv1.SegmentRange, error) {
	m, err := s.segRanges.create(ctx, req, req.GetSegmentRange(), s.addRange)
	return s.withUse(ctx, m, err)
}

func (s *segmentRangeService) GetSegmentRange(ctx context.Context, req *weftv1.GetSegmentRangeRequest) (*weftv1.SegmentRange, error) {
	m, err := s.segRanges.get(ctx, req.GetId())
	return s.withUse(ctx, m, err)
}

func (s *segmentRangeService) ListSegmentRanges(ctx context.Context, req *weftv1.ListSegmentRangesRequest) (*weftv1.ListSegmentRangesResponse, error) {
	p, err := s.segRanges.list(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := s.countUse(ctx, record.ViewAt(s.opts.Store, p.revision), p.items...); err != nil {
		return nil, fault.Status(err)
	}
	return &weftv1.ListSegmentRangesResponse{SegmentRanges: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *segmentRangeService) UpdateSegmentRange(ctx context.Context, req *weftv1.UpdateSegmentRangeRequest) (*weftv1.SegmentRange, error) {
	m, err := s.segRanges.update(ctx, req, req.GetSegmentRange(), s.changeRange)
	return s.withUse(ctx, m, err)
}

func (s *segmentRangeService) DeleteSegmentRange(ctx context.Context, req *weftv1.DeleteSegmentRangeRequest) (*emptypb.Empty, error) {
	return s.segRanges.remove(ctx, req, func(ctx context.Context, e *edit, r record.Stored[*weftv1.SegmentRange]) error {
		return s.checkUnused(ctx, e, r.Msg, uint64(r.Msg.GetMinimum()), uint64(r.Msg.GetMaximum()), "deleted")
	})
}

// withUse completes one answer with how much of the range is taken.
func (s *Server) withUse(ctx context.Context, m *weftv1.SegmentRange, err error) (*weftv1.SegmentRange, error) {
	if err != nil {
		return nil, err
	}
	return m, fault.Status(s.countUse(ctx, record.NewView(s.opts.Store), m))
}

func (s *Server) countUse(ctx context.Context, v *record.View, ranges ...*weftv1.SegmentRange) error {
	queries := make([]store.Query, len(ranges))
	for i, r := range ranges {
		queries[i] = store.Count(segments.ClaimRange(r.GetType(), r.GetPhysicalNetwork(), r.GetMinimum(), r.GetMaximum()))
	}
	results, err := v.Read(ctx, queries...)
	if err != nil {
		return err
	}
	for i, r := range ranges {
		r.Used = results[i].Count
	}
	return nil
}

func (s *Server) addRange(ctx context.Context, e *edit, r *weftv1.SegmentRange) error {
	r.Used = 0
	if err := s.checkRange(ctx, e, r); err != nil {
		return err
	}
	putNew(e, s.segRanges.Kind, r)
	return nil
}

// checkRange checks a range by itself and against the others of its type and physical network.
func (s *Server) checkRange(ctx context.Context, e *edit, r *weftv1.SegmentRange) error {
	if _, err := model.SegmentRangeFrom(r); err != nil {
		return err
	}
	others, err := s.segRanges.All(ctx, e.View, s.opts.Log)
	if err != nil {
		return err
	}
	for _, o := range others {
		same := o.Msg.GetType() == r.GetType() && o.Msg.GetPhysicalNetwork() == r.GetPhysicalNetwork() && o.Msg.GetId() != r.GetId()
		if same && o.Msg.GetMinimum() <= r.GetMaximum() && r.GetMinimum() <= o.Msg.GetMaximum() {
			return fault.Precondition("%d..%d overlaps %s, which is %d..%d", r.GetMinimum(), r.GetMaximum(), s.segRanges.Label(o.Msg), o.Msg.GetMinimum(), o.Msg.GetMaximum())
		}
	}
	e.txn.NoneChangedUnder(keys.All(keys.FamilySegmentRange), e.Revision())
	return nil
}

func (s *Server) changeRange(ctx context.Context, e *edit, before record.Stored[*weftv1.SegmentRange], after *weftv1.SegmentRange, _ []string) error {
	after.Used = 0
	if err := s.checkRange(ctx, e, after); err != nil {
		return err
	}
	was := before.Msg
	if after.GetMinimum() > was.GetMinimum() {
		end := min(uint64(after.GetMinimum())-1, uint64(was.GetMaximum()))
		if err := s.checkUnused(ctx, e, was, uint64(was.GetMinimum()), end, "narrowed"); err != nil {
			return err
		}
	}
	if after.GetMaximum() < was.GetMaximum() {
		begin := max(uint64(after.GetMaximum())+1, uint64(was.GetMinimum()))
		return s.checkUnused(ctx, e, was, begin, uint64(was.GetMaximum()), "narrowed")
	}
	return nil
}

// checkUnused refuses while networks hold segments from first to last of a range. New claims are kept out by the guard that
// every claim has on its range, which is written.
func (s *Server) checkUnused(ctx context.Context, e *edit, r *weftv1.SegmentRange, first, last uint64, what string) error {
	start, end := segments.ClaimRange(r.GetType(), r.GetPhysicalNetwork(), uint32(first), uint32(last)) //nolint:gosec // of two uint32
	results, err := e.Read(ctx, store.Range(start, end, 16))
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.SegmentClaims(model.TypeName(r.GetType()), r.GetPhysicalNetwork()), e.Revision())
	var obstacles []string
	for _, entry := range results[0].Entries {
		owner, err := e.Claimant(ctx, entry.Key)
		if err != nil {
			return err
		}
		obstacles = append(obstacles, s.name(ctx, e, owner.GetKind(), owner.GetId()))
	}
	for range results[0].Count - int64(len(obstacles)) {
		obstacles = append(obstacles, "…")
	}
	return fault.Obstacles(fmt.Sprintf("%s can't be %s", s.segRanges.Label(r), what), obstacles)
}
