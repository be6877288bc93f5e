package quota

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Object is one that counts.
type Object struct {
	Kind        Kind
	Project, ID string
	// Place is the place that it holds; 0 for one without a number.
	Place uint32
}

// Key is the key of the object's claim.
func (o Object) Key() string {
	if o.Place == 0 {
		return keys.UnnumberedPlace(o.Project, o.Kind.Key, o.ID)
	}
	return keys.PlaceClaim(o.Project, o.Kind.Key, o.Place)
}

// Claim is the value of the key.
func (o Object) Claim() *storev1.Claim { return &storev1.Claim{Kind: o.Kind.Key, Id: o.ID} }

// Of is how a message counts; counts is false for one of a kind without limits, and for what the controllers make by
// themselves: ports of DHCP servers and routers, and a project's default group with its rules.
func Of(m proto.Message) (o Object, counts bool) {
	enum := weftv1.Kind_KIND_UNSPECIFIED
	switch m := m.(type) {
	case *weftv1.Network:
		enum = weftv1.Kind_KIND_NETWORK
	case *weftv1.Subnet:
		enum = weftv1.Kind_KIND_SUBNET
	case *weftv1.Port:
		if !strings.HasPrefix(m.GetDeviceOwner(), model.OwnerPrefix) {
			enum = weftv1.Kind_KIND_PORT
		}
	case *weftv1.Router:
		enum = weftv1.Kind_KIND_ROUTER
	case *weftv1.FloatingIp:
		enum = weftv1.Kind_KIND_FLOATING_IP
	case *weftv1.SecurityGroup:
		if m.GetId() != secgroup.DefaultID(m.GetProject()) {
			enum = weftv1.Kind_KIND_SECURITY_GROUP
		}
	case *weftv1.SecurityGroupRule:
		if !secgroup.OfDefault(m) {
			enum = weftv1.Kind_KIND_SECURITY_GROUP_RULE
		}
	case *weftv1.AddressGroup:
		enum = weftv1.Kind_KIND_ADDRESS_GROUP
	}
	o.Kind, counts = kind(enum)
	if is, ok := m.(interface {
		GetId() string
		GetProject() string
		GetQuotaPlace() uint32
	}); ok {
		o.Project, o.ID, o.Place = is.GetProject(), is.GetId(), is.GetQuotaPlace()
	}
	return o, counts
}

// Uncounted is an object without the claim by which it should count.
type Uncounted struct {
	Object
	// Stored is where the object is.
	Stored store.Entry
}

// Count appends the claim. The transaction guards that the object is as it was, and that nobody has the place.
func (u Uncounted) Count(t *txn.Txn) {
	t.Unchanged(u.Stored.Key, u.Stored.Revision)
	t.Claim(u.Key(), u.Kind.Key, u.ID)
}

// Missing finds the objects without a claim among all entries of the store at one revision, and says in a sentence each for
// which there is none to be made: another object holds the place that it says it holds.
func Missing(entries []store.Entry) (out []Uncounted, left []string) {
	held := map[string]string{} // key -> id
	for _, e := range entries {
		k, err := keys.Parse(e.Key)
		if err != nil || k.Family != keys.FamilyClaim || k.Scope() != keys.ClaimPlace {
			continue
		}
		claim := &storev1.Claim{}
		_ = proto.Unmarshal(e.Value, claim) // one that can't be read is nobody's, and in the way
		held[e.Key] = claim.GetId()
	}
	for _, e := range entries {
		o, counts := decode(e)
		if !counts {
			continue
		}
		switch holder, taken := held[o.Key()]; {
		case !taken:
			held[o.Key()] = o.ID
			out = append(out, Uncounted{o, e})
		case holder != o.ID:
			left = append(left, fmt.Sprintf("%s %s does not count: its place %d is held by %q", o.Kind.Name, o.ID, o.Place, holder))
		}
	}
	return out, left
}

// decode reads an entry of an object that counts. One that makes no sense counts nothing.
func decode(e store.Entry) (o Object, counts bool) {
	k, err := keys.Parse(e.Key)
	if err != nil {
		return o, false
	}
	m := blank(k.Family)
	if m == nil || proto.Unmarshal(e.Value, m) != nil {
		return o, false
	}
	o, counts = Of(m)
	return o, counts && o.ID == k.ID() && model.ValidProject(o.Project)
}

// blank is the message of a family of objects that can count; nil for others.
func blank(f keys.Family) proto.Message {
	switch f { //nolint:exhaustive // the kinds that count
	case keys.FamilyNetwork:
		return &weftv1.Network{}
	case keys.FamilySubnet:
		return &weftv1.Subnet{}
	case keys.FamilyPort:
		return &weftv1.Port{}
	case keys.FamilyRouter:
		return &weftv1.Router{}
	case keys.FamilyFloatingIP:
		return &weftv1.FloatingIp{}
	case keys.FamilySecurityGroup:
		return &weftv1.SecurityGroup{}
	case keys.FamilyRule:
		return &weftv1.SecurityGroupRule{}
	case keys.FamilyAddressGroup:
		return &weftv1.AddressGroup{}
	default:
		return nil
	}
}
