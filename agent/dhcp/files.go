package dhcp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// Modes: dnsmasq reads its files again on SIGHUP, when it is no longer root. They hold nothing secret.
const (
	dirMode  = 0o755
	fileMode = 0o644
)

// writeFiles brings the files to their wanted content and reports whether the running process has yet to read one.
func (m *Manager) writeFiles(want desired.DHCP) (bool, error) {
	dir := m.Dir(want.Network)
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(want.Files)) {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err != nil || !bytes.Equal(have, []byte(want.Files[name])) {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		if err := m.makeDir(dir); err != nil {
			return false, err
		}
		if err := m.writeFile(dir, reloadFile, ""); err != nil {
			return false, err
		}
	}
	for _, name := range differ {
		if err := m.writeFile(dir, name, want.Files[name]); err != nil {
			return false, err
		}
	}
	_, err := os.Stat(filepath.Join(dir, reloadFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, err
}

func (m *Manager) makeDir(dir string) error {
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	m.writes.Add(1)
	return err
}

// writeFile replaces a file atomically. It is not synced: after a power failure it is compared and written again.
func (m *Manager) writeFile(dir, name, content string) error {
	m.writes.Add(1)
	f, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("file %s: %w", name, err)
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Chmod(fileMode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("file %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// reload tells a running process to read its files, if it has to.
func (m *Manager) reload(network string, p *process, changed bool) error {
	if !changed {
		return nil
	}
	m.writes.Add(1)
	if err := p.signal(unix.SIGHUP); err != nil {
		return fmt.Errorf("dnsmasq %d: reload: %w", p.pid, err)
	}
	return m.settle(network)
}

// settle notes that the process has been told of the files as they are.
func (m *Manager) settle(network string) error {
	err := os.Remove(filepath.Join(m.Dir(network), reloadFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m.writes.Add(1)
	return err
}
