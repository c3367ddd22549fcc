package shim

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrExhausted: no fault of the container's; the same request may succeed later.
var ErrExhausted = errors.New("the node is out of space or descriptors")

// errLost: the connection ended under a call. What became of the call is not known.
var errLost = fmt.Errorf("connection lost: %w", ErrUnavailable)

// sentinelOf says which error of ours a code on the wire is. The rest is what the
// runtime said of the container.
func sentinelOf(c codes.Code) error {
	switch c {
	case codes.NotFound:
		return ErrNotFound
	case codes.AlreadyExists:
		return ErrExists
	case codes.FailedPrecondition:
		return ErrNotRunning
	case codes.InvalidArgument:
		return ErrInvalid
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case codes.Canceled:
		return context.Canceled
	case codes.Unavailable:
		return ErrUnavailable
	case codes.Unimplemented:
		return ErrUnimplemented
	case codes.ResourceExhausted:
		return ErrExhausted
	case codes.OutOfRange:
		return ErrBelowUsage
	case codes.Aborted:
		return ErrBrokenRuntime
	}
	return ErrRefused
}

// A wireError is a shim's error: its text, which names the container, and what
// it is.
type wireError struct {
	text string
	is   error
}

func (e *wireError) Error() string { return e.text }
func (e *wireError) Unwrap() error { return e.is }

// fromWire is the one place where a shim's answer becomes an error.
func fromWire(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &wireError{"shim: connection lost", errLost}
	}
	st, ok := status.FromError(err)
	if !ok {
		return &wireError{err.Error(), errLost}
	}
	return &wireError{st.Message(), sentinelOf(st.Code())}
}
