package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// maxVisits is how many connections there may be at one place, all its guests together.
const maxVisits = 256

// door is the listening socket of one place. It lets in whom the limits let in.
type door struct {
	*net.TCPListener
	at    wire.Listener
	proxy *Proxy

	mu     sync.Mutex
	closed bool
	visits map[*visit]bool
}

// visitKey is the key of a request's visit in its context.
type visitKey struct{}

// visit is a guest's connection.
type visit struct {
	net.Conn
	at      wire.Place
	source  netip.Addr
	limited bool // the guest asks too often
	header  header
	door    *door
	leave   func()
}

// Accept waits for a guest; the others are sent away.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.AcceptTCP()
		if err != nil {
			return nil, err
		}
		v, err := d.receive(c)
		if err == nil {
			return v, nil
		}
		d.proxy.count("cut")
		_ = c.SetLinger(0) // it is told at once, and nothing of the connection is kept
		_ = c.Close()
	}
}

// receive takes note of a guest, or says why it is sent away.
func (d *door) receive(c *net.TCPConn) (*visit, error) {
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err == nil && d.at.Router != "" {
		err = redirected(c)
	}
	if err != nil {
		return nil, err
	}
	who := visitor{d.at.Place, from.Addr().Unmap()}
	verdict := d.proxy.limits.enter(who, time.Now())
	if verdict == sentAway {
		return nil, errors.New("too many connections or requests")
	}
	v := &visit{Conn: c, at: d.at.Place, source: who.source, limited: verdict == slowedDown, door: d}
	v.leave = sync.OnceFunc(func() {
		d.proxy.limits.leave(who)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.visits, v)
	})
	d.mu.Lock()
	full := d.closed || len(d.visits) >= maxVisits
	if !full {
		d.visits[v] = true
	}
	d.mu.Unlock()
	if full {
		v.leave()
		return nil, errors.New("too many connections here")
	}
	return v, nil
}

// service is where guests ask.
const service = "169.254.169.254:80"

// redirected wants a connection to have been made to the service's address. A router listens on all its addresses, and who
// connects to one of those itself, from outside perhaps, is no guest.
func redirected(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var to *unix.IPv6Mreq // as long as the sockaddr_in that netfilter gives (linux/netfilter_ipv4.h, SO_ORIGINAL_DST)
	var inner error
	err = raw.Control(func(fd uintptr) { to, inner = unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, unix.SO_ORIGINAL_DST) })
	if err = errors.Join(err, inner); err != nil {
		return fmt.Errorf("original destination: %w", err)
	}
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte(to.Multiaddr[4:8])), binary.BigEndian.Uint16(to.Multiaddr[2:4]))
	if dst.String() != service {
		return fmt.Errorf("made to %s", dst)
	}
	return nil
}

// shut closes the door and ends the visits.
func (d *door) shut() {
	_ = d.Close() // an error says that it is closed already
	d.mu.Lock()
	d.closed = true
	var visits []*visit
	for v := range d.visits {
		visits = append(visits, v)
	}
	d.mu.Unlock()
	for _, v := range visits {
		_ = v.Close()
	}
}

// Read is net.Conn's; a header that is not strictly of the form is an error.
func (v *visit) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	if malformed := v.header.check(b[:n]); malformed != nil {
		v.door.proxy.count("malformed")
		return 0, malformed
	}
	return n, err
}

// Close is net.Conn's.
func (v *visit) Close() error {
	v.leave()
	return v.Conn.Close()
}
