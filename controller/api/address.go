package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// addresser decides the fixed addresses of one port in the subnets of its network.
type addresser struct {
	edit    *edit
	server  *Server
	subnets []record.Stored[*weftv1.Subnet] // by age
	purpose ipam.Purpose

	taken map[netip.Addr]bool // decided for this port already
}

// resolve completes what a caller asks for: an address for a subnet, a subnet for an address, or, of nothing, one address
// of the first subnet with a free one. had are the addresses that the port has: one of the subnet asked for is kept.
// Every subnet relied on is guarded.
func (a *addresser) resolve(ctx context.Context, want, had []*weftv1.FixedIp) ([]*weftv1.FixedIp, error) {
	a.taken = map[netip.Addr]bool{}
	if len(want) > model.MaxFixedIPs {
		return nil, model.Invalid("fixed_ips", "has %d elements, the limit is %d", len(want), model.MaxFixedIPs)
	}
	if len(want) == 0 {
		return a.any(ctx)
	}
	for _, w := range want {
		if ip, err := netip.ParseAddr(w.GetIpAddress()); err == nil {
			a.taken[ip] = true
		}
	}
	var out []*weftv1.FixedIp
	var errs []error
	for i, w := range want {
		f, err := a.one(ctx, fmt.Sprintf("fixed_ips[%d]", i), w, had)
		out, errs = append(out, f), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// any allocates from the first sound subnet with a free address; there may be no subnet at all.
func (a *addresser) any(ctx context.Context) ([]*weftv1.FixedIp, error) {
	var full []error
	for _, sub := range a.subnets {
		if _, err := a.typed(sub); err != nil {
			full = append(full, err)
			continue
		}
		f, err := a.allocate(ctx, sub)
		var exhausted *ipam.Exhausted
		switch {
		case errors.As(err, &exhausted), fault.Code(err) == codes.DataLoss:
			full = append(full, err)
		case err != nil:
			return nil, err
		default:
			return []*weftv1.FixedIp{f}, nil
		}
	}
	return nil, errors.Join(full...)
}

func (a *addresser) one(ctx context.Context, field string, want *weftv1.FixedIp, had []*weftv1.FixedIp) (*weftv1.FixedIp, error) {
	if want.GetIpAddress() == "" {
		sub, err := a.subnet(field, want)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(had, func(h *weftv1.FixedIp) bool { return a.keeps(sub.Msg, h) }); i >= 0 {
			a.take(had[i].GetIpAddress())
			return had[i], nil
		}
		return a.allocate(ctx, sub)
	}
	ip, err := netip.ParseAddr(want.GetIpAddress())
	if err != nil || !ip.Is4() {
		return nil, model.Invalid(field+".ip_address", "%q is not an IPv4 address", want.GetIpAddress())
	}
	sub, err := a.subnet(field, &weftv1.FixedIp{SubnetId: want.GetSubnetId(), IpAddress: ip.String()})
	if err != nil {
		return nil, err
	}
	typed, err := model.SubnetFrom(sub.Msg)
	if err != nil {
		return nil, fault.Damaged("subnet "+sub.Msg.GetId(), err)
	}
	f := &weftv1.FixedIp{SubnetId: sub.Msg.GetId(), IpAddress: ip.String()}
	if slices.ContainsFunc(had, func(h *weftv1.FixedIp) bool { return sameFixed(h, f) }) {
		return f, nil
	}
	if err := ipam.CheckExplicit(typed, ip, a.purpose); err != nil {
		return nil, model.Invalid(field+".ip_address", "%s", err.Error())
	}
	guard(a.edit, sub)
	return f, nil
}

// keeps reports whether an address that the port has can be the one asked for in a subnet.
func (a *addresser) keeps(sub *weftv1.Subnet, had *weftv1.FixedIp) bool {
	ip, err := netip.ParseAddr(had.GetIpAddress())
	return err == nil && had.GetSubnetId() == sub.GetId() && !a.taken[ip]
}

func (a *addresser) take(text string) {
	if ip, err := netip.ParseAddr(text); err == nil {
		a.taken[ip] = true
	}
}

// subnet finds the subnet that is named, or else the one that holds the address.
func (a *addresser) subnet(field string, want *weftv1.FixedIp) (record.Stored[*weftv1.Subnet], error) {
	ip, noIP := netip.ParseAddr(want.GetIpAddress())
	for _, sub := range a.subnets {
		cidr, err := netip.ParsePrefix(sub.Msg.GetCidr())
		switch {
		case err != nil:
			continue
		case want.GetSubnetId() == sub.Msg.GetId(), want.GetSubnetId() == "" && noIP == nil && cidr.Contains(ip):
			return sub, nil
		}
	}
	var none record.Stored[*weftv1.Subnet]
	switch {
	case want.GetSubnetId() != "":
		return none, model.Invalid(field+".subnet_id", "%q is not a subnet of the network", want.GetSubnetId())
	case noIP == nil:
		return none, model.Invalid(field+".ip_address", "%s is in no subnet of the network", ip)
	default:
		return none, model.Invalid(field, "needs a subnet_id or an ip_address")
	}
}

// typed checks a subnet as stored; one that was written by hand may be anything.
func (a *addresser) typed(sub record.Stored[*weftv1.Subnet]) (model.Subnet, error) {
	out, err := model.SubnetFrom(sub.Msg)
	if err != nil {
		return out, fault.Precondition("%s at %s is damaged: %v", a.server.subnets.Label(sub.Msg), sub.Key, err)
	}
	return out, nil
}

func (a *addresser) allocate(ctx context.Context, sub record.Stored[*weftv1.Subnet]) (*weftv1.FixedIp, error) {
	typed, err := a.typed(sub)
	if err != nil {
		return nil, err
	}
	ip, err := a.edit.alloc.Address(ctx, typed, a.taken)
	if err != nil {
		return nil, err
	}
	a.taken[ip] = true
	guard(a.edit, sub)
	return &weftv1.FixedIp{SubnetId: sub.Msg.GetId(), IpAddress: ip.String()}, nil
}
