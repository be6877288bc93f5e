package agent

import (
	"context"
	"sync"
	"time"
)

// unit names something that a worker builds by itself.
type unit struct {
	kind string // keys.KindRouter, keys.KindDHCP or kindFilters
	id   string // of the router, or of the DHCP server's network; "" of the filters
}

// outcome is what a worker has to say after an attempt.
type outcome struct {
	unit unit
	// want is what was built, as it was given to set.
	want any
	err  error
}

// builders are what the workers do with a unit. They are called for different units at once, for one unit one after the other.
type builders struct {
	// build makes a unit what is wanted.
	build func(ctx context.Context, u unit, want any) error
	// audit compares a unit that has been built with what is wanted, and builds it anew if it differs. Nil: there are none.
	audit func(ctx context.Context, u unit, want any) error
	// soon reports whether an error only means that something else has to happen first.
	soon func(error) bool
	// told reports whether, of such errors, one is followed by a call of again when that has happened.
	told func(error) bool
	// busy reports whether an error means that another program is in the way, which passes.
	busy func(error) bool
}

// workers build units, each by a goroutine of its own that always goes for the newest want: a unit that hangs or fails
// holds up no other. Attempts that run at once are limited, by kind of unit and apart for those that failed before.
type workers struct {
	builders
	results chan outcome
	limit   int
	// opened is closed when attempts may begin.
	opened chan struct{}
	open   func()
	ctx    context.Context //nolint:containedctx // the agent's life
	wg     sync.WaitGroup

	mu    sync.Mutex
	units map[unit]*work
	lanes map[lane]chan struct{}
	// queued is how many units wait for a slot of their lane.
	queued int
}

// lane is a share of the attempts.
type lane struct {
	kind string
	// failed: of units whose last attempt failed. They may hang again, and do not hold up the others.
	failed bool
}

// work is one unit's.
type work struct {
	want    any
	changed chan struct{} // has room for one
	audited chan struct{} // has room for one
	// built is the want of the last attempt, which succeeded if settled.
	built   any
	settled bool
}

// newWorkers has no attempt made before open is called.
func newWorkers(ctx context.Context, limit int, b builders) *workers {
	w := &workers{
		builders: b, ctx: ctx, limit: limit, opened: make(chan struct{}),
		results: make(chan outcome, 64), units: map[unit]*work{}, lanes: map[lane]chan struct{}{},
	}
	w.open = sync.OnceFunc(func() { close(w.opened) })
	return w
}

// set says what a unit should be from now on; nil takes it down, and ends its worker when that is done.
func (w *workers) set(u unit, want any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.units[u]
	if have == nil {
		have = &work{changed: make(chan struct{}, 1), audited: make(chan struct{}, 1)}
		w.units[u] = have
		w.wg.Go(func() { w.run(u, have) })
	}
	have.want = want
	kick(have.changed)
}

// again has a unit, if there is one, built once more.
func (w *workers) again(u unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have := w.units[u]; have != nil {
		kick(have.changed)
	}
}

// inspect has a unit audited, if there is one that has been built.
func (w *workers) inspect(u unit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have := w.units[u]; have != nil && have.settled {
		kick(have.audited)
	}
}

func kick(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (w *workers) wait() { w.wg.Wait() }

// depth is how many units wait for their turn.
func (w *workers) depth() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued
}

// Pauses between attempts: for something that will be told, in case it is not; for something that is about to happen, for another program, and for a host's error.
const (
	firstTold, lastTold   = 5 * time.Second, 30 * time.Second
	firstSoon, lastSoon   = 2 * time.Millisecond, time.Second
	firstBusy, lastBusy   = 200 * time.Millisecond, 2 * time.Second
	firstRetry, lastRetry = 200 * time.Millisecond, 30 * time.Second
)

func (w *workers) run(u unit, k *work) {
	var retry <-chan time.Time
	failures, failed := 0, false
	for {
		do := job{do: w.build, failed: failed}
		select {
		case <-w.ctx.Done():
			return
		case <-k.changed:
			failures = 0
		case <-retry:
		case <-k.audited:
			if !w.auditable(k) {
				continue
			}
			do = job{do: w.audit, quiet: true}
		}
		want, err := w.attempt(u, k, do)
		if w.ctx.Err() != nil {
			return
		}
		if err == nil {
			retry, failures, failed = nil, 0, false
			if want == nil && w.end(u, k) {
				return
			}
			continue
		}
		retry = time.After(w.pause(err, failures))
		failures++
		failed = !w.soon(err)
	}
}

// auditable reports whether a unit is built as it is wanted, as far as is known.
func (w *workers) auditable(k *work) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return k.settled && k.want != nil && k.want == k.built && w.audit != nil
}

func (w *workers) pause(err error, failures int) time.Duration {
	switch {
	case w.told != nil && w.told(err):
		return min(firstTold<<min(failures, 10), lastTold)
	case w.soon(err):
		return min(firstSoon<<min(failures, 10), lastSoon)
	case w.busy != nil && w.busy(err):
		return min(firstBusy<<min(failures, 10), lastBusy)
	}
	return min(firstRetry<<min(failures, 10), lastRetry)
}

// job is an attempt to be made.
type job struct {
	do func(ctx context.Context, u unit, want any) error
	// failed: the last one failed.
	failed bool
	// quiet: that it succeeds is nothing to report.
	quiet bool
}

// attempt does a job for the newest want and reports the outcome.
func (w *workers) attempt(u unit, k *work, j job) (any, error) {
	leave, err := w.enter(lane{u.kind, j.failed})
	if err != nil {
		return nil, err
	}
	defer leave()
	w.mu.Lock()
	want := k.want
	if j.quiet && want != k.built { // it has changed while this waited, and is built next
		w.mu.Unlock()
		return k.built, nil
	}
	w.mu.Unlock()
	err = j.do(w.ctx, u, want)
	w.mu.Lock()
	k.built, k.settled = want, err == nil
	w.mu.Unlock()
	if j.quiet && err == nil {
		return want, nil
	}
	select {
	case <-w.ctx.Done():
	case w.results <- outcome{u, want, err}:
	}
	return want, err
}

// slotPatience is how long an attempt keeps its slot: one that takes longer waits for something rather than work, and others
// go on meanwhile.
const slotPatience = 2 * time.Second

// enter waits for a slot of a lane; leave gives it back.
func (w *workers) enter(l lane) (leave func(), err error) {
	w.mu.Lock()
	slots := w.lanes[l]
	if slots == nil {
		slots = make(chan struct{}, w.limit)
		w.lanes[l] = slots
	}
	w.queued++
	w.mu.Unlock()
	select {
	case <-w.ctx.Done():
		err = w.ctx.Err()
	case <-w.opened:
		select {
		case <-w.ctx.Done():
			err = w.ctx.Err()
		case slots <- struct{}{}:
		}
	}
	w.mu.Lock()
	w.queued--
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { <-slots })
	timer := time.AfterFunc(slotPatience, release)
	return func() {
		timer.Stop()
		release()
	}, nil
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
