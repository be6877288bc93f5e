package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

// Diff tells how a network's DHCP service differs from what is wanted: what Ensure would write, without writing it. It may
// run beside any other method, for the same network too.
func (m *Manager) Diff(ctx context.Context, want desired.DHCP) ([]desired.Difference, error) {
	err := check(want)
	if err == nil {
		err = ctx.Err()
	}
	var out []desired.Difference
	if err == nil {
		out, err = m.diff(want)
	}
	if err != nil {
		return out, fmt.Errorf("DHCP of network %s: compare: %w", want.Network, err)
	}
	return out, nil
}

func (m *Manager) diff(want desired.DHCP) ([]desired.Difference, error) {
	out, err := m.fileDifferences(want)
	if err != nil {
		return nil, err
	}
	differ := func(should, is string) {
		out = append(out, desired.Difference{Kind: "dhcp", Object: want.Network + " dnsmasq", Desired: should, Actual: is})
	}
	place, err := m.locate(want)
	if errors.Is(err, ErrLinkMissing) || errors.Is(err, fs.ErrNotExist) {
		differ("a link to serve", "")
		return out, nil
	}
	if err != nil {
		return out, err
	}
	p, ours, err := m.peek(want.Network)
	if err != nil {
		return out, err
	}
	if p == nil {
		differ("running", "")
		return out, nil
	}
	if !ours {
		defer p.close()
	}
	if !p.serves(m.arguments(want), place) {
		differ("the planned command line, namespace and link", fmt.Sprintf("process %d with other ones", p.pid))
	}
	if p.stopped() {
		differ("running", fmt.Sprintf("process %d stopped by a signal", p.pid))
	}
	if !m.noted(want.Network, p) {
		differ(fmt.Sprintf("process %d in the pid file", p.pid), "another pid file, or none")
	}
	return out, nil
}

// fileDifferences compares the files' contents.
func (m *Manager) fileDifferences(want desired.DHCP) ([]desired.Difference, error) {
	var out []desired.Difference
	for _, name := range slices.Sorted(maps.Keys(want.Files)) {
		have, err := os.ReadFile(filepath.Join(m.Dir(want.Network), name))
		d := desired.Difference{Kind: "dhcp", Object: want.Network + " file " + name, Desired: fmt.Sprintf("%d lines", lines(want.Files[name]))}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			out = append(out, d)
		case err != nil:
			return nil, err
		case !bytes.Equal(have, []byte(want.Files[name])):
			d.Actual = fmt.Sprintf("other content, %d lines", lines(string(have)))
			out = append(out, d)
		}
	}
	return out, nil
}

func lines(text string) int { return strings.Count(text, "\n") }

// peek is find, and says whether the process is one that is cared for, which must not be closed.
func (m *Manager) peek(network string) (p *process, ours bool, err error) {
	m.mu.Lock()
	p = m.children[network]
	m.mu.Unlock()
	if p != nil {
		return p, true, nil
	}
	p, err = m.find(network)
	return p, false, err
}

// stopped reports whether the process has been stopped by a signal (state T of proc_pid_stat(5)).
func (p *process) stopped() bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return false // it has ended, which is noticed otherwise
	}
	_, after, ok := bytes.Cut(stat, []byte(") ")) // the command's name before it may hold anything but this
	return ok && len(after) > 0 && after[0] == 'T'
}

// noted reports whether the pid file names the process: a restarted agent finds it by that.
func (m *Manager) noted(network string, p *process) bool {
	b, err := os.ReadFile(filepath.Join(m.Dir(network), pidFile))
	return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(p.pid)
}
