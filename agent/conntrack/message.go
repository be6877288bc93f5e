package conntrack

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of linux/netfilter/nfnetlink_conntrack.h. netlink.ConntrackDeleteFilters would do, but it reads the whole
// table into this process; with CTA_FILTER the kernel selects.
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP = 1 // in a tuple
	ctaIPv4Src = 1 // in ctaTupleIP
	ctaIPv4Dst = 2

	ctaFilterOrigFlags  = 1 // in ctaFilter: which parts of the original tuple are compared
	ctaFilterReplyFlags = 2
	filterIPSrc         = 1 << 0 // net/netfilter/nf_internals.h
	filterIPDst         = 1 << 1
)

// nfgenmsgLen is the length of struct nfgenmsg, which precedes the attributes.
const nfgenmsgLen = 4

// typeMask takes the flags off an attribute's type (linux/netlink.h, NLA_TYPE_MASK).
const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// place is one of the four places an address may have in an entry.
type place struct {
	tuple, address uint16 // attribute types
	flagAttr       int
	flag           uint32
}

func places() []place {
	return []place{
		{ctaTupleOrig, ctaIPv4Src, ctaFilterOrigFlags, filterIPSrc},
		{ctaTupleOrig, ctaIPv4Dst, ctaFilterOrigFlags, filterIPDst},
		{ctaTupleReply, ctaIPv4Src, ctaFilterReplyFlags, filterIPSrc},
		{ctaTupleReply, ctaIPv4Dst, ctaFilterReplyFlags, filterIPDst},
	}
}

// match is an address in a place.
type match struct {
	place
	addr netip.Addr
}

// selection is what to look for: entries with one of the addresses in any place; of those, if only is given, the kernel
// is asked for the ones that match it.
type selection struct {
	addrs []netip.Addr
	only  *match
}

// entry is what identifies an entry to the kernel: its original tuple, zone and id, as it printed them.
type entry []syscall.NetlinkRouteAttr

func request(message, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|message, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: unix.NFNETLINK_V0})
	return req
}

// list reads the entries that match, and reports whether the table stood still meanwhile.
func list(s selection) (found []entry, complete bool, err error) {
	req := request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	if s.only != nil {
		s.only.add(req)
	}
	messages, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	complete = !errors.Is(err, netlink.ErrDumpInterrupted)
	if err != nil && complete {
		return nil, false, err
	}
	for _, msg := range messages {
		e, err := s.read(msg)
		if err != nil {
			return nil, false, err
		}
		if e != nil {
			found = append(found, e)
		}
	}
	return found, complete, nil
}

// add puts the filter into a request.
func (m match) add(req *nl.NetlinkRequest) {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|int(m.tuple), nil)
	tuple.AddRtAttr(unix.NLA_F_NESTED|ctaTupleIP, nil).AddRtAttr(int(m.address), m.addr.AsSlice())
	req.AddData(tuple)
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
	filter.AddRtAttr(m.flagAttr, nl.Uint32Attr(m.flag))
	req.AddData(filter)
}

// read takes an entry from a message; nil if it has none of the addresses.
func (s selection) read(msg []byte) (entry, error) {
	if len(msg) < nfgenmsgLen {
		return nil, errors.New("short message")
	}
	attrs, err := nl.ParseRouteAttr(msg[nfgenmsgLen:])
	if err != nil {
		return nil, err
	}
	concerned := false
	for _, p := range places() {
		b, err := descend(attrs, p.tuple, ctaTupleIP, p.address)
		if err != nil {
			return nil, err
		}
		ip, ok := netip.AddrFromSlice(b)
		concerned = concerned || ok && slices.Contains(s.addrs, ip)
	}
	if !concerned {
		return nil, nil
	}
	var e entry
	for _, a := range attrs {
		switch a.Attr.Type & typeMask {
		case ctaTupleOrig, ctaZone, ctaID:
			e = append(e, a)
		}
	}
	return e, nil
}

// descend finds a nested attribute; nil if it is not there.
func descend(attrs []syscall.NetlinkRouteAttr, path ...uint16) ([]byte, error) {
	for _, a := range attrs {
		if a.Attr.Type&typeMask != path[0] {
			continue
		}
		if len(path) == 1 {
			return a.Value, nil
		}
		inner, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return nil, err
		}
		return descend(inner, path[1:]...)
	}
	return nil, nil
}

// remove deletes the entry and reports whether it was still there. The id keeps it from being taken for a newer one of
// the same tuple.
func (e entry) remove() (bool, error) {
	req := request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	for _, a := range e {
		req.AddData(nl.NewRtAttr(int(a.Attr.Type), a.Value))
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
