// Package neighbour reads and writes the kernel's IPv4 neighbour entries of a namespace (arp(7), rtnetlink(7)): which MAC
// address is behind an address of a link. A router that is taken over forwards its first packet without asking for its
// neighbours when its namespace has them already (agent/replica brings them there).
//
// The package neither asks for a neighbour nor says where entries are copied to.
//
// # Ownership
//
// What Hold puts carries the flag NTF_EXT_LEARNED ("extern_learn" in `ip neigh`), which the kernel keeps whatever it learns
// later, and which spares the entry from the kernel's collection of unused ones: those of standbys are all unused. Entries
// without the flag are the kernel's own or a stranger's: Hold does not remove them, and replaces none that is in force.
//
// # Silence
//
// What Hold puts is stale (NUD_STALE). The kernel asks about such an entry when, and only when, it has sent a packet by it: a
// namespace that nothing passes asks for nobody.
package neighbour

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Entry says which MAC address is behind an address of a link.
type Entry struct {
	Link    string
	Address netip.Addr // IPv4
	MAC     [6]byte
}

// Valid reports whether the entry can be one of a host.
func (e *Entry) Valid() bool {
	mac := e.MAC
	return e.Link != "" && len(e.Link) < unix.IFNAMSIZ && e.Address.Is4() && (e.Address.IsGlobalUnicast() || e.Address.IsLinkLocalUnicast()) &&
		mac[0]&1 == 0 && mac != [6]byte{}
}

// Remembered is how long ago an entry must have been confirmed at most for List to list it: who has said nothing for so long
// may have gone, and entries that were put are never collected.
const Remembered = 15 * time.Minute

// clockTick is the unit of the kernel's ages: USER_HZ, 100 on every architecture that Go knows (struct nda_cacheinfo).
const clockTick = 10 * time.Millisecond

// The states by which the kernel sends; in force are those in which it has been told lately, or is finding out
// (linux/neighbour.h).
const (
	valid   = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
	inForce = valid &^ unix.NUD_STALE
	learned = valid &^ unix.NUD_PERMANENT &^ unix.NUD_NOARP
)

// List lists the neighbours that the calling thread's namespace has learned, those that were confirmed last first and at most
// so many; and how many it left out for that.
func List(limit int) (entries []Entry, dropped int, err error) {
	t, err := open()
	if err != nil {
		return nil, 0, err
	}
	defer t.Close()
	all := slices.DeleteFunc(t.neighbours, func(n netlink.Neigh) bool {
		return n.State&learned == 0 || time.Duration(n.Confirmed)*clockTick > Remembered
	})
	slices.SortStableFunc(all, func(a, b netlink.Neigh) int { return cmp.Compare(a.Confirmed, b.Confirmed) })
	for i := range all {
		e := t.entry(&all[i])
		switch {
		case !e.Valid():
		case len(entries) == limit:
			dropped++
		default:
			entries = append(entries, e)
		}
	}
	return entries, dropped, nil
}

// Result counts what was written.
type Result struct{ Put, Removed int }

// Hold has the calling thread's namespace know neighbours, and forget those of earlier calls that are not among them. One that
// the namespace knows otherwise stays as it is while that is in force; one on a link that is not there, or that is not Valid,
// is left out. Nothing is written when everything is so already.
func Hold(want []Entry) (Result, error) {
	var r Result
	t, err := open()
	if err != nil {
		return r, err
	}
	defer t.Close()
	have := map[place]*netlink.Neigh{}
	for i := range t.neighbours {
		n := &t.neighbours[i]
		if at, ok := netip.AddrFromSlice(n.IP.To4()); ok {
			have[place{n.LinkIndex, at}] = n
		}
	}
	for i := range want {
		at := place{t.indexes[want[i].Link], want[i].Address}
		there := have[at]
		delete(have, at)
		if at.link == 0 || !want[i].Valid() || there != nil && (there.State&inForce != 0 || put(there) && t.entry(there) == want[i]) {
			continue
		}
		if err := t.NeighSet(stale(at, want[i].MAC)); err != nil {
			return r, fmt.Errorf("neighbour %s of link %s: %w", want[i].Address, want[i].Link, err)
		}
		r.Put++
	}
	for _, n := range have {
		if !put(n) {
			continue
		}
		if err := t.NeighDel(n); err != nil {
			return r, fmt.Errorf("remove neighbour %s: %w", n.IP, err)
		}
		r.Removed++
	}
	return r, nil
}

// place is where there is at most one entry.
type place struct {
	link    int // index; 0 is no link's
	address netip.Addr
}

// put reports whether Hold has put an entry.
func put(n *netlink.Neigh) bool { return n.Flags&unix.NTF_EXT_LEARNED != 0 }

func stale(at place, mac [6]byte) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: at.link, Family: unix.AF_INET, State: unix.NUD_STALE, Flags: unix.NTF_EXT_LEARNED,
		IP: at.address.AsSlice(), HardwareAddr: net.HardwareAddr(mac[:]),
	}
}

// table is a namespace's neighbours as they were when it was opened.
type table struct {
	*netlink.Handle
	neighbours []netlink.Neigh
	names      map[int]string
	indexes    map[string]int
}

func open() (*table, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	t := &table{Handle: h, names: map[int]string{}, indexes: map[string]int{}}
	links, err := h.LinkList()
	if err == nil {
		t.neighbours, err = h.NeighListExecute(netlink.Ndmsg{Family: unix.AF_INET})
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("list links and neighbours: %w", err)
	}
	for _, l := range links {
		t.names[l.Attrs().Index], t.indexes[l.Attrs().Name] = l.Attrs().Name, l.Attrs().Index
	}
	return t, nil
}

// entry is what the kernel says; not Valid where that is not about a host.
func (t *table) entry(n *netlink.Neigh) Entry {
	at, _ := netip.AddrFromSlice(n.IP.To4())
	e := Entry{Link: t.names[n.LinkIndex], Address: at}
	if len(n.HardwareAddr) == len(e.MAC) {
		e.MAC = [6]byte(n.HardwareAddr)
	}
	return e
}
