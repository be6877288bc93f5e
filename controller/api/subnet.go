package api

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

type subnetService struct {
	weftv1.UnimplementedSubnetServiceServer
	*Server
}

func (s *subnetService) CreateSubnet(ctx context.Context, req *weftv1.CreateSubnetRequest) (*weftv1.Subnet, error) {
	return s.subnets.create(ctx, req, req.GetSubnet(), s.addSubnet)
}

func (s *subnetService) GetSubnet(ctx context.Context, req *weftv1.GetSubnetRequest) (*weftv1.Subnet, error) {
	return s.subnets.get(ctx, req.GetId())
}

func (s *subnetService) ListSubnets(ctx context.Context, req *weftv1.ListSubnetsRequest) (*weftv1.ListSubnetsResponse, error) {
	p, err := s.subnets.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListSubnetsResponse{Subnets: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *subnetService) UpdateSubnet(ctx context.Context, req *weftv1.UpdateSubnetRequest) (*weftv1.Subnet, error) {
	return s.subnets.update(ctx, req, req.GetSubnet(), s.changeSubnet)
}

func (s *subnetService) DeleteSubnet(ctx context.Context, req *weftv1.DeleteSubnetRequest) (*emptypb.Empty, error) {
	return s.subnets.remove(ctx, req, s.releaseSubnet)
}

func (s *subnetService) BatchCreateSubnets(ctx context.Context, req *weftv1.BatchCreateSubnetsRequest) (*weftv1.BatchCreateSubnetsResponse, error) {
	results, err := batch(ctx, s.subnets, items(req.GetRequests(), (*weftv1.CreateSubnetRequest).GetSubnet), s.addSubnet,
		func(m *weftv1.Subnet) []store.Query { return ofNetwork(m.GetNetworkId()) })
	if err != nil {
		return nil, err
	}
	out := &weftv1.BatchCreateSubnetsResponse{}
	for _, r := range results {
		if r.err != nil {
			out.Results = append(out.Results, &weftv1.BatchCreateSubnetsResponse_Result{Result: &weftv1.BatchCreateSubnetsResponse_Result_Error{Error: r.batchError()}})
			continue
		}
		out.Results = append(out.Results, &weftv1.BatchCreateSubnetsResponse_Result{Result: &weftv1.BatchCreateSubnetsResponse_Result_Subnet{Subnet: r.msg}})
	}
	return out, nil
}

// ofNetwork asks for a network and its subnets.
func ofNetwork(id string) []store.Query {
	if !model.ValidUUID(id) {
		return nil
	}
	return []store.Query{store.Key(keys.Network(id)), store.Prefix(keys.Subnets(id))}
}

// network reads the network that a new object names, with its sound subnets by their age.
func (s *Server) network(ctx context.Context, e *edit, id string) (record.Stored[*weftv1.Network], []record.Stored[*weftv1.Subnet], error) {
	var none record.Stored[*weftv1.Network]
	if !model.ValidUUID(id) {
		return none, nil, model.Invalid("network_id", "%q is not a UUID", id)
	}
	if _, err := e.Read(ctx, ofNetwork(id)...); err != nil {
		return none, nil, err
	}
	net, err := s.networks.At(ctx, e.View, "", id)
	if err != nil {
		return none, nil, err
	}
	subnets, err := s.subnets.Sound(ctx, e.View, keys.Subnets(id), s.opts.Log)
	if err != nil {
		return none, nil, err
	}
	slices.SortStableFunc(subnets, func(a, b record.Stored[*weftv1.Subnet]) int {
		return a.Msg.GetCreateTime().AsTime().Compare(b.Msg.GetCreateTime().AsTime())
	})
	return net, subnets, nil
}

func (s *Server) addSubnet(ctx context.Context, e *edit, sub *weftv1.Subnet) error {
	net, siblings, err := s.networkFor(ctx, e, sub.GetNetworkId())
	if err == nil {
		err = s.networks.mine(ctx, net.Msg)
	}
	if err != nil {
		return err
	}
	setDefault(&sub.Project, net.Msg.GetProject())
	if err := completeSubnet(sub); err != nil {
		return err
	}
	typed, err := model.SubnetFrom(sub)
	if err != nil {
		return err
	}
	if err := s.checkProject(ctx, e, sub.GetProject(), net.Msg); err != nil {
		return err
	}
	for _, other := range siblings {
		if p, err := netip.ParsePrefix(other.Msg.GetCidr()); err == nil && p.Overlaps(typed.CIDR) {
			return fault.Precondition("cidr %s overlaps %s of the same network, which is %s", typed.CIDR, s.subnets.Label(other.Msg), p)
		}
	}
	guard(e, net)
	e.txn.NoneChangedUnder(keys.Subnets(sub.GetNetworkId()), e.Revision())
	if typed.DHCP {
		if err := s.serveDHCP(ctx, e, net, append(messages(siblings), sub)); err != nil {
			return err
		}
	}
	if err := s.subnets.count(ctx, e, sub); err != nil {
		return err
	}
	putNew(e, s.subnets.Kind, sub)
	return nil
}

// serveDHCP makes the network's DHCP fit its subnets, and takes note when it has to wait for a node.
func (s *Server) serveDHCP(ctx context.Context, e *edit, net record.Stored[*weftv1.Network], subnets []*weftv1.Subnet) error {
	served := 0
	for _, sub := range subnets {
		if orTrue(sub.EnableDhcp) { //nolint:protogetter // presence
			served++
		}
	}
	if served > model.MaxFixedIPs {
		return fault.Precondition("%s has %d subnets with DHCP already, which is as many as one server can serve", s.networks.Label(net.Msg), model.MaxFixedIPs)
	}
	return e.place().ServeDHCP(ctx, net, subnets)
}

func messages[M messageOf](in []record.Stored[M]) []M {
	out := make([]M, len(in), len(in)+1)
	for i, s := range in {
		out[i] = s.Msg
	}
	return out
}

// completeSubnet decides what the caller left open: version, gateway, pools. What can't be parsed is left for the model's
// check to name.
func completeSubnet(sub *weftv1.Subnet) error {
	cidr, err := netip.ParsePrefix(sub.GetCidr())
	if err != nil || !cidr.Addr().Is4() || cidr != cidr.Masked() || cidr.Bits() > 30 || cidr.Bits() < 8 {
		_, err := model.SubnetFrom(sub)
		return err
	}
	sub.IpVersion = 4
	hosts := model.HostAddresses(cidr)
	if sub.GatewayIp == nil {
		first := hosts.Start.String()
		sub.GatewayIp = &first
	}
	setTrue(&sub.EnableDhcp)
	completePools(sub, cidr)
	return nil
}

func completePools(sub *weftv1.Subnet, cidr netip.Prefix) {
	gateway, err := netip.ParseAddr(sub.GetGatewayIp())
	if len(sub.GetAllocationPools()) > 0 || err != nil && sub.GetGatewayIp() != "" {
		return
	}
	for _, p := range ipam.DefaultPools(cidr, gateway) {
		sub.AllocationPools = append(sub.AllocationPools, &weftv1.AllocationPool{Start: p.Start.String(), End: p.End.String()})
	}
}

func (s *Server) changeSubnet(ctx context.Context, e *edit, before record.Stored[*weftv1.Subnet], after *weftv1.Subnet, _ []string) error {
	if err := completeSubnet(after); err != nil {
		return err
	}
	if _, err := model.SubnetFrom(after); err != nil {
		return err
	}
	if !servedDiffers(before.Msg, after) {
		return nil
	}
	net, siblings, err := s.network(ctx, e, after.GetNetworkId())
	if err != nil {
		return err
	}
	all := messages(siblings)
	for i, sub := range all {
		if sub.GetId() == after.GetId() {
			all[i] = after
		}
	}
	e.txn.NoneChangedUnder(keys.Subnets(after.GetNetworkId()), e.Revision())
	return s.serveDHCP(ctx, e, net, all)
}

// servedDiffers reports whether the network's DHCP server has to be told of a change.
func servedDiffers(before, after *weftv1.Subnet) bool {
	a := &weftv1.Subnet{DnsNameservers: before.GetDnsNameservers(), HostRoutes: before.GetHostRoutes(), EnableDhcp: proto.Bool(orTrue(before.EnableDhcp))} //nolint:protogetter // presence
	b := &weftv1.Subnet{DnsNameservers: after.GetDnsNameservers(), HostRoutes: after.GetHostRoutes(), EnableDhcp: proto.Bool(orTrue(after.EnableDhcp))}    //nolint:protogetter // presence
	return !proto.Equal(a, b) && (a.GetEnableDhcp() || b.GetEnableDhcp())
}

func orTrue(b *bool) bool { return b == nil || *b }

func (s *Server) releaseSubnet(ctx context.Context, e *edit, sub record.Stored[*weftv1.Subnet]) error {
	id := sub.Msg.GetId()
	net, siblings, err := s.network(ctx, e, sub.Msg.GetNetworkId())
	if discardable(ctx, err) {
		return s.checkVacant(ctx, e, sub.Msg, nil) // nobody can tell which servers are the network's: they go before
	}
	if err != nil {
		return err
	}
	servers, err := e.place().DHCPPorts(ctx, net.Msg)
	if err != nil {
		return err
	}
	if err := s.checkVacant(ctx, e, sub.Msg, servers); err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.Subnets(net.Msg.GetId()), e.Revision())
	if !orTrue(sub.Msg.EnableDhcp) { //nolint:protogetter // presence
		guard(e, net)
		return nil
	}
	rest := slices.DeleteFunc(messages(siblings), func(m *weftv1.Subnet) bool { return m.GetId() == id })
	return s.serveDHCP(ctx, e, net, rest)
}

// checkVacant refuses to delete a subnet while anything but DHCP servers' ports has addresses in it.
func (s *Server) checkVacant(ctx context.Context, e *edit, sub *weftv1.Subnet, servers map[string]bool) error {
	prefix := keys.AddressClaims(sub.GetId())
	claims, err := s.claimsOn(ctx, e, prefix)
	if err != nil {
		return err
	}
	var obstacles []string
	for _, c := range claims {
		if !servers[c.GetId()] {
			obstacles = append(obstacles, s.name(ctx, e, c.GetKind(), c.GetId()))
		}
		if len(obstacles) > 64 {
			break
		}
	}
	e.txn.NoneChangedUnder(prefix, e.Revision())
	return fault.Obstacles(s.subnets.Label(sub)+" can't be deleted", obstacles)
}

// claimsOn reads all claims below a prefix.
func (s *Server) claimsOn(ctx context.Context, e *edit, prefix string) ([]*storev1.Claim, error) {
	entries, err := e.Prefix(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]*storev1.Claim, len(entries))
	for i, entry := range entries {
		out[i] = &storev1.Claim{}
		if err := proto.Unmarshal(entry.Value, out[i]); err != nil {
			return nil, fault.Damaged("the claim at key "+entry.Key, err)
		}
	}
	return out, nil
}
