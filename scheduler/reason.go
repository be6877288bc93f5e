package scheduler

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// score is a hash of request and node: rendezvous hashing, so that a node more or less changes only the choices that it
// wins or had won.
func score(what, node string) uint64 {
	sum := sha256.Sum256([]byte(what + "\x00" + node))
	return binary.BigEndian.Uint64(sum[:])
}

// reasons lists everything for which a node can't newly take the request in a plan of a pool ("": whatever it is).
func (p *placement) reasons(n Node, pool string) []string {
	out := p.unfit(n, pool)
	out = append(out, p.unwilling(n)...)
	return append(out, p.unproven(n, p.req.PhysicalNetworks)...)
}

// unfit is what speaks against a node by its nature, even if it holds the object.
func (p *placement) unfit(n Node, pool string) (out []string) {
	if pool != "" && n.Pool != pool {
		out = append(out, fmt.Sprintf("is in pool %s, not in %s", n.Pool, pool))
	}
	for _, physnet := range p.req.PhysicalNetworks {
		if _, mapped := n.Uplinks[physnet]; !mapped {
			out = append(out, "has no bridge for physical network "+physnet)
		}
	}
	if p.req.Tunnels && !n.TunnelIP.IsValid() {
		out = append(out, "has no tunnel address")
	}
	return out
}

// unwilling is what speaks against a node at the moment.
func (p *placement) unwilling(n Node) (out []string) {
	if !n.Alive {
		out = append(out, "is not alive")
	}
	switch {
	case n.Draining:
		out = append(out, "is draining")
	case n.Cordoned:
		out = append(out, "is cordoned")
	}
	if why := p.req.Leaving[n.Name]; why != "" && !slices.Contains(out, why) {
		out = append(out, why)
	}
	holds := slices.Contains(p.req.Current, n.Name)
	if held := n.Load.Active + n.Load.Standby; p.req.Kind == Router && n.Capacity > 0 && !holds && held >= n.Capacity {
		out = append(out, fmt.Sprintf("is full: it holds %d routers, its capacity is %d", held, n.Capacity))
	}
	return out
}

// unproven is the uplinks to some physical networks that a node has but has not proven.
func (p *placement) unproven(n Node, physnets []string) (out []string) {
	for _, physnet := range physnets {
		if up, mapped := n.Uplinks[physnet]; mapped && !up.Proven {
			out = append(out, fmt.Sprintf("its uplink to physical network %s is not proven: %s", physnet, up.Reason))
		}
	}
	return out
}
