package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/e2e/lab/lease"
)

// ErrNotFound means that there is no lab, host or VM of that name.
var ErrNotFound = errors.New("not found")

// ErrExists means that there is one already.
var ErrExists = errors.New("exists already")

// state is what lab.json holds.
type state struct {
	Name        string     `json:"name"`
	Software    Software   `json:"software"`
	Bin         string     `json:"bin"`
	Executable  string     `json:"executable"`
	UnderlayMTU int        `json:"underlay_mtu"`
	LogLevel    string     `json:"log_level"`
	Hosts       []HostInfo `json:"hosts"` // the switch is the first
	Cuts        []cut      `json:"cuts,omitempty"`
	VMs         []VMInfo   `json:"vms,omitempty"`
}

// cut is a broken cable.
type cut struct {
	Host    string `json:"host"`
	Network string `json:"network"`
	Carrier bool   `json:"carrier,omitempty"` // the carrier is lost too
}

// VMInfo is what a lab knows of one VM.
type VMInfo struct {
	Name   string      `json:"name"`
	Host   string      `json:"host"`
	Port   Port        `json:"port"`
	Device string      `json:"device"` // the interface on the host's br-int
	Lease  lease.Lease `json:"lease"`  // zero until the VM has an address
}

func (s *state) host(name string) (*HostInfo, error) {
	i := slices.IndexFunc(s.Hosts, func(h HostInfo) bool { return h.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("host %q of lab %s: %w", name, s.Name, ErrNotFound)
	}
	return &s.Hosts[i], nil
}

func (s *state) vm(name string) (*VMInfo, error) {
	i := slices.IndexFunc(s.VMs, func(v VMInfo) bool { return v.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("VM %q of lab %s: %w", name, s.Name, ErrNotFound)
	}
	return &s.VMs[i], nil
}

func (s *state) isCut(c cut) bool { return slices.Contains(s.Cuts, c) }

// load reads lab.json as of now. Readers need no lock: the file is replaced as a whole.
func (l *Lab) load() (*state, error) {
	text, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w: bring it up with `weft-lab up --lab %s`", l.name, ErrNotFound, l.name)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: read its state: %w", l.name, err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("lab %s: its state %s is damaged (`weft-lab down --lab %s` removes the lab all the same): %w", l.name, l.stateFile(), l.name, err)
	}
	return &s, nil
}

// update changes lab.json under its lock. Change must not block: other processes wait meanwhile. When it fails, nothing
// is written.
func (l *Lab) update(change func(*state) error) error {
	unlock, err := lock(context.Background(), filepath.Join(l.dir, "state.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := l.load()
	if err != nil {
		return err
	}
	if err := change(s); err != nil {
		return err
	}
	return l.store(s)
}

func (l *Lab) store(s *state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("lab %s: encode its state: %w", l.name, err)
	}
	draft := l.stateFile() + ".new"
	if err := os.WriteFile(draft, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("lab %s: write its state: %w", l.name, err)
	}
	if err := os.Rename(draft, l.stateFile()); err != nil {
		return fmt.Errorf("lab %s: write its state: %w", l.name, err)
	}
	return nil
}

// lock takes an exclusive flock(2) on a file, which the kernel releases when its holder dies. It waits until the context
// ends. The folder of the file must exist.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := flock(ctx, file); err != nil {
			file.Close()
			return nil, fmt.Errorf("lock %s (another process works on this lab): %w", path, err)
		}
		if current(file, path) {
			return func() { file.Close() }, nil
		}
		file.Close() // the lab was removed, and perhaps made anew, while we waited
	}
}

func flock(ctx context.Context, file *os.File) error {
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// current tells whether the path still leads to the open file.
func current(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// pause waits between two looks at a condition.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await looks at a condition every few milliseconds until it holds. Its error, when the context ends first, names what
// was waited for and the condition's last complaint.
func await(ctx context.Context, what string, condition func() error) error {
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if waitErr := pause(ctx, 5*time.Millisecond); waitErr != nil {
			return fmt.Errorf("wait until %s: %w (last: %w)", what, waitErr, err)
		}
	}
}
