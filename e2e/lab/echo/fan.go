package echo

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"
)

// FanOptions describes a fan.
type FanOptions struct {
	Destinations []netip.Addr  // distinct
	Interval     time.Duration // from one echo to the next to the same destination; 0 is 10 ms (100 Hz)
	Wait         time.Duration // how long to wait for answers after the last echo; 0 is 1 s
}

// Fan is a series of echoes from one place to many destinations at once, over one socket: hundreds of runs in one namespace
// would each read the answers to all others. To conntrack and NAT all echoes to a destination are one connection. Its
// methods are safe for concurrent use.
type Fan struct {
	options  FanOptions
	conn     *net.IPConn
	token    uint64
	identity uint16
	accounts map[netip.Addr]*account
	stop     chan struct{}
	stopOnce sync.Once
	finished chan struct{}
}

// StartFan begins to send, see Start. The destinations' echoes are spread over the interval.
func StartFan(ctx context.Context, enter func(func() error) error, o FanOptions) (*Fan, error) {
	with := Options{Interval: o.Interval, Wait: o.Wait}.withDefaults()
	o.Interval, o.Wait = with.Interval, with.Wait
	began := time.Now()
	f := &Fan{
		options: o, token: newToken(began), identity: uint16(began.UnixNano() >> 10), accounts: map[netip.Addr]*account{},
		stop: make(chan struct{}), finished: make(chan struct{}),
	}
	for _, to := range o.Destinations {
		if !to.Is4() || f.accounts[to] != nil {
			return nil, fmt.Errorf("echo to %v: not an IPv4 address, or given twice", to)
		}
		f.accounts[to] = newAccount(began)
	}
	if len(f.accounts) == 0 {
		return nil, fmt.Errorf("echo to nobody: give destinations")
	}
	var err error
	if f.conn, err = listen(enter); err != nil {
		return nil, fmt.Errorf("echo to %d destinations: %w", len(f.accounts), err)
	}
	go f.live(ctx)
	return f, nil
}

// Stop ends the sending, waits for late answers, and returns the accounts. Idempotent.
func (f *Fan) Stop() map[netip.Addr]Stats {
	f.stopOnce.Do(func() { close(f.stop) })
	<-f.finished
	return f.Snapshot()
}

// Snapshot is the accounts so far. Echoes whose answer may still come count as lost.
func (f *Fan) Snapshot() map[netip.Addr]Stats {
	out := map[netip.Addr]Stats{}
	for to, a := range f.accounts {
		out[to] = a.snapshot()
	}
	return out
}

func (f *Fan) live(ctx context.Context) {
	defer close(f.finished)
	received := make(chan struct{})
	go func() {
		defer close(received)
		receive(f.conn, f.token, func(from netip.Addr, sequence int, now time.Time) {
			if a := f.accounts[from]; a != nil {
				a.received(sequence, now)
			}
		})
	}()
	f.send(ctx)
	linger(ctx, f.options.Wait, f.complete)
	_ = f.conn.Close() // only to end the receiver
	<-received
}

// send goes round the destinations, so many at each tick of a clock that runs no faster than 1 kHz, and catches up with
// what a busy machine made it miss.
func (f *Fan) send(ctx context.Context) {
	distance := f.options.Interval / time.Duration(len(f.options.Destinations))
	tick := time.NewTicker(max(distance, time.Millisecond))
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		for due := int(time.Since(began)/distance) + 1; sent < due; sent++ {
			f.one(f.options.Destinations[sent%len(f.options.Destinations)], sent/len(f.options.Destinations))
		}
		select {
		case <-tick.C:
		case <-f.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *Fan) one(to netip.Addr, sequence int) {
	a := f.accounts[to]
	a.sent(time.Now())
	if err := send(f.conn, to, f.identity, sequence, payload(headSize, f.token, sequence)); err != nil {
		a.failed(err)
	}
}

func (f *Fan) complete() bool {
	for a := range maps.Values(f.accounts) {
		if !a.complete() {
			return false
		}
	}
	return true
}
