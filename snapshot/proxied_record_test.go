package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestProxiedDamagedRecord has a record of an image that the disk has damaged: the daemon
// starts, the image is not sealed, and a pull, which fetches nothing, seals it again.
func TestProxiedDamagedRecord(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"empty": func([]byte) []byte { return nil },
		"torn":  func(data []byte) []byte { return data[:len(data)/2] },
		"bit": func(data []byte) []byte { // of a digest
			data[bytes.Index(data, []byte("sha256:"))+10] ^= 1
			return data
		},
		"bit, no checksum": func(data []byte) []byte {
			data = data[:bytes.IndexByte(data, '\n')]
			data[bytes.Index(data, []byte("sha256:"))+10] ^= 1
			return data
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b, other := newBlob(t, "f", "x"), newBlob(t, "g", "y")
			chain, whole := w.add(b), w.add(other)
			file := w.chainFile(chain)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			w.restart()
			if _, err := os.Lstat(file); err == nil {
				t.Error("the record is there")
			}
			if _, err := w.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) {
				t.Errorf("of an image that is not on record: %v", err)
			}
			if _, err := w.Prepare(t.Context(), "c2", whole); err != nil {
				t.Errorf("of the other image: %v", err)
			}
			w.add(b)
			if b.fetched != 1 {
				t.Errorf("fetched %d times", b.fetched)
			}
			w.restart()
			if _, err := w.Prepare(t.Context(), "c1", chain); err != nil {
				t.Errorf("when it was pulled again: %v", err)
			}
		})
	}
}

// TestProxiedDriverOfDamaged takes the driver from the records that are whole.
func TestProxiedDriverOfDamaged(t *testing.T) {
	w := newWorld(t)
	w.add(newBlob(t, "f", "x"))
	if err := os.WriteFile(filepath.Join(w.dir, "chains", "0.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := DriverOf(w.store); name != "lazy" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
}

// TestProxiedOldRecord reads records from before there were checksums.
func TestProxiedOldRecord(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	old, err := json.Marshal(chainRecord{Driver: "lazy", Layers: chain})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.chainFile(chain), old, 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if _, err := w.Prepare(t.Context(), "c1", chain); err != nil {
		t.Error(err)
	}
}

// TestProxiedUnreadRoot keeps a container's writable layer when its record cannot be read.
func TestProxiedUnreadRoot(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	if _, err := w.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(w.dir, "roots", "c1.json")
	if err := errors.Join(os.Remove(record), os.Symlink("/proc/self/mem", record)); err != nil { // whose beginning is EIO
		t.Fatal(err)
	}
	w.restart()
	w.count(rootPrefix, 1)
	if err := w.Remove(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	w.count(rootPrefix, 0)
	if ids, err := w.ListRoots(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("left %v, %v", ids, err)
	}
}

// TestProxiedRecordUnlocked: while a container's record is being written, nobody else waits.
func TestProxiedRecordUnlocked(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	w.sweeping.Wait()
	opens, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(opens) // lets all be opened
	if err := unix.FanotifyMark(opens, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, filepath.Join(w.dir, "roots")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := w.Prepare(t.Context(), "c1", chain)
		done <- err
	}()
	buf := make([]byte, 4096)
	if _, err := unix.Read(opens, buf); err != nil { // it waits for our leave to open its file
		t.Fatal(err)
	}
	event := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&buf[0]))
	defer unix.Close(int(event.Fd))
	if w.mu.TryLock() {
		w.mu.Unlock()
	} else {
		t.Error("all others wait for the file")
	}
	answer := unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW}
	if _, err := unix.Write(opens, unsafe.Slice((*byte)(unsafe.Pointer(&answer)), unsafe.Sizeof(answer))); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestProxiedRecordFails: a container whose record cannot be written relies on nothing more
// than before.
func TestProxiedRecordFails(t *testing.T) {
	w := newWorld(t)
	first, second := w.add(newBlob(t, "f", "x")), w.add(newBlob(t, "f", "y"))
	if _, err := w.View(t.Context(), "c1", first); err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(w.dir, "roots")
	if err := os.Rename(roots, roots+"-away"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if _, err := w.View(t.Context(), id, second); err == nil {
			t.Errorf("%s: no record, and no error", id)
		}
	}
	if err := w.UnsealImage(t.Context(), second); err != nil {
		t.Error(err)
	}
	if err := w.UnsealImage(t.Context(), first); !errors.Is(err, ErrInUse) {
		t.Errorf("what it relied on before: %v", err)
	}
	if ids, err := w.ListRoots(t.Context()); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%v, %v", ids, err)
	}
	if err := os.Rename(roots+"-away", roots); err != nil {
		t.Fatal(err)
	}
}
