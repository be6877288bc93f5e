package agent

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// counted is the sum of a metric over the values of its labels that contain a text.
func (s *site) counted(metric, label string) float64 {
	s.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || strings.Contains(fmt.Sprint(m.GetLabel()), `"`+label+`"`) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// asked asks the agent how its node differs from the plan.
func (s *site) asked() *storev1.Answer {
	s.Helper()
	id := uuid.NewString()
	s.put(keys.Ask("n1", id), &storev1.Question{})
	answer := &storev1.Answer{}
	s.eventually("the question is answered", func() string {
		snap, err := s.store.Read(s.Context(), store.Key(keys.Answer("n1", id)))
		if err != nil || len(snap.Results[0].Entries) == 0 {
			return fmt.Sprintf("no answer (%v)", err)
		}
		if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, answer); err != nil {
			return err.Error()
		}
		return ""
	})
	return answer
}

// whole waits until the node is as planned.
func (s *site) whole() {
	s.Helper()
	s.eventually("nothing differs from the plan", func() string {
		if a := s.asked(); len(a.GetDifferences()) > 0 || a.GetError() != "" {
			return a.String()
		}
		return ""
	})
}

func TestWhatAStrangerDoesToWeftsThingsIsRepairedAndTheirsStays(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.auditPeriod = time.Second
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.whole()
	s.ovs.Ofctl("add-flow", "br-int", "cookie=0x1234,table=60,priority=7,dl_vlan=9,actions=drop")
	s.ovs.Ofctl("add-flow", "br-tenant", "cookie=0x1234,priority=9,dl_vlan=900,actions=drop")
	s.ovs.Vsctl("add-port", "br-int", "theirs", "tag=77", "--", "set", "Interface", "theirs", "type=internal")
	strangers := func() string {
		return s.ovs.Ofctl("--no-stats", "dump-flows", "br-int", "cookie=0x1234/-1") +
			s.ovs.Ofctl("--no-stats", "dump-flows", "br-tenant", "cookie=0x1234/-1") + s.ovs.Vsctl("get", "Port", "theirs", "tag")
	}
	theirs := strangers()
	s.whole()
	for what, c := range map[string]struct {
		do   func()
		kind string
	}{
		"flows deleted": {func() { s.ovs.Ofctl("del-flows", "br-int", "table=60,dl_vlan=1") }, "flow"},
		"all flows of weft's on a bridge deleted": {func() {
			s.ovs.Ofctl("del-flows", "br-tenant", "cookie=0x7765000000000000/0xffff000000000000")
		}, "flow"},
		"a flow's actions changed": {func() {
			s.ovs.Ofctl("-O", "OpenFlow15", "--strict", "mod-flows", "br-tun", "table=2,priority=0,actions=drop")
		}, "flow"},
		"a flow added under weft's cookie": {func() {
			s.ovs.Ofctl("add-flow", "br-int", "cookie=0x7765010000000001,table=0,priority=900,in_port=3,actions=NORMAL")
		}, "flow"},
		"a VM's tag taken away": {func() { s.ovs.Vsctl("clear", "Port", "vm1", "tag") }, ""},
		"a patch port deleted":  {func() { s.ovs.Vsctl("del-port", "patch-tun") }, ""},
	} {
		t.Run(what, func(t *testing.T) {
			before := s.counted("weft_agent_repairs_total", c.kind)
			c.do()
			if c.kind != "" {
				s.eventually("the repair is counted", func() string {
					if s.counted("weft_agent_repairs_total", c.kind) == before {
						return "no repair"
					}
					return ""
				})
			}
			s.whole()
			if now := strangers(); now != theirs {
				t.Errorf("strangers' things were\n%s\nand are\n%s", theirs, now)
			}
		})
	}
	s.ovs.Vsctl("del-fail-mode", "br-int") // Open vSwitch drops all flows with that, strangers' too
	s.flow("br-int", "dl_dst=fa:16:3e:00:00:01")
	s.whole()
	if out := s.ovs.Vsctl("get", "Port", "vm1", "tag", "--", "get", "Bridge", "br-int", "fail_mode"); out != "1\nsecure\n" {
		t.Errorf("tag and fail mode: %q", out)
	}
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
}

func TestAQuestionIsAnsweredWithWhatDiffersAndNothingIsWritten(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.auditPeriod = time.Hour
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.whole()
	s.ovs.Ofctl("del-flows", "br-int", "table=60,dl_vlan=1,dl_dst=fa:16:3e:00:00:01")
	writes := s.counted("weft_agent_writes_total", "")
	var got []string
	for _, d := range s.asked().GetDifferences() {
		got = append(got, fmt.Sprintf("%s %s %s/%s", d.GetKind(), d.GetObject(), d.GetDesired(), d.GetActual()))
	}
	if len(got) != 1 || !strings.HasPrefix(got[0], "flow br-int table=60, priority=90,dl_vlan=1,dl_dst=fa:16:3e:00:00:01") {
		t.Errorf("differences: %q", got)
	}
	if now := s.counted("weft_agent_writes_total", ""); now != writes {
		t.Errorf("%v writes", now-writes)
	}
}

func TestARestartedAgentWithNothingToDoWritesNothing(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.auditPeriod = 500 * time.Millisecond
	stop := s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.whole()
	if s.counted("weft_agent_writes_total", "openflow") == 0 || s.counted("weft_agent_writes_total", "ovsdb") == 0 {
		t.Error("the first agent's writes are not counted")
	}
	stop()
	s.run()
	s.whole()
	s.eventually("every bridge is synced", func() string {
		if n := s.counted("weft_agent_resyncs_total", ""); n < 4 {
			return fmt.Sprintf("%v resyncs", n)
		}
		return ""
	})
	<-time.After(3 * s.auditPeriod) // several rounds of the audit
	if n := s.counted("weft_agent_writes_total", ""); n != 0 {
		t.Errorf("%v writes: openflow %v, ovsdb %v, netlink %v, iptables %v, dnsmasq %v", n, s.counted("weft_agent_writes_total", "openflow"),
			s.counted("weft_agent_writes_total", "ovsdb"), s.counted("weft_agent_writes_total", "netlink"),
			s.counted("weft_agent_writes_total", "iptables"), s.counted("weft_agent_writes_total", "dnsmasq"))
	}
	if n := s.counted("weft_agent_repairs_total", ""); n != 0 {
		t.Errorf("%v repairs", n)
	}
}

func TestConvergenceAndTheContactWithTheStoreAreMeasured(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.eventually("convergence is measured", func() string {
		if s.counted("weft_agent_convergence_seconds", "port") == 0 {
			return "not yet"
		}
		return ""
	})
	if at := s.counted("weft_agent_etcd_contact_timestamp_seconds", ""); time.Since(time.Unix(int64(at), 0)) > time.Minute {
		t.Errorf("etcd was last heard at %v", at)
	}
}

func TestMetricsAreServedAndProfilesOnLoopbackOnly(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := newMetrics(reg); err != nil {
		t.Fatal(err)
	}
	for listen, profiles := range map[string]int{"127.0.0.1:0": http.StatusOK, "0.0.0.0:0": http.StatusNotFound} {
		at, err := serveMetrics(t.Context(), listen, reg, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(at.String())
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{"/metrics": http.StatusOK, "/debug/pprof/": profiles, "/": http.StatusNotFound} {
			resp, err := http.Get("http://127.0.0.1:" + port + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s at %s: %s, want %d", path, listen, resp.Status, want)
			}
		}
		if _, err := serveMetrics(t.Context(), "127.0.0.1:"+port, reg, slog.New(slog.DiscardHandler)); err == nil {
			t.Error("a port that is taken is no error")
		}
	}
}

// The document names every metric, and none that is not there.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(weft_agent_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		documented[name[1]] = true
	}
	source, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`"(weft_agent_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		if !documented[name[1]] {
			t.Errorf("docs/metrics.md does not name %s", name[1])
		}
		delete(documented, name[1])
	}
	for name := range documented {
		t.Errorf("docs/metrics.md names %s, which there is not", name)
	}
}

// ovs-ctl saves flows, restarts Open vSwitch and puts them back: after the agent, which connects as soon as it can.
func TestFlowsThatArePutBackFromEarlierAreReplacedAtOnce(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.auditPeriod = time.Hour
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.whole()
	s.ovs.Vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:flow-restore-wait=true")
	s.ovs.Ofctl("add-flow", "br-int", "cookie=0x7765010000000001,table=0,priority=900,in_port=3,actions=NORMAL")
	s.ovs.Ofctl("del-flows", "br-tun")
	s.ovs.Vsctl("--no-wait", "remove", "Open_vSwitch", ".", "other_config", "flow-restore-wait")
	s.whole()
}
