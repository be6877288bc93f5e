package proxy

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// visitor is whose allowance a connection is on.
type visitor struct {
	at     wire.Place
	source netip.Addr
}

// verdict is what becomes of a connection.
type verdict int

const (
	letIn      verdict = iota
	slowedDown         // it is answered that it comes too often
	sentAway           // it is closed unread
)

// burst is how many seconds' worth of requests a guest may save up, and overdraw before it is sent away unread.
const burst = 5

// allowances are what guests may still ask: a bucket of tokens each, which fills at the rate.
type allowances struct {
	rate float64 // tokens per second
	most int     // connections at once

	mu     sync.Mutex
	guests map[visitor]*allowance
	sweep  int // at how many guests those are looked for that can be forgotten
}

type allowance struct {
	open   int
	tokens float64
	at     time.Time
}

// firstSweep is how many guests are remembered before any is forgotten.
const firstSweep = 1024

func newAllowances(rate, most int) *allowances {
	return &allowances{rate: float64(rate), most: most, guests: map[visitor]*allowance{}, sweep: firstSweep}
}

// enter decides on a connection. Of one that is not sent away, leave has to be called when it ends.
func (a *allowances) enter(who visitor, now time.Time) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.guests[who]
	if g == nil {
		a.forget(now)
		g = &allowance{tokens: a.rate * burst, at: now}
		a.guests[who] = g
	}
	g.fill(a.rate, now)
	if g.open >= a.most || g.tokens <= -a.rate*burst {
		return sentAway
	}
	g.open++
	g.tokens--
	if g.tokens < 0 {
		return slowedDown
	}
	return letIn
}

func (g *allowance) fill(rate float64, now time.Time) {
	g.tokens = min(rate*burst, g.tokens+rate*now.Sub(g.at).Seconds())
	g.at = now
}

func (a *allowances) leave(who visitor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.guests[who].open--
}

// forget drops guests that have their whole allowance, when there are many.
func (a *allowances) forget(now time.Time) {
	if len(a.guests) < a.sweep {
		return
	}
	for who, g := range a.guests {
		if g.fill(a.rate, now); g.open == 0 && g.tokens >= a.rate*burst {
			delete(a.guests, who)
		}
	}
	a.sweep = max(firstSweep, 2*len(a.guests))
}
