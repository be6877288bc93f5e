// Package dhcp runs one dnsmasq per network in the network's namespace and holds its files at their wanted content
// (REFERENCE.md R14). What the files say is made by agent/dhcpconf; the namespace by agent/netns. The package decides
// nothing about when a process that died is started again: it reports the death, and the loop calls Ensure.
//
// A dnsmasq outlives the agent that started it. A new Manager adopts it: nothing is restarted, because the agent was.
//
// # Ownership
//
// A process is weft's when the file <state dir>/dhcp/<network>/pid names it and its command line is dnsmasq's with
// exactly that --pid-file (Owned). It is held by a pidfd (pidfd_open(2)) before it is looked at and is signalled
// through it, so that a pid used again by another process is never signalled. Other dnsmasq processes are not touched.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// Defaults of Options.
const (
	DefaultProgram      = "dnsmasq"
	DefaultStartTimeout = 5 * time.Second
	DefaultStopTimeout  = 2 * time.Second
)

// ErrLinkMissing tells that the link dnsmasq is to serve is not in the namespace yet. Call Ensure again when it is.
var ErrLinkMissing = errors.New("link to serve does not exist yet")

// Options is what a Manager needs.
type Options struct {
	// StateDir is weft's state directory. The user that dnsmasq changes to must be able to pass through it (mode 0711).
	StateDir string
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter        func(namespace string, fn func() error) error
	Program      string        // DefaultProgram if empty
	StartTimeout time.Duration // until dnsmasq is ready; DefaultStartTimeout if 0
	StopTimeout  time.Duration // from SIGTERM to SIGKILL, and from there to giving up; DefaultStopTimeout if 0
	Log          *slog.Logger  // nothing is logged if nil
}

// Exit tells that a process this Manager cared for has ended without being asked to.
type Exit struct {
	Network string
	PID     int
}

// Manager cares for the processes. Its methods may be called concurrently for different networks; calls for one network
// must not overlap.
type Manager struct {
	o      Options
	dir    string
	exits  chan Exit
	closed chan struct{}
	once   sync.Once
	watch  sync.WaitGroup
	writes atomic.Uint64

	mu       sync.Mutex
	children map[string]*process // by network: those whose end is watched
}

// New returns a Manager. It creates its directory and starts and stops nothing.
func New(o Options) (*Manager, error) {
	if o.Enter == nil {
		return nil, errors.New("dhcp: Options.Enter is missing")
	}
	if !filepath.IsAbs(o.StateDir) {
		return nil, fmt.Errorf("state directory %q: must be an absolute path", o.StateDir)
	}
	if o.Program == "" {
		o.Program = DefaultProgram
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = DefaultStartTimeout
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = DefaultStopTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		o: o, dir: filepath.Join(o.StateDir, "dhcp"),
		exits: make(chan Exit, 16), closed: make(chan struct{}), children: make(map[string]*process),
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, fmt.Errorf("directory of the DHCP services: %w", err)
	}
	return m, passable(m.dir)
}

// passable checks that dnsmasq, which gives up root, can reach its files.
func passable(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("directory of the DHCP services: %w", err)
		}
		if st.Mode()&0o001 == 0 {
			return fmt.Errorf("directory %s: dnsmasq's user cannot pass through it: chmod o+x", dir)
		}
	}
	return nil
}

// Exits delivers the processes that ended by themselves or by somebody else's hand, started and adopted ones alike.
// Until somebody receives, reports wait; none is lost before Close. The channel is never closed.
func (m *Manager) Exits() <-chan Exit { return m.exits }

// Writes counts the changes made to the host since New: files written or removed, processes started, signalled or
// stopped. A resync with nothing to do adds none.
func (m *Manager) Writes() uint64 { return m.writes.Load() }

// Close stops watching. The processes go on.
func (m *Manager) Close() {
	m.once.Do(func() { close(m.closed) })
	m.mu.Lock()
	for network, p := range m.children {
		p.close()
		delete(m.children, network)
	}
	m.mu.Unlock()
	m.watch.Wait()
}

var (
	uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	fileForm = regexp.MustCompile(`^[a-z][a-z_]{0,31}$`)
)

// Names in a network's directory that are not files of desired.DHCP.
const (
	pidFile = "pid"
	// reloadFile is there from before a file changes until dnsmasq has been told: an agent that is killed in between
	// leaves the debt behind, and the next one pays it.
	reloadFile = "reload"
)

// Dir is a network's directory, whether or not it exists.
func (m *Manager) Dir(network string) string { return filepath.Join(m.dir, network) }

// List names, sorted, the networks that have a directory here: what Delete has something to do for.
func (m *Manager) List() ([]string, error) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil, fmt.Errorf("list DHCP services: %w", err)
	}
	var networks []string
	for _, e := range entries {
		if e.IsDir() && uuidForm.MatchString(e.Name()) {
			networks = append(networks, e.Name())
		}
	}
	return networks, nil
}

// Ensure writes the files, and has exactly one dnsmasq with the wanted command line running in the namespace. A changed
// file is followed by SIGHUP; the process is replaced only if its command line, its namespace or the link it serves is
// another than it was. Idempotent. ErrLinkMissing while the link that --interface names is not in the namespace. The
// error names the network; with it, what was running goes on running if it can.
func (m *Manager) Ensure(ctx context.Context, want desired.DHCP) error {
	if err := check(want); err != nil {
		return err
	}
	if err := m.ensure(ctx, want); err != nil {
		return fmt.Errorf("DHCP of network %s: %w", want.Network, err)
	}
	return nil
}

func (m *Manager) ensure(ctx context.Context, want desired.DHCP) error {
	if err := m.releaseGone(want); err != nil {
		return err
	}
	changed, err := m.writeFiles(want)
	if err != nil {
		return err
	}
	place, err := m.locate(want)
	if err != nil {
		return err
	}
	p, err := m.find(want.Network)
	if err != nil {
		return err
	}
	argv := m.arguments(want)
	if p != nil && p.serves(argv, place) {
		m.care(want.Network, p)
		return errors.Join(m.revive(want.Network, p), m.reload(want.Network, p, changed))
	}
	if p != nil {
		m.o.Log.Info("replacing dnsmasq", "network", want.Network, "pid", p.pid)
		if err := m.stop(ctx, want.Network, p); err != nil {
			return err
		}
	}
	if p, err = m.start(ctx, want, argv, place); err != nil {
		return err
	}
	m.care(want.Network, p)
	return m.settle(want.Network)
}

// revive has a process go on that somebody stopped, and notes its pid anew if the file is not as dnsmasq wrote it.
func (m *Manager) revive(network string, p *process) error {
	if p.stopped() {
		m.o.Log.Warn("dnsmasq was stopped by a signal, it goes on", "network", network, "pid", p.pid)
		m.writes.Add(1)
		if err := p.signal(unix.SIGCONT); err != nil {
			return fmt.Errorf("dnsmasq %d: %w", p.pid, err)
		}
	}
	if m.noted(network, p) {
		return nil
	}
	return m.writeFile(m.Dir(network), pidFile, strconv.Itoa(p.pid)+"\n")
}

// check refuses what could leave the network's directory or be more than one argument or file.
func check(want desired.DHCP) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("DHCP of network %q: "+format, append([]any{want.Network}, args...)...)
	}
	if !uuidForm.MatchString(want.Network) {
		return bad("must be a UUID in lower case")
	}
	if want.Namespace == "" {
		return bad("namespace is missing")
	}
	for name := range want.Files {
		if !fileForm.MatchString(name) || name == pidFile || name == reloadFile {
			return bad("file %q: name must be lower-case letters, and neither %s nor %s", name, pidFile, reloadFile)
		}
	}
	for _, a := range want.Args {
		if !strings.HasPrefix(a, "--") || strings.ContainsAny(a, "\x00\n\r") {
			return bad("argument %q: must be one --option", a)
		}
	}
	for _, need := range []string{"--pid-file={dir}/" + pidFile, "--conf-file="} {
		if !slices.Contains(want.Args, need) {
			return bad("argument %s is missing", need)
		}
	}
	return nil
}

// arguments is the command line after the program's name.
func (m *Manager) arguments(want desired.DHCP) []string {
	argv := make([]string, len(want.Args))
	for i, a := range want.Args {
		argv[i] = strings.ReplaceAll(a, "{dir}", m.Dir(want.Network))
	}
	return argv
}

// Delete stops the network's dnsmasq and removes its directory; that there is neither is success. It takes at most
// twice Options.StopTimeout.
func (m *Manager) Delete(ctx context.Context, network string) error {
	if !uuidForm.MatchString(network) {
		return fmt.Errorf("DHCP of network %q: must be a UUID in lower case", network)
	}
	p, err := m.find(network)
	if err == nil && p == nil {
		p, err = m.search(network)
	}
	if err == nil && p != nil {
		err = m.stop(ctx, network, p)
	}
	if err == nil {
		err = m.removeDir(network)
	}
	if err != nil {
		return fmt.Errorf("DHCP of network %s: delete: %w", network, err)
	}
	return nil
}

func (m *Manager) removeDir(network string) error {
	if _, err := os.Stat(m.Dir(network)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m.writes.Add(1)
	return os.RemoveAll(m.Dir(network))
}
