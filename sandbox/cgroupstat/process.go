package cgroupstat

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is looked at for one cgroup, so that a container with a million
// descriptors costs no more than one with thousands. What is over is not counted.
const (
	maxDepth       = 8
	maxProcesses   = 4096
	maxDescriptors = 16384
)

// Processes is what the processes of a cgroup hold.
type Processes struct {
	Count       uint64
	Descriptors uint64
	Sockets     uint64
	OpenFiles   uint64 // soft limit of open files of the first process; 0: not known, or none
}

// CountProcesses counts the processes in the cgroup at path and below it.
func (t *Tree) CountProcesses(path string) (uint64, error) {
	pids, err := t.pids(path)
	return uint64(len(pids)), err
}

// Processes looks at the processes in the cgroup at path and below it. One that ends
// meanwhile is counted as a process and holds nothing.
func (t *Tree) Processes(path string) (Processes, error) {
	pids, err := t.pids(path)
	if err != nil {
		return Processes{}, err
	}
	p := Processes{Count: uint64(len(pids))}
	for _, pid := range pids {
		p.addDescriptors("/proc/" + strconv.Itoa(pid) + "/fd")
	}
	if len(pids) > 0 {
		p.OpenFiles = openFiles("/proc/" + strconv.Itoa(slices.Min(pids)) + "/limits")
	}
	return p, nil
}

// pids lists the processes of a cgroup. On v1 they are in every hierarchy.
func (t *Tree) pids(path string) ([]int, error) {
	root := t.unified
	for _, controller := range []string{"pids", "memory", "cpuacct", "cpu"} {
		if dir := t.dirs[controller]; t.v1() && dir != "" {
			root = dir
			break
		}
	}
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	top := filepath.Join(root, path)
	var pids []int
	err := filepath.WalkDir(top, func(dir string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && dir != top {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		data, err := readFile(dir, "cgroup.procs", buf)
		if errors.Is(err, fs.ErrNotExist) && dir != top {
			return nil
		}
		if err != nil {
			return err
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, perr := strconv.Atoi(f); perr == nil && pid > 0 && len(pids) < maxProcesses {
				pids = append(pids, pid)
			}
		}
		if strings.Count(dir[len(top):], "/") >= maxDepth {
			return fs.SkipDir
		}
		return nil
	})
	return pids, err
}

// addDescriptors counts the descriptors in dir, and which of them are sockets.
func (p *Processes) addDescriptors(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	for p.Descriptors < maxDescriptors {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			p.Descriptors++
			if target, err := os.Readlink(filepath.Join(dir, name)); err == nil && strings.HasPrefix(target, "socket:") {
				p.Sockets++
			}
		}
		if err != nil || len(names) == 0 {
			return
		}
	}
}

// openFiles reads the soft limit of open files from /proc/<pid>/limits.
func openFiles(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(data), "Max open files")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0
	}
	return value(fields[0])
}
