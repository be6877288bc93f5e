package procfs

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

func TestParseStatSurvivesHostileNames(t *testing.T) {
	line := "42 (a) S (b) ) T 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1"
	state, start, err := parseStat(line)
	if err != nil || state != 'T' || start != 987654 {
		t.Fatalf("got %q, %d, %v; want 'T', 987654, nil", state, start, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1")
	f.Add("1 (x")
	f.Add(") ")
	f.Fuzz(func(_ *testing.T, line string) {
		_, _, _ = parseStat(line) // must not panic
	})
}

func TestReadFindsThisProcessAlive(t *testing.T) {
	p, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() || (ID{PID: p.PID, Start: p.Start + 1}).Alive() {
		t.Fatalf("%+v: alive must depend on pid and start time", p.ID)
	}
}

func TestZombieIsGone(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("a killed sleep succeeded")
	}
	if _, err := Read(id.PID); !errors.Is(err, ErrGone) {
		t.Fatalf("after the end: %v, want ErrGone", err)
	}
}
