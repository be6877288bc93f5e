package model

import weftv1 "github.com/weft-sdn/weft/proto/weft/v1"

// MaxGrants is how many projects a network may be granted to; for more there is Network.shared. A network's grants are deleted
// in one transaction with it.
const MaxGrants = 50

// NetworkGrant is a checked weft.v1.NetworkGrant.
type NetworkGrant struct {
	ID, Network string
	// Project is the network's, Target the one that may use it.
	Project, Target string
}

// NetworkGrantFrom checks and converts a network grant that is complete.
func NetworkGrantFrom(g *weftv1.NetworkGrant) (NetworkGrant, error) {
	var c checker
	out := NetworkGrant{
		ID: c.uuid("id", g.GetId()), Network: c.uuid("network_id", g.GetNetworkId()),
		Project: c.project(g.GetProject()), Target: g.GetTargetProject(),
	}
	switch {
	case out.Target == "*":
		c.addf("target_project", "is one project; for all of them there is the network's field shared")
	case !ValidProject(out.Target):
		c.addf("target_project", "%q can't name a project", out.Target)
	case out.Target == out.Project:
		c.addf("target_project", "%s has the network already", out.Target)
	}
	return out, c.err()
}
