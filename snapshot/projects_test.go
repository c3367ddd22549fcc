package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/snapshot/quota"
	"github.com/berthd/berth/snapshot/quota/quotatest"
)

// A measuring is a file system and the way in which writable layers on it are measured.
type measuring struct {
	name     string
	projects bool // by the file system's count of projects
	limits   bool // and it keeps limits
	disk     func(t testing.TB) (dir string, opt Option)
}

var measurings = []measuring{
	{name: "walked", disk: func(t testing.TB) (string, Option) { return quotatest.Uncounted(t), nothing }},
	{name: "counted", projects: true, disk: func(t testing.TB) (string, Option) {
		dir := quotatest.Uncounted(t)
		return dir, countedAt(quotatest.NewCount(dir))
	}},
	{name: "ext4", projects: true, limits: true, disk: func(t testing.TB) (string, Option) { return quotatest.Disk(t, "ext4"), nothing }},
	{name: "xfs", projects: true, limits: true, disk: func(t testing.TB) (string, Option) { return quotatest.Disk(t, "xfs"), nothing }},
}

func nothing(*settings) {}

func countedAt(l quota.Ledger) Option {
	return func(have *settings) { have.ledger = func(string) (quota.Ledger, error) { return l, nil } }
}

func writable(bytes uint64) Option { return WithLimits(Limits{Writable: bytes}) }

func openAll(t testing.TB, driver, dir string, opts ...Option) *overlay {
	t.Helper()
	d, err := Open(t.Context(), driver, filepath.Join(dir, "s"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	o := d.(*overlay)
	t.Cleanup(o.sweeping.Wait)
	return o
}

func eachMeasuring(t *testing.T, which func(measuring) bool, test func(t *testing.T, m measuring, dir string, opt Option)) {
	for _, m := range measurings {
		if which(m) {
			t.Run(m.name, func(t *testing.T) {
				dir, opt := m.disk(t)
				test(t, m, dir, opt)
			})
		}
	}
}

func all(measuring) bool          { return true }
func byProjects(m measuring) bool { return m.projects }
func withLimits(m measuring) bool { return m.limits }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// settledUsage is the usage once all is on the disk.
func settledUsage(t *testing.T, d Driver, dir, id string) Usage {
	t.Helper()
	taken(t, dir)
	u, err := d.Usage(t.Context(), id)
	must(t, err)
	return u
}

// TestWritableUsage is one table for all ways to measure.
func TestWritableUsage(t *testing.T) {
	write := func(name string, size int) func(string) error {
		return func(root string) error { return os.WriteFile(filepath.Join(root, name), make([]byte, size), 0o600) }
	}
	tests := []struct {
		name   string
		do     func(root string) error
		inodes uint64
		bytes  uint64 // 16 KiB more at most
	}{
		{"nothing", func(string) error { return nil }, 0, 0},
		{"a file", write("f", 1<<20), 1, 1 << 20},
		{"a file with three names", func(root string) error {
			return errors.Join(write("a", 1<<20)(root), os.Link(filepath.Join(root, "a"), filepath.Join(root, "b")), os.Link(filepath.Join(root, "b"), filepath.Join(root, "c")))
		}, 1, 1 << 20},
		{"a sparse file", func(root string) error {
			return errors.Join(write("s", 0)(root), os.Truncate(filepath.Join(root, "s"), 1<<30))
		}, 1, 0},
		{"a file that is emptied again", func(root string) error { return errors.Join(write("f", 1<<20)(root), write("f", 0)(root)) }, 1, 0},
		{"many files in a new folder", func(root string) error {
			errs := []error{os.Mkdir(filepath.Join(root, "d"), 0o700)}
			for i := range 100 {
				errs = append(errs, write(fmt.Sprintf("d/%d", i), 4096)(root))
			}
			return errors.Join(errs...)
		}, 101, 100 * 4096},
		{"a file of the image that is written to", func(root string) error {
			f, err := os.OpenFile(filepath.Join(root, "base"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = io.WriteString(f, "more")
			return errors.Join(err, f.Close())
		}, 1, 1<<20 + 4},
		{"a file of the image that is removed", func(root string) error { return os.Remove(filepath.Join(root, "base")) }, 1, 0},
		{"a folder of the image that is renamed within a new one", func(root string) error {
			return errors.Join(os.Mkdir(filepath.Join(root, "n"), 0o700), os.Mkdir(filepath.Join(root, "n/a"), 0o700), write("n/a/f", 4096)(root), os.Rename(filepath.Join(root, "n/a"), filepath.Join(root, "moved")))
		}, 3, 4096},
	}
	eachMeasuring(t, all, func(t *testing.T, m measuring, dir string, opt Option) {
		d := openAll(t, "overlay", dir, opt)
		if (d.projects != nil) != m.projects {
			t.Fatalf("measured by projects: %v", d.projects != nil)
		}
		base := add(t, d, file("base", strings.Repeat("x", 1<<20)))
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				id := fmt.Sprintf("c%d", i)
				root := mounted(t, d, id, base)
				before := settledUsage(t, d, dir, id)
				if before.Bytes > 32<<10 || before.Inodes > 8 {
					t.Errorf("a new layer takes %+v", before)
				}
				must(t, tt.do(root))
				after := settledUsage(t, d, dir, id)
				if grown := after.Bytes - before.Bytes; after.Inodes-before.Inodes != tt.inodes || grown < tt.bytes || grown > tt.bytes+16<<10 {
					t.Errorf("%d inodes and %d bytes more, not %d and %d", after.Inodes-before.Inodes, grown, tt.inodes, tt.bytes)
				}
			})
		}
		if _, err := d.Usage(t.Context(), "c0"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Usage of what was removed = %v", err)
		}
	})
}

// TestProjectsAcrossRestarts: a restart keeps IDs, two containers have two, a removed one's
// is free, and so is what crashes have left.
func TestProjectsAcrossRestarts(t *testing.T) {
	eachMeasuring(t, byProjects, func(t *testing.T, m measuring, dir string, opt Option) {
		const limit = 64 << 20
		d := openAll(t, "overlay", dir, opt, writable(limit))
		base := add(t, d, file("base", "x"))
		roots := map[string]string{}
		ids := map[string]uint32{}
		for _, id := range []string{"c1", "c2", "c3", "c4"} {
			roots[id] = mounted(t, d, id, base)
			must(t, os.WriteFile(filepath.Join(roots[id], "f"), make([]byte, 1<<20), 0o600))
			ids[id] = projectIn(t, d, id)
		}
		ledger := ledgerOf(t, d)
		for id, project := range ids {
			if e, err := ledger.Entry(project); err != nil || e.Limit != limit || e.Bytes < 1<<20 || e.Bytes > 2<<20 {
				t.Errorf("%s: %+v, %v", id, e, err)
			}
		}

		// A crash between a root's removal and the end of its limit; and two records that a
		// power cut tore, of one container that is to be removed and of one that is not known yet.
		must(t, Unmount(roots["c3"]))
		must(t, d.trash.throw(d.path("roots", "c3"), "root-c3"))
		must(t, os.Truncate(d.path("roots", "c4", "root.json"), 10))
		d = openAll(t, "overlay", dir, opt, writable(2*limit))
		for id, want := range map[string]uint64{"c1": 2 * limit, "c2": 2 * limit, "c3": 0, "c4": 0} {
			if e, err := ledger.Entry(ids[id]); err != nil || e.Limit != want {
				t.Errorf("%s: %+v after a restart, %v", id, e, err)
			}
		}
		for _, id := range []string{"c1", "c2"} {
			u := settledUsage(t, d, dir, id)
			if projectIn(t, d, id) != ids[id] || u.Bytes < 1<<20 || u.Bytes > 2<<20 {
				t.Errorf("%s: %+v after a restart", id, u)
			}
		}
		mounted(t, d, "c5", base)
		for id, project := range ids {
			if project == projectIn(t, d, "c5") {
				t.Errorf("c5 has the ID of %s", id)
			}
		}

		must(t, Unmount(roots["c1"]))
		must(t, d.Remove(t.Context(), "c1"))
		if e, err := ledger.Entry(ids["c1"]); err != nil || e.Limited || m.name != "xfs" && e != (quota.Entry{}) { // XFS counts what is gone for a moment more
			t.Errorf("Entry = %+v after the removal, %v", e, err)
		}
		d = openAll(t, "overlay", dir, opt) // no limit any more
		if e, err := ledger.Entry(ids["c2"]); err != nil || e.Limited {
			t.Errorf("Entry = %+v without a limit, %v", e, err)
		}
	})
}

func ledgerOf(t *testing.T, d *overlay) quota.Ledger {
	t.Helper()
	find := d.limits.ledger
	if find == nil {
		find = quota.Kernel
	}
	ledger, err := find(d.dir)
	must(t, err)
	return ledger
}

// projectIn is the ID of a container, on which its record and its folders must agree.
func projectIn(t *testing.T, d *overlay, id string) uint32 {
	t.Helper()
	rec, err := d.readRoot(id)
	must(t, err)
	for _, sub := range []string{"fs", "work"} {
		if found := quota.Found(d.path("roots", id, sub)); found != rec.Project || found == 0 {
			t.Errorf("%s: %s has the ID %d, the record %d", id, sub, found, rec.Project)
		}
	}
	return rec.Project
}

// TestProjectsBeforeAndAfter: layers from before the file system counted are walked, and
// counted ones are walked when it does not count any more.
func TestProjectsBeforeAndAfter(t *testing.T) {
	dir := quotatest.Uncounted(t)
	counts := countedAt(quotatest.NewCount(dir))
	var before [2]Usage
	for i, opts := range [][]Option{nil, {counts}, nil, {counts}} {
		d := openAll(t, "overlay", dir, opts...)
		base := add(t, d, file("base", "x"))
		if i < 2 {
			root := mounted(t, d, fmt.Sprintf("c%d", i), base)
			must(t, os.WriteFile(filepath.Join(root, "f"), make([]byte, 1<<20), 0o600))
		}
		for n := range min(i+1, 2) {
			u := settledUsage(t, d, dir, fmt.Sprintf("c%d", n))
			if before[n] == (Usage{}) {
				before[n] = u
			}
			if u.Bytes < 1<<20 || u.Bytes > before[n].Bytes || n == 0 && u != before[n] {
				t.Errorf("restart %d: c%d has %+v, before %+v", i, n, u, before[n])
			}
		}
	}
}

// TestDeepLayerIsRemoved: what is inside a project is renamed into the trash, which is in none.
func TestDeepLayerIsRemoved(t *testing.T) {
	eachMeasuring(t, byProjects, func(t *testing.T, _ measuring, dir string, opt Option) {
		d := openAll(t, "overlay", dir, opt)
		base := add(t, d, file("base", "x"))
		mounted(t, d, "c1", base)
		at, err := openAt(d.path("roots", "c1", "fs"))
		must(t, err)
		for range 3 * maxRemoveDepth {
			must(t, at.mkdir("d", 0o700))
			next, err := at.dir("d")
			must(t, err)
			at.close()
			at = next
		}
		at.close()
		must(t, d.Remove(t.Context(), "c1"))
		if left, err := os.ReadDir(d.trash.dir); err != nil || len(left) > 0 {
			t.Errorf("%v left in the trash, %v", left, err)
		}
	})
}

// TestProjectOfUserNamespace: what the users of a user namespace write is counted too, and
// they cannot have it counted elsewhere.
func TestProjectOfUserNamespace(t *testing.T) {
	eachMeasuring(t, byProjects, func(t *testing.T, _ measuring, dir string, opt Option) {
		d := openAll(t, "overlay", dir, opt)
		m := userNamespace(t, 300_000, 65_536)
		base := add(t, d, owned(rootDir, 0, 0), owned(file("base", strings.Repeat("x", 1<<20)), 0, 0))
		root := mountedIDs(t, d, "c1", m, []digest.Digest{base})
		before := settledUsage(t, d, dir, "c1")
		must(t, as(t, m, 0, root, `echo >> base; mkdir d; chown 9:9 d`))
		must(t, as(t, m, 9, filepath.Join(root, "d"), `head -c 1048576 /dev/zero > f`))
		after := settledUsage(t, d, dir, "c1")
		if grown := after.Bytes - before.Bytes; after.Inodes-before.Inodes != 3 || grown < 2<<20 || grown > 2<<20+24<<10 {
			t.Errorf("Usage = %+v after %+v", after, before)
		}
		if out := as(t, m, 0, root, `xfs_io -r -c 'chproj 0' d 2>&1; chattr -p 0 d 2>&1; true`); out != nil {
			t.Log(out)
		}
		if found := quota.Found(d.path("roots", "c1", "fs", "d")); found != projectIn(t, d, "c1") {
			t.Errorf("the folder is counted to project %d", found)
		}
	})
}

var rootDir = dir("./", 0o755)

// TestWritableLimit: a container that passes the limit cannot write, another can.
func TestWritableLimit(t *testing.T) {
	eachMeasuring(t, withLimits, func(t *testing.T, _ measuring, dir string, opt Option) {
		const limit = 8 << 20
		d := openAll(t, "overlay", dir, opt, writable(limit))
		base := add(t, d, owned(rootDir, 0, 0), file("base", strings.Repeat("x", 6<<20)))
		root := mounted(t, d, "c1", base)
		full := func(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

		must(t, os.WriteFile(filepath.Join(root, "f"), make([]byte, limit/2), 0o600))
		if err := os.WriteFile(filepath.Join(root, "g"), make([]byte, limit), 0o600); !full(err) {
			t.Errorf("written beyond the limit: %v", err)
		}
		must(t, os.Remove(filepath.Join(root, "g")))
		f, err := os.OpenFile(filepath.Join(root, "base"), os.O_WRONLY, 0) // is copied up first
		if err == nil {
			f.Close()
		}
		if !full(err) {
			t.Errorf("copied up beyond the limit: %v", err)
		}
		if u := settledUsage(t, d, dir, "c1"); u.Bytes > limit {
			t.Errorf("Usage = %+v", u)
		}

		m := userNamespace(t, 300_000, 65_536)
		other := mountedIDs(t, d, "c2", m, []digest.Digest{base})
		must(t, as(t, m, 0, other, fmt.Sprintf(`head -c %d /dev/zero > f`, limit/2)))
		if err := as(t, m, 0, other, fmt.Sprintf(`head -c %d /dev/zero > g`, limit)); err == nil {
			t.Error("written beyond the limit in a user namespace")
		}
		add(t, d, file("more", strings.Repeat("y", 2*limit))) // layers have no limit

		d = openAll(t, "overlay", dir, opt) // the limit is taken away
		must(t, os.WriteFile(filepath.Join(root, "g"), make([]byte, 2*limit), 0o600))
		d = openAll(t, "overlay", dir, opt, writable(limit)) // and is there again
		if err := os.WriteFile(filepath.Join(root, "h"), make([]byte, 1<<20), 0o600); !full(err) {
			t.Errorf("written beyond the limit: %v", err)
		}
		if data, err := os.ReadFile(filepath.Join(root, "g")); err != nil || !bytes.Equal(data, make([]byte, 2*limit)) {
			t.Errorf("what is there is not readable: %v", err)
		}
		must(t, d.Remove(context.WithoutCancel(t.Context()), "absent"))
	})
}

// TestWritableLimitRefused: where nothing keeps a limit, the start says what to do.
func TestWritableLimitRefused(t *testing.T) {
	dir := quotatest.Uncounted(t)
	for _, driver := range []string{"", "erofs", "overlay", "native"} {
		_, err := Open(t.Context(), driver, filepath.Join(dir, "s"), writable(1<<30))
		want := "prjquota"
		if driver == "native" {
			want = "choose one of them"
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "snapshot.writable_limit") {
			t.Errorf("%q: %v", driver, err)
		}
	}
}

// BenchmarkUsage is of a layer of 20,000 files.
func BenchmarkUsage(b *testing.B) {
	for _, m := range measurings {
		if m.name == "counted" { // reads everything
			continue
		}
		b.Run(m.name, func(b *testing.B) {
			dir, opt := m.disk(b)
			d := openAll(b, "overlay", dir, opt)
			root := mounted(b, d, "c1", add(b, d, file("base", "x")))
			for i := range 20_000 {
				if i%100 == 0 {
					must(b, os.Mkdir(filepath.Join(root, fmt.Sprint(i/100)), 0o700))
				}
				must(b, os.WriteFile(filepath.Join(root, fmt.Sprint(i/100), fmt.Sprint(i)), []byte("x"), 0o600))
			}
			for b.Loop() {
				_, err := d.Usage(b.Context(), "c1")
				must(b, err)
			}
		})
	}
}
