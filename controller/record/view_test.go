package record_test

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
)

func TestWhatAViewHasReadAsPartOfARangeIsNotReadAgain(t *testing.T) {
	s := storetest.Start(t).Store()
	x := &txn.Txn{}
	for _, key := range []string{"a/1", "a/3", "b/1"} {
		x.PutRaw(key, []byte(key))
	}
	if _, err := s.Commit(t.Context(), x, 0); err != nil {
		t.Fatal(err)
	}
	var reads atomic.Int64
	v := record.NewView(s.Observed(store.Observer{Call: func(string, time.Duration, error) { reads.Add(1) }}))
	if all, err := v.Prefix(t.Context(), "a/"); err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, c := range []struct {
		key   string
		there bool
		reads int64
	}{
		{"a/1", true, 1},
		{"a/2", false, 1},
		{"a/3", true, 1},
		{"a/4", false, 1},
		{"b/1", true, 2},
		{"a", false, 3},
		{"a/1", true, 3},
		{"b/1", true, 3},
	} {
		e, found, err := v.One(t.Context(), c.key)
		if err != nil || found != c.there || e.Key != c.key || found && string(e.Value) != c.key {
			t.Errorf("%s: %v, %t, %v", c.key, e, found, err)
		}
		if reads.Load() != c.reads {
			t.Errorf("%s: %d reads, want %d", c.key, reads.Load(), c.reads)
		}
	}
}

// TestWhatAViewLooksUpInARangeItDoesNotRememberOnceMore asks for so many keys of a range as a list of networks does, one for each
// that could be granted to one of the caller's projects.
func TestWhatAViewLooksUpInARangeItDoesNotRememberOnceMore(t *testing.T) {
	v := record.NewView(storetest.Start(t).Store())
	if _, err := v.Prefix(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 100_000 {
		if _, found, err := v.One(t.Context(), fmt.Sprintf("a/%d", i)); err != nil || found {
			t.Fatal(found, err)
		}
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("the view holds %d kB more", (after-before)>>10)
	}
	runtime.KeepAlive(v)
}
