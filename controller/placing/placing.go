// Package placing puts DHCP services and routers on nodes: it asks the scheduler where, and appends to a transaction what
// follows: placements, bindings and the DHCP servers' own ports. The API's handlers use it when a change asks for a
// place, the placer when nodes arrive. It does not commit, and it moves nothing off a node that died.
package placing

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/alloc"
	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// Change is a transaction under construction that needs a place for something. It is not safe for concurrent use.
type Change struct {
	View  *record.View
	Alloc *alloc.Allocator
	Txn   *txn.Txn
	Now   *timestamppb.Timestamp
	// Nodes tells what the scheduler may choose from. It is asked only when something has to be placed.
	Nodes func() []scheduler.Node
}

func tunnelled(n *weftv1.Network) bool {
	return n.GetType() == weftv1.NetworkType_NETWORK_TYPE_VXLAN || n.GetType() == weftv1.NetworkType_NETWORK_TYPE_GRE
}

// needs adds what a node must have to carry a network.
func needs(req *scheduler.Request, n *weftv1.Network) {
	if tunnelled(n) {
		req.Tunnels = true
		return
	}
	if p := n.GetPhysicalNetwork(); !slices.Contains(req.PhysicalNetworks, p) {
		req.PhysicalNetworks = append(req.PhysicalNetworks, p)
	}
}

// place asks the scheduler. A request that no node can take gives a placement without nodes, and the error.
func (c *Change) place(req scheduler.Request, nodes []scheduler.Node) (*weftv1.Placement, error) {
	plan, err := scheduler.Place(req, nodes)
	var none *scheduler.NoneError
	switch {
	case errors.As(err, &none):
		return &weftv1.Placement{Rejected: rejections(none.Rejected)}, err
	case err != nil:
		return nil, err
	}
	return &weftv1.Placement{Nodes: plan.Nodes, Rejected: rejections(plan.Rejected)}, nil
}

func rejections(in []scheduler.Rejection) []*weftv1.NodeRejection {
	var out []*weftv1.NodeRejection
	for _, r := range in {
		out = append(out, &weftv1.NodeRejection{Node: r.Node, Reason: r.Reason})
	}
	return out
}

// ServeDHCP makes the network's DHCP service fit its subnets as they will be: server port, bindings and placement. The
// network is written, even if nothing about it changes, so that its revision tells nodes' reports from
// before the change from those after it. before is the network as stored, which the transaction then guards. placed is
// false when there is something to serve but no node to do it.
func (c *Change) ServeDHCP(ctx context.Context, before record.Stored[*weftv1.Network], subnets []*weftv1.Subnet) (placed bool, err error) {
	kind := record.Networks()
	net := before.Copy()
	served := slices.DeleteFunc(slices.Clone(subnets), func(s *weftv1.Subnet) bool { return s.EnableDhcp != nil && !s.GetEnableDhcp() })
	port, err := c.dhcpPort(ctx, net)
	if err != nil {
		return false, err
	}
	switch {
	case len(served) == 0:
		err = c.endDHCP(ctx, net, port)
	case port == nil:
		err = c.beginDHCP(ctx, net, served)
	default:
		err = c.changeDHCP(ctx, net, port, served)
	}
	if err != nil {
		return false, err
	}
	kind.Clean(net)
	net.UpdateTime = c.Now
	c.Txn.Unchanged(before.Key, before.Revision)
	c.Txn.Put(before.Key, net)
	return len(served) == 0 || len(net.GetDhcpPlacement().GetNodes()) > 0, nil
}

// dhcpPort finds the port of the network's DHCP server; nil when it has none.
func (c *Change) dhcpPort(ctx context.Context, net *weftv1.Network) (*record.Stored[*weftv1.Port], error) {
	for _, node := range net.GetDhcpPlacement().GetNodes() {
		e, found, err := c.View.One(ctx, keys.HostObject(node, keys.KindDHCP, net.GetId()))
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		binding := &storev1.DhcpBinding{}
		if err := proto.Unmarshal(e.Value, binding); err != nil {
			return nil, fault.Damaged("the DHCP binding at key "+e.Key, err)
		}
		port, err := record.Ports().At(ctx, c.View, net.GetId(), binding.GetPortId())
		if err != nil {
			return nil, err
		}
		return &port, nil
	}
	return nil, nil //nolint:nilnil // no port is an answer
}

// DHCPPort is the id of the port of the network's DHCP server; "" when it has none.
func (c *Change) DHCPPort(ctx context.Context, net *weftv1.Network) (string, error) {
	port, err := c.dhcpPort(ctx, net)
	if err != nil || port == nil {
		return "", err
	}
	return port.Msg.GetId(), nil
}

func (c *Change) endDHCP(ctx context.Context, net *weftv1.Network, port *record.Stored[*weftv1.Port]) error {
	net.DhcpPlacement = nil
	if port == nil {
		return nil
	}
	c.Txn.Delete(keys.HostObject(port.Msg.GetBoundHost(), keys.KindDHCP, net.GetId()))
	return c.DeletePort(ctx, *port)
}

func (c *Change) beginDHCP(ctx context.Context, net *weftv1.Network, served []*weftv1.Subnet) error {
	req := scheduler.Request{What: "DHCP of network " + net.GetId()}
	needs(&req, net)
	placement, err := c.place(req, c.Nodes())
	if placement == nil {
		return err
	}
	net.DhcpPlacement = placement
	if len(placement.GetNodes()) == 0 {
		return nil
	}
	node := placement.GetNodes()[0]
	port := &weftv1.Port{
		Id: uuid.NewString(), Project: net.GetProject(), NetworkId: net.GetId(), DeviceId: net.GetId(), DeviceOwner: model.OwnerDHCP,
		Host: node, BoundHost: node, AdminStateUp: proto.Bool(true), CreateTime: c.Now, UpdateTime: c.Now,
	}
	if port.MacAddress, err = c.Alloc.MAC(ctx, net.GetId()); err != nil {
		return err
	}
	if err := c.addressDHCP(ctx, port, served); err != nil {
		return err
	}
	c.Txn.Exists(keys.Agent(node)) // a node that is being forgotten takes nothing
	c.Txn.Put(keys.HostObject(node, keys.KindDHCP, net.GetId()), &storev1.DhcpBinding{PortId: port.GetId()})
	return c.PutPort(nil, port)
}

func (c *Change) changeDHCP(ctx context.Context, net *weftv1.Network, before *record.Stored[*weftv1.Port], served []*weftv1.Subnet) error {
	after := before.Copy()
	if err := c.addressDHCP(ctx, after, served); err != nil {
		return err
	}
	if proto.Equal(after, before.Msg) {
		return nil
	}
	after.UpdateTime = c.Now
	c.Txn.Put(keys.HostObject(after.GetBoundHost(), keys.KindDHCP, net.GetId()), &storev1.DhcpBinding{PortId: after.GetId()})
	return c.PutPort(before, after)
}

// addressDHCP gives the port one address in each served subnet, keeping those it has. A subnet that was written into the
// store by hand and makes no sense gets none: it stops no other.
func (c *Change) addressDHCP(ctx context.Context, port *weftv1.Port, served []*weftv1.Subnet) error {
	var fixed []*weftv1.FixedIp
	for _, s := range served {
		have := slices.IndexFunc(port.GetFixedIps(), func(f *weftv1.FixedIp) bool { return f.GetSubnetId() == s.GetId() })
		if have >= 0 {
			fixed = append(fixed, port.GetFixedIps()[have])
			continue
		}
		sub, err := model.SubnetFrom(s)
		if err != nil {
			continue
		}
		ip, err := c.Alloc.LowAddress(ctx, sub)
		if err != nil {
			return fmt.Errorf("no address for the DHCP server: %w", err)
		}
		fixed = append(fixed, &weftv1.FixedIp{SubnetId: s.GetId(), IpAddress: ip.String()})
	}
	port.FixedIps = fixed
	return nil
}

// PutPort writes a port with its claims, locator and binding. before is nil for a new one; otherwise the transaction
// guards it. A message that is no valid port is an error with its fields.
func (c *Change) PutPort(before *record.Stored[*weftv1.Port], after *weftv1.Port) error {
	kind := record.Ports()
	kind.Clean(after)
	now, err := model.PortFrom(after)
	if err != nil {
		return err
	}
	key := kind.KeyOf(after)
	if before == nil {
		ipam.ClaimPort(c.Txn, now)
		c.Txn.Put(keys.Locator(keys.KindPort, after.GetId()), &storev1.Locator{Scope: after.GetNetworkId()})
		c.bind(model.Port{}, now)
		c.Txn.Put(key, after)
		return nil
	}
	if err := c.ClaimChange(*before, after); err != nil {
		return err
	}
	c.Txn.Put(key, after)
	return nil
}

// ClaimChange appends what follows from a change of a port: its claims and its binding, but not the port itself, which
// the transaction guards.
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
	return nil
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
	if p.GetBoundHost() != "" {
		c.Txn.Delete(keys.HostObject(p.GetBoundHost(), keys.KindPort, p.GetId()))
	}
	claims := []string{keys.MACClaim(p.GetNetworkId(), p.GetMacAddress())}
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

// PlaceRouter places a router on a node that carries all the networks that it touches, keeping it where it is if it can
// stay. It sets the router's placement and appends bindings and active/; writing and guarding the router is the caller's.
// When no registered node could ever take it the error is a fault.Precondition with each node's reason; when those that
// could are not alive, or no node is registered yet, the router stays unplaced, with the reasons, until one comes.
func (c *Change) PlaceRouter(ctx context.Context, router *weftv1.Router, networks []*weftv1.Network) error {
	current := router.GetPlacement().GetNodes()
	req := scheduler.Request{What: fault.Label("router", router.GetName(), router.GetId()), Current: current}
	for _, n := range networks {
		needs(&req, n)
	}
	nodes := c.Nodes()
	placement, err := c.place(req, stay(nodes, current))
	if placement == nil {
		return err
	}
	if len(placement.GetNodes()) == 0 && len(nodes) > 0 && !everPossible(req, nodes) {
		return fault.Precondition("%s", err.Error())
	}
	router.Placement = placement
	if slices.Equal(current, placement.GetNodes()) {
		return nil
	}
	return c.moveRouter(ctx, router.GetId(), current, placement.GetNodes())
}

// stay makes the nodes that hold an object count as alive: an agent that restarts while its router is changed does not
// lose it.
func stay(nodes []scheduler.Node, current []string) []scheduler.Node {
	out := slices.Clone(nodes)
	for i := range out {
		out[i].Alive = out[i].Alive || slices.Contains(current, out[i].Name)
	}
	return out
}

// Possible reports whether a node could take what touches these networks now.
func Possible(networks []*weftv1.Network, nodes []scheduler.Node) bool {
	req := scheduler.Request{}
	for _, n := range networks {
		needs(&req, n)
	}
	_, err := scheduler.Place(req, nodes)
	return err == nil
}

// everPossible reports whether a registered node could take the request if it were alive.
func everPossible(req scheduler.Request, registered []scheduler.Node) bool {
	nodes := slices.Clone(registered)
	for i := range nodes {
		nodes[i].Alive = true
	}
	_, err := scheduler.Place(req, nodes)
	return err == nil
}

func (c *Change) moveRouter(ctx context.Context, id string, from, to []string) error {
	for _, node := range from {
		if !slices.Contains(to, node) {
			c.Txn.Delete(keys.HostObject(node, keys.KindRouter, id))
		}
	}
	for rank, node := range to {
		c.Txn.Exists(keys.Agent(node))                                                                   // a node that is being forgotten takes nothing
		c.Txn.Put(keys.HostObject(node, keys.KindRouter, id), &storev1.RouterBinding{Rank: int32(rank)}) //nolint:gosec // a few nodes
	}
	e, found, err := c.View.One(ctx, keys.Active(id))
	if err != nil {
		return err
	}
	active := &storev1.ActiveRouter{}
	if found {
		if err := proto.Unmarshal(e.Value, active); err != nil {
			return fault.Damaged("the active router at key "+e.Key, err)
		}
	}
	c.Txn.Unchanged(e.Key, e.Revision)
	active.Epoch++
	active.Node = ""
	if len(to) > 0 {
		active.Node = to[0]
	}
	c.Txn.Put(e.Key, active)
	return nil
}
