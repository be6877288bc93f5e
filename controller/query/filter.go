// Package query understands the filter, order_by and page_token fields of list calls: it parses them against a message's
// descriptor, matches and compares messages, and makes tokens. It is pure and knows nothing of where messages come from.
package query

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weft-sdn/weft/proto/model"
)

// Limits on what a caller may send.
const (
	maxText  = 4096
	maxTerms = 32
)

// Filter is a parsed filter: terms that must all hold. The zero Filter matches everything.
type Filter struct {
	terms []term
}

type term struct {
	path   path
	text   string
	negate bool
	equal  func(protoreflect.Value) bool
}

// path is the fields that lead to a scalar, the key of a map at its end.
type path struct {
	fields []protoreflect.FieldDescriptor
	key    string // of a map field, the last one
	name   string
}

func (p path) last() protoreflect.FieldDescriptor { return p.fields[len(p.fields)-1] }

// scalar is the field whose values are compared: the last one, or the value of a map.
func (p path) scalar() protoreflect.FieldDescriptor {
	if p.last().IsMap() {
		return p.last().MapValue()
	}
	return p.last()
}

// ParseFilter parses `field = value AND field != value …`. A value is bare or in double quotes with Go's escapes; a field
// is the path of a scalar in proto names, through repeated messages too, of which any element may match. Errors are
// model.FieldErrors on "filter".
func ParseFilter(d protoreflect.MessageDescriptor, text string) (Filter, error) {
	if len(text) > maxText {
		return Filter{}, model.Invalid("filter", "is %d bytes long, the limit is %d", len(text), maxText)
	}
	tokens, err := tokenize(text)
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	for len(tokens) > 0 {
		if len(f.terms) == maxTerms {
			return Filter{}, model.Invalid("filter", "has more than %d terms", maxTerms)
		}
		if tokens, err = f.term(d, tokens); err != nil {
			return Filter{}, err
		}
	}
	return f, nil
}

// term takes one term, and the AND after it, off the tokens.
func (f *Filter) term(d protoreflect.MessageDescriptor, tokens []token) ([]token, error) {
	if len(tokens) < 3 || tokens[0].quoted || !tokens[1].operator {
		return nil, model.Invalid("filter", "expected `field = value` at %q", textOf(tokens))
	}
	p, err := parsePath("filter", d, tokens[0].text)
	if err != nil {
		return nil, err
	}
	t := term{path: p, text: tokens[2].text, negate: tokens[1].text == "!="}
	if t.equal, err = equality(p, tokens[2].text); err != nil {
		return nil, err
	}
	f.terms = append(f.terms, t)
	rest := tokens[3:]
	if len(rest) == 0 {
		return nil, nil
	}
	if rest[0].quoted || !strings.EqualFold(rest[0].text, "AND") || len(rest) == 1 {
		return nil, model.Invalid("filter", "expected AND and another term at %q", textOf(rest))
	}
	return rest[1:], nil
}

func textOf(tokens []token) string {
	texts := make([]string, len(tokens))
	for i, t := range tokens {
		texts[i] = t.text
	}
	return strings.Join(texts, " ")
}

type token struct {
	text             string
	quoted, operator bool
}

func tokenize(text string) ([]token, error) {
	var out []token
	for {
		text = strings.TrimLeft(text, " \t\r\n")
		switch {
		case text == "":
			return out, nil
		case strings.HasPrefix(text, "!="):
			out, text = append(out, token{text: "!=", operator: true}), text[2:]
		case text[0] == '=':
			out, text = append(out, token{text: "=", operator: true}), text[1:]
		case text[0] == '"':
			quoted, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, model.Invalid("filter", "a quote is not closed or badly escaped: %q", text)
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, model.Invalid("filter", "%s is badly escaped", quoted)
			}
			out, text = append(out, token{text: value, quoted: true}), text[len(quoted):]
		default:
			n := strings.IndexAny(text, " \t\r\n=!\"")
			if n == 0 {
				return nil, model.Invalid("filter", "%q is no operator; there are = and !=", text[:1])
			}
			if n < 0 {
				n = len(text)
			}
			out, text = append(out, token{text: text[:n]}), text[n:]
		}
	}
}

func parsePath(field string, d protoreflect.MessageDescriptor, text string) (path, error) {
	p := path{name: text}
	rest := text
	for {
		name, more, deeper := strings.Cut(rest, ".")
		fd := d.Fields().ByName(protoreflect.Name(name))
		if fd == nil {
			return path{}, model.Invalid(field, "%s has no field %q", d.Name(), name)
		}
		p.fields = append(p.fields, fd)
		switch {
		case fd.IsMap() && deeper:
			p.key = more
			return p, nil
		case fd.IsMap():
			return path{}, model.Invalid(field, "%q is a map: name one of its keys, as in %s.key", text, text)
		case fd.Message() == nil && deeper:
			return path{}, model.Invalid(field, "%q has no fields of its own", name)
		case fd.Message() == nil:
			return p, nil
		case !deeper:
			return path{}, model.Invalid(field, "%q is not a scalar: name one of its fields", text)
		}
		d, rest = fd.Message(), more
	}
}

// equality makes the comparison of a scalar with the value's text.
func equality(p path, text string) (func(protoreflect.Value) bool, error) {
	bad := func(what string) error { return model.Invalid("filter", "%s: %q is not %s", p.name, text, what) }
	switch fd := p.scalar(); fd.Kind() {
	case protoreflect.StringKind:
		return func(v protoreflect.Value) bool { return v.String() == text }, nil
	case protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, bad("true or false")
		}
		return func(v protoreflect.Value) bool { return v.Bool() == b }, nil
	case protoreflect.EnumKind:
		n, ok := enumNumber(fd.Enum(), text)
		if !ok {
			return nil, bad("one of " + strings.Join(enumNames(fd.Enum()), ", "))
		}
		return func(v protoreflect.Value) bool { return v.Enum() == n }, nil
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, bad("a number")
		}
		return func(v protoreflect.Value) bool { return number(v) == n }, nil
	default:
		return nil, model.Invalid("filter", "%s: fields of this type can't be compared", p.name)
	}
}

func number(v protoreflect.Value) int64 {
	switch n := v.Interface().(type) {
	case int32:
		return int64(n)
	case int64:
		return n
	case uint32:
		return int64(n)
	case uint64:
		return int64(n) //nolint:gosec // no field of the API is that large
	default:
		return 0
	}
}

// enumPrefix is what all names of an enum begin with: "NETWORK_TYPE_".
func enumPrefix(d protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(d.Values().Get(0).Name()), "UNSPECIFIED")
}

func enumNumber(d protoreflect.EnumDescriptor, text string) (protoreflect.EnumNumber, bool) {
	for i := range d.Values().Len() {
		v := d.Values().Get(i)
		if strings.EqualFold(string(v.Name()), text) || strings.EqualFold(strings.TrimPrefix(string(v.Name()), enumPrefix(d)), text) {
			return v.Number(), true
		}
	}
	return 0, false
}

func enumNames(d protoreflect.EnumDescriptor) []string {
	var out []string
	for i := 1; i < d.Values().Len(); i++ {
		out = append(out, strings.ToLower(strings.TrimPrefix(string(d.Values().Get(i).Name()), enumPrefix(d))))
	}
	return out
}

// Empty reports whether the filter has no terms.
func (f Filter) Empty() bool { return len(f.terms) == 0 }

// Exactly is the value that a filter demands of a field, if it does: then only objects with it can match.
func (f Filter) Exactly(field string) (string, bool) {
	for _, t := range f.terms {
		if t.path.name == field && !t.negate {
			return t.text, true
		}
	}
	return "", false
}

// Match reports whether all terms hold for a message. A term with != holds if no element is equal.
func (f Filter) Match(m protoreflect.Message) bool {
	for _, t := range f.terms {
		if anyEqual(m, t.path, t.equal) == t.negate {
			return false
		}
	}
	return true
}

func anyEqual(m protoreflect.Message, p path, equal func(protoreflect.Value) bool) bool {
	found := false
	walk(m, p.fields, p.key, func(v protoreflect.Value) { found = found || equal(v) })
	return found
}

// walk visits every value at the end of a path; an unset optional message has none, an unset scalar its default.
func walk(m protoreflect.Message, fields []protoreflect.FieldDescriptor, key string, visit func(protoreflect.Value)) {
	fd, rest := fields[0], fields[1:]
	value := m.Get(fd)
	switch {
	case fd.IsMap():
		if v := value.Map().Get(protoreflect.ValueOfString(key).MapKey()); v.IsValid() {
			visit(v)
		}
	case fd.IsList():
		for i := range value.List().Len() {
			if len(rest) == 0 {
				visit(value.List().Get(i))
				continue
			}
			walk(value.List().Get(i).Message(), rest, key, visit)
		}
	case len(rest) == 0:
		visit(value)
	case m.Has(fd):
		walk(value.Message(), rest, key, visit)
	}
}

// canonical helps order addresses as numbers rather than as text.
func canonical(s string) string {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
		b := ip.As4()
		return fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3])
	}
	return s
}
