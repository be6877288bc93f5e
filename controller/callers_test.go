package controller_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weft-sdn/weft/controller"
	"github.com/weft-sdn/weft/controller/caller"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// people are the callers of the matrix, by role and projects; "nobody" has a token that is nobody's.
var people = []struct{ name, role, projects string }{
	{"owner", "member", "red"}, {"other", "member", "blue"}, {"granted", "member", "green"}, {"reader", "reader", "red"}, {"operator", "operator", ""}, {"admin", "admin", ""},
}

// usersFile writes a file of people, whose tokens are "token-" and their name.
func usersFile(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("users:\n")
	for _, p := range people {
		sum := sha256.Sum256([]byte("token-" + p.name))
		fmt.Fprintf(&b, "- {name: %s, role: %s, projects: [%s], tokens_sha256: [%s]}\n", p.name, p.role, p.projects, hex.EncodeToString(sum[:]))
	}
	path := filepath.Join(t.TempDir(), "users.yaml")
	check(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// by is a context of calls that one of people makes.
func by(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer token-"+name)
}

// lockedBuffer is a log that calls write to at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines(t testing.TB) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range bytes.Lines(l.b.Bytes()) {
		var m map[string]any
		check(t, json.Unmarshal(line, &m))
		out = append(out, m)
	}
	return out
}

// realm is a world of several projects: what red has, what is shared, and green, to whom red's network is granted.
type realm struct {
	*world
	trail lockedBuffer
	// red's
	network *weftv1.Network
	grant   *weftv1.NetworkGrant
	subnet  *weftv1.Subnet
	port    *weftv1.Port
	router  *weftv1.Router
	group   *weftv1.SecurityGroup
	rule    *weftv1.SecurityGroupRule
	address *weftv1.AddressGroup
	fip     *weftv1.FloatingIp
	// the operators', of project "default"
	shared    *weftv1.Network
	sharedSub *weftv1.Subnet
}

func newRealm(t testing.TB) *realm {
	t.Helper()
	w := newWorld(t)
	r := &realm{world: w}
	w.stop()
	users, err := caller.LoadUsers(usersFile(t))
	check(t, err)
	w.replica = w.replicaWith(controller.Options{Users: users, Trail: slog.New(slog.NewJSONHandler(&r.trail, nil))})
	w.seen(w.replica, "net1", "cmp1")
	red := by(w.ctx, "owner")
	r.shared = w.network(&weftv1.Network{Name: "shared", Shared: true})
	r.sharedSub = w.subnet(&weftv1.Subnet{NetworkId: r.shared.GetId(), Cidr: "10.7.0.0/24"})
	r.network, err = w.CreateNetwork(red, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "red"}})
	w.check(err)
	r.subnet, err = w.CreateSubnet(red, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: r.network.GetId(), Cidr: "10.8.0.0/24"}})
	w.check(err)
	r.grant, err = w.CreateNetworkGrant(red, &weftv1.CreateNetworkGrantRequest{NetworkGrant: &weftv1.NetworkGrant{NetworkId: r.network.GetId(), TargetProject: "green"}})
	w.check(err)
	r.port, err = w.CreatePort(red, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.network.GetId(), FixedIps: fixed("10.8.0.9")}})
	w.check(err)
	r.router, err = w.CreateRouter(red, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "red"}})
	w.check(err)
	_, err = w.SetRouterGateway(red, &weftv1.SetRouterGatewayRequest{RouterId: r.router.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: w.ext1.GetId()}})
	w.check(err)
	_, err = w.AddRouterInterface(red, &weftv1.AddRouterInterfaceRequest{RouterId: r.router.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: r.subnet.GetId()}})
	w.check(err)
	r.fip, err = w.CreateFloatingIp(red, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: w.ext1.GetId(), PortId: r.port.GetId()}})
	w.check(err)
	r.group, err = w.CreateSecurityGroup(red, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "red"}})
	w.check(err)
	r.rule, err = w.CreateSecurityGroupRule(red, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: ingressRule(r.group.GetId())})
	w.check(err)
	r.address, err = w.CreateAddressGroup(red, &weftv1.CreateAddressGroupRequest{AddressGroup: &weftv1.AddressGroup{Name: "red"}})
	w.check(err)
	return r
}

// id is that of red's object of a kind, by its message's name.
func (r *realm) id(kind string) string {
	ids := map[string]string{
		"Network": r.network.GetId(), "NetworkGrant": r.grant.GetId(), "Subnet": r.subnet.GetId(), "Port": r.port.GetId(), "Router": r.router.GetId(), "FloatingIp": r.fip.GetId(),
		"SecurityGroup": r.group.GetId(), "SecurityGroupRule": r.rule.GetId(), "AddressGroup": r.address.GetId(),
		"SegmentRange": r.tenantRange.GetId(), "Node": "cmp1", "Pool": "default",
	}
	return ids[kind]
}

// request makes a request that is about what is red's: by its id, or to make something there.
func (r *realm) request(m protoreflect.MethodDescriptor) proto.Message {
	var fill func(m protoreflect.Message)
	fill = func(m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			name := string(fd.Name())
			switch {
			case fd.IsList() && name == "requests":
				element := m.NewField(fd).List().NewElement()
				fill(element.Message())
				m.Mutable(fd).List().Append(element)
			case fd.IsList() || fd.IsMap():
			case fd.Message() != nil && slices.Contains([]string{"Network", "NetworkGrant", "Subnet", "Port", "Router", "FloatingIp", "SecurityGroup", "SecurityGroupRule", "AddressGroup", "Node", "Pool", "SegmentRange"}, string(fd.Message().Name())):
				fill(m.Mutable(fd).Message())
			case fd.Kind() != protoreflect.StringKind:
			case name == "id":
				m.Set(fd, protoreflect.ValueOfString(r.id(kindOfMessage(m.Descriptor()))))
			case name == "project" && m.Descriptor().Name() != "WatchRequest":
				m.Set(fd, protoreflect.ValueOfString("red"))
			case name == "network_id":
				m.Set(fd, protoreflect.ValueOfString(r.network.GetId()))
			case name == "security_group_id":
				m.Set(fd, protoreflect.ValueOfString(r.group.GetId()))
			case name == "router_id" && m.Descriptor().Name() != "FloatingIp":
				m.Set(fd, protoreflect.ValueOfString(r.router.GetId()))
			}
		}
	}
	req := dynamicpb.NewMessage(m.Input())
	fill(req)
	return req
}

// kindOfMessage is the kind that a message's id is of: the message's own or, of a request, its method's.
func kindOfMessage(d protoreflect.MessageDescriptor) string {
	name := strings.TrimSuffix(string(d.Name()), "Request")
	for _, verb := range []string{"Get", "Delete", "Update", "Diff", "Move"} {
		name = strings.TrimPrefix(name, verb)
	}
	return name
}

// verdict is what became of a call: whether it was the caller that it failed for.
func verdict(err error, resp proto.Message) codes.Code {
	if err != nil {
		return status.Code(err)
	}
	fd := resp.ProtoReflect().Descriptor().Fields().ByName("results")
	if fd == nil || resp.ProtoReflect().Get(fd).List().Len() == 0 {
		return codes.OK
	}
	first := resp.ProtoReflect().Get(fd).List().Get(0).Message()
	failed := first.Get(first.Descriptor().Fields().ByName("error")).Message()
	return codes.Code(failed.Get(failed.Descriptor().Fields().ByName("code")).Int())
}

// TestWhoMayDoWhat calls every method of the API, as everybody, on what is red's. Whoever may make a call may still fail for
// what they ask; whoever may not is told so, or that there is no such thing.
func TestWhoMayDoWhat(t *testing.T) {
	r := newRealm(t)
	// Of what is red's, green sees the network, its subnets and the grant itself.
	lent := []string{"GetNetwork", "GetSubnet", "GetNetworkGrant"}
	denied, missing, unknown := []codes.Code{codes.PermissionDenied}, []codes.Code{codes.NotFound, codes.PermissionDenied}, []codes.Code{codes.Unauthenticated}
	// no: the codes that each must get; nil: any but these.
	no := map[string]map[string][]codes.Code{
		"see":     {"owner": nil, "reader": nil, "operator": nil, "admin": nil, "other": {codes.NotFound}, "granted": {codes.NotFound}, "nobody": unknown},
		"lent":    {"owner": nil, "reader": nil, "operator": nil, "admin": nil, "other": {codes.NotFound}, "granted": nil, "nobody": unknown},
		"list":    {"owner": nil, "reader": nil, "operator": nil, "admin": nil, "other": nil, "granted": nil, "nobody": unknown},
		"change":  {"owner": nil, "reader": denied, "operator": denied, "admin": nil, "other": missing, "granted": missing, "nobody": unknown},
		"govern":  {"owner": denied, "reader": denied, "operator": denied, "admin": nil, "other": denied, "granted": denied, "nobody": unknown},
		"inspect": {"owner": denied, "reader": denied, "operator": nil, "admin": nil, "other": denied, "granted": denied, "nobody": unknown},
	}
	callers := []string{"nobody", "other", "granted", "reader", "operator", "owner", "admin"} // what deletes comes last
	methods := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("weft.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				if m.IsStreamingServer() {
					continue // TestAWatchTellsWhatItsCallerSees
				}
				methods++
				kind := "change"
				name, of := string(m.Name()), string(service.Name())
				switch operators := of == "NodeService" || of == "SegmentRangeService" || name == "MoveRouter"; {
				case operators:
					kind = "inspect"
				case slices.Contains(lent, name):
					kind = "lent"
				case name == "SetQuota" || name == "UnsetQuota":
					kind = "govern"
				case strings.HasPrefix(name, "Get"):
					kind = "see"
				case strings.HasPrefix(name, "List"):
					kind = "list"
				}
				for _, who := range callers {
					if (who == "owner" || who == "admin") && strings.HasPrefix(name, "Delete") {
						continue // they may, and others come after them: TestAnOwnerHasAllRightsOverTheirOwn
					}
					resp := dynamicpb.NewMessage(m.Output())
					err := r.conn.Invoke(by(r.ctx, who), fmt.Sprintf("/%s/%s", service.FullName(), name), r.request(m), resp)
					got, want := verdict(err, resp), no[kind][who]
					refusedForWho := slices.Contains([]codes.Code{codes.PermissionDenied, codes.Unauthenticated}, got) || (kind == "see" || kind == "lent") && got == codes.NotFound
					if want == nil && refusedForWho || want != nil && !slices.Contains(want, got) {
						t.Errorf("%s as %s: %s (%v), want one of %v", name, who, got, err, want)
					}
				}
			}
		}
		return true
	})
	if methods < 50 {
		t.Errorf("only %d methods were tried", methods)
	}
	r.audit()
}

func TestAnOwnerHasAllRightsOverTheirOwn(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	_, err := r.DeleteFloatingIp(red, &weftv1.DeleteFloatingIpRequest{Id: r.fip.GetId()})
	r.check(err)
	_, err = r.RemoveRouterInterface(red, &weftv1.RemoveRouterInterfaceRequest{RouterId: r.router.GetId(), Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: r.subnet.GetId()}})
	r.check(err)
	_, err = r.DeleteRouter(red, &weftv1.DeleteRouterRequest{Id: r.router.GetId()})
	r.check(err)
	_, err = r.DeletePort(red, &weftv1.DeletePortRequest{Id: r.port.GetId()})
	r.check(err)
	_, err = r.DeleteSubnet(red, &weftv1.DeleteSubnetRequest{Id: r.subnet.GetId()})
	r.check(err)
	_, err = r.DeleteNetwork(red, &weftv1.DeleteNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	_, err = r.DeleteSecurityGroup(red, &weftv1.DeleteSecurityGroupRequest{Id: r.group.GetId()})
	r.check(err)
	r.audit()
}

func TestListsHoldWhatTheirCallerSees(t *testing.T) {
	r := newRealm(t)
	names := func(who string) string {
		all, err := r.ListNetworks(by(r.ctx, who), &weftv1.ListNetworksRequest{OrderBy: "name"})
		r.check(err)
		var out []string
		for _, n := range all.GetNetworks() {
			out = append(out, n.GetName())
		}
		return strings.Join(out, " ")
	}
	for who, want := range map[string]string{
		"owner": "ext1 ext2 red shared", "reader": "ext1 ext2 red shared", "other": "ext1 ext2 shared", "granted": "ext1 ext2 red shared",
		"operator": "ext1 ext2 net1 red shared", "admin": "ext1 ext2 net1 red shared",
	} {
		if got := names(who); got != want {
			t.Errorf("%s sees %s, want %s", who, got, want)
		}
	}
	subnets, err := r.ListSubnets(by(r.ctx, "other"), &weftv1.ListSubnetsRequest{})
	r.check(err)
	for _, s := range subnets.GetSubnets() {
		if s.GetId() == r.subnet.GetId() || s.GetId() == r.sub1.GetId() {
			t.Errorf("other sees %v", s)
		}
	}
	if len(subnets.GetSubnets()) != 3 {
		t.Errorf("other sees the subnets %v, want those of ext1, ext2 and shared", subnets)
	}
	ports, err := r.ListPorts(by(r.ctx, "other"), &weftv1.ListPortsRequest{Filter: "network_id = " + r.network.GetId()})
	r.check(err)
	if len(ports.GetPorts()) > 0 {
		t.Errorf("other sees %v", ports)
	}
}

func TestWhatIsOperatorsIsNeitherSeenNorDecidedByOthers(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	n, err := r.GetNetwork(red, &weftv1.GetNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	if n.GetSegmentationId() != 0 || n.GetDhcpPlacement() != nil || len(n.GetStatus().GetReports()) > 0 {
		t.Errorf("an owner sees %v", n)
	}
	if n.GetStatus().GetMessage() != "" || n.GetStatus().GetReason() != "it is being built" {
		t.Errorf("an owner is told %v", n.GetStatus())
	}
	full, err := r.GetNetwork(r.ctx, &weftv1.GetNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	if !strings.Contains(full.GetStatus().GetMessage(), "node ") {
		t.Errorf("an operator is told %v", full.GetStatus())
	}
	found, err := r.ListNetworks(red, &weftv1.ListNetworksRequest{Filter: fmt.Sprintf("segmentation_id = %d", full.GetSegmentationId())})
	r.check(err)
	if full.GetSegmentationId() == 0 || len(found.GetNetworks()) > 0 {
		t.Errorf("an owner can find out the segment of %v", found)
	}
	for _, path := range []string{"shared", "external", "dhcp_servers", "pool"} {
		_, err := r.UpdateNetwork(red, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: n.GetId()}, UpdateMask: mask(path)}) // a reset
		refused(t, err, codes.PermissionDenied, path)
	}
	r.setShared(n.GetId())
	_, err = r.UpdateNetwork(red, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: n.GetId(), Name: "new"}, UpdateMask: mask("*")})
	r.check(err)
	if now, err := r.GetNetwork(r.ctx, &weftv1.GetNetworkRequest{Id: n.GetId()}); err != nil || !now.GetShared() || now.GetName() != "new" {
		t.Errorf("an owner's change of everything: %v, %v", now, err)
	}
	for name, n := range map[string]*weftv1.Network{
		"shared": {Shared: true}, "external": {External: true}, "physical_network": {PhysicalNetwork: "tenant"}, "segmentation_id": {SegmentationId: 7}, "type": {Type: vlan},
	} {
		_, err := r.CreateNetwork(red, &weftv1.CreateNetworkRequest{Network: n})
		refused(t, err, codes.PermissionDenied, name)
	}
	_, err = r.CreatePort(red, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.network.GetId(), Host: "cmp1"}})
	refused(t, err, codes.PermissionDenied, "host")
	_, err = r.UpdatePort(red, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: r.port.GetId()}, UpdateMask: mask("host")})
	refused(t, err, codes.PermissionDenied, "host")
	_, err = r.UpdateRouter(red, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: r.router.GetId(), Ha: 1}, UpdateMask: mask("ha")})
	refused(t, err, codes.PermissionDenied, "ha")
	r.audit()
}

func (r *realm) setShared(network string) {
	r.Helper()
	_, err := r.UpdateNetwork(r.ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: network, Shared: true}, UpdateMask: mask("shared")})
	r.check(err)
}

func TestAGuestOnASharedNetworkTakesWhatItIsGiven(t *testing.T) {
	r := newRealm(t)
	blue := by(r.ctx, "other")
	create := func(p *weftv1.Port) (*weftv1.Port, error) {
		p.NetworkId = r.shared.GetId()
		return r.CreatePort(blue, &weftv1.CreatePortRequest{Port: p})
	}
	for says, p := range map[string]*weftv1.Port{
		"fixed_ips": {FixedIps: fixed("10.7.0.50")}, "mac_address": {MacAddress: "fa:16:3e:00:00:07"},
		"allowed_address_pairs": {AllowedAddressPairs: []*weftv1.AddressPair{{IpAddress: "10.7.0.1"}}}, "port_security_enabled": {PortSecurityEnabled: proto.Bool(false)},
	} {
		_, err := create(p)
		refused(t, err, codes.PermissionDenied, says)
	}
	p, err := create(&weftv1.Port{FixedIps: []*weftv1.FixedIp{{SubnetId: r.sharedSub.GetId()}}})
	r.check(err)
	if p.GetProject() != "blue" || len(p.GetFixedIps()) != 1 {
		t.Errorf("made %v", p)
	}
	change := func(p *weftv1.Port, with func(*weftv1.Port), path string) error {
		p, _ = proto.Clone(p).(*weftv1.Port)
		with(p)
		_, err := r.UpdatePort(blue, &weftv1.UpdatePortRequest{Port: p, UpdateMask: mask(path)})
		return err
	}
	r.check(change(p, func(*weftv1.Port) {}, "fixed_ips")) // as they are
	refused(t, change(p, func(p *weftv1.Port) { p.FixedIps = fixed("10.7.0.51") }, "fixed_ips"), codes.PermissionDenied, "fixed_ips")
	refused(t, change(p, func(p *weftv1.Port) { p.MacAddress = "fa:16:3e:00:00:08" }, "mac_address"), codes.PermissionDenied, "mac_address")
	refused(t, change(p, func(p *weftv1.Port) { p.PortSecurityEnabled = proto.Bool(false) }, "port_security_enabled"), codes.PermissionDenied, "port_security_enabled")
	_, err = r.CreateSubnet(blue, &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{NetworkId: r.shared.GetId(), Cidr: "10.6.0.0/24"}})
	refused(t, err, codes.PermissionDenied, "shared")
	_, err = r.CreateFloatingIp(blue, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: r.ext1.GetId(), IpAddress: "203.0.113.77"}})
	refused(t, err, codes.PermissionDenied, "ip_address")
	r.audit()
}

// CVE-2014-0056, CVE-2015-5240, CVE-2024-53916: what is another project's is no part of one's own.
func TestNothingOfOnesOwnLeansOnAnothers(t *testing.T) {
	r := newRealm(t)
	blue := by(r.ctx, "other")
	port := func(p *weftv1.Port) error {
		p.NetworkId = r.shared.GetId()
		_, err := r.CreatePort(blue, &weftv1.CreatePortRequest{Port: p})
		return err
	}
	refused(t, port(&weftv1.Port{DeviceId: r.router.GetId()}), codes.InvalidArgument, "device_id")
	refused(t, port(&weftv1.Port{DeviceId: r.router.GetId(), DeviceOwner: "network:router_interface"}), codes.InvalidArgument, "device_owner")
	refused(t, port(&weftv1.Port{SecurityGroups: groupIDs(r.group.GetId())}), codes.NotFound, r.group.GetId())
	refused(t, port(&weftv1.Port{Project: "red"}), codes.PermissionDenied, "red")
	own, err := r.CreatePort(blue, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.shared.GetId()}})
	r.check(err)
	_, err = r.UpdatePort(blue, &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: own.GetId(), DeviceId: r.router.GetId()}, UpdateMask: mask("device_id")})
	refused(t, err, codes.InvalidArgument, "device_id")
	router, err := r.CreateRouter(blue, &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: "blue"}})
	r.check(err)
	attach := func(a *weftv1.AddRouterInterfaceRequest) error {
		a.RouterId = router.GetId()
		_, err := r.AddRouterInterface(blue, a)
		return err
	}
	refused(t, attach(&weftv1.AddRouterInterfaceRequest{Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: r.subnet.GetId()}}), codes.NotFound)
	refused(t, attach(&weftv1.AddRouterInterfaceRequest{Attachment: &weftv1.AddRouterInterfaceRequest_PortId{PortId: r.port.GetId()}}), codes.NotFound)
	refused(t, attach(&weftv1.AddRouterInterfaceRequest{Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: r.sharedSub.GetId()}}), codes.PermissionDenied)
	_, err = r.SetRouterGateway(blue, &weftv1.SetRouterGatewayRequest{RouterId: router.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: r.network.GetId()}})
	refused(t, err, codes.NotFound)
	_, err = r.SetRouterGateway(blue, &weftv1.SetRouterGatewayRequest{RouterId: router.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: r.ext1.GetId(), FixedIps: fixed("203.0.113.99")}})
	refused(t, err, codes.PermissionDenied, "fixed_ips")
	_, err = r.CreateFloatingIp(blue, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: r.ext1.GetId(), PortId: r.port.GetId()}})
	refused(t, err, codes.NotFound)
	group, err := r.CreateSecurityGroup(blue, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "blue"}})
	r.check(err)
	_, err = r.CreateSecurityGroupRule(blue, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: fromGroup(ingressRule(group.GetId()), r.group.GetId())})
	refused(t, err, codes.NotFound)
	_, err = r.CreateSecurityGroupRule(blue, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: ingressRule(r.group.GetId())})
	refused(t, err, codes.NotFound)
	r.audit()
}

// CVE-2013-6419: no header says who somebody is.
func TestOnlyATokenSaysWhoSomebodyIs(t *testing.T) {
	r := newRealm(t)
	ctx := metadata.AppendToOutgoingContext(by(r.ctx, "other"), "x-project-id", "red", "x-roles", "admin", "x-tenant-id", "red", "x-user-id", "admin", "x-identity-status", "Confirmed")
	_, err := r.GetNetwork(ctx, &weftv1.GetNetworkRequest{Id: r.network.GetId()})
	refused(t, err, codes.NotFound)
	_, err = r.GetNetwork(metadata.AppendToOutgoingContext(by(r.ctx, "other"), "authorization", "Bearer token-admin"), &weftv1.GetNetworkRequest{Id: r.network.GetId()})
	refused(t, err, codes.Unauthenticated)
	for _, bad := range []string{"", "Bearer", "Bearer ", "Basic token-admin", "token-admin", "Bearer  token-admin"} {
		_, err := r.ListNetworks(metadata.AppendToOutgoingContext(r.ctx, "authorization", bad), &weftv1.ListNetworksRequest{})
		refused(t, err, codes.Unauthenticated)
	}
}

func TestARequestIDGivesNobodyAnothersResult(t *testing.T) {
	r := newRealm(t)
	req := &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "x"}, RequestId: "33333333-3333-4333-8333-333333333333"}
	_, err := r.CreateSecurityGroup(by(r.ctx, "owner"), req)
	r.check(err)
	_, err = r.CreateSecurityGroup(by(r.ctx, "other"), req)
	refused(t, err, codes.InvalidArgument, "request_id")
}

func TestAWatchTellsWhatItsCallerSees(t *testing.T) {
	r := newRealm(t)
	_, err := first(r.Watch(by(r.ctx, "other"), &weftv1.WatchRequest{Kinds: []weftv1.Kind{weftv1.Kind_KIND_NODE}}))
	refused(t, err, codes.PermissionDenied)
	_, err = first(r.Watch(by(r.ctx, "nobody"), &weftv1.WatchRequest{}))
	refused(t, err, codes.Unauthenticated)
	events, err := r.Watch(by(r.ctx, "other"), &weftv1.WatchRequest{})
	r.check(err)
	_, err = events.Recv() // from now on
	r.check(err)
	w := r.world
	_, err = w.CreatePort(by(r.ctx, "owner"), &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.network.GetId()}})
	r.check(err)
	r.setShared(r.network.GetId())
	for {
		e, err := events.Recv()
		r.check(err)
		switch {
		case e.GetType() == weftv1.WatchEvent_TYPE_BOOKMARK:
		case e.GetNetwork().GetId() == r.network.GetId() && e.GetNetwork().GetShared():
			if e.GetNetwork().GetSegmentationId() != 0 {
				t.Errorf("it tells %v", e)
			}
			return
		default:
			t.Errorf("other is told %v", e)
		}
	}
}

func first(stream weftv1.WatchService_WatchClient, err error) (*weftv1.WatchEvent, error) {
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

func TestTheTrailTellsToWhomANetworkIsGranted(t *testing.T) {
	r := newRealm(t)
	g, err := r.lend(by(r.ctx, "owner"), r.network.GetId(), "blue")
	r.check(err)
	lines := r.trail.lines(t)
	for key, want := range map[string]string{
		"caller": "owner", "method": "NetworkService/CreateNetworkGrant", "id": g.GetId(), "network_id": r.network.GetId(), "project": "red", "target_project": "blue",
	} {
		if got := lines[len(lines)-1][key]; got != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
}

func TestTheTrailTellsWhoDidWhatAndNoSecrets(t *testing.T) {
	r := newRealm(t)
	before := len(r.trail.lines(t))
	_, err := r.UpdatePort(by(r.ctx, "other"), &weftv1.UpdatePortRequest{
		Port: &weftv1.Port{Id: r.port.GetId(), Instance: &weftv1.Instance{UserData: []byte("secret words")}}, UpdateMask: mask("instance"),
		RequestId: "44444444-4444-4444-8444-444444444444",
	})
	refused(t, err, codes.NotFound)
	_, err = r.ListPorts(by(r.ctx, "owner"), &weftv1.ListPortsRequest{})
	r.check(err)
	_, err = r.CreateSecurityGroup(by(r.ctx, "nobody"), &weftv1.CreateSecurityGroupRequest{})
	refused(t, err, codes.Unauthenticated)
	lines := r.trail.lines(t)[before:]
	if len(lines) != 2 {
		t.Fatalf("the trail has %v", lines)
	}
	for key, want := range map[string]string{
		"caller": "other", "role": "member", "method": "PortService/UpdatePort", "id": r.port.GetId(), "result": "NotFound",
		"request_id": "44444444-4444-4444-8444-444444444444",
	} {
		if lines[0][key] != want {
			t.Errorf("%s is %v, want %s", key, lines[0][key], want)
		}
	}
	if text := fmt.Sprint(r.trail.lines(t)); strings.Contains(text, "secret") || strings.Contains(text, "token-") {
		t.Errorf("the trail tells secrets: %s", text)
	}
}

// TestNobodyButOperatorsDecidesWhatIsTheirs tries each field that operators decide, in each way in which a field can be given
// (CVE-2014-6414): set in something new, set in what there is, and reset to what it would be by default.
func TestNobodyButOperatorsDecidesWhatIsTheirs(t *testing.T) {
	r := newRealm(t)
	red := by(r.ctx, "owner")
	r.setShared(r.network.GetId())
	_, err := r.UpdateRouter(r.ctx, &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: r.router.GetId(), Ha: 1}, UpdateMask: mask("ha")})
	r.check(err)
	before := r.operatorsView()
	for field, n := range map[string]*weftv1.Network{
		"shared": {Shared: true}, "external": {External: true}, "dhcp_servers": {DhcpServers: 1}, "pool": {Pool: "default"},
		"physical_network": {PhysicalNetwork: "tenant"}, "segmentation_id": {SegmentationId: 7}, "type": {Type: vlan},
	} {
		_, err := r.CreateNetwork(red, &weftv1.CreateNetworkRequest{Network: proto.CloneOf(n)})
		refused(t, err, codes.PermissionDenied, field)
		batch, err := r.BatchCreateNetworks(red, &weftv1.BatchCreateNetworksRequest{Requests: []*weftv1.CreateNetworkRequest{{Network: proto.CloneOf(n)}}})
		r.check(err)
		if got := verdict(nil, batch); got != codes.PermissionDenied {
			t.Errorf("a batch that sets %s: %s", field, got)
		}
		for _, change := range []*weftv1.Network{n, {}} {
			change.Id = r.network.GetId()
			_, err = r.UpdateNetwork(red, &weftv1.UpdateNetworkRequest{Network: change, UpdateMask: mask(field)})
			notTaken(t, field, err)
		}
	}
	for _, p := range []*weftv1.Port{{Id: r.port.GetId(), Host: "cmp1"}, {Id: r.port.GetId()}} {
		_, err = r.UpdatePort(red, &weftv1.UpdatePortRequest{Port: p, UpdateMask: mask("host")})
		notTaken(t, "host", err)
	}
	for field, router := range map[string]*weftv1.Router{"ha": {Ha: 2}, "pool": {Pool: "default"}} {
		_, err := r.CreateRouter(red, &weftv1.CreateRouterRequest{Router: proto.CloneOf(router)})
		refused(t, err, codes.PermissionDenied, field)
		for _, change := range []*weftv1.Router{router, {}} {
			change.Id = r.router.GetId()
			_, err = r.UpdateRouter(red, &weftv1.UpdateRouterRequest{Router: change, UpdateMask: mask(field)})
			notTaken(t, field, err)
		}
	}
	if now := r.operatorsView(); !slices.EqualFunc(before, now, proto.Equal) {
		t.Errorf("what operators decided was\n%v\nand is\n%v", before, now)
	}
}

// notTaken wants a change of a field to be refused, as nobody's to make or as the caller's not to.
func notTaken(t *testing.T, field string, err error) {
	t.Helper()
	if c := status.Code(err); c != codes.PermissionDenied && c != codes.InvalidArgument {
		t.Errorf("a change of %s: %v", field, err)
	}
}

// operatorsView is red's network, port and router as operators see them.
func (r *realm) operatorsView() []proto.Message {
	r.Helper()
	n, err := r.GetNetwork(r.ctx, &weftv1.GetNetworkRequest{Id: r.network.GetId()})
	r.check(err)
	p, err := r.GetPort(r.ctx, &weftv1.GetPortRequest{Id: r.port.GetId()})
	r.check(err)
	router, err := r.GetRouter(r.ctx, &weftv1.GetRouterRequest{Id: r.router.GetId()})
	r.check(err)
	n.Status, p.Status, router.Status = nil, nil, nil
	n.Etag, p.Etag, router.Etag = "", "", ""
	n.UpdateTime, p.UpdateTime, router.UpdateTime = nil, nil, nil
	n.DhcpPlacement, router.Instances = nil, nil // nodes report when they like
	return []proto.Message{n, p, router}
}

// TestAPortIsNotSaidToBeTheSystems at no time, in no way (CVE-2014-0056, CVE-2015-5240): weft's own ports are not filtered.
func TestAPortIsNotSaidToBeTheSystems(t *testing.T) {
	r := newRealm(t)
	for _, who := range []string{"owner", "admin"} {
		ctx := by(r.ctx, who)
		own, err := r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: r.network.GetId(), Project: "red"}})
		r.check(err)
		for _, p := range []*weftv1.Port{
			{DeviceOwner: "network:router_interface", DeviceId: r.router.GetId()},
			{DeviceOwner: "network:router_gateway"},
			{DeviceOwner: "network:dhcp", DeviceId: r.network.GetId()},
			{DeviceOwner: "network:", DeviceId: "x"},
			{DeviceId: r.router.GetId()},
		} {
			p.NetworkId, p.Project = r.network.GetId(), "red"
			_, err := r.CreatePort(ctx, &weftv1.CreatePortRequest{Port: proto.CloneOf(p)})
			refused(t, err, codes.InvalidArgument, "device_")
			p.NetworkId, p.Project, p.Id = "", "", own.GetId()
			for _, paths := range [][]string{{"device_owner", "device_id"}, {"*"}, nil} {
				_, err = r.UpdatePort(ctx, &weftv1.UpdatePortRequest{Port: proto.CloneOf(p), UpdateMask: mask(paths...)})
				refused(t, err, codes.InvalidArgument, "device_")
			}
		}
		now, err := r.GetPort(ctx, &weftv1.GetPortRequest{Id: own.GetId()})
		r.check(err)
		if now.GetDeviceOwner() != "" || now.GetDeviceId() != "" || !now.GetPortSecurityEnabled() {
			t.Errorf("%s's port has become %v", who, now)
		}
	}
	r.audit()
}

func TestWhatIsInTheWayIsNotNamedToWhomItIsHidden(t *testing.T) {
	r := newRealm(t)
	ext := r.world.network(&weftv1.Network{Name: "way-out", Project: "red", External: true})
	sub := r.world.subnet(&weftv1.Subnet{NetworkId: ext.GetId(), Cidr: "192.0.2.0/24"})
	f, err := r.CreateFloatingIp(by(r.ctx, "other"), &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Name: "secret", NetworkId: ext.GetId()}})
	r.check(err)
	red := by(r.ctx, "owner")
	for what, err := range map[string]error{
		"a delete":      only(r.DeleteSubnet(red, &weftv1.DeleteSubnetRequest{Id: sub.GetId()})),
		"a floating IP": only(r.CreateFloatingIp(red, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: ext.GetId(), IpAddress: f.GetIpAddress()}})),
		"a port":        only(r.CreatePort(red, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: ext.GetId(), FixedIps: fixed(f.GetIpAddress())}})),
	} {
		says := status.Convert(err).Message()
		if !strings.Contains(says, "a floating IP of project blue") || strings.Contains(says, f.GetId()) || strings.Contains(says, "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
