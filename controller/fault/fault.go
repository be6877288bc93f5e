// Package fault holds the controller's refusals: why a call can't be done, as values that name the object and what stands
// in the way, and their translation into gRPC statuses. It decides nothing; the handlers do.
package fault

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
)

// Refusal is a call refused for a reason that the caller can do something about.
type Refusal struct {
	Code    codes.Code
	Message string
	// Reason is told in a google.rpc.ErrorInfo; "" for none.
	Reason string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(code codes.Code, format string, args ...any) error {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// NotFound says that there is no object of a kind ("network") with this id.
func NotFound(kind, id string) error {
	return refuse(codes.NotFound, "%s %q does not exist", kind, id)
}

// Taken says that something unique is held already; owner names who holds it.
func Taken(what, owner string) error {
	return refuse(codes.AlreadyExists, "%s is taken by %s", what, owner)
}

// Denied says that it is not the caller's to do.
func Denied(format string, args ...any) error {
	return refuse(codes.PermissionDenied, format, args...)
}

// Precondition says why the state of things does not allow the call.
func Precondition(format string, args ...any) error {
	return refuse(codes.FailedPrecondition, format, args...)
}

// Exhausted says that a pool has nothing left.
func Exhausted(format string, args ...any) error {
	return refuse(codes.ResourceExhausted, format, args...)
}

// Stale says that an etag no longer matches.
func Stale(kind, id, given, current string) error {
	return refuse(codes.Aborted, "%s %s has changed: its etag is %s, not %s; read it again", kind, id, current, given)
}

// Aborted says that the caller has to begin again.
func Aborted(format string, args ...any) error { return refuse(codes.Aborted, format, args...) }

// OutOfRange says that what was asked for lies outside of what is still there.
func OutOfRange(format string, args ...any) error { return refuse(codes.OutOfRange, format, args...) }

// Unavailable says that the caller has to go elsewhere, or come back.
func Unavailable(format string, args ...any) error { return refuse(codes.Unavailable, format, args...) }

// NodeSilent says that a node's agent does not answer: the controller itself does.
func NodeSilent(format string, args ...any) error {
	return &Refusal{Code: codes.Unavailable, Message: fmt.Sprintf(format, args...), Reason: ReasonNodeSilent}
}

// Damaged says that what is stored of an object can't be used. err is told, not wrapped: its fields are not the caller's.
func Damaged(what string, err error) error {
	return refuse(codes.DataLoss, "what is stored of %s is damaged: %v; repair or delete it", what, err)
}

// Label names an object for a person: kind, name if it has one, and id.
func Label(kind, name, id string) string {
	if name == "" {
		return kind + " " + id
	}
	return fmt.Sprintf("%s %q (%s)", kind, name, id)
}

// maxNamed is how many obstacles a message names.
const maxNamed = 10

// Obstacles says what stands in the way of a change: what is the phrase "network … can't be deleted", obstacles are
// Labels. It returns nil when there are none.
func Obstacles(what string, obstacles []string) error {
	if len(obstacles) == 0 {
		return nil
	}
	named, more := obstacles, ""
	if len(named) > maxNamed {
		more = fmt.Sprintf(" and %d more", len(named)-maxNamed)
		named = named[:maxNamed]
	}
	return Precondition("%s: in the way: %s%s", what, strings.Join(named, ", "), more)
}

// IsNotFound reports whether an error is a NotFound.
func IsNotFound(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Code == codes.NotFound
}
