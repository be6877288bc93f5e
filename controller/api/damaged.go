package api

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// discardable reports whether an object that could not be read may be deleted as it is. Whose it is can't be told, so that takes
// an admin.
func discardable(ctx context.Context, err error) bool {
	return fault.Code(err) == codes.DataLoss && caller.From(ctx).Role == caller.Admin
}

// discard appends the deletion of an object that can't be read, unless something lies in it but grants. What belonged to it, claims
// and bindings, is for the collector, which waits for the store to be understood (package collect).
func (r *resource[M]) discard(ctx context.Context, e *edit, id string) error {
	scope, err := r.Locate(ctx, e.View, id)
	if err != nil {
		return err
	}
	key := r.Key(scope, id)
	entry, found, err := e.One(ctx, key)
	if err != nil {
		return err
	}
	if !found {
		return fault.NotFound(r.Name, id)
	}
	var obstacles []string
	for _, prefix := range inside(r.Family, id) {
		some, err := r.server.some(ctx, e, prefix)
		if err != nil {
			return err
		}
		for _, last := range some {
			obstacles = append(obstacles, "key "+prefix+last)
		}
	}
	if r.Family == keys.FamilyNetwork {
		if err := releaseGrants(ctx, e, id); err != nil {
			return err
		}
	}
	deleteEntry(e, r.Kind, id, entry)
	return fault.Obstacles(r.Name+" "+id+", which can't be read, can't be deleted", obstacles)
}

// inside are the prefixes of the keys that would make no sense without an object.
func inside(family keys.Family, id string) []string {
	switch family { //nolint:exhaustive // nothing lies in the others
	case keys.FamilyNetwork:
		return []string{keys.Subnets(id), keys.Ports(id)}
	case keys.FamilySubnet:
		return []string{keys.AddressClaims(id)}
	case keys.FamilyPort:
		return []string{keys.FloatingClaims(id)}
	case keys.FamilyRouter:
		return []string{keys.FloatingIPs(id)}
	case keys.FamilySecurityGroup:
		return []string{keys.Rules(id), keys.Members(id), keys.RemoteClaims(id)}
	case keys.FamilyAddressGroup:
		return []string{keys.RemoteClaims(id)}
	default:
		return nil
	}
}

// forsaken reports whether a port of the system's own is an admin's to delete, for whatever it belongs to is gone or can't be read
// and does not delete it. The transaction guards that.
func (s *Server) forsaken(ctx context.Context, e *edit, p *weftv1.Port) (bool, error) {
	key, err := keys.Router(p.GetDeviceId()), error(nil)
	switch {
	case caller.From(ctx).Role != caller.Admin:
		return false, nil
	case p.GetDeviceOwner() == model.OwnerRouterInterface, p.GetDeviceOwner() == model.OwnerRouterGateway:
		_, err = s.routers.At(ctx, e.View, "", p.GetDeviceId())
	case p.GetDeviceOwner() == model.OwnerDHCP:
		key = keys.Network(p.GetNetworkId())
		_, err = s.networks.At(ctx, e.View, "", p.GetNetworkId())
	}
	if !fault.IsNotFound(err) && fault.Code(err) != codes.DataLoss {
		return false, err
	}
	entry, _, err := e.One(ctx, key)
	e.txn.Unchanged(key, entry.Revision)
	return true, err
}

// deleteEntry appends the deletion of an object as it is stored, whatever it says, with its locator, guarded.
func deleteEntry[M messageOf](e *edit, k *record.Kind[M], id string, entry store.Entry) {
	m := k.New()
	*k.Header(m).ID = id
	deleteStored(e, k, record.Stored[M]{Msg: m, Key: entry.Key, Revision: entry.Revision})
}
