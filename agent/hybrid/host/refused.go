package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/proto/model"
)

// RefusedError tells of rules that a host does not take, because its kernel or its iptables lacks what they need. They allow
// nothing; all others are in force.
type RefusedError struct {
	// Rules are the reasons.
	Rules map[model.Rule]error
}

// Error names the rules, sorted.
func (e *RefusedError) Error() string {
	var lines []string
	for r, reason := range e.Rules {
		lines = append(lines, fmt.Sprintf("rule %s of security group %s allows nothing: %v", r.ID, r.Group, reason))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func refusedError(rules map[model.Rule]error) error {
	if len(rules) == 0 {
		return nil
	}
	return &RefusedError{maps.Clone(rules)}
}

// prepare makes the sets, and looks what is refused as far as can be told before the rules are given to the host: rules whose
// set is not what it should be, and those that have been refused before, which are tried again when the filters are the same.
func (d *Driver) prepare(ctx context.Context, want *hybrid.Filters) error {
	var failed map[string]error
	if err := d.enter(func() (err error) { failed, err = d.sets.Ensure(hybrid.New(*want).Sets); return err }); err != nil {
		return err
	}
	before := d.refused
	d.refused = map[model.Rule]error{}
	retried := want == d.wanted
	var again []model.Rule
	for _, rules := range want.Rules {
		for _, r := range rules {
			switch {
			case failed[hybrid.SetOf(r)] != nil:
				d.refused[r] = failed[hybrid.SetOf(r)]
			case before[r] != nil && retried:
				again = append(again, r)
			case before[r] != nil:
				d.refused[r] = before[r]
			}
		}
	}
	return d.try(ctx, want, again)
}

// enforce gives the host the rules that it is not known to refuse. If it does not take them, it is asked which.
func (d *Driver) enforce(ctx context.Context, want *hybrid.Filters, ensure ensurer) error {
	taken := want.Without(d.refused)
	err := d.rules(ctx, hybrid.New(taken), ensure)
	if err == nil || errors.Is(err, iptables.ErrLocked) || ctx.Err() != nil {
		return err
	}
	known := len(d.refused)
	err2 := d.try(ctx, &taken, slices.Concat(slices.Collect(maps.Values(taken.Rules))...))
	if err2 != nil || len(d.refused) == known {
		return errors.Join(err, err2)
	}
	return d.rules(ctx, hybrid.New(want.Without(d.refused)), ensure)
}

// try adds those of some rules to the refused that iptables does not take. Rules of several groups that read the same are one.
func (d *Driver) try(ctx context.Context, want *hybrid.Filters, rules []model.Rule) error {
	for ipv6, driver := range map[bool]*iptables.Driver{false: d.v4, true: d.v6} {
		texts := map[string][]model.Rule{}
		for _, r := range rules {
			if text, fits := want.Text(r); fits && r.IPv6 == ipv6 {
				texts[text] = append(texts[text], r)
			}
		}
		if len(texts) == 0 {
			continue
		}
		refused, err := driver.Refused(ctx, place, "filter", slices.Sorted(maps.Keys(texts)))
		if err != nil {
			return err
		}
		for text, reason := range refused {
			for _, r := range texts[text] {
				d.refused[r] = reason
			}
		}
	}
	return nil
}
