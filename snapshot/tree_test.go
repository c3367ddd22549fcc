package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// few lowers the number of files this process may have open until the test ends.
func few(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}

// TestDeepTree has a container that makes directories deeper than any path, which must
// neither hide what it uses nor keep its snapshot from being removed.
func TestDeepTree(t *testing.T) {
	d, err := Open(t.Context(), "", filepath.Join(scratch(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	root := mounted(t, d, "c1", add(t, d))
	before, err := d.Usage(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	const depth = 4000
	cur, err := openAt(root)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := errors.Join(cur.mkdir("d", 0o755), cur.symlink("/etc", "l"), cur.mkdir("sibling", 0)); err != nil {
			t.Fatal(err)
		}
		next, err := cur.dir("d")
		cur.close()
		if err != nil {
			t.Fatal(err)
		}
		cur = next
	}
	cur.close()
	few(t, 256)
	after, err := d.Usage(t.Context(), "c1")
	if err != nil || after.Inodes != before.Inodes+3*depth {
		t.Errorf("Usage = %+v after %+v, %v", after, before, err)
	}
	if err := Unmount(root); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	o := d.(*overlay)
	for _, sub := range []string{"trash", "tmp", "roots"} {
		if left, err := os.ReadDir(o.path(sub)); len(left) != 0 || err != nil {
			t.Errorf("%s has %v, %v", sub, left, err)
		}
	}
}

func TestRemoveTree(t *testing.T) {
	top := scratch(t)
	outside := filepath.Join(top, "outside")
	if err := os.MkdirAll(filepath.Join(outside, "keep"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(top, "tree")
	for _, sub := range []string{"a/b/c", "e"} {
		if err := os.MkdirAll(filepath.Join(tree, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(tree, "e", strings.Repeat("n", 1+i%200)+string(rune('a'+i/200))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(tree, "a/b/link")); err != nil {
		t.Fatal(err)
	}
	dir, err := openAt(top)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	var both sync.WaitGroup
	for range 2 { // at once, as a sweep and a removal may
		both.Go(func() {
			if err := removeTree(t.Context(), dir, "tree", nil); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	for range 2 { // and absent
		if err := removeTree(t.Context(), dir, "tree", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(tree); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "keep")); err != nil {
		t.Errorf("followed a link: %v", err)
	}
}
