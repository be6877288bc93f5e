package store

import (
	"context"
	"errors"
	"testing"
	"time"
)

// begun is a call that has been under way for some time.
func begun(h *health) (context.Context, *call) {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &call{cancel: cancel, began: time.Now().Add(-time.Minute)}
	h.begin(c)
	return ctx, c
}

func TestCallsEndWithTheirLeaderAlsoAfterTermsBeganAnew(t *testing.T) {
	h := newHealth(nil)
	_, first := begun(h)
	h.end(first, 9)
	_, restored := begun(h) // into a new cluster
	h.end(restored, 2)

	waits, waiting := begun(h)
	h.elected(2, 2)
	if waits.Err() != nil {
		t.Fatalf("ended by an answer of its own term: %v", context.Cause(waits))
	}
	h.elected(3, 2)
	if !errors.Is(context.Cause(waits), errOtherLeader) {
		t.Errorf("not ended by an answer of another leader's term: %v", context.Cause(waits))
	}
	h.end(waiting, 0)
}

func TestALateAnswerOfAnEarlierTermIsNoNewCluster(t *testing.T) {
	h := newHealth(nil)
	_, early := begun(h)
	_, other := begun(h)
	h.end(other, 5)
	h.end(early, 4)
	waits, waiting := begun(h)
	h.elected(5, 5)
	if waits.Err() != nil {
		t.Errorf("ended: %v", context.Cause(waits))
	}
	h.end(waiting, 0)
}
