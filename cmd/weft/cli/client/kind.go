package client

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Kind names a kind of object by its message in weft.v1, e.g. "Network". The standard methods and their requests are
// named after it.
type Kind string

// The kinds of the API.
const (
	Network      Kind = "Network"
	Subnet       Kind = "Subnet"
	Port         Kind = "Port"
	Router       Kind = "Router"
	FloatingIP   Kind = "FloatingIp"
	SegmentRange Kind = "SegmentRange"
	Node         Kind = "Node"
	Pool         Kind = "Pool"

	SecurityGroup     Kind = "SecurityGroup"
	SecurityGroupRule Kind = "SecurityGroupRule"
	AddressGroup      Kind = "AddressGroup"
	NetworkGrant      Kind = "NetworkGrant"
)

// Kinds returns all kinds but Pool, in the order in which one rests on another. Pools come and go with their nodes: they are
// neither created nor deleted.
func Kinds() []Kind {
	return []Kind{SegmentRange, Network, NetworkGrant, Subnet, AddressGroup, SecurityGroup, SecurityGroupRule, Router, Port, FloatingIP, Node}
}

// KindOf is the kind of an object of the API.
func KindOf(m proto.Message) Kind { return Kind(m.ProtoReflect().Descriptor().Name()) }

// Noun is what people call one object of the kind, e.g. "floating IP".
func (k Kind) Noun() string {
	switch k {
	case FloatingIP:
		return "floating IP"
	case SegmentRange:
		return "segment range"
	case SecurityGroup:
		return "security group"
	case SecurityGroupRule:
		return "security group rule"
	case AddressGroup:
		return "address group"
	case NetworkGrant:
		return "network grant"
	default:
		return strings.ToLower(string(k))
	}
}

// One is the noun with its article, e.g. "a floating IP".
func (k Kind) One() string {
	if strings.ContainsAny(k.Noun()[:1], "aeiou") {
		return "an " + k.Noun()
	}
	return "a " + k.Noun()
}

func (k Kind) request(verb, suffix string) (protoreflect.Message, error) {
	m, err := newMessage(protoreflect.FullName("weft.v1." + verb + string(k) + suffix + "Request"))
	if err != nil {
		return nil, fmt.Errorf("%s has no %s: %w", k.One(), strings.ToLower(verb), err)
	}
	return m.ProtoReflect(), nil
}

// set gives a field of a request a value; a request without that field is left alone.
func set(m protoreflect.Message, field protoreflect.Name, v any) {
	if f := m.Descriptor().Fields().ByName(field); f != nil {
		m.Set(f, protoreflect.ValueOf(v))
	}
}

// setObject puts an object into the one field of a request that has its type.
func setObject(req protoreflect.Message, obj proto.Message) {
	fields := req.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() == obj.ProtoReflect().Descriptor() {
			req.Set(f, protoreflect.ValueOfMessage(obj.ProtoReflect()))
		}
	}
}

// Create stores a new object and returns it as stored.
func (c *Client) Create(ctx context.Context, obj proto.Message) (proto.Message, error) {
	req, err := KindOf(obj).request("Create", "")
	if err != nil {
		return nil, err
	}
	setObject(req, obj)
	return c.Do(ctx, req.Interface())
}

// Update changes the fields of the object that the mask names and returns the object as stored. The object needs its id.
func (c *Client) Update(ctx context.Context, obj proto.Message, mask []string) (proto.Message, error) {
	req, err := KindOf(obj).request("Update", "")
	if err != nil {
		return nil, err
	}
	setObject(req, obj)
	set(req, "update_mask", (&fieldmaskpb.FieldMask{Paths: mask}).ProtoReflect())
	return c.Do(ctx, req.Interface())
}

// Get returns the object with this id.
func (c *Client) Get(ctx context.Context, k Kind, id string) (proto.Message, error) {
	return c.byID(ctx, k, "Get", id)
}

// Delete removes the object with this id.
func (c *Client) Delete(ctx context.Context, k Kind, id string) error {
	_, err := c.byID(ctx, k, "Delete", id)
	return err
}

func (c *Client) byID(ctx context.Context, k Kind, verb, id string) (proto.Message, error) {
	req, err := k.request(verb, "")
	if err != nil {
		return nil, err
	}
	set(req, "id", id)
	return c.Do(ctx, req.Interface())
}

// Query selects objects of a list.
type Query struct {
	// Project: objects of this project, and shared ones; empty: all. Kinds without a project ignore it.
	Project string
	// Filter and OrderBy are as in weft.v1.ListNetworksRequest.
	Filter, OrderBy string
	// Limit is the most that are returned; 0: all.
	Limit int
}

// pageSize is the largest page the API gives.
const pageSize = 10000

// List returns the objects selected, in one consistent snapshot however many pages it takes.
func (c *Client) List(ctx context.Context, k Kind, q Query) ([]proto.Message, error) {
	req, err := k.request("List", "s")
	if err != nil {
		return nil, err
	}
	set(req, "project", q.Project)
	set(req, "filter", q.Filter)
	set(req, "order_by", q.OrderBy)
	var out []proto.Message
	for {
		size := pageSize
		if q.Limit > 0 {
			size = min(size, q.Limit-len(out))
		}
		set(req, "page_size", int32(size)) //nolint:gosec // at most pageSize
		resp, err := c.Do(ctx, req.Interface())
		if err != nil {
			return nil, err
		}
		page, next := elements(resp.ProtoReflect())
		out = append(out, page...)
		if next == "" || (q.Limit > 0 && len(out) >= q.Limit) {
			return out, nil
		}
		set(req, "page_token", next)
	}
}

// elements takes an answer of a List method apart.
func elements(resp protoreflect.Message) (objs []proto.Message, next string) {
	resp.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() {
			for i := range v.List().Len() {
				objs = append(objs, v.List().Get(i).Message().Interface())
			}
		}
		if f.Name() == "next_page_token" {
			next = v.String()
		}
		return true
	})
	return objs, next
}

// Resolve returns the id of the object that a person means by ref: its id, its name in the project, for a floating IP
// also its address. No such object is an error, and so are several, with the candidates. A network of another project, shared,
// external or granted, is found when the project has none of that name: nobody takes a name from it by granting it something.
func (c *Client) Resolve(ctx context.Context, k Kind, project, ref string) (string, error) {
	if _, err := uuid.Parse(ref); err == nil || k == Node || k == Pool {
		return ref, nil
	}
	switch {
	case ref == "":
		return "", fmt.Errorf("the name of %s is empty", k.One())
	case k == SecurityGroupRule || k == NetworkGrant:
		return "", fmt.Errorf("%q is not the id of %s, which has no name", ref, k.One())
	}
	found, err := c.List(ctx, k, Query{Project: project, Filter: refFilter(k, ref)})
	if err == nil && k == Network && project != "" {
		found, err = c.networks(ctx, project, ref, found)
	}
	if err != nil {
		return "", fmt.Errorf("looking up %s %q: %w", k.Noun(), ref, err)
	}
	return one(k, project, ref, found)
}

// networks are those of a project that are called ref or, where there is none, those of others that it may use; listed are those
// in its list.
func (c *Client) networks(ctx context.Context, project, ref string, listed []proto.Message) ([]proto.Message, error) {
	own := slices.DeleteFunc(slices.Clone(listed), func(m proto.Message) bool { return Field(m, "project") != project })
	if len(own) > 0 {
		return own, nil
	}
	external, err := c.List(ctx, Network, Query{Filter: refFilter(Network, ref) + " AND external = true"})
	for _, m := range external {
		if !slices.ContainsFunc(listed, func(have proto.Message) bool { return Field(have, "id") == Field(m, "id") }) {
			listed = append(listed, m)
		}
	}
	return listed, err
}

func refFilter(k Kind, ref string) string {
	if _, err := netip.ParseAddr(ref); err == nil && k == FloatingIP {
		return "ip_address = " + Quote(ref)
	}
	return "name = " + Quote(ref)
}

// Quote writes a string as a value in a filter.
func Quote(s string) string { return strconv.Quote(s) }

func one(k Kind, project, ref string, found []proto.Message) (string, error) {
	switch len(found) {
	case 1:
		return Field(found[0], "id"), nil
	case 0:
		if project == "" || k == SegmentRange {
			return "", fmt.Errorf("no %s is called %q", k.Noun(), ref)
		}
		return "", fmt.Errorf("no %s is called %q in project %s", k.Noun(), ref, project)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d %ss are called %q; give the id of one of them:", len(found), k.Noun(), ref)
	for _, m := range found {
		b.WriteString("\n  " + candidate(m))
	}
	return "", fmt.Errorf("%s", b.String())
}

// candidate is a line by which a person tells objects of one name apart.
func candidate(m proto.Message) string {
	parts := []string{Field(m, "id")}
	for _, f := range []string{"project", "network_id", "cidr", "ip_address"} {
		if v := Field(m, f); v != "" {
			parts = append(parts, strings.TrimSuffix(f, "_id")+" "+v)
		}
	}
	return strings.Join(parts, ", ")
}

// Field is a string field of an object, "" when the object has none of that name.
func Field(m proto.Message, name string) string {
	r := m.ProtoReflect()
	f := r.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return ""
	}
	return r.Get(f).String()
}

// Status is the status of an object, nil when its kind has none.
func Status(m proto.Message) *weftv1.ObjectStatus {
	if s, ok := m.(interface{ GetStatus() *weftv1.ObjectStatus }); ok {
		return s.GetStatus()
	}
	return nil
}
