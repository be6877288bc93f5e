package ha_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/ha"
)

const ms = time.Millisecond

func config(self string) ha.Config {
	return ha.Config{
		Self: self, Guard: 90 * ms, Yield: 390 * ms, Rank: 150 * ms, Unready: 2 * time.Second, Lease: 2 * time.Second,
		Patience: 5 * time.Second, Retry: 100 * ms, Blink: 2 * time.Second, Calm: 10 * time.Second, Damp: 500 * ms,
	}
}

// TestANodeThatBlinksIsTakenOverFromLater loses a holder again and again for less than it takes to take over.
func TestANodeThatBlinksIsTakenOverFromLater(t *testing.T) {
	n := start(t)
	lost := func(lost bool) {
		n.m.Session(n.now, "net1", !lost)
		n.peer("net3", func(p *ha.Peer) {
			p.Heard, p.Lost = names("net1", "net2"), names()
			if lost {
				p.Heard, p.Lost = names("net2"), names("net1")
			}
		})
		n.decide(0)
	}
	for _, damped := range []time.Duration{0, 0, 500 * ms, time.Second} {
		lost(true)
		n.decide(damped + 89*ms)
		n.claims() // not yet, and it is back
		lost(false)
		n.decide(time.Second)
		n.claims()
	}
	lost(true)
	n.decide(2*time.Second + 89*ms)
	n.claims()
	n.decide(ms)
	n.claims("r1 net2")
}

// node is a Machine with a clock of its own.
type node struct {
	*testing.T
	m     *ha.Machine
	now   time.Time
	world ha.World
	// got is what it decided last.
	got ha.Decision
}

// start makes net2 of a pool of net1, net2 and net3, which hears both; net1 holds r1, net2 stands by for it and holds r2.
func start(t *testing.T) *node {
	n := &node{T: t, m: ha.New(config("net2")), now: time.Unix(1000, 0), world: ha.World{
		Routers: map[string]ha.Router{
			"r1": {Plan: []string{"net1", "net2", "net3"}, Holder: "net1", Epoch: 1, Revision: 10, Ready: true, Physical: []string{"ext"}},
			"r2": {Plan: []string{"net2", "net3"}, Holder: "net2", Epoch: 1, Revision: 11, Ready: true, Physical: []string{"ext"}},
		},
		Peers: map[string]ha.Peer{
			"net1": {Live: true, Heard: names("net2", "net3"), Uplinks: map[string]bool{"ext": true}},
			"net3": {Live: true, Heard: names("net1", "net2"), Uplinks: map[string]bool{"ext": true}},
		},
		Uplinks: map[string]bool{"ext": true}, Switch: true,
	}}
	n.see()
	n.m.Session(n.now, "net1", true)
	n.m.Session(n.now, "net3", true)
	n.decide(0)
	n.claims()
	return n
}

func names(list ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range list {
		out[n] = true
	}
	return out
}

// see hands the world over as it is now.
func (n *node) see() {
	w := n.world
	w.Routers, w.Peers = map[string]ha.Router{}, map[string]ha.Peer{}
	for id, r := range n.world.Routers {
		w.Routers[id] = r
	}
	for id, p := range n.world.Peers {
		w.Peers[id] = p
	}
	n.m.SetWorld(n.now, w)
}

func (n *node) router(id string, change func(*ha.Router)) {
	r := n.world.Routers[id]
	change(&r)
	n.world.Routers[id] = r
	n.see()
}

func (n *node) peer(id string, change func(*ha.Peer)) {
	p := n.world.Peers[id]
	change(&p)
	n.world.Peers[id] = p
	n.see()
}

func (n *node) decide(after time.Duration) {
	n.now = n.now.Add(after)
	n.got = n.m.Decide(n.now)
}

// claims checks the claims of the last decision: "r1 net2" for router and node.
func (n *node) claims(want ...string) {
	n.Helper()
	var got []string
	for _, c := range n.got.Claims {
		got = append(got, c.Router+" "+c.To)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		n.Fatalf("claims (-want +got):\n%s", diff)
	}
}

// made lets the last claims be made, and the world show it.
func (n *node) made() {
	for _, c := range n.got.Claims {
		revision := c.Revision + 100
		n.m.Claimed(n.now, c, ha.Made, revision)
		n.router(c.Router, func(r *ha.Router) { r.Holder, r.Epoch, r.Revision = c.To, c.Epoch+1, revision })
	}
}

func (n *node) silent(want bool) {
	n.Helper()
	if n.got.Silent != want {
		n.Fatalf("silent: %v, want %v", n.got.Silent, want)
	}
}

func (n *node) lost(by string, whom ...string) {
	n.peer(by, func(p *ha.Peer) { p.Lost, p.Heard = names(whom...), nil })
}

func TestAHolderThatMostPeersHaveLostIsTakenOverFromAfterTheGuard(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.decide(0)
	n.claims()
	if !slices.Equal(n.got.Lost, []string{"net1"}) || !slices.Equal(n.got.Heard, []string{"net3"}) {
		t.Errorf("says that it hears %v and has lost %v", n.got.Heard, n.got.Lost)
	}
	n.decide(time.Hour)
	n.claims() // it is the only one that has lost it: the path between the two may be cut
	n.lost("net3", "net1")
	n.decide(0)
	n.claims()
	if want := n.now.Add(90 * ms); !n.got.Again.Equal(want) {
		t.Errorf("wakes at %s, want %s", n.got.Again, want)
	}
	n.decide(89 * ms)
	n.claims()
	n.decide(ms)
	n.claims("r1 net2")
	n.silent(false)
	n.decide(time.Minute)
	n.claims() // it is under way
	n.m.Claimed(n.now, ha.Claim{Router: "r1", To: "net2", From: "net1", Epoch: 1, Revision: 10}, ha.Made, 20)
	n.decide(0)
	n.claims()
}

func TestATakeoverIsOffWhenTheHolderIsHeardAgainInTime(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.lost("net3", "net1")
	n.decide(0)
	n.m.Session(n.now, "net1", true)
	n.decide(30 * ms)
	n.m.Session(n.now, "net1", false)
	n.decide(89 * ms)
	n.claims()
	n.decide(ms)
	n.claims() // the guard began anew
	n.decide(89 * ms)
	n.claims("r1 net2")
}

func TestAHolderThatClaimedItsRouterSinceIsNotTakenOverFrom(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.lost("net3", "net1")
	n.decide(0)
	n.router("r1", func(r *ha.Router) { r.Epoch, r.Revision = 2, 30 })
	n.decide(time.Minute)
	n.claims()
	n.peer("net1", func(p *ha.Peer) { p.Live = false })
	n.decide(time.Second)
	n.claims()
	n.decide(time.Second) // its lease has gone, and nobody hears it
	n.claims("r1 net2")
}

func TestAHolderThatTookOverOrClaimedAfterTheVotesIsNotTakenOverFrom(t *testing.T) {
	for what, c := range map[string]struct {
		vote int64 // the revision at which net3 says that it has lost net1
		want []string
	}{
		"the vote came first": {29, nil},
		"the vote came later": {31, []string{"r1 net2"}},
	} {
		t.Run(what, func(t *testing.T) {
			n := start(t)
			n.T = t
			n.router("r1", func(r *ha.Router) { r.Epoch, r.Revision = 2, 30 })
			n.m.Session(n.now, "net1", false)
			n.peer("net3", func(p *ha.Peer) { p.Lost, p.Revision = names("net1"), c.vote })
			n.decide(0)
			n.decide(time.Minute)
			n.claims(c.want...)
		})
	}
}

func TestTheNextInThePlanActsLaterAndNotWhileTheFirstIsLost(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*node)
		after  time.Duration
	}{
		"first":                             {func(*node) {}, 90 * ms},
		"second":                            {func(n *node) { n.plan("net1", "net3", "net2") }, 240 * ms},
		"second, and the first is not live": {func(n *node) { n.plan("net1", "net4", "net2") }, 90 * ms},
		"not ready":                         {func(n *node) { n.router("r1", func(r *ha.Router) { r.Ready = false }) }, 2090 * ms},
		"without its uplink":                {func(n *node) { n.world.Uplinks = map[string]bool{"ext": false}; delete(n.world.Routers, "r2"); n.see() }, 2090 * ms},
	} {
		t.Run(what, func(t *testing.T) {
			n := start(t)
			n.T = t
			c.change(n)
			n.m.Session(n.now, "net1", false)
			n.lost("net3", "net1")
			n.decide(0)
			n.decide(c.after - ms)
			n.claims()
			n.decide(ms)
			n.claims("r1 net2")
		})
	}
}

func (n *node) plan(nodes ...string) {
	n.router("r1", func(r *ha.Router) { r.Plan = nodes })
}

func TestNothingIsTakenOverWithoutOpenVSwitch(t *testing.T) {
	n := start(t)
	n.world.Switch = false
	n.see()
	n.m.Session(n.now, "net1", false)
	n.lost("net3", "net1")
	n.decide(0)
	n.decide(time.Hour)
	n.claims()
}

func TestANodeThatHasLostMostPeersIsSilentUntilItHasConfirmedItsRouters(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.decide(0)
	n.silent(false) // one of two is not most
	n.m.Session(n.now, "net3", false)
	n.decide(0)
	n.silent(true)
	n.claims()
	n.decide(100 * ms) // it takes over from nobody
	n.claims()
	n.m.Session(n.now, "net1", true)
	n.m.Session(n.now, "net3", true)
	n.decide(0)
	n.claims("r2 net2")
	n.silent(true)
	n.m.Claimed(n.now, n.got.Claims[0], ha.Unknown, 0)
	n.decide(99 * ms)
	n.claims()
	n.decide(ms)
	n.claims("r2 net2") // asked again
	n.made()
	n.decide(0)
	n.silent(false)
}

func TestASilentNodeWhoseRouterWasTakenOverForwardsForTheOthersOnly(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.m.Session(n.now, "net3", false)
	n.decide(0)
	n.m.Session(n.now, "net1", true)
	n.m.Session(n.now, "net3", true)
	n.decide(0)
	n.claims("r2 net2")
	n.m.Claimed(n.now, n.got.Claims[0], ha.Refused, 0)
	n.decide(0)
	n.silent(true) // the world does not show yet what became of it
	n.claims()
	n.router("r2", func(r *ha.Router) { r.Holder, r.Epoch, r.Revision = "net3", 2, 40 })
	n.decide(0)
	n.silent(false)
	n.claims()
}

func TestAnIsolatedNodeThatNobodyTookOverFromGoesOnAloneAsLongAsTheStoreAnswers(t *testing.T) {
	n := start(t)
	n.m.Session(n.now, "net1", false)
	n.m.Session(n.now, "net3", false)
	n.decide(0)
	n.decide(time.Minute)
	n.claims() // those that may have lost it have not said so: they may be about to take over
	n.silent(true)
	n.lost("net1", "net2")
	n.lost("net3", "net2")
	n.decide(0)
	n.claims("r2 net2")
	n.made()
	n.decide(0)
	n.silent(false)
	n.decide(2 * time.Second)
	if !n.got.Probe {
		t.Error("the store is not asked")
	}
	n.m.Answered(n.now)
	n.decide(4 * time.Second)
	n.silent(false)
	n.decide(time.Second)
	n.silent(true)
	n.claims("r2 net2")
}

func TestOfTwoNodesEachClaimsItsOwnAtOnce(t *testing.T) {
	n := start(t)
	delete(n.world.Peers, "net3")
	n.see()
	n.decide(0)
	n.m.Session(n.now, "net1", false)
	n.decide(0)
	n.silent(true)
	n.claims("r2 net2")
	n.made()
	n.decide(0)
	n.silent(false)
	n.decide(90 * ms)
	n.claims("r1 net2")
}

func TestANodeCutFromTheStoreAloneCarriesOn(t *testing.T) {
	n := start(t)
	n.peer("net1", func(p *ha.Peer) { p.Live = false })
	n.peer("net3", func(p *ha.Peer) { p.Live = false })
	n.decide(time.Hour)
	n.silent(false)
	n.claims() // net1's lease is gone, and net2 hears it
	n.peer("net3", func(p *ha.Peer) { p.Live = true })
	n.m.Session(n.now, "net1", false)
	n.decide(time.Hour)
	n.claims() // net3 hears it
	n.lost("net3", "net1")
	n.decide(time.Hour)
	n.claims("r1 net2")
}

func TestANodeHandsOverWhenToldOrWithoutItsUplink(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*node)
		want   []string
		cause  ha.Cause
	}{
		"told":                     {func(n *node) { n.router("r2", func(r *ha.Router) { r.HandOver = "net3" }) }, []string{"r2 net3"}, ha.HandOver},
		"told, to one not planned": {func(n *node) { n.router("r2", func(r *ha.Router) { r.HandOver = "net1" }) }, nil, 0},
		"told, to one that is lost": {func(n *node) {
			n.router("r2", func(r *ha.Router) { r.HandOver = "net3" })
			n.m.Session(n.now, "net3", false)
		}, nil, 0},
		"told, to one without its uplink": {func(n *node) {
			n.router("r2", func(r *ha.Router) { r.HandOver = "net3" })
			n.peer("net3", func(p *ha.Peer) { p.Uplinks = map[string]bool{"ext": false} })
		}, nil, 0},
		"uplink lost": {func(n *node) { n.world.Uplinks = map[string]bool{"ext": false}; n.see() }, []string{"r2 net3"}, ha.Resign},
		"uplink lost, the other's too": {func(n *node) {
			n.world.Uplinks = map[string]bool{"ext": false}
			n.peer("net3", func(p *ha.Peer) { p.Uplinks = map[string]bool{"ext": false} })
		}, nil, 0},
		"another uplink lost": {func(n *node) { n.world.Uplinks["other"] = false; n.see() }, nil, 0},
		"Open vSwitch lost": {func(n *node) {
			n.world.Switch, n.world.Dead = false, true
			n.see()
			n.m.Deaf(n.now)
		}, []string{"r2 net3"}, ha.Resign},
	} {
		t.Run(what, func(t *testing.T) {
			n := start(t)
			n.T = t
			c.change(n)
			n.decide(0)
			n.claims(c.want...)
			if len(c.want) == 0 {
				return
			}
			if n.got.Claims[0].Cause != c.cause {
				t.Errorf("cause %v", n.got.Claims[0].Cause)
			}
			n.decide(time.Hour)
			n.claims() // until its outcome is known
			n.m.Claimed(n.now, ha.Claim{Router: "r2", To: "net3", From: "net2", Epoch: 1, Revision: 11, Cause: c.cause}, ha.Made, 50)
			n.decide(time.Hour)
			n.claims() // until the world shows it
		})
	}
}

func TestASessionThatWasNeverUpTellsNothing(t *testing.T) {
	n := start(t)
	n.world.Peers["net4"] = ha.Peer{Live: true}
	n.see()
	n.m.Session(n.now, "net4", false)
	n.m.Session(n.now, "net3", false)
	n.decide(0)
	n.silent(false)
	if slices.Contains(n.got.Lost, "net4") || slices.Contains(n.got.Heard, "net4") {
		t.Error("net4 was never heard:", n.got)
	}
}

// Once silent for a router to give it away, a node whose claim the store did not answer must not stay so when there is nobody
// to give it to any more, or no reason.
func TestARouterThatWasNotGivenAwayAfterAllIsConfirmed(t *testing.T) {
	for name, outcome := range map[string]ha.Outcome{"not answered": ha.Unknown, "refused": ha.Refused} {
		t.Run(name, func(t *testing.T) {
			n := start(t)
			n.router("r2", func(r *ha.Router) { r.HandOver = "net3" })
			n.decide(0)
			n.claims("r2 net3")
			n.m.Claimed(n.now, n.got.Claims[0], outcome, 0)
			n.router("r2", func(r *ha.Router) { r.HandOver = "" })
			n.decide(2 * time.Second)
			n.claims("r2 net2")
			n.m.Claimed(n.now, n.got.Claims[0], ha.Unknown, 0)
			n.decide(200 * ms)
			n.claims("r2 net2")
			n.made()
			n.decide(10 * time.Second)
			n.claims()
		})
	}
}

func TestAnUplinkThatComesBackWhileTheStoreIsAwayLeavesNoRouterSilent(t *testing.T) {
	n := start(t)
	n.world.Uplinks = map[string]bool{"ext": false}
	n.see()
	n.decide(0)
	n.claims("r2 net3")
	n.m.Claimed(n.now, n.got.Claims[0], ha.Unknown, 0)
	n.world.Uplinks = map[string]bool{"ext": true}
	n.see()
	n.decide(time.Second)
	n.claims("r2 net2")
}

func TestANodeThatStartsAnewGoesOnWithTheSilenceOfItsLastRun(t *testing.T) {
	n := start(t)
	n.m = ha.New(config("net2"))
	n.m.Remember(n.now, "net1", false)
	n.m.Remember(n.now, "net3", false)
	n.see()
	n.decide(0)
	n.silent(true)
	n.claims()
	if diff := cmp.Diff([]string{"net1", "net3"}, n.got.Lost); diff != "" {
		t.Fatalf("lost (-want +got):\n%s", diff)
	}
	n.m.Session(n.now, "net1", true)
	n.m.Session(n.now, "net3", true)
	n.decide(0)
	n.claims("r2 net2")
}
