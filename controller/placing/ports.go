package placing

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// PutPort writes a port with its claims, memberships, locator and binding. before is nil for a new one; otherwise the
// transaction guards it. One that does not say whether it has port security is the system's own, and has none. A message
// that is no valid port is an error with its fields.
func (c *Change) PutPort(before *record.Stored[*weftv1.Port], after *weftv1.Port) error {
	kind := record.Ports()
	kind.Clean(after)
	if after.PortSecurityEnabled == nil {
		after.PortSecurityEnabled = proto.Bool(false)
	}
	if after.GetVifType() == weftv1.VifType_VIF_TYPE_UNSPECIFIED {
		after.VifType = weftv1.VifType_VIF_TYPE_OVS
	}
	now, err := model.PortFrom(after)
	if err != nil {
		return err
	}
	key := kind.KeyOf(after)
	if before == nil {
		ipam.ClaimPort(c.Txn, now)
		c.Txn.Put(keys.Locator(keys.KindPort, after.GetId()), &storev1.Locator{Scope: after.GetNetworkId()})
		c.bind(model.Port{}, now)
		c.join(model.Port{}, now)
		c.Txn.Put(key, after)
		return nil
	}
	if err := c.ClaimChange(*before, after); err != nil {
		return err
	}
	c.Txn.Put(key, after)
	return nil
}

// ClaimChange appends what follows from a change of a port: its claims, its memberships and its binding, but not the port
// itself, which the transaction guards.
func (c *Change) ClaimChange(before record.Stored[*weftv1.Port], after *weftv1.Port) error {
	was, err := model.PortFrom(before.Msg)
	if err != nil {
		return fault.Damaged("port "+after.GetId(), err)
	}
	now, err := model.PortFrom(after)
	if err != nil {
		return err
	}
	c.Txn.Unchanged(before.Key, before.Revision)
	ipam.UpdatePort(c.Txn, was, now)
	c.bind(was, now)
	c.join(was, now)
	return nil
}

// join tells a port's security groups what addresses it has, where that changes. The groups must be guarded.
func (c *Change) join(was, now model.Port) {
	for _, group := range was.Groups {
		if !slices.Contains(now.Groups, group) {
			c.Txn.Delete(keys.Member(group, now.ID))
		}
	}
	member := secgroup.Member(now)
	for _, group := range now.Groups {
		if !slices.Contains(was.Groups, group) || !proto.Equal(secgroup.Member(was), member) {
			c.Txn.Put(keys.Member(group, now.ID), member)
		}
	}
}

// bind writes the binding of a port that moves from one node to another; "" is no node.
func (c *Change) bind(was, now model.Port) {
	if was.BoundHost == now.BoundHost {
		return
	}
	if was.BoundHost != "" {
		c.Txn.Delete(keys.HostObject(was.BoundHost, keys.KindPort, now.ID))
	}
	if now.BoundHost != "" {
		c.Txn.Put(keys.HostObject(now.BoundHost, keys.KindPort, now.ID), &storev1.PortBinding{NetworkId: now.Network})
	}
}

// DeletePort deletes a port with everything it holds but floating IPs; the transaction guards it. What the port says it
// holds but another does, as can be with one written into the store by hand, stays the other's.
func (c *Change) DeletePort(ctx context.Context, port record.Stored[*weftv1.Port]) error {
	p := port.Msg
	c.Txn.Unchanged(port.Key, port.Revision)
	c.Txn.Delete(port.Key)
	c.Txn.Delete(keys.Locator(keys.KindPort, p.GetId()))
	c.Txn.Delete(keys.Instance(p.GetId()))
	groups := slices.Clone(p.GetSecurityGroups().GetIds())
	slices.Sort(groups)
	for _, group := range slices.Compact(groups) {
		c.Txn.Delete(keys.Member(group, p.GetId()))
	}
	if p.GetBoundHost() != "" {
		c.Txn.Delete(keys.HostObject(p.GetBoundHost(), keys.KindPort, p.GetId()))
	}
	claims := []string{keys.MACClaim(p.GetNetworkId(), p.GetMacAddress())}
	if o, counts := quota.Of(p); counts {
		claims = append(claims, o.Key())
	}
	for _, f := range p.GetFixedIps() {
		if ip, err := netip.ParseAddr(f.GetIpAddress()); err == nil {
			claims = append(claims, keys.AddressClaim(f.GetSubnetId(), ip))
		}
	}
	return c.release(ctx, p.GetId(), claims)
}

// release gives back those of the claims that an object, which the transaction guards, does hold.
func (c *Change) release(ctx context.Context, id string, claims []string) error {
	queries := make([]store.Query, len(claims))
	for i, key := range claims {
		queries[i] = store.Key(key)
	}
	if _, err := c.View.Read(ctx, queries...); err != nil {
		return err
	}
	slices.Sort(claims)
	for _, key := range slices.Compact(claims) {
		owner, err := c.View.Claimant(ctx, key)
		switch {
		case err != nil:
			return err
		case owner.GetId() == id:
			c.Txn.Delete(key)
		}
	}
	return nil
}
