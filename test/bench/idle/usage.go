package main

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

	"github.com/berthd/berth/test/node"
)

// A usage is what processes have cost since they began, and their memory now. What threads were
// woken that have ended is not in it.
type usage struct {
	processes int
	woken     int64 // times that a thread has gone to sleep by itself, and so been woken
	preempted int64
	cpu       time.Duration
	memory    int64 // PSS, KiB
}

// A rest is what processes cost while nothing happened.
type rest struct {
	processes int
	woken     float64 // per second
	awake     int     // seconds in which there was a wakeup
	preempted float64 // per second
	cpu       float64 // milliseconds per second
	memory    int64   // PSS, KiB
}

func (u usage) since(before usage, seconds float64) rest {
	return rest{
		processes: u.processes, memory: u.memory,
		woken: float64(u.woken-before.woken) / seconds, preempted: float64(u.preempted-before.preempted) / seconds,
		cpu: (u.cpu - before.cpu).Seconds() * 1000 / seconds,
	}
}

// usages are those of the node's processes, by program: the daemon, and what has the folder of its
// socket among its arguments.
func usages(n *node.Node) (map[string]usage, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	all := map[string]usage{}
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte(filepath.Dir(n.Socket))) {
			continue // it has ended, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		one, err := read(pid)
		if err == nil {
			one.memory, err = pss(pid)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		u := all[filepath.Base(program)]
		u.processes++
		u.woken, u.preempted, u.cpu, u.memory = u.woken+one.woken, u.preempted+one.preempted, u.cpu+one.cpu, u.memory+one.memory
		all[filepath.Base(program)] = u
	}
	return all, nil
}

// read is what one process has cost.
func read(pid int) (u usage, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return u, err
	}
	for _, task := range tasks {
		status, err := os.ReadFile(filepath.Join(task, "status"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			count, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			switch name {
			case "voluntary_ctxt_switches":
				u.woken += count
			case "nonvoluntary_ctxt_switches":
				u.preempted += count
			}
		}
	}
	u.cpu, err = processCPU(pid)
	return u, err
}

// pss is a process's memory in KiB, with its part of what it shares.
func pss(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseInt(strings.Fields(v)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("process %d: no PSS", pid)
}
