package ovs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/weft-sdn/weft/agent/desired"
)

// object names what an operation is for, so that a failure can be laid at its door.
type object struct {
	kind, name string
}

func bridgeObject(name string) object { return object{"bridge", name} }
func portObject(name string) object   { return object{"port", name} }

// planned is a transaction under construction: the difference between a view and a change.
type planned struct {
	view    *Snapshot
	banned  map[object]error
	created map[string]bool // bridges made in this transaction
	named   map[string]bool // ports that the change has named so far
	ops     []ovsdb.Operation
	by      []object // whose each operation is; zero for shared ones
	refused []*RefusedError

	attach map[string][]any // bridge name -> ports that it gains
	detach map[string][]any // bridge name -> ports that it loses
}

// plan computes the operations. It is pure. Objects in banned are refused for the reason given there.
func plan(view *Snapshot, ch Change, banned map[object]error) *planned {
	p := &planned{
		view: view, banned: banned, created: map[string]bool{}, named: map[string]bool{},
		attach: map[string][]any{}, detach: map[string][]any{},
	}
	for _, b := range ch.Bridges {
		p.object(bridgeObject(b.Name), func() error { return p.bridge(b) })
	}
	for _, port := range ch.Ports {
		p.object(portObject(port.Name), func() error { return p.port(port) })
	}
	for _, name := range ch.ClearTags {
		p.object(portObject(name), func() error { return p.clearTag(name) })
	}
	for _, name := range ch.DeletePorts {
		p.object(portObject(name), func() error { return p.deletePort(name) })
	}
	p.members()
	for _, ids := range ch.BridgeIDs {
		p.object(bridgeObject(ids.Bridge), func() error { return p.bridgeIDs(ids) })
	}
	for _, name := range ch.DeleteBridges {
		p.object(bridgeObject(name), func() error { return p.deleteBridge(name, ch.DeletePorts) })
	}
	return p
}

// object plans one object; if that fails, nothing of it stays in the transaction.
func (p *planned) object(o object, f func() error) {
	before := len(p.ops)
	err := p.banned[o]
	if err == nil {
		err = f()
	}
	if err != nil {
		p.ops, p.by = p.ops[:before], p.by[:before]
		p.refused = append(p.refused, &RefusedError{Kind: o.kind, Name: o.name, Err: err})
		return
	}
	for range p.ops[before:] {
		p.by = append(p.by, o)
	}
}

func (p *planned) add(op ovsdb.Operation) { p.ops = append(p.ops, op) }

// protocols are the versions enabled on weft's bridges: 1.0 and 1.3 for the operator's tools, 1.4 and 1.5 for bundles.
func protocols() []string { return []string{"OpenFlow10", "OpenFlow13", "OpenFlow14", "OpenFlow15"} }

func (p *planned) bridge(want desired.Bridge) error {
	if err := errors.Join(validateName(want.Name), validateText(want.DatapathType)); err != nil {
		return err
	}
	row := ovsdb.Row{"datapath_type": want.DatapathType, "fail_mode": "secure", "protocols": set(protocols())}
	have, ok := p.view.Bridges[want.Name]
	if !ok {
		return p.createBridge(want.Name, row)
	}
	if have.Owner() == "" {
		return fmt.Errorf("%w: somebody else made this bridge; to hand it over: ovs-vsctl set Bridge %s external_ids:%s=bridge:%s",
			ErrNotOwned, have.Name, OwnerKey, have.Name)
	}
	if have.DatapathType == want.DatapathType {
		delete(row, "datapath_type")
	}
	if have.FailMode == "secure" {
		delete(row, "fail_mode")
	}
	if slices.Equal(have.Protocols, protocols()) {
		delete(row, "protocols")
	}
	p.update(tableBridge, have.uuid, row)
	return nil
}

func (p *planned) createBridge(name string, row ovsdb.Row) error {
	if other, ok := p.view.Ports[name]; ok {
		return fmt.Errorf("%w: bridge %s has a port of that name", ErrNotOwned, other.Bridge)
	}
	ids := map[string]string{OwnerKey: "bridge:" + name}
	n := strconv.Itoa(len(p.ops))
	p.insertPort(n, ovsdb.Row{"name": name, "external_ids": stringMap(ids)},
		ovsdb.Row{"name": name, "type": string(desired.PortInternal), "external_ids": stringMap(ids)})
	row["name"], row["external_ids"], row["ports"] = name, stringMap(ids), uuidSet([]any{portName(n)})
	p.add(ovsdb.Operation{Op: ovsdb.OperationInsert, Table: tableBridge, Row: row, UUIDName: "bridge" + n})
	p.mutateSet(tableRoot, p.view.root, "bridges", ovsdb.MutateOperationInsert, []any{ovsdb.UUID{GoUUID: "bridge" + n}})
	p.created[name] = true
	return nil
}

// insertPort adds a port and its interface; n makes their names unique in the transaction.
func (p *planned) insertPort(n string, port, iface ovsdb.Row) {
	p.add(ovsdb.Operation{Op: ovsdb.OperationInsert, Table: tableInterface, Row: iface, UUIDName: "interface" + n})
	port["interfaces"] = uuidSet([]any{ovsdb.UUID{GoUUID: "interface" + n}})
	p.add(ovsdb.Operation{Op: ovsdb.OperationInsert, Table: tablePort, Row: port, UUIDName: portName(n).GoUUID})
}

func portName(n string) ovsdb.UUID { return ovsdb.UUID{GoUUID: "port" + n} }

func (p *planned) port(want desired.Port) error {
	if err := validatePort(want); err != nil {
		return err
	}
	if p.named[want.Name] {
		return fmt.Errorf("%w: the change names this port twice", ErrInvalid)
	}
	p.named[want.Name] = true
	if want.Type == desired.PortForeign {
		return p.tagForeign(want)
	}
	if p.view.Bridges[want.Bridge] == nil && !p.created[want.Bridge] {
		return fmt.Errorf("bridge %s: %w", want.Bridge, ErrNotFound)
	}
	have, ok := p.view.Ports[want.Name]
	if !ok {
		return p.createPort(want)
	}
	return p.updatePort(want, have)
}

func (p *planned) createPort(want desired.Port) error {
	if i, ok := p.view.Interfaces[want.Name]; ok {
		return fmt.Errorf("%w: port %s of bridge %s has an interface of that name", ErrNotOwned, i.Port, i.Bridge)
	}
	n := strconv.Itoa(len(p.ops))
	port := ovsdb.Row{"name": want.Name, "external_ids": stringMap(map[string]string{OwnerKey: want.ExternalIDs[OwnerKey]})}
	if want.Tag != 0 {
		port["tag"] = want.Tag
	}
	iface := ovsdb.Row{
		"name": want.Name, "type": interfaceType(want.Type),
		"options": stringMap(want.Options), "external_ids": stringMap(want.ExternalIDs),
	}
	if want.MAC != "" {
		iface["mac"] = want.MAC
	}
	if len(want.BFD) > 0 {
		iface["bfd"] = stringMap(want.BFD)
	}
	p.insertPort(n, port, iface)
	p.attach[want.Bridge] = append(p.attach[want.Bridge], portName(n))
	return nil
}

// interfaceType is Interface.type in the database, where a system device has the empty string.
func interfaceType(t desired.PortType) string {
	if t == desired.PortSystem {
		return ""
	}
	return string(t)
}

func (p *planned) updatePort(want desired.Port, have *Port) error {
	if have.Owner() == "" {
		return fmt.Errorf("%w: somebody else has a port of that name on bridge %s; remove it or rename it", ErrNotOwned, have.Bridge)
	}
	if have.Bridge != want.Bridge {
		return fmt.Errorf("%w: it is on bridge %s, not on %s; delete it there first", ErrInvalid, have.Bridge, want.Bridge)
	}
	iface, ok := p.view.Interfaces[want.Name]
	if !ok || iface.Port != have.Name || len(have.Interfaces) != 1 {
		return fmt.Errorf("%w: weft's port holds interfaces %v, want just its own; delete it first", ErrInvalid, have.Interfaces)
	}
	row := ovsdb.Row{}
	if have.Tag != want.Tag {
		row["tag"] = optional(int(want.Tag))
	}
	p.update(tablePort, have.uuid, row)
	p.mergeIDs(tablePort, byUUID(have.uuid), have.ExternalIDs, map[string]string{OwnerKey: want.ExternalIDs[OwnerKey]}, nil)
	p.updateInterface(want, iface)
	return nil
}

func (p *planned) updateInterface(want desired.Port, have *Interface) {
	row := ovsdb.Row{}
	if kind := interfaceType(want.Type); have.Type != kind {
		row["type"] = kind
	}
	if !maps.Equal(have.Options, want.Options) {
		row["options"] = stringMap(want.Options)
	}
	if !maps.Equal(have.BFD, want.BFD) {
		row["bfd"] = stringMap(want.BFD)
	}
	if have.MAC != want.MAC {
		row["mac"] = optional(want.MAC)
	}
	p.update(tableInterface, have.uuid, row)
	p.mergeIDs(tableInterface, byUUID(have.uuid), have.ExternalIDs, want.ExternalIDs, nil)
}

// tagForeign tags a port that somebody else plugged. A tag that is right already is left alone and not noted as weft's.
func (p *planned) tagForeign(want desired.Port) error {
	if want.Tag == 0 {
		return p.clearTag(want.Name)
	}
	have, err := p.foreign(want.Name)
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("interface %s: %w: it has not been plugged, or is gone", want.Name, ErrNotFound)
	}
	if have.Bridge != want.Bridge {
		return fmt.Errorf("%w: it is plugged into bridge %s, not into %s", ErrInvalid, have.Bridge, want.Bridge)
	}
	note := strconv.Itoa(int(want.Tag))
	if have.Tag == want.Tag && (have.ExternalIDs[TagKey] == note || have.ExternalIDs[TagKey] == "") {
		return nil
	}
	p.update(tablePort, have.uuid, ovsdb.Row{"tag": want.Tag})
	p.mergeIDs(tablePort, byUUID(have.uuid), have.ExternalIDs, map[string]string{TagKey: note}, nil)
	return nil
}

// foreign finds the stranger's port that holds the interface of that name; nil if there is none.
func (p *planned) foreign(name string) (*Port, error) {
	iface, ok := p.view.Interfaces[name]
	if !ok {
		return nil, nil
	}
	port, ok := p.view.Ports[iface.Port]
	if !ok {
		return nil, nil
	}
	if port.Owner() != "" {
		return nil, fmt.Errorf("%w: port %s is weft's own (%s), not a stranger's", ErrInvalid, port.Name, port.Owner())
	}
	return port, nil
}

// clearTag takes off the tag that weft gave, unless somebody else has set another one since.
func (p *planned) clearTag(name string) error {
	have, err := p.foreign(name)
	if err != nil || have == nil {
		return err
	}
	note, ok := have.ExternalIDs[TagKey]
	if !ok {
		return nil
	}
	if note == strconv.Itoa(int(have.Tag)) {
		p.update(tablePort, have.uuid, ovsdb.Row{"tag": optional(0)})
	}
	p.mergeIDs(tablePort, byUUID(have.uuid), have.ExternalIDs, nil, []string{TagKey})
	return nil
}

func (p *planned) deletePort(name string) error {
	have, ok := p.view.Ports[name]
	if !ok {
		return nil
	}
	if have.Owner() == "" {
		return fmt.Errorf("%w: port of bridge %s, only ports with external_ids:%s are deleted", ErrNotOwned, have.Bridge, OwnerKey)
	}
	if _, isBridge := p.view.Bridges[name]; isBridge {
		return fmt.Errorf("%w: it is the bridge's own port; delete the bridge", ErrInvalid)
	}
	p.assume(tablePort, have.uuid, have.ExternalIDs)
	p.detach[have.Bridge] = append(p.detach[have.Bridge], ovsdb.UUID{GoUUID: have.uuid})
	return nil
}

// members changes the port lists of bridges, one operation each way. Rows of ports that no bridge holds any more vanish by
// themselves (RFC 7047 section 3.2, isRoot).
func (p *planned) members() {
	for _, m := range []struct {
		mutator ovsdb.Mutator
		ports   map[string][]any
	}{{ovsdb.MutateOperationDelete, p.detach}, {ovsdb.MutateOperationInsert, p.attach}} {
		for _, bridge := range slices.Sorted(maps.Keys(m.ports)) {
			p.add(ovsdb.Operation{
				Op: ovsdb.OperationMutate, Table: tableBridge,
				Where:     byName(bridge),
				Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", m.mutator, uuidSet(m.ports[bridge]))},
			})
			p.by = append(p.by, object{})
		}
	}
}

func (p *planned) bridgeIDs(ids BridgeIDs) error {
	var have map[string]string
	if b, ok := p.view.Bridges[ids.Bridge]; ok {
		if have = b.ExternalIDs; b.Owner() == "" {
			return fmt.Errorf("%w: notes are kept on weft's bridges only", ErrNotOwned)
		}
	} else if !p.created[ids.Bridge] {
		return fmt.Errorf("%w: it must be there before notes are kept on it", ErrNotFound)
	}
	for _, key := range slices.Concat(slices.Collect(maps.Keys(ids.Set)), ids.Delete) {
		if !strings.HasPrefix(key, "weft-") || key == OwnerKey {
			return fmt.Errorf("%w: external_ids key %q is not weft's to set: want weft-…, but not %s", ErrInvalid, key, OwnerKey)
		}
	}
	if err := validateMap(ids.Set); err != nil {
		return err
	}
	p.mergeIDs(tableBridge, byName(ids.Bridge), have, ids.Set, ids.Delete)
	return nil
}

func (p *planned) deleteBridge(name string, deleted []string) error {
	have, ok := p.view.Bridges[name]
	if !ok {
		return nil
	}
	if have.Owner() == "" {
		return fmt.Errorf("%w: only bridges with external_ids:%s are deleted", ErrNotOwned, OwnerKey)
	}
	var strangers []string
	for _, port := range have.Ports {
		if p.view.Ports[port].Owner() == "" && !slices.Contains(deleted, port) && port != name {
			strangers = append(strangers, port)
		}
	}
	if len(strangers) > 0 {
		return fmt.Errorf("%w: somebody else's ports sit on it: %s; unplug them first", ErrNotOwned, strings.Join(strangers, ", "))
	}
	p.assume(tableBridge, have.uuid, have.ExternalIDs)
	p.mutateSet(tableRoot, p.view.root, "bridges", ovsdb.MutateOperationDelete, []any{ovsdb.UUID{GoUUID: have.uuid}})
	return nil
}
