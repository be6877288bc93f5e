// Package witness watches a switch and records from which of its ports each station was heard, and when: the proof that at
// no time two hosts spoke for one router. It is a passive capture of headers; what frames say beyond their source and, for
// ARP, whose address they answer for, it does not know.
package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Enter runs a function inside a network namespace, such as lab.Space.Do.
type Enter func(func() error) error

// Spell is an unbroken series of frames of one station from one port of the switch.
type Spell struct {
	Port        string
	First, Last time.Time
	Frames      int
}

// Answer is an ARP reply that claims an address.
type Answer struct {
	Port    string
	MAC     string
	Address netip.Addr
	At      time.Time
}

// Record is what has been seen. Spells of a station are in the order of time, so each begins at another port than the one
// before it.
type Record struct {
	Spells  map[string][]Spell // by MAC address, "aa:bb:cc:dd:ee:ff"
	Answers []Answer           // ARP replies, gratuitous ones included, as they came
	// Missed is how many frames the kernel dropped because they were not read in time: a record with any proves nothing.
	Missed int
}

// Witness is a capture under way. Its methods are safe for concurrent use.
type Witness struct {
	socket *os.File
	ports  map[int]string
	done   chan struct{}

	mu     sync.Mutex
	record Record
	err    error
}

// snap is how much of each frame is read: an Ethernet header with one VLAN tag and an ARP packet, in octets.
const snap = 64

// buffer is how many octets the kernel may hold for the reader.
const buffer = 32 << 20

// Start begins to record what the named devices of a namespace receive. The caller ends it with Stop.
func Start(enter Enter, devices ...string) (*Witness, error) {
	w := &Witness{ports: map[int]string{}, done: make(chan struct{}), record: Record{Spells: map[string][]Spell{}}}
	if err := enter(func() error { return w.open(devices) }); err != nil {
		return nil, fmt.Errorf("watch %v: %w", devices, err)
	}
	go w.read()
	return w, nil
}

func (w *Witness) open(devices []string) error {
	var indices []uint32
	for _, name := range devices {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
		w.ports[link.Index] = name
		indices = append(indices, uint32(link.Index)) //nolint:gosec // the kernel counts them from 1
	}
	// Protocol 0: nothing is received before the filter is in place and the socket is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	w.socket = os.NewFile(uintptr(fd), "witness")
	if err := prepare(fd, indices); err != nil {
		return errors.Join(err, w.socket.Close())
	}
	return nil
}

func prepare(fd int, indices []uint32) error {
	if err := attach(fd, indices); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		return fmt.Errorf("enlarge its buffer: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("ask for time stamps: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}); err != nil {
		return fmt.Errorf("bind it: %w", err)
	}
	return nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// attach has the kernel pass on only what the devices receive, and only the head of it.
func attach(fd int, indices []uint32) error {
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: uint8(len(indices) + 1)}, //nolint:gosec // a few ports
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
	}
	for i, index := range indices {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: index, SkipTrue: uint8(len(indices) - i)}) //nolint:gosec // a few ports
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: snap}))
	if err != nil {
		return fmt.Errorf("assemble its filter: %w", err)
	}
	filters := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filters[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}) //nolint:gosec // a few ports
	if err != nil {
		return fmt.Errorf("attach its filter: %w", err)
	}
	return nil
}

// read takes frames until Stop, in the order in which the kernel received them.
func (w *Witness) read() {
	defer close(w.done)
	raw, err := w.socket.SyscallConn()
	if err != nil {
		w.fail(err)
		return
	}
	take := func(fd uintptr) bool { return w.take(int(fd)) }
	if err := raw.Read(take); err != nil { // returns at Stop's deadline, or at an error that take has recorded
		_ = raw.Control(func(fd uintptr) { take(fd) }) // what came before the deadline; the socket is open until this returns
	}
}

// take reads all frames that are there, and tells whether it is to be called no more.
func (w *Witness) take(fd int) (ended bool) {
	frame, control := make([]byte, snap), make([]byte, 128)
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, frame, control, 0)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err != nil {
			w.fail(err)
			return true
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			w.saw(w.ports[link.Ifindex], frame[:n], stamp(control[:oobn]))
		}
	}
}

func (w *Witness) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// stamp is when the kernel received a frame (socket(7), SO_TIMESTAMPNS).
func stamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))) //nolint:gosec // struct timespec of 64-bit machines
			}
		}
	}
	return time.Now()
}

// saw records one frame: Ethernet II, with or without a VLAN tag (IEEE 802.1Q), and ARP (RFC 826).
func (w *Witness) saw(port string, frame []byte, at time.Time) {
	if len(frame) < 14 {
		return
	}
	mac := net.HardwareAddr(frame[6:12]).String()
	w.mu.Lock()
	defer w.mu.Unlock()
	spells := w.record.Spells[mac]
	if len(spells) == 0 || spells[len(spells)-1].Port != port {
		spells = append(spells, Spell{Port: port, First: at})
	}
	last := &spells[len(spells)-1]
	last.Last, last.Frames = at, last.Frames+1
	w.record.Spells[mac] = spells
	if address, ok := arpReply(frame); ok {
		w.record.Answers = append(w.record.Answers, Answer{Port: port, MAC: mac, Address: address, At: at})
	}
}

// arpReply is the sender's address of an ARP reply for Ethernet and IPv4.
func arpReply(frame []byte) (netip.Addr, bool) {
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	if kind == unix.ETH_P_8021Q && len(rest) >= 4 {
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	const reply = 2
	if kind != unix.ETH_P_ARP || len(rest) < 28 || binary.BigEndian.Uint16(rest[6:]) != reply {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(rest[14:18])), true
}

// Snapshot is the record so far. Frames that the kernel dropped are counted at Stop only.
func (w *Witness) Snapshot() Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := Record{Spells: map[string][]Spell{}, Answers: slices.Clone(w.record.Answers), Missed: w.record.Missed}
	for mac, spells := range w.record.Spells {
		out.Spells[mac] = slices.Clone(spells)
	}
	return out
}

// Stop ends the capture and returns the record. An error when the capture did not see everything up to now.
func (w *Witness) Stop() (Record, error) {
	err := w.socket.SetReadDeadline(time.Now())
	<-w.done
	missed, failed := w.missed()
	err = errors.Join(err, failed, w.socket.Close())
	out := w.Snapshot()
	out.Missed = missed
	w.mu.Lock()
	defer w.mu.Unlock()
	if missed > 0 {
		err = errors.Join(err, fmt.Errorf("%d frames were not read in time", missed))
	}
	return out, errors.Join(err, w.err)
}

// missed asks for the kernel's count of dropped frames (packet(7), PACKET_STATISTICS).
func (w *Witness) missed() (int, error) {
	raw, err := w.socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	var failed error
	if err := raw.Control(func(fd uintptr) {
		stats, failed = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("ask for dropped frames: %w", failed)
	}
	return int(stats.Drops), nil
}

// Overlaps says where a station was heard from a port again after another had taken over: two hosts spoke for it at a
// time, or it moved back. "" when there is none. MACs that were not heard are none.
func (r Record) Overlaps(mac string) string {
	ended := map[string]Spell{}
	spells := r.Spells[mac]
	for i, s := range spells {
		if before, again := ended[s.Port]; again {
			other := spells[i-1]
			return fmt.Sprintf("%s from %s until %s, from %s (%d frames), and from %s again %v after that began",
				mac, s.Port, before.Last.Format(clock), other.Port, other.Frames, s.Port, s.First.Sub(other.First))
		}
		ended[s.Port] = s
	}
	return ""
}

// clock shows times to the microsecond.
const clock = "15:04:05.000000"
