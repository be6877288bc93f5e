// Package e2e holds the scenarios: what crosses hosts, on labs of simulated hosts with the real programs.
package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/tour"
)

func TestMain(m *testing.M) {
	lab.BecomeHost() // a host of a lab is this program again
	m.Run()
}

// up brings up a lab for a test and has it dumped when the test fails.
func up(t *testing.T, name string, change func(*lab.Options)) *lab.Lab {
	t.Helper()
	options := lab.Defaults()
	options.Name = name
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	options.Bin = bin
	if change != nil {
		change(&options)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			if err := l.Dump(ctx, os.Stderr); err != nil {
				t.Log(err)
			}
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return l
}

// audit wants the store and every host to be as the stored objects call for, as soon as all has settled.
func audit(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	found, err := check.Await(ctx, l, patience)
	if err != nil {
		t.Error(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

func TestTour(t *testing.T) {
	tr := tour.New(up(t, "e2e-tour", nil), t.Output())
	for _, step := range tour.Steps() {
		if !t.Run(step.Title, func(t *testing.T) {
			if err := step.Run(t.Context(), tr); err != nil {
				t.Fatal(err)
			}
		}) {
			return
		}
	}
}
