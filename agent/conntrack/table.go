package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Buffers of sockets, in bytes. A netlink message to be read has up to 32 KiB (NLMSG_GOODSIZE and a dump's skb).
const (
	readBuffer   = 64 << 10
	tableBuffer  = 1 << 20
	eventsBuffer = 4 << 20
)

// batch is how many changes go to the kernel at once.
const batch = 64

// answerTime bounds the wait for the kernel's answer: it works while it is written to, so there is one or never.
const answerTime = 5 * time.Second

// ErrLost tells that events came faster than they were read: some are missing, read the table anew.
var ErrLost = errors.New("conntrack events were lost")

// Buffer is room to read into, for one reader at a time. The zero value is ready.
type Buffer struct{ b []byte }

func (b *Buffer) bytes() []byte {
	if b.b == nil {
		b.b = make([]byte, readBuffer)
	}
	return b.b
}

// Table is a namespace's connections. It stays tied to the namespace in which it was opened, and keeps it alive: close it
// before the namespace is deleted. One goroutine at a time may use it; Close may be called at any time and ends what is
// under way with an error.
type Table struct {
	s    socket
	seq  uint32
	buf  Buffer
	out  []byte
	errs []syscall.Errno
}

// Open opens the table of the calling thread's namespace.
func Open() (*Table, error) {
	s, err := open(0, tableBuffer)
	if err != nil {
		return nil, fmt.Errorf("conntrack table: %w", err)
	}
	return &Table{s: s}, nil
}

// Close closes the table and returns when the namespace is let go. It may be called again.
func (t *Table) Close() { t.s.close() }

// Count is the number of entries of the namespace.
func (t *Table) Count() (int, error) {
	const getStats, globalEntries = 5, 1 // IPCTNL_MSG_CT_GET_STATS, CTA_STATS_GLOBAL_ENTRIES
	n := -1
	err := t.ask(getStats, unix.NLM_F_ACK, func(b []byte) error {
		return attributes(b, func(kind uint16, v []byte) error {
			if kind == globalEntries {
				return number(v, func(count uint32) { n = int(count) })
			}
			return nil
		})
	})
	if err == nil && n < 0 {
		err = errors.New("the kernel does not tell the number of entries")
	}
	return n, err
}

// Each calls fn with every IPv4 entry of TCP, UDP and ICMP; it may keep no pointer. Entries that come or go meanwhile may
// or may not be among them, one may be there twice.
func (t *Table) Each(fn func(*Entry)) error {
	const get = 1 // IPCTNL_MSG_CT_GET
	var e Entry
	return t.ask(get, unix.NLM_F_DUMP, func(b []byte) error {
		ok, err := parseEntry(b, &e)
		if err == nil && ok && e.Status&dying == 0 {
			fn(&e)
		}
		return err
	})
}

// ask sends a request without content and hands on the answers' attributes.
func (t *Table) ask(message uint16, flags uint16, fn func([]byte) error) error {
	t.seq++
	t.out = appendHeader(t.out[:0], message, flags, t.seq, nil)
	if err := t.s.write(t.out); err != nil {
		return err
	}
	for {
		b, err := t.s.read(t.buf.bytes(), answerTime)
		if err != nil {
			return err
		}
		done := false
		err = messages(b, func(h header, content []byte) error {
			switch {
			case h.seq != t.seq:
				return nil // an answer that an earlier call did not wait for
			case h.kind == unix.NLMSG_DONE:
				done = true
				return nil
			case h.kind == unix.NLMSG_ERROR:
				done = true
				return errnoOf(content)
			default:
				return attrsOf(content, fn)
			}
		})
		if err != nil || done {
			return err
		}
	}
}

// Change is an entry to be made what it says or, if Gone, to be removed: then only its Original counts.
type Change struct {
	Entry
	Gone bool
}

// Result counts what was done.
type Result struct {
	Made, Changed, Removed int
	// Refused are entries that the kernel did not take, with the last reason.
	Refused int
	Reason  error
}

// Apply makes changes in their order. A new entry is translated as its tuples say, whatever the namespace's rules; one
// that is there gets the status, state and timeout, but keeps its translations. Removing what is not there is success.
func (t *Table) Apply(changes []Change) (Result, error) {
	var r Result
	for len(changes) > 0 {
		n := min(batch, len(changes))
		if err := t.apply(changes[:n], &r); err != nil {
			return r, err
		}
		changes = changes[n:]
	}
	return r, nil
}

func (t *Table) apply(changes []Change, r *Result) error {
	errs, err := t.send(changes, true)
	if err != nil {
		return err
	}
	var there []Change
	for i, e := range errs {
		switch {
		case e == unix.EEXIST && !changes[i].Gone:
			there = append(there, changes[i])
		case e == unix.ENOENT && changes[i].Gone:
		case e != 0:
			r.Refused++
			r.Reason = fmt.Errorf("%s: %w", changes[i].Original, e)
		case changes[i].Gone:
			r.Removed++
		default:
			r.Made++
		}
	}
	if len(there) == 0 {
		return nil
	}
	if errs, err = t.send(there, false); err != nil {
		return err
	}
	for i, e := range errs {
		switch e {
		case 0:
			r.Changed++
		case unix.ENOENT: // what took the place in the way back is another connection, or the entry has just ended
			r.Refused++
			r.Reason = fmt.Errorf("%s: its place is taken", there[i].Original)
		default:
			r.Refused++
			r.Reason = fmt.Errorf("%s: %w", there[i].Original, e)
		}
	}
	return nil
}

// send sends changes in one go and returns the kernel's answer to each. Only errors and the last one are answered.
func (t *Table) send(changes []Change, create bool) ([]syscall.Errno, error) {
	const makeOrChange, remove = 0, 2 // IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE
	first := t.seq + 1
	t.out, t.errs = t.out[:0], t.errs[:0]
	for i := range changes {
		c := &changes[i]
		t.seq++
		t.errs = append(t.errs, 0)
		message, flags := uint16(makeOrChange), uint16(0)
		fill := func(b []byte) []byte { return appendState(appendTuple(b, ctaTupleOrig, c.Original), &c.Entry) }
		switch {
		case c.Gone:
			message = remove
			fill = func(b []byte) []byte { return appendTuple(b, ctaTupleOrig, c.Original) }
		case create:
			flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
			fill = func(b []byte) []byte { return appendNew(b, &c.Entry) }
		}
		if i == len(changes)-1 {
			flags |= unix.NLM_F_ACK
		}
		t.out = appendHeader(t.out, message, flags, t.seq, fill)
	}
	if err := t.s.write(t.out); err != nil {
		return nil, err
	}
	return t.errs, t.answers(first)
}

// answers reads until the last change is answered.
func (t *Table) answers(first uint32) error {
	for done := false; !done; {
		b, err := t.s.read(t.buf.bytes(), answerTime)
		if err != nil {
			return err
		}
		err = messages(b, func(h header, content []byte) error {
			if h.kind != unix.NLMSG_ERROR || h.seq-first >= uint32(len(t.errs)) || len(content) < 4 {
				return nil
			}
			t.errs[h.seq-first] = syscall.Errno(-int32(binary.NativeEndian.Uint32(content)))
			done = done || h.seq == t.seq
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Event is a change of a connection, as the kernel made it.
type Event struct {
	Entry
	Gone bool
}

// Events are what happens to a namespace's connections from when they were opened; of connections that were there before,
// the kernel tells nothing unless TellAll was called before they were made. Like a Table they keep the namespace alive, and Close may be called
// at any time; one goroutine at a time may read.
type Events struct{ s socket }

// Listen opens the events of the calling thread's namespace.
func Listen() (*Events, error) {
	const created, updated, destroyed = 1 << 0, 1 << 1, 1 << 2 // enum nfnetlink_groups, as a mask
	s, err := open(created|updated|destroyed, eventsBuffer)
	if err != nil {
		return nil, fmt.Errorf("conntrack events: %w", err)
	}
	return &Events{s}, nil
}

// Close closes the events and returns when the namespace is let go. It may be called again.
func (e *Events) Close() { e.s.close() }

// Wake ends a Read that waits, and those that come, with os.ErrDeadlineExceeded until Rest is called.
func (e *Events) Wake() { e.s.deadline(time.Unix(1, 0)) }

// Rest takes Wake back.
func (e *Events) Rest() { e.s.deadline(time.Time{}) }

// Read waits for events and calls fn with each; it may keep no pointer. The buffer is taken from get when there is
// something to read, and handed to put afterwards: a reader that waits holds none. ErrLost when some are missing.
func (e *Events) Read(get func() *Buffer, put func(*Buffer), fn func(*Event)) error {
	buf, n, err := e.s.receive(get)
	if buf == nil {
		return err
	}
	defer put(buf)
	if err != nil {
		return err
	}
	return readEvents(buf.b[:n], fn)
}

// Drain calls fn with the events that are there already and does not wait.
func (e *Events) Drain(buf *Buffer, fn func(*Event)) error {
	for {
		b, err := e.s.poll(buf.bytes())
		if err != nil || b == nil {
			return err
		}
		if err := readEvents(b, fn); err != nil {
			return err
		}
	}
}

func readEvents(b []byte, fn func(*Event)) error {
	const remove = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	var event Event
	return messages(b, func(h header, content []byte) error {
		if h.kind>>8 != unix.NFNL_SUBSYS_CTNETLINK {
			return nil
		}
		return attrsOf(content, func(attrs []byte) error {
			ok, err := parseEntry(attrs, &event.Entry)
			if event.Gone = h.kind == remove; err == nil && ok {
				fn(&event)
			}
			return err
		})
	})
}

// eventsFile says of whose connections the reading thread's namespace tells: 0 none's, 1 all, 2 those that were made while
// somebody listened (nf_conntrack-sysctl).
const eventsFile = "/proc/sys/net/netfilter/nf_conntrack_events"

// TellAll has the calling thread's namespace tell of all connections that are made from now on, and not only of those made
// while somebody listens. Idempotent; no error where the kernel has no such choice.
func TellAll() error {
	b, err := os.ReadFile(eventsFile)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(b) > 0 && b[0] == '1':
		return nil
	case err != nil:
		return err
	}
	return os.WriteFile(eventsFile, []byte("1"), 0o644)
}

// Here identifies the calling thread's namespace on this host: two values are the same if the namespaces are.
func Here() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("own network namespace: %w", err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// errnoOf is the error of an NLMSG_ERROR message; nil for an acknowledgement.
func errnoOf(content []byte) error {
	if len(content) < 4 {
		return errMalformed
	}
	if n := int32(binary.NativeEndian.Uint32(content)); n != 0 {
		return os.NewSyscallError("netlink", syscall.Errno(-n))
	}
	return nil
}

// attrsOf hands on the attributes of a message about IPv4.
func attrsOf(content []byte, fn func([]byte) error) error {
	if len(content) < nfgenmsgLen {
		return errMalformed
	}
	if family := content[0]; family != unix.AF_INET && family != unix.AF_UNSPEC {
		return nil
	}
	return fn(content[nfgenmsgLen:])
}
