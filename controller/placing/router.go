package placing

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Touched reads the networks that a router touches, each once.
func Touched(ctx context.Context, v *record.View, r *weftv1.Router) ([]*weftv1.Network, error) {
	var ids []string
	if g := r.GetExternalGateway(); g != nil {
		ids = append(ids, g.GetNetworkId())
	}
	for _, in := range r.GetInterfaces() {
		ids = append(ids, in.GetNetworkId())
	}
	slices.Sort(ids)
	var out []*weftv1.Network
	for _, id := range slices.Compact(ids) {
		n, err := record.Networks().At(ctx, v, "", id)
		if err != nil {
			return nil, err
		}
		out = append(out, n.Msg)
	}
	return out, nil
}

// RouterRequest is what a router that touches some networks asks of the scheduler, its plan as it is included.
func RouterRequest(r *weftv1.Router, networks []*weftv1.Network, pools Pools) scheduler.Request {
	req := scheduler.Request{
		What: fault.Label("router", r.GetName(), r.GetId()), Kind: scheduler.Router, Current: r.GetPlacement().GetNodes(),
		Pool: r.GetPool(), Count: int(r.GetHa()), Counts: pools.routers(),
	}
	for _, n := range networks {
		needs(&req, n)
	}
	return req
}

// RouterPlan is where a router is, as a view shows it.
type RouterPlan struct {
	// Nodes are the router's placement.
	Nodes []string
	// Active is the node that forwards, "" none; Epoch grows with every change of it.
	Active string
	Epoch  int64
	// HandOver is the node that the active one is told to hand over to; "" none.
	HandOver string

	active   store.Entry
	stored   *storev1.ActiveRouter
	bindings map[string]*storev1.RouterBinding
}

// ReadPlan reads the plan of a router that is stored as r says.
func ReadPlan(ctx context.Context, v *record.View, r *weftv1.Router) (RouterPlan, error) {
	p := RouterPlan{
		Nodes: r.GetPlacement().GetNodes(), active: store.Entry{Key: keys.Active(r.GetId())}, stored: &storev1.ActiveRouter{},
		bindings: map[string]*storev1.RouterBinding{},
	}
	queries := []store.Query{store.Key(p.active.Key)}
	for _, node := range p.Nodes {
		queries = append(queries, store.Key(keys.HostObject(node, keys.KindRouter, r.GetId())))
	}
	results, err := v.Read(ctx, queries...)
	if err != nil {
		return p, err
	}
	if found := results[0].Entries; len(found) > 0 {
		p.active = found[0]
		if err := proto.Unmarshal(p.active.Value, p.stored); err != nil {
			return p, fault.Damaged("the active router at key "+p.active.Key, err)
		}
	}
	p.Active, p.Epoch = p.stored.GetNode(), p.stored.GetEpoch()
	for i, node := range p.Nodes {
		b := &storev1.RouterBinding{}
		if found := results[i+1].Entries; len(found) > 0 && proto.Unmarshal(found[0].Value, b) == nil {
			p.bindings[node] = b // one that is damaged is written anew
		}
	}
	p.HandOver = p.bindings[p.Active].GetHandOver()
	return p, nil
}

// hold is the nodes of a plan that must not go: the active one, first, and the one that it hands over to.
func (p *RouterPlan) hold() (out []string) {
	for _, node := range []string{p.Active, p.HandOver} {
		if node != "" {
			out = append(out, node)
		}
	}
	return out
}

// PlaceRouter places a router, as it is to be stored, on nodes that carry all the networks that it touches: as many as it
// asks for or can be had, of one pool, keeping those where it is that can stay. It sets the router's placement and appends
// bindings and, when the router is placed for the first time or loses its active node, active/; writing and guarding the
// router is the caller's. Only a change of what the router asks for (ha, pool) trims a plan that is longer than wanted: a
// move may be under way.
// When no registered node could ever take it the error is a fault.Precondition with each node's reason; when those that
// could can't now, or no node is registered yet, the router stays unplaced, with the reasons, until one comes. One that asks
// for no more than before stays where it is if no node can take it: what takes away from a router is never refused for that.
func (c *Change) PlaceRouter(ctx context.Context, router *weftv1.Router, networks []*weftv1.Network) error {
	before, err := record.Routers().At(ctx, c.View, "", router.GetId())
	if err != nil {
		return err
	}
	plan, err := ReadPlan(ctx, c.View, before.Msg)
	if err != nil {
		return err
	}
	req := RouterRequest(router, networks, c.Pools())
	more, err := c.compare(ctx, before.Msg, &req)
	if err != nil {
		return err
	}
	req.Hold = plan.hold()
	if before.Msg.GetHa() == router.GetHa() && before.Msg.GetPool() == router.GetPool() {
		req.Hold = append(req.Hold, plan.Nodes...)
	}
	nodes := c.Nodes()
	placed, err := scheduler.Place(req, nodes)
	var none *scheduler.NoneError
	if errors.As(err, &none) {
		placed.Rejected = none.Rejected
		switch {
		case !more:
			placed.Nodes = plan.Nodes
		case len(nodes) > 0 && !everPossible(req, nodes):
			return fault.Precondition("%s", err.Error())
		}
	}
	router.Placement = &weftv1.Placement{Nodes: placed.Nodes, Rejected: rejections(placed.Rejected, nodes)}
	if !slices.Equal(plan.Nodes, placed.Nodes) {
		c.writePlan(router.GetId(), plan, placed.Nodes, plan.HandOver, nodes)
	}
	return nil
}

// compare sets the physical networks that a request needs and the router as stored does not, and reports whether it asks for
// anything that the router did not ask for.
func (c *Change) compare(ctx context.Context, before *weftv1.Router, req *scheduler.Request) (more bool, err error) {
	networks, err := Touched(ctx, c.View, before)
	if err != nil {
		return false, err
	}
	was := RouterRequest(before, networks, nil)
	req.Added = slices.DeleteFunc(slices.Clone(req.PhysicalNetworks), func(p string) bool { return slices.Contains(was.PhysicalNetworks, p) })
	return before.GetPlacement() == nil || len(req.Added) > 0 || req.Tunnels && !was.Tunnels || req.Pool != was.Pool || req.Count != was.Count, nil
}

// ReplanRouter brings the plan of a stored router to what the router and its pool ask for and want says, and returns it as
// it then is; changed is false when nothing had to be appended. It is idempotent, and the way for every edit of a plan that
// no API call asks for: replacing a node that died or is drained, adding the target of a move, telling the active node to
// hand over, trimming. It never moves a router off its active node: that one stays in the plan, even if it is leaving,
// until another has become active; only if it is unfit by its nature (has no bridge any more, is in another pool than
// asked for), or there is none, active/ is written. A router that no node can take stays as it is. The error is an
// *UnfitError when want.Add can't be added.
func (c *Change) ReplanRouter(ctx context.Context, before record.Stored[*weftv1.Router], want Replan) (plan RouterPlan, changed bool, err error) {
	if plan, err = ReadPlan(ctx, c.View, before.Msg); err != nil {
		return plan, false, err
	}
	networks, err := Touched(ctx, c.View, before.Msg)
	if err != nil || before.Msg.GetPlacement() == nil {
		return plan, false, err
	}
	req := RouterRequest(before.Msg, networks, c.Pools())
	req.Leaving, req.Hold = want.Leaving, append(plan.hold(), want.Keep...)
	nodes := c.Nodes()
	if want.Add != "" {
		if err := addable(req, nodes, want.Add); err != nil {
			return plan, false, err
		}
		req.Hold = append(req.Hold, slices.DeleteFunc(slices.Clone(plan.Nodes), func(n string) bool { return want.Leaving[n] != "" })...)
		req.Hold = append(req.Hold, want.Add)
	}
	req.Current = want.reorder(plan.Nodes)
	placed, err := scheduler.Place(req, nodes)
	var none *scheduler.NoneError
	if errors.As(err, &none) {
		return plan, false, nil
	}
	was := len(c.Txn.Writes())
	if !slices.Equal(plan.Nodes, placed.Nodes) {
		after := before.Copy()
		after.Placement = &weftv1.Placement{Nodes: placed.Nodes, Rejected: rejections(placed.Rejected, nodes)}
		after.UpdateTime = c.Now
		record.Routers().Clean(after)
		c.Txn.Put(before.Key, after)
	}
	plan = c.writePlan(before.Msg.GetId(), plan, placed.Nodes, want.HandOver, nodes)
	if len(c.Txn.Writes()) == was {
		return plan, false, nil
	}
	c.Txn.Unchanged(before.Key, before.Revision)
	return plan, true, nil
}

func addable(req scheduler.Request, nodes []scheduler.Node, add string) error {
	if slices.Contains(req.Current, add) {
		return nil
	}
	if reason := scheduler.Check(req, nodes, add); reason != "" {
		return &UnfitError{What: req.What, Node: add, Reason: reason}
	}
	return nil
}

// writePlan appends the bindings that make a plan of nodes, those that are as they should be aside, and active/ if the
// active node is not among them. It guards active/ if it appends anything.
func (c *Change) writePlan(id string, was RouterPlan, to []string, handOver string, nodes []scheduler.Node) RouterPlan {
	now := RouterPlan{Nodes: to, Active: was.Active, Epoch: was.Epoch, bindings: map[string]*storev1.RouterBinding{}}
	writes := len(c.Txn.Writes())
	c.activate(&now, was, nodes)
	if handOver != now.Active && slices.Contains(to, handOver) {
		now.HandOver = handOver
	}
	for _, node := range was.Nodes {
		if !slices.Contains(to, node) {
			c.Txn.Delete(keys.HostObject(node, keys.KindRouter, id))
		}
	}
	for rank, node := range to {
		b := &storev1.RouterBinding{Rank: int32(rank), Nodes: to} //nolint:gosec // a few nodes
		if node == now.Active {
			b.HandOver = now.HandOver
		}
		now.bindings[node] = b
		if proto.Equal(b, was.bindings[node]) {
			continue
		}
		if was.bindings[node] == nil {
			c.Txn.Exists(keys.Agent(node)) // a node that is being forgotten takes nothing
		}
		c.Txn.Put(keys.HostObject(node, keys.KindRouter, id), b)
	}
	if len(c.Txn.Writes()) > writes {
		c.Txn.Unchanged(was.active.Key, was.active.Revision)
	}
	return now
}

// activate writes active/ when a plan has lost its active node or never had one: one that is built and alive goes before
// one that is not.
func (c *Change) activate(now *RouterPlan, was RouterPlan, nodes []scheduler.Node) {
	if slices.Contains(now.Nodes, was.Active) || len(now.Nodes) == 0 && was.Active == "" {
		return
	}
	next := &storev1.ActiveRouter{Epoch: was.Epoch + 1, Time: c.Now}
	built := slices.IndexFunc(now.Nodes, func(node string) bool {
		alive := slices.ContainsFunc(nodes, func(n scheduler.Node) bool { return n.Name == node && n.Alive })
		return alive && slices.Contains(was.Nodes, node)
	})
	switch {
	case len(now.Nodes) == 0:
		next.Reason = "no node can take it any more"
	case was.Active == "":
		next.Node, next.Reason = now.Nodes[0], "placed"
	default:
		next.Node, next.Reason = now.Nodes[max(built, 0)], was.Active+" can't carry it any more"
	}
	c.Txn.Put(was.active.Key, next)
	now.Active, now.Epoch = next.GetNode(), next.GetEpoch()
}
