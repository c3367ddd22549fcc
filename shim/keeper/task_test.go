package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// The node's trouble is told from the container's.
func TestCodeOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{&os.PathError{Op: "open", Path: "x", Err: unix.EMFILE}, codes.ResourceExhausted},
		{fmt.Errorf("record: %w", unix.ENOSPC), codes.ResourceExhausted},
		{os.NewSyscallError("pipe2", unix.ENFILE), codes.ResourceExhausted},
		{unix.EDQUOT, codes.ResourceExhausted},
		{unix.ENOENT, codes.Internal},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("no such command"), codes.Internal},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}
