// Command weft-metadata is a node's metadata proxy: what VMs reach at 169.254.169.254 (package agent/metadata/proxy). The
// node's weft-agent starts it, gives it what it listens on over file descriptor 3 and replaces it when it or its arguments
// have changed; it is of no use by hand. It gives up root before it serves anybody.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/weft-sdn/weft/agent/metadata/proxy"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("program", "weft-metadata")
	if err := run(os.Args, log); err != nil {
		fmt.Fprintln(os.Stderr, "weft-metadata:", err)
		os.Exit(1)
	}
}

// control is the descriptor of the socket that the agent directs the proxy by.
const control = 3

func run(args []string, log *slog.Logger) error {
	o := proxy.Options{Log: log}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.Ask, "ask", "", "path of the socket where the agent says who a guest is")
	uid := flags.Int("uid", 0, "user to run as")
	gid := flags.Int("gid", 0, "group to run as")
	flags.IntVar(&o.Rate, "rate", 0, "requests per second of one guest")
	flags.IntVar(&o.Connections, "connections", 0, "connections at once of one guest")
	flags.DurationVar(&o.BackendTimeout, "backend-timeout", 0, "how long one backend has to begin its answer")
	ca := flags.String("backend-ca", "", "file with the certificates that HTTPS backends are verified by")
	flags.Func("backend", "URL of a backend, may be given several times; without any the proxy answers itself", func(text string) error {
		u, err := url.Parse(text)
		o.Backends = append(o.Backends, u)
		return err
	})
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.Ask == "" {
		return errors.New("weft-agent starts this; see docs/metadata.md")
	}
	if err := authorities(&o, *ca); err != nil {
		return err
	}
	var err error
	if o.Hello.Program, err = wire.ProgramID("/proc/self/exe"); err != nil {
		return err
	}
	o.Hello.Args = args[1:]
	if err := proxy.Confine(*uid, *gid); err != nil {
		return err
	}
	p, err := proxy.New(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return p.Run(ctx, os.NewFile(control, "control"))
}

// authorities reads who may sign backends' certificates, while root still can.
func authorities(o *proxy.Options, file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	o.BackendCA = x509.NewCertPool()
	if !o.BackendCA.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return nil
}
