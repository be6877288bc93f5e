package check

import (
	"net/netip"
	"slices"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// groups checks security groups: that rules lie with the group that they name, hold what they refer to, and cross no
// project; that every port is known to its groups by all addresses that it may use; and that what VMs learn of themselves
// is of ports that are there.
func (j *joining) groups() {
	for id, r := range j.rules {
		own := r.msg.GetSecurityGroupId()
		j.expect(keys.Locator(keys.KindRule, id), &storev1.Locator{Scope: own})
		if got := j.scopes[keys.Rule(own, id)]; got != own {
			j.addf("rule %s is of security group %q and does not lie there", id, own)
		}
		j.inProject("rule "+id, r.msg.GetProject(), j.store.groups[own].msg)
		if remote := r.msg.GetRemoteGroupId(); remote != "" {
			j.inProject("rule "+id, r.msg.GetProject(), j.store.groups[remote].msg)
			if remote != own {
				j.claim(keys.RemoteClaim(remote, id), keys.KindRule, id)
			}
		}
		if remote := r.msg.GetRemoteAddressGroupId(); remote != "" {
			j.inProject("rule "+id, r.msg.GetProject(), j.addressGroups[remote].msg)
			j.claim(keys.RemoteClaim(remote, id), keys.KindRule, id)
		}
	}
	for id, p := range j.store.ports {
		for _, group := range p.msg.GetSecurityGroups().GetIds() {
			j.inProject("port "+id, p.msg.GetProject(), j.store.groups[group].msg)
			j.expect(keys.Member(group, id), &storev1.Member{NetworkId: p.msg.GetNetworkId(), Addresses: j.sources(id, p.msg)})
		}
	}
	for id := range j.instances {
		if _, ok := j.store.ports[id]; !ok {
			j.addf("key %s belongs to nothing", keys.Instance(id))
		}
	}
}

// inProject checks that what an object refers to is there and of its project.
func (j *joining) inProject(who, project string, to interface {
	GetId() string
	GetProject() string
},
) {
	if to.GetProject() != project {
		j.addf("%s is of project %s and refers to %q of project %q", who, project, to.GetId(), to.GetProject())
	}
}

// sources are the addresses that a port may use, in order.
func (j *joining) sources(id string, p *weftv1.Port) []string {
	var texts []string
	for _, f := range p.GetFixedIps() {
		texts = append(texts, f.GetIpAddress())
	}
	for _, pair := range p.GetAllowedAddressPairs() {
		texts = append(texts, pair.GetIpAddress())
	}
	var all []netip.Prefix
	for _, text := range texts {
		ip, err := netip.ParseAddr(text)
		prefix := netip.PrefixFrom(ip, ip.BitLen())
		if err != nil {
			prefix, err = netip.ParsePrefix(text)
		}
		if err != nil {
			j.addf("port %s may use %q, which is no address", id, text)
			continue
		}
		all = append(all, prefix)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []string
	for _, prefix := range slices.Compact(all) {
		if prefix.IsSingleIP() {
			out = append(out, prefix.Addr().String())
			continue
		}
		out = append(out, prefix.String())
	}
	return out
}
