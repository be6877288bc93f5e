package access

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weft-sdn/weft/proto/identity"
)

// Options is what Run needs.
type Options struct {
	Client *clientv3.Client
	// Plans returns the nodes that each router is planned on, by the router's id; Servers those that serve some network's
	// DHCP; Changed a channel that is closed when that may have changed.
	Plans   func() map[string][]string
	Servers func() []string
	Changed func() <-chan struct{}
	Log     *slog.Logger
}

// Times of Run: how long changes are collected, how long after an error it looks again, and how often it compares with what
// etcd has although nothing seems to have changed; how long one comparison may take.
const (
	calm    = 100 * time.Millisecond
	again   = time.Second
	period  = time.Minute
	timeout = 30 * time.Second
)

// Run keeps what nodes may do what their plans make it, until the context ends. It is the leader's; two that overlap do each
// other no harm that the next look does not mend. A new permission is granted before any is taken away. Where etcd has no
// users there is nothing to do.
func Run(ctx context.Context, o Options) {
	k := keeping{o: o}
	round := time.NewTicker(period)
	defer round.Stop()
	for ctx.Err() == nil {
		changed := o.Changed()
		wait := time.Duration(0)
		if err := k.look(ctx); err != nil {
			if ctx.Err() == nil {
				o.Log.Warn("what nodes may do in etcd could not be brought up to date, trying again", "error", err)
			}
			k.have = nil
			wait = again
		}
		pause(ctx, calm+wait)
		if wait > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-round.C:
			k.have = nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// keeping remembers what etcd has, so that a change costs what it changes.
type keeping struct {
	o    Options
	have map[string][]Permission // by the node's name; nil: it is to be read
}

func (k *keeping) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if k.have == nil {
		have, err := k.read(ctx)
		if err != nil {
			return err
		}
		k.have = have
	}
	if len(k.have) == 0 {
		return nil
	}
	placed := byNode(k.o.Plans(), k.o.Servers())
	lost := map[string][]Permission{}
	for node, have := range k.have {
		want := Node(node, placed[node])
		role := identity.Identity{Role: identity.Node, Name: node}.String()
		if err := grant(ctx, k.o.Client, role, missing(have, want)); err != nil {
			return err
		}
		lost[role] = unwanted(have, want)
		k.have[node] = want
	}
	for role, some := range lost {
		if err := revoke(ctx, k.o.Client, role, some); err != nil {
			return err
		}
	}
	return nil
}

// byNode is what is placed on each node.
func byNode(plans map[string][]string, servers []string) map[string]Placed {
	out := map[string]Placed{}
	for router, nodes := range plans {
		for _, node := range nodes {
			if out[node].Routers == nil {
				out[node] = Placed{Routers: map[string][]string{}}
			}
			out[node].Routers[router] = nodes
		}
	}
	for _, node := range servers {
		out[node] = Placed{Routers: out[node].Routers, DHCP: true}
	}
	return out
}

// read is what etcd has.
func (k *keeping) read(ctx context.Context) (map[string][]Permission, error) {
	users, err := Users(ctx, k.o.Client)
	if err != nil {
		return nil, err
	}
	out := map[string][]Permission{}
	for _, id := range users {
		if id.Role != identity.Node {
			continue
		}
		have, err := permissions(ctx, k.o.Client, id.String())
		if errors.Is(err, rpctypes.ErrRoleNotFound) {
			continue // Grant, or Revoke, is at work or was interrupted
		}
		if err != nil {
			return nil, err
		}
		out[id.Name] = have
	}
	return out, nil
}
