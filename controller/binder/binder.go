package binder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The scopes that a Binder follows.
var scopes = []keys.Family{keys.FamilyPlug, keys.FamilyPort, keys.FamilyHost}

// known is everything known of one port.
type known struct {
	port     portState
	plugs    []plug
	bindings []binding
}

// Binder follows plugs and ports and binds. Make it with New; Run does the work and owns all state.
type Binder struct {
	store  *store.Store
	log    *slog.Logger
	ports  map[string]*known
	names  map[string]string // each node's name and network's id once
	listed int
	dirty  map[string]bool
	depth  atomic.Int64 // len(dirty), for whoever asks
}

// Depth is how many ports wait to be looked at. It is safe for concurrent use.
func (b *Binder) Depth() int { return int(b.depth.Load()) }

// New makes a Binder.
func New(s *store.Store, log *slog.Logger) *Binder {
	return &Binder{store: s, log: log, ports: map[string]*known{}, names: map[string]string{}, dirty: map[string]bool{}}
}

// retry is how long a port that could not be settled waits, at most; attempts are spread so that replicas that met once do
// not meet again.
const retry = 50 * time.Millisecond

// Run binds until the context ends.
func (b *Binder) Run(ctx context.Context) {
	m := mirror.New(b.store, mirror.Options{Log: b.log})
	defer m.Close()
	for _, f := range scopes {
		m.Follow(string(f), mirror.Under(keys.All(f)))
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.Wake():
			b.take(m.Take())
		case <-timer.C:
		}
		if b.listed == len(scopes) && !b.settle(ctx) {
			timer.Reset(retry/4 + rand.N(retry))
		}
		b.depth.Store(int64(len(b.dirty)))
	}
}

func (b *Binder) take(batch mirror.Batch) {
	b.listed += len(batch.Listed)
	for _, c := range batch.Changes {
		k, err := keys.Parse(c.Key)
		if err == nil {
			err = b.change(k, c)
		}
		if err != nil {
			b.log.Warn("ignoring a key", "key", c.Key, "error", err)
		}
	}
}

func (b *Binder) change(k keys.Key, c mirror.Change) error {
	switch {
	case k.Family == keys.FamilyPort:
		return b.changePort(k, c)
	case k.Family == keys.FamilyPlug:
		b.changePlug(k, c)
	case k.Kind() == keys.KindPort:
		return b.changeBinding(k, c)
	}
	return nil
}

// of finds or makes what is known of a port, and marks it.
func (b *Binder) of(id string) *known {
	id = strings.Clone(id)
	b.dirty[id] = true
	if b.ports[id] == nil {
		b.ports[id] = &known{}
	}
	return b.ports[id]
}

// node is the name of a node, or a network's id, the same string for all.
func (b *Binder) node(name string) string {
	if name == "" {
		return ""
	}
	if b.names[name] == "" {
		name = strings.Clone(name)
		b.names[name] = name
	}
	return b.names[name]
}

func (b *Binder) changePort(k keys.Key, c mirror.Change) error {
	known := b.of(k.ID())
	if c.Value == nil {
		known.port = portState{}
		return nil
	}
	known.port = portState{system: true} // what is no port is left alone
	p := &weftv1.Port{}
	if err := proto.Unmarshal(c.Value, p); err != nil {
		return err
	}
	if p.GetId() != k.ID() || p.GetNetworkId() != k.Scope() {
		return fmt.Errorf("the port says %s/%s, its key says otherwise", p.GetNetworkId(), p.GetId())
	}
	known.port = portState{
		network: b.node(p.GetNetworkId()), name: p.GetName(), system: isSystem(p.GetDeviceOwner()),
		host: b.node(p.GetHost()), bound: b.node(p.GetBoundHost()), revision: c.Revision,
	}
	return nil
}

func (b *Binder) changePlug(k keys.Key, c mirror.Change) {
	known, node := b.of(k.ID()), b.node(k.Scope())
	known.plugs = slices.DeleteFunc(known.plugs, func(g plug) bool { return g.node == node })
	if c.Value != nil {
		known.plugs = append(known.plugs, plug{node, c.Revision})
	}
}

func (b *Binder) changeBinding(k keys.Key, c mirror.Change) error {
	known, node := b.of(k.ID()), b.node(k.Scope())
	known.bindings = slices.DeleteFunc(known.bindings, func(x binding) bool { return x.node == node })
	if c.Value == nil {
		return nil
	}
	stored := &storev1.PortBinding{}
	if err := proto.Unmarshal(c.Value, stored); err != nil {
		return err
	}
	known.bindings = append(known.bindings, binding{node, stored.GetRefused(), c.Revision})
	return nil
}

// settle does what has to be done for every marked port, many in one transaction, and reports whether all are settled.
// What was done comes back as a change and is looked at once more; what failed stays marked.
func (b *Binder) settle(ctx context.Context) bool {
	todo := map[string]decision{}
	for id := range b.dirty {
		k := b.ports[id]
		d := decide(id, k.port, k.plugs, k.bindings)
		if d.empty() {
			delete(b.dirty, id)
			if !k.port.exists() && len(k.plugs) == 0 && len(k.bindings) == 0 {
				delete(b.ports, id)
			}
			continue
		}
		todo[id] = d
	}
	if len(todo) == 0 {
		return true
	}
	if err := b.apply(ctx, todo); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrConflict) {
		b.log.Warn("binding ports failed, trying again", "ports", len(todo), "error", err)
	}
	return len(b.dirty) == 0
}

// apply reads the ports that are to be rebound together, and commits the decisions in as few transactions as they fit.
func (b *Binder) apply(ctx context.Context, todo map[string]decision) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v := record.NewView(b.store)
	var queries []store.Query
	for id, d := range todo {
		if d.rebind {
			queries = append(queries, store.Key(keys.Port(b.ports[id].port.network, id)))
		}
	}
	if _, err := v.Read(ctx, queries...); err != nil {
		return err
	}
	var errs []error
	merged, parts := &txn.Txn{}, map[string]*txn.Txn{}
	flush := func() {
		errs = append(errs, b.commit(ctx, merged, parts))
		merged, parts = &txn.Txn{}, map[string]*txn.Txn{}
	}
	for id, d := range todo {
		t, err := b.build(ctx, v, id, d)
		if err == nil {
			err = t.Err()
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !merged.Merge(t) {
			flush()
			merged.Merge(t)
		}
		parts[id] = t
	}
	flush()
	return errors.Join(errs...)
}

// commit commits the decisions of several ports together or, when that meets a conflict, each by itself: one port whose
// guards never hold keeps no other waiting. Those that could not be committed stay marked.
func (b *Binder) commit(ctx context.Context, merged *txn.Txn, parts map[string]*txn.Txn) error {
	if len(parts) == 0 {
		return nil
	}
	_, err := b.store.Commit(ctx, merged, 0)
	if err == nil {
		for id := range parts {
			delete(b.dirty, id)
		}
	}
	if len(parts) == 1 || !errors.Is(err, store.ErrConflict) {
		return err
	}
	var errs []error
	for id, t := range parts {
		errs = append(errs, b.commit(ctx, t, map[string]*txn.Txn{id: t}))
	}
	return errors.Join(errs...)
}

func (b *Binder) build(ctx context.Context, v *record.View, id string, d decision) (*txn.Txn, error) {
	t, k := &txn.Txn{}, b.ports[id]
	if d.rebind {
		if err := b.rebind(ctx, v, t, id, d.bind); err != nil {
			return nil, err
		}
	} else if k.port.exists() {
		t.Unchanged(keys.Port(k.port.network, id), k.port.revision)
	} else {
		t.Absent(keys.Locator(keys.KindPort, id))
	}
	for node, reason := range d.refuse {
		t.Exists(keys.Plug(node, id))
		t.Put(keys.HostObject(node, keys.KindPort, id), &storev1.PortBinding{NetworkId: k.port.network, Refused: reason})
	}
	for _, old := range d.forget {
		key := keys.HostObject(old.node, keys.KindPort, id)
		t.Absent(keys.Plug(old.node, id))
		t.Unchanged(key, old.revision)
		t.Delete(key)
	}
	return t, nil
}

// rebind moves a port to another node, or to none, as far as the port and its plugs are still what was decided upon.
func (b *Binder) rebind(ctx context.Context, v *record.View, t *txn.Txn, id, to string) error {
	k := b.ports[id]
	kind := record.Ports()
	port, err := kind.At(ctx, v, k.port.network, id)
	switch {
	case fault.IsNotFound(err), err == nil && port.Revision != k.port.revision:
		return store.ErrConflict // the mirror is about to tell
	case err != nil:
		return err
	}
	p := port.Copy()
	p.BoundHost, p.UpdateTime = to, timestamppb.Now()
	kind.Clean(p)
	t.Unchanged(port.Key, port.Revision)
	t.Put(port.Key, p)
	if k.port.bound != "" {
		t.Absent(keys.Plug(k.port.bound, id))
		t.Delete(keys.HostObject(k.port.bound, keys.KindPort, id))
	}
	if to != "" {
		t.Exists(keys.Plug(to, id))
		t.Put(keys.HostObject(to, keys.KindPort, id), &storev1.PortBinding{NetworkId: k.port.network})
	}
	return nil
}
