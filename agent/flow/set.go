package flow

import (
	"fmt"
	"slices"
)

// Set collects the flows of one bridge and keeps one flow per key. The zero Set is not ready; use NewSet. Not safe for
// concurrent use.
type Set struct {
	generation uint8
	flows      map[Key]Flow
}

// NewSet is an empty set whose flows get cookies of the given layout generation.
func NewSet(generation uint8) *Set {
	return &Set{generation: generation, flows: map[Key]Flow{}}
}

// ConflictError says that a planner made two different flows for one place of a bridge.
type ConflictError struct {
	Have, New Flow
}

// Error names both flows.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("two flows for one table, priority and match: have %q, refused %q", e.Have, e.New)
}

// Add validates the flow, gives it its cookie and puts it in. Adding an equal flow again is allowed and changes nothing.
// A different flow with the same key is a *ConflictError and leaves the set as it was.
func (s *Set) Add(f Flow) error {
	if err := f.Validate(); err != nil {
		return err
	}
	key := f.Key()
	if have, ok := s.flows[key]; ok {
		if !Equal(have, f) {
			return &ConflictError{Have: have, New: f}
		}
		return nil
	}
	s.flows[key] = f.WithCookie(s.generation)
	return nil
}

// Len is the number of flows.
func (s *Set) Len() int { return len(s.flows) }

// Flows lists the flows in the order of Compare.
func (s *Set) Flows() []Flow {
	out := make([]Flow, 0, len(s.flows))
	for _, f := range s.flows {
		out = append(out, f)
	}
	slices.SortFunc(out, Compare)
	return out
}

// Diff compares two sets of cookied flows of one bridge: what to add to get from have to want, and what to delete. A flow
// whose actions changed is in both; adding first replaces it in place, see agent/openflow. Both results are sorted.
func Diff(have, want []Flow) (adds, deletes []Flow) {
	return missing(want, have), missing(have, want)
}

// missing lists the flows of a that b has not.
func missing(a, b []Flow) []Flow {
	in := make(map[identity]bool, len(b))
	for _, f := range b {
		in[f.identity()] = true
	}
	var out []Flow
	for _, f := range a {
		if !in[f.identity()] {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, Compare)
	return out
}

type identity struct {
	table    uint8
	priority uint16
	cookie   uint64
}

func (f Flow) identity() identity { return identity{f.Table, f.Priority, f.Cookie} }
