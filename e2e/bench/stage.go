package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// stage is a lab, and what is measured in it.
type stage struct {
	// lab ends the lab's name.
	lab string
	// shape changes the default lab; nil leaves it.
	shape func(*lab.Options)
	// prepare makes what all measurements of the stage share and leave as it was. With nil each begins with nothing but,
	// perhaps, the external network, and what it makes is removed after it.
	prepare      func(ctx context.Context, b *bench) error
	measurements []measurement
}

// stages are all of them. In the first, what fills the fleet comes last.
func stages() []stage {
	return []stage{
		{measurements: slices.Concat(wiring(), routing(), metadata(), addressing(), streams(), restarts(), rates(), scale())},
		{lab: "-ha", shape: poolShape, prepare: preparePool, measurements: slices.Concat(failovers(), drains(), outages())},
		{lab: "-ovs", shape: switchShape, measurements: switchRestarts()},
		{lab: "-standby", shape: standbyShape, measurements: standbys()},
		{lab: "-filters", shape: filterShape, measurements: filtering()},
		{lab: "-cold", shape: coldShape, measurements: coldStarts()},
	}
}

// measurements are those of all stages.
func measurements() []measurement {
	var out []measurement
	for _, s := range stages() {
		out = append(out, s.measurements...)
	}
	return out
}

// selected are the stages with only those measurements that have a figure whose id matches.
func selected(only *regexp.Regexp) []stage {
	out := stages()
	for i := range out {
		out[i].measurements = slices.DeleteFunc(out[i].measurements, func(m measurement) bool {
			return !slices.ContainsFunc(m.figures, func(f figure) bool { return only.MatchString(f.ID) })
		})
	}
	return slices.DeleteFunc(out, func(s stage) bool { return len(s.measurements) == 0 })
}

// preparation bounds what a stage's measurements share.
const preparation = 4 * time.Minute

// run brings the stage's lab up, measures, and takes the lab down whatever happens.
func (s stage) run(ctx context.Context, o options, out io.Writer) (results []result, err error) {
	labOptions := lab.Defaults()
	labOptions.Name, labOptions.Bin = o.name+s.lab, o.bin
	if s.shape != nil {
		s.shape(&labOptions)
	}
	fmt.Fprintf(out, "== bringing up lab %s: %d network nodes, %d compute nodes, %d controllers, %d etcd\n",
		labOptions.Name, labOptions.NetworkNodes, labOptions.ComputeNodes, labOptions.Controllers, labOptions.Etcd)
	l, err := lab.Up(ctx, labOptions)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, down(ctx, l)) }()
	b, err := newBench(ctx, l, o.n, out)
	if err != nil {
		return nil, err
	}
	defer b.close()
	if s.prepare != nil {
		b.keep = true
		began := time.Now()
		preparing, cancel := context.WithTimeout(ctx, preparation)
		defer cancel()
		if err := s.prepare(preparing, b); err != nil {
			return nil, fmt.Errorf("prepare lab %s: %w", labOptions.Name, err)
		}
		fmt.Fprintf(out, "== prepared in %s\n", time.Since(began).Round(100*time.Millisecond))
	}
	return b.all(ctx, s.measurements)
}
