package caller

import (
	"context"
	"log/slog"
	"strings"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// record leaves a line of a call that changes something, or would have: who, from where, what, on which object, under which
// request id, and what became of it. Of the object it has the ids alone: nothing that a caller sends in confidence is in it.
func (g *Guard) record(ctx context.Context, c Caller, method string, req, resp any, err error) {
	act, _ := g.policy.of(method)
	if g.opts.Trail == nil || !act.mutates() {
		return
	}
	attrs := []slog.Attr{
		slog.String("caller", c.Name), slog.String("role", c.Role.String()),
		slog.String("method", strings.TrimPrefix(method, "/weft.v1.")), slog.String("result", status.Code(err).String()),
	}
	if from, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("from", from.Addr.String()))
	}
	for name, id := range ids(req, resp) {
		attrs = append(attrs, slog.String(name, id))
	}
	g.opts.Trail.LogAttrs(ctx, slog.LevelInfo, "call", attrs...)
}

// maxID is the most that is told of an id, which a caller may have made up.
const maxID = 64

// ids are what tells of a request and its answer which object they are about, and which projects.
func ids(req, resp any) map[string]string {
	out := map[string]string{}
	for _, m := range []any{req, resp} {
		if m, ok := m.(proto.Message); ok && m.ProtoReflect().IsValid() {
			collect(m.ProtoReflect(), out, true)
		}
	}
	return out
}

// collect takes a message's ids and projects, and those of the object within it.
func collect(m protoreflect.Message, out map[string]string, within bool) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch name := string(fd.Name()); {
		case fd.IsList() || fd.IsMap():
		case fd.Kind() == protoreflect.StringKind && (name == "id" || name == "project" || name == "target_project" || strings.HasSuffix(name, "_id")):
			text := v.String()
			out[name] = text[:min(len(text), maxID)]
		case fd.Message() != nil && within:
			collect(v.Message(), out, false)
		}
		return true
	})
}
