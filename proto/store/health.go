package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/weft-sdn/weft/proto/keys"
)

// When the store is taken to be away, and to be back. A call that takes longer than suspectAfter, or fails for want of a
// server, has the store asked (one linearizable read); no answer within verdictAfter and it is away: the calls under way
// fail, and new ones fail after at most grace, until it has answered a probe. It is probed every probeEvery, and whenever
// somebody calls.
const (
	suspectAfter = 500 * time.Millisecond
	verdictAfter = 1500 * time.Millisecond
	grace        = 250 * time.Millisecond
	probeEvery   = 500 * time.Millisecond
)

// health is what is known of whether the store answers. It costs nothing while calls are quick; it has a goroutine only
// while the store is doubted or away, which ends with the client.
type health struct {
	client *clientv3.Client

	mu       sync.Mutex
	doubted  bool
	out      *outage // nil: as far as is known the store is there
	calls    map[*call]struct{}
	wake     chan struct{} // has the prober look at once
	answered chan struct{} // closed and replaced after each probe while the store is away
}

// outage is a time during which the store is away.
type outage struct {
	since time.Time
	cause error
}

func (o *outage) Error() string {
	return fmt.Sprintf("%s: no answer since %s: %s", ErrUnavailable, o.since.Format("15:04:05"), o.cause)
}

func (o *outage) Unwrap() error { return ErrUnavailable }

// call is one call under way.
type call struct {
	cancel context.CancelCauseFunc
}

func newHealth(client *clientv3.Client) *health {
	return &health{client: client, calls: map[*call]struct{}{}, wake: make(chan struct{}, 1), answered: make(chan struct{})}
}

// do makes a call, unless the store is known to be away, and ends it when that becomes known. Errors are classified;
// what names the call in them.
func (h *health) do(ctx context.Context, what string, f func(context.Context) error) error {
	if err := h.admit(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &call{cancel}
	h.begin(c)
	defer h.end(c)
	slow := time.AfterFunc(suspectAfter, h.suspect)
	defer slow.Stop()
	err := f(working)
	if err == nil || errors.Is(err, ErrConflict) {
		return err
	}
	var away *outage
	if errors.As(context.Cause(working), &away) {
		return fmt.Errorf("%s: %w", what, away)
	}
	err = classify(what, err)
	if errors.Is(err, ErrUnavailable) {
		h.suspect()
	}
	return err
}

func (h *health) begin(c *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[c] = struct{}{}
	if h.out != nil { // gone in between
		c.cancel(h.out)
	}
}

func (h *health) end(c *call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.calls, c)
}

// admit lets a call through. While the store is away it has it probed at once, and waits for the answer for a moment.
func (h *health) admit(ctx context.Context) error {
	h.mu.Lock()
	out, answered := h.out, h.answered
	h.mu.Unlock()
	if out == nil {
		return nil
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-answered:
		return nil
	case <-timer.C:
		return out
	case <-ctx.Done():
		return out
	}
}

// Away is since when the store has been known to be away; the zero time when it is not.
func (s *Store) Away() time.Time {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if s.health.out == nil {
		return time.Time{}
	}
	return s.health.out.since
}

// suspect has the store asked whether it is there, unless that is being done.
func (h *health) suspect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doubted || h.client.Ctx().Err() != nil {
		return
	}
	h.doubted = true
	go h.resolve(time.Now())
}

// resolve finds out whether the store is there and, if not, goes on until it is.
func (h *health) resolve(since time.Time) {
	err := h.verdict()
	if err == nil || h.client.Ctx().Err() != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.doubted = false
		return
	}
	h.away(&outage{since: since, cause: err})
	for h.client.Ctx().Err() == nil {
		if h.probe(verdictAfter) == nil {
			break
		}
		h.rest()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doubted, h.out = false, nil
	close(h.answered)
	h.answered = make(chan struct{})
}

// rest waits until the next probe is due, or somebody calls; never for nothing.
func (h *health) rest() {
	select {
	case <-h.client.Ctx().Done():
		return
	case <-time.After(grace/5 + rand.N(grace/5)):
	}
	select {
	case <-h.client.Ctx().Done():
	case <-h.wake:
	case <-time.After(probeEvery + rand.N(probeEvery)):
	}
}

// away makes it known, and ends the calls under way.
func (h *health) away(o *outage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out = o
	for c := range h.calls {
		c.cancel(o)
	}
}

// verdict is a probe that does not wait for servers of which none takes a connection.
func (h *health) verdict() error {
	done := make(chan error, 1)
	go func() { done <- h.probe(verdictAfter) }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(100 * time.Millisecond):
			if conn := h.client.ActiveConnection(); conn != nil && conn.GetState() == connectivity.TransientFailure {
				return fmt.Errorf("no connection to any of %v", h.client.Endpoints())
			}
		}
	}
}

// probe asks the store for one key, linearizably.
func (h *health) probe(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(h.client.Ctx(), limit)
	defer cancel()
	_, err := h.client.Get(ctx, keys.Schema, clientv3.WithCountOnly())
	return err
}
