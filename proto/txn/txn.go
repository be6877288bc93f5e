// Package txn builds an etcd transaction as a value: guards that must hold, and writes that are then made, all or none.
// Small functions append to it (ipam.Claim, segments.Claim, the handlers); whoever owns the change commits it once
// through package store. It is pure: it neither reads nor writes anything itself.
//
// A Txn is not safe for concurrent use.
package txn

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// MaxOps is how many guards, and how many writes, one transaction may hold: etcd's default --max-txn-ops.
const MaxOps = 128

// ErrTooLarge is returned by Err when a transaction holds more than MaxOps guards or writes.
var ErrTooLarge = errors.New("transaction too large")

// GuardKind says what a guard compares.
type GuardKind int

// The kinds of guard.
const (
	KeyAbsent       GuardKind = iota // no key Key
	KeyExists                        // a key Key
	KeyUnchanged                     // Key's mod revision is Revision
	KeyCreatedAt                     // Key's create revision is Revision
	PrefixEmpty                      // no key begins with Key
	PrefixUnchanged                  // no key that begins with Key was created or changed after Revision
	RangeEmpty                       // no key from Key (included) to End (excluded)
)

// Guard is a condition on the store.
type Guard struct {
	Kind     GuardKind
	Key      string
	End      string // of RangeEmpty
	Revision int64
}

// Write is a put (Value not nil) or a delete.
type Write struct {
	Key   string
	Value []byte
	// Leased puts the key under the lease given at commit.
	Leased bool
}

// Txn is a transaction under construction. The zero value is empty and ready.
type Txn struct {
	guards []Guard
	writes []Write
	seen   map[string]bool
	err    error
}

// Guards returns the guards in the order in which they were added. The slice must not be changed.
func (t *Txn) Guards() []Guard { return t.guards }

// Writes returns the writes in the order in which they were added. The slice must not be changed.
func (t *Txn) Writes() []Write { return t.writes }

// Err is the first fault of construction: too many operations (ErrTooLarge), a key written twice, or a value that can't
// be encoded. A transaction with a fault is never committed.
func (t *Txn) Err() error { return t.err }

func (t *Txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *Txn) guard(g Guard) {
	for _, have := range t.guards {
		if have == g {
			return
		}
	}
	if len(t.guards) == MaxOps {
		t.fail(fmt.Errorf("%w: more than %d guards", ErrTooLarge, MaxOps))
		return
	}
	t.guards = append(t.guards, g)
}

func (t *Txn) write(w Write) {
	if t.seen == nil {
		t.seen = map[string]bool{}
	}
	if t.seen[w.Key] {
		t.fail(fmt.Errorf("key %s is written twice in one transaction", w.Key))
		return
	}
	if len(t.writes) == MaxOps {
		t.fail(fmt.Errorf("%w: more than %d writes", ErrTooLarge, MaxOps))
		return
	}
	t.seen[w.Key] = true
	t.writes = append(t.writes, w)
}

// Absent guards that the key does not exist.
func (t *Txn) Absent(key string) { t.guard(Guard{Kind: KeyAbsent, Key: key}) }

// Exists guards that the key exists, whatever its value.
func (t *Txn) Exists(key string) { t.guard(Guard{Kind: KeyExists, Key: key}) }

// Unchanged guards that the key's mod revision is still revision; 0 means that the key does not exist.
func (t *Txn) Unchanged(key string, revision int64) {
	t.guard(Guard{Kind: KeyUnchanged, Key: key, Revision: revision})
}

// CreatedAt guards that the key still is the one created at revision, whatever its value: a lease's or an election's holder
// has not lost it meanwhile.
func (t *Txn) CreatedAt(key string, revision int64) {
	t.guard(Guard{Kind: KeyCreatedAt, Key: key, Revision: revision})
}

// NoneUnder guards that no key begins with prefix.
func (t *Txn) NoneUnder(prefix string) { t.guard(Guard{Kind: PrefixEmpty, Key: prefix}) }

// NoneBetween guards that there is no key from start (included) to end (excluded).
func (t *Txn) NoneBetween(start, end string) { t.guard(Guard{Kind: RangeEmpty, Key: start, End: end}) }

// NoneChangedUnder guards that no key that begins with prefix was created or changed after revision. Deletions are not
// noticed: a guard for them needs a key that the deletion changes.
func (t *Txn) NoneChangedUnder(prefix string, revision int64) {
	t.guard(Guard{Kind: PrefixUnchanged, Key: prefix, Revision: revision})
}

// Put writes a message.
func (t *Txn) Put(key string, m proto.Message) { t.put(key, m, false) }

// PutLeased writes a message under the lease given at commit: the key goes when the lease does.
func (t *Txn) PutLeased(key string, m proto.Message) { t.put(key, m, true) }

func (t *Txn) put(key string, m proto.Message, leased bool) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.fail(fmt.Errorf("key %s: encode %s: %w", key, m.ProtoReflect().Descriptor().FullName(), err))
		return
	}
	if value == nil {
		value = []byte{}
	}
	t.write(Write{Key: key, Value: value, Leased: leased})
}

// PutRaw writes a value that is encoded already.
func (t *Txn) PutRaw(key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	t.write(Write{Key: key, Value: value})
}

// Delete removes a key; a key that does not exist is no fault.
func (t *Txn) Delete(key string) { t.write(Write{Key: key}) }

// Claim takes the claim key for an owner: the transaction fails if anybody holds it.
func (t *Txn) Claim(key, ownerKind, ownerID string) {
	t.Absent(key)
	t.Put(key, &storev1.Claim{Kind: ownerKind, Id: ownerID})
}

// Merge appends all of other. It reports false, and changes nothing, when both together would be faulty or would not mean
// what they mean one after the other: too large, one key written by both, or a guard of one on what the other writes
// (guards are all checked before the first write).
func (t *Txn) Merge(other *Txn) bool {
	if t.err != nil || other.err != nil ||
		len(t.guards)+len(other.guards) > MaxOps || len(t.writes)+len(other.writes) > MaxOps {
		return false
	}
	for _, w := range other.writes {
		if t.seen[w.Key] {
			return false
		}
	}
	if t.watches(other) || other.watches(t) {
		return false
	}
	for _, g := range other.guards {
		t.guard(g)
	}
	for _, w := range other.writes {
		t.write(w)
	}
	return true
}

// watches reports whether a guard of t covers a key that other writes.
func (t *Txn) watches(other *Txn) bool {
	for _, g := range t.guards {
		if other.seen[g.Key] {
			return true
		}
		for _, w := range other.writes {
			if g.spans(w.Key) {
				return true
			}
		}
	}
	return false
}

// spans reports whether a guard on several keys covers the key.
func (g Guard) spans(key string) bool {
	switch g.Kind {
	case PrefixEmpty, PrefixUnchanged:
		return strings.HasPrefix(key, g.Key)
	case RangeEmpty:
		return g.Key <= key && key < g.End
	case KeyAbsent, KeyExists, KeyUnchanged, KeyCreatedAt:
	}
	return false
}
