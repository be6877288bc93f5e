package api

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (s *networkService) CreateNetworkGrant(ctx context.Context, req *weftv1.CreateNetworkGrantRequest) (*weftv1.NetworkGrant, error) {
	return s.grants.create(ctx, req, req.GetNetworkGrant(), s.addGrant)
}

func (s *networkService) GetNetworkGrant(ctx context.Context, req *weftv1.GetNetworkGrantRequest) (*weftv1.NetworkGrant, error) {
	return s.grants.get(ctx, req.GetId())
}

func (s *networkService) ListNetworkGrants(ctx context.Context, req *weftv1.ListNetworkGrantsRequest) (*weftv1.ListNetworkGrantsResponse, error) {
	p, err := s.grants.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListNetworkGrantsResponse{NetworkGrants: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *networkService) DeleteNetworkGrant(ctx context.Context, req *weftv1.DeleteNetworkGrantRequest) (*emptypb.Empty, error) {
	return s.grants.remove(ctx, req, s.releaseGrant)
}

func (s *Server) addGrant(ctx context.Context, e *edit, g *weftv1.NetworkGrant) error {
	if !model.ValidUUID(g.GetNetworkId()) {
		return model.Invalid("network_id", "%q is not a UUID", g.GetNetworkId())
	}
	net, err := s.networks.own(ctx, e.View, g.GetNetworkId())
	if err != nil {
		return err
	}
	g.Project, g.Id = net.Msg.GetProject(), record.GrantID(g.GetNetworkId(), g.GetTargetProject())
	if _, err := model.NetworkGrantFrom(g); err != nil {
		return err
	}
	prefix := keys.NetworkGrants(g.GetNetworkId())
	have, err := e.Prefix(ctx, prefix)
	switch {
	case err != nil:
		return err
	case slices.ContainsFunc(have, func(entry store.Entry) bool { return entry.Key == s.grants.KeyOf(g) }):
		return fault.Taken(fmt.Sprintf("the grant of %s to project %s", s.networks.Label(net.Msg), g.GetTargetProject()), s.grants.Label(g))
	case len(have) >= model.MaxGrants:
		return fault.Exhausted("%s is granted to %d projects, which is the limit; an operator can share it with all", s.networks.Label(net.Msg), len(have))
	}
	guard(e, net)
	e.txn.NoneChangedUnder(prefix, e.Revision())
	putNew(e, s.grants.Kind, g)
	return nil
}

// releaseGrant refuses to revoke a grant that is in use.
func (s *Server) releaseGrant(ctx context.Context, e *edit, g record.Stored[*weftv1.NetworkGrant]) error {
	net, err := s.networks.At(ctx, e.View, "", g.Msg.GetNetworkId())
	if fault.IsNotFound(err) {
		return nil // it was left behind, and gives nothing
	}
	if err != nil {
		return err
	}
	guard(e, net)
	if net.Msg.GetShared() {
		return nil
	}
	all, err := s.guests(ctx, e, net.Msg)
	if err != nil {
		return err
	}
	n := 0
	for _, guest := range all {
		if guest.project == g.Msg.GetTargetProject() {
			n++
		}
	}
	if n > 0 {
		return fault.Precondition("the grant of %s to project %s can't be revoked: the project has %d ports or subnets there, which have to go first",
			s.networks.Label(net.Msg), g.Msg.GetTargetProject(), n)
	}
	return nil
}

// releaseGrants appends the deletion of all grants of a network, whatever they hold.
func releaseGrants(ctx context.Context, e *edit, network string) error {
	prefix := keys.NetworkGrants(network)
	all, err := e.Prefix(ctx, prefix)
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(prefix, e.Revision())
	for _, entry := range all {
		e.txn.Unchanged(entry.Key, entry.Revision)
		e.txn.Delete(entry.Key)
		e.txn.Delete(keys.Locator(keys.KindNetworkGrant, idOf(entry.Key)))
	}
	return nil
}

// granted reports whether a network is granted to any of some projects.
func granted(ctx context.Context, v *record.View, network string, projects ...string) (bool, error) {
	queries := make([]store.Query, len(projects))
	for i, p := range projects {
		queries[i] = store.Key(keys.NetworkGrant(network, record.GrantID(network, p)))
	}
	results, err := v.Read(ctx, queries...)
	return slices.ContainsFunc(results, func(r store.Result) bool { return len(r.Entries) > 0 }), err
}

// guest is something on a network that is of another project.
type guest struct{ project, label string }

// guests are what other projects have on a network by leave of its owner. The transaction guards that there will be no more.
func (s *Server) guests(ctx context.Context, e *edit, n *weftv1.Network) ([]guest, error) {
	subnets, err := s.subnets.Under(ctx, e.View, keys.Subnets(n.GetId()))
	if err != nil {
		return nil, err
	}
	ports, err := s.ports.Under(ctx, e.View, keys.Ports(n.GetId()))
	if err != nil {
		return nil, err
	}
	var out []guest
	for _, sub := range subnets {
		if sub.Msg.GetProject() != n.GetProject() {
			out = append(out, guest{sub.Msg.GetProject(), s.subnets.Label(sub.Msg)})
		}
	}
	for _, p := range ports {
		gateway := n.GetExternal() && p.Msg.GetDeviceOwner() == model.OwnerRouterGateway
		if p.Msg.GetProject() != n.GetProject() && !gateway {
			out = append(out, guest{p.Msg.GetProject(), portLabel(p.Msg)})
		}
	}
	e.txn.NoneChangedUnder(keys.Subnets(n.GetId()), e.Revision())
	e.txn.NoneChangedUnder(keys.Ports(n.GetId()), e.Revision())
	return out, nil
}

// checkUnshare refuses to take a network from other projects that use it, unless it is granted to them.
func (s *Server) checkUnshare(ctx context.Context, e *edit, n *weftv1.Network) error {
	all, err := s.guests(ctx, e, n)
	if err != nil {
		return err
	}
	var obstacles []string
	for _, guest := range all {
		switch may, err := s.mayUse(ctx, e, guest.project, n); {
		case err != nil:
			return err
		case !may:
			obstacles = append(obstacles, guest.label)
		}
	}
	return fault.Obstacles(s.networks.Label(n)+" can't be made private to its project", obstacles)
}

// mayUse reports whether a network is granted to a project. The transaction guards that it stays so.
func (s *Server) mayUse(ctx context.Context, e *edit, project string, n *weftv1.Network) (bool, error) {
	grant, err := s.grants.At(ctx, e.View, n.GetId(), record.GrantID(n.GetId(), project))
	switch {
	case fault.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	guard(e, grant)
	return true, nil
}

// checkProject refuses what would put an object of one project into another's private network.
func (s *Server) checkProject(ctx context.Context, e *edit, project string, n *weftv1.Network) error {
	if n.GetShared() || n.GetProject() == project {
		return nil
	}
	may, err := s.mayUse(ctx, e, project, n)
	if err != nil || may {
		return err
	}
	return fault.Precondition("%s is private to project %s; project %s can't use it unless it is shared, or granted to it", s.networks.Label(n), n.GetProject(), project)
}
