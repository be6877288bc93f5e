package api

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// MoveRouter writes the wish down: the leader carries it out.
func (s *routerService) MoveRouter(ctx context.Context, req *weftv1.MoveRouterRequest) (*weftv1.Router, error) {
	c, err := s.routers.call(ctx, "Move", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	return s.routers.mutate(ctx, c, func(ctx context.Context, e *edit) (built[*weftv1.Router], error) {
		r, err := s.routers.look(ctx, e.View, req.GetId())
		if err != nil {
			return built[*weftv1.Router]{}, err
		}
		return built[*weftv1.Router]{msg: r.Copy(), revision: r.Revision}, s.moveRouter(ctx, e, r, req.GetNode())
	})
}

func (s *Server) moveRouter(ctx context.Context, e *edit, r record.Stored[*weftv1.Router], to string) error {
	if to == "" {
		return model.Invalid("node", "is required")
	}
	plan, err := placing.ReadPlan(ctx, e.View, r.Msg)
	if err != nil {
		return err
	}
	networks, err := placing.Touched(ctx, e.View, r.Msg)
	if err != nil {
		return err
	}
	label := s.routers.Label(r.Msg)
	if len(plan.Nodes) == 0 || plan.Active == "" {
		return fault.Precondition("%s is placed on no node, so it can't be moved", label)
	}
	guard(e, r)
	wish, found, err := e.One(ctx, keys.Move(r.Msg.GetId()))
	if err != nil {
		return err
	}
	if plan.Active == to {
		if found {
			e.txn.Delete(wish.Key) // whoever wished it elsewhere has been overtaken
		}
		return nil
	}
	if reason := scheduler.Check(placing.RouterRequest(r.Msg, networks, s.pools()), s.opts.Fleet.Nodes(), to); reason != "" {
		return fault.Precondition("%s can't be moved to node %s: it %s", label, to, reason)
	}
	e.txn.Put(wish.Key, &storev1.Move{To: to, Reason: "asked for by an operator"})
	return nil
}

// maxMoves is how many moves one call of Rebalance asks for: each takes two guards and a write of the transaction.
const maxMoves = 40

// Rebalance works the moves out from one snapshot and, unless it is a dry run, writes them down as wishes for the leader.
func (s *nodeService) Rebalance(ctx context.Context, req *weftv1.RebalanceRequest) (*weftv1.RebalanceResponse, error) {
	c, err := newCall(ctx, "Rebalance", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	if req.GetPool() != "" {
		if _, err := s.pool(req.GetPool()); err != nil {
			return nil, fault.Status(err)
		}
	}
	if req.GetDryRun() {
		out, err := record.Fresh(s.opts.Store, func(v *record.View) (*weftv1.RebalanceResponse, error) {
			return s.rebalance(ctx, s.newEdit(v, true), req.GetPool())
		})
		return out, fault.Status(err)
	}
	out, replayed := &weftv1.RebalanceResponse{}, &weftv1.RebalanceResponse{}
	_, err = s.commit(ctx, c, replayed, func(ctx context.Context, e *edit) (_ proto.Message, err error) {
		out, err = s.rebalance(ctx, e, req.GetPool())
		return out, err
	}, func(proto.Message) { out = replayed })
	if err != nil {
		return nil, fault.Status(err)
	}
	return out, nil
}

// rebalance appends the wishes for the moves that it returns.
func (s *Server) rebalance(ctx context.Context, e *edit, pool string) (*weftv1.RebalanceResponse, error) {
	routers, guards, err := s.movable(ctx, e)
	if err != nil {
		return nil, err
	}
	nodes := slices.DeleteFunc(s.opts.Fleet.Nodes(), func(n scheduler.Node) bool { return pool != "" && n.Pool != pool })
	for i := range nodes {
		nodes[i].Load.Active = 0
		for _, r := range routers {
			if r.Active == nodes[i].Name {
				nodes[i].Load.Active++
			}
		}
	}
	out := &weftv1.RebalanceResponse{}
	for _, m := range scheduler.Rebalance(nodes, routers, maxMoves) {
		out.Moves = append(out.Moves, &weftv1.RouterMove{RouterId: m.Router, From: m.From, To: m.To, Reason: m.Reason})
		for key, revision := range guards[m.Router] {
			e.txn.Unchanged(key, revision)
		}
		e.txn.Put(keys.Move(m.Router), &storev1.Move{To: m.To, Reason: m.Reason})
	}
	return out, nil
}

// movable reads the routers as the scheduler's rebalancing wants them, and for each what its move has to guard, by key. One
// that is to move already counts where it goes, and stays there.
func (s *Server) movable(ctx context.Context, e *edit) ([]scheduler.Placed, map[string]map[string]int64, error) {
	routers, err := s.routers.All(ctx, e.View, s.opts.Log)
	if err != nil {
		return nil, nil, err
	}
	active, err := values(ctx, e, keys.FamilyActive, func() *storev1.ActiveRouter { return &storev1.ActiveRouter{} })
	if err != nil {
		return nil, nil, err
	}
	moves, err := values(ctx, e, keys.FamilyMove, func() *storev1.Move { return &storev1.Move{} })
	if err != nil {
		return nil, nil, err
	}
	networks, err := s.networks.All(ctx, e.View, s.opts.Log)
	if err != nil {
		return nil, nil, err
	}
	byID := make(map[string]*weftv1.Network, len(networks))
	for _, n := range networks {
		byID[n.Msg.GetId()] = n.Msg
	}
	var out []scheduler.Placed
	guards := make(map[string]map[string]int64, len(routers))
	for _, r := range routers {
		id := r.Msg.GetId()
		a, moving := active[id], moves[id].msg
		if a.msg.GetNode() == "" {
			continue
		}
		p := scheduler.Placed{ID: id, Request: placing.RouterRequest(r.Msg, touched(r.Msg, byID), s.pools()), Active: a.msg.GetNode()}
		if moving != nil {
			p.Active, p.Request.Pool = moving.GetTo(), noPool
		}
		guards[id] = map[string]int64{r.Key: r.Revision, keys.Active(id): a.revision, keys.Move(id): 0}
		out = append(out, p)
	}
	return out, guards, nil
}

// noPool is no pool's name: nothing that asks for it goes anywhere.
const noPool = "/"

func touched(r *weftv1.Router, networks map[string]*weftv1.Network) (out []*weftv1.Network) {
	if n := networks[r.GetExternalGateway().GetNetworkId()]; n != nil {
		out = append(out, n)
	}
	for _, in := range r.GetInterfaces() {
		if n := networks[in.GetNetworkId()]; n != nil {
			out = append(out, n)
		}
	}
	return out
}

// value is a key's value with its mod revision.
type value[M proto.Message] struct {
	msg      M
	revision int64
}

// values reads a family of keys by their last element. One that can't be decoded is left out, with a line in the log.
func values[M proto.Message](ctx context.Context, e *edit, family keys.Family, empty func() M) (map[string]value[M], error) {
	entries, err := e.Prefix(ctx, keys.All(family))
	if err != nil {
		return nil, err
	}
	out := make(map[string]value[M], len(entries))
	for _, entry := range entries {
		m := empty()
		if err := proto.Unmarshal(entry.Value, m); err != nil {
			e.server.opts.Log.Error("passing over a key", "key", entry.Key, "error", err)
			continue
		}
		out[idOf(entry.Key)] = value[M]{m, entry.Revision}
	}
	return out, nil
}
