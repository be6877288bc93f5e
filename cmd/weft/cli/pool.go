package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) poolCmd() *cobra.Command {
	type pool = *weftv1.Pool
	n := noun[pool]{
		kind:  client.Pool,
		blank: func(id string) pool { return &weftv1.Pool{Id: id} },
		attrs: []attr[pool]{
			{flag: "failback", usage: "a node that returns gets back the routers whose first choice it is", shape: boolean, on: onUpdate, field: "failback", set: flag(func(p pool, b bool) { p.Failback = b })},
			{flag: "ha", usage: "on `N` nodes a router is kept ready that does not say (0: 2)", on: onUpdate, field: "ha", set: number(func(p pool, v uint32) { p.Ha = int32(v) })},                                       //nolint:gosec // too large is negative and refused
			{flag: "dhcp-servers", usage: "on `N` nodes the DHCP of a network is served that does not say (0: 2)", on: onUpdate, field: "dhcp_servers", set: number(func(p pool, v uint32) { p.DhcpServers = int32(v) })}, //nolint:gosec // too large is negative and refused
		},
		columns: []render.Column{
			{Head: "POOL", Path: "id"},
			{Head: "NODES", Path: "nodes"},
			{Head: "HA", Path: "ha"},
			{Head: "DHCP SERVERS", Path: "dhcp_servers"},
			{Head: "FAILBACK", Path: "failback"},
		},
	}
	cmd := &cobra.Command{
		Use: "pool", Short: "Pools of network nodes, which hold routers for each other",
		Long: "Pools of network nodes, which hold routers for each other. A pool is there as soon as a node's agent is configured to be in it.",
	}
	cmd.AddCommand(listCmd(a, n), a.showCmd(n.kind), updateCmd(a, n))
	return group(cmd)
}

const rebalanceLong = `Move a few active routers from nodes that have many to nodes that have few, without loss: the new node is made ready
first. Nodes whose numbers of active routers differ by no more than one are left alone. Prints the moves, which the leading
controller then makes.`

func (a *app) rebalanceCmd() *cobra.Command {
	req := &weftv1.RebalanceRequest{}
	var wait waitFlags
	cmd := &cobra.Command{
		Use: "rebalance", Short: "Even out the load of network nodes", Long: rebalanceLong,
		Args: args(cobra.NoArgs), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(c call, _ []string) error {
			resp, err := c.conn.Do(c, req)
			if err != nil {
				return err
			}
			moves := resp.(*weftv1.RebalanceResponse).GetMoves() //nolint:forcetypeassert // the answer to this request
			rows := make([]proto.Message, len(moves))
			for i, m := range moves {
				rows[i] = m
			}
			err = c.printer().List(rows, []render.Column{
				{Head: "ROUTER", Path: "router_id"}, {Head: "FROM", Path: "from"}, {Head: "TO", Path: "to"}, {Head: "REASON", Path: "reason"},
			})
			if err != nil || !wait.wait || req.GetDryRun() {
				return err
			}
			return c.moved(wait.timeout, moves)
		}),
	}
	cmd.Flags().StringVar(&req.Pool, "pool", "", "only this `pool`'s nodes (default: every pool's)")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "print the moves, make none")
	bindMoveWait(cmd, &wait)
	complete(cmd, "pool", a.completeFlag(client.Pool))
	return cmd
}

// bindMoveWait declares the flags of commands that can wait until routers have moved.
func bindMoveWait(cmd *cobra.Command, w *waitFlags) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until the routers are active where they are to be")
	cmd.Flags().DurationVar(&w.timeout, "wait-timeout", 5*time.Minute, "`time` after which --wait is given up")
}

func (a *app) moveCmd() *cobra.Command {
	to := ""
	var wait waitFlags
	cmd := &cobra.Command{
		Use: "move ROUTER --to NODE", Short: "Make another node a router's active one",
		Long: "Make another node a router's active one, without loss: the node is made ready first, by the leading controller.",
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(client.Router),
		RunE: a.run(func(c call, args []string) error {
			if to == "" {
				return usagef("--to is needed: the node")
			}
			id, err := c.id(client.Router, args[0])
			if err != nil {
				return err
			}
			r, err := c.conn.Do(c, &weftv1.MoveRouterRequest{Id: id, Node: to})
			if err != nil {
				return err
			}
			if wait.wait {
				if err := c.moved(wait.timeout, []*weftv1.RouterMove{{RouterId: id, To: to}}); err != nil {
					return err
				}
				if r, err = c.conn.Get(c, client.Router, id); err != nil {
					return err
				}
			}
			return c.printer().Object(r)
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "the `node`")
	complete(cmd, "to", a.completeFlag(client.Node))
	bindMoveWait(cmd, &wait)
	return cmd
}

// moved waits until routers are where they are to be. One that is deleted meanwhile needs no waiting.
func (c call) moved(limit time.Duration, moves []*weftv1.RouterMove) error {
	left := moves
	look := func(ctx context.Context) (string, error) {
		var still []*weftv1.RouterMove
		for _, m := range left {
			r, err := c.conn.Get(ctx, client.Router, m.GetRouterId())
			switch {
			case client.IsNotFound(err):
			case err != nil:
				return "", err
			case client.Field(r, "active_node") != m.GetTo():
				still = append(still, m)
			}
		}
		if left = still; len(left) == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d of %d moves to be made", len(left), len(moves)), nil
	}
	return c.until(limit, "the moves are asked for but not made", look)
}

// until calls look, with growing pauses, until it has nothing left to tell, and shows what it tells: on a terminal in one
// line, else in a line each time that it changes. Controllers may be away meanwhile. vain begins the error when time is up.
func (c call) until(limit time.Duration, vain string, look func(context.Context) (left string, err error)) error {
	ctx, cancel := context.WithTimeout(c, limit)
	defer cancel()
	progress := newProgress(c.env.Stderr)
	defer progress.done()
	last, told := "no controller answered yet", ""
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		left, err := look(ctx)
		switch {
		case err == nil && left == "":
			return nil
		case err == nil:
			last = left
		case c.Err() == nil && ctx.Err() == nil && !client.IsUnreachable(err):
			return err
		}
		if progress.show("%s", last); progress.w == nil && last != told {
			told = last
			fmt.Fprintln(c.env.Stderr, render.CleanLines(last))
		}
		if sleep(ctx, pause) {
			continue
		}
		if c.Err() != nil {
			return errors.New("interrupted; it goes on")
		}
		return fmt.Errorf("%s after %s: %s", vain, limit, last)
	}
}

// counted is "1 router", "2 routers"; "" for none.
func counted(n int, what string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "1 " + what
	default:
		return fmt.Sprintf("%d %ss", n, what)
	}
}

// listed joins what is not empty.
func listed(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, ", ")
}
