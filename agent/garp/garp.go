// Package garp tells the neighbours of a link that an address is now reached by its MAC: gratuitous ARP, sent in the
// background. It does not decide when an address is new (agent/netns reports that), does not detect conflicts, and does
// not do IPv6.
package garp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultPending is how many announcements may be under way.
const DefaultPending = 4096

// DefaultRounds are when, after it was asked for, an address is announced. RFC 5227 section 2.3 has two rounds two seconds
// apart for a host that joins; after a takeover the first frame may be lost to a port or a neighbour that is not ready, so
// there are more of them, sooner.
func DefaultRounds() []time.Duration {
	return []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond, time.Second, 3 * time.Second}
}

var (
	// ErrBusy tells that more announcements are pending than Options.Pending allows; nothing was queued.
	ErrBusy = errors.New("too many announcements pending")
	// ErrClosed tells that the Announcer has been closed.
	ErrClosed = errors.New("announcer is closed")
)

// Options is what an Announcer needs.
type Options struct {
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter func(namespace string, fn func() error) error
	// Mark is the target MAC of quiet requests, 6 bytes, by which agent/plan knows them: the node's other routers, and those of
	// other nodes, need not hear them.
	Mark net.HardwareAddr
	// Rounds are when an address is announced, ascending, counted from when it was asked for; DefaultRounds if empty.
	Rounds  []time.Duration
	Pending int          // announcements under way at most; DefaultPending if 0
	Log     *slog.Logger // nothing is logged if nil
}

// Target is one address on one link.
type Target struct {
	Namespace, Link string
	MAC             net.HardwareAddr // 6 bytes: the link's own
	Address         netip.Addr       // IPv4
	Audience        Audience
}

// Audience is who has to hear an announcement.
type Audience int

// The audiences.
const (
	// Everybody: the address may have had another MAC. The first round is loud, and the last, in case the first was lost.
	Everybody Audience = iota
	// Beyond: none of the node's own routers has to hear it, which may be hundreds. All requests are quiet.
	Beyond
	// Switches: the address has had this MAC before, elsewhere. Only where that is has to be learned: for that a quiet request
	// will do, without a reply.
	Switches
)

// key is what an announcement is about; a newer one replaces an older one.
type key struct {
	namespace, link string
	address         netip.Addr
}

func (t Target) key() key { return key{t.Namespace, t.Link, t.Address} }

type job struct {
	target Target
	asked  time.Time
	sent   int // rounds
	due    time.Time
}

// Announcer sends announcements from one goroutine. Its methods may be called concurrently.
type Announcer struct {
	o      Options
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
	// closing has a place for each socket that is open, ends those that close them.
	closing chan struct{}
	ends    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	jobs   map[key]*job
}

// New starts an Announcer; Close ends it.
func New(o Options) (*Announcer, error) {
	if o.Enter == nil || len(o.Mark) != 6 {
		return nil, fmt.Errorf("garp: Options.Enter and a Mark of 6 bytes are needed, the mark is %q", o.Mark)
	}
	if len(o.Rounds) == 0 {
		o.Rounds = DefaultRounds()
	}
	if o.Pending == 0 {
		o.Pending = DefaultPending
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &Announcer{
		o: o, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}),
		closing: make(chan struct{}, maxClosing), jobs: make(map[key]*job),
	}
	go a.loop(ctx)
	return a, nil
}

// Announce queues Options.Rounds for a target and returns without waiting. An announcement of
// the same address on the same link that is still under way starts over. A round that cannot be sent (the link or the
// namespace has gone) ends the announcement and is logged. ErrBusy or ErrClosed when it was not queued.
func (a *Announcer) Announce(t Target) error {
	if len(t.MAC) != 6 || !t.Address.Is4() {
		return fmt.Errorf("announce %s on link %s: needs an IPv4 address and a MAC, has MAC %q", t.Address, t.Link, t.MAC)
	}
	k := t.key()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	if a.jobs[k] == nil && len(a.jobs) >= a.o.Pending {
		return fmt.Errorf("announce %s on link %s: %w", t.Address, t.Link, ErrBusy)
	}
	a.jobs[k] = &job{target: t, asked: time.Now(), due: time.Now().Add(a.o.Rounds[0])}
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close drops what is pending and waits for the goroutine to end. It may be called more than once.
func (a *Announcer) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	<-a.done
	a.ends.Wait()
}

func (a *Announcer) loop(ctx context.Context) {
	defer close(a.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(a.round(ctx))
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-timer.C:
		}
	}
}

// round sends what is due and returns the time until something else is.
func (a *Announcer) round(ctx context.Context) time.Duration {
	due := map[string][]due{} // by namespace
	for _, j := range a.take(time.Now()) {
		due[j.target.Namespace] = append(due[j.target.Namespace], j)
	}
	for namespace, jobs := range due {
		if ctx.Err() != nil {
			break
		}
		a.sendAll(namespace, jobs)
	}
	return a.next()
}

// sendAll sends the jobs of one namespace once, and ends those that can't be sent.
func (a *Announcer) sendAll(namespace string, jobs []due) {
	frames := make([]frames, len(jobs))
	for i, j := range jobs {
		frames[i] = a.framesOf(j)
	}
	failed := a.send(namespace, frames)
	for i, j := range jobs {
		if err := failed[i]; err != nil {
			a.o.Log.Warn("gratuitous ARP not sent", "namespace", namespace, "link", j.target.Link, "address", j.target.Address, "error", err)
			a.drop(j.job)
		}
	}
}

// grid is what later rounds are put on, so that those of many addresses go out together: each wakes who forwards them.
const grid = 50 * time.Millisecond

// due is a job in one of its rounds.
type due struct {
	*job
	loud bool
}

// take returns the jobs that are due, with their next round already planned. Nothing is sent under the lock.
func (a *Announcer) take(now time.Time) []due {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []due
	for k, j := range a.jobs {
		if j.due.After(now) {
			continue
		}
		out = append(out, due{j, j.target.Audience == Everybody && (j.sent == 0 || j.sent == len(a.o.Rounds)-1)})
		if j.sent++; j.sent < len(a.o.Rounds) {
			j.due = j.asked.Add(a.o.Rounds[j.sent] + grid).Truncate(grid)
		} else {
			delete(a.jobs, k)
		}
	}
	return out
}

// drop ends a job, unless a newer one has taken its place.
func (a *Announcer) drop(j *job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := j.target.key(); a.jobs[k] == j {
		delete(a.jobs, k)
	}
}

func (a *Announcer) next() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait := time.Hour
	for _, j := range a.jobs {
		wait = min(wait, time.Until(j.due))
	}
	return max(wait, 0)
}

// frames are those of one target.
type frames struct {
	link string
	all  [][]byte
}

func (a *Announcer) framesOf(j due) frames {
	mark := a.o.Mark
	if j.loud {
		mark = make(net.HardwareAddr, 6)
	}
	out := frames{j.target.Link, [][]byte{Request(j.target, mark)}}
	if j.target.Audience != Switches {
		out.all = append(out.all, Reply(j.target))
	}
	return out
}

// send sends frames in one namespace by one socket, and returns which could not be sent, by their place. The socket lives only
// as long as that: it would keep a deleted namespace alive.
func (a *Announcer) send(namespace string, all []frames) map[int]error {
	failed := map[int]error{}
	err := a.o.Enter(namespace, func() error {
		a.closing <- struct{}{}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			<-a.closing
			return fmt.Errorf("packet socket: %w", err)
		}
		defer a.end(fd)
		for i, f := range all {
			if err := f.sendOn(fd); err != nil {
				failed[i] = fmt.Errorf("link %s: %w", f.link, err)
			}
		}
		return nil
	})
	if err != nil {
		for i := range all {
			failed[i] = err
		}
	}
	return failed
}

// maxClosing is how many sockets may be open at a time.
const maxClosing = 64

// end closes a socket beside the loop: the kernel takes some 10 ms for it, in which readers of the socket's hooks have to
// come to their end (synchronize_net in packet_release, net/packet/af_packet.c).
func (a *Announcer) end(fd int) {
	a.ends.Go(func() {
		_ = unix.Close(fd) // nothing is pending on it
		<-a.closing
	})
}

func (f frames) sendOn(fd int) error {
	index, err := indexOf(fd, f.link)
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Protocol: swap(etherTypeARP), Ifindex: index, Halen: 6, Addr: [8]byte(broadcast8())}
	for _, frame := range f.all {
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			return fmt.Errorf("send ARP: %w", err)
		}
	}
	return nil
}

// indexOf asks for one link's number (netdevice(7)), where net.InterfaceByName has the kernel tell of all links.
func indexOf(fd int, link string) (int, error) {
	request, err := unix.NewIfreq(link)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// Numbers of RFC 826 (ares_hrd$Ethernet, operations) and of Ethernet.
const (
	etherTypeARP  = 0x0806
	etherTypeIPv4 = 0x0800
	hardwareEther = 1
	opRequest     = 1
	opReply       = 2
)

func broadcast8() []byte { return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0} }

// swap brings a number into network byte order, as sockaddr_ll wants it (packet(7)).
func swap(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// Request is an Ethernet frame with a gratuitous ARP packet (RFC 826), the ARP announcement of RFC 5227 section 3: sender and
// target address the same. Nobody reads the target MAC of a request; it is zero in a loud one, as the RFC has it, and
// Options.Mark in a quiet one. t must be valid as for Announce.
func Request(t Target, target net.HardwareAddr) []byte { return packet(t, opRequest, target) }

// Reply is the same as an ARP reply, which some neighbours heed instead. It is broadcast as well.
func Reply(t Target) []byte { return packet(t, opReply, t.MAC) }

func packet(t Target, operation uint16, target net.HardwareAddr) []byte {
	ip := t.Address.As4()
	b := append([]byte(nil), broadcast8()[:6]...)
	b = append(b, t.MAC...)
	b = binary.BigEndian.AppendUint16(b, etherTypeARP)
	b = binary.BigEndian.AppendUint16(b, hardwareEther)
	b = binary.BigEndian.AppendUint16(b, etherTypeIPv4)
	b = append(b, 6, 4) // lengths of the addresses
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(append(b, t.MAC...), ip[:]...)
	return append(append(b, target...), ip[:]...)
}
