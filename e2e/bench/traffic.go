package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/lab/echo"
	"github.com/weft-sdn/weft/e2e/lab/talk"
	"github.com/weft-sdn/weft/e2e/lab/witness"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// talkers is how many of the routers concerned carry TCP connections, of three kinds each.
const talkers = 5

// talkPort is where servers listen.
const talkPort = 7

// traffic is what goes through the pool's routers while something is done to it: pings out of every VM through SNAT and to
// every floating IP from outside, TCP through some, and a witness on the external network.
type traffic struct {
	b        *bench
	out      map[*way]*echo.Run
	in       *echo.Fan
	talks    []*talking
	servers  []*talk.Server
	witness  *witness.Witness
	takeover *takeovers
	// began is when all of it ran.
	began time.Time
}

// talking is one TCP connection.
type talking struct {
	*talk.Talk
	way  *way
	what string
}

// start has traffic on all ways, and TCP on some of those given first.
func (b *bench) start(ctx context.Context, first []*way) (t *traffic, err error) {
	t = &traffic{b: b, out: map[*way]*echo.Run{}}
	defer func() {
		if err != nil {
			t.discard()
		}
	}()
	if t.witness, err = witness.Start(b.lab.Switch().Do, externalPorts()...); err != nil {
		return t, err
	}
	if t.takeover, err = b.follow(ctx); err != nil {
		return t, err
	}
	if err := t.ping(ctx); err != nil {
		return t, err
	}
	if err := t.talk(ctx, first); err != nil {
		return t, err
	}
	if err := t.flowing(ctx); err != nil {
		return t, err
	}
	t.began = time.Now()
	return t, settle(ctx)
}

// externalPorts are the network nodes' ports on the switch of ext1.
func externalPorts() []string {
	var out []string
	for _, node := range networkNodes() {
		out = append(out, node+"-ext1")
	}
	return out
}

func (t *traffic) ping(ctx context.Context) error {
	outside := t.b.pool.outside
	var floating []netip.Addr
	for _, w := range t.b.pool.ways {
		floating = append(floating, w.floating)
		run, err := w.vm.StartPing(ctx, echo.Options{Destination: outside.Address().Addr(), Interval: probeEvery})
		if err != nil {
			return err
		}
		t.out[w] = run
	}
	var err error
	t.in, err = outside.StartFan(ctx, echo.FanOptions{Destinations: floating, Interval: probeEvery})
	return err
}

// talk makes the connections: words out through SNAT and back, words in to the floating IP and back, and a download by
// a VM that says nothing.
func (t *traffic) talk(ctx context.Context, ways []*way) error {
	outside := t.b.pool.outside
	at := netip.AddrPortFrom(outside.Address().Addr(), talkPort)
	if err := t.serve(outside.Do, at); err != nil {
		return err
	}
	for _, w := range ways[:min(len(ways), talkers)] {
		if err := t.serve(w.vm.Do, netip.AddrPortFrom(w.vm.address, talkPort)); err != nil {
			return err
		}
		for _, c := range []struct {
			what string
			from talk.Enter
			to   netip.AddrPort
			kind talk.Kind
		}{
			{"out", w.vm.Do, at, talk.Echo},
			{"download", w.vm.Do, at, talk.Download},
			{"in", outside.Do, netip.AddrPortFrom(w.floating, talkPort), talk.Echo},
		} {
			made, err := talk.Start(ctx, c.from, c.to, c.kind)
			if err != nil {
				return fmt.Errorf("TCP %s through router %s: %w", c.what, w.router.GetName(), err)
			}
			t.talks = append(t.talks, &talking{made, w, c.what})
		}
	}
	return nil
}

func (t *traffic) serve(enter talk.Enter, at netip.AddrPort) error {
	s, err := talk.Serve(enter, at)
	if err == nil {
		t.servers = append(t.servers, s)
	}
	return err
}

// flowing waits until every ping has been answered, and begins them anew: what was lost to ARP is not measured.
func (t *traffic) flowing(ctx context.Context) error {
	if err := t.heard(ctx, t.b.pool.ways); err != nil {
		return err
	}
	t.stopPings()
	return t.ping(ctx)
}

// heard waits until all pings of some ways are answered, both ways.
func (t *traffic) heard(ctx context.Context, ways []*way) error {
	before := t.received()
	return until(ctx, fmt.Sprintf("%d routers carry both ways", len(ways)), func() (bool, error) {
		now, silent := t.received(), 0
		for _, w := range ways {
			if now[w][0] <= before[w][0] || now[w][1] <= before[w][1] {
				silent++
			}
		}
		return silent == 0, fmt.Errorf("%d are silent", silent)
	})
}

// received is how many echoes have been answered: those out and those in.
func (t *traffic) received() map[*way][2]int {
	out, in := map[*way][2]int{}, t.in.Snapshot()
	for w, run := range t.out {
		out[w] = [2]int{run.Snapshot().Received, in[w.floating].Received}
	}
	return out
}

func (t *traffic) stopPings() (map[*way]echo.Stats, map[netip.Addr]echo.Stats) {
	out := map[*way]echo.Stats{}
	var in map[netip.Addr]echo.Stats
	if t.in != nil {
		in = t.in.Stop()
	}
	for w, run := range t.out {
		out[w] = run.Stop()
	}
	return out, in
}

// discard ends everything and forgets it.
func (t *traffic) discard() {
	t.stopPings()
	for _, c := range t.talks {
		c.Stop()
	}
	for _, s := range t.servers {
		s.Close()
	}
	if t.takeover != nil {
		t.takeover.stop()
	}
	if t.witness != nil {
		_, _ = t.witness.Stop() // its record is not wanted
	}
}

// lost is what the traffic lost, by way.
type lost struct {
	out, in map[*way]echo.Stats
	talks   map[*talking]talk.Stats
	// overlaps are the routers for which two nodes spoke at a time, with what was seen.
	overlaps []string
	// taken is when a router changed its node, by router; the latest change.
	taken map[string]time.Time
}

// stop ends the traffic and returns the account.
func (t *traffic) stop() (lost, error) {
	l := lost{in: map[*way]echo.Stats{}, talks: map[*talking]talk.Stats{}}
	for _, c := range t.talks {
		l.talks[c] = c.Stop()
	}
	out, in := t.stopPings()
	l.out = out
	for w := range out {
		l.in[w] = in[w.floating]
	}
	for _, s := range t.servers {
		s.Close()
	}
	l.taken = t.takeover.stop()
	record, err := t.witness.Stop()
	for _, w := range t.b.pool.ways {
		if text := record.Overlaps(w.mac); text != "" {
			l.overlaps = append(l.overlaps, w.router.GetName()+": "+text)
		}
		l.overlaps = append(l.overlaps, doubled(record, w)...)
	}
	return l, err
}

// doubled are ARP replies for a floating IP from the port that had fallen silent, after one from another.
func doubled(r witness.Record, w *way) []string {
	var out []string
	var last string
	seen := map[string]bool{}
	for _, a := range r.Answers {
		if a.Address != w.floating || a.Port == last {
			continue
		}
		if seen[a.Port] {
			out = append(out, fmt.Sprintf("%s: %v is answered for by %s again, after %s", w.router.GetName(), a.Address, a.Port, last))
		}
		seen[a.Port], last = true, a.Port
	}
	return out
}

// outages are the longest silences of some ways, in milliseconds.
func (l lost) outages(of map[*way]echo.Stats, ways []*way) []float64 {
	var out []float64
	for _, w := range ways {
		out = append(out, milliseconds(of[w].Outage(probeEvery)))
	}
	return out
}

// packets are the echoes that were not answered, on all ways but some.
func (l lost) packets(but []*way) int {
	sum := 0
	for _, of := range []map[*way]echo.Stats{l.out, l.in} {
		for w, s := range of {
			if !slices.Contains(but, w) {
				sum += s.Lost()
			}
		}
	}
	return sum
}

// worst is the largest number of echoes that one router did not answer in one direction.
func (l lost) worst() int {
	worst := 0
	for _, of := range []map[*way]echo.Stats{l.out, l.in} {
		for _, s := range of {
			worst = max(worst, s.Lost())
		}
	}
	return worst
}

// stillTalking is what counts as alive at the end of a measurement.
const stillTalking = 500 * time.Millisecond

// broken are the connections that ended, or were silent when they were stopped.
func (l lost) broken() []string {
	var out []string
	for c, s := range l.talks {
		if s.Err != nil || s.Silence > stillTalking {
			out = append(out, fmt.Sprintf("TCP %s through router %s: %v", c.what, c.way.router.GetName(), s))
		}
	}
	return out
}

// gap is the longest silence of the connections of a kind, in milliseconds.
func (l lost) gap(whats ...string) float64 {
	var longest time.Duration
	for c, s := range l.talks {
		if slices.Contains(whats, c.what) {
			longest = max(longest, s.LargestGap)
		}
	}
	return milliseconds(longest)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// takeovers records when routers change their node, as the store tells it.
type takeovers struct {
	cancel context.CancelFunc
	client *clientv3.Client
	done   chan struct{}
	taken  map[string]time.Time
	// nodes are the latest.
	nodes map[string]string
}

// follow begins to record.
func (b *bench) follow(ctx context.Context) (*takeovers, error) {
	client, err := b.etcd()
	if err != nil {
		return nil, fmt.Errorf("follow the active nodes: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &takeovers{cancel: cancel, client: client, done: make(chan struct{}), taken: map[string]time.Time{}, nodes: map[string]string{}}
	now, err := client.Get(ctx, keys.All(keys.FamilyActive), clientv3.WithPrefix())
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("read the active nodes: %w", err), client.Close())
	}
	for _, kv := range now.Kvs {
		if id, node, ok := activeNode(kv); ok {
			t.nodes[id] = node
		}
	}
	go t.read(client.Watch(ctx, keys.All(keys.FamilyActive), clientv3.WithPrefix(), clientv3.WithRev(now.Header.GetRevision()+1)))
	return t, nil
}

// activeNode reads one key of the family active: a router's id, and the node that forwards for it.
func activeNode(kv *mvccpb.KeyValue) (id, node string, ok bool) {
	active := &storev1.ActiveRouter{}
	err := proto.Unmarshal(kv.Value, active)
	return strings.TrimPrefix(string(kv.Key), keys.All(keys.FamilyActive)), active.GetNode(), err == nil
}

func (t *takeovers) read(changes clientv3.WatchChan) {
	defer close(t.done)
	for answer := range changes {
		now := time.Now()
		for _, e := range answer.Events {
			if id, node, ok := activeNode(e.Kv); ok && node != t.nodes[id] {
				t.taken[id], t.nodes[id] = now, node
			}
		}
	}
}

// stop returns when each router that changed its node did so last.
func (t *takeovers) stop() map[string]time.Time {
	t.cancel()
	<-t.done
	_ = t.client.Close() // only read from
	return t.taken
}
