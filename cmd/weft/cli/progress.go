package cli

import (
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// progress keeps one line on a terminal up to date; elsewhere it is silent.
type progress struct {
	w     io.Writer
	width int
}

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w}
}

// show replaces the line.
func (p *progress) show(format string, args ...any) {
	if p.w == nil {
		return
	}
	line := render.Clean(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "))
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

// done wipes the line.
func (p *progress) done() {
	if p.w != nil && p.width > 0 {
		fmt.Fprintf(p.w, "\r%*s\r", p.width, "")
	}
}

// shown is what a person calls an object: its name, else its id.
func shown(m proto.Message) string {
	if name := client.Field(m, "name"); name != "" {
		return name
	}
	return client.Field(m, "id")
}

func stateName(s weftv1.State) string { return strings.TrimPrefix(s.String(), "STATE_") }
