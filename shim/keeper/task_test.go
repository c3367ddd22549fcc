package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/berthd/berth/shim/keeper/pidfd"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// A log that waits for its disk, as it does with its lock held, holds up nobody
// but who waits for that log.
func TestReopenOfStalledLog(t *testing.T) {
	k, err := New(t.Context(), Options{State: t.TempDir(), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	task := newTask(taskID{ID: "c"})
	task.log = newTestLog(t)
	task.begin(1, pidfd.Handle{})
	task.state.status = running
	k.tasks["c"] = task

	task.log.mu.Lock()
	reopened := make(chan error, 1)
	go func() { reopened <- task.reopenLog() }()
	listed := make(chan struct{})
	go func() {
		for range 1000 { // among them, one after the reopening has begun to wait
			task.info()
			time.Sleep(100 * time.Microsecond)
		}
		close(listed)
	}()
	select {
	case <-listed:
	case <-time.After(10 * time.Second):
		t.Error("the list waits for the log")
	}
	task.log.mu.Unlock()
	if err := <-reopened; err != nil {
		t.Error(err)
	}
	<-listed
}

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
