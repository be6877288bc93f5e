// Package netns makes, fills and removes the network namespaces of routers and DHCP services (REFERENCE.md R14, R15).
// It is the only package that creates namespaces or changes links, addresses, routes and sysctls in them. It is not
// where NAT rules (agent/iptables), DHCP servers (agent/dhcp) or OVS ports (agent/ovs) are made: a link is one end of a veth
// pair whose other end, of the same name, is left on the host for OVS.
//
// # Order
//
// A flow that is forwarded before its NAT rules are in is bound un-NATed by conntrack for as long as it lives. The
// caller therefore goes through a namespace in this order, on the first build as on every change:
//
//	Prepare   namespace with forwarding off, sysctls; links that are no longer wanted go down; new links, down
//	nat       the rules; they name addresses that need not exist yet
//	Ensure    links, addresses, routes
//	Forward   the forwarding switch, last
//	Prune     links that are no longer wanted go (ErrLinkRemains: call again when OVS has no port for them)
//
// None of it needs OVS. OVS is to get a port for a link only after Prepare, which makes sure that the device of that name
// on the host is weft's; OVS would take a stranger's. To remove a namespace: stop its processes, delete its ports from
// OVS, then Delete.
//
// # Ownership
//
// A namespace is weft's when it is named qrouter-<uuid> or qdhcp-<uuid> and the state directory holds a mark that
// names this very namespace (Manager.Owned). The name alone proves nothing: a Neutron agent uses the same names. What
// is not owned is never entered, changed or removed.
//
// A link in an owned namespace is weft's by its name (OwnedLink). The end on the host is weft's when its alias is
// "weft:<namespace>", or its peer is a link of weft's. A stranger's link of a wanted name is an error (ErrLinkForeign).
package netns

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
)

// DefaultRunDir is where iproute2 keeps named namespaces (ip-netns(8)).
const DefaultRunDir = "/var/run/netns"

var (
	// ErrForeign tells that a namespace of the wanted name exists and does not carry weft's mark.
	ErrForeign = errors.New("namespace is not weft's")
	// ErrAbsent tells that there is no namespace of that name.
	ErrAbsent = errors.New("namespace does not exist")
	// ErrLinkForeign tells that the host has a link of a wanted name that is a stranger's. The others were made.
	ErrLinkForeign = errors.New("the host has a device of that name that is not weft's")
	// ErrLinkRemains tells that a link can't be removed yet because OVS has a port for it. Call again when it has none.
	ErrLinkRemains = errors.New("OVS still has a port for the link")
)

var (
	namePattern = regexp.MustCompile(`^(qrouter|qdhcp)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	linkPattern = regexp.MustCompile(`^(qr-|qg-|tap)[0-9a-f-]{1,11}$`)
)

// Named reports whether name has the form of a namespace that weft may own: qrouter-<uuid> or qdhcp-<uuid>, lower case.
func Named(name string) bool { return namePattern.MatchString(name) }

// OwnedLink reports whether a link found in an owned namespace is weft's by its name (R9): qr-, qg- or tap and the
// start of a port's UUID. Other links in the namespace are a stranger's and are left alone.
func OwnedLink(name string) bool { return linkPattern.MatchString(name) }

// Options is what a Manager needs.
type Options struct {
	StateDir string       // weft's state directory; marks are the files in StateDir/netns
	RunDir   string       // DefaultRunDir if empty
	Log      *slog.Logger // nothing is logged if nil
	// Held reports whether OVS has a port for the device of that name; no device has one if Held is nil. It is called
	// from several goroutines at once.
	Held func(device string) bool
}

// Manager makes, fills and removes namespaces. Its methods may be called concurrently for different namespaces; calls
// for one namespace must not overlap. It keeps no state but a counter: everything is read from the host each time.
type Manager struct {
	marks  string
	runDir string
	boot   string
	log    *slog.Logger
	held   func(device string) bool
	writes atomic.Uint64
}

// New returns a Manager. It creates the directory of the marks and nothing else.
func New(o Options) (*Manager, error) {
	if !filepath.IsAbs(o.StateDir) {
		return nil, fmt.Errorf("state directory %q: must be an absolute path", o.StateDir)
	}
	m := &Manager{marks: filepath.Join(o.StateDir, "netns"), runDir: o.RunDir, log: o.Log, held: o.Held}
	if m.runDir == "" {
		m.runDir = DefaultRunDir
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.held == nil {
		m.held = func(string) bool { return false }
	}
	if err := os.MkdirAll(m.marks, 0o755); err != nil {
		return nil, fmt.Errorf("directory of the namespace marks: %w", err)
	}
	var err error
	m.boot, err = bootID()
	return m, err
}

// Writes counts the changes made to the host since New, tried or done: a resync with nothing to do adds none.
func (m *Manager) Writes() uint64 { return m.writes.Load() }

// Path is the file that a named namespace is mounted on, whether or not it exists.
func (m *Manager) Path(name string) string { return filepath.Join(m.runDir, name) }

// Owned is the ownership predicate: the namespace exists, has a name of weft's form, and is the one whose identity the
// mark in the state directory holds.
func (m *Manager) Owned(name string) (bool, error) {
	s, err := m.state(name)
	return s == ours, err
}

// List names, sorted, what Delete has something to do for: the owned namespaces, and the marks whose namespace is gone
// (a reboot, or somebody else's deletion). A foreign namespace is not listed, even when a mark of its name exists.
func (m *Manager) List() ([]string, error) {
	entries, err := os.ReadDir(m.marks)
	if err != nil {
		return nil, fmt.Errorf("list namespace marks: %w", err)
	}
	var names []string
	var errs []error
	for _, e := range entries {
		if !Named(e.Name()) {
			continue
		}
		s, err := m.state(e.Name())
		errs = append(errs, err)
		if err == nil && s != foreign {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, errors.Join(errs...)
}

// Report tells what Prepare or Ensure changed.
type Report struct {
	Created  bool       // the namespace is new: it holds nothing yet
	Writes   int        // changes made
	Announce []Announce // addresses of desired.Link.Announce that are new on their link, or new with its MAC
	// Devices tells by name which devices the outer ends of the wanted links are: "<boot>:<interface index>", which no
	// other device of that name has or had (but one of another boot).
	Devices map[string]string
}
