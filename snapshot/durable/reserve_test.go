package durable

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReserve: on a full disk, giving the reserve up makes room for a file.
func TestReserve(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r, index := NewReserve(filepath.Join(dir, "reserve"), 4<<20), filepath.Join(dir, "index")
	for range 2 { // it may be there
		if err := r.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	full, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for err == nil {
		_, err = full.Write(make([]byte, 64<<10))
	}
	if err := WriteFile(index, make([]byte, 100<<10), 0o600); !IsFull(err) {
		t.Fatalf("on a full disk: %v", err)
	}
	for range 2 {
		if err := r.GiveUp(); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(index, make([]byte, 100<<10), 0o600); err != nil {
		t.Errorf("after the reserve was given up: %v", err)
	}
	if err := r.Fill(); err != nil { // smaller than it was
		t.Errorf("again: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || info.Size() < leastReserve || info.Size() >= 4<<20 {
		t.Errorf("again: %v, %v", info, err)
	}
	for err = nil; err == nil; {
		_, err = full.Write(make([]byte, 4<<10))
	}
	if err := r.GiveUp(); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = full.Write(make([]byte, 4<<10))
	}
	if err := r.Fill(); !IsFull(err) {
		t.Errorf("without room: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "reserve")); !os.IsNotExist(err) {
		t.Errorf("without room: %v", err)
	}
}
