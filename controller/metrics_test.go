package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/test/bufconn"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/metrics"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// sample is the value of a metric with these labels, given as name, value…: a counter's or gauge's, or how often a
// histogram was told. Labels that are not given may have any value; all that match are summed.
func sample(t *testing.T, reg prometheus.Gatherer, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && have[labels[i]] == labels[i+1]
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// TestMetricsSayWhatHappened makes calls, moves a router, kills a node and takes the store away.
func TestMetricsSayWhatHappened(t *testing.T) {
	b := newBench(t)
	reg := prometheus.NewRegistry()
	c, err := controller.Start(b.context(), controller.Options{
		Client: b.etcd.NewClient(), UnderlayMTU: 1500, Log: slog.New(slog.NewTextHandler(logWriter{b}, nil)), Name: "test", Metrics: reg,
	})
	check(t, err)
	r := &replica{controller: c, listener: bufconn.Listen(1 << 20)}
	go func() { _ = c.Serve(r.listener) }()
	r.client = dial(b, r.listener)
	b.Cleanup(r.stop)

	b.node("net1", networkNode())
	b.seen(r, "net1")
	_, err = r.CreateNetwork(b.context(), &weftv1.CreateNetworkRequest{Network: &weftv1.Network{}})
	check(t, err)
	_, err = r.GetNetwork(b.context(), &weftv1.GetNetworkRequest{Id: nobody})
	if err == nil {
		t.Error("there is a network that there is not")
	}
	b.put(keys.Active(nobody), &storev1.ActiveRouter{Node: "net1", Epoch: 1})
	for _, tc := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"weft_controller_call_seconds", []string{"method", "NetworkService/CreateNetwork", "code", "OK"}, 1},
		{"weft_controller_call_seconds", []string{"method", "NetworkService/GetNetwork", "code", "NotFound"}, 1},
		{"weft_controller_nodes", nil, 1},
		{"weft_controller_nodes_alive", nil, 1},
		{"weft_controller_leading", nil, 1},
		{"weft_controller_store_away_seconds", nil, 0},
		{"weft_controller_queue_depth", []string{"loop", "binder"}, 0},
	} {
		b.eventuallyOr(fmt.Sprint(tc.name, tc.labels, " is ", tc.want), func() bool { return sample(t, reg, tc.name, tc.labels...) == tc.want },
			func() { t.Log(sample(t, reg, tc.name, tc.labels...)) })
	}
	b.eventually("a move is counted", func() bool { // changes that come together are seen as one
		for epoch, node := range []string{"net2", "net1"} {
			b.put(keys.Active(nobody), &storev1.ActiveRouter{Node: node, Epoch: int64(epoch) + 2, Reason: "net1 is lost to its peers"})
		}
		return sample(t, reg, "weft_controller_active_changes_total", "reason", "NODE is lost to its peers") > 0
	})
	if n := sample(t, reg, "weft_controller_etcd_seconds", "operation", "commit", "result", "ok"); n < 2 {
		t.Errorf("%v commits are known", n)
	}
	b.del(keys.Live("net1"))
	b.eventually("the node is not alive", func() bool { return sample(t, reg, "weft_controller_nodes_alive") == 0 })
	b.etcd.Stop()
	_, err = r.GetNetwork(b.context(), &weftv1.GetNetworkRequest{Id: nobody})
	if err == nil {
		t.Error("there is an answer without a store")
	}
	b.eventually("the store is away", func() bool {
		return sample(t, reg, "weft_controller_store_away_seconds") > 0 && sample(t, reg, "weft_controller_etcd_seconds", "result", "unavailable") > 0
	})
}

func TestReasonsOfMovesStayFew(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := metrics.New(reg)
	check(t, err)
	for i := range 100 {
		m.ActiveChanged("net1", "net2", fmt.Sprint("number ", i))
	}
	families, err := reg.Gather()
	check(t, err)
	for _, f := range families {
		if n := len(f.GetMetric()); n > 22 {
			t.Errorf("%s has %d values", f.GetName(), n)
		}
	}
	if n := sample(t, reg, "weft_controller_active_changes_total"); n != 100 {
		t.Errorf("%v of 100 moves are counted", n)
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	check(t, err)
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(weft_controller_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		documented[name[1]] = true
	}
	source, err := os.ReadFile("metrics/metrics.go")
	check(t, err)
	for _, name := range regexp.MustCompile(`"(weft_controller_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		if !documented[name[1]] {
			t.Errorf("docs/metrics.md does not name %s", name[1])
		}
		delete(documented, name[1])
	}
	for name := range documented {
		t.Errorf("docs/metrics.md names %s, which there is not", name)
	}
}

func TestMetricsAreServedUntilTheEnd(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	at, err := metrics.Serve(ctx, "127.0.0.1:0", prometheus.NewRegistry(), log)
	check(t, err)
	if _, err := metrics.Serve(ctx, at.String(), prometheus.NewRegistry(), log); err == nil {
		t.Error("two listen on one address")
	}
	stop()
	(&bench{TB: t}).eventually("the address is free", func() bool {
		again, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := metrics.Serve(again, at.String(), prometheus.NewRegistry(), log)
		return err == nil
	})
}
