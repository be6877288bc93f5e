package ovs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func TestTheProcessIsFoundByItsPidFile(t *testing.T) {
	dir := t.TempDir()
	write := func(pid string) {
		if err := os.WriteFile(filepath.Join(dir, "ovs-vswitchd.pid"), []byte(pid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p := LookUp(dir); p.Known {
		t.Errorf("without a pid file: %+v", p)
	}
	write("no number\n")
	if p := LookUp(dir); p.Known {
		t.Errorf("with a pid file that is none: %+v", p)
	}
	write(strconv.Itoa(os.Getpid()) + "\n")
	if p := LookUp(dir); !p.Known || !p.Alive {
		t.Errorf("of this very process: %+v", p)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	write(strconv.Itoa(gone.Process.Pid))
	if p := LookUp(dir); !p.Known || p.Alive {
		t.Errorf("of a process that has ended: %+v", p)
	}
}

func TestStatIsRead(t *testing.T) {
	for stat, want := range map[string]Process{
		"42 (ovs) S x) R 1 2 3 4 5 6 7 8 9 10 700 30 0 0": {Known: true, Alive: true, CPU: 730},
		"42 (ovs-vswitchd) Z 1 2 3 4 5 6 7 8 9 10 7 3 0":  {Known: true, CPU: 10},
		"42 (ovs-vswitchd) T 1 2 3 4 5 6 7 8 9 10 7 3 0":  {Known: true, Alive: true, CPU: 10},
		"42 (ovs-vswitchd) S 1 2":                         {},
		"":                                                {},
	} {
		if got := parseStat([]byte(stat)); got != want {
			t.Errorf("%q is %+v, want %+v", stat, got, want)
		}
	}
}
