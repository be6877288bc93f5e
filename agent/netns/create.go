package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// create makes the namespace if it is absent and reports whether it did. The mark is written before the namespace gets
// its name, so that there is no moment at which a named namespace of ours is unmarked.
func (m *Manager) create(name string) (bool, error) {
	s, err := m.state(name)
	switch {
	case err != nil || s == ours:
		return false, err
	case s == foreign:
		return false, fmt.Errorf("namespace %s: %w: delete it, or stop the agent that made it", name, ErrForeign)
	}
	if err := m.shareRunDir(); err != nil {
		return false, err
	}
	return true, onThread(func() error { return m.createHere(name, s) })
}

// createHere moves the calling thread to a new namespace and gives that its name.
func (m *Manager) createHere(name string, found presence) error {
	m.writes.Add(1)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespace %s: unshare: %w", name, err)
	}
	// IPv4 settings are inherited from the host, ip_forward with them (networking/ip-sysctl, devconf_inherit_init_net).
	if err := writeSysctl(ipForward, "0"); err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(threadNS, &st); err != nil {
		return fmt.Errorf("namespace %s: its identity: %w", name, err)
	}
	if err := m.writeMark(name, m.identity(&st)); err != nil {
		return err
	}
	flags := os.O_RDONLY | os.O_CREATE | os.O_EXCL
	if found == leftover {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(m.Path(name), flags, 0o444)
	if err != nil {
		return fmt.Errorf("namespace %s: create its file: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("namespace %s: create its file: %w", name, err)
	}
	if err := unix.Mount(threadNS, m.Path(name), "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("namespace %s: mount: %w", name, errors.Join(err, os.Remove(m.Path(name))))
	}
	return nil
}

// shareRunDir makes the directory a shared mount point, so that a namespace mounted or unmounted here is so in every
// mount namespace; ip-netns(8) does the same, under the same lock.
func (m *Manager) shareRunDir() error {
	if err := os.MkdirAll(m.runDir, 0o755); err != nil {
		return fmt.Errorf("directory of named namespaces: %w", err)
	}
	dir, err := os.Open(m.runDir)
	if err != nil {
		return fmt.Errorf("directory of named namespaces: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", m.runDir, err)
	}
	err = unix.Mount("", m.runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(m.runDir, m.runDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make %s a mount point: %w", m.runDir, err)
		}
		err = unix.Mount("", m.runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("make %s shared: %w", m.runDir, err)
	}
	return nil
}

// Delete removes an owned namespace with weft's links in it, their outer ends and the mark; that it is absent is success.
// ErrLinkRemains while OVS has a port for one of the links: the ports go first. ErrForeign if the namespace is not weft's.
func (m *Manager) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("namespace %s: delete: %w", name, err)
	}
	s, err := m.state(name)
	switch {
	case err != nil:
		return err
	case s == foreign:
		return fmt.Errorf("namespace %s: delete: %w", name, ErrForeign)
	case s == ours:
		// The kernel takes the pairs down with the namespace too, but some time after it.
		if _, err := m.Prune(ctx, desired.Namespace{Name: name}); err != nil {
			return err
		}
		m.writes.Add(1)
		if err := unix.Unmount(m.Path(name), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("namespace %s: unmount: %w", name, err)
		}
	}
	// The mark goes last: without it a deletion that was cut short would leave a file that nobody claims.
	for _, path := range []string{m.Path(name), m.markPath(name)} {
		if err := m.remove(path); err != nil {
			return fmt.Errorf("namespace %s: delete: %w", name, err)
		}
	}
	return nil
}

func (m *Manager) remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m.writes.Add(1)
	return err
}
