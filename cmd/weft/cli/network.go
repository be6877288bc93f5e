package cli

import (
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) networkCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "network", Aliases: []string{"net"}, Short: "Isolated layer 2 networks"}
	cmd.AddCommand(standard(a, noun[*weftv1.Network]{
		kind: client.Network, createVerb: "create", createUse: "NAME", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample: "  weft network create net1\n" +
			"  weft network create ext1 --type flat --physnet ext1 --external",
		create: func(c call, args []string) (*weftv1.Network, error) {
			return &weftv1.Network{Name: args[0], Project: c.givenProject()}, nil
		},
		blank: func(id string) *weftv1.Network { return &weftv1.Network{Id: id} },
		attrs: networkAttrs(),
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "TYPE", Path: "type"},
			{Head: "PHYSNET", Path: "physical_network"},
			{Head: "SEGMENT", Path: "segmentation_id"},
			{Head: "MTU", Path: "mtu"},
			{Head: "EXTERNAL", Path: "external"},
			{Head: "SHARED", Path: "shared"},
			{Head: "STATUS", Path: "status.state"},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "UP", Path: "admin_state_up", Wide: true},
			{Head: "DOMAIN", Path: "dns_domain", Wide: true},
			{Head: "SECURE", Path: "port_security_enabled", Wide: true},
			{Head: "DHCP ON", Path: "dhcp_placement.nodes", Wide: true},
			{Head: "DHCP SERVERS", Path: "dhcp_servers", Wide: true},
			{Head: "POOL", Path: "pool", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters:  []listFilter{{flag: "type", usage: "of this `type`", path: "type"}, {flag: "physnet", usage: "on this physical `network`", path: "physical_network"}},
		projects: true, waits: true,
	})...)
	cmd.AddCommand(a.grantCmd())
	return group(cmd)
}

func (a *app) grantCmd() *cobra.Command {
	type grant = *weftv1.NetworkGrant
	n := noun[grant]{
		kind: client.NetworkGrant, createVerb: "create", createUse: "NETWORK PROJECT", createArgs: cobra.ExactArgs(2),
		createComplete: a.completeArgs(client.Network),
		createExample:  "  weft network grant create net1 blue",
		create: func(c call, args []string) (grant, error) {
			id, err := c.id(client.Network, args[0])
			return &weftv1.NetworkGrant{NetworkId: id, TargetProject: args[1]}, err
		},
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NETWORK", Path: "network_id"},
			{Head: "OF", Path: "project"},
			{Head: "TO", Path: "target_project"},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{
			{flag: "network", usage: "of this `network`", path: "network_id", kind: client.Network},
			{flag: "to", usage: "to this `project`", path: "target_project"},
		},
		projects: true,
	}
	cmd := &cobra.Command{Use: "grant", Short: "Which other projects may use a network"}
	cmd.AddCommand(createCmd(a, n), listCmd(a, n), a.showCmd(n.kind), a.deleteCmd(n.kind))
	return group(cmd)
}

// typeNames are the network types by their short names.
func typeNames() []string { return []string{"vlan", "vxlan", "gre", "flat"} }

func networkAttrs() []attr[*weftv1.Network] {
	type net = *weftv1.Network
	return append(upDown("admin_state_up", func(n net, up bool) { n.AdminStateUp = proto.Bool(up) }), []attr[net]{
		{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(n net, s string) { n.Name = s })},
		{flag: "type", usage: "`type` of segment: vlan, vxlan (default), gre or flat", on: onCreate, choices: typeNames(), set: setType(func(n net, t weftv1.NetworkType) { n.Type = t })},
		{flag: "physnet", usage: "physical `network`, for vlan and flat (default for vlan: the only one that has a range)", on: onCreate, set: text(func(n net, s string) { n.PhysicalNetwork = s })},
		{flag: "segment", usage: "VLAN id, VNI or GRE key `N` (default: from the pool)", on: onCreate, set: number(func(n net, v uint32) { n.SegmentationId = v })},
		{flag: "external", usage: "may be a router's gateway and hold floating IPs", shape: boolean, on: onBoth, field: "external", set: flag(func(n net, b bool) { n.External = b })},
		{flag: "shared", usage: "usable by every project", shape: boolean, on: onBoth, field: "shared", set: flag(func(n net, b bool) { n.Shared = b })},
		{flag: "mtu", usage: "`bytes` of IP payload per frame (default: what the underlay leaves)", on: onBoth, field: "mtu", set: number(func(n net, v uint32) { n.Mtu = int32(v) })}, //nolint:gosec // too large is negative and refused
		{flag: "no-port-security", usage: "do not filter its ports, unless they say so themselves", shape: boolean, on: onBoth, field: "port_security_enabled", set: flag(func(n net, b bool) { n.PortSecurityEnabled = proto.Bool(!b) })},
		{flag: "port-security", usage: "filter its ports, unless they say otherwise", shape: boolean, on: onUpdate, field: "port_security_enabled", set: flag(func(n net, b bool) { n.PortSecurityEnabled = proto.Bool(b) })},
		{flag: "dns-domain", usage: "`domain` of its VMs (default: weft.internal)", on: onBoth, field: "dns_domain", set: text(func(n net, s string) { n.DnsDomain = s })},
		{flag: "dhcp-servers", usage: "on `N` nodes its DHCP is served (default, and 0: as the pool says)", on: onBoth, field: "dhcp_servers", set: number(func(n net, v uint32) { n.DhcpServers = int32(v) })}, //nolint:gosec // too large is negative and refused
		{flag: "pool", usage: "only nodes of this `pool` serve its DHCP (none: of any)", on: onBoth, field: "pool", kind: client.Pool, set: text(func(n net, s string) { n.Pool = orNone(s) })},
	}...)
}

// upDown are the flags of the administrative state.
func upDown[M proto.Message](field string, set func(M, bool)) []attr[M] {
	return []attr[M]{
		{flag: "down", usage: "switched off: passes nothing", shape: boolean, on: onBoth, field: field, set: flag(func(m M, down bool) { set(m, !down) })},
		{flag: "up", usage: "switched on", shape: boolean, on: onUpdate, field: field, set: flag(set)},
	}
}

func setType[M any](set func(M, weftv1.NetworkType)) func(call, M, []string) error {
	return func(_ call, m M, v []string) error {
		t, err := parseType(v[0])
		set(m, t)
		return err
	}
}
