package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errHost  = errors.New("the host is broken")
	errEarly = errors.New("not yet")
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
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorkers(ctx, limit, build, func(err error) bool { return errors.Is(err, errEarly) })
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
