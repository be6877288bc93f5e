package cli

import (
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) subnetCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "subnet", Short: "Blocks of addresses on a network"}
	cmd.AddCommand(standard(a, noun[*weftv1.Subnet]{
		kind: client.Subnet, createVerb: "create", createUse: "NAME --network NETWORK --cidr CIDR", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample: "  weft subnet create sub1 --network net1 --cidr 10.10.10.0/24\n" +
			"  weft subnet create sub2 --network net1 --cidr 192.168.100.0/22 --gateway 192.168.100.1 \\\n" +
			"      --pool 192.168.101.1-192.168.103.254 --dns 192.0.2.53 --route 172.16.0.0/12=192.168.100.2",
		create: func(_ call, args []string) (*weftv1.Subnet, error) { return &weftv1.Subnet{Name: args[0]}, nil },
		blank:  func(id string) *weftv1.Subnet { return &weftv1.Subnet{Id: id} },
		attrs:  subnetAttrs(),
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "CIDR", Path: "cidr"},
			{Head: "GATEWAY", Path: "gateway_ip"},
			{Head: "NETWORK", Path: "network_id"},
			{Head: "DHCP", Path: "enable_dhcp"},
			{Head: "POOLS", Path: "allocation_pools", Wide: true},
			{Head: "DNS", Path: "dns_nameservers", Wide: true},
			{Head: "ROUTES", Path: "host_routes", Wide: true},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters:  []listFilter{onNetwork()},
		projects: true, waits: true,
	})...)
	return group(cmd)
}

// onNetwork selects by network.
func onNetwork() listFilter {
	return listFilter{flag: "network", usage: "on this `network`", path: "network_id", kind: client.Network}
}

func subnetAttrs() []attr[*weftv1.Subnet] {
	type sub = *weftv1.Subnet
	return []attr[sub]{
		{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(s sub, v string) { s.Name = v })},
		{flag: "network", usage: "its `network`", on: onCreate, required: true, kind: client.Network, set: reference(client.Network, func(s sub, id string) { s.NetworkId = id })},
		{flag: "cidr", usage: "its block of addresses, `CIDR`", on: onCreate, required: true, set: text(func(s sub, v string) { s.Cidr = v })},
		{flag: "gateway", usage: "`address` of the gateway, or none (default: the first address)", on: onCreate, set: text(func(s sub, v string) { s.GatewayIp = proto.String(unlessNone(v)) })},
		{flag: "pool", usage: "range `A-B` that addresses are given from (default: all but the gateway)", shape: repeated, on: onBoth, field: "allocation_pools", set: elements(parsePool, func(s sub, v []*weftv1.AllocationPool) { s.AllocationPools = v })},
		{flag: "dns", usage: "`address` of a name server for VMs; none: no server", shape: repeated, on: onBoth, field: "dns_nameservers", set: elements(parseText, func(s sub, v []string) { s.DnsNameservers = v })},
		{flag: "route", usage: "route `CIDR=A` for VMs; none: no route", shape: repeated, on: onBoth, field: "host_routes", set: elements(parseRoute, func(s sub, v []*weftv1.Route) { s.HostRoutes = v })},
		{flag: "no-dhcp", usage: "serve no DHCP", shape: boolean, on: onBoth, field: "enable_dhcp", set: flag(func(s sub, b bool) { s.EnableDhcp = proto.Bool(!b) })},
		{flag: "dhcp", usage: "serve DHCP", shape: boolean, on: onUpdate, field: "enable_dhcp", set: flag(func(s sub, b bool) { s.EnableDhcp = proto.Bool(b) })},
	}
}

func unlessNone(s string) string {
	if s == none {
		return ""
	}
	return s
}

func parseText(s string) (string, error) { return s, nil }

func parsePool(s string) (*weftv1.AllocationPool, error) {
	start, end, err := split(s, "-", "A-B, the first and the last address")
	return &weftv1.AllocationPool{Start: start, End: end}, err
}

func parseRoute(s string) (*weftv1.Route, error) {
	dst, via, err := split(s, "=", "CIDR=A, the destination and the next hop")
	return &weftv1.Route{Destination: dst, Nexthop: via}, err
}

func parseType(s string) (weftv1.NetworkType, error) {
	t, ok := model.ParseType(s)
	if !ok {
		return 0, usagef("%q is not one of vlan, vxlan, gre, flat", s)
	}
	return t, nil
}
