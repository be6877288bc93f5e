package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// instances reads what VMs are to learn of themselves when they ask, and remembers it: for a moment, since a VM that boots
// asks many times over, and for as long as the store is away. Its methods may be called concurrently.
type instances struct {
	read func(context.Context, ...store.Query) (store.Snapshot, error)

	mu    sync.Mutex
	known map[string]remembered // by port
}

// remembered is an instance, nil for none, or why it can't be used.
type remembered struct {
	instance *weftv1.Instance
	err      error
	at       time.Time
}

// Bounds of what is remembered, and of what the store may take when something is.
const (
	instanceFresh = 3 * time.Second
	instanceWait  = time.Second
	maxInstances  = 4096
)

func newInstances(s *store.Store) *instances {
	return &instances{read: s.Read, known: map[string]remembered{}}
}

// get gives the instance of a port, nil when none is stored. metadata.ErrUnusable when it is not of the form; another error
// when the store is away and nothing is remembered. The instance must not be changed.
func (i *instances) get(ctx context.Context, port string) (*weftv1.Instance, error) {
	i.mu.Lock()
	have, ok := i.known[port]
	i.mu.Unlock()
	if ok && time.Since(have.at) < instanceFresh {
		return have.instance, have.err
	}
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, instanceWait)
		defer cancel()
	}
	snap, err := i.read(ctx, store.Key(keys.Instance(port)))
	switch {
	case err != nil && ok:
		i.remember(port, have.instance, have.err) // the next question need not wait
		return have.instance, have.err
	case err != nil:
		return nil, err
	}
	now, err := decodeInstance(snap.Results[0].Entries)
	i.remember(port, now, err)
	return now, err
}

func decodeInstance(entries []store.Entry) (*weftv1.Instance, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	out := &weftv1.Instance{}
	err := proto.Unmarshal(entries[0].Value, out)
	if err == nil {
		err = model.InstanceFrom(out)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", entries[0].Key, metadata.ErrUnusable, err)
	}
	return out, nil
}

func (i *instances) remember(port string, now *weftv1.Instance, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.known[port]; !ok && len(i.known) >= maxInstances {
		i.forget()
	}
	i.known[port] = remembered{now, err, time.Now()}
}

// forget makes room: first what is old goes, and if that is not enough, everything.
func (i *instances) forget() {
	for port, r := range i.known {
		if time.Since(r.at) >= instanceFresh {
			delete(i.known, port)
		}
	}
	if len(i.known) >= maxInstances {
		clear(i.known)
	}
}
