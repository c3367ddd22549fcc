// Package meter reads from /proc what a daemon has cost: CPU, memory, writing, and
// the space that its folders take. It changes nothing but the kernel's note of a
// process's peak.
package meter

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hertz is what the times in /proc are counted in on every Linux architecture that
// Go runs on (USER_HZ).
const hertz = 100

// A Usage is what a process and its descendants have used since they began, those
// included that have ended and been waited for.
type Usage struct {
	CPU     time.Duration // in user space and in the kernel
	Written int64         // bytes that went to the page cache of a disk's file system, less what was deleted before it was on disk
}

// Sub is what was used since from.
func (u Usage) Sub(from Usage) Usage { return Usage{u.CPU - from.CPU, u.Written - from.Written} }

// Of reads the usage of the process pid and its descendants.
func Of(pid int) (Usage, error) {
	children, err := childrenOf()
	if err != nil {
		return Usage{}, err
	}
	u, err := Own(pid)
	for todo := children[pid]; err == nil && len(todo) > 0; todo = todo[1:] {
		one, childErr := Own(todo[0])
		if childErr != nil {
			continue // ended meanwhile: its parent has its account
		}
		u.CPU += one.CPU
		u.Written += one.Written
		todo = append(todo, children[todo[0]]...)
	}
	return u, err
}

// Own reads the usage of the process pid, with that of descendants that have ended and been
// waited for.
func Own(pid int) (u Usage, err error) {
	stat, err := statOf(pid)
	if err != nil {
		return u, err
	}
	if u.CPU, err = cpuOf(stat, 14, 15, 16, 17); err != nil { // utime, stime, cutime, cstime
		return u, err
	}
	io, err := keyed(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return u, err
	}
	u.Written = io["write_bytes"] - io["cancelled_write_bytes"]
	return u, nil
}

// statOf splits /proc/PID/stat into its fields, numbered from 1 as in proc(5).
func statOf(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(data, ')') // the name may hold anything
	fields := append([]string{"", "", ""}, strings.Fields(string(data[end+1:]))...)
	if len(fields) < 18 {
		return nil, fmt.Errorf("stat of %d: %q", pid, data)
	}
	return fields, nil
}

// childrenOf lists the children of every process.
func childrenOf() (map[int][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := statOf(pid)
		if err != nil {
			continue // ended
		}
		if parent, err := strconv.Atoi(stat[4]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	return children, nil
}

// keyed reads a file of lines such as "name: 12 kB".
func keyed(path string) (map[string]int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if f := strings.Fields(value); len(f) > 0 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out, nil
}

// Machine is how long the machine's CPUs have worked since it booted.
func Machine() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var busy int64
	for i, f := range strings.Fields(line) {
		switch i { // user nice system, irq softirq; what a guest does is in user
		case 1, 2, 3, 6, 7:
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/stat: %w", err)
			}
			busy += n
		}
	}
	return time.Duration(busy) * time.Second / hertz, nil
}

// ResetPeak makes Peak begin anew.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// Peak is the most memory that the process pid has had at once, in bytes.
func Peak(pid int) (int64, error) {
	status, err := keyed(fmt.Sprintf("/proc/%d/status", pid))
	return status["VmHWM"] * 1024, err
}

// Space is what the files in the folders take on disk, in bytes, those with several
// names once. What is mounted below is left out.
func Space(dirs ...string) (total int64, err error) {
	seen := map[inode]bool{}
	for _, dir := range dirs {
		top, _, err := lstat(dir)
		if err != nil {
			return 0, err
		}
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			id, size, err := lstat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case id.dev != top.dev && d.IsDir():
				return fs.SkipDir
			case !seen[id] && id.dev == top.dev:
				seen[id] = true
				total += size
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// CPU is what the process pid itself has used, without its children.
func CPU(pid int) (time.Duration, error) {
	stat, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return cpuOf(stat, 14, 15)
}

// cpuOf adds fields of a process's stat.
func cpuOf(stat []string, fields ...int) (total time.Duration, err error) {
	for _, field := range fields {
		n, err := strconv.ParseInt(stat[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		total += time.Duration(n) * time.Second / hertz
	}
	return total, nil
}
