package ovs

import (
	"maps"
	"slices"
)

// Watch collects what changed until somebody takes it. Events are coalesced: however many come, there is one signal and one
// entry per object.
type Watch struct {
	client *Client
	ready  chan struct{} // holds one token when there is something to take

	// Guarded by client.mu.
	everything bool
	restored   bool
	names      map[kind]map[string]struct{}
}

// Changes names what changed, sorted. A name that is no longer in the snapshot was deleted.
type Changes struct {
	// Everything is set after a (re)connection: compare the whole snapshot, the names are not complete.
	Everything bool
	// Restored is set after somebody, ovs-ctl(8) as a rule, has put back flows that it had saved before a restart: they may be
	// of another time, and numbers of ports in them mean other ports.
	Restored                   bool
	Bridges, Ports, Interfaces []string
}

// Watch begins to collect changes. If the client is connected already, the first Take says Everything.
func (c *Client) Watch() *Watch {
	w := &Watch{client: c, ready: make(chan struct{}, 1), names: map[kind]map[string]struct{}{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches[w] = struct{}{}
	if c.session != nil {
		w.resync()
	}
	return w
}

// Ready has a value when Take has something to give, and when the connection is lost. It is never closed.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Take gives what changed since the last Take. A Client.Snapshot made afterwards shows at least these changes.
func (w *Watch) Take() Changes {
	w.client.mu.Lock()
	defer w.client.mu.Unlock()
	ch := Changes{
		Everything: w.everything, Restored: w.restored,
		Bridges: w.sorted(kindBridge), Ports: w.sorted(kindPort), Interfaces: w.sorted(kindInterface),
	}
	w.everything, w.restored, w.names = false, false, map[kind]map[string]struct{}{}
	return ch
}

// Close ends the collecting.
func (w *Watch) Close() {
	w.client.mu.Lock()
	defer w.client.mu.Unlock()
	delete(w.client.watches, w)
}

func (w *Watch) sorted(k kind) []string { return slices.Sorted(maps.Keys(w.names[k])) }

// The methods below are called with client.mu held.

func (w *Watch) note(k kind, name string) {
	if k == kindRoot {
		return // cur_cfg moves after every transaction and tells the agent nothing
	}
	if w.names[k] == nil {
		w.names[k] = map[string]struct{}{}
	}
	w.names[k][name] = struct{}{}
	w.signal()
}

func (w *Watch) resync() {
	w.everything = true
	w.signal()
}

func (w *Watch) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}
