package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errHost  = errors.New("the host is broken")
	errEarly = errors.New("not yet")
	errBusy  = errors.New("somebody else's turn")
)

// log keeps what was built, in order.
type buildLog struct {
	mu    sync.Mutex
	built []any
}

func (l *buildLog) add(want any) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.built = append(l.built, want)
	return len(l.built)
}

func (l *buildLog) last() any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.built) == 0 {
		return nil
	}
	return l.built[len(l.built)-1]
}

func startWorkers(t *testing.T, limit int, build func(context.Context, unit, any) error) *workers {
	t.Helper()
	return startBuilders(t, limit, builders{build: build})
}

func startBuilders(t *testing.T, limit int, b builders) *workers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b.soon = func(err error) bool { return errors.Is(err, errEarly) }
	b.busy = func(err error) bool { return errors.Is(err, errBusy) }
	w := newWorkers(ctx, limit, b)
	w.open()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.results:
			}
		}
	}()
	t.Cleanup(func() { cancel(); w.wait() })
	return w
}

func TestAUnitIsBuiltAsItWasWantedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log buildLog
		w := startWorkers(t, 1, func(_ context.Context, _ unit, want any) error { log.add(want); return nil })
		for i := range 100 {
			w.set(unit{"router", "r"}, i)
		}
		synctest.Wait()
		if log.last() != 99 {
			t.Errorf("built %v last, want 99", log.last())
		}
	})
}

func TestAFailedUnitIsTriedAgainUntilItSucceeds(t *testing.T) {
	for name, cause := range map[string]error{"the host's error": errHost, "something has to happen first": errEarly} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log buildLog
				w := startWorkers(t, 1, func(_ context.Context, _ unit, want any) error {
					if log.add(want) < 4 {
						return cause
					}
					return nil
				})
				w.set(unit{"router", "r"}, "want")
				time.Sleep(2 * time.Minute) //nolint:forbidigo // the bubble's clock
				synctest.Wait()
				if len(log.built) != 4 {
					t.Errorf("%d attempts, want 4", len(log.built))
				}
			})
		})
	}
}

func TestAUnitThatHangsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log buildLog
		w := startWorkers(t, 2, func(ctx context.Context, u unit, want any) error {
			if u.id == "hangs" {
				<-ctx.Done()
				return ctx.Err()
			}
			log.add(want)
			return nil
		})
		w.set(unit{"router", "hangs"}, "x")
		synctest.Wait()
		w.set(unit{"router", "other"}, "y")
		synctest.Wait()
		if log.last() != "y" {
			t.Error("the other unit was not built")
		}
	})
}

func TestUnitsThatHangGiveTheirSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log buildLog
		w := startWorkers(t, 2, func(ctx context.Context, _ unit, want any) error {
			if want == "hangs" {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				<-ctx.Done()
				return errHost
			}
			log.add(want)
			return nil
		})
		for _, id := range []string{"1", "2", "3", "4"} {
			w.set(unit{"router", id}, "hangs")
		}
		synctest.Wait()
		w.set(unit{"dhcp", "n"}, "of another kind")
		synctest.Wait()
		if log.last() != "of another kind" {
			t.Error("units of one kind hold up those of another")
		}
		w.set(unit{"router", "5"}, "of the same kind")
		synctest.Wait()
		if w.depth() != 3 {
			t.Errorf("%d units wait, want 3", w.depth())
		}
		time.Sleep(2*slotPatience + time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if log.last() != "of the same kind" {
			t.Error("a unit waits for others that hang")
		}
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		w.set(unit{"router", "6"}, "later")
		synctest.Wait()
		if log.last() != "later" {
			t.Error("a unit waits for others that have failed before and hang again")
		}
	})
}

func TestAUnitThatIsInAnotherProgramsWayIsTriedSoonAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := time.Now().Add(time.Minute)
		var log buildLog
		w := startWorkers(t, 1, func(_ context.Context, _ unit, want any) error {
			if time.Now().Before(free) {
				return errBusy
			}
			log.add(want)
			return nil
		})
		w.set(unit{"router", "r"}, "x")
		time.Sleep(time.Minute + lastBusy) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if len(log.built) != 1 {
			t.Error("not built soon after the other program was done")
		}
	})
}

func TestOnlyWhatIsBuiltAsWantedIsAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log, audits buildLog
		var fail atomic.Bool
		fail.Store(true)
		w := startBuilders(t, 1, builders{
			build: func(_ context.Context, _ unit, want any) error {
				log.add(want)
				if fail.Load() {
					return errHost
				}
				return nil
			},
			audit: func(_ context.Context, _ unit, want any) error {
				audits.add(want)
				if want == "broken" {
					return errHost
				}
				return nil
			},
		})
		u := unit{"router", "r"}
		inspect := func() int {
			w.inspect(u)
			w.inspect(unit{"router", "unknown"})
			synctest.Wait()
			return len(audits.built)
		}
		w.set(u, "x")
		synctest.Wait()
		if inspect() != 0 {
			t.Error("what could not be built was audited")
		}
		fail.Store(false)
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if n := len(log.built); inspect() != 1 || len(log.built) != n {
			t.Errorf("%d audits, %d builds, want one and none", len(audits.built), len(log.built)-n)
		}
		w.set(u, "broken")
		synctest.Wait()
		n := len(log.built)
		if inspect() != 2 {
			t.Error("not audited")
		}
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if len(log.built) != n+1 {
			t.Errorf("after an audit that failed there were %d builds, want one", len(log.built)-n)
		}
	})
}

func TestAUnitTakenDownAndWantedAgainIsBuiltAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log buildLog
		w := startWorkers(t, 1, func(_ context.Context, _ unit, want any) error { log.add(want); return nil })
		u := unit{"dhcp", "n"}
		for _, want := range []any{"first", nil, "second"} {
			w.set(u, want)
			synctest.Wait()
		}
		w.again(u)
		synctest.Wait()
		if len(log.built) != 4 || log.last() != "second" {
			t.Errorf("built %v, want first, nothing, second, second", log.built)
		}
	})
}

// An audit waits for a slot while its unit is taken down: the removal is the builder's, and told.
func TestAUnitTakenDownWhileItsAuditWaitsIsToldToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		b := builders{
			build: func(_ context.Context, u unit, _ any) error {
				if u.id == "slow" {
					<-free
				}
				return nil
			},
			audit: func(_ context.Context, _ unit, want any) error {
				t.Errorf("audited as %v", want)
				return nil
			},
			soon: func(error) bool { return false },
		}
		w := newWorkers(t.Context(), 1, b)
		w.open()
		u := unit{"router", "r"}
		w.set(u, "x")
		<-w.results
		w.set(unit{"router", "slow"}, "y")
		synctest.Wait()
		w.inspect(u)
		synctest.Wait()
		w.set(u, nil)
		close(free)
		gone := false
		for range 2 {
			o := <-w.results
			gone = gone || o.unit == u && o.want == nil
		}
		if !gone {
			t.Error("that the unit is gone was not told")
		}
	})
}
