// Package openflow writes flows into an Open vSwitch bridge: a small native OpenFlow 1.4/1.5 client over the bridge's
// management socket. It applies changes as atomic bundles, compares what is there with what should be by cookie, and
// never touches a flow that is not weft's. It is not a controller: it asks for no packets and decides nothing; flows come
// as values of agent/flow, and reconnecting after Done is the caller's business, because everything must be synced then.
package openflow

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Options says which bridge to speak to.
type Options struct {
	// Socket is the bridge's management socket, <OVS run dir>/<bridge>.mgmt (ovs-vswitchd(8), "bridge.mgmt").
	Socket string
	// Versions are those offered to the bridge; the highest that both know is spoken. Empty means 1.4 and 1.5.
	Versions []Version
	// Logger gets what no caller waits for, such as an error of the bridge that belongs to no request. Required.
	Logger *slog.Logger
	// Ports is told of every change of a port's status from the connection on, in the order in which they happen. It is
	// called from the connection's own goroutine and must not wait. Nil: nobody asks.
	Ports func(PortStatus)
}

// Conn is a connection to one bridge. All methods may be called from several goroutines; operations run one after another.
//
// A context that ends while an operation is under way closes the connection, because it is then unknown whether the bridge
// has carried it out: dial again and Sync.
type Conn struct {
	socket  string
	version Version
	log     *slog.Logger
	ports   func(PortStatus)
	nc      net.Conn
	turn    chan struct{} // holds one token while an operation runs
	done    chan struct{} // closed once err is set
	stopped chan struct{} // closed when the reader has ended

	writing sync.Mutex // one message at a time on nc

	// Belong to whoever holds the turn: room for encoding, and how the bridge prints flows that it prints in a form of its own.
	scratch []byte
	forms   map[identity]string

	mu        sync.Mutex // guards the rest
	err       error
	nextXID   uint32
	current   *operation
	strangers strangers
}

// operation is a request, or a run of them, that waits for replies to transaction ids first to first+count-1.
type operation struct {
	first, count uint32
	// handle takes a reply, in the reader's goroutine; the operation is over when it says so or gives an error.
	handle func(message) (over bool, err error)
	result chan error // buffered, one value
}

// ErrClosed is the error of a connection that Close ended.
var ErrClosed = errors.New("the OpenFlow connection was closed")

// Dial connects and agrees on a version. A bridge that OVS has not built yet gives an error for which NotYet is true.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	if len(o.Versions) == 0 {
		o.Versions = []Version{Version14, Version15}
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", o.Socket)
	if err != nil {
		return nil, fmt.Errorf("OpenFlow socket %s: %w", o.Socket, err)
	}
	reader := bufio.NewReaderSize(nc, 64<<10)
	version, err := handshake(ctx, nc, reader, o.Versions)
	if err != nil {
		return nil, fmt.Errorf("OpenFlow socket %s: handshake: %w", o.Socket, errors.Join(err, nc.Close()))
	}
	c := &Conn{
		socket: o.Socket, version: version, log: o.Logger, ports: o.Ports, nc: nc, nextXID: 1,
		turn: make(chan struct{}, 1), done: make(chan struct{}), stopped: make(chan struct{}),
	}
	go c.read(reader)
	if o.Ports != nil {
		if err := c.followPorts(); err != nil {
			return nil, errors.Join(fmt.Errorf("OpenFlow socket %s: %w", o.Socket, err), c.Close())
		}
	}
	return c, nil
}

// NotYet says whether an error of Dial means that there is no such bridge at present: OVS has not built it yet, or is down.
func NotYet(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// DialWait is Dial for a bridge that is expected to appear: it tries again, with growing pauses from 1 to 20 ms, until the
// context ends. Other errors than NotYet are returned at once.
func DialWait(ctx context.Context, o Options) (*Conn, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		c, err := Dial(ctx, o)
		if err == nil || !NotYet(err) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// handshake exchanges hellos. The context bounds it.
func handshake(ctx context.Context, nc net.Conn, r io.Reader, versions []Version) (Version, error) {
	stop := context.AfterFunc(ctx, func() {
		// Makes the read below fail; its error is reported.
		_ = nc.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	if _, err := nc.Write(appendHello(nil, versions)); err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	m, err := readMessage(r)
	if err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	if m.kind != typeHello {
		return 0, fmt.Errorf("the bridge began with message type %d, not with a hello", m.kind)
	}
	v, err := negotiate(m, versions)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	return v, err
}

func readMessage(r io.Reader) (message, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return message{}, err
	}
	m, length, err := decodeHeader(header[:])
	if err != nil {
		return message{}, err
	}
	m.body = make([]byte, length-headerLen)
	_, err = io.ReadFull(r, m.body)
	return m, err
}

// Version is the version spoken.
func (c *Conn) Version() Version { return c.version }

// Done is closed when the connection is lost or closed: the bridge may have lost its flows (a restart of ovs-vswitchd), so
// dial again and Sync.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why Done is closed; nil before.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits for its goroutine. It may be called more than once.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	<-c.stopped
	return nil
}

// fail ends the connection with a reason; only the first counts.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("OpenFlow socket %s: %w", c.socket, err)
	close(c.done)
	if err := c.nc.Close(); err != nil {
		c.log.Warn("closing an OpenFlow connection", "socket", c.socket, "error", err)
	}
}

func (c *Conn) read(r io.Reader) {
	defer close(c.stopped)
	for {
		m, err := readMessage(r)
		if err == nil {
			err = c.dispatch(m)
		}
		if err != nil {
			c.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
	}
}

// dispatch answers echoes and hands replies to the operation that waits for them.
func (c *Conn) dispatch(m message) error {
	if m.kind == typeEchoRequest {
		return c.write(end(append(begin(nil, c.version, typeEchoReply, m.xid), m.body...), 0))
	}
	if m.kind == typePortStatus {
		return c.portStatus(m)
	}
	op := c.waiting(m.xid)
	if op == nil {
		c.logStray(m)
		return nil
	}
	over, err := op.handle(m)
	if over || err != nil {
		c.setCurrent(nil)
		op.result <- err
	}
	return nil
}

// waiting is the operation that asked with this transaction id.
func (c *Conn) waiting(xid uint32) *operation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op := c.current; op != nil && xid-op.first < op.count {
		return op
	}
	return nil
}

func (c *Conn) setCurrent(op *operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = op
}

// logStray reports an error that belongs to no operation. Other messages (port status, a reply too many) mean nothing here.
func (c *Conn) logStray(m message) {
	if m.kind != typeError {
		return
	}
	if e, err := decodeError(m.body); err == nil {
		c.log.Warn("an OpenFlow error that belongs to no request", "socket", c.socket, "xid", m.xid, "error", e)
	}
}

func (c *Conn) write(b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.nc.Write(b)
	return err
}

// take reserves n transaction ids, never 0, which hello uses.
func (c *Conn) take(n uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nextXID > ^uint32(0)-n {
		c.nextXID = 1
	}
	first := c.nextXID
	c.nextXID += n
	return first
}

// exclusive runs f while no other operation runs.
func (c *Conn) exclusive(ctx context.Context, f func() error) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return c.Err()
	}
	defer func() { <-c.turn }()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return f()
}

// exchange writes requests and waits until op is over. The caller holds the turn.
func (c *Conn) exchange(ctx context.Context, requests []byte, op *operation) error {
	op.result = make(chan error, 1)
	c.setCurrent(op)
	stop := context.AfterFunc(ctx, func() {
		c.fail(fmt.Errorf("given up while an operation was under way, its outcome is unknown: %w", context.Cause(ctx)))
	})
	defer stop()
	if err := c.write(requests); err != nil {
		c.fail(fmt.Errorf("connection lost: %w", err))
		return c.Err()
	}
	select {
	case err := <-op.result:
		return err
	case <-c.done:
		return c.Err()
	}
}

// Barrier returns when the bridge has processed everything sent before it.
func (c *Conn) Barrier(ctx context.Context) error { return c.fence(ctx, typeBarrierRequest) }

// fence sends messages of a kind that has no replies, and returns when the bridge has carried them out.
func (c *Conn) fence(ctx context.Context, kind uint8, bodies ...[]byte) error {
	return c.exclusive(ctx, func() error {
		n := uint32(len(bodies)) //nolint:gosec // few
		xid := c.take(n + 1)
		var requests []byte
		for i, body := range bodies {
			start := len(requests)
			requests = end(append(begin(requests, c.version, kind, xid+uint32(i)), body...), start) //nolint:gosec // below n
		}
		requests = end(begin(requests, c.version, typeBarrierRequest, xid+n), len(requests))
		op := &operation{first: xid, count: n + 1, handle: func(m message) (bool, error) {
			return true, expect(m, typeBarrierReply)
		}}
		return c.exchange(ctx, requests, op)
	})
}

// fragmentsByMatch is OFPC_FRAG_NX_MATCH of nicira-ext.h.
const fragmentsByMatch = 3

// MatchFragments has the whole bridge match the ports of a packet's first fragment as those of a whole packet, and tell first
// from later ones; usually it matches all fragments as if they had port 0 (ovs-ofctl(8), set-frags). Idempotent.
func (c *Conn) MatchFragments(ctx context.Context) error {
	return c.fence(ctx, typeSetConfig, be16(be16(nil, fragmentsByMatch), 0)) // no packets to this connection
}

// flushZone is NXT_CT_FLUSH_ZONE of ofp-msgs.h, which Open vSwitch has had since 2.6.
const flushZone = 29

// ForgetZones has conntrack forget all connections of some zones (struct nx_zone_id of nicira-ext.h). Zones are those of the
// bridge's datapath: other bridges share them.
func (c *Conn) ForgetZones(ctx context.Context, zones ...uint16) error {
	var bodies [][]byte
	for _, zone := range zones {
		bodies = append(bodies, be16(zeros(be32(be32(nil, niciraVendor), flushZone), 6), zone))
	}
	if err := c.fence(ctx, typeExperimenter, bodies...); err != nil {
		return fmt.Errorf("emptying conntrack zones %v: %w", zones, err)
	}
	return nil
}

// expect turns an error message, or one of another type than asked for, into an error.
func expect(m message, kind uint8) error {
	if m.kind == typeError {
		e, err := decodeError(m.body)
		if err != nil {
			return fmt.Errorf("an error message of the bridge: %w", err)
		}
		return e
	}
	if m.kind != kind {
		return fmt.Errorf("the bridge answered with message type %d where %d was expected", m.kind, kind)
	}
	return nil
}

// Dump lists every flow of the bridge, strangers' included, in no order.
func (c *Conn) Dump(ctx context.Context) ([]Entry, error) {
	var entries []Entry
	err := c.exclusive(ctx, func() error {
		var err error
		entries, err = c.dump(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing flows: %w", err)
	}
	return entries, nil
}

func (c *Conn) dump(ctx context.Context) ([]Entry, error) {
	xid := c.take(1)
	var entries []Entry
	op := &operation{first: xid, count: 1, handle: func(m message) (bool, error) {
		if err := expect(m, typeMultipartReply); err != nil {
			return true, err
		}
		part, more, err := decodeFlowReply(c.version, m.body)
		entries = append(entries, part...)
		return !more, err
	}}
	err := c.exchange(ctx, appendFlowRequest(nil, c.version, xid, 0, 0), op)
	return entries, err
}

// bundleReply checks an OFPT_BUNDLE_CONTROL of the wanted kind.
func bundleReply(m message, want uint16) error {
	if err := expect(m, typeBundleControl); err != nil {
		return err
	}
	if len(m.body) < 8 {
		return errTruncated
	}
	if got := binary.BigEndian.Uint16(m.body[4:]); got != want {
		return fmt.Errorf("bundle control reply of type %d where %d was expected", got, want)
	}
	return nil
}
