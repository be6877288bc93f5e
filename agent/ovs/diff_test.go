package ovs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/ovs"
)

func TestDiffTellsWhatIsOtherwiseAndWritesNothing(t *testing.T) {
	o, c := start(t)
	old := internal("old", 1)
	change := ovs.Change{
		Bridges: []desired.Bridge{brInt()},
		Ports: []desired.Port{
			internal("qr-1", 1), internal("qr-2", 2), {Bridge: "br-int", Name: "vm1", Type: desired.PortForeign, Tag: 4},
		},
	}
	ensure(t, c, ovs.Change{Bridges: change.Bridges, Ports: []desired.Port{change.Ports[0], change.Ports[1], old}, Wait: true})
	o.Vsctl("add-port", "br-int", "vm1", "tag=4", "--", "set", "Interface", "vm1", "type=internal")
	waitFor(t, c, "vm1 is there", numbered("vm1"))
	again(t, c, change)
	change.DeletePorts = []string{"old"}

	o.Vsctl("del-port", "qr-2", "--", "set", "Port", "qr-1", "tag=7", "--", "set", "Port", "vm1", "tag=9",
		"--", "set", "Bridge", "br-int", "fail_mode=standalone", "--", "add-port", "br-int", "qr-2", "--", "set", "Interface", "qr-2", "type=internal")
	waitFor(t, c, "the changes are seen", func(s *ovs.Snapshot) bool {
		return s.Bridges["br-int"].FailMode == "standalone" && s.Ports["vm1"].Tag == 9 && s.Ports["qr-2"] != nil && s.Ports["qr-2"].Owner() == "" &&
			s.Interfaces["qr-2"].OFPort != 0
	})
	seq := o.Vsctl("get", "Open_vSwitch", ".", "next_cfg")
	d, err := c.Diff(change)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range d.All() {
		got = append(got, d.String())
	}
	slices.Sort(got)
	const qr1 = " mac=fa:16:3e:00:00:01 options={} external_ids={iface-id=port-qr-1,weft-owner=router:r1}"
	want := []string{
		"bridge br-int: should be a bridge, datapath_type=netdev fail_mode=secure protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15, is a bridge, datapath_type=netdev fail_mode=standalone protocols=OpenFlow10,OpenFlow13,OpenFlow14,OpenFlow15",
		"port old: surplus: tag=1",
		"port qr-1: should be on br-int, type=internal tag=1" + qr1 + ", is on br-int, type=internal tag=7" + qr1,
		"port qr-2: should be on br-int, type=internal tag=2" + strings.ReplaceAll(qr1, "qr-1", "qr-2") +
			", is refused: it is not weft's: somebody else has a port of that name on bridge br-int; remove it or rename it",
		"port vm1: should be tag=4, is tag=9",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if now := o.Vsctl("get", "Open_vSwitch", ".", "next_cfg"); now != seq {
		t.Errorf("something was written: next_cfg %s, was %s", now, seq)
	}
}
