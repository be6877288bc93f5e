package dhcp_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

func (s *site) diff(want desired.DHCP) []string {
	s.t.Helper()
	d, err := s.Diff(context.Background(), want)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, x := range d {
		out = append(out, strings.ReplaceAll(x.String(), s.network, "NET"))
	}
	slices.Sort(out)
	return out
}

// await waits until a process is in a state of proc_pid_stat(5).
func (s *site) await(pid int, state string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			s.t.Fatal(err)
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, state) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("process %d is not in state %s: %s", pid, state, stat)
		}
	}
}

func TestDiffFindsWhatAStrangerDidAndEnsureRepairsIt(t *testing.T) {
	s := newSite(t)
	want := s.want(macA)
	dir := s.Dir(s.network)
	if d := s.diff(want); len(d) != len(want.Files)+1 || !slices.Contains(d, "dhcp NET dnsmasq: missing: running") {
		t.Errorf("of what is not there: %q", d)
	}
	pid := s.ensure(want)
	for what, c := range map[string]struct {
		do    func() error
		found []string
	}{
		"nothing": {func() error { return nil }, nil},
		"a file deleted": {
			func() error { return os.Remove(filepath.Join(dir, "opts")) },
			[]string{"dhcp NET file opts: missing: " + strconv.Itoa(strings.Count(want.Files["opts"], "\n")) + " lines"},
		},
		"a file changed": {
			func() error { return os.WriteFile(filepath.Join(dir, "host"), []byte("x\n"), 0o644) },
			[]string{"dhcp NET file host: should be 1 lines, is other content, 1 lines"},
		},
		"the pid file deleted": {
			func() error { return os.Remove(filepath.Join(dir, "pid")) },
			[]string{"dhcp NET dnsmasq: should be process " + strconv.Itoa(pid) + " in the pid file, is another pid file, or none"},
		},
		"the process stopped": {
			func() error {
				if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
					return err
				}
				s.await(pid, "T")
				return nil
			},
			[]string{"dhcp NET dnsmasq: should be running, is process " + strconv.Itoa(pid) + " stopped by a signal"},
		},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		writes := s.Writes()
		if d := cmp.Diff(c.found, s.diff(want)); d != "" || s.Writes() != writes {
			t.Errorf("after %s (-want +got), %d writes:\n%s", what, s.Writes()-writes, d)
		}
		if s.ensure(want) != pid {
			t.Errorf("after %s: another process", what)
		}
		s.await(pid, "S")
		if d := s.diff(want); len(d) != 0 {
			t.Errorf("after %s was repaired: %q", what, d)
		}
		s.quiet(want)
	}
	if d := s.diff(s.want(macA, macB)); len(d) == 0 {
		t.Error("no difference from what is newly wanted")
	}
	other := s.want(macA)
	other.Args = append(slices.Clone(other.Args), "--log-dhcp")
	if d := s.diff(other); len(d) != 1 || !strings.Contains(d[0], "command line") {
		t.Errorf("with other arguments: %q", d)
	}
}
