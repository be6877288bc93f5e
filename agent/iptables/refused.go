package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

// trialChain is where rules are tried. No rule leads to it.
const trialChain = "trial"

// Refused finds out which of some rules of a table the host does not take in a chain of their own, and why: a kernel or an
// iptables may lack what a rule needs. They are tried where no packet comes by, which leaves nothing behind. Unlike the error of
// Ensure, which is of one rule at most, it tells all of them. An error: rules can't be tried.
func (d *Driver) Refused(ctx context.Context, namespace, table string, rules []string) (map[string]error, error) {
	out := map[string]error{}
	err := d.run(namespace, desired.IPTables{}, func(state) error {
		if err := d.try(ctx, table, nil); err != nil {
			return fmt.Errorf("try rules: %w", err)
		}
		return d.refused(ctx, table, rules, out)
	})
	return out, err
}

// refused adds those of some rules that are not taken, found by halves.
func (d *Driver) refused(ctx context.Context, table string, rules []string, out map[string]error) error {
	err := d.try(ctx, table, rules)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrLocked) || ctx.Err() != nil:
		return fmt.Errorf("try rules: %w", err)
	case len(rules) == 1:
		out[rules[0]] = err
		return nil
	}
	half := len(rules) / 2
	return errors.Join(d.refused(ctx, table, rules[:half], out), d.refused(ctx, table, rules[half:], out))
}

// try makes a chain of rules and removes it: in two transactions, since legacy iptables hands the kernel only what is left at
// the end of one.
func (d *Driver) try(ctx context.Context, table string, rules []string) error {
	for _, r := range rules {
		if err := checkRule(r); err != nil {
			return fmt.Errorf("rule %q: %w", r, err)
		}
	}
	chain := d.prefix + trialChain
	lines := append([]string{"*" + table, ":" + chain + " - [0:0]"}, appendAll(chain, rules)...)
	lines = append(lines, "COMMIT", "*"+table, "-F "+chain, "-X "+chain, "COMMIT", "")
	return d.restore(ctx, strings.Join(lines, "\n"))
}
