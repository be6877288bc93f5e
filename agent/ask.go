package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// questionScope is the mirror's name for ask/<node>/, what controllers ask the node's agent.
const questionScope = "questions"

// questions answers what controllers ask. Its methods may be called from several goroutines.
type questions struct {
	store *store.Store
	node  string
	log   *slog.Logger
}

// takeQuestions answers the questions in a batch of the mirror's, and gives what else is in it.
func (a *Agent) takeQuestions(ctx context.Context, batch mirror.Batch) mirror.Batch {
	batch.Listed = slices.DeleteFunc(batch.Listed, func(scope string) bool { return scope == questionScope })
	batch.Changes = slices.DeleteFunc(batch.Changes, func(c mirror.Change) bool {
		if c.Scope == questionScope && c.Value != nil {
			a.answer(ctx, strings.TrimPrefix(c.Key, keys.Asks(a.cfg.Node)))
		}
		return c.Scope == questionScope
	})
	return batch
}

// Bounds of an answer: seconds that it stays, and what it may hold. The store takes 1.5 MB at once.
const (
	answerLease      = 30
	maxDifferences   = 1000
	maxAnswerBytes   = 1 << 20
	maxDifferenceLen = 1024
)

// answer compares the node with the plan as it is now, beside the loop, and writes the answer to a question.
func (a *Agent) answer(ctx context.Context, question string) {
	if !a.started {
		go a.questions.write(ctx, question, &storev1.Answer{Error: "the agent has no complete view of its node yet"})
		return
	}
	c := a.comparison()
	go func() {
		ctx, cancel := context.WithTimeout(ctx, answerLease*time.Second)
		defer cancel()
		d, err := c.run(ctx)
		answer := bounded(d)
		if err != nil {
			answer.Error = legible("not everything could be compared: " + err.Error())
		}
		a.questions.write(ctx, question, answer)
	}()
}

// comparison is a plan to compare the host with.
type comparison struct {
	services *services
	ovs      *ovs.Client
	change   ovs.Change
	conns    map[string]*openflow.Conn // nil for a bridge without a connection
	flows    map[string][]flow.Flow
	units    []any
	// known are problems that are no matter of a driver's.
	known []desired.Difference
}

// comparison takes the plan as it is.
func (a *Agent) comparison() comparison {
	c := comparison{services: a.services, ovs: a.ovs, conns: map[string]*openflow.Conn{}, flows: map[string][]flow.Flow{}}
	if foreign := a.foreignBridges(); len(foreign) > 0 {
		for _, name := range foreign {
			c.known = append(c.known, desired.Difference{Kind: "bridge", Object: name, Desired: "weft's", Actual: "somebody else's"})
		}
	} else {
		c.change = a.wholeChange()
	}
	for name, br := range a.bridges.all {
		c.conns[name], c.flows[name] = br.conn, a.flowsOf(name)
	}
	for _, id := range slices.Sorted(maps.Keys(a.planner.Routers())) {
		c.units = append(c.units, a.planner.Routers()[id])
	}
	for _, id := range slices.Sorted(maps.Keys(a.planner.DHCP())) {
		c.units = append(c.units, a.planner.DHCP()[id])
	}
	if filters := a.planner.Bridged(); filters != nil {
		c.units = append(c.units, filters)
	}
	return c
}

// run compares. What could be compared is returned beside an error.
func (c comparison) run(ctx context.Context) ([]desired.Difference, error) {
	out := c.known
	var errs []error
	d, err := c.ovs.Diff(c.change)
	out, errs = append(out, d.All()...), append(errs, err)
	for _, bridge := range slices.Sorted(maps.Keys(c.flows)) {
		if c.conns[bridge] == nil {
			out = append(out, desired.Difference{
				Kind: "bridge", Object: bridge, Desired: fmt.Sprintf("%d flows", len(c.flows[bridge])), Actual: "no OpenFlow connection to it",
			})
			continue
		}
		d, err := c.conns[bridge].Diff(ctx, c.flows[bridge])
		out, errs = append(out, flowDifferences(bridge, d)...), append(errs, err)
	}
	for _, want := range c.units {
		d, err := c.services.diff(ctx, want)
		out, errs = append(out, d...), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// bounded puts as many differences into an answer as it may hold.
func bounded(d []desired.Difference) *storev1.Answer {
	out := &storev1.Answer{}
	size := 0
	for _, d := range d {
		next := &weftv1.Difference{Kind: d.Kind, Object: short(d.Object), Desired: short(d.Desired), Actual: short(d.Actual)}
		size += len(next.Kind) + len(next.Object) + len(next.Desired) + len(next.Actual) + 16
		if len(out.Differences) == maxDifferences || size > maxAnswerBytes {
			out.Truncated = true
			break
		}
		out.Differences = append(out.Differences, next)
	}
	return out
}

func short(text string) string {
	if len(text) > maxDifferenceLen {
		text = text[:maxDifferenceLen] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// write puts an answer into the store for a while. A store that is away gets none: whoever asked has given up by then.
func (q *questions) write(ctx context.Context, question string, answer *storev1.Answer) {
	err := func() error {
		lease, err := q.store.Client().Grant(ctx, answerLease)
		if err != nil {
			return fmt.Errorf("take a lease: %w", err)
		}
		var t txn.Txn
		t.PutLeased(keys.Answer(q.node, question), answer)
		_, err = q.store.Commit(ctx, &t, lease.ID)
		return err
	}()
	if err != nil && ctx.Err() == nil {
		q.log.Warn("can't answer a question", "question", question, "error", err)
	}
}
