package ha_test

import (
	"testing"
	"time"

	"github.com/weft-sdn/weft/agent/ha"
)

// A holder with which there never was a session, and whose lease has gone, is not taken over from while gossip hears it: it
// is cut off from the store, and goes on forwarding.
func TestAHolderThatGossipHearsIsNotGone(t *testing.T) {
	const lease, unready = 2 * time.Second, time.Hour
	m := ha.New(ha.Config{Self: "n1", Lease: lease, Unready: unready, Retry: time.Second})
	now := time.Unix(1000, 0)
	at := func(gossip bool) []ha.Claim {
		m.SetWorld(now, ha.World{
			Switch: true, Peers: map[string]ha.Peer{"n2": {Gossip: gossip}},
			Routers: map[string]ha.Router{"r": {Plan: []string{"n2", "n1"}, Holder: "n2", Epoch: 1, Revision: 5, Ready: true}},
		})
		return m.Decide(now).Claims
	}
	for range 5 {
		if c := at(true); len(c) > 0 {
			t.Fatalf("claims %v", c)
		}
		now = now.Add(time.Minute)
	}
	if c := at(false); len(c) > 0 {
		t.Errorf("claims at once: %v", c)
	}
	now = now.Add(lease)
	if c := at(false); len(c) != 1 || c[0].Router != "r" || c[0].To != "n1" {
		t.Errorf("claims %v", c)
	}
}
