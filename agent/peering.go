package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-sdn/weft/agent/gossip"
	"github.com/weft-sdn/weft/agent/peer"
	"github.com/weft-sdn/weft/agent/plan"
	"github.com/weft-sdn/weft/agent/replica"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/keys"
)

// peering is what a network node has with the others of its pool, beside BFD: gossip, and the replication of connections.
// Both are off without the fleet's key; it is tried again now and then. Its methods may be called concurrently.
type peering struct {
	node, file string
	credential *identity.Credential // nil where TLS is off: then who has a key is a peer
	at         netip.AddrPort       // of gossip; replication is one port higher
	enter      func(string, func() error) error
	log        *slog.Logger
	cancel     context.CancelFunc
	done       chan struct{}
	listening  sync.WaitGroup

	news atomic.Bool // gossip has told of somebody

	mu      sync.Mutex
	problem string
	keys    *peer.Keyring
	gossip  *gossip.Gossip      // nil while off
	replica *replica.Replicator // nil while off
	roles   map[string]replica.Assignment
	peers   map[string]string // node -> its peer_address
}

// keyPeriod is how often the key file is looked at.
const keyPeriod = 5 * time.Second

// newPeering starts it, if the node takes part; nil if it holds no routers.
func newPeering(cfg Config, credential *identity.Credential, enter func(string, func() error) error, log *slog.Logger) *peering {
	if !cfg.keepsRouters() {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &peering{
		node: cfg.Node, file: cfg.PeerKeyFile, credential: credential, enter: enter, log: log, cancel: cancel, done: make(chan struct{}),
		roles: map[string]replica.Assignment{}, peers: map[string]string{},
	}
	p.at, _ = netip.ParseAddrPort(cfg.PeerAddress) // checked by Config.Validate; invalid when there is none
	p.follow()
	go p.run(ctx)
	return p
}

func (p *peering) run(ctx context.Context) {
	defer close(p.done)
	tick := time.NewTicker(keyPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.follow()
		}
	}
}

// follow reads the key file, and starts what can be started.
func (p *peering) follow() {
	err := p.open()
	p.mu.Lock()
	defer p.mu.Unlock()
	problem := ""
	switch {
	case err != nil && p.replica == nil:
		problem = fmt.Sprintf("connections are not replicated, and a router that moves loses them: %v", err)
	case err != nil:
		problem = fmt.Sprintf("the keys of the peers stay as they were: %v", err)
	}
	if problem != "" && problem != p.problem {
		p.log.Error("peers", "problem", problem)
	}
	p.problem = problem
}

func (p *peering) open() error {
	switch {
	case p.file == "":
		return errors.New("peer_key_file is not set")
	case !p.at.IsValid():
		return errors.New("peer_address is not set")
	}
	p.mu.Lock()
	ring, on := p.keys, p.replica != nil
	p.mu.Unlock()
	if ring == nil {
		var err error
		if ring, err = peer.Load(p.file); err != nil {
			return err
		}
		p.mu.Lock()
		p.keys = ring
		p.mu.Unlock()
	} else if changed, err := ring.Reload(); err != nil {
		return err
	} else if changed && on {
		p.log.Info("the keys of the peers have changed")
		return p.gossip.Rekey()
	}
	if on {
		return nil
	}
	return p.begin(ring)
}

// begin starts gossip and replication, and tells the latter the roles that are known.
func (p *peering) begin(ring *peer.Keyring) error {
	at := netip.AddrPortFrom(p.at.Addr(), p.at.Port()+1)
	var trust replica.Trust = ring
	if p.credential != nil {
		trust = peer.Certificates{Credential: p.credential}
	}
	r, err := replica.New(replica.Options{Node: p.node, Enter: p.enter, Listen: at.String(), Trust: trust, Log: p.log})
	if err != nil {
		return err
	}
	g, err := gossip.Start(gossip.Options{Node: p.node, Bind: p.at.String(), Keys: ring.Gossip, Seeds: p.seeds, Log: p.log})
	if err != nil {
		r.Close()
		return err
	}
	p.listening.Go(func() {
		for range g.Changes() {
			p.news.Store(true)
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replica, p.gossip = r, g
	for id, role := range p.roles {
		r.Set(id, role)
	}
	return nil
}

// close ends it. What is in the kernels stays.
func (p *peering) close() {
	if p == nil {
		return
	}
	p.cancel()
	<-p.done
	p.mu.Lock()
	g, r := p.gossip, p.replica
	p.mu.Unlock()
	if g != nil {
		g.Close()
		r.Close()
	}
	p.listening.Wait()
}

// alive reports whether a node was heard of lately, by gossip.
func (p *peering) alive(node string) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	g := p.gossip
	p.mu.Unlock()
	if g == nil {
		return false
	}
	alive, _ := g.Alive(node)
	return alive
}

// heard reports, once, that gossip has told of a node that came or went.
func (p *peering) heard() bool { return p != nil && p.news.Swap(false) }

// address is where the node's peers reach it; "" while it takes no part.
func (p *peering) address() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.replica == nil {
		return ""
	}
	return p.at.String()
}

func (p *peering) problems() []string {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == "" {
		return nil
	}
	return []string{p.problem}
}

// seeds are the peers' addresses.
func (p *peering) seeds() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Values(p.peers))
}

// meet notes the peers' addresses and reports whether they have changed.
func (p *peering) meet(peers map[string]string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if maps.Equal(p.peers, peers) {
		return false
	}
	p.peers = peers
	return true
}

// of are those of some nodes that are peers, with the address for replication: "" for a peer that has none.
func (p *peering) of(nodes []string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for _, n := range nodes {
		if n == p.node {
			continue
		}
		out[n] = ""
		if at, err := netip.ParseAddrPort(p.peers[n]); err == nil && at.Port() < 65535 {
			out[n] = netip.AddrPortFrom(at.Addr(), at.Port()+1).String()
		}
	}
	return out
}

// knows reports whether a router has a role.
func (p *peering) knows(router string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.roles[router].Role != replica.None
}

// set gives a router its role. When it returns, nothing of a peer's gets into the namespace of one that is active now.
func (p *peering) set(router string, role replica.Assignment) {
	p.mu.Lock()
	defer p.mu.Unlock() // a Replicator that begins sees every role
	if role.Role == replica.None {
		delete(p.roles, router)
	} else {
		p.roles[router] = role
	}
	if p.replica != nil {
		p.replica.Set(router, role)
	}
}

// reopen follows a router's namespace that has been made anew.
func (p *peering) reopen(namespace string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	r := p.replica
	p.mu.Unlock()
	if id, ok := strings.CutPrefix(namespace, plan.RouterNamespace("")); ok && r != nil {
		r.Reopen(id)
	}
}

// flush waits until a node has all connections of a router that this one forwards for. Without replication there is
// nothing to wait for.
func (p *peering) flush(ctx context.Context, router, node string) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	r := p.replica
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.Flush(ctx, router, node)
}

// replicate gives routers that have changed their roles. It comes before the flows of a change: a router whose frames
// begin to pass is closed to its peers by then.
func (a *Agent) replicate(dirty *view.Dirty) {
	if a.peering == nil {
		return
	}
	for id := range dirty.Actives {
		a.peering.set(id, a.roleOf(id))
	}
	for id := range dirty.Routers {
		a.peering.set(id, a.roleOf(id))
	}
}

// replicateAll gives every router its role anew when the peers' addresses have changed.
func (a *Agent) replicateAll() {
	if a.peering == nil || !a.started {
		return
	}
	peers := map[string]string{}
	for _, name := range a.view.Peers() {
		if address := a.view.Nodes[name].PeerAddress; address != "" {
			peers[name] = address
		}
	}
	if !a.peering.meet(peers) {
		return
	}
	for id := range a.view.HostRouters {
		a.peering.set(id, a.roleOf(id))
	}
}

// roleOf is what the node is for a router: something once it has been built, until it is no longer planned for it.
func (a *Agent) roleOf(id string) replica.Assignment {
	u := unit{keys.KindRouter, id}
	built, _ := a.builtAt[u].(*plan.Router)
	planned, ok := a.view.HostRouters[id]
	if !ok || !a.peering.knows(id) && (built == nil || a.units[u] != nil) {
		return replica.Assignment{}
	}
	now := a.view.Active[id]
	out := replica.Assignment{
		Role: replica.Standby, Namespace: plan.RouterNamespace(id), Epoch: now.Epoch, Peers: a.peering.of(planned.Nodes),
	}
	if now.Node == a.cfg.Node {
		out.Role = replica.Active
	}
	return out
}

// observe registers what is read when somebody asks.
func (p *peering) observe(reg *prometheus.Registry) error {
	if p == nil {
		return nil
	}
	stats := func() replica.Stats {
		p.mu.Lock()
		r := p.replica
		p.mu.Unlock()
		if r == nil {
			return replica.Stats{}
		}
		return r.Stats()
	}
	var errs []error
	for state, read := range map[string]func(replica.Stats) int{
		"active":  func(s replica.Stats) int { return s.Active },
		"standby": func(s replica.Stats) int { return s.Standby },
		"synced":  func(s replica.Stats) int { return s.Synced },
	} {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weft_agent_replication_routers", ConstLabels: prometheus.Labels{"state": state},
			Help: "Routers whose connections are replicated, by state (active: sent; standby: taken; synced: of those that are taken, the complete ones).",
		}, func() float64 { return float64(read(stats())) })))
	}
	for what, read := range map[string]func(replica.Stats) uint64{
		"sent":    func(s replica.Stats) uint64 { return s.Sent },
		"made":    func(s replica.Stats) uint64 { return s.Made },
		"removed": func(s replica.Stats) uint64 { return s.Removed },
		"refused": func(s replica.Stats) uint64 { return s.Refused },
		"dropped": func(s replica.Stats) uint64 { return s.Dropped },
	} {
		errs = append(errs, reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "weft_agent_replication_entries_total", ConstLabels: prometheus.Labels{"what": what},
			Help: "Connections replicated, by what was done (sent to peers; made or removed for peers; refused by the kernel; dropped by a limit).",
		}, func() float64 { return float64(read(stats())) })))
	}
	for what, read := range map[string]func(replica.Stats) uint64{
		"put":     func(s replica.Stats) uint64 { return s.NeighboursPut },
		"removed": func(s replica.Stats) uint64 { return s.NeighboursRemoved },
	} {
		errs = append(errs, reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "weft_agent_replication_neighbours_total", ConstLabels: prometheus.Labels{"what": what},
			Help: "Neighbours of routers that stand by here, by what was done in their namespaces (put or removed).",
		}, func() float64 { return float64(read(stats())) })))
	}
	return errors.Join(errs...)
}
