package replica

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-sdn/weft/agent/conntrack"
	"github.com/weft-sdn/weft/agent/neighbour"
)

// source reads the events of a router that the node forwards for, in one goroutine with one socket.
type source struct {
	r     *Replicator
	id    string
	space string
	epoch int64
	stop  context.CancelFunc
	ctx   context.Context //nolint:containedctx // the source's life
	done  chan struct{}
	// to are the links that want the events.
	to atomic.Pointer[[]*link]
	// out are the changes of one read.
	out []byte
	// lostAt is when events were last lost, pause how long everything waits then to be read anew.
	lostAt time.Time
	pause  time.Duration

	mu     sync.Mutex
	events *conntrack.Events // nil until open
	where  string            // the namespace that the events are of
	drains []chan struct{}   // to be closed when everything there is has been handed on
}

func newSource(r *Replicator, x *router) *source {
	ctx, stop := context.WithCancel(r.ctx)
	return &source{r: r, id: x.id, space: x.Namespace, epoch: x.Epoch, ctx: ctx, stop: stop, done: make(chan struct{})}
}

// halt closes the source's socket.
func (s *source) halt() {
	s.stop()
	s.mu.Lock()
	events := s.events
	s.mu.Unlock()
	if events != nil {
		events.Close()
	}
}

// close ends the source and returns when that is done.
func (s *source) close() {
	s.halt()
	<-s.done
	for _, l := range *s.to.Load() {
		l.forget(s)
	}
}

// links says who wants the events; who is new gets everything first, once the source is open.
func (s *source) links(now []*link) {
	old := s.to.Swap(&now)
	if old == nil {
		return
	}
	for _, l := range now {
		known := false
		for _, have := range *old {
			known = known || have == l
		}
		if !known {
			s.greet(l)
		}
	}
}

// greet sends everything to a link, if the source is open; else it will be when it is.
func (s *source) greet(l *link) {
	s.mu.Lock()
	open := s.events != nil
	s.mu.Unlock()
	if open {
		l.sync(s, 0)
	}
}

// Pauses before a namespace that could not be entered is tried again.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

func (s *source) run() {
	defer close(s.done)
	for pause := firstRetry; s.ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		if err := s.open(); err != nil {
			s.r.o.Log.Warn("can't read the connections of a router, trying again", "router", s.id, "error", err)
			wait(s.ctx, pause)
			continue
		}
		s.resync(0)
		if err := s.read(); s.ctx.Err() == nil {
			s.r.o.Log.Warn("reading the connections of a router ended, beginning anew", "router", s.id, "error", err)
			wait(s.ctx, pause)
		}
		s.shut()
	}
}

// wait waits for a time, or less when the context ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (s *source) open() error {
	var events *conntrack.Events
	var where string
	err := s.r.o.Enter(s.space, func() (err error) {
		if where, err = conntrack.Here(); err != nil {
			return err
		}
		if err = conntrack.TellAll(); err != nil {
			return err
		}
		events, err = conntrack.Listen()
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.events, s.where = events, where
	s.mu.Unlock()
	if s.ctx.Err() != nil { // close did not see it
		events.Close()
	}
	return nil
}

func (s *source) shut() {
	s.mu.Lock()
	events, drains := s.events, s.drains
	s.events, s.drains = nil, nil
	s.mu.Unlock()
	events.Close()
	for _, d := range drains {
		close(d)
	}
}

// resync sends everything to all who want it, after a while.
func (s *source) resync(after time.Duration) {
	for _, l := range *s.to.Load() {
		l.sync(s, after)
	}
}

// After losing events everything is read anew, which costs more than the events did: at first after lostPause, and twice as
// late each time that it happens again soon.
const lostPause = 250 * time.Millisecond

// lose has everything read anew.
func (s *source) lose() {
	s.r.n.lost.Add(1)
	now := time.Now()
	if now.Sub(s.lostAt) > 2*s.r.o.Refresh {
		s.pause = lostPause
	}
	s.resync(s.pause)
	if now.Sub(s.lostAt) > s.pause {
		s.lostAt, s.pause = now, min(2*s.pause, s.r.o.Refresh)
	}
}

// read hands events on until the socket fails or is closed.
func (s *source) read() error {
	get := func() *conntrack.Buffer {
		b, _ := s.r.buffers.Get().(*conntrack.Buffer)
		return b
	}
	put := func(b *conntrack.Buffer) { s.r.buffers.Put(b) }
	for {
		err := s.events.Read(get, put, s.take)
		s.hand()
		switch {
		case errors.Is(err, conntrack.ErrLost):
			s.lose()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := s.drained(); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
}

// take encodes one event, if it matters to others. A TCP connection that has ended is of no use to them.
func (s *source) take(e *conntrack.Event) {
	switch {
	case e.Own():
		return
	case e.Gone && e.Told(), e.Ended():
		s.out = appendGone(s.out, &e.Original)
	case !e.Gone && e.Lasting():
		s.out = appendPut(s.out, &e.Entry)
	default:
		return
	}
	s.r.n.sent.Add(1)
}

// hand gives what was read to the links.
func (s *source) hand() {
	if len(s.out) == 0 {
		return
	}
	for _, l := range *s.to.Load() {
		l.enqueue(s, s.out)
	}
	s.out = s.out[:0]
}

// drain returns when the events that are there have been handed to the links.
func (s *source) drain(ctx context.Context) error {
	done := make(chan struct{})
	s.mu.Lock()
	if s.events == nil {
		s.mu.Unlock()
		return errors.New("its connections are not read yet")
	}
	s.drains = append(s.drains, done)
	s.events.Wake()
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-s.done:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drained does what drain waits for.
func (s *source) drained() error {
	s.mu.Lock()
	drains := s.drains
	s.drains = nil
	s.events.Rest()
	s.mu.Unlock()
	buf, _ := s.r.buffers.Get().(*conntrack.Buffer)
	defer s.r.buffers.Put(buf)
	err := s.events.Drain(buf, s.take)
	s.hand()
	if errors.Is(err, conntrack.ErrLost) {
		s.r.n.lost.Add(1)
		s.resync(0)
		err = nil
	}
	for _, d := range drains {
		close(d)
	}
	return err
}

// dump lists what a full set of the router holds, at most so many: those that end soonest are left out. It also reports
// whether the events are of the namespace that has the name now.
func (s *source) dump(limit int) (entries []conntrack.Entry, same bool, err error) {
	s.mu.Lock()
	where := s.where
	s.mu.Unlock()
	err = s.r.o.Enter(s.space, func() error {
		here, err := conntrack.Here()
		if same = here == where; err != nil || !same {
			return err
		}
		table, err := conntrack.Open()
		if err != nil {
			return err
		}
		defer table.Close()
		if n, err := table.Count(); err != nil || n == 0 {
			return err // a walk through the kernel's table costs as much for none
		}
		return table.Each(func(e *conntrack.Entry) {
			if e.Lasting() {
				entries = append(entries, *e)
			}
		})
	})
	if over := len(entries) - limit; over > 0 {
		s.r.n.dropped.Add(uint64(over))
		entries = longest(entries, limit)
	}
	return entries, same, err
}

// neighbours lists those that the router has, as they are in a frame: the same ones are the same bytes.
func (s *source) neighbours() ([]byte, error) {
	var entries []neighbour.Entry
	err := s.r.o.Enter(s.space, func() (err error) {
		var dropped int
		entries, dropped, err = neighbour.List(maxNeighbours)
		s.r.n.dropped.Add(uint64(dropped))
		return err
	})
	slices.SortFunc(entries, func(a, b neighbour.Entry) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Address.Compare(b.Address))
	})
	var out []byte
	for i := range entries {
		out = appendNeighbour(out, &entries[i])
	}
	return out, err
}
