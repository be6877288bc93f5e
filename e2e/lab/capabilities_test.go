package lab

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// What the lab's agents run with, through all scenarios, is what the unit gives them.
func TestAgentsRunWithWhatTheUnitGivesThem(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/weft-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	line, _, _ := strings.Cut(after, "\n")
	want := []string{"-all"}
	for _, c := range strings.Fields(line) {
		want = append(want, "+"+strings.ToLower(strings.TrimPrefix(c, "CAP_")))
	}
	if got := strings.Split(agentCapabilities, ","); !slices.Equal(got, want) {
		t.Errorf("the lab's agents have %v, the unit gives %v", got, want)
	}
}
