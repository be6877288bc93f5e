package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const threadNS = "/proc/thread-self/ns/net"

// errGoexit replaces the result of a function that left its goroutine instead of returning.
var errGoexit = errors.New("function ended its goroutine")

// Run calls fn on a locked OS thread inside an owned namespace and returns fn's error. Sockets opened by fn stay in the
// namespace for good, processes started by fn begin in it; goroutines started by fn do not run in it. The mount
// namespace stays the caller's (no private /sys, unlike ip-netns-exec). ErrAbsent or ErrForeign if name is not owned.
func (m *Manager) Run(name string, fn func() error) error {
	switch s, err := m.state(name); {
	case err != nil:
		return err
	case s == foreign:
		return fmt.Errorf("namespace %s: %w", name, ErrForeign)
	case s != ours:
		return fmt.Errorf("namespace %s: %w", name, ErrAbsent)
	}
	return onThread(func() error {
		f, err := os.Open(m.Path(name))
		if err != nil {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("namespace %s: enter: %w", name, err)
		}
		return fn()
	})
}

// onThread calls fn on a thread of its own, which fn may move to another network namespace. The thread is put back
// afterwards; if that fails it is left locked, and so dies with its goroutine (runtime.LockOSThread).
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() { result <- err }()
		runtime.LockOSThread()
		home, openErr := os.Open(threadNS)
		if openErr != nil {
			err = fmt.Errorf("own network namespace: %w", openErr)
			return
		}
		defer home.Close()
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = fn()
	}()
	return <-result
}
