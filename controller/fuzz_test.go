package controller_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/proto/store"
)

// FuzzAPI sends random well-typed messages through a real server: whatever they say, no call may panic or fail for a
// reason without a code, and afterwards the store is consistent.
func FuzzAPI(f *testing.F) {
	for seed := range 40 {
		f.Add(binary.BigEndian.AppendUint64(nil, uint64(seed)*0x9e3779b97f4a7c15))
	}
	w := newWorld(f)
	methods := unaryMethods()
	known := registry{ids: map[string][]string{}}
	for _, m := range []proto.Message{w.net1, w.ext1, w.ext2, w.sub1, w.extSub1, w.extSub2, w.p1, w.r1, w.fip1, w.tenantRange, w.vxlanRange} {
		known.learn(m.ProtoReflect())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		g := &generator{data: data, rand: seeded(data), known: &known}
		for range 40 {
			m := methods[g.intN(len(methods))]
			req, resp := newMessage(t, m.Input()), newMessage(t, m.Output())
			g.request = string(m.Input().Name())
			g.fill(req.ProtoReflect(), 0)
			method := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
			err := w.conn.Invoke(ctx, method, req, resp)
			if c := status.Code(err); c == codes.Internal || c == codes.Unknown || c == codes.Unimplemented {
				t.Fatalf("%s(%v): %v", method, req, err)
			}
			if err == nil {
				known.learn(resp.ProtoReflect())
			}
		}
		findings, err := audit.Run(ctx, store.New(w.etcdClient))
		check(t, err)
		for _, finding := range findings {
			t.Errorf("audit: %s", finding)
		}
	})
}

func seeded(data []byte) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write(data)
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

// unaryMethods are all methods of the API but streams, and but what sets quotas: that would leave nothing else to try.
func unaryMethods() []protoreflect.MethodDescriptor {
	var out []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("weft.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if m := methods.Get(j); !m.IsStreamingServer() && m.Name() != "SetQuota" {
					out = append(out, m)
				}
			}
		}
		return true
	})
	slices.SortFunc(out, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return out
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	check(t, err)
	return mt.New().Interface()
}

// learn notes the ids in an answer by the field or message that they stand in.
func (r *registry) learn(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				r.learn(v.List().Get(i).Message())
			}
		case fd.Message() != nil:
			r.learn(v.Message())
		case fd.Name() == "id":
			r.add(strings.ToLower(string(m.Descriptor().Name())), v.String())
		case fd.Name() == "etag", fd.Name() == "ip_address", fd.Name() == "mac_address", fd.Name() == "next_page_token":
			r.add(string(fd.Name()), v.String())
		}
		return true
	})
}

// generator makes messages out of bytes, and out of chance when they are used up.
type generator struct {
	data  []byte
	rand  *rand.Rand
	known *registry
	// request is the name of the request message that is being made.
	request string
}

// mutable is what update masks may name.
var mutable = map[string][]string{
	"UpdateNetworkRequest":       {"admin_state_up", "shared", "external", "mtu", "dns_domain", "project", "port_security_enabled"},
	"UpdateSubnetRequest":        {"allocation_pools", "dns_nameservers", "host_routes", "enable_dhcp", "cidr"},
	"UpdatePortRequest":          {"mac_address", "fixed_ips", "device_id", "device_owner", "host", "admin_state_up", "extra_dhcp_opts", "bound_host", "security_groups", "allowed_address_pairs", "port_security_enabled", "instance"},
	"UpdateSecurityGroupRequest": {"stateful", "description", "project"},
	"UpdateAddressGroupRequest":  {"addresses", "description"},
	"UpdateRouterRequest":        {"admin_state_up", "interfaces"},
	"UpdateFloatingIpRequest":    {"port_id", "fixed_ip_address", "port_id"},
	"UpdateSegmentRangeRequest":  {"minimum", "maximum"},
	"UpdateNodeRequest":          {"labels"},
}

func (g *generator) intN(n int) int {
	if len(g.data) == 0 {
		return g.rand.IntN(n)
	}
	b := g.data[0]
	g.data = g.data[1:]
	return int(b) % n
}

func (g *generator) fill(m protoreflect.Message, depth int) {
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		if depth > 4 || g.intN(8) >= likely(m.Descriptor(), fd) {
			continue
		}
		switch {
		case fd.IsMap():
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString(g.text(fd)).MapKey(), protoreflect.ValueOfString(g.text(fd)))
		case fd.IsList():
			for range 1 + g.intN(2) {
				g.element(m.Mutable(fd).List(), fd, depth)
			}
		case fd.Message() != nil:
			g.fill(m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, g.scalar(fd))
		}
	}
}

// likely is how often, of eight times, a field is set: what names an object nearly always, what is mostly wrong when it
// is random rarely.
func likely(m protoreflect.MessageDescriptor, fd protoreflect.FieldDescriptor) int {
	switch name := string(fd.Name()); {
	case name == "id", name == "cidr", name == "destination", name == "nexthop", name == "start", name == "end", name == "requests",
		name == "type", name == "minimum", name == "maximum", strings.HasSuffix(name, "_id") && !strings.HasPrefix(name, "device"),
		strings.HasSuffix(string(m.Name()), "Request") && fd.Message() != nil && !fd.IsList() && name != "update_mask", name == "paths":
		return 7
	case name == "etag", name == "page_token", name == "filter", name == "order_by", name == "request_id", name == "segmentation_id",
		name == "mtu", name == "gateway_ip", name == "allocation_pools", name == "project", name == "mac_address",
		name == "extra_dhcp_opts", name == "dns_nameservers", name == "host_routes", name == "fixed_ip_address", name == "dns_domain", name == "device_owner":
		return 1
	default:
		return 4
	}
}

func (g *generator) element(l protoreflect.List, fd protoreflect.FieldDescriptor, depth int) {
	if fd.Message() != nil {
		g.fill(l.AppendMutable().Message(), depth+1)
		return
	}
	l.Append(g.scalar(fd))
}

// id is the id of an object of the kind that a message is of or speaks of, seldom of another.
func (g *generator) id(fd protoreflect.FieldDescriptor) string {
	of := strings.ToLower(string(fd.ContainingMessage().Name()))
	for _, kind := range []string{"securitygrouprule", "securitygroup", "addressgroup", "networkgrant", "network", "subnet", "port", "router", "floatingip", "segmentrange"} {
		if strings.Contains(of, kind) && g.intN(10) > 0 {
			return g.known.pick(kind)
		}
	}
	return g.known.pick("port")
}

func (g *generator) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	if fd.Name() == "segmentation_id" && g.intN(4) > 0 {
		return protoreflect.ValueOfUint32(uint32(100 + g.intN(20)))
	}
	numbers := []int64{0, 1, 2, 100, 101, 110, 1400, 1450, 1500, 4094, 4095, 1 << 24, -1, 1<<31 - 1, 65535}
	n := numbers[g.intN(len(numbers))]
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.intN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum([]protoreflect.EnumNumber{0, 1, 2, 2, 2, 3, 4, 5}[g.intN(8)])
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.text(fd))
	default:
		return fd.Default()
	}
}

// text is a string that suits the field, or one that does not.
func (g *generator) text(fd protoreflect.FieldDescriptor) string {
	if g.intN(40) == 0 {
		odd := []string{"", "x", "a/b", "../x", "a\nb", "\x00", strings.Repeat("y", 300), "é", "10.0.0.1", "name = x AND", "-", "*", "00000000-0000-4000-8000-00000000000G"}
		return odd[g.intN(len(odd))]
	}
	pick := func(all ...string) string { return all[g.intN(len(all))] }
	switch name := string(fd.Name()); {
	case name == "id":
		return g.id(fd)
	case name == "ids", name == "remote_group_id":
		return g.known.pick("securitygroup")
	case name == "remote_address_group_id":
		return g.known.pick("addressgroup")
	case strings.HasSuffix(name, "_id") && name != "device_id":
		return g.known.pick(strings.ReplaceAll(strings.TrimSuffix(name, "_id"), "_", ""))
	case name == "remote_cidr", name == "addresses":
		return pick("0.0.0.0/0", "10.0.0.0/24", "10.0.0.7", "192.0.2.0/25", "::/0", "2001:db8::/32", "10.0.0.1/24", "::ffff:10.0.0.0/120")
	case name == "protocol":
		return pick("", "tcp", "udp", "icmp", "ipv6-icmp", "47", "255", "256", "vrrp")
	case name == "cidr", name == "destination":
		return pick("10.0.0.0/24", "10.0.1.0/28", "10.0.0.0/16", "203.0.113.0/29", "192.168.0.0/30", "10.0.0.1/24", "0.0.0.0/0")
	case name == "ip_address", name == "gateway_ip", name == "start", name == "end", name == "nexthop", name == "fixed_ip_address", name == "dns_nameservers":
		return pick("10.0.0.1", "10.0.0.2", "10.0.0.254", "10.0.0.255", "10.0.1.3", "203.0.113.2", "192.168.0.1", g.known.pick("ip_address"), "2001:db8::1")
	case name == "mac_address":
		return pick("fa:16:3e:00:00:01", "FA:16:3E:00:00:02", "01:00:5e:00:00:01", g.known.pick("mac_address"))
	case name == "physical_network":
		return pick("", "", "", "tenant", "ext1")
	case name == "project", name == "target_project":
		return pick("", "", "default", "other")
	case name == "host", name == "bound_host":
		return pick("", "net1", "cmp1")
	case name == "etag":
		return pick("", "", "", g.known.pick("etag"))
	case name == "page_token":
		return pick("", g.known.pick("next_page_token"))
	case name == "filter":
		return pick("", "name = x", "id = "+g.known.pick("port"), "network_id = "+g.known.pick("network"), "fixed_ips.ip_address = 10.0.0.2", `status.state != active AND shared = true`, "labels.a = b")
	case name == "order_by":
		return pick("", "name", "create_time desc, id", "mtu")
	case name == "paths":
		paths := mutable[g.request]
		return pick(append([]string{"name"}, paths...)...)
	case name == "device_owner":
		return pick("", "", "compute:a", "network:dhcp")
	case name == "request_id":
		return pick("00000000-0000-4000-8000-000000000001", uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString())
	default:
		return pick("a", "b", "name")
	}
}
