// Package metadata keeps a node's metadata proxy (agent/metadata/proxy) running and listening where it should, and answers
// its questions. One process serves all routers and networks of the node (docs/adr/0007): the Manager opens listening
// sockets inside their namespaces and hands them over, to a process that outlives the agent as dnsmasq does. What is to be
// served where is the plan's business; who a guest is says Options.Guest.
//
// Nothing of the node's forwarding depends on it: what can't be served is a problem of the node (Problem), retried, and
// never an error of the router or DHCP server that it belongs to.
//
// # Ownership
//
// The proxy is weft's when it is the process that listens on <state dir>/metadata/control, as the kernel says, or its
// command line is weft-metadata's with exactly --ask=<state dir>/metadata/ask (Owned). It is signalled only when both its
// command line and, through a pidfd, its identity have been looked at; Release ends it without a signal.
package metadata

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// ProgramName is the base name of the proxy's program.
const ProgramName = "weft-metadata"

// Options is what a Manager needs.
type Options struct {
	// StateDir is weft's state directory. Everybody must be able to pass through it (mode 0711). It is short: a socket's path
	// has at most 107 bytes (unix(7)).
	StateDir string
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter func(namespace string, fn func() error) error
	// Program is the proxy's program, an absolute path. User is whom it runs as, which is not root.
	Program, User string
	// Rate is how many requests per second one guest may make, Connections how many at once.
	Rate, Connections int
	// Backends are URLs of scheme, host and port; none: the proxy answers itself. BackendCA is the file with the certificates
	// that HTTPS backends are verified by, "" for the system's. BackendTimeout is for one of them to begin its answer.
	Backends       []string
	BackendCA      string
	BackendTimeout time.Duration
	// Secret is the file with what the node shares with the backends; "": nothing vouches for an instance's id.
	Secret string
	// Guest says who has an address at a place: ErrNobody, ErrUnusable, or an error that passes. It is called concurrently.
	Guest func(context.Context, wire.Question) (guest.Guest, error)
	Log   *slog.Logger // nothing is logged if nil
}

var (
	// ErrNobody tells that no guest has an address at a place.
	ErrNobody = errors.New("no instance has this address here")
	// ErrUnusable tells that what is stored for a guest can't be used.
	ErrUnusable = errors.New("what is stored for the instance can't be used")
)

// Manager keeps the proxy. Its methods may be called concurrently. A nil Manager serves nothing.
type Manager struct {
	o      Options
	dir    string
	args   []string
	server *http.Server
	ctx    context.Context //nolint:containedctx // the Manager's life
	cancel context.CancelFunc
	done   sync.WaitGroup
	kick   chan struct{}
	writes atomic.Uint64
	// problem is what is wrong; nil or "" when nothing is.
	problem atomic.Pointer[string]

	mu     sync.Mutex // held while the proxy is directed
	wanted map[wire.Place]desired.Metadata
	have   map[wire.Place]wire.Listener
	client *wire.Client // nil: no proxy is known
}

// period is how often the proxy is looked at, and what could not be served is tried again.
const period = 5 * time.Second

// New returns a Manager that answers questions from now on. It starts and stops no proxy.
func New(o Options) (*Manager, error) {
	m := newManager(o)
	uid, gid, err := ids(o.User)
	if err != nil {
		return nil, err
	}
	m.args = m.arguments(uid, gid)
	socket, err := m.listen(uid)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.AskPath, m.answer)
	m.server = &http.Server{Handler: mux, ReadTimeout: askTime, WriteTimeout: 2 * askTime, ErrorLog: slog.NewLogLogger(m.o.Log.Handler(), slog.LevelWarn)}
	m.done.Go(func() {
		if err := m.server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
			m.o.Log.Error("the metadata proxy gets no answers", "error", err)
		}
	})
	m.done.Go(m.run)
	return m, nil
}

func newManager(o Options) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		o: o, dir: filepath.Join(o.StateDir, "metadata"), kick: make(chan struct{}, 1), server: &http.Server{},
		wanted: map[wire.Place]desired.Metadata{}, have: map[wire.Place]wire.Listener{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Stop ends the proxy of a state directory, if one runs, where no Manager cares for it.
func Stop(stateDir string, log *slog.Logger) error {
	m := newManager(Options{StateDir: stateDir, Log: log})
	defer m.Close()
	m.mu.Lock()
	defer m.mu.Unlock() // before Close
	found, err := m.adopt()
	if err != nil || !found {
		return err
	}
	return m.end()
}

// ids are the numbers of a user and its group.
func ids(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("user of the metadata proxy: %w", err)
	}
	uid, err = strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err = errors.Join(err, err2); err == nil && (uid == 0 || gid == 0) {
		err = fmt.Errorf("%s is root's", name)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("user of the metadata proxy: %w", err)
	}
	return uid, gid, nil
}

func (m *Manager) askPath() string     { return filepath.Join(m.dir, "ask") }
func (m *Manager) controlPath() string { return filepath.Join(m.dir, "control") }

// arguments are the proxy's. They hold no secret: everybody on the host can read them.
func (m *Manager) arguments(uid, gid int) []string {
	out := []string{
		"--ask=" + m.askPath(), "--uid=" + strconv.Itoa(uid), "--gid=" + strconv.Itoa(gid),
		"--rate=" + strconv.Itoa(m.o.Rate), "--connections=" + strconv.Itoa(m.o.Connections),
	}
	if len(m.o.Backends) > 0 {
		out = append(out, "--backend-timeout="+m.o.BackendTimeout.String())
	}
	if m.o.BackendCA != "" {
		out = append(out, "--backend-ca="+m.o.BackendCA)
	}
	for _, b := range m.o.Backends {
		out = append(out, "--backend="+b)
	}
	return out
}

// listen makes the socket for questions.
func (m *Manager) listen(uid int) (net.Listener, error) {
	if err := os.MkdirAll(m.dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.Chmod(m.dir, 0o711); err != nil { // whatever the umask is
		return nil, err
	}
	if err := os.RemoveAll(m.askPath()); err != nil {
		return nil, err
	}
	return wire.ListenForQuestions(m.askPath(), uid)
}

// Close ends the answering of questions and the care for the proxy, which goes on.
func (m *Manager) Close() {
	if m == nil {
		return
	}
	m.cancel()
	_ = m.server.Close() // the agent ends
	m.mu.Lock()
	m.forget()
	m.mu.Unlock()
	m.done.Wait()
}

// Writes counts the changes made to the host since New: processes started or ended, sockets opened or closed. A resync with
// nothing to do adds none.
func (m *Manager) Writes() uint64 {
	if m == nil {
		return 0
	}
	return m.writes.Load()
}

// Problem says what keeps guests from being served, "" when nothing does. It never waits.
func (m *Manager) Problem() string {
	if m == nil || m.problem.Load() == nil {
		return ""
	}
	return *m.problem.Load()
}

// Counts asks the proxy for requests since it began, by the status that was answered; nil when none runs.
func (m *Manager) Counts() wire.Counts {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil {
		return nil
	}
	out, err := m.client.Counts()
	if err != nil {
		m.lose(err)
	}
	return out
}

// Serve has guests at a place served from now on, in the namespace that its name stands for now. Idempotent. What can't be
// done at once is tried again until it is, or Drop; see Problem.
func (m *Manager) Serve(want desired.Metadata) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted[place(want)] = want
	if err := m.settle(want); err != nil {
		m.say(err)
	}
}

func place(want desired.Metadata) wire.Place {
	return wire.Place{Router: want.Router, Network: want.Network}
}

// Served reports whether guests at a place are listened to as wanted.
func (m *Manager) Served(want desired.Metadata) (bool, error) {
	now, err := m.listener(want)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.client != nil && m.have[now.Place] == now, nil
}

// Drop has guests at a place served no more. When it returns without an error, nothing of the proxy's keeps the namespace.
// The proxy ends with its last place.
func (m *Manager) Drop(at wire.Place) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.wanted, at)
	found, err := m.adopt()
	if err != nil || !found {
		return err
	}
	if _, ok := m.have[at]; ok {
		m.writes.Add(1)
		if err := m.client.Shut(at); err != nil {
			m.lose(err)
			return err
		}
		delete(m.have, at)
	}
	if len(m.have)+len(m.wanted) > 0 {
		return nil
	}
	return m.end()
}

// run looks after the proxy.
func (m *Manager) run() {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		case <-m.kick:
		}
		m.revive()
	}
}

// revive has everything served that is wanted and is not.
func (m *Manager) revive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	if m.client != nil {
		if _, err := m.client.Hello(); err != nil {
			m.lose(err)
		}
	}
	var errs []error
	if m.o.Secret != "" && len(m.wanted) > 0 {
		_, err := readSecret(m.o.Secret)
		errs = append(errs, err)
	}
	for at, want := range m.wanted {
		if _, ok := m.have[at]; !ok || m.client == nil {
			errs = append(errs, m.settle(want))
		}
	}
	m.say(errors.Join(errs...))
}

// say notes what is wrong and logs what is new of it.
func (m *Manager) say(err error) {
	text := ""
	if err != nil {
		text = "metadata is not served everywhere: " + err.Error()
	}
	if text != "" && text != m.Problem() {
		m.o.Log.Error("metadata", "problem", text)
	}
	m.problem.Store(&text)
}
