package api

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/weft-sdn/weft/controller/caller"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
)

// discardable reports whether an object that could not be read may be deleted as it is. Whose it is can't be told, so that takes
// an admin.
func discardable(ctx context.Context, err error) bool {
	return fault.Code(err) == codes.DataLoss && caller.From(ctx).Role == caller.Admin
}

// discard appends the deletion of an object that can't be read, unless something lies in it. What belonged to it, claims and
// bindings, is for the collector, which waits for the store to be understood (package collect).
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

// deleteEntry appends the deletion of an object as it is stored, whatever it says, with its locator, guarded.
func deleteEntry[M messageOf](e *edit, k *record.Kind[M], id string, entry store.Entry) {
	m := k.New()
	*k.Header(m).ID = id
	deleteStored(e, k, record.Stored[M]{Msg: m, Key: entry.Key, Revision: entry.Revision})
}
