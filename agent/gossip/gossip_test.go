package gossip_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/agent/gossip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is some nodes on loopback addresses that know each other's addresses.
type fleet struct {
	t *testing.T

	mu    sync.Mutex
	seeds []string
	keys  map[string][][]byte
	nodes map[string]*gossip.Gossip
}

// newFleet also waits, at the end, for the probes that memberlist has under way: they end by their own timeouts.
func newFleet(t *testing.T) *fleet {
	t.Cleanup(func() {
		err := goleak.Find()
		for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
			err = goleak.Find() // takes a moment
		}
		if err != nil {
			t.Error(err)
		}
	})
	return &fleet{t: t, keys: map[string][][]byte{}, nodes: map[string]*gossip.Gossip{}}
}

func key(letter byte) []byte { return bytes.Repeat([]byte{letter}, 32) }

// add starts a node; bind is "" for any port.
func (f *fleet) add(name, bind string, keys ...[]byte) *gossip.Gossip {
	f.t.Helper()
	f.setKeys(name, keys...)
	if bind == "" {
		bind = "127.0.0.1:0"
	}
	g, err := gossip.Start(gossip.Options{
		Node: name, Bind: bind,
		Keys: func() [][]byte {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.keys[name]
		},
		Seeds: func() []string {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.seeds
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(g.Close)
	f.nodes[name] = g
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seeds = append(f.seeds, g.Addr())
	return g
}

func (f *fleet) setKeys(name string, keys ...[]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[name] = keys
}

// eventually waits, woken by changes, until a node says so of another.
func (f *fleet) eventually(of, about string, alive bool) {
	f.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		if got, _ := f.nodes[of].Alive(about); got == alive {
			return
		}
		select {
		case <-f.nodes[of].Changes():
		case <-deadline:
			f.t.Fatalf("%s never said that %s is alive: %v", of, about, alive)
		}
	}
}

func TestNodesFindEachOtherMissAndFindAgainWhoWasAway(t *testing.T) {
	f := newFleet(t)
	for _, name := range []string{"a", "b", "c"} {
		f.add(name, "", key('k'))
	}
	for _, of := range []string{"a", "b", "c"} {
		for _, about := range []string{"a", "b", "c"} {
			if of != about {
				f.eventually(of, about, true)
			}
		}
	}
	if _, known := f.nodes["a"].Alive("d"); known {
		t.Error("knows a node that never was")
	}
	at := f.nodes["c"].Addr()
	f.nodes["c"].Close()
	f.eventually("a", "c", false)
	f.eventually("b", "c", false)
	if _, known := f.nodes["a"].Alive("c"); !known {
		t.Error("forgot who died")
	}
	f.add("c", at, key('k'))
	f.eventually("a", "c", true)
	f.eventually("c", "b", true)
}

func TestANodeWhosePeersAreAllAwayFindsThemWhenTheyCome(t *testing.T) {
	f := newFleet(t)
	b := f.add("b", "", key('k'))
	at := b.Addr()
	b.Close()
	f.add("a", "", key('k'))
	f.eventually("a", "b", false)
	f.add("b", at, key('k'))
	f.eventually("a", "b", true)
}

func TestANodeWithoutTheKeyIsNoPeerAndOneThatGetsItIs(t *testing.T) {
	f := newFleet(t)
	a := f.add("a", "", key('k'))
	f.add("b", "", key('k'))
	stranger := f.add("s", "", key('x'))
	f.eventually("a", "b", true)
	if _, known := a.Alive("s"); known {
		t.Error("the stranger is a peer")
	}
	f.setKeys("s", key('k'), key('x'))
	if err := stranger.Rekey(); err != nil {
		t.Fatal(err)
	}
	f.eventually("a", "s", true)
}

func TestKeysChangeWithoutAGap(t *testing.T) {
	f := newFleet(t)
	a, b := f.add("a", "", key('o')), f.add("b", "", key('o'))
	f.eventually("a", "b", true)
	for _, step := range [][][]byte{{key('o'), key('n')}, {key('n'), key('o')}, {key('n')}} {
		for name, g := range map[string]*gossip.Gossip{"a": a, "b": b} {
			f.setKeys(name, step...)
			if err := g.Rekey(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if alive, _ := a.Alive("b"); !alive {
		t.Error("lost the peer")
	}
	f.add("c", "", key('n'))
	f.eventually("c", "a", true)
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	good := gossip.Options{Node: "a", Bind: "127.0.0.1:0", Keys: func() [][]byte { return [][]byte{key('k')} }, Seeds: func() []string { return nil }}
	for name, change := range map[string]func(*gossip.Options){
		"no name":         func(o *gossip.Options) { o.Node = "" },
		"no address":      func(o *gossip.Options) { o.Bind = "somewhere" },
		"foreign address": func(o *gossip.Options) { o.Bind = "192.0.2.1:7682" },
		"no key":          func(o *gossip.Options) { o.Keys = func() [][]byte { return nil } },
		"a short key":     func(o *gossip.Options) { o.Keys = func() [][]byte { return [][]byte{key('k')[:5]} } },
	} {
		o := good
		change(&o)
		if g, err := gossip.Start(o); err == nil {
			g.Close()
			t.Errorf("%s: started", name)
		} else if fmt.Sprint(err) == "" {
			t.Errorf("%s: no reason", name)
		}
	}
}
