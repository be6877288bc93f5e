package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-sdn/weft/ipam"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
	"github.com/weft-sdn/weft/segments"
)

// Status translates an error of a handler into a gRPC status: field errors become INVALID_ARGUMENT with a
// google.rpc.BadRequest that lists them, refusals their own code, the store's errors UNAVAILABLE or ABORTED. Anything
// else is INTERNAL, and a bug. A nil error gives nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if fields := model.FieldErrors(err); len(fields) > 0 {
		return badRequest(err, fields)
	}
	s := status.New(Code(err), shorten(message(err), maxMessage))
	if reason := reason(err); reason != "" {
		if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "weft"}); err == nil {
			return with.Err()
		}
	}
	return s.Err()
}

func reason(err error) string {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason
	case errors.Is(err, store.ErrUnavailable):
		return StoreUnreachable
	default:
		return ""
	}
}

// StoreUnreachable is the reason in the google.rpc.ErrorInfo of an UNAVAILABLE that a controller itself gives: it is there,
// its store is not.
const StoreUnreachable = "STORE_UNREACHABLE"

// ReasonNodeSilent is the reason of an UNAVAILABLE that is a node's: its agent does not answer.
const ReasonNodeSilent = "NODE_SILENT"

// Limits on what is told of an error, which travels in HTTP headers: a message repeats what the caller sent.
const (
	maxMessage = 4096
	maxField   = 512
	maxFields  = 16
)

// shorten cuts a text that is too long, between characters.
func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:limit], ""), len(s))
}

func message(err error) string {
	switch {
	case errors.Is(err, store.ErrUnavailable):
		return fmt.Sprintf("the store (etcd) can't be reached; try again later: a change may have been made or not, with the same request id it is made once: %v", err)
	case errors.Is(err, store.ErrConflict):
		return fmt.Sprintf("too many others are changing the same objects; try again: %v", err)
	case errors.Is(err, store.ErrFull):
		return fmt.Sprintf("etcd takes no more, nothing was changed; if its space quota is reached compact and defragment it, then disarm the alarm: %v", err)
	case errors.Is(err, store.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Sprintf("the revision is not there, or no longer; list again: %v", err)
	default:
		return err.Error()
	}
}

// Code is the gRPC code of an error, as Status gives it.
func Code(err error) codes.Code {
	var refusal *Refusal
	var addresses *ipam.Exhausted
	var segment *segments.Exhausted
	switch {
	case err == nil:
		return codes.OK
	case len(model.FieldErrors(err)) > 0:
		return codes.InvalidArgument
	case errors.As(err, &refusal):
		return refusal.Code
	case errors.As(err, &addresses), errors.As(err, &segment):
		return codes.ResourceExhausted
	case errors.Is(err, txn.ErrTooLarge):
		return codes.FailedPrecondition
	default:
		return storeCode(err)
	}
}

func storeCode(err error) codes.Code {
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		return codes.Aborted
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return codes.Unavailable
	case errors.Is(err, store.ErrFull):
		return codes.ResourceExhausted
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	default:
		if s, ok := status.FromError(err); ok {
			return s.Code()
		}
		return codes.Internal
	}
}

func badRequest(err error, fields []*model.FieldError) error {
	detail := &errdetails.BadRequest{}
	for _, f := range fields[:min(len(fields), maxFields)] {
		detail.FieldViolations = append(detail.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: shorten(f.Field, maxField), Description: shorten(f.Problem, maxField),
		})
	}
	s := status.New(codes.InvalidArgument, shorten(err.Error(), maxMessage))
	if detailed, err := s.WithDetails(detail); err == nil {
		s = detailed
	}
	return s.Err()
}
