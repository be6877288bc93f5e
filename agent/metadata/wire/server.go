package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handler is the proxy's side. Its methods are called one at a time.
type Handler interface {
	Hello() Hello
	Counts() Counts
	List() []Listener
	// Listen takes a listening socket over; it closes the file.
	Listen(l Listener, f *os.File) error
	Shut(p Place)
	// Release stops accepting and calls give with each listening socket. Released ends the process when all have been given.
	Release(give func(Listener, syscall.Conn) error) error
	Released()
}

// Serve listens on a socket that Bind has made, which it takes over, and does what it is told until the context ends.
func Serve(ctx context.Context, socket *os.File, h Handler) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var listening error
	err = raw.Control(func(fd uintptr) { listening = unix.Listen(int(fd), 8) })
	if err = errors.Join(err, listening); err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	l, err := net.FileListener(socket)
	if err = errors.Join(err, socket.Close()); err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	s := server{h: h}
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if u, ok := c.(*net.UnixConn); ok {
			go s.attend(ctx, conn{u})
		}
	}
}

type server struct {
	mu sync.Mutex
	h  Handler
}

// attend serves one connection to its end.
func (s *server) attend(ctx context.Context, c conn) {
	defer c.Close() //nolint:errcheck // whatever was said has been
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for {
		var r request
		file, err := c.receive(&r)
		if err != nil {
			return
		}
		if err := s.do(c, r, file); err != nil {
			return
		}
	}
}

// do carries a request out and replies; the error means that the reply could not be sent.
func (s *server) do(c conn, r request, file *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil { // an agent that hangs must not hold up the next one
		return err
	}
	out, err := s.result(c, r, file)
	if err != nil {
		out.Error = err.Error()
	}
	err = c.send(out, nil)
	if r.Do == release && err == nil {
		s.h.Released()
	}
	return err
}

func (s *server) result(c conn, r request, file *os.File) (reply, error) {
	if file != nil && r.Do != listen {
		return reply{}, errors.Join(errors.New("a file that nobody asked for"), file.Close())
	}
	switch r.Do {
	case hello:
		h := s.h.Hello()
		return reply{Hello: &h}, nil
	case counts:
		return reply{Counts: s.h.Counts()}, nil
	case list:
		for _, l := range s.h.List() {
			if err := c.send(reply{Listener: l, More: true}, nil); err != nil {
				return reply{}, err
			}
		}
		return reply{}, nil
	case listen:
		if file == nil {
			return reply{}, errors.New("no socket came with the message")
		}
		return reply{}, s.h.Listen(r.Listener, file)
	case shut:
		s.h.Shut(r.Listener.Place)
		return reply{}, nil
	case release:
		return reply{}, s.h.Release(func(l Listener, sock syscall.Conn) error {
			return c.send(reply{Listener: l, More: true}, sock)
		})
	default:
		return reply{}, fmt.Errorf("%q is nothing that can be done", r.Do)
	}
}
