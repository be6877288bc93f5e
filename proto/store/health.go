package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/weft-sdn/weft/proto/keys"
)

// When the store is taken to be away, and to be back. A call that takes longer than suspectAfter, or fails for want of a
// server, has the store asked (one linearizable read); no answer within verdictAfter and it is away: the calls under way
// fail, and new ones fail after at most grace, until it has answered a probe. It is probed every probeEvery, and whenever
// somebody calls.
//
// A write that was on its way to a leader that died is lost, and etcd keeps its caller waiting for 7 s (etcd,
// server/config, ReqTimeout: 5 s and two elections). So when the answer is of a later term than the last one before a slow
// call began, the call is ended.
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
	term     uint64 // of raft, as of the latest answer; 0: none yet
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
	began  time.Time
	term   uint64
}

// errOtherLeader ends a call.
var errOtherLeader = fmt.Errorf("%w: etcd has another leader since the call was made", ErrUnavailable)

func newHealth(client *clientv3.Client) *health {
	return &health{client: client, calls: map[*call]struct{}{}, wake: make(chan struct{}, 1), answered: make(chan struct{})}
}

// do makes a call, unless the store is known to be away, and ends it when that becomes known. Errors are classified;
// what names the call in them.
func (h *health) do(ctx context.Context, what string, f func(context.Context) (*etcdserverpb.ResponseHeader, error)) error {
	if err := h.admit(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &call{cancel: cancel, began: time.Now()}
	h.begin(c)
	slow := time.AfterFunc(suspectAfter, h.suspect)
	defer slow.Stop()
	header, err := f(working)
	h.end(c, header.GetRaftTerm())
	if err == nil || errors.Is(err, ErrConflict) {
		return err
	}
	if cause := context.Cause(working); errors.Is(cause, ErrUnavailable) {
		return fmt.Errorf("%s: %w", what, cause)
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
	c.term = h.term
	h.calls[c] = struct{}{}
	if h.out != nil { // gone in between
		c.cancel(h.out)
	}
}

func (h *health) end(c *call, term uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.calls, c)
	h.heard(term, c.term)
}

// heard takes in the term of an answer, and the one that was known when its question was asked. One that is lower than that is
// of another cluster, one that a snapshot was restored into: its terms have begun anew.
func (h *health) heard(term, asked uint64) {
	if term != 0 && (term > h.term || term < asked) {
		h.term = term
	}
}

// elected ends the slow calls of earlier terms than that of an answer; asked as in heard.
func (h *health) elected(term, asked uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard(term, asked)
	for c := range h.calls {
		if c.term != 0 && c.term < h.term && time.Since(c.began) >= suspectAfter {
			c.cancel(errOtherLeader)
		}
	}
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
	h.mu.Lock()
	asked := h.term
	h.mu.Unlock()
	got, err := h.client.Get(ctx, keys.Schema, clientv3.WithCountOnly())
	if err == nil {
		h.elected(got.Header.GetRaftTerm(), asked)
	}
	return err
}
