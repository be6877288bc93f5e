package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/placing"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// maxRemainders is how many are explained: each takes a few reads of the store.
const maxRemainders = 50

// ExplainDrain reads what is on the node at one revision of the store; what nodes say of it is as they say now.
func (s *nodeService) ExplainDrain(ctx context.Context, req *weftv1.ExplainDrainRequest) (*weftv1.ExplainDrainResponse, error) {
	n, err := s.node(req.GetId())
	if err != nil {
		return nil, fault.Status(err)
	}
	out, err := record.Fresh(s.opts.Store, func(v *record.View) (*weftv1.ExplainDrainResponse, error) {
		return s.newDrain(n).explain(ctx, v)
	})
	return out, fault.Status(err)
}

// drain is what is on a node, and where it may go.
type drain struct {
	server *Server
	from   *weftv1.Node
	// nodes are the network nodes.
	nodes map[string]scheduler.Node
	// leaving are the nodes that nothing goes to, each with the reason.
	leaving map[string]string
}

func (s *Server) newDrain(from *weftv1.Node) *drain {
	d := &drain{server: s, from: from, nodes: map[string]scheduler.Node{}, leaving: map[string]string{}}
	for _, n := range s.opts.Fleet.Nodes() {
		if n.Network {
			d.nodes[n.Name] = n
		}
		switch {
		case n.Draining || n.Name == from.GetId():
			d.leaving[n.Name] = "is draining"
		case !n.Alive:
			d.leaving[n.Name] = "is not alive"
		}
	}
	return d
}

// explain says of what is on the node what it waits for, of active routers first.
func (d *drain) explain(ctx context.Context, v *record.View) (*weftv1.ExplainDrainResponse, error) {
	var all []*weftv1.Remainder
	for _, id := range d.from.GetRouters() {
		all = append(all, &weftv1.Remainder{RouterId: id, Active: slices.Contains(d.from.GetActiveRouters(), id)})
	}
	slices.SortStableFunc(all, func(a, b *weftv1.Remainder) int { return cmp.Compare(rank(a), rank(b)) })
	for _, id := range d.from.GetDhcpNetworks() {
		all = append(all, &weftv1.Remainder{NetworkId: id})
	}
	out := &weftv1.ExplainDrainResponse{Truncated: len(all) > maxRemainders}
	for _, r := range all[:min(len(all), maxRemainders)] {
		why := d.router
		if r.GetNetworkId() != "" {
			why = d.dhcp
		}
		switch err := why(ctx, v, r); {
		case fault.IsNotFound(err): // it has gone meanwhile
		case err != nil:
			return nil, err
		default:
			out.Remainders = append(out.Remainders, r)
		}
	}
	return out, nil
}

// rank puts what forwards first.
func rank(r *weftv1.Remainder) int {
	if r.GetActive() {
		return 0
	}
	return 1
}

func (d *drain) router(ctx context.Context, v *record.View, out *weftv1.Remainder) error {
	r, err := d.server.routers.At(ctx, v, "", out.GetRouterId())
	if err != nil {
		return err
	}
	plan, err := placing.ReadPlan(ctx, v, r.Msg)
	if err != nil {
		return err
	}
	networks, err := placing.Touched(ctx, v, r.Msg)
	if err != nil {
		return err
	}
	out.Name = r.Msg.GetName()
	req := placing.RouterRequest(r.Msg, networks, d.server.pools())
	req.Hold = []string{plan.Active}
	waits := func(node string) string {
		for _, physnet := range req.PhysicalNetworks {
			if up := d.nodes[node].Uplinks[physnet]; !up.Proven {
				return fmt.Sprintf("its uplink to physical network %s is not proven: %s", physnet, up.Reason)
			}
		}
		return d.unready(node, keys.KindRouter, r.Msg.GetId(), r.Revision, node != plan.Active)
	}
	switch {
	case out.GetActive() && !d.from.GetAlive():
		out.Reason = "the agent of the node is not alive, and the others have not found the node dead: it may forward still; start the agent, or power the node off, and another takes over"
	case out.GetActive() && plan.HandOver != "":
		out.Reason = "it is being handed over to node " + plan.HandOver
	default:
		out.Reason = d.reason(req, waits, out.GetActive())
	}
	return nil
}

func (d *drain) dhcp(ctx context.Context, v *record.View, out *weftv1.Remainder) error {
	n, err := d.server.networks.At(ctx, v, "", out.GetNetworkId())
	if err != nil {
		return err
	}
	stored, err := d.server.subnets.Sound(ctx, v, keys.Subnets(n.Msg.GetId()), d.server.opts.Log)
	if err != nil {
		return err
	}
	subnets := make([]*weftv1.Subnet, len(stored))
	for i, s := range stored {
		subnets[i] = s.Msg
	}
	out.Name = n.Msg.GetName()
	req := placing.DHCPRequest(n.Msg, placing.Served(subnets), d.server.pools())
	out.Reason = d.reason(req, func(node string) string {
		return d.unready(node, keys.KindDHCP, n.Msg.GetId(), n.Revision, false)
	}, false)
	return nil
}

// reason is what something waits for. waits says why a node is not ready for it, "" when it is; anyOne: one that is ready is
// enough.
func (d *drain) reason(req scheduler.Request, waits func(node string) string, anyOne bool) string {
	req.Leaving = d.leaving
	placed, err := scheduler.Place(req, slices.Collect(maps.Values(d.nodes)))
	if err != nil {
		return err.Error()
	}
	var ready, missing, unable []string
	for _, r := range placed.Rejected {
		unable = append(unable, r.Node+": "+r.Reason)
	}
	for _, node := range placed.Nodes {
		if why := d.leaving[node]; why != "" {
			if node != d.from.GetId() {
				unable = append(unable, node+": "+why)
			}
			continue
		}
		if why := waits(node); why != "" {
			missing = append(missing, "node "+node+": "+why)
			continue
		}
		ready = append(ready, node)
	}
	switch {
	case len(ready)+len(missing)+len(unable) == 0:
		return "there is no other network node"
	case len(ready)+len(missing) == 0:
		return "no other node can take it: " + listed(unable)
	case len(missing) == 0 || anyOne && len(ready) > 0:
		return "it goes when it is its turn: node " + strings.Join(ready, ", ") + " is ready"
	default:
		return "it waits for " + listed(missing)
	}
}

// listed is the first few of many reasons.
func listed(reasons []string) string {
	const most = 10
	slices.Sort(reasons)
	if more := len(reasons) - most; more > 0 {
		reasons = append(reasons[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(reasons, "; ")
}

// unready says why a node can't do the work of something that is stored at a revision; "" when it says that it can.
func (d *drain) unready(node, kind, id string, revision int64, standby bool) string {
	switch r := d.server.opts.Fleet.Report(node, kind, id); {
	case r.State == weftv1.State_STATE_ERROR:
		return r.Message
	case r.Revision < revision || r.Standby != standby:
		return "it is not ready yet"
	default:
		return ""
	}
}
