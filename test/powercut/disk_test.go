package powercut

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

const (
	shelfSize = 64 << 30  // bytes of the XFS, apparent
	diskSize  = 768 << 20 // bytes of a disk
)

// A shelf is where disks are: an XFS in a file, which shares the blocks of clones.
type shelf struct{ dir string }

// newShelf makes one in dir. The test's end takes it away.
func newShelf(t *testing.T, dir string) shelf {
	t.Helper()
	s := shelf{filepath.Join(dir, "shelf")}
	image := s.dir + ".img"
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(shelfSize); err != nil {
		t.Fatal(err)
	}
	f.Close()
	command(t, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	command(t, "mount", "-o", "loop,discard", image, s.dir)
	t.Cleanup(func() {
		command(t, "umount", s.dir)
		if err := os.Remove(image); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newDisk makes an empty disk with an ext4, whose tables are all written so that nothing
// but its user does anything to it.
func (s shelf) newDisk(t *testing.T, name string) string {
	t.Helper()
	disk := filepath.Join(s.dir, name)
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(diskSize); err != nil {
		t.Fatal(err)
	}
	f.Close()
	command(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=16", disk)
	return disk
}

// attach makes a block device of a disk. detach has it go with its last user.
func attach(t *testing.T, disk string) (device string) {
	t.Helper()
	device = strings.TrimSpace(command(t, "losetup", "--direct-io=on", "--show", "-f", disk))
	dio, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/dio"))
	if err != nil || strings.TrimSpace(string(dio)) != "1" {
		command(t, "losetup", "-d", device)
		t.Fatalf("%s is not written past the page cache: %q, %v", device, dio, err)
	}
	return device
}

func detach(t *testing.T, device string) {
	t.Helper()
	command(t, "losetup", "-d", device)
}

// mountDisk mounts a disk. umount takes its device away too.
func mountDisk(t *testing.T, disk, at, options string) {
	t.Helper()
	device := attach(t, disk)
	defer detach(t, device)
	command(t, "mount", "-t", "ext4", "-o", options, device, at)
}

func umount(t *testing.T, at string) {
	t.Helper()
	device := strings.TrimSpace(command(t, "findmnt", "-no", "SOURCE", "--mountpoint", at))
	file := filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	command(t, "umount", at)
	// Where the mount was copied to another namespace, the kernel lets go of the device a
	// moment after the namespace's last process.
	for end := time.Now().Add(node.Patience(10 * time.Second)); ; {
		if now, err := os.ReadFile(file); err != nil || string(now) != string(before) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s of %s is still in use", device, at)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// recoverDisk replays the journal, as the kernel does at a mount, and has e2fsck look at
// the rest.
func recoverDisk(t *testing.T, disk, at, options string) {
	t.Helper()
	mountDisk(t, disk, at, options)
	umount(t, at)
	command(t, "e2fsck", "-fn", disk)
}

// command runs a program, which is to succeed.
func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestCut shows that a cut is what it is to be: the disk at one moment, without what had
// not been written.
func TestCut(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root")
	}
	s := newShelf(t, t.TempDir())
	t.Run("one moment", func(t *testing.T) { oneMoment(t, s) })
	t.Run("what was written", func(t *testing.T) { whatWasWritten(t, s) })
}

// oneMoment clones a disk on which a number is written to two places in turn: the second
// is never ahead of the first, and never more than one behind.
func oneMoment(t *testing.T, s shelf) {
	const second = diskSize - 4096
	disk := s.newDisk(t, "counted")
	device := attach(t, disk)
	defer detach(t, device)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- counter(device, second, stop) }()
	last := uint64(0)
	for i := 0; i < 50 && len(done) == 0; {
		clone := filepath.Join(s.dir, fmt.Sprint("count-", i))
		if err := cloneFile(disk, clone); err != nil {
			t.Error(err)
			break
		}
		a, b := number(t, clone, 0), number(t, clone, second)
		if a > last && a < 1<<32 { // not what mkfs wrote
			i++
			last = a
			if a != b && a != b+1 {
				t.Errorf("first %d, second %d", a, b)
			}
		}
		if err := os.Remove(clone); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func number(t *testing.T, path string, offset int64) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var n [8]byte
	if _, err := f.ReadAt(n[:], offset); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(n[:])
}

// whatWasWritten cuts after a file was written with fsync and one without.
func whatWasWritten(t *testing.T, s shelf) {
	disk, at := s.newDisk(t, "written"), t.TempDir()
	mountDisk(t, disk, at, "defaults")
	text := strings.Repeat("power", 1<<20)
	for name, sync := range map[string]bool{"unsynced": false, "synced": true} {
		f, err := os.Create(filepath.Join(at, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	clone := filepath.Join(s.dir, "cut")
	err := cloneFile(disk, clone)
	umount(t, at)
	if err != nil {
		t.Fatal(err)
	}
	recoverDisk(t, clone, at, "defaults")
	mountDisk(t, clone, at, "defaults")
	defer umount(t, at)
	if got, err := os.ReadFile(filepath.Join(at, "synced")); err != nil || string(got) != text {
		t.Errorf("synced: %d bytes of %d, %v", len(got), len(text), err)
	}
	if got, err := os.ReadFile(filepath.Join(at, "unsynced")); err == nil && string(got) == text {
		t.Error("what was not synced is in the clone")
	}
}
