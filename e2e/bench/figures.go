package main

import (
	"context"
	"regexp"
	"slices"
	"time"
)

// measurement is what measures some figures together.
type measurement struct {
	name string
	// run adds its samples. The lab has nothing when it begins but, perhaps, the external network; what it makes is removed.
	run     func(ctx context.Context, b *bench, got samples) error
	figures []figure
}

// measurements are all of them, in the order in which they run: what fills the fleet comes last.
func measurements() []measurement {
	return slices.Concat(wiring(), routing(), addressing(), streams(), restarts(), rates(), scale())
}

// selected are those with a figure whose id matches.
func selected(only *regexp.Regexp) []measurement {
	return slices.DeleteFunc(measurements(), func(m measurement) bool {
		return !slices.ContainsFunc(m.figures, func(f figure) bool { return only.MatchString(f.ID) })
	})
}

// stopwatch starts, and returns how to read it.
func stopwatch() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}
