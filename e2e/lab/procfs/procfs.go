// Package procfs reads the machine's process table: who runs, since when, in which namespaces. It identifies a process
// by pid and start time, so that a recycled pid is never mistaken for the one that was recorded. It signals nothing
// and starts nothing.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrGone means that the process does not exist (any more), or is a zombie that only waits to be reaped.
var ErrGone = errors.New("process is gone")

// ID identifies one process for as long as the machine runs.
type ID struct {
	PID   int    `json:"pid"`   // in the pid namespace of the reader
	Start uint64 `json:"start"` // clock ticks after boot, proc_pid_stat(5) field 22
}

// Process is one live process as seen at one moment.
type Process struct {
	ID
	State byte     // proc_pid_stat(5) field 3: 'R', 'S', 'T' (stopped), …; 'Z' while the first thread has ended and others have not
	Args  []string // the command line; empty for kernel threads and in state 'Z'
}

// Name is the base name of the program the process was started as, "" for a kernel thread.
func (p Process) Name() string {
	if len(p.Args) == 0 {
		return ""
	}
	return filepath.Base(p.Args[0])
}

// Stopped tells whether a SIGSTOP holds the process.
func (p Process) Stopped() bool { return p.State == 'T' }

// Held tells whether every thread of the process is stopped: after a SIGSTOP those that run go on for a moment. ErrGone when
// there is no such process any more.
func (id ID) Held() (bool, error) {
	if !id.Alive() {
		return false, ErrGone
	}
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", id.PID))
	if err != nil {
		return false, err
	}
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		state, _, _, err := parseStat(string(stat))
		if err != nil {
			return false, fmt.Errorf("read %s: %w", name, err)
		}
		if state != 'T' && state != 'Z' {
			return false, nil
		}
	}
	return true, nil
}

// Alive tells whether exactly this process still runs; a zombie does not, but for threads of it that do.
func (id ID) Alive() bool {
	p, err := Read(id.PID)
	return err == nil && p.ID == id
}

// Read describes the process with that pid; ErrGone when there is none or it is a zombie without threads.
func Read(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, gone(err)
	}
	state, start, threads, err := parseStat(string(stat))
	if err != nil {
		return Process{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	// The first thread of a process may be a zombie while others still end, holding devices and sockets open.
	if state == 'X' || state == 'Z' && threads <= 1 {
		return Process{}, ErrGone
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return Process{}, gone(err)
	}
	return Process{ID: ID{PID: pid, Start: start}, State: state, Args: splitArgs(args)}, nil
}

// List returns every live process, by pid as the kernel lists them. A process that ends during the call may be missing.
func List() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // not a process
		}
		p, err := Read(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	return found, nil
}

// parseStat reads state (field 3), num_threads (field 20) and starttime (field 22) of proc_pid_stat(5). Field 2, the
// program's name, may hold spaces and parentheses: the fields are counted from its last closing one.
func parseStat(stat string) (state byte, start uint64, threads int, err error) {
	_, rest, ok := cutLast(stat, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, 0, 0, fmt.Errorf("%q is not in the form of proc_pid_stat(5)", stat)
	}
	if threads, err = strconv.Atoi(fields[17]); err != nil {
		return 0, 0, 0, fmt.Errorf("number of threads: %w", err)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("start time: %w", err)
	}
	return fields[0][0], start, threads, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func splitArgs(cmdline []byte) []string {
	cmdline = bytes.TrimRight(cmdline, "\x00")
	if len(cmdline) == 0 {
		return nil
	}
	return strings.Split(string(cmdline), "\x00")
}

// gone turns "no such process" in its two forms (file missing; ESRCH while reading it) into ErrGone.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "no such process") {
		return ErrGone
	}
	return err
}
