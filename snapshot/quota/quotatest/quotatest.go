// Package quotatest has what tests of project quota need: file systems that count projects,
// and a count made by reading all there is, for kernels that know projects (XFS always
// does) and do not count them.
//
// What it makes is gone when the test is.
package quotatest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berthd/berth/snapshot/quota"
)

// required is set where the kernel is known to count projects: a test that does not find
// it so fails there.
const required = "BERTH_PROJECT_QUOTA"

// Disk is a new file system, "ext4" or "xfs", mounted with prjquota. A test is skipped
// whose kernel has no such.
func Disk(t testing.TB, kind string) string {
	t.Helper()
	mkfs := map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"},
		"xfs":  {"mkfs.xfs", "-q"},
	}[kind]
	at, out, err := disk(t, "loop,prjquota", mkfs)
	if err != nil && os.Getenv(required) == "" {
		t.Skipf("this kernel does not count the projects of %s; go run ./test/vm run quota has one that does: %s", kind, out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return at
}

// Uncounted is a new XFS that does not count its projects.
func Uncounted(t testing.TB) string {
	t.Helper()
	at, out, err := disk(t, "loop", []string{"mkfs.xfs", "-q"})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return at
}

func disk(t testing.TB, options string, mkfs []string) (at string, out []byte, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		if testing.Short() {
			t.Skip("needs root")
		}
		t.Fatal("needs root")
	}
	top := t.TempDir()
	image := filepath.Join(top, "image")
	at = filepath.Join(top, "fs")
	if err := exec.CommandContext(t.Context(), "truncate", "-s", "512M", image).Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", mkfs, err, out)
	}
	if out, err = exec.CommandContext(t.Context(), "mount", "-o", options, image, at).CombinedOutput(); err != nil {
		return at, out, err
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at, nil, nil
}

// A Count is a Ledger that reads all of a file system to answer. It keeps no limits, though
// it remembers them.
type Count struct {
	dir string

	mu     sync.Mutex
	limits map[uint32]uint64
	Fail   error // what every call answers, if it is set
}

// NewCount counts the file system mounted at dir.
func NewCount(dir string) *Count { return &Count{dir: dir, limits: make(map[uint32]uint64)} }

// Enforced implements quota.Ledger.
func (c *Count) Enforced() (bool, error) { return true, c.Fail }

// SetLimit implements quota.Ledger.
func (c *Count) SetLimit(id uint32, bytes uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits[id] = bytes
	return c.Fail
}

// Entry implements quota.Ledger. Files that cannot be asked are counted to their folder's
// project.
func (c *Count) Entry(id uint32) (quota.Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry := quota.Entry{Limit: c.limits[id], Limited: c.limits[id] > 0}
	seen := make(map[uint64]bool)
	projects := make(map[string]uint32)
	err := filepath.WalkDir(c.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		project, err := projectOf(path, e.Type())
		if err != nil {
			return err
		}
		if project == nil {
			above := projects[filepath.Dir(path)]
			project = &above
		}
		projects[path] = *project
		ino, bytes, err := inode(path)
		if err != nil || *project != id || seen[ino] {
			return err
		}
		seen[ino] = true
		entry.Inodes++
		entry.Bytes += bytes
		return nil
	})
	if c.Fail != nil {
		err = c.Fail
	}
	return entry, err
}
