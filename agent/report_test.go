package agent

import (
	"log/slog"
	"testing"

	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// TestAFloatingIPThatMovesBetweenRoutersOfANodeStaysReported holds that the router which loses a floating IP does not take back
// what the one that got it has said, in whatever order they are built and report.
func TestAFloatingIPThatMovesBetweenRoutersOfANodeStaysReported(t *testing.T) {
	from, to := unit{keys.KindRouter, "from"}, unit{keys.KindRouter, "to"}
	with := func(revision int64) *plan.Router {
		return &plan.Router{Revision: 1, FloatingIPs: map[string]int64{"fip": revision}}
	}
	without := &plan.Router{Revision: 1}
	type built struct {
		unit unit
		as   *plan.Router
	}
	for name, order := range map[string][]built{
		"the new one first":              {{to, with(6)}, {from, without}},
		"the old one first":              {{from, without}, {to, with(6)}},
		"the old one speaks in between":  {{to, with(6)}, {from, with(5)}, {from, without}},
		"the old one speaks once before": {{from, with(5)}, {to, with(6)}, {from, without}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{
				cfg: Config{Node: "n1"}, view: view.New("n1"), publisher: newPublisher(nil, "n1", slog.New(slog.DiscardHandler)),
				reports: map[unit]map[string]bool{}, units: map[unit]error{}, builtAt: map[unit]any{},
			}
			for _, u := range []unit{from, to} {
				a.view.Active[u.id] = view.Active{Node: "n1", Epoch: 1}
			}
			a.builtAt[from], a.builtAt[to] = with(5), without
			a.reportUnit(from)
			a.reportUnit(to)
			for _, b := range order {
				a.builtAt[b.unit] = b.as
				a.reportUnit(b.unit)
			}
			r, ok := a.publisher.current(keys.Status("n1", keys.KindFloatingIP, "fip")).(*storev1.Report)
			if !ok || r.GetRevision() != 6 {
				t.Errorf("the report is %v", r)
			}
		})
	}
}
