// Package conntrack reads and writes the kernel's IPv4 connection tracking entries of a namespace, by netlink
// (linux/netfilter/nfnetlink_conntrack.h). It does three things:
//
// A Forgetter removes the entries that concern an address. An entry outlives the NAT rules it was made by: after a
// floating IP has moved or gone, its old connections would go on being translated the old way.
//
// A Table lists entries and makes them what they were elsewhere, translations included; Events tell of changes as they
// happen. That is what connections survive a move of their router by (agent/replica). The kernel translates an entry that
// is made only if it is told the translations beside a way back that has none, with the status of an entry in use; of a
// TCP connection it must be told not to look at windows, which it has not seen.
//
// The package does not decide when to forget, and not which entries are copied where.
//
// Ownership: a namespace of weft's holds no entries but those of the traffic weft routes, so there is none to spare.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// countFile holds the number of entries of the reading thread's namespace (nf_conntrack-sysctl).
const countFile = "/proc/sys/net/netfilter/nf_conntrack_count"

// few is up to how many entries are read all at once. One walk through the kernel's table costs some 10 ms, which is
// its size and not its content, and each entry that is read 7 µs; the kernel selects by one place of one address, so
// that takes four walks per address.
const few = 4096

// attempts bounds how often a table that changed while it was read is read again.
const attempts = 5

// Forgetter removes entries. It keeps no state; its methods may be called concurrently.
type Forgetter struct {
	// Enter calls a function on a locked thread inside a named namespace: netns.Manager.Run.
	Enter func(namespace string, fn func() error) error
}

// Forget removes every IPv4 entry of the namespace in which one of the addresses is the source or the destination of
// the original or of the reply direction, and returns how many it removed. For a floating IP F of a fixed address I
// these are the connections from outside (original destination F) and those from I (reply destination F); connections
// of I that were not translated to F stay, unless I is named too. Idempotent: no entry is success. Call it when the new
// NAT rules are in; an entry made later already follows them.
//
// It takes no time in a namespace without entries, some 10 ms in one with few, and some 40 ms per address in one with
// many, where the kernel selects (Linux 5.8; before that, four times 7 ms per 1,000 entries).
func (f Forgetter) Forget(ctx context.Context, namespace string, addrs ...netip.Addr) (int, error) {
	for _, a := range addrs {
		if !a.Is4() {
			return 0, fmt.Errorf("conntrack of namespace %s: %q is not an IPv4 address", namespace, a)
		}
	}
	if len(addrs) == 0 {
		return 0, nil
	}
	n := 0
	err := f.Enter(namespace, func() error {
		selections, err := plan(addrs)
		if err != nil {
			return err
		}
		for _, s := range selections {
			k, err := forget(ctx, s)
			n += k
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("conntrack of namespace %s: forget %v: %w", namespace, addrs, err)
	}
	return n, nil
}

// plan chooses how to find the entries in the calling thread's namespace.
func plan(addrs []netip.Addr) ([]selection, error) {
	b, err := os.ReadFile(countFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel tracks nothing here
	}
	if err != nil {
		return nil, err
	}
	count, err := strconv.Atoi(strings.TrimSpace(string(b)))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", countFile, err)
	case count == 0:
		return nil, nil
	case count <= few:
		return []selection{{addrs: addrs}}, nil
	}
	var selections []selection
	for _, a := range addrs {
		for _, p := range places() {
			selections = append(selections, selection{addrs, &match{p, a}})
		}
	}
	return selections, nil
}

// forget removes what is selected. An entry that ends meanwhile is not counted.
func forget(ctx context.Context, s selection) (int, error) {
	n := 0
	for range attempts {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		found, complete, err := list(s)
		if err != nil {
			return n, fmt.Errorf("list: %w", err)
		}
		for _, e := range found {
			removed, err := e.remove()
			if err != nil {
				return n, fmt.Errorf("remove: %w", err)
			}
			if removed {
				n++
			}
		}
		if complete {
			return n, nil
		}
	}
	return n, fmt.Errorf("the table changed while it was read, %d times", attempts)
}
