// Package netspace enters the namespaces of a simulated host from outside: to run a command in all of them, or to open
// sockets and netlink handles in one of its network namespaces while staying in the own mounts and pids. It neither
// creates nor deletes namespaces and knows nothing of labs.
package netspace

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Target names a network namespace of a host that is itself a set of namespaces. The zero Netns is the one of the
// host's pid 1, otherwise it is a name as `ip netns list` shows it inside the host. A Target is a plain value.
type Target struct {
	PID   int // pid 1 of the host, in the caller's pid namespace
	Netns string
}

// Path is the file that stands for the network namespace, usable from outside the host.
func (t Target) Path() string {
	if t.Netns == "" {
		return fmt.Sprintf("/proc/%d/ns/net", t.PID)
	}
	return fmt.Sprintf("/proc/%d/root/run/netns/%s", t.PID, t.Netns)
}

// Open opens the network namespace itself, which lives at least until the file is closed.
func (t Target) Open() (*os.File, error) {
	file, err := os.Open(t.Path())
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return file, nil
}

// set moves the calling thread.
func set(ns *os.File) error { return netns.Set(netns.NsHandle(ns.Fd())) }

// Command prepares argv to run in the host's mount, uts, ipc and pid namespaces and in the network namespace. The caller
// may set its stdio before starting it. It uses nsenter(1), whose process outside ends with the command inside.
func (t Target) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := []string{"-t", strconv.Itoa(t.PID), "-m", "-u", "-i", "-p", "--net=" + t.Path(), "--"}
	return exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
}

// Do runs fn on a thread that is inside the network namespace. Sockets that fn opens stay there for life; goroutines
// that fn starts do not run there, and files under /proc/sys/net seen by fn are the namespace's. Safe for concurrent use.
func (t Target) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- t.doOnOwnThread(fn) }()
	return <-result
}

// doOnOwnThread leaves its thread locked when it cannot bring it home, so that the runtime discards the thread with
// the goroutine instead of running others in the wrong namespace.
func (t Target) doOnOwnThread(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("find the own network namespace: %w", err)
	}
	defer home.Close()
	away, err := t.Open()
	if err != nil {
		return err
	}
	defer away.Close()
	if err := set(away); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", t.Path(), err)
	}
	fnErr := fn()
	if err := set(home); err == nil {
		runtime.UnlockOSThread()
	}
	return fnErr
}

// Netlink opens a route netlink handle in the network namespace. The caller closes it; until then it keeps the
// namespace from being freed.
func (t Target) Netlink() (*netlink.Handle, error) {
	ns, err := t.Open()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", t.Path(), err)
	}
	return handle, nil
}

// Sysctl writes a value under /proc/sys/net as the network namespace has it. Key is a path relative to /proc/sys/net.
func (t Target) Sysctl(key, value string) error {
	return t.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl net/%s to %s in %s: %w", key, value, t.Path(), err)
		}
		return nil
	})
}
