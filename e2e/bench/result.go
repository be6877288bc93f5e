package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// figure is one number that is measured.
type figure struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Reach is what the median should be: at most, or with AtLeast at least. 0: the figure is for orientation.
	Reach   float64 `json:"reach,omitempty"`
	AtLeast bool    `json:"at_least,omitempty"`
	// Every: the reach holds for every sample, not the median.
	Every bool `json:"every,omitempty"`
	// Zero: the reach is 0, in every sample.
	Zero bool `json:"zero,omitempty"`
	// Between says what lies between the two clock reads, or what is counted.
	Between string `json:"between"`
}

// samples are what was measured, by the figure's id.
type samples map[string][]float64

func (s samples) add(id string, v float64) { s[id] = append(s[id], v) }

// took adds a time, in milliseconds.
func (s samples) took(id string, d time.Duration) { s.add(id, float64(d)/float64(time.Millisecond)) }

// result is a figure with its samples; none when the measurement failed.
type result struct {
	figure
	samples []float64
}

// median is the middle of the samples, between the two middle ones when their number is even; 0 of none.
func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// met says whether the reach is met: "yes", "no", or "" when there is none.
func (r result) met() string {
	m := median(r.samples)
	if r.Every && len(r.samples) > 0 {
		m = slices.Max(r.samples)
	}
	switch {
	case len(r.samples) == 0:
		return "not measured"
	case r.Zero && slices.Max(r.samples) > 0:
		return "no"
	case r.Reach == 0 && !r.Zero:
		return ""
	case r.AtLeast && m >= r.Reach, !r.AtLeast && m <= r.Reach:
		return "yes"
	default:
		return "no"
	}
}

func (r result) reach() string {
	switch {
	case r.Zero:
		return "0"
	case r.Reach == 0:
		return ""
	case r.AtLeast:
		return ">= " + number(r.Reach) + " " + r.Unit
	default:
		return "<= " + number(r.Reach) + " " + r.Unit
	}
}

func (r result) value() string {
	if len(r.samples) == 0 {
		return "-"
	}
	text := number(median(r.samples))
	if len(r.samples) > 1 {
		text += " (" + number(slices.Min(r.samples)) + "-" + number(slices.Max(r.samples)) + ")"
	}
	return text + " " + r.Unit
}

// number shows three digits, or all of a large number's.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// table prints the results in the form of a Markdown table.
func table(out io.Writer, results []result) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "\n| figure\t| median (min-max)\t| n\t| reach\t| met\t|")
	fmt.Fprintln(w, "|---\t|---\t|---\t|---\t|---\t|")
	for _, r := range results {
		fmt.Fprintf(w, "| %s\t| %s\t| %d\t| %s\t| %s\t|\n", r.Name, r.value(), len(r.samples), r.reach(), r.met())
	}
	_ = w.Flush() // to a terminal; a broken pipe ends the process
}

// explain prints what lies between the clock reads of each figure.
func explain(out io.Writer, todo []measurement) {
	fmt.Fprintln(out, "\nWhat lies between the two clock reads:")
	for _, m := range todo {
		for _, f := range m.figures {
			fmt.Fprintf(out, "  %s (%s): %s\n", f.Name, f.ID, f.Between)
		}
	}
}

// writeJSON writes the results with every sample.
func writeJSON(path string, results []result) error {
	type row struct {
		figure
		Median  float64   `json:"median"`
		Met     string    `json:"met,omitempty"`
		Samples []float64 `json:"samples"`
	}
	rows := []row{}
	for _, r := range results {
		rows = append(rows, row{r.figure, median(r.samples), r.met(), r.samples})
	}
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}
