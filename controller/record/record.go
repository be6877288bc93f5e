// Package record reads the API's objects from the store: what each kind's key is, where its header fields are, and typed
// reads of one consistent snapshot. It checks nothing and writes nothing; transactions are built by the handlers.
package record

import (
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/fault"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Header points to the fields that all kinds of object share. Name is nil for a kind without names, Project for one without
// projects, Status for one without a status, Place for one that does not count against quotas.
type Header struct {
	ID, Name, Project, Etag *string
	Created, Updated        **timestamppb.Timestamp
	Status                  **weftv1.ObjectStatus
	Place                   *uint32
}

// Kind describes a kind of object.
type Kind[M proto.Message] struct {
	// Name is what people call it: "floating IP".
	Name   string
	Enum   weftv1.Kind
	Family keys.Family
	// Locator is its kind in locator keys; "" for a kind whose key is its id alone.
	Locator string
	// Mutable are the fields that an update may name.
	Mutable []string
	New     func() M
	Header  func(M) Header
	// Scope is the first element of the key; "" for a kind whose key is its id alone.
	Scope func(M) string
	// ScopeField is the field that holds the scope, for lists narrowed by a filter.
	ScopeField string
	// Outputs clears what is composed at read besides etag and status; nil: nothing.
	Outputs func(M)
}

// Key is the key of an object.
func (k *Kind[M]) Key(scope, id string) string {
	if k.Locator == "" {
		return keys.All(k.Family) + id
	}
	return keys.All(k.Family) + scope + "/" + id
}

// KeyOf is the key under which an object with its id and scope set is stored.
func (k *Kind[M]) KeyOf(m M) string { return k.Key(k.Scope(m), *k.Header(m).ID) }

// Label names an object for a person.
func (k *Kind[M]) Label(m M) string {
	h := k.Header(m)
	if h.Name == nil {
		return fault.Label(k.Name, "", *h.ID)
	}
	return fault.Label(k.Name, *h.Name, *h.ID)
}

// Stored is an object as it is in the store, with the mod revision of its key. The message must not be changed: it may be
// shared; Copy it.
type Stored[M proto.Message] struct {
	Msg      M
	Key      string
	Revision int64
}

// Copy is a copy of the message that may be changed.
func (s Stored[M]) Copy() M { return proto.Clone(s.Msg).(M) } //nolint:forcetypeassert // Clone keeps the type

// Etag is the etag of an object at a mod revision.
func Etag(revision int64) string { return strconv.FormatInt(revision, 10) }

// Decode reads an object from its entry and sets its etag.
func (k *Kind[M]) Decode(e store.Entry) (Stored[M], error) {
	m := k.New()
	if err := proto.Unmarshal(e.Value, m); err != nil {
		return Stored[M]{}, fault.Damaged(k.Name+" at key "+e.Key, err)
	}
	*k.Header(m).Etag = Etag(e.Revision)
	return Stored[M]{Msg: m, Key: e.Key, Revision: e.Revision}, nil
}

// Clean clears what is composed when an object is read, so that the message can be stored.
func (k *Kind[M]) Clean(m M) {
	h := k.Header(m)
	*h.Etag = ""
	if h.Status != nil {
		*h.Status = nil
	}
	if k.Outputs != nil {
		k.Outputs(m)
	}
}
