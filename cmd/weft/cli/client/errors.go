package client

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is an answer of the controllers that is not the one asked for, or none at all.
type Error struct {
	Code    codes.Code
	Message string
	// Fields are the violations that the controller names, in its order; empty when it is not about fields.
	Fields []FieldError
	// Reason is what a controller's google.rpc.ErrorInfo says, "" when there is none.
	Reason string
}

// FieldError is what is wrong with one field of the request, by its path, e.g. "fixed_ips[0].ip_address".
type FieldError struct {
	Field, Problem string
}

// Error is the message, or one `field: problem` per line.
func (e *Error) Error() string {
	if len(e.Fields) == 0 {
		return e.Message
	}
	lines := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		lines[i] = f.Field + ": " + f.Problem
	}
	return strings.Join(lines, "\n")
}

// nodeSilent is the reason of an error that is a node's: its agent does not answer, the controllers do.
const nodeSilent = "NODE_SILENT"

// Unreachable reports whether no controller answered, or none could reach the store; the same call may work later.
func (e *Error) Unreachable() bool {
	return (e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded) && e.Reason != nodeSilent
}

// IsNotFound reports whether an error is an Error that says that there is no such object.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == codes.NotFound
}

// IsUnreachable reports whether an error is an Error that is Unreachable.
func IsUnreachable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Unreachable()
}

// fail converts an error of a call; nil becomes an Error of code OK.
func (c *Client) fail(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	s := status.Convert(err)
	e = &Error{Code: s.Code(), Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, FieldError{v.GetField(), v.GetDescription()})
			}
		case *errdetails.ErrorInfo: // a controller's own word, that its store can't be reached
			e.Reason = d.GetReason()
		}
	}
	if e.Unreachable() && e.Reason == "" {
		e.Message = fmt.Sprintf("no controller at %s can answer: %s", strings.Join(c.servers, ", "), innermost(s.Message()))
	}
	return e
}

// innermost takes off what gRPC puts around the message of a call that it repeated in vain.
func innermost(msg string) string {
	if _, inner, ok := strings.Cut(msg, "rpc error: code = Unavailable desc = "); ok {
		msg = inner
	}
	if quoted, ok := strings.CutPrefix(msg, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(quoted); err == nil {
			msg = inner
		}
	}
	return msg
}
