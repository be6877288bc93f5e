package openflow_test

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
)

// await takes statuses until one is as wanted.
func await(t *testing.T, statuses <-chan openflow.PortStatus, what string, wanted func(openflow.PortStatus) bool) openflow.PortStatus {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case s := <-statuses:
			if wanted(s) {
				return s
			}
		case <-deadline:
			t.Fatalf("no port status tells that %s", what)
		}
	}
}

func TestPortsTellWhenTheirLinkComesAndGoes(t *testing.T) {
	for _, version := range []openflow.Version{openflow.Version14, openflow.Version15} {
		t.Run(version.String(), func(t *testing.T) {
			o := ovstest.Start(t)
			o.AddBridge("br0")
			statuses := make(chan openflow.PortStatus, 100)
			c, err := openflow.DialWait(testContext(t), openflow.Options{
				Socket: o.Mgmt("br0"), Versions: []openflow.Version{version}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
				Ports: func(s openflow.PortStatus) { statuses <- s },
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if err := c.Barrier(testContext(t)); err != nil {
				t.Fatal(err)
			}
			o.Run("ip", "link", "add", "p1", "type", "veth", "peer", "name", "p1-far")
			o.Run("ip", "link", "set", "p1-far", "up")
			o.Run("ip", "link", "set", "p1", "up")
			o.Vsctl("add-port", "br0", "p1")
			up := await(t, statuses, "p1 is live", func(s openflow.PortStatus) bool { return s.Name == "p1" && s.Live })
			all, err := c.Ports(testContext(t))
			if err != nil || !slices.Contains(all, openflow.PortStatus{Name: "p1", Port: up.Port, Live: true}) {
				t.Error("p1 is not listed as live:", all, err)
			}
			o.Run("ip", "link", "set", "p1-far", "down")
			down := await(t, statuses, "p1's link is down", func(s openflow.PortStatus) bool { return s.Name == "p1" && !s.Live })
			if diff := cmp.Diff(openflow.PortStatus{Name: "p1", Port: up.Port}, down); diff != "" || up.Port == 0 {
				t.Error(up, diff)
			}
			o.Vsctl("del-port", "br0", "p1")
			await(t, statuses, "p1 is gone", func(s openflow.PortStatus) bool { return s.Name == "p1" && s.Deleted && !s.Live })
			mustSync(t, c, nil) // replies still find their requests
		})
	}
}
