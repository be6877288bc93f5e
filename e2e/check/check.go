// Package check is an independent audit of a lab: it reads all of etcd at one revision and looks at every host with the
// operator's own tools (ovs-vsctl, ovs-ofctl, ip, iptables-save, ps), works out from the stored objects what there should
// be, and says what differs. It changes nothing.
//
// It shares no code with the programs that it judges: it knows the stored messages and the keys, and has an understanding
// of its own, far simpler, of what they call for. So it imports neither the agent's planner nor the controllers' audit. It
// is not fast and not for production: `weft node diff` is.
//
// What is found while something is under way may be gone a moment later: see Await.
package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// Promise is the part of the design that a finding contradicts.
type Promise string

// The promises that are checked.
const (
	Exact  Promise = "I1" // nothing is held twice, nothing leaks: claims, bindings, and everything on the hosts
	Single Promise = "I4" // one node forwards for a router
	Truth  Promise = "I6" // what is reported is so
	Alone  Promise = "I7" // a network's frames stay in it: local VLANs and admission
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Promise Promise `json:"promise"`
	// Place is "etcd" or the name of a host.
	Place string `json:"place"`
	Text  string `json:"text"`
}

// String is one line for a reader.
func (f Finding) String() string { return fmt.Sprintf("%s %s: %s", f.Promise, f.Place, f.Text) }

// findings collects.
type findings []Finding

func (f *findings) addf(promise Promise, place, format string, args ...any) {
	*f = append(*f, Finding{promise, place, fmt.Sprintf(format, args...)})
}

// sorted orders findings by place and text, each once.
func (f findings) sorted() []Finding {
	slices.SortFunc(f, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.Promise, b.Promise), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(f)
}

// inStore is the place of findings about what etcd holds.
const inStore = "etcd"

// Run looks once. None: all is as it should be. Nodes that are powered off are not looked at, and what should be on them
// is not asked for. The error says why something could not be looked at.
func Run(ctx context.Context, l *lab.Lab) ([]Finding, error) {
	before, err := look(ctx, l)
	if err != nil {
		return nil, err
	}
	return before.findings().sorted(), nil
}

// pace is the time between two looks of Await.
const pace = 500 * time.Millisecond

// Await looks again until nothing is found, for as long as patience, and returns what the last look found. An error that
// is still there at the end is returned too: a store that was away may come back meanwhile.
func Await(ctx context.Context, l *lab.Lab, patience time.Duration) ([]Finding, error) {
	return Follow(ctx, l, patience, func([]Finding, error) {})
}

// Follow is Await with a function that is told of each look's outcome, for who wants to know what took its time.
func Follow(ctx context.Context, l *lab.Lab, patience time.Duration, each func([]Finding, error)) ([]Finding, error) {
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		found, err := Run(ctx, l)
		each(found, err)
		if err == nil && len(found) == 0 {
			return nil, nil
		}
		next := time.NewTimer(pace)
		select {
		case <-over.C:
			next.Stop()
			return found, err
		case <-ctx.Done():
			next.Stop()
			return found, cmp.Or(err, ctx.Err())
		case <-next.C:
		}
	}
}

// sight is everything that one look has seen.
type sight struct {
	store *store
	hosts map[string]*host // the nodes that are on
	shown []shown          // by the controllers that run
	found findings         // by looking itself
}

// look reads the store, then the hosts, then what controllers show.
func look(ctx context.Context, l *lab.Lab) (*sight, error) {
	s, err := readStore(ctx, l)
	if err != nil {
		return nil, err
	}
	hosts, err := observe(ctx, l)
	if err != nil {
		return nil, err
	}
	shown, found, err := askControllers(ctx, l)
	if err != nil {
		return nil, err
	}
	return &sight{store: s, hosts: hosts, shown: shown, found: found}, nil
}

func (s *sight) findings() findings {
	out := append(s.store.join(), s.found...)
	if len(s.shown) > 0 && s.store.leaders == 0 {
		out.addf(Truth, inStore, "%d controllers run and none leads", len(s.shown))
	}
	for _, c := range s.shown {
		out = append(out, s.store.shownTruly(c)...)
	}
	for _, h := range s.hosts {
		out = append(out, expect(s.store, h).compare()...)
		out = append(out, s.store.truth(h)...)
	}
	return append(out, s.forwarders()...)
}
