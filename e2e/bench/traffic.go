package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
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

// All routers at 100 Hz both ways would be 10,000 echoes a second, each of which crosses four userspace switches and a
// router: more than the two processors of the machine can carry, with all hosts on it. So some are pinged at 100 Hz both
// ways and the others from outside only, less often.
const (
	sampled   = 3
	restEvery = 50 * time.Millisecond
)

// talkers is how many of the routers concerned carry TCP connections, of three kinds each.
const talkers = 5

// talkPort is where servers listen.
const talkPort = 7

// traffic is what goes through the pool's routers while something is done to it: pings to every floating IP from outside
// and out of some VMs through SNAT, TCP through some, and a witness on the external network.
type traffic struct {
	b *bench
	// sample is pinged at 100 Hz both ways, rest from outside only.
	sample, rest []*way
	out          map[*way]*echo.Run
	in           map[time.Duration]*echo.Fan // by its interval
	talks        []*talking
	// stuck are those that did not go on after what was done, see recovered.
	stuck    []*talking
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

// start has traffic on all ways; those given first are the sample, and some of them carry TCP.
func (b *bench) start(ctx context.Context, first []*way) (t *traffic, err error) {
	others := slices.DeleteFunc(slices.Clone(b.pool.ways), func(w *way) bool { return slices.Contains(first, w) })
	all := slices.Concat(first, others)
	t = &traffic{b: b, sample: all[:sampled], rest: all[sampled:], out: map[*way]*echo.Run{}, in: map[time.Duration]*echo.Fan{}}
	defer func() {
		if err != nil {
			t.discard()
		}
	}()
	ports, err := b.externalPorts()
	if err != nil {
		return t, err
	}
	if t.witness, err = witness.Start(b.lab.Switch().Do, ports...); err != nil {
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

// externalPorts are the network nodes' ports on the switch of ext1; a node without power has none.
func (b *bench) externalPorts() (out []string, err error) {
	err = b.lab.Switch().Do(func() error {
		for _, node := range networkNodes() {
			if port, err := net.InterfaceByName(node + "-ext1"); err == nil {
				out = append(out, port.Name)
			}
		}
		return nil
	})
	return out, err
}

func (t *traffic) ping(ctx context.Context) error {
	outside := t.b.pool.outside
	for _, w := range t.sample {
		run, err := w.vm.StartPing(ctx, echo.Options{Destination: outside.Address().Addr(), Interval: probeEvery})
		if err != nil {
			return err
		}
		t.out[w] = run
	}
	for every, ways := range map[time.Duration][]*way{probeEvery: t.sample, restEvery: t.rest} {
		var floating []netip.Addr
		for _, w := range ways {
			floating = append(floating, w.floating)
		}
		fan, err := outside.StartFan(ctx, echo.FanOptions{Destinations: floating, Interval: every})
		if err != nil {
			return err
		}
		t.in[every] = fan
	}
	return nil
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
			var made *talk.Talk
			// A router that moves just then, on a machine too busy for BFD, may not know the connection yet.
			if err := within(ctx, gathering, fmt.Sprintf("TCP %s through router %s", c.what, w.router.GetName()), func() (_ bool, err error) {
				made, err = talk.Start(ctx, c.from, c.to, c.kind)
				return err == nil, err
			}); err != nil {
				return err
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

// heard waits until all pings of some ways are answered again, both ways.
func (t *traffic) heard(ctx context.Context, ways []*way) error {
	before := t.received()
	return until(ctx, fmt.Sprintf("%d routers carry both ways", len(ways)), func() (bool, error) {
		now, silent := t.received(), 0
		for _, w := range ways {
			if now.in[w].Received <= before.in[w].Received || t.out[w] != nil && now.out[w].Received <= before.out[w].Received {
				silent++
			}
		}
		return silent == 0, fmt.Errorf("%d are silent", silent)
	})
}

// answered are the accounts of pings, by way.
type answered struct{ out, in map[*way]echo.Stats }

// received is how the pings stand.
func (t *traffic) received() answered {
	return t.accounts((*echo.Run).Snapshot, (*echo.Fan).Snapshot)
}

func (t *traffic) stopPings() answered {
	return t.accounts((*echo.Run).Stop, (*echo.Fan).Stop)
}

func (t *traffic) accounts(run func(*echo.Run) echo.Stats, fan func(*echo.Fan) map[netip.Addr]echo.Stats) answered {
	a := answered{out: map[*way]echo.Stats{}, in: map[*way]echo.Stats{}}
	in := map[netip.Addr]echo.Stats{}
	for _, f := range t.in {
		maps.Copy(in, fan(f))
	}
	for _, w := range t.b.pool.ways {
		if s, ok := in[w.floating]; ok {
			a.in[w] = s
		}
	}
	for w, r := range t.out {
		a.out[w] = run(r)
	}
	return a
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
	answered
	// sample is what was pinged at 100 Hz.
	sample []*way
	talks  map[*talking]talk.Stats
	stuck  []*talking
	// overlaps are the routers for which two nodes spoke at a time, with what was seen.
	overlaps []string
	// taken is when a router changed its node, by router; the latest change.
	taken map[string]time.Time
}

// stop ends the traffic and returns the account.
func (t *traffic) stop() (lost, error) {
	l := lost{sample: t.sample, stuck: t.stuck, talks: map[*talking]talk.Stats{}}
	for _, c := range t.talks {
		l.talks[c] = c.Stop()
	}
	l.answered = t.stopPings()
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

// every is the distance of two echoes from outside to a way.
func (l lost) every(w *way) time.Duration {
	if slices.Contains(l.sample, w) {
		return probeEvery
	}
	return restEvery
}

// outages are the longest silences of some ways as far as they were pinged, in milliseconds.
func (l lost) outages(of map[*way]echo.Stats, ways []*way) []float64 {
	var out []float64
	for _, w := range ways {
		if s, ok := of[w]; ok {
			out = append(out, milliseconds(s.Outage(l.every(w))))
		}
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

// worst is the longest time that a router's unanswered echoes stand for in one direction, in milliseconds.
func (l lost) worst() float64 {
	worst := 0.0
	for _, of := range []map[*way]echo.Stats{l.out, l.in} {
		for w, s := range of {
			worst = max(worst, float64(s.Lost())*milliseconds(l.every(w)))
		}
	}
	return worst
}

// broken are the connections that ended, or did not go on.
func (l lost) broken() []string {
	var out []string
	for c, s := range l.talks {
		if s.Err != nil || slices.Contains(l.stuck, c) {
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

// calm waits until the fleet has settled, or for some seconds: on a machine that others use too it never may.
func (b *bench) calm(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := b.settled(waiting); err != nil && ctx.Err() == nil {
		fmt.Fprintf(b.out, "   measured all the same: %v\n", err)
	}
	return ctx.Err()
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
	client, err := b.lab.Etcd()
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
