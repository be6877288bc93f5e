package audit

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

// Orphan is a key that is there for the sake of something that is not.
type Orphan struct {
	Key string
	// Revision is the key's mod revision.
	Revision int64
	// Why is one sentence for the operator.
	Why string

	absent []string     // what it would belong to, if it were there
	owner  *store.Entry // what it says it belongs to, and does not
}

// Delete appends its deletion, guarded by everything that makes it an orphan.
func (o Orphan) Delete(t *txn.Txn) {
	t.Unchanged(o.Key, o.Revision)
	for _, key := range o.absent {
		t.Absent(key)
	}
	if o.owner != nil {
		t.Unchanged(o.owner.Key, o.owner.Revision)
	}
	t.Delete(o.Key)
}

// Orphans finds what belongs to nothing among all entries of the store at one revision, in the order of the keys: claims,
// locators, bindings, members, what VMs learn of themselves and active nodes of objects that do not exist, or that are understood and do not have them; wishes to
// move routers that do not exist; reports and plugs of nodes that are gone, and reports on objects that are. Keys of a shape
// that is not weft's are not weft's to judge. What belongs to an object that can't be understood is none, and as long as
// there is any such object nothing is judged by what other objects have.
func Orphans(entries []store.Entry) []Orphan {
	f := &finder{auditor: examine(entries), objects: map[string]*store.Entry{}, present: map[string]bool{}}
	for i, e := range entries {
		f.present[e.Key] = true
		k, err := keys.Parse(e.Key)
		if err != nil {
			continue
		}
		if slices.Contains(objectFamilies(), k.Family) {
			f.objects[k.ID()] = &entries[i]
		}
	}
	for _, e := range entries {
		if k, err := keys.Parse(e.Key); err == nil {
			f.judge(k, e)
		}
	}
	return f.orphans
}

// objectFamilies are the families of what others belong to.
func objectFamilies() []keys.Family {
	return []keys.Family{
		keys.FamilyNetwork, keys.FamilySubnet, keys.FamilyPort, keys.FamilyRouter, keys.FamilyFloatingIP,
		keys.FamilySecurityGroup, keys.FamilyRule, keys.FamilyAddressGroup, keys.FamilyNetworkGrant,
	}
}

type finder struct {
	*auditor
	objects map[string]*store.Entry // by id
	present map[string]bool
	orphans []Orphan
}

func (f *finder) judge(k keys.Key, e store.Entry) {
	switch k.Family { //nolint:exhaustive // the rest is nobody's
	case keys.FamilyClaim:
		claim := &storev1.Claim{}
		if proto.Unmarshal(e.Value, claim) == nil && claim.GetId() != "" {
			f.derivedFrom(e, claim.GetKind(), claim.GetId())
		}
	case keys.FamilyLocator:
		f.derivedFrom(e, k.Parts[0], k.ID())
	case keys.FamilyMember, keys.FamilyInstance:
		f.derivedFrom(e, keys.KindPort, k.ID())
	case keys.FamilyHost:
		f.binding(k, e)
	case keys.FamilyActive, keys.FamilyMove:
		f.derivedFrom(e, keys.KindRouter, k.ID())
	case keys.FamilyStatus:
		if !f.ofGoneNode(k.Scope(), e) && f.objects[k.ID()] == nil && !f.present[keys.Live(k.Scope())] {
			f.lost(e, kindOf(k.Kind()), k.ID())
		}
	case keys.FamilyPlug, keys.FamilyWitness:
		f.ofGoneNode(k.Scope(), e)
	}
}

// binding judges what is bound to or placed on a node. A port that is refused somewhere is the binder's, as long as the node
// is there.
func (f *finder) binding(k keys.Key, e store.Entry) {
	if _, bound := f.derived[e.Key]; !bound {
		f.ofGoneNode(k.Scope(), e)
		return
	}
	f.derivedFrom(e, kindOf(k.Kind()), k.ID())
}

// kindOf is the kind of object that a binding or report of a kind is about.
func kindOf(kind string) string {
	if kind == keys.KindDHCP {
		return keys.KindNetwork
	}
	return kind
}

// derivedFrom judges a key that follows from an object.
func (f *finder) derivedFrom(e store.Entry, kind, id string) {
	owner := f.objects[id]
	_, derived := f.derived[e.Key]
	switch {
	case owner == nil:
		f.lost(e, kind, id)
	case derived && f.unsound == 0 && f.expected[e.Key] == nil:
		f.orphans = append(f.orphans, Orphan{
			Key: e.Key, Revision: e.Revision, Why: fmt.Sprintf("%s %s does not have it", kind, id), owner: owner,
		})
	}
}

// lost notes a key whose object does not exist.
func (f *finder) lost(e store.Entry, kind, id string) {
	absent := keys.Locator(kind, id)
	switch kind {
	case keys.KindNetwork:
		absent = keys.Network(id)
	case keys.KindRouter:
		absent = keys.Router(id)
	case keys.KindSecurityGroup:
		absent = keys.SecurityGroup(id)
	case keys.KindAddressGroup:
		absent = keys.AddressGroup(id)
	}
	if absent == e.Key {
		f.orphans = append(f.orphans, Orphan{Key: e.Key, Revision: e.Revision, Why: fmt.Sprintf("%s %s does not exist", kind, id)})
		return
	}
	f.orphans = append(f.orphans, Orphan{Key: e.Key, Revision: e.Revision, Why: fmt.Sprintf("%s %s does not exist", kind, id), absent: f.missing(absent)})
}

// missing is a key that is to be absent, unless it is there: then it is an orphan itself.
func (f *finder) missing(key string) []string {
	if f.present[key] {
		return nil
	}
	return []string{key}
}

// ofGoneNode notes a key of a node that nobody has registered, or that has been deleted, and reports whether it is one.
func (f *finder) ofGoneNode(node string, e store.Entry) bool {
	if f.present[keys.Agent(node)] || f.present[keys.Live(node)] {
		return false
	}
	f.orphans = append(f.orphans, Orphan{
		Key: e.Key, Revision: e.Revision, Why: fmt.Sprintf("node %s does not exist", node), absent: []string{keys.Agent(node), keys.Live(node)},
	})
	return true
}
