package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// presence is what is found under a namespace's name.
type presence int

const (
	absent   presence = iota // no file of that name
	leftover                 // our mark, and a file that no namespace is mounted on: a creation that was cut short
	ours                     // a namespace, and our mark names it
	foreign                  // anything else
)

// nsfsMagic is NSFS_MAGIC of linux/magic.h: the file system of namespace handles.
const nsfsMagic = 0x6e736673

// bootID distinguishes one boot from the next: inode numbers of namespaces start anew (random(4), boot_id).
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// identity is what a mark holds: the boot, and the device and inode of the namespace, which namespaces(7) gives as its
// identity.
func (m *Manager) identity(st *unix.Stat_t) string {
	return fmt.Sprintf("%s %d:%d\n", m.boot, st.Dev, st.Ino)
}

func (m *Manager) markPath(name string) string { return filepath.Join(m.marks, name) }

// state reads what there is under a name.
func (m *Manager) state(name string) (presence, error) {
	if !Named(name) {
		return foreign, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Path(name), &st); errors.Is(err, unix.ENOENT) {
		return absent, nil
	} else if err != nil {
		return foreign, fmt.Errorf("namespace %s: stat: %w", name, err)
	}
	mark, err := os.ReadFile(m.markPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return foreign, nil
	}
	if err != nil {
		return foreign, fmt.Errorf("namespace %s: read its mark: %w", name, err)
	}
	var vfs unix.Statfs_t
	if err := unix.Statfs(m.Path(name), &vfs); err != nil {
		return foreign, fmt.Errorf("namespace %s: statfs: %w", name, err)
	}
	switch {
	case vfs.Type != nsfsMagic:
		return leftover, nil
	case string(mark) == m.identity(&st):
		return ours, nil
	}
	return foreign, nil
}

// writeMark replaces the mark of a namespace atomically.
func (m *Manager) writeMark(name, identity string) error {
	m.writes.Add(1)
	tmp := m.markPath("." + name)
	if err := os.WriteFile(tmp, []byte(identity), 0o644); err != nil {
		return fmt.Errorf("namespace %s: write its mark: %w", name, err)
	}
	if err := os.Rename(tmp, m.markPath(name)); err != nil {
		return fmt.Errorf("namespace %s: write its mark: %w", name, err)
	}
	return nil
}
