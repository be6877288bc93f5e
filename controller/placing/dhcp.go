package placing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/scheduler"
)

// maxServerWrites bounds what the servers that come and go may add to one transaction, whose limit is txn.MaxOps; those
// that do not fit come with the next replan.
const maxServerWrites = 64

// DHCPRequest is what a network's DHCP asks of the scheduler, its placement as it is included. served are the subnets with
// DHCP: of a small one servers take at most half of the addresses, but for the first server.
func DHCPRequest(n *weftv1.Network, served []*weftv1.Subnet, pools Pools) scheduler.Request {
	most := affordable(served)
	req := scheduler.Request{
		What: "DHCP of network " + n.GetId(), Kind: scheduler.DHCP, Current: n.GetDhcpPlacement().GetNodes(), Pool: n.GetPool(),
		Count: min(int(n.GetDhcpServers()), most), Counts: pools.servers(most),
	}
	if most < scheduler.DefaultCount && req.Count == 0 {
		req.Count = most
	}
	needs(&req, n)
	return req
}

// affordable is how many servers the smallest of the subnets has addresses for.
func affordable(served []*weftv1.Subnet) int {
	most := model.MaxNodes
	for _, s := range served {
		sub, err := model.SubnetFrom(s)
		if err != nil {
			continue // it gets no address anyway
		}
		var size uint64
		for _, pool := range sub.Pools {
			size += ipam.Size(sub.CIDR, pool)
		}
		if size/2 < uint64(most) { //nolint:gosec // a few
			most = int(size / 2) //nolint:gosec // a few
		}
	}
	return max(most, 1)
}

// Served are those of a network's subnets that have DHCP.
func Served(subnets []*weftv1.Subnet) []*weftv1.Subnet {
	return slices.DeleteFunc(slices.Clone(subnets), func(s *weftv1.Subnet) bool { return s.EnableDhcp != nil && !s.GetEnableDhcp() })
}

// ServeDHCP makes the network's DHCP service fit its subnets as they will be: the servers' ports, bindings and placement. The
// network is written, even if nothing about it changes, so that its revision tells nodes' reports from
// before the change from those after it. before is the network as stored, which the transaction then guards. Servers
// that are missing afterwards are the leader's to add.
func (c *Change) ServeDHCP(ctx context.Context, before record.Stored[*weftv1.Network], subnets []*weftv1.Subnet) error {
	net := before.Copy()
	if err := c.FitDHCP(ctx, before.Msg, net, subnets); err != nil {
		return err
	}
	record.Networks().Clean(net)
	net.UpdateTime = c.Now
	c.Txn.Unchanged(before.Key, before.Revision)
	c.Txn.Put(before.Key, net)
	return nil
}

// FitDHCP is ServeDHCP for a network that the caller changes, guards and writes: before as it is stored, net as it will be.
// Only a change of what the network asks for (dhcp_servers, pool) takes servers away that could stay.
func (c *Change) FitDHCP(ctx context.Context, before, net *weftv1.Network, subnets []*weftv1.Subnet) error {
	var want Replan
	if before.GetDhcpServers() == net.GetDhcpServers() && before.GetPool() == net.GetPool() &&
		len(before.GetDhcpPlacement().GetNodes()) <= affordable(Served(subnets)) {
		want.Keep = before.GetDhcpPlacement().GetNodes()
	}
	return c.fitDHCP(ctx, net, Served(subnets), want)
}

// ReplanDHCP brings the DHCP servers of a stored network to what the network and its pool ask for and want says, and returns
// the nodes as they then are; changed is false when nothing had to be appended. It is idempotent, and adds or removes as
// many servers at a time as a transaction holds. The last server stays, even if it is leaving, until there is another.
func (c *Change) ReplanDHCP(ctx context.Context, before record.Stored[*weftv1.Network], want Replan, log *slog.Logger) (nodes []string, changed bool, err error) {
	net := before.Copy()
	if net.GetDhcpPlacement() == nil {
		return nil, false, nil
	}
	stored, err := record.Subnets().Sound(ctx, c.View, keys.Subnets(net.GetId()), log)
	if err != nil {
		return nil, false, err
	}
	subnets := make([]*weftv1.Subnet, len(stored))
	for i, s := range stored {
		subnets[i] = s.Msg // one with DHCP that is deleted changes the network, which is guarded
	}
	was := len(c.Txn.Writes())
	if err := c.fitDHCP(ctx, net, Served(subnets), want); err != nil {
		return nil, false, err
	}
	nodes = net.GetDhcpPlacement().GetNodes()
	if len(c.Txn.Writes()) == was {
		return nodes, false, nil
	}
	record.Networks().Clean(net)
	net.UpdateTime = c.Now
	c.Txn.NoneChangedUnder(keys.Subnets(net.GetId()), c.View.Revision())
	c.Txn.Unchanged(before.Key, before.Revision)
	c.Txn.Put(before.Key, net)
	return nodes, true, nil
}

// server is one DHCP server of a network.
type server struct {
	node string
	port *record.Stored[*weftv1.Port] // nil: to be made
}

// servers reads a network's DHCP servers. One whose port is gone is none.
func (c *Change) servers(ctx context.Context, net *weftv1.Network) ([]server, error) {
	var out []server
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
		if fault.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, server{node: node, port: &port})
	}
	return out, nil
}

// DHCPPorts are the ids of the ports of the network's DHCP servers.
func (c *Change) DHCPPorts(ctx context.Context, net *weftv1.Network) (map[string]bool, error) {
	servers, err := c.servers(ctx, net)
	out := make(map[string]bool, len(servers))
	for _, s := range servers {
		out[s.port.Msg.GetId()] = true
	}
	return out, err
}

// fitDHCP sets the network's placement and appends what follows, but for the network itself.
func (c *Change) fitDHCP(ctx context.Context, net *weftv1.Network, served []*weftv1.Subnet, want Replan) error {
	have, err := c.servers(ctx, net)
	if err != nil {
		return err
	}
	if len(served) == 0 {
		net.DhcpPlacement = nil
		return c.endServers(ctx, net.GetId(), have)
	}
	plan, rejected, err := c.planDHCP(net, served, have, want)
	if err != nil {
		return err
	}
	fit := fitting{Change: c, net: net, served: served, taken: map[string]map[netip.Addr]bool{}, budget: max(1, maxServerWrites/(len(served)+6))}
	for _, s := range have {
		for _, f := range s.port.Msg.GetFixedIps() {
			if ip, err := netip.ParseAddr(f.GetIpAddress()); err == nil {
				fit.take(f.GetSubnetId(), ip)
			}
		}
	}
	nodes, err := fit.servers(ctx, have, plan.Nodes)
	if err != nil {
		return err
	}
	net.DhcpPlacement = &weftv1.Placement{Nodes: nodes, Rejected: rejected}
	return nil
}

// planDHCP asks the scheduler. A request that no node can take leaves the servers where they are, if there are any. When the plan does not change the
// rejections are those that the network has: what is said of nodes changes all the time.
func (c *Change) planDHCP(net *weftv1.Network, served []*weftv1.Subnet, have []server, want Replan) (scheduler.Plan, []*weftv1.NodeRejection, error) {
	req := DHCPRequest(net, served, c.Pools())
	req.Current = nil
	for _, s := range have {
		req.Current = append(req.Current, s.node)
	}
	req.Leaving, req.Hold = want.Leaving, want.Keep
	nodes := c.Nodes()
	if want.Add != "" {
		if err := addable(req, nodes, want.Add); err != nil {
			return scheduler.Plan{}, nil, err
		}
		req.Hold = append(slices.Clone(req.Hold), want.Add)
	}
	req.Current = want.reorder(req.Current)
	plan, err := scheduler.Place(req, nodes)
	var none *scheduler.NoneError
	if errors.As(err, &none) {
		plan.Rejected = none.Rejected
		for _, s := range have { // better a server where none should be than none
			plan.Nodes = append(plan.Nodes, s.node)
		}
	}
	if slices.Equal(plan.Nodes, net.GetDhcpPlacement().GetNodes()) && len(plan.Nodes) > 0 {
		return plan, net.GetDhcpPlacement().GetRejected(), nil
	}
	return plan, rejections(plan.Rejected, nodes), nil
}

func (c *Change) endServers(ctx context.Context, network string, servers []server) error {
	for _, s := range servers {
		c.Txn.Delete(keys.HostObject(s.node, keys.KindDHCP, network))
		if err := c.DeletePort(ctx, *s.port); err != nil {
			return err
		}
	}
	return nil
}

// fitting is one adaptation of a network's servers.
type fitting struct {
	*Change
	net    *weftv1.Network
	served []*weftv1.Subnet
	// taken are addresses that this transaction gives out, and those that the servers had before it, by subnet.
	taken map[string]map[netip.Addr]bool
	// budget is how many servers may still come or go in this transaction.
	budget int
}

func (f *fitting) take(subnet string, ip netip.Addr) {
	if f.taken[subnet] == nil {
		f.taken[subnet] = map[netip.Addr]bool{}
	}
	f.taken[subnet][ip] = true
}

// spend takes one server from the budget.
func (f *fitting) spend() bool {
	if f.budget == 0 {
		return false
	}
	f.budget--
	return true
}

// servers makes the servers those of a plan, as far as the budget goes, and returns the nodes that have one then.
func (f *fitting) servers(ctx context.Context, have []server, plan []string) (nodes []string, err error) {
	for _, node := range plan {
		s := server{node: node}
		if i := slices.IndexFunc(have, func(o server) bool { return o.node == node }); i >= 0 {
			s = have[i]
		} else if !f.spend() {
			continue
		}
		err := f.serve(ctx, s)
		var exhausted *ipam.Exhausted
		switch {
		case errors.As(err, &exhausted) && len(nodes) > 0:
			if s.port != nil { // one server less, rather than no service for the subnet
				err = f.endServers(ctx, f.net.GetId(), []server{s})
			} else {
				err = nil
			}
		case err == nil:
			nodes = append(nodes, node)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, s := range have {
		if slices.Contains(plan, s.node) {
			continue
		}
		if !f.spend() {
			nodes = append(nodes, s.node)
			continue
		}
		if err := f.endServers(ctx, f.net.GetId(), []server{s}); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// serve makes one server, or lets it serve the subnets as they will be. It appends nothing when it fails.
func (f *fitting) serve(ctx context.Context, s server) error {
	if s.port != nil {
		return f.change(ctx, s)
	}
	port := &weftv1.Port{
		Id: uuid.NewString(), Project: f.net.GetProject(), NetworkId: f.net.GetId(), DeviceId: f.net.GetId(), DeviceOwner: model.OwnerDHCP,
		Host: s.node, BoundHost: s.node, AdminStateUp: proto.Bool(true), CreateTime: f.Now, UpdateTime: f.Now,
	}
	var err error
	if port.MacAddress, err = f.Alloc.MAC(ctx, f.net.GetId()); err != nil {
		return err
	}
	if err := f.address(ctx, port); err != nil {
		return err
	}
	f.Txn.Exists(keys.Agent(s.node)) // a node that is being forgotten takes nothing
	f.Txn.Put(keys.HostObject(s.node, keys.KindDHCP, f.net.GetId()), &storev1.DhcpBinding{PortId: port.GetId()})
	return f.PutPort(nil, port)
}

func (f *fitting) change(ctx context.Context, s server) error {
	after := s.port.Copy()
	if err := f.address(ctx, after); err != nil {
		return err
	}
	if proto.Equal(after, s.port.Msg) {
		return nil
	}
	after.UpdateTime = f.Now
	f.Txn.Put(keys.HostObject(s.node, keys.KindDHCP, f.net.GetId()), &storev1.DhcpBinding{PortId: after.GetId()})
	return f.PutPort(s.port, after)
}

// address gives the port one address in each served subnet, keeping those it has. A subnet that was written into the
// store by hand and makes no sense gets none: it stops no other.
func (f *fitting) address(ctx context.Context, port *weftv1.Port) error {
	var fixed []*weftv1.FixedIp
	for _, s := range f.served {
		have := slices.IndexFunc(port.GetFixedIps(), func(f *weftv1.FixedIp) bool { return f.GetSubnetId() == s.GetId() })
		if have >= 0 {
			fixed = append(fixed, port.GetFixedIps()[have])
			continue
		}
		sub, err := model.SubnetFrom(s)
		if err != nil {
			continue
		}
		ip, err := f.Alloc.LowAddress(ctx, sub, f.taken[sub.ID])
		if err != nil {
			return fmt.Errorf("no address for the DHCP server: %w", err)
		}
		f.take(sub.ID, ip)
		fixed = append(fixed, &weftv1.FixedIp{SubnetId: s.GetId(), IpAddress: ip.String()})
	}
	port.FixedIps = fixed
	return nil
}
