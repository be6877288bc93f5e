// Command faultmatrix makes every fault of package e2e/faults on a lab of its own and prints what each cost. Exit code 1 when
// one cost more than is promised, or all was not right again in time. It must run as root; see `make e2e-faults`.
package main

import (
	"context"
	"encoding/json"
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

	"github.com/weft-sdn/weft/e2e/faults"
	"github.com/weft-sdn/weft/e2e/lab"
)

func main() {
	lab.BecomeHost() // a host of the lab is this program again
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "faultmatrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("faultmatrix", flag.ContinueOnError)
	only := flags.String("only", "", "only the cases whose id matches this regular expression")
	shortSet := flags.Bool("short", false, "only the short set that CI runs")
	list := flags.Bool("list", false, "list the cases instead of running them")
	bin := flags.String("bin", "bin", "folder of the binaries")
	name := flags.String("lab", "faults", "name of the lab to bring up")
	jsonFile := flags.String("json", "", "write the rows to this file too")
	earlier := flags.String("add", "", "the rows of an earlier run, from its --json file, come first")
	update := flags.String("update", "", "write the table into this document")
	dump := flags.String("dump", "", "write the lab's state after the first case that is not right to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	expression, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	o := faults.Options{Lab: *name, Cases: faults.Select(expression, *shortSet), Out: out}
	if *list {
		for _, c := range o.Cases {
			fmt.Fprintln(out, c.ID)
		}
		return nil
	}
	if o.Bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	if *dump != "" {
		file, err := os.Create(*dump)
		if err != nil {
			return err
		}
		defer file.Close()
		o.Dump = file
	}
	before, err := load(*earlier)
	if err != nil {
		return err
	}
	began := time.Now()
	rows, err := faults.Run(ctx, o)
	rows = append(before, rows...)
	fmt.Fprintf(out, "\n%s\n== %d cases in %s\n", faults.Table(rows), len(rows), time.Since(began).Round(time.Second))
	return errors.Join(err, keep(rows, *jsonFile, *update), verdict(rows))
}

// load reads the rows of an earlier run; none when there is no such file to be read.
func load(jsonFile string) (rows []faults.Row, err error) {
	if jsonFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(jsonFile)
	if err != nil {
		return nil, err
	}
	return rows, json.Unmarshal(text, &rows)
}

// keep writes the rows where they are wanted.
func keep(rows []faults.Row, jsonFile, document string) error {
	if jsonFile != "" {
		text, err := json.MarshalIndent(rows, "", "  ")
		if err == nil {
			err = os.WriteFile(jsonFile, append(text, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if document != "" {
		return faults.Update(document, rows)
	}
	return nil
}

func verdict(rows []faults.Row) error {
	wrong := 0
	for _, r := range rows {
		if len(r.Wrong) > 0 {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d cases are not right", wrong, len(rows))
	}
	return nil
}
