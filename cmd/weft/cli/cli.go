// Package cli is the command tree of weft: nouns (network, subnet, port, router, floatingip, security-group, address-group,
// segment, node, pool), verbs under them, `apply` for whole files, `watch` for changes, `backup`, `check`, `collect` and `access`,
// which speak to etcd, and `pki`, which works on files. It turns arguments into calls
// of the API (package client) and answers into text (package render). It holds no rule about networks: the controllers check
// and refuse, so that every client meets the same rules.
package cli

//go:generate go run ./gendocs ../../../docs/cli.md

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	"github.com/weft-sdn/weft/proto/identity"
)

// Exit codes of the program.
const (
	ExitOK          = 0
	ExitRefused     = 1 // the controllers refused, the object does not exist, or --wait was in vain
	ExitUsage       = 2 // the command line or the file given is wrong; nothing was asked of the controllers or changed
	ExitUnreachable = 3 // no controller answered, or none could reach the store
)

// Env is what a process has: everything the commands read and write.
type Env struct {
	// Args are the arguments without the program's name.
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Version is what `weft --version` prints.
	Version string
}

// Main runs one command line until it is done or the context ends, and returns the exit code. What the command prints
// goes to Stdout, errors and progress to Stderr.
func Main(ctx context.Context, env Env) int {
	a := &app{env: env}
	defer a.close()
	root := a.root()
	root.SetArgs(env.Args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	return a.report(cmd, err)
}

// report prints an error and returns the exit code it stands for.
func (a *app) report(cmd *cobra.Command, err error) int {
	text := render.CleanLines(strings.TrimSuffix(err.Error(), "\n")) // which may repeat what somebody has written
	fmt.Fprintf(a.env.Stderr, "error: %s\n", strings.ReplaceAll(text, "\n", "\n  "))
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(a.env.Stderr, "see: %s --help\n", cmd.CommandPath())
		return ExitUsage
	case client.IsUnreachable(err):
		return ExitUnreachable
	}
	return ExitRefused
}

// usageError is an error of the command line, found before anything was asked of a controller.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// app is one run of the program: its environment, the global flags and the connection.
type app struct {
	env     Env
	servers []string
	project string
	output  string
	timeout time.Duration
	tlsDir  string
	// tokenFile holds the token that the user is known by instead of a certificate; "": none.
	tokenFile string
	// insecure: nobody is known, and nothing is encrypted.
	insecure bool
	wait     waitFlags

	globals *pflag.FlagSet // the flags above, to know which were given
	format  render.Format
	conn    *client.Client
}

const rootLong = `weft manages the virtual networks of a fleet through its controllers.

Objects are named by their id or their name in the project; a name that several objects have is an error that lists
them. A floating IP may also be named by its address.

Exit codes: 0 done; 1 refused by the controllers, or --wait met an error or ran out of time; 2 the command line or a file
is wrong; 3 no controller could be reached.`

func (a *app) root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "weft", Short: "Manage the virtual networks of a fleet", Long: rootLong, Version: a.env.Version,
		SilenceErrors: true, SilenceUsage: true, DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settle(cmd) },
	}
	cmd.SetIn(a.env.Stdin)
	cmd.SetOut(a.env.Stdout)
	cmd.SetErr(a.env.Stderr)
	f := cmd.PersistentFlags()
	a.globals = f
	f.StringSliceVar(&a.servers, "server", []string{defaultServer}, "controllers, `host:port` or unix:/path, comma separated; the first that answers serves (environment: WEFT_SERVER)")
	f.StringVar(&a.project, "project", defaultProject, "`project` that names belong to and new objects go to (environment: WEFT_PROJECT)")
	f.StringVarP(&a.output, "output", "o", string(render.Table), "`format`: "+strings.Join(render.Formats(), ", "))
	f.DurationVar(&a.timeout, "timeout", 15*time.Second, "`time` after which a call is given up")
	f.StringVar(&a.tlsDir, "tls-dir", "", "`folder` of the certificate, key and authorities that `weft pki issue admin` made; ~/.config/weft/tls if none is given (environment: WEFT_TLS_DIR)")
	f.StringVar(&a.tokenFile, "token-file", "", "`file` of the token that you are known by; of --tls-dir the authorities suffice then (environment: WEFT_TOKEN_FILE)")
	f.BoolVar(&a.insecure, "insecure", false, "go without TLS, where controllers and etcd do (environment: WEFT_INSECURE)")
	complete(cmd, "output", cobra.FixedCompletions(render.Formats(), cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "server", cobra.NoFileCompletions)
	complete(cmd, "project", cobra.NoFileCompletions)
	complete(cmd, "timeout", cobra.NoFileCompletions)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(a.networkCmd(), a.subnetCmd(), a.portCmd(), a.routerCmd(), a.floatingIPCmd(), a.securityGroupCmd(),
		a.addressGroupCmd(), a.segmentCmd(), a.quotaCmd(),
		a.nodeCmd(), a.poolCmd(), a.rebalanceCmd(), a.applyCmd(), a.watchCmd(), a.backupCmd(), a.checkCmd(), a.collectCmd(), a.pkiCmd(), a.accessCmd(), a.doctorCmd())
	group(cmd)
	return cmd
}

const (
	defaultServer  = "127.0.0.1:7680"
	defaultProject = "default"
)

// settle decides the global flags: the command line over the environment over the defaults.
func (a *app) settle(cmd *cobra.Command) error {
	if strings.HasPrefix(cmd.Name(), cobra.ShellCompRequestCmd) {
		return nil // the command line that is completed has flags of its own; names settles those
	}
	flags := cmd.Flags()
	for name, env := range map[string]string{
		"server": "WEFT_SERVER", "project": "WEFT_PROJECT", "tls-dir": "WEFT_TLS_DIR", "insecure": "WEFT_INSECURE", "token-file": "WEFT_TOKEN_FILE",
	} {
		own := flags.Lookup(name) != a.globals.Lookup(name) // the command has a flag of this name, and another meaning
		if v := a.env.Getenv(env); v != "" && !flags.Changed(name) && !own {
			if err := flags.Set(name, v); err != nil {
				return usagef("environment variable %s: %w", env, err)
			}
		}
	}
	var err error
	if a.format, err = render.Parse(a.output); err != nil {
		return usageError{err}
	}
	if a.timeout <= 0 {
		return usagef("--timeout %s must be more than nothing", a.timeout)
	}
	if a.conn, err = client.New(a.options()); err != nil {
		return usageError{err}
	}
	return nil
}

// options are those of a client that speaks for the user to all controllers.
func (a *app) options() client.Options {
	out := client.Options{Servers: a.servers, Credential: a.credential, Timeout: a.timeout}
	if a.tokenFile != "" {
		out.Token = a.token
	}
	return out
}

// credential is whom the command line speaks for; nil where TLS is off.
func (a *app) credential() (*identity.Credential, error) {
	if a.insecure {
		fmt.Fprintln(a.env.Stderr, "warning: --insecure: nothing is encrypted, and nobody is who they say they are")
		return nil, nil //nolint:nilnil // as asked for
	}
	dir := a.tlsDir
	if dir == "" {
		dir = filepath.Join(cmp.Or(a.env.Getenv("XDG_CONFIG_HOME"), filepath.Join(a.env.Getenv("HOME"), ".config")), "weft", "tls")
	}
	c, err := identity.LoadCaller(dir)
	if errors.Is(err, fs.ErrNotExist) && a.tokenFile != "" {
		c, err = identity.LoadAuthorities(dir)
	}
	if err != nil {
		return nil, usagef("%w\nwhoever runs the fleet makes one: weft pki issue admin NAME; on a controller's host its unix socket needs none", err)
	}
	return c, nil
}

// token is what the user is known by.
func (a *app) token() (string, error) {
	text, err := os.ReadFile(a.tokenFile)
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// close ends the connection, if there was any need for one.
func (a *app) close() {
	if a.conn == nil {
		return
	}
	if err := a.conn.Close(); err != nil {
		fmt.Fprintf(a.env.Stderr, "warning: closing the connection: %s\n", err)
	}
}

// givenProject is the project that a new object is to be in: the one the user named, else none, so that the controllers'
// defaults hold (a port goes to its network's project).
func (a *app) givenProject() string {
	if a.globals.Changed("project") {
		return a.project
	}
	return ""
}

func (a *app) printer() render.Printer {
	return render.Printer{W: a.env.Stdout, Format: a.format, Boxes: isTerminal(a.env.Stdout)}
}

// isTerminal reports whether a person reads what is written there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// group makes a command one that only holds others: an unknown one below it is an error, not silence.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("%s has no command %q; did you mean %s?", cmd.CommandPath(), args[0], strings.Join(near, " or "))
		}
		return usagef("%s has no command %q", cmd.CommandPath(), args[0])
	}
	return cmd
}

// args makes wrong numbers of arguments usage errors.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usagef("%s: %w", cmd.UseLine(), err)
		}
		return nil
	}
}
