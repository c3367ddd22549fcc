package lazyfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthd/berth/test/faults/lazyfs"
)

// TestHang: who reads waits while it hangs, and gets what is in the file when it works again.
func TestHang(t *testing.T) {
	if os.Geteuid() != 0 && testing.Short() {
		t.Skip("needs root")
	}
	dir, behind := t.TempDir(), filepath.Join(t.TempDir(), "behind")
	if err := os.WriteFile(behind, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := lazyfs.New(dir, behind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	l.Hang()
	read := make(chan string, 1)
	go func() {
		data, _ := os.ReadFile(l.Path)
		read <- string(data)
	}()
	for l.Waiting() == 0 {
		select {
		case got := <-read:
			t.Fatalf("read %q of one that hangs", got)
		case <-time.After(time.Millisecond):
		}
	}
	l.Work()
	if got := <-read; got != "text" || l.Waiting() != 0 {
		t.Errorf("%q, %d wait", got, l.Waiting())
	}
	f, err := os.OpenFile(l.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("TEXT")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(behind); err != nil || string(data) != "TEXT" {
		t.Errorf("behind it: %q, %v", data, err)
	}
}
