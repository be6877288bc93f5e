// Package proxy is the process that VMs reach at 169.254.169.254. It finds out from the node's agent who is asking, and
// answers from what the agent says (agent/metadata/guest) or asks a backend in the guest's name. What faces tenants ends
// here: it runs without privileges, reads no file and no store, holds no secret, and a guest gets no more of it than its
// share. Listening sockets come from the agent (agent/metadata/wire), which makes them inside the namespaces of routers and
// DHCP servers; the process itself is in the host's, where backends are reached. It outlives the agent.
//
// A connection carries one request, so that there is nothing for a smuggled one to hide behind.
package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/weft-sdn/weft/agent/metadata/wire"
)

// Options are what a Proxy needs.
type Options struct {
	// Ask is the path of the socket at which the agent answers questions.
	Ask string
	// Patience is how long a request waits for an agent that is away, as one that is being restarted (default 10 s).
	Patience time.Duration
	// Rate is how many requests per second one guest may make, in bursts of 5 seconds' worth; Connections how many at once.
	Rate, Connections int
	// Backends are asked in turn; each is scheme, host and port. None: the proxy answers itself.
	Backends []*url.URL
	// BackendCA verifies HTTPS backends; nil for the system's. BackendTimeout is for one backend to begin its answer.
	BackendCA      *x509.CertPool
	BackendTimeout time.Duration
	// Hello is what the proxy says of itself to the agent.
	Hello wire.Hello
	// Log gets what an operator should read; nothing that a guest can have written without bound. Required.
	Log *slog.Logger
}

// Limits of one connection. What a guest asks for is a few hundred bytes of headers.
const (
	headerTime = 5 * time.Second // for the request's header to arrive
	readTime   = 10 * time.Second
	writeTime  = 60 * time.Second
	maxHeader  = 16 << 10 // bytes
	maxBody    = 64 << 10 // bytes
	// drainTime is what requests are given to end in when the proxy is to.
	drainTime = 30 * time.Second
)

// Proxy serves any number of places. Its methods may be called concurrently.
type Proxy struct {
	o       Options
	asker   asker
	backend http.Handler // nil: the proxy answers itself
	server  *http.Server
	limits  *allowances
	serving sync.WaitGroup

	released chan struct{}
	ending   func()

	mu     sync.Mutex
	doors  map[wire.Place]*door
	counts wire.Counts
}

// New is a proxy that listens nowhere yet.
func New(o Options) (*Proxy, error) {
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.Rate <= 0 || o.Connections <= 0 {
		return nil, fmt.Errorf("limits of a guest: %d requests per second and %d connections; both must be above 0", o.Rate, o.Connections)
	}
	p := &Proxy{
		o: o, asker: newAsker(o.Ask, o.Patience), limits: newAllowances(o.Rate, o.Connections),
		released: make(chan struct{}), doors: map[wire.Place]*door{}, counts: wire.Counts{},
	}
	p.ending = sync.OnceFunc(func() { close(p.released) })
	if len(o.Backends) > 0 {
		p.backend = newForwarder(o)
	}
	p.server = &http.Server{
		Handler: p, ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: writeTime, MaxHeaderBytes: maxHeader,
		DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // guests fill no log
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, visitKey{}, c) },
	}
	p.server.SetKeepAlivesEnabled(false)
	return p, nil
}

// Run serves, directed over a socket of wire.Bind's, until the context ends or all has been handed over; requests that are
// under way then come to their end. The error says why it could not listen to the agent.
func (p *Proxy) Run(ctx context.Context, control *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	directed := make(chan error, 1)
	go func() { directed <- wire.Serve(ctx, control, p) }()
	var err error
	select {
	case <-ctx.Done():
	case <-p.released:
	case err = <-directed:
	}
	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer stop()
	if late := p.server.Shutdown(drain); late != nil {
		p.o.Log.Warn("ended with requests under way", "error", late)
	}
	p.serving.Wait()
	return err
}

// Hello is what the proxy says of itself. It and the methods up to Released are the agent's, see wire.Handler.
func (p *Proxy) Hello() wire.Hello { return p.o.Hello }

// Counts are requests by the status that the guest was answered, and what was never answered: "malformed" and "cut".
func (p *Proxy) Counts() wire.Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *Proxy) count(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[what]++
}

// List is what the proxy listens at.
func (p *Proxy) List() []wire.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []wire.Listener
	for _, d := range p.doors {
		out = append(out, d.at)
	}
	slices.SortFunc(out, func(a, b wire.Listener) int { return a.Compare(b.Place) })
	return out
}

// Listen takes a listening socket over, in place of what there is at its place.
func (p *Proxy) Listen(l wire.Listener, f *os.File) error {
	socket, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("listen at %s: %w", l.Place, err)
	}
	tcp, ok := socket.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("listen at %s: no TCP socket", l.Place), socket.Close())
	}
	p.Shut(l.Place)
	d := &door{TCPListener: tcp, at: l, proxy: p, visits: map[*visit]bool{}}
	p.mu.Lock()
	p.doors[l.Place] = d
	p.mu.Unlock()
	p.serving.Go(func() {
		if err := p.server.Serve(d); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			p.o.Log.Error("can't listen any more", "at", l.Place, "error", err)
		}
	})
	return nil
}

// Shut closes what there is at a place, connections included: they would keep the namespace alive.
func (p *Proxy) Shut(at wire.Place) {
	p.mu.Lock()
	d := p.doors[at]
	delete(p.doors, at)
	p.mu.Unlock()
	if d != nil {
		d.shut()
	}
}

// Release gives the listening sockets away and accepts from none of them any more.
func (p *Proxy) Release(give func(wire.Listener, syscall.Conn) error) error {
	p.mu.Lock()
	doors := p.doors
	p.doors = map[wire.Place]*door{}
	p.mu.Unlock()
	var errs []error
	for _, d := range doors {
		errs = append(errs, give(d.at, d.TCPListener), d.Close())
	}
	return errors.Join(errs...)
}

// Released has Run come to its end.
func (p *Proxy) Released() { p.ending() }

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	w := &answer{ResponseWriter: out, status: http.StatusOK}
	defer func() { p.count(strconv.Itoa(w.status)) }()
	v, ok := r.Context().Value(visitKey{}).(*visit)
	if !ok {
		http.Error(w, "who are you?", http.StatusInternalServerError)
		return
	}
	if v.limited {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	if status, why := refusal(r); status != 0 {
		http.Error(w, why, status)
		return
	}
	g, err := p.asker.who(r.Context(), wire.Question{Place: v.at, Source: v.source})
	switch {
	case errors.Is(err, errNobody):
		http.Error(w, "this address is no instance's here", http.StatusNotFound)
	case errors.Is(err, errUnusable):
		http.Error(w, "what is stored for this instance can't be used", http.StatusInternalServerError)
	case err != nil:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the node can't say now who you are; try again", http.StatusServiceUnavailable)
	case p.backend != nil:
		p.backend.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), guestKey{}, identity{v, g})))
	default:
		answerFrom(w, r, g)
	}
}

// answer notes the status that a guest is answered.
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader is http.ResponseWriter's.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
