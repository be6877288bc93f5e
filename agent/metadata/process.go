package metadata

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// Bounds of what is waited for.
const (
	startTime = 5 * time.Second // for a proxy to listen
	stopTime  = 3 * time.Second // for a killed one to be gone
	waitStep  = 2 * time.Millisecond
)

// Owned is the ownership predicate: the command line, as /proc/<pid>/cmdline holds it, is that of the proxy of a state
// directory.
func Owned(cmdline []byte, stateDir string) bool {
	argv := strings.Split(string(cmdline), "\x00")
	return filepath.Base(argv[0]) == ProgramName && slices.Contains(argv[1:], "--ask="+filepath.Join(stateDir, "metadata", "ask"))
}

// listener is what should be listened on for guests at a place, as of now.
func (m *Manager) listener(want desired.Metadata) (wire.Listener, error) {
	out := wire.Listener{Place: place(want), Address: want.Address}
	err := m.o.Enter(want.Namespace, func() error {
		var st unix.Stat_t
		err := unix.Stat("/proc/thread-self/ns/net", &st)
		out.Inode = st.Ino
		return err
	})
	if err != nil {
		return out, fmt.Errorf("metadata at %s: %w", out.Place, err)
	}
	return out, nil
}

// settle has guests at a place served.
func (m *Manager) settle(want desired.Metadata) error {
	if err := m.ensureProxy(); err != nil {
		return err
	}
	now, err := m.listener(want)
	if err != nil || m.have[now.Place] == now {
		return err
	}
	socket, err := m.open(want)
	if errors.Is(err, unix.EADDRINUSE) && m.have[now.Place].Inode == now.Inode {
		// The place has been listened to under another address that covers this one.
		if err = m.client.Shut(now.Place); err == nil {
			socket, err = m.open(want)
		}
	}
	if err != nil {
		return fmt.Errorf("metadata at %s: listen on %s: %w", now.Place, want.Address, err)
	}
	defer socket.Close() //nolint:errcheck // the proxy has it, or nobody
	return m.hand(now, socket)
}

func (m *Manager) open(want desired.Metadata) (*net.TCPListener, error) {
	var out *net.TCPListener
	err := m.o.Enter(want.Namespace, func() (err error) {
		out, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(want.Address))
		return err
	})
	return out, err
}

// hand gives the proxy a listening socket.
func (m *Manager) hand(l wire.Listener, socket syscall.Conn) error {
	m.writes.Add(1)
	if err := m.client.Listen(l, socket); err != nil {
		m.lose(err)
		return err
	}
	m.have[l.Place] = l
	return nil
}

// forget lets go of the proxy.
func (m *Manager) forget() {
	if m.client != nil {
		_ = m.client.Close() // whatever it was is over
	}
	m.client = nil
	clear(m.have)
}

// lose is forget, for a proxy that does not do as it is told; what became of it is looked at soon.
func (m *Manager) lose(err error) {
	m.o.Log.Warn("lost the metadata proxy", "error", err)
	m.forget()
	m.wake()
}

func (m *Manager) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// ensureProxy has the wanted proxy running and known. An earlier one that is another program, or has other arguments, is
// replaced: its listening sockets, with who waits there, are handed over, and its requests come to their end.
func (m *Manager) ensureProxy() error {
	if m.client != nil {
		return nil
	}
	found, err := m.adopt()
	if err != nil {
		return err
	}
	var held []wire.Held
	if found {
		said, err := m.client.Hello()
		if err != nil {
			m.lose(err)
			return err
		}
		if m.current(said) {
			return nil
		}
		m.o.Log.Info("replacing the metadata proxy", "pid", m.client.PID())
		m.writes.Add(1)
		if held, err = m.release(); err != nil {
			m.o.Log.Warn("not everything was handed over", "error", err)
		}
	}
	defer func() {
		for _, h := range held {
			h.File.Close()
		}
	}()
	if err := m.start(); err != nil {
		return err
	}
	for _, h := range held {
		if err := m.hand(h.Listener, h.File); err != nil {
			return err
		}
	}
	return nil
}

// current reports whether a proxy is as wanted. While there is no program to replace it by, it is.
func (m *Manager) current(said wire.Hello) bool {
	program, err := wire.ProgramID(m.o.Program)
	return slices.Equal(said.Args, m.args) && (err != nil || program == said.Program)
}

// adopt finds the proxy that runs, if one does. One that hangs, or that listens no more, is killed.
func (m *Manager) adopt() (found bool, err error) {
	if m.client != nil {
		return true, nil
	}
	client, err := m.known()
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return false, m.killLost()
	}
	if err != nil {
		return false, err
	}
	have, err := client.List()
	if err != nil {
		m.o.Log.Warn("the metadata proxy hangs", "pid", client.PID(), "error", err)
		_ = client.Close() // it does not answer anyway
		return false, m.kill(client.PID())
	}
	m.take(client)
	for _, l := range have {
		m.have[l.Place] = l
	}
	return true, nil
}

// known is the proxy that listens, fs.ErrNotExist or ECONNREFUSED when none does.
func (m *Manager) known() (*wire.Client, error) {
	if _, err := os.Stat(m.controlPath()); err != nil {
		return nil, err
	}
	return m.dial()
}

func (m *Manager) dial() (*wire.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	return wire.Dial(ctx, m.controlPath())
}

// take notes the proxy and watches for its end.
func (m *Manager) take(client *wire.Client) {
	m.client = client
	watch, err := m.dial()
	if err != nil { // it has just ended
		m.lose(err)
		return
	}
	m.done.Go(func() {
		ended := context.AfterFunc(m.ctx, func() { _ = watch.Close() })
		defer ended()
		watch.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.client == client && m.ctx.Err() == nil {
			m.lose(errors.New("it has ended"))
		}
	})
}

// start starts a proxy.
func (m *Manager) start() error {
	if err := os.RemoveAll(m.controlPath()); err != nil {
		return err
	}
	control, err := wire.Bind(m.controlPath())
	if err != nil {
		return err
	}
	defer control.Close()
	m.writes.Add(1)
	cmd := exec.Command(m.o.Program, m.args...)
	cmd.Args[0] = ProgramName
	cmd.Env = []string{} // it reads none, and everybody of its user might
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the metadata proxy: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // a zombie would look alive
	client, err := m.awaitStart(ended)
	if err != nil {
		return fmt.Errorf("start the metadata proxy: %w", errors.Join(err, ignoreDone(cmd.Process.Kill())))
	}
	m.o.Log.Info("metadata proxy started", "pid", client.PID())
	m.take(client)
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// awaitStart waits until the proxy listens.
func (m *Manager) awaitStart(ended <-chan error) (*wire.Client, error) {
	deadline := time.After(startTime)
	for {
		client, err := m.dial()
		if err == nil {
			return client, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("it has ended (%w): its reason is in the agent's log", err)
		case <-deadline:
			return nil, err
		case <-time.After(waitStep):
		}
	}
}

// release has the proxy hand its sockets back and end. Nobody finds it any more.
func (m *Manager) release() ([]wire.Held, error) {
	defer m.forget()
	if err := os.Remove(m.controlPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return m.client.Release()
}

// end has the proxy end, and waits until nothing of it is left to listen.
func (m *Manager) end() error {
	m.writes.Add(1)
	pid := m.client.PID()
	held, err := m.release()
	for _, h := range held {
		h.File.Close()
	}
	if err != nil {
		return m.kill(pid)
	}
	return nil
}

// killLost ends proxies that nobody can direct any more.
func (m *Manager) killLost() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && m.owns(pid) {
			m.o.Log.Warn("a lost metadata proxy is in the way", "pid", pid)
			errs = append(errs, m.kill(pid))
		}
	}
	return errors.Join(errs...)
}

// kill ends a process, if it is this node's proxy, and waits until it has ended.
func (m *Manager) kill(pid int) error {
	p, err := os.FindProcess(pid) // held by a pidfd from here on (pidfd_open(2)): what owns says is of this very process
	if err != nil {
		return fmt.Errorf("metadata proxy %d: %w", pid, err)
	}
	defer p.Release() //nolint:errcheck // it was only looked at
	if !m.owns(pid) {
		return nil
	}
	m.writes.Add(1)
	if err := ignoreDone(p.Kill()); err != nil {
		return fmt.Errorf("kill the metadata proxy %d: %w", pid, err)
	}
	for deadline := time.Now().Add(stopTime); m.owns(pid); {
		if time.Now().After(deadline) {
			return fmt.Errorf("the metadata proxy %d does not end, not even by SIGKILL", pid)
		}
		<-time.After(waitStep)
	}
	return nil
}

// owns looks at a process; one that has ended has no command line.
func (m *Manager) owns(pid int) bool {
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && Owned(cmdline, m.o.StateDir)
}
