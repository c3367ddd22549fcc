package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWriteTo: an export goes into pipes and through links, and replaces nothing that is no
// file.
func TestWriteTo(t *testing.T) {
	dir := t.TempDir()
	say := func(text string) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("file"), []byte("old"), 0o600), os.Symlink("file", path("link")), os.Symlink("absent", path("dangling")),
		syscall.Mkfifo(path("pipe"), 0o600), os.Mkdir(path("folder"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := writeTo(path("link"), say("new")); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(path("link")); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link: %v, %v", info, err)
	}
	if data, err := os.ReadFile(path("file")); err != nil || string(data) != "new" {
		t.Errorf("the file: %q, %v", data, err)
	}
	if info, err := os.Stat(path("file")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info, err)
	}
	broken := errors.New("broken")
	if err := writeTo(path("file"), func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an export that fails: %v", err)
	}
	if data, err := os.ReadFile(path("file")); err != nil || string(data) != "new" {
		t.Errorf("after an export that failed: %q, %v", data, err)
	}
	read := make(chan string)
	go func() {
		data, _ := os.ReadFile(path("pipe"))
		read <- string(data)
	}()
	if err := writeTo(path("pipe"), say("through")); err != nil {
		t.Error(err)
	}
	if got := <-read; got != "through" {
		t.Errorf("the pipe: %q", got)
	}
	if info, err := os.Lstat(path("pipe")); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the pipe: %v, %v", info, err)
	}
	if err := writeTo(path("folder"), func(io.Writer) error { t.Error("written"); return nil }); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("a folder: %v", err)
	}
	if err := writeTo(path("fresh"), say("x")); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(path(".*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
