package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// ListenForQuestions makes the socket that questions are posted to, at a path that nothing is at. Processes of one user alone
// are let in, whoever can reach the path: giving the socket to that user would take a capability (CAP_CHOWN) that the agent
// does without.
func ListenForQuestions(path string, uid int) (net.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // see above
		return nil, errors.Join(err, l.Close())
	}
	return questions{l, uid}, nil
}

// questions lets in connections of one user's processes.
type questions struct {
	*net.UnixListener
	uid int
}

// Accept is net.Listener's.
func (q questions) Accept() (net.Conn, error) {
	for {
		c, err := q.AcceptUnix()
		if err != nil {
			return nil, err
		}
		from, err := peer(c)
		if err == nil && int(from.Uid) == q.uid {
			return c, nil
		}
		if err := c.Close(); err != nil {
			return nil, fmt.Errorf("turn a stranger away: %w", err)
		}
	}
}
