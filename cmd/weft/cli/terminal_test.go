package cli_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/weft-sdn/weft/cmd/weft/cli"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// TestNothingThatANodeOrACallerSaysMovesTheTerminal since a node may be somebody else's by now, and arguments are often pasted.
func TestNothingThatANodeOrACallerSaysMovesTheTerminal(t *testing.T) {
	c := startController(t)
	const evil = "\x1b]0;title\a\x1b[2J\u202eokay\nok     all is well"
	w := &txn.Txn{}
	w.Put(keys.Plugs("cmp1")+evil, &storev1.Plug{})
	w.Put(keys.Agent("cmp1"), &storev1.Agent{TunnelIp: "192.0.2.1", Problems: []string{evil}, Version: evil})
	if _, err := c.store.Commit(t.Context(), w, 0); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, int) {
		var out bytes.Buffer
		code := cli.Main(t.Context(), cli.Env{
			Args: append([]string{"--server", c.endpoint, "--insecure"}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
			Getenv: func(string) string { return "" }, Version: "test",
		})
		return out.String(), code
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for code := -1; code != cli.ExitOK; _, code = run("node", "show", "cmp1") { // until the controller has heard of it
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the node is not known")
		}
	}
	for _, args := range [][]string{
		{"doctor"},
		{"check", "--etcd", c.etcd},
		{"node", "list", "--output", "wide"},
		{"node", "show", "cmp1"},
		{"node", "show", evil},
		{"node", "diff", evil},
		{"network", "show", evil},
		{"network", "create", evil},
		{"port", "list", "--filter", evil},
		{"port", "create", "p", "--network", evil},
		{evil},
	} {
		out, _ := run(args...)
		text := strings.ReplaceAll(out, "\n", "")
		if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }) {
			t.Errorf("weft %q prints %q", args, out)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "ok     all is well") {
				t.Errorf("weft %q prints a line of somebody else's: %q", args, out)
			}
		}
	}
}
