package cgroupstat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A Tree is the cgroup hierarchies of this machine. It is safe for concurrent use.
type Tree struct {
	unified string            // mount point of the v2 hierarchy, "" without one
	dirs    map[string]string // controller of a v1 hierarchy → mount point; empty on pure v2
	buffers sync.Pool         // of *[]byte
}

// Find looks for the hierarchies that are mounted.
func Find() (*Tree, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	t := parseMounts(string(data))
	if t.unified == "" && len(t.dirs) == 0 {
		return nil, errors.New("cgroup: no hierarchy is mounted; mount one at /sys/fs/cgroup")
	}
	return t, nil
}

// parseMounts reads proc_pid_mountinfo(5). The first mount of a hierarchy counts.
func parseMounts(mountinfo string) *Tree {
	t := &Tree{dirs: map[string]string{}}
	t.buffers.New = func() any { return new([]byte) }
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(super) < 3 {
			continue
		}
		switch dir := mount[4]; super[0] {
		case "cgroup2":
			if t.unified == "" {
				t.unified = dir
			}
		case "cgroup":
			for controller := range strings.SplitSeq(super[2], ",") {
				if t.dirs[controller] == "" {
					t.dirs[controller] = dir
				}
			}
		}
	}
	return t
}

// v1 tells whether memory and CPU are counted by v1 hierarchies.
func (t *Tree) v1() bool { return t.dirs["memory"] != "" || t.dirs["cpuacct"] != "" }

// Read reads what the CRI's stats tell of the cgroup at path.
func (t *Tree) Read(path string) (Stats, error) { return t.read(path, false) }

// ReadAll reads all that there is about the cgroup at path. It costs about twice as
// much as Read.
func (t *Tree) ReadAll(path string) (Stats, error) { return t.read(path, true) }

func (t *Tree) read(path string, all bool) (Stats, error) {
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	r := &reading{buf: buf, all: all, out: Stats{Time: time.Now()}}
	if t.v1() {
		r.v1(t, path)
	} else {
		r.v2(filepath.Join(t.unified, path))
	}
	if t.unified != "" {
		r.pressure(filepath.Join(t.unified, path))
	}
	if r.err != nil {
		return Stats{}, r.err
	}
	return r.out, nil
}

// CPUUsage reads the cumulative CPU time of the cgroup at path and nothing else.
func (t *Tree) CPUUsage(path string) (uint64, error) {
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	r := &reading{buf: buf}
	if t.v1() {
		r.out.CPU.Usage = r.number(filepath.Join(t.dirs["cpuacct"], path), "cpuacct.usage")
	} else {
		r.cpuStat(filepath.Join(t.unified, path))
	}
	return r.out.CPU.Usage, r.err
}

// A reading is one call in progress. The first error of a file that must be there
// ends it; what comes after reads nothing.
type reading struct {
	buf *[]byte
	all bool
	out Stats
	err error
}

// text is the contents of a file that must be there.
func (r *reading) text(dir, name string) string {
	if r.err != nil {
		return ""
	}
	data, err := readFile(dir, name, r.buf)
	if err != nil {
		r.err = err
	}
	return string(data)
}

// optional is the contents of a file that may be absent.
func (r *reading) optional(dir, name string) (string, bool) {
	if r.err != nil {
		return "", false
	}
	data, err := readFile(dir, name, r.buf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.err = err
	}
	return string(data), err == nil
}

// number is the value of a file with one number that must be there.
func (r *reading) number(dir, name string) uint64 { return value(r.text(dir, name)) }

// maybe is the value of a file with one number, or 0.
func (r *reading) maybe(dir, name string) uint64 {
	text, _ := r.optional(dir, name)
	return value(text)
}
