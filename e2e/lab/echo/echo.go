// Package echo sends ICMP echoes (RFC 792) at a steady pace and keeps account of the answers: how many were lost and
// how long the longest silence was. It works in any network namespace without starting a process there. It is a
// measuring tool: not a ping(8) for people, and IPv4 only.
package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// Identity chooses the ICMP identifier of the echoes.
type Identity int

const (
	// OneFlow keeps one identifier for the run: to conntrack and NAT all its echoes are one connection, which is
	// what a long-lived flow experiences.
	OneFlow Identity = iota
	// NewFlows takes another identifier for every echo: each is a new connection, judged by the rules of its moment.
	NewFlows
)

// Options describes a run.
type Options struct {
	Destination netip.Addr
	Interval    time.Duration // from one echo to the next; 0 is 10 ms (100 Hz)
	Count       int           // echoes to send; 0 goes on until Stop
	Wait        time.Duration // how long to wait for answers after the last echo; 0 is 1 s
	Size        int           // octets of ICMP payload, at least (and by default) 16
	Identity    Identity
}

func (o Options) withDefaults() Options {
	if o.Interval <= 0 {
		o.Interval = 10 * time.Millisecond
	}
	if o.Wait <= 0 {
		o.Wait = time.Second
	}
	o.Size = max(o.Size, headSize)
	return o
}

// Run is a series of echoes under way. Its methods are safe for concurrent use.
type Run struct {
	options  Options
	conn     *net.IPConn
	token    uint64 // tells the answers of this run from those of any other in the namespace
	identity uint16
	*account
	stop     chan struct{}
	stopOnce sync.Once
	finished chan struct{}
}

// headSize is the payload that a run needs to know its own: token and sequence number, 8 octets each.
const headSize = 16

// Start begins to send. Enter runs a function inside the network namespace to send from (such as netspace.Target.Do).
// The run ends at its count, at Stop or with the context, whichever is first.
func Start(ctx context.Context, enter func(func() error) error, o Options) (*Run, error) {
	if !o.Destination.Is4() {
		return nil, fmt.Errorf("echo to %v: not an IPv4 address", o.Destination)
	}
	conn, err := listen(enter)
	if err != nil {
		return nil, fmt.Errorf("echo to %v: %w", o.Destination, err)
	}
	began := time.Now()
	r := &Run{
		options: o.withDefaults(), conn: conn, token: newToken(began), identity: uint16(began.UnixNano() >> 10), account: newAccount(began),
		stop: make(chan struct{}), finished: make(chan struct{}),
	}
	go r.live(ctx)
	return r, nil
}

// newToken is another for every run.
func newToken(began time.Time) uint64 { return uint64(began.UnixNano())<<8 ^ uint64(os.Getpid()) }

// listen opens a raw ICMP socket that hears echo replies only: a namespace may see many other messages.
func listen(enter func(func() error) error) (*net.IPConn, error) {
	var conn *net.IPConn
	err := enter(func() (err error) {
		conn, err = net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	var filter ipv4.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv4.ICMPTypeEchoReply)
	if err := ipv4.NewPacketConn(conn).SetICMPFilter(&filter); err != nil {
		_ = conn.Close() // nothing was sent
		return nil, fmt.Errorf("filter a raw socket: %w", err)
	}
	return conn, nil
}

// FirstAnswer is closed when the first answer arrives.
func (r *Run) FirstAnswer() <-chan struct{} { return r.first }

// Stop ends the sending, waits for late answers as Options.Wait says, and returns the account. Idempotent.
func (r *Run) Stop() Stats {
	r.stopOnce.Do(func() { close(r.stop) })
	return r.Wait()
}

// Wait returns the account once the run has ended by itself or by Stop.
func (r *Run) Wait() Stats {
	<-r.finished
	return r.Snapshot()
}

// Snapshot is the account so far. Echoes whose answer may still come count as lost.
func (r *Run) Snapshot() Stats { return r.snapshot() }

func (r *Run) live(ctx context.Context) {
	defer close(r.finished)
	received := make(chan struct{})
	go func() {
		defer close(received)
		receive(r.conn, r.token, func(_ netip.Addr, sequence int, now time.Time) { r.received(sequence, now) })
	}()
	r.send(ctx)
	linger(ctx, r.options.Wait, r.complete)
	_ = r.conn.Close() // only to end the receiver
	<-received
}

func (r *Run) send(ctx context.Context) {
	ticker := time.NewTicker(r.options.Interval)
	defer ticker.Stop()
	for sequence := 0; r.options.Count == 0 || sequence < r.options.Count; sequence++ {
		identity := r.identity
		if r.options.Identity == NewFlows {
			identity += uint16(sequence)
		}
		r.sent(time.Now())
		if err := send(r.conn, r.options.Destination, identity, sequence, payload(r.options.Size, r.token, sequence)); err != nil {
			r.failed(err)
		}
		select {
		case <-ticker.C:
		case <-r.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// linger waits for the answers that are still missing.
func linger(ctx context.Context, wait time.Duration, complete func() bool) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !complete() {
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// payload is what an echo of a run carries, so that its answer is known.
func payload(size int, token uint64, sequence int) []byte {
	out := make([]byte, size)
	binary.BigEndian.PutUint64(out, token)
	binary.BigEndian.PutUint64(out[8:], uint64(sequence))
	return out
}

func send(conn *net.IPConn, to netip.Addr, identity uint16, sequence int, data []byte) error {
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(identity), Seq: sequence & 0xffff, Data: data}}
	packet, err := message.Marshal(nil)
	if err == nil {
		_, err = conn.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()})
	}
	return err
}

// receive reads until the socket is closed, and tells of the answers with a run's token.
func receive(conn *net.IPConn, token uint64, tell func(from netip.Addr, sequence int, now time.Time)) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFromIP(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error reported on the socket; the echo it is about stays unanswered
		}
		if sequence, ok := match(buffer[:n], token); ok {
			address, _ := netip.AddrFromSlice(from.IP.To4())
			tell(address, sequence, time.Now())
		}
	}
}

// match finds the sequence number of an answer to one of a run's echoes.
func match(packet []byte, token uint64) (sequence int, ok bool) {
	message, err := icmp.ParseMessage(1, packet) // protocol number of ICMP (RFC 792)
	if err != nil || message.Type != ipv4.ICMPTypeEchoReply {
		return 0, false
	}
	echo, ok := message.Body.(*icmp.Echo)
	if !ok || len(echo.Data) < headSize || binary.BigEndian.Uint64(echo.Data) != token {
		return 0, false
	}
	return int(binary.BigEndian.Uint64(echo.Data[8:])), true
}
