// Package chaos drives a lab with random steps: objects made, changed and deleted through the API, VMs plugged and unplugged,
// daemons killed, held and restarted, hosts rebooted, cables cut, nodes drained. Now and then it mends everything, and the
// independent audit (package check) must find nothing. A seed stands for one sequence of steps, whatever their outcome, so
// that what was found can be replayed; what happens at the same time as what is not part of the sequence.
//
// It takes the lab for its own: in the end it deletes every object there is. It measures nothing: package faults does.
package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
)

// Options describes a run.
type Options struct {
	Seed     uint64
	Steps    int           // at most so many; 0 is no limit
	Duration time.Duration // no step begins later; 0 is no limit
	Every    int           // steps between two audits; 0 is DefaultEvery
	Patience time.Duration // for all to come right once everything is mended; 0 is DefaultPatience
	APIOnly  bool          // break nothing
	Without  []Op          // steps that are left out; the others stay the same
	Out      io.Writer     // a line per step; nil: none
}

// The usual options.
const (
	DefaultEvery    = 100
	DefaultPatience = time.Minute
)

// callTime bounds one call of the API, with the store away.
const callTime = 10 * time.Second

// Result is what came of a run.
type Result struct {
	Steps   int            // that were done
	Skipped int            // whose object had not been made
	Refused map[string]int // by gRPC code
	Audits  int
	Took    time.Duration
}

// String is a line for a reader.
func (r Result) String() string {
	var refused []string
	for _, code := range slices.Sorted(maps.Keys(r.Refused)) {
		refused = append(refused, fmt.Sprintf("%s %d", code, r.Refused[code]))
	}
	return fmt.Sprintf("%d steps in %s, %d of them skipped, refused %v, %d audits", r.Steps, r.Took.Round(time.Second), r.Skipped, refused, r.Audits)
}

// Finding is what an audit found, and after which step. The lab is left as it is.
type Finding struct {
	Seed  uint64
	Step  int
	Found []check.Finding
}

// Error lists what was found.
func (f *Finding) Error() string {
	out := fmt.Sprintf("seed %d, after step %d: %d findings", f.Seed, f.Step, len(f.Found))
	for i, one := range f.Found {
		if i == 20 {
			return out + "\n  …"
		}
		out += "\n  " + one.String()
	}
	return out
}

// Run drives a lab that is up. The error is a *Finding when an audit found something, and another when a step failed in a
// way that no fault explains; the result tells how far the run came.
func Run(ctx context.Context, l *lab.Lab, o Options) (Result, error) {
	o.Every, o.Patience = cmp.Or(o.Every, DefaultEvery), cmp.Or(o.Patience, DefaultPatience)
	if o.Out == nil {
		o.Out = io.Discard
	}
	f, err := fleet.Open(l, callTime)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = f.Close() }() // nothing is pending
	hosts, err := l.Hosts()
	if err != nil {
		return Result{}, err
	}
	d := &driver{Fleet: f, options: o, generator: NewGenerator(o.Seed, hosts, o.APIOnly), ids: map[string]string{}, macs: map[string]string{}}
	d.result.Refused = map[string]int{}
	began := time.Now()
	err = d.run(ctx)
	d.result.Took = time.Since(began)
	return d.result, err
}

func (d *driver) run(ctx context.Context) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	over := ctx
	if d.options.Duration > 0 {
		var stop context.CancelFunc
		over, stop = context.WithTimeout(ctx, d.options.Duration)
		defer stop()
	}
	for over.Err() == nil && (d.options.Steps == 0 || d.result.Steps < d.options.Steps) {
		step := d.generator.Next()
		d.result.Steps++
		fmt.Fprintf(d.options.Out, "%d %s", d.result.Steps, step)
		outcome, err := d.try(ctx, step)
		fmt.Fprintf(d.options.Out, "%s\n", outcome)
		if err != nil {
			return fmt.Errorf("seed %d, step %d, %s: %w", d.options.Seed, d.result.Steps, step, err)
		}
		if d.result.Steps%d.options.Every == 0 {
			if err := d.audit(ctx); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(d.audit(ctx), ctx.Err()); err != nil {
		return err
	}
	if err := d.clear(ctx); err != nil {
		return err
	}
	return d.audit(ctx)
}

// try does a step unless it is one to leave out.
func (d *driver) try(ctx context.Context, s Step) (string, error) {
	if slices.Contains(d.options.Without, s.Op) {
		return ": left out", nil
	}
	return d.do(ctx, s)
}

// audit mends everything and has the lab looked at.
func (d *driver) audit(ctx context.Context) error {
	if end, broken := d.generator.Mend(); broken {
		outcome, err := d.do(ctx, end)
		fmt.Fprintf(d.options.Out, "- %s%s\n", end, outcome)
		if err != nil {
			return fmt.Errorf("seed %d, after step %d, %s: %w", d.options.Seed, d.result.Steps, end, err)
		}
	}
	began := time.Now()
	found, err := check.Await(ctx, d.Lab, d.options.Patience)
	if err == nil && len(found) > 0 {
		err = &Finding{d.options.Seed, d.result.Steps, found}
	}
	d.result.Audits++
	fmt.Fprintf(d.options.Out, "- audit: %d findings after %s\n", len(found), time.Since(began).Round(10*time.Millisecond))
	return err
}
