package agent

import (
	"context"
	"sync"
	"time"
)

// unit names something that a worker builds by itself.
type unit struct {
	kind string // keys.KindRouter or keys.KindDHCP
	id   string // of the router, or of the DHCP server's network
}

// outcome is what a worker has to say after an attempt.
type outcome struct {
	unit unit
	// want is what was built, as it was given to set.
	want any
	err  error
}

// workers build units, each by a goroutine of its own that always goes for the newest want: a unit that hangs or fails
// holds up no other. At most limit attempts run at once.
type workers struct {
	build func(ctx context.Context, u unit, want any) error
	// soon reports whether an error only means that something else has to happen first.
	soon    func(error) bool
	results chan outcome
	slots   chan struct{}
	ctx     context.Context //nolint:containedctx // the agent's life
	wg      sync.WaitGroup

	mu    sync.Mutex
	units map[unit]*work
}

// work is one unit's.
type work struct {
	want    any
	changed chan struct{} // has room for one
}

func newWorkers(ctx context.Context, limit int, build func(context.Context, unit, any) error, soon func(error) bool) *workers {
	return &workers{
		build: build, soon: soon, ctx: ctx,
		results: make(chan outcome, 64), slots: make(chan struct{}, limit), units: map[unit]*work{},
	}
}

// set says what a unit should be from now on; nil takes it down, and ends its worker when that is done.
func (w *workers) set(u unit, want any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.units[u]
	if have == nil {
		have = &work{changed: make(chan struct{}, 1)}
		w.units[u] = have
		w.wg.Go(func() { w.run(u, have) })
	}
	have.want = want
	have.kick()
}

// again has a unit, if there is one, built once more.
func (w *workers) again(u unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have := w.units[u]; have != nil {
		have.kick()
	}
}

func (k *work) kick() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (w *workers) wait() { w.wg.Wait() }

// Pauses between attempts: for something that is about to happen, and for a host's error.
const (
	firstSoon, lastSoon   = 2 * time.Millisecond, 500 * time.Millisecond
	firstRetry, lastRetry = 200 * time.Millisecond, 30 * time.Second
)

func (w *workers) run(u unit, k *work) {
	var retry <-chan time.Time
	failures := 0
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-k.changed:
			failures = 0
		case <-retry:
		}
		want, err := w.attempt(u, k)
		if w.ctx.Err() != nil {
			return
		}
		if err == nil {
			retry = nil
			if want == nil && w.end(u, k) {
				return
			}
			continue
		}
		retry = time.After(w.pause(err, failures))
		failures++
	}
}

func (w *workers) pause(err error, failures int) time.Duration {
	if w.soon(err) {
		return min(firstSoon<<min(failures, 10), lastSoon)
	}
	return min(firstRetry<<min(failures, 10), lastRetry)
}

// attempt builds the newest want and reports the outcome.
func (w *workers) attempt(u unit, k *work) (any, error) {
	select {
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	case w.slots <- struct{}{}:
	}
	defer func() { <-w.slots }()
	w.mu.Lock()
	want := k.want
	w.mu.Unlock()
	err := w.build(w.ctx, u, want)
	select {
	case <-w.ctx.Done():
	case w.results <- outcome{u, want, err}:
	}
	return want, err
}

// end forgets a unit that has been taken down, unless it is wanted again.
func (w *workers) end(u unit, k *work) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.want != nil {
		return false
	}
	delete(w.units, u)
	return true
}
