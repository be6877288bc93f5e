package faults_test

import (
	"os"
	"path/filepath"
	"regexp"
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

// TestTheShortSetOfFaultsCostsWhatIsPromised is the part of the matrix that CI runs.
func TestTheShortSetOfFaultsCostsWhatIsPromised(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	cases := faults.Select(regexp.MustCompile(""), true)
	rows, err := faults.Run(t.Context(), faults.Options{Bin: bin, Lab: "e2e-faults", Cases: cases, Out: t.Output(), Dump: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(cases) || len(rows) == 0 {
		t.Errorf("%d of %d cases were run", len(rows), len(cases))
	}
	for _, r := range rows {
		for _, wrong := range r.Wrong {
			t.Errorf("%s: %s", r.ID, wrong)
		}
	}
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
