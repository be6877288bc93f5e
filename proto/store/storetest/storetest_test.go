package storetest_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDataAndAddressSurviveARestart(t *testing.T) {
	s := storetest.Start(t)
	if _, err := s.Client().Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	endpoint := s.Endpoint()
	s.Stop()
	s.Restart()
	if s.Endpoint() != endpoint {
		t.Errorf("endpoint %s after the restart, %s before", s.Endpoint(), endpoint)
	}
	snap, err := s.Store().Read(t.Context(), store.Key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := snap.Results[0].Entries; len(got) != 1 || string(got[0].Value) != "1" {
		t.Errorf("read %v after the restart, want the value 1", got)
	}
}

func TestServersOfTwoTestsStandSideBySide(t *testing.T) {
	a, b := storetest.Start(t), storetest.Start(t)
	if _, err := a.Client().Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	snap, err := b.Store().Read(t.Context(), store.Prefix("a"))
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Results[0].Entries) != 0 {
		t.Errorf("one server shows what was written to the other: %v", snap.Results[0].Entries)
	}
}

func TestCompactionDropsHistoryAndMayBeRepeated(t *testing.T) {
	s := storetest.Start(t)
	for range 2 {
		if _, err := s.Client().Put(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
	}
	revision := s.Compact(t.Context())
	if again := s.Compact(t.Context()); again != revision {
		t.Errorf("compacted at %d and then at %d", revision, again)
	}
	if _, err := s.Store().ReadAt(t.Context(), revision-1, store.Key("a")); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a read before the compaction: %v", err)
	}
}
