package agent

import (
	"errors"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/metadata/wire"
	"github.com/weft-sdn/weft/proto/keys"
)

// metrics are what an operator's Prometheus gets to see of an agent. Its methods may be called from several goroutines.
type metrics struct {
	registry    *prometheus.Registry
	convergence *prometheus.HistogramVec
	repairs     *prometheus.CounterVec
	resyncs     *prometheus.CounterVec
	takeovers   *prometheus.CounterVec
	etcd        *prometheus.HistogramVec
	ovsdbWrites atomic.Uint64
	// contact is when etcd last answered, in nanoseconds since 1970.
	contact atomic.Int64
	units   *prometheus.GaugeVec
}

// latencies are the bounds of histograms in seconds: from what is good (milliseconds) to what is an incident.
func latencies() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// newMetrics registers the metrics that are noted as things happen; observe adds those that are read when asked for.
func newMetrics(reg *prometheus.Registry) (*metrics, error) {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		registry: reg,
		convergence: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_agent_convergence_seconds", Buckets: latencies(),
			Help: "From a change of what the node should have, as the agent saw it, until it was programmed, by kind of object.",
		}, []string{"kind"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_agent_repairs_total",
			Help: "Things of weft's on the node that somebody else had changed or deleted, and that were repaired, by kind.",
		}, []string{"kind"}),
		resyncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_agent_resyncs_total",
			Help: "Comparisons of the whole plan with a part of the host after it was lost or came back, by part (ovsdb, or a bridge).",
		}, []string{"part"}),
		takeovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_agent_takeovers_total",
			Help: "Routers that this node took over, or handed to another, by direction (taken, given_up).",
		}, []string{"direction"}),
		etcd: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_agent_etcd_seconds", Buckets: latencies(), Help: "How long writes to etcd took, by whether they worked (result ok, error).",
		}, []string{"result"}),
		units: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_agent_units", Help: "Routers and DHCP servers that the node has, by kind and state (built, waiting for Open vSwitch, error).",
		}, []string{"kind", "state"}),
	}
	for _, c := range []prometheus.Collector{m.convergence, m.repairs, m.resyncs, m.takeovers, m.etcd, m.units} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// repaired counts repairs; kind is that of desired.Difference.
func (m *metrics) repaired(kind string, n int) {
	if n > 0 {
		m.repairs.WithLabelValues(kind).Add(float64(n))
	}
}

// moved notes that the agent has written who forwards for a router: this node, or one that it hands it to.
func (m *metrics) moved(here bool) {
	direction := "given_up"
	if here {
		direction = "taken"
	}
	m.takeovers.WithLabelValues(direction).Inc()
}

// stored notes a write to etcd.
func (m *metrics) stored(began time.Time, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.etcd.WithLabelValues(result).Observe(time.Since(began).Seconds())
	if err == nil {
		m.heard()
	}
}

// heard notes that etcd has answered.
func (m *metrics) heard() { m.contact.Store(time.Now().UnixNano()) }

// observe registers what is read from the agent's parts when somebody asks.
func (m *metrics) observe(a *Agent) error {
	reg := m.registry
	errs := []error{
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weft_agent_queue_depth", Help: "Routers and DHCP servers that wait for their turn to be built.",
		}, func() float64 { return float64(a.workers.depth()) })),
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weft_agent_etcd_contact_timestamp_seconds", Help: "When etcd last answered the agent, in seconds since 1970.",
		}, func() float64 { return float64(m.contact.Load()) / float64(time.Second) })),
	}
	for driver, writes := range map[string]func() uint64{
		"openflow": a.bridges.writes.Load, "ovsdb": m.ovsdbWrites.Load, "netlink": a.services.ns.Writes,
		"iptables": a.services.nat.Writes, "dnsmasq": a.services.dhcp.Writes, "metadata": a.services.metadata.Writes,
	} {
		errs = append(errs, reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "weft_agent_writes_total", ConstLabels: prometheus.Labels{"driver": driver},
			Help: "Writes to the host, by driver (openflow: flows; ovsdb: operations; netlink: namespaces, links, addresses, routes and sysctls; " +
				"iptables: runs of iptables-restore; dnsmasq: files and signals; metadata: sockets and processes of the metadata proxy). A node with nothing to do makes none.",
		}, func() float64 { return float64(writes()) })))
	}
	return errors.Join(append(errs, a.peering.observe(reg), reg.Register(newMetadataRequests(a.services.metadata)))...)
}

// count sets the numbers of units in each state.
func (m *metrics) count(units map[unit]error) {
	type label struct{ kind, state string }
	n := map[label]int{}
	for u, err := range units {
		state := "built"
		if soon(err) {
			state = "waiting"
		} else if err != nil {
			state = "error"
		}
		n[label{u.kind, state}]++
	}
	for _, kind := range []string{keys.KindRouter, keys.KindDHCP, kindFilters} {
		for _, state := range []string{"built", "waiting", "error"} {
			m.units.WithLabelValues(kind, state).Set(float64(n[label{kind, state}]))
		}
	}
}

// maxLogged is how many differences of one thing are logged.
const maxLogged = 5

// found logs and counts what an audit found.
func found(log *slog.Logger, m *metrics, message string, d []desired.Difference, args ...any) {
	for _, d := range d {
		m.repaired(d.Kind, 1)
	}
	logDifferences(log, message, d, args...)
}

// logDifferences logs the first of them.
func logDifferences(log *slog.Logger, message string, d []desired.Difference, args ...any) {
	lines := make([]string, 0, maxLogged)
	for _, d := range d[:min(len(d), maxLogged)] {
		lines = append(lines, d.String())
	}
	log.Warn(message, append(args, "differences", len(d), "first", lines)...)
}

// metadataRequests tells Prometheus of the requests to the proxy.
type metadataRequests struct {
	manager *metadata.Manager
	desc    *prometheus.Desc
}

func newMetadataRequests(m *metadata.Manager) metadataRequests {
	return metadataRequests{m, prometheus.NewDesc("weft_agent_metadata_requests_total",
		"Requests to the metadata service since its proxy started, by the status that the VM was answered; malformed ones and those cut off without an answer have that for a status.",
		[]string{"status"}, nil)}
}

// Describe is prometheus.Collector's.
func (r metadataRequests) Describe(out chan<- *prometheus.Desc) { out <- r.desc }

// Collect is prometheus.Collector's.
func (r metadataRequests) Collect(out chan<- prometheus.Metric) {
	counts := wire.Counts{"200": 0} // there is a count though nobody has asked
	maps.Copy(counts, r.manager.Counts())
	for status, n := range counts {
		out <- prometheus.MustNewConstMetric(r.desc, prometheus.CounterValue, float64(n), status)
	}
}
