package netns

import (
	"context"
	"fmt"

	"github.com/weft-sdn/weft/agent/desired"
)

// Diff tells how a namespace differs from what is wanted: what Prepare, Ensure, Forward and Prune would write, without
// writing it. One that is absent, or not weft's, is one difference. It may run beside any other method, for the same
// namespace too; what is being changed meanwhile may then be among the differences. The differences are valid beside an
// error.
func (m *Manager) Diff(ctx context.Context, want desired.Namespace) ([]desired.Difference, error) {
	missing := desired.Difference{Kind: "namespace", Object: want.Name, Desired: "a namespace with weft's mark"}
	switch s, err := m.state(want.Name); {
	case err != nil:
		return nil, err
	case s == foreign:
		missing.Actual = "a namespace without weft's mark"
		fallthrough
	case s != ours:
		return []desired.Difference{missing}, nil
	}
	p := &pass{want: want, report: &Report{}, dry: true}
	err := m.pass(ctx, p, func(p *pass) {
		if p.prepare() {
			p.ensure()
		}
		p.fail(p.forward())
		p.prune()
	})
	if err != nil {
		return p.found, fmt.Errorf("compare: %w", err)
	}
	return p.found, nil
}
