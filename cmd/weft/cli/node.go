package cli

import (
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) nodeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Hosts of the fleet and their agents"}
	cmd.AddCommand(listCmd(a, noun[*weftv1.Node]{
		kind: client.Node,
		columns: []render.Column{
			{Head: "NODE", Path: "id"},
			{Head: "ROLES", Path: "roles"},
			{Head: "ALIVE", Path: "alive"},
			{Head: "TUNNEL IP", Path: "tunnel_ip"},
			{Head: "BRIDGES", Path: "bridge_mappings"},
			{Head: "PORTS", Path: "port_count"},
			{Head: "POOL", Path: "pool"},
			{Head: "CORDONED", Path: "cordoned"},
			{Head: "DRAINING", Path: "draining"},
			{Head: "PROBLEMS", Path: "problems"},
			{Head: "ZONE", Path: "zone", Wide: true},
			{Head: "CAPACITY", Path: "capacity", Wide: true},
			{Head: "UPLINKS", Path: "uplinks", Wide: true},
			{Head: "LABELS", Path: "labels", Wide: true},
			{Head: "DATAPATH", Path: "datapath_type", Wide: true},
			{Head: "VERSION", Path: "agent_version", Wide: true},
			{Head: "STARTED", Path: "start_time", Wide: true},
			{Head: "ROUTERS", Path: "routers", Wide: true},
			{Head: "ACTIVE ROUTERS", Path: "active_routers", Wide: true},
			{Head: "DHCP NETWORKS", Path: "dhcp_networks", Wide: true},
		},
		filters: []listFilter{
			{flag: "role", usage: "of this `role`: compute or network", path: "roles"},
			{flag: "pool", usage: "of this `pool`", path: "pool", kind: client.Pool},
		},
	}), a.showCmd(client.Node), a.labelCmd(), a.deleteCmd(client.Node))
	cmd.AddCommand(a.cordonCmds()...)
	cmd.AddCommand(a.drainCmd(), a.diffCmd())
	return group(cmd)
}

func (a *app) labelCmd() *cobra.Command {
	return &cobra.Command{
		Use: "label NODE {KEY=VALUE | KEY-}…", Short: "Set labels of a node, or remove those that end in -",
		Example: "  weft node label cmp1 rack=a7 canary-",
		Args:    args(cobra.MinimumNArgs(2)), ValidArgsFunction: a.completeArgs(client.Node),
		RunE: a.run(func(c call, args []string) error {
			change, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			m, err := c.conn.Get(c, client.Node, args[0])
			if err != nil {
				return err
			}
			node, ok := m.(*weftv1.Node)
			if !ok {
				return usagef("%s is not a node", args[0])
			}
			labels := change(node.GetLabels())
			// With the etag: of two people who label a node at once, the second is told to look again.
			node = &weftv1.Node{Id: node.GetId(), Etag: node.GetEtag(), Labels: labels}
			return c.finish(c.conn.Update(c, node, []string{"labels"}))
		}),
	}
}

// parseLabels reads KEY=VALUE and KEY- and returns the change they make to a node's labels.
func parseLabels(words []string) (func(map[string]string) map[string]string, error) {
	set, remove := map[string]string{}, []string{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		gone, trailing := strings.CutSuffix(w, "-")
		switch {
		case ok && key != "":
			set[key] = value
		case !ok && trailing && gone != "":
			remove = append(remove, gone)
		default:
			return nil, usagef("%q is neither KEY=VALUE nor KEY-", w)
		}
	}
	return func(old map[string]string) map[string]string {
		out := maps.Clone(old)
		if out == nil {
			out = map[string]string{}
		}
		for _, k := range remove {
			delete(out, k)
		}
		maps.Copy(out, set)
		return out
	}, nil
}
