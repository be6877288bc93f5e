// Package binder binds ports that name no host to the node where their interface appears, and says of every other
// appearance why it is not wired. It runs on every controller without a leader: all see the same, decide the same, and
// the guards of the transactions let one of them win. It touches neither ports of the system nor ports that name their
// host.
package binder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/proto/model"
)

// portState is what the binder knows of a port; the zero value is a port that does not exist.
type portState struct {
	network     string
	name        string
	system      bool
	host, bound string
	revision    int64
}

func (p portState) exists() bool { return p.network != "" }

// plug is an appearance of a port's interface on a node.
type plug struct {
	node     string
	revision int64
}

// binding is what is stored at host/<node>/port/<port>.
type binding struct {
	node     string
	refused  string // "" when the port is the node's to wire
	revision int64
}

// decision is what has to change for one port.
type decision struct {
	// rebind says that the port is to be bound to bind, "" for no node.
	rebind bool
	bind   string
	// refuse are the nodes to be told, each with the reason.
	refuse map[string]string
	// forget are refusals that have no reason any more.
	forget []binding
}

func (d decision) empty() bool { return !d.rebind && len(d.refuse) == 0 && len(d.forget) == 0 }

// decide is a function of what is known of one port. Of several appearances of an unbound port the earliest gets it.
func decide(id string, p portState, plugs []plug, bindings []binding) decision {
	var d decision
	if p.system {
		return d
	}
	bound := p.bound
	if p.exists() && p.host == "" && !pluggedOn(plugs, p.bound) {
		if bound = earliest(plugs); bound != p.bound {
			d.rebind, d.bind = true, bound
		}
	}
	for _, b := range bindings {
		if b.refused != "" && b.node != bound && !pluggedOn(plugs, b.node) {
			d.forget = append(d.forget, b)
		}
	}
	for _, g := range plugs {
		if g.node == bound {
			continue
		}
		if reason := refusal(id, p, bound); !refusedFor(bindings, g.node, reason) {
			if d.refuse == nil {
				d.refuse = map[string]string{}
			}
			d.refuse[g.node] = reason
		}
	}
	return d
}

func pluggedOn(plugs []plug, node string) bool {
	return slices.ContainsFunc(plugs, func(g plug) bool { return g.node == node })
}

func earliest(plugs []plug) string {
	if len(plugs) == 0 {
		return ""
	}
	return slices.MinFunc(plugs, func(a, b plug) int {
		if a.revision != b.revision {
			return int(a.revision - b.revision)
		}
		return strings.Compare(a.node, b.node)
	}).node
}

func refusal(id string, p portState, bound string) string {
	if !p.exists() {
		return fmt.Sprintf("there is no port %s", id)
	}
	name := p.name
	if name == "" {
		name = id
	}
	return fmt.Sprintf("port %s is bound to %s", name, bound)
}

func refusedFor(bindings []binding, node, reason string) bool {
	return slices.ContainsFunc(bindings, func(b binding) bool { return b.node == node && b.refused == reason })
}

func isSystem(owner string) bool { return strings.HasPrefix(owner, model.OwnerPrefix) }
