package ociruntime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFeaturesWaitEnds: who waits while somebody else asks a program that hangs waits
// no longer than its own context lets it.
func TestFeaturesWaitEnds(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	if err := unix.Mkfifo(asked, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho > "+asked+"\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var programs Programs
	first, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := programs.Features(first, path)
		done <- err
	}()
	if _, err := os.ReadFile(asked); err != nil { // it hangs now
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := programs.Features(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want DeadlineExceeded", err)
	}
	select {
	case err := <-done:
		t.Errorf("it waited for the first to give up: %v", err)
	default:
		stop()
		<-done
	}
}
