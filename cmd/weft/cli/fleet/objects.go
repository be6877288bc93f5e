package fleet

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// known returns the stored object of a declared name, as a proto.Message that is nil when there is none.
func known[M named](p *planner, all []M, noun, key string) (M, proto.Message) {
	m, ok := byID(all, p.ids[placeholder(noun, key)])
	if !ok {
		return m, nil
	}
	return m, m
}

func maskOf(paths []string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// networkType converts a type's short name.
func (p *planner) networkType(w where, s string) weftv1.NetworkType {
	t, ok := model.ParseType(s)
	if !ok {
		p.failf(w, "type: %q is not one of vlan, vxlan, gre, flat", s)
	}
	return t
}

func (p *planner) segmentRange(w where, r SegmentRange) {
	obj := &weftv1.SegmentRange{Name: r.Name, Type: p.networkType(w, r.Type), Minimum: r.Minimum, Maximum: r.Maximum}
	wish := wish{
		where: w, phase: phaseSegmentRange, noun: nounRange, name: r.Name, object: obj,
		fields: []string{"type", "minimum", "maximum"}, mutable: []string{"minimum", "maximum"},
	}
	chosen(&wish, "physical_network", r.PhysicalNetwork, func(s string) { obj.PhysicalNetwork = s })
	cur, stored := known(p, p.current.SegmentRanges, nounRange, r.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateSegmentRangeRequest{SegmentRange: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateSegmentRangeRequest{SegmentRange: obj, UpdateMask: maskOf(mask)}
		})
	p.unchanged(phaseSegmentRange, nounRange, r.Name)
}

func (p *planner) network(w where, n Network) {
	obj := &weftv1.Network{Name: n.Name, Project: p.project}
	wish := wish{
		where: w, phase: phaseNetwork, noun: nounNetwork, name: n.Name, object: obj,
		mutable: []string{"admin_state_up", "shared", "external", "mtu", "dns_domain", "dhcp_servers", "pool", "port_security_enabled"},
	}
	given(&wish, "type", n.Type, func(s string) { obj.Type = p.networkType(w, s) })
	chosen(&wish, "physical_network", n.PhysicalNetwork, func(s string) { obj.PhysicalNetwork = s })
	chosen(&wish, "segmentation_id", n.SegmentationID, func(v uint32) { obj.SegmentationId = v })
	chosen(&wish, "mtu", n.MTU, func(v int32) { obj.Mtu = v })
	given(&wish, "external", n.External, func(b bool) { obj.External = b })
	given(&wish, "shared", n.Shared, func(b bool) { obj.Shared = b })
	given(&wish, "admin_state_up", n.AdminStateUp, func(b bool) { obj.AdminStateUp = &b })
	chosen(&wish, "dns_domain", n.DNSDomain, func(s string) { obj.DnsDomain = s })
	given(&wish, "dhcp_servers", n.DHCPServers, func(v int32) { obj.DhcpServers = v })
	given(&wish, "pool", n.Pool, func(s string) { obj.Pool = orNone(s) })
	given(&wish, "port_security_enabled", n.PortSecurity, func(b bool) { obj.PortSecurityEnabled = &b })
	cur, stored := known(p, p.current.Networks, nounNetwork, n.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateNetworkRequest{Network: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateNetworkRequest{Network: obj, UpdateMask: maskOf(mask)}
		})
	if n.GrantedTo != nil {
		p.grants(w, n)
	}
	p.unchanged(phaseNetwork, nounNetwork, n.Name)
	for _, s := range n.Subnets {
		p.subnet(where(string(w)+".subnets ("+s.Name+")"), n.Name, s)
	}
}

func (p *planner) subnet(w where, network string, s Subnet) {
	key := subnetKey(network, s.Name)
	obj := &weftv1.Subnet{Name: s.Name, NetworkId: p.ids[placeholder(nounNetwork, network)], Cidr: canonical(s.CIDR)}
	wish := wish{
		where: w, phase: phaseSubnet, noun: nounSubnet, name: key, object: obj, fields: []string{"cidr"},
		mutable: []string{"allocation_pools", "dns_nameservers", "host_routes", "enable_dhcp"},
	}
	given(&wish, "gateway_ip", s.GatewayIP, func(g string) { obj.GatewayIp = proto.String(canonical(orNone(g))) })
	if len(s.AllocationPools) > 0 { // no pool stands for the default
		list(&wish, "allocation_pools", s.AllocationPools, func(pools []Pool) { obj.AllocationPools = poolsOf(pools) })
	}
	list(&wish, "dns_nameservers", s.DNSNameservers, func(l []string) { obj.DnsNameservers = l })
	list(&wish, "host_routes", s.HostRoutes, func(l []Route) { obj.HostRoutes = routesOf(l) })
	given(&wish, "enable_dhcp", s.EnableDHCP, func(b bool) { obj.EnableDhcp = &b })
	cur, stored := known(p, p.current.Subnets, nounSubnet, key)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateSubnetRequest{Subnet: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdateSubnetRequest{Subnet: obj, UpdateMask: maskOf(mask)}
		})
	p.unchanged(phaseSubnet, nounSubnet, key)
}

func (p *planner) port(w where, port Port) {
	obj := &weftv1.Port{Name: port.Name, Project: p.project, NetworkId: p.networkID(w, port.Network)}
	wish := wish{
		where: w, phase: phasePort, noun: nounPort, name: port.Name, object: obj, fields: []string{"network_id"},
		mutable: []string{
			"mac_address", "fixed_ips", "device_id", "device_owner", "host", "admin_state_up", "extra_dhcp_opts",
			"security_groups", "port_security_enabled", "allowed_address_pairs", "instance",
		},
	}
	chosen(&wish, "mac_address", port.MACAddress, func(s string) { obj.MacAddress = canonical(s) })
	list(&wish, "fixed_ips", port.FixedIPs, func(l []FixedIP) { obj.FixedIps = p.fixedIPs(w, l) })
	if slices.ContainsFunc(obj.GetFixedIps(), func(f *weftv1.FixedIp) bool { return f.GetIpAddress() != "" }) {
		wish.phase = phasePortAt
	}
	given(&wish, "host", port.Host, func(s string) { obj.Host = orNone(s) })
	given(&wish, "device_id", port.DeviceID, func(s string) { obj.DeviceId = s })
	given(&wish, "device_owner", port.DeviceOwner, func(s string) { obj.DeviceOwner = s })
	given(&wish, "admin_state_up", port.AdminStateUp, func(b bool) { obj.AdminStateUp = &b })
	if port.ExtraDHCPOpts != nil {
		wish.fields = append(wish.fields, "extra_dhcp_opts")
		for _, name := range sortedKeys(port.ExtraDHCPOpts) {
			obj.ExtraDhcpOpts = append(obj.ExtraDhcpOpts, &weftv1.DhcpOption{Name: name, Value: port.ExtraDHCPOpts[name]})
		}
	}
	p.security(w, &wish, obj, port)
	given(&wish, "instance", port.Instance, func(i Instance) {
		obj.Instance = &weftv1.Instance{Id: i.ID, Hostname: i.Hostname, PublicKeys: i.PublicKeys, UserData: []byte(i.UserData), Metadata: i.Metadata}
	})
	cur, stored := known(p, p.current.Ports, nounPort, port.Name)
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreatePortRequest{Port: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			return &weftv1.UpdatePortRequest{Port: obj, UpdateMask: maskOf(mask)}
		})
	if stored == nil && port.FixedIPs != nil && len(port.FixedIPs) == 0 {
		// A new port gets an address where there is any; only an update can take it away.
		p.update(phasePort, nounPort, port.Name, "fixed_ips", &weftv1.UpdatePortRequest{
			Port: &weftv1.Port{Id: p.ids[placeholder(nounPort, port.Name)]}, UpdateMask: maskOf([]string{"fixed_ips"}),
		})
	}
	p.unchanged(phasePort, nounPort, port.Name)
}

func (p *planner) fixedIPs(w where, in []FixedIP) []*weftv1.FixedIp {
	var out []*weftv1.FixedIp
	for _, f := range in {
		msg := &weftv1.FixedIp{IpAddress: canonical(f.IPAddress)}
		if f.Subnet != "" {
			msg.SubnetId = p.subnetID(w, f.Subnet)
		}
		out = append(out, msg)
	}
	return out
}

// floatingIPs plans all floating IPs together: two may swap their ports.
func (p *planner) floatingIPs(in []FloatingIP) {
	wanted := map[string]string{} // port id -> the floating IP that is to lead there
	for i, f := range in {
		if f.Port != nil && orNone(*f.Port) != "" {
			wanted[p.portID(at("floating_ips", i, f.Name), *f.Port)] = f.Name
		}
	}
	for i, f := range in {
		p.floatingIP(at("floating_ips", i, f.Name), f, wanted)
	}
}

func (p *planner) floatingIP(w where, f FloatingIP, wanted map[string]string) {
	obj := &weftv1.FloatingIp{Name: f.Name, Project: p.project, NetworkId: p.networkID(w, f.Network)}
	wish := wish{
		where: w, phase: phaseFloatingIP, noun: nounFloatingIP, name: f.Name, object: obj, fields: []string{"network_id"},
		mutable: []string{"port_id", "fixed_ip_address"},
	}
	cur, stored := known(p, p.current.FloatingIPs, nounFloatingIP, f.Name)
	chosen(&wish, "ip_address", f.IPAddress, func(s string) { obj.IpAddress = canonical(s) })
	given(&wish, "port_id", f.Port, func(s string) {
		if orNone(s) != "" {
			obj.PortId = p.portID(w, s)
		}
	})
	chosen(&wish, "fixed_ip_address", f.FixedIPAddress, func(s string) { obj.FixedIpAddress = canonical(s) })
	if f.Port != nil && cur.GetPortId() != "" && obj.GetPortId() != cur.GetPortId() {
		heir := wanted[cur.GetPortId()]
		if obj.GetPortId() == "" || (heir != "" && heir != f.Name) {
			p.disassociate(cur)
			cur = proto.CloneOf(cur)
			cur.PortId, cur.FixedIpAddress = "", ""
			stored = cur
		}
	}
	if stored == nil && obj.GetIpAddress() != "" {
		cur = p.reserve(obj)
		stored = cur
	}
	p.reconcile(wish, stored,
		func() proto.Message { return &weftv1.CreateFloatingIpRequest{FloatingIp: obj} },
		func(mask []string) proto.Message {
			obj.Id = cur.GetId()
			// The fixed address of the old port means nothing for the new one.
			if slices.Contains(mask, "port_id") && !slices.Contains(mask, "fixed_ip_address") {
				mask = append(mask, "fixed_ip_address")
			}
			return &weftv1.UpdateFloatingIpRequest{FloatingIp: obj, UpdateMask: maskOf(mask)}
		})
	p.unchanged(phaseFloatingIP, nounFloatingIP, f.Name)
}

// reserve plans a floating IP that leads nowhere yet: its address is taken before gateways take theirs.
func (p *planner) reserve(f *weftv1.FloatingIp) *weftv1.FloatingIp {
	key := placeholder(nounFloatingIP, f.GetName())
	bare := proto.CloneOf(f)
	bare.PortId, bare.FixedIpAddress = "", ""
	p.add(phaseFloatingIPAt, Action{
		Verb: Create, Noun: nounFloatingIP, Name: f.GetName(), Placeholder: key,
		Request: &weftv1.CreateFloatingIpRequest{FloatingIp: proto.CloneOf(bare)},
	})
	bare.Id = key
	return bare
}

func (p *planner) disassociate(f *weftv1.FloatingIp) {
	p.update(phaseDisassociate, nounFloatingIP, f.GetName(), "disassociated", &weftv1.UpdateFloatingIpRequest{
		FloatingIp: &weftv1.FloatingIp{Id: f.GetId()}, UpdateMask: maskOf([]string{"port_id", "fixed_ip_address"}),
	})
}
