// Package metrics is what an operator's Prometheus gets to see of a controller: calls of the API, calls to etcd, the
// leadership, and what the fleet does. It measures nothing by itself; the controller's parts are told to tell it. All
// metrics are named weft_controller_… and documented in docs/metrics.md.
package metrics

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/proto/store"
)

// Metrics is safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	calls     *prometheus.HistogramVec
	watches   prometheus.Gauge
	etcd      *prometheus.HistogramVec
	conflicts prometheus.Counter
	leading   prometheus.Gauge
	changes   *prometheus.CounterVec
	collected prometheus.Counter

	mu      sync.Mutex
	reasons map[string]bool
}

// latencies are the bounds of histograms in seconds: from what is good (milliseconds) to what is an incident.
func latencies() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// New registers the metrics; a registry holds those of one controller.
func New(reg *prometheus.Registry) (*Metrics, error) {
	m := &Metrics{
		registry: reg, reasons: map[string]bool{},
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_controller_call_seconds", Buckets: latencies(), Help: "How long calls of the API took, by method and gRPC code.",
		}, []string{"method", "code"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_controller_watches", Help: "Watches of the API that are open.",
		}),
		etcd: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_controller_etcd_seconds", Buckets: latencies(),
			Help: "How long calls to etcd took, by operation (read, commit, lease) and result (ok, conflict, unavailable, error).",
		}, []string{"operation", "result"}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_controller_conflicts_total", Help: "Transactions that were built anew since something they relied on had changed.",
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_controller_leading", Help: "1 if this controller leads, else 0.",
		}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_controller_orphans_total", Help: "Keys of the store that belonged to nothing and were deleted.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_controller_active_changes_total", Help: "Routers that became active on another node, as this controller saw it, by reason.",
		}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.calls, m.watches, m.etcd, m.conflicts, m.leading, m.changes, m.collected} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Sources are what is read when somebody asks. All are required, must not block and may be called at any time.
type Sources struct {
	// Nodes are the registered nodes and how many of them are alive.
	Nodes func() (registered, alive int)
	// Heard is when the store last said anything to the mirror of the fleet.
	Heard func() time.Time
	// Away is since when the store has been known to be away; zero: it is not.
	Away func() time.Time
	// Queues are the depths of what works in the background, by its name.
	Queues map[string]func() int
}

// Observe registers what is read when somebody asks.
func (m *Metrics) Observe(s Sources) error {
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) error {
		return m.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
	}
	errs := []error{
		gauge("weft_controller_nodes", "Nodes that are registered.", nil, func() float64 { n, _ := s.Nodes(); return float64(n) }),
		gauge("weft_controller_nodes_alive", "Nodes whose agents are alive.", nil, func() float64 { _, n := s.Nodes(); return float64(n) }),
		gauge("weft_controller_mirror_lag_seconds", "For how long the store has said nothing to the mirror of the fleet; it speaks every 2 seconds.", nil,
			func() float64 { return time.Since(s.Heard()).Seconds() }),
		gauge("weft_controller_store_away_seconds", "For how long the store has been known to be away; 0 when it is not.", nil, func() float64 {
			since := s.Away()
			if since.IsZero() {
				return 0
			}
			return time.Since(since).Seconds()
		}),
	}
	for name, depth := range s.Queues {
		errs = append(errs, gauge("weft_controller_queue_depth", "What waits to be worked on in the background, by loop.",
			prometheus.Labels{"loop": name}, func() float64 { return float64(depth()) }))
	}
	return errors.Join(errs...)
}

// Unary measures calls.
func (m *Metrics) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := handler(ctx, req)
	m.calls.WithLabelValues(method(info.FullMethod), status.Code(err).String()).Observe(time.Since(began).Seconds())
	return resp, err
}

// Stream counts streams that are open.
func (m *Metrics) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m.watches.Inc()
	defer m.watches.Dec()
	return handler(srv, stream)
}

// method is "PortService/CreatePort" of "/weft.v1.PortService/CreatePort".
func method(full string) string {
	return strings.TrimPrefix(strings.TrimPrefix(full, "/"), "weft.v1.")
}

// Store is the observer of the controller's store.
func (m *Metrics) Store() store.Observer {
	return store.Observer{
		Call: func(operation string, took time.Duration, err error) {
			m.etcd.WithLabelValues(operation, result(err)).Observe(took.Seconds())
		},
		Conflict: m.conflicts.Inc,
	}
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, store.ErrConflict):
		return "conflict"
	case errors.Is(err, store.ErrUnavailable):
		return "unavailable"
	default:
		return "error"
	}
}

// Leading notes whether this controller leads.
func (m *Metrics) Leading(yes bool) {
	if yes {
		m.leading.Set(1)
	} else {
		m.leading.Set(0)
	}
}

// Collected counts orphans that were deleted.
func (m *Metrics) Collected(n int) { m.collected.Add(float64(n)) }

// maxReasons bounds the values of the label reason: reasons are few sentences once nodes' names are out of them, but who
// writes them is another process.
const maxReasons = 20

// ActiveChanged counts a router that became active on another node. reason is that of active/<router>.
func (m *Metrics) ActiveChanged(from, to, reason string) {
	words := strings.Fields(reason)
	for i, w := range words {
		if w == from || w == to {
			words[i] = "NODE"
		}
	}
	text := strings.Join(words, " ")
	if text == "" {
		text = "none given"
	}
	m.mu.Lock()
	if !m.reasons[text] && len(m.reasons) >= maxReasons {
		text = "other"
	}
	m.reasons[text] = true
	m.mu.Unlock()
	m.changes.WithLabelValues(text).Inc()
}
