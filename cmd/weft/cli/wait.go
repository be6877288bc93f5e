package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// waitFlags are the flags of commands that can wait for the nodes.
type waitFlags struct {
	wait    bool
	timeout time.Duration
}

func (w *waitFlags) bind(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until the nodes concerned report it done: until ACTIVE, or DOWN for what no node has to do "+
		"(a port without a host, a router without gateway and interfaces, a floating IP without a port)")
	cmd.Flags().DurationVar(&w.timeout, "wait-timeout", time.Minute, "`time` after which --wait is given up")
}

// The pause between two looks at an object that is waited for: short at first, since nodes answer within milliseconds.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = 500 * time.Millisecond
	// patience is how long an ERROR must last to be believed: a node may see one half of a change before the other.
	patience = time.Second
)

// settled returns the object once its nodes have reported it done, at once unless the user asked for that. A subnet is
// done when its network's DHCP service is.
func (c call) settled(m proto.Message) (proto.Message, error) {
	if !c.wait.wait {
		return m, nil
	}
	if s, ok := m.(*weftv1.Subnet); ok {
		if s.EnableDhcp != nil && !s.GetEnableDhcp() {
			return m, nil
		}
		_, err := c.await(client.Network, s.GetNetworkId(), onlyActive)
		return m, err
	}
	return c.await(client.KindOf(m), client.Field(m, "id"), expectation(m))
}

// expect is a set of states that end a wait well.
type expect int

const (
	onlyActive expect = iota
	activeOrDown
)

func (e expect) met(s weftv1.State) bool {
	return s == weftv1.State_STATE_ACTIVE || (e == activeOrDown && s == weftv1.State_STATE_DOWN)
}

// expectation says whether a node has anything to do for the object as it is stored.
func expectation(m proto.Message) expect {
	busy := false
	switch o := m.(type) {
	case *weftv1.Port:
		busy = enabled(o.AdminStateUp) && o.GetHost() != ""
	case *weftv1.Router:
		busy = enabled(o.AdminStateUp) && (o.GetExternalGateway() != nil || len(o.GetInterfaces()) > 0)
	case *weftv1.FloatingIp:
		busy = o.GetPortId() != ""
	}
	if busy {
		return onlyActive
	}
	return activeOrDown
}

// enabled reads a boolean whose default is true.
func enabled(b *bool) bool { return b == nil || *b }

// await reads the object until its state is as expected, has been ERROR for a while (an error with the node's words), or time
// is up.
func (c call) await(k client.Kind, id string, want expect) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(c, c.wait.timeout)
	defer cancel()
	progress := newProgress(c.env.Stderr)
	defer progress.done()
	var last *weftv1.ObjectStatus
	name := id
	var failing time.Time // since when it is ERROR
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		m, err := c.conn.Get(ctx, k, id)
		switch {
		case err == nil:
			name, last = shown(m), client.Status(m)
		case c.Err() != nil:
			return nil, c.waitedInVain(k, name, last)
		case !client.IsUnreachable(err): // controllers may be away for a moment; what is waited for goes on
			return nil, fmt.Errorf("waiting for %s %s: %w", k.Noun(), name, err)
		}
		switch {
		case err == nil && want.met(last.GetState()):
			return m, nil
		case last.GetState() != weftv1.State_STATE_ERROR:
			failing = time.Time{}
		case failing.IsZero():
			failing = time.Now()
		case time.Since(failing) >= patience:
			return nil, fmt.Errorf("%s %s: %s", k.Noun(), name, whyOf(last))
		}
		progress.show("waiting for %s %s: %s", k.Noun(), name, statusText(last))
		if !sleep(ctx, pause) {
			return nil, c.waitedInVain(k, name, last)
		}
	}
}

func (c call) waitedInVain(k client.Kind, name string, last *weftv1.ObjectStatus) error {
	if c.Err() != nil {
		return errors.New("interrupted; the change itself is stored")
	}
	return fmt.Errorf("%s %s is stored but not ready after %s: %s", k.Noun(), name, c.wait.timeout, statusText(last))
}

func statusText(s *weftv1.ObjectStatus) string {
	text := stateName(s.GetState())
	if why := whyOf(s); why != "" {
		text += ": " + why
	}
	return text
}

// whyOf is why an object is in its state, as far as the caller is told.
func whyOf(s *weftv1.ObjectStatus) string { return cmp.Or(s.GetMessage(), s.GetReason()) }

// sleep reports whether the context lasted that long.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
