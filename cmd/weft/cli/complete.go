package cli

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
)

// completionTime bounds the look-up of names while a person waits for the Tab key.
const completionTime = 2 * time.Second

// complete says how a flag's value is completed.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag does not exist or has one already: a mistake in this package that any run of it shows
	}
}

// completeFlag completes a flag's value to the name of an object.
func (a *app) completeFlag(k client.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.names(cmd, k), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeArgs completes the first argument to the name of an object of the first kind, and so on.
func (a *app) completeArgs(kinds ...client.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) >= len(kinds) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(cmd, kinds[len(given)]), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeManyRefs completes any number of arguments to names that do not stand there yet.
func (a *app) completeManyRefs(k client.Kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		names := slices.DeleteFunc(a.names(cmd, k), func(n string) bool { return slices.Contains(given, n) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// names are the names of the project's objects, ids where there is none. Completion has no place for errors: when the
// controllers do not answer there is nothing to offer.
func (a *app) names(cmd *cobra.Command, k client.Kind) []string {
	if a.settle(cmd) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	objs, err := a.conn.List(ctx, k, client.Query{Project: a.project})
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil
	}
	var out []string
	for _, m := range objs {
		out = append(out, shown(m))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
