package render

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// field is one row of the table of an object.
type field struct{ name, value string }

// fields are the rows of an object in the order of its message. Rows that only say how the object came to be are wide.
func fields(m protoreflect.Message, wide bool) []field {
	var out []field
	fds := m.Descriptor().Fields()
	for i := range fds.Len() {
		fd := fds.Get(i)
		name := string(fd.Name())
		if name == "quota_place" && !wide {
			continue
		}
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			out = append(out, field{name, strings.Join(fieldValues(m, fd), "\n")})
			continue
		}
		switch sub := m.Get(fd).Message().Interface().(type) {
		case *weftv1.ObjectStatus:
			out = append(out, statusFields(sub, wide)...)
		case *timestamppb.Timestamp:
			out = append(out, field{name, timestamp(sub)})
		case *weftv1.Placement:
			out = append(out,
				field{name, strings.Join(sub.GetNodes(), ", ")},
				field{name + ".rejected", rejections(sub)})
		default:
			out = append(out, nested(name, m, fd, wide)...)
		}
	}
	return slices.DeleteFunc(out, func(f field) bool { return strings.HasSuffix(f.name, ".rejected") && f.value == "" })
}

// nested are the rows of a message within the object, each with the path as its name; one empty row when it is absent.
func nested(name string, m protoreflect.Message, fd protoreflect.FieldDescriptor, wide bool) []field {
	if !m.Has(fd) {
		return []field{{name, ""}}
	}
	sub := fields(m.Get(fd).Message(), wide)
	for i := range sub {
		sub[i].name = name + "." + sub[i].name
	}
	return sub
}

func statusFields(s *weftv1.ObjectStatus, wide bool) []field {
	out := []field{{"status", state(s.GetState())}}
	switch {
	case s.GetMessage() != "":
		out = append(out, field{"status.message", Clean(s.GetMessage())})
	case s.GetReason() != "":
		out = append(out, field{"status.reason", Clean(s.GetReason())})
	}
	if !wide {
		return out
	}
	var lines []string
	for _, r := range s.GetReports() {
		line := fmt.Sprintf("%s: %s of revision %d at %s", r.GetNode(), state(r.GetState()), r.GetRevision(), timestamp(r.GetTime()))
		if r.GetMessage() != "" {
			line += ": " + r.GetMessage()
		}
		lines = append(lines, Clean(line))
	}
	return append(out, field{"status.reports", strings.Join(lines, "\n")})
}

func rejections(p *weftv1.Placement) string {
	var lines []string
	for _, r := range p.GetRejected() {
		lines = append(lines, Clean(r.GetNode()+": "+r.GetReason()))
	}
	return strings.Join(lines, "\n")
}

func state(s weftv1.State) string {
	if s == weftv1.State_STATE_UNSPECIFIED {
		return ""
	}
	return strings.TrimPrefix(s.String(), "STATE_")
}

func timestamp(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().IsZero() || !t.IsValid() || t.AsTime().Unix() == 0 {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// values follows a path of fields and gives what it finds, one per element of the repeated fields on the way.
func values(m protoreflect.Message, path string) []string {
	name, rest, deeper := strings.Cut(path, ".")
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case fd == nil:
		return nil
	case !deeper:
		return fieldValues(m, fd)
	case fd.IsList():
		var out []string
		for i := range m.Get(fd).List().Len() {
			out = append(out, values(m.Get(fd).List().Get(i).Message(), rest)...)
		}
		return out
	case fd.Message() != nil:
		return values(m.Get(fd).Message(), rest)
	}
	return nil
}

// fieldValues are the elements of a field, of a singular field its one value, and nothing for an unset optional field
// or message that has no default.
func fieldValues(m protoreflect.Message, fd protoreflect.FieldDescriptor) []string {
	v := m.Get(fd)
	switch {
	case fd.IsList():
		var out []string
		for i := range v.List().Len() {
			out = append(out, scalar(fd, v.List().Get(i)))
		}
		return out
	case fd.IsMap():
		var out []string
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out = append(out, Clean(k.String())+"="+scalar(fd.MapValue(), e))
			return true
		})
		slices.Sort(out)
		return out
	case fd.HasPresence() && !m.Has(fd):
		if fd.Kind() == protoreflect.BoolKind {
			return []string{"true"} // an optional bool of the API is one whose default is true
		}
		return nil
	}
	return []string{scalar(fd, v)}
}

func scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case fd.Enum() != nil:
		return enum(fd.Enum(), v.Enum())
	case fd.Message() != nil:
		return compact(v.Message())
	}
	return Clean(v.String())
}

// enum is the short name of a value: without the prefix that proto style asks for; states stay in capitals.
func enum(d protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := d.Values().ByNumber(n)
	if v == nil {
		return fmt.Sprint(n)
	}
	if n == 0 {
		return ""
	}
	prefix := strings.TrimSuffix(string(d.Values().ByNumber(0).Name()), "UNSPECIFIED")
	short := strings.TrimPrefix(string(v.Name()), prefix)
	if d.FullName() == weftv1.State_STATE_UNSPECIFIED.Descriptor().FullName() {
		return short
	}
	return strings.ToLower(short)
}

// compact is a message within a cell.
func compact(m protoreflect.Message) string {
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return timestamp(v)
	case *weftv1.AllocationPool:
		return Clean(v.GetStart() + "-" + v.GetEnd())
	case *weftv1.Route:
		return Clean(v.GetDestination() + " via " + v.GetNexthop())
	case *weftv1.DhcpOption:
		return Clean(v.GetName() + "=" + v.GetValue())
	case *weftv1.NodeRejection:
		return Clean(v.GetNode() + ": " + v.GetReason())
	case *weftv1.RouterInstance:
		return instance(v)
	case *weftv1.Uplink:
		return uplink(v)
	}
	var parts []string
	fds := m.Descriptor().Fields()
	for i := range fds.Len() {
		if vs := fieldValues(m, fds.Get(i)); len(vs) > 0 && vs[0] != "" {
			parts = append(parts, string(fds.Get(i).Name())+"="+strings.Join(vs, ","))
		}
	}
	return strings.Join(parts, " ")
}

func instance(v *weftv1.RouterInstance) string {
	role := "standby"
	if v.GetActive() {
		role = "active"
	}
	out := v.GetNode() + ": " + role + ", " + state(v.GetState())
	if v.GetMessage() != "" {
		out += ": " + v.GetMessage()
	}
	return Clean(out)
}

func uplink(v *weftv1.Uplink) string {
	out := v.GetPhysicalNetwork() + " by " + v.GetBridge() + ": proven"
	if !v.GetProven() {
		out = v.GetPhysicalNetwork() + " by " + v.GetBridge() + ": not proven: " + v.GetReason()
	}
	return Clean(out)
}

// CleanLines is Clean for a text of several lines.
func CleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Clean(line)
	}
	return strings.Join(lines, "\n")
}

// Clean replaces what would change the terminal or the shape of a table or line: whatever an object holds, it is text.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r) {
			return '?'
		}
		return r
	}, s)
}

// Summary is the object in a few words: what it is called and its state, e.g. for a stream of changes.
func Summary(m proto.Message, paths ...string) string {
	var parts []string
	for _, p := range paths {
		if v := strings.Join(values(m.ProtoReflect(), p), ","); v != "" {
			parts = append(parts, v)
		}
	}
	return strings.Join(parts, "  ")
}
