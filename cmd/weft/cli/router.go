package cli

import (
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) routerCmd() *cobra.Command {
	type router = *weftv1.Router
	cmd := &cobra.Command{Use: "router", Short: "Routers between subnets and to the outside"}
	cmd.AddCommand(standard(a, noun[router]{
		kind: client.Router, createVerb: "create", createUse: "NAME", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample:  "  weft router create r1 --ha 3\n  weft router gateway set r1 ext1\n  weft router interface add r1 sub1",
		create: func(c call, args []string) (router, error) {
			return &weftv1.Router{Name: args[0], Project: c.givenProject()}, nil
		},
		blank: func(id string) router { return &weftv1.Router{Id: id} },
		attrs: append(upDown("admin_state_up", func(r router, up bool) { r.AdminStateUp = proto.Bool(up) }),
			attr[router]{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(r router, s string) { r.Name = s })},
			attr[router]{flag: "ha", usage: "on `N` nodes it is kept ready (default, and 0: as the pool says)", on: onBoth, field: "ha", set: number(func(r router, v uint32) { r.Ha = int32(v) })}, //nolint:gosec // too large is negative and refused
			attr[router]{flag: "pool", usage: "only nodes of this `pool` hold it (none: of any one)", on: onBoth, field: "pool", kind: client.Pool, set: text(func(r router, s string) { r.Pool = orNone(s) })}),
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "GATEWAY", Path: "external_gateway.fixed_ips.ip_address"},
			{Head: "INTERFACES", Path: "interfaces.ip_address"},
			{Head: "NODES", Path: "placement.nodes"},
			{Head: "ACTIVE ON", Path: "active_node"},
			{Head: "STATUS", Path: "status.state"},
			{Head: "GATEWAY NETWORK", Path: "external_gateway.network_id", Wide: true},
			{Head: "ROUTES", Path: "routes", Wide: true},
			{Head: "HA", Path: "ha", Wide: true},
			{Head: "POOL", Path: "pool", Wide: true},
			{Head: "UP", Path: "admin_state_up", Wide: true},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{
			{flag: "external-network", usage: "with its gateway on this `network`", path: "external_gateway.network_id", kind: client.Network},
			{flag: "subnet", usage: "with an interface in this `subnet`", path: "interfaces.subnet_id", kind: client.Subnet},
			{flag: "host", usage: "placed on this `node`", path: "placement.nodes", kind: client.Node},
			{flag: "active-on", usage: "active on this `node`", path: "active_node", kind: client.Node},
		},
		projects: true, waits: true,
	})...)
	cmd.AddCommand(a.gatewayCmd(), a.interfaceCmd(), a.routeCmd(), a.moveCmd())
	return group(cmd)
}

func (a *app) gatewayCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "A router's way out"}
	var ips []string
	noSNAT := false
	set := &cobra.Command{
		Use: "set ROUTER NETWORK", Short: "Give a router its gateway, or replace it",
		Args: args(cobra.ExactArgs(2)), ValidArgsFunction: a.completeArgs(client.Router, client.Network),
		RunE: a.run(func(c call, args []string) error {
			router, network, err := c.ids2(client.Router, args[0], client.Network, args[1])
			if err != nil {
				return err
			}
			gw := &weftv1.ExternalGateway{NetworkId: network, FixedIps: fixedIPs(ips), EnableSnat: proto.Bool(!noSNAT)}
			return c.finish(c.conn.Do(c, &weftv1.SetRouterGatewayRequest{RouterId: router, ExternalGateway: gw}))
		}),
	}
	set.Flags().StringArrayVar(&ips, "ip", nil, "`address` on the external network (default: any free one) (repeatable)")
	set.Flags().BoolVar(&noSNAT, "no-snat", false, "addresses behind the router leave as they are")
	complete(set, "ip", cobra.NoFileCompletions)
	unset := &cobra.Command{
		Use: "clear ROUTER", Short: "Take a router's gateway away",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(client.Router),
		RunE: a.run(func(c call, args []string) error {
			router, err := c.id(client.Router, args[0])
			if err != nil {
				return err
			}
			return c.finish(c.conn.Do(c, &weftv1.ClearRouterGatewayRequest{RouterId: router}))
		}),
	}
	a.wait.bind(set)
	a.wait.bind(unset)
	cmd.AddCommand(set, unset)
	return group(cmd)
}

// ids2 resolves two names or ids.
func (c call) ids2(k1 client.Kind, ref1 string, k2 client.Kind, ref2 string) (id1, id2 string, err error) {
	if id1, err = c.id(k1, ref1); err != nil {
		return "", "", err
	}
	id2, err = c.id(k2, ref2)
	return id1, id2, err
}

func (a *app) interfaceCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "interface", Short: "A router's legs in subnets"}
	cmd.AddCommand(
		a.attachmentCmd("add", "Attach a router to a subnet, or through a port", func(router string, at attachment) proto.Message {
			if at.port != "" {
				return &weftv1.AddRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: at.port}}
			}
			return &weftv1.AddRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: at.subnet}}
		}),
		a.attachmentCmd("remove", "Detach a router from a subnet or port", func(router string, at attachment) proto.Message {
			if at.port != "" {
				return &weftv1.RemoveRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.RemoveRouterInterfaceRequest_PortId{PortId: at.port}}
			}
			return &weftv1.RemoveRouterInterfaceRequest{RouterId: router, Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: at.subnet}}
		}))
	return group(cmd)
}

// attachment is what an interface is made of: a subnet or a port.
type attachment struct{ subnet, port string }

func (a *app) attachmentCmd(verb, short string, request func(router string, at attachment) proto.Message) *cobra.Command {
	port := ""
	cmd := &cobra.Command{
		Use: verb + " ROUTER {SUBNET | --port PORT}", Short: short,
		Args: args(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.completeArgs(client.Router, client.Subnet),
		RunE: a.run(func(c call, args []string) error {
			if (len(args) == 2) == (port != "") {
				return usagef("give either a subnet or --port")
			}
			router, err := c.id(client.Router, args[0])
			if err != nil {
				return err
			}
			var at attachment
			if port != "" {
				at.port, err = c.id(client.Port, port)
			} else {
				at.subnet, err = c.id(client.Subnet, args[1])
			}
			if err != nil {
				return err
			}
			return c.finish(c.conn.Do(c, request(router, at)))
		}),
	}
	cmd.Flags().StringVar(&port, "port", "", "this `port` instead of the subnet's gateway address")
	complete(cmd, "port", a.completeFlag(client.Port))
	a.wait.bind(cmd)
	return cmd
}

func (a *app) routeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "route", Short: "A router's static routes"}
	cmd.AddCommand(
		a.staticRouteCmd("add", "Add a static route", func(router string, r *weftv1.Route) proto.Message {
			return &weftv1.AddRouterRouteRequest{RouterId: router, Route: r}
		}),
		a.staticRouteCmd("remove", "Remove a static route", func(router string, r *weftv1.Route) proto.Message {
			return &weftv1.RemoveRouterRouteRequest{RouterId: router, Route: r}
		}))
	return group(cmd)
}

func (a *app) staticRouteCmd(verb, short string, request func(router string, r *weftv1.Route) proto.Message) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " ROUTER CIDR NEXTHOP", Short: short,
		Args: args(cobra.ExactArgs(3)), ValidArgsFunction: a.completeArgs(client.Router),
		RunE: a.run(func(c call, args []string) error {
			router, err := c.id(client.Router, args[0])
			if err != nil {
				return err
			}
			return c.finish(c.conn.Do(c, request(router, &weftv1.Route{Destination: args[1], Nexthop: args[2]})))
		}),
	}
	a.wait.bind(cmd)
	return cmd
}
