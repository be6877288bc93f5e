// Package replica keeps the connections that a router tracks known on the nodes that stand by for it: the entries of the
// node that forwards are made in the kernels of the others, translations included, as they come, change and go. A router
// that moves goes on with its connections. Its neighbours are made known there too, so that it need not ask for them first. It decides neither who forwards (agent/ha) nor whether a peer is alive
// (agent/gossip), it copies nothing but IPv4 entries of TCP, UDP and ICMP, and it promises no more than what had arrived:
// a connection made in the last moments before a power cut may be missing.
//
// # How
//
// A node dials each peer that stands by for a router it forwards for: one connection per sender and receiver, whatever the
// number of routers, with TLS by which either end proves who it is (agent/peer). The receiver says which
// routers it wants. The sender reads the kernel's events of a router that somebody wants and nobody's else; a receiver
// gets first everything there is, then what changes, and from time to time everything again: that heals what was lost and
// keeps timeouts going that a packet renews without an event.
//
// Neighbours are sent whole, with a full set and, where they have changed, a second after connections have: who is new to a
// router shows by a connection.
//
// A namespace that stands by holds what the forwarding node says and nothing else: what is not in a full set goes.
// Nothing passes such a namespace, so there is nothing of its own to lose. When the node is about to forward, Set closes
// the namespace to what still comes, before it returns. Frames carry the epoch of active/<router>; older ones are dropped.
//
// # Bounds
//
// Queues and rates are bounded (Options). A peer that does not keep up gets everything again when it does; what is over
// the limit of entries is left out, those that end soonest first, and counted (Stats).
package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
)

// Role is what the node is for a router.
type Role int

// The roles.
const (
	None    Role = iota
	Standby      // its namespace is built and nothing passes it
	Active       // it forwards
)

// Assignment is what the node is for a router, and with whom.
type Assignment struct {
	Role Role
	// Namespace is the router's, built, with its NAT rules in.
	Namespace string
	// Epoch is that of active/<router>.
	Epoch int64
	// Peers are the other nodes planned for the router, with the address of each (host:port) or "" when it has none.
	Peers map[string]string
}

func (a *Assignment) equal(b *Assignment) bool {
	if a.Role != b.Role || a.Namespace != b.Namespace || a.Epoch != b.Epoch || len(a.Peers) != len(b.Peers) {
		return false
	}
	for node, address := range a.Peers {
		if have, ok := b.Peers[node]; !ok || have != address {
			return false
		}
	}
	return true
}

// Defaults of Options.
const (
	DefaultEntries = 65536
	DefaultQueue   = 4 << 20
	DefaultRate    = 16 << 20
	DefaultRefresh = time.Minute
)

// maxNeighbours bounds those of one router, both ways: those that were heard of last.
const maxNeighbours = 1024

// Trust is how a node proves who it is, and finds out who is there. Its methods are called concurrently.
type Trust interface {
	// Client is the configuration for a connection that is made now to a node, Server that for those that come.
	Client(node string) *tls.Config
	Server() *tls.Config
	// Verify says whether the other end of a connection may speak for a node. It is asked when one has been made and, of
	// open ones, now and then; its error ends the connection.
	Verify(state tls.ConnectionState, node string) error
}

// Options is what a Replicator needs.
type Options struct {
	// Node is this node's name.
	Node string
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter func(namespace string, fn func() error) error
	// Listen is the address to be reached at, host:port.
	Listen string
	// Trust is how peers know each other: agent/peer.
	Trust Trust
	Log   *slog.Logger // nothing is logged if nil

	Entries int           // at most of one router; DefaultEntries if 0
	Queue   int           // bytes of changes that wait for one peer at most; DefaultQueue if 0
	Rate    int           // bytes per second to one peer; DefaultRate if 0
	Refresh time.Duration // between full sets of a router; DefaultRefresh if 0
}

// Stats are counts since New, and how things are.
type Stats struct {
	Active, Standby int // routers
	Synced          int // of those that stand by, those that have had a full set from the node that forwards
	Sources         int // routers whose events are read
	Links, Inbound  int // connections to peers and from peers, as they are

	Sent, SentBytes   uint64 // changes, bytes
	Made, Removed     uint64 // entries made and removed in namespaces that stand by
	Refused           uint64 // entries that the kernel did not take
	Dropped           uint64 // entries left out by a limit
	FullSets          uint64 // sent
	Lost              uint64 // times that the kernel's events came faster than they were read
	Overflows         uint64 // times that a peer did not keep up
	Stale             uint64 // frames of an older epoch, or of a router that does not stand by here
	Rejected          uint64 // connections without a key, or malformed
	Reconnects        uint64
	NeighboursPut     uint64 // put into namespaces that stand by
	NeighboursRemoved uint64
	ApplyNanoseconds  uint64 // spent in namespaces that stand by
}

type counters struct {
	sent, sentBytes, made, removed, refused, dropped, fullSets, lost, overflows, stale, rejected, reconnects, apply atomic.Uint64

	neighboursPut, neighboursRemoved atomic.Uint64
}

var (
	// ErrBehind tells that a peer has not got everything yet.
	ErrBehind = errors.New("the peer does not have all connections")
	errClosed = errors.New("replicator is closed")
)

// Replicator replicates. Its methods may be called concurrently; Set of one router is called by one goroutine at a time.
type Replicator struct {
	o      Options
	ctx    context.Context //nolint:containedctx // the replicator's life
	cancel context.CancelFunc
	wg     sync.WaitGroup
	lis    net.Listener
	n      counters
	// buffers for events: a source takes one when there is something to read.
	buffers sync.Pool

	mu      sync.Mutex
	closed  bool
	routers map[string]*router
	links   map[string]*link    // by node
	inbound map[string]*inbound // by node, the newest
}

// router is one that the node has a role for. What is in it is guarded by Replicator.mu.
type router struct {
	id string
	Assignment
	source *source // Active and wanted
	sink   *sink   // Standby
}

// New listens and starts. Close ends it.
func New(o Options) (*Replicator, error) {
	if o.Node == "" || o.Enter == nil || o.Trust == nil {
		return nil, errors.New("replica: Options.Node, Enter and Trust are required")
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&o.Entries, DefaultEntries}, {&o.Queue, DefaultQueue}, {&o.Rate, DefaultRate}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.Refresh == 0 {
		o.Refresh = DefaultRefresh
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	lis, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("replication of connections: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Replicator{
		o: o, ctx: ctx, cancel: cancel, lis: lis,
		routers: map[string]*router{}, links: map[string]*link{}, inbound: map[string]*inbound{},
	}
	r.buffers.New = func() any { return new(conntrack.Buffer) }
	r.wg.Go(r.accept)
	r.wg.Go(r.mind)
	return r, nil
}

// Addr is where it listens.
func (r *Replicator) Addr() net.Addr { return r.lis.Addr() }

// Close ends everything and waits for it. What is in the kernels stays: the next replicator adopts it. It may be called
// again.
func (r *Replicator) Close() {
	r.mu.Lock()
	already := r.closed
	r.closed = true
	ids := make([]string, 0, len(r.routers))
	for id := range r.routers {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	if !already {
		r.cancel()
		_ = r.lis.Close() // nothing is pending on it
		for _, id := range ids {
			r.set(id, Assignment{})
		}
		r.mu.Lock()
		for _, in := range r.inbound {
			in.close()
		}
		r.mu.Unlock()
	}
	r.wg.Wait()
}

// Set says what the node is for a router from now on. It does not wait for peers. When it returns
//
//   - for Active: nothing that comes for the router from a peer is done any more;
//   - for None: no socket of the replicator's keeps the namespace alive. Call it before the namespace is deleted.
//
// Setting what is set already does nothing.
func (r *Replicator) Set(id string, a Assignment) {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if !closed && len(id) > 0 && len(id) < 256 {
		r.set(id, a)
	}
}

func (r *Replicator) set(id string, a Assignment) {
	r.mu.Lock()
	old := r.routers[id]
	if old != nil && old.equal(&a) {
		r.mu.Unlock()
		return
	}
	delete(r.routers, id)
	now := &router{id: id, Assignment: a}
	var ended []func()
	if old != nil {
		ended = old.end(now)
	}
	if a.Role != None {
		r.routers[id] = now
	}
	if a.Role == Standby && now.sink == nil {
		now.sink = &sink{r: r, id: id, namespace: a.Namespace}
	}
	if now.sink != nil {
		now.sink.raise(a.Epoch, old != nil && old.Epoch > a.Epoch)
	}
	r.subscribe(now)
	r.relink()
	inbound := r.inboundOf(now)
	r.mu.Unlock()
	for _, end := range ended {
		end()
	}
	for in, want := range inbound {
		in.ask(id, want)
	}
}

// end returns what is to be done, without the lock, to end what the router had and now has not; what may go on is handed
// over. Called with the lock.
func (old *router) end(now *router) []func() {
	var ended []func()
	switch {
	case old.source == nil:
	case now.Role == Active && now.Namespace == old.Namespace && now.Epoch == old.Epoch:
		now.source = old.source
	default:
		ended = append(ended, old.source.close)
	}
	switch {
	case old.sink == nil:
	case now.Role == Standby && now.Namespace == old.Namespace:
		now.sink = old.sink
	default:
		ended = append(ended, old.sink.close)
	}
	return ended
}

// inboundOf are the connections from the router's peers: those of a router that stands by are asked for it, the others
// are asked no more. Called with the lock.
func (r *Replicator) inboundOf(now *router) map[*inbound]bool {
	out := map[*inbound]bool{}
	for node, in := range r.inbound {
		_, peer := now.Peers[node]
		want := now.Role == Standby && peer
		if want || in.asked[now.id] {
			out[in] = want
		}
		if want {
			in.asked[now.id] = true
		} else {
			delete(in.asked, now.id)
		}
	}
	return out
}

// subscribe has the router's events read if the node forwards for it and somebody wants them. Called with the lock.
func (r *Replicator) subscribe(now *router) {
	if now.Role != Active {
		return
	}
	var links []*link
	for node := range now.Peers {
		if l := r.links[node]; l != nil && l.wanted(now.id) {
			links = append(links, l)
		}
	}
	switch {
	case len(links) == 0 && now.source != nil:
		old := now.source
		now.source = nil
		old.halt()
		r.wg.Go(old.close)
	case len(links) > 0 && now.source == nil:
		now.source = newSource(r, now)
		now.source.links(links)
		s := now.source
		r.wg.Go(s.run)
	case len(links) > 0:
		now.source.links(links)
	}
}

// relink dials the peers of the routers that the node forwards for, and has the connections to others end. Called with the
// lock.
func (r *Replicator) relink() {
	wanted := map[string]string{}
	for _, x := range r.routers {
		for node, address := range x.Peers {
			if x.Role == Active && address != "" {
				wanted[node] = address
			}
		}
	}
	for node, l := range r.links {
		if wanted[node] != l.address {
			delete(r.links, node)
			l.stop()
		}
	}
	for node, address := range wanted {
		if r.links[node] == nil && !r.closed {
			l := newLink(r, node, address)
			r.links[node] = l
			r.wg.Go(l.run)
		}
	}
}

// unlinked ends the sources that nobody wants any more. Called when a connection has ended.
func (r *Replicator) unlinked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.routers {
		if x.source != nil {
			r.subscribe(x)
		}
	}
}

// wantedBy notes that a peer wants a router, or no longer does. Called by its link.
func (r *Replicator) wantedBy(l *link, id string, want bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.routers[id]
	if r.closed || x == nil || x.Role != Active {
		return
	}
	before := x.source
	r.subscribe(x)
	if _, peer := x.Peers[l.node]; want && peer && before != nil && x.source == before {
		before.greet(l)
	}
}

// Reopen has a router's namespace looked at anew: it has been made again under its name.
func (r *Replicator) Reopen(id string) {
	r.mu.Lock()
	x := r.routers[id]
	var source *source
	var in map[*inbound]bool
	if x != nil {
		source, x.source = x.source, nil
		if !r.closed {
			r.subscribe(x)
			in = r.inboundOf(x)
		}
	}
	r.mu.Unlock()
	if source != nil {
		source.close()
	}
	for in, want := range in {
		in.ask(id, want)
	}
}

// Synced reports whether a router that stands by here has all connections of the node that forwards.
func (r *Replicator) Synced(id string) bool {
	r.mu.Lock()
	x := r.routers[id]
	r.mu.Unlock()
	return x != nil && x.sink != nil && x.sink.synced()
}

// Flush waits until the given peers, or all of the router's if none is given, have in their kernels every connection that
// this node's kernel had when Flush was called. ErrBehind when one has not by the end of the context, or is not
// connected at all; then it says which. Call it before and, briefly, after the router goes silent for a hand-over.
func (r *Replicator) Flush(ctx context.Context, id string, nodes ...string) error {
	r.mu.Lock()
	x := r.routers[id]
	if x == nil || x.Role != Active {
		r.mu.Unlock()
		return fmt.Errorf("router %s: this node does not forward for it", id)
	}
	source := x.source
	var links []*link
	var missing []string
	for node := range x.Peers {
		if len(nodes) > 0 && !slices.Contains(nodes, node) {
			continue
		}
		if l := r.links[node]; l != nil && l.wanted(id) {
			links = append(links, l)
		} else {
			missing = append(missing, node)
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, node := range missing {
		errs = append(errs, fmt.Errorf("router %s: node %s is not connected: %w", id, node, ErrBehind))
	}
	if len(links) == 0 || source == nil {
		return errors.Join(errs...)
	}
	if err := source.drain(ctx); err != nil {
		return fmt.Errorf("router %s: %w: %w", id, ErrBehind, err)
	}
	for _, l := range links {
		if err := l.flush(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("router %s: node %s: %w: %w", id, l.node, ErrBehind, err))
		}
	}
	return errors.Join(errs...)
}

// Stats returns the counts.
func (r *Replicator) Stats() Stats {
	s := Stats{
		Sent: r.n.sent.Load(), SentBytes: r.n.sentBytes.Load(), Made: r.n.made.Load(), Removed: r.n.removed.Load(),
		Refused: r.n.refused.Load(), Dropped: r.n.dropped.Load(), FullSets: r.n.fullSets.Load(), Lost: r.n.lost.Load(),
		Overflows: r.n.overflows.Load(), Stale: r.n.stale.Load(), Rejected: r.n.rejected.Load(),
		Reconnects: r.n.reconnects.Load(), ApplyNanoseconds: r.n.apply.Load(),
		NeighboursPut: r.n.neighboursPut.Load(), NeighboursRemoved: r.n.neighboursRemoved.Load(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.routers {
		switch {
		case x.Role == Active:
			s.Active++
			if x.source != nil {
				s.Sources++
			}
		case x.sink != nil:
			s.Standby++
			if x.sink.synced() {
				s.Synced++
			}
		}
	}
	s.Inbound = len(r.inbound)
	for _, l := range r.links {
		if l.up() {
			s.Links++
		}
	}
	return s
}

// mindEvery is how often what went wrong is tried again.
const mindEvery = 2 * time.Second

// mind asks again for what could not be taken, and ends the connections of keys that are no longer valid.
func (r *Replicator) mind() {
	tick := time.NewTicker(mindEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		asks := map[*inbound][]string{}
		for _, x := range r.routers {
			if x.sink == nil || !x.sink.again() {
				continue
			}
			for in := range r.inboundOf(x) {
				asks[in] = append(asks[in], x.id)
			}
		}
		for _, in := range r.inbound {
			if r.o.Trust.Verify(in.conn.ConnectionState(), in.node) != nil {
				in.close()
			}
		}
		for _, l := range r.links {
			l.verify()
		}
		r.mu.Unlock()
		for in, ids := range asks {
			for _, id := range ids {
				in.ask(id, true)
			}
		}
	}
}
