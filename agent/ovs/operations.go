package ovs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/weft-sdn/weft/agent/desired"
)

func validateName(name string) error {
	const longest = 255
	if name == "" || len(name) > longest {
		return fmt.Errorf("%w: a name of %d bytes", ErrInvalid, len(name))
	}
	for _, r := range name {
		if r <= ' ' || r == '/' || r > '~' {
			return fmt.Errorf("%w: name %q holds %q; want printable ASCII without spaces and slashes", ErrInvalid, name, r)
		}
	}
	return nil
}

func validatePort(p desired.Port) error {
	const highestTag = 4095
	if err := validateName(p.Name); err != nil {
		return err
	}
	if p.Tag > highestTag {
		return fmt.Errorf("%w: tag %d, want at most %d", ErrInvalid, p.Tag, highestTag)
	}
	switch p.Type {
	case desired.PortForeign:
		return nil
	case desired.PortInternal, desired.PortSystem, desired.PortPatch, desired.PortVXLAN, desired.PortGRE:
	default:
		return fmt.Errorf("%w: interface type %q", ErrInvalid, p.Type)
	}
	if p.ExternalIDs[OwnerKey] == "" {
		return fmt.Errorf("%w: a port to create must carry external_ids:%s", ErrInvalid, OwnerKey)
	}
	return errors.Join(validateText(p.MAC), validateMap(p.Options), validateMap(p.ExternalIDs), validateMap(p.BFD))
}

// validateText refuses what ovsdb-server's JSON parser does: it drops the connection over a NUL byte, which would make
// one bad object disturb all.
func validateText(s string) error {
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return fmt.Errorf("%w: %q holds a NUL byte or is not UTF-8", ErrInvalid, s)
	}
	return nil
}

func validateMap(m map[string]string) error {
	for key, value := range m {
		if err := errors.Join(validateText(key), validateText(value)); err != nil {
			return err
		}
	}
	return nil
}

func byUUID(uuid string) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: uuid})}
}

// byName finds a row that this transaction itself may have made.
func byName(name string) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("name", ovsdb.ConditionEqual, name)}
}

// update writes columns of a row; none, nothing.
func (p *planned) update(table, uuid string, row ovsdb.Row) {
	if len(row) > 0 {
		p.add(ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: table, Where: byUUID(uuid), Row: row})
	}
}

// mergeIDs sets and deletes keys of a row's external_ids and leaves the others, which may be anybody's, alone.
func (p *planned) mergeIDs(table string, where []ovsdb.Condition, have, put map[string]string, remove []string) {
	insert := map[string]string{}
	var stale []any
	for key, value := range put {
		old, ok := have[key]
		if ok && old == value {
			continue
		}
		if ok {
			stale = append(stale, key) // inserting into a map leaves a key that is there as it is
		}
		insert[key] = value
	}
	for _, key := range remove {
		if _, ok := have[key]; ok {
			stale = append(stale, key)
		}
	}
	var mutations []ovsdb.Mutation
	if len(stale) > 0 {
		mutations = append(mutations, *ovsdb.NewMutation("external_ids", ovsdb.MutateOperationDelete, ovsdb.OvsSet{GoSet: stale}))
	}
	if len(insert) > 0 {
		mutations = append(mutations, *ovsdb.NewMutation("external_ids", ovsdb.MutateOperationInsert, stringMap(insert)))
	}
	if len(mutations) > 0 {
		p.add(ovsdb.Operation{Op: ovsdb.OperationMutate, Table: table, Where: where, Mutations: mutations})
	}
}

// mutateSet adds to or takes from a set column.
func (p *planned) mutateSet(table, uuid, column string, m ovsdb.Mutator, values []any) {
	p.add(ovsdb.Operation{
		Op: ovsdb.OperationMutate, Table: table, Where: byUUID(uuid),
		Mutations: []ovsdb.Mutation{*ovsdb.NewMutation(column, m, uuidSet(values))},
	})
}

// assume makes the transaction fail if a row's external_ids are not what the plan saw, ownership above all.
func (p *planned) assume(table, uuid string, ids map[string]string) {
	now := 0
	p.add(ovsdb.Operation{
		Op: ovsdb.OperationWait, Table: table, Where: byUUID(uuid), Timeout: &now,
		Columns: []string{"external_ids"}, Until: string(ovsdb.WaitConditionEqual),
		Rows: []ovsdb.Row{{"external_ids": stringMap(ids)}},
	})
}

// requestConfig asks ovs-vswitchd for a sign that it has carried out the transaction: it sets cur_cfg to next_cfg then
// (ovs-vswitchd.conf.db(5), Open_vSwitch.next_cfg).
func (p *planned) requestConfig(root string) {
	p.add(ovsdb.Operation{
		Op: ovsdb.OperationMutate, Table: tableRoot, Where: byUUID(root),
		Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("next_cfg", ovsdb.MutateOperationAdd, 1)},
	})
	p.add(ovsdb.Operation{Op: ovsdb.OperationSelect, Table: tableRoot, Where: byUUID(root), Columns: []string{"next_cfg"}})
}

// goal is the configuration number that requestConfig's select gave, or 0 if there was none.
func (p *planned) goal(results []ovsdb.OperationResult) int {
	last := len(p.ops) - 1
	if last >= len(results) || len(results[last].Rows) != 1 {
		return 0
	}
	// JSON numbers arrive as float64.
	n, _ := results[last].Rows[0]["next_cfg"].(float64)
	return int(n)
}

func set[T any](values []T) ovsdb.OvsSet {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return ovsdb.OvsSet{GoSet: out}
}

func uuidSet(values []any) ovsdb.OvsSet { return ovsdb.OvsSet{GoSet: values} }

// optional is a column that holds one value or none: none for the zero value.
func optional[T comparable](v T) any {
	var zero T
	if v == zero {
		return ovsdb.OvsSet{GoSet: []any{}}
	}
	return v
}

func stringMap(m map[string]string) ovsdb.OvsMap {
	out := make(map[any]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out[key] = m[key]
	}
	return ovsdb.OvsMap{GoMap: out}
}
