package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const watchLong = `Print changes as they happen, until interrupted: one line each, with the store revision, what happened (PUT, DELETE,
STATUS), the kind, the id, the name and the state. With -o json, each line is an event of the API; with -o yaml, each is
a document.`

func (a *app) watchCmd() *cobra.Command {
	req := &weftv1.WatchRequest{}
	all, count := false, 0
	cmd := &cobra.Command{
		Use: "watch [KIND]…", Short: "Print changes as they happen", Long: watchLong,
		Example:           "  weft watch port router\n  weft watch --from 1234 -o json",
		ValidArgsFunction: cobra.FixedCompletions(kindWords(), cobra.ShellCompDirectiveNoFileComp),
		RunE: a.run(func(c call, args []string) error {
			var err error
			if req.Kinds, err = parseKinds(args); err != nil {
				return err
			}
			if !all {
				req.Project = c.project
			}
			return c.watch(req, count)
		}),
	}
	cmd.Flags().Int64Var(&req.Revision, "from", 0, "changes after this store `revision` (0: from now on)")
	cmd.Flags().BoolVar(&all, "all-projects", false, "of every project")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` changes (0: never)")
	return cmd
}

// kindWords are the kinds as the command line calls them.
func kindWords() []string {
	var out []string
	for n := range weftv1.Kind_name {
		if n != 0 {
			out = append(out, kindWord(weftv1.Kind(n)))
		}
	}
	slices.Sort(out)
	return out
}

func kindWord(k weftv1.Kind) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k.String(), "KIND_")), "_", "")
}

func parseKinds(words []string) ([]weftv1.Kind, error) {
	var out []weftv1.Kind
	for _, w := range words {
		i := slices.IndexFunc(kindWords(), func(k string) bool { return k == w || k+"s" == w })
		if i < 0 {
			return nil, usagef("%q is not one of %s", w, strings.Join(kindWords(), ", "))
		}
		for n := range weftv1.Kind_name {
			if k := weftv1.Kind(n); kindWord(k) == kindWords()[i] {
				out = append(out, k)
			}
		}
	}
	return out, nil
}

// errEnough ends a watch that was to print so many changes only.
type errEnough struct{}

func (errEnough) Error() string { return "enough" }

func (c call) watch(req *weftv1.WatchRequest, count int) error {
	seen := 0
	err := c.conn.Watch(c, req, func(e *weftv1.WatchEvent) error {
		if e.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK {
			return nil
		}
		if err := c.printEvent(e); err != nil {
			return err
		}
		if seen++; seen == count {
			return errEnough{}
		}
		return nil
	})
	if errors.Is(err, errEnough{}) {
		return nil
	}
	return err
}

func (c call) printEvent(e *weftv1.WatchEvent) error {
	switch c.format {
	case render.JSON:
		raw, err := render.Marshal(e)
		if err != nil {
			return err
		}
		return c.printLine(string(raw))
	case render.YAML:
		if err := c.printLine("---"); err != nil {
			return err
		}
		return c.printer().Object(e)
	case render.Table, render.Wide:
	}
	return c.printLine(eventLine(e, c.format == render.Wide))
}

func (c call) printLine(s string) error {
	if _, err := fmt.Fprintln(c.env.Stdout, s); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// eventLine is a change for people.
func eventLine(e *weftv1.WatchEvent, wide bool) string {
	what := strings.TrimPrefix(e.GetType().String(), "TYPE_")
	obj := eventObject(e)
	if obj == nil {
		return fmt.Sprintf("%d  %s", e.GetRevision(), what)
	}
	paths := []string{"id", "name", "status.state", "status.message"}
	if client.Status(obj).GetMessage() == "" {
		paths[len(paths)-1] = "status.reason"
	}
	if wide {
		paths = append(paths, "project", "network_id", "bound_host")
	}
	kind := strings.ReplaceAll(client.KindOf(obj).Noun(), " ", "")
	return fmt.Sprintf("%d  %-6s  %-12s  %s", e.GetRevision(), what, strings.ToLower(kind), render.Summary(obj, paths...))
}

// eventObject is the object that an event is about, nil when there is none.
func eventObject(e *weftv1.WatchEvent) proto.Message {
	m := e.ProtoReflect()
	of := m.WhichOneof(m.Descriptor().Oneofs().ByName("object"))
	if of == nil {
		return nil
	}
	return m.Get(of).Message().Interface()
}
