package ovs

import "github.com/weft-sdn/weft/agent/desired"

import "slices"

// Keys of external_ids by which weft knows its own.
const (
	// OwnerKey marks a bridge, port or interface as weft's; its value is <kind>:<id>, such as router:4f0c… or bridge:br-int.
	OwnerKey = desired.OwnerKey
	// TagKey on a port that somebody else plugged holds the tag that weft gave it.
	TagKey = "weft-tag"
	// IfaceIDKey on an interface names the port it belongs to; whoever plugs a VM sets it.
	IfaceIDKey = "iface-id"
)

// Snapshot is an immutable view of the database.
type Snapshot struct {
	Connected bool // the view is live
	Complete  bool // every table has been read at least once; delete nothing on the word of an incomplete view
	Version   string
	NextCfg   int // the configuration asked for, and the one that ovs-vswitchd has reached
	CurCfg    int

	Bridges    map[string]*Bridge    // by name, which the database keeps unique
	Ports      map[string]*Port      // by name, unique over all bridges
	Interfaces map[string]*Interface // by name, unique over all bridges

	root string
}

// Bridge is a row of table Bridge.
type Bridge struct {
	Name         string
	DatapathType string
	FailMode     string   // "" for the default, which is standalone
	Protocols    []string // sorted; empty for the default
	ExternalIDs  map[string]string
	Ports        []string // names, sorted; the bridge's own port included

	uuid string
	row  *bridgeRow
}

// Owner is weft's mark, or "" for somebody else's bridge.
func (b *Bridge) Owner() string { return b.ExternalIDs[OwnerKey] }

// Port is a row of table Port.
type Port struct {
	Name        string
	Bridge      string // "" while the bridge's row has not been seen yet
	Tag         uint16 // 0 for none
	ExternalIDs map[string]string
	Interfaces  []string // names, sorted; more than one is a bond

	uuid string
	row  *portRow
}

// Owner is weft's mark, or "" for somebody else's port.
func (p *Port) Owner() string { return p.ExternalIDs[OwnerKey] }

// Interface is a row of table Interface.
type Interface struct {
	Name   string
	Port   string // name of its port; "" while that row has not been seen yet
	Bridge string
	Type   string // "" for a system device
	// OFPort is the OpenFlow number, 1 to 65279, or 65534 for a bridge's own interface; 0 while OVS has not given one, and
	// if it could not, which Error then explains.
	OFPort      uint32
	Options     map[string]string
	ExternalIDs map[string]string
	MAC         string // asked for
	MACInUse    string // lags behind: for a moment a new interface shows the random address that the kernel gave it
	LinkState   string // "up", "down" or "" for unknown
	AdminState  string
	Error       string // why ovs-vswitchd could not make the interface
	BFD         map[string]string
	// BFDUp: a BFD session runs over the interface, and both ends have it up (RFC 5880 section 6.2): the other said so in the
	// last packet. It may be 100 ms late in telling that one is not: OpenFlow's port status is at once.
	BFDUp bool

	uuid string
	row  *interfaceRow
}

// Owner is weft's mark, or "" for somebody else's interface.
func (i *Interface) Owner() string { return i.ExternalIDs[OwnerKey] }

// IfaceID is the id of the network port whose interface this is, as whoever plugged it says; "" for others.
func (i *Interface) IfaceID() string { return i.ExternalIDs[IfaceIDKey] }

// ByIfaceID lists the interfaces that carry an iface-id, by it. If two carry the same one, both are listed, by name.
func (s *Snapshot) ByIfaceID() map[string][]*Interface {
	out := map[string][]*Interface{}
	for _, i := range s.Interfaces {
		if id := i.IfaceID(); id != "" {
			out[id] = append(out[id], i)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *Interface) int { return compareStrings(a.Name, b.Name) })
	}
	return out
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// tables are rows by UUID.
type tables struct {
	root       map[string]*rootRow
	bridges    map[string]*bridgeRow
	ports      map[string]*portRow
	interfaces map[string]*interfaceRow
}

// builder makes snapshots and keeps what it made of each row: of thousands, one changes, and the library replaces a row that
// does. The zero builder is ready. Not safe for concurrent use.
type builder struct {
	interfaces map[string]*Interface // by UUID, like the next two
	ports      map[string]*Port
	bridges    map[string]*Bridge
}

// place is where a port or interface is.
type place struct {
	port, bridge string
}

func (b *builder) build(t tables) *Snapshot {
	s := &Snapshot{
		Connected: true, Complete: true,
		Bridges:    make(map[string]*Bridge, len(t.bridges)),
		Ports:      make(map[string]*Port, len(t.ports)),
		Interfaces: make(map[string]*Interface, len(t.interfaces)),
	}
	next := builder{
		interfaces: make(map[string]*Interface, len(t.interfaces)),
		ports:      make(map[string]*Port, len(t.ports)), bridges: make(map[string]*Bridge, len(t.bridges)),
	}
	for uuid, r := range t.root {
		s.root, s.NextCfg, s.CurCfg, s.Version = uuid, r.NextCfg, r.CurCfg, deref(r.Version)
	}
	ofPort := make(map[string]string, len(t.ports)) // port's UUID -> name of its bridge
	for uuid, r := range t.bridges {
		next.bridges[uuid] = b.bridge(uuid, r, t)
		s.Bridges[r.Name] = next.bridges[uuid]
		for _, port := range r.Ports {
			ofPort[port] = r.Name
		}
	}
	ofInterface := make(map[string]place, len(t.interfaces))
	for uuid, r := range t.ports {
		next.ports[uuid] = b.port(uuid, r, ofPort[uuid], t)
		s.Ports[r.Name] = next.ports[uuid]
		for _, i := range r.Interfaces {
			ofInterface[i] = place{r.Name, ofPort[uuid]}
		}
	}
	for uuid, r := range t.interfaces {
		next.interfaces[uuid] = b.iface(uuid, r, ofInterface[uuid])
		s.Interfaces[r.Name] = next.interfaces[uuid]
	}
	*b = next
	return s
}

func (b *builder) iface(uuid string, r *interfaceRow, at place) *Interface {
	have := b.interfaces[uuid]
	if have != nil && have.row == r && have.Port == at.port && have.Bridge == at.bridge {
		return have
	}
	i := r.export(uuid)
	i.Port, i.Bridge = at.port, at.bridge
	return i
}

// port makes a port with the names of those of its interfaces that have been seen.
func (b *builder) port(uuid string, r *portRow, bridge string, t tables) *Port {
	seen := 0
	for _, i := range r.Interfaces {
		if t.interfaces[i] != nil {
			seen++
		}
	}
	have := b.ports[uuid]
	if have != nil && have.row == r && have.Bridge == bridge && len(have.Interfaces) == seen {
		return have
	}
	p := r.export(uuid)
	p.Bridge = bridge
	for _, i := range r.Interfaces {
		if row := t.interfaces[i]; row != nil {
			p.Interfaces = append(p.Interfaces, row.Name)
		}
	}
	slices.Sort(p.Interfaces)
	return p
}

// bridge makes a bridge with the names of those of its ports that have been seen.
func (b *builder) bridge(uuid string, r *bridgeRow, t tables) *Bridge {
	seen := 0
	for _, p := range r.Ports {
		if t.ports[p] != nil {
			seen++
		}
	}
	have := b.bridges[uuid]
	if have != nil && have.row == r && len(have.Ports) == seen {
		return have
	}
	out := r.export(uuid)
	for _, p := range r.Ports {
		if row := t.ports[p]; row != nil {
			out.Ports = append(out.Ports, row.Name)
		}
	}
	slices.Sort(out.Ports)
	return out
}

func (r *interfaceRow) export(uuid string) *Interface {
	i := &Interface{
		row: r, uuid: uuid, Name: r.Name, Type: r.Type, Options: r.Options, ExternalIDs: r.ExternalIDs,
		MAC: deref(r.MAC), MACInUse: deref(r.MACInUse), LinkState: deref(r.LinkState), AdminState: deref(r.AdminState),
		Error: deref(r.Error), BFD: r.BFD, BFDUp: r.BFDStatus["state"] == "up" && r.BFDStatus["remote_state"] == "up",
	}
	// OVS writes -1 for an interface that it could not make.
	if n := deref(r.OFPort); n > 0 {
		i.OFPort = uint32(n)
	}
	return i
}

func (r *portRow) export(uuid string) *Port {
	return &Port{row: r, uuid: uuid, Name: r.Name, Tag: uint16(deref(r.Tag)), ExternalIDs: r.ExternalIDs}
}

func (r *bridgeRow) export(uuid string) *Bridge {
	return &Bridge{
		row: r, uuid: uuid, Name: r.Name, DatapathType: r.DatapathType, FailMode: deref(r.FailMode),
		Protocols: slices.Sorted(slices.Values(r.Protocols)), ExternalIDs: r.ExternalIDs,
	}
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
