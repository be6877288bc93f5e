// Package ovs is the driver for Open vSwitch's database (ovs-vswitchd.conf.db(5)) on one host: it shows bridges, ports and
// interfaces as immutable snapshots, tells within milliseconds which of them changed, and makes them what the planner
// wants in one transaction. It hides the OVSDB library. It is not about flows (agent/openflow) nor about what a device
// looks like inside a namespace (agent/netns), and it decides nothing: which ports a host should have is the planner's word.
//
// Ownership: a row is weft's if its external_ids carry OwnerKey. Only such rows are changed or deleted. A port that
// somebody else plugged (a VM's) can be given a tag, noted in its own external_ids as TagKey, and loses it again.
package ovs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options says which database to use. Endpoint and Logger are required.
type Options struct {
	// Endpoint is unix:<path>, tcp:<host>:<port> (ovsdb(7), "Connection Methods").
	Endpoint string
	Logger   *slog.Logger
	// DialTimeout bounds one attempt to connect and read the tables; 0 means 10 s.
	DialTimeout time.Duration
	// ProbeInterval is how often an echo is sent, to notice a server that hangs; it must answer within the same time.
	// 0 means 5 s.
	ProbeInterval time.Duration
}

// Client holds a connection to the database and makes a new one whenever it breaks, for ever. All methods may be called
// from several goroutines.
type Client struct {
	opts   Options
	cancel context.CancelFunc
	ended  chan struct{}
	turn   chan struct{} // one token: transactions are planned and committed one after another

	mu       sync.Mutex // guards the rest
	session  *session   // nil while disconnected
	version  uint64     // grows with every change seen
	built    uint64     // the version that snapshot was built from
	builder  builder
	snapshot *Snapshot
	watches  map[*Watch]struct{}
	bump     chan struct{} // closed and replaced when version grows
}

// ErrDisconnected is the error of an operation while there is no connection; it can be tried again later.
var ErrDisconnected = errors.New("not connected to the Open vSwitch database")

// Start begins to connect in the background and returns at once; WaitReady waits for the first full view. End it with Close.
func Start(o Options) (*Client, error) {
	if o.Endpoint == "" || o.Logger == nil {
		return nil, errors.New("ovs.Start: Endpoint and Logger are required")
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 10 * time.Second
	}
	if o.ProbeInterval == 0 {
		o.ProbeInterval = 5 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		opts: o, cancel: cancel, ended: make(chan struct{}), turn: make(chan struct{}, 1),
		snapshot: &Snapshot{}, watches: map[*Watch]struct{}{}, bump: make(chan struct{}),
	}
	go c.run(ctx)
	return c, nil
}

// Close ends the connection and the goroutines. Snapshots stay readable.
func (c *Client) Close() {
	c.cancel()
	<-c.ended
}

// run keeps a session open until the context ends.
func (c *Client) run(ctx context.Context) {
	defer close(c.ended)
	const shortest, longest = 20 * time.Millisecond, time.Second
	pause := shortest
	for ctx.Err() == nil {
		s, err := c.open(ctx)
		if err != nil {
			// Said once per outage: at its first failed attempt.
			c.opts.Logger.Log(ctx, levelOf(pause == shortest && ctx.Err() == nil), "cannot connect to the Open vSwitch database, trying again", "endpoint", c.opts.Endpoint, "error", err)
			wait(ctx, pause)
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		c.install(s)
		c.opts.Logger.Info("connected to the Open vSwitch database", "endpoint", c.opts.Endpoint)
		<-s.ctx.Done()
		c.uninstall()
		s.close()
		if ctx.Err() == nil {
			c.opts.Logger.Warn("lost the Open vSwitch database", "endpoint", c.opts.Endpoint, "cause", context.Cause(s.ctx))
		}
	}
}

func levelOf(first bool) slog.Level {
	if first {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// install makes a session whose tables have been read the current one. Everything counts as changed.
func (c *Client) install(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	c.touch()
	for w := range c.watches {
		w.resync()
	}
}

// uninstall keeps the last view, marked as disconnected.
func (c *Client) uninstall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := *c.current()
	last.Connected = false
	c.session, c.snapshot = nil, &last
	c.touch()
	for w := range c.watches {
		w.signal()
	}
}

// touch notes that a later snapshot differs. The caller holds mu.
func (c *Client) touch() {
	c.version++
	close(c.bump)
	c.bump = make(chan struct{})
}

// changed takes an event of a session: the row of that kind and name changed.
func (c *Client) changed(s *session, k kind, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != c.session {
		return // rows of the first reading, or leftovers of a session that is gone
	}
	c.touch()
	for w := range c.watches {
		w.note(k, name)
	}
}

// current is the up-to-date snapshot. The caller holds mu.
func (c *Client) current() *Snapshot {
	if c.session != nil && c.built != c.version {
		c.snapshot, c.built = c.builder.build(c.session.tables()), c.version
	}
	return c.snapshot
}

// Snapshot is the view at this moment. Before the first connection it is empty and neither Complete nor Connected; while
// disconnected it is the last one seen. It is immutable and shared: do not write to it. Rows of one transaction may appear
// one after another.
func (c *Client) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current()
}

// WaitReady returns the first complete view while connected.
func (c *Client) WaitReady(ctx context.Context) (*Snapshot, error) {
	return c.WaitFor(ctx, func(s *Snapshot) bool { return s.Connected })
}

// WaitFor returns the first snapshot for which the condition holds, driven by events. The condition must be quick.
func (c *Client) WaitFor(ctx context.Context, holds func(*Snapshot) bool) (*Snapshot, error) {
	for {
		c.mu.Lock()
		snapshot, bump := c.current(), c.bump
		c.mu.Unlock()
		if holds(snapshot) {
			return snapshot, nil
		}
		select {
		case <-bump:
		case <-c.ended:
			return nil, fmt.Errorf("waiting for a change in the Open vSwitch database: %w: the client was closed", ErrDisconnected)
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a change in the Open vSwitch database %s (connected: %t): %w", c.opts.Endpoint, snapshot.Connected, context.Cause(ctx))
		}
	}
}
