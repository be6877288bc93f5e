package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const quotaLong = `How many objects of each kind a project may have. Ports of DHCP servers and routers, and a project's default group with its
rules, do not count. Only admins set a quota; those who see a project see its quota.`

func (a *app) quotaCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "quota", Short: "How many objects a project may have", Long: quotaLong}
	cmd.AddCommand(a.quotaShowCmd(), a.quotaSetCmd(), a.quotaUnsetCmd())
	return group(cmd)
}

// limitedKinds are the kinds that have a quota.
func limitedKinds() []weftv1.Kind {
	return []weftv1.Kind{
		weftv1.Kind_KIND_NETWORK, weftv1.Kind_KIND_SUBNET, weftv1.Kind_KIND_PORT, weftv1.Kind_KIND_ROUTER, weftv1.Kind_KIND_FLOATING_IP,
		weftv1.Kind_KIND_SECURITY_GROUP, weftv1.Kind_KIND_SECURITY_GROUP_RULE, weftv1.Kind_KIND_ADDRESS_GROUP,
	}
}

// limitFlag is the flag of a kind's limit: "floating-ips".
func limitFlag(k weftv1.Kind) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k.String(), "KIND_")), "_", "-") + "s"
}

// quotaProject is the project that the user names; "" for that which the controllers take them to be of.
func (a *app) quotaProject(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return a.givenProject()
}

func (a *app) quotaShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [PROJECT]", Short: "Show limits and use", Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(c call, args []string) error {
			return c.quota(&weftv1.GetQuotaRequest{Project: c.quotaProject(args)})
		}),
	}
}

// quota makes a call that answers with a quota and prints it.
func (c call) quota(req proto.Message) error {
	resp, err := c.conn.Do(c, req)
	if err != nil {
		return err
	}
	if c.format == render.JSON || c.format == render.YAML {
		return c.printer().Object(resp)
	}
	entries := resp.(*weftv1.Quota).GetEntries() //nolint:forcetypeassert // the answer to these requests
	rows := make([]proto.Message, len(entries))
	for i, e := range entries {
		rows[i] = e
	}
	return c.printer().List(rows, []render.Column{
		{Head: "KIND", Path: "kind"}, {Head: "LIMIT", Path: "limit"}, {Head: "USED", Path: "used"}, {Head: "SET", Path: "set"},
	})
}

func (a *app) quotaSetCmd() *cobra.Command {
	limits := map[weftv1.Kind]*int64{}
	cmd := &cobra.Command{
		Use: "set [PROJECT]", Short: "Set limits of a project",
		Long:    "Set limits of a project. A limit may be lower than what there is: nothing is deleted, and nothing more can be made.",
		Example: "  weft quota set red --ports 2000 --routers -1",
		Args:    args(cobra.MaximumNArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(c call, args []string) error {
		req := &weftv1.SetQuotaRequest{Project: c.quotaProject(args)}
		for _, kind := range limitedKinds() {
			if cmd.Flags().Changed(limitFlag(kind)) {
				req.Limits = append(req.Limits, &weftv1.QuotaLimit{Kind: kind, Limit: *limits[kind]})
			}
		}
		if len(req.GetLimits()) == 0 {
			return usagef("nothing to change: give at least one flag")
		}
		return c.quota(req)
	})
	for _, kind := range limitedKinds() {
		flag := limitFlag(kind)
		limits[kind] = cmd.Flags().Int64(flag, 0, fmt.Sprintf("at most `N` %s; -1: no limit", strings.ReplaceAll(flag, "-", " ")))
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return cmd
}

func (a *app) quotaUnsetCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "unset [PROJECT]", Short: "Give a project the fleet's limits again",
		Long: "Give a project the limits again that projects of the fleet have by default: of the kinds that are named, or of all.",
		Args: args(cobra.MaximumNArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.run(func(c call, args []string) error {
		req := &weftv1.UnsetQuotaRequest{Project: c.quotaProject(args)}
		for _, kind := range limitedKinds() {
			if cmd.Flags().Changed(limitFlag(kind)) {
				req.Kinds = append(req.Kinds, kind)
			}
		}
		return c.quota(req)
	})
	for _, kind := range limitedKinds() {
		flag := limitFlag(kind)
		cmd.Flags().Bool(flag, false, "of "+strings.ReplaceAll(flag, "-", " "))
	}
	return cmd
}
