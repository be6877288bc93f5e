package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// startPublisher runs a publisher of node n1 on a real etcd.
func startPublisher(t *testing.T, s *storetest.Server) *publisher {
	t.Helper()
	p := newPublisher(s.Store(), "n1", slog.New(slog.DiscardHandler))
	if err := p.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// holds waits until exactly these reports of n1 are in the store, by port.
func holds(t *testing.T, s *storetest.Server, want map[string]weftv1.State) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		snap, err := s.Store().Read(t.Context(), store.Prefix(keys.Statuses("n1")))
		got := map[string]weftv1.State{}
		if err == nil {
			for _, e := range snap.Results[0].Entries {
				var r storev1.Report
				if err := proto.Unmarshal(e.Value, &r); err != nil {
					t.Fatal(err)
				}
				k, err := keys.Parse(e.Key)
				if err != nil {
					t.Fatal(err)
				}
				got[k.ID()] = r.GetState()
			}
		}
		same := len(got) == len(want)
		for id, state := range want {
			same = same && got[id] == state
		}
		if same {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store has %v, want %v (%v)", got, want, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func portStatus(id string) string { return keys.Status("n1", keys.KindPort, id) }

func TestReportsReachTheStoreAndGoWhenTakenBack(t *testing.T) {
	s := storetest.Start(t)
	p := startPublisher(t, s)
	want := map[string]weftv1.State{}
	for i := range 250 {
		id := string(rune('a'+i%26)) + string(rune('a'+i/26))
		p.set(portStatus(id), report(int64(i), weftv1.State_STATE_ACTIVE, ""))
		want[id] = weftv1.State_STATE_ACTIVE
	}
	holds(t, s, want)
	p.set(portStatus("aa"), nil)
	p.set(portStatus("ba"), report(7, weftv1.State_STATE_ERROR, "broken"))
	delete(want, "aa")
	want["ba"] = weftv1.State_STATE_ERROR
	holds(t, s, want)
}

func TestARestartedAgentWritesOnlyWhatDiffersAndPrunesTheRest(t *testing.T) {
	s := storetest.Start(t)
	first := startPublisher(t, s)
	first.set(portStatus("stays"), report(1, weftv1.State_STATE_ACTIVE, ""))
	first.set(portStatus("goes"), report(2, weftv1.State_STATE_ACTIVE, ""))
	holds(t, s, map[string]weftv1.State{"stays": weftv1.State_STATE_ACTIVE, "goes": weftv1.State_STATE_ACTIVE})
	before, err := s.Store().Read(t.Context(), store.Key(portStatus("stays")))
	if err != nil {
		t.Fatal(err)
	}

	second := startPublisher(t, s)
	second.set(portStatus("stays"), report(1, weftv1.State_STATE_ACTIVE, ""))
	second.prune()
	holds(t, s, map[string]weftv1.State{"stays": weftv1.State_STATE_ACTIVE})
	after, err := s.Store().Read(t.Context(), store.Key(portStatus("stays")))
	if err != nil {
		t.Fatal(err)
	}
	if was, is := before.Results[0].Entries[0].Revision, after.Results[0].Entries[0].Revision; was != is {
		t.Errorf("the report that still holds was written again: revision %d, was %d", is, was)
	}
}

func TestWhatCouldNotBeWrittenIsWrittenWhenTheStoreIsBack(t *testing.T) {
	s := storetest.Start(t)
	p := startPublisher(t, s)
	s.Stop()
	p.set(portStatus("p"), report(1, weftv1.State_STATE_BUILD, ""))
	p.set(portStatus("p"), report(1, weftv1.State_STATE_ACTIVE, ""))
	s.Restart()
	holds(t, s, map[string]weftv1.State{"p": weftv1.State_STATE_ACTIVE})
}

func TestAReportThatCannotBeWrittenHoldsUpNoOther(t *testing.T) {
	for what, message := range map[string]string{
		"not UTF-8":                      "subnet \xff quarantined",
		"longer than the store can take": strings.Repeat("port left out\n", 200_000),
	} {
		t.Run(what, func(t *testing.T) {
			s := storetest.Start(t)
			p := startPublisher(t, s)
			p.set(portStatus("bad"), reportOf(1, errors.New(message)))
			p.set(portStatus("good"), report(1, weftv1.State_STATE_ACTIVE, ""))
			holds(t, s, map[string]weftv1.State{"good": weftv1.State_STATE_ACTIVE, "bad": weftv1.State_STATE_ERROR})
		})
	}
}

func TestAValueThatTheStoreRefusesHoldsUpNoOther(t *testing.T) {
	s := storetest.Start(t)
	p := startPublisher(t, s)
	p.set(portStatus("bad"), &storev1.Report{Revision: 1, Message: strings.Repeat("x", 3<<20)})
	for i := range 3 {
		p.set(portStatus(string(rune('a'+i))), report(1, weftv1.State_STATE_ACTIVE, ""))
	}
	holds(t, s, map[string]weftv1.State{"a": weftv1.State_STATE_ACTIVE, "b": weftv1.State_STATE_ACTIVE, "c": weftv1.State_STATE_ACTIVE})
	p.set(portStatus("bad"), nil)
	p.set(portStatus("a"), nil)
	holds(t, s, map[string]weftv1.State{"b": weftv1.State_STATE_ACTIVE, "c": weftv1.State_STATE_ACTIVE})
}

func TestWhatSomebodyTakesOutOfTheStoreIsWrittenAgain(t *testing.T) {
	s := storetest.Start(t)
	p := newPublisher(s.Store(), "n1", slog.New(slog.DiscardHandler))
	p.relist = 20 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	want := map[string]weftv1.State{"p": weftv1.State_STATE_ACTIVE}
	p.set(portStatus("p"), report(1, weftv1.State_STATE_ACTIVE, ""))
	holds(t, s, want)
	if _, err := s.Client().Delete(t.Context(), portStatus("p")); err != nil {
		t.Fatal(err)
	}
	holds(t, s, want)
}
