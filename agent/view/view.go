// Package view is what a node's agent knows of the store, typed and indexed: the objects in the scopes it follows, where
// each port lives, and which of it all changed. It decides nothing about the host and does no I/O; the mirror feeds it and
// the planner reads it. A View belongs to one goroutine.
package view

import (
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/model"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Versioned is an object with the mod revision of its key.
type Versioned[T any] struct {
	Object   T
	Revision int64
}

// Network is one network with all that lies in its scope.
type Network struct {
	// Revision is 0 until the network's own key has been seen, or when it is not usable.
	Versioned[model.Network]
	Subnets map[string]Versioned[model.Subnet]
	Ports   map[string]Versioned[model.Port]
	// Local are the ports that live on this node.
	Local map[string]bool
	// Standby are the ports of routers that this node is planned to hold and that another node forwards for, or none: their
	// devices are here, and no frame passes them.
	Standby map[string]bool

	located map[string]string // port -> node where it lives
	hosts   map[string]int    // node -> how many of the network's ports live there
	// addresses are whose the fixed addresses are.
	addresses map[netip.Addr]string
	routed    int // how many of the network's ports are routers'
}

// Held reports whether this node has the network: ports of its own, or ports that may become its own at any moment.
func (n *Network) Held() bool { return len(n.Local)+len(n.Standby) > 0 }

// Routed reports whether a router has a port on the network.
func (n *Network) Routed() bool { return n.routed > 0 }

// Remote lists the other nodes that have a port of the network, sorted.
func (n *Network) Remote(self string) []string {
	var out []string
	for host := range n.hosts {
		if host != self {
			out = append(out, host)
		}
	}
	slices.Sort(out)
	return out
}

// Location is the node where a port of the network lives; "" when nowhere.
func (n *Network) Location(port string) string { return n.located[port] }

// Router is one router with all that lies in its scope.
type Router struct {
	Versioned[model.Router]
	FloatingIPs map[string]Versioned[model.FloatingIP]
}

// Node is what other nodes need to know of a node.
type Node struct {
	TunnelIP netip.Addr
	// Network: the node holds routers, for the nodes of Pool.
	Network bool
	Pool    string
	// Uplinks say, by physical network, whether the node has proven that it reaches it.
	Uplinks map[string]bool
	// PeerAddress is where the node's agent is reached by its peers; "" when it is not.
	PeerAddress string
}

// RouterBinding is a router that this node is planned to hold.
type RouterBinding struct {
	// Nodes are all that are planned to hold it, first choice first.
	Nodes []string
	// HandOver is the node that this one is to hand the router over to; "" for none.
	HandOver string
}

// Witness is which of its peers a node hears over its tunnels, and which it has lost. One that it never heard is in neither.
type Witness struct {
	Heard, Lost map[string]bool
	Revision    int64
}

// Active says which node forwards for a router.
type Active struct {
	Node  string
	Epoch int64
	// Revision is the mod revision of the key, for a compare and swap.
	Revision int64
	// Reason is why it is this node, for the operator.
	Reason string
}

// Binding is a port that is bound to this node.
type Binding struct {
	Network string
	// Refused says why the port is not to be wired here although its interface is; "" when it is to be wired.
	Refused string
}

// PortKey names a port with its network.
type PortKey struct {
	Network, Port string
}

// Invalid is why an object can't be used, with the mod revision of the value that can't.
type Invalid struct {
	Err      error
	Revision int64
}

// View is everything. Its maps are read by the planner and must not be changed by it.
type View struct {
	Self     string
	Networks map[string]*Network
	Routers  map[string]*Router
	Nodes    map[string]Node
	// What is bound to or placed on this node.
	HostPorts   map[string]Binding
	HostRouters map[string]RouterBinding
	HostDHCP    map[string]string // network -> the DHCP server's port
	// Active says who forwards for a router.
	Active map[string]Active
	// Witness is which nodes each of the node's peers hears, as it says.
	Witness map[string]Witness
	// Live are those of the node's peers whose agent is alive, as far as the store knows.
	Live map[string]bool
	// SecurityGroups are those of the node's ports.
	SecurityGroups map[string]*SecurityGroup
	// Invalid says, by key, which objects can't be used and why.
	Invalid map[string]Invalid

	filters filters

	listed      map[string]bool
	hushed      map[string]int64            // router -> the revision of active/<router> under which this node keeps silent for it
	written     map[string]int64            // router -> the mod revision of active/<router> that this node wrote, until it is seen
	routerPorts map[string]map[PortKey]bool // router -> its ports in the networks followed
}

// New is an empty view for a node.
func New(self string) *View {
	return &View{
		Self: self, Networks: map[string]*Network{}, Routers: map[string]*Router{}, Nodes: map[string]Node{},
		SecurityGroups: map[string]*SecurityGroup{}, filters: newFilters(),
		HostPorts: map[string]Binding{}, HostRouters: map[string]RouterBinding{}, HostDHCP: map[string]string{},
		Active: map[string]Active{}, Live: map[string]bool{}, Witness: map[string]Witness{}, Invalid: map[string]Invalid{},
		listed: map[string]bool{}, hushed: map[string]int64{}, written: map[string]int64{}, routerPorts: map[string]map[PortKey]bool{},
	}
}

// Dirty is what may have to be planned anew.
type Dirty struct {
	Networks map[string]bool  // the network's own flows and floods
	Ports    map[PortKey]bool // the flows of one port
	Routers  map[string]bool
	DHCP     map[string]bool // by network
	// Actives are routers that became active or silent: nothing of theirs but the flows of their ports is planned anew.
	Actives map[string]bool
	// Groups are security groups and address groups: their rules, or what is known of them. Addresses are what some of them
	// hold, or held.
	Groups    map[string]bool
	Addresses map[netip.Prefix]bool
	Tunnels   bool
	// Peers: something is known anew of the node's peers.
	Peers bool
}

// NewDirty is an empty set.
func NewDirty() *Dirty {
	return &Dirty{
		Networks: map[string]bool{}, Ports: map[PortKey]bool{}, Routers: map[string]bool{}, DHCP: map[string]bool{}, Actives: map[string]bool{},
		Groups: map[string]bool{}, Addresses: map[netip.Prefix]bool{},
	}
}

// Empty reports whether nothing is dirty.
func (d *Dirty) Empty() bool {
	return len(d.Networks)+len(d.Ports)+len(d.Routers)+len(d.DHCP)+len(d.Actives)+len(d.Groups)+len(d.Addresses) == 0 &&
		!d.Tunnels && !d.Peers
}

// Port marks a port, and its network's floods.
func (d *Dirty) Port(k PortKey) {
	d.Ports[k] = true
	d.Networks[k.Network] = true
}

// Everything marks all there is.
func (v *View) Everything(d *Dirty) {
	d.Tunnels = true
	for id := range v.Networks {
		v.allOfNetwork(id, d)
	}
	for id, b := range v.HostPorts {
		d.Port(PortKey{b.Network, id})
	}
	for id := range v.HostRouters {
		d.Routers[id] = true
	}
	for id := range v.HostDHCP {
		d.DHCP[id] = true
	}
	for id := range v.SecurityGroups {
		d.Groups[id] = true
	}
	for p := range v.filters.remotes {
		d.Addresses[p] = true
	}
}

// Apply takes a batch in and marks what may have to be planned anew.
func (v *View) Apply(b mirror.Batch, d *Dirty) {
	for _, c := range b.Changes {
		v.change(c, d)
	}
	for _, scope := range b.Listed {
		v.markListed(scope, d)
	}
}

// change takes one change in. A value that can't be understood is quarantined: noted in Invalid, while what the object was
// before, if anything, stays in force: nothing on the host is taken away because something can't be read (promise I2).
func (v *View) change(c mirror.Change, d *Dirty) {
	delete(v.Invalid, c.Key)
	k, err := keys.Parse(c.Key)
	if err == nil {
		err = v.dispatch(k, c, d)
	}
	if err != nil {
		v.Invalid[c.Key] = Invalid{err, c.Revision}
	}
}

func (v *View) dispatch(k keys.Key, c mirror.Change, d *Dirty) error {
	switch k.Family { //nolint:exhaustive // the families that an agent follows
	case keys.FamilyNetwork:
		return v.network(k.ID(), c, d)
	case keys.FamilySubnet:
		return v.subnet(k.Scope(), k.ID(), c, d)
	case keys.FamilyPort:
		return v.port(PortKey{k.Scope(), k.ID()}, c, d)
	case keys.FamilyRouter:
		return v.router(k.ID(), c, d)
	case keys.FamilyFloatingIP:
		return v.floatingIP(k.Scope(), k.ID(), c, d)
	case keys.FamilyHost:
		return v.host(k.Kind(), k.ID(), c, d)
	case keys.FamilyActive:
		return v.active(k.ID(), c, d)
	case keys.FamilyAgent:
		return v.agent(k.ID(), c, d)
	case keys.FamilyLive:
		v.live(k.ID(), c, d)
		return nil
	case keys.FamilyWitness:
		return v.witness(k.ID(), c, d)
	case keys.FamilySecurityGroup:
		return v.securityGroup(k.ID(), c, d)
	case keys.FamilyRule:
		return v.rule(k.Scope(), k.ID(), c, d)
	case keys.FamilyMember:
		return v.member(k.Scope(), k.ID(), c, d)
	case keys.FamilyAddressGroup:
		return v.addressGroup(k.ID(), c, d)
	default:
		return nil
	}
}

// decode reads a change's value into m and converts it; the zero value when the key is gone.
func decode[M proto.Message, T any](c mirror.Change, m M, from func(M) (T, error)) (Versioned[T], error) {
	if c.Value == nil {
		return Versioned[T]{}, nil
	}
	if err := proto.Unmarshal(c.Value, m); err != nil {
		return Versioned[T]{}, fmt.Errorf("not a %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	obj, err := from(m)
	if err != nil {
		return Versioned[T]{}, err
	}
	return Versioned[T]{Object: obj, Revision: c.Revision}, nil
}

// put stores an object that exists and removes one that does not.
func put[T any](m map[string]Versioned[T], id string, obj Versioned[T]) {
	if obj.Revision == 0 {
		delete(m, id)
		return
	}
	m[id] = obj
}

// misplaced is the error for an object whose content contradicts its key.
func misplaced(what, got, want string) error {
	return fmt.Errorf("the object says %s %q, its key says %q", what, got, want)
}

func (v *View) networkScope(id string) *Network {
	n := v.Networks[id]
	if n == nil {
		n = &Network{
			Subnets: map[string]Versioned[model.Subnet]{}, Ports: map[string]Versioned[model.Port]{},
			Local: map[string]bool{}, Standby: map[string]bool{}, located: map[string]string{}, hosts: map[string]int{},
			addresses: map[netip.Addr]string{},
		}
		v.Networks[id] = n
	}
	return n
}

func (v *View) network(id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.Network{}, model.NetworkFrom)
	if err == nil && obj.Revision != 0 && obj.Object.ID != id {
		err = misplaced("id", obj.Object.ID, id)
	}
	if err == nil {
		v.networkScope(id).Versioned = obj
	}
	v.allOfNetwork(id, d)
	return err
}

// allOfNetwork marks everything that depends on a network as such.
func (v *View) allOfNetwork(id string, d *Dirty) {
	d.Networks[id] = true
	for port := range v.networkScope(id).Ports {
		d.Ports[PortKey{id, port}] = true
	}
	v.services(id, d)
	d.Tunnels = true
}

// services marks the DHCP server and the routers of this node that a network has.
func (v *View) services(network string, d *Dirty) {
	if v.HostDHCP[network] != "" {
		d.DHCP[network] = true
	}
	for id := range v.HostRouters {
		if r := v.Routers[id]; r != nil && r.uses(network) {
			d.Routers[id] = true
		}
	}
}

// PhysicalNetworks lists the physical networks that a router needs, sorted.
func (v *View) PhysicalNetworks(router string) []string {
	var out []string
	r := v.Routers[router]
	if r == nil {
		return nil
	}
	for _, id := range r.networks() {
		if n := v.Networks[id]; n != nil && n.Object.PhysicalNetwork != "" {
			out = append(out, n.Object.PhysicalNetwork)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (r *Router) uses(network string) bool {
	return slices.Contains(r.networks(), network)
}

// networks lists the networks that the router is attached to.
func (r *Router) networks() []string {
	var out []string
	if r.Revision == 0 {
		return nil
	}
	for _, i := range r.Object.Interfaces {
		out = append(out, i.Network)
	}
	if g := r.Object.Gateway; g != nil {
		out = append(out, g.Network)
	}
	return out
}

func (v *View) subnet(network, id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.Subnet{}, model.SubnetFrom)
	if err == nil && obj.Revision != 0 && (obj.Object.ID != id || obj.Object.Network != network) {
		err = misplaced("network and id", obj.Object.Network+"/"+obj.Object.ID, network+"/"+id)
	}
	if err == nil {
		put(v.networkScope(network).Subnets, id, obj)
	}
	v.services(network, d)
	return err
}

func (v *View) port(k PortKey, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.Port{}, model.PortFrom)
	if err == nil && obj.Revision != 0 && (obj.Object.ID != k.Port || obj.Object.Network != k.Network) {
		err = misplaced("network and id", obj.Object.Network+"/"+obj.Object.ID, k.Network+"/"+k.Port)
	}
	d.Ports[k] = true
	if err != nil {
		return err
	}
	n := v.networkScope(k.Network)
	old := n.Ports[k.Port]
	put(n.Ports, k.Port, obj)
	n.readdress(old.Object, obj.Object)
	if v.indexRouterPort(n, k, old.Object, obj.Object) {
		d.Tunnels = true
	}
	v.locate(k, d)
	v.settle(k, d)
	if v.HostDHCP[k.Network] != "" {
		d.DHCP[k.Network] = true
	}
	for _, p := range []model.Port{old.Object, obj.Object} {
		if p.OfRouter() && v.Planned(p.DeviceID) {
			d.Routers[p.DeviceID] = true
		}
	}
	return nil
}

// indexRouterPort notes which router a port is of; true when the network's first router port came or its last one went.
func (v *View) indexRouterPort(n *Network, k PortKey, old, now model.Port) bool {
	before := n.Routed()
	if old.OfRouter() {
		n.routed--
		delete(v.routerPorts[old.DeviceID], k)
		if len(v.routerPorts[old.DeviceID]) == 0 {
			delete(v.routerPorts, old.DeviceID)
		}
	}
	if now.OfRouter() {
		n.routed++
		if v.routerPorts[now.DeviceID] == nil {
			v.routerPorts[now.DeviceID] = map[PortKey]bool{}
		}
		v.routerPorts[now.DeviceID][k] = true
	}
	return n.Routed() != before
}

// locate works out where a port lives and whether it stands by here, and keeps the network's indexes; what depends on it
// is marked.
func (v *View) locate(k PortKey, d *Dirty) {
	n := v.networkScope(k.Network)
	was, now := n.located[k.Port], v.whereIs(n, k)
	port := n.Ports[k.Port].Object
	standby := now != v.Self && port.OfRouter() && v.Planned(port.DeviceID)
	if was == now && n.Standby[k.Port] == standby {
		if now == v.Self {
			d.Networks[k.Network] = true
		}
		return
	}
	held := n.Held()
	n.move(v.Self, k.Port, now, standby)
	if (was != "" && n.hosts[was] == 0) || (now != "" && n.hosts[now] == 1) {
		d.Networks[k.Network], d.Tunnels = true, true
	}
	switch {
	case held != n.Held():
		v.allOfNetwork(k.Network, d) // the node has, or no longer has, the flows to the network's other ports
	case was == v.Self || now == v.Self:
		d.Networks[k.Network] = true
	}
	d.Ports[k] = true
}

// move notes where a port now lives, and whether it stands by.
func (n *Network) move(self, port, now string, standby bool) {
	if was := n.located[port]; was != "" {
		if n.hosts[was]--; n.hosts[was] == 0 {
			delete(n.hosts, was)
		}
	}
	delete(n.located, port)
	delete(n.Local, port)
	delete(n.Standby, port)
	if now != "" {
		n.hosts[now]++
		n.located[port] = now
	}
	if now == self {
		n.Local[port] = true
	}
	if standby {
		n.Standby[port] = true
	}
}

func (v *View) whereIs(n *Network, k PortKey) string {
	p, ok := n.Ports[k.Port]
	switch {
	case !ok:
		return ""
	case p.Object.OfRouter():
		active := v.Active[p.Object.DeviceID]
		if active.Node == v.Self && v.hushed[p.Object.DeviceID] == active.Revision {
			return "" // it is being handed over
		}
		return active.Node
	default:
		return p.Object.BoundHost
	}
}

func (v *View) router(id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.Router{}, model.RouterFrom)
	if err == nil && obj.Revision != 0 && obj.Object.ID != id {
		err = misplaced("id", obj.Object.ID, id)
	}
	if err == nil {
		v.routerScope(id).Versioned = obj
	}
	d.Routers[id] = true
	return err
}

func (v *View) routerScope(id string) *Router {
	r := v.Routers[id]
	if r == nil {
		r = &Router{FloatingIPs: map[string]Versioned[model.FloatingIP]{}}
		v.Routers[id] = r
	}
	return r
}

func (v *View) floatingIP(router, id string, c mirror.Change, d *Dirty) error {
	obj, err := decode(c, &weftv1.FloatingIp{}, model.FloatingIPFrom)
	if err == nil && obj.Revision != 0 && (obj.Object.ID != id || obj.Object.Router != router) {
		err = misplaced("router and id", obj.Object.Router+"/"+obj.Object.ID, router+"/"+id)
	}
	if err == nil {
		put(v.routerScope(router).FloatingIPs, id, obj)
	}
	d.Routers[router] = true
	return err
}

func (v *View) host(kind, id string, c mirror.Change, d *Dirty) error {
	switch kind {
	case keys.KindPort:
		return v.hostPort(id, c, d)
	case keys.KindRouter:
		return v.hostRouter(id, c, d)
	case keys.KindDHCP:
		d.DHCP[id] = true
		binding, err := decode(c, &storev1.DhcpBinding{}, func(b *storev1.DhcpBinding) (string, error) { return b.GetPortId(), nil })
		switch {
		case err != nil:
			return err
		case binding.Revision == 0:
			delete(v.HostDHCP, id)
		default:
			v.HostDHCP[id] = binding.Object
		}
	}
	return nil
}

func (v *View) hostRouter(id string, c mirror.Change, d *Dirty) error {
	binding, err := decode(c, &storev1.RouterBinding{}, func(b *storev1.RouterBinding) (RouterBinding, error) {
		return RouterBinding{Nodes: b.GetNodes(), HandOver: b.GetHandOver()}, nil
	})
	if err != nil {
		d.Routers[id] = true
		return err
	}
	planned := v.Planned(id)
	if binding.Revision == 0 {
		delete(v.HostRouters, id)
	} else {
		v.HostRouters[id] = binding.Object
	}
	d.Actives[id] = true
	if planned == v.Planned(id) {
		return nil // another order of the nodes, or a hand-over, is nothing to build
	}
	d.Routers[id] = true
	for k := range v.routerPorts[id] {
		v.locate(k, d)
	}
	return nil
}

// Planned reports whether this node is planned to hold a router.
func (v *View) Planned(router string) bool {
	_, ok := v.HostRouters[router]
	return ok
}

func (v *View) hostPort(id string, c mirror.Change, d *Dirty) error {
	binding, err := decode(c, &storev1.PortBinding{}, func(b *storev1.PortBinding) (Binding, error) {
		return Binding{Network: b.GetNetworkId(), Refused: b.GetRefused()}, nil
	})
	if old, ok := v.HostPorts[id]; ok {
		d.Port(PortKey{old.Network, id})
	}
	if err != nil {
		return err
	}
	if binding.Revision == 0 {
		delete(v.HostPorts, id)
		return nil
	}
	v.HostPorts[id] = binding.Object
	d.Port(PortKey{binding.Object.Network, id})
	return nil
}

func (v *View) active(router string, c mirror.Change, d *Dirty) error {
	now, err := decode(c, &storev1.ActiveRouter{}, func(a *storev1.ActiveRouter) (Active, error) {
		return Active{Node: a.GetNode(), Epoch: a.GetEpoch(), Revision: c.Revision, Reason: a.GetReason()}, nil
	})
	if err != nil {
		return err
	}
	if c.Revision < v.written[router] {
		return nil // from before what this node wrote itself
	}
	v.setActive(router, now.Object, d)
	return nil
}

// Wrote notes that this node's agent has just made itself or another the one that forwards for a router: it knows before
// the mirror does, and the mirror may still deliver what was before.
func (v *View) Wrote(router string, now Active, d *Dirty) {
	if v.Active[router].Revision >= now.Revision {
		return
	}
	v.setActive(router, now, d)
	v.written[router] = now.Revision
}

// Hush keeps this node silent for a router that it holds, until somebody is made its holder anew, or Unhush.
func (v *View) Hush(router string, d *Dirty) {
	if a := v.Active[router]; a.Node == v.Self {
		v.hushed[router] = a.Revision
	}
	v.relocate(router, d)
}

// Unhush ends what Hush began.
func (v *View) Unhush(router string, d *Dirty) {
	delete(v.hushed, router)
	v.relocate(router, d)
}

func (v *View) relocate(router string, d *Dirty) {
	d.Actives[router] = true
	for k := range v.routerPorts[router] {
		v.locate(k, d)
	}
}

func (v *View) setActive(router string, now Active, d *Dirty) {
	delete(v.written, router)
	if v.hushed[router] != now.Revision { // the mirror may tell late what this node wrote itself, and was silent for since
		delete(v.hushed, router)
	}
	if now.Node == "" {
		delete(v.Active, router)
	} else {
		v.Active[router] = now
	}
	v.relocate(router, d)
}

func (v *View) agent(name string, c mirror.Change, d *Dirty) error {
	now, err := decode(c, &storev1.Agent{}, nodeFrom)
	if err != nil {
		return err
	}
	old, peers := v.Nodes[name], v.Peers()
	if now.Revision == 0 {
		delete(v.Nodes, name)
	} else {
		v.Nodes[name] = now.Object
	}
	d.Peers = d.Peers || now.Object.Network || old.Network
	if old.TunnelIP == now.Object.TunnelIP && old.Network == now.Object.Network && slices.Equal(peers, v.Peers()) {
		return nil
	}
	d.Tunnels = true
	if old.TunnelIP == now.Object.TunnelIP {
		return nil
	}
	for id, n := range v.Networks {
		if n.hosts[name] > 0 {
			v.allOfNetwork(id, d)
		}
	}
	return nil
}

// nodeFrom reads what other nodes need of an agent's word of itself. A node without tunnels has no address.
func nodeFrom(a *storev1.Agent) (Node, error) {
	out := Node{
		Network: slices.Contains(a.GetRoles(), weftv1.Role_ROLE_NETWORK), Pool: PoolName(a.GetPool()),
		PeerAddress: a.GetPeerAddress(), Uplinks: map[string]bool{},
	}
	for _, u := range a.GetUplinks() {
		out.Uplinks[u.GetPhysicalNetwork()] = u.GetProven()
	}
	if a.GetTunnelIp() == "" {
		return out, nil
	}
	ip, err := netip.ParseAddr(a.GetTunnelIp())
	out.TunnelIP = ip
	return out, err
}

// DefaultPool is the pool of a node that names none.
const DefaultPool = "default"

// PoolName is the name of a pool as an agent gives it.
func PoolName(given string) string {
	if given == "" {
		return DefaultPool
	}
	return given
}

// Peers lists the other nodes that hold routers for the same pool, sorted; none when this node holds no routers.
func (v *View) Peers() []string {
	self := v.Nodes[v.Self]
	if !self.Network {
		return nil
	}
	var out []string
	for name, n := range v.Nodes {
		if name != v.Self && n.Network && n.Pool == self.Pool {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// live notes whether a node's agent is alive.
func (v *View) live(name string, c mirror.Change, d *Dirty) {
	d.Peers = true
	delete(v.Live, name)
	if c.Value != nil {
		v.Live[name] = true
	}
}

func (v *View) witness(name string, c mirror.Change, d *Dirty) error {
	now, err := decode(c, &storev1.Witness{}, func(w *storev1.Witness) (Witness, error) {
		return Witness{Heard: setOf(w.GetHeard()), Lost: setOf(w.GetLost()), Revision: c.Revision}, nil
	})
	if err != nil {
		return err
	}
	d.Peers = true
	v.Witness[name] = now.Object
	if now.Revision == 0 {
		delete(v.Witness, name)
	}
	return nil
}

func setOf(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}
