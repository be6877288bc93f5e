package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/fleet"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const applyLong = `Make what is stored as a file says: create what is missing, change what differs, leave alone what the file does not
name. A field that the file leaves out is left as it is; a list that is given is complete. A second apply of the same
file changes nothing and says "no changes".

The file is YAML with the keys project, segment_ranges, networks (with their subnets), address_groups, security_groups
(with their rules), ports, routers and floating_ips; objects refer to each other by name. deploy/examples/fleet.yaml shows all of it. Unknown keys are refused, and so is a
change of what can't be changed, before anything is done. An apply that a controller refuses half-way stops there; apply
the file again once the cause is removed.`

func (a *app) applyCmd() *cobra.Command {
	file, dryRun := "", false
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make what is stored as a file says", Long: applyLong,
		Example: "  weft apply -f fleet.yaml --dry-run\n  weft apply -f - < fleet.yaml",
		Args:    args(cobra.NoArgs), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(c call, _ []string) error {
			if file == "" {
				return usagef("-f is needed: the file, or - for standard input")
			}
			want, err := c.readFleet(file)
			if path := (*fs.PathError)(nil); errors.As(err, &path) {
				err = path.Err // the path is named here
			}
			if err != nil {
				return usageError{fmt.Errorf("%s: %w", file, err)}
			}
			return c.apply(want, dryRun)
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the `file`; -: standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, do nothing")
	a.wait.bind(cmd)
	return cmd
}

// maxFile bounds a fleet file.
const maxFile = 64 << 20

func (c call) readFleet(file string) (fleet.File, error) {
	in := c.env.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fleet.File{}, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return fleet.File{}, err
	}
	if len(text) > maxFile {
		return fleet.File{}, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	want, err := fleet.Parse(text)
	if want.Project == "" {
		want.Project = c.project
	}
	return want, err
}

func (c call) apply(want fleet.File, dryRun bool) error {
	current, err := c.current(want)
	if err != nil {
		return err
	}
	actions, err := fleet.Plan(current, want)
	if err != nil {
		return fmt.Errorf("nothing was changed:\n%w", err)
	}
	log := &applyLog{call: c, dryRun: dryRun}
	if dryRun {
		for _, act := range actions {
			if err := log.add(act); err != nil {
				return err
			}
		}
		return log.end(actions)
	}
	changed, err := c.execute(actions, log)
	if err != nil {
		return err
	}
	if err := log.end(actions); err != nil {
		return err
	}
	var errs []error
	for _, m := range changed {
		_, err := c.settled(m)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// current reads what a plan for the file needs.
func (c call) current(want fleet.File) (fleet.Current, error) {
	var cur fleet.Current
	all, own := client.Query{}, client.Query{Project: want.Project}
	for _, read := range []func() error{
		func() error {
			if len(want.SegmentRanges) == 0 { // they are operators' to see
				return nil
			}
			return fetch(c, client.SegmentRange, all, &cur.SegmentRanges)
		},
		func() error { return fetch(c, client.Network, all, &cur.Networks) },
		func() error { return fetch(c, client.NetworkGrant, own, &cur.Grants) },
		func() error { return fetch(c, client.Subnet, all, &cur.Subnets) },
		func() error { return fetch(c, client.AddressGroup, own, &cur.AddressGroups) },
		func() error { return fetch(c, client.SecurityGroup, own, &cur.SecurityGroups) },
		func() error { return fetch(c, client.SecurityGroupRule, own, &cur.Rules) },
		func() error { return fetch(c, client.Port, own, &cur.Ports) },
		func() error { return c.instances(want, cur.Ports) },
		func() error { return fetch(c, client.Router, own, &cur.Routers) },
		func() error { return fetch(c, client.FloatingIP, own, &cur.FloatingIPs) },
	} {
		if err := read(); err != nil {
			return cur, err
		}
	}
	return cur, nil
}

func fetch[M proto.Message](c call, k client.Kind, q client.Query, to *[]M) error {
	objs, err := c.conn.List(c, k, q)
	if err != nil {
		return fmt.Errorf("reading the %ss: %w", k.Noun(), err)
	}
	for _, m := range objs {
		typed, ok := m.(M)
		if !ok {
			return fmt.Errorf("reading the %ss: the controller sent a %T", k.Noun(), m)
		}
		*to = append(*to, typed)
	}
	return nil
}

// instances adds to ports what their VMs learn of themselves, where the file says something of that: lists do not tell.
func (c call) instances(want fleet.File, ports []*weftv1.Port) error {
	named := map[string]bool{}
	for _, p := range want.Ports {
		named[p.Name] = p.Instance != nil
	}
	for _, p := range ports {
		if !named[p.GetName()] {
			continue
		}
		m, err := c.conn.Get(c, client.Port, p.GetId())
		if err != nil && !client.IsNotFound(err) {
			return fmt.Errorf("reading port %s: %w", p.GetName(), err)
		}
		if full, ok := m.(*weftv1.Port); err == nil && ok {
			p.Instance = full.GetInstance()
		}
	}
	return nil
}

// execute takes the steps one by one until one fails, and returns the objects changed as they were stored last.
func (c call) execute(actions []fleet.Action, log *applyLog) ([]proto.Message, error) {
	ids := map[string]string{}
	var order []string
	last := map[string]proto.Message{}
	for _, act := range actions {
		if act.Request != nil {
			req, err := fleet.Fill(act.Request, ids)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", act.Noun, act.Name, err)
			}
			m, err := c.conn.Do(c, req)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", act.Noun, act.Name, err)
			}
			id := client.Field(m, "id")
			ids[act.Placeholder] = id
			if last[id] == nil {
				order = append(order, id)
			}
			last[id] = m
		}
		if err := log.add(act); err != nil {
			return nil, err
		}
	}
	var changed []proto.Message
	for _, id := range order {
		if waits(last[id]) {
			changed = append(changed, last[id])
		}
	}
	return changed, nil
}

// waits reports whether there is anything to wait for after a change of an object: a node that says what became of it.
func waits(m proto.Message) bool {
	_, subnet := m.(*weftv1.Subnet)
	_, status := m.(interface{ GetStatus() *weftv1.ObjectStatus })
	return subnet || status
}

// applyLog prints what is done: line by line for people, all at the end for programs.
type applyLog struct {
	call
	dryRun bool
	lines  []actionLine
}

// actionLine is an action for programs.
type actionLine struct {
	Action string `json:"action"`
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty"`
}

func (l *applyLog) add(act fleet.Action) error {
	if l.format == render.JSON || l.format == render.YAML {
		verb := map[fleet.Verb]string{fleet.Unchanged: "unchanged", fleet.Create: "create", fleet.Update: "update"}[act.Verb]
		l.lines = append(l.lines, actionLine{verb, act.Noun, act.Name, act.Detail})
		return nil
	}
	if l.dryRun {
		return l.printLine(act.Intent())
	}
	return l.printLine(act.String())
}

func (l *applyLog) end(actions []fleet.Action) error {
	if l.format != render.JSON && l.format != render.YAML {
		summary := fleet.Summary(actions)
		if l.dryRun && len(fleet.Changes(actions)) > 0 {
			summary = "nothing was done: this was a dry run"
		}
		return l.printLine(summary)
	}
	raw, err := json.Marshal(map[string]any{"actions": l.lines, "changed": len(fleet.Changes(actions)), "dry_run": l.dryRun})
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return l.printer().Raw(raw)
}
