package conntrack

import (
	"encoding/binary"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket that the runtime's poller waits on, so that a waiting goroutine holds no thread.
type socket struct {
	f      *os.File
	raw    syscall.RawConn
	closed *atomic.Bool
}

// open opens a socket of the calling thread's namespace with the given multicast groups, as a mask.
func open(groups uint32, room int) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return socket{}, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		os.NewSyscallError("SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)),
		// Answers do without a copy of the question.
		os.NewSyscallError("NETLINK_CAP_ACK", unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)),
		os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})),
	)
	if err != nil {
		_ = unix.Close(fd) // nothing is pending
		return socket{}, err
	}
	f := os.NewFile(uintptr(fd), "netlink")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return socket{}, err
	}
	return socket{f, raw, new(atomic.Bool)}, nil
}

func (s socket) close() {
	s.closed.Store(true)
	s.f.Close()
}

// gone is the error of a raw connection; the poller has one of its own for a closed file.
func (s socket) gone(err error) error {
	if s.closed.Load() {
		return os.ErrClosed
	}
	return err
}

func (s socket) deadline(t time.Time) {
	_ = s.f.SetReadDeadline(t) // fails on a closed file only, whose readers have ended
}

func (s socket) write(b []byte) error {
	var err error
	if rawErr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN)
	}); rawErr != nil {
		return s.gone(rawErr)
	}
	return os.NewSyscallError("sendto", err)
}

// read waits for one datagram, at most so long.
func (s socket) read(buf []byte, patience time.Duration) ([]byte, error) {
	s.deadline(time.Now().Add(patience))
	_, n, err := s.receive(func() *Buffer { return &Buffer{buf} })
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// receive waits for one datagram; the buffer is asked for when there is one to read.
func (s socket) receive(get func() *Buffer) (buf *Buffer, n int, err error) {
	rawErr := s.raw.Read(func(fd uintptr) bool {
		if !readable(int(fd)) {
			return false
		}
		if buf == nil {
			buf = get()
		}
		n, err = recv(int(fd), buf.bytes())
		return !errors.Is(err, unix.EAGAIN)
	})
	if rawErr != nil {
		return buf, 0, s.gone(rawErr)
	}
	return buf, n, err
}

// poll returns a datagram if there is one, else nil.
func (s socket) poll(buf []byte) ([]byte, error) {
	var n int
	var err error
	if ctlErr := s.raw.Control(func(fd uintptr) { n, err = recv(int(fd), buf) }); ctlErr != nil {
		return nil, s.gone(ctlErr)
	}
	if errors.Is(err, unix.EAGAIN) {
		return nil, nil
	}
	return buf[:max(n, 0)], err
}

func recv(fd int, buf []byte) (int, error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return 0, ErrLost
		case errors.Is(err, unix.EAGAIN):
			return 0, unix.EAGAIN
		case err != nil:
			return 0, os.NewSyscallError("recvfrom", err)
		case n > len(buf):
			return 0, ErrLost // longer than any message should be
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // another process may write to the socket; only the kernel is listened to
		}
		return n, nil
	}
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// header is what is needed of struct nlmsghdr.
type header struct {
	kind uint16
	seq  uint32
}

// headerLen is the length of struct nlmsghdr.
const headerLen = 16

// messages calls fn for each netlink message of a datagram.
func messages(b []byte, fn func(h header, content []byte) error) error {
	for len(b) >= headerLen {
		n := int(binary.NativeEndian.Uint32(b))
		if n < headerLen || n > len(b) {
			return errMalformed
		}
		h := header{kind: binary.NativeEndian.Uint16(b[4:]), seq: binary.NativeEndian.Uint32(b[8:])}
		if err := fn(h, b[headerLen:n]); err != nil {
			return err
		}
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// appendHeader appends a message of the conntrack subsystem about IPv4.
func appendHeader(b []byte, message, flags uint16, seq uint32, fill func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, headerLen+nfgenmsgLen)...)
	binary.NativeEndian.PutUint16(b[start+4:], unix.NFNL_SUBSYS_CTNETLINK<<8|message)
	binary.NativeEndian.PutUint16(b[start+6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[start+8:], seq)
	b[start+headerLen] = unix.AF_INET
	b[start+headerLen+1] = unix.NFNETLINK_V0
	if fill != nil {
		b = fill(b)
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}
