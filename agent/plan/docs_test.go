package plan_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestTheDumpsOfThePipelineDocumentAreThoseOfTheGoldenText keeps docs/pipeline.md true.
func TestTheDumpsOfThePipelineDocumentAreThoseOfTheGoldenText(t *testing.T) {
	document, err := os.ReadFile("../../docs/pipeline.md")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/cmp1.golden")
	if err != nil {
		t.Fatal(err)
	}
	flows, shown := strings.Split(string(golden), "\n"), 0
	for line := range strings.Lines(string(document)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "table=") {
			continue
		}
		shown++
		if !slices.Contains(flows, line) {
			t.Errorf("docs/pipeline.md shows a flow that cmp1 does not have:\n%s", line)
		}
	}
	if shown == 0 {
		t.Error("docs/pipeline.md shows no flow")
	}
}
