package leader_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/fleet"
	"github.com/weft-sdn/weft/controller/leader"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// deadline bounds everything that a test waits for.
const deadline = 30 * time.Second

// childEndpoint makes this binary a candidate on the etcd that it names, in a process of its own.
const childEndpoint = "WEFT_LEADER_TEST_ETCD"

func TestMain(m *testing.M) {
	if endpoint := os.Getenv(childEndpoint); endpoint != "" {
		child(endpoint, os.Stdout)
		return
	}
	goleak.VerifyTestMain(m)
}

// work is a key that leaders write.
const work = "work"

// child stands for election and, when it leads, writes as fast as it can for as long as etcd lets it, whatever the
// election says meanwhile. Its lines are what it does. It ends when it is killed.
func child(endpoint string, out io.Writer) {
	client, err := store.Dial([]string{endpoint}, nil)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	s := store.New(client)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	f := fleet.New(s, log)
	leader.New(leader.Options{Store: s, Name: strconv.Itoa(os.Getpid()), Seen: seen(f), Log: log}).Run(context.Background(), func(_ context.Context, term leader.Term) {
		fmt.Fprintln(out, "leads", term.CreateRevision)
		for {
			x := &txn.Txn{}
			term.Guard(x)
			x.Put(work, &storev1.Leader{Name: strconv.FormatInt(term.CreateRevision, 10)})
			if _, err := s.Commit(context.Background(), x, 0); errors.Is(err, store.ErrConflict) {
				fmt.Fprintln(out, "refused", term.CreateRevision)
				return
			}
		}
	})
}

func seen(f *fleet.Fleet) func(context.Context, int64) error {
	return func(ctx context.Context, revision int64) error { return f.Await(ctx, keys.FamilyLeader, revision) }
}

// candidate is a process of a test's own.
type candidate struct {
	tb    testing.TB
	cmd   *exec.Cmd
	lines chan string
}

func startCandidate(tb testing.TB, endpoint string) *candidate {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	c := &candidate{tb: tb, cmd: exec.Command(self), lines: make(chan string, 16)}
	c.cmd.Env = append(os.Environ(), childEndpoint+"="+endpoint)
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		c.read(out)
	}()
	tb.Cleanup(func() {
		c.signal(syscall.SIGKILL)
		<-read
		_ = c.cmd.Wait()
	})
	return c
}

func (c *candidate) read(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		c.lines <- lines.Text()
	}
	close(c.lines)
}

func (c *candidate) signal(s os.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.tb.Error(err)
	}
}

// says waits for a line that begins with a word and returns the number after it.
func (c *candidate) says(word string) int64 {
	c.tb.Helper()
	select {
	case line := <-c.lines:
		n, err := strconv.ParseInt(strings.TrimPrefix(line, word+" "), 10, 64)
		if err != nil {
			c.tb.Fatalf("got the line %q, want %q", line, word)
		}
		return n
	case <-time.After(deadline):
		c.tb.Fatalf("no line %q", word)
		return 0
	}
}

func TestAKilledLeaderIsFollowedByTheNextOne(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	first := startCandidate(t, server.Endpoint())
	first.says("leads")
	second := startCandidate(t, server.Endpoint())
	await(t, "two candidates", func() bool { return candidates(t, server) == 2 })
	killed := time.Now()
	first.signal(syscall.SIGKILL)
	second.says("leads")
	t.Logf("the next one led %s after the kill", time.Since(killed).Round(time.Millisecond))
}

func candidates(t *testing.T, server *storetest.Server) int {
	t.Helper()
	snap, err := server.Store().Read(t.Context(), store.Prefix(keys.Leaders()))
	if err != nil {
		t.Fatal(err)
	}
	return len(snap.Results[0].Entries)
}

// A leader that is stopped and continued goes on writing where it was, before anything can tell it that its term is over:
// etcd refuses it. No term's write comes after a later term's.
func TestLateWritesOfAStoppedLeaderAreRefused(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	first := startCandidate(t, server.Endpoint())
	old := first.says("leads")
	second := startCandidate(t, server.Endpoint())
	wrote(t, server, old)
	first.signal(syscall.SIGSTOP)
	term := second.says("leads")
	wrote(t, server, term)
	first.signal(syscall.SIGCONT)
	if refused := first.says("refused"); refused != old {
		t.Errorf("term %d was refused, want %d", refused, old)
	}
	second.signal(syscall.SIGKILL)
	again := first.says("leads") // with another lease
	if term <= old || again <= term {
		t.Errorf("terms %d, %d, %d", old, term, again)
	}
	wrote(t, server, again)
	first.signal(syscall.SIGKILL)
	if terms := history(t, server); !slices.Equal(terms, []int64{old, term, again}) {
		t.Errorf("etcd has seen writes of the terms %d, one after the other, want %d", terms, []int64{old, term, again})
	}
}

func termOf(t *testing.T, value []byte) int64 {
	t.Helper()
	m := &storev1.Leader{}
	if err := proto.Unmarshal(value, m); err != nil {
		t.Fatal(err)
	}
	term, err := strconv.ParseInt(m.GetName(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

// wrote waits until a term has written.
func wrote(t *testing.T, server *storetest.Server, term int64) {
	t.Helper()
	await(t, fmt.Sprintf("a write of term %d", term), func() bool {
		snap, err := server.Store().Read(t.Context(), store.Key(work))
		if err != nil {
			t.Fatal(err)
		}
		found := snap.Results[0].Entries
		return len(found) > 0 && termOf(t, found[0].Value) == term
	})
}

// history is the terms that have written, in order, repetitions left out.
func history(t *testing.T, server *storetest.Server) []int64 {
	t.Helper()
	snap, err := server.Store().Read(t.Context(), store.Key(work))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var terms []int64
	for resp := range server.Client().Watch(ctx, work, clientv3.WithRev(1)) {
		for _, ev := range resp.Events {
			terms = append(terms, termOf(t, ev.Kv.Value))
			if ev.Kv.ModRevision == snap.Results[0].Entries[0].Revision {
				return slices.Compact(terms)
			}
		}
	}
	t.Fatal("the watch has ended")
	return nil
}

// await waits for a condition.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

// runner is a candidate in the test's own process.
type runner struct {
	name  string
	terms chan leader.Term // each term, when it begins
	ended chan leader.Term // each term, when its work has ended
	state atomic.Pointer[leader.State]
	stop  context.CancelFunc
	done  chan struct{}
}

// run starts a candidate; set changes its options.
func run(t *testing.T, server *storetest.Server, name string, set func(*leader.Options)) *runner {
	t.Helper()
	s := store.New(server.NewClient())
	log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f := fleet.New(s, log)
	r := &runner{name: name, terms: make(chan leader.Term, 64), ended: make(chan leader.Term, 64), done: make(chan struct{})}
	opts := leader.Options{Store: s, Name: name, Seen: seen(f), Log: log, Observe: func(st leader.State) { r.state.Store(&st) }, TTL: time.Second, Beat: 50 * time.Millisecond}
	if set != nil {
		set(&opts)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() {
		defer close(r.done)
		leader.New(opts).Run(ctx, func(ctx context.Context, term leader.Term) {
			r.terms <- term
			<-ctx.Done()
			r.ended <- term
		})
	}()
	t.Cleanup(func() {
		stop()
		<-r.done
		f.Close()
	})
	return r
}

type testLog struct{ t *testing.T }

func (w testLog) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// leads waits for a candidate's next term.
func (r *runner) leads(t *testing.T) leader.Term {
	t.Helper()
	return receive(t, r.terms, r.name+" leads")
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(deadline):
		t.Fatalf("never happened: %s", what)
		panic("unreachable")
	}
}

func longLived(o *leader.Options) { o.TTL = time.Hour }

func TestALeaderThatIsStoppedResignsAtOnce(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	first := run(t, server, "first", longLived)
	term := first.leads(t)
	second := run(t, server, "second", longLived)
	await(t, "two candidates", func() bool { return candidates(t, server) == 2 })
	if state := first.state.Load(); state == nil || !state.Leading || state.Since.IsZero() {
		t.Errorf("state of the leader: %+v", state)
	}
	first.stop()
	if next := second.leads(t); next.CreateRevision <= term.CreateRevision {
		t.Errorf("term %d follows %d", next.CreateRevision, term.CreateRevision)
	}
	if got := receive(t, first.ended, "the first one's work ends"); got != term {
		t.Errorf("%v ended, want %v", got, term)
	}
	<-first.done
	if first.state.Load().Leading {
		t.Error("the first one still says that it leads")
	}
	await(t, "one candidate", func() bool { return candidates(t, server) == 1 })
}

func TestALeaderWhoseLeaseIsGoneStandsAgainWithAnother(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	r := run(t, server, "only", nil)
	term := r.leads(t)
	lease, err := strconv.ParseInt(term.Key[len(keys.Leaders()):], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().Revoke(t.Context(), clientv3.LeaseID(lease)); err != nil {
		t.Fatal(err)
	}
	receive(t, r.ended, "its work ends")
	next := r.leads(t)
	if next.Key == term.Key || next.CreateRevision <= term.CreateRevision {
		t.Errorf("term %v follows %v", next, term)
	}
	write := func(context.Context) (*txn.Txn, error) {
		x := &txn.Txn{}
		x.Put(work, &storev1.Leader{})
		return x, nil
	}
	if _, err := next.Update(t.Context(), server.Store(), write); err != nil {
		t.Errorf("a write of the new term: %v", err)
	}
	if _, err := term.Update(t.Context(), server.Store(), write); !errors.Is(err, leader.ErrEnded) {
		t.Errorf("a write of the old term: %v, want %v", err, leader.ErrEnded)
	}
}

func TestALeaderOutlivesNoOutageOfTheStoreAndLeadsAgainAfterIt(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	r := run(t, server, "only", nil)
	term := r.leads(t)
	server.Stop()
	receive(t, r.ended, "its work ends with its lease")
	server.Restart()
	if next := r.leads(t); next.CreateRevision <= term.CreateRevision {
		t.Errorf("term %v follows %v", next, term)
	}
}

func TestALeaderWhoseWorkEndsLeavesItToAnother(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	s := server.Store()
	f := fleet.New(s, slog.New(slog.DiscardHandler))
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var terms []int64
	leader.New(leader.Options{Store: s, Seen: seen(f), Log: slog.New(slog.DiscardHandler)}).Run(ctx, func(_ context.Context, term leader.Term) {
		if terms = append(terms, term.CreateRevision); len(terms) == 3 {
			cancel()
		}
	})
	if len(terms) != 3 || !slices.IsSorted(terms) || terms[0] == terms[1] {
		t.Errorf("terms %d", terms)
	}
}

// The mirror of the first candidate lies behind a proxy that stalls: connections stay open, nothing comes through. Its
// other calls reach the store.
func TestABlindLeaderResignsAndStandsAgainWhenItSees(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	var p proxy
	behind := func(o *leader.Options) {
		f := fleet.New(store.New(p.client(t, server.Endpoint())), o.Log)
		t.Cleanup(f.Close)
		o.Seen, o.Blind = seen(f), 300*time.Millisecond
	}
	first := run(t, server, "first", behind)
	first.leads(t)
	second := run(t, server, "second", nil)
	p.stall(true)
	receive(t, first.ended, "the blind one's work ends")
	second.leads(t)
	await(t, "the blind one is no candidate", func() bool { return candidates(t, server) == 1 })
	second.stop()
	<-second.done // nobody else is there, and still:
	if len(first.terms) > 0 {
		t.Error("the blind one leads")
	}
	p.stall(false)
	first.leads(t)
}

// proxy passes bytes on to an etcd.
type proxy struct {
	mu      sync.Mutex
	stalled chan struct{} // closed when it no longer stalls; nil when it does not
}

func (p *proxy) stall(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.stalled = make(chan struct{})
	} else {
		close(p.stalled)
		p.stalled = nil
	}
}

// pass waits while the proxy stalls.
func (p *proxy) pass() {
	p.mu.Lock()
	stalled := p.stalled
	p.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

// client is a client of the etcd at an endpoint, through the proxy, which ends with the test.
func (p *proxy) client(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "http://"))
			if err != nil {
				near.Close()
				continue
			}
			copies.Go(func() { p.copy(near, far) })
			copies.Go(func() { p.copy(far, near) })
		}
	})
	client, err := store.Dial([]string{"http://" + l.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		client.Close()
		copies.Wait()
	})
	return client
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.pass()
		if _, wrong := to.Write(buffer[:n]); err != nil || wrong != nil {
			return
		}
	}
}

// Whoever leads when: candidates come and go and lose their leases, and each writes under its own term for as long as it
// can. The writes are in the order of the terms.
func TestTermsNeverOverlap(t *testing.T) {
	t.Parallel()
	server := storetest.Start(t)
	server.Prepare()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var all sync.WaitGroup
	var ended atomic.Int64
	for i := range 4 {
		s := store.New(server.NewClient())
		f := fleet.New(s, slog.New(slog.DiscardHandler))
		defer f.Close()
		e := leader.New(leader.Options{Store: s, Name: strconv.Itoa(i), Seen: seen(f), Log: slog.New(slog.DiscardHandler), TTL: time.Second, Beat: 20 * time.Millisecond})
		all.Go(func() {
			e.Run(ctx, func(_ context.Context, term leader.Term) {
				scribble(t, s, term)
				if ended.Add(1) == 5 {
					cancel()
				}
			})
		})
	}
	all.Wait()
	terms := history(t, server)
	if !slices.IsSorted(terms) || len(terms) < 5 {
		t.Errorf("terms %d", terms)
	}
}

// scribble writes a few times, gives the term up half way through and goes on writing until it is refused.
func scribble(t *testing.T, s *store.Store, term leader.Term) {
	for i := range 1000 {
		x := &txn.Txn{}
		term.Guard(x)
		x.Put(work, &storev1.Leader{Name: strconv.FormatInt(term.CreateRevision, 10)})
		_, err := s.Commit(t.Context(), x, 0)
		if i == 10 && err == nil {
			lease, _ := strconv.ParseInt(term.Key[len(keys.Leaders()):], 16, 64) // the elector's own spelling
			_, err = s.Client().Revoke(t.Context(), clientv3.LeaseID(lease))
		}
		if errors.Is(err, store.ErrConflict) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
	t.Error("never refused")
}
