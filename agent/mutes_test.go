package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weft-sdn/weft/agent/plan"
)

// quietened records what is muted and unmuted.
type quietened struct {
	mu  sync.Mutex
	did []string
	err error
}

func (q *quietened) note(what string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.did = append(q.did, what)
}

func (q *quietened) all() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.did)
}

func (q *quietened) mute(namespace string) (func() error, error) {
	if q.err != nil {
		return nil, q.err
	}
	q.note("mute " + namespace)
	return func() error { q.note("unmute " + namespace); return nil }, nil
}

func (q *quietened) mutes() *mutes {
	return &mutes{mute: q.mute, log: slog.New(slog.DiscardHandler), now: map[string]muted{}}
}

func TestARouterIsMutedForAWhileAndUntilItStaysOrTheAgentEnds(t *testing.T) {
	both := []string{"mute " + plan.RouterNamespace("r"), "unmute " + plan.RouterNamespace("r")}
	for name, over := range map[string]func(m *mutes, stop func()){
		"for a while":          func(*mutes, func()) {},
		"until it stays":       func(m *mutes, _ func()) { m.end("r") },
		"until the agent ends": func(_ *mutes, stop func()) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q quietened
				var running sync.WaitGroup
				m := q.mutes()
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if err := m.begin(ctx, &running, "r"); err != nil || !m.has("r") || len(q.all()) != 1 {
					t.Fatalf("%v, muted %v, did %v", err, m.has("r"), q.all())
				}
				over(m, stop)
				running.Wait()
				if m.has("r") || !slices.Equal(q.all(), both) {
					t.Errorf("muted %v, did %v", m.has("r"), q.all())
				}
			})
		})
	}
}

func TestARouterThatIsHandedOverAgainIsMutedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q quietened
		var running sync.WaitGroup
		m := q.mutes()
		for range 2 {
			if err := m.begin(t.Context(), &running, "r"); err != nil {
				t.Fatal(err)
			}
		}
		running.Wait()
		if did := q.all(); len(did) != 4 || did[1] != did[3] {
			t.Errorf("did %v", did)
		}
	})
}

func TestARouterThatCanNotBeMutedIsNot(t *testing.T) {
	q := quietened{err: errors.New("no")}
	var running sync.WaitGroup
	if m := q.mutes(); !errors.Is(m.begin(t.Context(), &running, "r"), q.err) || m.has("r") {
		t.Error("it counts as muted")
	}
}
