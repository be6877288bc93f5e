package binder

import (
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestADamagedPortIsLeftAloneUntilItIsRepaired overwrites a port with what is none, after which nothing could be committed
// for it however often it was tried.
func TestADamagedPortIsLeftAloneUntilItIsRepaired(t *testing.T) {
	const network, id = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
	raw, err := proto.Marshal(&weftv1.Port{Id: id, NetworkId: network, BoundHost: "a"})
	if err != nil {
		t.Fatal(err)
	}
	key := keys.Port(network, id)
	b := New(nil, slog.New(slog.DiscardHandler))
	feed := func(value []byte, revision int64) decision {
		b.take(mirror.Batch{Changes: []mirror.Change{{Key: key, Value: value, Revision: revision}}})
		k := b.ports[id]
		return decide(id, k.port, k.plugs, k.bindings)
	}
	if d := feed(raw, 1); !d.rebind {
		t.Errorf("a port bound where it is not plugged: %+v, want it unbound", d)
	}
	for revision, junk := range [][]byte{{0xff}, raw[:len(raw)-3], {}} {
		if d := feed(junk, int64(2+revision)); !d.empty() {
			t.Errorf("the damaged port %x: %+v, want nothing done", junk, d)
		}
	}
	if d := feed(raw, 9); !d.rebind {
		t.Errorf("the repaired port: %+v, want it unbound", d)
	}
}
