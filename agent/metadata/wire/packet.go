package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPacket bounds one message in bytes; they are a few hundred.
const maxPacket = 64 << 10

// conn sends and receives messages with at most one file each.
type conn struct{ *net.UnixConn }

// send sends a message; sock, if there is one, stays open here.
func (c conn) send(message any, sock syscall.Conn) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	write := func(rights []byte) error {
		_, _, err := c.WriteMsgUnix(text, rights, nil)
		return err
	}
	if sock == nil {
		return write(nil)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = write(unix.UnixRights(int(fd))) })
	return errors.Join(err, sent)
}

// receive reads a message and the file beside it, nil for none. io.EOF when the other end has closed.
func (c conn) receive(message any) (*os.File, error) {
	text, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
	n, m, flags, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	file, err := received(rights[:m])
	switch {
	case err != nil:
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("message too long")
	default:
		err = json.Unmarshal(text[:n], message)
	}
	if err != nil && file != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, err
}

// received is the file that came as SCM_RIGHTS (unix(7)).
func received(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

// Bind makes the socket that a proxy is directed by, at a path that nothing is at, for root alone. Nobody can connect before
// the proxy listens on it.
func Bind(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s: %w", path, err), f.Close())
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ProgramID identifies the file that a program is in: it differs as soon as another one has taken its place.
func ProgramID(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("program %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d:%d.%09d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec), nil
}
