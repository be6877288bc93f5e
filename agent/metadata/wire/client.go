package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one exchange: a proxy that does not answer in time hangs.
const patience = 3 * time.Second

// Client directs one proxy. Its methods must not be called concurrently; after an error it is of no more use.
type Client struct {
	c   conn
	pid int
}

// Dial connects to the proxy that listens at a path. The error of one that nobody listens at is ECONNREFUSED or ENOENT.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no Unix socket", path), c.Close())
	}
	other, err := peer(u)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Client{conn{u}, int(other.Pid)}, nil
}

// peer is the process that listens at the other end, or that has connected from there (unix(7), SO_PEERCRED).
func peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("who is at the other end: %w", err)
	}
	return cred, nil
}

// PID is the proxy's process id, as the kernel says.
func (c *Client) PID() int { return c.pid }

// Close ends the connection; the proxy goes on.
func (c *Client) Close() error { return c.c.Close() }

// Wait returns when the other end has ended, or this one is closed. Nothing else may be done with the client meanwhile.
func (c *Client) Wait() {
	_, _ = c.c.receive(&reply{}) // a proxy says nothing unasked
}

// ask sends a request and takes the replies.
func (c *Client) ask(r request, sock syscall.Conn, take func(reply, *os.File)) error {
	if err := c.c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := c.c.send(r, sock); err != nil {
		return fmt.Errorf("metadata proxy: %s: %w", r.Do, err)
	}
	for {
		var got reply
		file, err := c.c.receive(&got)
		if err == nil && got.Error != "" {
			err = errors.New(got.Error)
		}
		if err != nil {
			return fmt.Errorf("metadata proxy: %s: %w", r.Do, err)
		}
		if file != nil && r.Do != release {
			return errors.Join(fmt.Errorf("metadata proxy: %s: a file that nobody asked for", r.Do), file.Close())
		}
		take(got, file)
		if !got.More {
			return nil
		}
	}
}

// Hello asks the proxy what it is.
func (c *Client) Hello() (Hello, error) {
	var out Hello
	err := c.ask(request{Do: hello}, nil, func(r reply, _ *os.File) {
		if r.Hello != nil {
			out = *r.Hello
		}
	})
	return out, err
}

// Counts asks what came of requests.
func (c *Client) Counts() (Counts, error) {
	var out Counts
	err := c.ask(request{Do: counts}, nil, func(r reply, _ *os.File) { out = r.Counts })
	return out, err
}

// List asks what the proxy listens at.
func (c *Client) List() ([]Listener, error) {
	var out []Listener
	err := c.ask(request{Do: list}, nil, func(r reply, _ *os.File) {
		if r.More {
			out = append(out, r.Listener)
		}
	})
	return out, err
}

// Listen gives the proxy a listening socket, in place of the one that it may have there. The caller closes its own.
func (c *Client) Listen(l Listener, sock syscall.Conn) error {
	return c.ask(request{Do: listen, Listener: l}, sock, func(reply, *os.File) {})
}

// Shut has the proxy close what it has at a place, connections included; that there is nothing is success.
func (c *Client) Shut(p Place) error {
	return c.ask(request{Do: shut, Listener: Listener{Place: p}}, nil, func(reply, *os.File) {})
}

// Held is a listening socket that has been given back.
type Held struct {
	Listener
	File *os.File
}

// Release has the proxy give its listening sockets back, finish what it is at, and end. What waits to be accepted waits for
// whoever gets the sockets next. They are the caller's to close, also beside an error.
func (c *Client) Release() ([]Held, error) {
	var out []Held
	err := c.ask(request{Do: release}, nil, func(r reply, f *os.File) {
		if f != nil {
			out = append(out, Held{r.Listener, f})
		}
	})
	if errors.Is(err, io.EOF) && len(out) == 0 {
		return nil, nil // it had none and has ended
	}
	return out, err
}
