package check

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ovsTables puts the rows of Open vSwitch's database together, which name each other by UUID.
type ovsTables struct {
	owner map[string]string // UUID of a Port -> its bridge
	holds map[string]*port  // UUID of an Interface -> its port
}

// rows is what `ovs-vsctl --format=json list` prints: OVSDB's own notation of values (RFC 7047, section 5.1).
type rows struct {
	Headings []string `json:"headings"`
	Data     [][]any  `json:"data"`
}

// read takes a table in. Bridges come before ports, ports before interfaces.
func (o *ovsTables) read(h *host, s section) error {
	var table rows
	if err := json.Unmarshal([]byte(s.text), &table); err != nil {
		return err
	}
	for _, data := range table.Data {
		if len(data) != len(table.Headings) {
			return fmt.Errorf("a row has %d columns of %d", len(data), len(table.Headings))
		}
		row := map[string]any{}
		for i, name := range table.Headings {
			row[name] = data[i]
		}
		switch s.kind {
		case "bridges":
			o.bridge(h, row)
		case "ports":
			o.port(h, row)
		default:
			o.iface(h, row)
		}
	}
	return nil
}

func (o *ovsTables) bridge(h *host, row map[string]any) {
	name := scalar(row["name"])
	h.bridges[name] = &bridge{
		externalIDs: dictionary(row["external_ids"]), failMode: scalar(row["fail_mode"]), datapath: scalar(row["datapath_type"]),
		portNames: map[int]string{},
	}
	if o.owner == nil {
		o.owner, o.holds = map[string]string{}, map[string]*port{}
	}
	for _, uuid := range set(row["ports"]) {
		o.owner[uuid] = name
	}
}

func (o *ovsTables) port(h *host, row map[string]any) {
	p := &port{
		name: scalar(row["name"]), bridge: o.owner[scalar(row["_uuid"])], tag: integer(row["tag"]), portIDs: dictionary(row["external_ids"]),
	}
	h.ports[p.name] = p
	if b := h.bridges[p.bridge]; b != nil {
		b.ports = append(b.ports, p.name)
		slices.Sort(b.ports)
	}
	for _, uuid := range set(row["interfaces"]) {
		o.holds[uuid] = p
	}
}

func (o *ovsTables) iface(h *host, row map[string]any) {
	p := o.holds[scalar(row["_uuid"])]
	if p == nil {
		return
	}
	p.kind, p.options, p.externalIDs = scalar(row["type"]), dictionary(row["options"]), dictionary(row["external_ids"])
	p.err = scalar(row["error"])
	if p.number = max(integer(row["ofport"]), 0); p.number != 0 && h.bridges[p.bridge] != nil {
		h.bridges[p.bridge].portNames[p.number] = p.name
	}
}

// scalar is a string, or a number's or UUID's text; "" for an empty set.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return fmt.Sprint(v)
	case []any:
		if len(v) == 2 && v[0] == "uuid" {
			return scalar(v[1])
		}
	}
	return ""
}

func integer(v any) int {
	f, _ := v.(float64) // an empty set is none
	return int(f)
}

// set is the elements of a set, or the one value that stands for a set of one.
func set(v any) []string {
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 || pair[0] != "set" {
		return []string{scalar(v)}
	}
	var out []string
	elements, _ := pair[1].([]any)
	for _, e := range elements {
		out = append(out, scalar(e))
	}
	return out
}

func dictionary(v any) map[string]string {
	out := map[string]string{}
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 || pair[0] != "map" {
		return out
	}
	entries, _ := pair[1].([]any)
	for _, e := range entries {
		if kv, ok := e.([]any); ok && len(kv) == 2 {
			out[scalar(kv[0])] = scalar(kv[1])
		}
	}
	return out
}
