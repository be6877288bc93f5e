package e2e_test

import (
	"testing"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// TestPartition cuts a network node off from the store, from its peers, or from both, and wants that at no time two nodes
// speak for its routers on the external network, from which nobody is cut off.
func TestPartition(t *testing.T) {
	p := newPool(t, "e2e-partition", 2)
	for _, cut := range []struct {
		what     string
		networks []string
		moves    bool
	}{
		{"from management only: it carries on", []string{lab.Management}, false},
		{"from the underlay only: its VMs are behind it, so others take over", []string{lab.Underlay}, true},
		{"from both: it falls silent, and others take over", []string{lab.Management, lab.Underlay}, true},
	} {
		t.Run(cut.what, func(t *testing.T) {
			p := p.in(t)
			node := p.holder(p.ways[0])
			held := p.on(node)
			v := p.keepVigil(held)
			for _, network := range cut.networks {
				p.must(p.host(node).Cut(network))
			}
			moved := held
			if cut.moves {
				p.leaves(held, node)
			} else {
				moved = nil
				p.pause(3 * time.Second)
			}
			v.goOn()
			p.carried()
			for _, network := range cut.networks {
				p.must(p.host(node).Heal(network))
			}
			p.whole()
			v.goOn()
			p.carried()
			v.end(moved)
		})
	}
}
