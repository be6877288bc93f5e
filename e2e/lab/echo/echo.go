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

// Stats is the account of a run. An echo counts once however often it is answered.
type Stats struct {
	Sent, Received int
	SendErrors     int           // echoes the kernel refused to send (no route, neighbour unknown); they count as sent and lost
	LongestLoss    int           // echoes in the longest unbroken series of lost ones
	LargestGap     time.Duration // longest time between two consecutive answers
	FirstAnswer    time.Duration // from the start of the run to the first answer; 0 when there was none
	MinRTT, MaxRTT time.Duration
	LastError      error // of SendErrors, the latest
}

// Lost is how many echoes had no answer.
func (s Stats) Lost() int { return s.Sent - s.Received }

// String is a line for logs and failures.
func (s Stats) String() string {
	line := fmt.Sprintf("sent %d, lost %d (longest series %d, send errors %d), largest gap %v, first answer after %v, rtt %v-%v",
		s.Sent, s.Lost(), s.LongestLoss, s.SendErrors, s.LargestGap, s.FirstAnswer, s.MinRTT, s.MaxRTT)
	if s.LastError != nil {
		line += fmt.Sprintf(", last error: %v", s.LastError)
	}
	return line
}

// Run is a series of echoes under way. Its methods are safe for concurrent use.
type Run struct {
	options  Options
	conn     *net.IPConn
	token    uint64 // tells the answers of this run from those of any other in the namespace
	identity uint16
	began    time.Time
	stop     chan struct{}
	stopOnce sync.Once
	first    chan struct{}
	finished chan struct{}

	mu         sync.Mutex
	sentAt     []time.Time
	answered   []bool
	lastAnswer time.Time
	stats      Stats
}

// headSize is the payload that a run needs to know its own: token and sequence number, 8 octets each.
const headSize = 16

// Start begins to send. Enter runs a function inside the network namespace to send from (such as netspace.Target.Do).
// The run ends at its count, at Stop or with the context, whichever is first.
func Start(ctx context.Context, enter func(func() error) error, o Options) (*Run, error) {
	if !o.Destination.Is4() {
		return nil, fmt.Errorf("echo to %v: not an IPv4 address", o.Destination)
	}
	var conn *net.IPConn
	err := enter(func() (err error) {
		conn, err = net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("echo to %v: open a raw socket: %w", o.Destination, err)
	}
	began := time.Now()
	r := &Run{
		options: o.withDefaults(), conn: conn, token: uint64(began.UnixNano())<<8 ^ uint64(os.Getpid()), identity: uint16(began.UnixNano() >> 10), began: began,
		stop: make(chan struct{}), first: make(chan struct{}), finished: make(chan struct{}),
	}
	go r.live(ctx)
	return r, nil
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
func (r *Run) Snapshot() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := r.stats
	stats.Sent = len(r.sentAt)
	stats.LongestLoss = longestLoss(r.answered)
	return stats
}

func longestLoss(answered []bool) int {
	longest, series := 0, 0
	for _, ok := range answered {
		if ok {
			series = 0
			continue
		}
		series++
		longest = max(longest, series)
	}
	return longest
}

func (r *Run) live(ctx context.Context) {
	defer close(r.finished)
	received := make(chan struct{})
	go func() {
		defer close(received)
		r.receive()
	}()
	r.send(ctx)
	r.linger(ctx)
	_ = r.conn.Close() // only to end the receiver
	<-received
}

func (r *Run) send(ctx context.Context) {
	ticker := time.NewTicker(r.options.Interval)
	defer ticker.Stop()
	for sequence := 0; r.options.Count == 0 || sequence < r.options.Count; sequence++ {
		r.sendOne(sequence)
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
func (r *Run) linger(ctx context.Context) {
	deadline := time.NewTimer(r.options.Wait)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !r.complete() {
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *Run) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats.Received+r.stats.SendErrors >= len(r.sentAt)
}

func (r *Run) sendOne(sequence int) {
	packet, err := r.packet(sequence)
	r.mu.Lock()
	r.sentAt = append(r.sentAt, time.Now())
	r.answered = append(r.answered, false)
	r.mu.Unlock()
	if err == nil {
		_, err = r.conn.WriteTo(packet, &net.IPAddr{IP: r.options.Destination.AsSlice()})
	}
	if err != nil {
		r.mu.Lock()
		r.stats.SendErrors++
		r.stats.LastError = err
		r.mu.Unlock()
	}
}

func (r *Run) packet(sequence int) ([]byte, error) {
	payload := make([]byte, r.options.Size)
	binary.BigEndian.PutUint64(payload, r.token)
	binary.BigEndian.PutUint64(payload[8:], uint64(sequence))
	identity := r.identity
	if r.options.Identity == NewFlows {
		identity += uint16(sequence)
	}
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(identity), Seq: sequence & 0xffff, Data: payload}}
	return message.Marshal(nil)
}

// receive reads until the socket is closed. A raw socket gets every ICMP message of the namespace.
func (r *Run) receive() {
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := r.conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error reported on the socket; the echo it is about stays unanswered
		}
		if sequence, ok := r.match(buffer[:n]); ok {
			r.account(sequence, time.Now())
		}
	}
}

// match finds the sequence number of one of this run's answers.
func (r *Run) match(packet []byte) (sequence int, ok bool) {
	message, err := icmp.ParseMessage(1, packet) // protocol number of ICMP (RFC 792)
	if err != nil || message.Type != ipv4.ICMPTypeEchoReply {
		return 0, false
	}
	echo, ok := message.Body.(*icmp.Echo)
	if !ok || len(echo.Data) < headSize || binary.BigEndian.Uint64(echo.Data) != r.token {
		return 0, false
	}
	return int(binary.BigEndian.Uint64(echo.Data[8:])), true
}

func (r *Run) account(sequence int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if sequence < 0 || sequence >= len(r.answered) || r.answered[sequence] {
		return
	}
	r.answered[sequence] = true
	rtt := now.Sub(r.sentAt[sequence])
	if r.stats.Received == 0 {
		r.stats.FirstAnswer, r.stats.MinRTT = now.Sub(r.began), rtt
		close(r.first)
	} else {
		r.stats.LargestGap = max(r.stats.LargestGap, now.Sub(r.lastAnswer))
	}
	r.lastAnswer = now
	r.stats.Received++
	r.stats.MinRTT, r.stats.MaxRTT = min(r.stats.MinRTT, rtt), max(r.stats.MaxRTT, rtt)
}
