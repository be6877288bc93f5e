package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (s *securityGroupService) CreateAddressGroup(ctx context.Context, req *weftv1.CreateAddressGroupRequest) (*weftv1.AddressGroup, error) {
	return s.addressGroups.create(ctx, req, req.GetAddressGroup(), func(ctx context.Context, e *edit, g *weftv1.AddressGroup) error {
		setDefault(&g.Project, model.DefaultProject)
		if err := completeAddresses(g); err != nil {
			return err
		}
		if err := s.addressGroups.count(ctx, e, g); err != nil {
			return err
		}
		putNew(e, s.addressGroups.Kind, g)
		return nil
	})
}

func (s *securityGroupService) GetAddressGroup(ctx context.Context, req *weftv1.GetAddressGroupRequest) (*weftv1.AddressGroup, error) {
	return s.addressGroups.get(ctx, req.GetId())
}

func (s *securityGroupService) ListAddressGroups(ctx context.Context, req *weftv1.ListAddressGroupsRequest) (*weftv1.ListAddressGroupsResponse, error) {
	p, err := s.addressGroups.list(ctx, req)
	if err != nil {
		return nil, err
	}
	return &weftv1.ListAddressGroupsResponse{AddressGroups: p.items, NextPageToken: p.next, Revision: p.revision}, nil
}

func (s *securityGroupService) UpdateAddressGroup(ctx context.Context, req *weftv1.UpdateAddressGroupRequest) (*weftv1.AddressGroup, error) {
	return s.addressGroups.update(ctx, req, req.GetAddressGroup(),
		func(_ context.Context, _ *edit, _ record.Stored[*weftv1.AddressGroup], after *weftv1.AddressGroup, _ []string) error {
			return completeAddresses(after)
		})
}

func (s *securityGroupService) DeleteAddressGroup(ctx context.Context, req *weftv1.DeleteAddressGroupRequest) (*emptypb.Empty, error) {
	return s.addressGroups.remove(ctx, req, func(ctx context.Context, e *edit, g record.Stored[*weftv1.AddressGroup]) error {
		return s.checkUnreferred(ctx, e, s.addressGroups.Label(g.Msg), g.Msg.GetId())
	})
}

// completeAddresses checks an address group and brings its addresses into their stored form: prefixes, sorted.
func completeAddresses(g *weftv1.AddressGroup) error {
	typed, err := model.AddressGroupFrom(g)
	if err != nil {
		return err
	}
	g.Addresses = nil
	for _, p := range typed.Addresses {
		g.Addresses = append(g.Addresses, p.String())
	}
	return nil
}
