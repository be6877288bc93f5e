package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// outputs are lists that callers can send and nobody reads.
var outputs = []string{
	"ObjectStatus.reports", "Placement.nodes", "Placement.rejected", "Router.interfaces", "Router.routes", "Router.instances", "Pool.nodes",
	"Node.roles", "Node.bridge_mappings", "Node.problems", "Node.routers", "Node.dhcp_networks", "Node.active_routers", "Node.uplinks",
}

// lists are the lists of requests, by message and field, but for outputs: its limit, and a call that sends n elements.
func (w *world) lists() map[string]struct {
	limit int
	send  func(n int) error
} {
	type list = struct {
		limit int
		send  func(n int) error
	}
	port := func(change func(*weftv1.Port)) error {
		p := &weftv1.Port{NetworkId: w.net1.GetId()}
		change(p)
		_, err := w.CreatePort(w.ctx, &weftv1.CreatePortRequest{Port: p})
		return err
	}
	subnet := func(change func(*weftv1.Subnet)) error {
		s := &weftv1.Subnet{NetworkId: w.net1.GetId(), Cidr: "10.44.0.0/16"}
		change(s)
		_, err := w.CreateSubnet(w.ctx, &weftv1.CreateSubnetRequest{Subnet: s})
		return err
	}
	quotaLimits := func(n int) error {
		req := &weftv1.SetQuotaRequest{Project: "red"}
		for i := range n {
			req.Limits = append(req.Limits, &weftv1.QuotaLimit{Kind: weftv1.Kind(i%10 + 1)})
		}
		_, err := w.SetQuota(w.ctx, req)
		return err
	}
	return map[string]list{
		"BatchCreateNetworksRequest.requests": {1000, func(n int) error {
			_, err := w.BatchCreateNetworks(w.ctx, &weftv1.BatchCreateNetworksRequest{Requests: make([]*weftv1.CreateNetworkRequest, n)})
			return err
		}},
		"BatchCreateSubnetsRequest.requests": {1000, func(n int) error {
			_, err := w.BatchCreateSubnets(w.ctx, &weftv1.BatchCreateSubnetsRequest{Requests: make([]*weftv1.CreateSubnetRequest, n)})
			return err
		}},
		"BatchCreatePortsRequest.requests": {1000, func(n int) error {
			_, err := w.BatchCreatePorts(w.ctx, &weftv1.BatchCreatePortsRequest{Requests: make([]*weftv1.CreatePortRequest, n)})
			return err
		}},
		"FieldMask.paths": {64, func(n int) error {
			_, err := w.UpdateNetwork(w.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: w.net1.GetId()}, UpdateMask: mask(slices.Repeat([]string{"name"}, n)...)})
			return err
		}},
		"Node.labels": {64, func(n int) error {
			labels := map[string]string{}
			for i := range n {
				labels[fmt.Sprint(i)] = ""
			}
			_, err := w.UpdateNode(w.ctx, &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: "cmp1", Labels: labels}})
			return err
		}},
		"Port.fixed_ips": {16, func(n int) error {
			return port(func(p *weftv1.Port) {
				for i := range n {
					p.FixedIps = append(p.FixedIps, fixed(fmt.Sprint("10.0.0.", 50+i))...)
				}
			})
		}},
		"Port.extra_dhcp_opts": {16, func(n int) error {
			return port(func(p *weftv1.Port) {
				for i := range n {
					p.ExtraDhcpOpts = append(p.ExtraDhcpOpts, &weftv1.DhcpOption{Name: fmt.Sprint(224 + i), Value: "x"})
				}
			})
		}},
		"SecurityGroupIds.ids": {16, func(n int) error {
			return port(func(p *weftv1.Port) {
				p.SecurityGroups = &weftv1.SecurityGroupIds{}
				for range n {
					p.SecurityGroups.Ids = append(p.SecurityGroups.Ids, w.group(&weftv1.SecurityGroup{Name: "g"}).GetId())
				}
			})
		}},
		"Port.allowed_address_pairs": {16, func(n int) error {
			return port(func(p *weftv1.Port) {
				for i := range n {
					p.AllowedAddressPairs = append(p.AllowedAddressPairs, &weftv1.AddressPair{IpAddress: fmt.Sprint("10.0.1.", i)})
				}
			})
		}},
		"Instance.public_keys": {16, func(n int) error {
			return port(func(p *weftv1.Port) {
				p.Instance = &weftv1.Instance{PublicKeys: slices.Repeat([]string{"ssh-ed25519 AAAA"}, n)}
			})
		}},
		"Instance.metadata": {32, func(n int) error {
			return port(func(p *weftv1.Port) {
				p.Instance = &weftv1.Instance{Metadata: map[string]string{}}
				for i := range n {
					p.Instance.Metadata[fmt.Sprint("k", i)] = "v"
				}
			})
		}},
		"ExternalGateway.fixed_ips": {16, func(n int) error {
			g := &weftv1.ExternalGateway{NetworkId: w.ext2.GetId()}
			for i := range n {
				g.FixedIps = append(g.FixedIps, fixed(fmt.Sprint("198.51.100.", 50+i))...)
			}
			r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{}})
			w.check(err)
			_, err = w.setGateway(r.GetId(), g)
			return err
		}},
		"AddressGroup.addresses": {1000, func(n int) error {
			g := &weftv1.AddressGroup{}
			for i := range n {
				g.Addresses = append(g.Addresses, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
			}
			_, err := w.CreateAddressGroup(w.ctx, &weftv1.CreateAddressGroupRequest{AddressGroup: g})
			return err
		}},
		"Subnet.allocation_pools": {16, func(n int) error {
			return subnet(func(s *weftv1.Subnet) {
				for i := range n {
					s.AllocationPools = append(s.AllocationPools, &weftv1.AllocationPool{Start: fmt.Sprintf("10.44.%d.10", i), End: fmt.Sprintf("10.44.%d.20", i)})
				}
			})
		}},
		"Subnet.dns_nameservers": {8, func(n int) error {
			return subnet(func(s *weftv1.Subnet) {
				s.Cidr = "10.45.0.0/16"
				for i := range n {
					s.DnsNameservers = append(s.DnsNameservers, fmt.Sprint("192.0.2.", 1+i))
				}
			})
		}},
		"Subnet.host_routes": {64, func(n int) error {
			return subnet(func(s *weftv1.Subnet) {
				s.Cidr = "10.46.0.0/16"
				for i := range n {
					s.HostRoutes = append(s.HostRoutes, &weftv1.Route{Destination: fmt.Sprintf("10.99.%d.0/24", i), Nexthop: "10.46.0.9"})
				}
			})
		}},
		"WatchRequest.kinds": {len(weftv1.Kind_name), func(n int) error {
			stream, err := w.Watch(w.ctx, &weftv1.WatchRequest{Kinds: slices.Repeat([]weftv1.Kind{weftv1.Kind_KIND_PORT}, n)})
			w.check(err)
			_, err = stream.Recv()
			return err
		}},
		"SetQuotaRequest.limits": {5, quotaLimits}, // the sixth kind has no quota
		"UnsetQuotaRequest.kinds": {1, func(n int) error {
			_, err := w.UnsetQuota(w.ctx, &weftv1.UnsetQuotaRequest{Project: "red", Kinds: slices.Repeat([]weftv1.Kind{weftv1.Kind_KIND_PORT}, n)})
			return err
		}},
	}
}

// TestEveryListHasALimit sends each list of each request with as many elements as it may have, and with one more.
func TestEveryListHasALimit(t *testing.T) {
	w := newWorld(t)
	lists := w.lists()
	for name, l := range lists {
		_, field, _ := strings.Cut(name, ".")
		if err := l.send(l.limit); err != nil {
			t.Errorf("%s: %d elements: %v", name, l.limit, err)
		}
		for _, n := range []int{l.limit + 1, 20 * l.limit} {
			field = strings.Replace(field, "paths", "update_mask", 1)
			refused(t, l.send(n), codes.InvalidArgument, field)
		}
	}
	all := listFields()
	if len(all) < len(lists) {
		t.Errorf("the requests have only the lists %v", all)
	}
	for _, name := range all {
		if _, tested := lists[name]; !tested && !slices.Contains(outputs, name) {
			t.Errorf("%s: nobody says how long it may be", name)
		}
	}
}

// listFields are the lists and maps that requests of the API can hold, by message and field.
func listFields() []string {
	var out []string
	seen := map[protoreflect.FullName]bool{}
	var look func(protoreflect.MessageDescriptor)
	look = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] {
			return
		}
		seen[d.FullName()] = true
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			if fd.IsList() || fd.IsMap() {
				out = append(out, fmt.Sprintf("%s.%s", d.Name(), fd.Name()))
			}
			if fd.Message() != nil && !fd.IsMap() {
				look(fd.Message())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("weft.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				look(methods.Get(j).Input())
			}
		}
		return true
	})
	return out
}

// TestWhatIsAddedOneByOneHasALimitToo fills a router.
func TestWhatIsAddedOneByOneHasALimitToo(t *testing.T) {
	w := newWorld(t)
	r, err := w.CreateRouter(w.ctx, &weftv1.CreateRouterRequest{Router: &weftv1.Router{}})
	w.check(err)
	stored := &weftv1.Router{}
	w.read(keys.Router(r.GetId()), stored)
	for i := range 99 {
		stored.Interfaces = append(stored.Interfaces, &weftv1.RouterInterface{PortId: nobody, NetworkId: nobody, SubnetId: nobody, IpAddress: fmt.Sprint("10.1.0.", i)})
	}
	for i := range 63 {
		stored.Routes = append(stored.Routes, &weftv1.Route{Destination: fmt.Sprintf("10.99.%d.0/24", i), Nexthop: "10.1.0.9"})
	}
	for _, full := range []bool{false, true} {
		if full {
			stored.Interfaces = append(stored.Interfaces, stored.GetInterfaces()[0])
			stored.Routes = append(stored.Routes, &weftv1.Route{Destination: "10.98.0.0/24", Nexthop: "10.1.0.9"})
		}
		w.put(keys.Router(r.GetId()), stored)
		_, legs := w.addInterface(r.GetId(), w.sub1.GetId())
		_, routes := w.addRoute(r.GetId(), "10.97.0.0/24", "10.1.0.9")
		for says, err := range map[string]error{"100 interfaces": legs, "64 routes": routes} {
			if full {
				refused(t, err, codes.ResourceExhausted, says)
			} else if err == nil || status.Code(err) == codes.ResourceExhausted { // the others are none that exist
				t.Errorf("one less than %s: %v", says, err)
			}
		}
	}
}
