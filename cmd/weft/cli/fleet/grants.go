package fleet

import (
	"slices"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// grants lends a network to the projects that the file names, and to no others.
func (p *planner) grants(w where, n Network) {
	id := p.ids[placeholder(nounNetwork, n.Name)]
	lent := map[string]bool{}
	for _, g := range p.current.Grants {
		if g.GetNetworkId() != id {
			continue
		}
		lent[g.GetTargetProject()] = true
		if !slices.Contains(n.GrantedTo, g.GetTargetProject()) {
			p.update(phaseRevoke, nounNetwork, n.Name, "grant to "+g.GetTargetProject()+" revoked", &weftv1.DeleteNetworkGrantRequest{Id: g.GetId()})
		}
	}
	for i, project := range n.GrantedTo {
		switch {
		case slices.Contains(n.GrantedTo[:i], project):
			p.failf(w, "granted_to: %s stands there twice", project)
		case !lent[project]:
			grant := &weftv1.NetworkGrant{NetworkId: id, TargetProject: project}
			p.update(phaseGrant, nounNetwork, n.Name, "granted to "+project, &weftv1.CreateNetworkGrantRequest{NetworkGrant: grant})
		}
	}
}

// usable reports whether a network of another project is the project's to use.
func (p *planner) usable(n *weftv1.Network) bool {
	return n.GetShared() || n.GetExternal() || slices.ContainsFunc(p.current.Grants, func(g *weftv1.NetworkGrant) bool {
		return g.GetNetworkId() == n.GetId() && g.GetTargetProject() == p.project
	})
}
