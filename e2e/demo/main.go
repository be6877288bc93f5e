// Command demo shows what weft does: it brings up a lab of simulated hosts, walks through the tour of package tour with
// real packets, and takes the lab down again. It must run as root; see `make demo`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/tour"
)

func main() {
	lab.BecomeHost() // a host of the lab is this program again
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := show(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func show(ctx context.Context, out io.Writer) (err error) {
	options := lab.Defaults()
	options.Name = "demo"
	options.Bin = "bin"
	if dir := os.Getenv("WEFT_BIN"); dir != "" {
		options.Bin = dir
	}
	if options.Bin, err = filepath.Abs(options.Bin); err != nil {
		return err
	}
	began := time.Now()
	fmt.Fprintln(out, "== bringing up a lab: 1 etcd, 1 controller, 2 network nodes, 2 compute nodes, 2 outsides")
	l, err := lab.Up(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		// The lab goes even when the demo was interrupted.
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, l.Down(down))
	}()
	fmt.Fprintf(out, "   ready after %s\n", time.Since(began).Round(100*time.Millisecond))
	t := tour.New(l, out)
	steps := tour.Steps()
	for i, step := range steps {
		fmt.Fprintf(out, "\n== %d/%d %s\n", i+1, len(steps), step.Title)
		if err := step.Run(ctx, t); err != nil && ctx.Err() != nil {
			return fmt.Errorf("step %d: interrupted", i+1)
		} else if err != nil {
			return errors.Join(fmt.Errorf("step %d: %w", i+1, err), l.Dump(context.WithoutCancel(ctx), os.Stderr))
		}
	}
	fmt.Fprintf(out, "\n== all %d steps proved, in %s\n", len(steps), time.Since(began).Round(time.Second))
	return nil
}
