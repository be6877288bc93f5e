package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type watchService struct {
	weftv1.UnimplementedWatchServiceServer
	*Server
}

func (s *watchService) Watch(req *weftv1.WatchRequest, stream weftv1.WatchService_WatchServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-s.opts.Ending:
			cancel(fault.Unavailable("this controller stops; watch again, from the last bookmark, at another"))
		case <-ctx.Done():
		}
	}()
	for _, kind := range []weftv1.Kind{weftv1.Kind_KIND_NODE, weftv1.Kind_KIND_SEGMENT_RANGE} {
		if slices.Contains(req.GetKinds(), kind) && !caller.From(ctx).Operates() {
			return fault.Status(fault.Denied("events of kind %s are for operators", kind))
		}
	}
	w := &watcher{Server: s.Server, req: req, send: stream.Send}
	err := w.run(ctx, cancel)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fault.Status(err)
}

// watcher is one Watch call. It belongs to one goroutine: its run.
type watcher struct {
	*Server
	req  *weftv1.WatchRequest
	send func(*weftv1.WatchEvent) error
}

// run forwards changes until ctx ends; cancel ends it with a cause.
func (w *watcher) run(ctx context.Context, cancel context.CancelCauseFunc) error {
	from, err := w.begin(ctx)
	if err != nil {
		return err
	}
	changes := w.opts.Store.Client().Watch(clientv3.WithRequireLeader(ctx), keys.Root,
		clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	for resp := range backlog(ctx, cancel, changes) {
		if err := resp.Err(); err != nil {
			return watchError(err)
		}
		if err := w.forward(ctx, resp); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return store.ErrUnavailable
}

// maxBacklog is how many bytes of keys and values may wait for a caller of Watch that reads slowly.
const maxBacklog = 16 << 20

// backlog passes answers on and keeps those that the caller is not ready for, which etcd's client would do without end;
// when they grow too many it ends ctx with a cause. The channel is closed when from is, or ctx ends.
func backlog(ctx context.Context, cancel context.CancelCauseFunc, from clientv3.WatchChan) <-chan clientv3.WatchResponse {
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		var waiting []clientv3.WatchResponse
		bytes := 0
		for from != nil || len(waiting) > 0 {
			var to chan<- clientv3.WatchResponse
			var next clientv3.WatchResponse
			if len(waiting) > 0 {
				to, next = out, waiting[0]
			}
			select {
			case <-ctx.Done():
				return
			case resp, ok := <-from:
				if !ok {
					from = nil
					continue
				}
				waiting, bytes = append(waiting, resp), bytes+weight(resp)
			case to <- next:
				waiting, bytes = waiting[1:], bytes-weight(next)
			}
			if len(waiting) > 1 && bytes-weight(waiting[0]) > maxBacklog { // the first may be a long past all at once
				cancel(fault.Unavailable("the watch's caller reads too slowly: %d bytes wait for it; watch again from the last bookmark", bytes))
				return
			}
		}
	}()
	return out
}

// weight is the size in bytes of an answer's keys and values.
func weight(resp clientv3.WatchResponse) int {
	n := 0
	for _, ev := range resp.Events {
		n += len(ev.Kv.Key) + len(ev.Kv.Value)
		if ev.PrevKv != nil {
			n += len(ev.PrevKv.Key) + len(ev.PrevKv.Value)
		}
	}
	return n
}

// begin finds the first revision to watch, and tells the caller of a watch from now on where it begins.
func (w *watcher) begin(ctx context.Context) (int64, error) {
	if n := len(w.req.GetKinds()); n > len(weftv1.Kind_name) {
		return 0, model.Invalid("kinds", "has %d elements, and there are fewer kinds", n)
	}
	if w.req.GetRevision() < 0 {
		return 0, model.Invalid("revision", "%d is negative", w.req.GetRevision())
	}
	v := record.NewView(w.opts.Store)
	if _, _, err := v.One(ctx, keys.Schema); err != nil {
		return 0, err
	}
	if w.req.GetRevision() > v.Revision() {
		return 0, fault.OutOfRange("revision %d is still to come: the store is at %d; list again", w.req.GetRevision(), v.Revision())
	}
	if w.req.GetRevision() > 0 {
		return w.req.GetRevision() + 1, nil
	}
	return v.Revision() + 1, w.send(&weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_BOOKMARK, Revision: v.Revision()})
}

func watchError(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return fault.OutOfRange("the revision is no longer kept; list again and watch from there")
	}
	return errors.Join(store.ErrUnavailable, err)
}

// pastError is why the store does not say how it was at an event.
func pastError(err error) error {
	if errors.Is(err, store.ErrCompacted) {
		return watchError(rpctypes.ErrCompacted)
	}
	return err
}

// forward sends the events of one answer, then a bookmark. While a watch catches up its answers carry the store's latest
// revision although they hold no more than a part of what led to it (etcd's syncWatchers): the bookmark is that of the
// last event, whose revision an answer never splits. An answer without events is etcd's own promise.
func (w *watcher) forward(ctx context.Context, resp clientv3.WatchResponse) error {
	for _, ev := range resp.Events {
		out, err := w.event(ctx, ev)
		if err != nil {
			return err
		}
		if out == nil {
			continue
		}
		if err := w.send(out); err != nil {
			return err
		}
	}
	revision := resp.Header.Revision
	if n := len(resp.Events); n > 0 {
		revision = resp.Events[n-1].Kv.ModRevision
	}
	if revision == 0 {
		return nil
	}
	return w.send(&weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_BOOKMARK, Revision: revision})
}

// event translates one event; nil when it is of no interest.
func (w *watcher) event(ctx context.Context, ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	k, err := keys.Parse(string(ev.Kv.Key))
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // a key of nobody's is no event
	}
	switch k.Family { //nolint:exhaustive // the others are of no interest
	case keys.FamilyNetwork:
		return changed(ctx, w, w.networks, ev)
	case keys.FamilyNetworkGrant:
		return changed(ctx, w, w.grants, ev)
	case keys.FamilySubnet:
		return changed(ctx, w, w.subnets, ev)
	case keys.FamilyPort:
		return changed(ctx, w, w.ports, ev)
	case keys.FamilyRouter:
		return changed(ctx, w, w.routers, ev)
	case keys.FamilyFloatingIP:
		return w.floatingEvent(ctx, k, ev)
	case keys.FamilySegmentRange:
		return changed(ctx, w, w.segRanges, ev)
	case keys.FamilySecurityGroup:
		return changed(ctx, w, w.groups, ev)
	case keys.FamilyRule:
		return changed(ctx, w, w.rules, ev)
	case keys.FamilyAddressGroup:
		return changed(ctx, w, w.addressGroups, ev)
	case keys.FamilyStatus:
		return w.statusEvent(ctx, k, ev)
	case keys.FamilyActive:
		if err := w.await(ctx, keys.FamilyActive, ev.Kv.ModRevision); err != nil {
			return nil, err
		}
		return reported(ctx, w, w.routers, k.ID(), ev)
	case keys.FamilyAgent, keys.FamilyLive, keys.FamilyNode:
		return w.nodeEvent(ctx, k, ev)
	default:
		return nil, nil //nolint:nilnil // no event
	}
}

func (w *watcher) wants(kind weftv1.Kind) bool {
	return len(w.req.GetKinds()) == 0 || slices.Contains(w.req.GetKinds(), kind)
}

// belongs reports whether an object belongs, at a revision, into the lists of the watch's project that its caller sees. An
// error ends the watch, for an event that is left out because the store does not answer never comes again.
func belongs[M messageOf](ctx context.Context, w *watcher, r *resource[M], m M, at int64) (bool, error) {
	ok, err := r.listed(ctx, record.ViewAt(w.opts.Store, at), m, w.req.GetProject())
	if fault.Code(err) == codes.DataLoss {
		w.opts.Log.Error("leaving an object out of a watch", "error", err)
		return false, nil // one bad object hides no other
	}
	return ok, pastError(err)
}

// belonged reports whether an object belonged into the lists of the watch's project just before an event: whoever has listed
// it has to learn that it no longer does.
func belonged[M messageOf](ctx context.Context, w *watcher, r *resource[M], ev *clientv3.Event) (bool, error) {
	if ev.PrevKv == nil {
		return false, nil
	}
	before, err := r.Decode(store.Entry{Key: string(ev.PrevKv.Key), Value: ev.PrevKv.Value, Revision: ev.PrevKv.ModRevision})
	if err != nil {
		return false, nil //nolint:nilerr // nobody has listed what can't be read
	}
	return belongs(ctx, w, r, before.Msg, ev.Kv.ModRevision-1)
}

// concerns reports whether an event's object, which it holds or held, belongs or belonged into the lists.
func concerns[M messageOf](ctx context.Context, w *watcher, r *resource[M], m M, ev *clientv3.Event) (bool, error) {
	if !isDelete(ev) {
		if now, err := belongs(ctx, w, r, m, ev.Kv.ModRevision); now || err != nil {
			return now, err
		}
	}
	return belonged(ctx, w, r, ev)
}

func isDelete(ev *clientv3.Event) bool { return ev.Type == mvccpb.DELETE }

// changed is the event of an object that was written or deleted.
func changed[M messageOf](ctx context.Context, w *watcher, r *resource[M], ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	if !w.wants(r.Enum) {
		return nil, nil //nolint:nilnil // no event
	}
	out := &weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_PUT, Revision: ev.Kv.ModRevision}
	kv := ev.Kv
	if isDelete(ev) {
		out.Type = weftv1.WatchEvent_TYPE_DELETE
		if kv = ev.PrevKv; kv == nil {
			if !caller.From(ctx).Operates() {
				return nil, nil //nolint:nilnil // whose it was is not known any more
			}
			m := r.New()
			*r.Header(m).ID = idOf(string(ev.Kv.Key))
			setObject(out, m)
			return out, nil
		}
	}
	stored, err := r.Decode(store.Entry{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision})
	if err != nil {
		w.opts.Log.Error("leaving an object out of a watch", "error", err)
		return nil, nil //nolint:nilerr,nilnil // one bad object hides no other
	}
	if concerned, err := concerns(ctx, w, r, stored.Msg, ev); err != nil || !concerned {
		return nil, err
	}
	if isDelete(ev) {
		mask(ctx, stored.Msg)
		setObject(out, stored.Msg)
		return out, nil
	}
	setObject(out, r.shown(ctx, stored.Msg, stored.Revision))
	return out, nil
}

// floatingEvent hides the deletion that is half of a floating IP's move from one router's scope to another's.
func (w *watcher) floatingEvent(ctx context.Context, k keys.Key, ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	if isDelete(ev) {
		_, found, err := record.ViewAt(w.opts.Store, ev.Kv.ModRevision).One(ctx, keys.Locator(keys.KindFloatingIP, k.ID()))
		if err != nil || found { // the other half is the event
			return nil, pastError(err)
		}
	}
	return changed(ctx, w, w.floating, ev)
}

// setObject puts an object into its field of the event.
func setObject(out *weftv1.WatchEvent, m messageOf) {
	switch m := m.(type) {
	case *weftv1.Network:
		out.Object = &weftv1.WatchEvent_Network{Network: m}
	case *weftv1.NetworkGrant:
		out.Object = &weftv1.WatchEvent_NetworkGrant{NetworkGrant: m}
	case *weftv1.Subnet:
		out.Object = &weftv1.WatchEvent_Subnet{Subnet: m}
	case *weftv1.Port:
		out.Object = &weftv1.WatchEvent_Port{Port: m}
	case *weftv1.Router:
		out.Object = &weftv1.WatchEvent_Router{Router: m}
	case *weftv1.FloatingIp:
		out.Object = &weftv1.WatchEvent_FloatingIp{FloatingIp: m}
	case *weftv1.SegmentRange:
		out.Object = &weftv1.WatchEvent_SegmentRange{SegmentRange: m}
	case *weftv1.SecurityGroup:
		out.Object = &weftv1.WatchEvent_SecurityGroup{SecurityGroup: m}
	case *weftv1.SecurityGroupRule:
		out.Object = &weftv1.WatchEvent_SecurityGroupRule{SecurityGroupRule: m}
	case *weftv1.AddressGroup:
		out.Object = &weftv1.WatchEvent_AddressGroup{AddressGroup: m}
	case *weftv1.Node:
		out.Object = &weftv1.WatchEvent_Node{Node: m}
	}
}

// statusEvent is the event of a report: the object as it is now, once the fleet has taken the report in.
func (w *watcher) statusEvent(ctx context.Context, k keys.Key, ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	if err := w.await(ctx, keys.FamilyStatus, ev.Kv.ModRevision); err != nil {
		return nil, err
	}
	switch k.Kind() {
	case keys.KindPort:
		return reported(ctx, w, w.ports, k.ID(), ev)
	case keys.KindRouter:
		return reported(ctx, w, w.routers, k.ID(), ev)
	case keys.KindFloatingIP:
		return reported(ctx, w, w.floating, k.ID(), ev)
	case keys.KindDHCP:
		return reported(ctx, w, w.networks, k.ID(), ev)
	default:
		return nil, nil //nolint:nilnil // no event
	}
}

// awaitLimit is how long an event waits for the fleet. A key that came and went while the fleet listed anew is never
// seen there.
const awaitLimit = time.Second

// await waits until the fleet has taken an event in, which follows the same store and is seldom behind.
func (w *watcher) await(ctx context.Context, family keys.Family, revision int64) error {
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	if err := w.opts.Fleet.Await(limited, family, revision); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

func reported[M messageOf](ctx context.Context, w *watcher, r *resource[M], id string, ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	if !w.wants(r.Enum) {
		return nil, nil //nolint:nilnil // no event
	}
	var at int64
	stored, err := record.Fresh(w.opts.Store, func(v *record.View) (record.Stored[M], error) {
		s, err := r.Get(ctx, v, id)
		at = v.Revision()
		return s, err
	})
	switch {
	case fault.IsNotFound(err):
		return nil, nil //nolint:nilnil // a report on what is gone
	case err != nil:
		return nil, err
	}
	if ok, err := belongs(ctx, w, r, stored.Msg, at); err != nil || !ok {
		return nil, err
	}
	out := &weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_STATUS, Revision: ev.Kv.ModRevision}
	setObject(out, r.shown(ctx, stored.Msg, stored.Revision))
	return out, nil
}

func (w *watcher) nodeEvent(ctx context.Context, k keys.Key, ev *clientv3.Event) (*weftv1.WatchEvent, error) {
	if !w.wants(weftv1.Kind_KIND_NODE) || !caller.From(ctx).Operates() {
		return nil, nil //nolint:nilnil // no event
	}
	if err := w.await(ctx, k.Family, ev.Kv.ModRevision); err != nil {
		return nil, err
	}
	out := &weftv1.WatchEvent{Type: weftv1.WatchEvent_TYPE_PUT, Revision: ev.Kv.ModRevision}
	n := w.opts.Fleet.Node(k.Scope())
	switch {
	case n != nil:
	case k.Family == keys.FamilyAgent && isDelete(ev):
		out.Type = weftv1.WatchEvent_TYPE_DELETE
		n = &weftv1.Node{Id: k.Scope()}
	default:
		return nil, nil //nolint:nilnil // a node that has not registered
	}
	setObject(out, n)
	return out, nil
}
