package agent

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/weft-sdn/weft/agent/openflow"
)

// line keeps an OpenFlow connection to one bridge, apart from the one by which the plan is written: what goes over it never
// waits behind a long change.
type line struct {
	runDir, bridge string
	log            *slog.Logger
	// up is called with every new connection, and the ports that the bridge then has; down when it has ended; refused when
	// none can be made because OVS is not there. They and port are called one after another.
	up      func(*openflow.Conn, []openflow.PortStatus)
	port    func(openflow.PortStatus)
	down    func()
	refused func()
}

// run keeps the connection until the context ends.
func (l *line) run(ctx context.Context) {
	for pause := time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 100*time.Millisecond) {
		if l.once(ctx) {
			pause = time.Millisecond
		}
		sleep(ctx, pause)
	}
}

// once is one connection, or the attempt; true when there was one.
func (l *line) once(ctx context.Context) bool {
	statuses := make(chan openflow.PortStatus, 1024)
	dialing, cancel := context.WithTimeout(ctx, flowTimeout)
	defer cancel()
	conn, err := openflow.Dial(dialing, openflow.Options{
		Socket: filepath.Join(l.runDir, l.bridge+".mgmt"), Logger: l.log,
		Ports: func(s openflow.PortStatus) { statuses <- s }, // a thousand ahead of a reader that does next to nothing
	})
	if err != nil {
		if openflow.NotYet(err) {
			l.refused()
		}
		return false
	}
	defer conn.Close() //nolint:errcheck // its end is all that is wanted
	ports, err := conn.Ports(dialing)
	if err != nil {
		return false
	}
	l.up(conn, ports)
	defer l.down()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-conn.Done():
			return true
		case s := <-statuses:
			l.port(s)
		}
	}
}
