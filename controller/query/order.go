package query

import (
	"cmp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weft-sdn/weft/proto/model"
)

// Order is a parsed order_by. The zero Order compares all messages equal.
type Order struct {
	keys []orderKey
}

type orderKey struct {
	path       path
	descending bool
}

// ParseOrder parses `field, field desc …`. A field is the path of a scalar as in filters; of repeated ones the first
// counts. Errors are model.FieldErrors on "order_by".
func ParseOrder(d protoreflect.MessageDescriptor, text string) (Order, error) {
	if len(text) > maxText {
		return Order{}, model.Invalid("order_by", "is %d bytes long, the limit is %d", len(text), maxText)
	}
	var o Order
	if strings.TrimSpace(text) == "" {
		return o, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		descending := len(words) == 2 && strings.EqualFold(words[1], "desc")
		if len(words) == 0 || len(words) > 2 || len(words) == 2 && !descending && !strings.EqualFold(words[1], "asc") {
			return Order{}, model.Invalid("order_by", "%q is not `field` or `field desc`", strings.TrimSpace(part))
		}
		if len(o.keys) >= maxTerms {
			return Order{}, model.Invalid("order_by", "has more than %d fields", maxTerms)
		}
		keys, err := parseOrder(d, words[0], descending)
		if err != nil {
			return Order{}, err
		}
		o.keys = append(o.keys, keys...)
	}
	return o, nil
}

// parseOrder makes the keys of one field: one, or for a time, which is a message, its seconds and what is left of them.
func parseOrder(d protoreflect.MessageDescriptor, text string, descending bool) ([]orderKey, error) {
	fd := d.Fields().ByName(protoreflect.Name(text))
	if fd == nil || fd.Message() == nil || fd.Message().FullName() != "google.protobuf.Timestamp" {
		p, err := parsePath("order_by", d, text)
		return []orderKey{{p, descending}}, err
	}
	var out []orderKey
	for _, part := range []protoreflect.Name{"seconds", "nanos"} {
		p := path{fields: []protoreflect.FieldDescriptor{fd, fd.Message().Fields().ByName(part)}, name: text}
		out = append(out, orderKey{p, descending})
	}
	return out, nil
}

// Empty reports whether the order says nothing.
func (o Order) Empty() bool { return len(o.keys) == 0 }

// Compare orders two messages.
func (o Order) Compare(a, b protoreflect.Message) int {
	for _, k := range o.keys {
		c := compare(first(a, k.path), first(b, k.path))
		if k.descending {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func first(m protoreflect.Message, p path) (v protoreflect.Value) {
	walk(m, p.fields, p.key, func(next protoreflect.Value) {
		if !v.IsValid() {
			v = next
		}
	})
	return v
}

// compare orders two scalars of one type; one that is not there comes first, addresses sort as numbers.
func compare(a, b protoreflect.Value) int {
	switch {
	case !a.IsValid() && !b.IsValid():
		return 0
	case !a.IsValid():
		return -1
	case !b.IsValid():
		return 1
	}
	switch x := a.Interface().(type) {
	case string:
		return cmp.Compare(canonical(x), canonical(b.String()))
	case bool:
		return cmp.Compare(rank(x), rank(b.Bool()))
	case protoreflect.EnumNumber:
		return cmp.Compare(x, b.Enum())
	default:
		return cmp.Compare(number(a), number(b))
	}
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}
