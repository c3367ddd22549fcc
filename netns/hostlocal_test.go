package netns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestGCHostLocal: what host-local has on record from before the machine's boot, and no
// pod on record has, is given back; it has no GC of its own.
func TestGCHostLocal(t *testing.T) { onNodes(t, testGCHostLocal, byPrograms, inProcess) }

func testGCHostLocal(t *testing.T, h *node) {
	mine := h.pod("mine")
	h.attach(mine)
	kept := h.pod("kept")
	h.attach(kept)
	boot, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	if up := time.Since(boot); up < time.Second || up > 10*365*24*time.Hour {
		t.Fatalf("booted %s ago", up)
	}
	before := boot.Add(-time.Minute)
	put := func(name, text string, at time.Time) {
		t.Helper()
		write(t, filepath.Join(h.ipam, name), text)
		if err := os.Chtimes(filepath.Join(h.ipam, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	put("10.88.1.1", "", before)
	put("10.88.1.2", "lost\r\neth0", before)
	put("10.88.1.3", "kept", before) // an older host-local's
	put("10.88.1.4", "kept\r\neth0", before)
	put("10.88.1.5", "ke", before) // torn
	put("fd00::1", "lost\r\neth0", before)
	put("10.88.1.6", "others\r\neth0", time.Now())
	put("10.88.1.7", "", time.Now())
	put("notes", "", before)
	put("last_reserved_ip.0", "10.88.1.7", before)
	if err := h.net.GC(limited(t), []Attachment{kept}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"10.88.1.1": false, "10.88.1.2": false, "10.88.1.5": false, "fd00::1": false, "lock": true, "last_reserved_ip.0": true, "notes": true,
		"10.88.1.3": true, "10.88.1.4": true, "10.88.1.6": true, "10.88.1.7": true, "10.88.0.2": true, "10.88.0.3": true,
	} {
		if _, err := os.Stat(filepath.Join(h.ipam, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.remove(kept)
	h.remove(mine)
}

// TestGCHostLocalBusy: a host-local that hangs with its lock is not waited for without end.
func TestGCHostLocalBusy(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "lock"), "")
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if held, err := tryLock(f); held || err != nil {
		t.Fatal(held, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the deadline of GC")
	cancel(cause)
	if err := collectReservations(ctx, dir, time.Now(), nil); !errors.Is(err, cause) {
		t.Errorf("with a held lock: %v", err)
	}
}
