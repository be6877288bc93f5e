package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// cordonCmds are the commands that change what is said of a node at once.
func (a *app) cordonCmds() []*cobra.Command {
	return []*cobra.Command{
		a.settingCmd("cordon", "Place nothing new on nodes", []string{"cordoned"}, &weftv1.Node{Cordoned: true}),
		a.settingCmd("uncordon", "Let new things be placed on nodes again", []string{"cordoned"}, &weftv1.Node{}),
		a.settingCmd("undrain", "Let things stay on nodes, and new ones be placed there, again; what has moved off does not return by itself", []string{"draining"}, &weftv1.Node{}),
	}
}

func (a *app) settingCmd(verb, short string, mask []string, settings *weftv1.Node) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NODE…", Short: short,
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeManyRefs(client.Node),
		RunE: a.run(func(c call, names []string) error {
			for _, name := range names {
				node := proto.CloneOf(settings)
				node.Id = name
				m, err := c.conn.Update(c, node, mask)
				if err != nil {
					return fmt.Errorf("node %s: %w", name, err)
				}
				if err := c.printer().Object(m); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

const drainLong = `Move all routers and DHCP services off a node and place nothing new there, until it is undrained. What moves is made ready
elsewhere first: no packet and no connection is lost. Waits until nothing is left and shows how much is; what no other node can take
stays. VMs are not moved.`

func (a *app) drainCmd() *cobra.Command {
	noWait, limit := false, time.Duration(0)
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move routers and DHCP services off a node", Long: drainLong,
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(client.Node),
		RunE: a.run(func(c call, args []string) error {
			m, err := c.conn.Update(c, &weftv1.Node{Id: args[0], Draining: true}, []string{"draining"})
			if err != nil {
				return err
			}
			if !noWait {
				if m, err = c.drained(args[0], limit); err != nil {
					return err
				}
			}
			return c.printer().Object(m)
		}),
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until nothing is left")
	cmd.Flags().DurationVar(&limit, "wait-timeout", 10*time.Minute, "`time` after which the wait is given up; the drain goes on")
	return cmd
}

// drained waits until nothing is left on a node.
func (c call) drained(name string, limit time.Duration) (m proto.Message, err error) {
	err = c.until(limit, "node "+name+" is not empty", func(ctx context.Context) (string, error) {
		if m, err = c.conn.Get(ctx, client.Node, name); err != nil {
			return "", err
		}
		n := m.(*weftv1.Node) //nolint:forcetypeassert // the kind asked for
		if !n.GetDraining() {
			return "", fmt.Errorf("node %s is not draining any more: somebody has undrained it", name)
		}
		active := len(n.GetActiveRouters())
		left := listed(counted(active, "active router"), counted(max(len(n.GetRouters())-active, 0), "standby router"), counted(len(n.GetDhcpNetworks()), "DHCP service"))
		if left == "" {
			return "", nil
		}
		return "left on node " + name + ": " + left, nil
	})
	return m, err
}

func (a *app) diffCmd() *cobra.Command {
	return &cobra.Command{
		Use: "diff NODE", Short: "Show how a node differs from what it should be, asking its agent now",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(client.Node),
		RunE: a.run(func(c call, args []string) error {
			resp, err := c.conn.Do(c, &weftv1.DiffNodeRequest{Id: args[0]})
			if err != nil {
				return err
			}
			diff := resp.(*weftv1.DiffNodeResponse) //nolint:forcetypeassert // the answer to this request
			if c.format == render.Table || c.format == render.Wide {
				if len(diff.GetDifferences()) == 0 {
					return c.printLine("no differences")
				}
			}
			rows := make([]proto.Message, len(diff.GetDifferences()))
			for i, d := range diff.GetDifferences() {
				rows[i] = d
			}
			if diff.GetTruncated() {
				fmt.Fprintf(c.env.Stderr, "only the first %d differences\n", len(rows))
			}
			return c.printer().List(rows, []render.Column{
				{Head: "KIND", Path: "kind"}, {Head: "OBJECT", Path: "object"}, {Head: "DESIRED", Path: "desired"}, {Head: "ACTUAL", Path: "actual"},
			})
		}),
	}
}
