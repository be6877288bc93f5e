package cli

import (
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) portCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "port", Short: "Attachment points of a network"}
	cmd.AddCommand(standard(a, noun[*weftv1.Port]{
		kind: client.Port, createVerb: "create", createUse: "NAME --network NETWORK", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample: "  weft port create p1 --network net1\n" +
			"  weft port create p2 --network net1 --ip 10.10.10.20 --mac fa:16:3e:00:00:02 --host cmp1\n" +
			"  weft port create p3 --network net1 --security-group web --public-key ~/.ssh/id_ed25519.pub --user-data cloud.yaml",
		create: func(c call, args []string) (*weftv1.Port, error) {
			return &weftv1.Port{Name: args[0], Project: c.givenProject()}, nil
		},
		blank: func(id string) *weftv1.Port { return &weftv1.Port{Id: id} },
		attrs: portAttrs(),
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "MAC", Path: "mac_address"},
			{Head: "ADDRESSES", Path: "fixed_ips.ip_address"},
			{Head: "NODE", Path: "bound_host"},
			{Head: "STATUS", Path: "status.state"},
			{Head: "OWNER", Path: "device_owner"},
			{Head: "DEVICE", Path: "device_id", Wide: true},
			{Head: "NETWORK", Path: "network_id", Wide: true},
			{Head: "HOST", Path: "host", Wide: true},
			{Head: "UP", Path: "admin_state_up", Wide: true},
			{Head: "SECURE", Path: "port_security_enabled", Wide: true},
			{Head: "GROUPS", Path: "security_groups.ids", Wide: true},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{
			onNetwork(),
			{flag: "host", usage: "bound to this `node`", path: "bound_host", kind: client.Node},
			{flag: "device", usage: "of this device `id`", path: "device_id"},
			{flag: "device-owner", usage: "of this `owner`", path: "device_owner"},
			{flag: "ip", usage: "with this `address`", path: "fixed_ips.ip_address"},
			{flag: "security-group", usage: "in this security `group`", path: "security_groups.ids", kind: client.SecurityGroup},
			{flag: "mac", usage: "with this MAC `address`", path: "mac_address"},
		},
		projects: true, waits: true,
	})...)
	return group(cmd)
}

func portAttrs() []attr[*weftv1.Port] {
	type port = *weftv1.Port
	return slices.Concat(upDown("admin_state_up", func(p port, up bool) { p.AdminStateUp = proto.Bool(up) }), securityAttrs(), instanceAttrs(), []attr[port]{
		{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(p port, s string) { p.Name = s })},
		{flag: "network", usage: "its `network`", on: onCreate, required: true, kind: client.Network, set: reference(client.Network, func(p port, id string) { p.NetworkId = id })},
		{flag: "ip", usage: "fixed `address` (default: one from the first subnet that has any); none, for update: no address", shape: repeated, on: onBoth, field: "fixed_ips", set: setIPs},
		{flag: "subnet", usage: "any free address of this `subnet`, besides those of --ip", shape: repeated, on: onBoth, field: "fixed_ips", kind: client.Subnet, set: addSubnets},
		{flag: "mac", usage: "MAC `address` (default: drawn below fa:16:3e)", on: onBoth, field: "mac_address", set: text(func(p port, s string) { p.MacAddress = s })},
		{flag: "host", usage: "`node` it will be plugged on (default: the first where it appears)", on: onBoth, field: "host", kind: client.Node, set: text(func(p port, s string) { p.Host = unlessNone(s) })},
		{flag: "device", usage: "`id` of what it belongs to, e.g. the VM's", on: onBoth, field: "device_id", set: text(func(p port, s string) { p.DeviceId = s })},
		{flag: "device-owner", usage: "`kind` of what it belongs to, e.g. compute:nova", on: onBoth, field: "device_owner", set: text(func(p port, s string) { p.DeviceOwner = s })},
		{flag: "dhcp-opt", usage: "extra DHCP option `NAME=VALUE`; none: no option", shape: repeated, on: onBoth, field: "extra_dhcp_opts", set: elements(parseDHCPOption, func(p port, v []*weftv1.DhcpOption) { p.ExtraDhcpOpts = v })},
	})
}

func setIPs(_ call, p *weftv1.Port, ips []string) error {
	if len(ips) == 1 && unlessNone(ips[0]) == "" {
		if p.GetId() == "" {
			return usagef("a new port gets an address where its network has any; take it away with `weft port update --ip none`")
		}
		return nil
	}
	p.FixedIps = append(p.FixedIps, fixedIPs(ips)...)
	return nil
}

// fixedIPs are addresses whose subnet the controllers find.
func fixedIPs(ips []string) []*weftv1.FixedIp {
	var out []*weftv1.FixedIp
	for _, ip := range ips {
		out = append(out, &weftv1.FixedIp{IpAddress: ip})
	}
	return out
}

func addSubnets(c call, p *weftv1.Port, refs []string) error {
	for _, ref := range refs {
		id, err := c.id(client.Subnet, ref)
		if err != nil {
			return err
		}
		p.FixedIps = append(p.FixedIps, &weftv1.FixedIp{SubnetId: id})
	}
	return nil
}

func parseDHCPOption(s string) (*weftv1.DhcpOption, error) {
	name, value, err := split(s, "=", "NAME=VALUE")
	return &weftv1.DhcpOption{Name: name, Value: value}, err
}
