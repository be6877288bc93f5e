package fleet

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Verb is what an action does to its object.
type Verb int

// The verbs.
const (
	Unchanged Verb = iota
	Create
	Update
)

// Action is one step of a plan.
type Action struct {
	Verb Verb
	// Noun and Name say of what, for people: "network", "net1".
	Noun, Name string
	// Detail says what an update changes, e.g. "mtu".
	Detail string
	// Request is the call to make, a request message of weft.v1; nil when the object is unchanged. Ids of objects that an
	// earlier action creates are placeholders in it, see Fill.
	Request proto.Message
	// Placeholder stands for the id of the object that this action creates; "" otherwise.
	Placeholder string
}

// String is the action after it was done, e.g. "updated network net1: mtu".
func (a Action) String() string { return a.text("unchanged", "created", "updated") }

// Intent is the action before it is done, e.g. "would update network net1: mtu".
func (a Action) Intent() string { return a.text("unchanged", "would create", "would update") }

func (a Action) text(verbs ...string) string {
	s := fmt.Sprintf("%s %s %s", verbs[a.Verb], a.Noun, a.Name)
	if a.Detail != "" {
		s += ": " + a.Detail
	}
	return s
}

// Changes are the actions that change anything.
func Changes(actions []Action) []Action {
	var out []Action
	for _, a := range actions {
		if a.Request != nil {
			out = append(out, a)
		}
	}
	return out
}

// Summary counts the objects of a plan, e.g. "2 created, 1 updated, 7 unchanged", or says "no changes".
func Summary(actions []Action) string {
	verbs := map[[2]string]Verb{}
	for _, a := range actions {
		id := [2]string{a.Noun, a.Name}
		if old, ok := verbs[id]; !ok || old == Unchanged {
			verbs[id] = a.Verb
		}
	}
	count := map[Verb]int{}
	for _, v := range verbs {
		count[v]++
	}
	if count[Create]+count[Update] == 0 {
		return "no changes"
	}
	return fmt.Sprintf("%d created, %d updated, %d unchanged", count[Create], count[Update], count[Unchanged])
}

// placeholder stands for the id of an object that does not exist yet. NUL can't stand in any value that the API takes.
func placeholder(noun, name string) string { return "\x00" + noun + "\x00" + name }

// Fill returns the request with the ids in the place of their placeholders. A placeholder that ids does not hold is an
// error: the action that creates the object has not been done.
func Fill(request proto.Message, ids map[string]string) (proto.Message, error) {
	out := proto.Clone(request)
	var missing error
	walk(out.ProtoReflect(), func(s string) string {
		if !strings.HasPrefix(s, "\x00") {
			return s
		}
		id, ok := ids[s]
		if !ok {
			missing = fmt.Errorf("%s has no id yet", strings.ReplaceAll(strings.TrimPrefix(s, "\x00"), "\x00", " "))
		}
		return id
	})
	return out, missing
}

// walk replaces every string in a message and the messages within it, but for those in maps.
func walk(m protoreflect.Message, replace func(string) string) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), replace)
			}
		case fd.IsList() && fd.Kind() == protoreflect.StringKind:
			for i := range v.List().Len() {
				v.List().Set(i, protoreflect.ValueOfString(replace(v.List().Get(i).String())))
			}
		case fd.IsList():
		case fd.Message() != nil:
			walk(v.Message(), replace)
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(replace(v.String())))
		}
		return true
	})
}
