package iptables_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/iptables"
	"github.com/weft-sdn/weft/agent/netns"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// router is the NAT of REFERENCE.md R16 with n floating IPs.
func router(n int) desired.IPTables {
	const qg = "qg-22d0d815-1a"
	var dnat, snat []string
	for i := range n {
		f, in := fmt.Sprintf("203.0.%d.%d", 113+i/250, i%250+1), fmt.Sprintf("10.1.%d.%d", i/250, i%250+2)
		dnat = append(dnat, fmt.Sprintf("-d %s/32 -j DNAT --to-destination %s", f, in))
		snat = append(snat, fmt.Sprintf("-s %s/32 -j SNAT --to-source %s --random-fully", in, f))
	}
	metadata := "-d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697"
	return desired.IPTables{
		Jumps: []desired.Jump{
			{Table: "nat", Builtin: "PREROUTING", Target: "weft-PREROUTING"},
			{Table: "nat", Builtin: "OUTPUT", Target: "weft-OUTPUT"},
			{Table: "nat", Builtin: "POSTROUTING", Target: "weft-POSTROUTING"},
			{Table: "nat", Builtin: "POSTROUTING", Target: "weft-postrouting-bottom"},
		},
		Chains: []desired.Chain{
			{Table: "nat", Name: "weft-PREROUTING", Rules: append([]string{metadata}, dnat...)},
			{Table: "nat", Name: "weft-OUTPUT", Rules: dnat},
			{Table: "nat", Name: "weft-POSTROUTING", Rules: []string{"! -o " + qg + " -m conntrack ! --ctstate DNAT -j ACCEPT"}},
			{Table: "nat", Name: "weft-float-snat", Rules: snat},
			{Table: "nat", Name: "weft-snat", Rules: []string{
				"-j weft-float-snat",
				"-o " + qg + " -j SNAT --to-source 203.0.113.55 --random-fully",
				"-m mark ! --mark 0x2/0xffff -m conntrack --ctstate DNAT -j SNAT --to-source 203.0.113.55 --random-fully",
			}},
			{Table: "nat", Name: "weft-postrouting-bottom", Rules: []string{
				`-m comment --comment "Perform source NAT on outgoing traffic." -j weft-snat`,
			}},
			{Table: "mangle", Name: "weft-mark", Rules: []string{"-i " + qg + " -j MARK --set-xmark 0x2/0xffff"}},
		},
	}
}

// space is a namespace of its own with a driver for it.
type space struct {
	*iptables.Driver
	t    testing.TB
	ns   *netns.Manager
	name string
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	m, err := netns.New(netns.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &space{t: t, ns: m, name: "qrouter-" + uuid.NewString()}
	if _, err := m.Prepare(context.Background(), desired.Namespace{Name: s.name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Delete(context.Background(), s.name); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	s.restart()
	return s
}

// restart replaces the driver, as a restarted agent would.
func (s *space) restart() {
	s.t.Helper()
	d, err := iptables.New(context.Background(), iptables.Options{Enter: s.ns.Run})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Driver = d
}

func (s *space) in(argv ...string) string {
	s.t.Helper()
	argv = append([]string{"netns", "exec", s.name}, argv...)
	out, err := exec.Command("ip", argv...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %v: %s", argv, err, out)
	}
	return string(out)
}

func (s *space) ensure(want desired.IPTables) {
	s.t.Helper()
	if err := s.Ensure(context.Background(), s.name, want); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) diff(want desired.IPTables) []desired.Difference {
	s.t.Helper()
	d, err := s.Diff(context.Background(), s.name, want)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// rules are the chains and rules that iptables-save prints, without counters and comments.
func (s *space) rules() string {
	s.t.Helper()
	var out []string
	for line := range strings.Lines(s.in("iptables-save")) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, ":") {
			line = line[:strings.Index(line, " [")] + "\n"
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

// quiet asserts that neither this agent nor a restarted one writes anything, and that what is there is what is wanted.
func (s *space) quiet(want desired.IPTables) {
	s.t.Helper()
	for _, sync := range []func(context.Context, string, desired.IPTables) error{s.Ensure, s.Resync} {
		before := s.Writes()
		if err := sync(context.Background(), s.name, want); err != nil || s.Writes() != before {
			s.t.Fatalf("resync: %v, %d writes", err, s.Writes()-before)
		}
	}
	if d := s.diff(want); len(d) != 0 {
		s.t.Fatalf("differences: %v", d)
	}
	s.restart()
	if err := s.Ensure(context.Background(), s.name, want); err != nil || s.Writes() != 0 {
		s.t.Fatalf("resync by a restarted agent: %v, %d writes", err, s.Writes())
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
}

func TestRenderPrintsTheWholeState(t *testing.T) {
	text, err := iptables.Render(router(2))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "router.rendered", text)
}

func TestTheFirstBuildIsOneWriteAndReadsBackAsWanted(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(2))
	if s.Writes() != 1 {
		t.Errorf("%d writes, want 1", s.Writes())
	}
	golden(t, "router.save", s.rules())
	s.quiet(router(2))
}

func TestOneMoreFloatingIPKeepsTheCountersOfTheOthers(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(3))
	s.in("iptables", "-t", "nat", "-R", "weft-float-snat", "2", "-s", "10.1.0.3/32", "-j", "SNAT", "--to-source", "203.0.113.2", "--random-fully", "-c", "42", "4200")
	s.ensure(router(4))
	if got := s.in("iptables-save", "-c", "-t", "nat"); !strings.Contains(got, "[42:4200] -A weft-float-snat -s 10.1.0.3/32") {
		t.Errorf("the counters are gone:\n%s", got)
	}
	s.quiet(router(4))
	s.ensure(router(1))
	s.quiet(router(1))
	s.ensure(desired.IPTables{})
	s.quiet(desired.IPTables{})
	if strings.Contains(s.rules(), "weft-") {
		t.Errorf("weft's chains remain:\n%s", s.rules())
	}
}

func TestStrangersRulesAndChainsStay(t *testing.T) {
	s := newSpace(t)
	s.in("iptables", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
	s.in("iptables", "-t", "nat", "-N", "neutron-l3-agent-snat")
	s.in("iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "neutron-l3-agent-snat")
	s.in("iptables", "-t", "filter", "-A", "INPUT", "-j", "ACCEPT")
	before := s.rules()
	s.ensure(router(2))
	s.quiet(router(2))
	s.in("iptables", "-t", "nat", "-I", "POSTROUTING", "1", "-s", "192.0.2.1", "-j", "ACCEPT")
	s.quiet(router(2))
	s.in("iptables", "-t", "nat", "-D", "POSTROUTING", "1")
	s.ensure(desired.IPTables{})
	after := strings.Replace(s.rules(), "*mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n", "", 1)
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("not as before (-before +after):\n%s", d)
	}
}

func TestResyncRepairsWhatWasTamperedWith(t *testing.T) {
	s := newSpace(t)
	want := router(3)
	s.ensure(want)
	whole := s.rules()
	for _, tamper := range [][]string{
		{"-F", "weft-float-snat"},
		{"-D", "weft-OUTPUT", "2"},
		{"-I", "weft-snat", "1", "-j", "RETURN"},
		{"-D", "POSTROUTING", "-j", "weft-POSTROUTING"},
		{"-A", "PREROUTING", "-j", "weft-PREROUTING"},
		{"-N", "weft-old"},
		{"-F"},
	} {
		s.in(append([]string{"iptables", "-t", "nat"}, tamper...)...)
		writes, now := s.Writes(), s.rules()
		if d := s.diff(want); len(d) == 0 || s.Writes() != writes || s.rules() != now {
			t.Errorf("after %v: differences %v, %d writes", tamper, d, s.Writes()-writes)
		}
		if err := s.Resync(context.Background(), s.name, want); err != nil {
			t.Fatalf("after %v: %v", tamper, err)
		}
		if d := cmp.Diff(whole, s.rules()); d != "" {
			t.Errorf("after %v (-want +got):\n%s", tamper, d)
		}
		s.quiet(want)
	}
}

func TestDiffNamesTheRulesAndTheChains(t *testing.T) {
	s := newSpace(t)
	want := router(2)
	s.ensure(want)
	for _, line := range []string{
		"-t nat -D weft-OUTPUT 2", "-t nat -A weft-snat -j RETURN", "-t nat -D PREROUTING -j weft-PREROUTING", "-t nat -N weft-old",
		"-t mangle -F weft-mark", "-t mangle -X weft-mark", "-t nat -N theirs",
	} {
		s.in(append([]string{"iptables"}, strings.Fields(line)...)...)
	}
	var got []string
	for _, d := range s.diff(want) {
		got = append(got, strings.ReplaceAll(d.String(), s.name, "NS"))
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{
		"iptables NS mangle weft-mark: missing: a chain of 1 rules",
		"iptables NS nat PREROUTING: missing: -j weft-PREROUTING",
		"iptables NS nat weft-OUTPUT: missing: -d 203.0.113.2/32 -j DNAT --to-destination 10.1.0.3",
		"iptables NS nat weft-old: surplus: a chain of 0 rules",
		"iptables NS nat weft-snat: surplus: -j RETURN",
	}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestDiffOfUnchangedRulesStartsNoProcess(t *testing.T) {
	s := newSpace(t)
	if s.Backend() != iptables.NFTables {
		t.Skip("only nf_tables says that nothing has changed")
	}
	want := router(2)
	s.ensure(want)
	s.diff(want)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	if d := s.diff(want); len(d) != 0 {
		t.Errorf("differences: %v", d)
	}
	if d := s.diff(router(3)); len(d) == 0 {
		t.Error("no differences from other wanted rules")
	}
	t.Setenv("PATH", path)
	s.in("iptables", "-t", "nat", "-F", "weft-OUTPUT")
	if d := s.diff(want); len(d) != 2 {
		t.Errorf("differences after a change: %v", d)
	}
}

// legacy has the test use the legacy iptables, with a lock of its own.
func legacy(t *testing.T) (lock string) {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		found, err := exec.LookPath(strings.Replace(program, "iptables", "iptables-legacy", 1))
		if err != nil {
			t.Skip("no legacy iptables here")
		}
		if err := os.Symlink(found, filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	lock = filepath.Join(dir, "xtables.lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	return lock
}

func TestALockHeldByAnotherProgramIsAnErrorOfItsOwn(t *testing.T) {
	lock := legacy(t)
	s := newSpace(t)
	if s.Backend() != iptables.Legacy {
		t.Fatalf("backend %s", s.Backend())
	}
	f, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := s.Ensure(context.Background(), s.name, router(1)); !errors.Is(err, iptables.ErrLocked) {
		t.Errorf("with the lock held: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	s.ensure(router(1))
	if d := s.diff(router(1)); len(d) != 0 {
		t.Errorf("differences: %v", d)
	}
}

func TestAChangeThatDoesNotFitIsMadeAfterReadingAgain(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(3))
	s.in("iptables", "-t", "nat", "-F", "weft-float-snat") // the delta will delete rules that are not there
	s.ensure(router(1))
	s.quiet(router(1))
}

func TestANamespaceMadeAnewIsFilledAgain(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(2))
	ctx := context.Background()
	if err := s.ns.Delete(ctx, s.name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ns.Prepare(ctx, desired.Namespace{Name: s.name}); err != nil {
		t.Fatal(err)
	}
	s.Forget(s.name)
	s.ensure(router(2))
	s.quiet(router(2))
	if !strings.Contains(s.rules(), "weft-float-snat -s 10.1.0.2/32") {
		t.Error("rules are missing")
	}
}

func TestARefusedRuleIsNamedAndChangesNothing(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(1))
	whole := s.rules()
	want := router(2)
	want.Chains[3].Rules = append(want.Chains[3].Rules, "-s 10.1.0.300/32 -j ACCEPT")
	err := s.Ensure(context.Background(), s.name, want)
	if err == nil || !strings.Contains(err.Error(), "10.1.0.300") || !strings.Contains(err.Error(), s.name) {
		t.Errorf("error %v, want one naming the rule and the namespace", err)
	}
	if d := cmp.Diff(whole, s.rules()); d != "" {
		t.Errorf("something changed (-before +after):\n%s", d)
	}
}

// One of the refused is unknown to iptables, the kernel wants the other in another table. Of that legacy iptables only says that
// the table was not taken.
func TestRefusedNamesEveryRuleThatTheHostDoesNotTakeAndLeavesNothing(t *testing.T) {
	t.Run("nf_tables", refusedRules)
	t.Run("legacy", func(t *testing.T) {
		legacy(t)
		refusedRules(t)
	})
}

func refusedRules(t *testing.T) {
	t.Helper()
	s := newSpace(t)
	s.ensure(router(1))
	s.in("iptables", "-A", "FORWARD", "-j", "ACCEPT")
	before := s.rules()
	rules := []string{"-p tcp -m tcp --dport 22 -j ACCEPT", "-m weft -j ACCEPT", "-j ACCEPT", "-j CT --zone 7", "-s 10.0.0.0/8 -j ACCEPT"}
	refused, err := s.Refused(t.Context(), s.name, "filter", rules)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"-j CT --zone 7", "-m weft -j ACCEPT"}, slices.Sorted(maps.Keys(refused))); diff != "" {
		t.Errorf("refused: %s", diff)
	}
	if none, err := s.Refused(t.Context(), s.name, "filter", nil); err != nil || len(none) > 0 {
		t.Errorf("of no rules: %v, %v", none, err)
	}
	if _, err := s.Refused(t.Context(), s.name, "weft", rules); err == nil {
		t.Error("rules of a table that is none were tried")
	}
	if diff := cmp.Diff(before, s.rules()); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
	s.quiet(router(1))
}

func TestARuleThatIptablesPrintsOtherwiseIsAnErrorOnResync(t *testing.T) {
	s := newSpace(t)
	want := router(0)
	want.Chains[1].Rules = []string{"--destination 203.0.113.1 -j DNAT --to-destination 10.1.0.2"}
	if err := s.Resync(context.Background(), s.name, want); err == nil || !strings.Contains(err.Error(), "for ever") {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNotARuleOfWeftsIsRefusedBeforeAnythingRuns(t *testing.T) {
	s := newSpace(t)
	chain := func(table, name string, rules ...string) desired.IPTables {
		return desired.IPTables{Chains: []desired.Chain{{Table: table, Name: name, Rules: rules}}}
	}
	jump := func(builtin, target string) desired.IPTables {
		w := chain("nat", "weft-a")
		w.Jumps = []desired.Jump{{Table: "nat", Builtin: builtin, Target: target}}
		return w
	}
	for name, want := range map[string]desired.IPTables{
		"newline":         chain("nat", "weft-a", "-j ACCEPT\nCOMMIT"),
		"empty":           chain("nat", "weft-a", ""),
		"not an option":   chain("nat", "weft-a", "COMMIT"),
		"not ASCII":       chain("nat", "weft-a", "-j ÄCCEPT"),
		"stranger":        chain("nat", "POSTROUTING", "-j ACCEPT"),
		"name with space": chain("nat", "weft-a b"),
		"long name":       chain("nat", "weft-"+strings.Repeat("a", 24)),
		"table":           chain("security", "weft-a"),
		"builtin":         jump("FORWARD", "weft-a"),
		"target":          jump("OUTPUT", "ACCEPT"),
		"twice":           {Chains: []desired.Chain{{Table: "nat", Name: "weft-a"}, {Table: "nat", Name: "weft-a"}}},
	} {
		if err := s.Ensure(context.Background(), s.name, want); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if s.Writes() != 0 {
		t.Errorf("%d writes", s.Writes())
	}
}

func TestACommandEndsWithItsContext(t *testing.T) {
	s := newSpace(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Ensure(ctx, s.name, router(1)); err == nil || s.rules() != "" {
		t.Errorf("error %v, rules %q", err, s.rules())
	}
}

// Any chain content becomes any other, and what is remembered stays what is there.
func TestAnyStateLeadsToAnyOther(t *testing.T) {
	s := newSpace(t)
	rule := rapid.Map(rapid.IntRange(1, 9), func(i int) string { return fmt.Sprintf("-s 10.0.0.%d/32 -j RETURN", i) })
	states := rapid.Custom(func(t *rapid.T) desired.IPTables {
		var w desired.IPTables
		for _, name := range []string{"weft-a", "weft-b", "weft-c"} {
			if !rapid.Bool().Draw(t, "has "+name) {
				continue
			}
			rules := rapid.SliceOfN(rule, 0, 6).Draw(t, name)
			if name == "weft-c" && len(w.Chains) > 0 {
				rules = append(rules, "-j "+w.Chains[0].Name)
			}
			w.Chains = append(w.Chains, desired.Chain{Table: "nat", Name: name, Rules: rules})
			for range rapid.IntRange(0, 2).Draw(t, "jumps") {
				w.Jumps = append(w.Jumps, desired.Jump{Table: "nat", Builtin: "OUTPUT", Target: name})
			}
		}
		for i := len(w.Jumps) - 1; i > 0; i-- {
			j := rapid.IntRange(0, i).Draw(t, "shuffle")
			w.Jumps[i], w.Jumps[j] = w.Jumps[j], w.Jumps[i]
		}
		return w
	})
	rapid.Check(t, func(rt *rapid.T) {
		want := states.Draw(rt, "state")
		if err := s.Ensure(context.Background(), s.name, want); err != nil {
			rt.Fatal(err)
		}
		wrote := s.Writes()
		if err := s.Resync(context.Background(), s.name, want); err != nil || s.Writes() != wrote {
			rt.Fatalf("what is there is not what was wanted: %v\n%s", err, s.rules())
		}
	})
}

func TestRulesListsAChainForARestartedAgent(t *testing.T) {
	s := newSpace(t)
	s.ensure(router(2))
	s.restart()
	got, err := s.Rules(context.Background(), s.name, "nat", "weft-float-snat")
	if err != nil || !slices.Equal(got, router(2).Chains[3].Rules) {
		t.Errorf("rules %q, %v", got, err)
	}
	if got, err := s.Rules(context.Background(), s.name, "filter", "weft-none"); err != nil || len(got) != 0 {
		t.Errorf("rules of no chain: %q, %v", got, err)
	}
	s.quiet(router(2))
}

func TestTheInstalledIptablesIsRecognised(t *testing.T) {
	s := newSpace(t)
	out, err := exec.Command("iptables", "-V").Output()
	if err != nil || !strings.Contains(string(out), "("+string(s.Backend())+")") {
		t.Errorf("backend %q, but iptables says %q (%v)", s.Backend(), out, err)
	}
	if !s.RandomFully() {
		t.Error("no --random-fully")
	}
}

func TestOwnedGoesByTheName(t *testing.T) {
	var owned []string
	for _, name := range []string{"weft-snat", "weft-", "neutron-l3-agent-snat", "POSTROUTING", "", "xweft-a"} {
		if iptables.Owned(name, iptables.Prefix) {
			owned = append(owned, name)
		}
	}
	if !slices.Equal(owned, []string{"weft-snat"}) {
		t.Errorf("owned: %v", owned)
	}
}

func BenchmarkFirstBuild(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("floating=%d", n), func(b *testing.B) {
			s := newSpace(b)
			for b.Loop() {
				b.StopTimer()
				s.ensure(desired.IPTables{})
				b.StartTimer()
				s.ensure(router(n))
			}
		})
	}
}

func BenchmarkOneMore(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("floating=%d", n), func(b *testing.B) {
			s := newSpace(b)
			s.ensure(router(n))
			for i := n + 1; b.Loop(); i++ {
				s.ensure(router(i))
			}
		})
	}
}
