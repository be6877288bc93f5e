package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/controller/collect"
	"github.com/weft-sdn/weft/proto/store"
)

const checkLong = `Read all of what is stored, at one moment, and say what does not fit together: objects without their allocations, placements
and bindings, and the reverse. It changes nothing. Of each key that belongs to nothing it says that it is an orphan:
those the leading controller deletes by itself when it has seen them for a minute, and "weft collect" at once.

The command speaks to etcd itself, not to controllers. It exits with 1 when it finds anything.`

const collectLong = `Delete from etcd what belongs to nothing: allocations, bindings and the like of objects and nodes that do not exist. It
looks twice, --age apart, and deletes what both looks find unchanged, each key only if it still is an orphan then. What it
does not understand it leaves alone, and objects always. Objects that do not count against their project's quota, and should,
count again. The leading controller does the same from time to time.`

func (a *app) checkCmd() *cobra.Command {
	var at etcdFlags
	cmd := &cobra.Command{
		Use: "check", Short: "Say what does not fit together in the store", Long: checkLong, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return at.with(cmd.Context(), a, a.check) },
	}
	at.add(cmd)
	return cmd
}

func (a *app) check(ctx context.Context, s *store.Store) error {
	findings, err := audit.Run(ctx, s)
	if err != nil {
		return err
	}
	orphans, err := collect.Look(ctx, s)
	if err != nil {
		return err
	}
	for _, f := range findings {
		fmt.Fprintln(a.env.Stdout, render.Clean(f))
	}
	a.printOrphans(orphans)
	if n := len(findings) + len(orphans); n > 0 {
		return fmt.Errorf("%d findings, %d orphans", len(findings), len(orphans))
	}
	fmt.Fprintln(a.env.Stdout, "everything fits together")
	return nil
}

func (a *app) printOrphans(orphans []audit.Orphan) {
	for _, o := range orphans {
		fmt.Fprintln(a.env.Stdout, render.Clean(fmt.Sprintf("orphan %s: %s", o.Key, o.Why)))
	}
}

func (a *app) collectCmd() *cobra.Command {
	var at etcdFlags
	var dry bool
	var age time.Duration
	cmd := &cobra.Command{
		Use: "collect", Short: "Delete what belongs to nothing from the store", Long: collectLong, Args: args(cobra.NoArgs),
		Example: "  weft collect --dry-run --etcd https://10.0.0.1:2379",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.with(cmd.Context(), a, func(ctx context.Context, s *store.Store) error {
				if err := a.recount(ctx, s, dry); err != nil {
					return err
				}
				found, err := collect.Look(ctx, s)
				if err != nil || dry || len(found) == 0 {
					a.printOrphans(found)
					fmt.Fprintf(a.env.Stdout, "%d orphans\n", len(found))
					return err
				}
				return a.collect(ctx, s, found, age)
			})
		},
	}
	at.add(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted")
	cmd.Flags().DurationVar(&age, "age", 10*time.Second, "`time` between the two looks")
	return cmd
}

// recount has what does not count against quotas, and should, count again; a dry one only says what does not.
func (a *app) recount(ctx context.Context, s *store.Store, dry bool) error {
	missing, err := collect.Uncounted(ctx, s)
	if err == nil && !dry {
		missing, err = collect.Count(ctx, s, missing, nil)
	}
	for _, o := range missing {
		fmt.Fprintf(a.env.Stdout, "%s %s did not count against the quota of project %s\n", o.Kind.Name, o.ID, o.Project)
	}
	return err
}

// collect takes the second look and deletes.
func (a *app) collect(ctx context.Context, s *store.Store, first []audit.Orphan, age time.Duration) error {
	timer := time.NewTimer(age)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	second, err := collect.Look(ctx, s)
	if err != nil {
		return err
	}
	gone, err := collect.Delete(ctx, s, collect.Confirmed(first, second), nil)
	a.printOrphans(gone)
	fmt.Fprintf(a.env.Stdout, "%d orphans deleted\n", len(gone))
	return err
}
