package fleet

import (
	"time"

	"github.com/weft-sdn/weft/proto/keys"
)

// Object is a router or a network's DHCP: Kind is keys.KindRouter or keys.KindDHCP, ID the router's or the network's.
type Object struct{ Kind, ID string }

// Feed collects the routers and DHCP services of which a binding, a report or the active node has changed, each once. It is
// safe for concurrent use.
type Feed struct {
	fleet   *Fleet
	pending map[object]bool // guarded by the fleet's lock
	wake    chan struct{}
}

// Feed begins to collect. Close ends it.
func (f *Fleet) Feed() *Feed {
	d := &Feed{fleet: f, pending: map[object]bool{}, wake: make(chan struct{}, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.feeds[d] = true
	return d
}

// Close ends collecting.
func (d *Feed) Close() {
	d.fleet.mu.Lock()
	defer d.fleet.mu.Unlock()
	delete(d.fleet.feeds, d)
}

// Wake is readable when Take has something to hand over.
func (d *Feed) Wake() <-chan struct{} { return d.wake }

// Take hands over what has been collected, in no order, and forgets it. What the fleet says afterwards is at least as new.
func (d *Feed) Take() []Object {
	d.fleet.mu.Lock()
	pending := d.pending
	d.pending = map[object]bool{}
	d.fleet.mu.Unlock()
	out := make([]Object, 0, len(pending))
	for o := range pending {
		out = append(out, Object{Kind: o.kind, ID: o.id.String()})
	}
	return out
}

// tell tells the feeds that a key has changed.
func (f *Fleet) tell(k keys.Key) {
	kind := keys.KindRouter
	if k.Family == keys.FamilyHost || k.Family == keys.FamilyStatus {
		kind = k.Kind()
	} else if k.Family != keys.FamilyActive {
		return
	}
	id, ok := parseUUID(k.ID())
	if len(f.feeds) == 0 || !ok || kind != keys.KindRouter && kind != keys.KindDHCP {
		return
	}
	for d := range f.feeds {
		d.pending[object{kindOf(kind), id}] = true
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// Away is the registered nodes that are not alive, each with the time since when it has not been, as far as this controller
// knows.
func (f *Fleet) Away() map[string]time.Time {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := map[string]time.Time{}
	for name, n := range f.nodes {
		if n.agent == nil || n.alive {
			continue
		}
		if out[name] = f.began; n.left.After(f.began) {
			out[name] = n.left
		}
	}
	return out
}
