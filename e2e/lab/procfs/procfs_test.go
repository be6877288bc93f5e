package procfs

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// headless has the test program be one whose first thread has ended while another waits for the end of its input.
const headless = "WEFT_TEST_HEADLESS"

func TestMain(m *testing.M) {
	if os.Getenv(headless) == "" {
		m.Run()
		return
	}
	runtime.LockOSThread()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0) //nolint:forbidigo // main has no thread any more
	}()
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestAProcessIsHeldWhenAllItsThreadsAre(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := p.Held(); held || err != nil {
		t.Fatalf("before anything happened: %v, %v", held, err)
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for held := false; !held; {
		if held, err = p.Held(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatal("it is never held")
		case <-time.After(time.Millisecond):
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if _, err := p.Held(); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v, want ErrGone", err)
	}
}

func TestAProcessWhoseFirstThreadHasEndedLivesWithTheOthers(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), headless+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for ended := false; !ended; {
		p, err := Read(cmd.Process.Pid)
		if err != nil {
			t.Fatalf("while a thread runs: %v", err)
		}
		ended = p.State == 'Z'
		select {
		case <-deadline:
			t.Fatalf("its first thread does not end: %+v", p)
		case <-time.After(time.Millisecond):
		}
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v, want ErrGone", err)
	}
}

func TestParseStatSurvivesHostileNames(t *testing.T) {
	line := "42 (a) S (b) ) T 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 987654 1 1"
	state, start, threads, err := parseStat(line)
	if err != nil || state != 'T' || start != 987654 || threads != 3 {
		t.Fatalf("got %q, %d, %d, %v; want 'T', 987654, 3, nil", state, start, threads, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1")
	f.Add("1 (x")
	f.Add(") ")
	f.Fuzz(func(_ *testing.T, line string) {
		_, _, _, _ = parseStat(line) // must not panic
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
