package caller

import "strings"

// act is what kind of thing a method does.
type act int

const (
	see     act = iota + 1 // reads objects of projects
	change                 // changes them
	inspect                // reads what projects rest on
	operate                // changes it
	govern                 // decides what projects may have
	ask                    // asks whether the server is there
)

// least is the role from which on callers may make calls of a kind.
func (a act) least() Role {
	switch a {
	case ask:
		return Nobody
	case see:
		return Reader
	case change:
		return Member
	case inspect, operate:
		return Operator
	case govern:
		fallthrough
	default:
		return Admin
	}
}

// acts says of each method what it does. The rows are names of methods, or of services for all of theirs; a method
// without a row is an admin's alone, which a test does not let pass.
func acts() map[string]act {
	rows := map[string]act{
		"weft.v1.NodeService/ListNodes": inspect, "weft.v1.NodeService/GetNode": inspect, "weft.v1.NodeService/DiffNode": inspect,
		"weft.v1.NodeService/ExplainDrain": inspect,
		"weft.v1.NodeService/ListPools":    inspect, "weft.v1.NodeService/GetPool": inspect,
		"weft.v1.NodeService/UpdateNode": operate, "weft.v1.NodeService/DeleteNode": operate, "weft.v1.NodeService/UpdatePool": operate,
		"weft.v1.NodeService/Rebalance": operate, "weft.v1.RouterService/MoveRouter": operate,
		"weft.v1.SegmentRangeService/GetSegmentRange": inspect, "weft.v1.SegmentRangeService/ListSegmentRanges": inspect,
		"weft.v1.SegmentRangeService/CreateSegmentRange": operate, "weft.v1.SegmentRangeService/UpdateSegmentRange": operate,
		"weft.v1.SegmentRangeService/DeleteSegmentRange": operate,
		"weft.v1.QuotaService/GetQuota":                  see, "weft.v1.QuotaService/SetQuota": govern, "weft.v1.QuotaService/UnsetQuota": govern,
		"weft.v1.WatchService/Watch":          see,
		"grpc.health.v1.Health":               ask,
		"grpc.reflection.v1.ServerReflection": see, "grpc.reflection.v1alpha.ServerReflection": see,
	}
	for service, kinds := range map[string][]string{
		"NetworkService": {"Network", "NetworkGrant"}, "SubnetService": {"Subnet"}, "PortService": {"Port"}, "RouterService": {"Router"},
		"FloatingIpService": {"FloatingIp"}, "SecurityGroupService": {"SecurityGroup", "SecurityGroupRule", "AddressGroup"},
	} {
		for _, kind := range kinds {
			prefix := "weft.v1." + service + "/"
			rows[prefix+"Get"+kind], rows[prefix+"List"+kind+"s"] = see, see
			for _, verb := range []string{"Create", "Update", "Delete"} {
				rows[prefix+verb+kind] = change
			}
			rows[prefix+"BatchCreate"+kind+"s"] = change
		}
	}
	for _, verb := range []string{"SetRouterGateway", "ClearRouterGateway", "AddRouterInterface", "RemoveRouterInterface", "AddRouterRoute", "RemoveRouterRoute"} {
		rows["weft.v1.RouterService/"+verb] = change
	}
	return rows
}

// policy is acts, made once.
type policy map[string]act

// of is what a method does, by its full name, "/service/method"; known is false for one without a row.
func (p policy) of(method string) (a act, known bool) {
	method = strings.TrimPrefix(method, "/")
	if a, known = p[method]; !known {
		service, _, _ := strings.Cut(method, "/")
		a, known = p[service]
	}
	return a, known
}

// mutates reports whether calls of a method change anything.
func (a act) mutates() bool { return a == change || a == operate || a == govern || a == 0 }
