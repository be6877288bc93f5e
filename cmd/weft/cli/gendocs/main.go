// Command gendocs writes the reference of weft's commands to the file that is its argument. It is run by go generate
// and is no part of what is installed.
package main

import (
	"fmt"
	"os"

	"github.com/weft-sdn/weft/cmd/weft/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], cli.Docs(), 0o644); err != nil { //nolint:gosec // a file of the repository, for everyone to read
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
