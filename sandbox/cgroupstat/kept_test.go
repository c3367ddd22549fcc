package cgroupstat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
)

// What is read again is kept open, until it is let go or the cgroup goes.
func TestKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		v2    bool
		open  int // files
	}{{"v1", filesV1, false, 5}, {"v2", filesV2, true, 9}} {
		t.Run(c.name, func(t *testing.T) {
			tr := tree(t, c.files, c.v2)
			before, room := descriptors(t), tr.kept.room.Load()
			for range 3 {
				if _, err := tr.Read(cgroupPath); err != nil {
					t.Fatal(err)
				}
				if n := descriptors(t) - before; n != c.open || tr.kept.room.Load() != room-int64(n) {
					t.Fatalf("%d files are kept open, and room for %d of %d; want %d files", n, tr.kept.room.Load(), room, c.open)
				}
			}
			tr.Retain(map[string]bool{cgroupPath: true})
			if n := descriptors(t) - before; n != c.open {
				t.Errorf("%d files are open of what is retained", n)
			}
			tr.Retain(nil)
			if n := descriptors(t) - before; n != 0 || tr.kept.room.Load() != room {
				t.Errorf("%d files are left open, room %d of %d", n, tr.kept.room.Load(), room)
			}
			tr.kept.room.Store(2)
			full, err := tr.Read(cgroupPath)
			if n := descriptors(t) - before; err != nil || n != 2 || full.CPU.Usage == 0 || full.Memory.Usage == 0 {
				t.Errorf("with room for two: %d files, %v, %+v", n, err, full)
			}
			if _, err := tr.Read("/none"); !errors.Is(err, fs.ErrNotExist) || len(tr.kept.cgroups) != 1 {
				t.Errorf("a cgroup that is not there: %v, %d are kept", err, len(tr.kept.cgroups))
			}
			tr.Retain(nil)
		})
	}
}

// A cgroup that is read is read by others too, and may be let go meanwhile.
func TestKeptTogether(t *testing.T) {
	tr := tree(t, filesV2, true)
	before := descriptors(t)
	kept := tr.kept.take(cgroupPath)
	if other := tr.kept.take(cgroupPath); other != nil {
		t.Error("two have it")
	}
	if _, err := tr.Read(cgroupPath); err != nil || descriptors(t) != before {
		t.Errorf("while another reads it: %v, %d files are open", err, descriptors(t)-before)
	}
	r := reading{path: cgroupPath, kept: kept}
	r.cpuStat(tr.unified)
	tr.Retain(nil)
	r.pressure(tr.unified)
	if r.err != nil || r.out.CPU.Usage == 0 || r.out.Pressure.CPU == nil {
		t.Errorf("let go while it is read: %v, %+v", r.err, r.out)
	}
	tr.kept.giveBack(cgroupPath, kept, true)
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d files are left open", n)
	}
	done := make(chan error)
	for range 4 {
		go func() {
			var err error
			for range 200 {
				_, rerr := tr.Read(cgroupPath)
				tr.Retain(nil)
				err = errors.Join(err, rerr)
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	tr.Retain(nil)
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d files are left open after many", n)
	}
}

// Of a cgroup of the kernel's that has gone, and come again, the new one is read.
func TestKeptAndGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	tr, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	path := fmt.Sprintf("/berth-cgroupstat-kept-%d", os.Getpid())
	for range 2 {
		for _, dir := range hierarchies(tr, path) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, err := tr.Read(path) // the second time with files that are open of the first one
		if open := descriptors(t) - before; err != nil || open == 0 {
			t.Errorf("%v, %d files are open", err, open)
		}
		leave(t, tr, path)
	}
	if _, err := tr.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
	if n := descriptors(t) - before; n != 0 {
		t.Errorf("%d files are left open", n)
	}
}

// descriptors is how many descriptors this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// BenchmarkContainers reads cgroups as deep as containers', with files that are kept open and
// without.
func BenchmarkContainers(b *testing.B) {
	const n = 60
	tr, err := Find()
	if err != nil {
		b.Fatal(err)
	}
	top := fmt.Sprintf("/berth-cgroupstat-bench-%d", os.Getpid())
	var paths []string
	made := []string{top}
	for i := range n {
		pod := fmt.Sprintf("%s/pod%d", top, i)
		paths = append(paths, pod+"/c")
		made = append(made, pod, pod+"/c")
	}
	for _, path := range made {
		for _, dir := range hierarchies(tr, path) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
	}
	defer func() {
		tr.Retain(nil)
		for _, path := range slices.Backward(made) {
			for _, dir := range hierarchies(tr, path) {
				if err := os.Remove(dir); err != nil {
					b.Error(err)
				}
			}
		}
	}()
	for _, c := range []struct {
		name string
		room int64
	}{{"kept", 1 << 20}, {"opened", 0}} {
		b.Run(c.name, func(b *testing.B) {
			tr.Retain(nil)
			tr.kept.room.Store(c.room)
			b.ReportAllocs()
			for b.Loop() {
				for _, path := range paths {
					if _, err := tr.Read(path); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
