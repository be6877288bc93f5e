package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// netlinkTimeout bounds one netlink exchange; the kernel answers in microseconds.
const netlinkTimeout = 5 * time.Second

// Announce is an address that has just become reachable through a link: what agent/garp needs to tell its neighbours.
type Announce struct {
	Namespace, Link string
	MAC             net.HardwareAddr
	Address         netip.Addr
}

// Prepare creates the namespace if it is absent, with forwarding off and its loopback up, writes the sysctls, sets down
// weft's links that are no longer wanted, so that nothing leaves through them while the NAT rules change, and makes the
// wanted links that are missing, with their outer ends on the host, up; the links themselves are up if the namespace does not
// forward yet, else down. Idempotent. ErrForeign if the name is taken,
// ErrLinkForeign if that of a link is, ErrLinkRemains while OVS holds another device under it; the other links are made.
// The report is valid beside an error.
func (m *Manager) Prepare(ctx context.Context, want desired.Namespace) (Report, error) {
	return m.walk(ctx, want, func(p *pass) { p.prepare() })
}

// Ensure brings links, addresses and routes of a namespace to what is wanted, after everything Prepare does; it does
// not touch the forwarding switch. On weft's links the set of global IPv4 addresses is made exactly the wanted one; of the
// routes only those of protocol static in the main table are looked at. Other links, addresses of other scopes, and other
// routes stay.
//
// Idempotent; what is right is not written again. A failure of one link or route does not stop the others; the error
// joins one per object. The report is valid beside an error.
func (m *Manager) Ensure(ctx context.Context, want desired.Namespace) (Report, error) {
	return m.walk(ctx, want, func(p *pass) {
		if p.prepare() {
			p.ensure()
		}
	})
}

// Prune removes weft's links that are not wanted, with their outer ends. Idempotent. ErrLinkRemains while OVS has a port
// for one: the port goes first; the others are removed.
func (m *Manager) Prune(ctx context.Context, want desired.Namespace) (Report, error) {
	var r Report
	err := m.pass(ctx, &pass{want: want, report: &r}, (*pass).prune)
	return r, err
}

// walk creates the namespace if it is absent, and goes through it.
func (m *Manager) walk(ctx context.Context, want desired.Namespace, step func(*pass)) (Report, error) {
	var r Report
	if !Named(want.Name) {
		return r, fmt.Errorf("namespace %q: name must be qrouter-<uuid> or qdhcp-<uuid>", want.Name)
	}
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("namespace %s: %w", want.Name, err)
	}
	created, err := m.create(want.Name)
	if err != nil {
		return r, err
	}
	if created {
		r = Report{Created: true, Writes: 1}
		m.log.Info("namespace created", "namespace", want.Name)
	}
	err = m.pass(ctx, &pass{want: want, report: &r}, step)
	return r, err
}

// pass is one walk through one namespace, on a thread inside it.
type pass struct {
	m      *Manager
	ctx    context.Context
	want   desired.Namespace
	report *Report
	host   *netlink.Handle // the agent's own namespace, where OVS takes the links' outer ends
	inside *netlink.Handle
	// Sockets for ioctl, on the host and in the namespace.
	hostSock, sock int
	target         int // the namespace, for making links in it
	links          map[string]netlink.Link
	errs           []error
	// dry: nothing is written, what differs is found.
	dry   bool
	found []desired.Difference
}

// pass runs step inside the namespace and joins the errors it collected. The caller gives what is wanted, and the report.
func (m *Manager) pass(ctx context.Context, p *pass, step func(*pass)) error {
	host, err := newHandle()
	if err != nil {
		return fmt.Errorf("namespace %s: %w", p.want.Name, err)
	}
	defer host.Close()
	sock, err := ioctlSocket()
	if err != nil {
		return fmt.Errorf("namespace %s: %w", p.want.Name, err)
	}
	defer func() { _ = unix.Close(sock) }() // nothing is pending on it
	p.m, p.ctx, p.host, p.hostSock = m, ctx, host, sock
	if err := m.Run(p.want.Name, func() error { return p.inNamespace(step) }); err != nil {
		p.errs = append(p.errs, err)
	}
	return errors.Join(p.errs...)
}

func (p *pass) inNamespace(step func(*pass)) error {
	var err error
	if p.inside, err = newHandle(); err != nil {
		return fmt.Errorf("namespace %s: %w", p.want.Name, err)
	}
	defer p.inside.Close()
	if p.sock, err = ioctlSocket(); err != nil {
		return fmt.Errorf("namespace %s: %w", p.want.Name, err)
	}
	defer func() { _ = unix.Close(p.sock) }() // nothing is pending on it
	self, err := os.Open(threadNS)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", p.want.Name, err)
	}
	defer self.Close()
	p.target = int(self.Fd())
	if err := p.observeLinks(); err != nil {
		return err
	}
	step(p)
	return nil
}

// newHandle opens a route netlink socket in the calling thread's namespace.
func newHandle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return h, nil
}

// ioctlSocket opens a socket in the calling thread's namespace for ethtool's requests.
func ioctlSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket for ethtool: %w", err)
	}
	return fd, nil
}

func (p *pass) observeLinks() error {
	links, err := p.inside.LinkList()
	if err != nil {
		return fmt.Errorf("namespace %s: list links: %w", p.want.Name, err)
	}
	p.links = make(map[string]netlink.Link, len(links))
	for _, l := range links {
		p.links[l.Attrs().Name] = l
	}
	return nil
}

// fail notes an error of one object.
func (p *pass) fail(err error) {
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("namespace %s: %w", p.want.Name, err))
	}
}

// write counts and makes one change, which mends a difference, and tells whether it worked. A dry pass notes the
// difference instead.
func (p *pass) write(d desired.Difference, change func() error) bool {
	if p.dry {
		d.Object = strings.TrimSuffix(p.want.Name+"/"+d.Object, "/")
		p.found = append(p.found, d)
		return false
	}
	if err := p.ctx.Err(); err != nil {
		p.fail(fmt.Errorf("%s: %w", d, err))
		return false
	}
	p.m.writes.Add(1)
	p.report.Writes++
	if err := change(); err != nil {
		p.fail(fmt.Errorf("%s: %w", d, err))
		return false
	}
	return true
}

// onLink is a difference of a link.
func onLink(name, want, have string) desired.Difference {
	return desired.Difference{Kind: "link", Object: name, Desired: want, Actual: have}
}

func up(l netlink.Link) bool { return l.Attrs().Flags&net.FlagUp != 0 }

// prepare reports whether the sysctls are in, without which nothing more is to happen.
func (p *pass) prepare() bool {
	if err := p.setSysctls("", p.want.Sysctls); err != nil {
		p.fail(err)
		return false
	}
	p.fail(p.setSysctl("", promoteSecondaries, "1"))
	if lo := p.links["lo"]; lo != nil && !up(lo) {
		p.write(onLink("lo", "up", "down"), func() error { return p.inside.LinkSetUp(lo) })
	}
	for name, l := range p.links {
		if OwnedLink(name) && !p.wanted(name) && up(l) {
			p.write(onLink(name, "", "up"), func() error { return p.inside.LinkSetDown(l) })
		}
	}
	p.pairs()
	return true
}

func (p *pass) wanted(link string) bool {
	return slices.ContainsFunc(p.want.Links, func(l desired.Link) bool { return l.Name == link })
}
