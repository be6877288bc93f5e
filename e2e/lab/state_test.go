package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestConcurrentUpdatesAreAllKept(t *testing.T) {
	dir := t.TempDir()
	if err := (&Lab{name: "x", dir: dir}).store(&state{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i := range 16 {
		writers.Go(func() {
			l := &Lab{name: "x", dir: dir, log: slog.New(slog.DiscardHandler)} // as another process has it
			for j := range 10 {
				if err := l.update(func(s *state) error {
					s.Cuts = append(s.Cuts, cut{Host: fmt.Sprint(i), Network: fmt.Sprint(j)})
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	s, err := (&Lab{name: "x", dir: dir}).load()
	if err != nil || len(s.Cuts) != 160 {
		t.Errorf("%d updates kept of 160, %v", len(s.Cuts), err)
	}
}

func TestAFailedUpdateWritesNothing(t *testing.T) {
	l := &Lab{name: "x", dir: t.TempDir()}
	if err := l.store(&state{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := l.update(func(s *state) error { s.Name = "y"; return ErrExists }); !errors.Is(err, ErrExists) {
		t.Errorf("got %v", err)
	}
	if s, err := l.load(); err != nil || s.Name != "x" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestLockOfARemovedFolderIsNotALock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		unlock, err := lock(ctx, filepath.Join(dir, "lock"))
		if err == nil {
			unlock()
		}
		waiting <- err
	}()
	if err := os.Rename(dir, dir+".gone"); err != nil { // as removeFolder does
		t.Fatal(err)
	}
	unlock()
	if err := <-waiting; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the waiter got %v, want that the folder is gone", err)
	}
}

func TestWhatAKilledLabLeftIsIdleUnlessSomebodyWorksOnIt(t *testing.T) {
	killed := &Lab{name: "killed", dir: t.TempDir()}
	unlock, err := lock(t.Context(), killed.operationLock())
	if err != nil {
		t.Fatal(err)
	}
	if idle, err := killed.idle(); idle || err != nil {
		t.Errorf("while it is brought up or taken down: idle %v, %v", idle, err)
	}
	unlock()
	gone := &Lab{name: "gone", dir: filepath.Join(t.TempDir(), "gone")}
	for _, l := range []*Lab{killed, gone} {
		if idle, err := l.idle(); !idle || err != nil {
			t.Errorf("lab %s: idle %v, %v", l.name, idle, err)
		}
	}
}
