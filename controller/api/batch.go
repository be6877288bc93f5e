package api

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Limits of a batch: how many elements it may have, how many are read together, and how many packs are under way at once.
const (
	maxBatch  = 1000
	packSize  = 40
	packsOpen = 8
)

// item is one element of a batch: its request and what it is to create.
type item[M messageOf] struct {
	req requester
	in  M
}

func items[R requester, M messageOf](requests []R, object func(R) M) []item[M] {
	out := make([]item[M], len(requests))
	for i, r := range requests {
		out[i] = item[M]{r, object(r)}
	}
	return out
}

// outcome is what became of one element.
type outcome[M messageOf] struct {
	msg M
	err error
}

func (o outcome[M]) batchError() *weftv1.BatchError {
	s := status.Convert(fault.Status(o.err))
	return &weftv1.BatchError{Code: int32(s.Code()), Message: s.Message()} //nolint:gosec // a small number
}

// batch creates each element by itself, but commits many together: their transactions are merged as far as they go, and
// only when a merged one meets a conflict are its elements created one by one. queries is what an element will read
// first; nil: nothing.
func batch[M messageOf](ctx context.Context, r *resource[M], elements []item[M], add adder[M], queries func(M) []store.Query) ([]outcome[M], error) {
	if len(elements) > maxBatch {
		return nil, fault.Status(model.Invalid("requests", "has %d elements, the limit is %d", len(elements), maxBatch))
	}
	out := make([]outcome[M], len(elements))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(packsOpen)
	for begin := 0; begin < len(elements); begin += packSize {
		end := min(begin+packSize, len(elements))
		group.Go(func() error {
			p := &packer[M]{resource: r, add: add, elements: elements[begin:end], out: out[begin:end]}
			return p.run(ctx, queries)
		})
	}
	return out, fault.Status(group.Wait())
}

// packer creates a part of a batch. It belongs to one goroutine.
type packer[M messageOf] struct {
	resource *resource[M]
	add      adder[M]
	elements []item[M]
	out      []outcome[M]

	merged  *txn.Txn
	members []int // of elements: those in merged
	lease   clientv3.LeaseID
}

// run creates the elements. The error is a bug: a panic, which in a goroutine of its own would end the process.
func (p *packer[M]) run(ctx context.Context, queries func(M) []store.Query) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			p.resource.server.opts.Log.Error("a batch panicked", "panic", panicked, "stack", string(debug.Stack()))
			err = fmt.Errorf("creating a batch of kind %s failed; this is a bug of the controller, see its log", p.resource.Name)
		}
	}()
	v := record.NewView(p.resource.server.opts.Store)
	if err := p.prefetch(ctx, v, queries); err != nil {
		for i := range p.out {
			p.out[i].err = err
		}
		return nil
	}
	p.merged = &txn.Txn{}
	for i := range p.elements {
		t := p.build(ctx, v, i)
		switch {
		case t == nil:
		case p.merged.Merge(t):
			p.members = append(p.members, i)
		default:
			p.flush(ctx)
			p.merged, p.members = t, []int{i}
		}
	}
	p.flush(ctx)
	return nil
}

func (p *packer[M]) prefetch(ctx context.Context, v *record.View, queries func(M) []store.Query) error {
	if queries == nil {
		return nil
	}
	var all []store.Query
	asked := map[store.Query]bool{}
	for _, el := range p.elements {
		for _, q := range queries(el.in) {
			if !asked[q] {
				asked[q] = true
				all = append(all, q)
			}
		}
	}
	_, err := v.Read(ctx, all...)
	return err
}

// build builds one element's transaction, or notes why it is refused and returns nil.
func (p *packer[M]) build(ctx context.Context, v *record.View, i int) *txn.Txn {
	el, s := p.elements[i], p.resource.server
	c, err := p.resource.call(ctx, "Create", el.req.GetRequestId(), el.req)
	if err == nil && c.id != "" && p.lease == 0 {
		p.lease, err = s.requests.current(ctx, len(p.elements))
	}
	if err != nil {
		p.out[i].err = err
		return nil
	}
	e := s.newEdit(v, true)
	m, err := p.resource.prepare(ctx, el.in)
	if err == nil {
		err = errors.Join(p.add(ctx, e, m), c.remember(e.txn, m), e.txn.Err())
	}
	if err != nil {
		p.alone(ctx, i)
		return nil
	}
	p.out[i].msg = m
	return e.txn
}

// flush commits what has been merged.
func (p *packer[M]) flush(ctx context.Context) {
	if len(p.members) == 0 {
		return
	}
	s := p.resource.server
	revision, err := s.opts.Store.Commit(ctx, p.merged, p.lease)
	switch {
	case errors.Is(err, store.ErrConflict), leaseLost(err):
		for _, i := range p.members {
			p.alone(ctx, i)
		}
	case err != nil:
		for _, i := range p.members {
			p.out[i] = outcome[M]{err: err}
		}
	default:
		for _, i := range p.members {
			m, _ := proto.Clone(p.out[i].msg).(M)
			p.out[i].msg = p.resource.shown(ctx, m, revision)
		}
	}
	p.members = nil
}

// alone creates one element as a call of its own would.
func (p *packer[M]) alone(ctx context.Context, i int) {
	p.out[i].msg, p.out[i].err = p.resource.create(ctx, p.elements[i].req, p.elements[i].in, p.add)
}
