// Package ipset holds weft's IP sets in a network namespace at their wanted content, by netlink: sets of type hash:net
// (ipset(8)), which rules of iptables refer to. It knows nothing of those rules: a set that a rule refers to can't be removed,
// so callers make sets before the rules and remove them after.
//
// A set is weft's when Owned says so by its name. Others are never touched.
package ipset

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/proto/model"
)

// maxElements bounds a set: more than all addresses that a project's ports and an address group can have.
const maxElements = 1 << 20

var name = regexp.MustCompile(`^` + desired.IPSetPrefix + `[46]-[0-9a-f]{1,24}$`)

// Owned is the ownership predicate: a set of this name is weft's.
func Owned(set string) bool { return name.MatchString(set) }

// Driver holds the sets of one namespace, that of the goroutine's thread which calls it. It remembers what it last saw or
// wrote; its methods must not overlap.
type Driver struct {
	have   sets // nil: not read yet
	writes uint64
}

// sets are members by the set's name.
type sets map[string]map[netip.Prefix]bool

// Writes counts the changes made since the start.
func (d *Driver) Writes() uint64 { return d.writes }

// Ensure makes the sets that are wanted and gives them their members, against what the driver remembers; the first time, and
// after an error, it reads them first. It removes no set. Idempotent; a change of n members is n changes, each at once.
// Failed are, by name, the sets that are not as wanted, and why; the others are. An error: nothing could be done.
func (d *Driver) Ensure(want []desired.IPSet) (failed map[string]error, err error) {
	if d.have == nil {
		if err := d.read(); err != nil {
			return nil, err
		}
	}
	failed = map[string]error{}
	for _, s := range want {
		if err := d.ensure(s); err != nil {
			failed[s.Name] = fmt.Errorf("IP set %s: %w", s.Name, err)
		}
	}
	if len(failed) > 0 {
		d.have = nil
	}
	return failed, nil
}

// Prune removes the sets of weft's that are not wanted. One that a rule refers to still is an error.
func (d *Driver) Prune(want []desired.IPSet) error {
	if d.have == nil {
		if err := d.read(); err != nil {
			return err
		}
	}
	keep := map[string]bool{}
	for _, s := range want {
		keep[s.Name] = true
	}
	for _, set := range slices.Sorted(maps.Keys(d.have)) {
		if keep[set] {
			continue
		}
		d.writes++
		if err := netlink.IpsetDestroy(set); err != nil && !errors.Is(err, unix.ENOENT) {
			d.have = nil
			return fmt.Errorf("remove IP set %s: %w", set, err)
		}
		delete(d.have, set)
	}
	return nil
}

// Resync has the next call read what is there.
func (d *Driver) Resync() { d.have = nil }

// Diff tells how the sets really there differ from what is wanted, without changing anything.
func (d *Driver) Diff(want []desired.IPSet) ([]desired.Difference, error) {
	have, err := read()
	if err != nil {
		return nil, err
	}
	var out []desired.Difference
	for _, s := range want {
		members, there := have[s.Name]
		if !there {
			out = append(out, desired.Difference{Kind: "ipset", Object: s.Name, Desired: fmt.Sprintf("a set of %d members", len(s.Members))})
			continue
		}
		missing, surplus := compare(members, s.Members)
		for _, p := range missing {
			out = append(out, desired.Difference{Kind: "ipset", Object: s.Name, Desired: p.String()})
		}
		for _, p := range surplus {
			out = append(out, desired.Difference{Kind: "ipset", Object: s.Name, Actual: p.String()})
		}
		delete(have, s.Name)
	}
	for _, set := range slices.Sorted(maps.Keys(have)) {
		out = append(out, desired.Difference{Kind: "ipset", Object: set, Actual: fmt.Sprintf("a set of %d members", len(have[set]))})
	}
	return out, nil
}

// compare lists, sorted, the wanted members that are missing, and those that are not wanted.
func compare(have map[netip.Prefix]bool, want []netip.Prefix) (missing, surplus []netip.Prefix) {
	wanted := map[netip.Prefix]bool{}
	for _, p := range want {
		if wanted[p] = true; !have[p] {
			missing = append(missing, p)
		}
	}
	for p := range have {
		if !wanted[p] {
			surplus = append(surplus, p)
		}
	}
	slices.SortFunc(surplus, model.ComparePrefixes)
	return missing, surplus
}

func (d *Driver) ensure(want desired.IPSet) error {
	if !Owned(want.Name) {
		return errors.New("the name must be " + desired.IPSetPrefix + `4- or ` + desired.IPSetPrefix + `6- and up to 24 hexadecimal digits`)
	}
	have, there := d.have[want.Name]
	if !there {
		if err := d.create(want); err != nil {
			return err
		}
		have = map[netip.Prefix]bool{}
		d.have[want.Name] = have
	}
	missing, surplus := compare(have, want.Members)
	for _, p := range missing {
		d.writes++
		if err := netlink.IpsetAdd(want.Name, entry(p)); err != nil && !taken(err) {
			return fmt.Errorf("add %s: %w", p, err)
		}
		have[p] = true
	}
	for _, p := range surplus {
		d.writes++
		if err := netlink.IpsetDel(want.Name, entry(p)); err != nil && !taken(err) {
			return fmt.Errorf("remove %s: %w", p, err)
		}
		delete(have, p)
	}
	return nil
}

// taken reports whether an error says that a member is there already, or gone already.
func taken(err error) bool {
	return errors.Is(err, nl.IPSetError(nl.IPSET_ERR_EXIST))
}

func (d *Driver) create(want desired.IPSet) error {
	family := uint8(unix.AF_INET)
	if want.IPv6 {
		family = unix.AF_INET6
	}
	d.writes++
	if err := netlink.IpsetCreate(want.Name, "hash:net", netlink.IpsetCreateOptions{Family: family, MaxElements: maxElements}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

func entry(p netip.Prefix) *netlink.IPSetEntry {
	return &netlink.IPSetEntry{IP: net.IP(p.Addr().AsSlice()), CIDR: uint8(p.Bits())} //nolint:gosec // 1 to 128
}

func (d *Driver) read() (err error) {
	d.have, err = read()
	return err
}

// read reads weft's sets. A large one comes in several parts. A kernel without IP sets has none: it does not know the subsystem
// that is asked for (net/netfilter/nfnetlink.c, EINVAL), and says so again when one is to be made.
func read() (sets, error) {
	all, err := netlink.IpsetListAll()
	if errors.Is(err, unix.EINVAL) {
		return sets{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list IP sets: %w", err)
	}
	out := sets{}
	for _, s := range all {
		if !Owned(s.SetName) {
			continue
		}
		if out[s.SetName] == nil {
			out[s.SetName] = map[netip.Prefix]bool{}
		}
		for _, e := range s.Entries {
			if p, ok := prefix(e); ok {
				out[s.SetName][p] = true
			}
		}
	}
	return out, nil
}

func prefix(e netlink.IPSetEntry) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(e.IP)
	ip = ip.Unmap()
	bits := int(e.CIDR)
	if bits == 0 {
		bits = ip.BitLen()
	}
	return netip.PrefixFrom(ip, bits), ok
}
