package ovs

import (
	"errors"
	"testing"

	"github.com/weft-sdn/weft/agent/desired"
)

// What the database refused is left out of the next plan, with the database's reason, and only that.
func TestPlanLeavesOutWhatTheDatabaseRefused(t *testing.T) {
	view := &Snapshot{Connected: true, Complete: true, root: "r", Bridges: map[string]*Bridge{"br": {Name: "br", uuid: "u"}}}
	port := func(name string) desired.Port {
		return desired.Port{Bridge: "br", Name: name, Type: desired.PortInternal, ExternalIDs: map[string]string{OwnerKey: "x:y"}}
	}
	reason := errors.New("constraint violation")
	p := plan(view, Change{Ports: []desired.Port{port("a"), port("bad"), port("b")}}, map[object]error{portObject("bad"): reason})
	if len(p.refused) != 1 || p.refused[0].Name != "bad" || !errors.Is(p.refused[0], reason) {
		t.Errorf("refused: %v", p.refused)
	}
	if len(p.ops) != 5 || len(p.by) != len(p.ops) {
		t.Fatalf("%d operations for %d objects, want two inserts for a and b each, and one mutate", len(p.ops), len(p.by))
	}
	for i, want := range []object{portObject("a"), portObject("a"), portObject("b"), portObject("b"), {}} {
		if p.by[i] != want {
			t.Errorf("operation %d is for %v, want %v", i, p.by[i], want)
		}
	}
}

// The ownership test of a deletion travels in the transaction itself.
func TestPlanOfADeletionChecksOwnershipAgain(t *testing.T) {
	view := &Snapshot{
		Bridges: map[string]*Bridge{"br": {Name: "br", uuid: "u", Ports: []string{"a"}}},
		Ports:   map[string]*Port{"a": {Name: "a", Bridge: "br", uuid: "pu", ExternalIDs: map[string]string{OwnerKey: "x:y"}}},
	}
	p := plan(view, Change{DeletePorts: []string{"a"}}, nil)
	if len(p.ops) != 2 || p.ops[0].Op != "wait" || p.ops[1].Op != "mutate" {
		t.Errorf("operations: %+v", p.ops)
	}
}
