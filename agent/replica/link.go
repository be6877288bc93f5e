package replica

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
)

// Times of a connection.
const (
	dialTime     = 3 * time.Second
	firstRedial  = 100 * time.Millisecond
	lastRedial   = 2 * time.Second
	writeTime    = 5 * time.Second       // for one frame; a peer that takes none for so long is gone
	silence      = 6 * time.Second       // without an answer to a mark
	markEvery    = 2 * time.Second       // marks on an idle connection, and full sets that are due
	gatherChange = 5 * time.Millisecond  // changes of so long go together: entering a namespace costs more than an entry
	syncPause    = 20 * time.Millisecond // between looks whether a full set has gone
)

// lookAfter is how long after a router's connections have changed its neighbours are looked at, which may be new then.
const lookAfter = time.Second

// overflowPause is how long after a peer did not keep up it gets everything.
const overflowPause = 2 * time.Second

// maxWants bounds what a peer may want.
const maxWants = 1 << 16

// link is the connection to one peer that stands by for routers of this node's. One goroutine dials and writes, one
// reads what the peer wants.
type link struct {
	r       *Replicator
	node    string
	address string
	ctx     context.Context //nolint:containedctx // the link's life
	stop    context.CancelFunc
	wake    chan struct{} // something to write
	hurry   chan struct{} // and at once

	mu   sync.Mutex
	conn *tls.Conn // nil while there is none
	// wants are the routers that the peer wants; the rest is about them.
	wants   map[string]bool
	pending map[string]*pending
	order   []string // of pending
	bytes   int      // of pending
	syncs   map[string]*due
	// looks are at neighbours; told are those that the peer has.
	looks map[string]*due
	told  map[string][]byte
	// marks: the last one asked for, sent and answered, and when one was last sent or answered.
	asked, sent, answered uint64
	last                  time.Time
	changed               chan struct{} // closed when answered or syncs change
	// debt is what was written and the rate has not yet allowed.
	debt time.Duration
	paid time.Time
}

// pending are changes of a router that wait to be written.
type pending struct {
	source  *source
	changes []byte
}

// due is a full set that is to be sent, or sent again.
type due struct {
	source *source
	at     time.Time
	// owed: the peer lacks something until it is sent, and no changes before it matter.
	owed bool
}

func newLink(r *Replicator, node, address string) *link {
	ctx, stop := context.WithCancel(r.ctx)
	l := &link{
		r: r, node: node, address: address, ctx: ctx, stop: stop,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
	}
	l.reset(nil)
	return l
}

// reset begins a connection, or the time without one.
func (l *link) reset(conn *tls.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.last = conn, time.Now()
	l.wants, l.pending, l.syncs, l.order, l.bytes = map[string]bool{}, map[string]*pending{}, map[string]*due{}, nil, 0
	l.looks, l.told = map[string]*due{}, map[string][]byte{}
	l.answered, l.sent = l.asked, l.asked
	l.announce()
}

// announce wakes those who wait for answers. Called with the lock.
func (l *link) announce() {
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

// drop ends the present connection.
func (l *link) drop() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		_ = conn.NetConn().Close() // a TLS goodbye would wait for a peer that may be gone
	}
}

func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

// verify ends a connection whose key is no longer valid.
func (l *link) verify() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil && l.r.o.Trust.Verify(conn.ConnectionState(), l.node) != nil {
		l.drop()
	}
}

func (l *link) wanted(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wants[id]
}

// enqueue appends changes of a router. When the queue is full, the router's are dropped and everything is sent later.
func (l *link) enqueue(s *source, changes []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wants[s.id] && l.looks[s.id] == nil {
		l.look(s, time.Now().Add(lookAfter))
	}
	if d := l.syncs[s.id]; !l.wants[s.id] || d != nil && d.owed {
		return // a full set is to come, and holds them
	}
	if l.bytes+len(changes) > l.r.o.Queue {
		l.r.n.overflows.Add(1)
		l.owe(s, time.Now().Add(overflowPause))
		return
	}
	p := l.pending[s.id]
	if p == nil || p.source != s {
		l.unqueue(s.id)
		p = &pending{source: s}
		l.pending[s.id] = p
		l.order = append(l.order, s.id)
	}
	p.changes = append(p.changes, changes...)
	l.bytes += len(changes)
	kick(l.wake)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// unqueue drops a router's changes. Called with the lock.
func (l *link) unqueue(id string) {
	if p := l.pending[id]; p != nil {
		l.bytes -= len(p.changes)
		delete(l.pending, id)
		l.order = slices.DeleteFunc(l.order, func(have string) bool { return have == id })
	}
}

// owe plans a full set that the peer lacks. Called with the lock.
func (l *link) owe(s *source, at time.Time) {
	l.unqueue(s.id)
	if d := l.syncs[s.id]; d != nil && d.owed && d.source == s && d.at.Before(at) {
		return
	}
	l.syncs[s.id] = &due{source: s, at: at, owed: true}
	l.announce()
	kick(l.wake)
}

// sync plans a full set of a router, after a while, if the peer wants it.
func (l *link) sync(s *source, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wants[s.id] {
		l.owe(s, time.Now().Add(after))
	}
}

// forget drops what is there of a source that has ended.
func (l *link) forget(s *source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.pending[s.id]; p != nil && p.source == s {
		l.unqueue(s.id)
	}
	if d := l.looks[s.id]; d != nil && d.source == s {
		delete(l.looks, s.id)
	}
	delete(l.told, s.id)
	if d := l.syncs[s.id]; d != nil && d.source == s {
		delete(l.syncs, s.id)
		l.announce()
	}
}

// flush returns when the peer has done everything of a router that is queued now.
func (l *link) flush(ctx context.Context, id string) error {
	for {
		l.mu.Lock()
		changed, d, wants := l.changed, l.syncs[id], l.wants[id]
		if d == nil || !d.owed {
			break
		}
		l.mu.Unlock()
		if !wants {
			return errors.New("connection lost")
		}
		if err := await(ctx, changed); err != nil {
			return err
		}
	}
	conn := l.conn
	l.asked++
	number := l.asked
	l.mu.Unlock()
	kick(l.wake)
	kick(l.hurry)
	for {
		l.mu.Lock()
		changed, answered, same := l.changed, l.answered, l.conn == conn && conn != nil
		l.mu.Unlock()
		switch {
		case !same:
			return errors.New("connection lost")
		case answered >= number:
			return nil
		}
		if err := await(ctx, changed); err != nil {
			return err
		}
	}
}

func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run keeps a connection up.
func (l *link) run() {
	pause := firstRedial
	for l.ctx.Err() == nil {
		began := time.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastRedial {
			pause = firstRedial
		}
		if pause == firstRedial {
			l.r.o.Log.Warn("no replication of connections to a peer, trying again", "node", l.node, "address", l.address, "error", err)
		}
		l.r.n.reconnects.Add(1)
		wait(l.ctx, pause)
		pause = min(2*pause, lastRedial)
	}
}

// session dials, says hello, and writes until the connection ends.
func (l *link) session() error {
	dialer := net.Dialer{Timeout: dialTime, KeepAlive: markEvery}
	raw, err := dialer.DialContext(l.ctx, "tcp", l.address)
	if err != nil {
		return err
	}
	defer raw.Close()
	defer context.AfterFunc(l.ctx, func() { raw.Close() })() // whatever it waits for then
	conn := tls.Client(raw, l.r.o.Trust.Client(l.node))
	in := newReader(conn)
	if err := l.greet(conn, in); err != nil {
		return err
	}
	l.reset(conn)
	l.r.o.Log.Info("replicating connections to a peer", "node", l.node, "address", l.address)
	ctx, ended := context.WithCancelCause(l.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended(l.read(in))
	}()
	err = l.write(ctx, conn)
	raw.Close()
	<-done
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	l.reset(nil)
	l.r.unlinked()
	return err
}

func (l *link) greet(conn *tls.Conn, in *reader) error {
	if err := conn.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	if _, err := conn.Write(appendHello(nil, l.r.o.Node, l.node)); err != nil {
		return err
	}
	f, err := in.next()
	switch {
	case err != nil:
		return err
	case f.kind != kindHello || f.name != l.node:
		return fmt.Errorf("answered by %q, not by node %s: is its peer_address right?", f.name, l.node)
	}
	if err := l.r.o.Trust.Verify(conn.ConnectionState(), l.node); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// read takes in what the peer wants and answers.
func (l *link) read(in *reader) error {
	for {
		f, err := in.next()
		if err != nil {
			return err
		}
		switch f.kind {
		case kindWant, kindUnwant:
			if err := l.want(f.name, f.kind == kindWant); err != nil {
				return err
			}
		case kindAck:
			l.mu.Lock()
			if f.number > l.answered && f.number <= l.sent {
				l.answered, l.last = f.number, time.Now()
				l.announce()
			}
			l.mu.Unlock()
		default:
			return fmt.Errorf("%w: kind %d from a receiver", errFrame, f.kind)
		}
	}
}

func (l *link) want(id string, want bool) error {
	l.mu.Lock()
	switch {
	case want && len(l.wants) >= maxWants:
		l.mu.Unlock()
		return fmt.Errorf("the peer wants more than %d routers", maxWants)
	case want:
		l.wants[id] = true
	default:
		delete(l.wants, id)
		delete(l.looks, id)
		delete(l.told, id)
		l.unqueue(id)
		delete(l.syncs, id)
		l.announce()
	}
	l.mu.Unlock()
	l.r.wantedBy(l, id, want)
	return nil
}

// write writes what there is to write until the context, which is the reader's, ends.
func (l *link) write(ctx context.Context, conn *tls.Conn) error {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := l.beat(); err != nil {
				return err
			}
		case <-l.wake:
			l.gather()
		case <-time.After(l.nextSync()):
		}
		for more := true; more; {
			buf, more = l.take(buf[:0])
			if err := l.send(conn, buf); err != nil {
				return err
			}
			sent, err := l.sendFull(conn)
			if err == nil {
				err = l.sendNeighbours(conn)
			}
			if err != nil {
				return err
			}
			more = more || sent
		}
	}
}

// gather lets changes come together, unless somebody waits.
func (l *link) gather() {
	t := time.NewTimer(gatherChange)
	defer t.Stop()
	select {
	case <-l.hurry:
	case <-t.C:
	case <-l.ctx.Done():
	}
}

// nextSync is the time until a full set is due.
func (l *link) nextSync() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := time.Hour
	for _, dues := range []map[string]*due{l.syncs, l.looks} {
		for _, d := range dues {
			next = min(next, time.Until(d.at))
		}
	}
	return max(next, syncPause)
}

// beat asks for a sign of life; an error when the last one has not come.
func (l *link) beat() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.answered == l.asked:
		l.asked++
		l.last = time.Now()
	case time.Since(l.last) > silence:
		return fmt.Errorf("no answer for %v", silence)
	}
	return nil
}

// take moves changes and a mark that was asked for into frames.
func (l *link) take(b []byte) (frames []byte, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.order) > 0 && len(b) < maxFrame {
		id := l.order[0]
		p := l.pending[id]
		n := wholeChanges(p.changes[:min(len(p.changes), maxChanges)])
		b = appendRouter(b, kindChanges, id, p.source.epoch, p.changes[:n])
		p.changes = p.changes[n:]
		l.bytes -= n
		if len(p.changes) == 0 {
			delete(l.pending, id)
			l.order = l.order[1:]
		}
	}
	if len(l.order) > 0 {
		return b, true
	}
	if l.sent < l.asked {
		l.sent = l.asked
		b = appendNumber(b, kindMark, l.sent)
	}
	return b, false
}

// wholeChanges is how many bytes at the beginning are whole changes.
func wholeChanges(b []byte) int {
	n := 0
	for n < len(b) {
		size := goneSize
		if b[n] == whatPut {
			size = putSize
		}
		if n+size > len(b) {
			break
		}
		n += size
	}
	return n
}

func (l *link) send(conn *tls.Conn, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	n, err := conn.Write(b)
	l.r.n.sentBytes.Add(uint64(n))
	l.pace(n)
	return err
}

// burst is for how long the rate may be passed.
const burst = 100 * time.Millisecond

// pace waits when more was written than the rate allows.
func (l *link) pace(n int) {
	now := time.Now()
	l.debt = max(0, l.debt-now.Sub(l.paid)) + time.Duration(n)*time.Second/time.Duration(l.r.o.Rate)
	l.paid = now
	if l.debt > burst {
		wait(l.ctx, l.debt)
	}
}

// sendFull sends one full set that is due, if there is one.
func (l *link) sendFull(conn *tls.Conn) (bool, error) {
	d := l.takeDue()
	if d == nil {
		return false, nil
	}
	s := d.source
	entries, same, err := s.dump(l.r.o.Entries)
	switch {
	case s.ctx.Err() != nil:
		return true, nil
	case err != nil:
		l.r.o.Log.Warn("can't list the connections of a router, trying again", "router", s.id, "error", err)
		l.sync(s, lastRetry)
		return true, nil
	case !same:
		l.r.wg.Go(func() { l.r.Reopen(s.id) })
		return true, nil
	}
	l.r.n.fullSets.Add(1)
	b := appendRouter(nil, kindBegin, s.id, s.epoch, nil)
	var changes []byte
	for i := range entries {
		changes = appendPut(changes, &entries[i])
		if last := i == len(entries)-1; last || len(changes) > maxChanges-putSize {
			b = appendRouter(b, kindChanges, s.id, s.epoch, changes)
			if err := l.send(conn, b); err != nil {
				return true, err
			}
			b, changes = b[:0], changes[:0]
		}
	}
	l.r.n.sent.Add(uint64(len(entries)))
	if err := l.send(conn, appendRouter(b, kindEnd, s.id, s.epoch, nil)); err != nil {
		return true, err
	}
	l.mu.Lock()
	l.announce()
	l.mu.Unlock()
	return true, nil
}

// takeDue picks a full set that is due and plans the next one of that router. What was queued of it is older.
func (l *link) takeDue() *due {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for id, d := range l.syncs {
		if d.at.After(now) {
			continue
		}
		l.unqueue(id)
		l.syncs[id] = &due{source: d.source, at: now.Add(l.r.o.Refresh)}
		delete(l.told, id)
		l.look(d.source, now)
		return d
	}
	return nil
}

// look plans a look at a router's neighbours, if the peer takes them. Called with the lock.
func (l *link) look(s *source, at time.Time) {
	if l.wants[featureNeighbours] {
		l.looks[s.id] = &due{source: s, at: at}
		kick(l.wake)
	}
}

// sendNeighbours sends those of the routers that are to be looked at now.
func (l *link) sendNeighbours(conn *tls.Conn) error {
	for _, s := range l.takeLooks() {
		neighbours, err := s.neighbours()
		if err != nil {
			l.r.o.Log.Debug("can't list the neighbours of a router", "router", s.id, "error", err)
			continue // they come with the next full set
		}
		if !l.tell(s, neighbours) {
			continue
		}
		if err := l.send(conn, appendRouter(nil, kindNeighbours, s.id, s.epoch, neighbours)); err != nil {
			return err
		}
	}
	return nil
}

// takeLooks picks the routers whose neighbours are to be looked at now.
func (l *link) takeLooks() []*source {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*source
	for id, d := range l.looks {
		if !d.at.After(time.Now()) {
			delete(l.looks, id)
			out = append(out, d.source)
		}
	}
	return out
}

// tell notes what the peer is told of a router's neighbours, and reports whether it has to be.
func (l *link) tell(s *source, neighbours []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had, told := l.told[s.id]
	if !l.wants[s.id] || told && bytes.Equal(had, neighbours) {
		return false
	}
	l.told[s.id] = neighbours
	return true
}

// longest are the entries that last longest.
func longest(entries []conntrack.Entry, n int) []conntrack.Entry {
	slices.SortFunc(entries, func(a, b conntrack.Entry) int { return cmp.Compare(b.Timeout, a.Timeout) })
	return entries[:n]
}
