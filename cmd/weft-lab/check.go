package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/check"
)

func (s *session) check() *cobra.Command {
	var patience time.Duration
	var format string
	cmd := &cobra.Command{
		Use: "check", Short: "Audit the store and every host against what the stored objects call for; exit code 1 when something differs",
		Long: "Audit the store and every host that is on against what the stored objects call for: claims, bindings, bridges, ports, " +
			"flows, namespaces, addresses, routes, NAT rules, DHCP servers, and who forwards for each router. It reads with an operator's " +
			"tools and shares no code with weft. Exit code 1 when something differs or can't be looked at.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.open()
			if err != nil {
				return err
			}
			found, err := check.Await(cmd.Context(), l, patience)
			if err != nil {
				return err
			}
			if err := printFindings(cmd.OutOrStdout(), format, found); err != nil {
				return err
			}
			if len(found) > 0 {
				return fmt.Errorf("lab %s: %d findings", s.name, len(found))
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&patience, "wait", 0, "look again until nothing differs, for at most this time")
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	return cmd
}

func printFindings(out io.Writer, format string, found []check.Finding) error {
	switch format {
	case "json":
		if found == nil {
			found = []check.Finding{}
		}
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	case "text":
		for _, f := range found {
			fmt.Fprintln(out, f)
		}
		if len(found) == 0 {
			fmt.Fprintln(out, "nothing differs")
		}
		return nil
	default:
		return fmt.Errorf("output format %q: use text or json", format)
	}
}
