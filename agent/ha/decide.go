package ha

import (
	"slices"
	"time"
)

// deciding is one run of Decide.
type deciding struct {
	*Machine
	now time.Time
	out Decision
}

// at has Decide called again at a time that lies ahead.
func (d *deciding) at(t time.Time) {
	if t.After(d.now) && (d.out.Again.IsZero() || t.Before(d.out.Again)) {
		d.out.Again = t
	}
}

// due reports whether a time has come, and has Decide called again when it has.
func (d *deciding) due(t time.Time) bool {
	d.at(t)
	return !d.now.Before(t)
}

// hears counts the living peers with which there was a session, and those of them that are lost.
func (m *Machine) hears() (peers, lost int) {
	for name, up := range m.up {
		if !m.world.Peers[name].Live {
			continue
		}
		peers++
		if !up {
			lost++
		}
	}
	return peers, lost
}

// isolated reports whether the node has lost more than half of its living peers.
func (m *Machine) isolated() bool {
	peers, lost := m.hears()
	return 2*lost > peers
}

// abandoned reports whether more than half of a node's living peers have lost it.
func (m *Machine) abandoned(node string) bool {
	voters, lost := 1, 0
	if up, known := m.up[node]; known && !up {
		lost++
	}
	for name, p := range m.world.Peers {
		if name == node || !p.Live {
			continue
		}
		voters++
		if p.Lost[node] {
			lost++
		}
	}
	return 2*lost > voters
}

// heard reports whether anybody alive hears a node.
func (m *Machine) heard(node string) bool {
	if m.up[node] {
		return true
	}
	for name, p := range m.world.Peers {
		if name != node && p.Live && p.Heard[node] {
			return true
		}
	}
	return false
}

// suspect notes which peers have been lost by their peers, and since when.
func (d *deciding) suspect() {
	for name, s := range d.suspects {
		_, ok := d.world.Peers[name]
		if ok && d.abandoned(name) {
			continue
		}
		if delete(d.suspects, name); ok {
			d.falseAlarm(name, s)
		}
	}
	for name := range d.world.Peers {
		if d.suspects[name] == nil && d.abandoned(name) {
			d.suspects[name] = &suspicion{since: d.now, exempt: d.alive(name)}
		}
	}
}

// falseAlarm notes that a node is heard again that had been lost. One that comes back this soon was busy rather than dead.
func (d *deciding) falseAlarm(node string, s *suspicion) {
	if d.now.Sub(s.since) > d.c.Blink {
		return
	}
	a := d.alarms[node]
	if d.now.Sub(a.last) > d.c.Calm {
		a.count = 0
	}
	d.alarms[node] = alarm{min(a.count+1, maxAlarms), d.now}
}

// damping is how much later than usual a node is taken over from: routers must not follow each hiccup of a pool that has too
// much to do, for moving them is more to do.
func (d *deciding) damping(node string) time.Duration {
	a := d.alarms[node]
	if a.count < 2 || d.now.Sub(a.last) > d.c.Calm {
		return 0
	}
	return d.c.Damp << (a.count - 2)
}

// alive lists the routers for which a node that is lost now has shown that it is not dead. Either it has written their keys
// after the others wrote that they had lost it. Or, where there are no others, after it can have noticed itself. Of
// one that was lost before this run of the node can know of a sign, it is taken for granted: its lease tells.
func (d *deciding) alive(node string) map[string]bool {
	voted := d.voted(node)
	out := map[string]bool{}
	for id, r := range d.world.Routers {
		sign, ok := d.signs[id]
		alone := voted == 0 && ok && !sign.Before(d.losts[node].Add(-d.c.Guard))
		if r.Holder == node && (d.inherited[node] || alone || (voted != 0 && r.Revision > voted)) {
			out[id] = true
		}
	}
	return out
}

// hush makes the node silent when it has lost most of its peers, and when it went on alone and the store does not answer.
func (d *deciding) hush() {
	isolated := d.isolated()
	if !isolated {
		d.alone = false
	}
	switch {
	case d.silent || !isolated:
		return
	case !d.alone:
		d.since = d.now
	case !d.due(d.asked.Add(d.c.Patience)):
		return
	}
	d.silent, d.alone = true, false
	clear(d.confirmed)
}

// probe has the store asked now and then while the node goes on alone.
func (d *deciding) probe() {
	if d.alone && !d.silent && d.due(d.asked.Add(d.c.Patience/3)) && d.due(d.probed.Add(d.c.Patience/3)) {
		d.probed, d.out.Probe = d.now, true
	}
}

// confirms reports whether a silent node may ask for its routers: it hears its peers again; or all that have lost it have
// said so and none has taken them over although there was time to. With a single peer, which of the two is cut off can't be
// told: both ask at once, each for its own.
func (d *deciding) confirms() bool {
	if !d.isolated() {
		return true
	}
	if peers, _ := d.hears(); peers == 1 {
		return true
	}
	for name, up := range d.up {
		if p := d.world.Peers[name]; !up && p.Live && !p.Lost[d.c.Self] {
			return false
		}
	}
	return d.due(d.since.Add(d.c.Yield + d.c.Damp<<(maxAlarms-2)))
}

// held decides about a router that the node holds.
func (d *deciding) held(id string, r Router) {
	if d.world.Dead {
		if to := d.successor(r, func(node string) bool { return d.world.Peers[node].Live }); to != "" {
			d.claim(id, r, to, Resign)
		}
		return
	}
	if d.silent {
		if d.world.Switch && !d.confirmed[id] && d.confirms() {
			d.claim(id, r, d.c.Self, Confirm)
		}
		return
	}
	if to := r.HandOver; to != "" && to != d.c.Self && slices.Contains(r.Plan, to) && d.reachable(to) && (d.proven(r, to) || !fit(r, d.world.Uplinks)) {
		d.claim(id, r, to, HandOver)
		return
	}
	if !fit(r, d.world.Uplinks) {
		if to := d.successor(r, d.reachable); to != "" {
			d.claim(id, r, to, Resign)
			return
		}
	}
	d.keep(id, r)
}

// keep ends the silence for a router that the node was to give away, when it is not known whether that was done and nothing
// calls for it any more: nobody else would.
func (d *deciding) keep(id string, r Router) {
	if revision, in := d.doubts[id]; in && revision == r.Revision && d.world.Switch {
		d.claim(id, r, d.c.Self, Confirm)
	}
}

// reachable reports whether a node lives and is not lost.
func (d *deciding) reachable(node string) bool {
	up, known := d.up[node]
	return d.world.Peers[node].Live && (up || !known)
}

// fit reports whether uplinks have everything that a router needs. What is not told is taken to be there.
func fit(r Router, uplinks map[string]bool) bool {
	return !slices.ContainsFunc(r.Physical, func(physical string) bool {
		proven, told := uplinks[physical]
		return told && !proven
	})
}

// successor is the first node of the plan that has all that the router needs, of those that may do; "" for none.
func (d *deciding) successor(r Router, may func(string) bool) string {
	for _, node := range r.Plan {
		if node != d.c.Self && d.proven(r, node) && may(node) {
			return node
		}
	}
	return ""
}

// proven reports whether a peer has all that a router needs. One that has not would give the router back at once.
func (d *deciding) proven(r Router, node string) bool {
	p := d.world.Peers[node]
	return !slices.ContainsFunc(r.Physical, func(physical string) bool { return !p.Uplinks[physical] })
}

// standby decides about a router that another node holds.
func (d *deciding) standby(id string, r Router) {
	place := d.place(r)
	if place < 0 || !d.world.Switch {
		return
	}
	wait := time.Duration(place) * d.c.Rank
	if !r.Ready || !fit(r, d.world.Uplinks) {
		wait += d.c.Unready
	}
	if d.lost(id, r, wait) || d.vanished(r, wait) {
		d.claim(id, r, d.c.Self, Lost)
	}
}

// lost reports whether the holder's peers have lost it long enough ago. A node that has itself lost most of its peers does
// not say so of others, but for the only one that it has.
func (d *deciding) lost(id string, r Router, wait time.Duration) bool {
	s := d.suspects[r.Holder]
	if s == nil || s.exempt[id] {
		return false
	}
	if peers, _ := d.hears(); peers > 1 && d.isolated() {
		return false
	}
	return d.due(s.since.Add(d.c.Guard + wait + d.damping(r.Holder)))
}

// vanished reports whether the holder's lease has been gone long enough, with nobody who hears it.
func (d *deciding) vanished(r Router, wait time.Duration) bool {
	gone, ok := d.gone[r.Holder]
	return ok && !d.heard(r.Holder) && d.due(gone.Add(d.c.Lease+wait))
}

// place is the node's place among those of a plan that may take over, from 0; -1 when it is not one of them.
func (d *deciding) place(r Router) int {
	place := 0
	for _, node := range r.Plan {
		switch {
		case node == d.c.Self:
			return place
		case node != r.Holder && d.reachable(node) && !d.abandoned(node):
			place++
		}
	}
	return -1
}

func (d *deciding) claim(id string, r Router, to string, cause Cause) {
	c := Claim{Router: id, To: to, From: r.Holder, Epoch: r.Epoch, Revision: r.Revision, Cause: cause}
	d.flights[id] = &flight{claim: c}
	d.out.Claims = append(d.out.Claims, c)
}

// unhush ends the silence when every router that the node holds has been confirmed.
func (d *deciding) unhush() {
	if !d.silent || !d.confirms() {
		return
	}
	for id, r := range d.world.Routers {
		if f := d.flights[id]; r.Holder == d.c.Self && (!d.confirmed[id] || (f != nil && f.claim.To != d.c.Self)) {
			return
		}
	}
	d.silent, d.alone, d.asked = false, d.isolated(), d.now
}
