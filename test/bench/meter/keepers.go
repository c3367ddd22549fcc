package meter

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Keepers are the processes that a runtime needs to keep its pods: those that have one of the
// folders among their arguments, and the children of these that are called pause.
func Keepers(dirs ...string) ([]int, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		if pid != os.Getpid() && slices.ContainsFunc(dirs, func(dir string) bool { return bytes.Contains(line, []byte(dir)) }) {
			pids = append(pids, pid)
		}
	}
	children, err := childrenOf()
	if err != nil {
		return nil, err
	}
	for _, pid := range slices.Clone(pids) {
		for _, child := range children[pid] {
			if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && string(name) == "pause\n" && !slices.Contains(pids, child) {
				pids = append(pids, child)
			}
		}
	}
	return pids, nil
}

// PSS is the memory of the processes in bytes, of which a page that several share counts for each
// in part. One that has ended has none.
func PSS(pids ...int) (total int64, err error) {
	for _, pid := range pids {
		rollup, err := keyed(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(pid) {
			continue
		}
		if err != nil {
			return 0, err
		}
		total += rollup["Pss"] * 1024
	}
	return total, nil
}

// An Activity is what processes have done since they began.
type Activity struct {
	CPU      time.Duration // with that of children that have ended
	Switches int64         // how often a thread of theirs has stopped running: the least number of wakeups

	parts map[int]Activity // of each thread by its ID; of a process's children by the negative of its PID
}

// Sub is what was done since from. A thread that has ended since is left out.
func (a Activity) Sub(from Activity) (did Activity) {
	for id, part := range a.parts {
		before := from.parts[id]
		did.CPU += part.CPU - before.CPU
		did.Switches += part.Switches - before.Switches
	}
	return did
}

func (a *Activity) add(id int, part Activity) {
	if a.parts == nil {
		a.parts = map[int]Activity{}
	}
	a.parts[id] = part
	a.CPU += part.CPU
	a.Switches += part.Switches
}

// ActivityOf reads the activity of the processes, that of threads which have ended left out. A
// process that has ended counts as inactive.
func ActivityOf(pids ...int) (total Activity, err error) {
	for _, pid := range pids {
		a, err := activityOf(pid)
		if gone(pid) {
			continue
		}
		if err != nil {
			return total, err
		}
		for id, part := range a.parts {
			total.add(id, part)
		}
	}
	return total, nil
}

func activityOf(pid int) (a Activity, err error) {
	stat, err := statOf(pid)
	if err != nil {
		return a, err
	}
	children, err := cpuOf(stat, 16, 17) // cutime, cstime
	if err != nil {
		return a, err
	}
	a.add(-pid, Activity{CPU: children})
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return a, err
	}
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return a, err
		}
		dir := fmt.Sprintf("/proc/%d/task/%d/", pid, id)
		ran, err := os.ReadFile(dir + "schedstat")
		if err != nil {
			continue // the thread has ended
		}
		text, _, _ := strings.Cut(string(ran), " ")
		ns, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return a, fmt.Errorf("%sschedstat: %w", dir, err)
		}
		status, err := keyed(dir + "status")
		if err != nil {
			continue
		}
		a.add(id, Activity{CPU: time.Duration(ns), Switches: status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]})
	}
	return a, nil
}

// gone tells whether the process has ended, also if nobody has waited for it yet.
func gone(pid int) bool {
	stat, err := statOf(pid)
	return err != nil || stat[3] == "Z"
}
