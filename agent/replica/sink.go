package replica

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/neighbour"
)

// sink is a namespace that stands by and takes what the node that forwards says.
type sink struct {
	r         *Replicator
	id        string
	namespace string

	mu     sync.Mutex // held while the namespace is written to, for moments
	closed bool
	epoch  int64
	// full: a full set of this epoch has come.
	full bool
	// failed: something could not be taken; everything is to be asked for again.
	failed atomic.Bool
}

// close returns when nothing more is written.
func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// raise drops what comes of epochs before. The epoch goes down only if the store went back: to a backup.
func (s *sink) raise(epoch int64, back bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch > s.epoch || back {
		s.epoch, s.full = epoch, false
	}
}

func (s *sink) synced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full && !s.closed
}

// again reports, once, that everything is to be asked for again.
func (s *sink) again() bool { return s.failed.Swap(false) }

// chunk is how many changes are made while the sink can't be closed.
const chunk = 64

var errStale = errors.New("of an older epoch")

// do calls write with each chunk of the changes, unless the sink is closed or has a newer epoch.
func (s *sink) do(epoch int64, changes []conntrack.Change, write func([]conntrack.Change) error) error {
	for part := range slices.Chunk(changes, chunk) {
		if err := s.part(epoch, part, write); err != nil {
			return err
		}
	}
	return nil
}

func (s *sink) part(epoch int64, part []conntrack.Change, write func([]conntrack.Change) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || epoch < s.epoch {
		return errStale
	}
	if epoch > s.epoch { // the sender has read the store before this node has
		s.epoch, s.full = epoch, false
	}
	return write(part)
}

// apply makes changes in the namespace, and reports whether the kernel refused some.
func (s *sink) apply(epoch int64, changes []conntrack.Change) (refused bool, err error) {
	began := time.Now()
	defer func() { s.r.n.apply.Add(uint64(time.Since(began))) }()
	err = s.r.o.Enter(s.namespace, func() error {
		table, err := conntrack.Open()
		if err != nil {
			return err
		}
		defer table.Close()
		room, err := s.room(table)
		if err != nil {
			return err
		}
		return s.do(epoch, changes, func(part []conntrack.Change) error {
			result, err := s.write(table, part, room)
			room -= result.Made - result.Removed
			refused = refused || result.Refused > 0
			return err
		})
	})
	return refused, err
}

// meet makes neighbours known in the namespace.
func (s *sink) meet(epoch int64, neighbours []neighbour.Entry) error {
	if over := len(neighbours) - maxNeighbours; over > 0 {
		s.r.n.dropped.Add(uint64(over))
		neighbours = neighbours[:maxNeighbours]
	}
	return s.r.o.Enter(s.namespace, func() error {
		return s.part(epoch, nil, func([]conntrack.Change) error {
			result, err := neighbour.Hold(neighbours)
			s.r.n.neighboursPut.Add(uint64(result.Put))
			s.r.n.neighboursRemoved.Add(uint64(result.Removed))
			return err
		})
	})
}

// room is how many entries more the namespace may have.
func (s *sink) room(table *conntrack.Table) (int, error) {
	n, err := table.Count()
	return s.r.o.Entries - n, err
}

// lives is for how many refreshes an entry lives that is not renewed: two may be late.
const lives = 3

// write makes one chunk of changes. An entry lives until it is said to be gone, or for a few full sets: the packets that
// renew it are not seen here.
func (s *sink) write(table *conntrack.Table, part []conntrack.Change, room int) (conntrack.Result, error) {
	least := uint32(lives * s.r.o.Refresh / time.Second)
	for i := range part {
		part[i].Timeout = max(part[i].Timeout, least, 1)
	}
	if room < len(part) {
		part = s.within(part, max(room, 0))
	}
	result, err := table.Apply(part)
	s.r.n.made.Add(uint64(result.Made))
	s.r.n.removed.Add(uint64(result.Removed))
	s.r.n.refused.Add(uint64(result.Refused))
	if result.Reason != nil {
		s.r.o.Log.Debug("a connection could not be taken over", "router", s.id, "reason", result.Reason, "refused", result.Refused)
	}
	return result, err
}

// within leaves out entries for which there is no room. What is there already is left out too, until the next full set.
func (s *sink) within(part []conntrack.Change, room int) []conntrack.Change {
	out := make([]conntrack.Change, 0, len(part))
	for _, c := range part {
		switch {
		case c.Gone:
		case room > 0:
			room--
		default:
			s.r.n.dropped.Add(1)
			continue
		}
		out = append(out, c)
	}
	return out
}

// fullSet is one that is coming in: there is at most one per connection.
type fullSet struct {
	sink  *sink
	epoch int64
	// have are the namespace's entries that the set has not named yet.
	have map[conntrack.Tuple]conntrack.Entry
	// refused: the kernel did not take all of it; what stood in the way may go at the end.
	refused bool
}

// begin lists what the namespace has.
func (s *sink) begin(epoch int64) (*fullSet, error) {
	f := &fullSet{sink: s, epoch: epoch, have: map[conntrack.Tuple]conntrack.Entry{}}
	err := s.part(epoch, nil, func([]conntrack.Change) error { return nil })
	if err != nil {
		return nil, err
	}
	return f, s.r.o.Enter(s.namespace, func() error {
		if err := conntrack.TellAll(); err != nil { // once this node forwards, it has to know when they end
			return err
		}
		table, err := conntrack.Open()
		if err != nil {
			return err
		}
		defer table.Close()
		if n, err := table.Count(); err != nil || n == 0 {
			return err
		}
		return table.Each(func(e *conntrack.Entry) {
			if !e.Own() {
				f.have[e.Original] = *e
			}
		})
	})
}

// take makes a part of the set: what is there as it should be is left alone, what is in its way goes.
func (f *fullSet) take(changes []conntrack.Change) error {
	least := uint32(lives * f.sink.r.o.Refresh / time.Second)
	var out []conntrack.Change
	for _, c := range changes {
		have, ok := f.have[c.Original]
		delete(f.have, c.Original)
		want := max(c.Timeout, least)
		switch {
		case c.Gone, !ok:
		case have.Reply != c.Reply || have.Status&statusBits&^c.Status != 0:
			out = append(out, conntrack.Change{Entry: have, Gone: true})
		case have.Original.Protocol == conntrack.TCP && !have.Liberal: // of a time when this node forwarded
		case have.Status&statusBits == c.Status && have.State == c.State && have.Timeout >= want-want/4 && have.Timeout <= want+want/4:
			continue
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil
	}
	refused, err := f.sink.apply(f.epoch, out)
	f.refused = f.refused || refused
	return err
}

// end removes what the set did not name.
func (f *fullSet) end() error {
	gone := make([]conntrack.Change, 0, len(f.have))
	for _, e := range f.have {
		gone = append(gone, conntrack.Change{Entry: e, Gone: true})
	}
	if len(gone) > 0 {
		if _, err := f.sink.apply(f.epoch, gone); err != nil {
			return err
		}
		if f.refused {
			f.sink.failed.Store(true)
		}
	}
	f.sink.mu.Lock()
	defer f.sink.mu.Unlock()
	if f.epoch == f.sink.epoch {
		f.sink.full = true
	}
	return nil
}

// inbound is a connection from a peer that forwards for routers.
type inbound struct {
	r    *Replicator
	node string
	conn *tls.Conn
	wake chan struct{}
	// asked are the routers that the peer has been asked for; guarded by Replicator.mu.
	asked map[string]bool

	mu  sync.Mutex
	out []byte // frames to be written
	set *fullSet
}

// maxInbound bounds the connections that are being made or are up: more than nodes of a pool.
const maxInbound = 256

func (r *Replicator) accept() {
	slots := make(chan struct{}, maxInbound)
	for {
		raw, err := r.lis.Accept()
		if err != nil {
			if r.ctx.Err() != nil {
				return
			}
			wait(r.ctx, firstRetry) // out of file descriptors, say
			continue
		}
		select {
		case slots <- struct{}{}:
			r.wg.Go(func() {
				defer func() { <-slots }()
				r.serve(raw)
			})
		default:
			r.n.rejected.Add(1)
			raw.Close()
		}
	}
}

// serve takes in one connection until it ends.
func (r *Replicator) serve(raw net.Conn) {
	defer raw.Close()
	stop := contextCloser(r, raw)
	defer stop()
	in := &inbound{r: r, conn: tls.Server(raw, r.o.Trust.Server()), wake: make(chan struct{}, 1), asked: map[string]bool{}}
	frames := newReader(in.conn)
	if err := in.greet(frames); err != nil {
		r.n.rejected.Add(1)
		r.o.Log.Debug("a connection for replication was refused", "from", raw.RemoteAddr(), "error", err)
		return
	}
	r.register(in)
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.write()
	}()
	err := in.read(frames)
	if errors.Is(err, errFrame) {
		r.n.rejected.Add(1)
		r.o.Log.Warn("a peer sent what is not understood", "node", in.node, "error", err)
	}
	r.unregister(in)
	in.close()
	kick(in.wake)
	<-done
}

// contextCloser closes a connection when the replicator ends.
func contextCloser(r *Replicator, raw net.Conn) (stop func()) {
	done := make(chan struct{})
	r.wg.Go(func() {
		select {
		case <-r.ctx.Done():
			raw.Close()
		case <-done:
		}
	})
	return func() { close(done) }
}

func (in *inbound) close() { _ = in.conn.NetConn().Close() }

func (in *inbound) greet(frames *reader) error {
	if err := in.conn.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	f, err := frames.next()
	switch {
	case err != nil:
		return err
	case f.kind != kindHello:
		return fmt.Errorf("%w: kind %d before hello", errFrame, f.kind)
	case f.name == in.r.o.Node:
		return errors.New("it comes from this node")
	}
	if err := in.r.o.Trust.Verify(in.conn.ConnectionState(), f.name); err != nil {
		return fmt.Errorf("it says it is node %s: %w", f.name, err)
	}
	in.node = f.name
	if _, err := in.conn.Write(appendHello(nil, in.r.o.Node, f.name)); err != nil {
		return err
	}
	if f.to != in.r.o.Node { // the answer told it; the peer whose place it would take may be the right one
		return fmt.Errorf("node %s looks for node %s here", f.name, f.to)
	}
	return in.conn.SetDeadline(time.Time{})
}

// register makes the connection the peer's, in place of an older one, and asks for the routers that stand by.
func (r *Replicator) register(in *inbound) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.inbound[in.node]; old != nil {
		old.close()
	}
	r.inbound[in.node] = in
	in.ask(featureNeighbours, true)
	for id, x := range r.routers {
		if _, peer := x.Peers[in.node]; peer && x.Role == Standby {
			in.asked[id] = true
			in.ask(id, true)
		}
	}
}

func (r *Replicator) unregister(in *inbound) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inbound[in.node] == in {
		delete(r.inbound, in.node)
	}
}

// ask has the peer told that a router is wanted, or no longer.
func (in *inbound) ask(id string, want bool) {
	kind := byte(kindUnwant)
	if want {
		kind = kindWant
	}
	in.push(func(b []byte) []byte { return appendWant(b, kind, id) })
}

// maxAnswers bounds what waits to be written to a peer, in bytes: more than wants and answers come to.
const maxAnswers = 16 << 20

func (in *inbound) push(frame func([]byte) []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.out) > maxAnswers {
		in.close() // it reads nothing; the next connection begins anew
		return
	}
	in.out = frame(in.out)
	kick(in.wake)
}

// write writes what was pushed until the connection ends.
func (in *inbound) write() {
	for {
		<-in.wake
		in.mu.Lock()
		out := in.out
		in.out = nil
		in.mu.Unlock()
		if len(out) == 0 {
			if in.ended() {
				return
			}
			continue
		}
		err := in.conn.SetWriteDeadline(time.Now().Add(writeTime))
		if err == nil {
			_, err = in.conn.Write(out)
		}
		if err != nil {
			in.close()
			return
		}
	}
}

// ended reports whether the connection is no longer the peer's.
func (in *inbound) ended() bool {
	in.r.mu.Lock()
	defer in.r.mu.Unlock()
	return in.r.inbound[in.node] != in
}

// read does what the peer says.
func (in *inbound) read(frames *reader) error {
	for {
		if err := in.conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		f, err := frames.next()
		if err != nil {
			return err
		}
		switch f.kind {
		case kindBegin, kindChanges, kindEnd, kindNeighbours:
			in.router(f)
		case kindMark:
			in.push(func(b []byte) []byte { return appendNumber(b, kindAck, f.number) })
		default:
			return fmt.Errorf("%w: kind %d from a sender", errFrame, f.kind)
		}
	}
}

// router does what a frame about a router says. Where that fails, everything is asked for again, later.
func (in *inbound) router(f frame) {
	s := in.r.sinkOf(f.name, in.node)
	if s == nil {
		in.r.n.stale.Add(1)
		return
	}
	if f.kind == kindNeighbours {
		in.meet(s, f)
		return
	}
	if in.set != nil && (in.set.sink != s || in.set.epoch != f.epoch || f.kind == kindBegin) {
		in.set = nil
	}
	var err error
	switch {
	case f.kind == kindBegin:
		in.set, err = s.begin(f.epoch)
	case f.kind == kindEnd && in.set != nil:
		err = in.set.end()
		in.set = nil
	case f.kind == kindEnd:
	case in.set != nil:
		err = in.set.take(f.changes)
	default:
		_, err = s.apply(f.epoch, f.changes)
	}
	switch {
	case errors.Is(err, errStale):
		in.set = nil
		in.r.n.stale.Add(1)
	case err != nil:
		in.set = nil
		s.failed.Store(true)
		in.r.o.Log.Debug("can't take over connections, asking for them again", "router", s.id, "error", err)
	}
}

// meet takes a router's neighbours. Where that fails they come again with the next full set: without them its first packet
// waits for an answer.
func (in *inbound) meet(s *sink, f frame) {
	err := s.meet(f.epoch, f.neighbours)
	switch {
	case errors.Is(err, errStale):
		in.r.n.stale.Add(1)
	case err != nil:
		in.r.o.Log.Debug("can't take over neighbours", "router", s.id, "error", err)
	}
}

// sinkOf is where what a peer says of a router goes; nil when the router does not stand by here, or the peer has no part
// in it.
func (r *Replicator) sinkOf(id, node string) *sink {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.routers[id]
	if x == nil {
		return nil
	}
	if _, peer := x.Peers[node]; !peer {
		return nil
	}
	return x.sink
}
