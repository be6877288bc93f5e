package access_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/controller/access"
	"github.com/weft-sdn/weft/controller/etcd"
	"github.com/weft-sdn/weft/proto/identity"
	"github.com/weft-sdn/weft/proto/identity/pki"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
)

const (
	mine   = "00000000-0000-4000-8000-00000000000a" // a router that is planned on net1 and net2
	theirs = "00000000-0000-4000-8000-00000000000b" // one that is planned on net2 alone
	limit  = 20 * time.Second
)

func node(name string) identity.Identity { return identity.Identity{Role: identity.Node, Name: name} }

// cluster is an etcd with TLS.
type cluster struct {
	t         *testing.T
	authority *pki.Authority
	server    *etcd.Server
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Init(filepath.Join(dir, "pki"), pki.Given{})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, authority: authority}
	c.server, err = etcd.Start(t.Context(), etcd.Options{
		Dir: dir, Listen: []string{"https://127.0.0.1:0"}, Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond,
		TLSDir: c.issue(identity.Identity{Role: identity.Controller, Name: "ctl1"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.server.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return c
}

func (c *cluster) issue(id identity.Identity) string {
	c.t.Helper()
	request := pki.Request{Identity: id}
	if id.Role == identity.User {
		request.Member = identity.Membership{Role: "operator"}
	}
	folder, err := c.authority.Issue(request)
	if err != nil && !errors.Is(err, pki.ErrExists) {
		c.t.Fatal(err)
	}
	if folder == "" {
		folder = c.authority.Folder(id)
	}
	return folder
}

// as is a client of somebody's.
func (c *cluster) as(id identity.Identity) *clientv3.Client {
	c.t.Helper()
	credential, err := identity.Load(c.issue(id))
	if err != nil {
		c.t.Fatal(err)
	}
	client, err := store.Dial(c.server.Endpoints(), credential)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

var (
	controller = identity.Identity{Role: identity.Controller, Name: "ctl1"}
	alice      = identity.Identity{Role: identity.Admin, Name: "alice"}
)

// enabled grants what everybody needs and has it enforced.
func (c *cluster) enabled(nodes ...string) (admin *clientv3.Client) {
	c.t.Helper()
	ctx := c.t.Context()
	admin = c.as(alice)
	for _, id := range []identity.Identity{controller, alice} {
		c.must(access.Grant(ctx, admin, id))
	}
	for _, n := range nodes {
		c.must(access.Grant(ctx, admin, node(n)))
	}
	c.must(access.Enable(ctx, admin, alice))
	return admin
}

// keep runs what the leader does, on the plans that the test sets.
type keep struct {
	mu      sync.Mutex
	plans   map[string][]string
	servers []string
	changed chan struct{}
}

func (k *keep) set(plans map[string][]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plans = plans
	close(k.changed)
	k.changed = make(chan struct{})
}

func (c *cluster) keep(client *clientv3.Client, plans map[string][]string) *keep {
	c.t.Helper()
	k := &keep{plans: plans, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(c.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		access.Run(ctx, access.Options{
			Client: client, Log: slog.New(slog.NewTextHandler(c.t.Output(), nil)),
			Plans:   func() map[string][]string { k.mu.Lock(); defer k.mu.Unlock(); return k.plans },
			Servers: func() []string { k.mu.Lock(); defer k.mu.Unlock(); return k.servers },
			Changed: func() <-chan struct{} { k.mu.Lock(); defer k.mu.Unlock(); return k.changed },
		})
	})
	c.t.Cleanup(running.Wait)
	c.t.Cleanup(cancel)
	return k
}

func (c *cluster) eventually(what string, holds func() error) {
	c.t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	c.t.Fatalf("never: %s: %v", what, err)
}

// writes wants a user to be able, or not, to write who is active for a router.
func (c *cluster) writes(client *clientv3.Client, router string, want bool) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("writing active/%s is allowed: %v", router, want), func() error {
		_, err := client.Put(c.t.Context(), keys.Active(router), "x")
		if want || err == nil {
			if !want {
				return errors.New("it is written")
			}
			return err
		}
		if !errors.Is(err, rpctypes.ErrPermissionDenied) {
			return err
		}
		return nil
	})
}

// TestOnlyWhoVMsAskLearnsWhatTheyAreTold has a node serve a network's DHCP for a while.
func TestOnlyWhoVMsAskLearnsWhatTheyAreTold(t *testing.T) {
	c := newCluster(t)
	c.enabled("net1", "cmp1")
	k := c.keep(c.as(controller), map[string][]string{mine: {"net1"}})
	net1, cmp1 := c.as(node("net1")), c.as(node("cmp1"))
	c.writes(net1, mine, true)
	reads := func(client *clientv3.Client, want error) {
		t.Helper()
		c.eventually(fmt.Sprintf("reading what VMs learn: %v", want), func() error {
			if _, err := client.Get(t.Context(), keys.Instance("x")); !errors.Is(err, want) {
				return fmt.Errorf("it is %w", err)
			}
			return nil
		})
	}
	reads(net1, nil)
	reads(cmp1, rpctypes.ErrPermissionDenied)
	serve := func(servers ...string) {
		k.mu.Lock()
		k.servers = servers
		k.mu.Unlock()
		k.set(map[string][]string{})
	}
	serve("cmp1")
	reads(cmp1, nil)
	reads(net1, rpctypes.ErrPermissionDenied)
	serve()
	reads(cmp1, rpctypes.ErrPermissionDenied)
}

// rights is what node net1 may do with keys of every family: its own, and others'.
func rights() map[string]string {
	return map[string]string{
		"network/x": "r", "subnet/x/y": "r", "port/x/y": "r", "router/x": "r", "floatingip/x/y": "r",
		"networkgrant/x/y": "", "securitygroup/x": "r", "rule/x/y": "r", "member/x/y": "r", "addressgroup/x": "r", "instance/x": "r",
		"segmentrange/x": "", "node/net1": "", "node/net2": "", "locator/port/x": "",
		"host/net1/port/x": "r", "host/net1/router/" + mine: "r", "host/net1/dhcp/x": "r",
		"host/net2/port/x": "", "host/net2/router/" + mine: "r", "host/net2/router/" + theirs: "", "host/net2/dhcp/x": "",
		"active/" + mine: "rw", "active/" + theirs: "r",
		"agent/net1": "rw", "agent/net2": "r", "agent/net11": "r", "live/net1": "rw", "live/net2": "r", "witness/net1": "rw", "witness/net2": "r",
		"plug/net1/x": "rw", "plug/net2/x": "", "plug/net11/x": "", "status/net1/port/x": "rw", "status/net2/port/x": "",
		"claim/segment/vlan/p/00000001": "", "claim/address/x/0a000001": "", "claim/mac/x/fa:16:3e:00:00:01": "", "claim/floating/x/0a000001/y": "",
		"claim/remote/x/y": "", "claim/place/red/port/00000001": "", "quota/red": "", "request/x": "", "move/x": "", "pool/x": "", "leader/x": "",
		"ask/net1/x": "r", "ask/net2/x": "", "answer/net1/x": "rw", "answer/net2/x": "",
	}
}

// verbs are what can be done with a key; each needs one of "r" and "w".
func verbs() map[string]func(context.Context, *clientv3.Client, string) error {
	return map[string]func(context.Context, *clientv3.Client, string) error{
		"r get": func(ctx context.Context, c *clientv3.Client, key string) error { _, err := c.Get(ctx, key); return err },
		"r watch": func(ctx context.Context, c *clientv3.Client, key string) error {
			ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
			defer cancel()
			got, ok := <-c.Watch(ctx, key, clientv3.WithCreatedNotify())
			if !ok {
				return errors.New("closed")
			}
			return got.Err()
		},
		"r compare": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then().Commit()
			return err
		},
		"r get in a transaction": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Txn(ctx).Then(clientv3.OpGet(key)).Commit()
			return err
		},
		"w put": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Put(ctx, key, "x")
			return err
		},
		"w delete": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Delete(ctx, key)
			return err
		},
		"w put in a transaction": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Txn(ctx).Then(clientv3.OpPut(key, "x")).Commit()
			return err
		},
		"w put in the branch that is not taken": func(ctx context.Context, c *clientv3.Client, key string) error {
			_, err := c.Txn(ctx).Then().Else(clientv3.OpPut(key, "x")).Commit()
			return err
		},
	}
}

func TestEveryCredentialDoesWithEveryFamilyWhatItMay(t *testing.T) {
	c := newCluster(t)
	admin := c.enabled("net1", "net2", "net3")
	c.keep(c.as(controller), map[string][]string{mine: {"net1", "net2"}, theirs: {"net2"}})
	net1, net3 := c.as(node("net1")), c.as(node("net3"))
	c.writes(net1, mine, true)
	c.must(access.Revoke(t.Context(), admin, node("net3")))
	nobody := func(string) string { return "" }
	everything := func(string) string { return "rw" }
	table := rights()
	for who, x := range map[string]struct {
		client *clientv3.Client
		may    func(key string) string
	}{
		"a node":                      {net1, func(key string) string { return table[key] }},
		"a node that was shut out":    {net3, nobody},
		"a node nobody has heard of":  {c.as(node("net4")), nobody},
		"a member of etcd":            {c.as(identity.Identity{Role: identity.Etcd, Name: "etcd1"}), nobody},
		"a controller":                {c.as(controller), everything},
		"an admin":                    {admin, everything},
		"a user":                      {c.as(identity.Identity{Role: identity.User, Name: "bob"}), nobody},
		"an admin nobody has granted": {c.as(identity.Identity{Role: identity.Admin, Name: "mallory"}), nobody},
	} {
		for shape := range table {
			for verb, do := range verbs() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				err := do(ctx, x.client, keys.Root+shape)
				cancel()
				want := strings.Contains(x.may(shape), verb[:1])
				if ok := err == nil; ok != want || !ok && !errors.Is(err, rpctypes.ErrPermissionDenied) && !strings.Contains(err.Error(), "permission denied") {
					t.Errorf("%s, %s %s: %v, allowed should be %v", who, verb, shape, err, want)
				}
			}
		}
	}
	// What is outside of the families, and more than a family.
	for key, want := range map[string]bool{keys.Schema: true, keys.Root: false, "/": false, "x": false, keys.All(keys.FamilyHost): false, keys.All(keys.FamilyStatus): false, keys.All(keys.FamilyPort): true} {
		_, err := net1.Get(t.Context(), key, clientv3.WithPrefix())
		if key == keys.Schema {
			_, err = net1.Get(t.Context(), key)
		}
		if (err == nil) != want {
			t.Errorf("a node reads all of %s: %v", key, err)
		}
	}
	if _, err := net1.Put(t.Context(), keys.Schema, "x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("a node writes the schema: %v", err)
	}
}

func TestTheTableOfRightsHasEveryFamily(t *testing.T) {
	for _, spec := range keys.Families() {
		begin := string(spec.Family) + "/"
		if spec.Family == keys.FamilyClaim {
			begin += spec.Parts[0] + "/"
		}
		found := false
		for shape := range rights() {
			found = found || strings.HasPrefix(shape, begin)
			if _, err := keys.Parse(keys.Root + shape); err != nil {
				t.Errorf("%s: %v", shape, err)
			}
		}
		if !found {
			t.Errorf("the test says nothing of %s: say what a node may do there", begin)
		}
	}
}

func TestNobodyWithoutRightsTouchesUsersOrMembers(t *testing.T) {
	c := newCluster(t)
	c.enabled("net1")
	net1, ctx := c.as(node("net1")), t.Context()
	for name, do := range map[string]func() error{
		"add a user":       func() error { return access.Grant(ctx, net1, node("net9")) },
		"make itself root": func() error { _, err := net1.UserGrantRole(ctx, "node:net1", "root"); return err },
		"widen its role": func() error {
			_, err := net1.RoleGrantPermission(ctx, "node:net1", "/", "0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		"shut an admin out": func() error { return access.Revoke(ctx, net1, alice) },
		"disable it":        func() error { return access.Disable(ctx, net1) },
		"list users":        func() error { _, err := access.Users(ctx, net1); return err },
		"add a member":      func() error { _, err := net1.MemberAdd(ctx, []string{"http://127.0.0.1:1"}); return err },
		"take a snapshot": func() error {
			r, err := net1.Snapshot(ctx)
			if err == nil {
				_, err = r.Read(make([]byte, 1))
			}
			return err
		},
		"put under a lease":   func() error { return leased(ctx, c, net1) },
		"end another's lease": func() error { return end(ctx, c, net1) },
		// Of these two etcd 3.4 forbids neither (docs/security.md).
		"keep another's lease": func() error { _, err := net1.KeepAliveOnce(ctx, lease(ctx, c)); return err },
		"have etcd compacted":  func() error { _, err := net1.Compact(ctx, 2); return err },
	} {
		if err := do(); err == nil {
			t.Errorf("a node could %s", name)
		}
	}
}

// lease is another's, with a key.
func lease(ctx context.Context, c *cluster) clientv3.LeaseID {
	c.t.Helper()
	admin := c.as(alice)
	l, err := admin.Grant(ctx, 60)
	c.must(err)
	_, err = admin.Put(ctx, keys.Live("net2"), "x", clientv3.WithLease(l.ID))
	c.must(err)
	return l.ID
}

func leased(ctx context.Context, c *cluster, client *clientv3.Client) error {
	_, err := client.Put(ctx, keys.Live("net1"), "x", clientv3.WithLease(lease(ctx, c)))
	return err
}

func end(ctx context.Context, c *cluster, client *clientv3.Client) error {
	_, err := client.Revoke(ctx, lease(ctx, c))
	return err
}

func TestRightsToRoutersFollowThePlansWhileOthersWork(t *testing.T) {
	c := newCluster(t)
	c.enabled("net1", "net2")
	k := c.keep(c.as(controller), map[string][]string{mine: {"net1"}})
	net1, net2 := c.as(node("net1")), c.as(node("net2"))
	c.writes(net1, mine, true)
	c.writes(net2, mine, false)

	// Whatever works goes on while users and roles change: etcd ends requests that began before a change.
	s := store.New(net2)
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	done := 0
	working.Go(func() {
		for ; ctx.Err() == nil; done++ {
			if _, err := s.Read(t.Context(), store.Prefix(keys.All(keys.FamilyPort)), store.Key(keys.Schema)); err != nil {
				t.Errorf("a read: %v", err)
			}
			if _, err := net2.Put(t.Context(), keys.Witness("net2"), "x"); err != nil {
				t.Errorf("a write: %v", err)
			}
		}
	})
	for range 5 {
		k.set(map[string][]string{mine: {"net1", "net2"}})
		c.writes(net2, mine, true)
		c.writes(net1, mine, true)
		k.set(map[string][]string{mine: {"net2"}, theirs: {"net1"}})
		c.writes(net1, mine, false)
		c.writes(net1, theirs, true)
		k.set(map[string][]string{mine: {"net1"}})
		c.writes(net2, mine, false)
	}
	cancel()
	working.Wait()
	t.Logf("%d rounds of a read and a write meanwhile", done)

	// What somebody changes by hand is put right, at the latest by the next leader.
	_, err := c.as(alice).RoleRevokePermission(t.Context(), "node:net1", keys.Active(mine), "")
	c.must(err)
	c.writes(net1, mine, false)
	c.keep(c.as(controller), map[string][]string{mine: {"net1"}})
	c.writes(net1, mine, true)
}

func TestNobodyIsLockedOutByMistake(t *testing.T) {
	c := newCluster(t)
	admin, ctx := c.as(alice), t.Context()
	if _, err := admin.Put(ctx, keys.Agent("net1"), "x"); err != nil {
		t.Fatal(err)
	}
	refused := func(who string) {
		t.Helper()
		if err := access.Enable(ctx, admin, alice); !errors.Is(err, access.ErrLockedOut) || !strings.Contains(err.Error(), who) {
			t.Errorf("without %s: %v", who, err)
		}
	}
	refused("admin:alice")
	c.must(access.Grant(ctx, admin, alice))
	refused("every controller")
	c.must(access.Grant(ctx, admin, controller))
	refused("node:net1")
	c.must(access.Grant(ctx, admin, node("net1")))
	if err := access.Grant(ctx, admin, identity.Identity{Role: identity.Etcd, Name: "etcd1"}); err == nil {
		t.Error("a member of etcd is a user")
	}
	for range 2 { // the second time changes nothing
		c.must(access.Grant(ctx, admin, node("net1")))
		c.must(access.Enable(ctx, admin, alice))
	}
	users, err := access.Users(ctx, admin)
	c.must(err)
	for _, id := range []identity.Identity{alice, controller, node("net1")} {
		if !slices.Contains(users, id) {
			t.Errorf("%s is none of %v", id, users)
		}
	}
	if on, err := access.Enabled(ctx, admin); !on || err != nil {
		t.Errorf("enabled %v, %v", on, err)
	}
	c.must(access.Disable(ctx, admin))
	if _, err := c.as(node("net7")).Get(ctx, "x"); err != nil {
		t.Errorf("disabled: %v", err)
	}
}
