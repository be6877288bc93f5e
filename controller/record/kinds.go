package record

import (
	"github.com/google/uuid"

	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Networks describes networks.
func Networks() *Kind[*weftv1.Network] {
	return &Kind[*weftv1.Network]{
		Name: "network", Enum: weftv1.Kind_KIND_NETWORK, Family: keys.FamilyNetwork,
		Mutable: []string{"name", "admin_state_up", "shared", "external", "mtu", "dns_domain", "dhcp_servers", "pool", "port_security_enabled"},
		New:     func() *weftv1.Network { return &weftv1.Network{} },
		Scope:   func(*weftv1.Network) string { return "" },
		Header: func(m *weftv1.Network) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, &m.Status, &m.QuotaPlace}
		},
	}
}

// NetworkGrants describes grants of networks, which lie in their network's scope and never change.
func NetworkGrants() *Kind[*weftv1.NetworkGrant] {
	return &Kind[*weftv1.NetworkGrant]{
		Name: "network grant", Enum: weftv1.Kind_KIND_NETWORK_GRANT, Family: keys.FamilyNetworkGrant, Locator: keys.KindNetworkGrant, ScopeField: "network_id",
		New:   func() *weftv1.NetworkGrant { return &weftv1.NetworkGrant{} },
		Scope: func(m *weftv1.NetworkGrant) string { return m.GetNetworkId() },
		Header: func(m *weftv1.NetworkGrant) Header {
			return Header{&m.Id, nil, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, nil}
		},
	}
}

// GrantID is the id of the grant of a network to a project: a name-based UUID (RFC 9562 section 5.5), so that whoever makes
// the same grant twice, or at the same time, meets itself under one key.
func GrantID(network, project string) string {
	return uuid.NewSHA1(uuid.MustParse(grants), []byte(network+"/"+project)).String()
}

// grants is the namespace of the ids of grants.
const grants = "5a0c8ee4-0f6f-4d5f-9d0f-6a1b7f0f3c52"

// Subnets describes subnets, which lie in their network's scope.
func Subnets() *Kind[*weftv1.Subnet] {
	return &Kind[*weftv1.Subnet]{
		Name: "subnet", Enum: weftv1.Kind_KIND_SUBNET, Family: keys.FamilySubnet, Locator: keys.KindSubnet, ScopeField: "network_id",
		Mutable: []string{"name", "allocation_pools", "dns_nameservers", "host_routes", "enable_dhcp"},
		New:     func() *weftv1.Subnet { return &weftv1.Subnet{} },
		Scope:   func(m *weftv1.Subnet) string { return m.GetNetworkId() },
		Header: func(m *weftv1.Subnet) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, &m.QuotaPlace}
		},
	}
}

// Ports describes ports, which lie in their network's scope.
func Ports() *Kind[*weftv1.Port] {
	return &Kind[*weftv1.Port]{
		Name: "port", Enum: weftv1.Kind_KIND_PORT, Family: keys.FamilyPort, Locator: keys.KindPort, ScopeField: "network_id",
		Mutable: []string{
			"name", "mac_address", "fixed_ips", "device_id", "device_owner", "host", "admin_state_up", "extra_dhcp_opts",
			"security_groups", "port_security_enabled", "allowed_address_pairs", "instance",
		},
		New:   func() *weftv1.Port { return &weftv1.Port{} },
		Scope: func(m *weftv1.Port) string { return m.GetNetworkId() },
		Header: func(m *weftv1.Port) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, &m.Status, &m.QuotaPlace}
		},
	}
}

// Routers describes routers.
func Routers() *Kind[*weftv1.Router] {
	return &Kind[*weftv1.Router]{
		Name: "router", Enum: weftv1.Kind_KIND_ROUTER, Family: keys.FamilyRouter,
		Mutable: []string{"name", "admin_state_up", "ha", "pool"},
		New:     func() *weftv1.Router { return &weftv1.Router{} },
		Outputs: func(m *weftv1.Router) { m.ActiveNode, m.Instances = "", nil },
		Scope:   func(*weftv1.Router) string { return "" },
		Header: func(m *weftv1.Router) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, &m.Status, &m.QuotaPlace}
		},
	}
}

// FloatingIPs describes floating IPs, which lie in the scope of the router that serves them.
func FloatingIPs() *Kind[*weftv1.FloatingIp] {
	return &Kind[*weftv1.FloatingIp]{
		Name: "floating IP", Enum: weftv1.Kind_KIND_FLOATING_IP, Family: keys.FamilyFloatingIP, Locator: keys.KindFloatingIP, ScopeField: "router_id",
		Mutable: []string{"name", "port_id", "fixed_ip_address"},
		New:     func() *weftv1.FloatingIp { return &weftv1.FloatingIp{} },
		Scope: func(m *weftv1.FloatingIp) string {
			if m.GetRouterId() == "" {
				return keys.Unassociated
			}
			return m.GetRouterId()
		},
		Header: func(m *weftv1.FloatingIp) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, &m.Status, &m.QuotaPlace}
		},
	}
}

// SegmentRanges describes segment ranges.
func SegmentRanges() *Kind[*weftv1.SegmentRange] {
	return &Kind[*weftv1.SegmentRange]{
		Name: "segment range", Enum: weftv1.Kind_KIND_SEGMENT_RANGE, Family: keys.FamilySegmentRange,
		Mutable: []string{"name", "minimum", "maximum"},
		New:     func() *weftv1.SegmentRange { return &weftv1.SegmentRange{} },
		Scope:   func(*weftv1.SegmentRange) string { return "" },
		Header: func(m *weftv1.SegmentRange) Header {
			return Header{&m.Id, &m.Name, nil, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, nil}
		},
	}
}

// SecurityGroups describes security groups.
func SecurityGroups() *Kind[*weftv1.SecurityGroup] {
	return &Kind[*weftv1.SecurityGroup]{
		Name: "security group", Enum: weftv1.Kind_KIND_SECURITY_GROUP, Family: keys.FamilySecurityGroup,
		Mutable: []string{"name", "description", "stateful"},
		New:     func() *weftv1.SecurityGroup { return &weftv1.SecurityGroup{} },
		Scope:   func(*weftv1.SecurityGroup) string { return "" },
		Header: func(m *weftv1.SecurityGroup) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, &m.QuotaPlace}
		},
	}
}

// SecurityGroupRules describes rules, which lie in their security group's scope and never change.
func SecurityGroupRules() *Kind[*weftv1.SecurityGroupRule] {
	return &Kind[*weftv1.SecurityGroupRule]{
		Name: "security group rule", Enum: weftv1.Kind_KIND_SECURITY_GROUP_RULE, Family: keys.FamilyRule, Locator: keys.KindRule, ScopeField: "security_group_id",
		New:   func() *weftv1.SecurityGroupRule { return &weftv1.SecurityGroupRule{} },
		Scope: func(m *weftv1.SecurityGroupRule) string { return m.GetSecurityGroupId() },
		Header: func(m *weftv1.SecurityGroupRule) Header {
			return Header{&m.Id, nil, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, &m.QuotaPlace}
		},
	}
}

// AddressGroups describes address groups.
func AddressGroups() *Kind[*weftv1.AddressGroup] {
	return &Kind[*weftv1.AddressGroup]{
		Name: "address group", Enum: weftv1.Kind_KIND_ADDRESS_GROUP, Family: keys.FamilyAddressGroup,
		Mutable: []string{"name", "description", "addresses"},
		New:     func() *weftv1.AddressGroup { return &weftv1.AddressGroup{} },
		Scope:   func(*weftv1.AddressGroup) string { return "" },
		Header: func(m *weftv1.AddressGroup) Header {
			return Header{&m.Id, &m.Name, &m.Project, &m.Etag, &m.CreateTime, &m.UpdateTime, nil, &m.QuotaPlace}
		},
	}
}
