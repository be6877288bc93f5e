package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
	"github.com/weft-sdn/weft/segments"
)

type networkService struct {
	weftv1.UnimplementedNetworkServiceServer
	*Server
}

func (s *networkService) CreateNetwork(ctx context.Context, req *weftv1.CreateNetworkRequest) (*weftv1.Network, error) {
	return s.networks.create(ctx, req, req.GetNetwork(), s.addNetwork)
}

func (s *networkService) GetNetwork(ctx context.Context, req *weftv1.GetNetworkRequest) (*weftv1.Network, error) {
	return s.networks.get(ctx, req.GetId())
}

func (s *networkService) ListNetworks(ctx context.Context, req *weftv1.ListNetworksRequest) (*weftv1.ListNetworksResponse, error) {
	p, err := s.networks.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListNetworksResponse{Networks: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *networkService) UpdateNetwork(ctx context.Context, req *weftv1.UpdateNetworkRequest) (*weftv1.Network, error) {
	return s.networks.update(ctx, req, req.GetNetwork(), s.changeNetwork)
}

func (s *networkService) DeleteNetwork(ctx context.Context, req *weftv1.DeleteNetworkRequest) (*emptypb.Empty, error) {
	return s.networks.remove(ctx, req, s.releaseNetwork)
}

func (s *networkService) BatchCreateNetworks(ctx context.Context, req *weftv1.BatchCreateNetworksRequest) (*weftv1.BatchCreateNetworksResponse, error) {
	results, err := batch(ctx, s.networks, items(req.GetRequests(), (*weftv1.CreateNetworkRequest).GetNetwork), s.addNetwork, nil)
	if err != nil {
		return nil, err
	}
	out := &weftv1.BatchCreateNetworksResponse{}
	for _, r := range results {
		if r.err != nil {
			out.Results = append(out.Results, &weftv1.BatchCreateNetworksResponse_Result{Result: &weftv1.BatchCreateNetworksResponse_Result_Error{Error: r.batchError()}})
			continue
		}
		out.Results = append(out.Results, &weftv1.BatchCreateNetworksResponse_Result{Result: &weftv1.BatchCreateNetworksResponse_Result_Network{Network: r.msg}})
	}
	return out, nil
}

// overhead is how many bytes of the underlay's MTU an encapsulation takes: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet
// 14 (RFC 7348 section 5); outer IPv4 20, GRE with key 8, inner Ethernet 14 (RFC 2784, RFC 2890).
func overhead(t weftv1.NetworkType) int {
	switch t {
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN:
		return 50
	case weftv1.NetworkType_NETWORK_TYPE_GRE:
		return 42
	case weftv1.NetworkType_NETWORK_TYPE_VLAN, weftv1.NetworkType_NETWORK_TYPE_FLAT, weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED:
	}
	return 0
}

func (s *Server) addNetwork(ctx context.Context, e *edit, n *weftv1.Network) error {
	n.DhcpPlacement = nil
	setDefault(&n.Project, model.DefaultProject)
	setDefault(&n.DnsDomain, model.DefaultDomain)
	setTrue(&n.AdminStateUp)
	setTrue(&n.PortSecurityEnabled)
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED {
		n.Type = weftv1.NetworkType_NETWORK_TYPE_VXLAN
	}
	if err := s.decideMTU(n); err != nil {
		return err
	}
	if err := s.decideSegment(ctx, e, n); err != nil {
		return err
	}
	net, err := model.NetworkFrom(n)
	if err != nil {
		return err
	}
	key := keys.SegmentClaim(model.TypeName(net.Type), net.PhysicalNetwork, net.Segment)
	if owner, err := e.claimant(ctx, key); err != nil || owner != nil {
		return errors.Join(err, s.segmentTaken(ctx, e, n, owner.GetId()))
	}
	if err := s.networks.count(ctx, e, n); err != nil {
		return err
	}
	segments.Claim(e.txn, net)
	putNew(e, s.networks.Kind, n)
	return nil
}

func setDefault(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// setTrue decides a flag that is true unless it is said to be false.
func setTrue(flag **bool) {
	if *flag == nil {
		*flag = proto.Bool(true)
	}
}

func (s *Server) decideMTU(n *weftv1.Network) error {
	most := s.opts.UnderlayMTU - overhead(n.GetType())
	if n.GetMtu() == 0 {
		n.Mtu = int32(most) //nolint:gosec // at most 65535
	}
	if mtu := int(n.GetMtu()); mtu < model.MinMTU || mtu > most {
		return model.Invalid("mtu", "%d is not in %d..%d: the underlay's MTU is %d and %s takes %d bytes", mtu, model.MinMTU, most,
			s.opts.UnderlayMTU, model.TypeName(n.GetType()), overhead(n.GetType()))
	}
	return nil
}

// decideSegment completes physical network and segment from the ranges. What is relied on of them is guarded.
func (s *Server) decideSegment(ctx context.Context, e *edit, n *weftv1.Network) error {
	if p := n.GetPhysicalNetwork(); p != "" && !model.ValidPhysicalNetwork(p) {
		return model.Invalid("physical_network", "%q can't name a physical network", p)
	}
	switch n.GetType() {
	case weftv1.NetworkType_NETWORK_TYPE_VLAN:
	case weftv1.NetworkType_NETWORK_TYPE_VXLAN, weftv1.NetworkType_NETWORK_TYPE_GRE:
		if n.GetPhysicalNetwork() != "" {
			return model.Invalid("physical_network", "a %s network has none", model.TypeName(n.GetType()))
		}
	case weftv1.NetworkType_NETWORK_TYPE_FLAT, weftv1.NetworkType_NETWORK_TYPE_UNSPECIFIED:
		fallthrough
	default:
		return nil
	}
	stored, err := s.segRanges.All(ctx, e.View, s.opts.Log)
	if err != nil {
		return err
	}
	ranges := make([]model.SegmentRange, 0, len(stored))
	for _, r := range stored {
		typed, err := model.SegmentRangeFrom(r.Msg)
		if err != nil {
			s.opts.Log.Error("passing over a segment range", "key", r.Key, "error", err)
			typed = model.SegmentRange{} // of no type
		}
		ranges = append(ranges, typed)
	}
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_VLAN && n.GetPhysicalNetwork() == "" {
		if n.PhysicalNetwork, err = onlyPhysicalNetwork(ranges); err != nil {
			return err
		}
	}
	if err := chooseSegment(ctx, e, n, segments.NewPool(n.GetType(), n.GetPhysicalNetwork(), ranges)); err != nil {
		return err
	}
	for i, r := range stored {
		if ranges[i].Type == n.GetType() && ranges[i].PhysicalNetwork == n.GetPhysicalNetwork() &&
			ranges[i].Min <= n.GetSegmentationId() && n.GetSegmentationId() <= ranges[i].Max {
			guard(e, r)
		}
	}
	return nil
}

func chooseSegment(ctx context.Context, e *edit, n *weftv1.Network, pool segments.Pool) (err error) {
	if n.GetSegmentationId() != 0 {
		if err := pool.CheckExplicit(n.GetSegmentationId()); err != nil {
			return model.Invalid("segmentation_id", "%s", err.Error())
		}
		return nil
	}
	n.SegmentationId, err = e.alloc.Segment(ctx, pool)
	return err
}

// onlyPhysicalNetwork is the one that has a vlan range.
func onlyPhysicalNetwork(ranges []model.SegmentRange) (string, error) {
	var names []string
	for _, r := range ranges {
		if r.Type == weftv1.NetworkType_NETWORK_TYPE_VLAN && !slices.Contains(names, r.PhysicalNetwork) {
			names = append(names, r.PhysicalNetwork)
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		return "", fault.Precondition("no physical network has a range of vlan segments: name one with a segment range first")
	case 1:
		return names[0], nil
	default:
		return "", model.Invalid("physical_network", "is required, for several have a range of vlan segments: %s", strings.Join(names, ", "))
	}
}

func (s *Server) segmentTaken(ctx context.Context, e *edit, n *weftv1.Network, owner string) error {
	what := fmt.Sprintf("%s segment %d", model.TypeName(n.GetType()), n.GetSegmentationId())
	if n.GetType() == weftv1.NetworkType_NETWORK_TYPE_FLAT {
		what = "the untagged segment"
	}
	if n.GetPhysicalNetwork() != "" {
		what += " of physical network " + n.GetPhysicalNetwork()
	}
	return fault.Taken(what, s.name(ctx, e, keys.KindNetwork, owner))
}

// name labels the holder of a claim for the caller; one that is gone again is called by its id.
func (s *Server) name(ctx context.Context, e *edit, kind, id string) string {
	switch kind {
	case keys.KindNetwork:
		return labelled(ctx, e, s.networks.Kind, id)
	case keys.KindPort:
		return s.portName(ctx, e, id)
	case keys.KindFloatingIP:
		return labelled(ctx, e, s.floating.Kind, id)
	default:
		return kind + " " + id
	}
}

// labelled names an object of a kind that has projects.
func labelled[M messageOf](ctx context.Context, e *edit, k *record.Kind[M], id string) string {
	stored, err := k.Get(ctx, e.View, id)
	if err != nil {
		return fault.Label(k.Name, "", id)
	}
	return labelFor(ctx, k.Name, *k.Header(stored.Msg).Project, k.Label(stored.Msg))
}

func (s *Server) changeNetwork(ctx context.Context, e *edit, before record.Stored[*weftv1.Network], after *weftv1.Network, _ []string) error {
	setDefault(&after.DnsDomain, model.DefaultDomain)
	setTrue(&after.AdminStateUp)
	setTrue(&after.PortSecurityEnabled)
	if err := s.decideMTU(after); err != nil {
		return err
	}
	if _, err := model.NetworkFrom(after); err != nil {
		return err
	}
	if before.Msg.GetShared() && !after.GetShared() {
		if err := s.checkUnshare(ctx, e, before.Msg); err != nil {
			return err
		}
	}
	if before.Msg.GetExternal() && !after.GetExternal() {
		if err := s.checkInternal(ctx, e, before.Msg); err != nil {
			return err
		}
	}
	return s.changeServers(ctx, e, before.Msg, after)
}

// changeServers places the network's DHCP anew if the change asks for other nodes.
func (s *Server) changeServers(ctx context.Context, e *edit, before, after *weftv1.Network) error {
	if after.GetDhcpPlacement() == nil || before.GetDhcpServers() == after.GetDhcpServers() && before.GetPool() == after.GetPool() {
		return nil
	}
	_, subnets, err := s.network(ctx, e, before.GetId())
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.Subnets(before.GetId()), e.Revision())
	return e.place().FitDHCP(ctx, before, after, messages(subnets))
}

// checkInternal refuses to make a network internal while it is a way out.
func (s *Server) checkInternal(ctx context.Context, e *edit, n *weftv1.Network) error {
	ports, err := s.ports.Under(ctx, e.View, keys.Ports(n.GetId()))
	if err != nil {
		return err
	}
	var obstacles []string
	for _, p := range ports {
		if p.Msg.GetDeviceOwner() == model.OwnerRouterGateway {
			obstacles = append(obstacles, portLabel(p.Msg))
		}
	}
	e.txn.NoneChangedUnder(keys.Ports(n.GetId()), e.Revision())
	subnets, err := s.subnets.Under(ctx, e.View, keys.Subnets(n.GetId()))
	if err != nil {
		return err
	}
	e.txn.NoneChangedUnder(keys.Subnets(n.GetId()), e.Revision()) // a new one could bring a floating IP with it
	for _, sub := range subnets {
		claims, err := s.claimsOn(ctx, e, keys.AddressClaims(sub.Msg.GetId()))
		if err != nil {
			return err
		}
		for _, c := range claims {
			if c.GetKind() == keys.KindFloatingIP {
				obstacles = append(obstacles, s.name(ctx, e, c.GetKind(), c.GetId()))
			}
		}
		e.txn.NoneChangedUnder(keys.AddressClaims(sub.Msg.GetId()), e.Revision())
	}
	return fault.Obstacles(s.networks.Label(n)+" can't be made internal", obstacles)
}

func (s *Server) releaseNetwork(ctx context.Context, e *edit, n record.Stored[*weftv1.Network]) error {
	id := n.Msg.GetId()
	subnets, more, err := few(ctx, e, s.subnets.Kind, keys.Subnets(id))
	if err != nil {
		return err
	}
	ports, morePorts, err := few(ctx, e, s.ports.Kind, keys.Ports(id))
	if err != nil {
		return err
	}
	var obstacles []string
	for _, sub := range subnets {
		obstacles = append(obstacles, labelFor(ctx, s.subnets.Name, sub.Msg.GetProject(), s.subnets.Label(sub.Msg)))
	}
	for _, p := range ports {
		if p.Msg.GetDeviceOwner() != model.OwnerDHCP {
			obstacles = append(obstacles, portLabelFor(ctx, p.Msg))
		}
	}
	for range more + morePorts - int64(len(subnets)+len(ports)) {
		obstacles = append(obstacles, "…")
	}
	if err := fault.Obstacles(s.networks.Label(n.Msg)+" can't be deleted", obstacles); err != nil {
		return err
	}
	e.txn.NoneUnder(keys.Subnets(id))
	e.txn.NoneUnder(keys.Ports(id))
	if err := releaseGrants(ctx, e, id); err != nil {
		return err
	}
	typed, err := model.NetworkFrom(n.Msg)
	if err != nil {
		return fault.Damaged("network "+id, err)
	}
	held, err := e.holds(ctx, keys.SegmentClaim(model.TypeName(typed.Type), typed.PhysicalNetwork, typed.Segment), id)
	if held {
		segments.Release(e.txn, typed)
	}
	return err
}
