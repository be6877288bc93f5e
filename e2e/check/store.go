package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// The device owners of the system's own ports (REFERENCE R4).
const (
	ownerDHCP      = "network:dhcp"
	ownerInterface = "network:router_interface"
	ownerGateway   = "network:router_gateway"
)

// stored is a message with the revision of its key's last change.
type stored[M proto.Message] struct {
	msg      M
	revision int64
}

// store is all that etcd holds below keys.Root, decoded, at one revision.
type store struct {
	networks map[string]stored[*weftv1.Network]
	grants   map[string]stored[*weftv1.NetworkGrant]
	subnets  map[string]stored[*weftv1.Subnet]
	ports    map[string]stored[*weftv1.Port]
	routers  map[string]stored[*weftv1.Router]
	floating map[string]stored[*weftv1.FloatingIp]
	ranges   map[string]stored[*weftv1.SegmentRange]

	groups        map[string]stored[*weftv1.SecurityGroup]
	rules         map[string]stored[*weftv1.SecurityGroupRule]
	addressGroups map[string]stored[*weftv1.AddressGroup]
	instances     map[string]stored[*weftv1.Instance] // by port

	active   map[string]stored[*storev1.ActiveRouter]
	moves    map[string]stored[*storev1.Move]
	agents   map[string]stored[*storev1.Agent]
	live     map[string]stored[*storev1.Agent]
	settings map[string]stored[*storev1.NodeSettings]
	pools    map[string]stored[*storev1.PoolSettings]
	quotas   map[string]stored[*storev1.Quota]
	// witnesses are what network nodes hear of each other.
	witnesses map[string]stored[*storev1.Witness]
	// By their whole key.
	scopes  map[string]string // of objects that lie in a scope
	derived map[string]proto.Message
	plugs   map[string]stored[*storev1.Plug]
	reports map[string]stored[*storev1.Report]

	leaders int      // controllers that lead or are next
	found   findings // what could not be read
}

func newStore() *store {
	return &store{
		networks: map[string]stored[*weftv1.Network]{}, grants: map[string]stored[*weftv1.NetworkGrant]{}, subnets: map[string]stored[*weftv1.Subnet]{},
		ports: map[string]stored[*weftv1.Port]{}, routers: map[string]stored[*weftv1.Router]{},
		floating: map[string]stored[*weftv1.FloatingIp]{}, ranges: map[string]stored[*weftv1.SegmentRange]{},
		groups: map[string]stored[*weftv1.SecurityGroup]{}, rules: map[string]stored[*weftv1.SecurityGroupRule]{},
		addressGroups: map[string]stored[*weftv1.AddressGroup]{}, instances: map[string]stored[*weftv1.Instance]{},
		active: map[string]stored[*storev1.ActiveRouter]{}, moves: map[string]stored[*storev1.Move]{},
		agents: map[string]stored[*storev1.Agent]{}, live: map[string]stored[*storev1.Agent]{},
		settings: map[string]stored[*storev1.NodeSettings]{}, pools: map[string]stored[*storev1.PoolSettings]{},
		quotas:    map[string]stored[*storev1.Quota]{},
		witnesses: map[string]stored[*storev1.Witness]{}, scopes: map[string]string{}, derived: map[string]proto.Message{},
		plugs: map[string]stored[*storev1.Plug]{}, reports: map[string]stored[*storev1.Report]{},
	}
}

// batch is how many keys are read at once: a message of etcd's is limited to megabytes.
const batch = 2000

// readStore reads everything at one revision.
func readStore(ctx context.Context, l *lab.Lab) (*store, error) {
	client, err := l.Etcd()
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }() // it only read
	out := newStore()
	key, end, revision := keys.Root, keys.End(keys.Root), int64(0)
	for {
		answer, err := client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(batch), clientv3.WithRev(revision))
		if err != nil {
			return nil, fmt.Errorf("read the store: %w", err)
		}
		for _, kv := range answer.Kvs {
			out.add(string(kv.Key), kv.Value, kv.ModRevision)
		}
		if !answer.More {
			return out, nil
		}
		key, revision = string(answer.Kvs[len(answer.Kvs)-1].Key)+"\x00", answer.Header.Revision
	}
}

// add takes one key in. A key or value that makes no sense is a finding.
func (s *store) add(key string, value []byte, revision int64) {
	k, err := keys.Parse(key)
	if err == nil {
		err = s.decode(k, key, value, revision)
	}
	if err != nil {
		s.found.addf(Exact, inStore, "%v", err)
	}
}

func (s *store) decode(k keys.Key, key string, value []byte, revision int64) error {
	switch k.Family { //nolint:exhaustive // the others are nodes'
	case keys.FamilyNetwork:
		return put(s.networks, k.ID(), key, value, revision, &weftv1.Network{})
	case keys.FamilyNetworkGrant:
		return s.scoped(k, key, put(s.grants, k.ID(), key, value, revision, &weftv1.NetworkGrant{}))
	case keys.FamilySubnet:
		return s.scoped(k, key, put(s.subnets, k.ID(), key, value, revision, &weftv1.Subnet{}))
	case keys.FamilyPort:
		return s.scoped(k, key, put(s.ports, k.ID(), key, value, revision, &weftv1.Port{}))
	case keys.FamilyFloatingIP:
		return s.scoped(k, key, put(s.floating, k.ID(), key, value, revision, &weftv1.FloatingIp{}))
	case keys.FamilyRouter:
		return put(s.routers, k.ID(), key, value, revision, &weftv1.Router{})
	case keys.FamilySegmentRange:
		return put(s.ranges, k.ID(), key, value, revision, &weftv1.SegmentRange{})
	case keys.FamilySecurityGroup:
		return put(s.groups, k.ID(), key, value, revision, &weftv1.SecurityGroup{})
	case keys.FamilyRule:
		return s.scoped(k, key, put(s.rules, k.ID(), key, value, revision, &weftv1.SecurityGroupRule{}))
	case keys.FamilyAddressGroup:
		return put(s.addressGroups, k.ID(), key, value, revision, &weftv1.AddressGroup{})
	case keys.FamilyInstance:
		return put(s.instances, k.ID(), key, value, revision, &weftv1.Instance{})
	case keys.FamilyMember:
		return s.derive(key, value, &storev1.Member{})
	case keys.FamilyActive:
		return put(s.active, k.ID(), key, value, revision, &storev1.ActiveRouter{})
	case keys.FamilyMove:
		return put(s.moves, k.ID(), key, value, revision, &storev1.Move{})
	case keys.FamilyLocator:
		return s.derive(key, value, &storev1.Locator{})
	case keys.FamilyClaim:
		return s.derive(key, value, &storev1.Claim{})
	case keys.FamilyHost:
		return s.derive(key, value, binding(k.Kind()))
	default:
		return s.decodeOfNode(k, key, value, revision)
	}
}

// decodeOfNode takes in what agents write, what is said of nodes, and what goes by itself.
func (s *store) decodeOfNode(k keys.Key, key string, value []byte, revision int64) error {
	switch k.Family { //nolint:exhaustive // see decode
	case keys.FamilyAgent:
		return put(s.agents, k.ID(), key, value, revision, &storev1.Agent{})
	case keys.FamilyLive:
		return put(s.live, k.ID(), key, value, revision, &storev1.Agent{})
	case keys.FamilyNode:
		return put(s.settings, k.ID(), key, value, revision, &storev1.NodeSettings{})
	case keys.FamilyPool:
		return put(s.pools, k.ID(), key, value, revision, &storev1.PoolSettings{})
	case keys.FamilyQuota:
		return put(s.quotas, k.ID(), key, value, revision, &storev1.Quota{})
	case keys.FamilyPlug:
		return put(s.plugs, key, key, value, revision, &storev1.Plug{})
	case keys.FamilyStatus:
		return put(s.reports, key, key, value, revision, &storev1.Report{})
	case keys.FamilyLeader:
		s.leaders++
		return nil
	case keys.FamilyWitness:
		return put(s.witnesses, k.ID(), key, value, revision, &storev1.Witness{})
	case keys.FamilyRequest, keys.FamilyAsk, keys.FamilyAnswer:
		return nil // under leases: they go by themselves
	default:
		return fmt.Errorf("key %s: the check does not know this family", key)
	}
}

// put decodes a value. Two values under one id, in two scopes, are an error.
func put[M proto.Message](into map[string]stored[M], id, key string, value []byte, revision int64, m M) error {
	if err := proto.Unmarshal(value, m); err != nil {
		return fmt.Errorf("key %s: its value is no %s: %w", key, m.ProtoReflect().Descriptor().FullName(), err)
	}
	if _, twice := into[id]; twice {
		return fmt.Errorf("key %s: there is another of this id", key)
	}
	into[id] = stored[M]{m, revision}
	return nil
}

func (s *store) scoped(k keys.Key, key string, err error) error {
	if err == nil {
		s.scopes[key] = k.Scope()
	}
	return err
}

func (s *store) derive(key string, value []byte, m proto.Message) error {
	if err := proto.Unmarshal(value, m); err != nil {
		return fmt.Errorf("key %s: its value is no %s: %w", key, m.ProtoReflect().Descriptor().FullName(), err)
	}
	s.derived[key] = m
	return nil
}

func binding(kind string) proto.Message {
	switch kind {
	case keys.KindRouter:
		return &storev1.RouterBinding{}
	case keys.KindDHCP:
		return &storev1.DhcpBinding{}
	default:
		return &storev1.PortBinding{}
	}
}

// up reads an admin_state_up, which is true when it is not set.
func up(state *bool) bool { return state == nil || *state }

// location is the node where a port's frames come from; "" when nowhere.
func (s *store) location(p *weftv1.Port) string {
	if ofRouter(p) {
		return s.holder(p.GetDeviceId())
	}
	return p.GetBoundHost()
}

func ofRouter(p *weftv1.Port) bool {
	return p.GetDeviceOwner() == ownerInterface || p.GetDeviceOwner() == ownerGateway
}

// holder is the node that forwards for a router.
func (s *store) holder(router string) string {
	a, ok := s.active[router]
	if !ok || !slices.Contains(s.planned(router), a.msg.GetNode()) {
		return ""
	}
	return a.msg.GetNode()
}

// planned are the nodes that hold a router, the active one among them.
func (s *store) planned(router string) []string {
	r, ok := s.routers[router]
	if !ok {
		return nil
	}
	return r.msg.GetPlacement().GetNodes()
}

// servedSubnets are a network's subnets with DHCP, by id.
func (s *store) servedSubnets(network string) map[string]*weftv1.Subnet {
	out := map[string]*weftv1.Subnet{}
	for id, sub := range s.subnets {
		if sub.msg.GetNetworkId() == network && up(sub.msg.EnableDhcp) { //nolint:protogetter // presence
			out[id] = sub.msg
		}
	}
	return out
}

// legs are a router's own ports.
func (s *store) legs(router string) []*weftv1.Port {
	var out []*weftv1.Port
	for _, id := range slices.Sorted(maps.Keys(s.ports)) {
		if p := s.ports[id].msg; ofRouter(p) && p.GetDeviceId() == router {
			out = append(out, p)
		}
	}
	return out
}
