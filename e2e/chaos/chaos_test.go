package chaos_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/e2e/chaos"
	"github.com/weft-sdn/weft/e2e/lab"
)

func TestMain(m *testing.M) {
	lab.BecomeHost()
	m.Run()
}

func hosts() []lab.HostInfo {
	var out []lab.HostInfo
	for name, kind := range map[string]lab.Kind{
		"ctl1": lab.Controller, "etcd1": lab.EtcdMember, "net1": lab.Network, "net2": lab.Network, "cmp1": lab.Compute, "out1": lab.Outside,
	} {
		out = append(out, lab.HostInfo{Name: name, Kind: kind, Links: []lab.Link{{Network: lab.Underlay}, {Network: lab.Tenant}}})
	}
	slices.SortFunc(out, func(a, b lab.HostInfo) int { return cmpNames(a.Name, b.Name) })
	return out
}

func cmpNames(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

func TestASeedStandsForOneSequence(t *testing.T) {
	sequence := func(seed uint64) (out []string) {
		g := chaos.NewGenerator(seed, hosts(), false)
		for range 2000 {
			out = append(out, g.Next().String())
		}
		return out
	}
	if diff := cmp.Diff(sequence(7), sequence(7)); diff != "" {
		t.Errorf("the same seed gave other steps:\n%s", diff)
	}
	if slices.Equal(sequence(7), sequence(8)) {
		t.Error("two seeds gave the same steps")
	}
}

// TestEveryFaultIsMended holds that two faults are never open at a time, and that each ends by what mends it.
func TestEveryFaultIsMended(t *testing.T) {
	mends := map[chaos.Op]chaos.Op{
		chaos.Kill: chaos.Start, chaos.Pause: chaos.Resume, chaos.Cut: chaos.Heal, chaos.Darken: chaos.Heal, chaos.Drain: chaos.Undrain,
	}
	seen := map[chaos.Op]int{}
	for seed := range uint64(20) {
		g := chaos.NewGenerator(seed, hosts(), false)
		var open *chaos.Step
		for range 1000 {
			s := g.Next()
			seen[s.Op]++
			switch {
			case mends[s.Op] != "" && open != nil:
				t.Fatalf("%s while %s is open", s, open)
			case mends[s.Op] != "":
				open = &s
			case open != nil && s.Op == mends[open.Op]:
				if s.Host != open.Host || s.Daemon != open.Daemon || s.Link != open.Link {
					t.Fatalf("%s ends %s", s, open)
				}
				open = nil
			}
		}
		if end, broken := g.Mend(); open != nil && (!broken || end.Op != mends[open.Op]) {
			t.Fatalf("%s is not mended in the end", open)
		}
	}
	for _, op := range []chaos.Op{
		chaos.CreateNetwork, chaos.DeleteNetwork, chaos.ToggleNetwork, chaos.CreateSubnet, chaos.DeleteSubnet, chaos.CreatePort,
		chaos.TogglePort, chaos.MovePort, chaos.DeletePort, chaos.CreateRouter, chaos.ToggleRouter, chaos.ResizeRouter, chaos.MoveRouter,
		chaos.DeleteRouter, chaos.AddInterface, chaos.RemoveInterface, chaos.SetGateway, chaos.ClearGateway, chaos.CreateFloating,
		chaos.MoveFloating, chaos.DeleteFloating, chaos.Plug, chaos.Unplug, chaos.Wait, chaos.Kill, chaos.Pause, chaos.Cut, chaos.Darken,
		chaos.Restart, chaos.Reboot, chaos.Drain,
	} {
		if seen[op] == 0 {
			t.Errorf("%s never happens", op)
		}
	}
}

// TestNothingDiffersAfterRandomStepsAndFaults is a short run; `weft-lab chaos` makes long ones.
func TestNothingDiffersAfterRandomStepsAndFaults(t *testing.T) {
	options := lab.Defaults()
	options.Name, options.Controllers, options.NetworkNodes, options.Externals = "e2e-chaos", 2, 2, 1
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	options.Bin = bin
	l, err := lab.Up(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			if err := l.Dump(ctx, os.Stderr); err != nil {
				t.Log(err)
			}
		}
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	result, err := chaos.Run(t.Context(), l, chaos.Options{Seed: 1, Steps: 150, Every: 75, Out: t.Output()})
	t.Log(result)
	if err != nil {
		t.Fatal(err)
	}
}
