package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// problem waits until the node has a problem that contains a text; "": until it has none.
func (s *site) problem(text string) {
	s.Helper()
	s.eventually(fmt.Sprintf("the node's problems say %q", text), func() string {
		snap, err := s.store.Read(s.Context(), store.Key(keys.Agent("n1")))
		if err != nil || len(snap.Results[0].Entries) == 0 {
			return fmt.Sprintf("no word of the agent (%v)", err)
		}
		a := &storev1.Agent{}
		if err := proto.Unmarshal(snap.Results[0].Entries[0].Value, a); err != nil {
			return err.Error()
		}
		said := strings.Join(a.GetProblems(), "; ")
		if (text == "") != (said == "") || !strings.Contains(said, text) {
			return said
		}
		return ""
	})
}

func TestWhatOpenVSwitchDoesNotCarryIsNotActive(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.problem("")

	s.ovs.KillVswitchd()
	s.reported(testPort, weftv1.State_STATE_ERROR, "ovs-vswitchd is not running")
	s.problem("ovs-vswitchd is not running")
	s.ovs.StartVswitchd()
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.problem("")

	s.ovs.PauseVswitchd()
	s.reported(testPort, weftv1.State_STATE_ERROR, "ovs-vswitchd does not answer")
	s.problem("ovs-vswitchd does not answer")
	s.ovs.ResumeVswitchd()
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.problem("")
	s.whole()
}

func TestADatabaseThatHangsHoldsUpNothingElse(t *testing.T) {
	s := newSite(t)
	s.ovs.AddBridge("br-tenant")
	s.wired()
	s.run()
	s.plug("vm1", testPort)
	s.reported(testPort, weftv1.State_STATE_ACTIVE, "")
	s.ovs.PauseDB()
	resumed := false
	defer func() {
		if !resumed {
			s.ovs.ResumeDB()
		}
	}()
	// A tenant changes while the database hangs: a change of flows gets through, one of OVSDB waits.
	const other = "c0000002-0000-4000-8000-000000000002"
	s.put(keys.Port(testNetwork, testPort), &weftv1.Port{
		Id: testPort, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:09", BoundHost: "n1",
	})
	s.flow("br-int", "dl_dst=fa:16:3e:00:00:09")
	s.put(keys.HostObject("n1", keys.KindPort, other), &storev1.PortBinding{NetworkId: testNetwork})
	s.problem("can't be reached")
	s.ovs.ResumeDB()
	resumed = true
	s.problem("")
	s.plug("vm2", other)
	s.put(keys.Port(testNetwork, other), &weftv1.Port{
		Id: other, Project: "default", NetworkId: testNetwork, MacAddress: "fa:16:3e:00:00:02", BoundHost: "n1",
	})
	s.reported(other, weftv1.State_STATE_ACTIVE, "")
	s.whole()
}

func TestASwitchThatWorksWithoutAnsweringIsNotDown(t *testing.T) {
	b := &bridges{all: map[string]*bridge{"br-int": {name: "br-int", life: life{lost: time.Unix(100, 0)}}}}
	p := ovs.Process{Known: true, Alive: true, CPU: 1}
	for _, step := range []struct {
		second int64
		then   ovs.Process
		want   error
	}{
		{100, p, nil}, // just lost
		{102, p, nil}, // too long, and perhaps at work
		{104, ovs.Process{Known: true, Alive: true, CPU: 2}, nil},
		{106, ovs.Process{Known: true, Alive: true, CPU: 3}, nil},
		{108, ovs.Process{Known: true, Alive: true, CPU: 3}, nil},
		{110, ovs.Process{Known: true, Alive: true, CPU: 3}, errSwitchSilent}, // stopped
		{111, ovs.Process{Known: true}, errSwitchAway},
		{112, ovs.Process{}, errSwitchAway},
	} {
		if got := b.trouble(time.Unix(step.second, 0), func() ovs.Process { return step.then }); !errors.Is(got, step.want) {
			t.Errorf("second %d: %v, want %v", step.second, got, step.want)
		}
	}
}
