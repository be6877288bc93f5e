package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func etag(revision int64) string { return strconv.FormatInt(revision, 10) }

// Port is the status of a port as stored at a mod revision.
func (f *Fleet) Port(p *weftv1.Port, revision int64) *weftv1.ObjectStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	q := question{kind: keys.KindPort, id: p.GetId(), revision: revision, down: isDown(p.AdminStateUp)} //nolint:protogetter // presence
	switch p.GetDeviceOwner() {
	case model.OwnerRouterGateway, model.OwnerRouterInterface:
		q.node, q.unplaced = f.activeNode(p.GetDeviceId()), "the router is not placed"
		q.otherwise = named{keys.KindRouter, p.GetDeviceId()}
	case model.OwnerDHCP:
		q.node, q.unplaced = p.GetBoundHost(), "the DHCP server is not placed"
		q.otherwise = named{keys.KindDHCP, p.GetDeviceId()}
	default:
		q.node, q.unplaced, q.plugged = p.GetBoundHost(), "bound to no node: its interface has not appeared anywhere", true
	}
	return f.answer(q)
}

// Router is the status of a router as stored at a mod revision: what its active node says. Standbys that can't take over are
// told of.
func (f *Fleet) Router(r *weftv1.Router, revision int64) *weftv1.ObjectStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	q := question{kind: keys.KindRouter, id: r.GetId(), revision: revision, node: f.activeNode(r.GetId()), down: isDown(r.AdminStateUp)} //nolint:protogetter // presence
	nodes := r.GetPlacement().GetNodes()
	switch {
	case r.GetPlacement() == nil:
		q.unplaced = "it has neither a gateway nor interfaces"
	case len(nodes) == 0:
		q.unplaced = "not placed: no node can take it"
	case q.node == "":
		q.node = nodes[0] // placed a moment ago
	}
	status := f.answer(q)
	for _, node := range nodes {
		s := q
		s.node, s.standby = node, true
		if state, why := f.state(s, f.own(s)); node != q.node && state == weftv1.State_STATE_ERROR {
			status.Message = joined(status.GetMessage(), "no standby: "+why.message)
		}
	}
	status.Message = joined(status.GetMessage(), lacking(nodes, r.GetHa()))
	return status
}

// lacking says that there are fewer nodes than the object itself, not its pool, asks for.
func lacking(nodes []string, wanted int32) string {
	if len(nodes) == 0 || len(nodes) >= int(wanted) {
		return ""
	}
	return fmt.Sprintf("planned on %d of %d nodes", len(nodes), wanted)
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// FloatingIP is the status of a floating IP as stored at a mod revision.
func (f *Fleet) FloatingIP(ip *weftv1.FloatingIp, revision int64) *weftv1.ObjectStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	q := question{kind: keys.KindFloatingIP, id: ip.GetId(), revision: revision, node: f.activeNode(ip.GetRouterId()), unplaced: "not associated with a port"}
	if ip.GetRouterId() != "" {
		q.unplaced = "its router is not placed"
	}
	return f.answer(q)
}

// Network is the status of a network's DHCP service, the network as stored at a mod revision: ACTIVE if all its servers are,
// else the worst of their states, with those named that are not ACTIVE.
func (f *Fleet) Network(n *weftv1.Network, revision int64) *weftv1.ObjectStatus {
	f.mu.RLock()
	defer f.mu.RUnlock()
	q := question{kind: keys.KindDHCP, id: n.GetId(), revision: revision, down: isDown(n.AdminStateUp), unplaced: "no subnet with DHCP"} //nolint:protogetter // presence
	nodes := n.GetDhcpPlacement().GetNodes()
	if len(nodes) == 0 {
		if n.GetDhcpPlacement() != nil {
			q.unplaced = "DHCP is not placed: no node can take it"
		}
		return f.answer(q)
	}
	q.node = nodes[0]
	status := f.answer(q)
	active := 0
	var others []string
	for _, node := range nodes {
		q.node = node
		state, why := f.state(q, f.own(q))
		if severity(state) > severity(status.GetState()) {
			status.State, status.Reason = state, why.reason
		}
		if state == weftv1.State_STATE_ACTIVE {
			active++
		} else {
			others = append(others, why.message)
		}
	}
	if len(nodes) > 1 && active < len(nodes) && !q.down {
		status.Message = fmt.Sprintf("%d of %d servers work: %s", active, len(nodes), strings.Join(others, "; "))
	}
	status.Message = joined(status.GetMessage(), lacking(nodes, n.GetDhcpServers()))
	return status
}

// severity orders states by how much an operator should care.
func severity(s weftv1.State) int {
	return slices.Index([]weftv1.State{
		weftv1.State_STATE_ACTIVE, weftv1.State_STATE_DOWN, weftv1.State_STATE_BUILD, weftv1.State_STATE_UNKNOWN, weftv1.State_STATE_ERROR,
	}, s)
}

func isDown(up *bool) bool { return up != nil && !*up }

// named is an object by its id's text.
type named struct{ kind, id string }

// question is what has to be known of an object to say its state.
type question struct {
	kind, id  string
	revision  int64
	node      string // the node concerned; "" none
	unplaced  string // why there is no node
	down      bool   // admin_state_up is false
	plugged   bool   // it has to be plugged by a hypervisor
	standby   bool   // the node is to be ready and silent
	otherwise named
}

func (f *Fleet) activeNode(router string) string {
	id, ok := parseUUID(router)
	if !ok {
		return ""
	}
	return f.active[id].node
}

func (f *Fleet) find(kind, id string) []report {
	u, ok := parseUUID(id)
	if !ok {
		return nil
	}
	return f.reports[object{kind, u}]
}

// of is the reports that answer a question.
func (f *Fleet) of(q question) []report {
	reports := f.find(q.kind, q.id)
	if len(reports) == 0 && q.otherwise.kind != "" {
		return f.find(q.otherwise.kind, q.otherwise.id)
	}
	return reports
}

// own is the report of the node that a question is about; nil when there is none.
func (f *Fleet) own(q question) *report {
	reports := f.of(q)
	for i := range reports {
		if reports[i].node == q.node {
			return &reports[i]
		}
	}
	return nil
}

func (f *Fleet) answer(q question) *weftv1.ObjectStatus {
	status := &weftv1.ObjectStatus{}
	for _, r := range f.of(q) {
		status.Reports = append(status.Reports, r.shown())
	}
	state, why := f.state(q, f.own(q))
	status.State, status.Message, status.Reason = state, why.message, why.reason
	return status
}

// cause is why an object is in its state: in the words of its node, for operators, and in words that say nothing of nodes, for
// whoever sees the object.
type cause struct{ message, reason string }

// known is a reason that everybody may know.
func known(reason string) cause { return cause{reason, reason} }

func (f *Fleet) state(q question, own *report) (weftv1.State, cause) {
	switch n := f.nodes[q.node]; {
	case q.node == "":
		return weftv1.State_STATE_DOWN, known(q.unplaced)
	case n == nil || !n.alive:
		return weftv1.State_STATE_UNKNOWN, cause{fmt.Sprintf("the agent of node %s is not alive", q.node), "whether it works can't be told at present"}
	case own == nil && q.plugged && !f.isPlugged(q):
		return weftv1.State_STATE_DOWN, cause{fmt.Sprintf("its interface has not appeared on node %s", q.node), "its interface has not appeared"}
	case own == nil:
		return weftv1.State_STATE_BUILD, cause{fmt.Sprintf("node %s has not reported yet", q.node), "it is being built"}
	case own.revision < q.revision:
		return weftv1.State_STATE_BUILD, cause{fmt.Sprintf("node %s has not reported the latest change yet", q.node), "the latest change is being made"}
	case own.state == weftv1.State_STATE_ERROR:
		return own.state, cause{fmt.Sprintf("node %s: %s", q.node, own.message), "it can't be built as it is to be; the operators are told why"}
	case q.down:
		return weftv1.State_STATE_DOWN, known("admin_state_up is false")
	case own.standby != q.standby:
		return weftv1.State_STATE_BUILD, cause{fmt.Sprintf("node %s has not reported its change of role yet", q.node), "it is being moved"}
	default:
		return own.state, cause{message: own.message}
	}
}

func (f *Fleet) isPlugged(q question) bool {
	id, _ := parseUUID(q.id)
	for _, n := range f.plugs[id] {
		if n == q.node {
			return true
		}
	}
	return false
}

// shown is the report as the API shows it.
func (r *report) shown() *weftv1.NodeReport {
	out := &weftv1.NodeReport{Node: r.node, Revision: r.revision, State: r.state, Message: r.message}
	if r.seconds != 0 || r.nanos != 0 {
		out.Time = &timestamppb.Timestamp{Seconds: r.seconds, Nanos: r.nanos}
	}
	return out
}
