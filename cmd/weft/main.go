// Command weft is the operator's command line: it asks weft's controllers for networks, subnets, ports, routers and
// floating IPs, and prints what they answer. It never touches a host or the store itself. docs/cli.md lists its commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/weft-sdn/weft/cmd/weft/cli"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version,
	})
	stop()
	os.Exit(code)
}
