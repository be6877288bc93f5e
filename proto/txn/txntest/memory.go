// Package txntest holds what tests need to see what a transaction would do, without a server: a store of keys in memory
// that decides guards as etcd does (package store's tests hold it to that). It is for tests alone.
package txntest

import (
	"maps"
	"strings"

	"github.com/weft-sdn/weft/proto/txn"
)

// Memory is a store of keys with create and mod revisions. Make it with New. It is not safe for concurrent use.
type Memory struct {
	values    map[string]string
	revisions map[string]int64
	created   map[string]int64
	revision  int64
}

// New is an empty store.
func New() *Memory {
	return &Memory{values: map[string]string{}, revisions: map[string]int64{}, created: map[string]int64{}, revision: 1}
}

// Commit makes the transaction's writes if all guards hold, and reports whether they did. A transaction with a fault
// makes none. A transaction that changes nothing, as when it deletes what is not there, does not change the revision.
func (m *Memory) Commit(t *txn.Txn) bool {
	if t.Err() != nil {
		return false
	}
	for _, g := range t.Guards() {
		if !m.holds(g) {
			return false
		}
	}
	next, changed := m.revision+1, false
	for _, w := range t.Writes() {
		changed = m.apply(w, next) || changed
	}
	if changed {
		m.revision = next
	}
	return true
}

// apply reports whether the write changed anything.
func (m *Memory) apply(w txn.Write, revision int64) bool {
	if w.Value == nil {
		had := m.revisions[w.Key] > 0
		delete(m.values, w.Key)
		delete(m.revisions, w.Key)
		delete(m.created, w.Key)
		return had
	}
	if m.created[w.Key] == 0 {
		m.created[w.Key] = revision
	}
	m.values[w.Key], m.revisions[w.Key] = string(w.Value), revision
	return true
}

func (m *Memory) holds(g txn.Guard) bool {
	switch g.Kind {
	case txn.KeyExists:
		return m.revisions[g.Key] > 0
	case txn.KeyUnchanged:
		return m.revisions[g.Key] == g.Revision
	case txn.KeyCreatedAt:
		return m.created[g.Key] == g.Revision
	case txn.PrefixEmpty:
		return m.newestUnder(g.Key) == 0
	case txn.PrefixUnchanged:
		return m.newestUnder(g.Key) <= g.Revision
	case txn.RangeEmpty:
		return m.Count(g.Key, g.End) == 0
	case txn.KeyAbsent:
		fallthrough
	default:
		return m.revisions[g.Key] == 0
	}
}

// newestUnder is the latest mod revision below a prefix, 0 if there is no key.
func (m *Memory) newestUnder(prefix string) int64 {
	var newest int64
	for key, r := range m.revisions {
		if strings.HasPrefix(key, prefix) {
			newest = max(newest, r)
		}
	}
	return newest
}

// Values is a copy of all keys with their values.
func (m *Memory) Values() map[string]string { return maps.Clone(m.values) }

// Created is a key's create revision, 0 if there is no such key.
func (m *Memory) Created(key string) int64 { return m.created[key] }

// Revision is a key's mod revision, 0 if there is no such key.
func (m *Memory) Revision(key string) int64 { return m.revisions[key] }

// Count is the number of keys from start (included) to end (excluded).
func (m *Memory) Count(start, end string) int64 {
	var n int64
	for key := range m.values {
		if start <= key && key < end {
			n++
		}
	}
	return n
}
