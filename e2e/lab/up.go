package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/e2e/lab/hostinit"
	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// cleanUpTime bounds the removal of a lab that did not come up.
const cleanUpTime = 30 * time.Second

// Up brings a lab up and returns when its daemons serve. ErrExists when a lab of that name is running; remains of a dead
// one are removed. When it fails, or the context ends first, it leaves nothing behind.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if hostinit.Inside() {
		return nil, errors.New("this is the inside of a simulated host: labs are brought up from outside (does the program call lab.BecomeHost first?)")
	}
	if err := o.checkPrograms(); err != nil {
		return nil, err
	}
	l, err := handle(o.Name, o.Log)
	if err != nil {
		return nil, err
	}
	unlock, err := l.operate(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.refuseRunning(); err != nil {
		return nil, err
	}
	if err := l.create(ctx, o); err != nil {
		return nil, errors.Join(err, l.removeAfterFailure(ctx))
	}
	return l, nil
}

// operate takes the lab for an operation on the whole of it: up, down, power.
func (l *Lab) operate(ctx context.Context) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(l.dir, 0o755); err != nil {
			return nil, fmt.Errorf("lab %s (needs root): %w", l.name, err)
		}
		unlock, err := lock(ctx, l.operationLock())
		if errors.Is(err, fs.ErrNotExist) {
			continue // the folder was removed in between
		}
		return unlock, err
	}
}

func (l *Lab) refuseRunning() error {
	alive, err := l.inits()
	if err != nil {
		return err
	}
	if len(alive) > 0 {
		return fmt.Errorf("lab %s: %w (%d hosts run): `weft-lab down --lab %s` removes it", l.name, ErrExists, len(alive), l.name)
	}
	return nil
}

func (l *Lab) create(ctx context.Context, o Options) error {
	if err := l.erase(); err != nil { // the disks of a lab that died
		return err
	}
	if err := hasten(ctx); err != nil {
		return err
	}
	hosts := plan(o)
	if err := l.store(&state{
		Name: l.name, Software: o.Software, Bin: o.Bin, Executable: o.Executable, UnderlayMTU: o.UnderlayMTU, LogLevel: o.LogLevel, Hosts: hosts,
	}); err != nil {
		return err
	}
	if err := l.issue(hosts); err != nil {
		return err
	}
	if err := l.bootSwitch(ctx); err != nil {
		return err
	}
	if err := each(ctx, hosts[1:], l.boot); err != nil {
		return err
	}
	if o.Software != Weft {
		return nil
	}
	return l.startWeft(ctx, hosts)
}

// each works on all hosts at once and returns the first error, after which the others' context is cancelled.
func each(ctx context.Context, hosts []HostInfo, work func(context.Context, HostInfo) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		group.Go(func() error { return work(ctx, h) })
	}
	return group.Wait()
}

// boot powers a host on: pid 1, cables, and Open vSwitch where the host has it.
func (l *Lab) boot(ctx context.Context, h HostInfo) error {
	began := time.Now()
	if err := l.startInit(ctx, h.Name); err != nil {
		return err
	}
	if err := l.plugCables(h); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	if err := l.bootOVS(ctx, h); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	l.log.Info("host is up", "lab", l.name, "host", h.Name, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (l *Lab) startInit(ctx context.Context, host string) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	id, err := hostinit.Start(ctx, s.Executable, l.spec(host))
	if err != nil {
		return err
	}
	return l.setID(host, id)
}

func (l *Lab) setID(host string, id procfs.ID) error {
	return l.update(func(s *state) error {
		h, err := s.host(host)
		if err == nil {
			h.ID = id
		}
		return err
	})
}

// Down removes a lab with everything that belongs to it, whatever state it is in: running, half up, or with a damaged or
// missing record. When it returns without error no process, namespace, mount or file of the lab is left. A lab that
// does not exist is success.
func Down(ctx context.Context, name string) error {
	l, err := handle(name, nil)
	if err != nil {
		return err
	}
	unlock, err := l.operate(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return l.remove(ctx)
}

// Down removes the lab, see the function Down.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx, l.name) }

func (l *Lab) removeAfterFailure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	return l.remove(ctx)
}

// remove ends every process first: all namespaces and mounts of the lab go with the last process in them.
func (l *Lab) remove(ctx context.Context) error {
	inits, err := l.inits()
	if err != nil {
		return err
	}
	if err := endAll(ctx, inits); err != nil {
		return fmt.Errorf("lab %s: %w", l.name, err)
	}
	if err := l.removeFolder(); err != nil {
		return fmt.Errorf("lab %s: remove its folder: %w", l.name, err)
	}
	if err := relax(ctx); err != nil {
		return err
	}
	// The last lab takes the common folder along; another one keeps it.
	if err := os.Remove(Root); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", Root, err)
	}
	return nil
}

// removeFolder moves the folder away as a whole before it takes it apart: who waits for the lock in it sees the lab with its
// lock, or neither. What a killed removal left is removed too. Lab names have no dots, so the pattern means this one.
func (l *Lab) removeFolder() error {
	away := filepath.Join(Root, ".gone."+l.name+".")
	if err := os.Rename(l.dir, away+strconv.Itoa(os.Getpid())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	gone, err := filepath.Glob(away + "*")
	if err != nil {
		return err
	}
	for _, folder := range gone {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}

// erase removes the lab's files but for the lock that the caller holds.
func (l *Lab) erase() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("lab %s: %w", l.name, err)
	}
	for _, e := range entries {
		if e.Name() == filepath.Base(l.operationLock()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(l.dir, e.Name())); err != nil {
			return fmt.Errorf("lab %s: %w", l.name, err)
		}
	}
	return nil
}

// inits finds the pid 1 of every host of the lab by their command lines: the record may be missing or behind.
func (l *Lab) inits() ([]procfs.Process, error) {
	all, err := procfs.List()
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.name, err)
	}
	return slices.DeleteFunc(all, func(p procfs.Process) bool { return !hostinit.Is(p, l.dir) }), nil
}

// endAll kills hosts by their pid 1. The kernel ends all of a pid namespace before its pid 1 is gone (pid_namespaces(7)).
// What entered a host's mounts from outside, as nsenter(1) does, is not in its pid namespace and is ended after it.
func endAll(ctx context.Context, inits []procfs.Process) error {
	mounts, err := holdMounts(inits)
	defer func() {
		for _, ns := range mounts {
			ns.Close()
		}
	}()
	if err != nil {
		return err
	}
	if err := end(ctx, inits); err != nil {
		return err
	}
	for _, ns := range mounts {
		strays, err := ns.Members()
		if err != nil {
			return err
		}
		if err := end(ctx, strays); err != nil {
			return err
		}
	}
	return nil
}

// holdMounts holds the hosts' mount namespaces, but never the caller's own, from before the hosts end until after the
// search for strays: only a number that is held cannot come to mean somebody else's namespace.
func holdMounts(inits []procfs.Process) (held []*procfs.Namespace, err error) {
	own, err := procfs.HoldPath("mnt", "/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	for _, p := range inits {
		ns, err := p.Hold("mnt")
		if errors.Is(err, procfs.ErrGone) {
			continue
		}
		if err != nil {
			return held, err
		}
		same, err := ns.Same(own)
		if err != nil || same {
			ns.Close()
			if err != nil {
				return held, err
			}
			continue
		}
		held = append(held, ns)
	}
	return held, nil
}

// end kills processes and waits until they are gone.
func end(ctx context.Context, processes []procfs.Process) error {
	for _, p := range processes {
		if err := signal(p.ID, unix.SIGKILL); err != nil {
			return err
		}
	}
	for _, p := range processes {
		if err := awaitEnd(ctx, p.ID); err != nil {
			return err
		}
	}
	return nil
}

func awaitEnd(ctx context.Context, id procfs.ID) error {
	return await(ctx, fmt.Sprintf("process %d ends", id.PID), func() error {
		if id.Alive() {
			return errors.New("it lives")
		}
		return nil
	})
}

// signal reaches exactly that process: a pidfd (pidfd_open(2)) cannot come to mean another one between check and signal.
// A process that is gone is success.
func signal(id procfs.ID, s unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // the last two: now a thread's id
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", id.PID, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	if !id.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", s, id.PID, err)
	}
	return nil
}
