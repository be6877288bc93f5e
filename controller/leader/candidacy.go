package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// candidacy is one key under one lease, from its creation to its end.
type candidacy struct {
	*Elector
	lease clientv3.LeaseID
	term  Term
	// expires is when the lease ends at the earliest: counted from before its last renewal was asked for.
	expires time.Time
}

// enter takes a lease and creates the key.
func (e *Elector) enter(ctx context.Context) (*candidacy, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	asked := time.Now()
	lease, err := e.opts.Store.Client().Grant(ctx, int64(e.opts.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("lease for the leadership: %w", err)
	}
	c := &candidacy{Elector: e, lease: lease.ID, expires: asked.Add(time.Duration(lease.TTL) * time.Second)}
	c.term.Key = keys.Leader(fmt.Sprintf("%016x", int64(lease.ID)))
	x := &txn.Txn{}
	x.Absent(c.term.Key)
	x.PutLeased(c.term.Key, c.value())
	if c.term.CreateRevision, err = e.opts.Store.Commit(ctx, x, c.lease); err != nil {
		return nil, errors.Join(fmt.Errorf("stand for the leadership: %w", err), c.withdraw())
	}
	return c, nil
}

func (c *candidacy) value() *storev1.Leader { return &storev1.Leader{Name: c.opts.Name} }

// withdraw revokes the lease, and with it the key. What can't be revoked expires.
func (c *candidacy) withdraw() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.opts.TTL)
	defer cancel()
	if _, err := c.opts.Store.Client().Revoke(ctx, c.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("resign from the leadership: %w", err)
	}
	return nil
}

// run waits for the turn, leads, and returns why that has ended.
func (c *candidacy) run(parent context.Context, lead func(context.Context, Term)) error {
	ctx, end := context.WithCancelCause(parent)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		end(c.keep(ctx))
	}()
	err := c.turn(ctx)
	if err == nil {
		err = c.beat(ctx)
	}
	for errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil { // who has not proven that it sees does not begin
		pause(ctx, look/10)
		err = c.beat(ctx)
	}
	resigned := make(chan error, 1)
	resign := func() { resigned <- c.withdraw() }
	if err == nil {
		err = c.lead(ctx, lead, end, resign)
	} else {
		resign()
	}
	if cause := context.Cause(ctx); cause != nil && parent.Err() == nil {
		err = cause
	}
	end(err)
	<-kept
	return errors.Join(err, <-resigned)
}

// keep renews the lease until ctx ends, and returns why it can't be relied on any more.
func (c *candidacy) keep(ctx context.Context) error {
	tick := time.NewTicker(c.opts.TTL / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := c.renew(ctx); errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("%w: %w", errRemoved, err)
		}
		if !time.Now().Before(c.expires) {
			return errExpired
		}
	}
}

// renew renews the lease once. Each attempt is short, for the next one may reach another member of the cluster, and none
// outlasts the lease.
func (c *candidacy) renew(ctx context.Context) error {
	asked := time.Now()
	until := asked.Add(c.opts.TTL / 3)
	if c.expires.Before(until) {
		until = c.expires
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	resp, err := c.opts.Store.Client().KeepAliveOnce(ctx, c.lease)
	if err != nil {
		return err
	}
	c.expires = asked.Add(time.Duration(resp.TTL) * time.Second)
	return nil
}

// look is how often a candidate looks whether it leads although no other candidate was seen to go.
const look = time.Second

// turn waits until no candidate is older. One that is blind gives way meanwhile: it would hold up the others.
func (c *candidacy) turn(ctx context.Context) error {
	for {
		found, err := c.candidates(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			pause(ctx, look/4)
			continue
		case len(found.Kvs) > 0 && string(found.Kvs[0].Key) == c.term.Key:
			return nil
		case !contains(found, c.term.Key):
			return errRemoved
		}
		if err := c.sees(ctx, found.Kvs[0].ModRevision); err != nil {
			if now, again := c.candidates(ctx); again == nil && contains(now, string(found.Kvs[0].Key)) {
				return err
			}
			continue // the leader's key has gone and may never have been seen
		}
		c.awaitGone(ctx, found.Header.Revision+1)
	}
}

func contains(found *clientv3.GetResponse, key string) bool {
	for _, kv := range found.Kvs {
		if string(kv.Key) == key {
			return true
		}
	}
	return false
}

// awaitGone waits until a candidate goes, or it is time to look again.
func (c *candidacy) awaitGone(ctx context.Context, from int64) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), look)
	defer cancel()
	for resp := range c.opts.Store.Client().Watch(ctx, keys.Leaders(), clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithFilterPut()) {
		if resp.Err() == nil {
			return
		}
		pause(ctx, look/10)
	}
}

// beat writes the key once more, and waits for the mirror to see it. store.ErrUnavailable means that nothing is known.
func (c *candidacy) beat(ctx context.Context) error {
	x := &txn.Txn{}
	c.term.Guard(x)
	x.PutLeased(c.term.Key, c.value())
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	revision, err := c.opts.Store.Commit(bounded, x, c.lease)
	switch {
	case errors.Is(err, store.ErrConflict):
		return errRemoved
	case err != nil:
		return fmt.Errorf("write the leader's key: %w", err)
	default:
		return c.sees(ctx, revision)
	}
}

// lead works until the term ends, and returns why it did. resign is called before it waits for the work to end, for
// nothing that is still written counts.
func (c *candidacy) lead(ctx context.Context, work func(context.Context, Term), end context.CancelCauseFunc, resign func()) error {
	c.opts.Log.Info("leading", "name", c.opts.Name, "term", c.term.CreateRevision)
	c.opts.Observe(State{Leading: true, Since: time.Now()})
	done := make(chan struct{})
	go func() {
		defer close(done)
		work(ctx, c.term)
	}()
	err := c.beats(ctx, done)
	end(err)
	resign()
	<-done
	c.opts.Observe(State{Since: time.Now()})
	c.opts.Log.Info("leading no more", "name", c.opts.Name, "term", c.term.CreateRevision, "reason", context.Cause(ctx))
	return err
}

// beats proves from time to time that the leader sees. That the store does not answer is no reason to resign: the lease
// says when it is.
func (c *candidacy) beats(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(c.opts.Beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return errEnded
		case <-tick.C:
		}
		if err := c.beat(ctx); err != nil && !errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
}
