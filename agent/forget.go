package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/plan"
)

// notes are files that name, by router, floating IPs whose connections are to be ended: written before the NAT rules change
// and removed when the connections have been ended. Once the rules have changed nothing else tells an agent, whose
// predecessor was killed in between, that there were others.
type notes struct{ dir string }

// newNotes keeps the files in a directory of their own below the state directory.
func newNotes(stateDir string) (notes, error) {
	n := notes{filepath.Join(stateDir, "forget")}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return n, fmt.Errorf("directory of the notes of what conntrack is to forget: %w", err)
	}
	return n, nil
}

// write notes addresses, besides those noted before. None is no note.
func (n notes) write(router string, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	have, err := n.read(router)
	if err != nil {
		return err
	}
	var text strings.Builder
	all := slices.Concat(have, addrs)
	slices.SortFunc(all, netip.Addr.Compare)
	for _, a := range slices.Compact(all) {
		fmt.Fprintln(&text, a)
	}
	path := filepath.Join(n.dir, router)
	if err := os.WriteFile(path+".new", []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("note what conntrack is to forget: %w", err)
	}
	return os.Rename(path+".new", path)
}

// read returns what is noted. A line that is no address is passed over: the file is nobody's but the agent's.
func (n notes) read(router string) ([]netip.Addr, error) {
	text, err := os.ReadFile(filepath.Join(n.dir, router))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		if a, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil && a.Is4() {
			out = append(out, a)
		}
	}
	return out, nil
}

// remove drops a router's note. No note is success.
func (n notes) remove(router string) error {
	if err := os.Remove(filepath.Join(n.dir, router)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// floatingBefore is which floating IPs connections may be tied to: what was built last or, for a router that an earlier
// agent built, what its NAT rules say and what that agent noted.
func (s *services) floatingBefore(ctx context.Context, id, name string) (map[netip.Addr]netip.Addr, error) {
	s.mu.Lock()
	before, ok := s.floating[id]
	s.mu.Unlock()
	if ok {
		return before, nil
	}
	if owned, err := s.ns.Owned(name); err != nil || !owned {
		return nil, err
	}
	rules, err := s.nat.Rules(ctx, name, "nat", plan.ChainDNAT)
	if err != nil {
		return nil, err
	}
	before = plan.ParseDNAT(rules)
	noted, err := s.notes.read(id)
	if err != nil {
		return nil, err
	}
	for _, ip := range noted {
		before[ip] = netip.IPv4Unspecified() // tied to nobody knows what
	}
	s.setFloating(id, before) // the rules are about to change, and a later attempt must still know
	return before, nil
}

func (s *services) setFloating(id string, floating map[netip.Addr]netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floating[id] = floating
}

// moved are the floating IPs that have gone or lead elsewhere.
func moved(before, now map[netip.Addr]netip.Addr) []netip.Addr {
	var out []netip.Addr
	for ip, fixed := range before {
		if now[ip] != fixed {
			out = append(out, ip)
		}
	}
	return out
}

// forgetGone ends the connections of floating IPs that have gone or lead elsewhere: conntrack would go on translating
// them the old way.
func (s *services) forgetGone(ctx context.Context, id, name string, before, now map[netip.Addr]netip.Addr) error {
	if gone := moved(before, now); len(gone) > 0 {
		n, err := s.forget.Forget(ctx, name, gone...)
		if err != nil {
			return err
		}
		s.log.Info("connections of moved floating IPs ended", "router", id, "floating", gone, "connections", n)
		if err := s.notes.remove(id); err != nil {
			return err
		}
	}
	s.setFloating(id, now)
	return nil
}
