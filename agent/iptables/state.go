package iptables

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

// state is weft's part of a namespace's iptables, by table.
type state map[string]*table

type table struct {
	jumps  map[string][]string // built-in chain -> weft's chains it jumps to, in order
	first  map[string]bool     // built-in chains whose jumps are to stand before rules of others; of what is wanted only
	behind map[string]bool     // built-in chains in which a rule of others stands before a jump; of what is there only
	others map[string]bool     // built-in chains in which a rule of others has been read
	chains map[string][]string // weft's chain -> its rules, as iptables-save prints them after `-A CHAIN `
}

func (s state) table(name string) *table {
	t := s[name]
	if t == nil {
		t = &table{
			jumps: make(map[string][]string), chains: make(map[string][]string),
			first: make(map[string]bool), behind: make(map[string]bool), others: make(map[string]bool),
		}
		s[name] = t
	}
	return t
}

// Limits of what is written. A chain name has at most 28 characters (XT_EXTENSION_MAXNAMELEN less the terminator,
// linux/netfilter/x_tables.h); a line of iptables-restore at most 10240 (iptables, xshared.h).
const (
	maxChainName = 28
	maxRule      = 4096
)

var chainName = regexp.MustCompile(`^` + Prefix + `[A-Za-z0-9-]+$`)

// builtins are the built-in chains of each table (iptables(8), TABLES).
func builtins(table string) []string {
	switch table {
	case "nat":
		return []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
	case "filter":
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	case "mangle":
		return []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	case "raw":
		return []string{"PREROUTING", "OUTPUT"}
	}
	return nil
}

// wanted checks a desired value and brings it into the form of a state.
func wanted(want desired.IPTables) (state, error) {
	s := make(state)
	for _, c := range want.Chains {
		if err := checkChain(c); err != nil {
			return nil, err
		}
		t := s.table(c.Table)
		if _, twice := t.chains[c.Name]; twice {
			return nil, fmt.Errorf("chain %s of table %s: wanted twice", c.Name, c.Table)
		}
		t.chains[c.Name] = slices.Clone(c.Rules)
	}
	for _, j := range want.Jumps {
		if !slices.Contains(builtins(j.Table), j.Builtin) {
			return nil, fmt.Errorf("jump to %s: table %q has no built-in chain %q", j.Target, j.Table, j.Builtin)
		}
		t := s.table(j.Table)
		if _, ok := t.chains[j.Target]; !ok {
			return nil, fmt.Errorf("jump from %s: chain %q of table %s is not wanted", j.Builtin, j.Target, j.Table)
		}
		if len(t.jumps[j.Builtin]) > 0 && t.first[j.Builtin] != j.First {
			return nil, fmt.Errorf("jump from %s to %s: some jumps of %s are to be first, others not", j.Builtin, j.Target, j.Builtin)
		}
		t.jumps[j.Builtin] = append(t.jumps[j.Builtin], j.Target)
		t.first[j.Builtin] = j.First
	}
	return s, nil
}

func checkChain(c desired.Chain) error {
	if builtins(c.Table) == nil {
		return fmt.Errorf("chain %s: unknown table %q", c.Name, c.Table)
	}
	if len(c.Name) > maxChainName || !chainName.MatchString(c.Name) {
		return fmt.Errorf("chain %q: name must be %s and letters, digits or dashes, at most %d in all", c.Name, Prefix, maxChainName)
	}
	for _, r := range c.Rules {
		if err := checkRule(r); err != nil {
			return fmt.Errorf("chain %s of table %s: rule %q: %w", c.Name, c.Table, r, err)
		}
	}
	return nil
}

// checkRule refuses what could be more than one line, or another command, to iptables-restore.
func checkRule(r string) error {
	switch {
	case len(r) == 0 || len(r) > maxRule:
		return fmt.Errorf("length must be 1 to %d", maxRule)
	case strings.ContainsFunc(r, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("only printable ASCII is allowed")
	case !strings.HasPrefix(r, "-") && !strings.HasPrefix(r, "! "):
		return fmt.Errorf("must begin with an option")
	}
	return nil
}

// Render prints what is wanted in the form of iptables-save, without counters: tables, chains and built-in chains
// sorted, rules in order. It is the text for golden files and for people; an error tells what is not allowed in it.
func Render(want desired.IPTables) (string, error) {
	s, err := wanted(want)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "*%s\n", name)
		t := s[name]
		for _, chain := range slices.Sorted(maps.Keys(t.chains)) {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, builtin := range builtins(name) {
			for _, target := range t.jumps[builtin] {
				fmt.Fprintf(&b, "-A %s -j %s\n", builtin, target)
			}
		}
		for _, chain := range slices.Sorted(maps.Keys(t.chains)) {
			for _, rule := range t.chains[chain] {
				fmt.Fprintf(&b, "-A %s %s\n", chain, rule)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String(), nil
}

// parse reads the output of iptables-save (iptables-save(8)) and keeps weft's part of it.
func parse(save, prefix string) state {
	s := make(state)
	var t *table
	name := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			name = line[1:]
			t = s.table(name)
		case t == nil:
		case strings.HasPrefix(line, ":"):
			if chain, _, _ := strings.Cut(line[1:], " "); Owned(chain, prefix) {
				t.chains[chain] = nil
			}
		case strings.HasPrefix(line, "-A "):
			t.read(name, line[len("-A "):], prefix)
		}
	}
	return s
}

// read takes one rule, `CHAIN ARGUMENTS`.
func (t *table) read(name, line, prefix string) {
	chain, rule, _ := strings.Cut(line, " ")
	if Owned(chain, prefix) {
		t.chains[chain] = append(t.chains[chain], rule)
		return
	}
	target, ok := strings.CutPrefix(rule, "-j ")
	if !ok || !Owned(target, prefix) || strings.Contains(target, " ") || !slices.Contains(builtins(name), chain) {
		t.others[chain] = true
		return
	}
	t.jumps[chain] = append(t.jumps[chain], target)
	t.behind[chain] = t.behind[chain] || t.others[chain]
}
