// Command weft-lab brings up a fleet of simulated hosts on this machine and lets its user work and break things in it.
// It is a thin face of package e2e/lab, which says what a lab is; it holds no state of its own. It needs root.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/lab"
)

// version is set by the linker.
var version = "unknown"

func main() {
	lab.BecomeHost()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
}

// exitCode is that of the command which ran inside the lab, if one did; a command that a signal ended has 128 and the
// signal's number, as in a shell. Other errors are shown.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var inside insideError
	if !errors.As(err, &inside) {
		fmt.Fprintln(os.Stderr, "weft-lab:", err)
		return 1
	}
	if status, ok := inside.exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return inside.exit.ExitCode()
}

// insideError is the failure of a command that the user ran inside the lab, which has said itself what is wrong.
type insideError struct{ exit *exec.ExitError }

func (e insideError) Error() string { return e.exit.Error() }

// session is what all commands share.
type session struct {
	name    string
	verbose int
}

func newCommand() *cobra.Command {
	s := &session{}
	root := &cobra.Command{
		Use:           "weft-lab",
		Version:       version,
		Short:         "A fleet of simulated hosts on this machine, running weft",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := lab.DefaultName
	if env := os.Getenv("WEFT_LAB"); env != "" {
		name = env
	}
	root.PersistentFlags().StringVar(&s.name, "lab", name, "name of the lab (environment: WEFT_LAB)")
	root.PersistentFlags().CountVarP(&s.verbose, "verbose", "v", "say what is done, host by host")
	root.AddCommand(s.up(), s.down(), s.list(), s.status(), s.env(), s.dump(), s.exec(), s.vm(), s.external(), s.fault(), s.check(), s.chaos())
	return root
}

func (s *session) log() *slog.Logger {
	if s.verbose == 0 {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

func (s *session) open() (*lab.Lab, error) { return lab.Open(s.name, s.log()) }

func (s *session) host(name string) (*lab.Host, error) {
	l, err := s.open()
	if err != nil {
		return nil, err
	}
	return l.Host(name)
}

// runInside runs a command in the lab on the user's own terminal.
func runInside(ctx context.Context, place lab.Space, argv []string) error {
	// Signals of the terminal reach the command itself, which decides what to make of them.
	cmd, err := place.Command(context.WithoutCancel(ctx), argv...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return insideError{exit}
	}
	return err
}
