package cli

import (
	"cmp"
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
elsewhere first: no packet and no connection is lost. Waits until nothing is left and shows how much is, and what it waits for; what
no other node can take stays. VMs are not moved.`

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
	var why explanation
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
		if err := why.of(ctx, c, name, left); err != nil {
			return "", err
		}
		return "left on node " + name + ": " + left + why.text, nil
	})
	return m, err
}

const (
	// explainEvery is how often it is asked why something is left: the controllers read a lot for it.
	explainEvery = time.Second
	// maxExplained is how much of what is left is explained.
	maxExplained = 5
)

// explanation is what waits on a node for what.
type explanation struct {
	left string // what it was asked about
	next time.Time
	text string
}

// of asks anew, unless that was a moment ago or what is left is getting less.
func (e *explanation) of(ctx context.Context, c call, name, left string) error {
	if left != e.left {
		e.left, e.text = left, ""
		return nil
	}
	if time.Now().Before(e.next) {
		return nil
	}
	resp, err := c.conn.Do(ctx, &weftv1.ExplainDrainRequest{Id: name})
	if err != nil {
		return err
	}
	e.next, e.text = time.Now().Add(explainEvery), ""
	all := resp.(*weftv1.ExplainDrainResponse).GetRemainders() //nolint:forcetypeassert // the answer to this request
	for _, r := range all[:min(len(all), maxExplained)] {
		what := "router "
		if r.GetNetworkId() != "" {
			what = "DHCP of network "
		}
		e.text += "\n  " + what + cmp.Or(r.GetName(), r.GetRouterId(), r.GetNetworkId()) + ": " + r.GetReason()
	}
	if len(all) > maxExplained {
		e.text += "\n  …"
	}
	return nil
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
