package quota_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/berthd/berth/snapshot/quota"
	"github.com/berthd/berth/snapshot/quota/quotatest"
)

// ways are the file systems that count, and how.
var ways = map[string]func(t *testing.T) (string, quota.Ledger){
	"counted": func(t *testing.T) (string, quota.Ledger) {
		dir := quotatest.Uncounted(t)
		return dir, quotatest.NewCount(dir)
	},
	"ext4": func(t *testing.T) (string, quota.Ledger) { return kernel(t, "ext4") },
	"xfs":  func(t *testing.T) (string, quota.Ledger) { return kernel(t, "xfs") },
	"ext4 by its device": func(t *testing.T) (string, quota.Ledger) {
		dir := quotatest.Disk(t, "ext4")
		ledger, err := quota.ByDevice(dir)
		if err != nil {
			t.Fatal(err)
		}
		return dir, ledger
	},
}

func kernel(t *testing.T, kind string) (string, quota.Ledger) {
	dir := quotatest.Disk(t, kind)
	ledger, err := quota.Kernel(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, ledger
}

func each(t *testing.T, test func(t *testing.T, dir string, ledger quota.Ledger)) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			dir, ledger := way(t)
			test(t, dir, ledger)
		})
	}
}

func open(t *testing.T, dir string, ledger quota.Ledger) *quota.Projects {
	t.Helper()
	p, err := quota.Open(dir, ledger)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func folder(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func assign(t *testing.T, p *quota.Projects, owner string, dirs ...string) uint32 {
	t.Helper()
	id, err := p.Assign(owner, dirs...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestLife is an owner's, across a restart.
func TestLife(t *testing.T) {
	each(t, func(t *testing.T, dir string, ledger quota.Ledger) {
		p := open(t, dir, ledger)
		if !p.Enforced() {
			t.Error("limits are not enforced")
		}
		a, b := folder(t, dir, "a"), folder(t, dir, "b")
		id := assign(t, p, "c1", a, b)
		if !quota.Ours(id) || quota.Found(a) != id || quota.Found(b) != id {
			t.Errorf("ID %d, the folders have %d and %d", id, quota.Found(a), quota.Found(b))
		}
		before, ok, err := p.Usage("c1")
		if err != nil || !ok || before.Inodes != 2 {
			t.Fatalf("Usage = %+v, %v, %v", before, ok, err)
		}
		if err := os.WriteFile(filepath.Join(folder(t, a, "sub"), "f"), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		after, _, err := p.Usage("c1")
		if grown := after.Bytes - before.Bytes; err != nil || after.Inodes != 4 || grown < 1<<20 || grown > 1<<20+16<<10 {
			t.Errorf("Usage = %+v after %+v, %v", after, before, err)
		}
		if err := errors.Join(p.Limit("c1", 9_000_001), p.Limit("nobody", 1)); err != nil {
			t.Error(err)
		}
		if e, err := ledger.Entry(id); err != nil || e.Limit < 9_000_001 || e.Limit > 9_000_001+4096 {
			t.Errorf("Entry = %+v, %v", e, err)
		}

		p = open(t, dir, ledger) // a restart
		if _, ok, err := p.Usage("c1"); ok || err != nil {
			t.Errorf("known before it is adopted: %v", err)
		}
		if !p.Adopt("c1", id) || p.Adopt("c2", id) || p.Adopt("c2", 7) {
			t.Error("Adopt gives an ID to another, or not to its own")
		}
		if err := p.Release("c1"); err != nil {
			t.Error(err)
		}
		if e, err := ledger.Entry(id); err != nil || e.Limited || e.Inodes != 4 {
			t.Errorf("Entry = %+v, %v", e, err)
		}
		if err := p.Release("c1"); err != nil {
			t.Error(err)
		}
	})
}

// TestTaken: IDs that others use, by files, by a limit, or by another daemon's choice at the
// same moment, are not given.
func TestTaken(t *testing.T) {
	each(t, func(t *testing.T, dir string, ledger quota.Ledger) {
		p := open(t, dir, ledger)
		first := assign(t, p, "c1", folder(t, dir, "c1"))
		next := func(n uint32) uint32 { return quota.First + (first-quota.First+n)%quota.IDs }
		if err := quotatest.SetProject(folder(t, dir, "other"), next(1)); err != nil {
			t.Fatal(err)
		}
		if err := ledger.SetLimit(next(2), 1<<20); err != nil {
			t.Fatal(err)
		}
		if !p.Adopt("c9", next(3)) { // whose container moved all it has to another project
			t.Fatal("not adopted")
		}
		if id := assign(t, p, "c2", folder(t, dir, "c2")); id != next(4) {
			t.Errorf("got %d, the next that is free is %d", id, next(4))
		}
		if err := p.Free(next(2)); err != nil { // left behind by a crash
			t.Error(err)
		}
		if e, err := ledger.Entry(next(2)); err != nil || e.Limited {
			t.Errorf("Entry = %+v, %v", e, err)
		}
		if err := errors.Join(ledger.SetLimit(7, 1<<20), p.Free(7)); err != nil {
			t.Error(err)
		}
		if e, err := ledger.Entry(7); err != nil || e.Limit != 1<<20 {
			t.Errorf("another's limit was changed: %+v, %v", e, err)
		}
	})
}

// A rival counts a folder of its own to an ID right after it was found free.
type rival struct {
	quota.Ledger
	dir  string
	once sync.Once
}

func (r *rival) Entry(id uint32) (quota.Entry, error) {
	e, err := r.Ledger.Entry(id)
	if e == (quota.Entry{}) && err == nil {
		r.once.Do(func() { err = quotatest.SetProject(r.dir, id) })
	}
	return e, err
}

func TestRival(t *testing.T) {
	each(t, func(t *testing.T, dir string, ledger quota.Ledger) {
		r := &rival{Ledger: ledger, dir: folder(t, dir, "rival")}
		r.once.Do(func() {})
		p := open(t, dir, r)
		r.once = sync.Once{}
		id := assign(t, p, "c1", folder(t, dir, "c1"))
		if theirs := quota.Found(r.dir); theirs == 0 || theirs == id || quota.Found(filepath.Join(dir, "c1")) != id {
			t.Errorf("ID %d, and the other daemon has %d", id, theirs)
		}
	})
}

// TestUnsupported: what cannot be counted says why.
func TestUnsupported(t *testing.T) {
	dir := quotatest.Uncounted(t)
	if _, err := quota.Kernel(dir); !errors.Is(err, quota.ErrUnsupported) {
		t.Errorf("Kernel = %v", err)
	}
	counted := folder(t, dir, "counted")
	if err := quotatest.SetProject(counted, 42); err != nil {
		t.Fatal(err)
	}
	bad := quotatest.NewCount(dir)
	bad.Fail = syscall.EIO
	none := quotatest.NewCount(folder(t, dir, "empty")) // counts nothing of what is given IDs
	for i, tt := range []struct {
		dir    string
		ledger quota.Ledger
	}{{counted, quotatest.NewCount(dir)}, {dir, bad}, {dir, none}, {"/proc", none}} {
		if _, err := quota.Open(tt.dir, tt.ledger); !errors.Is(err, quota.ErrUnsupported) {
			t.Errorf("%d: Open = %v", i, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "probe-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestDevice finds the device that a kernel without quotactl_fd is asked by.
func TestDevice(t *testing.T) {
	dir := quotatest.Uncounted(t)
	device, err := quota.DeviceOf(folder(t, dir, "below"))
	if err != nil {
		t.Fatal(err)
	}
	var disk, file syscall.Stat_t
	if err := errors.Join(syscall.Stat(device, &disk), syscall.Stat(dir, &file)); err != nil || disk.Rdev != file.Dev {
		t.Errorf("%s: %v", device, err)
	}
	if device, err := quota.DeviceOf("/proc"); err == nil {
		t.Errorf("/proc is on %s", device)
	}
}

// TestFault: an owner whose ID cannot be given has none.
func TestFault(t *testing.T) {
	dir := quotatest.Uncounted(t)
	ledger := quotatest.NewCount(dir)
	p := open(t, dir, ledger)
	if _, err := p.Assign("c1", filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent folder was counted")
	}
	ledger.Fail = syscall.EIO
	if _, err := p.Assign("c1", folder(t, dir, "c1")); !errors.Is(err, syscall.EIO) {
		t.Errorf("Assign = %v", err)
	}
	ledger.Fail = nil
	if _, ok, err := p.Usage("c1"); ok || err != nil {
		t.Errorf("it has an ID: %v", err)
	}
	id := assign(t, p, "c1", filepath.Join(dir, "c1"))
	if err := p.Limit("c1", 1<<20); err != nil {
		t.Fatal(err)
	}
	ledger.Fail = syscall.EIO
	if err := p.Release("c1"); !errors.Is(err, syscall.EIO) {
		t.Errorf("Release = %v", err)
	}
	ledger.Fail = nil
	if err := p.Release("c1"); err != nil {
		t.Error(err)
	}
	if e, err := ledger.Entry(id); err != nil || e.Limited {
		t.Errorf("Entry = %+v, %v", e, err)
	}
}

// TestConcurrent: many owners get as many IDs.
func TestConcurrent(t *testing.T) {
	each(t, func(t *testing.T, dir string, ledger quota.Ledger) {
		p := open(t, dir, ledger)
		ids := make([]uint32, 20)
		var all sync.WaitGroup
		for i := range ids {
			name := fmt.Sprint(i)
			at := folder(t, dir, name)
			all.Go(func() {
				var err error
				if ids[i], err = p.Assign(name, at); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		seen := map[uint32]bool{}
		for i, id := range ids {
			if seen[id] || quota.Found(filepath.Join(dir, fmt.Sprint(i))) != id {
				t.Errorf("owner %d has %d", i, id)
			}
			seen[id] = true
		}
	})
}
