package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/view"
)

// How long ovs-vswitchd may be away, and how long it may leave a question unanswered without doing anything, before nothing on
// the node counts as working. It starts in a fraction of the one.
const (
	awayPatience   = time.Second
	silentPatience = 3 * time.Second
	probeEvery     = time.Second
)

// life is what is known of a bridge's being alive.
type life struct {
	// lost is when its connection was lost, or first asked for; zero while there is one.
	lost time.Time
	// probed is when it was last asked for a sign of life; waits: it has not given it.
	probed time.Time
	waits  bool
}

// probe asks the bridges for a sign of life, those that are not being asked.
func (b *bridges) probe(now time.Time) {
	for _, br := range b.all {
		if br.conn == nil || br.waits || now.Sub(br.probed) < probeEvery {
			continue
		}
		br.probed, br.waits = now, true
		conn := br.conn
		go func() {
			if conn.Barrier(b.ctx) != nil {
				return // the connection is lost, which is told otherwise
			}
			b.post.send(b.ctx, func() { b.heard(conn) })
		}()
	}
}

// heard takes in a sign of life.
func (b *bridges) heard(conn *openflow.Conn) {
	for _, br := range b.all {
		if br.conn == conn {
			br.waits = false
		}
	}
}

// trouble says why the bridges do not work; nil when they do, as far as is known. It has to be asked regularly.
func (b *bridges) trouble(now time.Time, look func() ovs.Process) error {
	br := b.all[plan.BrInt]
	away := br != nil && br.conn == nil && now.Sub(br.lost) > awayPatience
	silent := br != nil && br.conn != nil && br.waits && now.Sub(br.probed) > silentPatience
	if !away && !silent {
		b.worked = time.Time{}
		return nil
	}
	p := look()
	switch {
	case !p.Known && silent:
		return errSwitchSilent
	case !p.Known || !p.Alive:
		return errSwitchAway
	}
	// It is there. While it takes in thousands of ports it says nothing for long, and carries frames all the same.
	if p.CPU != b.cpu || b.worked.IsZero() {
		b.cpu, b.worked = p.CPU, now
	}
	if now.Sub(b.worked) < silentPatience {
		return nil
	}
	return errSwitchSilent
}

var (
	errSwitchAway   = errors.New("ovs-vswitchd is not running on this node, or has no bridge br-int: start it")
	errSwitchSilent = fmt.Errorf("ovs-vswitchd does not answer on this node for more than %s: see its log", silentPatience)
)

// watchSwitch reports everything on the node anew when ovs-vswitchd goes away or comes back: what it does not carry is not
// ACTIVE (promise I6).
func (a *Agent) watchSwitch(now time.Time) {
	if !a.started {
		return
	}
	a.bridges.probe(now)
	trouble := a.bridges.trouble(now, func() ovs.Process { return ovs.LookUp(a.cfg.OVSRunDir) })
	if trouble == nil && a.switchDown != nil && !a.bridges.synced() {
		return // it is back, but not yet as planned
	}
	if errors.Is(trouble, a.switchDown) {
		return
	}
	if trouble != nil {
		a.log.Error("nothing works on this node", "error", trouble)
	} else {
		a.log.Info("ovs-vswitchd works again")
	}
	a.switchDown = trouble
	a.describe(a.ovs.Snapshot())
	for network, n := range a.view.Networks {
		for port := range n.Local {
			a.ports[view.PortKey{Network: network, Port: port}] = true
		}
	}
	for u := range a.units {
		a.reportUnit(u)
	}
}
