package keeper

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// step makes the next step for one object, if there is one, and reports whether it changes what nodes carry. What it brings
// about comes back as a change and is looked at again.
func (w *work) step(ctx context.Context, o fleet.Object) (loads bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	build := w.router
	if o.Kind == keys.KindDHCP {
		build = w.dhcp
	}
	revision, err := w.term.Update(ctx, w.Store, func(ctx context.Context) (*txn.Txn, error) {
		x, err := build(ctx, o)
		loads = x != nil && slices.ContainsFunc(x.Writes(), func(t txn.Write) bool { return strings.HasPrefix(t.Key, keys.All(keys.FamilyHost)) })
		return x, err
	})
	if err != nil || !loads {
		return false, err
	}
	seen, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	// The next object is placed by what the nodes carry now. Should that be late, it is placed a little worse.
	_ = w.Fleet.Await(seen, keys.FamilyHost, revision)
	return true, nil
}

func (w *work) newChange(v *record.View) *placing.Change {
	return &placing.Change{
		View: v, Alloc: &alloc.Allocator{View: v}, Txn: &txn.Txn{}, Now: timestamppb.Now(), Nodes: w.Fleet.Nodes,
		Pools: func() placing.Pools { return w.settings },
	}
}

// written is a transaction, or nil when it would write nothing. In a store that is being restored it fails.
func written(x *txn.Txn) *txn.Txn {
	if len(x.Writes()) == 0 {
		return nil
	}
	x.Exists(keys.Schema)
	return x
}

// reports reads what the nodes of a plan say of an object.
func reports(ctx context.Context, v *record.View, nodes []string, o fleet.Object) (map[string]*storev1.Report, map[string]store.Entry, error) {
	queries := make([]store.Query, len(nodes))
	for i, node := range nodes {
		queries[i] = store.Key(keys.Status(node, o.Kind, o.ID))
	}
	results, err := v.Read(ctx, queries...)
	if err != nil {
		return nil, nil, err
	}
	reports, entries := map[string]*storev1.Report{}, map[string]store.Entry{}
	for i, node := range nodes {
		r := &storev1.Report{}
		if found := results[i].Entries; len(found) > 0 && proto.Unmarshal(found[0].Value, r) == nil {
			reports[node], entries[node] = r, found[0] // one that can't be read says nothing
		}
	}
	return reports, entries, nil
}

// router builds the next step for a router.
func (w *work) router(ctx context.Context, o fleet.Object) (*txn.Txn, error) {
	v := record.NewView(w.Store)
	c := w.newChange(v)
	move, err := readMove(ctx, v, o.ID)
	if err != nil {
		return nil, err
	}
	before, err := record.Routers().At(ctx, v, "", o.ID)
	if fault.IsNotFound(err) || err == nil && before.Msg.GetPlacement() == nil {
		w.slot(o, &decision{})
		c.Txn.Unchanged(keys.Router(o.ID), before.Revision)
		move.end(c.Txn)
		return written(c.Txn), nil
	}
	if err != nil {
		return nil, err
	}
	p, said, err := w.planOf(ctx, v, before, move)
	if err != nil {
		return nil, err
	}
	d := w.decideRouter(o, p)
	if err := w.replan(ctx, c, before, &d); err != nil {
		return nil, err
	}
	if to := d.grow.HandOver; to != "" && to != p.handOver && len(c.Txn.Writes()) > 0 {
		c.Txn.Unchanged(said[to].Key, said[to].Revision) // it still is what it said
		c.Txn.Exists(keys.Live(to))
		w.Log.Info("a router is handed over", "router", o.ID, "from", p.active, "to", to)
	}
	if d.done {
		if d.reason != "" {
			w.Log.Warn("a router's move is given up", "router", o.ID, "to", move.to, "reason", d.reason)
		}
		move.end(c.Txn)
	}
	return written(c.Txn), nil
}

// planOf is what is known of a router's plan, with the keys of what its nodes say.
func (w *work) planOf(ctx context.Context, v *record.View, r record.Stored[*weftv1.Router], move wish) (plan, map[string]store.Entry, error) {
	at, err := placing.ReadPlan(ctx, v, r.Msg)
	if err != nil {
		return plan{}, nil, err
	}
	said, entries, err := reports(ctx, v, at.Nodes, fleet.Object{Kind: keys.KindRouter, ID: r.Msg.GetId()})
	if err != nil {
		return plan{}, nil, err
	}
	networks, err := placing.Touched(ctx, v, r.Msg)
	if err != nil {
		return plan{}, nil, err
	}
	p := plan{
		cut: w.nodes.cut(at.Nodes, placing.RouterRequest(r.Msg, networks, nil).PhysicalNetworks), nodes: at.Nodes, active: at.Active, handOver: at.HandOver, move: move.to, ready: map[string]bool{}, standby: map[string]bool{},
		failback: w.settings[w.pools[at.Active]].GetFailback(),
	}
	for node, report := range said {
		p.standby[node] = report.GetStandby() && report.GetState() != weftv1.State_STATE_ERROR
		p.ready[node] = p.standby[node] && report.GetRevision() >= r.Revision
	}
	return p, entries, nil
}

// decideRouter decides, as far as other routers let it.
func (w *work) decideRouter(o fleet.Object, p plan) decision {
	d := decide(p, w.nodes)
	w.slot(o, &d)
	if !d.done && d.grow.HandOver == "" && p.drained(w.nodes) && !w.nodes.draining[p.active] && w.handing() > 0 {
		d.later(w.nodes)
		w.blocked[o] = true
	}
	return d
}

// slot lets only so many routers be handed over at the same time.
func (w *work) slot(o fleet.Object, d *decision) {
	delete(w.blocked, o)
	was := len(w.moving)
	busy, _ := w.busy()
	defer func() {
		if len(w.moving) != was {
			w.moved = time.Now()
		}
	}()
	switch {
	case d.grow.HandOver == "":
		delete(w.moving, o.ID)
	case w.isMoving(o.ID):
	case busy < w.Moving && time.Until(w.paced) <= 0:
		w.moving[o.ID] = time.Now()
		w.paced = time.Now().Add(w.Pace)
	default:
		d.grow.HandOver = ""
		w.blocked[o] = true
	}
}

// replan appends a decision's change of a router's plan.
func (w *work) replan(ctx context.Context, c *placing.Change, before record.Stored[*weftv1.Router], d *decision) error {
	to, changed, err := c.ReplanRouter(ctx, before, d.grow)
	var unfit *placing.UnfitError
	if errors.As(err, &unfit) {
		d.done, d.reason, d.grow.Add = true, unfit.Error(), ""
		to, changed, err = c.ReplanRouter(ctx, before, d.grow)
	}
	if err == nil && !changed && d.trim != nil {
		to, changed, err = c.ReplanRouter(ctx, before, *d.trim)
	}
	if was := before.Msg.GetPlacement().GetNodes(); err == nil && changed && !slices.Equal(was, to.Nodes) {
		w.Log.Info("a router's plan changes", "router", before.Msg.GetId(), "from", was, "to", to.Nodes, "active", to.Active)
	}
	return err
}

// wish is the wish to move a router; the zero value is none.
type wish struct {
	to    string
	entry store.Entry
}

func readMove(ctx context.Context, v *record.View, router string) (wish, error) {
	e, found, err := v.One(ctx, keys.Move(router))
	if err != nil || !found {
		return wish{}, err
	}
	m := &storev1.Move{}
	if err := proto.Unmarshal(e.Value, m); err != nil {
		return wish{}, fault.Damaged("the move at key "+e.Key, err)
	}
	return wish{to: m.GetTo(), entry: e}, nil
}

// end appends the end of a wish.
func (m wish) end(x *txn.Txn) {
	if m.entry.Key == "" {
		return
	}
	x.Unchanged(m.entry.Key, m.entry.Revision)
	x.Delete(m.entry.Key)
}

// dhcp builds the next step for a network's DHCP: a server that leaves goes when those that stay work.
func (w *work) dhcp(ctx context.Context, o fleet.Object) (*txn.Txn, error) {
	v := record.NewView(w.Store)
	before, err := record.Networks().At(ctx, v, "", o.ID)
	if fault.IsNotFound(err) || err == nil && before.Msg.GetDhcpPlacement() == nil {
		return nil, nil //nolint:nilnil // nothing to do
	}
	if err != nil {
		return nil, err
	}
	p := plan{nodes: before.Msg.GetDhcpPlacement().GetNodes(), ready: map[string]bool{}}
	said, _, err := reports(ctx, v, p.nodes, o)
	if err != nil {
		return nil, err
	}
	for node, r := range said {
		p.ready[node] = r.GetRevision() >= before.Revision && r.GetState() != weftv1.State_STATE_ERROR
	}
	d := decide(p, w.nodes)
	c := w.newChange(v)
	to, changed, err := c.ReplanDHCP(ctx, before, d.grow, w.Log)
	if err == nil && !changed && d.trim != nil {
		to, changed, err = c.ReplanDHCP(ctx, before, *d.trim, w.Log)
	}
	if err != nil || !changed {
		return nil, err
	}
	w.Log.Info("the nodes that serve DHCP change", "network", o.ID, "from", p.nodes, "to", to)
	return written(c.Txn), nil
}
