package ipset_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ipset"
	"github.com/weft-sdn/weft/agent/netns"
)

// space is a namespace of its own.
type space struct {
	*testing.T
	ns   *netns.Manager
	name string
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &space{t, m, "qrouter-" + uuid.NewString()}
	if _, err := m.Prepare(t.Context(), desired.Namespace{Name: s.name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Delete(context.Background(), s.name); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

func (s *space) run(do func() error) error { return s.ns.Run(s.name, do) }

func (s *space) must(do func() error) {
	s.Helper()
	if err := s.run(do); err != nil {
		s.Fatal(err)
	}
}

// ensured is what is wrong after Ensure.
func ensured(failed map[string]error, err error) error {
	return errors.Join(append(slices.Collect(maps.Values(failed)), err)...)
}

func set(name string, members ...string) desired.IPSet {
	out := desired.IPSet{Name: name, IPv6: strings.Contains(name, "6-")}
	for _, m := range members {
		out.Members = append(out.Members, netip.MustParsePrefix(m))
	}
	return out
}

func TestSetsBecomeWhatIsWantedAndStaySo(t *testing.T) {
	s := newSpace(t)
	four, six := set("weft4-a", "10.0.0.1/32", "10.1.0.0/16", "128.0.0.0/1"), set("weft6-a", "2001:db8::1/128", "2001:db8:1::/48")
	var d ipset.Driver
	s.must(func() error { return ensured(d.Ensure([]desired.IPSet{four, six})) })
	written := d.Writes()
	s.must(func() error { return ensured(d.Ensure([]desired.IPSet{four, six})) })
	var restarted ipset.Driver
	s.must(func() error { return ensured(restarted.Ensure([]desired.IPSet{four, six})) })
	if d.Writes() != written || restarted.Writes() != 0 {
		t.Errorf("with nothing to do: %d and %d changes", d.Writes()-written, restarted.Writes())
	}
	four = set("weft4-a", "10.0.0.2/32", "10.1.0.0/16", "128.0.0.0/1")
	s.must(func() error { return ensured(restarted.Ensure([]desired.IPSet{four})) })
	if restarted.Writes() != 2 {
		t.Errorf("another member instead of one took %d changes", restarted.Writes())
	}
	s.must(func() error { return restarted.Prune([]desired.IPSet{four}) })
	s.must(func() error {
		diff, err := restarted.Diff([]desired.IPSet{four})
		for _, x := range diff {
			t.Errorf("not as wanted: %v", x)
		}
		return err
	})
	s.must(func() error {
		diff, err := restarted.Diff([]desired.IPSet{six})
		if len(diff) != 2 || diff[0].Desired == "" || diff[1].Actual == "" {
			t.Errorf("the difference from the other set: %v", diff)
		}
		return err
	})
}

func TestASetThatARuleRefersToStaysUntilTheRuleIsGone(t *testing.T) {
	s := newSpace(t)
	var d ipset.Driver
	s.must(func() error { return ensured(d.Ensure([]desired.IPSet{set("weft4-a", "10.0.0.1/32")})) })
	s.must(func() error {
		return exec.Command("iptables", "-A", "FORWARD", "-m", "set", "--match-set", "weft4-a", "src", "-j", "DROP").Run()
	})
	if err := s.run(func() error { return d.Prune(nil) }); err == nil || !strings.Contains(err.Error(), "weft4-a") {
		t.Errorf("removing a set in use: %v", err)
	}
	s.must(func() error { return exec.Command("iptables", "-F", "FORWARD").Run() })
	s.must(func() error { return d.Prune(nil) })
}

func TestNamesOfOthersAreRefused(t *testing.T) {
	s := newSpace(t)
	for _, name := range []string{"weft", "weft4-", "weft4-g", "weft5-a", "others", "weft4-0123456789abcdef012345678"} {
		var d ipset.Driver
		if err := s.run(func() error { return ensured(d.Ensure([]desired.IPSet{set(name)})) }); err == nil || ipset.Owned(name) {
			t.Errorf("%q was taken for one of weft's", name)
		}
	}
}
