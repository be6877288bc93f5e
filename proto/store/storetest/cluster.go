package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/store"
)

// Cluster is an etcd cluster of a test's own: real etcd processes on loopback, each of which can be killed, held
// (SIGSTOP), let go and started again by its number, from 0. Its methods belong to the test's own goroutine, but for
// Client, Store, Endpoints and Endpoint. It needs the program etcd, and etcdctl for Restore.
//
// A majority that is killed or held is an etcd that is away; a minority that is held is one that is cut off: the kernel
// still answers on its sockets, nobody else does.
type Cluster struct {
	tb      testing.TB
	dir     string
	members []*member
	client  *clientv3.Client
}

// member is one etcd, running or not.
type member struct {
	name, client, peer, dir string
	cmd                     *exec.Cmd // nil: not running
	done                    chan struct{}
	held                    bool
	log                     *tail
}

// Heartbeats and elections of a test's cluster: short, but not so short that a busy machine elects for ever.
const (
	heartbeatMs = "50"
	electionMs  = "500"
)

// StartCluster starts a cluster of n members and returns when it has a leader. It ends with the test.
func StartCluster(tb testing.TB, n int) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, dir: memoryDir(tb)}
	tb.Cleanup(c.stop)
	for i := range n {
		name := fmt.Sprintf("m%d", i)
		c.members = append(c.members, &member{
			name: name, client: "http://" + freeAddress(tb), peer: "http://" + freeAddress(tb), dir: filepath.Join(c.dir, name), log: &tail{},
		})
	}
	for i := range c.members {
		c.spawn(i)
	}
	c.client = c.NewClient()
	c.Await()
	return c
}

// memoryDir is a folder of the test's in memory where there is one: what a member writes has to outlive the member, not the
// machine, and a disk on which programs are being built makes it wait for seconds, through election after election.
func memoryDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "weft-etcd-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("clean up: %v", err)
		}
	})
	return dir
}

// freeAddress is an address on loopback that nobody listens on now.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Endpoints are the members' client URLs, in order; they stay the same.
func (c *Cluster) Endpoints() []string {
	out := make([]string, len(c.members))
	for i, m := range c.members {
		out[i] = m.client
	}
	return out
}

// Endpoint is the client URL of one member.
func (c *Cluster) Endpoint(i int) string { return c.members[i].client }

// Client is a client of all members that lives as long as the test.
func (c *Cluster) Client() *clientv3.Client { return c.client }

// Store is a store on Client, with a view of its own of whether the cluster is there.
func (c *Cluster) Store() *store.Store { return store.New(c.client) }

// NewClient makes another client of all members, closed when the test ends.
func (c *Cluster) NewClient() *clientv3.Client {
	c.tb.Helper()
	client, err := store.Dial(c.Endpoints(), nil)
	if err != nil {
		c.tb.Fatalf("dial the test's cluster: %v", err)
	}
	c.tb.Cleanup(func() { _ = client.Close() }) // a client that is closed already says that its context has ended
	return client
}

// spawn starts a member's process.
func (c *Cluster) spawn(i int) {
	c.tb.Helper()
	m := c.members[i]
	peers := make([]string, len(c.members))
	for j, other := range c.members {
		peers[j] = other.name + "=" + other.peer
	}
	m.cmd = exec.Command("etcd", "--name", m.name, "--data-dir", m.dir, //nolint:gosec // a test's own arguments
		"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
		"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-token", filepath.Base(c.dir),
		"--heartbeat-interval", heartbeatMs, "--election-timeout", electionMs,
		"--log-level", "warn", "--logger", "zap", "--log-outputs", "stderr")
	m.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		c.tb.Fatalf("start etcd (Debian package etcd-server): %v", err)
	}
	m.done, m.held = make(chan struct{}), false
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // how it ended is the test's to know
		close(done)
	}(m.cmd, m.done)
}

// Kill ends a member with SIGKILL and keeps its data. Killing one that does not run does nothing.
func (c *Cluster) Kill(i int) {
	c.tb.Helper()
	m := c.members[i]
	if m.cmd == nil {
		return
	}
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.tb.Errorf("kill etcd %s: %v", m.name, err)
	}
	<-m.done
	m.cmd, m.held = nil, false
}

// Start starts a member that was killed, on its data. It does not wait until the member serves; see Await.
func (c *Cluster) Start(i int) {
	c.tb.Helper()
	if c.members[i].cmd != nil {
		c.tb.Fatalf("etcd %s runs already", c.members[i].name)
	}
	c.spawn(i)
}

// Restart kills a member and starts it again.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	c.Kill(i)
	c.Start(i)
}

// Pause holds a member (SIGSTOP): its connections stay open and nobody answers.
func (c *Cluster) Pause(i int) { c.signal(i, syscall.SIGSTOP, true) }

// Resume lets a member go that was held.
func (c *Cluster) Resume(i int) { c.signal(i, syscall.SIGCONT, false) }

func (c *Cluster) signal(i int, s os.Signal, held bool) {
	c.tb.Helper()
	m := c.members[i]
	if m.cmd == nil {
		c.tb.Fatalf("etcd %s does not run", m.name)
	}
	if err := m.cmd.Process.Signal(s); err != nil {
		c.tb.Fatalf("signal %s to etcd %s: %v", s, m.name, err)
	}
	m.held = held
}

// Await waits until the cluster answers.
func (c *Cluster) Await() {
	c.tb.Helper()
	c.poll("the cluster answers", func(ctx context.Context) error {
		_, err := c.client.Get(ctx, "await")
		return err
	})
}

// Leader is the number of the member that leads.
func (c *Cluster) Leader() int {
	c.tb.Helper()
	leader := -1
	c.poll("a member leads", func(ctx context.Context) error {
		for i, m := range c.members {
			if m.cmd == nil || m.held {
				continue
			}
			status, err := c.client.Status(ctx, m.client)
			if err == nil && status.Leader == status.Header.MemberId {
				leader = i
				return nil
			}
		}
		return errors.New("no member says that it leads")
	})
	return leader
}

// Compact drops all history before the current revision, which it returns.
func (c *Cluster) Compact() int64 {
	c.tb.Helper()
	var revision int64
	c.poll("the cluster compacts", func(ctx context.Context) error {
		got, err := c.client.Get(ctx, "compact", clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		revision = got.Header.Revision
		_, err = c.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
		if errors.Is(err, rpctypes.ErrCompacted) {
			return nil
		}
		return err
	})
	return revision
}

// Defragment has a member rewrite its database, during which it answers nothing.
func (c *Cluster) Defragment(i int) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := c.client.Defragment(ctx, c.members[i].client); err != nil {
		c.tb.Fatalf("defragment %s: %v", c.members[i].client, err)
	}
}

// Snapshot saves the database as `etcdctl snapshot save` does and returns the file.
func (c *Cluster) Snapshot() string {
	c.tb.Helper()
	file := filepath.Join(c.tb.TempDir(), "snapshot.db")
	c.etcdctl("--endpoints", c.members[c.Leader()].client, "snapshot", "save", file)
	return file
}

// RestoreSnapshot kills all members and starts them on what a snapshot held: the store goes back to its revision.
func (c *Cluster) RestoreSnapshot(file string) {
	c.tb.Helper()
	peers := make([]string, len(c.members))
	for i, m := range c.members {
		c.Kill(i)
		peers[i] = m.name + "=" + m.peer
	}
	for i, m := range c.members {
		if err := os.RemoveAll(m.dir); err != nil {
			c.tb.Fatal(err)
		}
		c.etcdctl("snapshot", "restore", file, "--name", m.name, "--data-dir", m.dir, "--initial-cluster", strings.Join(peers, ","),
			"--initial-advertise-peer-urls", m.peer, "--initial-cluster-token", filepath.Base(c.dir)+"-restored")
		c.spawn(i)
	}
	c.Await()
}

func (c *Cluster) etcdctl(args ...string) {
	c.tb.Helper()
	cmd := exec.Command("etcdctl", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ETCDCTL_API=3"}
	if out, err := cmd.CombinedOutput(); err != nil {
		c.tb.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// poll tries until it works, and fails the test with the members' logs when it never does.
func (c *Cluster) poll(what string, try func(context.Context) error) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		once, stop := context.WithTimeout(ctx, 2*time.Second)
		err := try(once)
		stop()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			for _, m := range c.members {
				c.tb.Logf("etcd %s: %s", m.name, m.log)
			}
			c.tb.Fatalf("never happened: %s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Cluster) stop() {
	for i := range c.members {
		c.Kill(i)
	}
}

// tail keeps the end of what a process writes.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailSize = 4096

// Write takes everything and forgets the beginning.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if extra := t.buf.Len() - tailSize; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

// String is what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
