package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/weft-sdn/weft/agent/netns"
	"github.com/weft-sdn/weft/agent/plan"
)

// mutedFor is how long the namespace of a router that was handed over says nothing: longer by far than Open vSwitch's datapath
// remembers flows that have gone. After that its frames go nowhere.
const mutedFor = time.Second

// mutes are the routers that this node hands over, or has just handed over, and whose namespaces say nothing. Its methods may
// be called concurrently; begin for one router by one goroutine at a time.
type mutes struct {
	// mute has a namespace say nothing until what it returns is called: netns.Manager.Mute.
	mute func(namespace string) (unmute func() error, err error)
	log  *slog.Logger

	mu  sync.Mutex
	now map[string]muted // by router
}

// muted is one namespace that says nothing.
type muted struct {
	over  context.CancelFunc
	ended <-chan struct{}
}

// begin has a router's namespace say nothing for a while, which the context's end cuts short; running is who waits for that.
func (m *mutes) begin(ctx context.Context, running *sync.WaitGroup, router string) error {
	m.end(router)
	unmute, err := m.mute(plan.RouterNamespace(router))
	if err != nil {
		return err
	}
	ctx, over := context.WithTimeout(ctx, mutedFor)
	ended := make(chan struct{})
	m.mu.Lock()
	m.now[router] = muted{over, ended}
	m.mu.Unlock()
	running.Go(func() {
		defer close(ended)
		<-ctx.Done()
		over()
		if err := unmute(); err != nil && !errors.Is(err, netns.ErrAbsent) {
			m.log.Warn("can't let a router's namespace speak again, an audit will", "router", router, "error", err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.now, router)
	})
	return nil
}

// end lets a router's namespace speak again, and returns when it may.
func (m *mutes) end(router string) {
	m.mu.Lock()
	now, ok := m.now[router]
	m.mu.Unlock()
	if ok {
		now.over()
		<-now.ended
	}
}

// has reports whether a router's namespace says nothing for now.
func (m *mutes) has(router string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.now[router]
	return ok
}
