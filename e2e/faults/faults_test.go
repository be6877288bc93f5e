package faults_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/faults"
	"github.com/weft-sdn/weft/e2e/lab"
)

func TestMain(m *testing.M) {
	lab.BecomeHost()
	m.Run()
}

// TestTheShortSetOfFaultsCostsWhatIsPromised is the part of the matrix that CI runs. A machine that stops for a third of a second
// makes nodes lose each other, and a router move, without anybody's fault: a case that is not right is made once more, and has
// to be right then.
func TestTheShortSetOfFaultsCostsWhatIsPromised(t *testing.T) {
	cases := faults.Select(regexp.MustCompile(""), true)
	wrong := make(map[string]bool)
	for _, r := range strike(t, cases) {
		wrong[r.ID] = len(r.Wrong) > 0
	}
	again := slices.DeleteFunc(cases, func(c faults.Case) bool { return !wrong[c.ID] })
	if len(again) == 0 {
		return
	}
	for _, r := range strike(t, again) {
		for _, w := range r.Wrong {
			t.Errorf("%s: %s", r.ID, w)
		}
	}
}

// strike makes each case once.
func strike(t *testing.T, cases []faults.Case) []faults.Row {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := faults.Run(t.Context(), faults.Options{Bin: bin, Lab: "e2e-faults", Cases: cases, Out: t.Output(), Dump: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(cases) || len(rows) == 0 {
		t.Fatalf("%d of %d cases were run", len(rows), len(cases))
	}
	return rows
}

func TestEveryCaseHasAnIDOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range faults.Cases() {
		if seen[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		seen[c.ID] = true
	}
}

func TestTheTableGoesBetweenItsComments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "failure.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("before\n<!-- e2e-faults: table -->\nold\n<!-- e2e-faults: end -->\nafter\n")
	row := faults.Row{What: "the agent", How: "SIGKILL", Load: faults.Busy, Clean: time.Second, Lost: map[string]faults.Loss{
		faults.East: {Echoes: 3, Longest: 20 * time.Millisecond},
	}, Changes: faults.Changes{Done: 9, Failed: 1}}
	if err := faults.Update(path, []faults.Row{row}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	want := "| the agent | SIGKILL | 20 changes/s | nothing | 3 (0.02 s) | 0 | 0 | 1 of 10 | 1.0 s |\n<!-- e2e-faults: end -->\nafter\n"
	if err != nil || !strings.HasPrefix(string(text), "before\n") || !strings.HasSuffix(string(text), want) || strings.Contains(string(text), "old") {
		t.Errorf("%v\n%s", err, text)
	}
	write("no place")
	if err := faults.Update(path, nil); err == nil {
		t.Error("a document without a place for the table was written")
	}
}
