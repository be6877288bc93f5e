package dhcp

import (
	"bytes"
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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// place is where a dnsmasq serves: the namespace's inode, and the index of the link in it (0 if Args name none). dnsmasq binds
// its socket to the device: after the device has been made anew it would stay deaf.
type place struct {
	inode uint64
	link  int
}

// placeFile tells, in a network's directory, for which place its dnsmasq was started. It is written when none runs, before one
// is started, and so holds for the one that runs. To ask the kernel where a process that is not root's serves takes the right
// to trace it (ptrace(2), PTRACE_MODE_READ), which the agent need not have.
const placeFile = "place"

func (p place) String() string { return fmt.Sprintf("%d %d\n", p.inode, p.link) }

// readPlace reads placeFile; the zero place, which is nowhere, if there is none or it is damaged.
func readPlace(dir string) (p place, err error) {
	b, err := os.ReadFile(filepath.Join(dir, placeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return place{}, err
	}
	if n, _ := fmt.Sscanf(string(b), "%d %d\n", &p.inode, &p.link); n != 2 {
		return place{}, nil
	}
	return p, nil
}

// locate finds the place in the wanted namespace.
func (m *Manager) locate(want desired.DHCP) (place, error) {
	var at place
	name := interfaceName(want.Args)
	err := m.o.Enter(want.Namespace, func() error {
		inode, err := netInode()
		if err != nil {
			return err
		}
		at.inode = inode
		if name == "" {
			return nil
		}
		link, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w (%w)", name, ErrLinkMissing, err)
		}
		at.link = link.Index
		return nil
	})
	return at, err
}

func interfaceName(args []string) string {
	for _, a := range args {
		if name, ok := strings.CutPrefix(a, "--interface="); ok {
			return name
		}
	}
	return ""
}

// netInode identifies the network namespace of the calling thread.
func netInode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("identity of the namespace: %w", err)
	}
	return st.Ino, nil
}

// process is a running dnsmasq of weft's, held by its pidfd so that it cannot be mistaken for another.
type process struct {
	pid      int
	argv     []string // after the program's name
	at       place
	file     *os.File // the pidfd
	stopping atomic.Bool
	once     sync.Once
}

func (p *process) close() { p.once.Do(func() { p.file.Close() }) }

// serves reports whether the process is what is wanted, where it is wanted.
func (p *process) serves(argv []string, at place) bool {
	return slices.Equal(p.argv, argv) && p.at == at
}

// signal sends through the pidfd; that the process has ended is no error.
func (p *process) signal(sig unix.Signal) error {
	return p.control(func(fd int) error {
		err := unix.PidfdSendSignal(fd, sig, nil, 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	})
}

func (p *process) control(fn func(fd int) error) error {
	rc, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) { inner = fn(int(fd)) })
	return errors.Join(err, inner)
}

// wait blocks until the process has ended: a pidfd becomes readable then (pidfd_open(2)). It returns os.ErrDeadlineExceeded
// after the deadline set on the file, os.ErrClosed after close.
func (p *process) wait() error {
	rc, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	return rc.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
}

// Owned is the ownership predicate: the command line, as /proc/<pid>/cmdline holds it, is that of the dnsmasq whose pid
// file is in the directory dir.
func Owned(cmdline []byte, dir string) bool {
	argv := splitNul(cmdline)
	return len(argv) > 1 && filepath.Base(argv[0]) == DefaultProgram &&
		slices.Contains(argv[1:], "--pid-file="+filepath.Join(dir, pidFile))
}

func splitNul(b []byte) []string {
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// find opens the network's process; nil if there is none.
func (m *Manager) find(network string) (*process, error) {
	m.mu.Lock()
	p := m.children[network]
	m.mu.Unlock()
	if p != nil {
		return p, nil
	}
	b, err := os.ReadFile(filepath.Join(m.Dir(network), pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return nil, nil // not what dnsmasq writes: nobody's
	}
	return m.open(network, pid)
}

// open takes hold of a process and then looks whose it is; nil if it is not this network's dnsmasq or has ended.
func (m *Manager) open(network string, pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // ended; a thread's id is EINVAL, since Linux 6.15 ENOENT
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	if err := p.read(m.Dir(network)); err != nil {
		p.close()
		if errors.Is(err, errNotOurs) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil, nil
		}
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

var errNotOurs = errors.New("not the dnsmasq of this directory")

// read fills in what /proc tells of the process (proc(5)), and what was noted when it was started.
func (p *process) read(dir string) error {
	proc := strconv.Itoa(p.pid)
	cmdline, err := os.ReadFile("/proc/" + proc + "/cmdline")
	if err != nil {
		return err
	}
	if !Owned(cmdline, dir) {
		return errNotOurs
	}
	p.argv = splitNul(cmdline)[1:]
	p.at, err = readPlace(dir)
	return err
}

// search looks through all processes for a network's dnsmasq whose pid file has been lost; nil if there is none.
func (m *Manager) search(network string) (*process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !Owned(cmdline, m.Dir(network)) {
			continue // ended meanwhile, or not ours
		}
		if p, err := m.open(network, pid); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// start runs dnsmasq, which goes into the background, in a session of its own, when it is ready, and writes its pid
// file before. If it cannot start because a lost one holds its addresses, that one is replaced.
func (m *Manager) start(ctx context.Context, want desired.DHCP, argv []string, at place) (*process, error) {
	if err := m.makeDir(m.Dir(want.Network)); err != nil {
		return nil, err
	}
	if err := m.writeFile(m.Dir(want.Network), placeFile, at.String()); err != nil {
		return nil, err
	}
	err := m.launch(ctx, want.Namespace, argv)
	if err != nil {
		lost, searchErr := m.search(want.Network)
		if lost == nil || searchErr != nil {
			return nil, errors.Join(err, searchErr)
		}
		m.o.Log.Warn("a lost dnsmasq is in the way", "network", want.Network, "pid", lost.pid, "error", err)
		if err := m.stop(ctx, want.Network, lost); err != nil {
			return nil, err
		}
		if err := m.launch(ctx, want.Namespace, argv); err != nil {
			return nil, err
		}
	}
	p, err := m.find(want.Network)
	if err == nil && p == nil {
		err = errors.New("dnsmasq ended as soon as it had started: see the system log")
	}
	return p, err
}

func (m *Manager) launch(ctx context.Context, namespace string, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.StartTimeout)
	defer cancel()
	m.writes.Add(1)
	return m.o.Enter(namespace, func() error {
		cmd := exec.CommandContext(ctx, m.o.Program, argv...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		cmd.Dir = "/"
		var errs bytes.Buffer
		cmd.Stderr = &errs
		cmd.WaitDelay = time.Second // the process in the background must not hold us by stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("start %s: %w: %s", m.o.Program, errors.Join(err, ctx.Err()), strings.TrimSpace(errs.String()))
		}
		return nil
	})
}

// stop ends a process, by force after StopTimeout, and waits until it has ended.
func (m *Manager) stop(ctx context.Context, network string, p *process) error {
	p.stopping.Store(true)
	m.mu.Lock()
	delete(m.children, network)
	m.mu.Unlock()
	defer p.close()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		m.writes.Add(1)
		if err := p.signal(sig); err != nil {
			return fmt.Errorf("dnsmasq %d: %w", p.pid, err)
		}
		ended, err := p.endsWithin(ctx, m.o.StopTimeout)
		if ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("dnsmasq %d: does not end, not even by SIGKILL", p.pid)
}

// endsWithin waits for the end of the process, the timeout or the context.
func (p *process) endsWithin(ctx context.Context, timeout time.Duration) (bool, error) {
	if err := p.file.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return false, fmt.Errorf("dnsmasq %d: %w", p.pid, err)
	}
	defer context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })()
	err := p.wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, ctx.Err()
	}
	return err == nil, err
}

// care watches for the end of a process, once.
func (m *Manager) care(network string, p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		p.close()
		return
	default:
	}
	if m.children[network] == p {
		return
	}
	m.children[network] = p
	m.watch.Go(func() { m.watchEnd(network, p) })
}

func (m *Manager) watchEnd(network string, p *process) {
	if err := p.wait(); err != nil || p.stopping.Load() {
		return // closed, or stopped by us
	}
	m.mu.Lock()
	if m.children[network] == p {
		delete(m.children, network)
	}
	m.mu.Unlock()
	p.close()
	select {
	case m.exits <- Exit{Network: network, PID: p.pid}:
	case <-m.closed:
	}
}
