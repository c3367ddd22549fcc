package cgroupstat

import (
	"path/filepath"
	"sync"
	"sync/atomic"
)

// A file of a cgroup that is kept open takes a descriptor, and of the kernel's memory a page.
const (
	keptShare = 4    // this part of the descriptors that the process may have, at most
	maxKept   = 8192 // and no more; a container has about nine
)

// A keeper keeps files of cgroups open. Opening, finding and closing one costs as much as reading
// it. When there is no more room, further files are opened and closed by each reading.
type keeper struct {
	room atomic.Int64 // files that may be opened yet

	mu      sync.Mutex
	cgroups map[string]*kept // by path
}

// kept is what is open of one cgroup.
type kept struct {
	room *atomic.Int64
	gone atomic.Bool // not the keeper's any more: who has mu last closes the files

	mu    sync.Mutex // nobody waits for it: a cgroup is read by one with what is kept, by others without
	files []keptFile // guarded by mu
}

type keptFile struct {
	dir, name string // no two of them have the same name
	fd        int
}

// take is what is kept of the cgroup at path, or is to be. It is nil while another reading has it.
func (k *keeper) take(path string) *kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.cgroups[path]
	if c == nil {
		c = &kept{room: &k.room}
		if k.cgroups == nil {
			k.cgroups = map[string]*kept{}
		}
		k.cgroups[path] = c
	}
	if !c.mu.TryLock() {
		return nil
	}
	return c
}

// giveBack ends take. A cgroup that could not be read is not kept.
func (k *keeper) giveBack(path string, c *kept, sound bool) {
	c.mu.Unlock()
	if !sound {
		k.mu.Lock()
		if k.cgroups[path] == c {
			delete(k.cgroups, path)
		}
		k.mu.Unlock()
		c.gone.Store(true)
	}
	c.closeIfGone()
}

// Retain closes all that Read has kept open but what is of the cgroups at these paths.
func (t *Tree) Retain(live map[string]bool) {
	k := &t.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	for path, c := range k.cgroups {
		if !live[path] {
			delete(k.cgroups, path)
			c.gone.Store(true)
			c.closeIfGone()
		}
	}
}

// closeIfGone closes the files of a cgroup that is not kept any more, unless somebody reads them: who
// does calls this afterwards.
func (c *kept) closeIfGone() {
	if !c.gone.Load() || !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	for _, f := range c.files {
		closeFile(f.fd)
	}
	c.room.Add(int64(len(c.files)))
	c.files = nil
}

// read reads a file, and opens it before if it is not open. The caller has taken c.
func (c *kept) read(mount, path, name string, buf *[]byte) ([]byte, error) {
	for _, f := range c.files {
		if f.name == name {
			return readAt(f.fd, f.dir, name, buf, true)
		}
	}
	dir := filepath.Join(mount, path)
	if c.room.Add(-1) < 0 {
		c.room.Add(1)
		return readFile(dir, name, buf)
	}
	fd, err := openFile(dir, name)
	if err != nil {
		c.room.Add(1)
		return nil, err
	}
	c.files = append(c.files, keptFile{dir, name, fd})
	return readAt(fd, dir, name, buf, true)
}
