package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weft-sdn/weft/e2e/lab/echo"
	"github.com/weft-sdn/weft/e2e/lab/netspace"
)

// Space is a place in the lab where commands run and sockets open: a host, or a named network namespace of it (a VM,
// a router, a DHCP service). It follows its host through power cycles. Safe for concurrent use.
type Space struct {
	lab   *Lab
	host  string
	netns string // "" is the host's own
}

// String names the place, as "cmp1" or "cmp1/vm-a".
func (s Space) String() string {
	if s.netns == "" {
		return s.host
	}
	return s.host + "/" + s.netns
}

// target finds the place as it is now; an error when its host is off.
func (s Space) target() (netspace.Target, error) {
	st, err := s.lab.load()
	if err != nil {
		return netspace.Target{}, err
	}
	h, err := st.host(s.host)
	if err != nil {
		return netspace.Target{}, err
	}
	if !h.On() || !h.Alive() {
		return netspace.Target{}, fmt.Errorf("host %s of lab %s is powered off", s.host, s.lab.name)
	}
	return netspace.Target{PID: h.PID, Netns: s.netns}, nil
}

// Command prepares argv to run in the place, with no stdio attached. The context's end kills only nsenter(1) outside;
// Exec kills the whole command.
func (s Space) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	target, err := s.target()
	if err != nil {
		return nil, err
	}
	return target.Command(ctx, argv...), nil
}

// Exec runs argv in the place and returns its standard output. The error holds what it wrote to standard error. When the
// context ends, the command is killed with its children.
func (s Space) Exec(ctx context.Context, argv ...string) (string, error) {
	cmd, err := s.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ownGroup(cmd, syscall.SIGKILL)
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", s, strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// ownGroup makes the context's end signal the command's whole process group: a signal to nsenter(1) alone would leave
// the process inside behind.
func ownGroup(cmd *exec.Cmd, signal syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, signal) }
	cmd.WaitDelay = 5 * time.Second
}

// Do runs fn on a thread inside the network namespace, see netspace.Target.Do.
func (s Space) Do(fn func() error) error {
	target, err := s.target()
	if err != nil {
		return err
	}
	return target.Do(fn)
}

// Netlink opens a route netlink handle in the network namespace; the caller closes it.
func (s Space) Netlink() (*netlink.Handle, error) {
	target, err := s.target()
	if err != nil {
		return nil, err
	}
	return target.Netlink()
}

// StartPing begins to send echoes from the place; the caller ends the run with Stop.
func (s Space) StartPing(ctx context.Context, o echo.Options) (*echo.Run, error) {
	run, err := echo.Start(ctx, s.Do, o)
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", s, err)
	}
	return run, nil
}

// StartFan begins to send echoes from the place to many destinations; the caller ends it with Stop.
func (s Space) StartFan(ctx context.Context, o echo.FanOptions) (*echo.Fan, error) {
	fan, err := echo.StartFan(ctx, s.Do, o)
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", s, err)
	}
	return fan, nil
}

// Ping sends a bounded number of echoes (options.Count, at least 1) and returns the account, lost ones included: loss is
// a result, not an error.
func (s Space) Ping(ctx context.Context, destination netip.Addr, o echo.Options) (echo.Stats, error) {
	o.Destination = destination
	o.Count = max(o.Count, 1)
	run, err := s.StartPing(ctx, o)
	if err != nil {
		return echo.Stats{}, err
	}
	return run.Wait(), nil
}

// AwaitPing sends an echo every 10 ms, each a flow of its own, until one is answered, and returns how long that took.
func (s Space) AwaitPing(ctx context.Context, destination netip.Addr) (time.Duration, error) {
	run, err := s.StartPing(ctx, echo.Options{Destination: destination, Identity: echo.NewFlows, Wait: time.Millisecond})
	if err != nil {
		return 0, err
	}
	select {
	case <-run.FirstAnswer():
		return run.Stop().FirstAnswer, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("no answer from %v to %s: %w: %v", destination, s, ctx.Err(), run.Stop())
	}
}
