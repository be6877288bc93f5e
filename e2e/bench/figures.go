package main

import (
	"context"
	"time"
)

// measurement is what measures some figures together.
type measurement struct {
	name string
	// run adds its samples. What the lab has when it begins is for the stage to say.
	run     func(ctx context.Context, b *bench, got samples) error
	figures []figure
}

// stopwatch starts, and returns how to read it.
func stopwatch() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}
