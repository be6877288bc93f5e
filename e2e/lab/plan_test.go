package lab

import (
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestPlanOfTheDefaultLab(t *testing.T) {
	text, err := json.MarshalIndent(plan(Defaults()), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/plan.json"
	if *update {
		if err := os.WriteFile(golden, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)+"\n"); diff != "" {
		t.Errorf("plan changed (-want +got); -update rewrites it:\n%s", diff)
	}
}

func TestPlanNeverGivesAnythingTwice(t *testing.T) {
	o := Options{NetworkNodes: limits[Network], ComputeNodes: limits[Compute], Controllers: limits[Controller], Etcd: limits[EtcdMember], Externals: limits[Outside]}
	seen := map[string]string{}
	once := func(what, host string) {
		if other, ok := seen[what]; ok {
			t.Errorf("%s is of %s and of %s", what, other, host)
		}
		seen[what] = host
	}
	for _, h := range plan(o) {
		once(h.Name, h.Name)
		for _, l := range h.Links {
			once(l.MAC, h.Name)
			once(l.SwitchPort, h.Name)
			if l.Hardware != "" {
				once(l.Hardware, h.Name)
			}
			if l.Address.IsValid() {
				once(l.Address.Addr().String(), h.Name)
			}
			for _, device := range []string{l.SwitchPort, l.Device, l.Bridge} {
				if len(device) >= unix.IFNAMSIZ {
					t.Errorf("device name %q is too long", device)
				}
			}
		}
	}
}

func TestNumbersOfHostsDoNotMoveOthers(t *testing.T) {
	few, many := plan(Defaults()), plan(Options{NetworkNodes: 9, ComputeNodes: 9, Controllers: 3, Etcd: 3, Externals: 2})
	for _, h := range few {
		for _, other := range many {
			if h.Name == other.Name && cmp.Diff(h.Management.String(), other.Management.String()) != "" {
				t.Errorf("%s moved from %v to %v", h.Name, h.Management, other.Management)
			}
		}
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"path as name":     {Name: "../x", Software: OVSOnly},
		"long name":        {Name: "abcdefghijklmnopqrstuvwxyz", Software: OVSOnly},
		"two etcd members": {Etcd: 2, Software: OVSOnly},
		"too many":         {ComputeNodes: 1000, Software: OVSOnly},
		"negative":         {ComputeNodes: -1, Software: OVSOnly},
		"no controller":    {Software: Weft},
	} {
		if _, err := o.complete(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestVMSpecsThatCannotWorkAreRefused(t *testing.T) {
	good := VMSpec{Name: "a", Port: Port{ID: "01234567-89ab-cdef-0123-456789abcdef", MAC: "fa:16:3e:00:00:01"}}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*VMSpec){
		"path as name":   func(s *VMSpec) { s.Name = "../x" },
		"short id":       func(s *VMSpec) { s.Port.ID = "0123" },
		"id with quotes": func(s *VMSpec) { s.Port.ID = `01234567-89ab"` },
		"no MAC":         func(s *VMSpec) { s.Port.MAC = "" },
		"no address":     func(s *VMSpec) { s.Addressing = Static },
	} {
		bad := good
		change(&bad)
		if err := bad.check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
