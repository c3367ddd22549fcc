package keeper

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What a caller may want to tell apart. Wrapped with the task's ID.
var (
	ErrNotFound   = errors.New("not found")
	ErrExists     = errors.New("already exists")
	ErrNotRunning = errors.New("not running")
	ErrNoTerminal = errors.New("it has none")
	ErrInvalid    = errors.New("invalid request")
	ErrUnbuilt    = errors.New("not implemented")
	ErrBusy       = errors.New("it still has tasks")
)

// codeOf says which code an error has on the wire. The first match counts.
var codeOf = [...]struct {
	err  error
	code codes.Code
}{
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{ErrNotFound, codes.NotFound},
	{ErrExists, codes.AlreadyExists},
	{ErrNotRunning, codes.FailedPrecondition},
	{ErrNoTerminal, codes.FailedPrecondition},
	{ErrBusy, codes.FailedPrecondition},
	{ErrInvalid, codes.InvalidArgument},
	{ErrUnbuilt, codes.Unimplemented},
	{os.ErrPermission, codes.PermissionDenied},
}

// toStatus gives err its code and keeps its text.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, c := range codeOf {
		if errors.Is(err, c.err) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
