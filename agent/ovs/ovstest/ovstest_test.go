package ovstest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/agent/ovs/ovstest"
)

func TestBridgeIsBuiltAndSurvivesRestarts(t *testing.T) {
	o := ovstest.Start(t)
	o.AddBridge("br0")
	o.Vsctl("add-port", "br0", "tap0", "--", "set", "Interface", "tap0", "type=internal")
	o.Ofctl("add-flow", "br0", "actions=NORMAL")
	o.Run("ip", "link", "show", "tap0")
	if _, err := os.Stat("/sys/class/net/tap0"); err == nil {
		t.Error("tap0 appeared outside the instance's namespace")
	}

	o.KillDB()
	o.StartDB()
	o.RestartVswitchd()
	if got := o.Vsctl("list-ports", "br0"); strings.TrimSpace(got) != "tap0" {
		t.Errorf("ports after restarts: %q", got)
	}
	if got := o.Ofctl("dump-flows", "br0"); strings.Contains(got, "NORMAL") {
		t.Errorf("a killed ovs-vswitchd is expected to lose flows, found %q", got)
	}
}

func TestInstancesStandSideBySide(t *testing.T) {
	a, b := ovstest.Start(t), ovstest.Start(t)
	a.AddBridge("br0")
	b.AddBridge("br0")
	a.Ofctl("add-flow", "br0", "actions=NORMAL")
	if got := b.Ofctl("dump-flows", "br0"); strings.Contains(got, "NORMAL") {
		t.Errorf("a flow of one instance shows in the other: %q", got)
	}
}
