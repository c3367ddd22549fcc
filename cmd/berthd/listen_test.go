package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMain lets a test connect as somebody else.
func TestMain(m *testing.M) {
	path := os.Getenv("BERTH_TEST_CONNECT")
	if path == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if err == io.EOF || errors.Is(err, syscall.ECONNRESET) { // hung up
		os.Exit(3)
	}
	os.Exit(4)
}

// TestOthersAreNotServed: the socket is root's alone, whatever its mode has become.
func TestOthersAreNotServed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	dir, err := os.MkdirTemp("", "berth-listen-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, self := filepath.Join(dir, "s"), filepath.Join(dir, "test")
	inner, err := listen(t.Context(), path, "--socket")
	if err != nil {
		t.Fatal(err)
	}
	l := &rootListener{UnixListener: inner}
	defer l.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(path, 0o666), os.WriteFile(self, data, 0o755)); err != nil { //nolint:gosec // others are to run it
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			_, _ = conn.Write([]byte("x"))
			conn.Close()
		}
	}()
	for _, who := range []struct {
		uid  uint32
		code int
	}{{65534, 3}, {0, 4}} {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = []string{"BERTH_TEST_CONNECT=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who.uid, Gid: who.uid}}
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != who.code {
			t.Errorf("user %d: %d, want %d", who.uid, got, who.code)
		}
	}
}
