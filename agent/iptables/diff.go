package iptables

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-sdn/weft/agent/desired"
)

// Diff tells how weft's chains and jumps in a namespace differ from what is wanted: what Resync would write, without writing
// it. With the nf_tables backend it starts no process as long as nothing has changed the namespace's rules. It may run
// beside any other method, for the same namespace too.
func (d *Driver) Diff(ctx context.Context, namespace string, want desired.IPTables) ([]desired.Difference, error) {
	var out []desired.Difference
	err := d.run(namespace, want, func(goal state) error {
		have, err := d.look(ctx, namespace)
		if err == nil {
			out = differences(namespace, have, goal)
		}
		return err
	})
	return out, err
}

// glance is what was read at a generation of the namespace's nf_tables: until the kernel says another, it is still so.
type glance struct {
	inode      uint64
	generation uint32
	state      state
}

// look reads weft's part of the calling thread's namespace, or recalls it if nobody has changed the rules since.
func (d *Driver) look(ctx context.Context, namespace string) (state, error) {
	inode, err := namespaceInode()
	if err != nil {
		return nil, err
	}
	generation, known := uint32(0), false
	if d.backend == NFTables {
		generation, known = ruleGeneration()
	}
	d.mu.Lock()
	last, ok := d.glances[namespace]
	d.mu.Unlock()
	if known && ok && last.inode == inode && last.generation == generation {
		return last.state, nil
	}
	have, err := d.observe(ctx)
	if err != nil {
		return nil, err
	}
	if known { // read before the rules: what came between is read next time
		d.mu.Lock()
		d.glances[namespace] = glance{inode, generation, have}
		d.mu.Unlock()
	}
	return have, nil
}

// ruleGeneration is the number that nf_tables counts up with every change of the calling thread's namespace, by NFT_MSG_GETGEN
// (linux/netfilter/nf_tables.h); false if the kernel does not say.
func ruleGeneration() (uint32, bool) {
	const attrGenID = 1 // NFTA_GEN_ID
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	replies, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil || len(replies) == 0 || len(replies[0]) < nl.SizeofNfgenmsg {
		return 0, false
	}
	attrs, err := nl.ParseRouteAttr(replies[0][nl.SizeofNfgenmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK == attrGenID && len(a.Value) == 4 {
			return binary.BigEndian.Uint32(a.Value), true
		}
	}
	return 0, false
}

// differences compares two states, rule by rule.
func differences(namespace string, have, goal state) []desired.Difference {
	both := maps.Clone(have)
	if both == nil {
		both = state{}
	}
	maps.Copy(both, goal)
	var out []desired.Difference
	for _, name := range slices.Sorted(maps.Keys(both)) {
		h, g := have.read(name), goal.read(name)
		where := namespace + " " + name + " "
		for _, chain := range union(h.jumps, g.jumps) {
			out = append(out, listDifferences(where+chain, jumpRules(h.jumps[chain]), jumpRules(g.jumps[chain]))...)
			if g.first[chain] && h.behind[chain] {
				out = append(out, desired.Difference{Kind: "iptables", Object: where + chain, Desired: "weft's jumps first", Actual: "a rule of others before them"})
			}
		}
		for _, chain := range union(h.chains, g.chains) {
			_, there := h.chains[chain]
			_, wanted := g.chains[chain]
			switch {
			case wanted && !there:
				out = append(out, desired.Difference{Kind: "iptables", Object: where + chain, Desired: fmt.Sprintf("a chain of %d rules", len(g.chains[chain]))})
			case there && !wanted:
				out = append(out, desired.Difference{Kind: "iptables", Object: where + chain, Actual: fmt.Sprintf("a chain of %d rules", len(h.chains[chain]))})
			default:
				out = append(out, listDifferences(where+chain, h.chains[chain], g.chains[chain])...)
			}
		}
	}
	return out
}

func union(a, b map[string][]string) []string {
	both := maps.Clone(a)
	if both == nil {
		both = map[string][]string{}
	}
	maps.Copy(both, b)
	return slices.Sorted(maps.Keys(both))
}

func jumpRules(targets []string) []string {
	out := make([]string, 0, len(targets))
	for _, t := range targets {
		out = append(out, "-j "+t)
	}
	return out
}

// listDifferences names the rules that only one of the lists has; if there are none, the order may still differ.
func listDifferences(object string, have, want []string) []desired.Difference {
	var out []desired.Difference
	left := map[string]int{}
	for _, rule := range have {
		left[rule]++
	}
	for _, rule := range want {
		if left[rule]--; left[rule] < 0 {
			out = append(out, desired.Difference{Kind: "iptables", Object: object, Desired: rule})
		}
	}
	for _, rule := range have {
		if left[rule] > 0 {
			left[rule]--
			out = append(out, desired.Difference{Kind: "iptables", Object: object, Actual: rule})
		}
	}
	if len(out) == 0 && !slices.Equal(have, want) {
		out = append(out, desired.Difference{Kind: "iptables", Object: object, Desired: "the planned order of rules", Actual: "another order"})
	}
	return out
}
