package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/chaos"
)

func (s *session) chaos() *cobra.Command {
	var o chaos.Options
	var dry bool
	var without []string
	cmd := &cobra.Command{
		Use: "chaos", Short: "Drive the lab with random steps and faults, and audit it now and then; it takes the lab for its own",
		Long: "Drive the lab with random steps: objects made, changed and deleted, VMs plugged and unplugged, daemons killed and held, " +
			"Open vSwitch restarted, hosts rebooted, cables cut, nodes drained. Now and then everything is mended and `check` must find " +
			"nothing. In the end every object of the lab is deleted, and nothing must be left. The same seed gives the same steps.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.open()
			if err != nil {
				return err
			}
			if o.Steps == 0 && o.Duration == 0 {
				o.Steps = 1000
			}
			o.Seed = cmp.Or(o.Seed, uint64(time.Now().UnixNano()))
			o.Out = cmd.OutOrStdout()
			for _, op := range without {
				o.Without = append(o.Without, chaos.Op(op))
			}
			fmt.Fprintf(o.Out, "seed %d\n", o.Seed)
			if dry {
				hosts, err := l.Hosts()
				if err != nil {
					return err
				}
				for g := chaos.NewGenerator(o.Seed, hosts, o.APIOnly); o.Steps > 0; o.Steps-- {
					fmt.Fprintln(o.Out, g.Next())
				}
				return nil
			}
			result, err := chaos.Run(cmd.Context(), l, o)
			fmt.Fprintf(o.Out, "seed %d: %s\n", o.Seed, result)
			return err
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&o.Seed, "seed", 0, "what the steps are drawn from (0: the time)")
	f.IntVar(&o.Steps, "steps", 0, "number of steps (0: as many as the duration allows, or 1000 if that is 0 too)")
	f.DurationVar(&o.Duration, "duration", 0, "begin no step after this time (0: no limit)")
	f.IntVar(&o.Every, "every", chaos.DefaultEvery, "steps between two audits")
	f.DurationVar(&o.Patience, "patience", chaos.DefaultPatience, "time for all to come right once everything is mended")
	f.BoolVar(&o.APIOnly, "api-only", false, "break nothing")
	f.StringSliceVar(&without, "without", nil, "kinds of step to leave out, as they are printed: \"move router\", drain")
	f.BoolVar(&dry, "dry-run", false, "print the steps and do none")
	return cmd
}
