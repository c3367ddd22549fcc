package keeper

import (
	"context"
	"errors"
	"os"

	"github.com/berthd/berth/shim/keeper/ociruntime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a caller may want to tell apart: each has a code on the wire. Wrapped with
// the task's ID.
var (
	errNotFound   = errors.New("not found")
	errExists     = errors.New("already exists")
	errNotRunning = errors.New("not running")
	errNoTerminal = errors.New("it has none")
	errInvalid    = errors.New("invalid request")
	errUnbuilt    = errors.New("not implemented")
	errBusy       = errors.New("it still has tasks")
	errBelowUsage = errors.New("that is less than what is in use and cannot be reclaimed; nothing was changed")
)

// codeOf says which code an error has on the wire.
func codeOf(err error) codes.Code {
	if isExhausted(err) {
		return codes.ResourceExhausted
	}
	for _, c := range [...]struct {
		err  error
		code codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errNotFound, codes.NotFound},
		{errExists, codes.AlreadyExists},
		{errNotRunning, codes.FailedPrecondition},
		{errNoTerminal, codes.FailedPrecondition},
		{errBusy, codes.FailedPrecondition},
		{errInvalid, codes.InvalidArgument},
		{errUnbuilt, codes.Unimplemented},
		{errBelowUsage, codes.OutOfRange},
		{ociruntime.ErrBroken, codes.Aborted},
		{os.ErrPermission, codes.PermissionDenied},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return codes.Internal
}

// toStatus gives err its code and keeps its text.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codeOf(err), err.Error())
}
