package procfs

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inNewMounts starts a process in a mount namespace of its own, and ends it with the test at the latest.
func inNewMounts(t *testing.T) (id ID, end func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("a mount namespace needs root")
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill() // Wait tells
			_ = cmd.Wait()         // killed
		}
	}
	t.Cleanup(end)
	p, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p.ID, end
}

func TestAHeldNamespaceNeverComesToMeanAnother(t *testing.T) {
	for range 20 {
		old, end := inNewMounts(t)
		held, err := old.Hold("mnt")
		if err != nil {
			t.Fatal(err)
		}
		if members, err := held.Members(); err != nil || len(members) != 1 || members[0].ID != old {
			t.Fatalf("members %v, %v; want process %d alone", members, err, old.PID)
		}
		end()
		_, endOther := inNewMounts(t) // which would get the number of the old one, were that not held
		if members, err := held.Members(); err != nil || len(members) != 0 {
			t.Errorf("after the end: members %v, %v; want none", members, err)
		}
		held.Close()
		endOther()
	}
}

func TestHoldOfAnEndedProcessIsRefused(t *testing.T) {
	id, end := inNewMounts(t)
	end()
	if _, err := id.Hold("mnt"); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	own := ID{PID: os.Getpid(), Start: 1} // a pid that means another process now
	if _, err := own.Hold("mnt"); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}
