// Package faults makes every fault of a matrix on a lab that carries traffic, one after the other: each daemon killed, held
// and restarted, each cable cut, hosts without power, while the API is idle and while 20 changes a second go through it. Of
// each it notes what a running ping lost, what an operator saw, and how long it took until the independent audit (package
// check) found nothing. docs/failure.md has the resulting table. Random sequences of faults are package chaos's.
package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
)

// Options describes a run.
type Options struct {
	Bin      string // folder of the binaries
	Lab      string // name of the lab that the run brings up
	Cases    []Case
	Patience time.Duration // until all has come right after a fault; 0 is DefaultPatience
	Out      io.Writer     // progress
	Dump     io.Writer     // the lab's state after the first case that is not right; nil: none
}

// DefaultPatience is how long after a fault everything must be right again.
const DefaultPatience = time.Minute

// Row is what came of a case.
type Row struct {
	ID      string          `json:"id"`
	What    string          `json:"what"`
	How     string          `json:"how"`
	Load    Load            `json:"load"`
	Seen    string          `json:"seen"` // by an operator, while it lasted
	Lost    map[string]Loss `json:"lost"` // by flow
	Changes Changes         `json:"changes"`
	Clean   time.Duration   `json:"clean_ns"`        // from its end until the audit found nothing
	Last    string          `json:"last"`            // what it found the last time it did, if that took its time
	Moved   string          `json:"moved,omitempty"` // where the router was in the end, if not where it began, and why
	Wrong   []string        `json:"wrong,omitempty"`
}

// Loss is what one ping lost.
type Loss struct {
	Echoes  int           `json:"echoes"`
	Longest time.Duration `json:"longest_ns"` // the longest silence
}

// Changes counts those made through the API meanwhile.
type Changes struct {
	Done   int `json:"done"`
	Failed int `json:"failed"`
}

// Run brings a lab up, goes through the cases and takes it down. A case that is not right has its row say so and does not
// keep the others from being run; the error is one that does.
func Run(ctx context.Context, o Options) (rows []Row, err error) {
	o.Patience = cmp.Or(o.Patience, DefaultPatience)
	options := lab.Defaults()
	options.Name, options.Bin, options.Controllers, options.Etcd, options.NetworkNodes, options.Externals = o.Lab, o.Bin, 2, 3, 3, 1
	l, err := lab.Up(ctx, options)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, l.Down(ctx))
	}()
	w, err := newWorld(ctx, l)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }() // nothing is pending
	dumped := o.Dump == nil
	for i, c := range o.Cases {
		row, err := w.run(ctx, c, o)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", c.ID, err)
		}
		rows = append(rows, row)
		fmt.Fprintf(o.Out, "%d/%d %s: %s\n", i+1, len(o.Cases), c.ID, row)
		if len(row.Wrong) > 0 && !dumped {
			dumped = true
			err = l.Dump(ctx, o.Dump)
		}
		if err != nil || ctx.Err() != nil {
			return rows, errors.Join(err, ctx.Err())
		}
	}
	return rows, nil
}

// run makes one fault. Its error is that of a lab which is not fit for one.
func (w *world) run(ctx context.Context, c Case, o Options) (Row, error) {
	row := Row{ID: c.ID, What: c.What, How: c.How, Load: c.Load, Lost: map[string]Loss{}}
	if found, err := w.settled(ctx, o.Patience); err != nil || len(found) > 0 {
		return row, fmt.Errorf("before it: %w: %s", cmp.Or(err, errNotClean), list(found))
	}
	if err := w.locate(ctx); err != nil {
		return row, err
	}
	runs, err := w.startPings(ctx)
	if err != nil {
		return row, err
	}
	stop := w.load(ctx, c.Load, o.Out)
	err = w.strike(ctx, c, &row)
	ended := time.Now()
	row.Changes = stop()
	if err != nil {
		row.Wrong = append(row.Wrong, err.Error())
	}
	err = w.sweep(ctx)
	found, auditErr := check.Follow(ctx, w.Lab, o.Patience, func(found []check.Finding, err error) {
		if since := time.Since(ended); since > slow && (err != nil || len(found) > 0) {
			row.Last = fmt.Sprintf("%v %s", err, list(found))
		}
	})
	row.Clean = time.Since(ended)
	if err = errors.Join(err, auditErr); err != nil || len(found) > 0 {
		row.Wrong = append(row.Wrong, fmt.Sprintf("not right after %s: %v %s", o.Patience, err, list(found)))
	}
	row.Moved = w.moved(ctx)
	w.count(c, runs, &row)
	return row, nil
}

// slow is how long all may take to come right without anybody's wondering what took so long.
const slow = 5 * time.Second

var errNotClean = errors.New("the audit finds something")

func list(found []check.Finding) string {
	var texts []string
	for i, f := range found {
		if i == 10 {
			texts = append(texts, fmt.Sprintf("and %d more", len(found)-i))
			break
		}
		texts = append(texts, f.String())
	}
	return strings.Join(texts, "; ")
}

func (w *world) startPings(ctx context.Context) ([]*echo.Run, error) {
	var runs []*echo.Run
	for _, p := range w.pings {
		r, err := p.from.StartPing(ctx, echo.Options{Destination: p.to})
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// interval is that of the pings.
const interval = 10 * time.Millisecond

// count ends the pings and notes what they lost, and what of it was more than they may.
func (w *world) count(c Case, runs []*echo.Run, row *Row) {
	var wait sync.WaitGroup
	stats := make([]echo.Stats, len(runs))
	for i, r := range runs {
		wait.Go(func() { stats[i] = r.Stop() })
	}
	wait.Wait()
	for i, s := range stats {
		name := w.pings[i].name
		row.Lost[name] = Loss{s.Lost(), time.Duration(s.LongestLoss) * interval}
		if bound, ok := c.Expect[name]; ok && s.Lost() > bound.Lost {
			row.Wrong = append(row.Wrong, fmt.Sprintf("%s: %s; at most %d lost are promised", name, s, bound.Lost))
		}
	}
}

// load begins what goes on in the API; the function that it returns ends it.
func (w *world) load(ctx context.Context, load Load, log io.Writer) func() Changes {
	if load == Idle {
		return func() Changes { return Changes{} }
	}
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan Changes, 1)
	go func() {
		done, failed := w.changes(ctx, log)
		result <- Changes{done, failed}
	}()
	return func() Changes { cancel(); return <-result }
}

// lead is how long all goes on before and after a fault.
const lead = time.Second

// strike breaks something, looks at it as an operator would, and mends it.
func (w *world) strike(ctx context.Context, c Case, row *Row) error {
	if err := sleep(ctx, lead); err != nil {
		return err
	}
	if err := c.begin(ctx, w); err != nil {
		return errors.Join(fmt.Errorf("break it: %w", err), c.end(ctx, w))
	}
	over := time.Now().Add(c.hold)
	err := sleep(ctx, c.hold*3/4)
	if c.hold > 0 {
		row.Seen = strings.TrimSuffix(w.seen(ctx), "; ")
	}
	err = errors.Join(err, sleep(ctx, time.Until(over)))
	if endErr := c.end(context.WithoutCancel(ctx), w); endErr != nil {
		return fmt.Errorf("mend it: %w", endErr)
	}
	return errors.Join(err, sleep(ctx, lead))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// String is a row in a line.
func (r Row) String() string {
	out := ""
	for _, flow := range []string{East, Outbound, Floating} {
		out += fmt.Sprintf("%s %s; ", flow, r.Lost[flow])
	}
	out += fmt.Sprintf("right after %s", r.Clean.Round(10*time.Millisecond))
	if r.Load == Busy {
		out += fmt.Sprintf("; %d changes, %d failed", r.Changes.Done, r.Changes.Failed)
	}
	if r.Seen != "" {
		out += "; seen: " + r.Seen
	}
	if r.Moved != "" {
		out += "; router moved: " + r.Moved
	}
	if r.Last != "" {
		out += "\n  the last to come right: " + r.Last
	}
	for _, wrong := range r.Wrong {
		out += "\n  NOT RIGHT: " + wrong
	}
	return out
}

// String is a loss as the table shows it.
func (l Loss) String() string {
	if l.Echoes == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.2f s)", l.Echoes, l.Longest.Seconds())
}

// The comments between which Update writes the table.
const (
	tableBegin = "<!-- e2e-faults: table -->"
	tableEnd   = "<!-- e2e-faults: end -->"
)

// Table is the rows as a table for docs/failure.md.
func Table(rows []Row) string {
	var b strings.Builder
	b.WriteString("| what fails | how | meanwhile | the operator sees | lost: same network | lost: outbound, SNAT | lost: floating IP | changes failed | audit clean after |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		changes := "-"
		if r.Load == Busy {
			changes = fmt.Sprintf("%d of %d", r.Changes.Failed, r.Changes.Done+r.Changes.Failed)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %.1f s |\n", r.What, r.How, r.Load, cmp.Or(r.Seen, "nothing"),
			r.Lost[East], r.Lost[Outbound], r.Lost[Floating], changes, r.Clean.Seconds())
	}
	return b.String()
}

// Update writes the table into a document, between its two comments.
func Update(path string, rows []Row) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), tableBegin)
	_, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s: there is no place for the table: %s … %s", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(head+tableBegin+"\n"+Table(rows)+tableEnd+tail), 0o644)
}
