// Package iptables holds weft's iptables chains in a namespace at their wanted content: the address translation of routers
// (REFERENCE.md R16), and the filters of VMs that are plugged the hybrid way (R13). It knows nothing of routers, floating IPs
// or security groups: which rules there are is the planners' business (agent/desired, IPTables).
//
// # How
//
// What differs is changed by one `iptables-restore --noflush` run, which commits each table atomically: a packet sees
// the chains as they were or as they will be. A chain that is there already is changed by inserting and deleting the
// rules that differ, so that the others keep their counters. Content is compared as the text that iptables-save
// prints, not by a hash kept in a comment: the rules read as an operator knows them, and a chain that somebody emptied
// is noticed.
//
// The driver remembers what it last saw or wrote, so a change costs one process start; Resync reads the rules back.
//
// # Ownership
//
// A chain is weft's when it begins with the driver's prefix: in a namespace that is weft's, Prefix; in another a longer one.
// In a built-in chain only the rules `-A BUILTIN -j <weft's chain>` are weft's. Everything else stays where it is.
package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// Prefix begins the name of every chain of weft's.
const Prefix = "weft-"

// DefaultTimeout bounds one run of an iptables command. The lock wait of legacy iptables is inside it.
const DefaultTimeout = 5 * time.Second

// ErrLocked tells that another program holds the lock of legacy iptables (iptables(8), --wait), which is one for the whole
// host. It is waited for a second; call again.
var ErrLocked = errors.New("another program holds the xtables lock")

// Owned is the ownership predicate: a chain of this name is weft's, by the prefix of its driver.
func Owned(chain, prefix string) bool {
	return len(chain) > len(prefix) && strings.HasPrefix(chain, prefix)
}

// Options is what a Driver needs.
type Options struct {
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter   func(namespace string, fn func() error) error
	IPv6    bool          // ip6tables rather than iptables
	Prefix  string        // of the chains that are the driver's, itself beginning with Prefix; Prefix if ""
	Timeout time.Duration // of one command; DefaultTimeout if 0
	Log     *slog.Logger  // nothing is logged if nil
}

// Driver holds the chains of any number of namespaces. Its methods may be called concurrently for different
// namespaces; calls for one namespace must not overlap.
type Driver struct {
	enter   func(string, func() error) error
	ipv6    bool
	prefix  string
	timeout time.Duration
	log     *slog.Logger
	backend Backend
	// randomFully: see RandomFully.
	randomFully bool
	writes      atomic.Uint64

	mu      sync.Mutex
	seen    map[string]memory // by namespace name
	glances map[string]glance // what Diff last read, by namespace name
}

// memory is what a namespace's rules were after the last run. The inode tells whether the name still stands for the
// namespace that was looked at.
type memory struct {
	inode uint64
	state state
}

// New returns a Driver after asking the installed iptables programs which backend they use. An error if they are
// missing or disagree.
func New(ctx context.Context, o Options) (*Driver, error) {
	if o.Enter == nil {
		return nil, errors.New("iptables: Options.Enter is missing")
	}
	d := &Driver{enter: o.Enter, ipv6: o.IPv6, prefix: cmp.Or(o.Prefix, Prefix), timeout: o.Timeout, log: o.Log, seen: make(map[string]memory), glances: make(map[string]glance)}
	if d.timeout == 0 {
		d.timeout = DefaultTimeout
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var err error
	d.backend, err = d.detect(ctx)
	return d, err
}

// Backend is the iptables backend in use.
func (d *Driver) Backend() Backend { return d.backend }

// RandomFully reports whether SNAT rules may say --random-fully (iptables 1.6.2), without which two flows that start at
// once may be given the same port and one of them dies.
func (d *Driver) RandomFully() bool { return d.randomFully }

// Writes counts the iptables-restore runs since New: a resync with nothing to do adds none.
func (d *Driver) Writes() uint64 { return d.writes.Load() }

// Forget drops what is remembered of a namespace that has been deleted.
func (d *Driver) Forget(namespace string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.seen, namespace)
	delete(d.glances, namespace)
}

// Ensure brings weft's chains and jumps in a namespace to what is wanted, against what the driver remembers of it; the
// first time, and when the change does not fit what is really there, it reads the rules first. Idempotent; all of one
// table's changes are made at once or not at all. The error names the namespace and the rule iptables refused; ErrLocked
// if it has to be tried again.
func (d *Driver) Ensure(ctx context.Context, namespace string, want desired.IPTables) error {
	return d.run(namespace, want, func(goal state) error { return d.ensure(ctx, namespace, goal) })
}

// Resync is Ensure against the rules as they really are, for the periodic comparison. After a change it reads them once
// more: if they still differ, a wanted rule is not in the form iptables prints, which is an error.
func (d *Driver) Resync(ctx context.Context, namespace string, want desired.IPTables) error {
	return d.run(namespace, want, func(goal state) error { return d.resync(ctx, namespace, goal) })
}

// run checks what is wanted and calls change inside the namespace.
func (d *Driver) run(namespace string, want desired.IPTables, change func(state) error) error {
	goal, err := wanted(want)
	if err == nil {
		err = d.enter(namespace, func() error { return change(goal) })
	}
	if err != nil {
		return fmt.Errorf("%s of namespace %s: %w", d.program(), namespace, err)
	}
	return nil
}

func (d *Driver) ensure(ctx context.Context, namespace string, goal state) error {
	inode, err := namespaceInode()
	if err != nil {
		return err
	}
	known, ok := d.recall(namespace, inode)
	if !ok {
		if known, err = d.observe(ctx); err != nil {
			return err
		}
	}
	err = d.apply(ctx, known, goal)
	if err != nil && ok && ctx.Err() == nil {
		d.log.Warn("iptables changed behind weft's back, reading it again", "namespace", namespace, "error", err)
		if known, err = d.observe(ctx); err == nil {
			err = d.apply(ctx, known, goal)
		}
	}
	return d.remember(namespace, memory{inode, goal}, err)
}

func (d *Driver) resync(ctx context.Context, namespace string, goal state) error {
	inode, err := namespaceInode()
	if err != nil {
		return err
	}
	have, err := d.observe(ctx)
	if err != nil {
		return err
	}
	text := delta(have, goal)
	if text == "" {
		return d.remember(namespace, memory{inode, goal}, nil)
	}
	if err := d.restore(ctx, text); err != nil {
		return d.remember(namespace, memory{}, err)
	}
	if have, err = d.observe(ctx); err == nil {
		if rest := delta(have, goal); rest != "" {
			err = fmt.Errorf("not in the form iptables-save prints, would be written for ever: %q", rest)
		}
	}
	return d.remember(namespace, memory{inode, goal}, err)
}

func (d *Driver) apply(ctx context.Context, have, goal state) error {
	text := delta(have, goal)
	if text == "" {
		return nil
	}
	return d.restore(ctx, text)
}

func (d *Driver) recall(namespace string, inode uint64) (state, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.seen[namespace]
	return m.state, ok && m.inode == inode
}

// remember keeps the state reached, or forgets it after an error; it returns that error.
func (d *Driver) remember(namespace string, m memory, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.seen, namespace)
		return err
	}
	d.seen[namespace] = m
	return nil
}

// namespaceInode identifies the calling thread's network namespace.
func namespaceInode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("identity of the namespace: %w", err)
	}
	return st.Ino, nil
}
