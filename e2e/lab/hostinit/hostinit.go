// Package hostinit is pid 1 of a simulated host, and the way to start one: a process in its own mount, net, uts, ipc
// and pid namespaces, with private folders where daemons keep state, that reaps orphans and does nothing else. Killing
// it is a power-off. It configures no network device and starts no daemon.
package hostinit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// Argument is the first argument of a process that shall become a host's pid 1.
const Argument = "internal-init"

// marker is in the environment of every host and of all that runs inside, so that a program which ignores Argument
// cannot start hosts of hosts for ever.
const marker = "WEFT_LAB_INSIDE"

const ready = "ready"

// Spec describes one host.
type Spec struct {
	Lab  string // the lab's folder; identifies the lab on the command line
	Name string // the host's name inside the lab, becomes its hostname
}

// Dir is the host's folder; it has the same path inside the host and outside.
func (s Spec) Dir() string { return filepath.Join(s.Lab, s.Name) }

// Disk is what a power-off does not erase: what the host sees as /var/lib, /var/log and /etc/openvswitch.
func (s Spec) Disk() string { return filepath.Join(s.Dir(), "disk") }

func (s Spec) console() string { return filepath.Join(s.Dir(), "console.log") }

// Args is the command line of the host's pid 1 after the program's name.
func (s Spec) Args() []string { return []string{Argument, s.Lab, s.Name} }

// Is tells whether the process is pid 1 of a host of the lab in that folder.
func Is(p procfs.Process, lab string) bool {
	return len(p.Args) == 4 && p.Args[1] == Argument && p.Args[2] == lab
}

// Inside tells whether the calling process runs inside a simulated host, where none may be started.
func Inside() bool { return os.Getenv(marker) != "" }

// Start starts a host and returns when its folders are mounted. Executable must call Run when its first argument is
// Argument. The host outlives the caller; if the caller lives on, the host's end is reaped. Its network namespace is
// new and empty, with the loopback device down.
func Start(ctx context.Context, executable string, spec Spec) (procfs.ID, error) {
	if err := makeDisk(spec); err != nil {
		return procfs.ID{}, err
	}
	console, err := os.OpenFile(spec.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return procfs.ID{}, fmt.Errorf("host %s: %w", spec.Name, err)
	}
	defer console.Close()
	answers, answer, err := os.Pipe()
	if err != nil {
		return procfs.ID{}, fmt.Errorf("host %s: %w", spec.Name, err)
	}
	defer answers.Close()
	defer answer.Close()
	cmd := command(executable, spec, console, answer)
	if err := cmd.Start(); err != nil {
		return procfs.ID{}, fmt.Errorf("host %s: start its pid 1 (needs root): %w", spec.Name, err)
	}
	answer.Close() // so that the child's end is the only one, and its death an end of file
	return await(ctx, cmd, spec, answers)
}

func command(executable string, spec Spec, console, answer *os.File) *exec.Cmd {
	cmd := exec.Command(executable, spec.Args()...)
	cmd.Env = append(os.Environ(), marker+"="+spec.Name)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{answer}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
	}
	return cmd
}

// await reads the host's one line of answer, and kills the host when there is no good one.
func await(ctx context.Context, cmd *exec.Cmd, spec Spec, answers io.Reader) (procfs.ID, error) {
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // reaps; how the host ended is for whoever ended it
		close(ended)
	}()
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(answers).ReadString('\n') // an early end shows as a missing answer
		line <- strings.TrimSpace(text)
	}()
	var err error
	select {
	case text := <-line:
		if text == ready {
			return identify(cmd, spec)
		}
		err = fmt.Errorf("answered %q (does %s call lab.BecomeHost first?)", text, cmd.Path)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if killErr := cmd.Process.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		err = errors.Join(err, killErr)
	}
	<-ended
	console, readErr := os.ReadFile(spec.console())
	return procfs.ID{}, fmt.Errorf("host %s did not boot: %w; its console: %s", spec.Name, errors.Join(err, readErr), console)
}

func identify(cmd *exec.Cmd, spec Spec) (procfs.ID, error) {
	p, err := procfs.Read(cmd.Process.Pid)
	if err != nil {
		return procfs.ID{}, fmt.Errorf("host %s died just after boot: %w", spec.Name, err)
	}
	return p.ID, nil
}

func makeDisk(spec Spec) error {
	for _, dir := range []string{
		"lib/weft", "lib/openvswitch", "lib/etcd", "lib/misc", "lib/dhcp",
		"log/weft", "log/openvswitch", "etc-openvswitch",
	} {
		if err := os.MkdirAll(filepath.Join(spec.Disk(), dir), 0o755); err != nil {
			return fmt.Errorf("host %s: make its disk: %w", spec.Name, err)
		}
	}
	return nil
}

// Run is the life of a host's pid 1; it never returns before the host is to end. Args are those after the program's
// name. The answer to Start goes to file descriptor 3.
func Run(args []string) error {
	answer := os.NewFile(3, "answer")
	if len(args) != 3 || args[0] != Argument || os.Getpid() != 1 || answer == nil {
		return fmt.Errorf("%s is how weft-lab starts simulated hosts; it is of no use by hand", Argument)
	}
	spec := Spec{Lab: args[1], Name: args[2]}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	if err := boot(spec); err != nil {
		fmt.Fprintln(answer, strings.ReplaceAll(err.Error(), "\n", " "))
		return err
	}
	if _, err := fmt.Fprintln(answer, ready); err != nil {
		return fmt.Errorf("answer the lab: %w", err) // nobody knows this host: end it
	}
	answer.Close()
	for range children {
		reap()
	}
	return nil
}

// reap collects every ended child: signals coalesce, so one SIGCHLD may stand for many.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return // none left, or none ended
		}
	}
}

func boot(spec Spec) error {
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	// The host's folder must be held open: its path disappears under the new /run.
	dir, err := os.OpenFile(spec.Dir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the host's folder: %w", err)
	}
	defer dir.Close()
	for _, m := range mounts(spec, fmt.Sprintf("/proc/self/fd/%d", dir.Fd())) {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// mountStep is one mount(2), after making the target when it lies in a folder that is already private.
type mountStep struct {
	source, target, kind string
	flags                uintptr
	data                 string
	private              []string // folders made first, all under private mounts
}

func (m mountStep) do() error {
	for _, dir := range m.private {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
	}
	return nil
}

// mounts are the host's own view of the machine, in order. Nothing propagates back: the first step makes all private.
func mounts(spec Spec, hostDir string) []mountStep {
	disk := filepath.Join(spec.Dir(), "disk")
	return []mountStep{
		{source: "none", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: "proc", target: "/proc", kind: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "sysfs", target: "/sys", kind: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "tmpfs", target: "/run", kind: "tmpfs", data: "mode=755"},
		{source: hostDir, target: spec.Dir(), flags: unix.MS_BIND, private: []string{spec.Dir()}},
		{source: disk + "/lib", target: "/var/lib", flags: unix.MS_BIND},
		{source: disk + "/log", target: "/var/log", flags: unix.MS_BIND},
		{source: disk + "/etc-openvswitch", target: "/etc/openvswitch", flags: unix.MS_BIND, private: []string{"/run/openvswitch", "/run/lock", "/run/weft"}},
		// Shared with itself, as ip-netns(8) arranges it, before two processes try at once.
		{source: "/run/netns", target: "/run/netns", flags: unix.MS_BIND, private: []string{"/run/netns"}},
		{source: "none", target: "/run/netns", flags: unix.MS_SHARED | unix.MS_REC},
	}
}
