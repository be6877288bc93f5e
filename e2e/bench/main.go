// Command bench measures the figures of docs/benchmarks.md in labs of its own, with real packets, and prints their medians
// and ranges as a table that says which reach is met. It must run as root; see `make bench`. It is not a test: a figure
// that is missed is printed, not failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

func main() {
	lab.BecomeHost() // a host of the lab is this program again
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = measure(ctx, o, os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	only *regexp.Regexp
	json string
	n    int
	bin  string
	name string
	// list has the figures printed instead of measured.
	list bool
}

func parse(args []string, usage io.Writer) (options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	only := flags.String("only", "", "measure only what has a figure whose id matches this regular expression")
	o := options{}
	flags.StringVar(&o.json, "json", "", "write the figures to this file too")
	flags.IntVar(&o.n, "n", 10, "repetitions; long ones are repeated less often")
	flags.StringVar(&o.bin, "bin", "bin", "folder of the binaries")
	flags.StringVar(&o.name, "name", "bench", "what the names of the labs begin with: two runs on one machine need two")
	flags.BoolVar(&o.list, "list", false, "list the figures and what lies between their clock reads")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.n < 1 {
		return o, fmt.Errorf("--n %d: must be at least 1", o.n)
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	o.bin, err = filepath.Abs(o.bin)
	return o, err
}

// measure brings one lab up after the other, measures in it, and prints. A stage that fails does not keep the others from
// being measured.
func measure(ctx context.Context, o options, out io.Writer) error {
	todo := selected(o.only)
	if len(todo) == 0 {
		return fmt.Errorf("--only %s: no figure has such an id", o.only)
	}
	var all []measurement
	for _, s := range todo {
		all = append(all, s.measurements...)
	}
	if o.list {
		explain(out, all)
		return nil
	}
	began := time.Now()
	var results []result
	var failed error
	for _, s := range todo {
		got, err := s.run(ctx, o, out)
		results, failed = append(results, got...), errors.Join(failed, err)
	}
	table(out, results)
	explain(out, all)
	fmt.Fprintf(out, "\n== measured in %s\n", time.Since(began).Round(time.Second))
	if o.json != "" {
		failed = errors.Join(failed, writeJSON(o.json, results))
	}
	return failed
}

func down(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return l.Down(ctx)
}

// all measures one after the other; what fails does not keep the others from being measured.
func (b *bench) all(ctx context.Context, todo []measurement) ([]result, error) {
	var results []result
	var failed error
	for _, m := range todo {
		began := time.Now()
		got, err := b.one(ctx, m)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(b.out, "== %s FAILED: %v\n", m.name, err)
		} else {
			fmt.Fprintf(b.out, "== %s: %s\n", m.name, time.Since(began).Round(100*time.Millisecond))
		}
		for _, f := range m.figures {
			results = append(results, result{figure: f, samples: got[f.ID]})
		}
		if ctx.Err() != nil {
			break
		}
	}
	return results, failed
}

// measurementTime bounds one measurement, preparation and cleaning included.
const measurementTime = 5 * time.Minute

func (b *bench) one(ctx context.Context, m measurement) (samples, error) {
	ctx, cancel := context.WithTimeout(ctx, measurementTime)
	defer cancel()
	got := samples{}
	err := m.run(ctx, b, got)
	return got, errors.Join(err, b.clean(ctx))
}
