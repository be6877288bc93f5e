package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
)

// noun describes a kind of object to the standard verbs.
type noun[M proto.Message] struct {
	kind client.Kind
	// create makes the object of `create ARGS…`; flags are applied after it.
	create func(c call, args []string) (M, error)
	// createVerb, createUse and createArgs are the verb (create, add), its arguments in the help, and how many it takes.
	createVerb, createUse string
	createArgs            cobra.PositionalArgs
	createComplete        cobra.CompletionFunc
	createExample         string
	// blank makes an object with nothing but its id, for update.
	blank   func(id string) M
	attrs   []attr[M]
	columns []render.Column
	filters []listFilter
	// projects: objects of the kind belong to projects.
	projects bool
	// waits: the kind has a status to wait for.
	waits bool
}

// listFilter is a flag of `list` that selects by one field.
type listFilter struct {
	flag, usage, path string
	// kind: the flag's value is an object of it, by name or id; "" for plain values.
	kind client.Kind
}

// call is one run of a command.
type call struct {
	context.Context
	*app
}

// id resolves a name or id.
func (c call) id(k client.Kind, ref string) (string, error) {
	return c.conn.Resolve(c, k, c.project, ref)
}

// each of the verbs below is a command; run is what RunE calls.
func (a *app) run(do func(c call, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return do(call{cmd.Context(), a}, args) }
}

// standard returns the verbs that every kind has: create, update, list, show, delete.
func standard[M proto.Message](a *app, n noun[M]) []*cobra.Command {
	return []*cobra.Command{createCmd(a, n), updateCmd(a, n), listCmd(a, n), a.showCmd(n.kind), a.deleteCmd(n.kind)}
}

func createCmd[M proto.Message](a *app, n noun[M]) *cobra.Command {
	flags := rawFlags{}
	cmd := &cobra.Command{
		Use: n.createVerb + " " + n.createUse, Short: "Create " + n.kind.One(), Example: n.createExample,
		Args: args(n.createArgs), ValidArgsFunction: n.createComplete,
		RunE: a.run(func(c call, args []string) error {
			m, err := n.create(c, args)
			if err != nil {
				return err
			}
			if _, err := apply(c, m, n.attrs, flags); err != nil {
				return err
			}
			return c.finish(c.conn.Create(c, m))
		}),
	}
	bindAttrs(a, cmd, n.attrs, onCreate, flags)
	if n.waits {
		a.wait.bind(cmd)
	}
	return cmd
}

func updateCmd[M proto.Message](a *app, n noun[M]) *cobra.Command {
	flags := rawFlags{}
	cmd := &cobra.Command{
		Use: "update " + refUse(n.kind), Aliases: []string{"set"}, Short: "Change " + n.kind.One(),
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(n.kind),
		RunE: a.run(func(c call, args []string) error {
			id, err := c.id(n.kind, args[0])
			if err != nil {
				return err
			}
			m := n.blank(id)
			mask, err := apply(c, m, n.attrs, flags)
			if err != nil {
				return err
			}
			if len(mask) == 0 {
				return usagef("nothing to change: give at least one flag")
			}
			return c.finish(c.conn.Update(c, m, mask))
		}),
	}
	bindAttrs(a, cmd, n.attrs, onUpdate, flags)
	if n.waits {
		a.wait.bind(cmd)
	}
	return cmd
}

// refUse is how the help calls an argument that names an object.
func refUse(k client.Kind) string { return strings.ToUpper(strings.ReplaceAll(k.Noun(), " ", "-")) }

// finish ends a mutation: it waits if the user wants that, and prints the object.
func (c call) finish(m proto.Message, err error) error {
	if err != nil {
		return err
	}
	if m, err = c.settled(m); err != nil {
		return err
	}
	return c.printer().Object(m)
}

func (a *app) showCmd(k client.Kind) *cobra.Command {
	return &cobra.Command{
		Use: "show " + refUse(k), Short: "Show " + k.One(),
		Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.completeArgs(k),
		RunE: a.run(func(c call, args []string) error {
			m, err := c.get(k, args[0])
			if err != nil {
				return err
			}
			return c.printer().Object(m)
		}),
	}
}

func (c call) get(k client.Kind, ref string) (proto.Message, error) {
	id, err := c.id(k, ref)
	if err != nil {
		return nil, err
	}
	return c.conn.Get(c, k, id)
}

func (a *app) deleteCmd(k client.Kind) *cobra.Command {
	return &cobra.Command{
		Use: "delete " + refUse(k) + "…", Short: "Delete one or more " + k.Noun() + "s",
		Long: fmt.Sprintf("Delete one or more %ss. Nothing is deleted when one of the names is unknown or ambiguous; one that "+
			"the controllers refuse does not keep the others.", k.Noun()),
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.completeManyRefs(k),
		RunE: a.run(func(c call, refs []string) error {
			ids := make([]string, len(refs))
			for i, ref := range refs {
				var err error
				if ids[i], err = c.id(k, ref); err != nil {
					return err
				}
			}
			var errs []error
			for i, id := range ids {
				if err := c.conn.Delete(c, k, id); err != nil {
					errs = append(errs, fmt.Errorf("%s %s: %w", k.Noun(), refs[i], err))
					continue
				}
				fmt.Fprintf(c.env.Stdout, "deleted %s %s\n", k.Noun(), refs[i])
			}
			return errors.Join(errs...)
		}),
	}
}

func listCmd[M proto.Message](a *app, n noun[M]) *cobra.Command {
	q := client.Query{}
	all := false
	by := make([]string, len(n.filters))
	cmd := &cobra.Command{
		Use: "list", Short: "List " + n.kind.Noun() + "s",
		Args: args(cobra.NoArgs), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(c call, _ []string) error {
			if n.projects && !all {
				q.Project = c.project
			}
			if q.Limit < 0 {
				return usagef("--limit %d must not be negative", q.Limit)
			}
			var err error
			if q.Filter, err = c.filter(q.Filter, n.filters, by); err != nil {
				return err
			}
			objs, err := c.conn.List(c, n.kind, q)
			if err != nil {
				return err
			}
			return c.printer().List(objs, n.columns)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&q.Filter, "filter", "", "`terms` FIELD = VALUE or FIELD != VALUE, joined by AND")
	f.StringVar(&q.OrderBy, "sort", "", "`fields` to sort by, comma separated, each FIELD or \"FIELD desc\" (default: by id)")
	f.IntVar(&q.Limit, "limit", 0, "print at most `N` (0: all)")
	if n.projects {
		f.BoolVar(&all, "all-projects", false, "of every project")
	}
	for i, lf := range n.filters {
		f.StringVar(&by[i], lf.flag, "", lf.usage)
		if lf.kind != "" {
			complete(cmd, lf.flag, a.completeFlag(lf.kind))
		}
	}
	return cmd
}

// filter joins the user's own filter with those of the flags that were given.
func (c call) filter(own string, filters []listFilter, values []string) (string, error) {
	var terms []string
	if own != "" {
		terms = append(terms, own)
	}
	for i, f := range filters {
		v := values[i]
		if v == "" {
			continue
		}
		if f.kind != "" {
			var err error
			if v, err = c.id(f.kind, v); err != nil {
				return "", err
			}
		}
		terms = append(terms, f.path+" = "+client.Quote(v))
	}
	return strings.Join(terms, " AND "), nil
}
