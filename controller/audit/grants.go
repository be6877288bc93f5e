package audit

import (
	"github.com/weft-sdn/weft/controller/record"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
)

// networkGrants checks grants of networks.
func (a *auditor) networkGrants() {
	for id, g := range a.grants {
		typed, err := model.NetworkGrantFrom(g)
		if err != nil {
			a.unread("network grant %s: %v", id, err)
			continue
		}
		a.locator(keys.KindNetworkGrant, id, typed.Network)
		a.ofProject("network grant "+id, typed.Project, "network", typed.Network, a.networks[typed.Network])
		if want := record.GrantID(typed.Network, typed.Target); id != want {
			a.findf("network grant %s: its id should be %s", id, want)
		}
	}
}
