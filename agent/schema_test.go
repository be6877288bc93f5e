package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// lines keeps the first lines of a log for whoever reads them.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

// TestAnAgentWritesNothingIntoAStoreThatItDoesNotKnow starts one on stores of other versions, and on one that is being
// restored, and lets it go on when the store is as it should be.
func TestAnAgentWritesNothingIntoAStoreThatItDoesNotKnow(t *testing.T) {
	for version, says := range map[int64]error{1: schema.ErrOlder, schema.Version + 1: schema.ErrNewer, 0: schema.ErrNone} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			s := newSite(t)
			if version == 0 {
				var x txn.Txn
				x.Delete(keys.Schema)
				if _, err := s.store.Commit(t.Context(), &x, 0); err != nil {
					t.Fatal(err)
				}
			} else {
				s.put(keys.Schema, schema.Value(version))
			}
			said := make(lines, 1000)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- Run(ctx, Options{Config: s.cfg, Version: "test", Log: slog.New(slog.NewTextHandler(said, nil))})
			}()
			for line := range said {
				if strings.Contains(line, says.Error()) {
					break
				}
			}
			snap, err := s.store.Read(t.Context(), store.Prefix(keys.Root))
			if err != nil || len(snap.Results[0].Entries) != 0 {
				t.Errorf("the agent has written %v, %v", snap.Results[0].Entries, err)
			}
			s.put(keys.Schema, schema.Value(schema.Version))
			s.eventually("the agent is there", func() string {
				snap, err := s.store.Read(t.Context(), store.Key(keys.Live("n1")))
				if err != nil || len(snap.Results[0].Entries) == 0 {
					return fmt.Sprint("no sign of life ", err)
				}
				return ""
			})
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatWasReportedToAStoreThatIsRestoredIsReportedAgain(t *testing.T) {
	s := newSite(t)
	p := startPublisher(t, s.etcd)
	p.set(portStatus("a"), report(1, weftv1.State_STATE_ACTIVE, ""))
	holds(t, s.etcd, map[string]weftv1.State{"a": weftv1.State_STATE_ACTIVE})
	var x txn.Txn
	x.Delete(portStatus("a"))
	if _, err := s.store.Commit(t.Context(), &x, 0); err != nil {
		t.Fatal(err)
	}
	p.doubt()
	holds(t, s.etcd, map[string]weftv1.State{"a": weftv1.State_STATE_ACTIVE})
}
