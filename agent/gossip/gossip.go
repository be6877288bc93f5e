// Package gossip asks around among the agents of a pool who is alive, by memberlist's protocol (SWIM) at its settings for
// local networks. What it says is a hint: seconds late, and on a busy machine wrong now and then. Nobody may forward or
// stop forwarding because of it alone; BFD, the store and their epochs decide (agent/ha). It carries no data of anybody's.
//
// Everything on the wire is encrypted and authenticated with the fleet's key (agent/peer). A peer is known by its node
// name. When all peers are away it goes on asking at their addresses, slowly.
package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Options is what Start needs.
type Options struct {
	// Node is this node's name.
	Node string
	// Bind is the address to be reached at, by UDP and TCP: IP:port.
	Bind string
	// Keys returns the secrets, 32 bytes each: the first is used, all are accepted. peer.Keyring's Gossip.
	Keys func() [][]byte
	// Seeds returns addresses (IP:port) of peers as they are known now; it may name this node too. Called from another
	// goroutine.
	Seeds func() []string
	Log   *slog.Logger // nothing is logged if nil
}

// Times of asking at the peers' addresses: soon while nobody is known, else rarely: memberlist keeps itself whole.
const (
	askAlone = time.Second
	askOther = 15 * time.Second
	dialTime = 2 * time.Second
)

// reclaim is after how long a node that died may come back with another address.
const reclaim = 30 * time.Second

// maxDead bounds how many nodes are remembered as gone.
const maxDead = 1024

// Gossip takes part. Its methods may be called concurrently.
type Gossip struct {
	o       Options
	keys    *memberlist.Keyring
	members *memberlist.Memberlist
	changes chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex
	alive map[string]bool
	// closed: so is changes.
	closed bool
}

// Start takes part until Close.
func Start(o Options) (*Gossip, error) {
	if o.Node == "" || o.Keys == nil || o.Seeds == nil {
		return nil, errors.New("gossip: Options.Node, Keys and Seeds are required")
	}
	bind, err := netip.ParseAddrPort(o.Bind)
	if err != nil {
		return nil, fmt.Errorf("gossip: address %q: %w", o.Bind, err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	secrets := o.Keys()
	if len(secrets) == 0 {
		return nil, errors.New("gossip: there is no key")
	}
	keys, err := memberlist.NewKeyring(secrets, secrets[0])
	if err != nil {
		return nil, fmt.Errorf("gossip: keys: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Gossip{o: o, keys: keys, changes: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), alive: map[string]bool{}}
	if g.members, err = memberlist.Create(g.config(bind)); err != nil {
		cancel()
		return nil, fmt.Errorf("gossip at %s: %w", o.Bind, err)
	}
	go g.ask(ctx)
	return g, nil
}

func (g *Gossip) config(bind netip.AddrPort) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = g.o.Node
	c.BindAddr, c.BindPort = bind.Addr().String(), int(bind.Port())
	c.AdvertisePort = c.BindPort
	c.TCPTimeout = dialTime
	c.DeadNodeReclaimTime = reclaim
	c.Keyring = g.keys
	c.Label = "weft"
	c.EnableCompression = false // messages are small
	c.Events = events{g}
	c.LogOutput = logWriter{g.o.Log}
	return c
}

// Close ends it without a goodbye: an agent that is upgraded comes back before it is missed. It may be called again.
func (g *Gossip) Close() {
	g.cancel()
	<-g.done
	if err := g.members.Shutdown(); err != nil {
		g.o.Log.Warn("end of gossip", "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		close(g.changes)
	}
}

// Addr is where it listens.
func (g *Gossip) Addr() string { return g.members.LocalNode().Address() }

// Alive reports whether a node was heard of lately, and whether it has ever been.
func (g *Gossip) Alive(node string) (alive, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive, known = g.alive[node]
	return alive, known
}

// Changes gets a value, of which several may be one, after a node has come or gone. Close closes it.
func (g *Gossip) Changes() <-chan struct{} { return g.changes }

// Rekey takes over the keys as they are now.
func (g *Gossip) Rekey() error {
	secrets := g.o.Keys()
	var errs []error
	for _, s := range secrets {
		errs = append(errs, g.keys.AddKey(s))
	}
	if len(secrets) > 0 {
		errs = append(errs, g.keys.UseKey(secrets[0]))
	}
	for _, old := range g.keys.GetKeys() {
		if !slices.ContainsFunc(secrets, func(s []byte) bool { return bytes.Equal(s, old) }) {
			errs = append(errs, g.keys.RemoveKey(old))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("gossip: keys: %w", err)
	}
	return nil
}

// ask looks for the peers that are not there.
func (g *Gossip) ask(ctx context.Context) {
	defer close(g.done)
	for {
		missing := g.missing()
		for _, address := range missing {
			if ctx.Err() != nil {
				return
			}
			if _, err := g.members.Join([]string{address}); err != nil {
				g.o.Log.Debug("a peer does not answer gossip", "address", address, "error", err)
			}
		}
		pause := askOther
		if g.members.NumMembers() < 2 {
			pause = askAlone
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// missing are the seeds' addresses at which no member is alive.
func (g *Gossip) missing() []string {
	there := map[string]bool{}
	for _, m := range g.members.Members() {
		there[m.Address()] = true
	}
	var out []string
	for _, s := range g.o.Seeds() {
		if s != "" && !there[s] {
			out = append(out, s)
		}
	}
	return out
}

// set notes what memberlist says of a node.
func (g *Gossip) set(node string, alive bool) {
	if node == g.o.Node {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	if g.alive[node] = alive; len(g.alive) > maxDead {
		for name, up := range g.alive {
			if !up && name != node {
				delete(g.alive, name)
			}
		}
	}
	g.o.Log.Info("gossip", "node", node, "alive", alive)
	select {
	case g.changes <- struct{}{}:
	default:
	}
}

// events are memberlist's calls.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node)  { e.g.set(n.Name, true) }
func (e events) NotifyLeave(n *memberlist.Node) { e.g.set(n.Name, false) }
func (events) NotifyUpdate(*memberlist.Node)    {}

// logWriter hands memberlist's log on. What it calls an error is mostly a peer that does not answer.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	if i := strings.Index(line, "["); i >= 0 {
		line = line[i:]
	}
	switch {
	case strings.HasPrefix(line, "[ERR]"), strings.HasPrefix(line, "[WARN]"):
		w.log.Info("gossip", "memberlist", line)
	default:
		w.log.Debug("gossip", "memberlist", line)
	}
	return len(b), nil
}
