package cli

import (
	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) floatingIPCmd() *cobra.Command {
	type fip = *weftv1.FloatingIp
	cmd := &cobra.Command{Use: "floatingip", Aliases: []string{"fip"}, Short: "External addresses that lead to ports"}
	cmd.AddCommand(standard(a, noun[fip]{
		kind: client.FloatingIP, createVerb: "create", createUse: "NETWORK", createArgs: cobra.ExactArgs(1),
		createComplete: a.completeArgs(client.Network),
		createExample:  "  weft floatingip create ext1 --port p1\n  weft floatingip create ext1 --ip 203.0.113.7 --name www",
		create: func(c call, args []string) (fip, error) {
			id, err := c.id(client.Network, args[0])
			return &weftv1.FloatingIp{NetworkId: id, Project: c.givenProject()}, err
		},
		blank: func(id string) fip { return &weftv1.FloatingIp{Id: id} },
		attrs: []attr[fip]{
			{flag: "name", usage: "`name`", on: onBoth, field: "name", set: text(func(f fip, s string) { f.Name = s })},
			{flag: "ip", usage: "`address` on the external network (default: any free one)", on: onCreate, set: text(func(f fip, s string) { f.IpAddress = s })},
			{flag: "port", usage: "`port` it leads to", on: onCreate, kind: client.Port, set: reference(client.Port, func(f fip, id string) { f.PortId = id })},
			{flag: "fixed-ip", usage: "which `address` of the port (default: its first)", on: onCreate, set: text(func(f fip, s string) { f.FixedIpAddress = s })},
		},
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "ADDRESS", Path: "ip_address"},
			{Head: "FIXED ADDRESS", Path: "fixed_ip_address"},
			{Head: "PORT", Path: "port_id"},
			{Head: "STATUS", Path: "status.state"},
			{Head: "ROUTER", Path: "router_id", Wide: true},
			{Head: "NETWORK", Path: "network_id", Wide: true},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{
			onNetwork(),
			{flag: "port", usage: "leading to this `port`", path: "port_id", kind: client.Port},
			{flag: "router", usage: "through this `router`", path: "router_id", kind: client.Router},
		},
		projects: true, waits: true,
	})...)
	cmd.AddCommand(a.associateCmd(), a.disassociateCmd())
	return group(cmd)
}

func (a *app) associateCmd() *cobra.Command {
	fixed := ""
	cmd := &cobra.Command{
		Use: "associate FLOATING-IP PORT", Short: "Lead a floating IP to a port, away from the one it led to before",
		Args: args(cobra.ExactArgs(2)), ValidArgsFunction: a.completeArgs(client.FloatingIP, client.Port),
		RunE: a.run(func(c call, args []string) error {
			id, port, err := c.ids2(client.FloatingIP, args[0], client.Port, args[1])
			if err != nil {
				return err
			}
			return c.finish(c.conn.Update(c, &weftv1.FloatingIp{Id: id, PortId: port, FixedIpAddress: fixed}, association()))
		}),
	}
	cmd.Flags().StringVar(&fixed, "fixed-ip", "", "which `address` of the port (default: its first)")
	complete(cmd, "fixed-ip", cobra.NoFileCompletions)
	a.wait.bind(cmd)
	return cmd
}

func (a *app) disassociateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "disassociate FLOATING-IP", Short: "Lead a floating IP to no port",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(client.FloatingIP),
		RunE: a.run(func(c call, args []string) error {
			id, err := c.id(client.FloatingIP, args[0])
			if err != nil {
				return err
			}
			return c.finish(c.conn.Update(c, &weftv1.FloatingIp{Id: id}, association()))
		}),
	}
	a.wait.bind(cmd)
	return cmd
}

// association are the fields that say where a floating IP leads; they change together, since the fixed address of one
// port means nothing for another.
func association() []string { return []string{"port_id", "fixed_ip_address"} }
