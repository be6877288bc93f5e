package fleet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// wish is an object as the file wants it.
type wish struct {
	where      where
	phase      phase
	noun, name string
	key        string // name within the file; "": the name
	object     proto.Message
	fields     []string // those that the file gives
	mutable    []string // those that an update may change
}

// given notes a field that the file gives.
func given[T any](w *wish, field string, v *T, set func(T)) {
	if v != nil {
		set(*v)
		w.fields = append(w.fields, field)
	}
}

// chosen is given, but a zero value leaves the choice to the controllers, as if the file did not give the field.
func chosen[T comparable](w *wish, field string, v *T, set func(T)) {
	var zero T
	if v != nil && *v != zero {
		given(w, field, v, set)
	}
}

// list notes a list that the file gives; an empty one is given, a nil one is not.
func list[T any](w *wish, field string, v []T, set func([]T)) {
	if v != nil {
		set(v)
		w.fields = append(w.fields, field)
	}
}

// reconcile plans the creation of what the file wants, or the update of what is stored.
func (p *planner) reconcile(w wish, stored proto.Message, create func() proto.Message, update func(mask []string) proto.Message) {
	key := placeholder(w.noun, w.name)
	if w.key != "" {
		key = placeholder(w.noun, w.key)
	}
	if stored == nil {
		p.add(w.phase, Action{Verb: Create, Noun: w.noun, Name: w.name, Request: create(), Placeholder: key})
		return
	}
	var mask []string
	for _, f := range w.fields {
		if same(f, stored.ProtoReflect(), w.object.ProtoReflect()) {
			continue
		}
		if !slices.Contains(w.mutable, f) {
			p.failf(w.where, "%s: is %s and can't be changed to %s; delete the %s first, or give the new one another name",
				f, show(stored, f), show(w.object, f), w.noun)
			continue
		}
		mask = append(mask, f)
	}
	if len(mask) == 0 {
		return
	}
	p.update(w.phase, w.noun, w.name, strings.Join(mask, ", "), update(mask))
}

func descriptorOf(m protoreflect.Message, field string) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(protoreflect.Name(field))
}

// same reports whether a field means the same in both objects.
func same(field string, stored, wanted protoreflect.Message) bool {
	switch field {
	case "fixed_ips":
		return sameFixedIPs(fixedIPsOf(stored), fixedIPsOf(wanted))
	case "security_groups":
		return slices.Equal(groupsOf(stored), groupsOf(wanted))
	case "admin_state_up", "enable_dhcp", "stateful": // unset means true
		return orTrue(stored, field) == orTrue(wanted, field)
	case "instance":
		fd := descriptorOf(stored, field)
		return proto.Equal(stored.Get(fd).Message().Interface(), wanted.Get(fd).Message().Interface())
	}
	return slices.Equal(texts(stored, field), texts(wanted, field))
}

func orTrue(m protoreflect.Message, field string) bool {
	fd := descriptorOf(m, field)
	return !m.Has(fd) || m.Get(fd).Bool()
}

// texts is a field in canonical form: one string per element, sorted unless the order has a meaning.
func texts(m protoreflect.Message, field string) []string {
	fd := descriptorOf(m, field)
	if !fd.IsList() {
		return []string{canonical(m.Get(fd).String())}
	}
	var out []string
	for l, i := m.Get(fd).List(), 0; i < l.Len(); i++ {
		out = append(out, elementText(l.Get(i)))
	}
	if field != "dns_nameservers" { // clients ask them in order
		slices.Sort(out)
	}
	return out
}

func elementText(v protoreflect.Value) string {
	if m, ok := v.Interface().(protoreflect.Message); ok {
		var parts []string
		for i := range m.Descriptor().Fields().Len() {
			parts = append(parts, canonical(m.Get(m.Descriptor().Fields().Get(i)).String()))
		}
		return strings.Join(parts, " ")
	}
	return canonical(v.String())
}

// canonical writes addresses, prefixes and MACs as the controllers store them; other text is left as it is.
func canonical(s string) string {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.String()
	}
	if pre, err := netip.ParsePrefix(s); err == nil {
		return pre.String()
	}
	if mac, err := net.ParseMAC(s); err == nil {
		return mac.String()
	}
	return s
}

// show is a field for people.
func show(m proto.Message, field string) string {
	r := m.ProtoReflect()
	fd := descriptorOf(r, field)
	if fd.Enum() != nil {
		name := string(fd.Enum().Values().ByNumber(r.Get(fd).Enum()).Name())
		return strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(name, "NETWORK_TYPE_"), "VIF_TYPE_"))
	}
	text := strings.Join(texts(r, field), ", ")
	switch {
	case text == "":
		return "empty"
	case strings.HasPrefix(text, "\x00"):
		return "that of a new object"
	}
	return text
}

func fixedIPsOf(m protoreflect.Message) []*weftv1.FixedIp {
	if p, ok := m.Interface().(interface{ GetFixedIps() []*weftv1.FixedIp }); ok {
		return p.GetFixedIps()
	}
	return nil
}

// groupsOf are the ids of a port's security groups, sorted.
func groupsOf(m protoreflect.Message) []string {
	p, ok := m.Interface().(*weftv1.Port)
	if !ok {
		return nil
	}
	return slices.Sorted(slices.Values(p.GetSecurityGroups().GetIds()))
}

// sameFixedIPs reports whether the stored addresses are what is wanted, where a wanted one may leave out its subnet or its
// address. Those that name an address are matched first, so that the open ones take what is left.
func sameFixedIPs(stored, wanted []*weftv1.FixedIp) bool {
	if len(stored) != len(wanted) {
		return false
	}
	wanted = slices.Clone(wanted)
	slices.SortStableFunc(wanted, func(a, b *weftv1.FixedIp) int { return openness(a) - openness(b) })
	left := slices.Clone(stored)
	for _, w := range wanted {
		i := slices.IndexFunc(left, func(s *weftv1.FixedIp) bool {
			return (w.GetIpAddress() == "" || canonical(w.GetIpAddress()) == canonical(s.GetIpAddress())) &&
				(w.GetSubnetId() == "" || w.GetSubnetId() == s.GetSubnetId())
		})
		if i < 0 {
			return false
		}
		left = slices.Delete(left, i, i+1)
	}
	return true
}

// openness is how much a wanted address leaves open.
func openness(f *weftv1.FixedIp) int {
	switch {
	case f.GetIpAddress() != "":
		return 0
	case f.GetSubnetId() != "":
		return 1
	}
	return 2
}

func poolsOf(in []Pool) []*weftv1.AllocationPool {
	out := make([]*weftv1.AllocationPool, len(in))
	for i, p := range in {
		out[i] = &weftv1.AllocationPool{Start: canonical(p.Start), End: canonical(p.End)}
	}
	return out
}

// routeOf and the like convert what the file says into API messages.
func routeOf(r Route) *weftv1.Route {
	return &weftv1.Route{Destination: canonical(r.Destination), Nexthop: canonical(r.Nexthop)}
}

func routesOf(in []Route) []*weftv1.Route {
	out := make([]*weftv1.Route, len(in))
	for i, r := range in {
		out[i] = routeOf(r)
	}
	return out
}

func routeText(r *weftv1.Route) string {
	return fmt.Sprintf("%s via %s", canonical(r.GetDestination()), canonical(r.GetNexthop()))
}
