// Package procstat reads what the kernel says of a process in its stat file
// (proc_pid_stat(5)), and which are our children. It promises nothing about a process ID that
// may be another process's by now: who needs that holds a pidfd, or compares Began.
//
// It keeps nothing, so all of it may be called again after a crash.
package procstat

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Stat is what matters of the file. The zero value is that of no process.
type Stat struct {
	State   byte // 'Z' for one that has died and not been waited for
	Parent  int
	Session int
	Began   uint64 // in clock ticks since the boot
	flags   uint64
}

// Places of the fields behind the command, which may hold anything.
const (
	stateField   = 0
	parentField  = 1
	sessionField = 3
	flagsField   = 6
	beganField   = 19
)

// exiting is the flag PF_EXITING.
const exiting = 0x4

// Read returns the zero Stat when there is no such process.
func Read(pid int) Stat {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}
	}
	return parse(data)
}

func parse(data []byte) (s Stat) {
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= beganField {
		return Stat{}
	}
	s.State = fields[stateField][0]
	s.Parent, _ = strconv.Atoi(fields[parentField])
	s.Session, _ = strconv.Atoi(fields[sessionField])
	s.flags, _ = strconv.ParseUint(fields[flagsField], 10, 64)
	s.Began, _ = strconv.ParseUint(fields[beganField], 10, 64)
	return s
}

// IsZombie reports whether it has died and not been waited for.
func (s Stat) IsZombie() bool { return s.State == 'Z' }

// IsStopped reports whether it is stopped by a signal or a tracer.
func (s Stat) IsStopped() bool { return s.State == 'T' || s.State == 't' }

// IsExiting reports whether it is ending or has ended.
func (s Stat) IsExiting() bool { return s.State == 0 || s.flags&exiting != 0 }

// Children lists this process's children.
func Children() []int {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	var pids []int
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has gone; its children are another's now
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
