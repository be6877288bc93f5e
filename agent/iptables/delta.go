package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// delta is the input of iptables-restore --noflush that leads from one state to another; "" when they are the same.
// It is made so that no line refers to a chain that is not there yet or no longer.
func delta(have, goal state) string {
	names := slices.Sorted(maps.Keys(have))
	for name := range goal {
		if have[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		if lines := tableDelta(have.read(name), goal.read(name)); len(lines) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", name, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// read is the table of a name; an empty one, not kept, if there is none.
func (s state) read(name string) *table {
	if t := s[name]; t != nil {
		return t
	}
	return &table{}
}

// tableDelta gives the lines between `*table` and COMMIT: new chains, jumps, rules, then the removal of old chains.
func tableDelta(have, goal *table) []string {
	var declared, rules, removed []string
	for _, chain := range slices.Sorted(maps.Keys(goal.chains)) {
		old, there := have.chains[chain]
		edit := chainDelta(chain, old, goal.chains[chain])
		if !there || len(edit) > len(goal.chains[chain]) {
			// `:chain` makes the chain, or empties it if it is there (iptables-restore(8), --noflush).
			declared = append(declared, ":"+chain+" - [0:0]")
			edit = appendAll(chain, goal.chains[chain])
		}
		rules = append(rules, edit...)
	}
	for _, chain := range slices.Sorted(maps.Keys(have.chains)) {
		if _, wanted := goal.chains[chain]; !wanted {
			rules = append(rules, "-F "+chain)
			removed = append(removed, "-X "+chain)
		}
	}
	return slices.Concat(declared, jumpDelta(have, goal), rules, removed)
}

// jumpDelta adds the jumps that are missing behind those that are there; where that is not enough, because the order is wrong,
// there is one too many, or a rule of others stands before one that has to be first, it replaces weft's jumps of that built-in
// chain.
func jumpDelta(have, goal *table) []string {
	var lines []string
	for _, builtin := range union(have.jumps, goal.jumps) {
		old, want := have.jumps[builtin], goal.jumps[builtin]
		misplaced, at := goal.first[builtin] && have.behind[builtin], 1
		if len(old) <= len(want) && slices.Equal(old, want[:len(old)]) && !misplaced {
			at = len(old) + 1
			old, want = nil, want[len(old):]
		}
		for _, target := range old {
			lines = append(lines, fmt.Sprintf("-D %s -j %s", builtin, target))
		}
		for i, target := range want {
			if goal.first[builtin] {
				lines = append(lines, fmt.Sprintf("-I %s %d -j %s", builtin, at+i, target))
			} else {
				lines = append(lines, fmt.Sprintf("-A %s -j %s", builtin, target))
			}
		}
	}
	return lines
}

// chainDelta edits the part of a chain between the rules that both contents begin and end with: from the last line of
// that part to the first, so that rule numbers stay true.
func chainDelta(chain string, old, want []string) []string {
	head := 0
	for head < len(old) && head < len(want) && old[head] == want[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(want)-head && old[len(old)-1-tail] == want[len(want)-1-tail] {
		tail++
	}
	var lines []string
	for i := len(old) - tail; i > head; i-- {
		lines = append(lines, fmt.Sprintf("-D %s %d", chain, i))
	}
	middle := want[head : len(want)-tail]
	if tail == 0 {
		return append(lines, appendAll(chain, middle)...)
	}
	for i, rule := range middle {
		lines = append(lines, fmt.Sprintf("-I %s %d %s", chain, head+1+i, rule))
	}
	return lines
}

func appendAll(chain string, rules []string) []string {
	lines := make([]string, 0, len(rules))
	for _, rule := range rules {
		lines = append(lines, "-A "+chain+" "+rule)
	}
	return lines
}
