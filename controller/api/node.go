package api

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/query"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type nodeService struct {
	weftv1.UnimplementedNodeServiceServer
	*Server
}

func (s *nodeService) GetNode(ctx context.Context, req *weftv1.GetNodeRequest) (*weftv1.Node, error) {
	if _, err := s.reached(ctx); err != nil {
		return nil, fault.Status(err)
	}
	n, err := s.node(req.GetId())
	return n, fault.Status(err)
}

// reached asks the store for its revision: what answers from memory says nothing while the store is away.
func (s *Server) reached(ctx context.Context) (revision int64, err error) {
	v := record.NewView(s.opts.Store)
	if _, _, err := v.One(ctx, keys.Schema); err != nil {
		return 0, err
	}
	return v.Revision(), nil
}

// ListNodes answers from memory: unlike other lists, later pages show nodes as they are then.
func (s *nodeService) ListNodes(ctx context.Context, req *weftv1.ListNodesRequest) (*weftv1.ListNodesResponse, error) {
	d := (&weftv1.Node{}).ProtoReflect().Descriptor()
	text := []string{"node", req.GetFilter(), req.GetOrderBy()}
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
	all := slices.DeleteFunc(s.opts.Fleet.List(), func(n *weftv1.Node) bool { return !filter.Match(n.ProtoReflect()) })
	slices.SortStableFunc(all, func(a, b *weftv1.Node) int { return order.Compare(a.ProtoReflect(), b.ProtoReflect()) })
	out := &weftv1.ListNodesResponse{Revision: revision}
	rest := 0
	if out.Nodes, rest = cut(all, p); rest > 0 {
		out.NextPageToken = query.Token(revision, p.Offset+len(out.GetNodes()), text...)
	}
	return out, nil
}

// Limits on labels.
const (
	maxLabels    = 64
	maxLabelText = 255
)

func (s *nodeService) UpdateNode(ctx context.Context, req *weftv1.UpdateNodeRequest) (*weftv1.Node, error) {
	in := req.GetNode()
	c, err := newCall(ctx, "Update node", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	paths, err := namedPaths("node", in, req.GetUpdateMask().GetPaths(), []string{"labels", "cordoned", "draining"})
	if err == nil {
		err = checkLabels(in.GetLabels())
	}
	if err != nil {
		return nil, fault.Status(err)
	}
	revision, err := s.commit(ctx, c, &storev1.NodeSettings{}, func(ctx context.Context, e *edit) (proto.Message, error) {
		return changeNode(ctx, e, in, paths)
	}, func(proto.Message) {})
	if err != nil {
		return nil, fault.Status(err)
	}
	return awaited(ctx, s.Server, keys.FamilyNode, revision, func() (*weftv1.Node, error) { return s.node(in.GetId()) })
}

func (s *Server) node(name string) (*weftv1.Node, error) {
	n := s.opts.Fleet.Node(name)
	if n == nil {
		return nil, fault.NotFound("node", name)
	}
	return n, nil
}

// changeNode appends the change of a node's settings; none when nothing is named.
func changeNode(ctx context.Context, e *edit, in *weftv1.Node, paths []string) (proto.Message, error) {
	name := in.GetId()
	if !model.ValidNodeName(name) {
		return nil, fault.NotFound("node", name)
	}
	agent, found, err := e.One(ctx, keys.Agent(name))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fault.NotFound("node", name)
	}
	before, _, err := e.One(ctx, keys.Node(name))
	if err != nil {
		return nil, err
	}
	if have, want := record.Etag(max(agent.Revision, before.Revision)), in.GetEtag(); want != "" && want != have {
		return nil, fault.Stale("node", name, want, have)
	}
	settings := &storev1.NodeSettings{}
	if err := proto.Unmarshal(before.Value, settings); err != nil {
		return nil, fault.Damaged("the settings of node "+name, err)
	}
	for _, p := range paths {
		switch p {
		case "labels":
			settings.Labels = in.GetLabels()
		case "cordoned":
			settings.Cordoned = in.GetCordoned()
		case "draining":
			settings.Draining = in.GetDraining()
		}
	}
	if len(paths) > 0 {
		e.txn.Unchanged(agent.Key, agent.Revision)
		e.txn.Unchanged(before.Key, before.Revision)
		e.txn.Put(keys.Node(name), settings)
	}
	return settings, nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return model.Invalid("labels", "has %d elements, the limit is %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" || len(k) > maxLabelText || len(v) > maxLabelText || strings.ContainsAny(k+v, "\n\r\x00") {
			return model.Invalid("labels", "%q: a label's key must be 1 to %d bytes, its value at most that, without line ends", k, maxLabelText)
		}
	}
	return nil
}

func (s *nodeService) DeleteNode(ctx context.Context, req *weftv1.DeleteNodeRequest) (*emptypb.Empty, error) {
	c, err := newCall(ctx, "Delete node", req.GetRequestId(), req)
	if err != nil {
		return nil, fault.Status(err)
	}
	name := req.GetId()
	_, err = s.commit(ctx, c, &emptypb.Empty{}, func(ctx context.Context, e *edit) (proto.Message, error) {
		return &emptypb.Empty{}, s.forgetNode(ctx, e, name)
	}, func(proto.Message) {})
	if err != nil {
		return nil, fault.Status(err)
	}
	return &emptypb.Empty{}, nil
}

// forgetNode refuses while anything is there, and sweeps what the agent left behind before the node itself. A port that is
// refused on the node is not there: the refusal goes with the plug that it answers.
func (s *Server) forgetNode(ctx context.Context, e *edit, name string) error {
	if !model.ValidNodeName(name) {
		return fault.NotFound("node", name)
	}
	agent, found, err := e.One(ctx, keys.Agent(name))
	if err != nil {
		return err
	}
	if !found {
		return fault.NotFound("node", name)
	}
	if _, alive, err := e.One(ctx, keys.Live(name)); err != nil || alive {
		return errors.Join(err, fault.Precondition("node %s is alive; stop its agent first", name))
	}
	held, err := e.Prefix(ctx, keys.Host(name))
	if err != nil {
		return err
	}
	var obstacles []string
	var left []store.Entry
	for _, entry := range held {
		switch k, err := keys.Parse(entry.Key); {
		case err != nil, refused(k, entry):
			left = append(left, entry)
		default:
			obstacles = append(obstacles, s.heldName(ctx, e, k))
		}
	}
	if err := fault.Obstacles("node "+name+" can't be deleted", obstacles); err != nil {
		return err
	}
	e.txn.Unchanged(agent.Key, agent.Revision)
	e.txn.Absent(keys.Live(name))
	e.txn.NoneUnder(keys.Host(name))
	e.txn.Delete(agent.Key)
	e.txn.Delete(keys.Node(name))
	for _, prefix := range []string{keys.Statuses(name), keys.Plugs(name)} {
		entries, err := e.Prefix(ctx, prefix)
		if err != nil {
			return err
		}
		left = append(left, entries...)
	}
	return s.sweep(ctx, agent, keys.Live(name), left)
}

// refused reports whether an entry below host/ says that a port is not the node's.
func refused(k keys.Key, entry store.Entry) bool {
	binding := &storev1.PortBinding{}
	return k.Kind() == keys.KindPort && proto.Unmarshal(entry.Value, binding) == nil && binding.GetRefused() != ""
}

func (s *Server) heldName(ctx context.Context, e *edit, k keys.Key) string {
	switch k.Kind() {
	case keys.KindRouter:
		return labelled(ctx, e, s.routers.Kind, k.ID())
	case keys.KindDHCP:
		return "DHCP of " + labelled(ctx, e, s.networks.Kind, k.ID())
	default:
		return s.portName(ctx, e, k.ID())
	}
}

// sweep deletes what a dead agent left behind, many keys at a time, as long as all of it is as it was and the agent is still
// dead: one that comes back keeps what it says.
func (s *Server) sweep(ctx context.Context, agent store.Entry, live string, left []store.Entry) error {
	for chunk := range slices.Chunk(left, txn.MaxOps-2) {
		t := &txn.Txn{}
		t.Absent(live)
		t.Unchanged(agent.Key, agent.Revision)
		for _, entry := range chunk {
			t.Unchanged(entry.Key, entry.Revision)
			t.Delete(entry.Key)
		}
		if _, err := s.opts.Store.Commit(ctx, t, 0); err != nil {
			return err
		}
	}
	return nil
}
