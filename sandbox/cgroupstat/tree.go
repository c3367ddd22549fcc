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
	kept    keeper

	buffers  sync.Pool // of *[]byte
	readings sync.Pool // of *reading
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
	t.kept.room.Store(min(openFilesLimit()/keptShare, maxKept))
	t.buffers.New = func() any { return new([]byte) }
	t.readings.New = func() any { return new(reading) }
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

// Read reads what the CRI's stats tell of the cgroup at path, and keeps its files open for the
// next time. One at a time reads with what is open; others open files of their own. What is open
// may be of a cgroup that is gone, with another one in its place: then it is read again.
func (t *Tree) Read(path string) (Stats, error) {
	r := t.begin(path)
	defer func() { t.readings.Put(r) }()
	for {
		r.kept = t.kept.take(path)
		if r.kept == nil {
			r.basic(t, false)
			return r.result()
		}
		old := len(r.kept.files) > 0
		r.basic(t, false)
		t.kept.giveBack(path, r.kept, r.err == nil)
		if !old || !errors.Is(r.err, fs.ErrNotExist) {
			return r.result()
		}
		t.readings.Put(r)
		r = t.begin(path)
	}
}

// ReadAll reads all that there is about the cgroup at path. It costs about twice as
// much as Read, and keeps nothing open.
func (t *Tree) ReadAll(path string) (Stats, error) {
	r := t.begin(path)
	defer t.readings.Put(r)
	r.basic(t, true)
	return r.result()
}

// begin is a reading that keeps nothing open. It is to be given back to the pool.
func (t *Tree) begin(path string) *reading {
	r := t.readings.Get().(*reading)
	*r = reading{path: path, buf: r.buf, out: Stats{Time: time.Now()}}
	return r
}

// A reading is one call in progress. The first error of a file that must be there
// ends it; what comes after reads nothing.
type reading struct {
	path string // of the cgroup
	buf  []byte // lent to who reads a file, and replaced by a larger one
	kept *kept  // nil: files are opened and closed
	all  bool
	out  Stats
	err  error
}

func (r *reading) result() (Stats, error) {
	if r.err != nil {
		return Stats{}, r.err
	}
	return r.out, nil
}

// basic reads what Read does, and with all what ReadAll does.
func (r *reading) basic(t *Tree, all bool) {
	r.all = all
	if t.v1() {
		r.v1(t)
	} else {
		r.v2(t.unified)
	}
	if t.unified != "" {
		r.pressure(t.unified)
	}
}

// data is the contents of a file in the hierarchy that is mounted there, until the next one is read.
func (r *reading) data(mount, name string) ([]byte, error) {
	if r.kept != nil {
		return r.kept.read(mount, r.path, name, &r.buf)
	}
	return readFile(filepath.Join(mount, r.path), name, &r.buf)
}

// text is data of a file that must be there.
func (r *reading) text(mount, name string) []byte {
	if r.err != nil {
		return nil
	}
	data, err := r.data(mount, name)
	if err != nil {
		r.err = err
	}
	return data
}

// optional is data of a file that may be absent.
func (r *reading) optional(mount, name string) ([]byte, bool) {
	if r.err != nil {
		return nil, false
	}
	data, err := r.data(mount, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.err = err
	}
	return data, err == nil
}

// number is the value of a file with one number that must be there.
func (r *reading) number(mount, name string) uint64 { return value(r.text(mount, name)) }

// maybe is the value of a file with one number, or 0.
func (r *reading) maybe(mount, name string) uint64 {
	text, _ := r.optional(mount, name)
	return value(text)
}
